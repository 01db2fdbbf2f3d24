"""Poisson sampling: every privacy unit takes part in a step by its own coin, tossed from a secret key."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from meninx.core import check
from meninx.core.errors import ConfigError, expected
from meninx.privacy.keystream import check_key, keystream


@dataclass(frozen=True, kw_only=True)
class PoissonSampler:
    """Draws the units of a step, each independently with probability ``sample_rate``.

    Guarantee:
        Unit ``i`` takes part in step ``t`` with probability ``sample_rate`` (rounded down to a
        multiple of 2**-64), independently over units and steps, as long as the key is secret and
        uniformly random. The coin of a unit depends on the key, the step and the unit's index alone:
        another unit added at the end changes no coin. There is no state, so a resumed run
        draws what an uninterrupted one would. A draw may be empty; an empty step is a real step
        (noise is added and it is accounted) and must never be skipped or redrawn.

    Attributes:
        sample_rate: probability that a unit takes part in a step, in (0, 1].
        n_units: number of units in the dataset, >= 0.
        key: 32 secret bytes; who knows them undoes the amplification by sampling.

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
        coins = np.frombuffer(keystream(self.key, "poisson", step).read(8 * self.n_units), dtype="<u8")
        return np.flatnonzero(coins < np.uint64(threshold)).astype(np.int64, copy=False)
