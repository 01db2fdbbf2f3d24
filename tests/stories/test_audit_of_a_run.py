"""What can be learned from a run at most: the answer follows from its ledger, not from a record beside it."""

from __future__ import annotations

import json
import shutil

import pytest

import meninx
from meninx.cli.app import run as command
from meninx.core import artifacts
from meninx.core.artifacts import PrivacyRecord, RunRecord
from meninx.core.risk_records import BoundsRecord
from meninx.synthetic import write_dataset

QUICK = {
    "model": "resnet9-small",
    "model_options": {"width": 4},
    "steps": 3,
    "batch_size": 6,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("audit") / "data", patients=20, size=32).root


def test_bounds_of_a_run_follow_from_its_ledger(data, tmp_path, capsys):
    made = meninx.train(data, out=tmp_path, noise_multiplier=1.0, delta=1e-3, **QUICK)
    run = made.out
    privacy = artifacts.require(run, PrivacyRecord, fix="")
    assert command(["audit", "bounds", "--run", str(run), "--n-eps", "2", "--eps-max", "9", "-q"]) == 0
    assert "ledger of the run" in capsys.readouterr().out
    found = artifacts.require(run / "audit", BoundsRecord, fix="")
    units = round(privacy.expected_batch_size / privacy.sample_rate)
    assert found.mechanism.units == units
    assert found.mechanism.run == artifacts.require(run, RunRecord, fix="").id
    assert found.mechanism.steps == privacy.steps == 3
    assert found.operating.epsilon == pytest.approx(privacy.epsilon)
    assert found.operating.worst[f"1 of all {units}"].upper == pytest.approx(
        privacy.risk.reconstruction, rel=1e-3
    )
    assert found.membership.advantage.upper == pytest.approx(privacy.risk.advantage, rel=1e-3)
    assert command(["verify", str(run)]) == 0
    shutil.copytree(
        run, tmp_path / "copy", ignore=shutil.ignore_patterns("ledger.jsonl", "audit"), symlinks=True
    )
    assert (
        command(["audit", "bounds", "--run", str(tmp_path / "copy"), "--n-eps", "1", "--eps-max", "1"]) == 0
    )
    assert artifacts.require(tmp_path / "copy" / "audit", BoundsRecord, fix="").operating == found.operating
    assert command(["audit", "bounds", "--run", str(run), "--epsilon", "1", "--overwrite"]) == 2
    assert "--epsilon" in capsys.readouterr().err
    table = json.loads((run / "privacy.json").read_text())
    (run / "privacy.json").write_text(json.dumps({**table, "noise_multiplier": 50.0, "steps": 1}))
    assert (
        command(["audit", "bounds", "--run", str(run), "--n-eps", "2", "--eps-max", "9", "-q", "--overwrite"])
        == 0
    )
    again = artifacts.require(run / "audit", BoundsRecord, fix="")
    assert again.operating == found.operating
    ledger = run / "private" / "ledger.jsonl"
    ledger.write_text(
        ledger.read_text()
        .replace('"noise_multiplier": 1.0', '"noise_multiplier": 9.0')
        .replace('"noise_multiplier":1.0', '"noise_multiplier":9.0')
    )
    assert command(["audit", "bounds", "--run", str(run), "--overwrite", "-q"]) == 4


def test_a_run_without_privacy_has_no_bounds(data, tmp_path, capsys):
    made = meninx.train(data, out=tmp_path, **QUICK)
    assert command(["audit", "bounds", "--run", str(made.out), "-q"]) == 4
    assert "without privacy" in capsys.readouterr().err
    assert not (made.out / "audit").exists()


def test_half_a_mechanism_is_a_usage_error_that_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(["audit", "bounds", "--recipe", "ham10000-dp"]) == 2
    assert "--units" in capsys.readouterr().err
    assert command(["audit", "bounds", "--units", "0"]) == 2
    assert list(tmp_path.iterdir()) == []
