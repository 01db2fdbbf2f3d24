"""From a hospital's own DICOM to a report in three commands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import meninx
from meninx.cli.app import run
from meninx.core.errors import UsageError
from meninx.core.manifest import DatasetInfo, TaskKind
from meninx.core.result import Result
from meninx.synthetic import PhantomConfig, write_archives
from meninx.train.config import EvaluateConfig

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `archive/` and `labels.csv` of one hospital; commands run in it."""
    cohort = PhantomConfig(patients=24, hospitals=("north",), size=64, ct_patients=0, ct_size=(16, 16, 8))
    write_archives(cohort, tmp_path / "hospitals")
    monkeypatch.chdir(tmp_path / "hospitals" / "north")
    return tmp_path / "hospitals" / "north"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands() -> list[str]:
    """The three commands of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.partition("three commands")[2].partition("```console\n")[2].partition("```")[0]
    return [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def test_three_commands_lead_from_dicom_to_a_report(hospital, capsys):
    lines = commands()
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line)[1:]
        more = ["--steps", "2", "--recipe", "tiny", "--batch-size", "4"] if words[0] == "train" else []
        assert run([*words, *more]) == 0, capsys.readouterr().err
    page = (hospital / "report.html").read_text(encoding="utf-8")
    for told in ("De-identification", "north", "epsilon", "test"):
        assert told in page
    assert "auroc" in capsys.readouterr().out


@pytest.mark.slow
def test_json_of_a_run_with_a_report_is_one_value(hospital, capsys):
    deid, prepare, _ = (shlex.split(line)[1:] for line in commands())
    assert (run(deid), run(prepare)) == (0, 0)
    capsys.readouterr()
    train = [
        "train",
        "data",
        "--recipe",
        "tiny",
        "--steps",
        "2",
        "--report",
        "page.html",
        "--json",
        "--quiet",
    ]
    assert run(train) == 0
    trained, measured, reported = json.loads(capsys.readouterr().out)
    assert trained["out"]
    assert measured["split"] == "test"
    assert reported["out"].endswith("page.html")


@dataclass(frozen=True, kw_only=True)
class Made(Result):
    """A result of a stage that does nothing."""


def calls_of(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> list[tuple[str, object]]:
    """The stages that something calls, in order, with their arguments apart from the progress."""
    seen: list[tuple[str, object]] = []
    for name in ("train.stage", "train.evaluate", "report.stage"):

        def called(*given: object, _name: str = name, **named: object) -> Made:
            seen.append((_name, (given, {key: value for key, value in named.items() if key != "progress"})))
            return Made(out=Path("made", _name))

        monkeypatch.setattr(f"meninx.{name}.run", called)
    act()
    return seen


def test_the_command_and_the_function_do_the_same(folder, monkeypatch):
    (folder / "data").mkdir()
    (folder / "clean").mkdir()
    info = DatasetInfo(name="d", task=TaskKind.MULTILABEL, labels=("effusion",))
    (folder / "data" / "dataset.toml").write_text(info.to_toml())
    (folder / "data" / "manifest.csv").touch()
    words = "train data --recipe tiny --steps 2 --device cpu --report page.html --archives clean --out to"

    def function() -> None:
        settings = {"steps": 2, "device": "cpu"}
        done = meninx.train_and_report(
            "data", "page.html", archives=["clean"], recipe="tiny", out="to", **settings
        )
        names = ("train.stage", "train.evaluate", "report.stage")
        assert [item.out.name for item in done.results] == list(names)

    by_command = calls_of(monkeypatch, lambda: run(words.split()))
    by_function = calls_of(monkeypatch, function)
    assert by_command == by_function
    assert [name for name, _ in by_command] == ["train.stage", "train.evaluate", "report.stage"]
    assert by_command[1][1][0][0] == EvaluateConfig(device="cpu")
    assert by_command[2][1][0][1] == (Path("clean"), Path("data"), Path("made/train.stage"))
    alone = calls_of(monkeypatch, lambda: meninx.train("data", steps=2))
    assert [name for name, _ in alone] == ["train.stage"]


@pytest.mark.parametrize("page", ["there.html", "data/page.html"])
def test_the_function_refuses_a_page_before_training(folder, monkeypatch, page):
    (folder / "there.html").write_text("mine")
    (folder / "data").mkdir()

    def refused() -> None:
        with pytest.raises(UsageError):
            meninx.train_and_report("data", page)

    assert calls_of(monkeypatch, refused) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("train data --archives clean", "--report PAGE.html"),
        ("train data --report page.html --dry-run", "a dry run trains nothing"),
        ("train data --report there.html", "there.html"),
        ("train data --report page.html --archives missing", "missing"),
    ],
)
def test_a_report_that_cannot_be_written_is_refused_before_training(folder, capsys, words, told):
    (folder / "there.html").write_text("mine")
    (folder / "data").mkdir()
    for name in ("manifest.csv", "dataset.toml"):
        (folder / "data" / name).touch()
    assert run(words.split()) in (2, 3)
    assert told in capsys.readouterr().err
    assert not (folder / "runs").exists()
