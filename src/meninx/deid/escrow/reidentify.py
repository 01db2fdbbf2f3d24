"""Restoring originals from an escrow, into one private table; no DICOM file is rewritten."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pydicom.dataset import Dataset

from meninx.core import files, names, workspace
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.core.names import csv_cell
from meninx.core.result import Result
from meninx.core.summaries import number_of
from meninx.deid import dates
from meninx.deid.escrow import escrow_file, identities
from meninx.deid.escrow.access_log import AccessLog, checked_reason, log_of
from meninx.deid.escrow.escrow_file import Opener
from meninx.deid.escrow.identities import Archive, Identity
from meninx.dicomfile.discover import files_below
from meninx.imaging import decode

COLUMNS = ("kind", "pseudonym", "new", "original", "issuer", "domain", "shift_days", "file", "attribute")
_EXACT = {"DA": 8, "DT": 8}  # signs of a date that moves back exactly; a shorter DT is partial
_SHOWN = 10  # paths in the alert; all are in the result
Row = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be restored; exactly one of the three.

    Attributes:
        pseudonyms: new PatientIDs.
        dicom: clean DICOM file, or a folder of them.
        everything: every patient of the escrow.
    """

    pseudonyms: tuple[str, ...] = ()
    dicom: Path | None = None
    everything: bool = False

    def __post_init__(self) -> None:
        if bool(self.pseudonyms) + (self.dicom is not None) + self.everything != 1:
            fix = "name pseudonyms (or --ids FILE), or --dicom PATH, or --all"
            raise UsageError(expected("one request", got="none or several", where="reidentify", fix=fix))

    @property
    def kind(self) -> str:
        """The word of the access log."""
        if self.everything:
            return "all"
        return "dicom" if self.dicom else "pseudonyms"


@dataclass(frozen=True, kw_only=True)
class ReidentifyResult(Result):
    """Counts of what was restored; the values are in the table alone.

    Attributes:
        site: site of the escrow.
        asked: pseudonyms that were asked for; 0 for all.
        patients: patients who were found.
        unknown: pseudonyms that the escrow does not hold.
        rows: rows of the table, per kind.
        dates: what the archive's options did to dates: ``shifted``, ``kept`` or ``removed``.
        partial_dates: dates without a day, which were restored from the middle of their month or year.
        files_skipped: files below ``--dicom`` that are no DICOM, or of no patient of the escrow.
        unreadable: paths below ``--dicom`` of DICOM files of which not every value can be read; what can be
            read of them is restored.
        access_log: where this was recorded.
        dry_run: nothing was written or recorded.
    """

    site: str
    asked: int
    patients: int
    unknown: int
    rows: dict[str, int] = field(default_factory=dict)
    dates: str = "shifted"
    partial_dates: int = 0
    files_skipped: int = 0
    unreadable: tuple[str, ...] = ()
    access_log: Path | None = None
    dry_run: bool = False

    def alerts(self) -> tuple[str, ...]:
        """Return which files may hold more than was restored."""
        if not self.unreadable:
            return ()
        several = number_of(len(self.unreadable), "DICOM file has values", "DICOM files have values")
        shown = ", ".join(names.printable(path) for path in self.unreadable[:_SHOWN])
        more = f" and {len(self.unreadable) - _SHOWN} more" if len(self.unreadable) > _SHOWN else ""
        return (f"{several} that cannot be read and were not restored: {shown}{more}",)

    def summary(self) -> str:
        """Return the counts in a few lines for people."""
        rows = ", ".join(f"{number} {kind}" for kind, number in self.rows.items())
        lines = [
            f"site {self.site}: {number_of(self.patients, 'patient')} restored, {self.unknown} unknown"
            + (" (dry run: nothing was written or recorded)" if self.dry_run else f" ({self.out})"),
            f"rows: {rows or 'none'}; dates were {self.dates}",
        ]
        if self.partial_dates:
            lines.append(
                number_of(self.partial_dates, "date has no day and is", "dates have no day and are")
                + " not exact"
            )
        if self.files_skipped:
            lines.append(
                number_of(self.files_skipped, "file is", "files are")
                + " no DICOM, or of no patient of the escrow"
            )
        return "\n".join([*lines, *([f"recorded in {self.access_log}"] if self.access_log else [])])


