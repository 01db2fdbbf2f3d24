"""Checks of attacks against the ledgers: the bounds that their records hold, and whether one was exceeded.

A record of attacks says what the guarantee allows and whether an attack found more. Both follow from the
ledgers and the counts in the record, so they are computed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from meninx.core.attribute_records import AttributesAudit
from meninx.core.audit_records import MembershipAudit, OneRunRecord
from meninx.core.budget import PrivacyUnit
from meninx.core.reconstruction_records import ReconstructionAudit

if TYPE_CHECKING:
    from meninx.privacy.accounting import Phase
    from meninx.privacy.risk import Bracket, RiskCurve
    from meninx.verify.audited_ledgers import AuditedLedgers

_ROUNDING = 1e-6  # relative, of numbers that two machines compute from the same phases
_WIDTH = 2e-3  # relative, of a bound that was computed to another precision
_LABELS, _NOISY = "labels", "noisy gradient"


PARTS = ("one-run", "membership", "reconstruction", "attributes")
"""Parts whose records hold bounds or claims."""


def contradictions(record: Any, ledgers: AuditedLedgers) -> Iterator[str]:
    """Yield what in the record of a part contradicts the ledgers.

    Args:
        record: of one of :data:`PARTS`.
        ledgers: of the run, whose noise nobody knows, and of the runs behind its weights.
    """
    if isinstance(record, MembershipAudit):
        yield from _membership(record, ledgers.phases, ledgers.unit)
    elif isinstance(record, AttributesAudit):
        yield from _attributes(record, ledgers.phases, ledgers.unit)
    elif isinstance(record, ReconstructionAudit):
        yield from _reconstruction(record, ledgers.phases)
    elif isinstance(record, OneRunRecord):
        yield from _one_run(record, ledgers.own_phases)


def _agrees(stated: float | None, computed: Bracket) -> bool:
    """Return whether a stated upper bound is one: not below what an attack reaches, and not far above."""
    if stated is None:
        return False
    least, most = computed.lower * (1 - _ROUNDING), computed.upper * (1 + _WIDTH)
    return least <= stated <= most + 1e-9


def _unlike(what: str, stated: float | None, computed: Bracket) -> str:
    shown = "none" if stated is None else f"{stated:.6g}"
    return f"the bound on {what} is {shown}, by the ledger {computed.lower:.6g} to {computed.upper:.6g}"


# membership


def _membership(record: MembershipAudit, phases: Sequence[Phase], unit: str) -> Iterator[str]:
    from meninx.metrics.attack_success import FPRS
    from meninx.privacy.risk import risk_curve

    if unit != PrivacyUnit.PATIENT and record.patients_known:
        if record.bound or record.bound_auc is not None:
            yield f"it holds a bound for a patient, and the guarantee is for one {unit}"
        return
    curve = risk_curve(phases, rates=FPRS)
    if set(record.bound) != {f"{fpr:g}" for fpr in FPRS}:
        yield f"its bounds are not those at the false positive rates {', '.join(map(str, FPRS))}"
        return
    stated: list[tuple[str, float | None, Bracket]] = [
        (f"the rate at {fpr:g}", record.bound[f"{fpr:g}"], curve.tpr(fpr)) for fpr in FPRS
    ]
    stated.append(("the area under the ROC curve", record.bound_auc, curve.auc()))
    if record.curves:
        axis = [point.fpr for point in next(iter(record.curves.values()))]
        if len(axis) != len(record.curve_bound):
            yield "its curve of the guarantee has other rates than its curves"
        pairs = zip(axis, record.curve_bound, strict=False)
        stated += [(f"the curve at {fpr:.3g}", most, curve.tpr(fpr)) for fpr, most in pairs]
    for what, value, computed in stated:
        if not _agrees(value, computed):
            yield _unlike(what, value, computed)
    yield from _excesses(record, curve)


def _excesses(record: MembershipAudit, curve: RiskCurve) -> Iterator[str]:
    """Yield attacks that state another answer than the test that made the record gives for their counts."""
    from meninx.metrics.attack_success import counts_exceed

    each = record.significance / len(record.attacks)
    for attack in record.attacks:
        found = counts_exceed(attack, lambda fpr: curve.tpr(fpr).upper, curve.auc().upper, significance=each)
        if bool(attack.excess) != bool(found):
            yield f"attack {attack.attack} {_verb(bool(found))} the bound, and it states the contrary"
        elif attack.above and attack.excess != found:
            verb = "can" if attack.excess is None else "cannot"
            yield f"attack {attack.attack} on so many patients {verb} test the bound; it states the contrary"


def _verb(found: bool) -> str:
    return "exceeds" if found else "does not exceed"


# attributes


def _attributes(record: AttributesAudit, phases: Sequence[Phase], unit: str) -> Iterator[str]:
    from meninx.metrics.attribute_success import bounded, bounded_by_prior
    from meninx.privacy.accounting import Phase
    from meninx.privacy.risk import risk_curve

    attacks = [one for one in record.attributes if one.signal != _LABELS]
    if unit != PrivacyUnit.PATIENT and record.patients_known:
        if any(one.bound is not None for one in attacks):
            yield f"it holds a bound for a patient, and the guarantee is for one {unit}"
        return
    rates = (0.1, 0.25, 0.5, 0.75, 0.9)
    whole = risk_curve(phases, rates=rates)
    step = Phase(sample_rate=1.0, noise_multiplier=record.noise_multiplier, steps=1)
    noisy = risk_curve([step], rates=rates) if record.noise_multiplier > 0 else None
    tests = len({one.attribute for one in record.attributes}) * len({one.signal for one in attacks})
    each = record.significance / max(1, tests)
    for one in attacks:
        curve = noisy if one.signal == _NOISY else whole
        prior = one.prior if one.signal == _NOISY else one.on_others
        if curve is None or prior is None or one.accuracy is None:
            continue
        what = f"{one.attribute} from the {one.signal}"
        if not _agrees(one.bound, curve.gamma(prior)):
            yield _unlike(what, one.bound, curve.gamma(prior))
        judge = bounded_by_prior if one.signal == _NOISY else bounded
        found = bool(judge(one, lambda kappa, curve=curve: curve.gamma(kappa).upper, each).excess)  # type: ignore[misc]
        if bool(one.excess) != found:
            yield f"the attack on {what} {_verb(found)} the bound, and it states the contrary"


# reconstruction


def _reconstruction(record: ReconstructionAudit, phases: Sequence[Phase]) -> Iterator[str]:
    from meninx.privacy.accounting import Phase
    from meninx.privacy.risk import risk_curve

    own = [one for one in record.identification if one.level == record.own_level]
    kappas = sorted({1 / one.candidates for one in own})
    curve = risk_curve(phases, rates=kappas)
    for one in own:
        computed = curve.gamma(1 / one.candidates)
        if not _agrees(one.bound, computed):
            yield _unlike(f"one of {one.candidates:,} images", one.bound, computed)
    for match in (item for item in record.matches if item.view == "step"):
        if match.noise_multiplier <= 0:
            continue
        step = Phase(sample_rate=1.0, noise_multiplier=match.noise_multiplier, steps=match.participations)
        computed = risk_curve([step], rates=[match.kappa]).gamma(match.kappa)
        if not _agrees(match.bound, computed):
            yield _unlike(f"images by {match.attack} at {match.level}", match.bound, computed)


# canaries


def _one_run(record: OneRunRecord, phases: Sequence[Phase]) -> Iterator[str]:
    from meninx.privacy.claim import Claim
    from meninx.privacy.score_audit import CHECKS, area_refutes

    claim = Claim.of_mechanism(phases, delta=record.audit.delta)
    for audit in (record.audit, record.control):
        pairs = (
            ("epsilon", audit.claim_epsilon, claim.epsilon),
            ("TPR - FPR", audit.claim_advantage, claim.advantage),
            ("mu", audit.claim_mu, claim.mu if math.isfinite(claim.mu) else None),
        )
        for what, stated, computed in pairs:
            if stated is None and computed is None:
                continue
            if stated is None or computed is None or not math.isclose(stated, computed, rel_tol=_WIDTH):
                yield f"the claimed {what} is not that of the ledger"
        found = area_refutes(
            audit.auroc, audit.included, audit.excluded, claim, significance=(1 - audit.confidence) / CHECKS
        )
        if found != ("mu" in audit.refuted_by):
            verb = "refutes" if found else "does not refute"
            yield f"the area of the canaries {verb} the claim, and it states the contrary"
