"""Assignment of patients to splits and sites by the rules of the config."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from meninx.core import randomness
from meninx.core.errors import ConfigError, DataError, LayoutError, expected, problem
from meninx.core.manifest import SPLITS, Manifest, TaskKind
from meninx.prepare.setting_tables import SitesConfig, SplitConfig
from meninx.prepare.source_cases import DatasetCase


def rule_of(config: SplitConfig) -> str:
    """Return the text of ``DatasetInfo.split_rule``, which describes how patients are assigned to splits."""
    return "exact" if config.from_dataset and config.rule == "stable" else config.rule


def splits_of(
    entries: Sequence[DatasetCase], config: SplitConfig, task: TaskKind, seed: int
) -> dict[str, str]:
    """Return the split of each patient.

    Raises:
        DataError: a patient in two published splits, or no patient of ``split_from`` among these.
    """
    patients = sorted({entry.patient_id for entry in entries})
    kept = _kept(config.from_dataset, patients)
    if config.rule == "published":
        given: dict[str, dict[str, str]] = defaultdict(dict)
        for entry in entries:
            given[entry.patient_id].setdefault(entry.source.split, entry.source.where)
        found = published_splits(given, config.fractions, seed)
    elif config.rule == "exact" or kept:
        found = exact_splits(label_strata(entries, task), config.fractions, seed, kept)
    else:
        found = stable_splits(patients, config.fractions, seed)
    return found


def sites_of(
    entries: Sequence[DatasetCase], config: SitesConfig, task: TaskKind, seed: int
) -> dict[str, str]:
    """Return the site of each patient, an empty name where the source has none.

    Raises:
        DataError: a patient at two sites of the source, or without a value in ``site_column``; names rows.
    """
    patients = sorted({entry.patient_id for entry in entries})
    mode = config.mode
    if mode == "iid":
        return iid_sites(patients, config.names, config.fractions, seed)
    if mode in ("label-skew", "attribute-skew"):
        strata = (
            label_strata(entries, task) if mode == "label-skew" else _attribute_strata(entries, config.column)
        )
        return skewed_sites(strata, config.names, config.fractions, config.alpha, seed)
    if mode == "column":
        return column_sites(_column(entries, config.column))
    return _source_sites(entries)


def label_strata(entries: Sequence[DatasetCase], task: TaskKind) -> dict[str, str]:
    """Return each patient's label combination: labels that are 1 in a case, and ``mask`` if there is one."""
    found: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        labels = found[entry.patient_id]
        labels.update(name for name, value in entry.source.labels.items() if value == 1)
        if task is TaskKind.SEGMENTATION and entry.source.mask is not None:
            labels.add("mask")
    return {patient: "|".join(sorted(labels)) for patient, labels in found.items()}


def _attribute_strata(entries: Sequence[DatasetCase], name: str) -> dict[str, str]:
    values = column_sites(
        {p: counts or Counter({"": 1}) for p, counts in _column(entries, name, blank=True).items()}
    )
    return {
        patient: f"{int(value) // 10}0s" if name == "age" and value.isdigit() else value
        for patient, value in values.items()
    }


def _column(entries: Sequence[DatasetCase], name: str, *, blank: bool = False) -> dict[str, Counter[str]]:
    if not any(name in entry.source.attributes or entry.source.site for entry in entries):
        raise LayoutError(
            problem(
                f"no column or attribute {name!r}", where="site_column", fix="add it to attribute_columns"
            )
        )
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        value = entry.source.attributes.get(name, "" if blank else entry.source.site)
        found[entry.patient_id].update([value] if value or blank else [])
    return found


def _source_sites(entries: Sequence[DatasetCase]) -> dict[str, str]:
    found: dict[str, DatasetCase] = {}
    for entry in entries:
        first = found.setdefault(entry.patient_id, entry)
        if first.source.site != entry.source.site:
            got = f"one patient at {first.source.where} and {entry.source.where}"
            fix = "de-identify each site with its own key, or set site_mode"
            raise DataError(expected("every patient at one site", got=got, where="sites", fix=fix))
    return {patient: entry.source.site for patient, entry in found.items()}


