"""Two people are never one because a PatientID does not decode in the declared character set."""

from __future__ import annotations

import csv
import io
import struct
import unicodedata
from pathlib import Path

import pydicom
import pytest
from deid_samples import KEY, clean, image, images, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.charset import python_encoding
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from meninx.deid import Deidentifier, Quarantined
from meninx.deid.escrow.escrow_file import Opener
from meninx.deid.escrow.reidentify import Request
from meninx.deid.escrow.reidentify import run as reidentify
from meninx.deid.identifiers import Identifiers, collect
from meninx.deid.output import csv_line
from meninx.dicomfile import instance
from meninx.dicomfile.instance import Instance

CHARSET, PATIENT_ID, ISSUER, NAME = 0x00080005, 0x00100020, 0x00100021, 0x00100010
ACCESSION, STUDY = 0x00080050, 0x0020000D
UTF_8, LATIN_1, CYRILLIC = b"ISO_IR 192", b"ISO_IR 100", b"ISO_IR 144"
REASON = "identity-undecodable"


def bytes_of(ds: Dataset) -> bytes:
    """Return a data set as a file of explicit VRs."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()


def with_values(content: bytes, changes: dict[int, bytes]) -> bytes:
    """Return a file of explicit VRs with other bytes as the values of short elements that it has."""
    for tag, value in changes.items():
        at = content.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF), 132)
        end = at + 8 + int.from_bytes(content[at + 6 : at + 8], "little")
        vr = content[at + 4 : at + 6]
        padded = value + (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
        content = content[: at + 6] + struct.pack("<H", len(padded)) + padded + content[end:]
    return content


IMAGE = bytes_of(image(IssuerOfPatientID="PACS"))


def put(folder: Path, number: int, changes: dict[int, bytes], **more) -> Path:
    """Write a file with these bytes in its elements."""
    more.setdefault("IssuerOfPatientID", "PACS")
    path = save(image(number, study=number, **more), folder / f"{number:03d}")
    path.write_bytes(with_values(path.read_bytes(), changes))
    return path


def table(out: Path, name: str) -> list[dict[str, str]]:
    with (out / "private" / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def pseudonyms(out: Path) -> dict[str, str]:
    return {row["id_old"]: row["id_new"] for row in table(out, "crosswalk_patients.csv")}


def test_people_whose_ids_do_not_decode_are_not_merged(tmp_path):
    """P1: four people became one patient, and the tables held `????77`."""
    ids = [
        "Иван77".encode("cp1251"),
        "Олег77".encode("cp1251"),
        "王王77".encode("gbk"),
        "李李77".encode("gbk"),
    ]
    for number, raw in enumerate(ids, start=1):
        put(tmp_path / "in", number, {CHARSET: UTF_8, PATIENT_ID: raw})
    put(tmp_path / "in", 5, {CHARSET: UTF_8, PATIENT_ID: "Иван77".encode()})
    put(tmp_path / "in", 6, {CHARSET: CYRILLIC, PATIENT_ID: "Иван77".encode("iso8859_5")})
    put(tmp_path / "in", 7, {CHARSET: CYRILLIC, PATIENT_ID: "Олег77".encode("iso8859_5")})
    result = clean(tmp_path, escrow="key")
    assert (result.patients, result.quarantined) == (2, {REASON: 4})
    known = pseudonyms(tmp_path / "out")
    assert known.keys() == {"Иван77", "Олег77"}
    assert len(set(known.values())) == 2
    opener = Opener(key=tmp_path / "site.key")
    escrow = tmp_path / "out/private/escrow.meninx"
    reidentify(escrow, opener, Request(everything=True), tmp_path / "back.csv", reason="a test")
    with (tmp_path / "back.csv").open(newline="", encoding="utf-8") as stream:
        people = [row for row in csv.DictReader(stream) if row["kind"] == "patient"]
    assert {row["original"]: row["pseudonym"] for row in people} == known
    assert [row["path"] for row in table(tmp_path / "out", "quarantine.csv")] == [
        f"00{n}" for n in range(1, 5)
    ]


def test_the_same_person_in_a_later_delivery_with_a_wrong_character_set_waits(tmp_path):
    put(tmp_path / "first", 1, {CHARSET: UTF_8, PATIENT_ID: "Öst7".encode()})
    put(tmp_path / "later", 2, {CHARSET: UTF_8, PATIENT_ID: "Öst7".encode("latin-1")})
    first = clean(tmp_path, "a", "first")
    assert first.patients == 1
    assert clean(tmp_path, "b", "later").quarantined == {REASON: 1}
    put(tmp_path / "later", 2, {CHARSET: LATIN_1, PATIENT_ID: "Öst7".encode("latin-1")})
    assert clean(tmp_path, "b", "later").quarantined == {}
    assert pseudonyms(tmp_path / "b") == pseudonyms(tmp_path / "a")


@pytest.mark.parametrize("rule", ["site", "separate"])
def test_issuers_that_do_not_decode_are_not_merged(tmp_path, rule):
    for number, name in enumerate(("Öst", "Üst"), start=1):
        put(tmp_path / "in", number, {CHARSET: UTF_8, PATIENT_ID: b"4444", ISSUER: name.encode("latin-1")})
    put(tmp_path / "in", 3, {PATIENT_ID: b"5555"})
    result = clean(tmp_path, issuers=rule)
    assert (result.patients, result.quarantined) == (1, {REASON: 2})


def test_without_a_character_set_an_id_is_ascii(tmp_path):
    """王 and 眍 of GBK, read as Latin-1, differ in the case of a letter only."""
    for number, sign in enumerate("王眍", start=1):
        put(tmp_path / "in", number, {CHARSET: b"", PATIENT_ID: sign.encode("gbk") + b"77"})
    put(tmp_path / "in", 3, {CHARSET: b"", PATIENT_ID: b"7788", NAME: "Müller^Eva".encode("latin-1")})
    result = clean(tmp_path)
    assert (result.patients, result.quarantined) == (1, {REASON: 2})


def test_an_issuer_without_an_id_keeps_nothing_out(tmp_path):
    put(tmp_path / "in", 1, {CHARSET: UTF_8, PATIENT_ID: b"", ISSUER: b"\xd6st"})
    assert clean(tmp_path).quarantined == {}


def test_invisible_signs_of_an_id_count(tmp_path):
    for number, name in enumerate(("A1", "A\u200b1", "A\xad1", " A1 "), start=1):
        put(tmp_path / "in", number, {CHARSET: UTF_8, PATIENT_ID: name.encode()})
    assert clean(tmp_path).patients == 3
    assert pseudonyms(tmp_path / "out").keys() == {"A1", "A\u200b1", "A\xad1"}


def test_a_file_that_an_earlier_version_wrote_does_not_stay(tmp_path, monkeypatch):
    put(tmp_path / "in", 1, {CHARSET: UTF_8, PATIENT_ID: "Иван77".encode("cp1251")})
    put(tmp_path / "in", 2, {PATIENT_ID: b"RRRR77"})
    with monkeypatch.context() as earlier:
        earlier.setattr(Instance, "names_its_patient", True)
        assert clean(tmp_path).files_written == 2
    result = clean(tmp_path)
    assert (result.files_written, result.files_resumed, result.quarantined) == (1, 1, {REASON: 1})
    assert pseudonyms(tmp_path / "out").keys() == {"RRRR77"}
    assert len(images(tmp_path / "out")) == 1


def test_studies_without_a_patient_are_not_merged_by_their_uid(tmp_path):
    for number, raw in enumerate((b"1.2.\xd6", b"1.2.\xdc", b"1.2\xad.3", b"1.2.3"), start=1):
        put(tmp_path / "in", number, {CHARSET: UTF_8, PATIENT_ID: b"", STUDY: raw})
    result = clean(tmp_path)
    assert (result.patients, result.studies) == (4, 4)
    assert {row["id_old"] for row in table(tmp_path / "out", "crosswalk_uids.csv")} >= {"1.2.Ö", "1.2.Ü"}


def test_accession_numbers_that_do_not_decode_are_not_merged(tmp_path):
    for number, name in enumerate(("Öst77", "Üst77"), start=1):
        put(tmp_path / "in", number, {CHARSET: UTF_8, ACCESSION: name.encode("latin-1")})
    assert clean(tmp_path).quarantined == {}
    known = {row["id_old"]: row["id_new"] for row in table(tmp_path / "out", "crosswalk_accessions.csv")}
    assert len(set(known.values())) == 2
    back = {bytes.fromhex(old.removeprefix("\ufffd")).decode("latin-1") for old in known}
    assert back == {"Öst77", "Üst77"}


@pytest.mark.parametrize(("other", "number"), [("Соколов^Олег", 1), ("Иванова^Пётр", 0)])
def test_names_that_do_not_decode_contradict_each_other(tmp_path, other, number):
    for place, name in enumerate(("Иванов^Пётр", other), start=1):
        raw = {CHARSET: UTF_8, PATIENT_ID: b"7001", NAME: name.encode("cp1251")}
        put(tmp_path / "in", place, raw, PatientName="X")
    clean(tmp_path)
    assert len(table(tmp_path / "out", "contradictions.csv")) == 2 * number


@pytest.mark.parametrize("name", ["Иванов^Пётр", "Müllerström"])
def test_a_name_that_does_not_decode_is_found_in_bytes(tmp_path, name):
    raw = name.encode("cp1251" if name.startswith("И") else "latin-1")
    word = raw.split(b"^")[0]
    pixels = (bytes(20) + b"\x81" + word + bytes(64))[:64]
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": pixels}
    put(tmp_path / "in", 1, {CHARSET: UTF_8, NAME: raw}, **eight)
    put(tmp_path / "in", 2, {CHARSET: UTF_8, NAME: b"Doe^Jane"}, **eight)
    assert clean(tmp_path).quarantined == {"residual-identifier": 1}


def test_undecoded_words_are_those_of_people():
    content = with_values(IMAGE, {CHARSET: UTF_8, NAME: "Иванов^Пётр".encode("cp1251")})
    found, _ = collect(instance.read(content).elements)
    assert found.undecoded == {"Иванов".encode("cp1251")}
    assert found.without(Identifiers(days=found.days)).undecoded == found.undecoded


# --- any two PatientIDs in any character set ---

WORDS = st.text("ИванОлегЙй王李眍ÖöÜßAa²2 7\xad\u200b", min_size=1, max_size=5)
CODECS = ("utf-8", "cp1251", "gbk", "latin-1", "shift_jis", "euc_kr", "iso8859_5", "iso2022_jp")
raw_ids = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.tuples(WORDS, st.sampled_from(CODECS)).map(lambda one: one[0].encode(one[1], "ignore")),
).filter(lambda raw: not {0x1B, 0x5C} & set(raw))  # escape sequences: test_dicomfile_charset.py


def by_the_rule(raw: bytes, term: str) -> str | None:
    """Return what the documentation says of a PatientID: None if it is kept out, "" if there is none."""
    codec = python_encoding[term]
    try:
        text = raw.decode("ascii" if codec == "iso8859" else codec)
    except UnicodeDecodeError:
        return None
    if "\ufffd" in text or "\x1b" in text:
        return None
    folded = unicodedata.normalize("NFKC", text.strip(" \0")).strip().casefold()
    return unicodedata.normalize("NFKC", folded).strip()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(raw_ids, raw_ids, st.sampled_from(sorted(python_encoding)), st.sampled_from(sorted(python_encoding)))
def test_two_ids_have_one_pseudonym_only_by_the_documented_rule(one, other, first, second):
    tool, content, found = Deidentifier(key=KEY, site="north"), IMAGE, []
    for raw, term in ((one, first), (other, second)):
        data, wanted = with_values(content, {CHARSET: term.encode(), PATIENT_ID: raw}), by_the_rule(raw, term)
        if wanted is None:
            with pytest.raises(Quarantined, match=REASON):
                tool.deidentify(data)
            continue
        pseudonym = tool.deidentify(data).patient_id
        found.append((wanted, pseudonym))
        original = instance.read(data).patient_id
        line = next(csv.reader([csv_line([original, pseudonym]).decode("utf-8")], strict=True))
        codec = "ascii" if python_encoding[term] == "iso8859" else python_encoding[term]
        if not {"\n", "\r"} & set(original):
            assert line[0].encode(codec) == raw.strip(b" \0") or codec == "euc_kr"
    if len(found) == 2 and all(wanted for wanted, _ in found):
        assert (found[0][0] == found[1][0]) == (found[0][1] == found[1][1])


def test_a_lookup_table_lists_an_id_as_text(tmp_path):
    (tmp_path / "table.csv").write_text("old_patient_id,new_patient_id\nÖst7,STUDY-1\n", encoding="utf-8")
    put(tmp_path / "in", 1, {CHARSET: UTF_8, PATIENT_ID: "Öst7".encode()})
    put(tmp_path / "in", 2, {CHARSET: LATIN_1, PATIENT_ID: "Öst7".encode("latin-1")})
    put(tmp_path / "in", 3, {CHARSET: UTF_8, PATIENT_ID: "Öst7".encode("latin-1")})
    result = clean(tmp_path, lookup=tmp_path / "table.csv")
    assert (result.patients, result.quarantined) == (1, {REASON: 1})
    assert pseudonyms(tmp_path / "out") == {"Öst7": "STUDY-1"}
    assert len(images(tmp_path / "out")) == 2
