"""Who is in the cohort: sex, age, findings and number of images of every invented patient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from meninx.core import check
from meninx.core.errors import ConfigError, expected
from meninx.core.randomness import child

FINDINGS: Final = ("effusion", "pneumothorax", "nodule")
STAYS: Final = 0.85
OLDEST: Final = 93


@dataclass(frozen=True)
class Subject:
    """One invented patient.

    Attributes:
        index: position in the cohort, the name of the patient's own random streams.
        sex: ``F`` or ``M``.
        age: whole years at the first image, 18 to 93.
        images: the findings of each image, in time order; the first image shows all that the patient has.
        has: the findings of the patient, in the order of :data:`FINDINGS`.
    """

    index: int
    sex: str
    age: int
    has: tuple[bool, ...]
    images: tuple[tuple[bool, ...], ...]


def finding_probability(sex: str, prevalence: float, attribute_correlation: float) -> float:
    """Return P(finding | sex): ``prevalence`` plus (men) or minus (women) the share that the correlation moves.

    At 0 sex and finding are independent, at 1 no woman and at -1 no man has the finding (for a prevalence up
    to one half); the prevalence over both sexes stays the same.
    """
    moved = attribute_correlation * min(prevalence, 1 - prevalence)
    return prevalence + (moved if sex == "M" else -moved)


def subject(
    index: int,
    seed: int,
    *,
    prevalence: float = 0.3,
    attribute_correlation: float = 0.0,
    most_images: int = 4,
) -> Subject:
    """Return patient ``index`` of the cohort of ``seed``; independent of how many others there are."""
    rng = child(seed, "subject", index)
    sex = "M" if rng.random() < 0.5 else "F"
    age = int(np.clip(round(rng.normal(56, 18)), 18, OLDEST))
    chance = finding_probability(sex, prevalence, attribute_correlation)
    has = tuple(bool(draw < chance) for draw in rng.random(len(FINDINGS)))
    count = int(rng.integers(1, most_images + 1))
    kept = rng.random((count, len(FINDINGS))) < STAYS
    kept[0] = True
    images = tuple(tuple(bool(a and b) for a, b in zip(has, row, strict=True)) for row in kept)
    return Subject(index, sex, age, has, images)


def subjects(
    count: int, seed: int, *, prevalence: float = 0.3, attribute_correlation: float = 0.0
) -> tuple[Subject, ...]:
    """Return the first ``count`` patients of the cohort of ``seed``."""
    _check(prevalence, attribute_correlation)
    return tuple(
        subject(i, seed, prevalence=prevalence, attribute_correlation=attribute_correlation)
        for i in range(count)
    )


def until(
    images: int, seed: int, *, prevalence: float = 0.3, attribute_correlation: float = 0.0
) -> Iterator[Subject]:
    """Yield patients until together they have exactly ``images`` images; the last one is cut short."""
    _check(prevalence, attribute_correlation)
    index = 0
    while images > 0:
        one = subject(index, seed, prevalence=prevalence, attribute_correlation=attribute_correlation)
        yield replace(one, images=one.images[:images])
        images -= len(one.images)
        index += 1


def _check(prevalence: float, attribute_correlation: float) -> None:
    check.probability(prevalence=prevalence)
    if not -1 <= attribute_correlation <= 1:
        raise ConfigError(
            expected(
                "-1 <= attribute_correlation <= 1", got=attribute_correlation, where="attribute_correlation"
            )
        )