def run(
    escrow: Path, opener: Opener, request: Request, out: Path, *, reason: str = "", site: str | None = None,
    dry_run: bool = False,
) -> ReidentifyResult:  # fmt: skip
    """Write the originals of the patients that were asked for, and record that it was done.

    Guarantee: the table appears (mode 0600) only after the whole escrow was found authentic and complete and
        the access log has its line on the disk.

    Args:
        escrow: the sealed file.
        opener: the key.
        request: what to restore.
        out: CSV table to write, outside of every result.
        reason: who needs it and what for; stands in the log.
        site: refuse the escrow of another site; None accepts any.
        dry_run: count only; nothing is written or recorded.

    Raises:
        PrivacyRefusal: the escrow is for another key or site, or was changed; or the log was changed.
        DataError: no pseudonym is known, or a file is not what it should be.
        UsageError: no reason, or a place for the table where it must not lie.
    """
    files.refuse_special(out)
    workspace.outside(out, [request.dicom] if request.dicom and request.dicom.is_dir() else [])
    why = "" if dry_run else checked_reason(reason)
    header = escrow_file.read_header(escrow)
    escrow_file.refuse_other_site(header, site, where=escrow.name)
    wanted = _patients_in(request.dicom) if request.dicom else set(request.pseudonyms)
    table = _Table(None if request.everything else wanted, keep=request.dicom is not None)
    log = AccessLog(log_of(opener, header.site), opener.log_key(header), escrow)

    def result(*, log_place: Path | None) -> ReidentifyResult:
        return ReidentifyResult(
            out=out, site=escrow_file.shown(header.site), asked=len(wanted), patients=len(table.found),
            unknown=len(wanted - table.found), rows=dict(sorted(table.rows.items())), dates=table.dates,
            partial_dates=table.partial, files_skipped=table.skipped,
            unreadable=tuple(table.unreadable), access_log=log_place, dry_run=dry_run,
        )  # fmt: skip

    if dry_run:
        _restore(escrow, opener, request, table, _nowhere)
        return result(log_place=None)
    with log.opened(), files.atomic(out, mode=files.PRIVATE_MODE) as stream:
        _restore(escrow, opener, request, table, lambda row: stream.write(_csv(row)))
        if not table.found:
            what = "the escrow holds none of the patients that were asked for"
            raise DataError(
                problem(what, where=escrow.name, fix="check the pseudonyms, or the escrow's site")
            )
        log.append(
            reason=why,
            escrow=files.digest(escrow),
            request=request.kind,
            asked=len(wanted),
            found=table.found,
        )
    return result(log_place=log.path)


class _Table:
    """What was found so far, and the rows that DICOM files will need."""

    def __init__(self, wanted: set[str] | None, *, keep: bool) -> None:
        self.wanted, self.keep = wanted, keep
        self.found: set[str] = set()
        self.rows: dict[str, int] = defaultdict(int)
        self.dates, self.partial, self.skipped = "shifted", 0, 0
        self.unreadable = list[str]()
        self.kept: dict[tuple[str, str, str], list[Identity]] = defaultdict(list)  # (kind, pseudonym, new)
        self.shifts: dict[str, int] = {}

    def takes(self, identity: Identity) -> bool:
        if self.wanted is not None and identity.pseudonym not in self.wanted:
            return False
        if identity.kind == "patient":
            self.found.add(identity.pseudonym)
            if identity.shift_days is not None:
                self.shifts[identity.pseudonym] = identity.shift_days
        if self.keep:
            self.kept[identity.kind, identity.pseudonym, identity.new].append(identity)
        return True


def _restore(
    escrow: Path, opener: Opener, request: Request, table: _Table, write: Callable[[Row], object]
) -> None:
    write(COLUMNS)

    def add(row: Row) -> None:
        table.rows[row[0]] += 1
        write(row)

    for line in identities.parsed(escrow_file.read(escrow, opener), where=escrow.name):
        if isinstance(line, Archive):
            table.dates = line.dates
        elif table.takes(line) and not table.keep:
            add(_row(line))
    if request.dicom is not None:
        for one in _datasets(request.dicom, table):
            for row in _rows_of(one, table):
                add(row)


