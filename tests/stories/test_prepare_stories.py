"""Stories of use: from cleaned archives or a public set to a dataset that others can train on."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meninx.cli.app import run as command
from meninx.core.errors import DataError, PrivacyRefusal
from meninx.core.manifest import Manifest, TaskKind
from meninx.deid.config import DeidConfig
from meninx.deid.stage import run as deidentify
from meninx.imaging import load
from meninx.prepare.config import PrepareConfig
from meninx.prepare.stage import run

FINDINGS = ("effusion", "pneumothorax", "nodule")


@pytest.fixture(scope="module")
def clean(cohort, tmp_path_factory) -> Path:
    """The cohort's three archives, each de-identified with its own key."""
    root = tmp_path_factory.mktemp("clean")
    for hospital in cohort.config.hospitals:
        key = root / f"{hospital}.key"
        key.write_bytes(os.urandom(32))
        key.chmod(0o600)
        deidentify(
            DeidConfig(key=key, site=hospital, workers=1),
            cohort.root / hospital / "archive",
            root / "out" / hospital,
        )
    return root / "out"


def test_a_data_engineer_prepares_three_cleaned_archives_with_the_hospitals_own_label_tables(
    cohort, clean, tmp_path
):
    config = PrepareConfig.of(
        name="cohort",
        table=f"{cohort.root}/{{site}}/labels.csv",
        crosswalks=("{source}/private/crosswalk_uids.csv", "{source}/private/crosswalk_patients.csv"),
        label_columns=FINDINGS,
        size=(32,),
        split="exact",
    )
    result = run(config, clean, tmp_path / "data")
    data = Manifest.read(tmp_path / "data")
    assert set(result.sites) == set(cohort.config.hospitals)
    assert set(result.splits) == {"train", "valid", "test"}
    assert data.info.size == (32, 32)
    assert set(data.attribute("sex")) == {"F", "M"}
    assert not (np.isnan(data.targets()).any())
    identifiers = {
        row[name]
        for h in cohort.config.hospitals
        for row in _rows(cohort.root / h / "labels.csv")
        for name in list(row)[:3]
    }
    shared = "".join(
        (data.root / name).read_text() for name in ("manifest.csv", "dataset.toml", "prepare.json")
    )
    assert not any(len(text) > 4 and text in shared for text in identifiers)


def test_she_prepares_the_ct_series_of_the_same_archives_for_segmentation(cohort, clean, tmp_path):
    config = PrepareConfig.of(
        name="cohort",
        table=f"{cohort.root}/{{site}}/labels.csv",
        crosswalks=("{source}/private/crosswalk_uids.csv",),
        mask_column="mask",
        mask_labels=("organ", "lesion"),
        spatial_dims=3,
        spacing_mm=(4.0,),
        window=(-150.0, 200.0),
    )
    result = run(config, clean, tmp_path / "data")
    data = Manifest.read(tmp_path / "data")
    assert (result.cases, data.info.task, data.info.spacing_mm) == (3, TaskKind.SEGMENTATION, (4.0, 4.0, 4.0))
    for case in data.cases:
        image, mask = load.load(data.root / case.image), load.load(data.root / case.mask)
        assert image.size == mask.size
        organ = image.array[mask.array == 1].mean()
        assert organ > image.array[mask.array == 0].mean()


def test_a_colleague_who_forgets_to_de_identify_is_stopped(cohort, tmp_path):
    config = PrepareConfig.of(name="cohort", table="labels.csv", label_columns=FINDINGS)
    with pytest.raises(PrivacyRefusal, match="run `meninx deid` first"):
        run(config, cohort.root / "north", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_researcher_adds_next_years_patients_and_nobody_moves(tmp_path):
    root = tmp_path / "in"
    _public_set(root, patients=40)
    config = PrepareConfig.of(reader="csv", name="study", label_columns=("ill",))
    run(config, root, tmp_path / "first")
    _public_set(root, patients=60)
    run(config, root, tmp_path / "second")
    first, second = (
        {case.patient_id: case.split for case in Manifest.read(tmp_path / name).cases}
        for name in ("first", "second")
    )
    assert len(second) == 60
    assert all(second[patient] == split for patient, split in first.items())


def test_he_looks_before_he_writes_then_simulates_three_unequal_hospitals(tmp_path):
    root = tmp_path / "in"
    _public_set(root, patients=30)
    config = {
        "reader": "csv",
        "name": "study",
        "label_columns": ("ill",),
        "split": "exact",
        "site_mode": "iid",
    }
    federation = {"sites": ("a", "b", "c"), "site_fractions": (0.5, 0.33, 0.17)}
    dry = run(PrepareConfig.of(**config, **federation, dry_run=True), root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    real = run(PrepareConfig.of(**config, **federation), root, tmp_path / "out")
    assert dry.sites == real.sites == {"a": 30, "b": 20, "c": 10}


def test_a_newcomer_who_writes_into_the_source_is_stopped_and_loses_nothing(tmp_path, capsys):
    """The second run took its own images for a class, failed, and had by then deleted the manifest."""
    for kind in ("ill", "well"):
        (tmp_path / "src" / kind).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng([number, len(kind)]).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "src" / kind / f"{number}.png")
    words = ["prepare", str(tmp_path / "src"), "--reader", "folder", "--quiet"]
    assert command([*words[:2], str(tmp_path / "src" / "data"), *words[2:]]) == 2
    assert not (tmp_path / "src" / "data").exists()
    assert command([*words[:2], str(tmp_path / "data"), *words[2:]]) == 0
    assert (
        command([*words[:2], str(tmp_path / "data"), *words[2:], "--overwrite", "--classes", "ill", "absent"])
        == 2
    )
    assert Manifest.read(tmp_path / "data").info.labels == ("ill", "well")
    assert "apart from each other" in capsys.readouterr().err


def test_after_a_mistake_the_corrected_command_just_works(tmp_path, capsys):
    """What a failed run left behind refused the corrected one: other files, choose another folder."""
    _public_set(tmp_path / "in", patients=6)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "in" / "images" / "0_0.png")
    words = [
        "prepare",
        str(tmp_path / "in"),
        str(tmp_path / "data"),
        "--reader",
        "csv",
        "--label-columns",
        "ill",
        "--quiet",
    ]
    assert command([*words, "--strict"]) == 3
    assert command([*words, "--patient-column", "patent_id"]) == 3
    assert command(words) == 0
    assert len(Manifest.read(tmp_path / "data")) == 11
    assert "labels.csv, row 2" in capsys.readouterr().err


