"""The private journal: one entry per finished file, so that a killed run goes on where it stopped and a second run does nothing.

Two sorted files: ``known.jsonl`` holds what earlier runs finished, ``journal.jsonl`` what this run adds, in
    the same order of
paths. Both are read as streams, so memory does not grow with the number of files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meninx.core import files
from meninx.core import journal as core
from meninx.deid.papers import write_lines

WRITTEN, QUARANTINED = "written", "quarantined"
KNOWN, JOURNAL = "known.jsonl", "journal.jsonl"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What became of one file. Holds original identifiers: it lives in the private room only.

    Attributes:
        path: below the source.
        digest: SHA-256 of the original bytes.
        status: ``written`` or ``quarantined``.
        reason: reason code of a quarantined file.
        output: path below the output folder.
        size: bytes of the output.
        output_digest: SHA-256 of the output.
        patient: original and new PatientID.
        by_issuer: the PatientID named the patient only together with its issuer.
        study: new StudyInstanceUID.
        series: new SeriesInstanceUID.
        instance: new SOPInstanceUID.
        sop_class: SOP class of the instance.
        transfer_syntax: of the instance.
        accessions: original -> new accession numbers.
        uids: original -> new UIDs.
        actions: keyword -> action letter -> elements.
        burned_in_unknown: text may be burned into the pixels; nobody looked.
        review: why somebody must look, in fixed words.
    """

    path: str
    digest: str = ""
    status: str = QUARANTINED
    reason: str = ""
    output: str = ""
    size: int = 0
    output_digest: str = ""
    patient: tuple[str, str] = ("", "")
    by_issuer: bool = False
    study: str = ""
    series: str = ""
    instance: str = ""
    sop_class: str = ""
    transfer_syntax: str = ""
    accessions: Mapping[str, str] = field(default_factory=dict)
    uids: Mapping[str, str] = field(default_factory=dict)
    actions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    burned_in_unknown: bool = False
    review: tuple[str, ...] = ()

    def told(self) -> tuple[str, ...]:
        """Return what becomes public of this entry besides counts and digests: its path and its line of the audit log."""
        return self.output.removeprefix("images/"), self.sop_class, self.transfer_syntax

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Entry:
        """Return the entry of one line."""
        return cls(**{**table, "patient": tuple(table["patient"]), "review": tuple(table["review"])})


class Journal:
    """The entries in one folder, in the order of paths."""

    def __init__(self, folder: Path) -> None:
        self.known = core.Journal(folder / KNOWN)
        self.new = core.Journal(folder / JOURNAL)

    def entries(self) -> Iterator[Entry]:
        """Yield the entries one by one.

        What a later run said of a path takes the place of what an earlier one said.
        """
        return map(Entry.from_table, _merged(self.known.tables(), self.new.tables()))

    def settle(self) -> None:
        """Add what the last run said to what is known; repeated after a kill it changes nothing."""
        if next(self.new.tables(), None) is not None:
            self.known.rewrite(_merged(self.known.tables(), self.new.tables()))
        self.new.path.unlink(missing_ok=True)

    def keep(self, folder: Path) -> None:
        """Write what is known to ``journal.jsonl`` of another folder, unless it is there already."""
        with ExitStack() as stack:
            lines = stack.enter_context(self.known.path.open("rb")) if self.known.path.is_file() else ()
            write_lines(folder / JOURNAL, lines, mode=files.PRIVATE_MODE)

    def known_of(self, paths: Iterable[str]) -> Iterator[Entry | None]:
        """Yield the known entry of each path, or None.

        Args:
            paths: sorted.
        """
        tables = self.known.tables()
        table = next(tables, None)
        for path in paths:
            while table is not None and table["path"] < path:
                table = next(tables, None)
            yield Entry.from_table(table) if table is not None and table["path"] == path else None

    @contextmanager
    def adding(self) -> Iterator[Adder]:
        """Open the journal for adding entries in the order of paths."""
        with self.new.appending() as lines:
            yield Adder(lines)


class Adder:
    """Adds entries; each is handed to the operating system before the next file, so a killed process loses none."""

    def __init__(self, lines: core.Appender) -> None:
        self.lines = lines

    def add(self, entry: Entry) -> None:
        """Append one entry."""
        self.lines.add(vars(entry))


def _merged(known: Iterator[dict[str, Any]], new: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    old = next(known, None)
    for table in new:
        while old is not None and old["path"] < table["path"]:
            yield old
            old = next(known, None)
        if old is not None and old["path"] == table["path"]:
            old = next(known, None)
        yield table
    while old is not None:
        yield old
        old = next(known, None)
