"""A sweep: the same protocol at several epsilons, finished cells kept, one table and one figure."""

from __future__ import annotations

import csv
import json
import math
import shutil
import xml.etree.ElementTree as ElementTree

import pytest

from meninx.core import artifacts
from meninx.core.artifacts import RunRecord, SweepRecord
from meninx.core.errors import ConfigError, DataError, RunLocked, UsageError
from meninx.core.run import Run
from meninx.synthetic import write_dataset
from meninx.train import evaluate, stage, sweep
from meninx.train.config import EvaluateConfig, GridConfig, PrivacyConfig, SweepConfig, TrainConfig

CONFIG = TrainConfig.of(
    model="resnet9-small",
    epochs=1,
    batch_size=6,
    lr=3e-3,
    attack_risk=False,
    privacy=PrivacyConfig(epsilon=1.0, delta=1e-3),
)
GRID = GridConfig(epsilons=(8.0, 3.0), seeds=(0,))
CELLS = ("epsilon-3_seed-0", "epsilon-8_seed-0", "epsilon-none_seed-0")


@pytest.fixture(scope="module")
def swept(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "out"
    return sweep.run(CONFIG, GRID, data.root, out)


def cell(result: sweep.SweepResult, name: str) -> Run:
    return Run((result.out / "cells" / name / "latest").resolve())


def test_there_is_a_run_a_cell_and_a_row_an_epsilon(swept):
    assert sorted(path.name for path in (swept.out / "cells").iterdir()) == list(CELLS)
    assert [row.epsilon for row in swept.rows] == [3.0, 8.0, math.inf]
    assert swept.runs == 3
    spent = [cell(swept, name).read_json("privacy.json")["epsilon"] for name in CELLS]
    assert spent[0] <= 3.0 < spent[1] <= 8.0
    assert spent[2] is None


def test_privacy_is_the_only_difference_between_the_cells(swept):
    configs = [stage.stored_config(cell(swept, name)) for name in CELLS]
    assert len({config.replace(privacy=None).validation.select for config in configs}) == 1
    terms = configs[1].privacy.replace(epsilon=3.0)
    assert configs[0] == configs[2].replace(
        sampling="poisson", steps=configs[0].sampling.steps, privacy=terms
    )
    assert [artifacts.read(cell(swept, name).root, RunRecord).selected for name in CELLS] == ["last"] * 3


def test_the_numbers_are_those_of_the_evaluations(swept):
    for row, name in zip(swept.rows, CELLS, strict=True):
        (found,) = (
            item for item in cell(swept, name).read_json("release/evaluation.json")["evaluation"]["metrics"]
            if (item["name"], item["label"]) == ("auroc", "")
        )  # fmt: skip
        assert (row.mean, row.low, row.high, row.cases) == (
            found["value"],
            found["low"],
            found["high"],
            found["n"],
        )
        assert row.seeds == 1
        assert math.isnan(row.deviation)


def test_table_and_figure_are_there(swept):
    with (swept.out / "sweep.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epsilon"] for row in rows] == ["3.0", "8.0", "inf"]
    table = json.loads((swept.out / "sweep.json").read_text())["rows"]
    assert [row["epsilon"] for row in table] == [3.0, 8.0, None]
    assert ElementTree.parse(swept.out / "sweep.svg").getroot().tag.endswith("svg")
    assert (swept.out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "n = " in swept.summary()
    assert [row["epsilon"] for row in json.loads(swept.to_json(), parse_constant=pytest.fail)["rows"]] == [
        3.0,
        8.0,
        None,
    ]


def test_the_private_runs_are_charged_together(swept):
    single = [cell(swept, name).read_json("privacy.json")["epsilon"] for name in CELLS[:2]]
    assert max(single) < swept.together.epsilon <= sum(single) + 0.01
    assert (swept.together.steps, str(swept.together.unit)) == (sum(sizes(swept)), "patient")
    assert f"together: epsilon = {swept.together.epsilon:.4g} at delta = 0.001 per patient" in swept.summary()
    assert json.loads((swept.out / "sweep.json").read_text())["together"]["epsilon"] == swept.together.epsilon


def sizes(swept):
    return [cell(swept, name).read_json("privacy.json")["steps"] for name in CELLS[:2]]


def test_a_sweep_that_protects_nobody_is_charged_nothing(data, tmp_path):
    config = CONFIG.replace(deterministic=True)
    found = sweep.run(
        config, GridConfig(epsilons=(8.0,), seeds=(0,), non_private=False), data.root, tmp_path / "out"
    )
    assert found.together is None
    assert "together" not in found.summary()


def test_finished_cells_are_not_trained_again_and_an_unfinished_one_is(swept, data, monkeypatch):
    trained = []
    real = stage.run

    def counted(config, *given, **named):
        trained.append(config.privacy.epsilon if config.privacy else None)
        return real(config, *given, **named)

    monkeypatch.setattr(sweep.stage, "run", counted)
    again = sweep.run(CONFIG, GRID, data.root, swept.out)
    assert trained == []
    assert [row.mean for row in again.rows] == [row.mean for row in swept.rows]
    unfinished = cell(swept, CELLS[1])
    (unfinished.release / "evaluation.json").unlink()
    again = sweep.run(CONFIG, GRID, data.root, swept.out)
    assert trained == [8.0]
    assert [row.mean for row in again.rows] == [row.mean for row in swept.rows]
    assert cell(swept, CELLS[1]).root == unfinished.root


def test_more_seeds_join_the_same_sweep(swept, data):
    more = sweep.run(CONFIG, GridConfig(epsilons=(), seeds=(0, 1, 1)), data.root, swept.out)
    (row,) = more.rows
    assert (row.seeds, more.runs) == (2, 2)
    assert row.deviation >= 0
    one = evaluate.run(EvaluateConfig(predictions=()), cell(swept, "epsilon-none_seed-1").root)
    assert one.cases == row.cases


def test_a_sweep_of_another_dataset_is_not_mixed_in(swept, tmp_path):
    other = write_dataset(tmp_path / "other", patients=24, size=32, seed=1)
    before = (swept.out / "sweep.csv").read_text()
    with pytest.raises(UsageError, match="made with another dataset"):
        sweep.run(CONFIG, GRID, other.root, swept.out)
    assert (swept.out / "sweep.csv").read_text() == before


def test_the_runs_behind_the_table_are_named(swept):
    sweep.run(CONFIG, GRID, stage.dataset_folder(cell(swept, CELLS[0])), swept.out)
    record = artifacts.read(swept.out, SweepRecord)
    assert set(record.runs) == {artifacts.read(cell(swept, name).root, RunRecord).id for name in CELLS}


def test_a_sweep_of_other_settings_is_not_mixed_in(swept, data):
    before = (swept.out / "sweep.csv").read_text()
    with pytest.raises(UsageError, match="made with other settings"):
        sweep.run(CONFIG.replace(lr=1e-2), GRID, data.root, swept.out)
    assert (swept.out / "sweep.csv").read_text() == before


@pytest.mark.parametrize("grid", [GridConfig(seeds=()), GridConfig(epsilons=(), non_private=False)])
def test_an_empty_grid_is_refused(data, tmp_path, grid):
    with pytest.raises(ConfigError, match="at least one seed"):
        sweep.run(CONFIG, grid, data.root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change", [{"split": "valid"}, {"data": "f" * 64}, {"step": 1}, {"run": "f" * 32}], ids=str
)
def test_an_evaluation_of_another_split_dataset_step_or_run_is_no_headline(swept, data, change, tmp_path):
    out = tmp_path / "sweep"
    shutil.copytree(swept.out, out, symlinks=True)
    path = next((out / "cells" / CELLS[2]).glob("2*")) / "release" / "evaluation.json"
    table = json.loads(path.read_text())
    path.write_text(json.dumps(table | {"origin": table["origin"] | change}))
    with pytest.raises(DataError, match="evaluation"):
        sweep.run(CONFIG, GRID, data.root, out)


def test_two_sweeps_do_not_fill_one_folder_at_a_time(data, tmp_path, monkeypatch):
    def other(*given, **named):
        with pytest.raises(RunLocked):
            sweep.run(CONFIG, GRID, data.root, tmp_path / "out")
        raise InterruptedError

    monkeypatch.setattr(sweep.stage, "run", other)
    with pytest.raises(InterruptedError):
        sweep.run(CONFIG, GRID, data.root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_sweep_does_not_lie_in_its_dataset(data):
    with pytest.raises(UsageError, match="outside the source"):
        sweep.run(CONFIG, GRID, data.root, data.root / "sweep")
    assert not (data.root / "sweep").exists()


def test_all_private_runs_of_the_folder_are_named(swept, data):
    stage.run(
        sweep._configured(CONFIG, 8.0, 0), data.root, cell(swept, CELLS[1]).root.parent
    )  # a second run in one cell
    assert len(artifacts.read(swept.out, SweepRecord).runs) == 3
    evaluate.run(EvaluateConfig(predictions=()), cell(swept, CELLS[1]).root)
    sweep.run(CONFIG, GRID, data.root, swept.out)
    record = artifacts.read(swept.out, SweepRecord)
    private = {Run(path).record.id for path in (swept.out / "cells").glob("*/2*") if Run(path).record.private}
    assert private <= set(record.runs)
    assert len(set(record.runs)) == len(record.runs) == 4


def test_delta_alone_is_a_setting_of_a_sweep():
    """The grid gives each run its epsilon, so the settings of privacy need no budget of their own."""
    shared = SweepConfig.of(epsilons=(3.0, 8.0), delta=1e-3).training
    assert shared.privacy == PrivacyConfig(epsilon=8.0, delta=1e-3)
    assert SweepConfig.of(epsilons=8.0).training.privacy is None
    assert SweepConfig.of(noise_multiplier=1.0).training.privacy == PrivacyConfig(noise_multiplier=1.0)
