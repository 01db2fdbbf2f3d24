"""The demo is what it prints: the same commands, the same settings, and it takes nobody else's folder."""

import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest

from meninx.audit.plan_config import AuditConfig
from meninx.cli.app import build_app, run
from meninx.cli.flags import value_of, without_tables
from meninx.core import settings
from meninx.core.errors import DataError, UsageError
from meninx.demo import stage
from meninx.demo.commands import Command, commands, delta
from meninx.demo.config import DemoConfig
from meninx.federated.config import StudyConfig

SMALL = DemoConfig(patients=30, size=64)


@pytest.mark.parametrize("deterministic", [False, True])
def test_every_printed_command_is_one_that_the_command_line_understands(tmp_path: Path, deterministic: bool):
    app = build_app()
    for step in commands(SMALL.replace(deterministic=deterministic), tmp_path, stage.HOSPITALS):
        words = without_tables(shlex.split(step.line))
        assert words[0] == "meninx"
        function, bound, _ = app.parse_args(words[1:], exit_on_error=False, print_error=False)
        assert function.__name__.removesuffix("_run") == step.verb.split()[-1]
        for name, value in step.settings.items():
            given = bound.arguments[name]
            assert comparable(given) == comparable(value), (step.name, name)


def comparable(value: object) -> object:
    """Return a setting as text, whether it was typed or given to the API."""
    if isinstance(value, Mapping):
        return {key.replace("-", "_"): value_of(str(item)) for key, item in value.items()}
    return str(tuple(value) if isinstance(value, list) else value)


def studies(config: DemoConfig, out: Path) -> list[Command]:
    """Return the two federated studies of the demo, the one with privacy last."""
    return [step for step in commands(config, out, stage.HOSPITALS) if step.verb == "federate simulate"]


def test_both_studies_train_one_network_with_secure_aggregation(tmp_path: Path):
    configs = []
    for step in studies(SMALL, tmp_path):
        given = {name: value for name, value in step.settings.items() if name != "baselines"}
        configs.append(settings.resolve_recipe(StudyConfig, step.recipe, (given, "the demo")))
    plain, private = configs
    assert plain.training.model == private.training.model
    assert plain.training.privacy is None
    assert private.training.privacy is not None
    assert private.training.privacy.epsilon == SMALL.epsilon
    assert str(private.training.privacy.unit) == "patient"
    assert [config.aggregation.method for config in configs] == ["masks", "masks"]
    assert all(len(step.paths) == len(stage.HOSPITALS) for step in studies(SMALL, tmp_path))


def test_one_hospitals_private_run_is_audited_by_all_three_parts_before_the_report(tmp_path: Path):
    steps = commands(SMALL.replace(deterministic=True), tmp_path, stage.HOSPITALS)
    assert [step.verb for step in steps[-2:]] == ["audit", "report"]
    audit = steps[-2]
    assert audit.paths == (tmp_path / "runs" / "private" / "sites" / stage.HOSPITALS[0] / "latest",)
    config = settings.build(AuditConfig, audit.settings, "the demo")
    assert config.parts == AuditConfig().parts
    assert config.deterministic


def test_a_hospital_reads_and_writes_nothing_of_another_before_the_study(tmp_path: Path):
    for step in commands(SMALL, tmp_path, stage.HOSPITALS):
        if step.verb in ("deid", "prepare"):
            words = " ".join(shlex.split(step.line.replace(str(tmp_path), "")))
            assert sum(hospital in words for hospital in stage.HOSPITALS) == 1, step.line


def test_a_dry_run_prints_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["demo", str(tmp_path / "out"), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("meninx deid") for line in lines) == len(stage.HOSPITALS)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_never_touched(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="other files"):
            stage.run(DemoConfig(patients=30, overwrite=overwrite), tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def finished(out: Path) -> Path:
    """An earlier demo with its report."""
    out.mkdir()
    (out / stage.MARK).write_text("made by the demo")
    (out / stage.REPORT).write_text("earlier")
    return out


def failing(*given: object, **named: object) -> None:
    raise DataError("the disk is full")


def test_an_earlier_demo_is_replaced_only_when_asked(tmp_path: Path):
    out = finished(tmp_path / "out")
    with pytest.raises(UsageError, match="--overwrite"):
        stage.run(SMALL, out)
    assert (out / stage.REPORT).read_text() == "earlier"


def test_an_earlier_demo_stays_until_the_new_one_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = finished(tmp_path / "out")
    monkeypatch.setattr(stage, "write_archives", failing)
    with pytest.raises(DataError):
        stage.run(SMALL.replace(overwrite=True), out)
    assert (out / stage.REPORT).read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [out]
    monkeypatch.setattr(
        stage, "_run", lambda config, where, *rest: (where / stage.REPORT).write_text("new") and {}
    )
    stage.run(SMALL.replace(overwrite=True), out)
    assert (out / stage.REPORT).read_text() == "new"
    assert list(tmp_path.iterdir()) == [out]


def test_an_earlier_demo_comes_back_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    finished(tmp_path / ".out.earlier")
    half = tmp_path / "out"
    half.mkdir()
    (half / stage.MARK).write_text("made by the demo")
    with pytest.raises(UsageError, match="--overwrite"):
        stage.run(SMALL, half)
    assert (half / stage.REPORT).read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [half]


def test_an_unfinished_demo_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stage, "write_archives", failing)
    for _ in range(2):
        with pytest.raises(DataError):
            stage.run(SMALL, tmp_path / "out")


def test_without_torch_the_demo_says_so_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stage.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"extra train"):
        stage.run(SMALL, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_demo_takes_real_noise_unless_told_otherwise(tmp_path: Path):
    for deterministic in (False, True):
        lines = [
            step.line
            for step in commands(SMALL.replace(deterministic=deterministic), tmp_path, stage.HOSPITALS)
        ]
        assert sum("--train.deterministic true" in line for line in lines) == (2 if deterministic else 0)


@pytest.mark.parametrize(("patients", "expected"), [(60, 1e-3), (600, 1e-4), (1200, 1e-4), (100_000, 1e-6)])
def test_delta_is_a_tenth_of_one_over_the_training_patients_or_less(patients, expected):
    assert delta(patients) == pytest.approx(expected)
    assert delta(patients) <= 1 / (10 * 0.7 * patients)


@pytest.mark.slow
def test_a_small_demo_ends_with_a_report_of_a_run_that_may_be_released(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(["demo", str(tmp_path / "out"), "--patients", "60", "--quiet"]) == 0
    report = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert report.is_file()
    text = report.read_text()
    assert "NOT FOR RELEASE" not in text
    assert "difference" in text
    assert text.count("3 sites trained study ") == 2
    assert "two of them that collude always see the update of the third" in text
    assert "No dropout is tolerated." in text
    assert "Epsilons of different patients are not added up." in text
    assert "What training together is worth" in text
    assert "run private at north: guaranteed: amber" in text
    assert "implementation: green, consistent" in text
    assert "count together" not in text
