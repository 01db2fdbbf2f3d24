"""From candidates to counted successes: one-to-one matching, thresholds set on nulls, controls and kappa."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.audit.reconstruction import criteria
from meninx.audit.reconstruction.attacks import HONEST
from meninx.audit.reconstruction.candidates import CandidateRecord, CandidateSet
from meninx.audit.reconstruction.member_ranking import Ranked, ranked
from meninx.audit.reconstruction.trials import LEAST_SIGNAL
from meninx.core.reconstruction_records import MatchRecord, RankingRecord
from meninx.metrics.image_matching import ImageMetric, match, paired_similarity, similarity
from meninx.metrics.null_threshold import (
    Rate,
    null_threshold,
    prior_success,
    public_threshold,
    rate_above,
)
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
        heldout_null: similarities of originals to candidates made of steps of held-out patients.
        steps_null: similarities of originals to candidates of other steps, in which they took no part.
        control: similarities of held-out patients to candidates of the originals' steps.
        people: number of the patient of each original, (trials, originals).
        others: number of the patient of each held-out image, likewise.
        ranking: identification of the originals by the candidates; None where it was not asked for, or no
            member is left to rank an original with.
    """

    about: CandidateRecord
    chosen: npt.NDArray[np.int64]
    values: dict[ImageMetric, Array]
    noise_null: Array
    heldout_null: Array
    steps_null: Array
    control: Array
    people: npt.NDArray[np.int64]
    others: npt.NDArray[np.int64]
    ranking: Ranked | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class PopulationImages:
    """Images of patients that took no part, from which the least threshold and kappa are counted.

    Attributes:
        first: images of some.
        second: images of others.
    """

    first: Images
    second: Images


def matched(
    found: CandidateSet, metrics: Sequence[ImageMetric], *, members: Images | None = None, rank: bool = True
) -> Matched:
    """Return the matching of each trial by the first metric, with nulls matched in the same way.

    Nulls do not depend on the originals, so those of a trial are matched with the originals of others, too:
    more values make a surer threshold. Steps of other members are a null as well: where few patients are held
    out, these may happen to give weaker gradients than members do.

    Args:
        found: the candidates.
        metrics: the first one decides what is matched, the others are measured on the matched pairs.
        members: images of the training split, with which each original is ranked.
        rank: rank the originals.
    """
    main = metrics[0]
    originals, heldout = _array(found.originals), _array(found.heldout)
    candidates, noise, other = (
        _array(images) for images in (found.candidates, found.noise_null, found.heldout_null)
    )
    trials, count = originals.shape[:2]
    people = _people(originals)
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
        noise_null=_values(main, originals, noise, range(shifts)),
        heldout_null=_values(main, originals, other, range(shifts)),
        steps_null=_elsewhere(main, originals, candidates, people, range(1, min(trials, 1 + shifts))),
        control=_values(main, heldout, candidates, range(1)),
        people=people,
        others=_people(heldout),
        ranking=ranked(found, members, shifts) if rank else None,
    )


def measured(
    found: Matched,
    population: PopulationImages,
    *,
    metric: ImageMetric,
    threshold: float | None,
    noise: float,
) -> MatchRecord:
    """Return how many originals were reconstructed; whether the bound is exceeded is decided with all others.

    Args:
        found: the matching.
        population: for kappa.
        metric: the one that was matched by.
        threshold: eta; None sets it on the null.
        noise: standard deviation of the noise in what is seen of a step over the clipping threshold.
    """
    about, values = found.about, found.values[metric]
    eta, share = threshold_of(found, population, metric=metric, threshold=threshold)
    success, nulls = _rate(values, eta, found.people), [rate_above(null, eta) for null in nulls_of(found)]
    control = _rate(found.control, eta, found.others)
    kappa = max(
        prior_success(metric, population.first, population.second, eta, guesses=about.candidates),
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
        patients=success.patients,
        candidates=about.candidates,
        metric=metric,
        threshold=eta,
        nulls=sum(null.of for null in nulls),
        level_of_null=share,
        noise_null=nulls[0].share,
        heldout_null=nulls[1].share,
        steps_null=nulls[2].share if found.steps_null.size else None,
        success=success.share,
        low=success.low,
        high=success.high,
        control=control.share,
        control_patients=control.patients,
        kappa=kappa,
        bound=_bound(kappa, noise, about.participations),
        quantiles={name: _quantiles(one) for name, one in found.values.items()},
        works=about.server == HONEST or about.signal >= LEAST_SIGNAL,
        self_test=about.self_test,
        seconds=about.seconds,
        ranking=_ranking(found, noise),
        package=about.package,
    )


