"""A DICOMDIR names files: they are counted, never followed out of the source, and it is never copied."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pydicom
import pytest
from deid_samples import PATIENT_ID, clean, image, leaks, save
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence

from meninx.core import artifacts
from meninx.core.artifacts import DeidRecord


def media(folder: Path, count: int = 3) -> Path:
    """Write media as a device does: a DICOMDIR, and files with short names."""
    names = [["PT000000", "ST000000", f"IM00000{number}"] for number in range(count)]
    for number, name in enumerate(names):
        save(image(number), folder.joinpath(*name))
    directory(folder / "DICOMDIR", *names)
    return folder


def directory(path: Path, *names: list[str]) -> Path:
    with pydicom.config.disable_value_validation():
        return _directory(path, *names)


def _directory(path: Path, *names: list[str]) -> Path:
    ds = Dataset()
    ds.DirectoryRecordSequence = Sequence([])
    for name in names:
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", name
        record.PatientID = PATIENT_ID
        ds.DirectoryRecordSequence.append(record)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.preamble = bytes(128)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, ds, enforce_file_format=False)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_media_are_read_by_their_files_and_missing_ones_are_counted(tmp_path, packed):
    folder = media(tmp_path / "in" / "cd")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "DICOMDIR")
    files[0].unlink()
    if packed:
        with zipfile.ZipFile(tmp_path / "in" / "d.zip", "w") as archive:
            for path in folder.rglob("*"):
                archive.write(path, path.relative_to(tmp_path / "in"))
                path.unlink() if path.is_file() else None
    result = clean(tmp_path)
    assert (result.files_written, result.quarantined) == (2, {"dicomdir": 1})
    assert result.directories == {"named": 3, "missing": 1, "outside": 0}
    assert "DICOMDIR: 3 files named, of which 1 is missing" in result.summary()
    assert "3 files named, of which 1 is missing" in (tmp_path / "out" / "statement.html").read_text()
    assert not leaks(tmp_path / "out")


def test_names_that_leave_the_folder_are_never_followed(tmp_path):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "LINK").symlink_to(tmp_path / "secret")
    save(image(), tmp_path / "in" / "im1")
    directory(
        tmp_path / "in" / "DICOMDIR",
        ["..", "secret"], ["LINK"], ["IM1"], ["IM2"], ["/", "etc"], ["C:", "x"], ["A" * 16] * 400,
    )  # fmt: skip
    result = clean(tmp_path)
    assert result.directories == {"named": 7, "missing": 2, "outside": 4}
    assert artifacts.read(tmp_path / "out", DeidRecord).directories == result.directories


def test_a_file_that_was_missing_is_found_in_the_next_run_and_otherwise_nothing_is_done(tmp_path):
    directory(tmp_path / "in" / "DICOMDIR", ["IM1"], ["IM2"])
    save(image(1), tmp_path / "in" / "IM1")
    assert clean(tmp_path).directories["missing"] == 1
    assert clean(tmp_path).files_resumed == 2
    save(image(2), tmp_path / "in" / "IM2")
    assert clean(tmp_path).directories["missing"] == 0


def test_a_broken_directory_is_kept_out_all_the_same(tmp_path):
    save(image(1), tmp_path / "in" / "IM1")
    path = directory(tmp_path / "in" / "DICOMDIR", ["IM1"] * 1)
    path.write_bytes(path.read_bytes()[:-5])
    result = clean(tmp_path)
    assert (result.files_written, result.quarantined, result.directories) == (1, {"dicomdir": 1}, {})
