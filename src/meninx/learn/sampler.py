"""Samplers: the units that take part in a step, as a function of the step alone, without a state to save.

A step draws units: single cases, or all cases of a patient. A sampler returns a :class:`UnitBatch`; the
processes of a run take disjoint shares of it, and each share is cut into microbatches that fit into memory::

    sampler = ShuffleSampler(cases=100, batch=8, seed=0)
    units = sampler(0)                       # the units of the first step
    for part in units.share(rank=0, size=2).microbatches(4):
        part.units, part.first               # cases of each unit; position of the first unit in the step
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from meninx.core import randomness
from meninx.core.budget import PrivacyUnit
from meninx.core.manifest import Manifest
from meninx.learn.config import SamplingConfig

Units = tuple[tuple[int, ...], ...]
"""The cases of each unit, as rows of the training split."""


@dataclass(frozen=True)
class UnitBatch:
    """Consecutive units of one step; may be empty.

    Attributes:
        units: cases of each unit.
        first: position of the first of them among all units of the step.
    """

    units: Units
    first: int = 0

    def __len__(self) -> int:
        return len(self.units)

    @property
    def cases(self) -> int:
        """Number of cases of all units together."""
        return sum(len(unit) for unit in self.units)

    def share(self, rank: int, size: int) -> UnitBatch:
        """Return the units of one of ``size`` processes.

        The shares consist of consecutive whole units, are disjoint, cover all units, and have about the same
        number of cases.

        Example::

            >>> units = UnitBatch(((0, 1), (2,), (3,)))
            >>> [units.share(rank, size=2).units for rank in range(2)]
            [((0, 1),), ((2,), (3,))]
        """
        if size == 1:
            return self
        total = 2 * self.cases
        first, done, own = self.first, 0, []
        for unit in self.units:
            # The unit belongs to the process whose part of all cases contains its middle.
            owner = (2 * done + len(unit)) * size // total
            done += len(unit)
            first += owner < rank
            if owner == rank:
                own.append(unit)
        return UnitBatch(tuple(own), first)

    def microbatches(self, most: int) -> Iterator[UnitBatch]:
        """Yield the units in order, at most ``most`` cases at a time; a unit is never divided."""
        part: list[tuple[int, ...]] = []
        size, first = 0, self.first
        for unit in self.units:
            if part and size + len(unit) > most:
                yield UnitBatch(tuple(part), first)
                first += len(part)
                part, size = [], 0
            part.append(unit)
            size += len(unit)
        if part:
            yield UnitBatch(tuple(part), first)


class Sampler(Protocol):
    """Chooses the units of a step."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps that use every unit once, on average."""

    def __call__(self, step: int) -> UnitBatch:
        """Return the units of ``step``, counted from 0; the same step gives the same units."""


class UnitDraw(Protocol):
    """The secret part of :class:`PrivateSampler`, made by ``Plan.sampler``."""

    def draw(self, step: int) -> npt.NDArray[np.int64]:
        """Return the indices of the units of a step."""


@dataclass(frozen=True)
class ShuffleSampler:
    """Draws every case once per epoch, in an order that depends on seed and epoch.

    The last step of an epoch may be smaller.

    Attributes:
        cases: cases of the training split.
        batch: cases per step.
        seed: of the order.
    """

    cases: int
    batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps that use every case once."""
        return max(1, math.ceil(self.cases / self.batch))

    def __call__(self, step: int) -> UnitBatch:
        """Return the cases of a step, one per unit."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = randomness.child(self.seed, "order", epoch).permutation(self.cases)
        chosen = order[position * self.batch : (position + 1) * self.batch]
        return UnitBatch(tuple((int(case),) for case in chosen))


@dataclass(frozen=True)
class PublicPoissonSampler:
    """Draws every case by its own coin from a public seed.

    This is the sampling of a private run without its privacy, for comparisons that change only the noise.

    Attributes:
        cases: cases of the training split.
        batch: expected cases per step.
        seed: of the coins.
    """

    cases: int
    batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps that use every case once on average."""
        return max(1, math.ceil(self.cases / self.batch))

    def __call__(self, step: int) -> UnitBatch:
        """Return the cases of a step, one per unit."""
        coins = randomness.child(self.seed, "poisson", step).random(self.cases)
        chosen = np.flatnonzero(coins < min(1.0, self.batch / max(1, self.cases)))
        return UnitBatch(tuple((int(case),) for case in chosen))


@dataclass(frozen=True)
class PrivateSampler:
    """Returns the units of a secret Poisson draw, each with all its cases or a random selection of them.

    Attributes:
        draw: draws unit indices.
        members: cases of each unit, in the order of ``names``.
        names: name of each unit.
        sample_rate: probability of each unit; an epoch is ``ceil(1 / sample_rate)`` steps, a public number.
        most: largest number of cases of a unit in one step; 0 for all. They are chosen by seed, step and the
            unit's name from the unit's own cases, so the choice does not depend on other units.
        seed: of that choice.
    """

    draw: UnitDraw
    members: Units
    names: tuple[str, ...]
    sample_rate: float
    most: int = 0
    seed: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Steps that use every unit once on average."""
        return max(1, math.ceil(1 / self.sample_rate - 1e-9))

    def __call__(self, step: int) -> UnitBatch:
        """Return the drawn units with their cases."""
        return UnitBatch(tuple(self.cases_of(step, int(unit)) for unit in self.draw.draw(step)))

    def cases_of(self, step: int, unit: int) -> tuple[int, ...]:
        """Return the cases with which a unit takes part in a step, if it is drawn."""
        cases = self.members[unit]
        if not self.most or len(cases) <= self.most:
            return cases
        order = randomness.child(self.seed, "cases", step, self.names[unit]).permutation(len(cases))
        return tuple(cases[int(position)] for position in sorted(order[: self.most]))


def unit_members(manifest: Manifest, unit: PrivacyUnit) -> Units:
    """Return the cases of each privacy unit: one case, or all cases of a patient ordered by case_id."""
    if unit is PrivacyUnit.CASE:
        return tuple((case,) for case in range(len(manifest)))
    patients: list[list[int]] = [[] for _ in manifest.patients]
    index = manifest.patient_index()
    for case in sorted(range(len(manifest)), key=lambda case: manifest.cases[case].case_id):
        patients[int(index[case])].append(case)
    return tuple(tuple(cases) for cases in patients)


def unit_names(manifest: Manifest, unit: PrivacyUnit) -> tuple[str, ...]:
    """Return each privacy unit's name, its case_id or patient_id, in the order of :func:`unit_members`."""
    return tuple(case.case_id for case in manifest.cases) if unit is PrivacyUnit.CASE else manifest.patients


def public_sampler(config: SamplingConfig, cases: int, seed: int) -> Sampler:
    """Return the sampler of a run without privacy."""
    if config.method == "shuffle":
        return ShuffleSampler(cases, config.batch_size, seed)
    return PublicPoissonSampler(cases, config.batch_size, seed)
