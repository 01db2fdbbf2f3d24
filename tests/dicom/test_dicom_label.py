from __future__ import annotations

import clean_dicoms
import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless

from meninx.core.errors import ConfigError, DataError, LayoutError, UsageError
from meninx.dicom.label import write_labels
from meninx.dicom.label_rules import FromFolder, FromPattern, FromTable, FromTag

PIXELS = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    for number, (label, name) in enumerate(
        [("benign", "a.dcm"), ("benign", "deep/b"), ("malignant", "c.dcm")]
    ):
        dataset = clean_dicoms.image(PIXELS + number, patient=f"P{number}")
        if name == "c.dcm":
            dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
        clean_dicoms.write(folder / label / name, dataset)
    (folder / "notes.txt").write_text("not an image")
    return folder


def values(out, keyword):
    paths = [path for path in sorted(out.rglob("*")) if path.is_file()]
    return [pydicom.dcmread(path).get(keyword) for path in paths]


def test_from_the_folder_pixels_and_source_untouched(tmp_path, source):
    before = clean_dicoms.tree(source)
    result = write_labels(source, tmp_path / "out", "ImageComments", FromFolder(level=0))
    assert clean_dicoms.tree(source) == before
    assert (result.labels, result.unlabelled, result.written, result.passed_over) == (
        {"benign": 2, "malignant": 1},
        0,
        3,
        1,
    )
    assert values(tmp_path / "out", "ImageComments") == ["benign", "benign", "malignant"]
    for name in ("benign/a.dcm", "benign/deep/b", "malignant/c.dcm"):
        old, new = pydicom.dcmread(source / name), pydicom.dcmread(tmp_path / "out" / name)
        assert new["PixelData"].value == old["PixelData"].value
        assert new.file_meta.TransferSyntaxUID == old.file_meta.TransferSyntaxUID
        assert new["ImageComments"].VR == "LT"
        del new.ImageComments
        assert new == old


@pytest.mark.parametrize("key", ["SOPInstanceUID", "PatientID", "file"])
def test_from_a_table(tmp_path, source, key):
    first = pydicom.dcmread(source / "benign" / "a.dcm")
    name = "benign/a.dcm" if key == "file" else first[key].value
    table = tmp_path / "labels.csv"
    table.write_text(f"\ufeff{key},grade\n{name},3\nother,4\nempty,\n", encoding="utf-8")
    result = write_labels(
        source, tmp_path / "out", "(0062,000B)", FromTable(table=table, column="grade", key=key)
    )
    assert (result.tag, result.labels, result.unlabelled, result.written) == (
        "ReferencedSegmentNumber",
        {"3": 1},
        2,
        3,
    )
    assert values(tmp_path / "out", "ReferencedSegmentNumber") == [3, None, None]


def test_from_a_pattern_and_without_the_unlabelled(tmp_path, source):
    rule = FromPattern(pattern=r"^(?P<label>malig\w+)/")
    result = write_labels(source, tmp_path / "out", "SeriesDescription", rule, keep_unlabelled=False)
    assert (result.labels, result.unlabelled, result.written) == ({"malignant": 1}, 2, 1)
    assert values(tmp_path / "out", "SeriesDescription") == ["malignant"]


def test_from_another_attribute(tmp_path, source):
    write_labels(source, tmp_path / "out", "ImageComments", FromTag(tag="PatientSex"))
    assert values(tmp_path / "out", "ImageComments") == ["F"] * 3


def test_run_again_it_does_nothing_and_goes_on_where_it_stopped(tmp_path, source):
    write_labels(source, tmp_path / "out", "ImageComments", FromFolder(level=0))
    before = clean_dicoms.tree(tmp_path / "out")
    (tmp_path / "out" / "benign" / "a.dcm").unlink()
    again = write_labels(source, tmp_path / "out", "ImageComments", FromFolder(level=0))
    assert (again.written, again.unchanged) == (1, 2)
    assert clean_dicoms.tree(tmp_path / "out") == before


def test_other_files_at_the_output_stay_unless_asked(tmp_path, source):
    out = tmp_path / "out"
    write_labels(source, out, "ImageComments", FromFolder(level=0))
    with pytest.raises(UsageError, match="file 1 of the sorted source"):
        write_labels(source, out, "SeriesDescription", FromFolder(level=0))
    assert write_labels(source, out, "SeriesDescription", FromFolder(level=0), overwrite=True).written == 3


@pytest.mark.parametrize("where", ["source", "source/benign", "."])
def test_never_in_place(tmp_path, source, where):
    with pytest.raises(UsageError, match="apart from each other"):
        write_labels(source, tmp_path / where, "ImageComments", FromFolder())


def test_labels_that_do_not_fit_name_the_attribute_and_nothing_else(tmp_path, source):
    table = tmp_path / "labels.csv"
    table.write_text("PatientID,label\nP0,Planted Person Name Too Long\n")
    rule = FromTable(table=table, column="label", key="PatientID")
    with pytest.raises(DataError, match="AccessionNumber") as caught:
        write_labels(source, tmp_path / "out", "AccessionNumber", rule)
    assert "Planted" not in str(caught.value)
    table.write_text("PatientID,label\nP0,gutärtig\n", encoding="utf-8")
    with pytest.raises(DataError, match="SpecificCharacterSet"):
        write_labels(source, tmp_path / "out", "ImageComments", rule)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "tag", ["PixelData", "Rows", "SOPInstanceUID", "PatientID", "MediaStorageSOPInstanceUID", "StudyUID"]
)
def test_attributes_that_carry_no_label(tmp_path, source, tag):
    with pytest.raises(ConfigError):
        write_labels(source, tmp_path / "out", tag, FromFolder())


def test_tables_that_contradict_themselves(tmp_path, source):
    table = tmp_path / "labels.csv"
    table.write_text("PatientID,label\nP0,a\nP1,b\nP0,b\n")
    with pytest.raises(LayoutError, match="rows 2 and 4") as caught:
        write_labels(
            source, tmp_path / "out", "ImageComments", FromTable(table=table, column="label", key="PatientID")
        )
    assert "P0" not in str(caught.value)
    with pytest.raises(LayoutError, match="did you mean 'label'"):
        write_labels(
            source,
            tmp_path / "out",
            "ImageComments",
            FromTable(table=table, column="labels", key="PatientID"),
        )
    with pytest.raises(LayoutError, match="no such file"):
        write_labels(
            source, tmp_path / "out", "ImageComments", FromTable(table=tmp_path / "x.csv", column="label")
        )


@pytest.mark.parametrize("pattern", ["(", "no group", "(a)(b)"])
def test_patterns_that_give_no_label(pattern):
    with pytest.raises(ConfigError, match="pattern"):
        FromPattern(pattern=pattern)


def test_a_damaged_file_is_reported_by_its_position(tmp_path, source):
    (source / "benign" / "zz_planted").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00\x00\x00UL")
    result = write_labels(source, tmp_path / "out", "ImageComments", FromFolder(level=0))
    assert [number for number, _ in result.failed] == [3]
    assert "planted" not in result.summary()
    assert result.written == 3


def test_nothing_appears_when_a_label_does_not_fit(tmp_path, source):
    """The copies were written one by one: an error in the middle left half of them, and no sign of it."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(DataError):
        write_labels(source, tmp_path / "out", "PatientAge", FromFolder())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
