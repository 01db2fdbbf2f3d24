"""The archive from which files were made: its identifiers per person, and which file is whose."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from meninx.core import csv_table
from meninx.core.pool import Stop, mapped
from meninx.core.progress import Progress, task
from meninx.deid.identifiers import Identifiers, collect, names_somebody
from meninx.deid.worker import content_of
from meninx.dicomfile import discover, instance
from meninx.dicomfile.discover import SourceFile
from meninx.dicomfile.elements import Element
from meninx.dicomfile.file_part import FilePart, windows_of
from meninx.dicomfile.fragments import Fragments
from meninx.dicomfile.instance import SOP_INSTANCE, Instance
from meninx.dicomfile.refusals import Reason, Refused
from meninx.verify.known_values import KnownValues, days_in
from meninx.verify.person_evidence import BIRTH_DATE

DAYS = {
    0x00080020: "StudyDate",
    0x00080021: "SeriesDate",
    0x00080022: "AcquisitionDate",
    0x00080023: "ContentDate",
    0x00100030: "PatientBirthDate",
}
_LEAST = 1024  # bytes of pixel data that tell one image from another
BROKEN = (RecursionError, MemoryError, OverflowError, ValueError, LookupError, TypeError, OSError)
"""What a parser raises on a hostile file."""


class OriginalFile(NamedTuple):
    """One file of the archive: number of its person, and its days in the order of :data:`DAYS`."""

    person: int
    days: tuple[str, ...]
    path: str


@dataclass
class Originals:
    """What is known of the originals.

    Attributes:
        people: identifiers per person (PatientID and issuer).
        never_kept: of these, per person, those that no option of the standard keeps.
        files: the readable files.
        by_uid: SOP instance UID -> number of the file.
        by_pixels: digest of the pixel data -> number of the file; pixels of several people are left out.
        crosswalk: new UID -> old UID.
        unread: reason code -> files of the archive that were not read: no DICOM, or they cannot be read.
        unread_paths: their paths, which may hold names.
    """

    people: list[Identifiers] = field(default_factory=list)
    never_kept: list[Identifiers] = field(default_factory=list)
    files: list[OriginalFile] = field(default_factory=list)
    by_uid: dict[str, int] = field(default_factory=dict)
    by_pixels: dict[bytes, int] = field(default_factory=dict)
    crosswalk: dict[str, str] = field(default_factory=dict)
    unread: Counter[str] = field(default_factory=Counter)
    unread_paths: list[str] = field(default_factory=list)

    def of(self, uid: str, digest: bytes) -> OriginalFile | None:
        """Return the original of a file: by the crosswalk, by its UID, else by its pixels; None if unknown.

        Args:
            uid: SOP instance UID of the file.
            digest: of its pixels; may be empty.
        """
        number = self.by_uid.get(self.crosswalk.get(uid, uid))
        if number is None:
            number = self.by_pixels.get(digest)
        return self.files[number] if number is not None else None


def content(root: Path, entry: SourceFile) -> AbstractContextManager[bytes | FilePart]:
    """Return the bytes of a file or of a member of an archive, a large one as a part of a file.

    Raises:
        Refused: ``too-large``, ``unreadable`` and what is wrong with an archive.
        StorageError: there is no room for a large member.
    """
    folder = root if root.is_dir() else root.parent
    return content_of(folder, entry, room=None)


def pixel_digest(one: Instance) -> bytes:
    """Return a digest of the pixel data that does not depend on offset tables and padding; empty for none."""
    digest, size = hashlib.sha256(), 0
    for element in one.pixels:
        for part in _parts(element):
            digest.update(part)
            size += len(part)
    return digest.digest() if size >= _LEAST else b""


def _parts(element: Element) -> Iterator[bytes | memoryview]:
    if element.items is not None:
        return
    if element.undefined:
        with contextlib.suppress(Refused):
            yield from (bytes(part).rstrip(b"\0") for part in Fragments(element.value).of_frames())
        return
    yield from windows_of(element.value)


class _Read(NamedTuple):
    person: tuple[str, str]
    found: Identifiers
    never_kept: Identifiers
    uid: str
    digest: bytes
    days: tuple[str, ...]


def read(
    folder: Path, crosswalks: Path | None, *, workers: int, stop: Stop, progress: Progress
) -> tuple[Originals, KnownValues]:
    """Return the originals below a folder, and the identifiers of all of them together.

    A file that cannot be read is counted and stops nothing.

    Raises:
        DataError: there is no such folder, or the crosswalk cannot be read.
    """
    result, known = Originals(), KnownValues()
    if crosswalks is not None:
        table = csv_table.read_table(crosswalks, ("id_old", "id_new"))
        result.crosswalk = {row.get("id_new"): row.get("id_old") for row in table}
    found = discover.files_below(folder)
    numbers: dict[tuple[str, str], int] = {}
    with task(progress, "originals", len(found)):
        tasks = ((str(folder), item) for item in found if not item.refused)
        done = mapped(_read, tasks, workers=workers, stop=stop, died=_died)
        for item in found:
            one = Reason(item.refused) if item.refused else next(done)
            progress.advance()
            if isinstance(one, Reason):
                result.unread[one] += 1
                result.unread_paths.append(item.path)
                continue
            person = numbers.setdefault(one.person, len(numbers))
            if person == len(result.people):
                result.people.append(Identifiers())
                result.never_kept.append(Identifiers())
            _merge(result, known, one, person, item.path)
        done.close()
    return result, known


def _merge(result: Originals, known: KnownValues, one: _Read, person: int, path: str) -> None:
    known.add(one.found)
    KnownValues(result.people[person]).add(one.found)
    KnownValues(result.never_kept[person]).add(one.never_kept)
    known.births |= days_in(one.days[list(DAYS).index(BIRTH_DATE)][:8])
    number = len(result.files)
    result.files.append(OriginalFile(person, one.days, path))
    result.by_uid.setdefault(one.uid, number)
    if one.digest:
        other = result.by_pixels.setdefault(one.digest, number)
        if other >= 0 and result.files[other].person != person:
            result.by_pixels.pop(one.digest)  # pixels of two people say nothing


def _died(task: tuple[str, SourceFile]) -> _Read | Reason:
    return Reason.WORKER_DIED


def _read(task: tuple[str, SourceFile]) -> _Read | Reason:
    """Return what one original holds, or why it was not read."""
    try:
        with content(Path(task[0]), task[1]) as data:
            one, _ = instance.parsed(data)
            found, _ = collect(one.elements, one.encodings)
            never_kept, _ = collect(one.elements, one.encodings, lambda tag, vr: not names_somebody(tag))
            days = tuple(one.text(tag) for tag in DAYS)
            person = (one.patient_id or one.text(instance.STUDY), one.issuer)
            return _Read(person, found, never_kept, one.text(SOP_INSTANCE), pixel_digest(one), days)
    except Refused as refused:
        return refused.reason
    except BROKEN:
        return Reason.PROCESSING_FAILED
