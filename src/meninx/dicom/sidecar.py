"""The JSON side-car of an exported image: selected attributes, and how stored values became pixels.

A side-car is one JSON object. Its ``attributes`` (in files made elsewhere, the whole object) hold DICOM
attributes, keyed by keyword or by eight hexadecimal digits, each in the DICOM JSON model (``{"vr": "CS",
"Value": ["DX"]}``) or as a plain value. Its ``meninx`` part describes how stored values became pixels:
``offset`` was added to them.

References:
    DICOM PS3.18 annex F (the JSON model).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from meninx.core.errors import ConfigError, DataError, expected, problem
from meninx.imaging import decode, load, tags
from meninx.imaging.dicom_image import FACTS

VERSION = 1
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
"""Attributes that get a new UID."""
PSEUDONYMS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
EXPORTED = (
    *FACTS,
    *PSEUDONYMS,
    "SOPClassUID",
    "PatientSex",
    "PatientAge",
    "SeriesNumber",
    "InstanceNumber",
    "PatientIdentityRemoved",
    "LongitudinalTemporalInformationModified",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "ConversionType",
    "PlanarConfiguration",
)
"""Keywords that a side-car may contain; :class:`~meninx.dicom.export.ExportConfig` can name further ones."""

_OF_ONE_SLICE = ("SOPInstanceUID", "InstanceNumber", "ImagePositionPatient")
_OF_STORED_VALUES = (
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "PixelIntensityRelationship",
    "PixelIntensityRelationshipSign",
    "PresentationLUTShape",
)
_PIXEL_GROUP, _META_GROUP = 0x7FE0, 0x0002
_BYTES = {"OB", "OW", "OD", "OF", "OL", "OV", "UN", "OB or OW", "SQ"}


def check_attributes(keywords: tuple[str, ...]) -> None:
    """Raise ConfigError unless every keyword is a standard attribute of text or numbers."""
    for name in keywords:
        if tags.keyword_of(name) != name or dictionary_VR(name) in _BYTES:
            raise ConfigError(
                expected("keywords of text or number attributes", got=repr(name), where="attributes")
            )


def attributes_of(dataset: Dataset, more: tuple[str, ...] = ()) -> Dataset:
    """Return only the exported attributes of a data set."""
    chosen = Dataset()
    for keyword in (*EXPORTED, *more):
        if keyword in dataset:
            chosen[keyword] = dataset[keyword]
    return chosen


def describe_volume(chosen: Dataset) -> Dataset:
    """Remove attributes of single slices and of stored values from the attributes of a volume."""
    for keyword in (*_OF_ONE_SLICE, *_OF_STORED_VALUES[:3]):
        chosen.pop(keyword, None)
    return chosen


def describe_colour(chosen: Dataset, bits: int) -> Dataset:
    """Describe RGB with ``bits`` in the attributes; the export converts every colour image to RGB."""
    chosen.PhotometricInterpretation, chosen.SamplesPerPixel, chosen.PlanarConfiguration = "RGB", 3, 0
    return _describe_depth(chosen, bits)


def describe_display(chosen: Dataset, bits: int) -> Dataset:
    """Describe a display image in the attributes: grey with ``bits``, without rescale and window."""
    for keyword in _OF_STORED_VALUES:
        chosen.pop(keyword, None)
    kind = list(chosen.get("ImageType") or ["DERIVED", "SECONDARY"])
    chosen.ImageType = ["DERIVED", *kind[1:]]
    if str(chosen.get("PhotometricInterpretation")) == "MONOCHROME1":
        chosen.PhotometricInterpretation = "MONOCHROME2"
    return _describe_depth(chosen, bits)


def to_table(chosen: Dataset, **settings: Any) -> dict[str, Any]:
    """Return the content of a side-car: attributes in the DICOM JSON model and settings of the export.

    Raises:
        DataError: a value does not have the form of its attribute.
    """
    try:
        with decode.quiet():
            attributes = chosen.to_json_dict()
    except Exception as error:
        got = f"one without ({type(error).__name__})"
        raise DataError(expected("attributes with values of their form", got=got, where="header")) from None
    return {"meninx": {"sidecar": VERSION, **settings}, "attributes": attributes}


def path_of(image: Path) -> Path:
    """Return the path of the side-car of an image: the same name with ``.json``."""
    return image.with_name(image.name[: len(image.name) - len(load.suffix(image))] + ".json")


def facts(path: Path, keywords: tuple[str, ...]) -> Dataset:
    """Return the attributes of an image: from the header of a DICOM file, else from the side-car.

    An image without a side-car has no attributes.

    Raises:
        DataError: the file or side-car cannot be read.
    """
    if load.suffix(path) not in (*load.PICTURES, *load.VOLUMES):
        return decode.open_dataset(path, pixels=False, keywords=(*keywords, "SpecificCharacterSet"))
    beside = path_of(path)
    if not keywords or not beside.is_file():
        return Dataset()
    table = read_sidecar(beside)
    with decode.quiet():
        return parse_attributes(table.get("attributes", table))


def _describe_depth(chosen: Dataset, bits: int) -> Dataset:
    chosen.BitsAllocated, chosen.BitsStored, chosen.HighBit, chosen.PixelRepresentation = (
        bits,
        bits,
        bits - 1,
        0,
    )
    return chosen


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return the JSON object of a side-car.

    Raises:
        DataError: the file does not exist or is not a JSON object.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else "other text"
        raise DataError(expected("a JSON side-car", got=got, where=path.name)) from None
    if not isinstance(table, dict) or not isinstance(table.get("meninx", {}), dict):
        raise DataError(problem("the file does not hold a JSON object", where=path.name))
    return table


def parse_attributes(table: Mapping[str, Any]) -> Dataset:
    """Return the data set of a table of attributes; private ones, file meta and pixels are left out.

    Raises:
        DataError: a keyword is unknown or a value does not fit; the message names the key.
    """
    dataset = Dataset()
    for key, value in table.items():
        if key == "meninx":
            continue
        tag = _tag(key)
        if tag.is_private or tag.group in (_META_GROUP, _PIXEL_GROUP) or tag.group & 0xFF00 == 0x6000:
            continue
        model = value if isinstance(value, dict) and "vr" in value else _model(tag, value)
        try:
            dataset.update(Dataset.from_json({f"{tag:08X}": model}))
        except Exception:
            raise DataError(
                problem("the value is not in the DICOM JSON model", where=f"side-car, {key}")
            ) from None
    return dataset


def _tag(key: str) -> Any:
    try:
        found: Any = tag_for_keyword(key)
        if found is None:
            found = int(key, 16) if len(key) == 8 else key
        return Tag(found)
    except ValueError:
        fix = "use a DICOM keyword or eight hexadecimal digits"
        raise DataError(expected("a DICOM attribute", got=repr(key), where="side-car", fix=fix)) from None


def _model(tag: Any, value: Any) -> dict[str, Any]:
    """Return a plain value in the DICOM JSON model, its VR from the dictionary."""
    values = value if isinstance(value, list) else [value]
    if value is None or value == "":
        values = []
    try:
        vr = dictionary_VR(tag).split(" or ")[0]
    except KeyError:
        vr = "UN"
    if vr == "PN":
        values = [{"Alphabetic": item} if isinstance(item, str) else item for item in values]
    return {"vr": vr, "Value": values} if values else {"vr": vr}
