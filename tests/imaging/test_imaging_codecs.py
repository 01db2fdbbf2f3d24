"""Compressed pixels: one fixed decoder for each transfer syntax, whatever else is installed."""

from __future__ import annotations

import tempfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import dicoms
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1

from meninx.core.errors import DataError
from meninx.imaging import decode

gdcm = pytest.importorskip("gdcm")
GREY = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)


def _lossless(pixels: np.ndarray, bits: int, folder: Path) -> bytes:
    """Return a stream of JPEG lossless, process 14, selection value 1, as GDCM encodes it."""
    plain, packed = dicoms.write(folder / "plain.dcm", dicoms.image(pixels, bits=bits)), folder / "packed.dcm"
    reader = gdcm.ImageReader()
    reader.SetFileName(str(plain))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(packed))
    assert writer.Write()
    return next(generate_frames(pydicom.dcmread(packed).PixelData, number_of_frames=1))


def _dataset(pixels: np.ndarray, stream: bytes, syntax: str, bits: int) -> Dataset:
    dataset = dicoms.image(pixels, bits=bits)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLossless])
@given(data=st.data())
def test_lossless_jpeg_comes_back_bit_for_bit(syntax, data):
    bits = data.draw(st.sampled_from([8, 12, 16]))
    kind = np.uint8 if bits == 8 else np.uint16
    values = arrays.arrays(
        kind, st.tuples(st.integers(8, 24), st.integers(4, 12).map(lambda half: 2 * half)), elements=st.integers(0, 2**bits - 1)
    )
    pixels = data.draw(values)
    with tempfile.TemporaryDirectory() as folder:
        stream = _lossless(pixels, bits, Path(folder))
    dataset = _dataset(pixels, stream, syntax, bits)
    np.testing.assert_array_equal(decode.pixels_of(dataset), pixels)


def test_without_a_decoder_the_error_names_the_package(monkeypatch):
    dataset = _dataset(GREY, b"\xff\xd8", JPEGLosslessSV1, 8)
    monkeypatch.setattr(decode, "pixel_array", _fails)
    monkeypatch.setattr(decode, "version", _missing)
    with pytest.raises(DataError, match=r"JPEG Lossless.*without a decoder.*install python-gdcm"):
        decode.pixels_of(dataset)


def test_lossy_jpeg_of_12_bits_needs_the_extra_and_says_so(monkeypatch):
    dataset = _dataset(GREY.astype(np.uint16), b"\xff\xd8\xff\xd9", JPEGExtended12Bit, 12)
    monkeypatch.setattr(decode, "version", _missing)
    with pytest.raises(DataError, match=r"install meninx\[gpl-codecs\].*under the GPL"):
        decode.pixels_of(dataset)


def test_the_decoder_is_fixed_for_each_syntax(monkeypatch):
    """A package that happens to be installed must not change the pixels of lossy JPEG."""
    asked = []

    def remembered(dataset: Dataset, decoding_plugin: str) -> np.ndarray:
        asked.append(decoding_plugin)
        return GREY

    monkeypatch.setattr(decode, "pixel_array", remembered)
    for syntax in (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1):
        decode.pixels_of(_dataset(GREY, b"\xff\xd8", syntax, 8))
    assert asked == ["pillow", "pillow", "gdcm", "gdcm"]


def _fails(dataset: Dataset, decoding_plugin: str) -> None:
    raise RuntimeError(decoding_plugin)


def _missing(package: str) -> str:
    raise PackageNotFoundError(package)
