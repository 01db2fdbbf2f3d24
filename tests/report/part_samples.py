"""Made-up records of attributes, identity and reconstruction, each with the verdict of its own numbers."""

from __future__ import annotations

from meninx.audit import attribute_findings
from meninx.audit.audited_run import origin_of
from meninx.audit.reconstruction import reconstruction_verdict
from meninx.core.artifacts import RunRecord
from meninx.core.attribute_records import AttributeRecord, AttributesAudit, LeakRecord
from meninx.core.identity_records import IdentityAudit, LinkRecord
from meninx.core.proportions import clopper_pearson
from meninx.core.reconstruction_records import (
    CRITERIA,
    IdentificationRecord,
    LevelRecord,
    MatchRecord,
    ReconstructionAudit,
)
from meninx.metrics.linkage import linkage_verdict

OWN = "this run"


def attribute(
    name: str,
    *,
    p: float = 0.4,
    advantage_p: float = 0.4,
    bound: float | None = None,
    excess: bool | None = None,
) -> AttributeRecord:
    """Return an attack on an attribute of 200 members and as many others."""
    area = 0.51 if p > 0.05 else 0.65
    inside, outside = clopper_pearson(104, 200), clopper_pearson(100, 200)
    return AttributeRecord(
        attribute=name, signal="embedding", attack="logistic", classes=("F", "M"), members=200, others=200,
        prior=0.5, accuracy=0.51, accuracy_low=0.46, accuracy_high=0.56, on_members=0.52,
        on_members_low=inside[0], on_members_high=inside[1], on_others=0.5, on_others_low=outside[0],
        on_others_high=outside[1], advantage=0.02, advantage_low=-0.08, advantage_high=0.12,
        advantage_p=advantage_p, auroc=area, auroc_low=area - 0.05, auroc_high=area + 0.05, null_high=0.57,
        p_value=p, bound=bound, excess=excess,
    )  # fmt: skip


def attributes_audit(
    run: RunRecord,
    *,
    exceeds: bool = False,
    exposed: bool = False,
    bounded: bool = True,
    negative: tuple[AttributeRecord, ...] | None = None,
    fresh: tuple[AttributeRecord, ...] | None = None,
    positive: tuple[AttributeRecord, ...] | None = None,
) -> AttributesAudit:
    """Return attacks on sex, with a leak of one gradient."""
    excess = exceeds if bounded else None
    found = (
        attribute(
            "sex", advantage_p=0.001 if exposed else 0.4, bound=0.7 if bounded else None, excess=excess
        ),
    )
    negative = (attribute("coin"),) if negative is None else negative
    fresh = (attribute("sex"),) if fresh is None else fresh
    positive = (attribute("planted coin", p=0.001, advantage_p=0.001),) if positive is None else positive
    verdict, reason = attribute_findings.verdict_of(found, negative, fresh, positive, 0.05)
    leak = LeakRecord(
        signal="noisy gradient", patients=100, prior=0.5, accuracy=0.5, accuracy_low=0.4, accuracy_high=0.6,
        bound=0.9 if bounded else None,
    )  # fmt: skip
    return AttributesAudit(
        attributes=found, leaks=(leak,), negative=negative, fresh=fresh, positive=positive,
        prior_bounds={"sex": 0.7} if bounded else {}, noise_multiplier=1.0, split_rule="exact",
        patients_known=True, left_out=0, unknown_start=False, synthetic=False, folds=5, permutations=999,
        significance=0.05, seed=0, seconds=0.0, verdict=verdict, reason=reason,
        origin=origin_of(run, timeless=True),
    )  # fmt: skip


def identified(success: float, *, bound: float = 0.4) -> IdentificationRecord:
    """Return an identification among ten in 1,000 trials."""
    low, high = clopper_pearson(1000 * success, 1000)
    return IdentificationRecord(
        level=OWN, encoder="whitened", candidates=10, trials=1000, success=success, low=low, high=high,
        bound=bound, excess=low > bound + 0.02,
    )  # fmt: skip


def match(
    *, success: float = 0.0, control: float = 0.0, works: bool = True, bound: float = 0.4
) -> MatchRecord:
    """Return an attack on 48 images at the run's own noise."""
    low, high = clopper_pearson(48 * success, 48)
    return MatchRecord(
        attack="imprint-pca", encoder="pca", view="step", level=OWN, noise_multiplier=1.0, server="malicious",
        batch=16, participations=1, originals=48, patients=48.0, candidates=128, metric="ncc", threshold=0.9,
        nulls=300, level_of_null=0.01, noise_null=0.01, heldout_null=0.0, steps_null=0.005, success=success,
        low=low, high=high, control=control, control_patients=40.0, kappa=0.02,
        bound=bound, quantiles={"ncc": (0.9, 0.5, 0.1)}, works=works, self_test=0.9 if works else 0.1,
        seconds=1.0, excess=low > bound,
    )  # fmt: skip


def reconstruction_audit(
    run: RunRecord,
    *,
    exceeds: bool = False,
    exposed: bool = False,
    stranger: float = 0.1,
    control: float = 0.0,
    works: bool = True,
) -> ReconstructionAudit:
    """Return identification among ten, and one attack at the run's own noise."""
    named = (identified(0.7 if exceeds else 0.1),)
    without = identified(stranger, bound=1.0)
    matches = (match(success=0.5 if exposed else 0.0, bound=0.9, control=control, works=works),)
    verdict, reason = reconstruction_verdict.verdict_of(named, without, matches, own=OWN, significance=0.05)
    return ReconstructionAudit(
        identification=named, identified_without=without, matches=matches, not_attacked={},
        levels=(LevelRecord(name=OWN, noise_multiplier=1.0, epsilon=4.0, own=True),), sample_rate=0.1,
        steps=100, sampler="poisson", members=100, heldout=50, public="50 patients", pictures="none",
        seconds=0.0, significance=0.05, verdict=verdict, reason=reason, origin=origin_of(run, timeless=True),
        criteria=CRITERIA,
    )  # fmt: skip


def link(*, p: float = 0.4) -> LinkRecord:
    """Return an attack on 200 images of 50 patients."""
    share = 0.02 if p > 0.05 else 0.3
    return LinkRecord(
        attack="pixels", question="another image", probes=200, patients=50, gallery=200, p_at_1=share,
        p_at_1_low=share - 0.01, p_at_1_high=share + 0.05, chance=0.015,
        per_patient=0.02, per_patient_low=0.01,
        per_patient_high=0.05, auc=0.51, auc_low=0.46, auc_high=0.56, null_low=0.0, null_high=0.04, p_value=p,
    )  # fmt: skip


def identity_audit(
    run: RunRecord,
    *,
    linked: bool = False,
    negative: tuple[LinkRecord, ...] | None = None,
    positive: tuple[LinkRecord, ...] | None = None,
) -> IdentityAudit:
    """Return an attack on images of a dataset, with its controls."""
    links = (link(p=0.001 if linked else 0.4),)
    negative = (link(),) if negative is None else negative
    positive = (link(p=0.001),) if positive is None else positive
    verdict, reason = linkage_verdict(links, negative, positive, 0.05)
    return IdentityAudit(
        subject="dataset", links=links, floor=None, negative=negative, positive=positive, reconstructions=(),
        fitted_patients=20, fitted_images=80, copies=0, grid=(32, 32), patients_known=True, synthetic=False,
        probes="", probes_data="", significance=0.05, seed=0, seconds=0.0, verdict=verdict, reason=reason,
        origin=origin_of(run, timeless=True),
    )  # fmt: skip
