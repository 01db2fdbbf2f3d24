"""Files whose identifying attributes have a wrong VR or length end no command, and stop no other file."""

from __future__ import annotations

import csv
import shutil
import struct
from contextlib import suppress
from pathlib import Path

import pydicom
import pytest
from deid_samples import clean, image, images, save
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, tag_for_keyword

from meninx.core import integrity
from meninx.core.errors import DataError, MeninxError
from meninx.deid.escrow.escrow_file import Opener
from meninx.deid.escrow.reidentify import ReidentifyResult, Request, run
from meninx.dicom import class_folders, export, label, label_rules, media
from meninx.prepare.readers import clean_dicom
from meninx.verify import dicom_stage, stage
from meninx.verify.config import DicomCheckConfig

KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "PatientName", "PatientID",
    "PatientIdentityRemoved", "DeidentificationMethod", "StudyInstanceUID", "SeriesInstanceUID",
    "SeriesNumber", "InstanceNumber", "SpecificCharacterSet",
)  # fmt: skip
VRS = (
    "US",
    "SS",
    "UL",
    "SL",
    "SV",
    "UV",
    "FL",
    "FD",
    "AT",
    "OB",
    "OW",
    "UN",
    "SQ",
    "DS",
    "IS",
    "DA",
    "PN",
    "ZZ",
)
SHARED = HealthCheck.function_scoped_fixture  # every example makes its folders anew
LONG = {"OB", "OW", "UN", "SQ", "SV", "UV"}


@pytest.fixture(scope="module")
def delivered(tmp_path_factory):
    """An archive of two patients with its escrow, and the medium of it."""
    folder = tmp_path_factory.mktemp("malformed")
    save(image(1, SeriesNumber="4"), folder / "in" / "a")
    save(
        image(2, study=2, SeriesNumber="4", PatientID="0000456", PatientName="Other^Ann"), folder / "in" / "b"
    )
    assert clean(folder, escrow="key").files_written == 2
    media.write_medium(folder / "out", folder / "medium")
    return folder


def malformed(content: bytes, keyword: str, vr: str, value: bytes) -> bytes:
    """Return an explicit little-endian file with other bytes for one element of its data set."""
    tag = tag_for_keyword(keyword)
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + dictionary_VR(tag).encode()
    at = content.index(start, 132)
    (length,) = struct.unpack_from("<H", content, at + 6)
    size = struct.pack("<HI", 0, len(value)) if vr in LONG else struct.pack("<H", len(value))
    return content[: at + 4] + vr.encode() + size + value + content[at + 8 + length :]


def place(root: Path, path: Path, content: bytes) -> None:
    """Replace a file, and its digest in the list of the folder."""
    path.write_bytes(content)
    integrity.write(root, {name: integrity.files.digest(root / name) for name in integrity.read(root)})


def restored(folder: Path, root: Path) -> tuple[ReidentifyResult, list[str]]:
    """Return the result of restoring a folder, and the original PatientIDs in its table."""
    out = folder / "table.csv"
    request, opener = Request(dicom=root), Opener(key=folder / "site.key")
    result = run(folder / "out/private/escrow.meninx", opener, request, out, reason="test")
    with out.open(newline="") as stream:
        return result, [row["original"] for row in csv.DictReader(stream) if row["kind"] == "patient"]


values = st.tuples(st.sampled_from(KEYWORDS), st.sampled_from(VRS), st.binary(max_size=9))


@settings(
    max_examples=30, deadline=None, phases=(Phase.explicit, Phase.generate), suppress_health_check=[SHARED]
)
@given(change=values)
def test_no_malformed_value_ends_a_command(delivered, tmp_path, change):
    root = tmp_path / "out"
    for name in ("out", "medium"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        shutil.copytree(delivered / name, tmp_path / name)
    bad = images(root)[0]
    place(root, bad, malformed(bad.read_bytes(), *change))
    on_medium = next(path for path in (tmp_path / "medium").rglob("IM*"))
    place(tmp_path / "medium", on_medium, malformed(on_medium.read_bytes(), *change))

    result, found = restored(delivered, root / "images")
    assert result.patients >= 1
    assert {"0000123", "0000456"} & set(found)
    checked = dicom_stage.run(root, DicomCheckConfig(dicom=True))
    assert checked.files == sum(checked.verdicts.values())
    told = stage.run(tmp_path / "medium")
    assert {check.what for check in told.checks} >= {"papers of the archive", "DICOMDIR"}
    stage.run(root)
    for work in (
        lambda: media.write_medium(root, tmp_path / "again", dry_run=True),
        lambda: export.export_images(root / "images", tmp_path / "png", export.ExportConfig()),
        lambda: clean_dicom._headers(root),
        lambda: label.write_labels(
            root / "images", tmp_path / "l", "ImageComments", label_rules.FromTag(tag="PatientID")
        ),
        lambda: class_folders.class_folders(
            root / "images", tmp_path / "c", label_rules.FromTag(tag="PatientID")
        ),
    ):
        with suppress(MeninxError):
            work()
    for name in ("again", "png", "l", "c"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)


@pytest.mark.parametrize(("vr", "value"), [("US", b"abc"), ("FD", b"abc"), ("OB", b"abcd")])
def test_one_malformed_file_is_named_and_the_others_are_restored(delivered, tmp_path, vr, value):
    shutil.copytree(delivered / "out", tmp_path / "out")
    bad, good = images(tmp_path / "out")
    original = pydicom.dcmread(good).PatientID
    bad.write_bytes(malformed(bad.read_bytes(), "PatientID", vr, value))
    result, found = restored(delivered, tmp_path / "out" / "images")
    assert (result.patients, len(found)) == (1, 1)
    assert result.unreadable == (bad.relative_to(tmp_path / "out" / "images").as_posix(),)
    assert bad.name in result.alerts()[0]
    assert original not in result.alerts()[0]


@pytest.mark.parametrize(("fitting", "code"), [(True, 4), (False, 3)])
def test_a_malformed_file_on_a_medium_is_refused_and_the_other_checks_are_printed(
    delivered, tmp_path, fitting, code
):
    medium = tmp_path / "medium"
    shutil.copytree(delivered / "medium", medium)
    bad = next(path for path in medium.rglob("IM*"))
    content = malformed(bad.read_bytes(), "PatientID", "US", b"abc")
    if fitting:
        place(medium, bad, content)
    else:
        bad.write_bytes(content)
    result = stage.run(medium)
    said = {check.what: check for check in result.checks}
    assert result.exit_code == code
    assert "papers of the archive" in said
    assert bad.relative_to(medium).as_posix() in said["DICOMDIR"].why
    with pytest.raises(DataError, match="PatientID"):
        media.planned(medium, [bad.relative_to(medium).as_posix()])
