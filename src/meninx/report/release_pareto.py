"""The Pareto plot of several releases, and the part of a page with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from meninx.core.artifacts import ReleaseComparisonRecord
from meninx.core.obfuscation_records import ComparedRelease
from meninx.obfuscate.release_verdict import TOO_FEW
from meninx.report import figures, formatting
from meninx.report.figures import COLOURS, INK
from meninx.report.obfuscated_datasets import ObfuscatedDataset
from meninx.report.section_obfuscation import verdict_of_release
from meninx.report.table_model import Picture, ReportTable, Section, TableCell, Verdict, facts

SIZE = (7.2, 5.0)
_SMALL = (5.6, 4.3)
_MARKS = "os^DvP*X"
_MOST_CARDS = 6
_LETTER, _LINE = 0.0135, 0.045  # of the axes: width of a letter, height of a line
_PLACES = tuple((side, up) for up in (0.035, -0.035, 0.075, -0.075, 0.0) for side in (0.012, -0.012))
_CAPTION = (
    "What a release costs, and what attackers that were retrained on it find. Lower and further left is "
    "better. A mark stands at the largest upper end of the 95 % intervals of all attackers, which a target "
    "is held against, and so does that of the original images. The tick below a mark is the highest AUROC "
    "of all attackers on the test split. Horizontal lines are "
    "means of the paired intervals of the labels, as a rule wider than the interval of the mean. The grey "
    "line joins the releases that no other one beats in both."
)
_CHOICE = (
    "Whoever chooses a release by these numbers chooses on patients of the test split: the numbers of the "
    "chosen one are then too good. Fix method and budget in advance, or choose on the validation split."
)


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the places of the points that no other one beats in both coordinates, by the first coordinate.

    >>> front([(0.1, 0.6), (0.0, 0.9), (0.1, 0.8), (0.2, 0.7)])
    [1, 0]
    """
    found: list[int] = []
    for place in sorted(range(len(points)), key=lambda place: points[place]):
        if not found or points[place][1] < points[found[-1]][1]:
            found.append(place)
    return found


def drawing(record: ReleaseComparisonRecord) -> Callable[[Axes], None]:
    """Return a function that draws the plot."""
    methods = list(dict.fromkeys(sorted(row.method for row in record.releases)))

    def draw(axes: Axes) -> None:
        rows = [row for row in record.releases if row.loss is not None and row.limit is not None]
        _references(axes, record)
        best = sorted((row.loss or 0.0, row.limit or 0.0) for row in rows if row.best)
        axes.plot(*zip(*best, strict=True), color=INK, alpha=0.35, linewidth=1.0) if best else None
        for row in rows:
            _point(axes, row, methods.index(row.method))
        for number, method in enumerate(methods):
            mark, colour = _look(number)
            axes.plot([], [], mark, color=colour, markersize=6, label=figures.plain(method))
        axes.margins(x=0.12)
        axes.set_ylim(0.46, 1.03)
        axes.set_xlabel("mean loss of AUROC over the labels, models retrained on the release")
        axes.set_ylabel(f"retrained attackers of {figures.plain(record.attribute)}, largest upper limit")
        _label(axes, rows)
        axes.figure.legend(loc="outside lower center", ncols=4, fontsize=8.5)

    return draw


def _references(axes: Axes, record: ReleaseComparisonRecord) -> None:
    axes.axhline(0.5, color=INK, alpha=0.5, linewidth=0.8)
    axes.axvline(0.0, color=INK, alpha=0.25, linewidth=0.8)
    if record.floor is not None:
        axes.axhline(record.floor, color=COLOURS[3], linestyle=":", linewidth=1.6, label="label floor")
    for target in sorted({row.target for row in record.releases if row.target}):
        axes.axhline(target, color=COLOURS[4], linestyle="--", linewidth=1.2, label=f"target {target:g}")
    if record.clean_limit is not None:
        axes.plot([0.0], [record.clean_limit], "D", markerfacecolor="none", color=COLOURS[5], markersize=6,
                  label="original images, upper limit")  # fmt: skip


def _look(number: int) -> tuple[str, str]:
    return _MARKS[number % len(_MARKS)], COLOURS[number % len(COLOURS)]


def _point(axes: Axes, row: ComparedRelease, number: int) -> None:
    mark, colour = _look(number)
    x, y = row.loss or 0.0, row.limit or 0.0
    if row.loss_low is not None and row.loss_high is not None:
        axes.plot([row.loss_low, row.loss_high], [y, y], color=colour, linewidth=1.2, alpha=0.6)
    if row.highest_auroc is not None:
        axes.plot([x, x], [row.highest_auroc, y], color=colour, linewidth=1.2, alpha=0.6)
        axes.plot([x], [row.highest_auroc], "_", color=colour, markersize=9)
    axes.plot([x], [y], mark, color=colour, markersize=7)


