"""How well similarities link images to patients: rank-1 search and verification, with intervals and a null.

The similarities may come from any attack. Patients are resampled and left out as a whole, because the images
of a patient depend on each other. ::

    >>> rng = np.random.default_rng(0)
    >>> people = tuple(f"p{number // 2}" for number in range(80))
    >>> vectors = np.repeat(rng.normal(size=(40, 8)), 2, axis=0) + 0.3 * rng.normal(size=(80, 8))
    >>> owners = Owners(patients=people, images=tuple(map(str, range(80))))
    >>> found = measure_linkage("hog", vectors @ vectors.T, owners)
    >>> found.p_at_1 > 0.5 > found.null_high, round(found.chance, 4), found.p_value
    (True, 0.0127, 0.001)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, expected
from meninx.core.identity_records import LinkRecord
from meninx.core.proportions import clopper_pearson
from meninx.core.randomness import child
from meninx.metrics import groups, intervals
from meninx.metrics.controls import control_level
from meninx.metrics.verdict_rule import verdict_of

Array = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]
ANOTHER, OWN = "another image", "own image"
LEAST_PATIENTS = groups.MIN_CELL
"""Fewest patients behind any number."""
PERMUTATIONS = 999
_DRAWS = 1000
_QUANTILE = 1.959963984540054  # of the normal distribution, at 0.975
_SAME = 1e-9


@dataclass(frozen=True)
class Owners:
    """Whose some images are.

    Attributes:
        patients: the patient of each image.
        images: name of each image; one that was made from another has its name.
        studies: study of each image, empty where unknown; no studies: all are unknown.
    """

    patients: tuple[str, ...]
    images: tuple[str, ...]
    studies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.images) != len(self.patients) or len(self.studies) not in (0, len(self.patients)):
            got = f"{len(self.images)} names and {len(self.studies)} studies"
            raise DataError(expected(f"{len(self.patients)} of each", got=got, where="owners"))

    def __len__(self) -> int:
        return len(self.patients)

    def rows(self, keep: Sequence[int]) -> Owners:
        """Return the owners of some images."""
        studies = tuple(self.studies[row] for row in keep) if self.studies else ()
        return Owners(
            tuple(self.patients[row] for row in keep), tuple(self.images[row] for row in keep), studies
        )

    def renamed(self, patients: Sequence[str]) -> Owners:
        """Return the same images with other patients, whose studies are unknown."""
        return Owners(tuple(patients), self.images)


def measure_linkage(
    attack: str,
    similarity: npt.ArrayLike,
    probes: Owners,
    gallery: Owners | None = None,
    *,
    question: str = ANOTHER,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> LinkRecord:
    """Return how well the most similar gallery image tells the patient of a probe.

    Args:
        attack: its name.
        similarity: shape (probes, gallery); larger is more similar.
        probes: whose the probes are.
        gallery: whose the gallery's images are; None: the probes are the gallery, too.
        question: ``another image`` of the patient, or its ``own image``.
        seed: public seed of resamples and permutations.
        permutations: of the null, >= 1.

    Raises:
        DataError: another shape, or a similarity that is not finite.
    """
    shelf = probes if gallery is None else gallery
    values = _checked(similarity, len(probes), len(shelf), attack)
    people, owners = _numbered(probes.patients, shelf.patients)
    allowed = _allowed(probes, shelf, question)
    if question == OWN:
        first, second = _numbered(probes.images, shelf.images)
    else:
        first, second = people, owners
    answers = allowed & (first[:, None] == second[None])
    one_set = gallery is None and question == ANOTHER
    pairs = _Pairs(values, answers, allowed, people, owners)
    return _measured(attack, question, pairs, seed, permutations, one_set=one_set)


def measure_claims(
    attack: str,
    similarity: npt.ArrayLike,
    answers: npt.ArrayLike,
    trials: Sequence[str],
    gallery: Owners,
    *,
    question: str = OWN,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> LinkRecord:
    """Return how well the most similar gallery image tells one of the patients that a probe may show.

    For reconstructions, of which nobody knows which patient of a batch they show.

    Args:
        attack: its name.
        similarity: shape (probes, gallery); larger is more similar.
        answers: gallery images that are right for each probe, shape (probes, gallery).
        trials: what probes have in common that depend on each other, e.g. their batch.
        gallery: whose the gallery's images are.
        question: which images are right, in the words of :class:`LinkRecord`.
        seed: public seed of resamples and permutations.
        permutations: of the null, >= 1.

    Raises:
        DataError: another shape, or a similarity that is not finite.
    """
    values = _checked(similarity, len(trials), len(gallery), attack)
    right = np.asarray(answers, dtype=bool)
    batches, _ = _numbered(trials, ())
    owners, _ = _numbered(gallery.patients, ())
    pairs = _Pairs(values, right, np.ones(right.shape, dtype=bool), batches, owners + len(values))
    return _measured(attack, question, pairs, seed, permutations, one_set=False)


def linkage_verdict(
    links: Sequence[LinkRecord],
    negative: Sequence[LinkRecord],
    positive: Sequence[LinkRecord],
    significance: float,
) -> tuple[str, str]:
    """Return the verdict on attacks, and which control failed.

    Args:
        links: the attacks, which share the significance.
        negative: on images with shuffled identities.
        positive: on images with shuffled identities and a planted mark for each.
        significance: largest probability of ``linked`` where images tell nothing.

    Returns:
        ``linked``, ``nothing found`` or ``void``, and which control failed; empty where none did.
    """
    failed = weak = ""
    if any(p_of_link(record) <= control_level(significance, len(negative)) for record in negative):
        failed = "images with shuffled identities are linked, so the attack finds something else"
    if any(p_of_link(record) > significance for record in positive):
        weak = (
            "a mark that is the same in all images of a patient was not found, so the attack is too weak to "
            "say anything; give more images"
        )
    linked = any(p_of_link(record) <= significance / len(links) for record in links)
    return verdict_of(failed=failed, found="linked" if linked else "", weak=weak)


def p_of_link(record: LinkRecord) -> float:
    """Return the p-value of an attack; 1 where it is refused."""
    return 1.0 if record.p_value is None else record.p_value


@dataclass(frozen=True)
class _Pairs:
    """Probes against a gallery.

    Attributes:
        similarity: shape (probes, gallery).
        answers: pairs that are right.
        allowed: pairs that count.
        people: number of the patient (or of the trial) of each probe.
        owners: number of the patient of each gallery image; equal numbers mean the same patient.
    """

    similarity: Array
    answers: Bits
    allowed: Bits
    people: Numbers
    owners: Numbers


def _measured(
    attack: str, question: str, pairs: _Pairs, seed: int, permutations: int, *, one_set: bool
) -> LinkRecord:
    asking = pairs.answers.any(axis=1)
    people = pairs.people[asking]
    empty = LinkRecord(
        attack=attack,
        question=question,
        probes=int(asking.sum()),
        patients=int(np.unique(people).size),
        gallery=len(pairs.owners),
    )
    if empty.patients < LEAST_PATIENTS:
        needed = f"{LEAST_PATIENTS} needed, {empty.patients} there"
        refusal = f"too few patients with {question.replace('own', 'their own')}: {needed}"
        return replace(empty, refusal=refusal)
    tops = _Tops(np.where(pairs.allowed, pairs.similarity, -np.inf))
    hits = tops.hits(pairs.answers)[asking]
    chances = pairs.answers[asking].sum(axis=1) / pairs.allowed[asking].sum(axis=1)
    of = np.bincount(people).astype(np.float64)
    right = np.asarray(np.bincount(people, weights=hits), dtype=np.float64)
    low, high = intervals.rate_interval(right, of)
    shares = right[of > 0] / of[of > 0]
    each_low, each_high = _mean_interval(shares, seed)
    area, (area_low, area_high) = _verification(pairs)
    null = _null(tops, pairs, permutations, seed, one_set=one_set)
    value = float(hits.mean())
    null_low, null_high = (float(end) for end in np.quantile(null, (0.025, 0.975)))
    return replace(
        empty,
        p_at_1=value,
        p_at_1_low=low,
        p_at_1_high=high,
        chance=float(chances.mean()),
        per_patient=float(shares.mean()),
        per_patient_low=each_low,
        per_patient_high=each_high,
        auc=area,
        auc_low=area_low,
        auc_high=area_high,
        null_low=null_low,
        null_high=null_high,
        p_value=float((1 + (null >= value - _SAME).sum()) / (1 + permutations)),
    )


def _checked(similarity: npt.ArrayLike, probes: int, gallery: int, where: str) -> Array:
    values = np.asarray(similarity, dtype=np.float64)
    if values.shape != (probes, gallery) or not np.isfinite(values).all():
        rule = f"finite similarities of shape ({probes}, {gallery})"
        raise DataError(expected(rule, got=f"shape {values.shape}", where=where))
    return values


def _verification(pairs: _Pairs) -> tuple[float, tuple[float, float]]:
    """Return the area under the ROC curve over pairs, and its 95 % interval.

    The interval comes from leaving out one patient at a time, with all pairs it is in, on the scale of
    log-odds.
    """
    others = pairs.allowed & ~pairs.answers
    rows, columns = np.nonzero(pairs.answers)
    positives, whose = pairs.similarity[rows, columns], pairs.people[rows]
    negatives = int(others.sum())
    if not len(positives) or not negatives:
        return math.nan, (math.nan, math.nan)
    wins = _wins(positives, pairs.similarity[others])
    area = float(wins.mean() / negatives)
    without = []
    for person in np.unique(np.concatenate([pairs.people, pairs.owners])):
        asks, owns = np.flatnonzero(pairs.people == person), pairs.owners == person
        part = others[:, owns]  # pairs with images of the patient in the gallery, or as the probe
        mine = np.concatenate(
            [pairs.similarity[:, owns][part], pairs.similarity[asks][others[asks] & ~owns[None]]]
        )
        stay, left = whose != person, negatives - len(mine)
        if stay.any() and left:
            fewer = wins[stay] - _wins(positives[stay], mine)
            without.append(float(fewer.mean() / left))
    return area, _jackknife(area, np.array(without), int(np.unique(whose).size))


def _wins(positives: Array, negatives: Array) -> Array:
    """Return how many negatives each positive exceeds; ties count one half."""
    order = np.sort(negatives)
    below = np.searchsorted(order, positives, side="left")
    return np.asarray((below + np.searchsorted(order, positives, side="right")) / 2, dtype=np.float64)


def _jackknife(area: float, without: Array, patients: int) -> tuple[float, float]:
    """Return the interval of an area from those without each patient."""
    inside = np.clip(without, _SAME, 1 - _SAME)
    if not _SAME < area < 1 - _SAME or np.ptp(inside) < _SAME:
        end = 1.0 if area > 0.5 else 0.0
        low, high = clopper_pearson(patients * end, patients)
        return min(low, area), max(high, area)
    odds = np.log(inside / (1 - inside))
    count = len(odds)
    error = math.sqrt((count - 1) / count * float(((odds - odds.mean()) ** 2).sum()))
    centre = math.log(area / (1 - area))
    low, high = (1 / (1 + math.exp(-(centre + sign * _QUANTILE * error))) for sign in (-1, 1))
    return low, high


class _Tops:
    """The most similar gallery images of each probe; several where they tie."""

    def __init__(self, similarity: Array) -> None:
        best = similarity.max(axis=1, keepdims=True)
        self.probe, self.shelf = np.nonzero((similarity >= best) & np.isfinite(best))
        ties = np.bincount(self.probe, minlength=len(similarity))
        self.weight = 1.0 / ties[self.probe]
        self.count = len(similarity)

    def hits(self, answers: Bits) -> Array:
        """Return the probability that a random one of each probe's most similar images is an answer."""
        found = answers[self.probe, self.shelf] * self.weight
        return np.asarray(np.bincount(self.probe, weights=found, minlength=self.count), dtype=np.float64)


