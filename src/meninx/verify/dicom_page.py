"""The page of a check of DICOM files, with the template of the report."""

from __future__ import annotations

from datetime import UTC, datetime

from meninx.core.summaries import number_of
from meninx.report import page
from meninx.report.table_model import ReportTable, Section, TableCell, Verdict, facts
from meninx.verify.check_parts import HEADERS, KNOWN, PIXELS, PartState
from meninx.verify.dicom_findings import REASONS, FileFinding, FileVerdict, Weight
from meninx.verify.dicom_result import MOST_SHOWN, CheckedFile, DicomCheckResult, unread_in_words
from meninx.verify.pixel_text import UNREAD

_ROWS = 40  # rows that are not folded away
_IDENTIFIED = frozenset(
    {"identifier", "identifier-in-path", "identifier-in-bytes", "date-unchanged", "uid-unchanged"}
)
_ON_OTHER_CARDS = frozenset({"marker-missing", "text-in-pixels", UNREAD})


def render(result: DicomCheckResult) -> str:
    """Return one self-contained page: verdicts, reasons, what was checked and what was not, files."""
    return page.render_sections(
        title="Check of DICOM files",
        date=datetime.now(UTC).date().isoformat(),
        verdicts=_cards(result),
        sections=(_reasons(result), _scope(result), _files(result)),
        holds="It holds no image and no value of a file.",
    )


def _cards(result: DicomCheckResult) -> tuple[Verdict, ...]:
    """Return one card for each question; one is green only for what was checked, and wholly."""
    return (
        _deidentified(result),
        _known(result),
        _pixels(result),
        _remainder(result),
        _files_read(result),
        Verdict(
            "Can a face be recognized?",
            "grey",
            PartState.NOT,
            "",
            "images of a head may show a face; this check does not look for it",
            "never green",
            "scope",
        ),
    )


def _deidentified(result: DicomCheckResult) -> Verdict:
    raw, unmarked = (result.reasons.get(code, 0) for code in ("not-deidentified", "marker-missing"))
    dicom = number_of(result.dicom, "DICOM file")
    first, count = ("green", "yes"), f"{unmarked:,} of {dicom} without marker"
    if raw:
        first, count = ("red", "no"), f"{raw:,} of {dicom}"
    elif unmarked:
        first = ("amber", "not all")
    elif result.state(HEADERS) is not PartState.CHECKED:
        first = ("amber", "yes where read")
    return Verdict(
        "Does every file say that it is de-identified?",
        *first,
        count,
        "red: files without any marker that name a person",
        "green: PatientIdentityRemoved is YES in all DICOM files",
        "reasons",
    )


def _known(result: DicomCheckResult) -> Verdict:
    found = len([item for item in result.findings if any(one.reason in _IDENTIFIED for one in item.findings)])
    people = f" of {number_of(result.people, 'person', 'people')}" if result.people else ""
    known = f"{number_of(result.values, 'value')}{people} searched" if result.values or people else ""
    state = result.state(KNOWN)
    first = {
        PartState.CHECKED: ("green", "none found"),
        PartState.PARTLY: ("amber", "none found where read"),
        PartState.NOT: ("grey", "not checked"),
    }[state]
    return Verdict(
        "Is a known identifier in headers, bytes or paths?",
        *(("red", "yes") if found else first),
        f"{found:,} {_of(result)}" if state is not PartState.NOT else "",
        known or "neither originals nor a list of identifiers was given",
        "green: none",
        "reasons",
    )


def _pixels(result: DicomCheckResult) -> Verdict:
    known, text = (result.reasons.get(code, 0) for code in ("identifier-in-pixels", "text-in-pixels"))
    state = result.state(PIXELS)
    first = {
        PartState.CHECKED: ("green", "none found"),
        PartState.PARTLY: ("amber", "none found where read"),
        PartState.NOT: ("grey", "not checked"),
    }[state]
    if known:
        first = ("red", "with an identifier")
    elif text:
        first = ("amber", "yes")
    what = next(part.what for part in result.parts if part.name == PIXELS)
    return Verdict(
        "Is there text in the pixels?",
        *first,
        f"{known or text:,} of {number_of(result.images, 'image')}" if state is not PartState.NOT else "",
        what if state is not PartState.NOT else "the pixels were not read; --pixels reads them",
        "green: none but technical text",
        "reasons" if state is not PartState.NOT else "scope",
    )


def _remainder(result: DicomCheckResult) -> Verdict:
    suspicious = sum(any(map(_is_remainder, item.findings)) for item in result.findings)
    whole = result.state(HEADERS) is PartState.CHECKED
    first = ("amber", "yes") if suspicious else ("green", "no")
    return Verdict(
        "Is there something else to look at?",
        *(first if suspicious or whole else ("amber", "not where read")),
        f"{suspicious:,} {_of(result)}",
        "attributes, private elements, hidden bytes; each reason is listed",
        "green: no file",
        "reasons",
    )


