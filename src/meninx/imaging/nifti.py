"""NIfTI files in and out: the affine is kept, label maps stay integers, equal images give equal bytes.

The size announced in a header is compared with the file and with ``files.IMAGE_LIMIT`` before any voxel is
read, and a compressed file is unpacked only up to that size. A forged header therefore costs no memory.
"""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from meninx.core import files
from meninx.core.errors import DataError, expected, problem
from meninx.imaging.image import Image

_GZIP_LEVEL = 4  # level 9 takes four times as long for about 3 % less
_SCANNER = 1  # NIfTI code of "scanner anatomical" coordinates
_LONGEST_HEADER = 540  # bytes of a NIfTI-2 header
_SCALED = 8  # bytes per voxel after scaling, which nibabel does in float64
_FLATTEST = 1e-6  # smallest volume of a voxel relative to a box with the same edges


def read(path: Path) -> Image:
    """Return the image of a NIfTI file: (channels, x, y, z), or (1, rows, columns) of a file with two axes.

    A fourth axis becomes channels, as in the Medical Segmentation Decathlon; RGB voxels become 3 channels.
    Integers stay integers unless the header requires scaling; scaled and double values become float32.

    Raises:
        DataError: no such file, not NIfTI, truncated, larger than ``files.IMAGE_LIMIT``, or another number of
            axes.
    """
    try:
        source = _opened(path)
        data = np.asanyarray(source.dataobj)
        affine = np.asarray(source.affine, dtype=np.float64)
    except DataError:
        raise
    except Exception as error:
        got = (
            "no such file"
            if isinstance(error, FileNotFoundError)
            else f"something unreadable ({type(error).__name__})"
        )
        raise DataError(expected("a NIfTI file", got=got, where=path.name)) from error
    if data.dtype.names:
        data = np.stack([data[name] for name in data.dtype.names], axis=-1)
        data = data if data.ndim == 4 else data[..., None, :]
    while data.ndim > 4 and data.shape[3] == 1:
        data = data[:, :, :, 0]
    if data.ndim not in (2, 3, 4):
        raise DataError(expected("2, 3 or 4 axes", got=data.ndim, where=path.name))
    if data.dtype.kind not in "iuf":
        raise DataError(expected("whole or real numbers", got=str(data.dtype), where=path.name))
    if not _has_place(affine):
        raise DataError(problem("the affine does not give every voxel a place of its own", where=path.name))
    data = data.astype(np.float32 if data.dtype.kind == "f" else data.dtype.newbyteorder("="), copy=False)
    if data.ndim == 2:
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        return Image(np.ascontiguousarray(data.T[None]), np.diag([spacing[1], spacing[0], 1.0, 1.0]))
    return Image(np.moveaxis(data, 3, 0) if data.ndim == 4 else data[None], affine)


def _opened(path: Path) -> Any:
    """Return nibabel's image of a file after checking the size that its header announces."""
    if not path.is_file():
        raise FileNotFoundError
    packed = path.name.lower().endswith(".gz")
    with gzip.open(path) if packed else path.open("rb") as stream:
        head = stream.read(_LONGEST_HEADER)
        kind, promised = _promise(head, path.name)
        if not packed:
            if promised > path.stat().st_size:
                raise DataError(
                    problem(
                        f"the file holds fewer than the {promised:,} bytes that its header promises",
                        where=path.name,
                    )
                )
            return kind.from_filename(path)
        content = head + stream.read(max(0, promised - len(head)))
    if len(content) < promised:
        raise DataError(expected(f"{promised:,} bytes of NIfTI", got=f"{len(content):,}", where=path.name))
    return kind.from_bytes(content)


