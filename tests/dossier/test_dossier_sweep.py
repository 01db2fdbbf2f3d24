"""A dossier of a sweep: all its runs are counted, and the choice among them is stated."""

from __future__ import annotations

from pathlib import Path

import dossier_samples as samples
import pytest
from report_samples import write_dataset

from meninx.core import artifacts
from meninx.core.artifacts import RunRecord, SweepRecord
from meninx.core.errors import DataError
from meninx.dossier import stage
from meninx.dossier.config import DossierConfig
from meninx.dossier.facts import every
from meninx.verify import stage as verification


def a_sweep(root: Path) -> tuple[Path, list[Path]]:
    """Return the dataset of a sweep of two epsilons with two runs each, and its runs."""
    data = write_dataset(root / "data")
    runs = []
    for noise, seed in ((1, 0), (1, 1), (3, 0), (3, 1)):
        folder = root / "sweep" / "cells" / f"{noise}" / f"run-{noise}-{seed}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        runs.append(samples.a_run(folder, dataset=data, noise=float(noise), audited=False))
    usual = {"metric": "auroc", "seeds": 2}
    rows = tuple(
        {**usual, "epsilon": epsilon, "mean": mean, "low": mean - 0.05, "high": mean + 0.05}
        for epsilon, mean in ((4.6, 0.81), (0.9, 0.7))
    )
    names = tuple(artifacts.require(run, RunRecord, fix="").id for run in runs)
    artifacts.write(root / "sweep", SweepRecord(rows=rows, together=None, runs=names))
    return data, runs


@pytest.mark.usefixtures("no_pdf")
def test_the_dossier_of_a_sweep_states_the_joint_epsilon_and_the_choice(tmp_path: Path):
    data, runs = a_sweep(tmp_path)
    config = DossierConfig(
        date=samples.DATE, release="run-3-1", chosen_by="auroc", chosen_on="valid", overwrite=True
    )
    out = tmp_path / "dossier"
    record = stage.run(config, [tmp_path / "sweep", data], out).record
    value = {fact.key: fact.value for fact in every(record.parts)}
    assert value["selection/sweep"] is True
    assert (value["selection/candidates"], value["selection/composed"], value["selection/by"]) == (
        4,
        4,
        "auroc",
    )
    assert value["selection/epsilon"] > 5 > 2 > value["guarantee/epsilon"]
    assert value["selection/rows/sweep-1"][0] == "epsilon 4.6: auroc 0.81 (0.76 to 0.86), 2 seeds"
    assert "at the joint epsilon of all candidates" in value["selection/inside"]
    assert any("joint epsilon counts" in item for item in record.warnings)
    assert verification.run(out).ok
    alone = stage.run(config.replace(release=""), [runs[3], data], out).record
    assert alone.fact("selection/epsilon").value == pytest.approx(value["guarantee/epsilon"])


def test_a_sweep_of_which_a_run_is_missing_is_refused(tmp_path: Path):
    data, runs = a_sweep(tmp_path)
    runs[0].rename(tmp_path / "hidden")
    with pytest.raises(DataError, match="runs that the sweep names are missing: 1"):
        stage.run(DossierConfig(release="run-3-1"), [tmp_path / "sweep", data], tmp_path / "dossier")
    assert not (tmp_path / "dossier").exists()
