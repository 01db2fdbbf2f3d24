from __future__ import annotations

import io
import json

import imagecodecs
import numpy as np
import pydicom
import pytest
from deid_samples import KEY, clean, image, images, one, save
from hypothesis import given, settings
from hypothesis import strategies as st
from pixel_samples import COLUMNS, ROWS, bytes_in
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from meninx.core import artifacts
from meninx.core.artifacts import DeidRecord
from meninx.deid import worker
from meninx.deid.deidentifier import Deidentifier
from meninx.dicomfile import compressed_bits, instance
from meninx.dicomfile.file_part import FilePart
from meninx.dicomfile.refusals import Refused
from meninx.imaging import decode

NATIVE_FRAGMENTS = "1.2.840.10008.1.2.1.98"
LOSSLESS = [RLELossless, JPEGLSLossless, JPEGLosslessSV1, JPEG2000Lossless, NATIVE_FRAGMENTS]
OTHERS = [HTJ2KLossless, JPEGLSNearLossless]  # no encoder: the result is native
EXPLICIT = "1.2.840.10008.1.2.1"
DRAWING = np.random.default_rng(0).integers(0, 2, (ROWS, COLUMNS))
PICTURE = np.arange(ROWS * COLUMNS, dtype="<u2").reshape(ROWS, COLUMNS)


def stream(words, syntax, precision=16, *, signed=False):
    """Return one compressed frame of words of 16 bits, of which the stream holds some."""
    samples = words.shape[2] if words.ndim == 3 else 1
    if syntax == NATIVE_FRAGMENTS:
        return words.tobytes()
    if syntax == JPEGLosslessSV1:
        return bytes(imagecodecs.jpeg8_encode(words, lossless=True, predictor=1, bitspersample=precision))
    if syntax == HTJ2KLossless:
        return bytes(imagecodecs.htj2k_encode(words.view("<i2") if signed else words, reversible=True))
    return bytes(
        get_encoder(UID(syntax)).encode(
            words.tobytes(), rows=ROWS, columns=COLUMNS, samples_per_pixel=samples, bits_allocated=16,
            bits_stored=precision, pixel_representation=int(signed), number_of_frames=1,
            photometric_interpretation="RGB" if samples == 3 else "MONOCHROME2", planar_configuration=0,
        )
    )  # fmt: skip


def dataset(streams, **changes):
    """Return an image of 12-bit pixels with these compressed frames."""
    ds = image(Rows=ROWS, Columns=COLUMNS, **changes)
    if len(streams) > 1:
        ds.NumberOfFrames = len(streams)
    ds.PixelData = encapsulate(streams)
    ds["PixelData"].is_undefined_length = True
    return ds


def read(ds, syntax):
    return instance.read(bytes_in(ds, syntax))


def cleared(original):
    """Return an instance whose unused bits were cleared, or the same one where there is nothing to clear."""
    bits = compressed_bits.of(original)
    clearing = bits.clearing()
    return original if clearing is None else bits.cleared(clearing)


def coded(new):
    """Return all bits of the first frame that a decoder gives, (rows, columns)."""
    value = bytes(new.pixels[0].value)
    if new.transfer_syntax in (EXPLICIT, NATIVE_FRAGMENTS):
        content = (
            value if new.transfer_syntax == EXPLICIT else next(generate_frames(value, number_of_frames=1))
        )
        return np.frombuffer(content, "<u2").reshape(ROWS, COLUMNS, -1)
    number = {element.tag: int.from_bytes(bytes(element.value)[:2], "little") for element in new.elements}
    ds = dataset([bytes(next(generate_frames(value, number_of_frames=1)))])
    ds.BitsStored, ds.PixelRepresentation = number[0x00280101], number[0x00280103]
    ds.SamplesPerPixel = number[0x00280002]
    if ds.SamplesPerPixel == 3:
        ds.PlanarConfiguration, ds.PhotometricInterpretation = 0, "RGB"
    ds = pydicom.dcmread(io.BytesIO(bytes_in(ds, new.transfer_syntax)))
    words, _ = decode.stored_values(ds, masked=False)
    return words.astype(f"{words.dtype.kind}2").view("<u2").reshape(ROWS, COLUMNS, -1)


@st.composite
def frames_with_bits(draw):
    """Return a syntax, bits stored, a sign, padding, and words whose unused bits are anything."""
    syntax = draw(st.sampled_from(LOSSLESS + OTHERS))
    stored, signed = draw(st.integers(2, 15)), draw(st.booleans())
    every = st.integers(0, 0xFFFF)
    value = (1 << stored) - 1
    values = [one & value for one in draw(st.lists(every, min_size=1, max_size=4))]
    padding = draw(st.none() | every)
    forms = [
        lambda one: one,
        lambda one: one | (0xFFFF ^ value) * (one >> (stored - 1)),
        lambda one: one | 0x8000,
    ]
    chosen = draw(st.lists(st.sampled_from(forms), min_size=1, max_size=2))
    words = [form(one) for form in chosen for one in values] + ([] if padding is None else [padding])
    places = np.random.default_rng(draw(st.integers(0, 99))).integers(0, len(words), (ROWS, COLUMNS))
    return syntax, stored, signed, padding, np.array(words, dtype="<u2")[places]


