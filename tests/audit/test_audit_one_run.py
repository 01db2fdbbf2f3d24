"""`meninx audit one-run`: a run's twin with canaries, its positive control, planted faults, and resuming."""

import json
import shutil
import stat
from dataclasses import replace

import numpy as np
import pytest

from meninx import api
from meninx.audit import one_run, one_run_findings
from meninx.audit.config import OneRunConfig
from meninx.audit.one_run import run_one_run
from meninx.cli.app import run as command
from meninx.core import artifacts
from meninx.core.audit_records import OneRunRecord
from meninx.core.budget import PrivacyUnit
from meninx.core.errors import AuditFinding, DataError, Interrupted, PrivacyRefusal, UsageError
from meninx.core.run import Run
from meninx.learn import assemble, sampler
from meninx.privacy import noise
from meninx.synthetic.dataset import write_dataset
from meninx.verify import stage as verify

CONFIG = OneRunConfig(canaries=400)
TRAINING = {
    "recipe": "tiny",
    "steps": 6,
    "epsilon": 10.0,
    "delta": 1e-3,
    "attack_risk": False,
    "deterministic": True,
}
UNITS = {"units_declared": 100, "batch_size": 50}  # room for a fault that makes more units of the data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset of 24 patients, a private run, and one without privacy."""
    root = tmp_path_factory.mktemp("audited")
    write_dataset(root / "data", patients=24, size=16)
    private = api.train(root / "data", out=root / "runs", **UNITS, **TRAINING).out
    public = api.train(root / "data", out=root / "runs", recipe="tiny", steps=1, seed=1).out
    return private, public


@pytest.fixture
def private(made, tmp_path):
    """A copy of the private run."""
    return shutil.copytree(made[0], tmp_path / "run", symlinks=True)


def test_an_honest_run_is_consistent_and_its_control_is_refuted(private):
    result = run_one_run(CONFIG, private)
    assert result.audit.verdict == "consistent"
    assert result.control.verdict == "refuted"
    result.raise_if_refuted()
    record = artifacts.read(private, OneRunRecord)
    assert record is not None
    assert record.audit == result.audit
    assert record.control.verdict == "refuted"
    assert record.origin.run == Run(private).record.id
    assert result.audit.included + result.audit.excluded == 400
    assert 0 < result.overhead < 1
    assert verify.run(private).ok


def test_nothing_private_is_left_but_the_scores_of_canaries(private):
    before = {path for path in private.rglob("*") if path.is_file()}
    result = run_one_run(CONFIG, private)
    new = {path.relative_to(private).as_posix() for path in private.rglob("*") if path.is_file()} - {
        path.relative_to(private).as_posix() for path in before
    }
    scores = {"private/audit/in.npy", "private/audit/out.npy"}
    assert new == {"audit/one_run.json", "private/audit.lock"} | scores
    assert (private / "private" / "audit.lock").stat().st_size == 0
    for name in ("in", "out"):
        assert stat.S_IMODE((private / "private" / "audit" / f"{name}.npy").stat().st_mode) == 0o600
    text = (private / "audit" / "one_run.json").read_text()
    assert "auroc" not in json.loads(text)
    assert "utility" not in text
    assert result.metric
    kept = [np.load(private / "private" / "audit" / f"{name}.npy") for name in ("in", "out")]
    assert [len(values) for values in kept] == [result.audit.included, result.audit.excluded]


def scaled_noise(monkeypatch, factor):
    right = noise._normals
    monkeypatch.setattr(noise, "_normals", lambda stream, pairs, std: right(stream, pairs, std * factor))


def test_half_of_the_noise_in_the_program_exits_with_5(private, monkeypatch, capsys):
    scaled_noise(monkeypatch, 0.5)
    assert command(["audit", "one-run", str(private), "--canaries", "400", "--quiet"]) == 5
    shown = capsys.readouterr()
    assert "REFUTED by" in shown.out
    assert "does not keep its epsilon of 9.997" in shown.err


@pytest.fixture(scope="module")
def huge(made):
    """A run whose epsilon of a million allows every score."""
    training = TRAINING | {"epsilon": 1e6}
    return api.train(made[0].parents[1] / "data", out=made[0].parent, seed=2, **UNITS, **training).out


