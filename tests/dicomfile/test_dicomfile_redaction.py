"""Boxes are filled in stored values, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pixel_samples import bytes_in, coloured, compressed
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from meninx.dicomfile import frames, instance, redaction
from meninx.imaging.ocr import Box

BOXES = (Box(4, 2, 14, 8), Box(20, 10, 24, 16))
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
LOSSLESS = (RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1)


def shown(original: instance.Instance) -> np.ndarray:
    return np.stack(list(frames.all_shown(original, frames.layers_of(original))))


def check(data: bytes, *, recoded: bool = False) -> instance.Instance:
    """Redact and compare: the same values outside the boxes, one value inside each."""
    original = instance.read(data)
    before = shown(original)
    result = redaction.apply(original, BOXES)
    after = shown(result.instance)
    assert result.recoded is recoded
    assert result.instance.transfer_syntax == (
        ExplicitVRLittleEndian if recoded else original.transfer_syntax
    )
    outside = redaction.outside(before.shape[1:3], BOXES)
    assert np.array_equal(before[:, outside], after[:, outside])
    for box in BOXES:
        inside = after[:, box.top : box.bottom, box.left : box.right]
        assert all(len(np.unique(frame.reshape(-1, *frame.shape[2:]), axis=0)) == 1 for frame in inside)
    assert not np.array_equal(before, after)
    assert np.array_equal(shown(original), before)  # the original is left alone
    return result.instance


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize(
    "kind", ["grey 8", "grey 16", "signed", "inverted", "RGB", "planes", "palette", "clip"]
)
def test_native_values_outside_the_boxes_stay_bit_for_bit(syntax, kind):
    check(bytes_in(coloured(kind), syntax))


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize("kind", ["grey 8", "grey 16", "RGB", "clip", "palette"])
def test_lossless_syntaxes_are_written_back_in_the_same_syntax(syntax, kind):
    result = check(compressed(coloured(kind), syntax))
    [element] = result.pixels
    assert element.undefined


@pytest.mark.parametrize("kind", ["signed", "YBR_FULL"])
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_signed_values_and_declared_colour_spaces_stay(syntax, kind):
    if kind == "YBR_FULL" and syntax == JPEG2000Lossless:
        pytest.skip("a codestream has its own colour transform")
    check(compressed(coloured(kind), syntax))


@pytest.mark.parametrize("kind", ["grey 8", "YBR_FULL_422"])
def test_lossy_frames_become_native_and_say_so(kind):
    ds = coloured("RGB" if kind != "grey 8" else kind)
    import imagecodecs

    values = ds.pixel_array
    stream = imagecodecs.jpeg8_encode(values, level=85, subsampling="422" if values.ndim == 3 else None)
    ds.PixelData = encapsulate([stream])
    if values.ndim == 3:
        ds.PhotometricInterpretation = "YBR_FULL_422"
    result = check(bytes_in(ds, JPEGBaseline8Bit), recoded=True)
    layers = frames.layers_of(result)
    assert layers.photometric == ("RGB" if values.ndim == 3 else "MONOCHROME2")
    assert not layers.is_encapsulated


def test_every_frame_of_a_lossy_clip_is_filled():
    ds = coloured("grey 8")
    import imagecodecs

    values = ds.pixel_array
    clip = [np.roll(values, 3 * number, axis=1) for number in range(3)]
    ds.NumberOfFrames = len(clip)
    ds.PixelData = encapsulate([imagecodecs.jpeg8_encode(frame, level=95) for frame in clip])
    check(bytes_in(ds, JPEGBaseline8Bit), recoded=True)


def test_native_422_colour_is_filled_by_pairs():
    ds = coloured("RGB")
    rows, columns = ds.Rows, ds.Columns
    ds.PhotometricInterpretation = "YBR_FULL_422"
    ds.PixelData = (
        np.random.default_rng(0).integers(90, 160, (rows, columns // 2, 4), dtype=np.uint8).tobytes()
    )
    check(bytes_in(ds, ExplicitVRLittleEndian))


def test_images_of_one_bit_are_filled():
    ds = coloured("one bit")
    original = instance.read(bytes_in(ds, ExplicitVRLittleEndian))
    before = shown(original)
    after = shown(redaction.apply(original, BOXES).instance)
    outside = redaction.outside(before.shape[1:3], BOXES)
    assert np.array_equal(before[:, outside], after[:, outside])


@pytest.mark.parametrize("width", [24, 27])  # frames of one bit follow each other without padding
def test_every_frame_of_a_clip_of_one_bit_is_filled(width):
    ds = coloured("one bit")
    values = np.random.default_rng(3).integers(0, 2, (3, 20, width), dtype=np.uint8)
    ds.NumberOfFrames, ds.Rows, ds.Columns = values.shape
    packed = np.packbits(values.reshape(-1), bitorder="little").tobytes()
    ds.PixelData = packed + b"\0" * (len(packed) % 2)
    check(bytes_in(ds, ExplicitVRLittleEndian))


def test_the_fill_is_the_value_of_the_surroundings():
    values = np.full((20, 20), 7, dtype=np.uint16)
    values[5:10, 5:10] = 900
    redaction.fill(values, [Box(5, 5, 10, 10)])
    assert (values == 7).all()
    palette = np.array([[3, 3, 3, 200], [3, 9, 9, 200], [3, 9, 9, 200], [3, 3, 3, 200]], dtype=np.uint8)
    redaction.fill(palette, [Box(1, 1, 3, 3)], palette=True)
    assert palette[1, 1] in (3, 200)  # an index that occurs, never a mean of two
    everything = np.arange(6, dtype=np.uint8).reshape(2, 3)
    redaction.fill(everything, [Box(0, 0, 3, 2)])
    assert not everything.any()


def test_an_encoder_that_changes_a_value_is_not_trusted(monkeypatch):
    data = compressed(coloured("grey 16"), JPEGLSLossless)
    real = redaction.encoder(frames.layers_of(instance.read(data)))
    monkeypatch.setattr(redaction, "encoder", lambda layers: lambda values: real(values ^ 1))
    check(data, recoded=True)


boxes = st.tuples(st.integers(0, 30), st.integers(0, 20), st.integers(1, 12), st.integers(1, 9)).map(
    lambda t: Box(t[0], t[1], t[0] + t[2], t[1] + t[3])
)


@settings(max_examples=40, deadline=None)
@given(st.lists(boxes, min_size=1, max_size=4), st.sampled_from([1, 3]), st.integers(0, 3))
def test_filling_changes_nothing_outside_any_box(places, samples, seed):
    values = np.random.default_rng(seed).integers(0, 4096, (24, 36, samples), dtype=np.uint16)
    before = values.copy()
    redaction.fill(values, places)
    outside = redaction.outside((24, 36), places)
    assert np.array_equal(values[outside], before[outside])
    for box in places[-1:]:
        inside = values[box.top : box.bottom, box.left : box.right].reshape(-1, samples)
        assert len(np.unique(inside, axis=0)) <= 1