def threshold_of(
    found: Matched, population: PopulationImages, *, metric: ImageMetric, threshold: float | None
) -> tuple[float, float]:
    """Return the similarity above which an image counts as reconstructed, and the share of nulls above it.

    It is above what the decoder makes of noise, of held-out patients and of other members, and above what
    public images alone reach.

    Args:
        found: the matching.
        population: for public images.
        metric: that was matched by.
        threshold: the caller's own; None for one from the nulls.
    """
    sets = nulls_of(found)
    if threshold is not None:
        return threshold, max(rate_above(null, threshold).share for null in sets)
    etas = [null_threshold(null) for null in sets]
    return max([*etas, public_threshold(metric, population.first, population.second)])


def nulls_of(found: Matched) -> list[Array]:
    """Return the similarities of each null that has any: noise, held-out patients, steps of others."""
    return [null for null in (found.noise_null, found.heldout_null, found.steps_null) if null.size]


def judged_matches(records: Sequence[MatchRecord], significance: float) -> tuple[MatchRecord, ...]:
    """Return the records, each with what is decided of it: found, working, and above its bound.

    An attack works if it finds images without noise, or at another level. A front block that does not take
    its share of the clipping threshold reads rounding errors, and does not work.

    Args:
        records: of all attacks and levels.
        significance: largest probability that any of them is unjustly called found, and that any is unjustly
            called above its bound.
    """
    each = criteria.each_test(significance, len(records))
    known = [
        replace(
            record,
            found=record.works and bool(criteria.beyond_null(record, each)),
            excess=criteria.exceeds_bound(record, each),
        )
        for record in records
    ]
    working = {(record.attack, record.view) for record in known if record.found}
    clean = {(record.attack, record.view): record for record in known if record.noise_multiplier == 0}
    return tuple(
        replace(
            record,
            works=(record.attack, record.view) in working,
            self_test=_self_test(clean.get((record.attack, record.view)), record.self_test),
        )
        for record in known
    )


def _self_test(clean: MatchRecord | None, known: float) -> float:
    """Return the share of images that are found without noise."""
    if clean is None:
        return known
    return max(clean.success, clean.ranking.success if clean.ranking is not None else 0.0)


def _ranking(found: Matched, noise: float) -> RankingRecord | None:
    ranking = found.ranking
    if ranking is None:
        return None
    success = _rate(ranking.first.astype(np.float64), 0.5, found.people)
    sets = (ranking.noise_null, ranking.heldout_null, ranking.control)
    noise_null, heldout_null, control = (float(first.mean()) for first in sets)
    record = RankingRecord(
        pool=ranking.pool,
        success=success.share,
        patients=success.patients,
        low=success.low,
        high=success.high,
        noise_null=noise_null,
        heldout_null=heldout_null,
        steps_null=float(ranking.steps_null.mean()) if ranking.steps_null.size else None,
        control=control,
        bound=1.0,
    )
    return replace(record, bound=_bound(record.null, noise, found.about.participations))


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


def _values(metric: ImageMetric, originals: Images, candidates: Images, shifts: Iterable[int]) -> Array:
    """Return the similarities of matched pairs; trial t gets the candidates of trial t + shift."""
    found = []
    trials = len(originals)
    for shift in shifts:
        for trial in range(trials):
            result = match(similarity(metric, originals[trial], candidates[(trial + shift) % trials]))
            found.append(result.values)
    return np.concatenate(found) if found else np.zeros(0)


def _elsewhere(
    metric: ImageMetric,
    originals: Images,
    candidates: Images,
    people: npt.NDArray[np.int64],
    shifts: Sequence[int],
) -> Array:
    """Return the similarities of originals to candidates of other trials that they took no part in."""
    values = _values(metric, originals, candidates, shifts)
    apart = [
        ~np.isin(people[trial], people[(trial + shift) % len(people)])
        for shift in shifts
        for trial in range(len(people))
    ]
    return values[np.concatenate(apart)] if apart else values


def _rate(values: Array, threshold: float, people: npt.NDArray[np.int64]) -> Rate:
    """Return a rate over the images of all trials, of which ``people`` names the patients."""
    steps = np.repeat(np.arange(len(people)), people.shape[1])
    return rate_above(values, threshold, patients=people, steps=steps)


def _people(images: Images) -> npt.NDArray[np.int64]:
    """Return a number for each image, the same for equal images: a patient is one image."""
    known: dict[bytes, int] = {}
    flat = images.reshape(-1, *images.shape[2:])
    numbers = [known.setdefault(image.tobytes(), len(known)) for image in flat]
    return np.array(numbers, dtype=np.int64).reshape(images.shape[:2])


def _quantiles(values: Array) -> tuple[float, float, float]:
    known = values[np.isfinite(values)]
    best, median, worst = (float(value) for value in np.quantile(known, (1.0, 0.5, 0.0)))
    return best, median, worst


def _array(images: Any) -> Images:
    found: Images = images.numpy()
    return found
