"""Files beside DICOM: words of the program's papers are no hits, and what cannot be read is not green."""

from __future__ import annotations

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
