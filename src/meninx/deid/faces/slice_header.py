"""What the header of a CT or MR instance says about its slices, for the removal of faces."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from pydicom._uid_dict import UID_dictionary

from meninx.core.errors import DataError
from meninx.deid.faces.defacing import Kind
from meninx.deid.identity.keys import plain_digest
from meninx.dicomfile import frames
from meninx.dicomfile.elements import Element
from meninx.dicomfile.instance import SERIES, SOP_CLASS, SOP_INSTANCE, STUDY, Instance
from meninx.dicomfile.pixels import PIXELS
from meninx.dicomfile.refusals import Reason, Refused
from meninx.imaging.slice_geometry import Plane, plane

Hint = Literal["head", "other", "unknown"]

_MODALITY, _FRAMES_SHARED, _FRAMES_EACH = 0x00080060, 0x52009229, 0x52009230
_POSITION, _ORIENTATION, _SPACING, _THICKNESS = 0x00200032, 0x00200037, 0x00280030, 0x00180050
_GROUPS = {
    _POSITION: 0x00209113,
    _ORIENTATION: 0x00209116,
    _SPACING: 0x00289110,
    _THICKNESS: 0x00289110,
    0x00281052: 0x00289145,
    0x00281053: 0x00289145,
}
_INTERCEPT, _SLOPE = 0x00281052, 0x00281053
_DESCRIBING = (0x00180015, 0x00081030, 0x0008103E, 0x00181030, 0x00400254, 0x00321060, 0x00204000)
# Parts of words; "other" counts only where no word of the head stands beside it.
_HEAD = re.compile(
    r"HEAD|BRAIN|SKULL|NEURO|FACE|FACIAL|MAXILL|MANDIB|SINUS|ORBIT|EYE|CRANI|CEREB|CEPHAL|PITUIT|HYPOPHY|"
    r"TEMPOR|PETRO|\bIAC\b|\bEAR\b|JAW|DENT|TMJ|NECK|HNECK|CERVI|C-?SPINE|\bHWS\b|CAROT|WILLIS|STROKE|"
    r"WHOLE|\bWB\b|BODY(?!PART)|KOPF|SCH(AE|Ä)DEL|HIRN|GESICHT|HALS|T[EÊ]TE|CABEZA|CEREBRO|TESTA|ENCEPH|"
    r"FLAIR|MPRAGE|TOF|BOLD|\bFMRI\b|DTI\b"
)
_OTHER = re.compile(
    r"CHEST|THORA|LUNG|ABDO|PELVI|LIVER|KIDNEY|RENAL|PROSTAT|HEART|CARDI|CORONARY|BREAST|MAMMA|KNEE|ANKLE|"
    r"FOOT|FEET|HAND|WRIST|ELBOW|SHOULDER|\bHIP\b|FEMUR|TIBIA|LEG\b|EXTREM|L-?SPINE|LUMB|TSPINE|T-SPINE|"
    r"\bLWS\b|\bBWS\b|PANCREAS|COLON|BLADDER|UTERUS|ENTERO|UROGRA|KNIE|LEBER|BECKEN|HERZ|LUNGE"
)


@dataclass(frozen=True)
class SliceHeader:
    """The header of one CT or MR instance, without a value that names a patient.

    Attributes:
        series: digest of patient, study and series.
        instance: digest of the SOPInstanceUID.
        kind: CT or MR.
        hint: what the descriptions say about the part of the body.
        size: rows and columns.
        planes: one for each frame; empty where the header gives none.
        rescale: slope and intercept of each frame.
        refused: reason code of pixels that cannot be changed exactly, or ``""``.
    """

    series: str
    instance: str
    kind: Kind
    hint: Hint
    size: tuple[int, int]
    planes: tuple[Plane, ...]
    rescale: tuple[tuple[float, float], ...]
    refused: str


def header_of(original: Instance) -> SliceHeader | None:
    """Return the header of a CT or MR image, None for anything else.

    Raises:
        Refused: ``pixels-unreadable``.
    """
    kind = _kind(original)
    if kind is None or not original.pixels:
        return None
    layers = frames.layers_of(original)
    planes, rescale = _slices(original, layers.frames)
    return SliceHeader(
        series=series_key(original),
        instance=plain_digest(original.text(SOP_INSTANCE).encode("utf-8", "replace")),
        kind=kind,
        hint=hint_of(original),
        size=(layers.rows, layers.columns),
        planes=planes,
        rescale=rescale,
        refused="" if _is_exact(layers) else Reason.FACE_PIXELS,
    )


def may_show_a_face(original: Instance) -> bool:
    """Return whether an image of another kind than CT and MR may show a face in three dimensions.

    Its header names a head, and it is a slice of another modality, a volume of X-rays, or a capture, which
    may be a rendering. No face is removed from these.
    """
    name = str(UID_dictionary.get(original.text(SOP_CLASS), ("",))[0])
    spatial = original.text(_MODALITY).upper() in ("PT", "NM", "OT", "SC", "RTDOSE") or re.search(
        r"3D|Secondary Cap", name
    )
    return bool(original.pixels and spatial) and _kind(original) is None and hint_of(original) == "head"


def series_key(original: Instance) -> str:
    """Return the digest of patient, study and series."""
    return key_of_series(original, original.text(SERIES))


def key_of_series(original: Instance, series: str) -> str:
    """Return the digest of a series, by its UID, in the study of a file."""
    named = (original.text(STUDY), series, original.patient_id, original.issuer)
    return plain_digest("\0".join(named).encode("utf-8", "replace"))[:32]


def _kind(original: Instance) -> Kind | None:
    name = str(UID_dictionary.get(original.text(SOP_CLASS), ("",))[0])
    modality = original.text(_MODALITY).upper()
    if modality == "CT" or re.search(r"\bCT Image", name):
        return "CT"
    return "MR" if modality == "MR" or re.search(r"\bMR (Color )?Image", name) else None


def _is_exact(layers: frames.Layers) -> bool:
    """Return whether values can be changed without changing others, and mean what this program expects."""
    header = layers.header
    return (
        layers.tag == PIXELS
        and layers.samples == 1
        and layers.allocated in (8, 16, 32)
        and layers.photometric in ("MONOCHROME1", "MONOCHROME2")
        and frames.is_lossless(layers.syntax)
        and int(header.get("HighBit", int(header.BitsStored) - 1)) == int(header.BitsStored) - 1
    )


def hint_of(original: Instance) -> Hint:
    """Return what the descriptions of a file say about the part of the body."""
    words = " ".join(original.whole_text(tag) for tag in _DESCRIBING).upper().replace("_", " ")[:4000]
    if _HEAD.search(words):
        return "head"
    return "other" if _OTHER.search(words) else "unknown"


def _slices(original: Instance, count: int) -> tuple[tuple[Plane, ...], tuple[tuple[float, float], ...]]:
    shared = _items(original.elements, _FRAMES_SHARED)
    each = _items(original.elements, _FRAMES_EACH)
    if count > 1 and len(each) != count:
        return (), ()
    places = [[original.elements, *shared[:1], *each[number : number + 1]] for number in range(count)]
    try:
        return tuple(map(_plane, places)), tuple(map(_rescale, places))
    except (DataError, Refused, ValueError):
        return (), ()


def _plane(levels: list[list[Element]]) -> Plane:
    position, orientation, spacing = (_numbers(levels, tag) for tag in (_POSITION, _ORIENTATION, _SPACING))
    thickness = _numbers(levels, _THICKNESS) or [0.0]
    found = plane(position, orientation, spacing, thickness[0])
    if max(map(abs, position)) > 1e5 or max(spacing) > 100:
        raise Refused(Reason.FACE_GEOMETRY)
    return found


def _rescale(levels: list[list[Element]]) -> tuple[float, float]:
    slope, intercept = (_numbers(levels, tag) for tag in (_SLOPE, _INTERCEPT))
    pair = (slope or [1.0])[0], (intercept or [0.0])[0]
    if not 1e-6 <= pair[0] <= 1e6 or abs(pair[1]) > 1e6:
        raise Refused(Reason.FACE_GEOMETRY)
    return pair


def _numbers(levels: list[list[Element]], tag: int) -> list[float]:
    """Return the numbers of an attribute, the innermost level first; empty where none has it."""
    for level in reversed(levels):
        for elements in (*_items(level, _GROUPS[tag])[:1], level):
            found = next((e for e in elements if e.tag == tag and e.items is None), None)
            if found is not None and bytes(found.value).strip(b" \0"):
                numbers = [
                    float(text) for text in bytes(found.value).decode("latin-1").strip(" \0").split("\\")
                ]
                if not all(map(math.isfinite, numbers)):
                    raise Refused(Reason.FACE_GEOMETRY)
                return numbers
    return []


def _items(elements: list[Element], tag: int) -> list[list[Element]]:
    return next((e.items for e in elements if e.tag == tag and e.items), [])
