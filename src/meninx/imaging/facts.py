"""The attributes of a DICOM file that say how an image was made and nothing about whom it shows."""

from __future__ import annotations

import re
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

FACTS = (
    "Modality", "ImageType", "PhotometricInterpretation", "SamplesPerPixel", "Rows", "Columns", "NumberOfFrames",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "ViewPosition", "ImageLaterality", "Laterality", "BodyPartExamined", "PatientPosition", "PatientOrientation",
    "PresentationIntentType", "PresentationLUTShape", "PixelIntensityRelationship", "PixelIntensityRelationshipSign",
    "BurnedInAnnotation", "LossyImageCompression", "LossyImageCompressionMethod", "LossyImageCompressionRatio",
    "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio", "SliceThickness",
    "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept", "RescaleType", "WindowCenter", "WindowWidth",
    "VOILUTFunction", "KVP", "MagneticFieldStrength", "ScanningSequence", "SequenceVariant", "ScanOptions",
    "MRAcquisitionType", "RepetitionTime", "EchoTime", "InversionTime", "FlipAngle", "EchoTrainLength",
)  # fmt: skip
"""Keywords that :func:`facts_of` may return; anything else in a file stays there."""

_CODES = {"CS", "LO", "SH"}
_CODE = re.compile(r"[A-Z0-9 _.+-]{1,16}")


def facts_of(dataset: Dataset) -> dict[str, Any]:
    """Return the facts of a data set as JSON values by keyword.

    Guarantee: only attributes of the list :data:`FACTS`, only numbers and code strings of at most 16
        capitals, digits,
    blanks and ``_.+-``; other text in these attributes is left out.
    """
    facts: dict[str, Any] = {}
    for keyword in FACTS:
        element = dataset.get(keyword) if keyword in dataset else None
        if element is None or element == "" or isinstance(element, bytes):
            continue
        values = list(element) if isinstance(element, (MultiValue, list, tuple)) else [element]
        plain = [_plain(value, dataset[keyword].VR) for value in values]
        if plain and all(value is not None for value in plain):
            facts[keyword] = plain if len(plain) > 1 else plain[0]
    return facts


def _plain(value: Any, vr: str) -> int | float | str | None:
    if vr in _CODES:
        text = str(value).strip()
        return text if _CODE.fullmatch(text) else None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else number
