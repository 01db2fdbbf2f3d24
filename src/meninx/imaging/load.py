"""Reading any image file into an :class:`Image` and writing it, by suffix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from meninx.core.errors import DataError, expected, problem
from meninx.imaging import decode, dicom_image, nifti, png
from meninx.imaging.image import Image, stacked

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
VOLUMES = (".nii", ".nii.gz")
WRITABLE = (".png", *VOLUMES)


def suffix(path: Path) -> str:
    """Return the lower-case suffix, with ``.nii.gz`` as one; empty if there is none."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def load(path: Path, *, display_bits: int = 0) -> Image:
    """Return the image in a PNG, JPEG, TIFF, NIfTI or DICOM file (DICOM also with any other suffix).

    Args:
        path: the file.
        display_bits: 8 or 16 for DICOM pixels as displayed, with this many bits; 0 for modality values.

    Raises:
        DataError: no such file, an unknown format, or an image that cannot be read exactly.
    """
    kind = suffix(path)
    if kind in PICTURES:
        return png.read(path)
    if kind in VOLUMES:
        return nifti.read(path)
    if path.is_file() and (kind in (".dcm", "") or decode.is_dicom(path)):
        if display_bits:
            return dicom_image.read_instance(path, intensity="display", bits=display_bits)
        return dicom_image.read_instance(path)
    got = (kind or "no suffix") if path.exists() else "no such file"
    known = ", ".join((*PICTURES, *VOLUMES, ".dcm"))
    fix = ""
    if path.is_dir():
        got, fix = "a folder", "read a series with dicom_image.read_series"
    raise DataError(
        expected(f"an image file ({known}, or DICOM without a suffix)", got=got, where="path", fix=fix)
    )


def load_series(paths: Sequence[Path], *, display_bits: int = 0) -> Image:
    """Return the volume in the files of one DICOM series, in any order.

    Raises:
        DataError: see :func:`meninx.imaging.dicom_image.read_series`.
    """
    if display_bits:
        return dicom_image.read_series(paths, intensity="display", bits=display_bits)
    return dicom_image.read_series(paths)


def load_channels(paths: Sequence[Path]) -> Image:
    """Return several files of one channel each as one image, in the order given.

    Raises:
        DataError: a file holds several channels, or the files lie on different grids.
    """
    images = [load(path) for path in paths]
    try:
        return stacked(images)
    except ValueError as error:
        fix = "resample the channels to one grid, one file per channel"
        raise DataError(problem(str(error), where="channels", fix=fix)) from error


def save(path: Path, image: Image) -> None:
    """Write an image as ``.png`` (2-D) or ``.nii``/``.nii.gz``, atomically.

    Raises:
        DataError: another suffix, or pixels that the format cannot keep exactly.
        StorageError: the disk refused.
    """
    kind = suffix(path)
    if kind not in WRITABLE:
        raise DataError(expected(f"one of {', '.join(WRITABLE)}", got=kind or "no suffix", where=path.name))
    (png if kind == ".png" else nifti).write(path, image)
