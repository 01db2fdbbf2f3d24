"""Audits of small made-up runs: real bounds from their ledgers, and records of the other parts as given."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

from report_samples import write_run
from scipy.optimize import brentq

from meninx.audit import parts, stage
from meninx.audit.audited_run import origin_of
from meninx.audit.bounds import run_bounds
from meninx.audit.config import BoundsConfig
from meninx.audit.part_rules import RULES
from meninx.audit.plan_config import AuditConfig
from meninx.core import artifacts
from meninx.core.artifacts import PrivacyRecord, RunRecord
from meninx.core.audit_records import (
    AttackRecord,
    GroupRecord,
    MembershipAudit,
    OneRunRecord,
    OperatingPoint,
    ScoreAudit,
    ScoreCheck,
)
from meninx.core.progress import Progress
from meninx.core.proportions import clopper_pearson
from meninx.core.risk_records import BoundsRecord
from meninx.core.run import Run
from meninx.metrics.attack_success import GROUP_REFUSALS, refusal_of
from meninx.privacy.score_audit import area_mu_of, gaussian_interval

QUICK = {"n_eps": 3, "eps_min": 1.0, "eps_max": 1e6, "deterministic": True}


def attack(
    name: str, auc: float, p_value: float, *, known: bool = True, excess: bool | None = False
) -> AttackRecord:
    """Return an attack on 1,200 members and as many others; on 59 others where no rate is known."""
    others = 1200 if known else 59
    refusals = {fpr: refusal_of(fpr, others) for fpr in (0.001, 0.01, 0.1)}
    points = tuple(
        OperatingPoint(fpr=fpr, refusal=why) if why else point(fpr) for fpr, why in refusals.items()
    )
    return AttackRecord(
        attack=name, members=1200, others=others, auc=auc, auc_low=auc - 0.03, auc_high=auc + 0.03,
        null_low=0.47, null_high=0.53, p_value=p_value, points=points, excess=excess,
    )  # fmt: skip


def point(fpr: float) -> OperatingPoint:
    """Return a rate twice as high as that of false positives, among 1,200 members."""
    tpr = round(1200 * 2 * fpr) / 1200
    low, high = clopper_pearson(1200 * tpr, 1200)
    return OperatingPoint(fpr=fpr, tpr=tpr, low=low, high=high, fpr_high=1.5 * fpr)


def membership_audit(
    run: RunRecord,
    verdict: str = "nothing found",
    *,
    bounded: bool = True,
    known: bool = True,
    group: str = "F",
) -> MembershipAudit:
    """Return membership attacks with a verdict."""
    found = verdict in ("exposed", "refuted")
    names = ("loss", "lira", "rmia")
    auc, p_value = (0.7, 0.001) if found else (0.51, 0.4)
    excess = verdict == "refuted" if bounded else None
    attacks = [attack(name, auc, p_value, known=known, excess=excess) for name in names]
    rates = (0.01, 0.1, 0.5, 0.9)
    return MembershipAudit(
        attacks=tuple(attacks),
        groups=(
            GroupRecord(attribute="sex", group=group, members=600, others=600, auc=0.52, auc_low=0.49,
                        auc_high=0.55),
            GroupRecord(attribute="sex", group="M", refusal=GROUP_REFUSALS[0]),
        ),
        negative=attack("rmia", 0.5, 0.5), split_control=attack("rmia", 0.5, 0.5),
        positive=attack("rmia", 0.9, 0.5 if verdict == "void" else 0.001),
        references=4, split_rule="exact", patients_known=True,
        bound={"0.1": 0.4, "0.01": 0.1, "0.001": 0.02} if bounded else {}, bound_auc=0.8 if bounded else None,
        significance=0.05, verdict=verdict,
        reason="a model that knows a few patients was not found" if verdict == "void" else "",
        origin=origin_of(run, timeless=True),
        curves={
            name: tuple(
                OperatingPoint(fpr=x, tpr=min(1.0, 1.1 * x), low=x, high=min(1.0, 1.3 * x), fpr_high=x)
                for x in rates
            )
            for name in names
        },
        curve_bound=(0.1, 0.4, 0.8, 0.99) if bounded else (),
    )  # fmt: skip


def score_audit(verdict: str, mu: float) -> ScoreAudit:
    """Return the audit of 1,000 canaries with a verdict."""
    area = brentq(lambda found: area_mu_of(found, 500, 500) - mu, 0.01, 0.9999)
    low, high = gaussian_interval(area, 500, 500, significance=0.05)
    check = ScoreCheck(name="mu", basis="asymptotic", measured=mu, allowed=1.8, refuted=verdict == "refuted")
    other = ScoreCheck(name="TPR - FPR", basis="certified", measured=0.4, allowed=0.6, refuted=False)
    return ScoreAudit(
        included=500, excluded=500, confidence=0.95, delta=1e-5, one_run_epsilon=1.0, fdp_mu=1.0,
        fdp_epsilon=2.0, fdp_split_epsilon=1.0, rates_epsilon=1.0, advantage=0.4, auroc=area, mu=mu,
        mu_low=low, mu_high=high, gdp_epsilon=3.0, claim_epsilon=8.0, claim_mu=1.8,
        claim_advantage=0.6, checks=(check, other), verdict=verdict,
    )  # fmt: skip


def one_run_record(run: RunRecord, verdict: str = "consistent", *, caught: bool = True) -> OneRunRecord:
    """Return an audit of the implementation with a verdict."""
    return OneRunRecord(
        audit=score_audit(verdict, 3.0 if verdict == "refuted" else 1.7),
        control=score_audit("refuted" if caught else "consistent", 3.4), steps=60, seconds=0.0, overhead=0.0,
        origin=origin_of(run, timeless=True),
    )  # fmt: skip


@cache
def _bounds(ledger: str, epsilons: int) -> BoundsRecord:
    """Return the bounds of a run with this ledger; many tests share a few ledgers."""
    with tempfile.TemporaryDirectory() as place:
        noise, unit = ledger.split()
        folder = write_run(Path(place) / "run", private=True, noise=float(noise), unit=unit)
        config = BoundsConfig(n_eps=epsilons, eps_min=1.0, eps_max=1e6, deterministic=True)
        return run_bounds(config, Path(place), run=folder).record


def write_bounds(config: AuditConfig, run: Run, data: Path | None, progress: Progress) -> None:
    """Write the bounds of a made-up run, computed once per noise and unit."""
    privacy = artifacts.require(run.root, PrivacyRecord, fix="")
    found, known = (
        _bounds(f"{privacy.noise_multiplier} {privacy.unit}", config.bounds.n_eps),
        record_of(run.root),
    )
    mechanism = replace(found.mechanism, run=known.id, weights=known.weights)
    found = replace(found, mechanism=mechanism)
    artifacts.write(run.root / "audit", RULES["bounds"].unbounded(found) if known.deterministic else found)


@contextmanager
def given_parts(folder: Path, **records: object):
    """Let the parts ``one_run`` and ``membership`` write these records; a part without one cannot be done."""
    known, changed = dict(parts.REGISTRY), {}
    for name, part in known.items():
        if name == "bounds":
            changed[name] = replace(part, carry_out=write_bounds)
            continue
        record = records.get(name.replace("-", "_"))

        def write(config, run, data, progress, record=record):
            artifacts.write(run.root, record)

        why = "" if record is not None else "left out in this test"
        changed[name] = replace(part, carry_out=write, obstacle=lambda run, data, why=why: why)
    try:
        parts.REGISTRY.update(changed)
        yield
    finally:
        parts.REGISTRY.update(known)


def audited(folder: Path, *, fail_if: tuple[str, ...] = (), plan: dict | None = None, **records: object):
    """Audit a run with real bounds and the given records, and return the result."""
    with given_parts(folder, **records):
        return stage.run(AuditConfig.of(**{**QUICK, **(plan or {})}), folder, fail_if=fail_if)


def record_of(folder: Path) -> RunRecord:
    """Return the record of a run."""
    return artifacts.require(folder, RunRecord, fix="")
