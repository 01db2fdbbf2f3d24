"""A hospital audits its own run of a federated study: its ledger, its twin with canaries, its patients."""

from __future__ import annotations

from pathlib import Path

import pytest

import meninx
from meninx.audit.config import MembershipConfig, OneRunConfig
from meninx.audit.membership import run_membership
from meninx.audit.one_run import run_one_run
from meninx.cli.app import run as command
from meninx.core import artifacts
from meninx.core.artifacts import PrivacyRecord, RunRecord
from meninx.core.audit_records import MembershipAudit, OneRunRecord
from meninx.core.risk_records import BoundsRecord
from meninx.synthetic import write_dataset

SITES = ("east", "north")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run of one of two sites, two rounds of three private steps."""
    root = tmp_path_factory.mktemp("study")
    folders = [
        write_dataset(root / name, patients=60, size=16, seed=number).root
        for number, name in enumerate(SITES)
    ]
    training = {
        "epsilon": 8.0,
        "delta": 1e-3,
        "batch_size": 8,
        "model_options": {"width": 8},
        "deterministic": True,
    }
    study = meninx.simulate(
        folders, root / "study", recipe="tiny", rounds=2, local_steps=3, aggregation="plain", device="cpu",
        train=training,
    )  # fmt: skip
    return study.runs["north"]


def test_the_bounds_of_a_site_follow_from_its_own_ledger(site: Path) -> None:
    assert command(["audit", "bounds", "--run", str(site), "--n-eps", "1", "--eps-max", "1", "-q"]) == 0
    found = artifacts.require(site / "audit", BoundsRecord, fix="")
    spent = artifacts.require(site, PrivacyRecord, fix="")
    assert found.mechanism.steps == 6
    assert found.mechanism.noise_multiplier == pytest.approx(spent.noise_multiplier)
    assert found.operating is None  # the noise of this run came from a seed


def test_the_implementation_of_a_site_is_audited_by_a_twin_with_its_plan(site: Path) -> None:
    result = run_one_run(OneRunConfig(canaries=400, device="cpu"), site)
    record = artifacts.require(site, OneRunRecord, fix="")
    assert record.steps == 6
    assert record.origin.run == artifacts.require(site, RunRecord, fix="").id
    assert result.audit.claim_epsilon == pytest.approx(
        artifacts.require(site, PrivacyRecord, fix="").epsilon, rel=0.02
    )
    assert result.audit.verdict == "consistent"
    assert result.control.mu > result.audit.mu
    assert not list((site / "private" / "audit").glob("twin"))


def test_membership_in_a_site_compares_its_own_patients(site: Path) -> None:
    result = run_membership(MembershipConfig(references=2, control_steps=60, device="cpu"), site)
    audit = artifacts.require(site, MembershipAudit, fix="")
    assert audit.sites == len(SITES)
    assert "a study of 2 sites" in result.summary()
    assert audit.bound_auc is None  # the noise of this run came from a seed
    assert audit.positive.auc > audit.positive.null_high
    assert not any(attack.excess for attack in audit.attacks)
    assert command(["verify", str(site), "--quiet"]) == 0
