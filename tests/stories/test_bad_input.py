"""Bad input, a full disk, a second process, Ctrl-C and kill -9: exit codes, messages, no loss.

No message holds a patient's value.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import forked_commands
import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from meninx.cli.app import run
from meninx.core import files
from meninx.core.manifest import Manifest, TaskKind
from meninx.core.run import Run
from meninx.imaging import load
from meninx.imaging.image import Image
from meninx.learn.dp_step import PrivateStep
from meninx.learn.trainer import Trainer
from meninx.synthetic import write_dataset

SECRET = "QUILLFEATHER-4711"  # stands for every identifier: patients, cases, files
FORM = re.compile(r"meninx: (expected .+, got .+|(?!expected).+) \(.+\)")
TRAIN = ("--recipe", "tiny", "--batch-size", "4", "--quiet")
NOISE = "--privacy.noise-multiplier 1 --privacy.delta 1e-3"
PRIVATE = (*TRAIN, *NOISE.split(), "--no-attack-risk")


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str


@pytest.fixture
def invoke(capfd) -> Callable[..., Said]:
    """A function that runs one command and checks that it shows no patient's value and no traceback."""

    def call(*words: object) -> Said:
        capfd.readouterr()
        code = run([str(word) for word in words])
        said = Said(code, *capfd.readouterr())
        assert SECRET not in said.out + said.err
        assert "Traceback" not in said.err
        return said

    return call


@pytest.fixture
def refused(invoke) -> Callable[..., Said]:
    """A function that runs one command which must end with ``code`` and a message of the house form."""

    def call(code: int, told: str, *words: object) -> Said:
        said = invoke(*words)
        assert said.code == code, said.err
        assert FORM.match(said.err.splitlines()[-1]), said.err
        assert re.search(told, said.err), said.err
        assert said.out == ""
        return said

    return call


def named_after_patients(manifest: Manifest) -> Manifest:
    """Return the dataset with the secret in every identifier and file name."""
    cases = []
    for number, case in enumerate(manifest.cases):
        moved = {}
        for kind in ("image", "mask"):
            name = getattr(case, kind)
            if name:
                moved[kind] = f"{kind}s/{SECRET}-{number:03d}{load.suffix(Path(name))}"
                (manifest.root / name).rename(manifest.root / moved[kind])
        cases.append(
            replace(case, case_id=f"{SECRET}-{number:03d}", patient_id=f"{SECRET}-{case.patient_id}", **moved)
        )
    named = Manifest(manifest.root, manifest.info, tuple(cases))
    named.write()
    return named


@pytest.fixture(scope="session")
def cases(tmp_path_factory) -> dict[str, Manifest]:
    """Three small datasets: radiographs with findings, radiographs with masks, volumes with label maps."""
    root = tmp_path_factory.mktemp("cases")
    return {
        "findings": named_after_patients(write_dataset(root / "findings", patients=12, size=32)),
        "masks": named_after_patients(
            write_dataset(root / "masks", task=TaskKind.SEGMENTATION, patients=6, size=32, prevalence=0.9)
        ),
        "volumes": named_after_patients(
            write_dataset(root / "volumes", task=TaskKind.SEGMENTATION, patients=6, size=16, spatial_dims=3)
        ),
    }


@pytest.fixture
def dataset(cases, tmp_path) -> Callable[[str], Manifest]:
    """A function that gives a copy of one of the datasets to spoil."""

    def copy(name: str) -> Manifest:
        shutil.copytree(cases[name].root, tmp_path / "data")
        return replace(cases[name], root=tmp_path / "data")

    return copy


def snapshot(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): files.digest(path)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def edit(data: Manifest, change: Callable[[list[dict[str, str]]], None], name: str = "manifest.csv") -> None:
    """Change the rows of a table."""
    path = data.root / name
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    change(rows)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def set_cell(row: int, column: str, value: str) -> Callable[[Manifest], None]:
    def spoil(data: Manifest) -> None:
        edit(data, lambda rows: rows[row].__setitem__(column, value))

    return spoil


def first(data: Manifest, split: str = "train") -> int:
    return next(number for number, case in enumerate(data.cases) if case.split == split)


def without_table(data: Manifest) -> None:
    (data.root / "manifest.csv").unlink()


def without_column(data: Manifest) -> None:
    path = data.root / "manifest.csv"
    path.write_text(path.read_text().replace("effusion", "efusion", 1))


