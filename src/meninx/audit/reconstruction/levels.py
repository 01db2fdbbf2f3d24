"""At which levels of noise a run is attacked: its own, an axis of epsilon, and none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meninx.audit import mechanism
from meninx.audit.reconstruction.candidates import NO_NOISE, NoiseLevel
from meninx.audit.reconstruction.config import ReconstructionConfig
from meninx.audit.reconstruction.rank_one import Steps
from meninx.core.artifacts import RunRecord
from meninx.core.manifest import Manifest
from meninx.core.reconstruction_records import LevelRecord
from meninx.core.run import Run
from meninx.learn.config import LearnConfig
from meninx.privacy.accounting import Phase
from meninx.privacy.noise_calibration import noise_profile

OWN = "this run"


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """The training that is attacked.

    Attributes:
        sample_rate: probability of a patient in a step; the share of a batch without privacy.
        steps: of the training.
        delta: of every epsilon.
        sampler: how patients are drawn.
        noise_multiplier: of the run; 0 without privacy.
        epsilon: that it spent; None without privacy.
        phases: what it released, with the runs behind its weights.
        unit: what the run protects.
        guaranteed: bounds hold, because nobody knows the noise.
    """

    sample_rate: float
    steps: int
    delta: float
    sampler: str
    noise_multiplier: float
    epsilon: float | None
    phases: tuple[Phase, ...]
    unit: str = "patient"
    guaranteed: bool = True


def attacked(run: Run, record: RunRecord, config: LearnConfig, data: Manifest, delta: float) -> Attacked:
    """Return what a run released.

    Args:
        run: the run folder.
        record: its record.
        config: its learning settings.
        data: its dataset.
        delta: of the epsilons of a run without privacy.
    """
    if record.private:
        found = mechanism.of_run(run.root)
        noise = found.phases[0].noise_multiplier if found.phases else 0.0
        own = found.record.noise_multiplier
        return Attacked(
            sample_rate=found.record.sample_rate,
            steps=found.record.steps,
            delta=found.record.delta,
            sampler=found.record.sampler,
            noise_multiplier=noise if own is None else own,
            epsilon=found.spent.value if found.spent else None,
            phases=found.phases,
            unit=found.record.unit,
            guaranteed=not found.void,
        )
    patients = max(1, len(data.split("train").patients))
    rate = min(1.0, config.sampling.batch_size / patients)
    steps = max(1, record.step)
    phases = (Phase(sample_rate=rate, noise_multiplier=0.0, steps=steps),)
    return Attacked(
        sample_rate=rate,
        steps=steps,
        delta=delta,
        sampler=str(config.sampling.method),
        noise_multiplier=0.0,
        epsilon=None,
        phases=phases,
    )


def noise_levels(config: ReconstructionConfig, about: Attacked) -> tuple[NoiseLevel, ...]:
    """Return the levels, the run's own first and no noise last; two levels never have the same noise.

    Args:
        config: exponents of epsilon and further noise multipliers.
        about: the training.
    """
    found = [NoiseLevel(name=OWN, noise_multiplier=about.noise_multiplier, epsilon=about.epsilon)]
    rate, steps = (1.0, 1) if config.one_step else (about.sample_rate, about.steps)
    epsilons = [10.0**exponent for exponent in config.exponents]
    calibrated = noise_profile(sample_rate=rate, steps=steps, epsilons=epsilons, delta=about.delta)
    for epsilon, point in zip(epsilons, calibrated, strict=True):
        found.append(
            NoiseLevel(
                name=f"epsilon {epsilon:.0e}" + (" in one step" if config.one_step else ""),
                noise_multiplier=point.noise_multiplier,
                epsilon=epsilon,
                one_step=config.one_step,
            )
        )
    found += [
        NoiseLevel(name=f"noise {noise:g}", noise_multiplier=noise)
        for noise in config.noise_multipliers
        if noise > 0
    ]
    if about.noise_multiplier > 0:
        found.append(NO_NOISE)
    return tuple({level.name: level for level in found}.values())


def steps_of(levels: Sequence[NoiseLevel], about: Attacked) -> tuple[Steps, ...]:
    """Return what a whole training releases at each level."""
    return tuple(
        Steps(level=level.name, phases=about.phases, own=True)
        if level.name == OWN
        else Steps(
            level=level.name,
            phases=(
                Phase(
                    sample_rate=about.sample_rate,
                    noise_multiplier=level.noise_multiplier,
                    steps=about.steps,
                ),
            ),
        )
        for level in levels
    )


def record_of(level: NoiseLevel) -> LevelRecord:
    """Return the record of a level."""
    return LevelRecord(
        name=level.name,
        noise_multiplier=level.noise_multiplier,
        epsilon=level.epsilon,
        own=level.name == OWN,
    )
