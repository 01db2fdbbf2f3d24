"""Checks of proven bounds: computed again from the ledgers, they must agree within their certified limits."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from meninx.core.risk_records import Bounded, BoundPoint, BoundsRecord
from meninx.verify.check_list import CheckList, plain

if TYPE_CHECKING:
    from meninx.privacy.accounting import Phase
    from meninx.privacy.ledger import Ledger
    from meninx.privacy.risk import Bracket, RiskCurve
    from meninx.verify.audited_ledgers import AuditedLedgers

_MOST_POINTS, _MOST_PRIORS = 100, 32
_ROUNDING = 1e-6  # relative, of numbers that two machines compute from the same phases
_AMONG = re.compile(r"1 of (?:all )?([\d,]{1,15})")


WHAT = "bounds from the ledger"
PRECISION = 1e-3
"""Largest relative distance of the limits that are computed here, whatever precision a record states."""


def check(book: CheckList, record: BoundsRecord, ledgers: AuditedLedgers) -> None:
    """Compute the bounds of a run again and compare.

    Args:
        book: collects the lines.
        record: what is stated.
        ledgers: of the run, and of the runs behind its weights.
    """
    if record.void:
        words = "they say that none holds, and nothing in the run says why"
        book.judge(WHAT, [] if ledgers.void else [words], privacy=True, remark="none: " + plain(record.void))
        return
    wrong = list(_mechanism(record, ledgers.own))
    wrong += list(_priors(record))
    if record.operating is None or record.membership is None:
        wrong.append("they hold none for the run itself")
    if not wrong:
        wrong += list(_operating(record, ledgers.phases))
        wrong += list(_patient(record, ledgers))
        wrong += list(_axis(record))
    remark = f"operating point and {len(record.points)} points, {len(record.priors)} adversaries"
    book.judge(WHAT, [plain(item) for item in wrong], privacy=True, remark=remark)


def _mechanism(record: BoundsRecord, own: Ledger) -> Iterator[str]:
    found = record.mechanism
    if tuple(found.ledger) != own.anchor:
        yield "they are about another ledger"
        return
    first, phase = own.accounts[0].first, own.accounts[-1].phase()
    pairs = (
        ("sample rate", found.sample_rate, phase.sample_rate),
        ("delta", found.delta, first.delta),
        ("steps", float(found.steps), float(sum(item.phase().steps for item in own.accounts))),
    )
    for name, stated, computed in pairs:
        if not math.isclose(stated, computed, rel_tol=1e-9):
            yield f"{name} {stated:.6g}, by the ledger {computed:.6g}"
    if len(record.points) > _MOST_POINTS or len(record.priors) > _MOST_PRIORS:
        yield "they have more points or adversaries than meninx writes"


def _priors(record: BoundsRecord) -> Iterator[str]:
    names = [prior.name for prior in record.priors]
    if len(set(names)) < len(names):
        yield "two adversaries have one name"
    for prior in record.priors:
        match = _AMONG.fullmatch(prior.name)
        count = int(match[1].replace(",", "") or 0) if match else 0
        if count and not math.isclose(prior.kappa, 1 / count, rel_tol=1e-9):
            yield f"the blind guess of {prior.name} is not {1 / count:.4g}"
        if not 0 < prior.kappa <= 1:
            yield f"the blind guess of {prior.name} is no probability"


def _operating(record: BoundsRecord, phases: Sequence[Phase]) -> Iterator[str]:
    from meninx.privacy import accounting, risk

    point, delta = record.operating, record.mechanism.delta
    if point is None:
        return
    epsilon = accounting.epsilon(phases, delta).value
    if not math.isclose(point.epsilon, epsilon, rel_tol=_ROUNDING):
        yield f"epsilon {point.epsilon:.6g}, by the ledger {epsilon:.6g}"
    worst, relaxed = _curves(record, phases, rates=risk.FPRS)
    yield from _point(record, point, worst, relaxed, "operating point")
    found = record.membership
    if found is None:
        return
    stated = {"AUC": (found.auc, worst.auc()), "TPR - FPR": (found.advantage, worst.advantage())}
    stated["accuracy"] = (found.accuracy, worst.accuracy())
    for rate, value in found.tpr_at_fpr.items():
        try:
            stated[f"TPR at {rate}"] = (value, worst.tpr(float(rate)))
        except ValueError:
            yield "a false positive rate is no number"
    for name, (value, computed) in stated.items():
        if not _agree(value, computed, record.precision):
            yield _unlike(f"membership, {name}", value, computed)


def _axis(record: BoundsRecord) -> Iterator[str]:
    """Yield what is wrong with the points of the axis of epsilon."""
    from meninx.privacy import accounting
    from meninx.privacy.accounting import Phase

    mechanism = record.mechanism
    for point in record.points:
        if point.noise_multiplier is None or point.noise_multiplier <= 0:
            yield f"the point at epsilon {point.epsilon:.4g} names no noise"
            continue
        phase = Phase(
            sample_rate=mechanism.sample_rate, noise_multiplier=point.noise_multiplier, steps=mechanism.steps
        )
        spent = accounting.epsilon([phase], mechanism.delta).value
        if spent > point.epsilon * (1 + 1e-3):
            yield f"the noise at epsilon {point.epsilon:.4g} spends {spent:.4g}"
        worst, relaxed = _curves(record, [phase])
        yield from _point(record, point, worst, relaxed, f"epsilon {point.epsilon:.4g}")


def _patient(record: BoundsRecord, ledgers: AuditedLedgers) -> Iterator[str]:
    """Yield what is wrong with the bounds for a patient with several cases, and with their absence."""
    from meninx.audit import patient_bounds
    from meninx.privacy import group_risk, risk
    from meninx.privacy.group_risk import GroupRisk

    found = record.patient
    per_case = patient_bounds.is_per_case(ledgers.unit, patients_known=ledgers.patients_known)
    if (found is not None) != per_case:
        yield (
            "they are for a patient, by the ledger and the run for one case"
            if per_case
            else ("they are for one case, by the ledger and the run for a patient")
        )
    if found is None or not per_case:
        return
    expected = patient_bounds.reason_for(found.cases) if ledgers.patients_known else patient_bounds.NO_NAMES
    if found.reason != expected or (found.cases and not ledgers.patients_known):
        yield "why there is no bound for a patient does not follow from the run"
    if ledgers.cases and found.cases != ledgers.cases:
        yield f"cases of a patient {found.cases:,}, by the dataset {ledgers.cases:,}"
    wrong = list(patient_bounds.contradictions(record))
    yield from wrong
    if wrong or found.reason or not 0 < found.cases <= group_risk.MOST or found.advantage is None:
        return
    kappas = {prior.name: prior.kappa for prior in record.priors}
    curve = risk.risk_curve(ledgers.phases, rates=[*kappas.values(), *risk.FPRS], precision=PRECISION)
    group = GroupRisk(curve=curve, size=found.cases)
    stated = [("TPR - FPR", found.advantage, group.advantage())]
    stated += [(f"TPR at {rate}", most, group.gamma(float(rate))) for rate, most in found.tpr_at_fpr.items()]
    stated += [
        (name, most, group.gamma(kappas[name])) for name, most in found.success.items() if name in kappas
    ]
    slack = 2 * found.cases * min(0.1, max(1e-4, record.precision)) + _ROUNDING
    for name, value, computed in stated:
        if not computed.lower * (1 - _ROUNDING) <= value <= computed.upper * (1 + slack) + 1e-4:
            yield (
                f"a patient with {found.cases:,} cases, {name}: {value:.6g}, computed again "
                f"{computed.lower:.6g} to {computed.upper:.6g}"
            )


def _curves(
    record: BoundsRecord, phases: Sequence[Phase], *, rates: Sequence[float] = ()
) -> tuple[RiskCurve, RiskCurve]:
    from meninx.privacy import risk
    from meninx.privacy.loss_distribution import ThreatModel

    wanted = [*(prior.kappa for prior in record.priors), *rates]
    worst, relaxed = (
        risk.risk_curve(phases, rates=wanted, model=model, precision=PRECISION) for model in ThreatModel
    )
    return worst, relaxed


def _point(
    record: BoundsRecord, point: BoundPoint, worst: RiskCurve, relaxed: RiskCurve, where: str
) -> Iterator[str]:
    names = {prior.name for prior in record.priors}
    if set(point.worst) != names or set(point.relaxed) != names:
        yield f"{where}: its adversaries are not those of the record"
        return
    for prior in record.priors:
        full, unsure = worst.gamma(prior.kappa), relaxed.gamma(prior.kappa)
        if not _agree(point.worst[prior.name], full, record.precision):
            yield _unlike(f"{where}, {prior.name}, worst case", point.worst[prior.name], full)
        least = full if full.upper < unsure.upper else unsure
        if not _agree(point.relaxed[prior.name], least, record.precision):
            yield _unlike(f"{where}, {prior.name}, relaxed", point.relaxed[prior.name], least)


def _agree(stated: Bounded, computed: Bracket, precision: float) -> bool:
    """Return whether two certified brackets are of one number.

    They have to overlap, so that a stated bound is never below what an attack is known to reach. The stated
    precision only decides how much wider than the computed bracket the stated one may be: a bound that is
    too high promises too little, and no wrong one passes by a large precision.
    """
    slack = 2 * min(0.1, max(1e-4, precision)) + _ROUNDING
    ordered = stated.lower <= stated.value <= stated.upper
    overlap = stated.lower <= computed.upper * (1 + _ROUNDING) and computed.lower <= stated.upper * (
        1 + _ROUNDING
    )
    narrow = (
        stated.upper <= computed.upper * (1 + slack) and stated.lower >= computed.lower * (1 - slack) - 1e-12
    )
    return ordered and overlap and narrow


def _unlike(where: str, stated: Bounded, computed: Bracket) -> str:
    return (
        f"{where}: {stated.lower:.6g} to {stated.upper:.6g}, computed again {computed.lower:.6g} to "
        f"{computed.upper:.6g}"
    )
