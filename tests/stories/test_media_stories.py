"""From a medium with a DICOMDIR to a clean medium with a new one, by the commands that the program prints."""

from __future__ import annotations

import shlex
import shutil

import pydicom
import pytest
from deid_samples import PLANTED, clean, image, key_file, leaks, save, tree
from media_samples import file_set, original

from meninx.cli.app import run as run_command
from meninx.imaging import decode

NAMES = ("Quillfeather", "Marigold", "0000123", "Brambleton")


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_medium_comes_in_and_a_medium_goes_out(tmp_path, capsys, kind):
    source = original(tmp_path)
    if kind == "zip":
        source = shutil.make_archive(str(tmp_path / "cd"), "zip", source)
    out = tmp_path / "clean"
    words = ["--key", key_file(tmp_path), "--site", "north", "--workers", "1"]
    assert run_command(["deid", str(source), str(out), *map(str, words)]) == 0
    said = capsys.readouterr().out
    assert "DICOMDIR: 3 files named, of which 0 are missing" in said
    told = next(line.split("`")[1] for line in said.splitlines() if "new DICOMDIR" in line)
    assert run_command(shlex.split(told)[1:]) == 0
    said = capsys.readouterr().out
    medium = tmp_path / "clean-medium"
    assert "3 files of 1 patient, 1 study, 1 series" in said
    assert "stand-ins for values that the archive leaves empty: StudyID (1)" in said
    with file_set(medium / "DICOMDIR") as loaded:
        assert len(loaded) == 3
        assert not loaded.is_staged, "pydicom would give the files other names"
        assert {one.load().PatientIdentityRemoved for one in loaded} == {"YES"}
    assert not leaks(medium, (*PLANTED, *NAMES))
    assert run_command(["verify", str(medium)]) == 0
    with (medium / "DICOMDIR").open("r+b") as stream:
        stream.seek(-8, 2)
        stream.write(b"Q")
    assert run_command(["verify", str(medium)]) == 4


def test_the_directory_of_the_source_has_no_influence(tmp_path):
    for name in ("plain", "hostile"):
        for number in range(3):
            save(image(number), tmp_path / name / f"IM{number}")
    lies = pydicom.dcmread(original(tmp_path / "other") / "DICOMDIR")
    with decode.quiet():
        for record in lies.DirectoryRecordSequence:
            record.PatientName = "Quillfeather^Marigold"
            if "ReferencedFileID" in record:
                record.ReferencedFileID = ["..", "..", "etc", "passwd"]
        pydicom.dcmwrite(tmp_path / "hostile" / "DICOMDIR", lies)
    for name in ("plain", "hostile"):
        clean(tmp_path, source=name, out=f"{name}-clean")
        said = ["dicom", "media", f"{tmp_path / name}-clean", f"{tmp_path / name}-cd", "--quiet"]
        assert run_command(said) == 0
    plain, hostile = tree(tmp_path / "plain-cd"), tree(tmp_path / "hostile-cd")
    different = {name for name in plain if plain[name] != hostile[name]}
    assert plain.keys() == hostile.keys()
    assert different <= {"media.json", "checksums.sha256", *(name for name in plain if "papers" in name)}


def test_pixels_that_nobody_read_are_told_before_a_medium_leaves(tmp_path, capsys):
    save(image(1, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="OT"), tmp_path / "in" / "a")
    clean(tmp_path, pixels="keep")
    assert run_command(["dicom", "media", str(tmp_path / "out"), str(tmp_path / "cd")]) == 0
    assert "1 image may show text in its pixels" in " ".join(capsys.readouterr().err.split())


def test_a_dry_run_of_de_identification_names_no_folder_that_is_not_there(tmp_path, capsys):
    source = original(tmp_path)
    words = [source, tmp_path / "clean", "--key", key_file(tmp_path), "--site", "north", "--dry-run"]
    assert run_command(["deid", *map(str, words)]) == 0
    assert "new DICOMDIR" not in capsys.readouterr().out
