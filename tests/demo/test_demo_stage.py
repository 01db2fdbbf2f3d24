"""The demo is what it prints: the same commands, the same settings, and it takes nobody else's folder."""

import shlex
from pathlib import Path

import pytest

from meninx.cli.app import build_app, run
from meninx.core import settings
from meninx.core.errors import UsageError
from meninx.demo import stage
from meninx.demo.commands import commands
from meninx.demo.config import DemoConfig
from meninx.train.config import TrainConfig

SMALL = DemoConfig(patients=30, size=64)


def test_every_printed_command_is_one_that_the_command_line_understands(tmp_path: Path):
    app = build_app()
    for step in commands(SMALL, tmp_path, stage.HOSPITALS):
        words = shlex.split(step.line)
        assert words[0] == "meninx"
        function, bound, _ = app.parse_args(words[1:], exit_on_error=False, print_error=False)
        assert function.__name__ == step.verb
        config = bound.arguments.get("config")
        for name, value in step.settings.items():
            if not isinstance(value, dict):
                assert str(getattr(config, name)) == str(value), (step.name, name)


def test_both_models_share_network_and_size_of_input(tmp_path: Path):
    plain, private = (step for step in commands(SMALL, tmp_path, stage.HOSPITALS) if step.verb == "train")
    built = [settings.build(TrainConfig, settings.read_recipe(step.recipe)[0], "recipe") for step in (plain, private)]
    assert built[0].model == built[1].model
    assert built[0].model_options == built[1].model_options
    assert built[0].privacy is None
    assert private.settings["privacy"]["epsilon"] == SMALL.epsilon


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


def test_an_earlier_demo_is_replaced_only_when_asked(tmp_path: Path):
    (tmp_path / stage.MARK).write_text("made by the demo")
    with pytest.raises(UsageError, match="--overwrite"):
        stage.run(SMALL, tmp_path)


@pytest.mark.slow
def test_the_whole_demo_ends_with_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["demo", str(tmp_path / "out"), "--patients", "60", "--quiet"]) == 0
    report = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert report.is_file()
    text = report.read_text()
    assert "NOT FOR RELEASE" in text
    assert "difference" in text
