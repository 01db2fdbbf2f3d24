"""Rank-1 identification by what an attack made of a step: whose image are the candidates most like?

A reconstruction that resembles its original less than other images of the kind resemble each other may still
tell the patient from all others. Each original of a step is ranked with members that took no part in it, by
the largest correlation with a candidate of the step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from meninx.audit.reconstruction.candidates import CandidateSet
from meninx.metrics.image_matching import similarity

MOST_MEMBERS = 500
"""Members beside the originals with whom an original is ranked."""
Images = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranked:
    """Which images are the first of their ranking.

    Attributes:
        pool: images of the smallest ranking.
        first: originals, (trials, originals).
        noise_null: originals, by candidates of noise alone.
        heldout_null: by candidates of steps of held-out patients.
        steps_null: by candidates of steps of other members; empty where only one step was attacked.
        control: held-out patients, by candidates of steps of the originals.
    """

    pool: int
    first: Bits
    noise_null: Bits
    heldout_null: Bits
    steps_null: Bits
    control: Bits


def ranked(found: CandidateSet, members: Images | None, shifts: int) -> Ranked | None:
    """Return the rankings of all originals; None where no member is left to rank an original with.

    Args:
        found: the candidates.
        members: images of the training split; None for the originals of all steps alone.
        shifts: other trials whose nulls each trial is ranked with.
    """
    originals = found.originals.numpy()
    pool, places = _pool(originals, members)
    trials = len(originals)
    in_step = np.zeros((trials, len(pool)), dtype=np.bool_)
    in_step[np.arange(trials)[:, None], places] = True
    rivals = int((~in_step).sum(axis=1).min())
    if rivals == 0:
        return None
    real, noise, other = (
        _scores(pool, images) for images in (found.candidates, found.noise_null, found.heldout_null)
    )
    best_rival = np.where(in_step, -np.inf, real).max(axis=1)
    heldout = np.stack(
        [
            similarity("ncc", own, made).max(axis=1)
            for own, made in zip(found.heldout.numpy(), found.candidates.numpy(), strict=True)
        ]
    )
    return Ranked(
        pool=rivals + 1,
        first=_first(real, places, in_step, [0]).reshape(places.shape),
        noise_null=_first(noise, places, in_step, range(shifts)),
        heldout_null=_first(other, places, in_step, range(shifts)),
        steps_null=_first(real, places, in_step, range(1, min(trials, 1 + shifts)), elsewhere=True),
        control=heldout > best_rival[:, None],
    )


def _pool(originals: Images, members: Images | None) -> tuple[Images, Numbers]:
    """Return distinct images, originals before other members, and the place of each original among them.

    All are rounded as originals are stored, so that a member that took part is found again.
    """
    known: dict[bytes, int] = {}
    kept: list[Images] = []
    flat = _rounded(originals).reshape(-1, *originals.shape[2:])
    numbers = [_place(image, known, kept) for image in flat]
    if members is not None:
        most = len(kept) + MOST_MEMBERS
        for image in _rounded(members):
            if len(kept) < most:
                _place(image, known, kept)
    return np.stack(kept), np.array(numbers, dtype=np.int64).reshape(originals.shape[:2])


def _rounded(images: Images) -> Images:
    return images.astype(np.float16).astype(np.float32)


def _place(image: Images, known: dict[bytes, int], kept: list[Images]) -> int:
    place = known.setdefault(image.tobytes(), len(kept))
    if place == len(kept):
        kept.append(image)
    return place


def _scores(pool: Images, candidates: Tensor) -> Array:
    """Return the largest correlation of each image with a candidate of each trial, (trials, images)."""
    return np.stack([similarity("ncc", pool, made).max(axis=1) for made in candidates.numpy()])


def _first(
    scores: Array, places: Numbers, in_step: Bits, shifts: Iterable[int], *, elsewhere: bool = False
) -> Bits:
    """Return which originals of trial t are the first by the candidates of trial t + shift.

    Args:
        scores: of all images in all trials.
        places: of the originals.
        in_step: which images took part in each trial.
        shifts: to the trial of the candidates.
        elsewhere: images of that trial's step are left out, as originals and as rivals.
    """
    found, trials = [], len(places)
    for shift in shifts:
        for trial in range(trials):
            there = (trial + shift) % trials
            out = in_step[trial] | in_step[there] if elsewhere else in_step[trial]
            if out.all():
                continue
            chosen = places[trial]
            if elsewhere:
                chosen = chosen[~in_step[there][chosen]]
            found.append(scores[there][chosen] > scores[there][~out].max())
    return np.concatenate(found) if found else np.zeros(0, dtype=np.bool_)
