"""A page of thumbnails of the images that may hold text and whose pixels were not searched.

``private/review.csv`` lists them, and ``private/review.html`` shows them. Neither is there when every image
that may hold text was searched or kept out; ``meninx review`` shows the layouts of searched images.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import jinja2
import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom.pixels.utils import pixel_array

from meninx.core import files
from meninx.core.progress import Progress, task
from meninx.core.workspace import Workspace
from meninx.deid.output import write_lines
from meninx.imaging.decode import quiet

PAGE, LIST = "review.html", "review.csv"
MOST_THUMBNAILS, THUMBNAIL_SIZE = 500, 160  # thumbnails of a page; pixels of their longer side
MOST_PIXELS = 64 << 20  # of a frame
_SHEET_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Images to look at</title><style>
body { font-family: system-ui, sans-serif; margin: 2em; background: #fff; color: #222 }
h2 { font-size: 1em; margin: 2em 0 .5em }
figure { display: inline-block; margin: 4px; width: 168px; vertical-align: top }
figcaption { font-size: 9px; overflow-wrap: anywhere }
img, .none { width: 160px; height: 160px; object-fit: contain; background: #000 }
.none { color: #fff; font-size: 11px; display: grid; place-items: center }
</style></head><body><!-- {{ digest }} -->
<h1>Images to look at: {{ total }}</h1>
<p>Text may stand in the pixels of these clean files; the program did not read it.
Each is marked <code>PatientIdentityRemoved NO</code>.
This page shows the first frame of {{ shown }} of them; <code>{{ list }}</code> names all.
Keep this page private.</p>
{% for why, images in groups %}<h2>{{ why }} ({{ images | length }})</h2>
{% for image in images %}<figure>{% if image.data %}<img alt="" src="data:image/png;base64,{{ image.data }}">
{% else %}<div class="none">not decodable</div>{% endif %}<figcaption>{{ image.path }}</figcaption></figure>
{% endfor %}{% endfor %}</body></html>
"""


@dataclass
class _Thumbnail:
    path: str
    data: str


@dataclass
class _Sheet:
    total: int = 0
    shown: int = 0
    groups: list[tuple[str, list[_Thumbnail]]] = field(default_factory=list)


def write(space: Workspace, progress: Progress) -> None:
    """Write ``private/review.html`` from ``private/review.csv`` and the clean files in staging.

    Without a list the page of an earlier run goes. A page that was made from the same list is left alone.

    Raises:
        StorageError: the disk refused.
    """
    table, page = space.private / LIST, space.private / PAGE
    if not table.is_file():
        page.unlink(missing_ok=True)
        return
    digest = files.digest(table)
    if page.is_file() and digest.encode() in page.read_bytes()[:4096]:
        return
    sheet = _sheet(table, space.staging, progress)
    environment = jinja2.Environment(autoescape=True)
    text = environment.from_string(_SHEET_TEMPLATE).render(digest=digest, list=LIST, **vars(sheet))
    write_lines(page, [text.encode()], mode=files.PRIVATE_MODE)


def _sheet(table: Path, root: Path, progress: Progress) -> _Sheet:
    sheet = _Sheet()
    rows: list[tuple[str, str]] = []
    for output, why in _rows(table):
        sheet.total += 1
        if len(rows) < MOST_THUMBNAILS:
            rows.append((why, output))
    sheet.shown = len(rows)
    with task(progress, "contact sheet", len(rows)):
        for why, group in groupby(sorted(rows), key=lambda row: row[0]):
            sheet.groups.append((why, list(_thumbnails(root, (output for _, output in group), progress))))
    return sheet


def _rows(table: Path) -> Iterator[tuple[str, str]]:
    with table.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            yield row["output"], row["why"]


def _thumbnails(root: Path, outputs: Iterable[str], progress: Progress) -> Iterator[_Thumbnail]:
    for output in outputs:
        yield _Thumbnail(output, _encoded(root / output))
        progress.advance()


def _encoded(path: Path) -> str:
    """Return a thumbnail of the first frame as PNG in base 64, empty when it cannot be decoded."""
    try:
        with quiet():
            header = pydicom.dcmread(path, stop_before_pixels=True)
            if int(header.Rows) * int(header.Columns) > MOST_PIXELS:
                return ""
            pixels = pixel_array(path, index=0)
        stream = io.BytesIO()
        image = Image.fromarray(_grey_or_colour(pixels))
        image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        image.save(stream, "PNG")
    except Exception:  # a page for people: an image that no decoder reads is shown as such
        return ""
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _grey_or_colour(pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    if pixels.dtype == np.uint8 and pixels.ndim == 3:
        return pixels.astype(np.uint8)
    values = pixels.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) * (255.0 / max(high - low, 1e-6))
    return scaled.clip(0, 255).astype(np.uint8)
