"""Which cases take part in a step, as a function of the step alone: nothing to remember, nothing to restore."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from meninx.core import randomness
from meninx.core.budget import PrivacyUnit
from meninx.core.manifest import Manifest
from meninx.learn.config import LearnConfig

Groups = tuple[tuple[int, ...], ...]


class Draw(Protocol):
    """The units of a step, each as the indices of its cases; may be empty."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps that use every unit once, on average."""

    def __call__(self, step: int) -> Groups:
        """Return the groups of cases of ``step``, counted from 0."""


class UnitSampler(Protocol):
    """What the private draw needs of a sampler."""

    def draw(self, step: int) -> npt.NDArray[np.int64]:
        """Return the indices of the units of a step."""


@dataclass(frozen=True)
class Shuffled:
    """Every case once an epoch, in an order that depends on seed and epoch.

    The last step of an epoch may be smaller.
    """

    cases: int
    batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps that use every case once."""
        return max(1, math.ceil(self.cases / self.batch))

    def __call__(self, step: int) -> Groups:
        """Return the cases of a step, one a group."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = randomness.child(self.seed, "order", epoch).permutation(self.cases)
        return tuple((int(case),) for case in order[position * self.batch : (position + 1) * self.batch])


@dataclass(frozen=True)
class PublicPoisson:
    """Every case by its own coin from the public seed: the private arm's protocol without its privacy."""

    cases: int
    batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps that use every case once on average."""
        return max(1, math.ceil(self.cases / self.batch))

    def __call__(self, step: int) -> Groups:
        """Return the cases of a step, one a group."""
        coins = randomness.child(self.seed, "poisson", step).random(self.cases)
        return tuple(
            (int(case),) for case in np.flatnonzero(coins < min(1.0, self.batch / max(1, self.cases)))
        )


@dataclass(frozen=True)
class PrivateDraw:
    """The units that a secret Poisson sampler draws, each with all its cases (or a random few of them).

    Attributes:
        sampler: draws unit indices.
        members: cases of each unit, in the order of their names.
        names: name of each unit.
        sample_rate: probability of each unit; an epoch is ``ceil(1 / sample_rate)`` steps, a public number.
        most: most cases of a unit in one step; 0 for all. Chosen by seed, step and the unit's name from the
            unit's own cases, so the choice depends on no other unit.
        seed: of that choice.
    """

    sampler: UnitSampler
    members: Groups
    names: tuple[str, ...]
    sample_rate: float
    most: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps that use every unit once on average."""
        return max(1, math.ceil(1 / self.sample_rate - 1e-9))

    def __call__(self, step: int) -> Groups:
        """Return the cases of the drawn units, one group a unit."""
        return tuple(self._few(step, int(unit)) for unit in self.sampler.draw(step))

    def _few(self, step: int, unit: int) -> tuple[int, ...]:
        cases = self.members[unit]
        if not self.most or len(cases) <= self.most:
            return cases
        order = randomness.child(self.seed, "cases", step, self.names[unit]).permutation(len(cases))[
            : self.most
        ]
        return tuple(cases[int(position)] for position in sorted(order))


def members(manifest: Manifest, unit: PrivacyUnit) -> Groups:
    """Return the cases of each privacy unit: one case a unit, or all cases of a patient, in the order of their case_ids."""
    if unit is PrivacyUnit.CASE:
        return tuple((case,) for case in range(len(manifest)))
    groups: list[list[int]] = [[] for _ in manifest.patients]
    index = manifest.patient_index()
    for case in sorted(range(len(manifest)), key=lambda case: manifest.cases[case].case_id):
        groups[int(index[case])].append(case)
    return tuple(tuple(group) for group in groups)


def names(manifest: Manifest, unit: PrivacyUnit) -> tuple[str, ...]:
    """Return the name of each privacy unit, in the order of :func:`members`: its case_id or its patient_id."""
    return tuple(case.case_id for case in manifest.cases) if unit is PrivacyUnit.CASE else manifest.patients


def public_draw(config: LearnConfig, cases: int) -> Draw:
    """Return the draw of a run without privacy."""
    if config.sampling.method == "shuffle":
        return Shuffled(cases, config.batch_size, config.seed)
    return PublicPoisson(cases, config.batch_size, config.seed)


def share(groups: Groups, rank: int, size: int) -> tuple[int, Groups]:
    """Return the position of the first group of one of ``size`` processes, and its groups.

    The shares are runs of neighbours, whole units, disjoint and together everything; they are about equal in
    cases.
    """
    total = 2 * sum(len(group) for group in groups)
    first, done, own = 0, 0, []
    for group in groups:
        owner = (
            (2 * done + len(group)) * size // total
        )  # whose part of all cases the middle of the group lies in
        done += len(group)
        first += owner < rank
        if owner == rank:
            own.append(group)
    return first, tuple(own)


def slices(groups: Sequence[tuple[int, ...]], most: int) -> Iterator[Groups]:
    """Yield the groups in order, cut into physical batches of at most ``most`` cases.

    A group is never divided.
    """
    batch: list[tuple[int, ...]] = []
    size = 0
    for group in groups:
        if batch and size + len(group) > most:
            yield tuple(batch)
            batch, size = [], 0
        batch.append(group)
        size += len(group)
    if batch:
        yield tuple(batch)
