"""A picture and its JSON side-car back to DICOM: the inverse of the export to PNG.

A side-car is one JSON object. Its ``attributes`` (or, in files made elsewhere, the whole object) hold DICOM
attributes, keyed by keyword or by eight hexadecimal digits, each in the DICOM JSON model (``{"vr": "CS",
"Value": ["DX"]}``) or as a plain value. Its ``meninx`` part says how stored values became pixels: ``offset``
was added to them.

References:
    DICOM PS3.18 annex F (the JSON model), PS3.3 C.7.6.3 (Image Pixel module), A.8.1 (Secondary Capture).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from meninx.core import files
from meninx.core.errors import DataError, UsageError, expected
from meninx.imaging import decode, png
from meninx.imaging.uids import new_uid

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
"""Attributes that get a new UID."""
_MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName", "SeriesNumber", "InstanceNumber",
)  # fmt: skip
_PIXEL_GROUP = 0x7FE0
_META_GROUP = 0x0002


def dicom_from_png(
    picture: Path, sidecar: Path, out: Path, *, uid: Callable[[str], str] = new_uid, overwrite: bool = False
) -> None:
    """Write a DICOM file with the pixels of a PNG or JPEG file and the attributes of a side-car.

    The class of the object is that of the side-car, else Secondary Capture; grey of 8 or 16 bit and RGB of 8
    bit get the pixel module that fits them; attributes every image must have are added, empty where that is
    allowed.

    Args:
        picture: the pixels.
        sidecar: JSON; see the module.
        out: the DICOM file to write.
        uid: gives the new UID of an old one (empty when the side-car has none); fresh random ones by default.
        overwrite: True replaces an existing file.

    Raises:
        UsageError: ``out`` exists.
        DataError: the picture or side-car cannot be read; names the attribute.
        StorageError: the disk refused.
    """
    if out.exists() and not overwrite:
        got = "an existing one"
        raise UsageError(
            expected("a file that does not exist yet", got=got, where=out.name, fix="set overwrite=True")
        )
    table = read_sidecar(sidecar)
    array = png.read(picture).array
    with decode.quiet():
        dataset = parse_attributes(table.get("attributes", table))
        _set_identity(dataset, uid)
        offset = table.get("meninx", {}).get("offset", 0)
        _set_pixels(dataset, array, int(offset))
        stream = io.BytesIO()
        try:
            dataset.save_as(stream, enforce_file_format=True)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            got = f"one that cannot be written ({type(error).__name__})"
            raise DataError(
                expected("values that fit their attributes", got=got, where=sidecar.name)
            ) from None
    files.write_bytes(out, stream.getvalue())


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return the JSON object of a side-car.

    Raises:
        DataError: no such file, or not a JSON object.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else "other text"
        raise DataError(expected("a JSON side-car", got=got, where=path.name)) from None
    if not isinstance(table, dict) or not isinstance(table.get("meninx", {}), dict):
        raise DataError(expected("a JSON object", got="another value", where=path.name))
    return table


def parse_attributes(table: Mapping[str, Any]) -> Dataset:
    """Return the data set of a table of attributes; private ones, file meta and pixels are left out.

    Raises:
        DataError: an unknown keyword, or a value that does not fit; names the key.
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
                expected("a value in the DICOM JSON model", got="another", where=f"side-car, {key}")
            ) from None
    return dataset


def _tag(key: str) -> Any:
    try:
        found = tag_for_keyword(key)
        return Tag(found if found is not None else int(key, 16) if len(key) == 8 else key)
    except ValueError:
        fix = "use a DICOM keyword or eight hexadecimal digits"
        raise DataError(expected("a DICOM attribute", got=repr(key), where="side-car", fix=fix)) from None


def _model(tag: Any, value: Any) -> dict[str, Any]:
    """Return a plain value in the DICOM JSON model, its VR from the dictionary."""
    values = value if isinstance(value, list) else [] if value is None or value == "" else [value]
    try:
        vr = dictionary_VR(tag).split(" or ")[0]
    except KeyError:
        vr = "UN"
    if vr == "PN":
        values = [{"Alphabetic": item} if isinstance(item, str) else item for item in values]
    return {"vr": vr, "Value": values} if values else {"vr": vr}


def _set_identity(dataset: Dataset, uid: Callable[[str], str]) -> None:
    for keyword in UIDS:
        if keyword in dataset or keyword != "FrameOfReferenceUID":
            setattr(dataset, keyword, UID(uid(str(dataset.get(keyword, "")))))
    dataset.SOPClassUID = UID(str(dataset.get("SOPClassUID") or SecondaryCaptureImageStorage))
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword in _MAY_BE_EMPTY:
        if keyword not in dataset:
            setattr(
                dataset, keyword, None if keyword.endswith("Number") and keyword != "AccessionNumber" else ""
            )
    if not dataset.get("Modality"):
        dataset.Modality = "OT"
    if not dataset.get("ImageType"):
        dataset.ImageType = ["DERIVED", "SECONDARY"]
    if dataset.SOPClassUID == SecondaryCaptureImageStorage and not dataset.get("ConversionType"):
        dataset.ConversionType = "WSD"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID


def _set_pixels(dataset: Dataset, array: npt.NDArray[Any], offset: int) -> None:
    """Write the Image Pixel module for an array of shape (1 or 3, rows, columns)."""
    colour, allocated = array.shape[0] == 3, 8 * array.dtype.itemsize
    signed = offset != 0
    stored = (array.astype(np.int32) - offset).astype(
        array.dtype.str.replace("u", "i") if signed else array.dtype
    )
    bits = int(dataset.get("BitsStored") or allocated)
    span = max(int(stored.max(initial=0)) + 1, -int(stored.min(initial=0))) * (2 if signed else 1)
    bits = bits if bits <= allocated and span <= 2**bits else allocated
    grey = "MONOCHROME1" if dataset.get("PhotometricInterpretation") == "MONOCHROME1" else "MONOCHROME2"
    for keyword in ("NumberOfFrames", "PlanarConfiguration", "FrameIncrementPointer"):
        dataset.pop(keyword, None)
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else grey
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = int(array.shape[1]), int(array.shape[2])
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    content = np.moveaxis(stored, 0, -1).astype(stored.dtype.newbyteorder("<")).tobytes()
    dataset.add_new("PixelData", "OW" if allocated == 16 else "OB", content + b"\0" * (len(content) % 2))