def _null(tops: _Tops, pairs: _Pairs, permutations: int, seed: int, *, one_set: bool) -> Array:
    """Return the share of hits with permuted identities of the gallery, shape (permutations,).

    Args:
        tops: the most similar gallery images.
        pairs: probes and gallery.
        permutations: how many.
        seed: public seed.
        one_set: the probes are the gallery, so that their identities move along.
    """
    rng, found = child(seed, "linkage null"), np.zeros(permutations)
    asking = pairs.answers.any(axis=1)
    owners, places = pairs.owners, np.arange(len(pairs.owners))
    for number in range(permutations):
        if one_set:
            moved = rng.permutation(owners)
            hit = moved[tops.probe] == moved[tops.shelf]
            asking = np.bincount(moved)[moved] > 1  # an image is no answer to itself
        else:
            hit = pairs.answers[tops.probe, rng.permutation(places)[tops.shelf]]
        found[number] = np.bincount(tops.probe, tops.weight * hit, minlength=tops.count)[asking].mean()
    return found


def _allowed(probes: Owners, shelf: Owners, question: str) -> Bits:
    """Return which gallery images may answer each probe."""
    if question == OWN:
        return np.ones((len(probes), len(shelf)), dtype=bool)
    first, second = _numbered(probes.images, shelf.images)
    allowed = first[:, None] != second[None]
    if probes.studies and shelf.studies:
        first, second = _numbered(probes.studies, shelf.studies)
        known = np.array([bool(study) for study in probes.studies])
        allowed = allowed & ~(known[:, None] & (first[:, None] == second[None]))
    return np.asarray(allowed)


def _numbered(first: Sequence[str], second: Sequence[str]) -> tuple[Numbers, Numbers]:
    """Return texts as numbers, the same text as the same number."""
    _, numbers = np.unique(np.array([*first, *second], dtype=object).astype(str), return_inverse=True)
    numbers = numbers.astype(np.int64)
    return numbers[: len(first)], numbers[len(first) :]


def _mean_interval(shares: Array, seed: int) -> tuple[float, float]:
    """Return the interval of the mean over patients: the percentiles of resampled patients."""
    rng = child(seed, "patients of a share")
    drawn = rng.integers(0, len(shares), size=(_DRAWS, len(shares)))
    value = float(shares.mean())
    ends, _ = intervals.edge_interval(value, shares[drawn].mean(axis=1), len(shares))
    return min(ends[0], value), max(ends[1], value)
