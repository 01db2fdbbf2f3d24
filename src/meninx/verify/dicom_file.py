"""The check of one DICOM file, in a worker process."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from meninx.core import value_caches
from meninx.deid.actions import STRINGS
from meninx.deid.burned_in.burned_text import Reader
from meninx.deid.identifiers import Identifiers, is_class_uid, is_common, keyword_of
from meninx.deid.identity.pseudonyms import is_registered
from meninx.deid.options import Option
from meninx.deid.profile import canonical, rows
from meninx.deid.raw_search import Kind
from meninx.deid.text_in_bytes import is_texty
from meninx.deid.wording.terms import is_term
from meninx.dicomfile import instance
from meninx.dicomfile.discover import SourceFile
from meninx.dicomfile.file_part import FilePart, Piece
from meninx.dicomfile.instance import PATIENT_ID, SERIES, SOP_INSTANCE, STUDY, Instance
from meninx.dicomfile.refusals import Reason, Refused
from meninx.dicomfile.zip_archive import SEPARATOR
from meninx.imaging.decode import quiet
from meninx.verify import conformance, dicom_checks, pixel_text
from meninx.verify.dicom_checks import Place
from meninx.verify.dicom_findings import FileFinding, FileVerdict, verdict_of
from meninx.verify.known_values import CERTAIN, CHANCE, KnownValues, days_in
from meninx.verify.originals import BROKEN, DAYS, OriginalFile, Originals, content, pixel_digest

_SMALL = 8 << 20  # bytes of a file that is no DICOM and is searched as text
_MOST_REFERENCES = 10_000  # of one file
_REFERENCE = 0x00081155
_TIMES = frozenset({"AS", "TM"})
_NUMBERS = frozenset({"DS", "IS"})


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
    shown = entry.path
    found = (
        [FileFinding("identifier-in-path", "path")] if search.known.hit(words_of(shown)) == CERTAIN else []
    )
    try:
        with quiet(), content(root, entry) as data:
            try:
                one, head = instance.parsed(data)
            except Refused as refused:
                return _unparsed(search, refused.reason, data, found)
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


def words_of(path: str) -> str:
    """Return a path as text in which identifiers are searched."""
    return path.replace("/", " ").replace("_", " ")


def _unparsed(
    search: IdentifierSearch, reason: str, data: bytes | FilePart, found: list[FileFinding]
) -> FileOutcome:
    """Return the outcome of a file that is no readable DICOM; its bytes are searched."""
    if search.known and search.known.raw.found_in(data, frozenset()):
        found.append(FileFinding("identifier-in-bytes", "file"))
    elif search.known and isinstance(data, bytes) and len(data) <= _SMALL:
        lines = _text_of(data).splitlines()
        if any(search.known.hit(line, prose=True) == CERTAIN for line in lines):
            found.append(FileFinding("identifier-in-bytes", "file"))
    if reason == Reason.NOT_DICOM:
        return FileOutcome(tuple(found), dicom=False)
    return FileOutcome((*found, FileFinding("unreadable", str(reason))))


def _text_of(data: bytes) -> str:
    """Return the text of a file in UTF-8 or UTF-16, with or without its mark; empty for other bytes."""
    sample = data[:4096]
    for encoding, mark, zeros in (
        ("utf-16-le", b"\xff\xfe", sample[1::2]),
        ("utf-16-be", b"\xfe\xff", sample[::2]),
    ):
        if data.startswith(mark) or (zeros and zeros.count(0) > 0.5 * len(zeros)):
            text = data.decode(encoding, "replace").lstrip("\ufeff")
            return text if is_texty(text[:4096].encode()) else ""
    return data.decode("utf-8", "replace") if is_texty(data) else ""


def _checked(
    search: IdentifierSearch, path: Path | None, one: Instance, head: bytes, found: list[FileFinding]
) -> FileOutcome:
    meta = instance.meta_elements(head)
    found += dicom_checks.check(one, meta, head)
    digest = pixel_digest(one) if search.originals.by_pixels else b""
    original = search.originals.of(one.text(SOP_INSTANCE), digest)
    own = search.originals.people[original.person] if original is not None else Identifiers()
    if search.known:
        found += _identifiers(search, one, head, own)
        found += _unchanged(one, original)
        for element in meta:
            found += _bytes(search, bytes(element.value), "file meta", own) if element.items is None else ()
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


def _references(one: Instance) -> Iterator[Place]:
    return (
        place for place in dicom_checks.places(one.elements, one.encodings) if place.element.tag == _REFERENCE
    )


def _hashed(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest() if text else b""


def _identifiers(
    search: IdentifierSearch, one: Instance, head: bytes, own: Identifiers
) -> Iterator[FileFinding]:
    """Yield where an identifier stands: of the file's own patient in any spelling, of others certainly."""
    options = dicom_checks.declared_options(one)
    all_places = list(dicom_checks.places(one.elements, one.encodings))
    in_dates = {
        day for place in all_places if place.element.vr in ("DA", "DT") for day in days_in(place.text[:8])
    }
    names = Identifiers(names={name for name in own.names if not is_common(name)})
    whole = Identifiers(names=names.names, numbers=own.numbers, uids=own.uids, phrases=own.phrases)
    days = Identifiers(days=own.days - in_dates)
    for place in all_places:
        tag, vr = place.element.tag, place.element.vr
        if place.path.startswith("DeidentificationMethodCode") or vr in _TIMES or vr in ("DA", "DT"):
            continue
        kept = _kept_on_purpose(tag, options)
        yield from _in_place(search, place, kept, names if kept else whole, days)
    if head[128:132] == b"DICM":
        yield from _bytes(search, head[:128].rstrip(b"\0"), "preamble", own)
    for element in one.pixels:
        if element.items is not None:
            continue
        kind = Kind.CODED if element.undefined else Kind.SAMPLES
        if _raw(search, element.value, own, kind):
            yield FileFinding("identifier-in-bytes", "PixelData")


