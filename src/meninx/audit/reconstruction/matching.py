"""From candidates to counted successes: one-to-one matching, thresholds set on nulls, controls and kappa."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.audit.reconstruction.candidates import CandidateRecord, CandidateSet
from meninx.core.reconstruction_records import MatchRecord
from meninx.metrics import intervals
from meninx.metrics.image_matching import ImageMetric, match, paired_similarity, similarity
from meninx.metrics.null_threshold import null_threshold, prior_success, rate_above
from meninx.privacy.accounting import Phase
from meninx.privacy.risk import risk_curve

Images = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]
_NULL_VALUES = 400
"""Similarities of a null that are wanted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Matched:
    """One set of candidates, matched.

    Attributes:
        about: the set.
        chosen: candidate of each original, -1 where there is none, (trials, originals).
        values: metric -> similarity of each original and its candidate, (trials, originals).
        noise_null: similarities of originals to candidates made of noise alone.
        heldout_null: similarities of originals to candidates made of steps of other patients.
        control: similarities of held-out patients to candidates of the originals' steps.
    """

    about: CandidateRecord
    chosen: npt.NDArray[np.int64]
    values: dict[ImageMetric, Array]
    noise_null: Array
    heldout_null: Array
    control: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Images of patients that took no part, from which kappa is counted.

    Attributes:
        first: images of some.
        second: images of others.
    """

    first: Images
    second: Images


def matched(found: CandidateSet, metrics: Sequence[ImageMetric]) -> Matched:
    """Return the matching of each trial by the first metric, with nulls matched in the same way.

    Nulls do not depend on the originals, so those of a trial are matched with the originals of others, too:
    more values make a surer threshold.

    Args:
        found: the candidates.
        metrics: the first one decides what is matched, the others are measured on the matched pairs.
    """
    main = metrics[0]
    originals, heldout = _array(found.originals), _array(found.heldout)
    candidates, noise, other = (
        _array(images) for images in (found.candidates, found.noise_null, found.heldout_null)
    )
    trials, count = originals.shape[:2]
    shifts = min(trials, -(-_NULL_VALUES // (trials * count)))
    chosen = np.full((trials, count), -1, dtype=np.int64)
    values = {metric: np.full((trials, count), -np.inf) for metric in metrics}
    for trial in range(trials):
        result = match(similarity(main, originals[trial], candidates[trial]))
        chosen[trial], values[main][trial] = result.chosen, result.values
        there = result.chosen >= 0
        for metric in metrics[1:]:
            pair = originals[trial][there], candidates[trial][result.chosen[there]]
            values[metric][trial, there] = paired_similarity(metric, *pair)
    return Matched(
        about=found.about,
        chosen=chosen,
        values=values,
        noise_null=_values(main, originals, noise, shifts),
        heldout_null=_values(main, originals, other, shifts),
        control=_values(main, heldout, candidates, 1),
    )


def measured(
    found: Matched, reference: Reference, *, metric: ImageMetric, threshold: float | None, noise: float
) -> MatchRecord:
    """Return how many originals were reconstructed; whether the bound is exceeded is decided with all others.

    Args:
        found: the matching.
        reference: for kappa.
        metric: the one that was matched by.
        threshold: eta; None sets it on the null.
        noise: standard deviation of the noise in what is seen of a step over the clipping threshold.
    """
    about, values = found.about, found.values[metric]
    sets = (found.noise_null, found.heldout_null)
    etas = [null_threshold(null) for null in sets]
    eta, share = max(etas) if threshold is None else (threshold, float("nan"))
    success, nulls = rate_above(values, eta), [rate_above(null, eta) for null in sets]
    kappa = max(
        prior_success(metric, reference.first, reference.second, eta, guesses=about.candidates),
        *(null.share for null in nulls),
    )
    return MatchRecord(
        attack=about.attack,
        encoder=about.encoder,
        view=about.view,
        level=about.level.name,
        noise_multiplier=about.level.noise_multiplier,
        server=about.server,
        batch=about.batch,
        participations=about.participations,
        originals=success.of,
        candidates=about.candidates,
        metric=metric,
        threshold=eta,
        nulls=sum(null.of for null in nulls),
        level_of_null=share if threshold is None else max(null.share for null in nulls),
        noise_null=nulls[0].share,
        heldout_null=nulls[1].share,
        success=success.share,
        low=success.low,
        high=success.high,
        control=rate_above(found.control, eta).share,
        kappa=kappa,
        bound=_bound(kappa, noise, about.participations),
        quantiles={name: _quantiles(one) for name, one in found.values.items()},
        works=about.works,
        self_test=about.self_test,
        seconds=about.seconds,
    )


def judged(records: Sequence[MatchRecord], significance: float) -> tuple[MatchRecord, ...]:
    """Return the records, each with whether its success exceeds the bound.

    Args:
        records: of all attacks and levels.
        significance: largest probability that any of them is unjustly called so.
    """
    level = 1 - 2 * significance / max(1, len(records))
    return tuple(replace(record, excess=_lower(record, level) > record.bound + 1e-12) for record in records)


def _lower(record: MatchRecord, level: float) -> float:
    hits = round(record.success * record.originals)
    return intervals.clopper_pearson(hits, record.originals, level)[0]


def quantile_places(values: Array, count: int) -> list[tuple[int, int]]:
    """Return trial and original of ``count`` images from the best to the worst, evenly spread over the ranks.

    Args:
        values: similarities, (trials, originals).
        count: >= 1; the median is taken for 1.
    """
    order = np.argsort(-values.ravel(), kind="stable")
    shares = np.linspace(0, 1, count) if count > 1 else np.array([0.5])
    ranks = dict.fromkeys(int(rank) for rank in np.round(shares * (len(order) - 1)))
    width = values.shape[1]
    return [(int(order[rank]) // width, int(order[rank]) % width) for rank in ranks]


def _bound(kappa: float, noise: float, participations: int) -> float:
    """Return gamma(kappa) of steps that the patient is known to have taken part in."""
    if noise == 0:
        return 1.0
    phase = Phase(sample_rate=1.0, noise_multiplier=noise, steps=participations)
    return risk_curve([phase], rates=[kappa]).gamma(kappa).upper


def _values(metric: ImageMetric, originals: Images, candidates: Images, shifts: int) -> Array:
    """Return the similarities of matched pairs; trial t gets the candidates of trial t + shift."""
    found = []
    trials = len(originals)
    for shift in range(shifts):
        for trial in range(trials):
            result = match(similarity(metric, originals[trial], candidates[(trial + shift) % trials]))
            found.append(result.values)
    return np.concatenate(found)


def _quantiles(values: Array) -> tuple[float, float, float]:
    known = values[np.isfinite(values)]
    best, median, worst = (float(value) for value in np.quantile(known, (1.0, 0.5, 0.0)))
    return best, median, worst


def _array(images: Any) -> Images:
    found: Images = images.numpy()
    return found