def test_a_setting_that_would_do_nothing_is_said_before_anything_is_made(tmp_path, capsys):
    """Another split was made in silence."""
    _public_set(tmp_path / "in", patients=6)
    words = [
        "prepare",
        str(tmp_path / "in"),
        str(tmp_path / "data"),
        "--reader",
        "csv",
        "--label-columns",
        "ill",
        "--quiet",
    ]
    assert command([*words, "--split-column", "sex"]) == 2
    assert "give split published" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_partners_table_cannot_name_a_label_that_runs(tmp_path, capsys):
    """MONAI runs a string that begins with a dollar sign when somebody reads the released bundle."""
    _public_set(tmp_path / "in", patients=6)
    table = tmp_path / "in" / "labels.csv"
    table.write_text(table.read_text().replace("ill", "$__import__('os').system('x')"))
    words = ["prepare", str(tmp_path / "in"), str(tmp_path / "data"), "--reader", "csv", "--quiet"]
    assert command([*words, "--label-columns", "$__import__('os').system('x')"]) == 2
    table.write_text(table.read_text().replace("$__import__('os').system('x')", "ill"))
    assert command([*words, "--label-columns", "ill"]) == 0
    for name in ("dataset.toml", "manifest.csv"):
        path = tmp_path / "data" / name
        path.write_text(path.read_text().replace("ill", "$x"))
    with pytest.raises(DataError, match="begins with"):
        Manifest.read(tmp_path / "data")
    assert "system" not in capsys.readouterr().err


def _public_set(root: Path, patients: int) -> None:
    (root / "images").mkdir(parents=True, exist_ok=True)
    rows = ["file,patient_id,ill,sex,age"]
    for patient in range(patients):
        for number in range(2):
            name = f"{patient}_{number}.png"
            pixels = np.random.default_rng(patient * 2 + number).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / name)
            rows.append(f"{name},PATIENT-{patient},{patient % 3 == 0:d},F,50")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_stranger_prepares_a_folder_of_pictures_with_a_table_as_a_spreadsheet_saved_it(
    tmp_path, monkeypatch, capsys
):
    """Semicolons, Latin-1, names without a suffix, a table beside the folder, a relative path."""
    monkeypatch.chdir(tmp_path)
    rows = ["Image ID;Patient;Diagnosis;Clinic"]
    random = np.random.default_rng(0)
    for n in range(24):
        path = tmp_path / "pictures" / "photos" / f"ISIC_{n:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
        rows.append(f"ISIC_{n:03d};P{n // 2};{('nevus', 'melanoma')[n % 2]};Zürich")
    (tmp_path / "lesions.csv").write_bytes("\n".join(rows).encode("latin-1"))
    words = ["prepare", "pictures", "data", "--table", "lesions.csv", "--split", "exact", "--quiet"]
    assert command(words) == 0
    said = capsys.readouterr().out
    assert "reader: csv" in said
    assert "class_column 'Diagnosis'" in said
    assert "cells separated by semicolons" in said
    data = Manifest.read(tmp_path / "data")
    assert (data.info.labels, data.info.channels, len(data.patients)) == (("melanoma", "nevus"), 3, 12)
    for n in range(3):
        (tmp_path / "pictures" / "photos" / f"ISIC_{n:03d}.jpg").unlink()
    assert command([*words[:2], "again", *words[3:]]) == 3
    assert "got 3 missing (12.5 %)" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
