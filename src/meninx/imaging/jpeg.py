"""JPEG frames in DICOM by libjpeg-turbo: baseline, extended with 8 or 12 bits, lossless up to 16 bits.

This is a plug-in of pydicom, registered by :mod:`meninx.imaging.decode`. For lossless JPEG pydicom itself
offers pylibjpeg-libjpeg, which is under the GPL, and GDCM, which crashes the process on many damaged streams.
"""

from __future__ import annotations

from importlib.util import find_spec

import pydicom.uid
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.pixels.decoders.base import DecodeRunner

from meninx.imaging import jpeg_markers

NAME = "libjpeg-turbo"
PACKAGE = "imagecodecs"
DECODER_DEPENDENCIES = {
    pydicom.uid.JPEGBaseline8Bit: (PACKAGE,),
    pydicom.uid.JPEGExtended12Bit: (PACKAGE,),
    pydicom.uid.JPEGLossless: (PACKAGE,),
    pydicom.uid.JPEGLosslessSV1: (PACKAGE,),
}
"""Transfer syntax -> package; pydicom reads it."""

_KINDS = {
    pydicom.uid.JPEGBaseline8Bit: (jpeg_markers.BASELINE,),
    pydicom.uid.JPEGExtended12Bit: (jpeg_markers.BASELINE, jpeg_markers.EXTENDED),
    pydicom.uid.JPEGLossless: (jpeg_markers.LOSSLESS,),
    pydicom.uid.JPEGLosslessSV1: (jpeg_markers.LOSSLESS,),
}
"""Transfer syntax -> kinds of frames; a progressive one belongs to none that DICOM still has."""


def is_available(uid: str) -> bool:
    """Return whether frames of a transfer syntax can be decoded here; pydicom calls it."""
    return uid in DECODER_DEPENDENCIES and find_spec(PACKAGE) is not None


def _decode_frame(stream: bytes, runner: DecodeRunner) -> bytes:
    """Return the pixels of one frame in native byte order, color by pixel; pydicom calls it.

    Raises:
        ValueError, DataError: the stream is damaged, of another kind than the transfer syntax, of another
            size than the data set says, or of many scans. These are compared first, so that a forged header
            costs neither memory nor time.
    """
    import imagecodecs

    header = jpeg_markers.frame_header(stream)
    if header.kind not in _KINDS[runner.transfer_syntax]:
        raise ValueError("the JPEG stream is of another kind than the transfer syntax says")
    size = header.rows, header.columns, header.components
    if size != (runner.rows, runner.columns, runner.samples_per_pixel):
        raise ValueError("the JPEG stream is of another size than the data set says")
    jpeg_markers.refuse_many_scans(stream, where="DICOM file")
    space = None
    if header.components == 3:
        # The decoder must not convert colours, because pydicom converts images that the data set declares as
        # YBR.
        is_rgb = runner.photometric_interpretation == PhotometricInterpretation.RGB
        space = "RGB" if is_rgb else "YCBCR"
    pixels = imagecodecs.jpeg8_decode(stream, colorspace=space, outcolorspace=space)
    runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 if header.bits <= 8 else 16)
    return bytes(pixels.tobytes())
