"""Checks of proven bounds: computed again from the ledgers, they must agree within their certified limits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from meninx.core import artifacts
from meninx.core.artifacts import PrivacyRecord, RunRecord
from meninx.core.risk_records import Bounded, BoundPoint, BoundsRecord
from meninx.verify.check_list import CheckList, plain

if TYPE_CHECKING:
    from meninx.privacy.accounting import Phase
    from meninx.privacy.risk import Bracket, RiskCurve
    from meninx.verify.audited_ledgers import AuditedLedgers

_MOST_POINTS, _MOST_PRIORS = 100, 32
_ROUNDING = 1e-6  # relative, of numbers that two machines compute from the same phases
_NAME = "\0"  # stands for the name of the run folder, which a dossier does not hold


WHAT = "bounds from the ledger"
PRECISION = 1e-3
"""Largest relative distance of the limits that are computed here, whatever precision a record states."""


def check(book: CheckList, record: BoundsRecord, ledgers: AuditedLedgers, root: Path) -> None:
    """Compute the bounds of a run again and compare.

    Args:
        book: collects the lines.
        record: what is stated.
        ledgers: of the run, and of the runs behind its weights.
        root: the run folder, or the folder of its records in a dossier.
    """
    wrong = [*_reason(record, ledgers), *_mechanism(record, ledgers, root), *_priors(record)]
    if record.void or ledgers.void:
        book.judge(WHAT, [plain(item) for item in wrong], privacy=True, remark="none: " + plain(record.void))
        return
    if record.operating is None or record.membership is None:
        wrong.append("they hold none for the run itself")
    if not wrong:
        wrong += list(_operating(record, ledgers.phases))
        wrong += list(_patient(record, ledgers))
        wrong += list(_axis(record))
    remark = f"operating point and {len(record.points)} points, {len(record.priors)} adversaries"
    book.judge(WHAT, [plain(item) for item in wrong], privacy=True, remark=remark)


def _reason(record: BoundsRecord, ledgers: AuditedLedgers) -> Iterator[str]:
    """Yield whether the record says otherwise than the run whether a bound holds, and why none does."""
    from meninx.audit.mechanism import SEEDED

    if record.void and not ledgers.void:
        yield "they say that none holds, and nothing in the run says why"
    elif ledgers.void and record.void != SEEDED:
        yield "they do not say why none holds"


def _mechanism(record: BoundsRecord, ledgers: AuditedLedgers, root: Path) -> Iterator[str]:
    """Yield which field of the mechanism is not that of the ledgers, the run and its promise."""
    from meninx.audit import mechanism

    privacy = artifacts.require(root, PrivacyRecord, fix="ask for the whole folder")
    run = artifacts.read(root, RunRecord)
    again = mechanism.of_ledgers(ledgers.own, ledgers.earlier, privacy, run, name=_NAME).record
    found = record.mechanism
    if tuple(found.ledger) != again.ledger:
        yield "they are about another ledger"
        return
    for field in fields(again):
        stated, computed = getattr(found, field.name), getattr(again, field.name)
        if field.name == "source":
            same = _is_source(stated, *computed.split(_NAME))
        elif isinstance(computed, float):
            same = isinstance(stated, float) and math.isclose(stated, computed, rel_tol=1e-9)
        else:
            same = stated == computed
        if not same:
            yield f"{field.name.replace('_', ' ')} {_shown(stated)}, by the ledger {_shown(computed)}"
    if len(record.points) > _MOST_POINTS or len(record.priors) > _MOST_PRIORS:
        yield "they have more points or adversaries than meninx writes"


def _is_source(stated: str, before: str, after: str) -> bool:
    """Return whether a source is that of the ledger of a run folder, whatever the folder is called."""
    name = stated.removeprefix(before).removesuffix(after)
    composed = "the runs behind its weights" in name
    return stated == f"{before}{name}{after}" and 0 < len(name) < 256 and "/" not in name and not composed


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else plain(str(value))


def _priors(record: BoundsRecord) -> Iterator[str]:
    """Yield which adversary has another blind guess than its own fields give, or fields that none has."""
    from meninx.audit.bounds import ATTRIBUTE, IMAGE_METRIC, kappa_of_share
    from meninx.privacy import risk

    names = [prior.name for prior in record.priors]
    if len(set(names)) < len(names):
        yield "two adversaries have one name"
    for prior in record.priors:
        count, known = prior.candidates, (prior.share, prior.hits, prior.images)
        kappa = 0.0
        if count is not None and known == (None, None, None):
            kappa = risk.of_candidates(count)
        elif prior.name == ATTRIBUTE and prior.share is not None and known[1:] == (None, None):
            kappa = kappa_of_share(prior.share) if 0 < prior.share <= 1 else 0.0
        elif prior.name == IMAGE_METRIC and prior.hits is not None and prior.images is not None:
            kappa = risk.of_metric(prior.hits, prior.images) if 0 <= prior.hits <= prior.images else 0.0
        if not kappa:
            yield f"no audit knows an adversary {plain(prior.name)} with these fields"
        elif not math.isclose(prior.kappa, kappa, rel_tol=1e-9):
            yield f"the blind guess of {prior.name} is not {kappa:.4g}"
        if prior.of_all and count != record.mechanism.units:
            yield f"{prior.name} are not all that were trained on"


def _operating(record: BoundsRecord, phases: Sequence[Phase]) -> Iterator[str]:
    from meninx.privacy import accounting, risk

    point, delta = record.operating, record.mechanism.delta
    if point is None:
        return
    spent = accounting.epsilon(phases, delta)
    epsilon, own = spent.value, record.mechanism.noise_multiplier
    if (point.noise_multiplier, point.accountant) != (own, spent.accountant):
        yield "the operating point has another noise or accountant than the mechanism"
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
        spent = accounting.epsilon([phase], mechanism.delta)
        if spent.value > point.epsilon * (1 + 1e-3):
            yield f"the noise at epsilon {point.epsilon:.4g} spends {spent.value:.4g}"
        if spent.accountant != point.accountant:
            yield f"another accountant at epsilon {point.epsilon:.4g} than the program has"
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
