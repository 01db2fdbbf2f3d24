"""The attackers of a release: each is trained on released rows and gives margins for any rows.

================  ================================================================================
attacker          what it is
================  ================================================================================
strided, ...      three small convolutional networks, a fresh draw of the mechanism in every epoch
perceptron        a small network on features
linear, kernel    ridge regressions on principal components
boosted           trees on pixels and simple statistics, which find a single number that tells
purifier          undoes the release by a network trained on pairs, then asks attackers of originals
average-of-10     averages ten releases of the same image, then attacks the average
================  ================================================================================
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.core.progress import Progress
from meninx.core.progress import task as progress_task
from meninx.core.randomness import child_seed
from meninx.learn.release_attackers import (
    Sides,
    attribute_task,
    averaged,
    families_of,
    fit_purifier,
    fit_release_network,
)
from meninx.metrics.vector_attacks import VECTOR_ATTACKS, fit_vector_attack
from meninx.obfuscate.obfuscator import Values
from meninx.obfuscate.release_question import AttackRows, DrawCache, ReleaseQuestion

Margins = npt.NDArray[np.float64]
Attack = Callable[[Values], Margins]
"""From images, or features, to margins (rows, classes)."""
PURIFIER = "purifier"
_SEEDS = 1 << 31
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_GRID = 4
_FRESH = "a fresh draw of the method in every epoch"
_IMAGE_AXES, _MOST_NUMBERS = 4, 8192


@dataclass(frozen=True, eq=False)
class Attempt:
    """What one attacker says about every row.

    Attributes:
        name: of the attacker.
        knows: what it was trained on, in words.
        margins: shape (rows, classes); None where it could not be tried.
        seconds: of training.
        retrained: on released rows.
        refusal: why there are no margins; else empty.
        variant: which one it is of several with the name; empty for the only one.
    """

    name: str
    knows: str
    margins: Margins | None
    seconds: float = 0.0
    retrained: bool = True
    refusal: str = ""
    variant: str = ""


class ReleaseAttacks:
    """Fits attackers for one question.

    Args:
        question: the release.
        draws: its draws.
        rows: who attacks whom.
        progress: shows the attackers.
    """

    def __init__(
        self, question: ReleaseQuestion, draws: DrawCache, rows: AttackRows, progress: Progress
    ) -> None:
        self.question, self.draws, self.rows, self.progress = question, draws, rows, progress
        self.sides = Sides(rows.train, rows.valid)

    def fitted(self, draws: Callable[[int], Values], stage: str) -> dict[str, tuple[Attack, float]]:
        """Return the networks and the vector attackers trained on some draws, each with its seconds."""
        values = draws(0)
        families = families_of(values.ndim)
        found: dict[str, tuple[Attack, float]] = {}
        with progress_task(self.progress, f"attackers of {stage}", len(families) + len(VECTOR_ATTACKS)):
            for name in (*families, *VECTOR_ATTACKS):
                begin = time.perf_counter()
                attack = self.network(name, draws) if name in families else self.vector(name, values)
                found[name] = (attack, time.perf_counter() - begin)
                self.progress.advance()
        return found

    def network(
        self, family: str, draws: Callable[[int], Values], classes: npt.NDArray[np.int64] | None = None
    ) -> Attack:
        """Return a network trained on some draws; its margins are log-odds of each class."""
        kinds = self.rows.classes if classes is None else classes
        count = len(self.rows.names)
        hot = np.asarray(kinds[:, None] == np.arange(count), dtype=np.float32)
        network = fit_release_network(
            family, draws, hot, self.sides,
            task=attribute_task(hot[self.sides.train].sum(axis=0)),
            epochs=self.question.attacks.attack_epochs,
            seed=child_seed(self.question.seed, "attacker", family) % _SEEDS,
            device=self.question.device,
        )  # fmt: skip
        return lambda values: log_odds(network(values))

    def vector(self, kind: str, values: Values) -> Attack:
        """Return a linear, kernel or boosted attack fitted on the attackers' rows of some values."""
        described = _describe(kind)
        fit, valid = self.rows.train, self.rows.valid
        seed = child_seed(self.question.seed, "attacker", kind) % _SEEDS
        attack = fit_vector_attack(kind, described(values), self.rows.classes, fit, valid, seed=seed)
        return lambda asked: self.rows.widened(attack(described(asked)))

    def of_release(self) -> Iterator[Attempt]:
        """Yield what each attacker says that was retrained on the release."""
        families = families_of(len(self.draws.shape))
        released = f"released {self.question.subject}"
        for name, (attack, seconds) in self.fitted(self.draws, released).items():
            fresh = name in families and not self.draws.constant
            words = f"{released}, {_FRESH}" if fresh else released
            yield Attempt(name, words, attack(self.draws(0)), seconds)

    def purified(self, clean: Mapping[str, tuple[Attack, float]]) -> dict[str, Attempt]:
        """Return what attackers of originals say about purified releases, by their names."""
        begin = time.perf_counter()
        purify = fit_purifier(
            self.draws, self.question.original.values, self.sides, epochs=self.question.attacks.attack_epochs,
            seed=child_seed(self.question.seed, PURIFIER) % _SEEDS, device=self.question.device,
        )  # fmt: skip
        values = purify(self.draws(0))
        seconds = time.perf_counter() - begin
        words = "pairs of an original and its release; attackers of originals are asked about what it undoes"
        return {
            name: Attempt(PURIFIER, words, attack(values), seconds, variant=name)
            for name, (attack, _) in clean.items()
        }

    def averages(self) -> dict[str, Attempt]:
        """Return what attackers say that see the average of several releases; empty where all are equal."""
        count = self.question.attacks.draws
        if count < 2 or self.draws.constant:
            return {}
        begin = time.perf_counter()
        values = averaged(self.draws, count)
        words = f"the average of {count} releases of each image"
        found = {}
        for name in (*families_of(values.ndim)[:1], *VECTOR_ATTACKS):
            is_network = name not in VECTOR_ATTACKS
            attack = self.network(name, lambda number: values) if is_network else self.vector(name, values)
            seconds = time.perf_counter() - begin
            found[name] = Attempt(average_name(count), words, attack(values), seconds, variant=name)
        return found


