"""JPEG frames in DICOM by libjpeg-turbo: baseline, extended with 8 or 12 bits, lossless up to 16 bits.

This is a plug-in of pydicom, which :mod:`meninx.imaging.decode` registers. For lossless JPEG pydicom itself
offers pylibjpeg-libjpeg, which is under the GPL, and GDCM, which ends the process on many damaged streams.
"""

from __future__ import annotations

import struct
from importlib.util import find_spec

import pydicom.uid
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.pixels.decoders.base import DecodeRunner

NAME = "libjpeg-turbo"
PACKAGE = "imagecodecs"
DECODER_DEPENDENCIES = {
    pydicom.uid.JPEGBaseline8Bit: (PACKAGE,),
    pydicom.uid.JPEGExtended12Bit: (PACKAGE,),
    pydicom.uid.JPEGLossless: (PACKAGE,),
    pydicom.uid.JPEGLosslessSV1: (PACKAGE,),
}
"""Transfer syntax -> package; pydicom reads it."""

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # 0xC4, 0xC8 and 0xCC mean something else
_SCAN, _END = 0xDA, 0xD9
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length


def is_available(uid: str) -> bool:
    """Return whether frames of a transfer syntax can be decoded here; pydicom calls it."""
    return uid in DECODER_DEPENDENCIES and find_spec(PACKAGE) is not None


def frame_size(stream: bytes) -> tuple[int, int, int, int]:
    """Return bits, rows, columns and components that the header of a JPEG stream states.

    Raises:
        ValueError: there is no header of a frame before the coded data.
    """
    at = 2
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            break
        marker = stream[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _ALONE:
            at += 2
            continue
        if marker in (_SCAN, _END):
            break
        if marker in _START_OF_FRAME and at + 10 <= len(stream):
            bits, rows, columns, components = struct.unpack_from(">BHHB", stream, at + 4)
            return bits, rows, columns, components
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    raise ValueError("a JPEG stream without a header of a frame")


def _decode_frame(stream: bytes, runner: DecodeRunner) -> bytes:
    """Return the pixels of one frame in native byte order, color by pixel; pydicom calls it.

    Raises:
        ValueError: the stream is damaged, or of another size than the data set says; the size is compared
            first, so that a forged header makes nothing large.
    """
    import imagecodecs

    bits, rows, columns, components = frame_size(stream)
    if (rows, columns, components) != (runner.rows, runner.columns, runner.samples_per_pixel):
        raise ValueError("the JPEG stream is of another size than the data set says")
    space = None
    if components == 3:
        # The stream keeps its colour space, and pydicom converts what the data set calls YBR.
        is_rgb = runner.photometric_interpretation == PhotometricInterpretation.RGB
        space = "RGB" if is_rgb else "YCBCR"
    pixels = imagecodecs.jpeg8_decode(stream, colorspace=space, outcolorspace=space)
    runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 if bits <= 8 else 16)
    return bytes(pixels.tobytes())
