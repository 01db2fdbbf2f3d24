"""Names of cases and patients depend on their own record: removing a patient changes no other name."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import prepare_fixtures as make
import pytest

from meninx.core import files
from meninx.core.errors import DataError
from meninx.core.manifest import Manifest
from meninx.prepare.config import PrepareConfig
from meninx.prepare.stage import run


def without_rows(table: Path, drop: Callable[[dict[str, str]], bool]) -> None:
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    kept = [list(row.values()) for row in rows if not drop(row)]
    assert len(kept) < len(rows)
    make.write_table(table, list(rows[0]), kept)


def csv_source(root: Path) -> tuple[Path, Callable[[], None], dict[str, object]]:
    make.make_csv(root)
    return (
        root,
        lambda: without_rows(root / "labels.csv", lambda row: row["patient_id"] == "P0"),
        {"label_columns": ("effusion",)},
    )


def folder_source(root: Path) -> tuple[Path, Callable[[], None], dict[str, object]]:
    make.make_folder(root)
    return root, (root / "cat" / "0.png").unlink, {}


def pairs_source(root: Path) -> tuple[Path, Callable[[], None], dict[str, object]]:
    make.make_pairs(root)
    return root, (root / "images" / "case_0.nii.gz").unlink, {"mask_labels": ("a", "b")}


def npz_source(root: Path) -> tuple[Path, Callable[[], None], dict[str, object]]:
    root.mkdir()
    images, people, ill = make.picture(0, (8, 6, 7)), np.array(list("aabbccdd")), np.arange(8) % 2
    np.savez(root / "x.npz", images=images, patient_id=people, ill=ill)
    return (
        root,
        lambda: np.savez(root / "x.npz", images=images[2:], patient_id=people[2:], ill=ill[2:]),
        {"label_columns": ("ill",)},
    )


def medmnist_source(root: Path) -> tuple[Path, Callable[[], None], dict[str, object]]:
    make.make_npz(root)
    arrays = dict(np.load(root / "toymnist.npz"))
    fewer = {**arrays, "train_images": arrays["train_images"][1:], "train_labels": arrays["train_labels"][1:]}
    return root, lambda: np.savez(root / "toymnist.npz", **fewer), {}


def msd_source(root: Path) -> tuple[Path, Callable[[], None], dict[str, object]]:
    make.make_msd(root)
    table = json.loads((root / "dataset.json").read_text())
    table["training"].pop(0)
    return (
        root,
        lambda: files.write_text(root / "dataset.json", json.dumps(table)),
        {"mask_labels": ("liver", "cancer")},
    )


def dicom_source(root: Path) -> tuple[Path, Callable[[], None], dict[str, object]]:
    make.make_dicom(root / "north")
    return (
        root / "north",
        lambda: shutil.rmtree(root / "north" / "images" / "NORTH-0"),
        {"table": "../north.csv"},
    )


def series_source(root: Path) -> tuple[Path, Callable[[], None], dict[str, object]]:
    make.make_series(root, patients=3)
    settings = {"table": "labels.csv", "mask_column": "mask", "spatial_dims": 3}
    return root, lambda: shutil.rmtree(root / "images" / "Q0"), settings


SOURCES = {
    "csv": csv_source,
    "folder": folder_source,
    "pairs": pairs_source,
    "npz": npz_source,
    "npz (MedMNIST)": medmnist_source,
    "msd": msd_source,
    "dicom": dicom_source,
    "dicom (series)": series_source,
}


@pytest.mark.parametrize("name", SOURCES)
def test_removing_one_patient_changes_nothing_for_the_others(tmp_path, name):
    source, remove, settings = SOURCES[name](tmp_path / "in")
    config = PrepareConfig.of(reader=name.split(" ", 1)[0], name="toy", **settings)
    run(config, source, tmp_path / "all")
    remove()
    run(config, source, tmp_path / "fewer")
    before, after = Manifest.read(tmp_path / "all"), Manifest.read(tmp_path / "fewer")
    kept = {case.case_id: case for case in before.cases}
    assert 0 < len(after) < len(before)
    assert all(kept[case.case_id] == case for case in after.cases)
    assert all(before.image_digests()[case] == digest for case, digest in after.image_digests().items())
    gone = {case.patient_id for case in before.cases} - {case.patient_id for case in after.cases}
    assert len(gone) == 1


def test_the_dataset_says_whether_a_split_depends_on_other_patients(tmp_path):
    root = make.make_csv(tmp_path / "in")
    rules = {}
    for split in ("stable", "exact"):
        run(
            PrepareConfig.of(reader="csv", name="toy", label_columns=("effusion",), split=split),
            root,
            tmp_path / split,
        )
        rules[split] = Manifest.read(tmp_path / split).info.split_rule
    grown = PrepareConfig.of(
        reader="csv", name="toy", label_columns=("effusion",), split_from=str(tmp_path / "stable")
    )
    run(grown, root, tmp_path / "grown")
    published = PrepareConfig.of(reader="npz", name="toy", split="published")
    run(published, make.make_npz(tmp_path / "npz"), tmp_path / "published")
    assert rules == {"stable": "stable", "exact": "exact"}
    assert Manifest.read(tmp_path / "grown").info.split_rule == "exact"
    assert Manifest.read(tmp_path / "published").info.split_rule == "published"


def test_a_pseudonym_that_is_no_plain_name_is_replaced(tmp_path):
    rows = []
    for uid, person in enumerate(("=1+1", "$x", "NORTH-1", "NORTH-2"), start=1):
        make.write_dicom(
            tmp_path / "in" / f"{uid}.dcm", make.picture(uid), SOPInstanceUID=f"2.25.{uid}", PatientID=person
        )
        rows.append([f"2.25.{uid}", uid % 2])
    make.write_table(tmp_path / "in" / "labels.csv", ["SOPInstanceUID", "ill"], rows)
    run(PrepareConfig.of(reader="dicom", name="toy", table="labels.csv"), tmp_path / "in", tmp_path / "out")
    people = Manifest.read(tmp_path / "out").patients
    assert {"NORTH-1", "NORTH-2"} < set(people)
    assert sum(person.startswith("p") and len(person) == 17 for person in people) == 2
    with (tmp_path / "out" / "private" / "cases.csv").open(newline="") as stream:
        assert "'=1+1" in {row["patient"] for row in csv.DictReader(stream)}


def test_one_instance_of_two_patients_stops_the_work(tmp_path):
    """Which of the two was kept depended on who else was there."""
    for person in ("A", "B"):
        make.write_dicom(
            tmp_path / "in" / f"{person}.dcm",
            make.picture(ord(person)),
            SOPInstanceUID="2.25.7",
            PatientID=person,
        )
    make.write_table(tmp_path / "in" / "labels.csv", ["PatientID", "ill"], [["A", 0], ["B", 1]])
    with pytest.raises(DataError, match="each image once"):
        run(
            PrepareConfig.of(reader="dicom", name="toy", table="labels.csv"),
            tmp_path / "in",
            tmp_path / "out",
        )


def test_no_sentence_speaks_of_patients_where_the_source_names_none(tmp_path):
    root = make.make_folder(tmp_path / "in")
    shutil.copy(root / "cat" / "0.png", root / "dog" / "0.png")
    config = PrepareConfig.of(reader="folder", name="toy")
    with pytest.raises(DataError, match=r"each image once, got it again") as caught:
        run(config, root, tmp_path / "out")
    assert "patient" not in str(caught.value)
    result = run(PrepareConfig.of(reader="folder", name="toy", duplicates="drop"), root, tmp_path / "out")
    assert result.skipped == {"duplicate image": 2}
    assert "patients: not named by the source; images count" in result.summary()
    csv_result = run(
        PrepareConfig.of(reader="csv", label_columns=("effusion",)),
        make.make_csv(tmp_path / "b"),
        tmp_path / "out2",
    )
    assert "patients: 6" in csv_result.summary().splitlines()
    assert "known" not in csv_result.summary()
