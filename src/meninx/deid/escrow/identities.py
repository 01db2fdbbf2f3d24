"""The text of an escrow: a line of JSON for the archive, and one for each pair of identifiers, sorted.

    {"dates":"shifted","format":1,"site":"north"}
    ["accession","P0…","A1…","ACC-1","","",null]
    ["patient","P0…","P0…","0000123","NORTH","",-1234]
    ["uid","P0…","2.25.…","1.2.…","","",null]

The text is a function of the journal, key and options: the same archive gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from meninx.core.artifacts import DeidRecord
from meninx.core.errors import DataError, problem
from meninx.deid.identity.pseudonyms import Pseudonyms
from meninx.deid.options import Option
from meninx.deid.output import WRITTEN, FileResult, SortedLines

Dates = Literal["shifted", "kept", "removed"]
TABLE = "escrow"
_LONGEST_LINE = 1 << 20  # bytes
_FORMAT = 1


class Archive(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line: what holds for the whole archive.

    Attributes:
        site: name of the site.
        dates: what was done to dates.
    """

    format: Literal[1]
    site: str
    dates: Dates


class Identity(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One pair of identifiers.

    Attributes:
        kind: ``patient``, ``uid`` or ``accession``.
        pseudonym: new PatientID of the patient whom it belongs to.
        new: identifier in the clean archive.
        original: identifier in the hospital; empty for a patient without PatientID.
        issuer: original IssuerOfPatientID of a patient.
        domain: domain of a patient; empty for the site's own.
        shift_days: added to the patient's dates; None where dates are not shifted, and for other kinds.
    """

    kind: Literal["patient", "uid", "accession"]
    pseudonym: str
    new: str
    original: str
    issuer: str = ""
    domain: str = ""
    shift_days: Annotated[int, Meta(ge=-4000, le=4000)] | None = None


def dates_of(record: DeidRecord) -> Dates:
    """Return what an archive's options did to dates."""
    if Option.RETAIN_FULL_DATES in record.options:
        return "kept"
    return "shifted" if Option.RETAIN_MODIFIED_DATES in record.options else "removed"


def collect(
    lines: SortedLines, entries: Iterable[FileResult], record: DeidRecord, pseudonyms: Pseudonyms
) -> int:
    """Add the identities of an archive's files to a collection; return how many files there are.

    Args:
        lines: the collection.
        entries: the journal.
        record: summary of the archive.
        pseudonyms: the site's maps, from which the shifts are computed again.
    """
    number, dates = 0, dates_of(record)
    for entry in entries:
        if entry.status != WRITTEN:
            continue
        number += 1
        for identity in _identities(entry, dates, pseudonyms):
            lines.add(TABLE, msgspec.json.encode(identity) + b"\n")
    return number


def text(lines: SortedLines, record: DeidRecord) -> Iterator[bytes]:
    """Yield the lines of the text."""
    head = {"format": _FORMAT, "site": record.site, "dates": dates_of(record)}
    yield json.dumps(head, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    yield from lines.of(TABLE)


def parsed(pieces: Iterable[bytes], *, where: str) -> Iterator[Archive | Identity]:
    """Yield the archive, then every identity.

    Args:
        pieces: the text, cut anywhere.
        where: name of the file, for messages.

    Raises:
        DataError: a line is not as :func:`text` writes it.
    """
    kind: type[Archive] | type[Identity] = Archive
    for line in _lines(pieces, where):
        try:
            yield msgspec.json.decode(line, type=kind)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise DataError(
                problem("a line of the escrow is not as meninx writes it", where=where)
            ) from error
        kind = Identity
    if kind is Archive:
        raise DataError(problem("the escrow is empty", where=where))


def _lines(pieces: Iterable[bytes], where: str) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            raise DataError(problem("a line of the escrow is too long", where=where))
        yield from whole
    if rest:
        raise DataError(problem("the last line of the escrow is not complete", where=where))


def _identities(entry: FileResult, dates: Dates, pseudonyms: Pseudonyms) -> Iterator[Identity]:
    old, new = entry.patient
    # The journal maps originals to new UIDs; retained UIDs are not in it and are their own originals.
    originals = {made: original for original, made in entry.uids.items()}
    patient = pseudonyms.patient(old, entry.domain, originals.get(entry.study, entry.study))
    shift = patient.shift_days if dates == "shifted" else None
    yield Identity("patient", new, new, _text(old), _text(entry.issuer), entry.domain, shift)
    for kind, pairs in (("uid", entry.uids), ("accession", entry.accessions)):
        for original, made in pairs.items():
            yield Identity(kind, new, made, _text(original))  # type: ignore[arg-type]


def _text(value: str) -> str:
    """Return a value that JSON can hold: bytes that were no text are shown as escapes."""
    return value.encode("utf-8", "backslashreplace").decode()


def pseudonyms_in(path: Path) -> tuple[str, ...]:
    """Return the pseudonyms that a CSV file lists in a column ``pseudonym``, ``patient_id`` or ``id_new``.

    Raises:
        LayoutError: there is no such column, or the file is no table.
    """
    from meninx.core.csv_table import read_table
    from meninx.core.errors import LayoutError, expected

    table = read_table(path)
    named = ("pseudonym", "patient_id", "id_new")
    for row in table:
        column = next((name for name in named if row.has(name)), None)
        if column is None:
            break
        return tuple(dict.fromkeys(item.get(column) for item in table if item.get(column)))
    raise LayoutError(
        expected(f"a row and one of the columns {', '.join(named)}", got="no such row", where=path.name)
    )