def _is_remainder(found: FileFinding) -> bool:
    """Return whether a finding is something to look at that no other card counts."""
    return REASONS[found.reason][0] is Weight.SUSPICIOUS and found.reason not in _ON_OTHER_CARDS


def _files_read(result: DicomCheckResult) -> Verdict:
    unread = result.reasons.get("unreadable", 0)
    return Verdict(
        "Was every file read?",
        *(("amber", "no") if unread else ("green", "yes")),
        f"{unread:,} {_of(result)} unreadable",
        f"no DICOM, and without a finding: {number_of(result.verdicts.get(FileVerdict.OTHER, 0), 'file')}",
        "green: all",
        "files",
    )


def _of(result: DicomCheckResult) -> str:
    return f"of {number_of(result.files, 'file')}"


def _reasons(result: DicomCheckResult) -> Section:
    rows = tuple(
        (
            TableCell(code, head=True),
            TableCell(str(REASONS[code][0])),
            TableCell(REASONS[code][1]),
            TableCell(f"{count:,}", number=True),
        )
        for code, count in result.reasons.items()
    )
    by_place = tuple(
        (TableCell(reason, head=True), TableCell(where or "file"), TableCell(f"{count:,}", number=True))
        for reason, _, where, count in ((*key.partition(" "), count) for key, count in result.places.items())
    )
    tables = [ReportTable("Files per reason", ("reason", "weight", "meaning", "files"), rows, wide=True)]
    if by_place:
        tables.append(
            ReportTable(
                "Files per reason and place",
                ("reason", "place", "files"),
                by_place[:_ROWS],
                more=by_place[_ROWS:],
                wide=True,
            )
        )
    lead = (result.verdict[0].upper() + result.verdict[1:] + ".",)
    return Section("reasons", "What was found", lead=lead, tables=tuple(tables if rows else ()))


def _scope(result: DicomCheckResult) -> Section:
    numbers = facts(
        "Numbers",
        [
            ("files", result.files),
            *((str(word), count) for word, count in result.verdicts.items()),
            ("originals read", result.originals),
            *(
                (f"originals not read: {words}", count)
                for words, count in unread_in_words(result.originals_unread)
            ),
            ("files whose original is known", result.matched),
            ("identifiers searched", result.values),
            ("references to instances that are not here", result.dangling),
        ],
    )
    scope = ReportTable(
        "Parts of the check",
        ("part", "state", "what"),
        tuple(
            (TableCell(part.name, head=True), TableCell(part.state), TableCell(part.what))
            for part in result.parts
        ),
        wide=True,
    )
    paths = (f"Not read: {path}" for path in result.unread_paths[:MOST_SHOWN])
    points = (
        *paths,
        "Suspicious does not mean identifying: it means that the file does not show that it is clean.",
        "In a file without a reason, what was checked found nothing. What was not checked was not looked at.",
    )
    return Section("scope", "What was checked, and what was not", tables=(scope, numbers), points=points)


def _files(result: DicomCheckResult) -> Section:
    ordered = sorted(result.findings, key=lambda item: _rank(item))
    rows = tuple(_row(item) for item in ordered[:MOST_SHOWN])
    left = len(result.findings) - len(rows)
    note = f"not listed: {number_of(left, 'more file')}; --json lists all of them." if left > 0 else ""
    lead = ("Files are numbered in the order of their paths, because a path may hold a name.",)
    if not rows:
        return Section("files", "Files with a reason", lead=("There is none.",))
    table = ReportTable(
        "Files with a reason",
        ("file", "verdict", "reasons and places"),
        rows[:_ROWS],
        more=rows[_ROWS:],
        note=note,
        wide=True,
    )
    return Section("files", "Files with a reason", lead=lead, tables=(table,))


def _rank(item: CheckedFile) -> int:
    order = (FileVerdict.LEAK, FileVerdict.UNREADABLE, FileVerdict.SUSPICIOUS)
    return order.index(item.verdict) if item.verdict in order else len(order)


def _row(item: CheckedFile) -> tuple[TableCell, ...]:
    kinds = [found for found in item.findings if REASONS[found.reason][0] is not Weight.NOTE]
    texts = [
        f"{found.reason} ({found.place})" if found.place else found.reason for found in kinds or item.findings
    ]
    more = f" and {len(texts) - 12} more" if len(texts) > 12 else ""
    return (
        TableCell(item.name, head=True),
        TableCell(str(item.verdict)),
        TableCell(", ".join(texts[:12]) + more),
    )
