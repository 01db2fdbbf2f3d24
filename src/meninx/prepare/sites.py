"""Patients to K sites for federated work: at random, skewed by label or attribute, or by a column.

Every patient goes to exactly one site, and the result depends on seed, names and shares, not on the order of
listing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from meninx.core import randomness
from meninx.core.errors import DataError, expected
from meninx.prepare.split import most_wanting, number_of


def iid(patients: Sequence[str], sites: Sequence[str], shares: Sequence[float], seed: int) -> dict[str, str]:
    """Return a site for each patient, at random.

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


def skewed(
    strata: Mapping[str, str], sites: Sequence[str], shares: Sequence[float], alpha: float, seed: int
) -> dict[str, str]:
    """Return a site for each patient such that sites differ in labels or in an attribute.

    The patients of each stratum are spread over the sites by one Dirichlet draw of concentration ``alpha * K
    * shares``: a large alpha approaches the shares, a small one sends most of a stratum to one site.

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
        part = [float(share) for share in np.nan_to_num(drawn, nan=1 / len(sites))]
        ends = np.round(np.cumsum(part) * len(groups[stratum])).astype(int)
        for position, patient in enumerate(_ranked(groups[stratum], seed)):
            found[patient] = sites[min(int(np.searchsorted(ends, position, side="right")), len(sites) - 1)]
    return _without_empty(found, sites, seed)


def by_column(values: Mapping[str, Counter[str]]) -> dict[str, str]:
    """Return each patient's most frequent value of a column as its site (the first by name when two are equally frequent).

    Raises:
        DataError: a patient has no value.
    """
    missing = sum(not any(counts) for counts in values.values())
    if missing:
        raise DataError(
            expected(
                "a site for every patient",
                got=f"{missing} without",
                where="site_column",
                fix="fill in the column",
            )
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
    """Return the assignment with one patient of the largest site moved to each empty one."""
    counts = Counter(found.values())
    for site in sites:
        if not counts[site]:
            largest = max(sites, key=lambda name: (counts[name], name))
            patient = _ranked([name for name, home in found.items() if home == largest], seed)[0]
            found[patient] = site
            counts.update({site: 1, largest: -1})
    return found