def in_two_splits(data: Manifest) -> None:
    """Move one of two images of a patient to another split."""
    number = next(
        n
        for n, case in enumerate(data.cases)
        if n and data.cases[n - 1].patient_id == case.patient_id and case.split == "train"
    )
    set_cell(number, "split", "test")(data)


def at_two_sites(data: Manifest) -> None:
    number = next(
        n for n, case in enumerate(data.cases) if n and data.cases[n - 1].patient_id == case.patient_id
    )
    set_cell(number, "site", "elsewhere")(data)


def twice(data: Manifest) -> None:
    edit(data, lambda rows: rows.append(dict(rows[0])))


def one_image_twice(data: Manifest) -> None:
    edit(data, lambda rows: rows[1].__setitem__("image", rows[0]["image"]))


def shifted(data: Manifest) -> None:
    lines = (data.root / "manifest.csv").read_text().splitlines()
    lines[3] = f"{SECRET},{lines[3]}"
    (data.root / "manifest.csv").write_text("\n".join(lines) + "\n")


def cut_row(data: Manifest) -> None:
    lines = (data.root / "manifest.csv").read_text().splitlines()
    lines[3] = lines[3].rpartition(",")[0]
    (data.root / "manifest.csv").write_text("\n".join(lines) + "\n")


def in_latin(data: Manifest) -> None:
    (data.root / "manifest.csv").write_bytes("case_id,patient_id\nMüller,1\n".encode("latin-1"))


def no_toml(data: Manifest) -> None:
    (data.root / "dataset.toml").write_text("task = ")


def other_task(data: Manifest) -> None:
    path = data.root / "dataset.toml"
    path.write_text(path.read_text().replace("multilabel", "divination"))


def no_training(data: Manifest) -> None:
    edit(data, lambda rows: [row.__setitem__("split", "test") for row in rows])


def without_image(data: Manifest) -> None:
    (data.root / data.cases[first(data)].image).unlink()


def cut_image(data: Manifest) -> None:
    path = data.root / data.cases[first(data)].image
    path.write_bytes(path.read_bytes()[:200])


def image_of_another_size(data: Manifest) -> None:
    path = data.root / data.cases[first(data, "valid")].image
    Pillow.fromarray(np.zeros((20, 30), np.uint8)).save(path)


def volume_for_picture(data: Manifest) -> None:
    path = data.root / "images" / "volume.nii.gz"
    load.save(path, Image(np.ones((1, 32, 32, 4), np.int16)))
    set_cell(first(data), "image", "images/volume.nii.gz")(data)


def mask_of_another_shape(data: Manifest) -> None:
    path = data.root / data.cases[first(data)].mask
    shape = (1, 30, 32) if path.suffix == ".png" else (1, 16, 16, 7)
    load.save(path, Image(np.ones(shape, np.uint8)))


def without_mask(data: Manifest) -> None:
    (data.root / data.cases[first(data)].mask).unlink()


def nan_voxel(data: Manifest) -> None:
    path = data.root / data.cases[first(data)].image
    image = load.load(path)
    array = image.array.astype(np.float32)
    array[0, 3, 3, 3] = np.nan
    load.save(path, Image(array, image.affine))


