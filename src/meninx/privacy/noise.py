"""Gaussian noise by address: the noise of a step and a parameter can be computed again, exactly, from a secret key."""

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

_BLOCK = 1 << 14  # pairs worked on at once: fits the second-level cache
_TURN = np.float32(2.0 * math.pi * 2.0**-32)  # a signed word of 32 bits makes an angle from -pi to pi
_ABOVE_ZERO = 0.5 + 2.0**-53  # takes a word of mean 0 and reach one half to (0, 1]: the logarithm is finite


@dataclass(frozen=True, kw_only=True)
class GaussianNoise:
    """Independent normal noise for every (step, parameter name), without state.

    Guarantee:
        With a secret, uniformly random key the values are computationally indistinguishable from independent
        N(0, std**2), made by Box and Muller of a 53-bit uniform for the radius (so out to 8.5 std) and a
        24-bit one for the angle, in float32 after the logarithm. The same (key, step, name, count) gives the
        same values, so a resumed run adds the noise that the interrupted one would have added. The noise is a
        rounded continuous Gaussian: the proof of the mechanism is over the reals, and attacks that read the
        lowest bits of single released floats are not covered.

    Attributes:
        key: 32 secret bytes; who knows them can subtract the noise.
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
        """Return new tensors ``(gradient + noise) / divisor`` for every name.

        The noise address is the name.
        """
        return {
            name: _added(self.sample(step, name, value.shape), value, divisor)
            for name, value in gradients.items()
        }


def _added(noise: Tensor, gradient: Tensor, divisor: float) -> Tensor:
    """Return ``(gradient + noise) / divisor``, in the memory of ``noise`` where both are the processor's."""
    if gradient.device.type != "cpu":
        return noise.to(gradient.device).add_(gradient).div_(divisor)
    values = noise.numpy()  # by numpy: many small calls to torch would wake its threads each time
    np.add(values, gradient.detach().numpy(), out=values, casting="same_kind")
    np.divide(values, divisor, out=values, casting="same_kind")
    return noise


def _normals(stream: Keystream, pairs: int, std: float) -> npt.NDArray[np.float32]:
    """Return ``pairs`` pairs of normals of standard deviation ``std``, each made of the next 16 bytes: radius, then angle.

    On one thread: beside the threads of torch, which wait for the next step without sleeping, more were
        slower.
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
        np.copyto(uniform, bits[:, 0])  # to 53 bits
        uniform *= 2.0**-64
        uniform += _ABOVE_ZERO
        np.log(uniform, out=uniform)
        uniform *= -2.0 * std * std
        np.copyto(radius, uniform, casting="same_kind")
        np.sqrt(radius, out=radius)
        np.copyto(
            angle, bits.view("<i4")[:, 3], casting="same_kind"
        )  # the upper half of the word, as fine as the result
        angle *= _TURN
        np.multiply(radius, np.cos(angle, out=wave), out=here[:, 0])
        np.multiply(radius, np.sin(angle, out=wave), out=here[:, 1])
    return out.reshape(-1)
