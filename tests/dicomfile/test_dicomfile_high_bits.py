from __future__ import annotations

import numpy as np
import pytest
from deid_samples import clean, image, images, one, save
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.dataelem import DataElement
from pydicom.dataset import FileMetaDataset

from meninx.dicomfile.high_bits import UnusedBits, unused_bits

PIXELS = np.arange(64, dtype="<u2")


def drawn(**changes):
    """Return an image with an overlay in bit 15 of its 12-bit pixels."""
    ds = image(**changes)
    pixels = PIXELS.copy()
    pixels[10:20] |= 0x8000
    ds.PixelData = pixels.tobytes()
    for number, vr, value in ((0x0010, "US", 8), (0x0011, "US", 8), (0x0100, "US", 16), (0x0102, "US", 15)):
        ds.add(DataElement(0x60000000 | number, vr, value))
    return ds


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"])
def test_an_overlay_in_unused_bits_is_cleared_counted_and_declared(tmp_path, syntax):
    save(drawn(), tmp_path / "in" / "a", syntax=syntax)
    result = clean(tmp_path)
    assert result.actions["PixelData"] == {"C": 1}
    new = one(tmp_path, drawn(), out="again", syntax=syntax)
    assert (new.pixel_array == PIXELS.reshape(8, 8)).all()
    assert "unused bits" in "".join(new.DeidentificationMethod)


def test_a_big_endian_overlay_is_cleared(tmp_path):
    ds = drawn()
    ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    new = one(tmp_path, ds, syntax="1.2.840.10008.1.2.2")
    assert (np.frombuffer(new.PixelData, ">u2") == PIXELS).all()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"PixelRepresentation": 1, "PixelData": np.arange(-32, 32, dtype="<i2").tobytes()},
        {"PixelPaddingValue": 0xF830, "PixelData": np.array([0xF830, 17] * 32, dtype="<u2").tobytes()},
        {"BitsStored": 16, "HighBit": 15, "PixelData": bytes(range(128))},
    ],
)
def test_pixels_without_stray_bits_stay_byte_for_byte(tmp_path, changes):
    ds = image(**changes)
    new = one(tmp_path, ds)
    assert new.PixelData == ds.PixelData
    assert "unused bits" not in "".join(new.DeidentificationMethod)
    assert images(tmp_path / "out")


def test_bits_below_a_left_aligned_value_are_unused():
    header = image(BitsStored=12, HighBit=15)
    bits = UnusedBits(size=2, little=True, low=4, stored=12, signed=False)
    assert header.HighBit == 15
    assert cleared(bits, b"\x01\x00") == b"\0\0"
    assert cleared(bits, b"\x17\xff\x05") == b"\x10\xff\x05"


def cleared(bits: UnusedBits, *windows: bytes) -> bytes:
    """Return pixels that come in pieces as they are written."""
    clearing = bits.clearing(windows)
    return b"".join(windows if clearing is None else map(clearing.cleared, windows))


@pytest.mark.parametrize("high", [12, 13, 15])
def test_values_of_which_readers_see_different_pictures_are_kept_out(tmp_path, high):
    save(drawn(HighBit=high), tmp_path / "in" / "a")
    for pixels in ("keep", "redact"):
        assert clean(tmp_path, out=pixels, pixels=pixels).quarantined == {"unused-bits": 1}


@pytest.mark.parametrize("high", [16, 99, 3])
def test_an_impossible_high_bit_hides_no_drawing(tmp_path, high):
    new = one(tmp_path, drawn(HighBit=high), pixels="keep")
    assert (np.frombuffer(new.PixelData, "<u2") == PIXELS).all()


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"])
@pytest.mark.parametrize(
    ("vr", "stored"),
    [("US", None), ("US", []), ("US", 0), ("US", 17), ("US", [16, 12]), ("US", [12, 12]), ("IS", "12")],
)
def test_a_header_that_does_not_say_which_bits_are_the_value_is_kept_out(tmp_path, syntax, vr, stored):
    ds = drawn()
    if syntax == "1.2.840.10008.1.2.5":
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        ds.compress(syntax, generate_instance_uid=False)
    del ds.BitsStored
    if stored is not None:
        ds.add_new(0x00280101, vr, stored)
    save(ds, tmp_path / "in" / "a", syntax=syntax)
    assert clean(tmp_path, pixels="keep").quarantined == {"pixel-size-missing": 1}


def test_pixels_of_8_bits_without_bits_stored_have_no_unused_ones(tmp_path):
    ds = image(BitsAllocated=8, BitsStored=None, HighBit=None, PixelData=bytes(range(64)))
    assert one(tmp_path, ds, pixels="keep").PixelData == ds.PixelData


@pytest.mark.parametrize("high", [[11, 15], [15, 11], "11"])
def test_a_high_bit_of_another_form_hides_no_drawing(tmp_path, high):
    ds = drawn(HighBit=None)
    ds.add_new(0x00280102, "IS" if isinstance(high, str) else "US", high)
    new = one(tmp_path, ds, pixels="keep")
    assert (np.frombuffer(new.PixelData, "<u2") == PIXELS).all()


def test_a_header_that_makes_no_sense_has_no_plan():
    assert unused_bits([], little=True) is None


