"""The check of one DICOM file, in a worker process."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from meninx.core import value_caches
from meninx.deid.burned_in.burned_text import Reader
from meninx.deid.identifiers import Identifiers
from meninx.deid.options import Option
from meninx.deid.raw_search import ByteKind
from meninx.dicomfile import instance
from meninx.dicomfile.discover import SourceFile
from meninx.dicomfile.elements import Element
from meninx.dicomfile.instance import PATIENT_ID, SERIES, SOP_INSTANCE, STUDY, Instance
from meninx.dicomfile.refusals import Reason, Refused
from meninx.dicomfile.zip_archive import SEPARATOR
from meninx.imaging.decode import quiet
from meninx.verify import conformance, dicom_checks, other_files, pixel_text
from meninx.verify.dicom_checks import Place
from meninx.verify.dicom_findings import FileFinding, FileVerdict, verdict_of
from meninx.verify.identifier_places import IdentifierPlaces, OwnPatient
from meninx.verify.known_values import CERTAIN, KnownValues, days_in
from meninx.verify.originals import BROKEN, DAYS, OriginalFile, Originals, content, pixel_digest
from meninx.verify.person_evidence import BIRTH_DATE

_MOST_REFERENCES = 10_000  # of one file
_REFERENCE = 0x00081155


@dataclass(frozen=True)
class IdentifierSearch:
    """What every file is searched for.

    Attributes:
        known: identifiers of everybody.
        originals: the originals, if they are given.
        source: their folder.
        tool: path of dciodvfy; empty for no check of conformance.
        reader: how text in the pixels is found and read; None where it is not.
    """

    known: KnownValues = field(default_factory=KnownValues)
    originals: Originals = field(default_factory=Originals)
    source: Path | None = None
    tool: str = ""
    reader: Reader | None = None


@dataclass(frozen=True)
class FileOutcome:
    """What came of one file; it holds no value, only keyed or hashed identities.

    Attributes:
        findings: reason codes with places.
        dicom: whether it is DICOM.
        matched: whether its original is known.
        image: whether it has pixel data.
        ids: digests of patient, study, series and instance.
        references: digests of the instances that it refers to.
    """

    findings: tuple[FileFinding, ...]
    dicom: bool = True
    matched: bool = False
    image: bool = False
    ids: tuple[bytes, ...] = ()
    references: frozenset[bytes] = frozenset()

    @property
    def verdict(self) -> FileVerdict:
        """The verdict, by its worst finding."""
        return verdict_of(self.findings, dicom=self.dicom)


@contextmanager
def prepared(search: IdentifierSearch) -> Iterator[IdentifierSearch]:
    """Give what is searched to the files of one check in a process, which keeps nothing of it afterwards."""
    with value_caches.cleared():
        yield search


def died(task: tuple[str, SourceFile]) -> FileOutcome:
    """Return the outcome of a file that ends its worker."""
    return FileOutcome((FileFinding("unreadable", Reason.WORKER_DIED),))


def check(search: IdentifierSearch, task: tuple[str, SourceFile]) -> FileOutcome:
    """Return the outcome of one file; no file raises.

    Args:
        search: what is searched.
        task: the folder, and the file below it, whose path is searched, too.
    """
    root, entry = Path(task[0]), task[1]
    found = list(_in_path(words_of(entry.path), search.known))
    try:
        with quiet(), content(root, entry) as data:
            try:
                one, head = instance.parsed(data)
            except Refused as refused:
                found += other_files.findings(data, search.known, _place(root, entry))
                if refused.reason == Reason.NOT_DICOM:
                    return FileOutcome(tuple(found), dicom=False)
                found = [one for one in found if one.reason != "content-unread"]
                return FileOutcome((*found, FileFinding("unreadable", str(refused.reason))))
            return _checked(search, _place(root, entry), one, head, found)
    except Refused as refused:
        return FileOutcome((*found, FileFinding("unreadable", str(refused.reason))))
    except BROKEN:
        return FileOutcome((*found, FileFinding("unreadable", Reason.PROCESSING_FAILED)))


def _place(root: Path, entry: SourceFile) -> Path | None:
    """Return the path of a file on the disk; None for a member of an archive."""
    if entry.member is not None:
        return None
    return root / entry.path if root.is_dir() else root


def _in_path(words: str, known: KnownValues) -> Iterator[FileFinding]:
    """Yield whether a path holds an identifier; a birth date in it may be another day that was shifted."""
    if known.hit(words) == CERTAIN:
        yield FileFinding("identifier-in-path", "path")
    elif days_in(words) & known.births:
        yield FileFinding("identifier-by-chance", "path")


def words_of(path: str) -> str:
    """Return a path as text in which identifiers are searched."""
    return path.replace("/", " ").replace("_", " ")


def _checked(
    search: IdentifierSearch, path: Path | None, one: Instance, head: bytes, found: list[FileFinding]
) -> FileOutcome:
    meta = instance.meta_elements(head)
    found += dicom_checks.check(one, meta, head)
    digest = pixel_digest(one) if search.originals.by_pixels else b""
    original = search.originals.of(one.text(SOP_INSTANCE), digest)
    own = search.originals.people[original.person] if original is not None else Identifiers()
    if search.known:
        found += _known(search, one, meta, head, original)
        found += _unchanged(one, original)
    if search.reader is not None and one.pixels:
        found += pixel_text.findings(one, own, search.known, search.reader)
    if search.tool:
        found += _conformance(search, path, original) if path is not None else ()
    refers = (place.text.strip(" \0") for place in _references(one))
    return FileOutcome(
        tuple(dict.fromkeys(found)),
        matched=original is not None,
        image=bool(one.pixels),
        ids=tuple(_hashed(one.text(tag)) for tag in (PATIENT_ID, STUDY, SERIES, SOP_INSTANCE)),
        references=frozenset(
            _hashed(uid) for uid, _ in zip(refers, range(_MOST_REFERENCES), strict=False) if uid
        ),
    )


def _known(
    search: IdentifierSearch, one: Instance, meta: list[Element], head: bytes, original: OriginalFile | None
) -> Iterator[FileFinding]:
    """Yield where a known identifier stands in the data set, around it, and in the pixel data."""
    person = OwnPatient(Identifiers())
    if original is not None:
        birth = original.days[list(DAYS).index(BIRTH_DATE)][:8]
        days = tuple(day for tag, day in zip(DAYS, original.days, strict=True) if tag != BIRTH_DATE)
        own, never_kept = (
            group[original.person] for group in (search.originals.people, search.originals.never_kept)
        )
        person = OwnPatient(own, birth, days, never_kept)
    places = IdentifierPlaces(one, search.known, person)
    yield from places.findings()
    for element in meta:
        if element.items is None:
            yield from places.in_bytes(bytes(element.value), "file meta", vr=element.vr)
    if head[128:132] == b"DICM":
        yield from places.in_bytes(head[:128].rstrip(b"\0"), "preamble")
    for element in one.pixels:
        if element.items is not None:
            continue
        if places.in_raw(element.value, ByteKind.CODED if element.undefined else ByteKind.SAMPLES):
            yield FileFinding("identifier-in-bytes", "PixelData")


def _references(one: Instance) -> Iterator[Place]:
    return (
        place for place in dicom_checks.places(one.elements, one.encodings) if place.element.tag == _REFERENCE
    )


def _hashed(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest() if text else b""


def _unchanged(one: Instance, original: OriginalFile | None) -> Iterator[FileFinding]:
    """Yield the days that equal those of the original although the file declares no option to keep them."""
    if original is None or Option.RETAIN_FULL_DATES in dicom_checks.declared_options(one):
        return
    for (tag, keyword), day in zip(DAYS.items(), original.days, strict=True):
        if day and one.text(tag) == day:
            yield FileFinding("date-unchanged", keyword)


def _conformance(
    search: IdentifierSearch, path: Path, original: OriginalFile | None
) -> Iterator[FileFinding]:
    now = conformance.errors(path, search.tool)
    before: Counter[str] | None = Counter()
    if original is not None and search.source is not None:
        source = search.source
        if SEPARATOR in original.path:  # a member of an archive
            return
        before = conformance.errors(source / original.path if source.is_dir() else source, search.tool)
    if now is None or before is None:
        yield FileFinding("conformance-unchecked", "dciodvfy")
    elif now - before:
        yield FileFinding("new-conformance-error", "dciodvfy")
