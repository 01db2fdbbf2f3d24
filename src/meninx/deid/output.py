"""The output folder of the stage: the places of its files, the journal of finished files, and sorted tables.

``images/`` and the public files are built in a private staging folder and moved into place at the end. The
journal has one entry per finished file, so a killed run continues where it stopped and a second run does
nothing. It is two sorted files: ``known.jsonl`` holds what earlier runs finished, ``journal.jsonl`` what this
run adds. Both are read as streams, so memory does not grow with the number of files.
"""

from __future__ import annotations

import csv
import filecmp
import io
import itertools
import re
import shutil
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any

from meninx.core import artifacts, files
from meninx.core import journal as core_journal
from meninx.core.artifacts import DeidRecord
from meninx.core.clean_archive import IMAGES, STATEMENT
from meninx.core.errors import DataError, StorageError, expected
from meninx.core.folder_signature import SIGNATURE
from meninx.core.integrity import CHECKSUMS
from meninx.core.workspace import PRIVATE, STAGING, Workspace
from meninx.deid.papers.audit_chain import AUDIT_LOG

WAITING = "waiting"
PUBLIC_FILES = (AUDIT_LOG, CHECKSUMS, STATEMENT, SIGNATURE, artifacts.place(DeidRecord))
"""Public files in the order in which they are published; the last one marks the result as complete."""
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def is_older(out: Path) -> bool:
    """Return whether a version of this stage without a marker wrote the folder."""
    journal = out / PRIVATE / JOURNAL
    if not journal.is_file() or not {item.name for item in out.iterdir()} <= {PRIVATE, IMAGES, *PUBLIC_FILES}:
        return False
    with journal.open("rb") as stream:
        return stream.readline(200).startswith(b'{"fingerprint": ')


def take_back(space: Workspace) -> None:
    """Move a complete result of the same settings back into staging, to go on with it.

    It is published again at the end.

    Raises:
        StorageError: the disk refused.
    """
    try:
        known = space.private / JOURNAL
        if known.is_file() and not (space.staging / KNOWN).exists():
            shutil.copyfile(known, space.staging / KNOWN)
            (space.staging / KNOWN).chmod(files.PRIVATE_MODE)
        for name in (*reversed(PUBLIC_FILES), IMAGES):
            if (space.root / name).exists() and not (space.staging / name).exists():
                (space.root / name).rename(space.staging / name)
    except OSError as error:
        raise files.storage_error(error, space.staging) from error


def give_back(out: Path) -> None:
    """Move what :func:`take_back` moved to staging, and a killed run left there, to its place again.

    Raises:
        StorageError: the disk refused.
    """
    staging = out / PRIVATE / STAGING
    try:
        for name in (IMAGES, *PUBLIC_FILES):
            if (staging / name).exists() and not (out / name).exists():
                (staging / name).rename(out / name)
    except OSError as error:
        raise files.storage_error(error, out / PRIVATE) from error


def check_relative(relative: str) -> None:
    """Raise ValueError for a path of another form than this stage gives its images."""
    parts = relative.split("/")
    if parts[0] != IMAGES or len(parts) < 2 or not all(map(_PART.fullmatch, parts)):
        raise ValueError("no path of an image")


def check_below(out: Path, relative: str) -> None:
    """Refuse a path that does not lie below the images of a folder, or that leads out of it by a link.

    Args:
        out: the folder that holds ``images``, resolved.
        relative: path of an image below it.

    Raises:
        ValueError: the path has another form than this stage gives its images.
        StorageError: a folder on the way is a link.
    """
    check_relative(relative)
    place = out
    for part in relative.split("/")[:-1]:
        place = place / part
        if place.is_symlink():
            fix = "remove the link, or choose another output folder"
            raise StorageError(
                expected(
                    "folders of this stage's own in the output folder", got="a link", where=IMAGES, fix=fix
                )
            )


def publish(out: Path, relative: str, waiting: Path) -> None:
    """Move a checked image to its place among the finished ones.

    Raises:
        ValueError: as :func:`check_below`.
        StorageError: a link is in the way, or the disk refused.
    """
    check_below(out, relative)
    target = out / relative
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        waiting.replace(target)
    except OSError as error:
        raise files.storage_error(error, target) from error


WRITTEN, QUARANTINED = "written", "quarantined"
KNOWN, JOURNAL = "known.jsonl", "journal.jsonl"


