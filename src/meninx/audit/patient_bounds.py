"""Bounds for a patient, where the guarantee of a run is for one case: from the bounds for k cases.

k is the largest number of training cases of one patient. Where it is not known, no bound is given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from meninx.audit.bounds_figure import NO_GUARANTEE
from meninx.core import artifacts
from meninx.core.artifacts import DataRecord, PrivacyRecord, RunRecord
from meninx.core.budget import PrivacyUnit
from meninx.core.errors import MeninxError
from meninx.core.findings import GUARANTEED, Finding, key_of
from meninx.core.manifest import Manifest, dataset_digest
from meninx.core.percentages import at_most, percent
from meninx.core.risk_records import BoundsRecord, PatientBounds
from meninx.core.run import Run
from meninx.privacy import group_risk, risk
from meninx.privacy.group_risk import GroupRisk
from meninx.privacy.risk import RiskCurve

NO_NAMES = "the source does not name its patients, so the number of cases of a patient is not known"
NOT_AT_HAND = "the dataset of the run is not at hand, so the number of cases of a patient is not known"
TOO_MANY = "a patient has too many cases for a bound"


def is_per_case(unit: str, *, patients_known: bool) -> bool:
    """Return whether a guarantee is for a case only: by its unit, or because patients are not known."""
    return unit != PrivacyUnit.PATIENT or not patients_known


def unit_of(record: BoundsRecord) -> str:
    """Return the word for what bounds are for: ``patient``, or ``case`` where patients may have several.

    A run whose source does not name its patients treats every case as a patient, and its ledger says so.
    """
    return record.unit


def cases_of_a_patient(run: Run) -> int:
    """Return the largest number of training cases of one patient; 0 where that dataset is not at hand."""
    known = artifacts.read(run.root, DataRecord)
    try:
        data = Manifest.read(Path(known.dataset)) if known is not None else None
        if known is not None and data is not None:
            found = dataset_digest(data.root, images=known.images)
            data = data if found.digest == known.digest else None
    except (MeninxError, OSError):
        data = None
    counts = Counter(case.patient_id for case in data.split("train").cases) if data is not None else Counter()
    return max(counts.values(), default=0)


def unit_words(unit: str, *, patients_known: bool) -> str:
    """Return the privacy unit for a page, with the reason where it is not that of the ledger."""
    if patients_known:
        return unit
    return f"{PrivacyUnit.CASE} (the source does not name its patients)"


def empty(run: Run) -> PatientBounds | None:
    """Return the number of cases of a patient, or why it is not known; None where bounds are for patients."""
    privacy, record = artifacts.read(run.root, PrivacyRecord), artifacts.read(run.root, RunRecord)
    known = record is None or record.patients_known
    if privacy is None or not is_per_case(privacy.unit, patients_known=known):
        return None
    if not known:
        return PatientBounds(cases=0, reason=NO_NAMES)
    most = cases_of_a_patient(run)
    return PatientBounds(cases=most, reason=reason_for(most))


def reason_for(cases: int) -> str:
    """Return why a number of cases of a patient (0: not known) gives no bound; empty where it does."""
    if cases < 1:
        return NOT_AT_HAND
    return TOO_MANY if cases > group_risk.MOST else ""


def computed(found: PatientBounds | None, curve: RiskCurve, kappas: dict[str, float]) -> PatientBounds | None:
    """Return the bounds for a patient with the number of cases in ``found``.

    Args:
        found: from :func:`empty`.
        curve: of the run, in the worst case.
        kappas: name of a prior -> success without the model.
    """
    if found is None or found.reason:
        return found
    group = GroupRisk(curve=curve, size=found.cases)
    return PatientBounds(
        cases=found.cases,
        advantage=group.advantage().upper,
        tpr_at_fpr={f"{rate:g}": group.gamma(rate).upper for rate in risk.FPRS},
        success={name: group.gamma(kappa).upper for name, kappa in kappas.items()},
    )


def findings(record: BoundsRecord, *, amber: float, red: float) -> Iterator[Finding]:
    """Yield the bounds for a patient, or that there are none and why; nothing where bounds are for patients.

    Args:
        record: of a run.
        amber: largest share of what guessing leaves that an attack may gain for green.
        red: the largest for amber.
    """
    found = record.patient
    if found is None:
        return
    who = f"a patient with up to {found.cases:,} case{'s' if found.cases > 1 else ''}"

    def bound(name: str, words: str, most: float | None, guess: float) -> Finding:
        if most is None:
            return Finding(
                key=key_of("bounds", name), line=GUARANTEED, words="No bound per patient was computed.",
                value=None, low=None, high=None, n=0, null=None, bound=None, colour="amber",
                reason=found.reason,
            )  # fmt: skip
        gain = (most - guess) / (1 - guess) if guess < 1 else 0.0
        colour = "green"
        if gain > amber:
            colour = "red" if gain > red else "amber"
        reason = f"an attack gains at most {at_most(gain)} of what guessing leaves"
        if gain > max(red, 0.5):
            reason = NO_GUARANTEE
        return Finding(
            key=key_of("bounds", name), line=GUARANTEED, words=words, value=most, low=most, high=most, n=0,
            null=guess, bound=most, colour=colour, reason=reason,
        )  # fmt: skip

    for rate in risk.FPRS:
        most = found.tpr_at_fpr.get(f"{rate:g}")
        words = f"No attack finds {who} more often than {at_most(most or 0)} at {percent(rate)} "
        words += "false accusations."
        yield bound(f"patient-tpr@fpr={rate:g}", words, most, rate)
    most = found.advantage
    words = f"For {who}, TPR - FPR of a membership attack is at most {at_most(most or 0)}."
    yield bound("patient-advantage", words, most, 0.0)
    for prior in sorted(record.priors, key=lambda prior: -prior.kappa):
        most = found.success.get(prior.name)
        words = f"For {who}, an attacker who knows {prior.name} is right at most {at_most(most or 0)} of "
        words += "the time."
        yield bound(f"patient-success@{short(prior.name, prior.kappa)}", words, most, prior.kappa)


def short(name: str, kappa: float) -> str:
    """Return the end of the key of a prior."""
    return f"n={round(1 / kappa)}" if name.startswith("1 of") else name


def contradictions(record: BoundsRecord) -> Iterator[str]:
    """Yield what in the bounds for a patient contradicts the others: none may be below that for one case."""
    found = record.patient
    if found is None or record.void:
        return
    numbers = (found.advantage, *found.tpr_at_fpr.values(), *found.success.values())
    if found.reason:
        if any(number is not None for number in numbers):
            yield "it gives a bound for a patient, and says why there is none"
        return
    if record.operating is None or record.membership is None:
        return
    one = record.membership.tpr_at_fpr
    if set(found.tpr_at_fpr) != set(one) or set(found.success) != {prior.name for prior in record.priors}:
        yield "its bounds for a patient are not those of its rates and adversaries"
        return
    pairs = [(found.advantage, record.membership.advantage.lower)]
    pairs += [(found.tpr_at_fpr[rate], one[rate].lower) for rate in one]
    pairs += [(most, record.operating.worst[name].lower) for name, most in found.success.items()]
    if found.cases < 1 or not all(most is not None and least - 1e-9 <= most <= 1 for most, least in pairs):
        yield "a bound for a patient is none: it is below that for one case"
