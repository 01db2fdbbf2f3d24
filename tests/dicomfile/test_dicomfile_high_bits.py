from __future__ import annotations

import numpy as np
import pytest
from deid_samples import clean, image, images, one, save
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import DataElement

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
    assert bits.used_in(b"\x01\x00")
    assert bits.cleared(b"\x17\xff\x05") == b"\x10\xff\x05"


def test_a_header_that_makes_no_sense_has_no_plan():
    assert unused_bits([], little=True) is None


@given(
    values=st.lists(st.integers(0, 65535), min_size=1, max_size=40),
    stored=st.integers(1, 15),
    low=st.integers(0, 8),
    signed=st.booleans(),
)
def test_values_stay_and_nothing_is_left_in_unused_bits(values, stored, low, signed):
    low = min(low, 16 - stored)
    bits = UnusedBits(size=2, little=True, low=low, stored=stored, signed=signed)
    old = np.array(values, dtype="<u2")
    cleared = bits.cleared(old.tobytes())
    new = np.frombuffer(cleared, "<u2")
    mask = ((1 << stored) - 1) << low
    assert not bits.used_in(cleared)
    assert (new & mask == old & mask).all()
    assert bits.cleared(cleared) == cleared


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
