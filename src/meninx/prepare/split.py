"""Patients to train, valid and test: seeded, the same for every order of listing, and stable when patients are added.

*stable* (the default) gives each patient a number in [0, 1) that depends on the seed and the patient's
pseudonym alone and cuts it at the fractions. A patient therefore never moves, whoever else is there; the
price is that the parts hold the fractions only on average: a part of share f has n f patients give or take
sqrt(n f (1 - f)), and so has each label within it. No rule can do better: one that ignores the order of
arrival and never moves anyone can look at the patient alone.

*exact* ranks patients of equal labels by that number and deals them out in turn, so that every part is within
one patient of its fraction and labels are balanced; new patients may then move old ones. To have both,
prepare the grown dataset with ``split_from`` the older one: patients known there stay, and the new ones are
dealt out to make up the fractions.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from meninx.core.errors import ConfigError, DataError, expected
from meninx.core.manifest import SPLITS


def number_of(patient: str, seed: int, purpose: str = "split") -> float:
    """Return a patient's number in [0, 1): a hash of seed, purpose and pseudonym.

    >>> number_of("p1", 0) == number_of("p1", 0) != number_of("p1", 1)
    True
    """
    text = f"{purpose}/{seed}/{patient}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def stable(patients: Sequence[str], fractions: Sequence[float], seed: int) -> dict[str, str]:
    """Return a split for each patient that depends on nothing but the patient, the fractions and the seed.

    Guarantee: ``stable(a + b)`` agrees with ``stable(a)`` on ``a``, in any order.
    """
    train, valid = fractions[0], fractions[0] + fractions[1]
    return {p: _cut(number_of(p, seed), train, valid, fractions) for p in patients}


def exact(
    strata: Mapping[str, str], fractions: Sequence[float], seed: int, kept: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return a split for each patient such that every part has its fraction within one patient.

    Args:
        strata: patient to stratum (label combination); parts are balanced within strata as well.
        fractions: shares of train, valid and test.
        seed: drives who goes where.
        kept: patients whose split is given; the others are dealt out to make up the fractions.

    Guarantee: the result does not depend on the order of ``strata``; patients in ``kept`` keep their split.
    """
    kept = kept or {}
    groups: dict[str, list[str]] = defaultdict(list)
    for patient, stratum in strata.items():
        groups[stratum].append(patient)
    found: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for stratum in sorted(groups, key=lambda name: (-len(groups[name]), name)):
        for patient in groups[stratum]:
            if patient in kept:
                found[patient] = kept[patient]
                counts[kept[patient]] += 1
        new = [patient for patient in groups[stratum] if patient not in kept]
        for patient in sorted(new, key=lambda name: (number_of(name, seed), name)):
            split = most_wanting(SPLITS, fractions, counts)
            found[patient] = split
            counts[split] += 1
    return found


def published(
    given: Mapping[str, Mapping[str, str]], fractions: Sequence[float], seed: int
) -> dict[str, str]:
    """Return the splits that the layout publishes; patients without one are cut by *stable*.

    When the layout publishes train but no valid, the share of valid is cut from train, stable as well.

    Args:
        given: patient to its published splits, each with the place of a row that says so (``""`` for none
            published).
        fractions: shares for what is not published.
        seed: drives what is not published.

    Raises:
        DataError: a patient in two published splits; names rows.
        ConfigError: the layout publishes no split at all.
    """
    known: dict[str, str] = {}
    for patient, places in given.items():
        named = {split: where for split, where in places.items() if split}
        if len(named) > 1:
            got = " and ".join(f"{split} ({where})" for split, where in sorted(named.items()))
            raise DataError(
                expected(
                    "every patient in one published split", got=got, where="split", fix="use split stable"
                )
            )
        known[patient] = next(iter(named), "")
    if not any(known.values()):
        raise ConfigError(
            expected("a published split", got="none in this layout", where="split", fix="use split stable")
        )
    missing = stable([patient for patient, split in known.items() if not split], fractions, seed)
    carve = "valid" not in known.values() and fractions[1] > 0
    share = fractions[1] / (fractions[0] + fractions[1]) if carve else 0.0
    moved = {p for p, split in known.items() if split == "train" and number_of(p, seed, "valid") < share}
    return {p: "valid" if p in moved else split or missing[p] for p, split in known.items()}


def most_wanting(names: Sequence[str], shares: Sequence[float], counts: Mapping[str, int]) -> str:
    """Return the part to which the next patient goes, so that all parts stay within one patient of their shares.

    Among the parts that lie far enough below their share, the one that would soonest be too far below is
    taken.

    References:
        Tijdeman, The chairman assignment problem, Discrete Mathematics 32 (1980).
    """
    total = sum(counts.get(name, 0) for name in names) + 1
    parts = [
        (name, share, share * total - counts.get(name, 0))
        for name, share in zip(names, shares, strict=True)
        if share > 0
    ]
    slack = 1 / max(2, 2 * len(parts) - 2)
    eligible = [(1 - slack - lack) / share for _, share, lack in parts if lack >= slack - 1e-12]
    if not eligible:
        return max(parts, key=lambda part: part[2])[0]
    soonest = min(eligible)
    return next(
        name for name, share, lack in parts if lack >= slack - 1e-12 and (1 - slack - lack) / share == soonest
    )


def _cut(number: float, train: float, valid: float, fractions: Sequence[float]) -> str:
    if number < train:
        return "train"
    if number < valid:
        return "valid"
    return "test" if fractions[2] > 0 else "valid" if fractions[1] > 0 else "train"
