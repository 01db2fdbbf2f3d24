"""The contact sheet of layouts: before, mask and after, for people without a browser window of the review.

``private/layouts.html`` shows the first image of each layout, from the pictures in ``private/layouts/``. Both
show patients' data and stay private.
"""

from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image, ImageDraw

from meninx.core import files
from meninx.core.progress import Progress, task
from meninx.core.workspace import Workspace
from meninx.deid.burned_in import burned_text
from meninx.deid.output import check_below, write_lines
from meninx.deid.review.layouts import LAYOUTS, TextLayout, read_layouts
from meninx.deid.worker import content_of
from meninx.dicomfile import frames, instance
from meninx.dicomfile.discover import member_at
from meninx.dicomfile.file_part import FilePart
from meninx.dicomfile.zip_archive import SEPARATOR
from meninx.imaging.decode import quiet
from meninx.imaging.ocr import Picture

PAGE, FOLDER = "layouts.html", "layouts"
MOST_LAYOUTS = 500
BEFORE, MASK, AFTER = "before", "mask", "after"
_REDACTED, _KEPT = (230, 60, 40), (40, 190, 90)
_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport"
content="width=device-width, initial-scale=1"><title>Layouts of text in the pixels</title><style>
body { font-family: system-ui, sans-serif; margin: 2em; background: #fff; color: #222 }
section { margin: 0 0 2.5em }
h2 { font-size: 1em; margin: 0 0 .4em }
img { width: 32%; max-width: 512px; background: #000 }
p { font-size: .85em; margin: .3em 0 }
</style></head><body><!-- {{ digest }} -->
<h1>Layouts: {{ layouts | length }}</h1>
<p>One row per layout: the images of one device and size whose text lies in the same places. From left to
right: before, with the boxes that were filled in any of the images (red) and the text that was kept (green),
and after. This page shows patients' data; keep it private. <code>meninx review</code> opens a page on
which reviewers decide about each layout. Decisions in <code>decisions.csv</code> are applied by
<code>meninx deid --decisions</code>.
{% if layouts | length > most %}There are pictures of the first {{ most }} layouts; <code>meninx review
--source</code> shows all.{% endif %}</p>
{% for layout in layouts %}<section><h2>{{ layout.layout }}: {{ layout.instances }}
image{{ "s" if layout.instances != 1 }}, {{ layout.mask.columns }} x {{ layout.mask.rows }},
{{ layout.mask.manufacturer or "unknown device" }} {{ layout.mask.model }}
{%- if layout.decision %}, decision: {{ layout.decision }}{% endif %}</h2>
{% if layout.is_mostly_filled %}<p><strong>{{ "{:.0%}".format(layout.share) }} of the picture is filled: look
whether the search took the image itself for text.</strong></p>{% endif %}
{% if shown[layout.layout] %}{% for kind in shown[layout.layout] -%}
<img alt="{{ kind }}" src="layouts/{{ layout.layout }}-{{ kind }}.png">
{% endfor %}{% else %}<p>no picture</p>{% endif %}
<p>{{ layout.texts | join(" · ") }}</p>
{% if layout.unread %}<p>{{ layout.unread_in_words }}</p>{% endif %}</section>
{% endfor %}</body></html>
"""


def write(space: Workspace, source: Path, progress: Progress) -> None:
    """Write ``private/layouts.html`` and its pictures from ``private/layouts.jsonl``, unless they are there.

    Args:
        space: the output folder; the clean images are in its staging folder.
        source: folder of the originals.
        progress: is told of each layout.

    Raises:
        StorageError: the disk refused.
    """
    table, page = space.private / LAYOUTS, space.private / PAGE
    digest = files.digest(table)
    if page.is_file() and digest.encode() in page.read_bytes()[:4096]:
        return
    found = read_layouts(table)
    shown: dict[str, list[str]] = {layout.layout: [] for layout in found}
    with task(progress, "layouts", min(len(found), MOST_LAYOUTS)):
        for layout in found[:MOST_LAYOUTS]:
            shown[layout.layout] = _write_pictures(space, source, layout)
            progress.advance()
    environment = jinja2.Environment(autoescape=True)
    text = environment.from_string(_TEMPLATE).render(
        digest=digest, layouts=found, shown=shown, most=MOST_LAYOUTS
    )
    write_lines(page, [text.encode()], mode=files.PRIVATE_MODE)


def _write_pictures(space: Workspace, source: Path, layout: TextLayout) -> list[str]:
    """Write the pictures of a layout, and return their kinds; images that are kept out have none after."""
    try:
        with quiet():
            before = before_picture(source, layout, room=space.staging)
            pictures = {BEFORE: before, MASK: _marked(before, layout)}
            if layout.outputs:
                pictures[AFTER] = after_picture(space.staging, layout.outputs[0])
    except Exception:  # a page for people: an image that no decoder reads is shown as such
        return []
    for kind, picture in pictures.items():
        content = png(picture)
        files.write_bytes(picture_path(space.private, layout.layout, kind), content, mode=files.PRIVATE_MODE)
    return list(pictures)


def before_picture(source: Path, layout: TextLayout, *, room: Path | None = None) -> Picture:
    """Return a picture of the first image of a layout as it came in.

    Args:
        source: folder of the originals.
        layout: names the image, which may be a member of an archive.
        room: private folder for a large member; None for the system's own.

    Raises:
        Refused, OSError, DataError: there is none, or no decoder reads it.
    """
    files.below(source, layout.source.partition(SEPARATOR)[0], where="layout")
    with content_of(source, member_at(source, layout.source), room=room) as content:
        return _brightest(content)


def after_picture(root: Path, name: str) -> Picture:
    """Return a picture of a clean image; raises as :func:`before_picture`, and for links.

    Args:
        root: the folder that holds ``images``.
        name: path of the image below it.
    """
    check_below(root, name)
    return overview(root / name)


def png(picture: Picture, longest: int = 0) -> bytes:
    """Return a picture as PNG, reduced to a longest side where one is given."""
    stream, image = io.BytesIO(), Image.fromarray(picture)
    if longest:
        image.thumbnail((longest, longest))
    image.save(stream, "PNG")
    return stream.getvalue()


def picture_path(private: Path, layout: str, kind: str) -> Path:
    """Return where a picture of a layout is: ``before``, ``mask`` or ``after``."""
    return private / FOLDER / f"{layout}-{kind}.png"


def overview(path: Path) -> Picture:
    """Return one picture of all frames of a DICOM file: the brightest value of each pixel.

    Raises:
        Refused: the file cannot be read as an instance with pixels.
        OSError: no such file.
    """
    with closing(path.open("rb", buffering=0)) as stream:
        return _brightest(FilePart(stream, 0, path.stat().st_size))


def _brightest(content: bytes | FilePart) -> Picture:
    original = instance.read(content)
    layers = frames.layers_of(original)
    pictures = (burned_text.as_picture(values) for values in burned_text.views(original, layers))
    result: Picture | None = None
    for picture in pictures:
        result = picture if result is None else np.maximum(result, picture)
    assert result is not None
    return result


def _marked(picture: Picture, layout: TextLayout) -> Picture:
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for boxes, colour in ((layout.filled, _REDACTED), (layout.kept, _KEPT)):
        for box in boxes:
            draw.rectangle((box.left, box.top, box.right - 1, box.bottom - 1), outline=colour, width=2)
    return np.asarray(image)