def _row(identity: Identity, file: str = "", attribute: str = "") -> Row:
    shift = "" if identity.shift_days is None else str(identity.shift_days)
    return (
        identity.kind, identity.pseudonym, identity.new, identity.original, identity.issuer, identity.domain,
        shift, file, attribute,
    )  # fmt: skip


def _rows_of(one: _Opened, table: _Table) -> Iterator[Row]:
    """Yield the originals of one clean file: patient, accession number, UIDs and dates, with their places."""
    path, pseudonym = one.path, one.pseudonym
    days = table.shifts.get(pseudonym)
    damaged = list[str]()
    for place, vr, value in _values(one.dataset or Dataset(), "", damaged):
        kind = {"00100020": "patient", "00080050": "accession"}.get(place, "uid" if vr == "UI" else "")
        known = table.kept.get((kind, pseudonym, value))
        if known is not None:
            yield from (_row(identity, path, place) for identity in known)
        elif vr in _EXACT and value and days is not None:
            back = (dates.shift_da if vr == "DA" else dates.shift_dt)(value, -days)
            table.partial += vr == "DT" and len(value.partition("-")[0].partition("+")[0]) < _EXACT[vr]
            yield ("date", pseudonym, value, back, "", "", str(days), path, place)
    if damaged:
        table.unreadable.append(names.encodable(path))


def _values(dataset: Dataset, above: str, damaged: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield (place, VR, value) of every identifier, date and UID, nested ones too.

    A place is a tag of eight hexadecimal digits, after those of the sequences around it; those of malformed
    values are added to ``damaged``.
    """
    for tag in sorted(dataset.keys()):
        place = f"{above}{tag:08X}"
        try:
            with decode.guarded():
                element = dataset[tag]
        except DataError:
            damaged.append(place)
            continue
        if element.VR == "SQ":
            for number, item in enumerate(element.value):
                yield from _values(item, f"{place}[{number}].", damaged)
        elif element.VR in ("UI", *_EXACT) or place in ("00100020", "00080050"):
            several = element.value if element.VM > 1 else [element.value]
            for value in several:
                yield place, element.VR, str(value or "")


def _patients_in(path: Path) -> set[str]:
    """Return the pseudonyms of the DICOM files at a path."""
    found = {one.pseudonym for one in _opened(path, ("PatientID",)) if one.dataset is not None}
    if not found:
        raise DataError(problem("there is no readable DICOM file", where="dicom", fix="check the path"))
    return found


def _datasets(path: Path, table: _Table) -> Iterator[_Opened]:
    """Yield the files of the patients who were found; the others are counted, and named if unreadable."""
    for one in _opened(path, None):
        if one.is_damaged:
            table.unreadable.append(names.encodable(one.path))
        elif one.dataset is None or one.pseudonym not in table.found:
            table.skipped += 1
        else:
            yield one


class _Opened(NamedTuple):
    """One file: its path, its header unless it is no readable DICOM, and its PatientID."""

    path: str
    dataset: Dataset | None = None
    pseudonym: str = ""
    is_damaged: bool = False


def _opened(path: Path, keywords: tuple[str, ...] | None) -> Iterator[_Opened]:
    """Yield every file; one that begins like DICOM and cannot be read stops nothing."""
    root = path.parent if path.is_file() else path
    for found in files_below(path):
        place = root / found.path
        if found.refused or not decode.is_dicom(place):
            yield _Opened(found.path)
            continue
        try:
            dataset = decode.open_dataset(place, pixels=False, keywords=keywords)
            pseudonym = decode.header_texts(dataset, ["PatientID"])["PatientID"]
        except DataError:
            yield _Opened(found.path, is_damaged=True)
            continue
        yield _Opened(found.path, dataset, pseudonym)


def _csv(row: Row) -> bytes:
    text = io.StringIO(newline="")
    cells = [cell if name == "shift_days" else _cell(cell) for name, cell in zip(COLUMNS, row, strict=True)]
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _cell(text: str) -> str:
    """Return a cell that no spreadsheet calculates; without its first apostrophe, if any, it is the text.

    A number with a sign gets one, too, because a spreadsheet would drop the sign of an identifier.
    """
    quoted = text[:1] in ("'", "+", "-") or csv_cell(text) != text
    return f"'{text}" if quoted and text else text


def _nowhere(row: Row) -> None:
    """Take a row of a dry run."""