TABLES = [
    (without_table, "this is no prepared dataset: manifest.csv is missing .*meninx prepare"),
    (without_column, r"expected a column 'effusion', got none \(.*manifest.csv, row 1\)"),
    (
        set_cell(4, "nodule", SECRET),
        r"expected a number or an empty cell, got text \(.*manifest.csv, row 6, column 'nodule'\)",
    ),
    (
        set_cell(4, "split", SECRET),
        r"expected one of train, valid, test, got another word \(.*row 6, column 'split'\)",
    ),
    (set_cell(4, "split", ""), r"got nothing \(.*row 6, column 'split'\)"),
    (
        in_two_splits,
        r"expected every patient in one split, got one patient in 'train' \(row \d+\) and 'test' \(row \d+\)",
    ),
    (at_two_sites, "expected every patient in one site"),
    (twice, r"expected each case_id once, got the same value in rows 2 and \d+ \(manifest.csv\)"),
    (one_image_twice, "expected each image once, got the same value in rows 2 and 3"),
    (shifted, r"the row does not have one cell per column \(.*manifest.csv, row 4\)"),
    (cut_row, r"the row does not have one cell per column \(.*manifest.csv, row 4\)"),
    (in_latin, r"expected a readable UTF-8 file, got UnicodeDecodeError \(.*manifest.csv\)"),
    (no_toml, "expected a dataset.toml as `meninx prepare` writes it"),
    (other_task, "expected a dataset.toml as `meninx prepare` writes it"),
    (no_training, "training split"),
]
PIXELS = [
    ("findings", without_image, r"expected a readable image, got no such file \(manifest.csv, row \d+\)"),
    (
        "findings",
        cut_image,
        r"expected a readable image, got an unreadable one \(\w+\) \(manifest.csv, row \d+\)",
    ),
    (
        "findings",
        image_of_another_size,
        r"expected images of size 32 x 32, got 20 x 30 \(manifest.csv, row \d+\)",
    ),
    ("findings", volume_for_picture, r"expected 2-D images, got 3 dimensions \(manifest.csv, row \d+\)"),
    (
        "masks",
        mask_of_another_shape,
        r"expected a mask of the image's size 32 x 32, got 30 x 32 \(manifest.csv, row \d+\)",
    ),
    ("masks", without_mask, r"expected a readable image, got no such file \(manifest.csv, row \d+\)"),
    (
        "volumes",
        mask_of_another_shape,
        r"expected a mask of the image's size .*, got 16 x 16 x 7 \(manifest.csv, row \d+\)",
    ),
    (
        "volumes",
        nan_voxel,
        r"expected finite voxel values, got NaN or infinity \(manifest.csv, row \d+\); repair",
    ),
]


def _id(value: object) -> str:
    return getattr(value, "__name__", "") if callable(value) else ""


@pytest.mark.parametrize(("spoil", "told"), TABLES, ids=_id)
def test_a_spoilt_table_is_refused_before_anything_is_written(refused, dataset, tmp_path, spoil, told):
    data = dataset("findings")
    spoil(data)
    before = snapshot(tmp_path)
    refused(3, told, "train", data.root, "--out", tmp_path / "runs", *TRAIN)
    if spoil is not no_training:
        assert snapshot(tmp_path) == before


@pytest.mark.parametrize(("name", "spoil", "told"), PIXELS, ids=_id)
def test_a_spoilt_image_stops_training_at_its_row_and_the_dataset_stays(
    refused, dataset, tmp_path, name, spoil, told
):
    data = dataset(name)
    spoil(data)
    before = snapshot(data.root)
    model = ("--model", "resnet9-small" if name == "findings" else "unet-small")
    refused(3, told, "train", data.root, "--out", tmp_path / "runs", *TRAIN, *model)
    assert snapshot(data.root) == before


def test_a_folder_that_is_not_there(refused, invoke, tmp_path):
    missing = tmp_path / "none"
    refused(3, "is missing", "train", missing)
    refused(
        3,
        "there is no such file or folder",
        "prepare",
        missing,
        tmp_path / "data",
        "--reader",
        "folder",
    )
    refused(2, "this is no run folder: there is no such folder", "evaluate", missing)
    refused(3, "there is no such file or folder", "report", missing, "--out", tmp_path / "report.html")
    for words in (
        ("export",),
        ("restore",),
        ("label", "--tag", "BodyPartExamined", "--from-folder", "-1"),
        ("folders", "--from-folder", "-1"),
    ):
        refused(
            3,
            "there is no such file or folder",
            "dicom",
            words[0],
            missing,
            tmp_path / "out",
            *words[1:],
        )
    refused(3, "there is no such file or folder", "dicom", "table", missing, tmp_path / "table.csv")
    (tmp_path / "site.key").write_bytes(bytes(range(32)))
    (tmp_path / "site.key").chmod(0o600)
    refused(3, "folder", "deid", missing, tmp_path / "clean", "--key", tmp_path / "site.key")
    assert [path.name for path in tmp_path.iterdir()] == ["site.key"]


# privacy guards


@pytest.mark.parametrize(
    ("code", "told", "words"),
    [
        (
            4,
            r"expected an epsilon that .* reaches in 12 steps, got 1e-06",
            "--privacy.epsilon 1e-6 --privacy.delta 1e-6",
        ),
        (4, "no batch statistics", f"{NOISE} --model monai:DenseNet121"),
        (4, "expected delta < 1 / n_units_declared", "--privacy.noise-multiplier 1 --privacy.delta 0.5"),
        (4, "class weights computed from private labels", f"{NOISE} --class-weights balanced"),
        (
            2,
            r"expected batch_size <= 6 patients, got 100 .*give --batch-size 6 or less",
            f"{NOISE} --batch-size 100",
        ),
        (2, "there is no privacy budget .*; give epsilon, or noise_multiplier", "--privacy.delta 1e-3"),
    ],
)
def test_a_privacy_guard_says_no_and_what_would_do(refused, dataset, tmp_path, code, told, words):
    data, batch = dataset("findings"), () if "--batch-size" in words else ("--batch-size", "4")
    train = (
        "train",
        data.root,
        "--out",
        tmp_path / "runs",
        "--recipe",
        "tiny",
        "--steps",
        "12",
        "--quiet",
        *batch,
    )
    said = refused(code, told, *train, *words.split())
    assert said.err.count("\n") == 1
    assert not list((tmp_path / "runs").glob("*/release/*"))


