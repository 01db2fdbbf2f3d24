"""The JSON beside an exported image: attributes of an explicit list, and how stored values became pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset

from meninx.core.errors import ConfigError, DataError, expected
from meninx.imaging import decode, encapsulate, load, tags
from meninx.imaging.facts import FACTS

VERSION = 1
PSEUDONYMS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
EXPORTED = (
    *FACTS, *PSEUDONYMS, "SOPClassUID", "PatientSex", "PatientAge", "SeriesNumber", "InstanceNumber", "PatientIdentityRemoved",
    "LongitudinalTemporalInformationModified", "ImagePositionPatient", "ImageOrientationPatient", "ConversionType",
    "PlanarConfiguration",
)  # fmt: skip
"""Keywords that a side-car may hold; :class:`~meninx.prepare.export.ExportConfig` can name further ones."""

_OF_ONE_SLICE = ("SOPInstanceUID", "InstanceNumber", "ImagePositionPatient")
_OF_STORED_VALUES = (
    "RescaleSlope", "RescaleIntercept", "RescaleType", "WindowCenter", "WindowWidth", "VOILUTFunction", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "PixelIntensityRelationship", "PixelIntensityRelationshipSign", "PresentationLUTShape",
)  # fmt: skip
_BYTES = {"OB", "OW", "OD", "OF", "OL", "OV", "UN", "OB or OW", "SQ"}


def check_attributes(keywords: tuple[str, ...]) -> None:
    """Raise ConfigError unless every keyword is a standard attribute of text or numbers."""
    for name in keywords:
        if tags.keyword_of(name) != name or dictionary_VR(name) in _BYTES:
            raise ConfigError(
                expected("keywords of text or number attributes", got=repr(name), where="attributes")
            )


def attributes_of(dataset: Dataset, more: tuple[str, ...] = ()) -> Dataset:
    """Return the exported attributes of a data set, and nothing else of it."""
    chosen = Dataset()
    for keyword in (*EXPORTED, *more):
        if keyword in dataset:
            chosen[keyword] = dataset[keyword]
    return chosen


def describe_volume(chosen: Dataset) -> Dataset:
    """Drop what belongs to one slice, or to stored values, from the attributes of a volume."""
    for keyword in (*_OF_ONE_SLICE, *_OF_STORED_VALUES[:3]):
        chosen.pop(keyword, None)
    return chosen


def describe_colour(chosen: Dataset, bits: int) -> Dataset:
    """Make the attributes say RGB of ``bits``, which the export turns every colour into."""
    chosen.PhotometricInterpretation, chosen.SamplesPerPixel, chosen.PlanarConfiguration = "RGB", 3, 0
    return _describe_depth(chosen, bits)


def describe_display(chosen: Dataset, bits: int) -> Dataset:
    """Make the attributes say what a display image is: derived grey of ``bits``, no rescale or window left to apply."""
    for keyword in _OF_STORED_VALUES:
        chosen.pop(keyword, None)
    kind = list(chosen.get("ImageType") or ["DERIVED", "SECONDARY"])
    chosen.ImageType = ["DERIVED", *kind[1:]]
    if str(chosen.get("PhotometricInterpretation")) == "MONOCHROME1":
        chosen.PhotometricInterpretation = "MONOCHROME2"
    return _describe_depth(chosen, bits)


def to_table(chosen: Dataset, **settings: Any) -> dict[str, Any]:
    """Return the content of a side-car: ``attributes`` in the DICOM JSON model and the settings of the export.

    Raises:
        DataError: a value is not of its attribute's form.
    """
    try:
        with decode.quiet():
            attributes = chosen.to_json_dict()
    except Exception as error:
        got = f"one without ({type(error).__name__})"
        raise DataError(expected("attributes with values of their form", got=got, where="header")) from None
    return {"meninx": {"sidecar": VERSION, **settings}, "attributes": attributes}


def path_of(image: Path) -> Path:
    """Return where the side-car of an image lies: the same name with ``.json``."""
    return image.with_name(image.name[: len(image.name) - len(load.suffix(image))] + ".json")


def facts(path: Path, keywords: tuple[str, ...]) -> Dataset:
    """Return the attributes of an image: of a DICOM file from its header, of a picture or volume from its side-car.

    An image without a side-car has no attributes.

    Raises:
        DataError: the file or side-car cannot be read.
    """
    if load.suffix(path) not in (*load.PICTURES, *load.VOLUMES):
        return decode.open_dataset(path, pixels=False, keywords=(*keywords, "SpecificCharacterSet"))
    beside = path_of(path)
    if not keywords or not beside.is_file():
        return Dataset()
    table = encapsulate.read_sidecar(beside)
    with decode.quiet():
        return encapsulate.parse_attributes(table.get("attributes", table))


def _describe_depth(chosen: Dataset, bits: int) -> Dataset:
    chosen.BitsAllocated, chosen.BitsStored, chosen.HighBit, chosen.PixelRepresentation = (
        bits,
        bits,
        bits - 1,
        0,
    )
    return chosen
