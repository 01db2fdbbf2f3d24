"""PNG files in and out, JPEG and TIFF files in: 8 and 16 bit grey, 8 bit RGB, without metadata."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageFile

from meninx.core import files
from meninx.core.errors import DataError, expected, problem
from meninx.imaging import jpeg_markers
from meninx.imaging.image import Image

_DEPTH_BYTE = 24  # offset of the bit depth in a PNG file, after signature, chunk length, name, width, height
_RUNS = 3  # zlib's Z_RLE: on filtered photographs seven times as fast as the default, and smaller
_GREY = {"1": "L", "L": "L", "LA": "L", "I;16": "I;16", "I;16B": "I;16", "I": "I;16"}
_COLOUR = {"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"}


_WHITE_IS_ZERO, _PHOTOMETRIC = 0, 262  # of a TIFF file: value and tag of its photometric interpretation


class UnsupportedPicture(DataError):
    """A picture of an unsupported kind.

    Attributes:
        reason: the kind, in words that contain neither a value of the picture nor a name.
    """

    def __init__(self, reason: str, *, where: str, fix: str = "") -> None:
        super().__init__(problem(f"{reason} is not read", where=where, fix=fix))
        self.reason = reason


def read(path: Path) -> Image:
    """Return the pixels of a PNG, JPEG or TIFF file, channel-first, uint8 or (16 bit grey) uint16.

    Palettes become RGB. The affine is the identity, because these formats have no reliable spacing.

    Raises:
        DataError: no such file, not an image, larger than ``files.IMAGE_LIMIT`` or 178 million pixels,
            transparent pixels, a JPEG with too many scans, or 16 bit colour (which would lose its low bits).
        UnsupportedPicture: a TIFF file of several pages, of numbers other than 8 or 16 bits, or of 16 bits
            with white as 0.
    """
    if not path.is_file():
        raise DataError(problem("no such file: PNG, JPEG or TIFF image", where=path.name))
    content = files.read_bytes(path, limit=files.IMAGE_LIMIT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Pillow.open(io.BytesIO(content), formats=("PNG", "JPEG", "TIFF"))
            if picture.width * picture.height > files.PICTURE_PIXELS:
                raise Pillow.DecompressionBombError  # even if another library has removed Pillow's own limit
            if picture.format not in (
                "PNG",
                "TIFF",
            ):  # JPEG, or MPO, which is a JPEG followed by more pictures
                jpeg_markers.refuse_many_scans(content, where=path.name)
            if picture.format == "TIFF":
                _check_tiff(picture, path.name)
            picture.load()
    except DataError:
        raise
    except Exception as error:  # a broken file can make the decoders raise anything
        got = (
            "one of too many pixels" if isinstance(error, Pillow.DecompressionBombError) else "something else"
        )
        raise DataError(expected("a PNG, JPEG or TIFF file", got=got, where=path.name)) from error
    if picture.format == "PNG" and content[_DEPTH_BYTE] == 16 and picture.mode in _COLOUR | {"LA"}:
        fix = "store it as 8 bit colour or 16 bit grey"
        raise DataError(expected("8 bits per colour channel", got="16 bits", where=path.name, fix=fix))
    return Image(_channel_first(picture, path.name))


def write(path: Path, image: Image) -> None:
    """Write a 2-D image as PNG: uint8 (grey or RGB) or uint16 (grey), without any text chunk or time.

    Raises:
        DataError: the image is a volume, or its data type or channels cannot be kept exactly.
        StorageError: the disk refused.
    """
    files.write_bytes(path, encode(image, path.name))


def encode(image: Image, where: str = "image") -> bytes:
    """Return the PNG bytes of a 2-D image; the same image gives the same bytes.

    Raises:
        DataError: as :func:`write`.
    """
    array = image.array
    if image.spatial_dims != 2:
        raise DataError(expected("a 2-D image", got="a volume", where=where, fix="write volumes as .nii.gz"))
    if array.dtype not in (np.uint8, np.uint16):
        fix = "convert the values, or write .nii.gz"
        raise DataError(expected("uint8 or uint16 pixels", got=str(array.dtype), where=where, fix=fix))
    if image.channels not in (1, 3) or (image.channels == 3 and array.dtype != np.uint8):
        got = f"{image.channels} channels of {array.dtype}"
        raise DataError(expected("1 channel, or 3 channels of uint8", got=got, where=where))
    pixels = array[0] if image.channels == 1 else np.moveaxis(array, 0, -1)
    stream = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(pixels.astype(array.dtype.newbyteorder("="), copy=False))).save(
        stream, "PNG", compress_level=1, compress_type=_RUNS
    )
    return stream.getvalue()


def _check_tiff(picture: ImageFile.ImageFile, where: str) -> None:
    """Refuse the kinds of TIFF whose pixels Pillow would lose or read wrongly."""
    with contextlib.suppress(EOFError):
        picture.seek(1)
        raise UnsupportedPicture("TIFF of several pages", where=where, fix="export one page per file")
    if picture.mode == "F":
        raise UnsupportedPicture("TIFF of floating-point numbers", where=where, fix="export 8 or 16 bits")
    if picture.mode == "I":
        raise UnsupportedPicture("TIFF of 32 bits", where=where, fix="export 8 or 16 bits")
    tags: Any = getattr(picture, "tag_v2", {})
    if picture.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise UnsupportedPicture("TIFF of 16 bits with white as 0", where=where, fix="export black as 0")


def _channel_first(picture: ImageFile.ImageFile, where: str) -> npt.NDArray[Any]:
    mode = picture.mode
    if mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            raise DataError(
                problem("some pixels are transparent", where=where, fix="flatten the image first")
            )
    if mode in _GREY:
        depth = np.uint16 if _GREY[mode] == "I;16" else np.uint8
        grey = picture if depth is np.uint16 else picture.convert("L")
        return np.asarray(grey).astype(depth)[None]
    if mode in _COLOUR:
        return np.ascontiguousarray(np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0))
    raise DataError(expected("grey or RGB pixels", got=f"mode {mode}", where=where))
