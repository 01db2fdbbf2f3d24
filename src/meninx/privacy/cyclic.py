"""Cyclic Poisson sampling: units in secret fixed groups that take turns, so that a unit's steps lie far apart."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from meninx.core import check
from meninx.core.errors import PrivacyRefusal, expected
from meninx.privacy.keystream import keystream
from meninx.privacy.sampling import PoissonSampler


@dataclass(frozen=True, kw_only=True)
class CyclicSampler:
    """Draws step ``t`` from group ``t mod groups`` alone, each of its units with probability ``groups * sample_rate``.

    Guarantee:
        Two steps of one unit are a multiple of ``groups`` apart. Every unit's group is drawn by its own
        secret coin, for good, and its coin of a step is that of
        :class:`~meninx.privacy.sampling.PoissonSampler`. So given all groups a unit takes part in every
        ``groups``-th step with probability ``groups * sample_rate``, independently. Adding or removing a unit
        moves no other unit's group: another unit added at the end leaves all of them as they are, and one
        taken out of the middle leaves their joint distribution as it is. (Groups by position, ``i mod
        groups``, would not do: there one unit less regroups all behind it.)

    Attributes:
        sample_rate: probability that a unit takes part in a step, over groups and coins, in (0, 1 / groups].
        groups: number of groups, >= 1.
        n_units: number of units in the dataset, >= 0.
        key: 32 secret bytes.

    References:
        Choquette-Choo et al. (2023), (Amplified) Banded Matrix Factorization, Algorithm 2 (cyclic Poisson
        sampling).
    """

    sample_rate: float
    groups: int
    n_units: int
    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        check.positive(groups=self.groups)
        if self.groups * self.sample_rate > 1 + 1e-12:
            fix = "use fewer noise_bands or a smaller expected_batch_size"
            rule = f"sample_rate <= 1 / {self.groups} groups"
            raise PrivacyRefusal(expected(rule, got=self.sample_rate, where="CyclicSampler", fix=fix))
        self.coins  # noqa: B018  (checks the rest)

    @functools.cached_property
    def coins(self) -> PoissonSampler:
        """The coins within a group."""
        return PoissonSampler(
            sample_rate=min(1.0, self.groups * self.sample_rate), n_units=self.n_units, key=self.key
        )

    @functools.cached_property
    def group(self) -> npt.NDArray[np.int64]:
        """(n_units,) the group of every unit, in [0, groups). Secret."""
        words = np.frombuffer(keystream(self.key, "groups", 0).read(8 * self.n_units), dtype="<u8")
        return (words % np.uint64(self.groups)).astype(np.int64)

    def draw(self, step: int) -> npt.NDArray[np.int64]:
        """Return the sorted indices, in [0, n_units), of the units of step ``step``, counted from 0."""
        units = self.coins.draw(step)
        drawn: npt.NDArray[np.int64] = units[self.group[units] == step % self.groups]
        return drawn
