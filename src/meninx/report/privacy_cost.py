"""What privacy costs each group: a private run against one without privacy, per label and group."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from meninx.core import names
from meninx.metrics.estimates import Estimate
from meninx.metrics.groups import INSUFFICIENT
from meninx.metrics.paired_difference import (
    AMPLIFIED,
    CLOSED,
    GAP_NAMES,
    MARGIN,
    NOT_AMPLIFIED,
    NOT_DECIDED,
    gap_verdict,
    gap_words,
    least_class,
)
from meninx.report import figures, formatting
from meninx.report.context import Comparison, ReportContext
from meninx.report.sources import TrainedRun
from meninx.report.table_model import Picture, ReportTable, TableCell

QUESTION = "Does privacy cost some groups more?"
COST = "auroc_difference"
ORDER = (AMPLIFIED, NOT_DECIDED, CLOSED, NOT_AMPLIFIED)


def costs(context: ReportContext, run: TrainedRun | None = None) -> list[Comparison]:
    """Return the comparisons of private runs with runs without privacy that have rows of groups.

    Args:
        context: the sources of the report.
        run: only comparisons of this run on its own test split; None for all.
    """
    return [
        item
        for item in context.comparisons
        if item.run.private
        and item.baseline is not None
        and not item.baseline.private
        and (run is None or (item.run is run and item.compared.origin.split == "test"))
        and any(row.name in GAP_NAMES for row in item.compared.differences)
    ]


def gaps_of(item: Comparison) -> list[Estimate]:
    """Return how much more each group loses than the others."""
    return [row for row in item.compared.differences if row.name in GAP_NAMES]


def known(rows: Sequence[Estimate]) -> list[Estimate]:
    """Return the rows with a number and an interval."""
    return [row for row in rows if not (math.isnan(row.value) or math.isnan(row.low))]


def table(item: Comparison) -> ReportTable:
    """Return each group's loss, its loss beyond the others, and the verdict; single labels are folded."""
    rows = item.compared.differences
    lost = {_cell(row): row for row in rows if row.name == COST and row.attribute}
    beyond = {_cell(row): row for row in gaps_of(item)}
    patients = item.run.patients_known
    cells = list(dict.fromkeys([*lost, *beyond]))
    body = {cell: _row(cell, lost.get(cell), beyond.get(cell), item, patients=patients) for cell in cells}
    focus = "" if any(not label for label, _, _ in cells) else cells[0][0]
    columns = (
        "group",
        "AUROC lost",
        "beyond the others",
        *(("patients",) if patients else ()),
        "n cases",
        "verdict",
    )
    return ReportTable(
        f"{QUESTION} Run {item.run.name} minus {_name(item)}",
        columns,
        tuple(row for cell, row in body.items() if cell[0] == focus),
        estimates=True,
        more=tuple(row for cell, row in body.items() if cell[0] != focus),
        note=_note(item),
        wide=True,
    )


def forest(item: Comparison, name: str) -> Picture | None:
    """Return the forest plot of what each group loses beyond the others; None without a number."""
    rows = [row for row in gaps_of(item) if row.name == GAP_NAMES[0]]
    focus = rows[0].label if rows else ""  # the mean over labels comes first
    svg = figures.forest(
        [row for row in rows if row.label == focus],
        name=name,
        limit=item.compared.record.margin or MARGIN,
        what="AUROC lost to privacy",
    )
    if not svg:
        return None
    of = focus or "mean over labels"
    caption = f"AUROC lost to privacy by each group minus that of all others ({of}), with 95 % intervals: "
    return Picture(svg, f"{caption}run {item.run.name} minus {_name(item)}. Negative: the group loses more.")


def counted(item: Comparison) -> Counter[str]:
    """Return the number of rows of each verdict."""
    margin = item.compared.record.margin or MARGIN
    return Counter(gap_verdict(row, margin) for row in known(gaps_of(item)))


