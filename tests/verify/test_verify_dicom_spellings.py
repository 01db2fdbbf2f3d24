"""Identifiers of a list in other spellings, and paths that are no UTF-8."""

from __future__ import annotations

import os

import pytest
from deid_samples import image, save

from meninx.core import plain
from meninx.deid.identifiers import Identifiers
from meninx.verify import dicom_stage, identifier_list
from meninx.verify.config import DicomCheckConfig
from meninx.verify.known_values import CERTAIN, CHANCE, KnownValues


def known(*values: tuple[str, str]) -> KnownValues:
    found = Identifiers()
    for kind, value in values:
        identifier_list.add(found, kind, value)
    return KnownValues(found)


LISTED = (("name", "Muellerova^Zdenka"), ("number", "5512347"), ("day", "1931-04-12"))


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        ("Müllerova", CERTAIN), ("xMu\u0308llerovax", CERTAIN), ("05512347", CERTAIN),
        ("ID 0005512347 x", CERTAIN),
        ("12 Apr 1931", CHANCE), ("April 12, 1931", CHANCE), ("1931 apr 12", CHANCE), ("12.4.31", CHANCE),
        ("4/12/1931", CHANCE), ("12.4.32", ""), ("1.12.4.31", ""), ("13 Apr 1931", ""), ("055123471", ""),
        ("Mullen", ""), ("12 slices 1931", ""),
    ],
)  # fmt: skip
def test_a_listed_identifier_is_found_in_its_usual_spellings(text, hit):
    assert known(*LISTED).hit(text) == hit


def test_a_list_with_an_umlaut_and_padded_numbers_is_found_spelled_out():
    there = known(("name", "Müllerova"), ("number", "05512347"))
    assert there.hit("MUELLEROVA,Z") == there.hit("no 5512347") == CERTAIN
    assert there.spelled_by("5512347")
    assert known(*LISTED).spelled_by("05512347")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8"])
def test_a_text_file_in_utf_16_is_read(encoding, tmp_path):
    (tmp_path / "in").mkdir()
    save(image(), tmp_path / "in" / "a.dcm")
    (tmp_path / "in" / "note.txt").write_bytes("Notes of Zdenka, ward".encode(encoding))
    listed = tmp_path / "ids.csv"
    listed.write_text("name\nMuellerova^Zdenka\n")
    result = dicom_stage.run(tmp_path / "in", DicomCheckConfig(identifiers=listed, workers=1))
    assert result.reasons["identifier-in-bytes"] == 1


def test_a_file_name_that_is_no_utf_8_stops_neither_page_nor_json(tmp_path):
    (tmp_path / "in").mkdir()
    save(image(), tmp_path / "in" / "a.dcm")
    try:
        (tmp_path / "in" / "a.dcm").rename(tmp_path / "in" / os.fsdecode(b"M\xfcller.dcm"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    config = DicomCheckConfig(show_paths=True, page=tmp_path / "page.html", workers=1)
    result = dicom_stage.run(tmp_path / "in", config)
    assert "udcfcller" in (tmp_path / "page.html").read_text()
    assert "udcfcller" in plain.to_json(result)


def test_a_name_that_does_not_decode_is_known_as_bytes():
    known = KnownValues()
    for name in ("Иванов", "Эйнштейн"):
        known.add(Identifiers(undecoded={name.encode("cp1251").lower()}))
    for name, hit in (("Иванов", True), ("Эйнштейн", True), ("Соколов", False)):
        assert known.raw.found_in(b"\x01\x81" + name.encode("cp1251") + b"\x01", frozenset()) is hit
