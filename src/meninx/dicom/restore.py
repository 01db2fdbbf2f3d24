"""Conversion of pictures with JSON side-cars back to DICOM: the inverse of the export to PNG.

References:
    DICOM PS3.3 C.7.6.3 (Image Pixel module), A.8.1 (Secondary Capture).
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from meninx.core import files, staging
from meninx.core.errors import DataError, StorageError, UsageError, expected, problem
from meninx.core.progress import SILENT, Progress, task
from meninx.dicom import copies, sidecar
from meninx.dicom.export import ExportResult
from meninx.imaging import decode, load, png
from meninx.imaging.tags import new_uid


def restore_images(
    source: Path,
    out: Path,
    *,
    uid: Callable[[str], str] = new_uid,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> ExportResult:
    """Write every picture with a side-car as DICOM, to the same relative path with ``.dcm``.

    Args:
        source: folder of PNG or JPEG files with JSON side-cars.
        out: folder of the DICOM files, outside the source.
        uid: returns the new UID for an old one; called once for each, so that studies and series stay
            together.
        overwrite: replace existing files; without it, existing ones are left as they are.
        progress: advanced by every file.

    Raises:
        UsageError: one folder is inside the other.
        StorageError: the disk refused.
    """
    known: dict[str, str] = {}
    counts: Counter[str] = Counter()
    failed: list[tuple[int, str]] = []
    copies.refuse_inside(source, out)
    paths = decode.find_files(source)
    # No fingerprint, so that a second attempt starts anew: its random UIDs differ, and a study
    # made of files from both attempts would fall apart.
    with staging.building(out, fingerprint="") as build, task(progress, "restore", len(paths)):
        for number, path in enumerate(paths, start=1):
            progress.advance()
            beside = sidecar.path_of(path)
            if load.suffix(path) not in load.PICTURES or not beside.is_file():
                counts["passed_over"] += path.suffix != ".json"
                continue
            target = path.relative_to(source).with_suffix(".dcm").as_posix()
            if build.existing(target) and not overwrite:
                counts["unchanged"] += 1
            else:
                try:
                    dicom_from_png(
                        path, beside, build.new(target), uid=_remembered(uid, known), overwrite=overwrite
                    )
                except StorageError:
                    raise
                except DataError as error:
                    failed.append((number, str(error)))
                    continue
            counts["pictures"] += 1
    return ExportResult(out=out, instances=counts["pictures"], failed=tuple(failed), **counts)


def _remembered(uid: Callable[[str], str], known: dict[str, str]) -> Callable[[str], str]:
    """Return ``uid`` with a cache: an old UID always gives the same new one, an empty UID a fresh one."""
    return lambda old: known.setdefault(old, uid(old)) if old else uid(old)


_MAY_BE_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "SeriesNumber",
    "InstanceNumber",
)


def dicom_from_png(
    picture: Path,
    attributes: Path,
    out: Path,
    *,
    uid: Callable[[str], str] = new_uid,
    overwrite: bool = False,
) -> None:
    """Write a DICOM file with the pixels of a PNG or JPEG file and the attributes of a side-car.

    The class of the object is that of the side-car, else Secondary Capture; grey of 8 or 16 bit and RGB of 8
    bit get the pixel module that fits them; attributes every image must have are added, empty where that is
    allowed.

    Args:
        picture: file with the pixels.
        attributes: the JSON side-car; see :mod:`meninx.dicom.sidecar`.
        out: the DICOM file to write.
        uid: returns the new UID for an old one (empty if the side-car has none); random ones by default.
        overwrite: True replaces an existing file.

    Raises:
        UsageError: ``out`` exists.
        DataError: the picture or side-car cannot be read; the message names the attribute.
        StorageError: the disk refused.
    """
    if out.exists() and not overwrite:
        got = "an existing one"
        raise UsageError(problem("the file exists already", where=out.name, fix="set overwrite=True"))
    table = sidecar.read_sidecar(attributes)
    array = png.read(picture).array
    with decode.quiet():
        dataset = sidecar.parse_attributes(table.get("attributes", table))
        _set_identity(dataset, uid)
        offset = table.get("meninx", {}).get("offset", 0)
        _set_pixels(dataset, array, int(offset))
        stream = io.BytesIO()
        try:
            dataset.save_as(stream, enforce_file_format=True)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            got = f"one that cannot be written ({type(error).__name__})"
            raise DataError(
                expected("values that fit their attributes", got=got, where=attributes.name)
            ) from None
    files.write_bytes(out, stream.getvalue())


def _set_identity(dataset: Dataset, uid: Callable[[str], str]) -> None:
    for keyword in sidecar.UIDS:
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
