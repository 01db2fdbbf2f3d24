"""What a run writes besides images: the public summary and audit log, and the private crosswalks and lists.

The public files hold no original value; originals appear in them as keyed digests only.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from meninx.core import artifacts, files, integrity, names
from meninx.core.artifacts import DeidRecord, Departure
from meninx.core.workspace import Workspace
from meninx.deid import options
from meninx.deid.config import DeidConfig
from meninx.deid.faces.face_plans import DEFACED, NOT_HEAD, REFUSED
from meninx.deid.identity import lookup
from meninx.deid.identity.issuer_policy import OWN
from meninx.deid.identity.pseudonyms import Pseudonyms
from meninx.deid.identity.traits import TraitVariants, variant_of
from meninx.deid.options import Option, method_codes
from meninx.deid.output import (
    WRITTEN,
    FileJournal,
    FileResult,
    SortedLines,
    csv_line,
    sorted_lines,
    write_lines,
)
from meninx.deid.papers.audit_chain import AUDIT_LOG, AuditChain
from meninx.deid.profile import Profile
from meninx.deid.review.layouts import (
    LAYOUTS,
    LayoutDecision,
    LayoutMask,
    LayoutTable,
    is_mostly_filled,
)
from meninx.deid.review.review_tally import tallied
from meninx.dicomfile import refusals

_PAIRS = ("id_old", "id_new")
TABLES: dict[str, tuple[str, ...]] = {
    "crosswalk_uids.csv": _PAIRS,
    "crosswalk_patients.csv": _PAIRS,
    "crosswalk_accessions.csv": _PAIRS,
    "contradictions.csv": ("id_old", "id_new", "differs", "path"),
    "quarantine.csv": ("path", "reason"),
    "issuers.csv": ("issuer", "domain", "result"),
    "review.csv": ("output", "why"),
    "lookup.csv": lookup.COLUMNS,
}


class RunCounts:
    """Counts over entries, added one by one; holds no original value."""

    def __init__(self) -> None:
        self.read = self.written = self.unknown = 0
        self.images = 0
        self.searched = self.redacted = self.recoded = self.text_kept = self.mostly_filled = 0
        self.layouts = LayoutTable()
        self.treated: Counter[tuple[bool, bool]] = Counter()  # searched, face removed -> files
        self.quarantined: Counter[str] = Counter()
        self.flagged: Counter[str] = Counter()
        self.directories: Counter[str] = Counter()
        self.actions: Counter[tuple[str, str]] = Counter()
        self.patients: set[str] = set()
        self.studies: set[tuple[str, str]] = set()
        self.series: set[tuple[str, str, str]] = set()
        self.cleaned_before = 0
        self.variants = TraitVariants()
        self.faces: dict[str, set[str]] = {DEFACED: set(), NOT_HEAD: set(), REFUSED: set()}

    def add(self, entry: FileResult) -> None:
        """Count one entry."""
        self.read += 1
        if entry.face:
            outcome, series = entry.face.split(":")[:2]
            if outcome:  # not for a contour or surface that refers to the series
                self.faces[outcome].add(series)
        if entry.status != WRITTEN:
            self.quarantined[str(entry.reason)] += 1
            self.directories.update(entry.directory)
            self._add_layout(entry)  # a decision that keeps it out can be taken back
            return
        self.written += 1
        self.images += entry.has_pixels is not False  # an entry that does not say counts as an image
        self.treated[bool(entry.pixels), entry.face.split(":")[0] == DEFACED] += 1
        self.unknown += entry.burned_in_unknown
        self._add_pixels(entry)
        self.flagged.update(entry.review)
        patient = entry.patient[1]
        self.patients.add(patient)
        self.cleaned_before += entry.cleaned_before
        self.variants.add(patient, entry.traits or {})
        self.studies.add((patient, entry.study))
        self.series.add((patient, entry.study, entry.series))
        for keyword, letters in entry.actions.items():
            self.actions.update({(keyword, letter): number for letter, number in letters.items()})

    def _add_pixels(self, entry: FileResult) -> None:
        found = entry.pixels
        self.recoded += entry.recoded
        if found:
            self.searched += 1
            self.redacted += bool(found["boxes"])
            self.mostly_filled += is_mostly_filled(found)
            self.text_kept += bool(found.get("kept_by_reviewer"))
        self._add_layout(entry)

    def _add_layout(self, entry: FileResult) -> None:
        if entry.pixels:
            mask, output = LayoutMask.from_table(entry.pixels["mask"]), entry.output
            self.layouts.add(mask, entry.pixels, entry.path, output if entry.status == WRITTEN else "")

    def code_files(self, chosen: frozenset[Option]) -> dict[str, int]:
        """Return code value -> files that carry it, given the options in force."""
        found: Counter[str] = Counter({code.value: 0 for code in method_codes(chosen)})
        for (searched, faces), number in self.treated.items():
            for code in method_codes(chosen, pixels=searched, faces=faces):
                found[code.value] += number
        return dict(sorted(found.items()))

    def total_actions(self) -> dict[str, dict[str, int]]:
        """Return keyword -> action letter -> elements over all files."""
        table: dict[str, dict[str, int]] = {}
        for (keyword, letter), number in sorted(self.actions.items()):
            table.setdefault(keyword, {})[letter] = number
        return table


def deid_record(
    config: DeidConfig, tally: RunCounts, profile: Profile, decisions: Sequence[LayoutDecision] = ()
) -> DeidRecord:
    """Return the content of ``deid.json``.

    Args:
        config: settings.
        tally: counts over all files.
        profile: the one in force, overrides included.
        decisions: of reviewers, as the run applied them.
    """
    code_files = tally.code_files(config.all_options)
    return DeidRecord(
        version=metadata.version("meninx"),
        profile=config.profile,
        options=tuple(sorted(str(option) for option in config.all_options)),
        codes=tuple(code_files),
        code_files=code_files,
        departures=departures(config, tally, profile),
        overrides=profile.describe_overrides(),
        max_age=config.max_age,
        missing_lookup=config.missing_lookup,
        issuers=config.issuers,
        missing_issuer=config.missing_issuer,
        site=config.site,
        files_read=tally.read,
        files_written=tally.written,
        quarantined=dict(sorted(tally.quarantined.items())),
        patients=len(tally.patients),
        studies=len(tally.studies),
        series=len(tally.series),
        contradicting=len(tally.variants.contradicting()),
        deidentified_before=tally.cleaned_before,
        actions=tally.total_actions(),
        residual_findings=tally.quarantined[refusals.Reason.RESIDUAL_IDENTIFIER],
        burned_in_unknown=tally.unknown,
        flagged=dict(sorted(tally.flagged.items())),
        directories=dict(sorted(tally.directories.items())),
        pixels=config.pixels,
        search_all=config.search_all,
        images=tally.images,
        pixels_searched=tally.searched,
        pixels_redacted=tally.redacted,
        pixels_mostly_filled=tally.mostly_filled,
        pixels_recoded=tally.recoded,
        layouts=len(tally.layouts.layouts),
        review=tallied(tally.layouts.layouts, decisions) if config.decisions else None,
        defacing=config.defacing,
        series_defaced=len(tally.faces[DEFACED]),
        series_not_head=len(tally.faces[NOT_HEAD]),
        series_face_refused=len(tally.faces[REFUSED]),
    )


def departures(config: DeidConfig, tally: RunCounts, profile: Profile) -> tuple[Departure, ...]:
    """Return every setting that changes what the named profile does, or that keeps what it would keep out."""
    plain_profile = Profile.compile(options.preset(config.profile))
    found = [
        Departure(
            kind="override",
            name=keyword,
            chosen=str(action),
            usual=str(plain_profile.action(tag, vr, sop_class_uid="")),
            files=None,
        )
        for tag, keyword, vr, action in profile.override_table()
    ]
    found += [
        Departure(kind="option", name=str(option), chosen="on", usual="off")
        for option in sorted(config.all_options - options.preset(config.profile))
    ]
    found += [
        Departure(kind="option", name=str(option), chosen="off", usual="on")
        for option in sorted(options.preset(config.profile) - config.all_options)
        if option != Option.RETAIN_MODIFIED_DATES
    ]
    if config.pixels == "keep":
        found.append(
            Departure(kind="pixels", name="pixels", chosen="keep", usual="redact", files=tally.unknown)
        )
    if tally.text_kept:
        found.append(
            Departure(kind="pixels", name="decisions", chosen="keep", usual="redact", files=tally.text_kept)
        )
    if config.keep_measurements:
        found.append(Departure(kind="pixels", name="keep_measurements", chosen="on", usual="off"))
    if config.lookup is not None and config.missing_lookup == "pseudonym":
        found.append(Departure(kind="lookup", name="missing_lookup", chosen="pseudonym", usual="quarantine"))
    return tuple(found)


def write_summary(
    config: DeidConfig,
    space: Workspace,
    journal: FileJournal,
    profile: Profile,
    pseudonyms: Pseudonyms,
    *,
    decisions: Sequence[LayoutDecision],
    signer: str,
) -> DeidRecord:
    """Write the private tables to their places and the public files to staging; return the summary.

    A file whose content would not change is left alone. ``decisions`` are those that the run applied,
    ``signer`` is the fingerprint of the key that will sign the public files
    (:mod:`meninx.deid.papers.archive_signature`).

    Raises:
        StorageError: the disk refused a write.
    """
    tally = RunCounts()
    with sorted_lines(space.staging) as lines:
        for entry in journal.entries():
            tally.add(entry)
            _add(lines, entry, pseudonyms)
        _add_contradictions(lines, journal, tally.variants.contradicting())
        for name, columns in TABLES.items():
            if name == "review.csv" and not tally.flagged:
                (space.private / name).unlink(missing_ok=True)  # of an earlier run with other settings
            elif name != "lookup.csv" or config.lookup_out:
                _write_table(space.private / name, columns, lines.of(name))
        listed_layouts = [layout.to_line() for layout in tally.layouts.layouts]
        write_lines(space.private / LAYOUTS, listed_layouts, mode=files.PRIVATE_MODE)
        chain = AuditChain()
        write_lines(space.staging / AUDIT_LOG, chain.of(lines.of("audit")))
        lines.add("checksums", _checksum(AUDIT_LOG, files.digest(space.staging / AUDIT_LOG)))
        listed = (line.decode().split("\0") for line in lines.of("checksums"))
        checksums = integrity.write_sorted(space.staging, ((path, digest) for path, digest in listed))
    summary = replace(
        deid_record(config, tally, profile, decisions),
        audit_lines=chain.lines,
        audit_head=chain.head,
        signer=signer,
        checksums=checksums,
    )
    artifacts.write(space.staging, summary)
    return summary


def _write_table(path: Path, columns: tuple[str, ...], lines: Iterable[bytes]) -> None:
    def content() -> Iterator[bytes]:
        yield csv_line(columns)
        yield from lines

    write_lines(path, content(), mode=files.PRIVATE_MODE)


def _add(lines: SortedLines, entry: FileResult, pseudonyms: Pseudonyms) -> None:
    """Add an entry's lines to every table."""
    lines.add("audit", (_audit_line(entry, pseudonyms) + "\n").encode())
    if entry.status != WRITTEN:
        lines.add("quarantine.csv", csv_line((entry.path, str(entry.reason))))
        if entry.issuer:
            lines.add("issuers.csv", csv_line((entry.issuer, "", str(entry.reason))))
        return
    if entry.patient[0]:
        lines.add("issuers.csv", csv_line((entry.issuer, entry.domain or OWN, entry.status)))
    lines.add("checksums", _checksum(entry.output, entry.output_digest))
    if entry.review:
        lines.add("review.csv", csv_line((entry.output, "; ".join(entry.review))))
    pairs = {
        "crosswalk_uids.csv": entry.uids.items(),
        "crosswalk_patients.csv": [entry.patient],
        "crosswalk_accessions.csv": entry.accessions.items(),
        "lookup.csv": _lookup_rows(entry),
    }
    for name, rows in pairs.items():
        for row in rows:
            if row[0]:
                lines.add(name, csv_line(row))


