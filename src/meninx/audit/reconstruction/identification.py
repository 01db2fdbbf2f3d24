"""Rank-1 identification: how often an attacker picks a patient's image out of n, against the exact bound.

The attacker knows the data of all other patients, has n images of which one is the patient's, and sees every
released step. It has chosen the first layer, so the patient's gradient is a code of the image scaled to the
clipping threshold. After each step it weighs every candidate by the likelihood of what it saw. No attack with
this knowledge succeeds more often than gamma(1/n) of :mod:`meninx.privacy.risk`; blind guessing succeeds in
1/n. The steps are simulated at the run's own sample rate, noise and number of steps::

    >>> from meninx.privacy.accounting import Phase
    >>> codes = np.eye(10)  # ten candidates that have nothing in common
    >>> found = identify(codes, [Phase(sample_rate=1.0, noise_multiplier=0.5, steps=1)], trials=500, seed=0)
    >>> found.right > 250, found.trials
    (True, 500)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core import check
from meninx.core.errors import DataError, expected
from meninx.core.randomness import child, child_seed
from meninx.privacy.accounting import Phase

Array = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]
Codes = npt.NDArray[np.floating[Any]]
_MOST_VALUES = 2**22
"""Of the noise that is drawn at once."""
_MOST_SETS, _SETS_OF = 50, 10
"""Sets of candidates in an experiment: 50 of up to 10 images, fewer of more."""
_LEAST_NOISE = 1e-6
"""Noise multiplier below which squares need double precision."""


@dataclass(frozen=True, kw_only=True)
class Identified:
    """Outcome of simulated attacks.

    Attributes:
        right: trials in which the candidate with the highest score was the patient's.
        trials: attacks; each has a victim of its own, drawn uniformly from its candidates, and noise of its
            own.
        candidates: images among which the attacker chooses.
    """

    right: int
    trials: int
    candidates: int


def gradients(codes: Codes, max_grad_norm: float = 1.0) -> Array:
    """Return the clipped gradients that an attacker gets from codes: each scaled to the clipping threshold.

    A code of zeros, which carries nothing, stays zero.

    Args:
        codes: of shape (images, size).
        max_grad_norm: C, > 0.
    """
    check.positive(max_grad_norm=max_grad_norm)
    values = np.asarray(codes, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise DataError(expected("finite codes of shape (images, size)", got=values.shape, where="codes"))
    largest = np.abs(values).max(axis=1, keepdims=True)
    scaled = values / np.where(largest > 0, largest, 1.0)
    norms = np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.asarray(max_grad_norm * scaled / np.where(norms > 0, norms, 1.0))


def step_scores(observed: Codes, candidates: Codes, *, sample_rate: float, noise: float) -> Array:
    """Return the log likelihood of every candidate given one or more steps, up to a constant.

    For each step o the score of candidate g is log(1 - q + q exp(<g, o> / s^2 - |g|^2 / (2 s^2))), and the
    scores of several steps add up.

    Args:
        observed: what was released minus all that the attacker knows, of shape (trials, steps, size).
        candidates: clipped gradients, of shape (candidates, size).
        sample_rate: q, in (0, 1].
        noise: standard deviation s of the noise in each coordinate, the noise multiplier times C, > 0.

    Returns:
        Scores of shape (trials, candidates).
    """
    check.positive(noise=noise, sample_rate=sample_rate)
    scaled = candidates / noise
    exponent = (observed / noise) @ scaled.T
    exponent -= 0.5 * (scaled**2).sum(axis=1)
    if sample_rate < 1:
        without, rate = (exponent.dtype.type(math.log(value)) for value in (1 - sample_rate, sample_rate))
        exponent = np.logaddexp(without, rate + exponent)
    return np.asarray(exponent.sum(axis=1, dtype=np.float64))


def identify(
    codes: Codes, phases: Sequence[Phase], *, trials: int, seed: int, takes_part: bool = True
) -> Identified:
    """Return how often the attack finds the image of a patient among the images of all ``codes``.

    Args:
        codes: of the candidates, of shape (candidates, size), two or more.
        phases: sample rate, noise multiplier and steps of what was released; all of them are used.
        trials: simulated attacks, >= 1.
        seed: public seed of victims, participation and noise.
        takes_part: the patient is in the training. Otherwise this is a negative control: the attacker sees
            steps without the patient, and picks the right image as often as a blind guess.
    """
    check.positive(trials=trials)
    known = gradients(codes)
    if len(known) < 2:
        raise DataError(expected("at least 2 candidates", got=len(known), where="candidates"))
    basis = _coordinates(known)
    source = child(seed, "identification")
    victims = source.integers(len(known), size=trials)
    scores = np.zeros((trials, len(known)))
    for phase in phases:
        for chosen, steps in _parts(trials, phase.steps, basis.shape[1]):
            present = victims[chosen] if takes_part else None
            shape = (len(scores[chosen]), steps)
            scores[chosen] += _phase_scores(basis, present, phase, shape, source)
    best = scores.max(axis=1, keepdims=True)
    ties = source.random(scores.shape) * (scores >= best)  # a guess among equals
    return Identified(right=int((ties.argmax(axis=1) == victims).sum()), trials=trials, candidates=len(known))


def identify_in_sets(
    codes_of: Callable[[Numbers], Codes],
    pool: int,
    phases: Sequence[Phase],
    *,
    candidates: int,
    trials: int,
    seed: int,
    takes_part: bool = True,
) -> Identified:
    """Return how often the attack finds a patient's image among ``candidates`` drawn from a pool.

    Args:
        codes_of: returns the codes of the images of a set, given their numbers in the pool.
        pool: images of the pool, at least ``candidates``.
        phases: as in :func:`identify`.
        candidates: images among which the attacker chooses, >= 2.
        trials: simulated attacks, spread evenly over sets that are drawn without replacement.
        seed: public seed.
        takes_part: as in :func:`identify`.
    """
    if not 2 <= candidates <= pool:
        rule = f"2 to {pool} candidates, the images of the pool"
        raise DataError(expected(rule, got=candidates, where="candidates"))
    sets = 1 if candidates == pool else max(1, min(trials, _MOST_SETS * _SETS_OF // candidates, _MOST_SETS))
    right = 0
    for number in range(sets):
        chosen = np.sort(child(seed, "candidates", number).permutation(pool)[:candidates])
        share = trials // sets + (number < trials % sets)
        found = identify(
            codes_of(chosen), phases, trials=share, seed=child_seed(seed, number), takes_part=takes_part
        )
        right += found.right
    return Identified(right=right, trials=trials, candidates=candidates)


def _coordinates(known: Array) -> Array:
    """Return the gradients in an orthonormal basis of their own span: other noise tells nothing about them.

    Fewer coordinates than values of a code mean less noise to draw.
    """
    if known.shape[1] <= len(known):
        return known
    _, upper = np.linalg.qr(known.T)
    return np.ascontiguousarray(upper.T)


def _phase_scores(
    basis: Array, victims: Numbers | None, phase: Phase, shape: tuple[int, int], source: np.random.Generator
) -> Array:
    """Return the scores of simulated steps of a phase, of shape (trials, candidates).

    Args:
        basis: gradients of the candidates.
        victims: the candidate that takes part, for each trial; None where none does.
        phase: sample rate and noise.
        shape: trials and steps.
        source: of participation and noise.
    """
    drawn: Bits = source.random(shape) < phase.sample_rate
    if phase.noise_multiplier == 0:
        return _scores_without_noise(basis, victims, np.any(drawn, axis=1))
    size = (*shape, basis.shape[1])
    seen: Codes
    if phase.noise_multiplier > _LEAST_NOISE:
        known: Codes = basis.astype(np.float32)
        seen = source.standard_normal(size, dtype=np.float32)
        seen *= np.float32(phase.noise_multiplier)
    else:
        known, seen = basis, phase.noise_multiplier * source.standard_normal(size)
    if victims is not None:
        seen += drawn[:, :, None] * known[victims][:, None, :]
    return step_scores(seen, known, sample_rate=phase.sample_rate, noise=phase.noise_multiplier)


def _scores_without_noise(basis: Array, victims: Numbers | None, took_part: Bits) -> Array:
    """Return the scores where a gradient was released as it is: minus the distance, or nothing."""
    if victims is None:
        return np.zeros((len(took_part), len(basis)))
    distance = np.round(1 - basis[victims] @ basis.T, 9)  # so that rounding does not part equal gradients
    return np.where(took_part[:, None], -distance, 0.0)


def _parts(trials: int, steps: int, size: int) -> Iterator[tuple[slice, int]]:
    """Yield trials and numbers of steps whose noise fits into memory."""
    most_steps = max(1, min(steps, _MOST_VALUES // size))
    most_trials = max(1, _MOST_VALUES // (most_steps * size))
    for first in range(0, trials, most_trials):
        for begin in range(0, steps, most_steps):
            yield slice(first, min(trials, first + most_trials)), min(most_steps, steps - begin)