def _kept(folder: str, patients: Sequence[str]) -> dict[str, str]:
    if not folder:
        return {}
    known = {case.patient_id: case.split for case in Manifest.read(Path(folder)).cases}
    kept = {patient: known[patient] for patient in patients if patient in known}
    if not kept:
        fix = "pseudonyms depend on the name: give both datasets the same"
        raise DataError(
            problem("no patient of the older dataset is among these", where="split_from", fix=fix)
        )
    return kept


def number_of(patient: str, seed: int, purpose: str = "split") -> float:
    """Return a number in [0, 1) for a patient, which is a hash of seed, purpose and pseudonym.

    >>> number_of("p1", 0) == number_of("p1", 0) != number_of("p1", 1)
    True
    """
    # A hash instead of a random generator: the number does not depend on which other patients are in the
    # source, so a dataset that grows never moves a patient from training to test. The purpose separates the
    # choices.
    text = f"{purpose}/{seed}/{patient}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def stable_splits(patients: Sequence[str], fractions: Sequence[float], seed: int) -> dict[str, str]:
    """Return a split for each patient that depends only on the patient, the fractions and the seed.

    Guarantee: ``stable_splits(a + b)`` agrees with ``stable_splits(a)`` on ``a``, in any order.
    """
    train, valid = fractions[0], fractions[0] + fractions[1]
    return {p: _cut(number_of(p, seed), train, valid, fractions) for p in patients}


def exact_splits(
    strata: Mapping[str, str], fractions: Sequence[float], seed: int, kept: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return a split for each patient such that every split has its fraction to within one patient.

    Args:
        strata: patient to stratum (label combination); splits are balanced within strata as well.
        fractions: shares of train, valid and test.
        seed: drives who goes where.
        kept: patients whose split is given; the others are assigned so that the fractions are met.

    Guarantee: the result does not depend on the order of ``strata``; patients in ``kept`` keep their split.
    """
    kept = kept or {}
    groups: dict[str, list[str]] = defaultdict(list)
    for patient, stratum in strata.items():
        groups[stratum].append(patient)
    found: dict[str, str] = {}
    counts: Counter[str] = Counter()
    # Large strata first; the counts go on from stratum to stratum, so that small ones even out the total.
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


def published_splits(
    given: Mapping[str, Mapping[str, str]], fractions: Sequence[float], seed: int
) -> dict[str, str]:
    """Return the splits that the layout publishes; patients without one are assigned by *stable*.

    If the layout publishes train but not valid, the share of valid is taken from train, also by *stable*.

    Args:
        given: patient to its published splits, each with the place of a row that states it (``""`` for none
            published).
        fractions: shares of train, valid and test for patients without a published split.
        seed: seed of these assignments.

    Raises:
        DataError: a patient is in two published splits; the message names the rows.
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
            problem("this layout has no published split", where="split", fix="use split stable")
        )
    missing = stable_splits([patient for patient, split in known.items() if not split], fractions, seed)
    # Only train is divided: moving published test patients would make results incomparable with the
    # literature.
    carve = "valid" not in known.values() and fractions[1] > 0
    share = fractions[1] / (fractions[0] + fractions[1]) if carve else 0.0
    moved = {p for p, split in known.items() if split == "train" and number_of(p, seed, "valid") < share}
    return {p: "valid" if p in moved else split or missing[p] for p, split in known.items()}


def most_wanting(names: Sequence[str], shares: Sequence[float], counts: Mapping[str, int]) -> str:
    """Return the part for the next patient, such that all parts stay within one patient of their shares.

    Among the parts that are far enough below their share, the one with the earliest deadline is chosen: it
    would be the first to fall a whole patient behind.

    References:
        Tijdeman, The chairman assignment problem, Discrete Mathematics 32 (1980).
    """
    total = sum(counts.get(name, 0) for name in names) + 1
    parts = [
        (name, share, share * total - counts.get(name, 0))
        for name, share in zip(names, shares, strict=True)
        if share > 0
    ]
    # Tijdeman's rule with the smallest possible deviation 1 - 1 / (2 n - 2) for n parts. The 1e-12 absorbs
    # the rounding of share * total, which would otherwise exclude parts that are exactly at the limit.
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
    if fractions[2] > 0:
        return "test"
    return "valid" if fractions[1] > 0 else "train"


