"""Which images may hold text in their pixels, by their header.

The reasons are fixed words. Images with a reason are searched; those that are kept unsearched are listed with
it.
"""

from __future__ import annotations

import re

from meninx.dicomfile import instance
from meninx.dicomfile.instance import Instance

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
