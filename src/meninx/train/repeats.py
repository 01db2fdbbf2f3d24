"""Further pairs of runs with other seeds, whose differences are averaged, and why a pair does not belong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from meninx.core import artifacts, settings
from meninx.core.artifacts import DataRecord
from meninx.core.errors import ConfigError, DataError, UsageError, expected, problem
from meninx.core.run import Run
from meninx.train.comparison import Arm, differing_settings
from meninx.train.config import TrainConfig

_MOST = 20  # pairs in one comparison
_FREE = ("device", "threads", "workers", "cache", "memory_format", "attack_risk", "tensorboard")
"""Settings that may differ between runs of different seeds."""


@dataclass(frozen=True)
class RunPair:
    """A run and its baseline, of one seed.

    Attributes:
        run: the run.
        baseline: its baseline.
    """

    run: Arm
    baseline: Arm


def paths(repeats: Iterable[str]) -> list[tuple[Path, Path]]:
    """Return the folders of each pair, from texts such as ``runs/private-1=runs/plain-1``.

    Raises:
        ConfigError: a text does not name two folders, or there are too many pairs.

    Examples:
        >>> [(str(run), str(baseline)) for run, baseline in paths(["a=b"])]
        [('a', 'b')]
    """
    found = []
    for text in repeats:
        parts = text.split("=")
        if len(parts) != 2 or not all(parts):
            raise ConfigError(expected("two run folders, as run=baseline", got=repr(text), where="repeats"))
        found.append((Path(parts[0]), Path(parts[1])))
    if len(found) >= _MOST:
        raise ConfigError(expected(f"fewer than {_MOST} pairs", got=len(found), where="repeats"))
    return found


def refuse_strangers(pairs: Sequence[RunPair]) -> None:
    """Refuse pairs of runs whose differences must not be averaged.

    Within a pair only privacy may differ, as far as :func:`meninx.train.comparison.differing_settings`
    compares. Between pairs only the seed may differ, and no seed and no run may occur twice.

    Raises:
        DataError: other data, labels or settings.
        UsageError: a run or a seed is given twice, or the runs of a pair have different seeds.
    """
    first = pairs[0]
    _refuse_same_run([arm.run for pair in pairs for arm in (pair.run, pair.baseline)])
    for pair in pairs:
        seeds = [arm.config.runtime.seed for arm in (pair.run, pair.baseline)]
        if seeds[0] != seeds[1]:
            got = f"{seeds[0]} and {seeds[1]}"
            raise UsageError(
                expected("one seed for a run and its baseline", got=got, where=pair.run.run.name)
            )
        differing = differing_settings(pair.run, pair.baseline)
        if differing:
            what = ", ".join(item.what for item in differing)
            fix = "average only runs that differ from their baselines in privacy alone"
            raise DataError(
                problem(f"the run and its baseline differ in {what}", where=pair.run.run.name, fix=fix)
            )
    for pair in pairs[1:]:
        _refuse_unlike(first.run, pair.run)
        _refuse_unlike(first.baseline, pair.baseline)
    every = [pair.run.config.runtime.seed for pair in pairs]
    if len(set(every)) < len(every):
        raise UsageError(expected("another seed for every pair", got=sorted(every), where="repeats"))


def _refuse_same_run(given: Sequence[Run]) -> None:
    identities = [run.record.id if run.record is not None else str(run.root.resolve()) for run in given]
    if len(set(identities)) < len(identities):
        raise UsageError(problem("a run is given twice", where="repeats", fix="give every run once"))


def _refuse_unlike(first: Arm, other: Arm) -> None:
    """Refuse a run that differs from the first of its kind in more than the seed."""
    data = [artifacts.read(arm.run.root, DataRecord) for arm in (first, other)]
    if data[0] is None or data[1] is None or data[0].digest != data[1].digest:
        fix = "average only runs that were trained on one dataset with one split"
        raise DataError(problem("the runs were trained on different data", where=other.run.name, fix=fix))
    if first.info.labels != other.info.labels:
        raise DataError(problem("the runs have different labels", where=other.run.name))
    differing = sorted(_unlike(_shared(first.run), _shared(other.run)))
    if differing:
        fix = "average only runs that differ in the seed alone"
        raise DataError(problem(f"the runs differ in {', '.join(differing)}", where=other.run.name, fix=fix))


def _shared(run: Run) -> TrainConfig:
    """Return a run's settings with defaults in place of those that may differ between seeds."""
    config = settings.resolve_recipe(TrainConfig, str(run.config_path))
    neutral = {name: settings.default_of(TrainConfig, name) for name in ("name", "seed", *_FREE)}
    return config.replace(**neutral)


def _unlike(one: TrainConfig, other: TrainConfig) -> list[str]:
    return [
        name
        for name in settings.index(TrainConfig)
        if settings.value_of(one, name) != settings.value_of(other, name)
    ]
