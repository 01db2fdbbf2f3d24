"""Images that a person must look at, because text may be burned into their pixels, and a contact sheet.

The header decides which images may hold text. Where their pixels were not searched (``pixels = "keep"``), the
files are listed in ``private/review.csv``, and the page ``private/review.html`` shows thumbnails. Layouts of
searched images are reviewed on the page of ``meninx review``.
"""

from __future__ import annotations

import base64
import csv
import io
import re
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
from meninx.dicomfile import instance
from meninx.dicomfile.instance import Instance
from meninx.imaging.decode import quiet

DECLARED = "burned-in annotation declared"
_MODALITIES = frozenset(
    ["US", "XC", "ES", "OT", "SC", "OP", "OPT", "SM", "GM", "EC", "PX", "IO", "XA", "RF", "DOC", "DG", "HC"]
)
_CLASSES = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(7|6|3|77)(\.\d+)*")
_LOCALIZER = re.compile(r"localis|localiz|\bloc\b|scout|topo|surview|pilot|scanogram", re.IGNORECASE)
_SCREEN = re.compile(
    r"screen|capture|snap ?shot|\bsave|\bpaste|print|photo|scan doc|scanned doc", re.IGNORECASE
)
_DOSE = re.compile(r"\bdose|dosis|protocol|report|summary|exam card|patient data", re.IGNORECASE)
_COLOUR = frozenset({"CT", "MR", "PT", "NM", "CR", "DX", "MG"})
_DESCRIPTION, _IMAGE_TYPE, _MODALITY, _BURNED, _CONVERSION = (
    0x0008103E,
    0x00080008,
    0x00080060,
    0x00280301,
    0x00080064,
)
_POSITION, _POSITIONS, _SAMPLES = 0x00200032, 0x52009230, 0x00280002


def declares_burned_in(original: Instance) -> bool:
    """Return whether the header states that the pixels identify the patient (BurnedInAnnotation YES)."""
    return bool(original.pixels) and original.text(_BURNED).strip().upper() == "YES"


def review_reasons(original: Instance) -> tuple[str, ...]:
    r"""Return why text may stand in the pixels of an instance, in fixed words.

    Empty when nothing suggests it.

    A device's own "NO" is not trusted for ultrasound, screen captures, photographs and documents. A
    reformatted slice (``DERIVED\SECONDARY`` with a position in the patient) is not counted as a secondary
    capture.
    """
    if not original.pixels:
        return ()
    kinds = [value.strip().upper() for value in original.whole_text(_IMAGE_TYPE).split("\\")]
    image_type = " ".join(kinds)
    description = original.text(_DESCRIPTION).replace("_", " ")
    modality = original.text(_MODALITY).strip().upper()
    placed = any(element.tag in (_POSITION, _POSITIONS) for element in original.elements)
    checks = {
        DECLARED: declares_burned_in(original),
        "kind of device that writes text": modality in _MODALITIES or not modality,
        "secondary capture or photograph": bool(_CLASSES.fullmatch(original.text(instance.SOP_CLASS)))
        or bool(original.text(_CONVERSION))
        or ("SECONDARY" in kinds and not placed),
        "localizer": bool(_LOCALIZER.search(image_type) or _LOCALIZER.search(description)),
        "screen save": bool(_SCREEN.search(image_type) or _SCREEN.search(description)),
        "dose or protocol page": bool(_DOSE.search(image_type) or _DOSE.search(description)),
        "colour where the device makes grey": modality in _COLOUR and _samples(original) > 1,
        "overlay in the pixels": _has_overlay_in_pixels(original),
    }
    return tuple(name for name, found in checks.items() if found)


def _samples(original: Instance) -> int:
    value = next((bytes(e.value) for e in original.elements if e.tag == _SAMPLES and e.items is None), b"")
    return int.from_bytes(value[:2], "little" if original.encoding.little else "big")


def _has_overlay_in_pixels(original: Instance) -> bool:
    """Return whether an overlay is in the unused high bits of the pixel data, which are not changed."""
    bits = (e for e in original.elements if e.tag >> 24 == 0x60 and e.tag & 0xFFFF == 0x0102)
    return any(any(bytes(element.value)) for element in bits)


CONTACT_SHEET, REVIEW_LIST = "review.html", "review.csv"
MOST_THUMBNAILS, THUMBNAIL_SIZE, MOST_PIXELS = (
    500,
    160,
    64 << 20,
)  # thumbnails of a page; pixels of their longer side; pixels of a frame
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


def write_contact_sheet(space: Workspace, progress: Progress) -> None:
    """Write ``private/review.html`` from ``private/review.csv`` and the clean files in staging.

    Without flagged files neither.

    A page that was made from the same list is left alone.

    Raises:
        StorageError: the disk refused.
    """
    table, page = space.private / REVIEW_LIST, space.private / CONTACT_SHEET
    digest = files.digest(table)
    if page.is_file() and digest.encode() in page.read_bytes()[:4096]:
        return
    sheet = _sheet(table, space.staging, progress)
    environment = jinja2.Environment(autoescape=True)
    text = environment.from_string(_SHEET_TEMPLATE).render(digest=digest, list=REVIEW_LIST, **vars(sheet))
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
