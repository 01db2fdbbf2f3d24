"""Files beside DICOM: words of the program's papers are no hits, and what cannot be read is not green."""

from __future__ import annotations

import gzip
import json
import zlib

import dicom_check_samples as samples
import pytest
from deid_samples import clean, image, save

import meninx
from meninx.core import artifacts
from meninx.core.artifacts import DeidRecord
from meninx.deid.identifiers import Identifiers
from meninx.deid.papers import statement
from meninx.verify import other_files
from meninx.verify.known_values import KnownValues

NAME = "Quillfeather"


GERMAN, RUSSIAN, CHINESE, JAPANESE = "Müllerström", "Иванов", "王小明", "山田太郎"
LATE = "9;Smith;Anna;2019-01-02\n" * 400  # more than is looked at to tell a text from bytes


def known(*names, numbers=()):
    values = Identifiers()
    for name in names:
        values.add_name(name)
    for number in numbers:
        values.add_number(number)
    return KnownValues(values)


def found(content, values, path=None):
    """Return the reasons for a file that is no DICOM."""
    return {one.reason for one in other_files.findings(content, values, path)}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A clean archive whose patients are called as words of its papers, with numbers as in them."""
    folder = tmp_path_factory.mktemp("own words")
    people = (("Field^Sally", "113100"), ("Rows^Roboto", "113107"), ("Proof^Helvetica", "113105"))
    for number, (name, patient) in enumerate(people):
        changes = {"PatientName": name, "PatientID": patient, "MagneticFieldStrength": "1.5"}
        save(image(1, study=number + 1, StudyDescription="MR", **changes), folder / "in" / f"{number}")
    assert clean(folder).files_written == 3
    return folder


def test_a_clean_archive_of_patients_named_like_keywords_is_no_leak(archive):
    crosswalk = archive / "out" / "private" / "crosswalk_uids.csv"
    result = meninx.verify(
        archive / "out", dicom=True, originals=archive / "in", crosswalks=crosswalk, workers=1
    )
    assert (result.exit_code, result.places) == (0, {})


@pytest.mark.parametrize(
    ("paper", "text"),
    [
        ("deid.json", '{"site": "for Mrs Field"}'),
        ("deid.json", '{"actions": {"Field": {"K": 1}}}'),
        ("deid.json", '{"actions": {"MagneticFieldStrength": {"Field": 1}}}'),
        ("deid.json", '{"more": 7714553}'),
        ("deid.json", '{"site": "7714553"'),
        ("deid.json", '{"quarantined": {"PatientID 7714553": 1}}'),
        ("audit.jsonl", '{"status": "written for Field"}\n'),
        ("notes.txt", "MagneticFieldStrength\nseen by Dr Field\n"),
        ("notes.txt", "PatientField"),
        ("statement.html", "<p>Sally Field</p>"),
    ],
)
def test_a_name_in_a_free_text_of_a_paper_is_a_leak(tmp_path, paper, text):
    values = known("Field^Sally", numbers=("7714553",))
    (tmp_path / paper).write_text(text)
    assert found(text.encode(), values, tmp_path / paper) == {"identifier-in-bytes"}


def test_a_statement_that_does_not_follow_from_its_summary_is_searched(archive, tmp_path):
    record = artifacts.require(archive / "out", DeidRecord, fix="")
    page, values = statement.page(record), known("Proof^Field")
    assert found(page, values, archive / "out" / "statement.html") == set()
    changed = page.replace(b"</body>", b"<p>Field</p></body>")
    assert found(changed, values, archive / "out" / "statement.html") == {"identifier-in-bytes"}
    assert found(page, values, tmp_path / "statement.html") == {"identifier-in-bytes"}


def test_digits_of_digests_are_no_numbers_and_counts_are_none_either(tmp_path):
    digest = "a4550819" + "bc771455" * 7
    values = known(numbers=("771455", "4550819"))
    line = f"{digest}  images/a.dcm\n".encode()
    assert found(line, values, tmp_path / "checksums.sha256") == set()
    assert found(line[1:], values, tmp_path / "checksums.sha256") == {"identifier-in-bytes"}
    counts = {"files_read": 771455, "actions": {"Rows": {"K": 4550819}}, "audit_head": digest}
    assert found(json.dumps(counts).encode(), values, tmp_path / "deid.json") == set()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "latin-1"])
def test_a_text_of_any_length_and_encoding_is_searched(encoding, monkeypatch):
    """Large files come in windows, which may end anywhere."""
    values = known(NAME)
    monkeypatch.setattr(other_files, "windows_of", lambda piece: _windows(piece, 997))
    monkeypatch.setattr(other_files, "_BLOCK", 5000)
    monkeypatch.setattr(other_files, "_OVERLAP", 64)
    for filler in ("an innocent line\n" * 600, "one long line " * 1200):
        for text in (f"{filler}of {NAME}", f"{NAME} and {filler}", f"{filler}of {NAME} and {filler}"):
            assert found(text.encode(encoding), values) == {"identifier-in-bytes"}
        assert found(filler.encode(encoding), values) == set()


def _windows(piece, size):
    return [piece[start : start + size] for start in range(0, len(piece), size)]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "cp1252", "utf-16"])
def test_the_beginning_of_a_text_does_not_decide_its_encoding(encoding):
    text = f"{LATE}9;{GERMAN};Jörg\n"
    assert found(text.encode(encoding), known(GERMAN)) == {"identifier-in-bytes"}
    assert found(text.encode(encoding), known(NAME)) == set()


def test_lines_of_two_encodings_in_one_text_are_both_searched():
    text = f"{RUSSIAN}\n".encode() + f"9;{GERMAN};Jörg\n".encode("latin-1")
    for name in (RUSSIAN, GERMAN):
        assert found(text, known(name)) == {"identifier-in-bytes"}


ELSEWHERE = [
    (RUSSIAN, "cp1251"), (RUSSIAN, "koi8_r"), (RUSSIAN, "cp866"), (CHINESE, "gb18030"), (CHINESE, "big5"),
    (JAPANESE, "shift_jis"), (JAPANESE, "euc_jp"), (JAPANESE, "iso2022_jp"), (GERMAN, "cp437"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "encoding"), ELSEWHERE)
def test_a_name_in_another_encoding_is_found_and_the_text_is_not_called_read(name, encoding):
    text = f"id;name\n{LATE}1;{name}\n".encode(encoding)
    assert found(text, known(name)) == {"identifier-in-bytes", "content-unread"}
    assert found(text, known(NAME)) == {"content-unread"}


def test_words_of_latin_letters_are_not_taken_for_another_encoding():
    words = "Größe, Übergröße, œuvre, señor, El Niño, Ågård, naïve, L’été à Évry, „Maß“ – 5 µm ± 2 °C, Łódź"
    for encoding in ("latin-1", "cp1252", "utf-8"):
        text = words.encode(encoding, "ignore")
        assert found(text, known(RUSSIAN, GERMAN, CHINESE, "Fer^Ring")) == set()


SPELLED = [json.dumps({"n": GERMAN}), json.dumps([RUSSIAN]), f"<p>{GERMAN.replace('ü', '&uuml;')}</p>"]
SPELLED += [text.encode("ascii", "xmlcharrefreplace").decode() for text in (GERMAN, CHINESE)]


@pytest.mark.parametrize("content", SPELLED)
def test_letters_that_json_and_html_spell_by_number_or_name_are_read(content):
    assert found(content.encode(), known(GERMAN, RUSSIAN, CHINESE)) == {"identifier-in-bytes"}
    assert found(content.encode(), known(NAME)) == set()


@pytest.mark.parametrize("name", ["manifest.csv", "checksums.sha256", "audit.jsonl", "deid.json"])
@pytest.mark.parametrize(
    "number", ["9f86d081884c7d659a2feaa0c55ad015" * n for n in (1, 2)] + ["Ab3+" * 11 + "=="]
)
def test_an_identifier_with_the_form_of_a_digest_is_found_in_every_file(name, number, tmp_path):
    values = known(numbers=(number,))
    for text in (f"id;x\n{number};1\n", json.dumps({"id": number}), f"{number}  a.dcm\n"):
        assert found(text.encode(), values, tmp_path / name) == {"identifier-in-bytes"}


def test_a_path_is_no_signature(tmp_path):
    text = f"scanned from /archive/of/the/hospital/patients/{NAME}/study=="
    assert found(text.encode(), known(NAME), tmp_path / "notes.txt") == {"identifier-in-bytes"}


TAILS = {"gzip": gzip.compress(NAME.encode() * 20), "zlib": zlib.compress(NAME.encode() * 30)}
TAILS["UTF-16"] = "of Mr Bo".encode("utf-16-le")


@pytest.mark.parametrize("tail", TAILS)
def test_bytes_behind_a_text_are_not_called_read(tail):
    assert found(LATE.encode() + TAILS[tail], known(NAME)) == {"content-unread"}
    assert found(LATE.encode("utf-16") + TAILS["gzip"], known(NAME)) == {"content-unread"}


UNREAD = {
    "a PDF": b"%PDF-1.7\n" + zlib.compress(NAME.encode() * 9),
    "a picture": b"\x89PNG\r\n\x1a\n" + zlib.compress(bytes(range(256)) * 9),
    "compressed bytes": zlib.compress(f"{NAME} and more words that are compressed".encode()),
    "a program that unpacks itself": b"\x7fELF" + bytes(300) + zlib.compress(NAME.encode() * 9),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_a_file_that_is_no_text_is_not_called_checked(kind, tmp_path):
    source, folder = samples.archive(tmp_path / "archive"), tmp_path / "theirs"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(samples.clean())
    (folder / "b").write_bytes(UNREAD[kind])
    result = meninx.verify(folder, originals=source, workers=1)
    assert (result.reasons, result.exit_code) == ({"content-unread": 1}, 0)
    assert "known identifiers (in part)" in result.verdict
    assert "1 file of another kind" in result.summary()


def test_texts_beside_the_files_leave_the_check_whole(tmp_path):
    source, folder = samples.archive(tmp_path / "archive"), tmp_path / "theirs"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(samples.clean())
    (folder / "read me.txt").write_bytes("viele Grüße".encode("latin-1"))
    (folder / "empty").touch()
    result = meninx.verify(folder, originals=source, workers=1)
    assert (result.reasons, result.verdicts["not DICOM"]) == ({}, 2)
    assert "known identifiers" not in result.verdict