def test_at_a_huge_epsilon_the_noise_itself_is_measured(huge, monkeypatch):
    result = run_one_run(CONFIG.replace(overwrite=True), huge)
    assert result.control.verdict == "consistent"  # nothing contradicts such a claim
    assert result.record.control_mechanism.refuted_by == ("noise",)
    assert result.record.control_mechanism.noise == pytest.approx(0.5, abs=0.05)
    assert result.record.mechanism.noise == pytest.approx(1.0, abs=0.05)
    assert "times the promised one" in result.summary()
    assert not any("says nothing" in text for text in result.alerts())
    result.raise_if_refuted()
    colours = {finding.key: finding.colour for finding in one_run_findings.findings(result.record)}
    assert set(colours.values()) == {"green"}
    scaled_noise(monkeypatch, 0.5)
    again = run_one_run(CONFIG.replace(overwrite=True), huge)
    with pytest.raises(AuditFinding, match=r"epsilon of .*refuted by noise"):
        again.raise_if_refuted()
    assert "verdict: REFUTED by noise" in again.summary()
    colours = {finding.key: finding.colour for finding in one_run_findings.findings(again.record)}
    assert colours["one-run/noise"] == colours["one-run/mu"] == "red"


def test_images_that_count_as_patients_are_found_in_a_real_run(private, monkeypatch):
    members, names = sampler.unit_members, sampler.unit_names
    for module in (sampler, assemble):
        monkeypatch.setattr(module, "unit_members", lambda data, unit: members(data, PrivacyUnit.CASE))
        monkeypatch.setattr(module, "unit_names", lambda data, unit: names(data, PrivacyUnit.CASE))
    result = run_one_run(CONFIG, private)
    with pytest.raises(AuditFinding, match="does not keep"):
        result.raise_if_refuted()


def test_a_control_that_is_not_found_makes_the_audit_void(private, monkeypatch):
    monkeypatch.setattr(one_run, "CONTROL_NOISE", 1.0)
    result = run_one_run(OneRunConfig(canaries=100), private)
    assert any("says nothing" in text for text in result.alerts())
    with pytest.raises(AuditFinding, match="too weak"):
        result.raise_if_refuted()


def test_an_interrupted_audit_goes_on_with_the_same_canaries(private, monkeypatch):
    observe = one_run.CanaryScores.on_evaluation

    def stop(self, state, event):
        observe(self, state, event)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(one_run.CanaryScores, "on_evaluation", stop)
        with pytest.raises(Interrupted):
            run_one_run(CONFIG, private)
    twin = Run(private / "private" / "audit" / "twin")
    key, lines = twin.key("canaries"), len(twin.ledger_text().splitlines())
    assert 0 < lines < 6
    with pytest.raises(UsageError, match="--canaries 400"):
        run_one_run(OneRunConfig(canaries=500), private)
    seen = []
    canaries = one_run.Canaries

    def see(found, *rest, **named):
        seen.append(found)
        return canaries(found, *rest, **named)

    monkeypatch.setattr(one_run, "Canaries", see)
    result = run_one_run(CONFIG, private)
    assert seen[0] == key
    assert result.audit.verdict == "consistent"
    assert result.audit.mu > 0.5  # all steps count


def test_what_cannot_be_audited_is_refused(made, private, tmp_path):
    with pytest.raises(UsageError, match="no differential privacy"):
        run_one_run(CONFIG, made[1])
    with pytest.raises(UsageError, match="no run folder"):
        run_one_run(CONFIG, tmp_path / "nothing")
    run_one_run(OneRunConfig(canaries=100), private)
    with pytest.raises(UsageError, match="--overwrite"):
        run_one_run(CONFIG, private)
    unfinished = Run(private)
    unfinished.update(state="training")
    with pytest.raises(UsageError, match="not finished"):
        run_one_run(CONFIG.replace(overwrite=True), private)


def test_another_dataset_and_another_plan_are_refused(private):
    known = private / "privacy.json"
    table = json.loads(known.read_text())
    known.write_text(json.dumps(table | {"noise_multiplier": 9.0}))
    with pytest.raises(PrivacyRefusal, match="another plan"):
        run_one_run(CONFIG, private)
    known.write_text(json.dumps(table))
    record = private / "private" / "data.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"digest": "0" * 64}))
    with pytest.raises(DataError, match="changed since"):
        run_one_run(CONFIG, private)


def test_a_dataset_that_was_moved_is_named_without_its_place(private, tmp_path):
    record = private / "private" / "data.json"
    there = tmp_path / "was-here"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"dataset": str(there)}))
    with pytest.raises(DataError, match="is not where it was when the run was trained") as caught:
        run_one_run(CONFIG, private)
    assert "was-here" not in str(caught.value)
    assert "meninx prepare" not in str(caught.value)
    assert Run(private).record.dataset in str(caught.value)
    assert "put it back" in str(caught.value)


def test_the_control_names_the_checks_that_noticed_it(private):
    record = run_one_run(CONFIG, private).record
    others = tuple(replace(check, refuted=check.name == "TPR - FPR") for check in record.control.checks)
    record = replace(record, control=replace(record.control, checks=others))
    found = next(
        item for item in one_run_findings.findings(record) if item.key.endswith("halved-noise-control")
    )
    assert found.colour == "green"
    assert found.reason == "half of the noise was noticed by TPR - FPR, the measured noise, not by mu"
