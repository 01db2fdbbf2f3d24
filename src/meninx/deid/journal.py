"""The private journal: one line a finished file, so that a killed run goes on where it stopped and a second run does nothing."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meninx.core import files
from meninx.core.errors import RunLocked, expected
from meninx.deid.papers import PRIVATE_MODE, write_changed

WRITTEN, QUARANTINED = "written", "quarantined"


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

    def to_line(self) -> str:
        """Return the entry as one line of JSON, the same bytes for the same entry."""
        return json.dumps(vars(self), sort_keys=True)

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> Entry:
        """Return the entry of one line."""
        return cls(**{**table, "patient": tuple(table["patient"]), "review": tuple(table.get("review", ()))})


class Journal:
    """The journal of one output folder."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint

    def fingerprint_there(self) -> str | None:
        """Return the fingerprint of the run that wrote the journal, None when there is none, empty when it is unreadable."""
        if not self.path.is_file():
            return None
        first = next(self._tables(), {})
        return str(first.get("fingerprint", ""))

    def read(self) -> dict[str, Entry]:
        """Return the entries by path; a line that was cut off, and all after it, counts as not written."""
        tables = self._tables()
        next(tables, None)
        return {table["path"]: Entry.from_table(table) for table in tables}

    def rewrite(self, entries: Iterable[Entry]) -> None:
        """Write the journal anew, complete and in the order of paths."""
        lines = [json.dumps({"fingerprint": self.fingerprint}), *(e.to_line() for e in sorted(entries, key=lambda e: e.path))]
        write_changed(self.path, ("\n".join(lines) + "\n").encode(), mode=PRIVATE_MODE)

    @contextmanager
    def appending(self) -> Iterator[_Appender]:
        """Open the journal for adding entries."""
        try:
            with self.path.open("ab") as stream:
                yield _Appender(stream, self.path)
        except OSError as error:
            raise files.storage_error(error, self.path) from error

    def _tables(self) -> Iterator[dict[str, Any]]:
        with self.path.open("rb") as stream:
            for line in stream:
                try:
                    table = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    table = None
                if not isinstance(table, dict):
                    return
                yield table


class _Appender:
    """Adds lines; each is handed to the operating system before the next file, so a killed process loses none."""

    def __init__(self, stream: Any, path: Path) -> None:
        self.stream = stream
        self.path = path

    def add(self, entry: Entry) -> None:
        """Append one entry."""
        try:
            self.stream.write(entry.to_line().encode() + b"\n")
            self.stream.flush()
        except OSError as error:
            raise files.storage_error(error, self.path) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an output folder for this process.

    Raises:
        RunLocked: another process writes to it. A killed process holds nothing.
    """
    with path.open("a+") as stream:
        path.chmod(0o600)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            fix = "wait for it, or choose another output folder"
            raise RunLocked(expected("one process an output folder", got="another one writing", where="out", fix=fix)) from error
        yield