@st.composite
def pictures(draw):
    """Return unused bits, and words whose unused bits are zero, extended, padding or anything."""
    size = draw(st.sampled_from([1, 2, 4]))
    stored = draw(st.integers(1, 8 * size - 1))
    low = draw(st.integers(0, min(8, 8 * size - stored)))
    signed = draw(st.booleans())
    every = st.integers(0, (1 << 8 * size) - 1)
    padding = tuple(draw(st.lists(every, max_size=2))) if size == 2 else ()
    bits = UnusedBits(size, draw(st.booleans()), low, stored, signed, padding)
    values = st.sampled_from(draw(st.lists(every, min_size=1, max_size=4))).map(lambda one: one & bits.value)
    above = sum(1 << bit for bit in range(low + stored, 8 * size))
    forms = [lambda value: value, lambda value: value | above, lambda value: value | bits.unused]
    forms += [lambda value, mark=mark: mark for mark in padding]
    chosen = draw(st.lists(st.sampled_from(forms), min_size=1, max_size=3))
    words = [draw(st.sampled_from(chosen))(draw(values)) for _ in range(draw(st.integers(1, 40)))]
    order = "<" if bits.little else ">"
    return bits, np.array(words, dtype=f"{order}u{size}")


@given(pictures(), st.integers(0, 40))
@example((UnusedBits(2, False, 0, 1, True, (3,)), np.array([65534, 1], ">u2")), 0)
@example((UnusedBits(2, False, 0, 1, True, (3,)), np.array([65534, 65535], ">u2")), 0)
@settings(max_examples=300)
def test_unused_bits_follow_from_the_stored_value_in_one_way_for_all_pixels(picture, cut):
    bits, old = picture
    content = old.tobytes()
    result = cleared(bits, content[: cut * bits.size], content[cut * bits.size :])
    new = np.frombuffer(result, old.dtype)
    values = old & bits.value
    assert ((new & bits.value) == values).all()
    assert cleared(bits, result) == result
    forms = {}
    for word, value in zip(new.tolist(), values.tolist(), strict=True):
        assert forms.setdefault(value, word) == word
    top = 1 << (bits.low + bits.stored - 1)
    above = sum(1 << bit for bit in range(bits.low + bits.stored, 8 * bits.size))
    ordinary = {value: word for value, word in forms.items() if word not in bits.padding}
    plain = all(word == value for value, word in ordinary.items())
    extended = all(word == (value | above if value & top else value) for value, word in ordinary.items())
    assert plain or (bits.signed and extended)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", ["PixelPaddingValue", "PixelPaddingRangeLimit"])
def test_a_drawing_that_equals_the_padding_value_without_an_overlay_is_cleared(tmp_path, signed, name):
    ds = image(Rows=16, Columns=16, PixelRepresentation=int(signed))
    drawing = np.random.default_rng(0).integers(0, 3, (16, 16)) == 0
    ds.PixelData = (drawing.astype("<u2") << 15).tobytes()
    setattr(ds, name, -32768 if signed else 32768)
    ds[name].VR = "SS" if signed else "US"
    new = one(tmp_path, ds, pixels="keep")
    assert not np.frombuffer(new.PixelData, "<u2").any()
    assert "unused bits" in str(new.DeidentificationMethod)


def test_a_drawing_in_the_sign_extension_is_cleared(tmp_path):
    drawing = np.random.default_rng(0).integers(0, 2, 64) == 0
    words = np.where(drawing, 0xF830, 0x0830).astype("<u2")  # -2000 in 12 bits, with and without a sign
    ds = image(PixelRepresentation=1, PixelData=words.tobytes())
    new = one(tmp_path, ds, pixels="keep")
    assert set(np.frombuffer(new.PixelData, "<u2").tolist()) == {0xF830}
    assert (new.pixel_array == -2000).all()


def test_a_round_field_of_padding_looks_the_same_though_a_pixel_has_its_stored_value(tmp_path):
    words = np.array([0xF830] * 40 + [17] * 23 + [0x0830], dtype="<u2")
    ds = image(PixelPaddingValue=0xF830, PixelData=words.tobytes())
    new = one(tmp_path, ds, pixels="keep")
    assert (np.frombuffer(new.PixelData, "<u2")[:63] == words[:63]).all()
    assert ((np.frombuffer(new.PixelData, "<u2") & 0xFFF) == (words & 0xFFF)).all()


@pytest.mark.parametrize("signed", [False, True])
def test_an_overlay_in_empty_pixels_is_no_padding(tmp_path, signed):
    ds = image()
    rows, columns = 16, 16
    drawn = np.random.default_rng(0).integers(0, 2, (rows, columns)).astype("<u2")
    ds.Rows, ds.Columns, ds.PixelRepresentation = rows, columns, int(signed)
    ds.PixelData = (drawn << 15).tobytes()
    ds.add_new(0x00280120, "SS" if signed else "US", -32768 if signed else 32768)
    for element, vr, value in ((0x10, "US", rows), (0x11, "US", columns), (0x40, "CS", "G"),
                               (0x50, "SS", [1, 1]), (0x100, "US", 16), (0x102, "US", 15)):  # fmt: skip
        ds.add_new(0x60000000 + element, vr, value)
    new = one(tmp_path, ds, pixels="keep")
    assert not np.frombuffer(new.PixelData, "<u2").any()
    assert "unused bits" in str(new.DeidentificationMethod)