@dataclass(frozen=True, kw_only=True)
class FileResult:
    """The result for one file. It holds original identifiers and is written to the private folder only.

    Attributes:
        path: below the source.
        digest: SHA-256 of the original bytes.
        status: ``written`` or ``quarantined``.
        reason: reason code of a quarantined file.
        output: path below the output folder.
        size: bytes of the output.
        output_digest: SHA-256 of the output.
        patient: original and new PatientID.
        issuer: original IssuerOfPatientID.
        domain: name of the domain that numbers the patient; empty for the site's own.
        study: new StudyInstanceUID.
        series: new SeriesInstanceUID.
        instance: new SOPInstanceUID.
        sop_class: SOP class of the instance.
        transfer_syntax: of the instance.
        accessions: original -> new accession numbers.
        uids: original -> new UIDs.
        actions: keyword -> action letter -> elements.
        burned_in_unknown: text may be burned into the pixels, which were not read.
        review: why a person must look at them, in fixed words.
        has_pixels: whether the instance has pixel data; None in entries of earlier versions.
        pixels: what was found in the pixels and redacted; empty when they were not searched.
        recoded: the pixels lost their compression, because text in them was redacted or bits were cleared.
        face: what was done about a face, the digest of the series and that of its plan; empty without.
        traits: keyed digests of the patient's name, birth date and sex (:mod:`.identity.traits`); None in
            entries of earlier versions.
        cleaned_before: the original is a clean file of this program.
        directory: of a DICOMDIR, how many files it names and how many of them are missing or outside.
    """

    path: str
    digest: str = ""
    status: str = QUARANTINED
    reason: str = ""
    output: str = ""
    size: int = 0
    output_digest: str = ""
    patient: tuple[str, str] = ("", "")
    issuer: str = ""
    domain: str = ""
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
    has_pixels: bool | None = None
    pixels: Mapping[str, Any] = field(default_factory=dict)
    recoded: bool = False
    face: str = ""
    traits: Mapping[str, Sequence[str]] | None = None
    cleaned_before: bool = False
    directory: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> FileResult:
        """Return the entry of one line.

        Raises:
            DataError: the line has other fields than this version writes.
        """
        if not _is_entry(table):
            fix = f"give --overwrite to make every file again, or restore {JOURNAL} from a backup"
            got = "a line with other fields"
            raise DataError(expected("a journal of this version", got=got, where=JOURNAL, fix=fix))
        recoded = table.get("pixels", {}).get("recoded", False)  # where earlier versions wrote it
        return cls(
            **{
                "recoded": bool(recoded),
                **table,
                "patient": tuple(table["patient"]),
                "review": tuple(table["review"]),
            }
        )


_FORMS: dict[str, Any] = {
    one.name: type(one.default) if one.default is not MISSING else dict for one in fields(FileResult)
} | {
    "path": str, "patient": list, "review": list, "traits": (dict, NoneType), "has_pixels": (bool, NoneType),
}  # fmt: skip


def _is_entry(table: Mapping[str, Any]) -> bool:
    """Return whether a line of a journal has the fields of an entry, each of its type."""
    return (
        table.keys() <= _FORMS.keys()
        and {"path", "patient", "review"} <= table.keys()
        and all(isinstance(value, _FORMS[name]) for name, value in table.items())
        and len(table["patient"]) == 2
        and all(isinstance(value, str) for value in (*table["patient"], *table["review"]))
    )


