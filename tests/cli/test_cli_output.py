"""stdout carries the result, stderr the progress; a dry run leaves nothing behind."""

from __future__ import annotations

import io
import json
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from meninx import api
from meninx.cli import console, doctor
from meninx.cli.console import Bar, Output, PlainLines
from meninx.core import errors, files
from meninx.core.progress import Silent
from meninx.deid.identity.keys import make_key
from meninx.synthetic import write_dataset

EIGHT = ("--privacy.epsilon", "8", "--privacy.delta", "1e-3", "--batch-size", "6")


def snapshot(root: Path) -> dict[str, tuple[int, int, str]]:
    """Every path below ``root`` with mode, time of change and content."""
    return {
        path.relative_to(root).as_posix(): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            files.digest(path) if path.is_file() else "",
        )
        for path in sorted(root.rglob("*"))
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A prepared dataset of twelve invented patients."""
    root = tmp_path_factory.mktemp("data") / "data"
    write_dataset(root, patients=12, size=16)
    return root


def test_the_result_is_on_stdout_and_the_progress_on_stderr(invoke, pictures, tmp_path):
    said = invoke("prepare", pictures, tmp_path / "data", "--reader", "folder")
    assert said.code == 0
    assert "cases: 12" in said.out
    assert "prepare images: 12/12" in said.err
    assert "prepare images" not in said.out


def test_quiet_leaves_the_result_alone(invoke, pictures, tmp_path):
    said = invoke("prepare", pictures, tmp_path / "data", "--reader", "folder", "--quiet")
    assert said.err == ""
    assert "cases: 12" in said.out


def test_json_is_one_object_on_stdout(invoke, pictures, tmp_path):
    said = invoke("prepare", pictures, tmp_path / "data", "--reader", "folder", "--json")
    table = json.loads(said.out)
    assert (table["cases"], table["out"]) == (12, str(tmp_path / "data"))
    assert said.err


@pytest.mark.parametrize("words", [("doctor", "--json"), ("demo", "out", "--dry-run", "--json")])
def test_every_json_is_json(invoke, words):
    said = invoke(*words)
    assert said.code == 0
    assert isinstance(json.loads(said.out), dict)
    assert said.err == ""


def test_an_error_with_json_leaves_stdout_empty(invoke, tmp_path):
    said = invoke("prepare", tmp_path / "none", tmp_path / "data", "--reader", "folder", "--json")
    assert (said.code, said.out) == (3, "")
    assert said.err.startswith("meninx: ")


def test_doctor_reports_versions_codecs_and_extras(invoke):
    table = json.loads(invoke("doctor", "--json").out)
    codecs = table["dicom codecs"]
    assert all(state.startswith("yes (") for state in codecs.values())
    assert table["machine"]["processors"] >= 1
    assert {"free memory", "free disk in this folder", "GPU"} <= set(table["machine"])
    assert table["packages"]["meninx"]
    known = metadata.metadata("meninx").get_all("Provides-Extra")
    assert set(table["extras"]) <= set(known)


@pytest.mark.parametrize(
    ("installed", "variable", "told"),
    [
        (False, None, "Flower is not installed"), (True, None, "on in this shell"),
        (True, "1", "on in this shell"), (True, "0", "off in this shell"),
    ],
)  # fmt: skip
def test_doctor_says_of_telemetry_what_is_true(monkeypatch, installed, variable, told):
    """Flower takes an unset variable for on."""
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object() if installed else None)
    monkeypatch.delenv("FLWR_TELEMETRY_ENABLED", raising=False)
    if variable is not None:
        monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", variable)
    assert doctor.examine()["network"]["Flower's telemetry"].startswith(told)


def test_recipes_are_listed_and_shown(invoke):
    listed = invoke("recipes").out.splitlines()
    assert len(listed) >= 10
    for line in listed:
        name, _, about = line.partition(" ")
        assert about.strip()
        assert tomllib.loads(invoke("recipes", name).out)


def test_a_dry_run_of_deid_leaves_no_file(invoke, cohort, tmp_path):
    make_key(tmp_path / "site.key")
    archive = cohort.root / "north"
    before = snapshot(tmp_path), snapshot(archive)
    said = invoke(
        "deid", archive / "archive", tmp_path / "clean", "--key", tmp_path / "site.key", "--dry-run"
    )
    assert said.code == 0
    assert "dry run" in said.out
    assert (snapshot(tmp_path), snapshot(archive)) == before


def test_a_dry_run_makes_no_key_either(invoke, cohort, tmp_path):
    archive = cohort.root / "north" / "archive"
    said = invoke(
        "deid", archive, tmp_path / "clean", "--key", tmp_path / "site.key", "--new-key", "--dry-run"
    )
    assert said.code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_prepare_leaves_no_file(invoke, pictures, tmp_path):
    before = snapshot(tmp_path)
    said = invoke("prepare", pictures, tmp_path / "data", "--reader", "folder", "--dry-run", "--json")
    assert json.loads(said.out)["cases"] == 12
    assert snapshot(tmp_path) == before


@pytest.mark.torch
@pytest.mark.parametrize("privacy", [(), EIGHT])
def test_a_dry_run_of_train_leaves_no_file_and_shows_the_plan(invoke, data, tmp_path, monkeypatch, privacy):
    monkeypatch.chdir(tmp_path)
    before = snapshot(data)
    said = invoke("train", data, "--recipe", "tiny", "--dry-run", "--json", *privacy)
    table = json.loads(said.out)
    assert table["parameters"] == 308115
    assert table["dry_run"] is True
    spent = table["privacy"] or {}
    assert (7.9 < spent.get("epsilon", 0) <= 8 and spent.get("noise_multiplier", 0) > 0) == bool(privacy)
    assert (snapshot(data), list(tmp_path.iterdir())) == (before, [])


def test_a_dry_run_of_the_demo_prints_its_commands_and_leaves_no_file(invoke, tmp_path):
    said = invoke("demo", tmp_path / "demo-out", "--dry-run")
    lines = said.out.splitlines()
    assert [line.split()[1] for line in lines] == [
        *3 * ["deid"],
        *3 * ["prepare"],
        *2 * ["federate"],
        *3 * ["evaluate"],
        "audit",
        "report",
    ]
    assert list(tmp_path.iterdir()) == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_display_fits_the_place(monkeypatch):
    monkeypatch.setattr(console.sys, "stderr", Terminal())
    assert isinstance(Output().progress(), Bar)
    monkeypatch.setattr(console.sys, "stderr", io.StringIO())
    assert isinstance(Output().progress(), PlainLines)
    assert isinstance(Output(quiet=True).progress(), Silent)


def test_the_bar_shows_loss_and_epsilon(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    screen = Terminal()
    monkeypatch.setattr(console.sys, "stderr", screen)
    bar = Bar()
    bar.start("training", 2)
    bar.advance(1, loss=0.5, epsilon=1.25)
    bar.note("a note [1]")
    bar.advance(1)
    bar.finish()
    assert "training" in screen.getvalue()
    assert "loss 0.5  epsilon 1.25" in screen.getvalue()
    assert "a note [1]" in screen.getvalue()


def test_plain_lines_come_every_tenth(capsys):
    lines = PlainLines()
    lines.start("reading", 1000)
    for _ in range(1000):
        lines.advance()
    lines.finish()
    assert len(capsys.readouterr().err.splitlines()) == 10


def test_verify_shows_every_check_and_ends_with_the_code_of_what_it_found(invoke, pictures, tmp_path):
    assert invoke("prepare", pictures, tmp_path / "data", "--reader", "folder", "--quiet").code == 0
    before = snapshot(tmp_path / "data")
    said = invoke("verify", tmp_path / "data", "--quiet")
    assert said.code == 0, said.err
    assert snapshot(tmp_path / "data") == before
    (tmp_path / "data" / "manifest.csv").write_text("nothing\n")
    said = invoke("verify", tmp_path / "data", "--json")
    table = json.loads(said.out)
    assert (said.code, table["exit_code"], table["ok"]) == (3, 3, False)
    assert said.err.splitlines()[-1].startswith("meninx: expected a folder as meninx wrote it, got ")
    with pytest.raises(errors.UsageError, match="meninx wrote no folder here"):
        api.verify(pictures)
    assert not api.verify(tmp_path / "data").ok
