"""``meninx audit bounds``: what theory bounds, over an axis of epsilon and for one recipe or run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from meninx.audit import mechanism as mechanisms
from meninx.audit import patient_bounds
from meninx.audit.audit_files import AuditFiles
from meninx.audit.bounds_figure import NO_GUARANTEE, draw
from meninx.audit.config import MECHANISM, BoundsConfig
from meninx.audit.mechanism import Mechanism
from meninx.core import artifacts, files, provenance, workspace
from meninx.core import progress as bars
from meninx.core.artifacts import RunRecord
from meninx.core.errors import ConfigError, UsageError, problem
from meninx.core.findings import GUARANTEED, Finding, key_of
from meninx.core.percentages import at_most, percent
from meninx.core.result import Result
from meninx.core.risk_records import (
    Bounded,
    BoundPoint,
    BoundsRecord,
    MechanismRecord,
    MembershipRecord,
    PatientBounds,
    PriorRecord,
)
from meninx.core.run import Run
from meninx.privacy import risk
from meninx.privacy.accounting import Phase
from meninx.privacy.loss_distribution import ThreatModel
from meninx.privacy.noise_calibration import noise_profile
from meninx.privacy.risk import Bracket, RiskCurve, risk_curve

ATTRIBUTE, IMAGE_METRIC = "attribute", "image metric"
TABLE, FIGURES = "bounds.csv", ("bounds.svg", "bounds.png")
FILES = AuditFiles(
    kind=BoundsRecord, title="bounds", names=(TABLE, *FIGURES), run_of=lambda record: record.mechanism.run
)


@dataclass(frozen=True, kw_only=True)
class BoundsResult(Result):
    """Proven bounds; ``bounds.csv``, ``bounds.json``, ``bounds.svg`` and ``bounds.png`` lie in ``out``.

    Attributes:
        record: all numbers; without points after a dry run.
        dry_run: nothing was computed or written.
    """

    record: BoundsRecord
    dry_run: bool = False

    def summary(self) -> str:
        """Return the bounds in words."""
        lines = [mechanism_words(self.record.mechanism)]
        if self.dry_run:
            names = ", ".join(prior.name for prior in self.record.priors)
            return "\n".join([*lines, f"adversaries: {names}", "dry run: nothing was computed or written"])
        operating = self.record.operating
        if operating is not None:
            lines.append(
                f"at epsilon {operating.epsilon:.4g} ({operating.accountant}) no attack succeeds more often "
                "than in the worst case"
            )
            lines.append(
                f"  {'what it knows before':<28} {'blind guess':>12} {'worst case':>12} {'relaxed':>12}"
            )
            lines += [_row(prior, operating) for prior in self.record.priors]
        if self.record.void:
            lines.append(f"no bound holds for this run: {self.record.void}")
        if self.record.membership is not None:
            lines += _membership_words(self.record.membership)
        return "\n".join([*lines, *_vacuous_words(self.record), f"out: {self.out}"])


def run_bounds(
    config: BoundsConfig,
    out: Path,
    *,
    run: Path | None = None,
    recipe: str | None = None,
    progress: bars.Progress = bars.SILENT,
) -> BoundsResult:
    """Bound every attack on one unit, and return the numbers.

    Writes ``bounds.csv`` and ``bounds.json``, one row or entry per epsilon and adversary, and the figure as
    ``bounds.svg`` and ``bounds.png``. Nothing depends on data: no dataset is read.

    Args:
        config: mechanism, axis and adversaries; of a run only axis and adversaries count.
        out: folder for the four files.
        run: a private run, whose ledger states the mechanism.
        recipe: name of the recipe behind the settings, for the page.
        progress: advanced by every epsilon.

    Guarantee: no attack on the models of the mechanism succeeds more often than ``upper`` states, see
        :func:`meninx.privacy.risk.risk_curve`. The mechanism is taken from the ledger or the settings;
        whether the program runs it is another question, which the one-run audit asks.

    Raises:
        UsageError: the mechanism is not complete, or ``out`` holds an earlier result.
        PrivacyRefusal: a run without privacy, or an epsilon out of reach.
    """
    if run is not None:
        _refuse_idle(config, recipe)
    found = mechanisms.of_run(run) if run is not None else mechanisms.of_settings(config, recipe)
    priors = priors_of(config, found.record.units)
    _refuse_other_files(out, run, found.record.run, overwrite=config.overwrite)
    record = BoundsRecord(mechanism=found.record, priors=priors, points=(), precision=config.precision)
    patient = patient_bounds.empty(Run(run)) if run is not None else None
    if config.dry_run:
        return BoundsResult(out=out, record=record, dry_run=True)
    with _alone(out, run):
        _refuse_other_files(out, run, found.record.run, overwrite=config.overwrite)
        record = _computed(config, found, priors, patient, progress)
        _write(out, record)
    return BoundsResult(out=out, record=record)


def _alone(out: Path, run: Path | None) -> AbstractContextManager[None]:
    """Keep other audits of a run away while its own ``audit/`` is written."""
    if run is None or out.resolve().parent != run.resolve():
        return nullcontext()
    return Run(run.resolve()).audit_lock()


def _computed(
    config: BoundsConfig,
    found: Mechanism,
    priors: tuple[PriorRecord, ...],
    patient: PatientBounds | None,
    progress: bars.Progress,
) -> BoundsRecord:
    kappas = {prior.name: prior.kappa for prior in priors}
    points = tuple(_points(config, found.record, kappas, progress))
    operating, membership = None, None
    if not found.void:
        operating, membership, patient = _operating(found, kappas, config.precision, patient)
    return BoundsRecord(
        mechanism=found.record,
        priors=priors,
        points=points,
        operating=operating,
        membership=membership,
        patient=patient if operating is not None else None,
        no_guarantee_from=next((item.epsilon for item in points if is_vacuous(item, priors[0])), None),
        precision=config.precision,
        void=found.void,
        made="" if config.deterministic else artifacts.now(),
        versions=provenance.packages(),
    )


def priors_of(config: BoundsConfig, units: int | None) -> tuple[PriorRecord, ...]:
    """Return the adversaries of an audit, the one that the figure shows first.

    Raises:
        ConfigError: a metric needs both its counts.
    """
    found = [_among(units, f"1 of all {units:,}")] if units is not None and units > 1 else []
    found += [_among(count, f"1 of {count:,}") for count in config.candidates]
    if config.class_share is not None:
        kappa = kappa_of_share(config.class_share)
        found.append(PriorRecord(name=ATTRIBUTE, kappa=kappa, share=config.class_share))
    if config.metric_images is not None and config.metric_hits is not None:
        kappa = risk.of_metric(config.metric_hits, config.metric_images)
        found.append(
            PriorRecord(name=IMAGE_METRIC, kappa=kappa, hits=config.metric_hits, images=config.metric_images)
        )
    if not found:
        raise ConfigError(
            problem("there is no adversary", where="candidates", fix="give --units or --candidates")
        )
    return tuple({prior.name: prior for prior in found}.values())


def _among(count: int, name: str) -> PriorRecord:
    return PriorRecord(name=name, kappa=risk.of_candidates(count))


def kappa_of_share(share: float) -> float:
    """Return the success of guessing an attribute whose most frequent value has a share."""
    return max(share, risk.of_classes([share, 1 - share]))


def _points(
    config: BoundsConfig, mechanism: MechanismRecord, kappas: dict[str, float], progress: bars.Progress
) -> Iterator[BoundPoint]:
    """Yield every epsilon of the axis with its bounds."""
    axis = [float(value) for value in np.geomspace(config.eps_min, config.eps_max, config.n_eps)]
    noises = noise_profile(
        sample_rate=mechanism.sample_rate, steps=mechanism.steps, epsilons=axis, delta=mechanism.delta
    )
    with bars.task(progress, "bounds", len(axis)):
        for epsilon, found in zip(axis, noises, strict=True):
            phase = Phase(
                sample_rate=mechanism.sample_rate,
                noise_multiplier=found.noise_multiplier,
                steps=mechanism.steps,
            )
            worst, relaxed = _both([phase], kappas, config.precision)
            worst.refuse_above(epsilon, mechanism.delta, kappas.values())
            yield _point(epsilon, found.noise_multiplier, found.spent.accountant, (worst, relaxed), kappas)
            progress.advance()


def _operating(
    found: Mechanism, kappas: dict[str, float], precision: float, patient: PatientBounds | None
) -> tuple[BoundPoint | None, MembershipRecord | None, PatientBounds | None]:
    """Return the bounds of the recipe or run itself; None where it has no noise multiplier."""
    if found.spent is None:
        return None, None, None
    worst, relaxed = _both(found.phases, kappas, precision, rates=risk.FPRS)
    worst.refuse_above(found.spent.value, found.record.delta, kappas.values())
    noise = found.record.noise_multiplier
    point = _point(found.spent.value, noise, found.spent.accountant, (worst, relaxed), kappas)
    membership = MembershipRecord(
        auc=_bounded(worst.auc()),
        advantage=_bounded(worst.advantage()),
        accuracy=_bounded(worst.accuracy()),
        tpr_at_fpr={f"{rate:g}": _bounded(worst.tpr(rate)) for rate in risk.FPRS},
    )
    return point, membership, patient_bounds.computed(patient, worst, kappas)


def _both(
    phases: Sequence[Phase], kappas: dict[str, float], precision: float, *, rates: Sequence[float] = ()
) -> tuple[RiskCurve, RiskCurve]:
    """Return the curves of the worst case and of the adversary that does not know the direction."""
    wanted = [*kappas.values(), *rates]
    worst, relaxed = (
        risk_curve(phases, rates=wanted, model=model, precision=precision) for model in ThreatModel
    )
    return worst, relaxed


def _point(
    epsilon: float,
    noise: float | None,
    accountant: str,
    curves: tuple[RiskCurve, RiskCurve],
    kappas: dict[str, float],
) -> BoundPoint:
    """Return one entry; what holds in the worst case holds for the weaker adversary, too."""
    worst, unsure = (dict(zip(kappas, curve.gammas(kappas.values()), strict=True)) for curve in curves)
    relaxed = {name: _within(found, worst[name]) for name, found in unsure.items()}
    return BoundPoint(
        epsilon=epsilon,
        noise_multiplier=noise,
        accountant=accountant,
        worst={name: _bounded(value) for name, value in worst.items()},
        relaxed={name: _bounded(value) for name, value in relaxed.items()},
    )


def _within(relaxed: Bracket, worst: Bracket) -> Bracket:
    return Bracket(
        value=min(relaxed.value, worst.value),
        lower=min(relaxed.lower, worst.value),
        upper=min(relaxed.upper, worst.upper),
    )


def _bounded(found: Bracket) -> Bounded:
    return Bounded(lower=found.lower, value=found.value, upper=found.upper)


def _refuse_idle(config: BoundsConfig, recipe: str | None) -> None:
    """Refuse settings of a mechanism beside a run, whose ledger states it."""
    usual = BoundsConfig()
    idle = ["recipe"] if recipe else []
    idle += [name for name in MECHANISM if getattr(config, name) != getattr(usual, name)]
    if idle:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        fix = "leave them out, or leave --run out"
        raise UsageError(problem(f"the ledger of the run would ignore {flags}", where="run", fix=fix))


def _refuse_other_files(out: Path, run: Path | None, identity: str, *, overwrite: bool) -> None:
    """Refuse a folder that belongs to another run, or holds files that no audit of this one wrote."""
    workspace.outside(out)
    if (out / artifacts.place(RunRecord)).is_file():
        fix = "leave --out out: the bounds of a run lie in its audit/"
        raise UsageError(problem("the folder is a run", where="out", fix=fix))
    if (out.parent / artifacts.place(RunRecord)).is_file():
        workspace.refuse_linked(out.parent, out.name)
        if run is None or run.resolve() != out.parent.resolve():
            fix = "choose a folder that belongs to no run"
            raise UsageError(problem("the folder belongs to another run", where="out", fix=fix))
    own = run is not None and run.resolve() == out.resolve().parent
    FILES.refuse(out, run=identity, own=own, overwrite=overwrite)


def _write(out: Path, record: BoundsRecord) -> None:
    """Write table and figure, and at the end the record that says that all is there."""
    names = ["epsilon", "noise_multiplier", "accountant", "prior", "kappa"]
    names += [f"{model}_{part}" for model in ThreatModel for part in ("lower", "value", "upper")]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*names, "guarantee"])
    for point in record.points:
        for prior in record.priors:
            worst, relaxed = point.worst[prior.name], point.relaxed[prior.name]
            numbers = [part for found in (worst, relaxed) for part in (found.lower, found.value, found.upper)]
            says = "no" if is_vacuous(point, prior) else "yes"
            head = [point.epsilon, point.noise_multiplier, point.accountant, prior.name, prior.kappa]
            writer.writerow([*head, *numbers, says])
    with FILES.writing(out):
        files.write_text(out / TABLE, buffer.getvalue())
        draw(record, *(out / name for name in FIGURES))
        artifacts.write(out, record)


def mechanism_words(mechanism: MechanismRecord) -> str:
    """Return the mechanism in one line."""
    noise = (
        "" if mechanism.noise_multiplier is None else f", noise multiplier {mechanism.noise_multiplier:.4g}"
    )
    accountant = f", {mechanism.accountant} accountant" if mechanism.accountant else ""
    return (
        f"mechanism: sample rate {mechanism.sample_rate:.4g}, {mechanism.steps:,} steps{noise}, "
        f"{mechanism.sampler} sampling{accountant}, delta {mechanism.delta:g}, per {mechanism.unit}"
        f" ({mechanism.source})"
    )


def is_vacuous(point: BoundPoint, prior: PriorRecord) -> bool:
    """Return whether a bound says nothing: an attack may gain more than half of all that guessing leaves."""
    return point.worst[prior.name].upper > (1 + prior.kappa) / 2


def findings(record: BoundsRecord, *, amber: float = 0.1, red: float = 0.5) -> tuple[Finding, ...]:
    """Return the bounds of the operating point for pages and thresholds; none without such a point.

    Args:
        record: of a run or recipe.
        amber: largest share of what guessing leaves that an attack may gain for green.
        red: the largest for amber.
    """
    operating, membership, unit = record.operating, record.membership, patient_bounds.unit_of(record)
    if record.void:
        return tuple(_unbounded(record))
    if operating is None or membership is None:
        return ()

    def bound(name: str, words: str, most: float, guess: float | None) -> Finding:
        gain = 0.0 if guess is None or guess >= 1 else (most - guess) / (1 - guess)
        colour, reason = "green", f"an attack gains at most {at_most(gain)} of what guessing leaves"
        if gain > amber:
            colour = "red" if gain > red else "amber"
            reason = NO_GUARANTEE if gain > max(red, 0.5) else reason
        return Finding(
            key=key_of("bounds", name), line=GUARANTEED, words=words, value=most, low=most, high=most, n=0,
            null=guess, bound=most, colour=colour, reason=reason,
        )  # fmt: skip

    found = [
        bound(
            f"largest-tpr@fpr={rate}",
            f"No attack finds more than {at_most(value.upper)} of the {unit}s that took part, at "
            f"{percent(float(rate))} false accusations.", value.upper, float(rate),
        )
        for rate, value in membership.tpr_at_fpr.items()
    ]  # fmt: skip
    most = membership.auc.upper
    found.append(bound("largest-auc", f"No membership attack has an AUC above {most:.3f}.", most, 0.5))
    for prior in sorted(record.priors, key=lambda prior: -prior.kappa):
        name = _short(prior)
        value = operating.worst[prior.name].upper
        words = (
            f"Knowing that {prior.meaning(unit)}, no attack is right more than {at_most(value)} of the time."
        )
        worst = bound(f"largest-success@{name}", words, value, prior.kappa)
        less = operating.relaxed[prior.name].upper
        found += [worst, _relaxed(worst, f"relaxed-success@{name}", prior.meaning(unit), less)]
    deciding = next((item for item in found if item.key.endswith("fpr=0.01")), found[0])
    epsilon = replace(
        bound("epsilon", f"Epsilon at delta {record.mechanism.delta:g}.", operating.epsilon, None),
        bound=None, colour=deciding.colour, reason=deciding.reason,
    )  # fmt: skip
    return (epsilon, *found, *patient_bounds.findings(record, amber=amber, red=red))


def _unbounded(record: BoundsRecord) -> Iterator[Finding]:
    """Yield the same keys without a number, for a run that nothing bounds."""
    names = ["epsilon", *(f"largest-tpr@fpr={rate:g}" for rate in risk.FPRS), "largest-auc"]
    for prior in sorted(record.priors, key=lambda prior: -prior.kappa):
        names += [f"{kind}-success@{_short(prior)}" for kind in ("largest", "relaxed")]
    for name in names:
        yield Finding(
            key=key_of("bounds", name), line=GUARANTEED, words="Nothing bounds an attack on this run.",
            value=None, low=None, high=None, n=0, null=None, bound=None, colour="red", reason=record.void,
        )  # fmt: skip


def _short(prior: PriorRecord) -> str:
    return prior.name if prior.candidates is None else f"n={prior.candidates}"


def _relaxed(worst: Finding, name: str, meaning: str, value: float) -> Finding:
    """Return what holds for an attacker with less knowledge: no guarantee, hence never green."""
    return replace(
        worst,
        key=key_of("bounds", name),
        words=(
            f"Knowing that {meaning}, but not the direction of the gradient, an attacker is right at "
            f"most {at_most(value)} of the time. This is no guarantee: whoever knows more may be right "
            "more often."
        ),
        value=value, low=value, high=value, colour="red" if worst.colour == "red" else "amber",
        reason=f"no guarantee; the guarantee for every attacker is {at_most(worst.value or 1.0)}",
    )  # fmt: skip


def _row(prior: PriorRecord, point: BoundPoint) -> str:
    parts = (prior.kappa, point.worst[prior.name].upper, point.relaxed[prior.name].upper)
    note = f"  {NO_GUARANTEE}" if is_vacuous(point, prior) else ""
    return f"  {prior.name:<28} " + " ".join(f"{percent(part):>12}" for part in parts) + note


def _membership_words(found: MembershipRecord) -> list[str]:
    rates = ", ".join(
        f"{at_most(value.upper)} at {percent(float(rate))}" for rate, value in found.tpr_at_fpr.items()
    )
    return [
        f"membership tests: AUC at most {found.auc.upper:.3f}, TPR - FPR at most "
        f"{found.advantage.upper:.3f}, right at most {at_most(found.accuracy.upper)} of the time",
        f"  true positives at most {rates} false positives",
    ]


def _vacuous_words(record: BoundsRecord) -> list[str]:
    if record.no_guarantee_from is None:
        return []
    since, name = f"{record.no_guarantee_from:.3g}", record.priors[0].name
    return [
        f"no guarantee from epsilon {since} on: an attack could gain half of what guessing leaves ({name})"
    ]