class FileJournal:
    """The entries in one folder, in the order of paths."""

    def __init__(self, folder: Path) -> None:
        self.known = core_journal.Journal(folder / KNOWN)
        self.new = core_journal.Journal(folder / JOURNAL)
        self._in_order: dict[Path, tuple[int, int, int]] = {}

    def _sorted(self, journal: core_journal.Journal) -> Iterator[dict[str, Any]]:
        """Yield the lines of one file in the order of paths, of each path the last one.

        This program writes them in that order, and somebody may have edited them. Lines in another order take
        memory for every path.
        """
        yield from journal.tables() if self._is_in_order(journal) else journal.picked(_path_of)

    def _is_in_order(self, journal: core_journal.Journal) -> bool:
        """Return whether the paths of a file ascend; it is read once for each state of the file."""
        state = _state(journal.path)
        if state is not None and self._in_order.get(journal.path) != state:
            paths = (_path_of(table) for table in journal.tables())
            if not all(one < other for one, other in itertools.pairwise(paths)):
                return False
            self._in_order[journal.path] = state
        return True

    def entries(self) -> Iterator[FileResult]:
        """Yield the entries one by one.

        A later entry of a path replaces an earlier one.
        """
        return map(FileResult.from_table, _merged(self._sorted(self.known), self._sorted(self.new)))

    def settle(self) -> None:
        """Merge the entries of the last run into the known ones; it may be repeated after a kill."""
        if next(self.new.tables(), None) is not None or not self._is_in_order(self.known):
            self.known.rewrite(_merged(self._sorted(self.known), self._sorted(self.new)))
        self.new.path.unlink(missing_ok=True)

    def forget(self, paths: Collection[str]) -> None:
        """Remove the known entries of these paths."""
        if paths:
            self.known.rewrite(table for table in self._sorted(self.known) if table["path"] not in paths)

    def write_known(self, folder: Path) -> None:
        """Write what is known to ``journal.jsonl`` of another folder, unless it is there already."""
        with ExitStack() as stack:
            lines = stack.enter_context(self.known.path.open("rb")) if self.known.path.is_file() else ()
            write_lines(folder / JOURNAL, lines, mode=files.PRIVATE_MODE)

    def known_of(self, paths: Iterable[str]) -> Iterator[FileResult | None]:
        """Yield the known entry of each path, or None.

        Args:
            paths: sorted.
        """
        tables = self._sorted(self.known)
        table = next(tables, None)
        for path in paths:
            while table is not None and table["path"] < path:
                table = next(tables, None)
            yield FileResult.from_table(table) if table is not None and table["path"] == path else None

    @contextmanager
    def adding(self) -> Iterator[JournalAppender]:
        """Open the journal for adding entries in the order of paths."""
        with self.new.appending() as lines:
            yield JournalAppender(lines)


class JournalAppender:
    """Appends entries; each is passed to the operating system at once, so a killed process loses none."""

    def __init__(self, lines: core_journal.Appender) -> None:
        self.lines = lines

    def add(self, entry: FileResult) -> None:
        """Append one entry."""
        self.lines.add(vars(entry))


def _path_of(table: Mapping[str, Any]) -> str:
    return FileResult.from_table(table).path


def _state(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file does; None where there is none."""
    if not path.is_file():
        return None
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


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


class SortedLines:
    """Distinct lines in ascending order of their bytes, collected in a file and not in memory."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(
            "CREATE TABLE lines (name TEXT, line BLOB, PRIMARY KEY (name, line)) WITHOUT ROWID"
        )

    def add(self, name: str, line: bytes) -> None:
        """Add a line to one of the tables."""
        self.connection.execute("INSERT OR IGNORE INTO lines VALUES (?, ?)", (name, line))

    def of(self, name: str) -> Iterator[bytes]:
        """Yield the lines of one table."""
        for (line,) in self.connection.execute(
            "SELECT line FROM lines WHERE name = ? ORDER BY line", (name,)
        ):
            yield line


@contextmanager
def sorted_lines(folder: Path) -> Iterator[SortedLines]:
    """Open an empty collection; its file is in a private folder and is removed at the end.

    Raises:
        StorageError: the disk refused.
    """
    path = folder / "sorting.sqlite"
    path.unlink(missing_ok=True)
    try:
        path.touch(mode=files.PRIVATE_MODE)
        connection = sqlite3.connect(path)
        try:
            yield SortedLines(connection)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise files.storage_error(OSError(str(error)), path) from error
    except OSError as error:
        raise files.storage_error(error, path) from error
    finally:
        path.unlink(missing_ok=True)


def csv_line(values: Sequence[str]) -> bytes:
    """Return a line of a CSV table with every value quoted."""
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow(values)
    return text.getvalue().encode("utf-8", "surrogateescape")


def write_lines(path: Path, lines: Iterable[bytes], *, mode: int | None = None) -> None:
    """Write lines atomically unless the file holds them already.

    Raises:
        StorageError: the disk refused the write.
    """
    fresh = path.with_name(f".fresh-{path.name}")
    with files.atomic(fresh, mode=mode) as stream:
        stream.writelines(lines)
    try:
        if path.is_file() and filecmp.cmp(fresh, path, shallow=False):
            fresh.unlink()
        else:
            fresh.replace(path)
    except OSError as error:
        raise files.storage_error(error, path) from error