def average_name(count: int) -> str:
    """Return the name of the attacker that averages ``count`` releases."""
    return f"average-of-{count}"


def log_odds(logits: npt.ArrayLike) -> Margins:
    """Return the log-odds of each class against the rest, shape (rows, classes)."""
    values = np.asarray(logits, dtype=np.float64)
    rest = np.empty_like(values)
    for column in range(values.shape[1]):
        rest[:, column] = np.logaddexp.reduce(np.delete(values, column, axis=1), axis=1)
    return values - rest


def statistics(images: Values) -> npt.NDArray[np.float64]:
    """Return grey levels, edges, and means on a coarse grid of each image, shape (images, numbers)."""
    values = np.asarray(images, dtype=np.float64)
    flat = values.reshape(*values.shape[:2], -1)
    columns = [flat.mean(2), flat.std(2), (flat <= 0).mean(2), (flat >= 1).mean(2)]
    columns += [np.quantile(flat, share, axis=2) for share in _QUANTILES]
    for axis in (2, 3):
        step = np.diff(values, axis=axis)
        columns += [np.abs(step).mean((2, 3)), step.mean((2, 3)), step.std((2, 3))]
    for rows in np.array_split(values, min(_GRID, values.shape[2]), axis=2):
        for cell in np.array_split(rows, min(_GRID, values.shape[3]), axis=3):
            columns += [cell.mean((2, 3)), cell.std((2, 3))]
    return np.concatenate(columns, axis=1)


def coarse_images(images: Values) -> Values:
    """Return images averaged over blocks, as many as needed for at most 8192 numbers per image.

    The networks see whole images. What attacks on vectors would learn of more numbers is mostly noise.
    """
    _, channels, height, width = images.shape
    block = 1
    while channels * -(-height // block) * -(-width // block) > _MOST_NUMBERS:
        block += 1
    if block == 1:
        return images
    rows, columns = np.arange(0, height, block), np.arange(0, width, block)
    sums = np.add.reduceat(np.add.reduceat(images, rows, axis=2), columns, axis=3)
    tall, wide = np.diff([*rows, height]), np.diff([*columns, width])
    return np.asarray(sums / (tall[:, None] * wide[None]), dtype=np.float32)


def flat_values(values: Values) -> npt.NDArray[np.float64]:
    """Return features, or the pixels of :func:`coarse_images`, one row each."""
    there = coarse_images(values) if values.ndim == _IMAGE_AXES else values
    return np.asarray(there.reshape(len(there), -1), dtype=np.float64)


def _describe(kind: str) -> Callable[[Values], npt.NDArray[np.float64]]:
    """Return what a vector attacker reads of images: pixels, and under trees simple statistics too."""

    def described(values: Values) -> npt.NDArray[np.float64]:
        pixels = flat_values(values)
        if kind != "boosted" or values.ndim != _IMAGE_AXES:
            return pixels
        return np.concatenate([pixels, statistics(values)], axis=1)

    return described
