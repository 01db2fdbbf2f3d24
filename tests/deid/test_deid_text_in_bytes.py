from __future__ import annotations

import numpy as np
import pytest
from deid_samples import image, images, item, one
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataelem import DataElement
from pydicom.sequence import Sequence

from meninx.deid.text_in_bytes import holds_text, is_prose

TEXT = b"Quentinsson, Bob, call 617-555-0199 at once"


def arrays(seed):
    """Return (name, bytes) of arrays as they stand in images: samples, curves, indices, tables."""
    random = np.random.default_rng(seed)
    size = int(random.integers(16, 3_000))
    yield "bytes", random.integers(0, 256, size, dtype=np.uint8)
    yield "floats", random.normal(100, 30, size).astype("<f4")
    yield "doubles", random.normal(100, 30, size).astype("<f8")
    yield "curve", np.cumsum(random.normal(0, 20, size)).astype("<i2")
    yield "counts", random.integers(0, 4096, size).astype("<u2")
    yield "indices", random.integers(0, 100_000, size).astype("<u4")
    yield "ramp", (np.arange(size) * 257 % 65536).astype("<u2")
    yield "palette", (np.linspace(0, 255, 256).astype("<u2") * 257).astype("<u2")
    yield "constant", np.full(size, 0x6666, dtype="<u2")


@settings(max_examples=30)
@given(st.integers(0, 100_000))
def test_arrays_are_no_text(seed):
    for name, values in arrays(seed):
        assert not holds_text(values.tobytes()), name
        assert not is_prose(values.tobytes(), "OW"), name


@settings(max_examples=30)
@given(st.integers(0, 100_000), st.data())
def test_a_text_is_found_in_the_whole_array(seed, data):
    for name, values in arrays(seed):
        array = values.tobytes()[:50_000]
        at = data.draw(st.integers(0, len(array)))
        assert holds_text(array[:at] + TEXT + array[at:]), name


@pytest.mark.parametrize("text", [b"617-555-0199", b"7714553 ", b"QUENTINSSON ", b"MILLER", b"14.03.1952"])
def test_a_short_value_of_bytes_that_is_a_text_or_a_number_in_writing(text):
    assert is_prose(text, "OB")
    assert not is_prose(bytes([0, 1, 2, 3]) + text[:3], "OB")


def test_a_text_behind_the_first_kilobytes_of_a_table_goes(tmp_path):
    ramp = np.arange(8192, dtype="<u2").tobytes()
    lut = item(LUTDescriptor=[8192, 0, 16], ModalityLUTType="HU")
    lut.add(DataElement(0x00283006, "OW", ramp[:6000] + TEXT + b" " + ramp[6044:]))
    ds = image(ModalityLUTSequence=Sequence([lut]))
    ds.add(DataElement(0x00281201, "OW", b"617-555-0199"))
    one(tmp_path, ds)
    content = images(tmp_path / "out")[0].read_bytes()
    assert b"Quentinsson" not in content
    assert b"0199" not in content


def test_a_table_and_a_colour_profile_stay(tmp_path):
    ramp = np.arange(8192, dtype="<u2").tobytes()
    profile = (
        bytes(128)
        + b"desc"
        + bytes(8)
        + b"sRGB IEC61966-2.1, Copyright of a company of some kind"
        + bytes(900)
    )
    lut = item(LUTDescriptor=[8192, 0, 16], ModalityLUTType="HU")
    lut.add(DataElement(0x00283006, "OW", ramp))
    ds = image(ModalityLUTSequence=Sequence([lut]))
    ds.add(DataElement(0x00282000, "OB", profile))
    new = one(tmp_path, ds)
    assert new.ModalityLUTSequence[0].LUTData == ramp
    assert new.ICCProfile == profile
