"""Files of the wild that other programs read, and the true reason where this one does not."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pydicom
import pytest
from deid_samples import PLANTED, clean, image, images, leaks, save
from pydicom.uid import ExplicitVRBigEndian, JPEGBaseline8Bit
from test_dicomfile_pixels import grey8, jpeg_frame

from meninx.dicomfile import elements, instance
from meninx.dicomfile.refusals import Refused

DELIMITER = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


def written(folder: Path, content: bytes) -> pydicom.FileDataset:
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / "a").write_bytes(content)
    result = clean(folder)
    assert result.files_written == 1, result.quarantined
    assert not leaks(folder / "out", (*PLANTED, "Rosalind"))
    return pydicom.dcmread(images(folder / "out")[0])


def reason(content: bytes) -> str:
    try:
        instance.read(content)
    except Refused as refusal:
        return str(refusal)
    return ""


def test_a_stray_delimiter_behind_the_last_element_is_passed_over(tmp_path):
    content = save(image(), tmp_path / "a").read_bytes()
    assert written(tmp_path, content + DELIMITER).PixelData == image().PixelData


@pytest.mark.parametrize("length", [22, 0xFFFFFFFF])
def test_items_outside_a_sequence_are_not_copied(tmp_path, length):
    content = save(image(), tmp_path / "a").read_bytes()
    element = struct.pack("<HH2sH", 0x0010, 0x0010, b"PN", 14) + b"Rosalind^Anna "
    end = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) if length > 22 else b""
    stray = struct.pack("<HHL", 0xFFFE, 0xE000, length) + element + end
    at = content.index(b"\x28\0\x02\0US")
    assert written(tmp_path, content[:at] + stray + content[at:]).Rows == 8


def test_implicit_vr_under_an_explicit_syntax_is_read_and_written_as_it_should_be(tmp_path):
    ds = grey8([jpeg_frame()], SmallestImagePixelValue=3)
    explicit = save(ds, tmp_path / "a", syntax=JPEGBaseline8Bit).read_bytes()
    parsed = instance.read(explicit)
    start = explicit.index(b"\x08\0\x05\0CS")
    implicit = elements.encode(parsed.elements, elements.Encoding(implicit=True, little=True))
    new = written(tmp_path, explicit[:start] + implicit)
    assert new.SmallestImagePixelValue == 3
    assert new.pixel_array.shape == (16, 16)


def test_dicom_without_a_class_is_not_called_something_else(tmp_path):
    content = save(
        image(SOPClassUID=None, SOPInstanceUID=None, StudyInstanceUID=None, SeriesInstanceUID=None),
        tmp_path / "a",
    )
    assert reason(content.read_bytes()) == "missing-identity"
    assert reason(b"\x08\0\x05\0CS\x02\0ab") == "not-dicom"
    bare = save(image(PixelData=image().PixelData), tmp_path / "b", syntax=ExplicitVRBigEndian).read_bytes()
    assert reason(bare[bare.index(b"\0\x08\0\x05CS") :]) == ""


def test_a_header_cannot_take_the_memory_of_a_worker(tmp_path, monkeypatch):
    monkeypatch.setattr(elements, "MOST_ELEMENTS", 500)
    many = b"".join(struct.pack("<HH2sH", 0x0009, 0x1000 + n % 256, b"LO", 0) for n in range(600))
    content = save(image(), tmp_path / "a").read_bytes()
    at = content.index(b"\x10\0\x10\0PN")
    assert reason(content[:at] + many + content[at:]) == "too-large"
    monkeypatch.setattr(instance, "MOST_HEADER", 300)
    assert reason(content) == "too-large"


def test_long_texts_take_no_quadratic_time(tmp_path):
    ds = image(ImageComments="a" * 10_000, SliceThickness=None)
    ds.add_new("TextValue", "UT", "b." * 400_000)
    content = save(ds, tmp_path / "in" / "a").read_bytes()
    place = content.index(b"\x18\0\x60\0DS")
    digits = struct.pack("<HH2sH", 0x0018, 0x0050, b"DS", 60_000) + b"1" * 59_999 + b"x"
    (tmp_path / "in" / "a").write_bytes(content[:place] + digits + content[place:])
    begun = time.monotonic()
    assert clean(tmp_path).files_read == 1
    assert time.monotonic() - begun < 5
