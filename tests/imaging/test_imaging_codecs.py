"""Compressed pixels: one fixed decoder for each transfer syntax, and damage that stays an error."""

from __future__ import annotations

import contextlib
import io
from importlib.metadata import PackageNotFoundError

import dicoms
import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image as Pillow
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1

from meninx.core.errors import DataError
from meninx.imaging import decode, jpeg_markers

GREY = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)
COLOUR = np.random.default_rng(0).integers(0, 256, (16, 24, 3)).astype(np.uint8)


def _dataset(
    pixels: np.ndarray, stream: bytes, syntax: str, *, bits: int = 8, photometric: str = ""
) -> Dataset:
    dataset = dicoms.image(pixels, photometric or "MONOCHROME2", bits=bits)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


def _lossless(pixels: np.ndarray, bits: int, predictor: int = 1) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=predictor, bitspersample=bits))


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLossless])
@given(data=st.data())
def test_lossless_jpeg_comes_back_bit_for_bit(syntax, data):
    bits = data.draw(st.sampled_from([8, 10, 12, 16]))
    predictor = 1 if syntax == JPEGLosslessSV1 else data.draw(st.integers(1, 7))
    values = arrays.arrays(
        np.uint8 if bits == 8 else np.uint16,
        st.tuples(st.integers(2, 24), st.integers(2, 24)),
        elements=st.integers(0, 2**bits - 1),
    )
    pixels = data.draw(values)
    dataset = _dataset(pixels, _lossless(pixels, bits, predictor), syntax, bits=bits)
    np.testing.assert_array_equal(decode.pixels_of(dataset), pixels)


def test_lossless_colour_comes_back_bit_for_bit():
    stream = bytes(imagecodecs.jpeg8_encode(COLOUR, lossless=True, colorspace="RGB", outcolorspace="RGB"))
    found = decode.pixels_of(_dataset(COLOUR, stream, JPEGLosslessSV1, photometric="RGB"))
    np.testing.assert_array_equal(found, COLOUR)


def test_lossy_jpeg_of_12_bits_is_read():
    pixels = (GREY.astype(np.uint16) << 4).clip(0, 4095)
    stream = bytes(imagecodecs.jpeg8_encode(pixels, 95, bitspersample=12))
    found = decode.pixels_of(_dataset(pixels, stream, JPEGExtended12Bit, bits=12))
    assert found.dtype == np.uint16
    assert np.abs(found.astype(int) - pixels).max() <= 64


def test_ybr_becomes_rgb():
    smooth = np.stack([GREY, GREY[::-1], GREY.T], axis=-1)
    stream = bytes(imagecodecs.jpeg8_encode(smooth, 98, subsampling="444"))
    found = decode.pixels_of(_dataset(smooth, stream, JPEGBaseline8Bit, photometric="YBR_FULL"))
    assert np.abs(found.astype(int) - smooth).max() <= 12


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_damaged_stream_is_an_error_and_nothing_worse(bits):
    """Other decoders of lossless JPEG end the process on streams such as these."""
    rng = np.random.default_rng(bits)
    kind = np.uint8 if bits == 8 else np.uint16
    pixels = rng.integers(0, 2**bits, (24, 30)).astype(kind)
    whole, read = _lossless(pixels, bits), 0
    for _ in range(150):
        stream = bytearray(whole)
        for _ in range(rng.choice([1, 2, 8])):
            stream[rng.integers(2, rng.choice([60, len(stream)]))] = rng.integers(256)
        cut = bytes(stream[: rng.integers(4, len(stream))]) if rng.random() < 0.2 else bytes(stream)
        with contextlib.suppress(DataError):
            read += decode.pixels_of(_dataset(pixels, cut, JPEGLosslessSV1, bits=bits)).shape == pixels.shape
    assert read  # damage of the coded data alone goes unnoticed: JPEG has no checksum


def test_a_stream_of_another_size_than_the_header_says_is_refused_before_decoding(monkeypatch):
    stream = bytearray(_lossless(GREY, 8))
    at = stream.index(b"\xff\xc3")
    stream[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    monkeypatch.setattr(imagecodecs, "jpeg8_decode", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="JPEG Lossless"):
        decode.pixels_of(_dataset(GREY, bytes(stream), JPEGLosslessSV1))


@pytest.mark.parametrize(
    "stream", [b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xc3\x00", b"\xff\xd8\xff\xda\x00\x08"]
)
def test_a_stream_without_a_frame_has_no_size(stream):
    with pytest.raises(ValueError, match="without a header"):
        jpeg_markers.frame_header(stream)


@pytest.mark.parametrize(
    ("syntax", "options"),
    [
        (JPEGBaseline8Bit, {"progressive": True}),
        (JPEGBaseline8Bit, {"lossless": True}),
        (JPEGExtended12Bit, {"progressive": True}),
        (JPEGLosslessSV1, {}),
    ],
)
def test_a_stream_of_another_kind_than_the_syntax_is_refused_before_decoding(monkeypatch, syntax, options):
    """A progressive stream of a few hundred kB can keep the decoder busy for minutes."""
    monkeypatch.setattr(imagecodecs, "jpeg8_decode", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match=r"JPEG"):
        decode.pixels_of(_dataset(GREY, _stream(**options), syntax))


def test_the_scans_of_a_frame_are_counted_before_decoding(monkeypatch):
    stream = _stream()
    scan = stream[stream.index(b"\xff\xda") : -2]
    monkeypatch.setattr(imagecodecs, "jpeg8_decode", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="JPEG"):
        decode.pixels_of(_dataset(GREY, stream[:-2] + scan * 64 + b"\xff\xd9", JPEGBaseline8Bit))


def _stream(*, progressive: bool = False, lossless: bool = False) -> bytes:
    if lossless:
        return _lossless(GREY, 8)
    stream = io.BytesIO()
    Pillow.fromarray(GREY).save(stream, "JPEG", progressive=progressive)
    return stream.getvalue()


def test_without_the_package_the_error_names_it(monkeypatch):
    monkeypatch.setattr(decode, "pixel_array", _fails)
    monkeypatch.setattr(decode, "version", _missing)
    with pytest.raises(DataError, match=r"JPEG Lossless.*without a decoder.*install imagecodecs"):
        decode.pixels_of(_dataset(GREY, b"\xff\xd8", JPEGLosslessSV1))
    assert decode.codecs()["JPEGLosslessSV1"] == "no: install imagecodecs"


def test_the_decoder_is_fixed_for_each_syntax(monkeypatch):
    """A package that happens to be installed must not change the pixels of lossy JPEG."""
    asked = []

    def remembered(dataset: Dataset, decoding_plugin: str) -> np.ndarray:
        asked.append(decoding_plugin)
        return GREY

    monkeypatch.setattr(decode, "pixel_array", remembered)
    for syntax in (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1):
        decode.pixels_of(_dataset(GREY, b"\xff\xd8", syntax))
    assert asked == ["libjpeg-turbo"] * 4


def _fails(dataset: Dataset, decoding_plugin: str) -> None:
    raise RuntimeError(decoding_plugin)


def _missing(package: str) -> str:
    raise PackageNotFoundError(package)
