"""What a run leaves besides images: the public summary and audit log without any original value, the private crosswalks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from meninx.deid import lookup, quarantine
from meninx.deid.config import DeidConfig
from meninx.deid.journal import WRITTEN, Entry
from meninx.deid.options import method_codes
from meninx.deid.papers import write_changed, write_private_table
from meninx.deid.profile import Profile
from meninx.deid.pseudonyms import Pseudonyms


def total_actions(entries: Iterable[Entry]) -> dict[str, dict[str, int]]:
    """Return keyword -> action letter -> elements over all files."""
    counts: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        for keyword, letters in entry.actions.items():
            counts.update({(keyword, letter): number for letter, number in letters.items()})
    table: dict[str, dict[str, int]] = {}
    for (keyword, letter), number in sorted(counts.items()):
        table.setdefault(keyword, {})[letter] = number
    return table


def reasons(entries: Iterable[Entry]) -> dict[str, int]:
    """Return reason code -> files, sorted by code."""
    return dict(sorted(Counter(str(entry.reason) for entry in entries if entry.status != WRITTEN).items()))


def summary(config: DeidConfig, entries: list[Entry], profile: Profile) -> dict[str, Any]:
    """Return the content of ``deid.json``: counts, settings and codes; ``profile`` is the one in force, overrides included."""
    written = [entry for entry in entries if entry.status == WRITTEN]
    quarantined = reasons(entries)
    return {
        "version": metadata.version("meninx"),
        "profile": config.profile,
        "options": sorted(str(option) for option in config.all_options),
        "codes": [code.value for code in method_codes(config.all_options)],
        "overrides": profile.describe_overrides(),
        "max_age": config.max_age,
        "missing_lookup": config.missing_lookup,
        "site": config.site,
        "files_read": len(entries),
        "files_written": len(written),
        "quarantined": quarantined,
        "patients": len({entry.patient[1] for entry in written}),
        "studies": len({(entry.patient[1], entry.study) for entry in written}),
        "series": len({(entry.patient[1], entry.study, entry.series) for entry in written}),
        "actions": total_actions(written),
        "residual_findings": quarantined.get(quarantine.Reason.RESIDUAL_IDENTIFIER, 0),
        "burned_in_unknown": sum(entry.burned_in_unknown for entry in written),
    }


def write(config: DeidConfig, out: Path, entries: list[Entry], profile: Profile, pseudonyms: Pseudonyms) -> None:
    """Write the public and the private tables; a file whose content would not change is left alone.

    Raises:
        StorageError: the disk refused a write.
    """
    written = [entry for entry in entries if entry.status == WRITTEN]
    private = out / "private"
    told = json.dumps(summary(config, entries, profile), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_changed(out / "deid.json", told.encode())
    write_changed(out / "audit.jsonl", "".join(sorted(_audit_line(entry, pseudonyms) + "\n" for entry in entries)).encode())
    _crosswalk(private / "crosswalk_uids.csv", [pair for entry in written for pair in entry.uids.items()])
    _crosswalk(private / "crosswalk_patients.csv", [entry.patient for entry in written])
    _crosswalk(private / "crosswalk_accessions.csv", [pair for entry in written for pair in entry.accessions.items()])
    refused = [(entry.path, str(entry.reason)) for entry in entries if entry.status != WRITTEN]
    write_private_table(private / "quarantine.csv", ("path", "reason"), refused)
    if config.lookup_out:
        lookup.write(private / "lookup.csv", (row for entry in written for row in _lookup_rows(entry)))


def _audit_line(entry: Entry, pseudonyms: Pseudonyms) -> str:
    """Return one line of the public log; originals appear as keyed digests only."""
    letters: Counter[str] = Counter()
    for counts in entry.actions.values():
        letters.update(counts)
    told: Mapping[str, Any] = {
        "file": pseudonyms.digest(entry.path),
        "content": pseudonyms.digest(entry.digest),
        "status": entry.status,
        "reason": str(entry.reason),
        "output": entry.output,
        "output_sha256": entry.output_digest,
        "sop_class": entry.sop_class,
        "transfer_syntax": entry.transfer_syntax,
        "actions": dict(sorted(letters.items())),
        "burned_in_unknown": entry.burned_in_unknown,
    }
    return json.dumps(told)


def _lookup_rows(entry: Entry) -> list[tuple[str, str, str, str]]:
    old, new = entry.patient
    if not old:
        return []
    return [(old, new, *pair) for pair in entry.accessions.items()] or [(old, new, "", "")]


def _crosswalk(path: Path, pairs: list[tuple[str, str]]) -> None:
    write_private_table(path, ("id_old", "id_new"), [pair for pair in pairs if pair[0]])