def _kept_on_purpose(tag: int, options: frozenset[Option]) -> bool:
    """Return whether an option that the file declares keeps this attribute as it was."""
    row = rows().get(canonical(tag))
    return row is not None and any(row.cells.get(option) == "K" for option in options)


def _in_place(
    search: IdentifierSearch, place: Place, kept: bool, own: Identifiers, days: Identifiers
) -> Iterator[FileFinding]:
    vr, keyword = place.element.vr.split(" or ")[0], keyword_of(place.element.tag)
    if vr == "UI":
        if not kept and not is_class_uid(keyword) and _holds_uid(search, place.text):
            yield FileFinding("uid-unchanged", place.path)
        return
    if vr in STRINGS or is_texty(bytes(place.element.value[:4096])):
        text = place.text if vr in STRINGS else bytes(place.element.value).decode("latin-1")
        word = _hit(search, text, vr, keyword, kept, own, days)
        if word:
            yield FileFinding("identifier" if word == CERTAIN else "identifier-by-chance", place.path)
    if vr not in STRINGS and not kept and _raw(search, place.element.value, own, Kind.BYTES):
        yield FileFinding("identifier-in-bytes", place.path)


def _holds_uid(search: IdentifierSearch, text: str) -> bool:
    values = (value.strip(" \0") for value in text.split("\\"))
    return any(value in search.known.values.uids and not is_registered(value) for value in values)


def _hit(
    search: IdentifierSearch,
    text: str,
    vr: str,
    keyword: str,
    kept: bool,
    own: Identifiers,
    days: Identifiers,
) -> str:
    """Return how certainly a text holds an identifier; empty for not at all."""
    if vr in _NUMBERS:
        values = text.split("\\")
        if any(own.spelled_by(value) or search.known.spelled_by(value) for value in values):
            return CERTAIN
        return ""
    if vr == "CS":
        text = "\\".join(value for value in text.split("\\") if not is_term(value.strip(" \0"), keyword))
    if own.found_in(text) or days.found_in(text) or own.spelled_apart_in(text):
        return CERTAIN
    hit = search.known.hit(text)
    return "" if kept and hit == CHANCE else _unless_kept(search, hit, kept, text)


def _unless_kept(search: IdentifierSearch, hit: str, kept: bool, text: str) -> str:
    """Return a hit, unless an option keeps the attribute and the hit is no name."""
    if hit and kept:
        return (
            CERTAIN if KnownValues(Identifiers(names=search.known.values.names)).hit(text) == CERTAIN else ""
        )
    return hit


def _bytes(search: IdentifierSearch, value: bytes, place: str, own: Identifiers) -> Iterator[FileFinding]:
    """Yield whether bytes that may be text hold an identifier."""
    hit = search.known.hit(value.decode("latin-1")) if is_texty(value) else ""
    if hit == CERTAIN or _raw(search, value, own):
        yield FileFinding("identifier-in-bytes", place)
    elif hit:
        yield FileFinding("identifier-by-chance", place)


def _raw(search: IdentifierSearch, value: Piece, own: Identifiers, kind: Kind = Kind.TEXT) -> bool:
    return own.found_in_bytes(value, kind) or search.known.raw.found_in(value, frozenset(), kind=kind)


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
