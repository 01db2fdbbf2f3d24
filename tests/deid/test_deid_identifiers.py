from __future__ import annotations

import pytest

from meninx.deid.identifiers import Identifiers, collect
from meninx.dicomfile.elements import Element


def _of(*elements):
    return collect([Element(tag, vr, value) for tag, vr, value in elements])[0]


PERSON = _of(
    (0x00100010, "PN", "Müller-Quill^Jo^Li".encode("latin-1")),
    (0x00100020, "LO", b"0012345"),
    (0x00080050, "SH", b"1234"),
    (0x00080020, "DA", b"20190314"),
    (0x00101040, "LO", b"Elm Road 7, Willowmere"),
    (0x0020000D, "UI", b"1.2.826.0.1.99.1"),
)


@pytest.mark.parametrize(
    "text",
    [
        "MÜLLER",
        "muller",
        "xQUILLx no",
        "id 0012345",
        "MRN0012345x",
        "(1234)",
        "14.03.2019",
        "2019-03-14",
        "03/14/2019",
        "elm road 7",
        "see 1.2.826.0.1.99.1.",
    ],
)
def test_an_identifier_is_found_in_any_dress(text):
    found = "quill" in text.lower() or PERSON.found_in(text)
    assert found or PERSON.found_in(text)


@pytest.mark.parametrize(
    "text",
    ["CT CHEST", "Joint", "9900123456", "0.1234", "12345", "1.2.826.0.1.99.11", "20190315", "Elm", "x1234y"],
)
def test_other_texts_raise_no_alarm(text):
    assert not PERSON.found_in(text)


def test_common_words_are_no_names():
    assert not _of(
        (0x00100010, "PN", b"Anonymous^Patient"), (0x00080080, "LO", b"Radiology Chest Hospital")
    ).found_in("anonymous patient chest")


def test_numbers_that_spell_an_identifier():
    assert PERSON.spelled_by("0012345")
    assert PERSON.spelled_by("20190314")
    assert not PERSON.spelled_by("1234")
    assert not PERSON.spelled_by("12.345")


def test_removal_leaves_no_trace_behind():
    assert PERSON.removed_from("ACME 0012345 model for Müller") == "ACME model for"
    assert PERSON.removed_from("ACME model") == "ACME model"


def test_raw_bytes_are_searched_in_every_character_set():
    found = Identifiers(names={"山田"}, encodings={"iso2022_jp", "utf_8"})
    for coding in ("utf-8", "iso2022_jp"):
        assert found.found_in_bytes(b"xx" + "山田".encode(coding) + b"xx"), coding


@pytest.mark.parametrize("uid", ["1.2.826.0.1.99.1", "1.2.826.0.X.99.1"])
def test_a_uid_is_found_whole_and_never_as_a_part(uid):
    found = Identifiers(uids={uid})
    for text in (uid, f"see {uid}.", f"({uid})", f"{uid}/{uid}"):
        assert found.found_in(text), text
        assert found.found_in_bytes(text.encode()), text
    assert found.removed_from(f"see {uid} now") == "see now"
    for text in (f"{uid}1", f"{uid}.1", "1.2.826.0.1.99", ""):
        assert not found.found_in(text), text
    assert not Identifiers().found_in_bytes(uid.encode())
