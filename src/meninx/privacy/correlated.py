"""Correlated noise: what a step adds, the next ones partly take back, by a banded matrix that the accountant knows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from meninx.core import check
from meninx.privacy.noise import GaussianNoise


def strategy(bands: int) -> tuple[float, ...]:
    """Return the first column of the strategy matrix C: ``bands`` falling coefficients of unit length.

    C is lower triangular and constant along its diagonals: C[t, s] = strategy(bands)[t - s]. The
    coefficients are the first ones of (1 - x)**(-1/2), the square root of the matrix of prefix sums,
    rescaled.

    References:
        Fichtenberger, Henzinger, Upadhyay (2023), Constant Matters, equation 4 (the coefficients).
        Kalinin, Lampert (2024), Banded Square Root Matrix Factorization for Differentially Private Model
        Training.
    """
    check.positive(bands=bands)
    values = [1.0]
    for lag in range(1, bands):
        values.append(values[-1] * (2 * lag - 1) / (2 * lag))
    length = math.sqrt(sum(value * value for value in values))
    return tuple(value / length for value in values)


@dataclass(frozen=True, kw_only=True)
class BandedNoise(GaussianNoise):
    """The rows of C**-1 z, where z is the independent noise of :class:`~meninx.privacy.noise.GaussianNoise`.

    Guarantee:
        With G the clipped sums of all steps, G + C**-1 z = C**-1 (C G + z): all that is released follows from
        C G + z. A unit whose steps lie at least ``bands`` apart moves C G, at each of its steps, by a vector
        of norm at most the clipping threshold (the columns of C have norm at most 1), and those vectors touch
        different rows. So each such step costs one Gaussian mechanism, and a run over
        :class:`~meninx.privacy.cyclic.CyclicSampler` with as many groups costs ceil(steps / bands)
        Poisson-sampled ones at ``bands * sample_rate``. The gradients may depend on earlier releases, because
        C is lower triangular. Values are a function of (key, step, name, shape), bit for bit, whatever was
        asked before; float32 arithmetic moves them by about 1e-6 of their size.

    The last ``bands - 1`` values of every name are kept, in float32; a resumed run works through the steps
    before once more.

    Attributes:
        bands: width of C, >= 2.

    References:
        Choquette-Choo et al. (2023), (Amplified) Banded Matrix Factorization, Theorem 4 and Algorithm 2.
        Denisov et al. (2022), Improved Differential Privacy for SGD via Optimal Private Linear Operators on
        Adaptive Streams, Theorem 2.1 (adaptive gradients).
    """

    bands: int
    _seen: dict[str, tuple[int, list[Tensor]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check.positive(bands=self.bands)
        super().__post_init__()

    def sample(
        self, step: int, name: str, shape: Sequence[int], *, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return the noise of one parameter at one step: float32, of ``shape``, on ``device``."""
        last, recent = self._seen.get(name, (-1, []))
        if last > step or (recent and recent[0].shape != tuple(shape)):
            last, recent = -1, []
        scale, *weights = strategy(self.bands)
        for current in range(last + 1, step + 1):
            value = super().sample(current, name, shape)
            for weight, earlier in zip(weights, recent, strict=False):
                value = value - weight * earlier
            recent = [value / scale, *recent[: self.bands - 2]]
        self._seen[name] = (step, recent)
        return recent[0].to(device, copy=True)  # the caller may change it
