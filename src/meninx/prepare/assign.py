"""Splits and sites for the patients of a list of entries, as the config asks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from meninx.core.errors import DataError, LayoutError, expected
from meninx.core.manifest import Manifest, Task
from meninx.prepare import sites as site_rules
from meninx.prepare import split as split_rules
from meninx.prepare.config import PrepareConfig
from meninx.prepare.gather import Entry


def rule_of(config: PrepareConfig) -> str:
    """Return how patients are assigned to splits, as ``DatasetInfo.split_rule`` tells it."""
    return "exact" if config.split_from and config.split == "stable" else config.split


def splits_of(entries: Sequence[Entry], config: PrepareConfig, task: Task) -> dict[str, str]:
    """Return a split for each patient.

    Raises:
        DataError: a patient in two published splits, or no patient of ``split_from`` among these.
    """
    patients = sorted({entry.patient_id for entry in entries})
    kept = _kept(config.split_from, patients)
    if config.split == "published":
        given: dict[str, dict[str, str]] = defaultdict(dict)
        for entry in entries:
            given[entry.patient_id].setdefault(entry.found.split, entry.found.where)
        found = split_rules.published(given, config.fractions, config.seed)
    elif config.split == "exact" or kept:
        found = split_rules.exact(label_strata(entries, task), config.fractions, config.seed, kept)
    else:
        found = split_rules.stable(patients, config.fractions, config.seed)
    return found


def sites_of(entries: Sequence[Entry], config: PrepareConfig, task: Task) -> dict[str, str]:
    """Return a site for each patient, empty names where the source has none.

    Raises:
        DataError: a patient at two sites of the source, or without a value in ``site_column``; names rows.
    """
    patients = sorted({entry.patient_id for entry in entries})
    mode = config.site_mode
    if mode == "iid":
        return site_rules.iid(patients, config.sites, config.site_fractions, config.seed)
    if mode in ("label-skew", "attribute-skew"):
        strata = (
            label_strata(entries, task)
            if mode == "label-skew"
            else _attribute_strata(entries, config.site_column)
        )
        return site_rules.skewed(strata, config.sites, config.site_fractions, config.site_alpha, config.seed)
    if mode == "column":
        return site_rules.by_column(_column(entries, config.site_column))
    return _source_sites(entries)


def label_strata(entries: Sequence[Entry], task: Task) -> dict[str, str]:
    """Return each patient's label combination: all labels that are 1 in one of its cases, or that it has a mask."""
    found: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        labels = found[entry.patient_id]
        labels.update(name for name, value in entry.found.labels.items() if value == 1)
        if task is Task.SEGMENTATION and entry.found.mask is not None:
            labels.add("mask")
    return {patient: "|".join(sorted(labels)) for patient, labels in found.items()}


def _attribute_strata(entries: Sequence[Entry], name: str) -> dict[str, str]:
    values = site_rules.by_column(
        {p: counts or Counter({"": 1}) for p, counts in _column(entries, name, blank=True).items()}
    )
    return {
        patient: f"{int(value) // 10}0s" if name == "age" and value.isdigit() else value
        for patient, value in values.items()
    }


def _column(entries: Sequence[Entry], name: str, *, blank: bool = False) -> dict[str, Counter[str]]:
    if not any(name in entry.found.attributes or entry.found.site for entry in entries):
        raise LayoutError(
            expected(
                f"a column or attribute {name!r}",
                got="none",
                where="site_column",
                fix="add it to attribute_columns",
            )
        )
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        value = entry.found.attributes.get(name, "" if blank else entry.found.site)
        found[entry.patient_id].update([value] if value or blank else [])
    return found


def _source_sites(entries: Sequence[Entry]) -> dict[str, str]:
    found: dict[str, Entry] = {}
    for entry in entries:
        first = found.setdefault(entry.patient_id, entry)
        if first.found.site != entry.found.site:
            got = f"one patient at {first.found.where} and {entry.found.where}"
            fix = "de-identify each site with its own key, or set site_mode"
            raise DataError(expected("every patient at one site", got=got, where="sites", fix=fix))
    return {patient: entry.found.site for patient, entry in found.items()}


def _kept(folder: str, patients: Sequence[str]) -> dict[str, str]:
    if not folder:
        return {}
    known = {case.patient_id: case.split for case in Manifest.read(Path(folder)).cases}
    kept = {patient: known[patient] for patient in patients if patient in known}
    if not kept:
        fix = "pseudonyms depend on the name: give both datasets the same"
        raise DataError(
            expected("patients of the older dataset", got="none of them", where="split_from", fix=fix)
        )
    return kept
