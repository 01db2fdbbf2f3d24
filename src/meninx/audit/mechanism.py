"""The mechanism that an audit is about: from settings, from a recipe of ``meninx train``, or from a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from meninx.audit.config import BoundsConfig
from meninx.core import artifacts, names
from meninx.core.artifacts import Ancestry, Lineage, PrivacyRecord, RunRecord
from meninx.core.budget import PrivacyUnit
from meninx.core.errors import DataError, PrivacyRefusal, UsageError, problem
from meninx.core.risk_records import MechanismRecord
from meninx.core.run import Run, open_run
from meninx.privacy import accounting
from meninx.privacy.accounting import Epsilon, Phase
from meninx.privacy.composition import joint_phases
from meninx.privacy.ledger import Ledger
from meninx.privacy.noise_calibration import solve_noise
from meninx.privacy.risk import RiskCurve, risk_curve

SEEDED = "the noise of the run came from a seed, and whoever knows it can subtract it"


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """What is bounded.

    Attributes:
        record: sample rate, steps, unit and source, for the page.
        phases: what was or will be run; empty where the noise is not given.
        spent: epsilon of ``phases`` at the record's delta; None where there are none.
        void: why no bound holds for the run, whatever its ledger says; empty where bounds hold.
    """

    record: MechanismRecord
    phases: tuple[Phase, ...]
    spent: Epsilon | None
    void: str = ""


def of_settings(config: BoundsConfig, recipe: str | None) -> Mechanism:
    """Return the mechanism that settings or a recipe state.

    Raises:
        UsageError: sample rate or steps do not follow from what is given.
        PrivacyRefusal: the epsilon cannot be reached.
    """
    rate, steps = _rate(config), _steps(config)
    bands = config.noise_bands
    rate, steps = min(1.0, bands * rate), -(-steps // bands)
    noise = config.noise_multiplier
    if noise is None and config.epsilon is not None:
        noise = solve_noise(sample_rate=rate, steps=steps, epsilon=config.epsilon, delta=config.delta)
    record = MechanismRecord(
        sample_rate=rate,
        steps=steps,
        noise_multiplier=noise,
        delta=config.delta,
        unit=str(config.unit),
        units=config.units,
        sampler="poisson" if bands == 1 else f"cyclic in {bands} groups, accounted as poisson",
        source=f"recipe {names.printable(Path(recipe).name)}" if recipe else "settings",
    )
    if noise is None:
        return Mechanism(record=record, phases=(), spent=None)
    return _accounted(record, (Phase(sample_rate=rate, noise_multiplier=noise, steps=steps),))


def of_run(folder: Path) -> Mechanism:
    """Return what a finished or running private run spent, with earlier runs behind its weights.

    Numbers come from the ledger, not from ``privacy.json``.

    Raises:
        UsageError: ``folder`` is no run.
        PrivacyRefusal: the run is not private, or its ledger was changed.
        DataError: a record or the ledger of an earlier run is missing.
    """
    run = open_run(folder)
    record = artifacts.require(run.root, PrivacyRecord, fix="give a run of `meninx train`")
    if not record.private:
        fix = "without privacy every bound is 100 %; attacks alone say what can be learned"
        raise PrivacyRefusal(problem("the run was trained without privacy", where=run.name, fix=fix))
    own = _own_ledger(run)
    if not own.accounts:
        raise DataError(problem("the run has taken no step", where=run.name, fix="train it first"))
    identity = artifacts.read(run.root, RunRecord)
    found = of_ledgers(own, _earlier(run, record), record, identity, name=run.name)
    seeded = record.deterministic or (identity is not None and identity.deterministic)
    return replace(found, void=SEEDED if seeded else "")


def of_ledgers(
    own: Ledger, earlier: Sequence[Ledger], privacy: PrivacyRecord, run: RunRecord | None, *, name: str
) -> Mechanism:
    """Return the mechanism that the ledgers of a run state.

    Args:
        own: ledger of the run, with a step.
        earlier: ledgers of the runs behind its weights.
        privacy: what the run promises.
        run: the run's record; None for a run that is not finished.
        name: of the run folder, for the page.
    """
    first, account = own.accounts[0].first, own.accounts[-1].phase()
    phases = joint_phases([own, *earlier])
    composed = len(phases) > 1
    record = MechanismRecord(
        sample_rate=account.sample_rate,
        steps=sum(item.phase().steps for item in own.accounts),
        noise_multiplier=None if composed else account.noise_multiplier,
        delta=first.delta,
        unit=str(first.unit),
        units=round(privacy.expected_batch_size / privacy.sample_rate) if privacy.sample_rate else None,
        sampler=privacy.sampler,
        source=f"ledger of the run {name}" + (", with the runs behind its weights" if composed else ""),
        run=run.id if run else "",
        weights=run.weights if run else "",
        ledger=own.anchor,
    )
    return _accounted(record, phases)


def curve_of_patient(run: Run, *, patients_known: bool, rates: Sequence[float]) -> RiskCurve | None:
    """Return what the guarantee of a run allows an attack on a patient; None where none holds for one.

    None holds without privacy, with noise from a seed, and where the guarantee is for one of several cases.

    Args:
        run: the run folder.
        patients_known: the source names its patients; otherwise every image counts as one.
        rates: false positive rates of interest.
    """
    privacy = artifacts.read(run.root, PrivacyRecord)
    if privacy is None or not privacy.private:
        return None
    found = of_run(run.root)
    if found.void or (found.record.unit != PrivacyUnit.PATIENT and patients_known):
        return None
    return risk_curve(found.phases, rates=rates)


def _accounted(record: MechanismRecord, phases: tuple[Phase, ...]) -> Mechanism:
    spent = accounting.epsilon(phases, record.delta)
    return Mechanism(record=replace(record, accountant=spent.accountant), phases=phases, spent=spent)


def _own_ledger(run: Run) -> Ledger:
    """Return the ledger of a run: from its private room or, where that is not there, from its release."""
    if run.ledger_path.is_file():
        return Ledger.parse(run.ledger_text())
    lineage = artifacts.require(run.root, Lineage, fix="give the whole run folder")
    return Ledger.parse("\n".join(lineage.ledger))


def _earlier(run: Run, record: PrivacyRecord) -> tuple[Ledger, ...]:
    """Return the ledgers of the runs whose cost is part of this one's."""
    ancestry = artifacts.read(run.root, Ancestry) if run.private.is_dir() else None
    if ancestry is not None:
        return tuple(Ledger.parse("\n".join(lines)) for lines in ancestry.ledgers)
    if record.start is not None and record.start.composed:
        fix = "audit the run where its private/ folder is"
        raise DataError(
            problem("the ledgers of the runs behind its weights are missing", where=run.name, fix=fix)
        )
    return ()


def _rate(config: BoundsConfig) -> float:
    if config.sample_rate is not None:
        return config.sample_rate
    if config.batch_size is not None and config.units is not None:
        return min(1.0, config.batch_size / config.units)
    fix = "give --units, the number of patients in the training split, or --sample-rate"
    if config.batch_size is None:
        fix = "give --run RUN, --recipe RECIPE with --units, or --sample-rate, --steps and --epsilon"
    raise UsageError(problem("the sample rate is not known", where="meninx audit bounds", fix=fix))


def _steps(config: BoundsConfig) -> int:
    if config.steps:
        return config.steps
    if config.epochs is not None and config.batch_size is not None and config.units is not None:
        return math.ceil(config.epochs * config.units / config.batch_size)
    fix = "give --steps, or --epochs with --units and --batch-size"
    raise UsageError(problem("the number of steps is not known", where="meninx audit bounds", fix=fix))