@given(frames_with_bits())
@settings(max_examples=80, deadline=None)
def test_unused_bits_of_compressed_pixels_follow_from_the_stored_value(drawn):
    syntax, stored, signed, padding, words = drawn
    changes = {"PixelRepresentation": int(signed), "BitsStored": stored, "HighBit": stored - 1}
    ds = dataset([stream(words, syntax, signed=signed)], **changes)
    if padding is not None:
        ds.add_new(0x00280120, "US", padding)
    original = read(ds, syntax)
    assert (coded(original)[:, :, 0] == words).all()
    new = cleared(original)
    assert new.transfer_syntax == (syntax if new is original or syntax in LOSSLESS else EXPLICIT)
    after, values = coded(new)[:, :, 0], words & ((1 << stored) - 1)
    assert (after & ((1 << stored) - 1) == values).all()
    pairs = np.unique(np.stack([values.ravel(), after.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == pairs.shape[1]  # each value has one form
    if new.transfer_syntax != EXPLICIT:
        assert cleared(new) is new


@pytest.mark.parametrize("syntax", LOSSLESS + OTHERS)
@pytest.mark.parametrize("signed", [False, True])
def test_a_drawing_in_unused_bits_of_a_compressed_frame_is_cleared_counted_and_declared(
    tmp_path, syntax, signed
):
    words = PICTURE | (DRAWING << 15).astype("<u2")
    ds = dataset([stream(words, syntax, signed=signed)], PixelRepresentation=int(signed))
    save(ds, tmp_path / "in" / "a", syntax=syntax)
    assert clean(tmp_path, pixels="keep").actions["PixelData"] == {"C": 1}
    record = artifacts.read(tmp_path / "out", DeidRecord)
    assert record.pixels_recoded == (syntax in OTHERS)  # though nothing was searched
    line = json.loads((tmp_path / "out" / "audit.jsonl").read_text().splitlines()[-1])
    assert line["recoded"] == (syntax in OTHERS)
    new = one(tmp_path, ds, out="again", syntax=syntax, pixels="keep")
    assert new.file_meta.TransferSyntaxUID == (syntax if syntax in LOSSLESS else EXPLICIT)
    assert "unused bits" in str(new.DeidentificationMethod)
    after = coded(instance.read(io.BytesIO(bytes_of(new)).getvalue()))[:, :, 0]
    assert not (after & 0xF000).any()
    assert (after == PICTURE).all()


def bytes_of(ds):
    stream_of = io.BytesIO()
    ds.save_as(stream_of)
    return stream_of.getvalue()


def test_lossless_jpeg_holds_bits_above_the_precision_that_it_states(tmp_path):
    frame = stream(PICTURE | (DRAWING << 15).astype("<u2"), JPEGLosslessSV1, 12)
    assert compressed_bits.precision(frame) == compressed_bits.Precision(12, 16)
    original = read(dataset([frame]), JPEGLosslessSV1)
    assert (coded(original)[:, :, 0] >> 15 == DRAWING).all()
    assert (coded(cleared(original))[:, :, 0] == PICTURE).all()


@pytest.mark.parametrize("syntax", LOSSLESS + OTHERS)
@pytest.mark.parametrize("kind", ["zeros", "sign", "padding"])
def test_frames_without_stray_bits_keep_their_bytes(tmp_path, syntax, kind):
    words, changes = PICTURE.copy(), {}
    if kind == "sign":
        words, changes = (PICTURE.astype("<i2") - 900).view("<u2"), {"PixelRepresentation": 1}
    if kind == "padding":
        words[:9], words[9:], changes = 0xF830, words[9:] % 2000, {"PixelPaddingValue": 0xF830}
    ds = dataset([stream(words, syntax, signed=kind == "sign")], **changes)
    new = one(tmp_path, ds, syntax=syntax, pixels="keep")
    frame = next(generate_frames(new.PixelData, number_of_frames=1))
    assert frame == next(generate_frames(bytes(read(ds, syntax).pixels[0].value), number_of_frames=1))
    assert "unused bits" not in str(new.DeidentificationMethod)


@pytest.mark.parametrize("precision", [13, 14])
def test_a_sign_that_fills_a_precision_between_stored_and_allocated_is_no_drawing(precision):
    words = (PICTURE.astype("<i2") - 900).view("<u2") & ((1 << precision) - 1)
    original = read(
        dataset([stream(words, JPEGLSLossless, precision)], PixelRepresentation=1), JPEGLSLossless
    )
    assert cleared(original) is original
    drawn = words ^ (DRAWING << 12).astype("<u2")
    original = read(
        dataset([stream(drawn, JPEGLSLossless, precision)], PixelRepresentation=1), JPEGLSLossless
    )
    assert (coded(cleared(original))[:, :, 0] == words & 0xFFF).all()


def test_frames_of_the_stored_precision_are_not_decoded(monkeypatch):
    original = read(dataset([stream(PICTURE, JPEGLSLossless, 12)]), JPEGLSLossless)
    monkeypatch.setattr(compressed_bits.frames, "decoded", None)
    assert cleared(original) is original


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_only_frames_with_stray_bits_are_written_again_in_memory_and_in_a_file(tmp_path, syntax):
    drawn = PICTURE | (DRAWING << 15).astype("<u2")
    streams = [stream(words, syntax) for words in (PICTURE, drawn, PICTURE + 1)]
    content = bytes_in(dataset(streams), syntax)
    new, large = cleared(instance.read(content)), instance.read(content)
    [element] = large.pixels
    (tmp_path / "large").write_bytes(element.value)
    with (tmp_path / "large").open("rb") as opened:
        element.value = FilePart(opened, 0, len(element.value))
        same = cleared(large).pixels[0].value
        assert isinstance(same, FilePart)
        assert bytes(same) == bytes(new.pixels[0].value)
    after = list(generate_frames(bytes(new.pixels[0].value), number_of_frames=3))
    kept = list(generate_frames(bytes(instance.read(content).pixels[0].value), number_of_frames=3))
    assert [frame == old for frame, old in zip(after, kept, strict=True)] == [True, False, True]
    assert cleared(new) is new


def test_a_drawing_in_a_large_compressed_file_is_cleared_as_in_memory(tmp_path):
    noise = np.random.default_rng(0).integers(0, 4096, (2, 1024, 1024)).astype("<u2")
    drawn = noise | np.random.default_rng(1).integers(0, 2, noise.shape).astype("<u2") << 15
    frames = [
        get_encoder(JPEGLSLossless).encode(
            one_frame.tobytes(), rows=1024, columns=1024, samples_per_pixel=1, bits_allocated=16,
            bits_stored=16, pixel_representation=0, number_of_frames=1,
            photometric_interpretation="MONOCHROME2",
        )
        for one_frame in drawn
    ]  # fmt: skip
    ds = dataset(frames)
    ds.Rows = ds.Columns = 1024
    path = save(ds, tmp_path / "in" / "a", syntax=JPEGLSLossless)
    assert path.stat().st_size > worker._LARGE
    assert clean(tmp_path).actions["PixelData"] == {"C": 1}
    [written] = images(tmp_path / "out")
    assert written.read_bytes() == Deidentifier(key=KEY, site="north").deidentify(path.read_bytes()).content
    assert (pydicom.dcmread(written).pixel_array == noise).all()


def test_unused_bits_of_colours_are_cleared():
    words = (
        np.stack([PICTURE, PICTURE // 2, PICTURE // 3], axis=2) | (DRAWING << 13).astype("<u2")[:, :, None]
    )
    ds = dataset(
        [stream(words, RLELossless)],
        SamplesPerPixel=3,
        PlanarConfiguration=0,
        PhotometricInterpretation="RGB",
    )
    assert (coded(cleared(read(ds, RLELossless))) == words & 0xFFF).all()


def test_bits_below_a_left_aligned_value_are_unused():
    words = PICTURE << 4 | DRAWING.astype("<u2")
    for syntax in (RLELossless, JPEGLSLossless):
        original = read(dataset([stream(words, syntax)], HighBit=15), syntax)
        assert (coded(cleared(original))[:, :, 0] == PICTURE << 4).all()


def test_frames_whose_bits_cannot_be_examined_are_kept_out(tmp_path):
    whole = stream(PICTURE, JPEGLSLossless)
    ds = dataset([whole[: len(whole) // 2] + b"\xff\xd9"])
    save(ds, tmp_path / "in" / "a", syntax=JPEGLSLossless)
    assert clean(tmp_path, pixels="keep").quarantined == {"unused-bits": 1}


def test_a_stream_without_a_precision_is_refused():
    for content in (b"", b"\xff\xd8\xff\xda\0\2", b"\xff\x4f\xff\x50" + bytes(60), b"\xff\x4f\xff\x51\0\x29"):
        with pytest.raises(Refused, match="unused-bits"):
            compressed_bits.precision(content)