def test_deid_does_nothing_without_a_good_key(refused, cohort, tmp_path):
    archive, clean = cohort.root / "north" / "archive", tmp_path / "clean"
    refused(4, "there is no key .*--key FILE --new-key", "deid", archive, clean)
    refused(4, "there is no key .*--key FILE --new-key", "deid", archive, clean, "--new-key")
    refused(
        4,
        "expected a readable key file of at most 1,048,576 bytes, got none .*--new-key",
        "deid",
        archive,
        clean,
        "--key",
        tmp_path / "none.key",
    )
    refused(
        4, "expected a readable key file", "deid", archive, clean, "--key", tmp_path / "none.key", "--dry-run"
    )
    (tmp_path / "short.key").write_bytes(b"secret")
    told = r"only its owner can read and write, got mode 0644 \(key\); run `chmod 600 short.key`"
    (tmp_path / "short.key").chmod(0o644)
    refused(4, told, "deid", archive, clean, "--key", tmp_path / "short.key")
    (tmp_path / "short.key").chmod(0o600)
    zeros = tmp_path / "zeros.key"
    zeros.write_bytes(bytes(64))
    zeros.chmod(0o600)
    refused(4, "a random key, got one of 1 distinct bytes", "deid", archive, clean, "--key", zeros)
    refused(
        4,
        "expected a key of at least 32 bytes, got 6 bytes",
        "deid",
        archive,
        clean,
        "--key",
        tmp_path / "short.key",
    )
    told = "expected a new file for the key, .*leave out --new-key"
    refused(4, told, "deid", archive, clean, "--key", tmp_path / "short.key", "--new-key")
    assert (tmp_path / "short.key").read_bytes() == b"secret"
    assert not clean.exists()


def test_no_key_is_made_for_a_run_that_is_refused(refused, tmp_path):
    source, mine = tmp_path / "in", tmp_path / "mine"
    for folder in (source, mine):
        folder.mkdir()
        (folder / "thesis.txt").write_text("years of work")
    key = tmp_path / "site.key"
    refused(2, "the output folder holds other files", "deid", source, mine, "--key", key, "--new-key")
    refused(
        3,
        "there is no such file or folder .*; check the path",
        "deid",
        tmp_path / "none",
        tmp_path / "out",
        "--key",
        key,
        "--new-key",
    )
    refused(
        4,
        "apart from what it protects",
        "deid",
        source,
        tmp_path / "out",
        "--key",
        tmp_path / "out" / "k",
        "--new-key",
    )
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", "mine", "thesis.txt", "thesis.txt"]


def test_a_dry_run_before_there_is_a_key_counts_what_the_run_will_do(invoke, tmp_path, cohort):
    source = tmp_path / "in"
    source.mkdir()
    for number, path in enumerate(sorted((cohort.root / "north" / "archive").rglob("*"))):
        if path.is_file() and number % 5 == 0:
            shutil.copy(path, source / f"{number}")
    words = (
        "deid",
        source,
        tmp_path / "out",
        "--key",
        tmp_path / "site.key",
        "--new-key",
        "--workers",
        "1",
        "--quiet",
        "--json",
    )
    dry = invoke(*words, "--dry-run")
    assert dry.code == 0, dry.err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    real = invoke(*words)
    counts = ("files_read", "patients", "studies", "series", "quarantined", "actions")
    assert {name: json.loads(dry.out)[name] for name in counts} == {
        name: json.loads(real.out)[name] for name in counts
    }
    said = invoke(
        "deid", source, tmp_path / "out", "--key", tmp_path / "site.key", "--site", "other", "--quiet"
    )
    assert (said.code, "--overwrite to replace" in said.err) == (2, True)


