from __future__ import annotations

import csv
import json

import clean_dicoms
import numpy as np
import pytest

from meninx.core.errors import ConfigError, DataError, UsageError
from meninx.dicom.class_folders import class_folders, class_table
from meninx.dicom.label_rules import FromPattern, FromTable, FromTag
from meninx.imaging import png
from meninx.imaging.image import Image

PIXELS = np.arange(6, dtype=np.uint8).reshape(2, 3)
LABELS = {"x/a.dcm": "benign", "x/b.dcm": "malignant", "c": "benign", "d.dcm": ""}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    for number, (name, label) in enumerate(LABELS.items()):
        more = {"ImageComments": label} if label else {}
        clean_dicoms.write(folder / name, clean_dicoms.image(PIXELS, patient=f"P{number}", **more))
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.mark.parametrize("way", ["copy", "hardlink", "symlink"])
def test_by_an_attribute_and_back(tmp_path, source, way):
    before = clean_dicoms.tree(source)
    out = tmp_path / "out"
    result = class_folders(source, out, FromTag(tag="ImageComments"), way=way)
    assert (result.classes, result.missing, result.placed, result.passed_over) == (
        {"benign": 2, "malignant": 1},
        1,
        4,
        1,
    )
    assert clean_dicoms.tree(source) == before
    content = clean_dicoms.tree(out)
    assert content == {f"{label or 'missing'}/{name}": before[name] for name, label in LABELS.items()}
    one = out / "benign" / "x" / "a.dcm"
    assert one.is_symlink() == (way == "symlink")
    assert (one.stat().st_ino == (source / "x" / "a.dcm").stat().st_ino) == (way != "copy")
    again = class_folders(source, out, FromTag(tag="ImageComments"), way=way)
    assert (again.placed, again.unchanged) == (0, 4)

    table = class_table(out, tmp_path / "table.csv")
    assert (table.classes, table.missing) == (result.classes, result.missing)
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert {row["original"]: row["label"] for row in rows} == LABELS
    rule = FromTable(table=tmp_path / "renamed.csv", column="label", key="file")
    (tmp_path / "renamed.csv").write_text(
        "file,label\n" + "".join(f"{row['original']},{row['label']}\n" for row in rows)
    )
    back = class_folders(source, tmp_path / "back", rule)
    assert clean_dicoms.tree(tmp_path / "back") == content
    assert back.classes == result.classes


def test_pictures_are_sorted_by_their_side_cars_which_go_with_them(tmp_path):
    folder, out = tmp_path / "source", tmp_path / "out"
    for name, sex in (("a", "F"), ("b", "M"), ("c", None)):
        png.write(folder / f"{name}.png", Image(PIXELS[None]))
        if sex:
            model = {
                "00100040": {"vr": "CS", "Value": [sex]},
                "00100020": {"vr": "LO", "Value": [name.upper()]},
            }
            (folder / f"{name}.json").write_text(json.dumps({"attributes": model}))
    result = class_folders(folder, out, FromTag(tag="PatientSex"))
    assert (result.classes, result.missing, result.passed_over) == ({"F": 1, "M": 1}, 1, 0)
    assert sorted(clean_dicoms.tree(out)) == ["F/a.json", "F/a.png", "M/b.json", "M/b.png", "missing/c.png"]
    (tmp_path / "t.csv").write_text("PatientID,site\nA,north\nB,south\n")
    rule = FromTable(table=tmp_path / "t.csv", column="site", key="PatientID")
    assert class_folders(folder, tmp_path / "sites", rule).classes == {"north": 1, "south": 1}
    assert class_table(out, tmp_path / "table.csv").classes == result.classes


def test_names_of_folders_are_safe_and_their_own(tmp_path, source):
    rule = FromTable(table=tmp_path / "t.csv", column="label", key="PatientID")
    (tmp_path / "t.csv").write_text("PatientID,label\nP0,../up\nP1,a/b\n")
    result = class_folders(source, tmp_path / "out", rule)
    assert result.classes == {"_up": 1, "a_b": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source", "t.csv"]
    for labels in ("P0,a/b\nP1,a:b\n", "P0,Benign\nP1,benign\n", "P0,missing\n"):
        (tmp_path / "t.csv").write_text(f"PatientID,label\n{labels}")
        with pytest.raises(DataError, match="folder name of its own"):
            class_folders(source, tmp_path / "other", rule)


def test_refusals(tmp_path, source):
    rule = FromPattern(pattern="(x)")
    with pytest.raises(UsageError, match="apart from each other"):
        class_folders(source, source / "out", rule)
    with pytest.raises(ConfigError, match="did you mean 'copy'"):
        class_folders(source, tmp_path / "out", rule, way="copi")
    (tmp_path / "out" / "missing").mkdir(parents=True)
    (tmp_path / "out" / "missing" / "c").write_text("mine")
    with pytest.raises(UsageError, match="another file"):
        class_folders(source, tmp_path / "out", rule)
    assert (tmp_path / "out" / "missing" / "c").read_text() == "mine"
    class_folders(source, tmp_path / "out", rule, overwrite=True)
    assert (tmp_path / "out" / "missing" / "c").read_bytes() == (source / "c").read_bytes()
    (tmp_path / "table.csv").write_text("mine")
    with pytest.raises(UsageError):
        class_table(tmp_path / "out", tmp_path / "table.csv")


def test_a_copy_is_not_mistaken_for_a_link(tmp_path, source):
    out = tmp_path / "out"
    class_folders(source, out, FromTag(tag="ImageComments"), way="hardlink")
    with pytest.raises(UsageError):
        class_folders(source, out, FromTag(tag="ImageComments"), way="copy")