def _add_contradictions(
    lines: SortedLines, journal: FileJournal, contradicting: Mapping[str, tuple[str, ...]]
) -> None:
    """Add the files of patients whose files contradict each other; the first file of each variant."""
    seen: set[tuple[str, str]] = set()
    for entry in journal.entries() if contradicting else ():
        old, new = entry.patient
        variant = new, variant_of(entry.traits or {})
        if entry.status == WRITTEN and new in contradicting and variant not in seen:
            seen.add(variant)
            row = (old, new, "; ".join(contradicting[new]), entry.path)
            lines.add("contradictions.csv", csv_line([names.csv_cell(cell) for cell in row]))


def _checksum(path: str, digest: str) -> bytes:
    return f"{path}\0{digest}".encode()


def _audit_line(entry: FileResult, pseudonyms: Pseudonyms) -> str:
    """Return one line of the public log; originals appear as keyed digests only."""
    letters: Counter[str] = Counter()
    for counts in entry.actions.values():
        letters.update(counts)
    pixels = entry.pixels if entry.status == WRITTEN else {}
    line: Mapping[str, Any] = {
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
        "review": list(entry.review),
        "pixels_searched": bool(pixels),
        "boxes_redacted": pixels.get("boxes", 0),
        "recoded": entry.recoded,
        "face": entry.face.split(":")[0],
    }
    return json.dumps(line)


def _lookup_rows(entry: FileResult) -> list[tuple[str, ...]]:
    old, new = entry.patient
    pairs = list(entry.accessions.items()) or [("", "")]
    return [(old, new, *pair, entry.issuer) for pair in pairs]