def _promise(head: bytes, where: str) -> tuple[Any, int]:
    """Return nibabel's class for a header and the number of bytes of the file according to it.

    Raises:
        DataError: the number is too large, or the header contradicts itself.
    """
    kind = next(
        (k for k in (nib.Nifti1Image, nib.Nifti2Image) if k.header_class.may_contain_header(head)), None
    )
    if kind is None:
        raise DataError(problem("the file does not begin with a NIfTI header", where=where))
    header = kind.header_class(head[: kind.header_class.template_dtype.itemsize])
    shape = [int(n) for n in header.get_data_shape()]
    voxels, stored, start = math.prod(shape), header.get_data_dtype().itemsize, int(header.get_data_offset())
    if not shape or min(shape) < 1 or start < 0 or not bytes(header["magic"]).startswith(b"n+"):
        raise DataError(problem("the header is not that of one NIfTI file with its voxels", where=where))
    scaled = header.get_slope_inter() != (None, None) and header.get_slope_inter() != (1.0, 0.0)
    size = voxels * (max(stored, _SCALED) if scaled else stored)
    if start + size > files.IMAGE_LIMIT:
        raise DataError(
            expected(f"an image of at most {files.IMAGE_LIMIT:,} bytes", got=f"{start + size:,}", where=where)
        )
    return kind, start + voxels * stored


def _has_place(affine: npt.NDArray[np.float64]) -> bool:
    """Return whether an affine is finite and invertible."""
    axes = affine[:3, :3]
    if not np.isfinite(affine).all():
        return False
    edges = np.linalg.norm(axes, axis=0)
    return bool(edges.min() > 0 and abs(np.linalg.det(axes / edges)) > _FLATTEST)


def write(path: Path, image: Image) -> None:
    """Write an image as ``.nii`` or ``.nii.gz``; nothing but voxels, affine and units goes into the header.

    A volume of several channels gets a fourth axis. Guarantee: reading it back gives the same voxels and
    affine, and the file holds no name, description or time.

    Raises:
        DataError: a 2-D image of several channels, or a data type that NIfTI does not know.
        StorageError: the disk refused.
    """
    content = encode(image, path.name)
    files.write_bytes(
        path, gzip.compress(content, _GZIP_LEVEL, mtime=0) if path.name.lower().endswith(".gz") else content
    )


def write_maps(path: Path, maps: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> None:
    """Write several values per pixel, e.g. one probability per label, along the fourth axis of a NIfTI file.

    A picture becomes a volume of one slice.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        maps: (maps, rows, columns) or (maps, x, y, z).
        affine: of the image whose grid they have.

    Raises:
        StorageError: the disk refused.
    """
    if maps.ndim == 3:
        maps = maps.transpose(0, 2, 1)[..., None]
        affine = np.diag([affine[1, 1], affine[0, 0], 1.0, 1.0])
    write(path, Image(np.ascontiguousarray(maps), affine))


def encode(image: Image, where: str = "image") -> bytes:
    """Return the bytes of an uncompressed NIfTI file of the image.

    Raises:
        DataError: as :func:`write`.
    """
    array, affine = _storable(image.array, where), image.affine
    if image.spatial_dims == 2:
        if image.channels != 1:
            got = f"{image.channels} channels"
            raise DataError(
                expected("one channel in a 2-D NIfTI file", got=got, where=where, fix="write .png")
            )
        data = array[0].T
        affine = np.diag([affine[1, 1], affine[0, 0], 1.0, 1.0])
    else:
        data = array[0] if image.channels == 1 else np.moveaxis(array, 0, -1)
    target = nib.Nifti1Image(data, affine)
    target.header.set_xyzt_units("mm")
    target.set_sform(affine, code=_SCANNER)
    if _is_rigid(affine):
        target.set_qform(affine, code=_SCANNER)
    return bytes(target.to_bytes())


def _storable(array: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype in (np.int64, np.uint64):
        limits = np.iinfo(np.int32)
        if array.size and (array.min() < limits.min or array.max() > limits.max):
            raise DataError(problem("whole numbers do not fit into 32 bits", where=where))
        return array.astype(np.int32)
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise DataError(expected("whole or real numbers", got=str(array.dtype), where=where))
    return array


def _is_rigid(affine: npt.NDArray[np.float64]) -> bool:
    """Return whether the axes are orthogonal, which the quaternion form of the affine needs."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(axes.T @ axes, np.eye(3), atol=1e-6))
