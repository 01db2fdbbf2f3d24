"""Tables of the page as plain values, which the template draws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from meninx.metrics.estimates import Estimate
from meninx.report import formatting


@dataclass(frozen=True)
class TableCell:
    """One cell.

    Attributes:
        text: what is shown.
        sub: a second, smaller line, e.g. an interval.
        number: right-aligned.
        head: names the row.
    """

    text: str
    sub: str = ""
    number: bool = False
    head: bool = False


@dataclass(frozen=True)
class ReportTable:
    """One table.

    Attributes:
        caption: what it shows.
        columns: headings.
        rows: cells, as many a row as there are columns.
        estimates: True when every row is an estimate: it then holds an interval and n.
        more: rows that are folded away on the screen.
        note: a line below.
        wide: spread over the page whatever the number of columns, because cells hold sentences.
        names: folded pairs of a name and a short value, as many a line as fit.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    estimates: bool = False
    more: tuple[tuple[TableCell, ...], ...] = ()
    note: str = ""
    wide: bool = False
    names: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Picture:
    """One figure: inline SVG with a caption."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Verdict:
    """One card.

    Attributes:
        question: what is asked.
        colour: green, amber, red, or grey when it is unknown.
        word: the same as a word.
        value: the number behind it.
        detail: what the number rests on.
        limit: what it was held against.
        anchor: id of the section with the details.
    """

    question: str
    colour: str
    word: str
    value: str
    detail: str
    limit: str
    anchor: str


@dataclass(frozen=True)
class Section:
    """Part of the page.

    Attributes:
        anchor: its id.
        title: its heading.
        lead: paragraphs before the tables.
        pictures: figures.
        tables: tables.
        points: list items after them.
        cautions: sentences that stand out, before the tables.
        pipeline: steps of the pipeline figure, (name, count, words).
        cards: verdicts of its own, before all else.
    """

    anchor: str
    title: str
    lead: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[ReportTable, ...] = ()
    points: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    pipeline: tuple[tuple[str, str, str], ...] = field(default=())
    cards: tuple[Verdict, ...] = ()


def facts(caption: str, pairs: Iterable[tuple[str, object]], note: str = "") -> ReportTable:
    """Return a two-column table of names and values."""
    rows = tuple((TableCell(name, head=True), TableCell(formatting.listed(value))) for name, value in pairs)
    return ReportTable(caption, ("what", "value"), rows, note=note)


def estimates(
    caption: str,
    items: Sequence[Estimate],
    note: str = "",
    *,
    folded: Sequence[Estimate] = (),
    patients: bool = True,
) -> ReportTable:
    """Return a table with one row per estimate: value, interval, cases, positives, patients, remark.

    Patients are shown if they are known.
    """
    columns = (
        "metric",
        "of",
        "value",
        "95 % interval",
        "n cases",
        *(("patients",) if patients else ()),
        "remark",
    )
    rows, more = (tuple(_row(item, patients) for item in part) for part in (items, folded))
    return ReportTable(caption, columns, rows, estimates=True, more=more, note=note)


def _row(item: Estimate, patients: bool) -> tuple[TableCell, ...]:
    people = (TableCell(formatting.size(item.patients, item), number=True),) if patients else ()
    positive = "" if item.positives is None else f"{item.positives:,} positive"
    return (
        TableCell(formatting.metric(item.name), head=True),
        TableCell(of_what(item)),
        TableCell(formatting.value(item), number=True),
        TableCell(formatting.interval(item), sub=formatting.interval_kind(item), number=True),
        TableCell(formatting.size(item.n, item), sub=positive, number=True),
        *people,
        TableCell(_remark(item) if patients else _remark(item).replace("patients", "images")),
    )


def of_what(item: Estimate) -> str:
    """Return which label and group an estimate is about."""
    group = f"{item.attribute} {item.group}" if item.attribute else ""
    return ", ".join(part for part in (item.label or ("" if group else "all labels"), group) if part)


def _remark(item: Estimate) -> str:
    tested = f"p = {item.p_holm:.2g} (Holm)" if item.p_holm == item.p_holm else ""
    shown = "" if formatting.value(item) == item.note else item.note
    return "; ".join(part for part in (shown, tested) if part) or formatting.DASH
