"""Nothing to work on is said aloud, with the exit code of data, and leaves nothing behind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from meninx import api
from meninx.core import errors
from meninx.core.manifest import MANIFEST_NAME, Manifest, TaskKind
from meninx.deid.identity.keys import make_key
from meninx.synthetic import write_dataset


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A folder without files, beside a key."""
    (tmp_path / "source" / "deep").mkdir(parents=True)
    make_key(tmp_path / "site.key")
    return tmp_path / "source"


@pytest.mark.parametrize(
    "words",
    [
        ("deid", "SOURCE", "OUT", "--key", "KEY"),
        ("deid", "SOURCE", "OUT", "--key", "KEY", "--dry-run"),
        ("prepare", "SOURCE", "OUT"),
        ("prepare", "SOURCE", "OUT", "--reader", "dicom"),
        ("dicom", "export", "SOURCE", "OUT"),
        ("dicom", "restore", "SOURCE", "OUT"),
        ("dicom", "label", "SOURCE", "OUT", "--tag", "ImageComments", "--from-folder", "-1"),
        ("dicom", "folders", "SOURCE", "OUT", "--from-folder", "-1"),
        ("dicom", "table", "SOURCE", "OUT"),
    ],
)
def test_an_empty_source_is_an_error_of_data_that_leaves_nothing(invoke, empty, words):
    out = empty.parent / "out"
    places = {"SOURCE": empty, "OUT": out, "KEY": empty.parent / "site.key"}
    said = invoke(*(places.get(word, word) for word in words))
    assert (said.code, said.out) == (3, "")
    assert len(said.err.splitlines()) == 1
    assert not out.exists()


def test_a_source_without_dicom_is_refused_and_the_corrected_command_works(invoke, empty):
    out, key = empty.parent / "out", empty.parent / "site.key"
    (empty / "readme.txt").write_text("no image")
    said = invoke("deid", empty, out, "--key", key)
    assert (said.code, said.out) == (3, "")
    assert "no file of the source is DICOM (source); give the folder of the archive" in said.err
    assert not out.exists()


def _without(folder: Path, **splits: str) -> None:
    """Move the cases of some splits to others."""
    path = folder / MANIFEST_NAME
    text = path.read_text()
    for old, new in splits.items():
        text = text.replace(f",{old},", f",{new},")
    path.write_text(text)


@pytest.mark.torch
def test_an_empty_split_is_said_with_the_cases_of_the_others(invoke, tmp_path):
    data = write_dataset(tmp_path / "data", patients=12, size=16)
    count = len(data.split("test"))
    _without(data.root, train="test", valid="test")
    said = invoke("train", data.root, "--out", tmp_path / "runs")
    assert said.code == 3
    total = len(data)
    assert (
        f"the training split has no cases (manifest.csv); the dataset has test {total}: prepare it"
        in said.err
    )
    assert not (tmp_path / "runs").exists()
    assert count < total


@pytest.mark.torch
def test_splits_that_evaluation_needs_are_missed_before_the_training(invoke, tmp_path):
    data = write_dataset(tmp_path / "data", patients=12, size=16)
    _without(data.root, valid="train", test="train")
    said = invoke("train", data.root, "--recipe", "tiny", "--dry-run", "--out", tmp_path / "runs", "--quiet")
    assert said.code == 0, said.err
    notes = [line for line in said.out.splitlines() if line.startswith("note: ")]
    assert [note.partition(" has")[0] for note in notes] == [
        "note: the validation split",
        "note: the test split",
    ]


@pytest.mark.torch
def test_an_empty_split_is_a_warning_on_stderr_and_a_field_of_the_json(invoke, tmp_path):
    data = write_dataset(tmp_path / "data", patients=12, size=16)
    _without(data.root, valid="train", test="train")
    said = invoke("train", data.root, "--recipe", "tiny", "--dry-run", "--out", tmp_path / "runs", "--json")
    assert json.loads(said.out)["empty_splits"] == ["valid", "test"]
    for split in ("validation", "test"):
        assert f"warning: the {split} split has no cases" in said.err


def test_prepare_warns_of_an_empty_split_in_bold(invoke, pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    words = ("--reader", "folder", "--fractions", "0.5", "0", "0.5", "--size", "8")
    said = invoke("prepare", pictures, tmp_path / "out", *words, "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["empty_splits"] == ["valid"]
    assert "\x1b[1mwarning: the validation split has no cases" in said.err
    assert "test split" not in said.err
    words = (*words, "--overwrite")
    assert "warning" not in invoke("prepare", pictures, tmp_path / "out", *words, "--quiet").err


@pytest.mark.torch
@pytest.mark.parametrize("task", [TaskKind.MULTILABEL, TaskKind.SEGMENTATION])
def test_a_dataset_without_labels_is_refused_before_a_run_begins(invoke, tmp_path, task):
    data = write_dataset(tmp_path / "data", patients=8, size=16, task=task)
    bare = [
        _bare(case, labels=dict.fromkeys(case.labels), mask="") for case in Manifest.read(data.root).cases
    ]
    Manifest(data.root, data.info, tuple(bare)).write()
    said = invoke("train", data.root, "--out", tmp_path / "runs")
    assert said.code == 3
    assert re.search("no case of the training split has a (label|mask)", said.err)
    assert not (tmp_path / "runs").exists()


def _bare(case, **changes):
    from dataclasses import replace

    return replace(case, **changes)


@pytest.mark.torch
def test_python_takes_one_folder_and_one_number(tmp_path):
    """A path is no sequence of letters, and the delta of a sweep needs no epsilon of its own."""
    with pytest.raises(errors.UsageError, match="nowhere"):
        api.report(tmp_path / "nowhere", tmp_path / "page.html")
    with pytest.raises(errors.MeninxError) as caught:
        api.sweep(tmp_path / "nowhere", tmp_path / "out", epsilons=8.0, seeds=0, delta=1e-3)
    assert "is no prepared dataset" in str(caught.value)