def test_prepare_takes_no_patient_who_was_not_de_identified(refused, cohort, tmp_path):
    words = ("--table", "../labels.csv", "--label-columns", "effusion")
    refused(4, "meninx deid", "prepare", cohort.root / "north" / "archive", tmp_path / "data", *words)
    assert not (tmp_path / "data").exists()


def test_a_private_run_that_lost_its_key_or_whose_ledger_was_changed_does_not_go_on(
    refused, invoke, dataset, tmp_path
):
    data = dataset("findings")
    assert invoke("train", data.root, "--out", tmp_path / "runs", *PRIVATE, "--steps", "2").code == 0
    folder = (tmp_path / "runs" / "latest").resolve()
    again = ("train", data.root, "--resume", folder, "--quiet")
    ledger = folder / "private" / "ledger.jsonl"
    whole = ledger.read_text()
    ledger.write_text(whole.splitlines(keepends=True)[0])
    refused(4, "the ledger lacks the entry", *again)
    ledger.write_text(whole)
    (folder / "private" / "keys" / "noise.key").unlink()
    refused(4, "got no secret keys", *again)


# prepare


def table_of(root: Path, rows: int = 6, **columns: Callable[[int], str]) -> Path:
    """Write a folder with a label table and one picture a row, each of its own patient."""
    (root / "images").mkdir(parents=True)
    lines = [
        {"file": f"{SECRET}-{n}.png", "patient_id": f"{SECRET}-{n}", "ill": str(n % 2)} for n in range(rows)
    ]
    for number, line in enumerate(lines):
        line |= {name: value(number) for name, value in columns.items()}
        pixels = np.random.default_rng(number).integers(0, 256, (12, 12), dtype=np.uint8)
        Pillow.fromarray(pixels).save(root / "images" / f"{SECRET}-{number}.png")
    with (root / "labels.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return root


CSV = ("--reader", "csv", "--label-columns", "ill", "--quiet")


@pytest.mark.parametrize(
    ("told", "words", "columns"),
    [
        (r"no column names the images \(labels.csv, row 1\)", (), {"rename": "file"}),
        (r"there is no column 'ill' \(labels.csv, row 1\)", (), {"rename": "ill"}),
        (r"\(labels.csv, row 3, column 'ill'\)", (), {"ill": lambda n: SECRET if n == 1 else "0"}),
        (
            r"labels.csv, row 3, column 'patient_id'",
            (),
            {"patient_id": lambda n: "" if n == 1 else f"{SECRET}-{n}"},
        ),
        (
            "expected every patient in one|expected each patient|one patient",
            ("--split", "published", "--split-column", "part"),
            {
                "patient_id": lambda n: f"{SECRET}-{n // 2}",
                "part": lambda n: ("train", "valid", "test")[n % 3],
            },
        ),
    ],
)
def test_a_wrong_table_stops_prepare_at_file_column_and_row(refused, tmp_path, told, words, columns):
    renamed = columns.pop("rename", "")
    root = table_of(tmp_path / "in", **columns)
    if renamed:
        text = (root / "labels.csv").read_text()
        (root / "labels.csv").write_text(text.replace(renamed, f"{renamed}x", 1))
    refused(3, told, "prepare", root, tmp_path / "data", *CSV, *words)
    assert not (tmp_path / "data" / "manifest.csv").exists()


def test_the_same_image_of_two_patients_stops_prepare(refused, invoke, tmp_path):
    root = table_of(tmp_path / "in")
    shutil.copy(root / "images" / f"{SECRET}-0.png", root / "images" / f"{SECRET}-3.png")
    words = ("prepare", root, tmp_path / "data", *CSV)
    refused(3, r"one image for two patients: labels.csv, row \d and labels.csv, row \d .*duplicates", *words)
    said = invoke(*words, "--duplicates", "drop", "--overwrite", "--json")
    assert json.loads(said.out)["cases"] == 4


def test_a_mask_of_another_shape_stops_prepare(refused, tmp_path):
    root = table_of(tmp_path / "in", mask=lambda n: f"{SECRET}-{n}-mask.png")
    for number in range(6):
        size = (12, 12) if number != 2 else (11, 12)
        Pillow.fromarray(np.eye(*size, dtype=np.uint8)).save(root / f"{SECRET}-{number}-mask.png")
    words = ("--reader", "csv", "--mask-column", "mask", "--task", "segmentation", "--quiet")
    told = r"expected a mask of the image's shape, got 11x12 for 12x12 \(labels.csv, row 4\)"
    refused(3, told, "prepare", root, tmp_path / "data", *words)


def test_unusable_images_are_counted_and_left_out_or_stop_a_strict_run(refused, invoke, tmp_path):
    root = table_of(tmp_path / "in")
    (root / "images" / f"{SECRET}-1.png").unlink()
    path = root / "images" / f"{SECRET}-2.png"
    path.write_bytes(path.read_bytes()[:60])
    before = snapshot(root)
    words = ("prepare", root, tmp_path / "data", *CSV, "--json")
    refused(3, r"at most 5 % of 6 images.*1 missing \(16.7 %\) \(first labels.csv, row 3\)", *words)
    said = invoke(*words, "--allow-missing", "0.2")
    assert said.code == 0
    table = json.loads(said.out)
    assert (table["cases"], table["skipped"]) == (4, {"missing file": 1, "unreadable image": 1})
    refused(
        3,
        r"expected usable data, got .* \(labels.csv, row \d\)",
        "prepare",
        root,
        tmp_path / "strict",
        *CSV,
        "--strict",
    )
    assert snapshot(root) == before


def test_nan_voxels_are_counted_and_left_out_or_stop_a_strict_run(refused, invoke, tmp_path):
    for kind in ("images", "labels"):
        for number in range(4):
            array = np.random.default_rng(number).normal(size=(1, 8, 8, 8)).astype(np.float32)
            array[0, 1, 1, 1] = np.nan if number == 2 else 0
            value = array if kind == "images" else (np.nan_to_num(array) > 1).astype(np.uint8)
            load.save(tmp_path / "in" / kind / f"{SECRET}-{number}.nii.gz", Image(value))
    words = ("prepare", tmp_path / "in")
    said = invoke(*words, tmp_path / "data", "--reader", "pairs", "--json", "--quiet")
    assert (said.code, json.loads(said.out)["skipped"]) == (0, {"NaN or infinite pixels": 1})
    refused(
        3,
        "got NaN or infinite pixels",
        *words,
        tmp_path / "strict",
        "--reader",
        "pairs",
        "--strict",
        "--quiet",
    )


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
@pytest.mark.parametrize("verb", ["prepare", "demo", "deid"])
def test_a_folder_with_other_files_is_never_written_to(refused, cohort, tmp_path, verb, more):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    (tmp_path / "site.key").write_bytes(bytes(range(32)))
    (tmp_path / "site.key").chmod(0o600)
    words = {
        "prepare": ("prepare", table_of(tmp_path / "in"), mine, *CSV),
        "demo": ("demo", mine),
        "deid": ("deid", cohort.root / "north" / "archive", mine, "--key", tmp_path / "site.key", "--quiet"),
    }
    refused(2, "(holds|with) other files", *words[verb], *more)
    assert [path.name for path in mine.rglob("*")] == ["thesis.txt"]
    assert (mine / "thesis.txt").read_text() == "years of work"


# evaluate and report


def test_a_damaged_checkpoint_or_summary_is_said_so(refused, invoke, dataset, tmp_path):
    data = dataset("findings")
    assert invoke("train", data.root, "--out", tmp_path / "runs", *TRAIN, "--steps", "1").code == 0
    folder = (tmp_path / "runs" / "latest").resolve()
    for path in (folder / "private" / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:500])
    refused(3, "the checkpoint is damaged or not from meninx", "evaluate", folder)
    (folder / "privacy.json").write_text("{")
    refused(3, "JSON", "report", folder, "--out", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


# artefacts with foreign bytes


FOREIGN = b"\xff\xfe\x80\x00" * 8
SPOILT = {
    "no text": FOREIGN,
    "a list": b"[1, 2, 3]\n",
    "text": b"no JSON and no TOML\n",
    "deep": b"[" * 100_000,
}


@pytest.fixture(scope="module")
def finished(cases, tmp_path_factory) -> Path:
    """A private run with its evaluation, beside a copy of its dataset; a test takes a copy of the folder."""
    root = tmp_path_factory.mktemp("finished")
    shutil.copytree(cases["findings"].root, root / "data")
    assert run(["train", str(root / "data"), "--out", str(root / "runs"), *PRIVATE, "--steps", "2"]) == 0
    return (root / "runs" / "latest").resolve()


@pytest.fixture
def spoilable(finished, tmp_path) -> Path:
    """A copy of the finished run whose dataset lies beside it."""
    shutil.copytree(finished, tmp_path / finished.name)
    return tmp_path / finished.name


@pytest.mark.parametrize(
    ("verb", "name", "content"),
    [
        *(("evaluate", "private/data.json", content) for content in ("no text", "text", "deep")),
        *(("resume", "private/data.json", content) for content in ("no text", "text", "deep")),
        ("resume", "config.toml", "no text"),
        ("report", "config.toml", "text"),
        ("report", "privacy.json", "text"),
    ],
)
def test_foreign_bytes_in_an_artefact_are_refused_with_the_name_of_the_file(
    refused, finished, spoilable, tmp_path, verb, name, content
):
    (spoilable / name).write_bytes(SPOILT[content])
    words = {
        "evaluate": ("evaluate", spoilable, "--draws", "20", "--quiet"),
        "report": ("report", spoilable, "--out", tmp_path / "page.html", "--quiet"),
        "resume": ("train", finished.parents[1] / "data", "--resume", spoilable, "--quiet"),
    }[verb]
    code = (
        4 if (verb, name) == ("evaluate", "private/data.json") else 3
    )  # the record is not the one the run was made with
    refused(code, Path(name).name, *words)


# the disk, other processes, signals


def full_after(monkeypatch, count: int) -> None:
    """Let the disk be full from the call of fsync after ``count`` of them."""
    real, calls = os.fsync, []

    def sync(handle: int) -> None:
        calls.append(handle)
        if len(calls) > count:
            raise OSError(errno.ENOSPC, "No space left on device", f"/data/{SECRET}")
        real(handle)

    monkeypatch.setattr(os, "fsync", sync)


@pytest.mark.parametrize("count", [0, 5, 7, 9, 11, 14])
def test_a_full_disk_stops_a_private_run_which_then_goes_on_as_if_nothing_had_been(
    refused, invoke, dataset, tmp_path, monkeypatch, count
):
    data = dataset("findings")
    words = (*PRIVATE, "--steps", "4", "--eval-every", "2", "--deterministic", "--threads", "1")
    full_after(monkeypatch, count)
    refused(3, "got no space left .*free some space", "train", data.root, "--out", tmp_path / "runs", *words)
    monkeypatch.undo()
    assert not list(tmp_path.rglob(".partial-*"))
    assert invoke("train", data.root, "--out", tmp_path / "whole", *words).code == 0
    whole = Run((tmp_path / "whole" / "latest").resolve())
    if not (tmp_path / "runs" / "latest").exists():
        assert not (tmp_path / "runs").exists()  # no step was taken, so the start left no trace
        return
    broken = Run((tmp_path / "runs" / "latest").resolve())
    assert invoke("train", data.root, "--resume", broken.root, "--quiet").code == 0
    assert same_weights(broken, whole)
    assert privacy_of(broken) == privacy_of(whole)


@pytest.mark.parametrize(
    ("count", "more"),
    [(0, ()), (0, ("--resume",)), (0, ("--overwrite",)), *((n, ("--resume",)) for n in (1, 2, 5))],
)
def test_a_full_disk_stops_prepare_which_then_goes_on(refused, invoke, tmp_path, monkeypatch, count, more):
    root = table_of(tmp_path / "in")
    words = ("prepare", root, tmp_path / "data", *CSV)
    full_after(monkeypatch, count)
    refused(3, "got no space left", *words)
    monkeypatch.undo()
    assert not (tmp_path / "data" / "manifest.csv").exists()
    assert json.loads(invoke(*words, *more, "--json").out)["cases"] == 6
    assert len(Manifest.read(tmp_path / "data")) == 6


@pytest.fixture
def held() -> Callable[[Path], object]:
    """A function that lets another process hold a lock file until the test ends."""
    holders = []

    def hold(path: Path) -> None:
        script = (
            "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, 2); print('held', "
            "flush=True); input()"
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        holder = subprocess.Popen([sys.executable, "-c", script, str(path)], **pipes)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holders.append(holder)

    yield hold
    for holder in holders:
        holder.communicate("\n")


def test_a_second_process_on_the_same_folder_is_refused_and_disturbs_nothing(
    refused, invoke, dataset, tmp_path, held
):
    data = dataset("findings")
    assert invoke("train", data.root, "--out", tmp_path / "runs", *TRAIN, "--steps", "1").code == 0
    folder = (tmp_path / "runs" / "latest").resolve()
    held(folder / "private" / "lock")
    before = snapshot(folder)
    refused(
        3,
        "another process writes to this folder",
        "train",
        data.root,
        "--resume",
        folder,
    )
    assert snapshot(folder) == before
    root = table_of(tmp_path / "in")
    assert invoke("prepare", root, tmp_path / "prepared", *CSV).code == 0
    held(tmp_path / "prepared" / "private" / "lock")
    before = snapshot(tmp_path / "prepared")
    refused(
        3, "another process writes to this folder", "prepare", root, tmp_path / "prepared", *CSV, "--resume"
    )
    assert snapshot(tmp_path / "prepared") == before


def privacy_of(run: Run) -> dict[str, object]:
    """Return privacy.json without what differs between equal runs: identity, time, repeated steps."""
    return {**run.read_json("privacy.json"), "origin": None, "ledger": None}


def same_weights(one: Run, other: Run) -> bool:
    models = [
        torch.load(run.release / "bundle" / "models" / "model.pt", weights_only=True) for run in (one, other)
    ]
    return models[0].keys() == models[1].keys() and all(
        torch.equal(models[0][name], models[1][name]) for name in models[0]
    )


def test_ctrl_c_saves_the_state_and_the_run_goes_on(invoke, dataset, tmp_path):
    data = dataset("findings")
    words = (
        "--recipe",
        "tiny",
        "--batch-size",
        "4",
        "--steps",
        "12",
        "--eval-every",
        "4",
        "--deterministic",
        "--threads",
        "1",
    )
    step = Trainer._step

    def slow(*given: object) -> object:
        time.sleep(0.1)  # so that the signal comes before the last step
        return step(*given)

    command = forked_commands.start(
        tmp_path, "train", data.root, "--out", tmp_path / "runs", *words,
        prepare=lambda: setattr(Trainer, "_step", slow),
    )  # fmt: skip
    command.says("training")
    command.send(signal.SIGINT)
    assert command.wait() == 130
    assert command.out.read_text() == ""
    err = command.err.read_text()
    last = err.splitlines()[-1]
    assert re.match(
        r"meninx: training stopped by the user; state saved after step \d+; go on with --resume ", last
    )
    assert SECRET not in err
    stopped = Run((tmp_path / "runs" / "latest").resolve())
    assert 0 < len(stopped.metrics_path.read_text().splitlines()) < 12
    assert invoke("train", data.root, "--resume", stopped.root, "--quiet").code == 0
    assert invoke("train", data.root, "--out", tmp_path / "whole", *words, "--quiet").code == 0
    whole = Run((tmp_path / "whole" / "latest").resolve())
    assert same_weights(stopped, whole)
    assert stopped.metrics_path.read_text() == whole.metrics_path.read_text()


def test_a_run_killed_in_the_middle_of_a_step_spends_no_more_and_ends_the_same(invoke, dataset, tmp_path):
    """The worst moment: the step is in the ledger, its gradient not yet in the weights."""
    data = dataset("findings")
    words = (*PRIVATE, "--steps", "8", "--eval-every", "2", "--deterministic", "--threads", "1")
    enter = PrivateStep._enter

    def killed(step: PrivateStep, number: int, state: str) -> None:
        enter(step, number, state)
        if number == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    command = forked_commands.start(
        tmp_path, "train", data.root, "--out", tmp_path / "runs", *words,
        prepare=lambda: setattr(PrivateStep, "_enter", killed),
    )  # fmt: skip
    assert command.wait() == -signal.SIGKILL
    broken = Run((tmp_path / "runs" / "latest").resolve())
    assert not (broken.root / "privacy.json").exists()
    assert not list(broken.release.iterdir())
    assert invoke("train", data.root, "--resume", broken.root, "--quiet").code == 0
    assert invoke("train", data.root, "--out", tmp_path / "whole", *words).code == 0
    whole = Run((tmp_path / "whole" / "latest").resolve())
    assert privacy_of(broken) == privacy_of(whole)
    assert broken.read_json("privacy.json")["steps"] == 8
    assert same_weights(broken, whole)
    assert broken.metrics_path.read_text() == whole.metrics_path.read_text()


def test_a_finished_run_is_not_trained_on_by_resume(invoke, dataset, tmp_path):
    data = dataset("findings")
    assert invoke("train", data.root, "--out", tmp_path / "runs", *PRIVATE, "--steps", "2").code == 0
    folder = (tmp_path / "runs" / "latest").resolve()
    before = snapshot(folder)
    said = invoke("train", data.root, "--resume", folder, "--quiet", "--json")
    assert (said.code, json.loads(said.out)["steps"]) == (0, 2)
    assert snapshot(folder) == before
