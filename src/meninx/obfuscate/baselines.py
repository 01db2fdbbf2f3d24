"""Noise, blur, pixelation and DP-Pix: what a learned method is compared with at the same distortion.

The strength of each is solved so that the mean absolute change of the training images, after storage with 8
bits, equals the budget. None of them reads the attribute, and none stops a retrained attacker.

    >>> from meninx.core.progress import SILENT
    >>> from meninx.obfuscate.config import ObfuscateConfig
    >>> values = np.random.default_rng(0).random((4, 1, 16, 16), dtype=np.float32)
    >>> table = ImageTable(values=values, cases=tuple("abcd"), patients=tuple("abcd"), split=("train",) * 4)
    >>> config = ObfuscateConfig(method="blur", budget=0.1)
    >>> fitted = blur(config, bytes(32)).fit(table, seed=0, progress=SILENT)
    >>> round(float(np.abs(fitted.release(table) - values).mean()), 3)
    0.1

References:
    Fan (2018), Image Pixelization with Differential Privacy, DBSec.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, expected
from meninx.core.progress import Progress, task
from meninx.obfuscate.config import ObfuscateConfig, PixelNoise
from meninx.obfuscate.obfuscator import FittedObfuscator, ImageTable, Obfuscator, Values, stored
from meninx.privacy.keystream import keystream

CLOSE = 1e-3
"""Relative distance from the budget at which a solution is accepted."""
_STEPS = 40
_MOST_SIGMA = 1 << 12
_LEAST_EPSILON, _MOST_EPSILON = 1e-3, 1e9


def noise(config: ObfuscateConfig, key: bytes) -> Obfuscator:
    """Return additive Gaussian noise, drawn anew for every image and release."""
    return _Solved(config, key, _gaussian_noise)


def blur(config: ObfuscateConfig, key: bytes) -> Obfuscator:
    """Return convolution with a Gaussian; images continue beyond their borders as in a mirror."""
    return _Solved(config, key, _gaussian_blur)


def pixelation(config: ObfuscateConfig, key: bytes) -> Obfuscator:
    """Return means over square blocks; the side of the block is one of two neighbouring numbers per image."""
    return _Solved(config, key, _blocks)


def dp_pix(config: ObfuscateConfig, key: bytes) -> Obfuscator:
    """Return means over square blocks with Laplace noise.

    Guarantee:
        One release of one image is epsilon-differentially private for any two images that differ in at most
        m pixels (the m-neighbourhood). The image of a patient differs from another one's in all pixels, so
        nothing is promised to a patient, and nothing about the attribute. Every further release of the same
        image costs epsilon again. Where epsilon or the block was solved from the budget, these two numbers
        depend on the training images and are not covered.
    """
    return _Solved(config, key, _laplace_blocks)


@dataclass(frozen=True)
class _Setting:
    """What the solver of a method gives.

    Attributes:
        apply: (table, draw) -> released images.
        facts: the solved parameters.
    """

    apply: Callable[[ImageTable, int], Values]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class _Solved:
    """A baseline before its strength is solved."""

    config: ObfuscateConfig
    key: bytes = field(repr=False)
    solver: Callable[[ImageTable, ObfuscateConfig, bytes], _Setting]

    def fit(self, table: ImageTable, *, seed: int, progress: Progress) -> FittedObfuscator:
        """Return the baseline at the strength at which the training images change by the budget."""
        train = table.select(table.where("train"))
        with task(progress, f"solve {self.config.method}", None):
            found = self.solver(train, self.config, self.key)
        return _Fitted(found)


@dataclass(frozen=True)
class _Fitted:
    """A baseline of a fixed strength."""

    setting: _Setting

    def release(self, table: ImageTable, *, draw: int = 0) -> Values:
        """Return the changed images, rounded to 8 bits."""
        return stored(self.setting.apply(table, draw))

    def facts(self) -> Mapping[str, Any]:
        """Return the solved parameters."""
        return self.setting.facts

    def private_files(self) -> Mapping[str, bytes]:
        """Return nothing: the parameters are public, and the stage keeps the key."""
        return {}


def _gaussian_noise(train: ImageTable, config: ObfuscateConfig, key: bytes) -> _Setting:
    def apply(table: ImageTable, draw: int, sigma: float) -> Values:
        shape = table.values.shape[1:]
        drawn = [_normals(key, case, draw, shape) for case in table.cases]
        return table.values + np.float32(sigma) * np.array(drawn, dtype=np.float32).reshape(
            table.values.shape
        )

    standard = apply(train, 0, 1.0) - train.values
    sigma = _solve(train.values, config, lambda value: train.values + np.float32(value) * standard, 1e-4, 1e3)
    return _Setting(lambda table, draw: apply(table, draw, sigma), {"sigma": sigma})


def _gaussian_blur(train: ImageTable, config: ObfuscateConfig, key: bytes) -> _Setting:
    sigma = _solve(train.values, config, lambda value: _blurred(train.values, value), 1e-3, _MOST_SIGMA)
    return _Setting(lambda table, draw: _blurred(table.values, sigma), {"sigma_pixels": sigma})


def _blocks(train: ImageTable, config: ObfuscateConfig, key: bytes) -> _Setting:
    """Solve the side of the blocks, which is one larger for the share of images that meets the budget."""
    budget, largest = _budget(config), max(train.values.shape[2:])
    changes = np.zeros(len(train))
    for side in range(2, largest + 1):
        smaller, changes = changes, _change(train.values, _pixelated(train.values, side))
        if changes.mean() >= budget:
            break
    else:
        raise _unreachable(config, float(changes.mean()))
    lots = np.array([_lot(key, case) for case in train.cases])
    order = np.argsort(lots)
    # Entry k: what the mean change gains when the first k images by their lots have the larger blocks.
    gains = np.concatenate([[0.0], np.cumsum((changes - smaller)[order])])
    count = int(np.argmin(np.abs(smaller.mean() + gains / len(train) - budget)))
    limit = float(np.concatenate([[0.0], lots[order], [1.0]])[count : count + 2].mean()) if count else 0.0
    limit = 1.0 if count == len(train) else limit

    def apply(table: ImageTable, draw: int) -> Values:
        larger = np.array([_lot(key, case) < limit for case in table.cases], dtype=bool)
        released = _pixelated(table.values, side - 1)
        released[larger] = _pixelated(table.values[larger], side)
        return released

    return _Setting(apply, {"block": side - 1, "larger_block": side, "share_larger": limit})


def _laplace_blocks(train: ImageTable, config: ObfuscateConfig, key: bytes) -> _Setting:
    chosen = config.dp_pix
    side = chosen.block or _half_budget_block(train.values, _budget(config))
    means = _pixelated(train.values, side)
    unit = _noise_scale(chosen, train.values.shape, side)

    def apply(table: ImageTable, draw: int, epsilon: float) -> Values:
        return _with_laplace(table, key, draw, side, unit / epsilon)

    epsilon = chosen.pixel_epsilon
    if epsilon is None:
        standard = _with_laplace(train, key, 0, side, 1.0) - means
        weaker = lambda value: means + np.float32(unit * value) * standard  # noqa: E731 (one use)
        epsilon = 1.0 / _solve(train.values, config, weaker, 1 / _MOST_EPSILON, 1 / _LEAST_EPSILON)
    facts = {
        "block": side,
        "pixels": chosen.pixels,
        "pixel_epsilon": epsilon,
        "laplace_scale": unit / epsilon,
        "epsilon_solved_from_budget": chosen.pixel_epsilon is None,
    }
    return _Setting(lambda table, draw: apply(table, draw, epsilon), facts)


# the strength


def _budget(config: ObfuscateConfig) -> float:
    amount = config.amount
    assert amount is not None  # the methods of this module have a budget
    return amount


def _change(before: Values, after: Values) -> npt.NDArray[np.float64]:
    """Return the mean absolute change of each image after storage with 8 bits, shape (n,)."""
    changes: npt.NDArray[np.float64] = np.abs(stored(after) - before).mean(axis=(1, 2, 3), dtype=np.float64)
    return changes


def _solve(
    values: Values, config: ObfuscateConfig, change: Callable[[float], Values], low: float, high: float
) -> float:
    """Return the strength between ``low`` and ``high`` whose mean absolute change is the budget.

    The change grows with the strength, so the logarithm of the strength is halved.

    Raises:
        DataError: the budget is out of reach.
    """
    budget = _budget(config)
    most, least = (float(_change(values, change(end)).mean()) for end in (high, low))
    if least > budget * (1 + CLOSE):
        raise _unreachable(config, least)
    if most < budget * (1 - CLOSE):
        raise _unreachable(config, most)
    middle = low
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        reached = float(_change(values, change(middle)).mean())
        if abs(reached - budget) <= CLOSE * budget / 10:
            break
        low, high = (middle, high) if reached < budget else (low, middle)
    return middle


def _unreachable(config: ObfuscateConfig, reached: float) -> DataError:
    side = "at most" if reached < _budget(config) else "at least"
    fix = "give another budget, or for dp-pix a smaller block"
    what = f"a budget that {config.method} can reach"
    got = f"{_budget(config):g}, while it changes these images by {side} {reached:.4g}"
    return DataError(expected(what, got=got, where="budget", fix=fix))


def _half_budget_block(values: Values, budget: float) -> int:
    """Return the largest side of blocks whose means alone use at most half of the budget."""
    side = 1
    while side < max(values.shape[2:]) and _change(values, _pixelated(values, side + 1)).mean() <= budget / 2:
        side += 1
    return side


# the changes


def _pixelated(values: Values, side: int) -> Values:
    """Return images whose blocks of ``side`` x ``side`` pixels have one value each, their mean."""
    height, width = values.shape[2:]
    rows, columns = np.arange(0, height, side), np.arange(0, width, side)
    sums = np.add.reduceat(np.add.reduceat(values.astype(np.float64), rows, axis=2), columns, axis=3)
    tall, wide = np.diff([*rows, height]), np.diff([*columns, width])
    means = (sums / (tall[:, None] * wide[None, :])).astype(np.float32)
    return np.repeat(np.repeat(means, tall, axis=2), wide, axis=3)


def _blurred(values: Values, sigma: float) -> Values:
    """Return images convolved with a Gaussian of ``sigma`` pixels, mirrored at their borders.

    Each axis is transformed by the cosine basis in which this convolution is a factor per frequency, so that
    a large sigma costs no more than a small one. Below about two pixels the basis cuts frequencies off, so
    that values may leave the range of the image a little (ringing).
    """
    height, width = values.shape[2:]
    across = values @ _blur_matrix(width, sigma)
    return np.swapaxes(np.swapaxes(across, 2, 3) @ _blur_matrix(height, sigma), 2, 3)


def _blur_matrix(length: int, sigma: float) -> npt.NDArray[np.float32]:
    frequency = np.pi * np.arange(length) / length
    basis = np.cos(frequency[:, None] * (np.arange(length) + 0.5)[None, :]) * np.sqrt(2 / length)
    basis[0] /= np.sqrt(2)
    factors = np.exp(-0.5 * (sigma * frequency) ** 2)
    matrix: npt.NDArray[np.float32] = ((basis.T * factors) @ basis).astype(np.float32)
    return matrix


def _noise_scale(chosen: PixelNoise, shape: tuple[int, ...], side: int) -> float:
    """Return the sum over the blocks of how far m pixels can move the means: scale of the noise at epsilon 1.

    A block at a border may be smaller, and a pixel moves its mean further.
    """
    _, channels, height, width = shape
    smallest = min(side, height % side or side) * min(side, width % side or side)
    return chosen.pixels * channels / smallest


def _with_laplace(table: ImageTable, key: bytes, draw: int, side: int, scale: float) -> Values:
    """Return pixelated images with Laplace noise of ``scale`` on the value of every block and channel."""
    released = _pixelated(table.values, side)
    _, channels, height, width = released.shape
    rows, columns = -(-height // side), -(-width // side)
    for image, case in zip(released, table.cases, strict=True):
        drawn = scale * _laplace(key, case, draw, (channels, rows, columns))
        spread = np.repeat(np.repeat(drawn, side, axis=1), side, axis=2)
        image += spread[:, :height, :width].astype(np.float32)
    return released


# randomness of each case and draw


def _uniforms(key: bytes, purpose: str, case: str, draw: int, count: int) -> npt.NDArray[np.float64]:
    """Return numbers in (0, 1) with 53 bits each."""
    words = np.frombuffer(keystream(key, f"obfuscate {purpose}", draw, case).read(8 * count), dtype="<u8")
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _normals(key: bytes, case: str, draw: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    count = math.prod(shape)
    first, second = _uniforms(key, "noise", case, draw, 2 * (count + count % 2) // 2).reshape(2, -1)
    radius, angle = np.sqrt(-2 * np.log(first)), 2 * np.pi * second
    values = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return values[:count].reshape(shape).astype(np.float32)


def _laplace(key: bytes, case: str, draw: int, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    centred = _uniforms(key, "dp-pix", case, draw, math.prod(shape)) - 0.5
    drawn: npt.NDArray[np.float64] = -np.sign(centred) * np.log1p(-2 * np.abs(centred))
    return drawn.reshape(shape)


def _lot(key: bytes, case: str) -> float:
    return float(_uniforms(key, "pixelation", case, 0, 1)[0])
