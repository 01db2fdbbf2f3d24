"""Poisson sampling of privacy units: plain, or cyclic for correlated noise.

:class:`PoissonSampler` includes every unit independently. :class:`CyclicSampler` splits the units into secret
fixed groups that take turns, so that two steps of a unit are always several steps apart.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from meninx.core import check
from meninx.core.errors import ConfigError, PrivacyRefusal, expected
from meninx.privacy.keystream import check_key, keystream


@dataclass(frozen=True, kw_only=True)
class PoissonSampler:
    """Draws the units of a step, each independently with probability ``sample_rate``.

    Guarantee:
        Unit ``i`` takes part in step ``t`` with probability ``sample_rate`` (rounded down to a
        multiple of 2**-64), independently over units and steps, as long as the key is secret and
        uniformly random. The coin of a unit depends on the key, the step and the unit's index alone:
        another unit added at the end changes no coin. There is no state, so a resumed run
        draws what an uninterrupted one would have drawn. A draw may be empty; an empty step is a real step
        (noise is added and it is accounted) and must never be skipped or redrawn.

    Example::

        >>> sampler = PoissonSampler(sample_rate=0.05, n_units=1_000, key=bytes(32))
        >>> [len(sampler.draw(step)) for step in range(3)]  # 50 on average
        [48, 52, 64]

    Attributes:
        sample_rate: probability that a unit takes part in a step, in (0, 1].
        n_units: number of units in the dataset, >= 0.
        key: 32 secret bytes; for anyone who knows them, sampling amplifies no privacy.

    References:
        Abadi et al. (2016), Deep Learning with Differential Privacy, Algorithm 1 ("take a random
        sample with sampling probability L/N").
        Balle, Barthe, Gaboardi (2018), Privacy Amplification by Subsampling, Theorem 8.
        Chua et al. (2024), How Private are DP-SGD Implementations? (why shuffled batches do not count).
    """

    sample_rate: float
    n_units: int
    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        check.positive(sample_rate=self.sample_rate)
        check.probability(sample_rate=self.sample_rate)
        check.non_negative(n_units=self.n_units)
        check_key(self.key)

    def draw(self, step: int) -> npt.NDArray[np.int64]:
        """Return the sorted indices, in [0, n_units), of the units of step ``step``.

        Args:
            step: optimiser step, counted from 0.

        Raises:
            ConfigError: a negative step.
        """
        if step < 0:
            raise ConfigError(expected("step >= 0", got=step, where="PoissonSampler.draw"))
        threshold = int(self.sample_rate * 2.0**64)  # exact: scaling a float by a power of two
        if threshold >= 2**64:
            return np.arange(self.n_units, dtype=np.int64)
        # A coin per unit, compared as an integer: a float uniform would round the rate and could exceed it.
        coins = np.frombuffer(keystream(self.key, "poisson", step).read(8 * self.n_units), dtype="<u8")
        return np.flatnonzero(coins < np.uint64(threshold)).astype(np.int64, copy=False)


@dataclass(frozen=True, kw_only=True)
class CyclicSampler:
    """Draws step ``t`` from group ``t mod groups``, each unit with probability ``groups * sample_rate``.

    Guarantee:
        Two steps of one unit are a multiple of ``groups`` apart. Each unit's group is drawn once, by its own
        secret coin, and its coin of a step is that of :class:`~meninx.privacy.sampling.PoissonSampler`. So
        given the groups, a unit takes part in every ``groups``-th step with probability ``groups *
        sample_rate``, independently. Adding a unit at the end changes no other unit's group, and removing one
        from the middle does not change the joint distribution of the others. (Groups by position, ``i mod
        groups``, would not be private: removing one unit would regroup all units after it.)

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
        """(n_units,) the group of every unit, in [0, groups); secret, like the draws that follow from it."""
        words = np.frombuffer(keystream(self.key, "groups", 0).read(8 * self.n_units), dtype="<u8")
        return (words % np.uint64(self.groups)).astype(np.int64)

    def draw(self, step: int) -> npt.NDArray[np.int64]:
        """Return the sorted indices, in [0, n_units), of the units of step ``step``, counted from 0."""
        units = self.coins.draw(step)
        drawn: npt.NDArray[np.int64] = units[self.group[units] == step % self.groups]
        return drawn
