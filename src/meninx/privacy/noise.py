"""Gaussian noise of a step, computed from a secret key, the step and the parameter's name.

:class:`GaussianNoise` is independent over steps. :class:`BandedNoise` is correlated: later steps subtract
part of the noise of earlier ones, by a banded matrix that the accounting includes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from meninx.core import check
from meninx.privacy.keystream import Keystream, check_key, keystream

_BLOCK = 1 << 14  # pairs per pass: the buffers fit into the second-level cache
_TURN = np.float32(2.0 * math.pi * 2.0**-32)  # maps a signed word of 32 bits to an angle from -pi to pi
_ABOVE_ZERO = 0.5 + 2.0**-53  # shifts a uniform from [-1/2, 1/2) to (0, 1], where the logarithm is finite


@dataclass(frozen=True, kw_only=True)
class GaussianNoise:
    """Independent normal noise for every (step, parameter name), without state.

    Guarantee:
        With a secret, uniformly random key the values are computationally indistinguishable from independent
        N(0, std**2). Box and Muller's method makes them from a 53-bit uniform for the radius (so up to
        8.5 std) and a 24-bit one for the angle, in float32 after the logarithm. The same (key, step, name,
        count) gives the same values, so a resumed run adds the noise that the interrupted one would have
        added. The noise is a rounded continuous Gaussian: the proof of the mechanism is over the reals, and
        attacks that read the lowest bits of single released floats are not covered.

    Example::

        >>> noise = GaussianNoise(key=bytes(32), std=2.0)  # a real key comes from core.randomness
        >>> first, again = noise.sample(0, "weight", (3,)), noise.sample(0, "weight", (3,))
        >>> bool((first == again).all()), bool((first == noise.sample(1, "weight", (3,))).any())
        (True, False)

    Attributes:
        key: 32 secret bytes; anyone who knows them can subtract the noise.
        std: standard deviation of every coordinate, >= 0; ``noise_multiplier * max_grad_norm`` for a clipped
            sum.

    References:
        Box, Muller (1958), A Note on the Generation of Random Normal Deviates.
        Dwork, Roth (2014), The Algorithmic Foundations of Differential Privacy, Appendix A (Gaussian
        mechanism). Mironov (2012), On Significance of the Least Significant Bits for Differential Privacy.
    """

    key: bytes = field(repr=False)
    std: float

    def __post_init__(self) -> None:
        check.non_negative(std=self.std)
        check_key(self.key)

    def sample(
        self, step: int, name: str, shape: Sequence[int], *, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return the noise of one parameter at one step: float32, of ``shape``, on ``device``."""
        count = math.prod(shape)
        values = _normals(keystream(self.key, "gaussian", step, name), (count + 1) // 2, self.std)
        return torch.from_numpy(values[:count].reshape(tuple(shape))).to(device)

    def add(self, gradients: Mapping[str, Tensor], step: int, *, divisor: float = 1.0) -> dict[str, Tensor]:
        """Return new tensors ``(gradient + noise) / divisor``, one per name.

        Args:
            gradients: parameter name -> clipped sum. The name selects the noise, so one step must not use a
                name twice.
            step: optimiser step, >= 0.
            divisor: public constant, > 0.
        """
        return {
            name: _added(self.sample(step, name, value.shape), value, divisor)
            for name, value in gradients.items()
        }


def _added(noise: Tensor, gradient: Tensor, divisor: float) -> Tensor:
    """Return ``(gradient + noise) / divisor``, in the memory of ``noise`` where both are on the CPU."""
    if gradient.device.type != "cpu":
        return noise.to(gradient.device).add_(gradient).div_(divisor)
    values = noise.numpy()  # in numpy, because each small call to torch would wake its threads
    np.add(values, gradient.detach().numpy(), out=values, casting="same_kind")
    np.divide(values, divisor, out=values, casting="same_kind")
    return noise


def _normals(stream: Keystream, pairs: int, std: float) -> npt.NDArray[np.float32]:
    """Return pairs of normals of standard deviation ``std``, each from the next 16 bytes: radius, then angle.

    The computation uses one thread. Threads of torch spin while they wait, and more threads were slower.
    """
    out = np.empty((pairs, 2), dtype=np.float32)
    room = max(1, min(pairs, _BLOCK))
    words, radii, scratch = (
        np.empty((room, 2), dtype="<i8"),
        np.empty(room),
        np.empty((3, room), dtype=np.float32),
    )
    zeros = memoryview(bytes(words.nbytes))
    for start in range(0, pairs, room):
        here = out[start : start + room]
        bits, uniform = words[: len(here)], radii[: len(here)]
        radius, angle, wave = (part[: len(here)] for part in scratch)
        stream.read_over(zeros[: bits.nbytes], bits.data.cast("B"))
        # The radius stays in float64 up to the logarithm: a float32 uniform would end the tail at 5.8 std.
        np.copyto(uniform, bits[:, 0])  # rounds to 53 bits
        uniform *= 2.0**-64
        uniform += _ABOVE_ZERO
        np.log(uniform, out=uniform)
        uniform *= -2.0 * std * std
        np.copyto(radius, uniform, casting="same_kind")
        np.sqrt(radius, out=radius)
        # The upper half of the word has as many bits as a float32 angle can hold.
        np.copyto(angle, bits.view("<i4")[:, 3], casting="same_kind")
        angle *= _TURN
        np.multiply(radius, np.cos(angle, out=wave), out=here[:, 0])
        np.multiply(radius, np.sin(angle, out=wave), out=here[:, 1])
    return out.reshape(-1)


def strategy(bands: int) -> tuple[float, ...]:
    """Return the first column of the strategy matrix C: ``bands`` falling coefficients, a unit vector.

    C is lower triangular and constant along its diagonals: C[t, s] = strategy(bands)[t - s]. The
    coefficients are the first ones in the series of (1 - x)**(-1/2), the square root of the matrix of prefix
    sums, rescaled.

    Example::

        >>> [round(value, 3) for value in strategy(3)]
        [0.848, 0.424, 0.318]

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
        :class:`~meninx.privacy.sampling.CyclicSampler` with as many groups costs ceil(steps / bands)
        Poisson-sampled ones at ``bands * sample_rate``. The gradients may depend on earlier releases, because
        C is lower triangular. Values are a function of (key, step, name, shape), bit for bit, whatever was
        requested before; float32 arithmetic moves them by about 1e-6 of their size.

    The last ``bands - 1`` values of every name are cached in float32. A resumed run has no cache and computes
    the noise of all earlier steps again.

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
        # Row t of C**-1 z by forward substitution: x_t = (z_t - sum_k c_k x_{t-k}) / c_0.
        for current in range(last + 1, step + 1):
            value = super().sample(current, name, shape)
            for weight, earlier in zip(weights, recent, strict=False):
                value = value - weight * earlier
            recent = [value / scale, *recent[: self.bands - 2]]
        self._seen[name] = (step, recent)
        return recent[0].to(device, copy=True)  # the caller may change it
