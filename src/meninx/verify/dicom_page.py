"""The page of a check of DICOM files, with the template of the report."""

from __future__ import annotations

from datetime import UTC, datetime

from meninx.report import page
from meninx.report.table_model import ReportTable, Section, TableCell, Verdict, facts
from meninx.verify.dicom_findings import REASONS, FileVerdict, Weight
from meninx.verify.dicom_result import MOST_SHOWN, CheckedFile, DicomCheckResult

_ROWS = 40  # rows that are not folded away


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
    leaks, open_ = result.verdicts.get(FileVerdict.LEAK, 0), result.reasons.get("unreadable", 0)
    suspicious, total = result.verdicts.get(FileVerdict.SUSPICIOUS, 0), f"of {result.files:,} files"
    known = f"{result.values:,} values of {result.people:,} people searched" if result.people else ""
    known = known or (f"{result.values:,} values searched" if result.values else "")
    if leaks:
        first = ("red", "yes")
    elif not result.values:
        first = ("grey", "not searched")
    else:
        first = ("green", "none found") if not open_ else ("amber", "none found where read")
    return (
        Verdict(
            "Is a known identifier in the files?",
            *first,
            f"{leaks:,} {total}",
            known or "neither originals nor a list of identifiers was given",
            "green: none",
            "reasons",
        ),
        Verdict(
            "Is there something to look at?",
            "amber" if suspicious else "green",
            "yes" if suspicious else "no",
            f"{suspicious:,} {total}",
            "each reason is listed with its attributes",
            "green: no file",
            "reasons",
        ),
        Verdict(
            "Was every file checked?",
            "amber" if open_ else "green",
            "no" if open_ else "yes",
            f"{open_:,} {total} unreadable",
            f"{result.verdicts.get(FileVerdict.OTHER, 0):,} files are no DICOM",
            "green: all",
            "files",
        ),
    )


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
    lead = () if rows else ("No reason was found in any file.",)
    return Section("reasons", "What was found", lead=lead, tables=tuple(tables if rows else ()))


def _scope(result: DicomCheckResult) -> Section:
    numbers = facts(
        "Numbers",
        [
            ("files", result.files),
            *((str(word), count) for word, count in result.verdicts.items()),
            ("originals read", result.originals),
            ("originals not read", result.originals_unread),
            ("files whose original is known", result.matched),
            ("identifiers searched", result.values),
            ("references to instances that are not here", result.dangling),
        ],
    )
    points = (
        *(f"Checked: {item}." for item in result.checked),
        *(f"Not checked: {item}." for item in result.not_checked),
        "Suspicious does not mean identifying: it means that the file does not show that it is clean.",
        "A file without a reason holds none of the identifiers searched. Others may be in it.",
    )
    return Section("scope", "What was checked, and what was not", tables=(numbers,), points=points)


def _files(result: DicomCheckResult) -> Section:
    ordered = sorted(result.findings, key=lambda item: _rank(item))
    rows = tuple(_row(item) for item in ordered[:MOST_SHOWN])
    left = len(result.findings) - len(rows)
    note = f"{left:,} more files are not listed; --json lists all of them." if left > 0 else ""
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