def most_telling(item: Comparison) -> Estimate | None:
    """Return the row behind the verdict: of the worst verdict, that with the largest difference."""
    margin = item.compared.record.margin or MARGIN
    rows = known(gaps_of(item))
    return min(rows, key=lambda row: (ORDER.index(gap_verdict(row, margin)), -abs(row.value)), default=None)


def words(row: Estimate, item: Comparison) -> str:
    """Return a row's verdict in words; of images where the source names no patients."""
    text = gap_words(row, item.compared.record.margin or MARGIN)
    return text if item.run.patients_known else text.replace("patients", "images")


def _cell(row: Estimate) -> tuple[str, str, str]:
    return row.label, row.attribute, row.group


def _row(
    cell: tuple[str, str, str],
    lost: Estimate | None,
    beyond: Estimate | None,
    item: Comparison,
    *,
    patients: bool,
) -> tuple[TableCell, ...]:
    label, attribute, group = cell
    first = lost if lost is not None else beyond
    assert first is not None
    people = (TableCell(formatting.size(first.patients, first), number=True),) if patients else ()
    return (
        TableCell(f"{attribute} {group}", sub=label or "mean over labels", head=True),
        _pair(lost, item),
        _pair(beyond, item),
        *people,
        TableCell(formatting.size(first.n, first), number=True),
        TableCell(_verdict(lost, beyond, item)),
    )


def _pair(row: Estimate | None, item: Comparison) -> TableCell:
    if row is None:
        return TableCell(formatting.DASH, number=True)
    if math.isnan(row.value):
        return TableCell(INSUFFICIENT, number=True)
    sub = formatting.interval(row)
    if row.name in GAP_NAMES and row.p_holm == row.p_holm:
        sub += f", p = {row.p_holm:.2g} (Holm)"
    if row.by_run and item.compared.record.repeats:
        low, high = (formatting.signed(end(row.by_run)) for end in (min, max))
        sub += f"; seeds {low} to {high}"
    return TableCell(formatting.value(row), sub=sub, number=True)


def _verdict(lost: Estimate | None, beyond: Estimate | None, item: Comparison) -> str:
    if beyond is not None:
        return INSUFFICIENT if math.isnan(beyond.value) else words(beyond, item)
    if lost is not None and math.isnan(lost.value):
        return INSUFFICIENT
    return "that of the other group, with the sign turned"


def _name(item: Comparison) -> str:
    return item.baseline.name if item.baseline is not None else item.compared.record.baseline_name


def _note(item: Comparison) -> str:
    record, margin = item.compared.record, item.compared.record.margin or MARGIN
    people = "patients" if item.run.patients_known else "images"
    sentences = [
        "Same cases and same resamples for both. Negative: the private run is behind, or the group loses "
        "more.",
        f"Not amplified: the 95 % interval lies within ±{margin:g} (two one-sided tests). It counts on one "
        f"patient who was not seen, so that {least_class(margin)} {people} or more are needed with the "
        "finding and without it. Amplified: it does not, and p < 0.05 after Holm's adjustment over the "
        "table. Closes a gap: the same, but a side that was ahead loses its lead.",
        f"Needed {people} are those of the group, if there is no difference, for a probability of 0.8.",
    ]
    pairs = len(record.repeats) + 1
    if pairs > 1:
        further = [
            f"{names.printable(p.run_name)} minus {names.printable(p.baseline_name)}" for p in record.repeats
        ]
        sentences.append(
            f"Mean over {pairs} pairs of runs with different seeds, in each resample: this one, "
            f"{formatting.joined(further)}. The intervals hold for "
            f"these {pairs} pairs and other {people}; the range over seeds stands beside them."
        )
    else:
        sentences.append(
            "One run each: the intervals hold for these two models, and another seed may give other values."
        )
    unlike = record.note()
    if unlike:
        sentences.append(f"{unlike}: the difference is not that of privacy alone.")
    return " ".join(sentences)