def iid_sites(
    patients: Sequence[str], sites: Sequence[str], shares: Sequence[float], seed: int
) -> dict[str, str]:
    """Return a random site for each patient.

    Args:
        patients: pseudonyms.
        sites: site names.
        shares: share of each site; equal when empty.
        seed: drives who goes where.

    Guarantee: every site has its share within one patient.
    """
    counts: Counter[str] = Counter()
    found: dict[str, str] = {}
    parts = _shares(sites, shares)
    for patient in _ranked(patients, seed):
        site = most_wanting(sites, parts, counts)
        found[patient] = site
        counts[site] += 1
    return found


def skewed_sites(
    strata: Mapping[str, str], sites: Sequence[str], shares: Sequence[float], alpha: float, seed: int
) -> dict[str, str]:
    """Return a site for each patient such that the sites differ in labels or in an attribute.

    The patients of each stratum are spread over the sites by one Dirichlet draw of concentration ``alpha * K
    * shares``. A large alpha approaches the shares; a small one puts most of a stratum into one site.

    Args:
        strata: patient to its label combination or attribute.
        sites: site names.
        shares: expected share of each site; equal when empty.
        alpha: concentration, > 0.
        seed: drives the draws.

    Raises:
        DataError: there are fewer patients than sites.

    References:
        Hsu, Qi, Brown, Measuring the Effects of Non-Identical Data Distribution, 2019, arXiv:1909.06335.
    """
    if len(strata) < len(sites):
        raise DataError(
            expected(f"{len(sites)} patients or more", got=len(strata), where="sites", fix="make fewer sites")
        )
    groups: dict[str, list[str]] = defaultdict(list)
    for patient, stratum in strata.items():
        groups[stratum].append(patient)
    concentration = alpha * len(sites) * np.array(_shares(sites, shares))
    found: dict[str, str] = {}
    for stratum in sorted(groups):
        drawn = randomness.child(seed, "sites", stratum).dirichlet(concentration)
        # With a very small alpha all gamma variates underflow to 0 and the draw is 0 / 0.
        part = [float(share) for share in np.nan_to_num(drawn, nan=1 / len(sites))]
        ends = np.round(np.cumsum(part) * len(groups[stratum])).astype(int)
        for position, patient in enumerate(_ranked(groups[stratum], seed)):
            found[patient] = sites[min(int(np.searchsorted(ends, position, side="right")), len(sites) - 1)]
    return _without_empty(found, sites, seed)


def column_sites(values: Mapping[str, Counter[str]]) -> dict[str, str]:
    """Return each patient's most frequent value of a column as the site; ties go to the first name.

    Raises:
        DataError: a patient has no value.
    """
    missing = sum(not any(counts) for counts in values.values())
    if missing:
        raise DataError(
            problem(f"patients without a site: {missing}", where="site_column", fix="fill in the column")
        )
    return {
        patient: min(counts, key=lambda name: (not name, -counts[name], name))
        for patient, counts in values.items()
    }


def _shares(sites: Sequence[str], shares: Sequence[float]) -> list[float]:
    return list(shares) or [1 / len(sites)] * len(sites)


def _ranked(patients: Sequence[str], seed: int) -> list[str]:
    return sorted(patients, key=lambda name: (number_of(name, seed, "site"), name))


def _without_empty(found: dict[str, str], sites: Sequence[str], seed: int) -> dict[str, str]:
    """Return the assignment with one patient of the largest site moved to each empty site."""
    counts = Counter(found.values())
    for site in sites:
        if not counts[site]:
            largest = max(sites, key=lambda name: (counts[name], name))
            patient = _ranked([name for name, home in found.items() if home == largest], seed)[0]
            found[patient] = site
            counts.update({site: 1, largest: -1})
    return found