def _label(axes: Axes, rows: Sequence[ComparedRelease]) -> None:
    """Write method and strength beside each point, where no other text or point is, as far as possible."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    axes.set_xlim(left, right)
    points = [
        (((row.loss or 0.0) - left) / (right - left), ((row.limit or 0.0) - bottom) / (top - bottom))
        for row in rows
    ]
    taken = [(x - 0.01, y - 0.015, x + 0.01, y + 0.015) for x, y in points]
    for row, (x, y) in zip(rows, points, strict=True):  # the lines of the intervals
        ends = ((end or 0.0) - left for end in (row.loss_low, row.loss_high))
        first, last = (end / (right - left) for end in ends)
        taken += [(first, y - 0.004, last, y + 0.004)]
        taken += [(x - 0.003, ((row.highest_auroc or bottom) - bottom) / (top - bottom), x + 0.003, y)]
    for row, (x, y) in zip(rows, points, strict=True):
        text = figures.plain(" ".join(part for part in (row.method, row.strength) if part))
        width = _LETTER * len(text)
        boxes = [_box(x + dx, y + dy, width, before=dx < 0) for dx, dy in _PLACES]
        place = min(range(len(boxes)), key=lambda k: (_overlap(boxes[k], taken), k))
        (dx, dy), box = _PLACES[place], boxes[place]
        taken.append(box)
        axes.text(x + dx, y + dy, text, transform=axes.transAxes, fontsize=8.5, va="center",
                  ha="right" if dx < 0 else "left")  # fmt: skip


def _box(x: float, y: float, width: float, *, before: bool) -> tuple[float, float, float, float]:
    start = x - width if before else x
    return start, y - _LINE / 2, start + width, y + _LINE / 2


def _overlap(
    box: tuple[float, float, float, float], taken: Sequence[tuple[float, float, float, float]]
) -> float:
    """Return how much of a box is covered, or lies outside the axes."""
    left, bottom, right, top = box
    outside = max(0.0, -left) + max(0.0, right - 1.0) + max(0.0, -bottom) + max(0.0, top - 1.0)
    shared = sum(
        max(0.0, min(right, r) - max(left, x)) * max(0.0, min(top, t) - max(bottom, y))
        for x, y, r, t in taken
    )
    return shared + outside * _LINE


def sections(record: ReleaseComparisonRecord) -> tuple[Section, ...]:
    """Return the sections of the page of a comparison."""
    text = "; ".join(f"{row.name}: loss {formatting.number(row.loss)}, at most {formatting.number(row.limit)}"
                     for row in record.releases)  # fmt: skip
    svg = figures.drawn(drawing(record), "pareto", f"Utility against retrained attackers. {text}.", _SMALL)
    columns = ("release", "attacker chosen on validation", "95 % interval", "highest of all",
               "largest upper limit", "mean loss, retrained", "interval", "mean loss, drop-in",
               "verdict")  # fmt: skip
    table = ReportTable(
        "Releases, the lowest upper limit first", columns, tuple(map(_row, record.releases)), wide=True
    )
    how = "checked with the original" if record.original_given else (
        "concluded from cases, patients, splits, labels and sizes; --original proves it"
    )  # fmt: skip
    rows = (
        ("attribute", record.attribute),
        ("labels of the mean", record.labels),
        ("labels not measured everywhere", record.left_out),
        ("largest upper limit on the original images", record.clean_limit),
        ("label floor", record.floor),
        ("all of one dataset", how),
    )
    return (
        Section(
            "compared", "Utility against retrained attackers", pictures=(Picture(svg, _CAPTION),),
            tables=(table, facts("What is compared", rows)), cautions=(_CHOICE,),
        ),
    )  # fmt: skip


def cards(releases: Sequence[ObfuscatedDataset]) -> tuple[Verdict, ...]:
    """Return a card per release; none where there are too many to read."""
    every = sorted(releases, key=lambda item: item.name)
    return tuple(verdict_of_release(item, anchor="compared") for item in every if len(every) <= _MOST_CARDS)


def _row(row: ComparedRelease) -> tuple[TableCell, ...]:
    method = " ".join(part for part in (row.method, row.strength) if part)
    best = "; no other one beats it in both" if row.best else ""
    seeded = "; NOT FOR RELEASE: from a seed" if row.deterministic else ""
    return (
        TableCell(row.name, sub=f"{method}{best}{seeded}", head=True),
        TableCell(
            formatting.DASH if row.auroc is None else f"{row.auroc:.3f}",
            sub=row.attacker or TOO_FEW,
            number=True,
        ),
        TableCell(_interval(row.low, row.high), number=True),
        TableCell(formatting.number(row.highest_auroc), sub=row.highest, number=True),
        TableCell(formatting.number(row.limit), number=True),
        TableCell(_signed(row.loss), number=True),
        TableCell(_interval(row.loss_low, row.loss_high), number=True),
        TableCell(_signed(row.drop_in_loss), number=True),
        TableCell(row.verdict, sub=f"target {row.target:g}" if row.target else "no target"),
    )


def _signed(value: float | None) -> str:
    return formatting.DASH if value is None else f"{value:+.3f}".replace("-", "−")


def _interval(low: float | None, high: float | None) -> str:
    return formatting.DASH if low is None or high is None else f"[{low:.3f}, {high:.3f}]".replace("-", "−")
