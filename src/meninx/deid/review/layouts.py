"""Layouts: where the images of one device hold text, and what a reviewer decided about each of them.

Images of one device and size whose redacted boxes lie in the same places are one layout, so that a person
decides once for all of them. ``private/layouts.jsonl`` lists the layouts of a run. ``decisions.csv`` holds
the decisions. Its rows describe the layouts themselves, so that a later run applies them to each file by
itself, whatever else lies in the folder.

    >>> a = LayoutMask("ACME", "Sono 1", 768, 1024, (Box(10, 5, 210, 25),))
    >>> a.matches(LayoutMask("ACME", "Sono 1", 768, 1024, (Box(12, 6, 160, 25),)))  # a shorter name
    True
    >>> a.matches(LayoutMask("ACME", "Sono 1", 768, 1024, ()))
    False
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from meninx.core import files, plain
from meninx.core.errors import DataError, expected, problem
from meninx.core.summaries import number_of
from meninx.deid.output import check_relative, csv_line, write_lines
from meninx.imaging.ocr import Box

LAYOUTS, DECISIONS = "layouts.jsonl", "decisions.csv"
_MOST_NAMED = 6  # boxes whose places are named in a sentence
MOST_OUTPUTS = 50  # paths that are listed per layout
COLUMNS = (
    "layout",
    "decision",
    "chosen_boxes",
    "manufacturer",
    "model",
    "rows",
    "columns",
    "boxes",
    "reviewers",
)
NEAR = 10  # pixels by which an edge of a line may differ in one layout
MOST_BOXES, LONGEST = 500, 80  # boxes of an image; characters of a text or of a device's name
_MOST_SIDE = (1 << 16) - 1
_MOST_LISTED = 100_000  # layouts of a run, decisions of a table
_LONGEST_LINE = 1 << 20  # bytes of a layout
_LIMIT = 1 << 24  # bytes of a table of decisions
MOSTLY = 0.5  # share of an image above which it is counted as mostly filled
_NAME, _NUMBER = re.compile("[0-9a-f]{12}"), re.compile("[0-9]{1,5}")
# What makes a spreadsheet compute a cell, and the apostrophe by which it is written as text.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")
_DAMAGES = (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError, MemoryError)


class ReviewChoice(StrEnum):
    """What reviewers decide about a layout, or that they have not agreed on it."""

    ACCEPT = "accept"
    REDACT = "redact"
    KEEP = "keep"
    QUARANTINE = "quarantine"
    UNDECIDED = "undecided"


KEEPING_OUT = (ReviewChoice.QUARANTINE, ReviewChoice.UNDECIDED)
"""Choices by which the images of a layout are kept out."""


@dataclass(frozen=True)
class LayoutMask:
    """The redacted boxes of one image, and the device that made it.

    Attributes:
        manufacturer, model: of the device, as the original header names them.
        rows, columns: of a frame.
        boxes: what is redacted, from top to bottom.
    """

    manufacturer: str
    model: str
    rows: int
    columns: int
    boxes: tuple[Box, ...] = ()

    @property
    def digest(self) -> str:
        """A short name of the layout that this mask is the first example of."""
        text = json.dumps([self.manufacturer, self.model, self.rows, self.columns, self.boxes])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def __post_init__(self) -> None:
        sides = all(0 < side <= _MOST_SIDE for side in (self.rows, self.columns))
        if not sides or max(len(self.manufacturer), len(self.model)) > LONGEST:
            raise ValueError("no image of a device")
        check_boxes(self.boxes, self.rows, self.columns)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> LayoutMask:
        """Return a mask from its JSON table.

        Raises:
            DataError, ValueError: it is damaged.
        """
        return plain.from_plain(table, cls, where="layout")

    @property
    def device(self) -> tuple[str, str, int, int]:
        """Manufacturer, model, rows and columns."""
        return self.manufacturer, self.model, self.rows, self.columns

    def matches(self, other: LayoutMask) -> bool:
        """Return whether two images have one layout.

        Device and size are the same, and each box has a partner on the same line that begins, ends or has its
        middle in the same place: names of different lengths make no new layout.
        """
        if (self.device, len(self.boxes)) != (other.device, len(other.boxes)):
            return False
        return _paired(self.boxes, other.boxes) and _paired(other.boxes, self.boxes)


def is_mostly_filled(found: Mapping[str, Any]) -> bool:
    """Return whether more than half of an image is filled, given what the journal holds about its search."""
    filled, mask = [Box(*box) for box in found["filled"]], found["mask"]
    return share(filled, mask["rows"], mask["columns"]) > MOSTLY


def line_boxes(boxes: Iterable[Box]) -> tuple[Box, ...]:
    """Return boxes with those joined that follow each other on one line, from top to bottom.

    The search gives a line of some words as one box or as several.
    """
    joined: list[Box] = []
    for box in sorted(boxes, key=lambda one: (one.left, one.top)):
        for at, other in enumerate(joined):
            overlap = min(box.bottom, other.bottom) - max(box.top, other.top)
            height = min(box.height, other.height)
            if overlap >= 0.6 * height and box.left - other.right <= 2 * height:
                joined[at] = Box(
                    min(box.left, other.left), min(box.top, other.top),
                    max(box.right, other.right), max(box.bottom, other.bottom),
                )  # fmt: skip
                break
        else:
            joined.append(box)
    return tuple(sorted(joined, key=lambda one: (one.top, one.left)))


def _paired(boxes: Sequence[Box], others: Sequence[Box]) -> bool:
    return all(any(_same_place(box, other) for other in others) for box in boxes)


def _same_place(a: Box, b: Box) -> bool:
    line = abs(a.top - b.top) <= NEAR and abs(a.bottom - b.bottom) <= NEAR
    middle = abs(a.left + a.right - b.left - b.right) <= 2 * NEAR
    return line and (abs(a.left - b.left) <= NEAR or abs(a.right - b.right) <= NEAR or middle)


def check_boxes(boxes: Sequence[Box], rows: int, columns: int) -> None:
    """Raise ValueError unless the boxes are not empty, lie inside an image and are not too many."""
    if len(boxes) > MOST_BOXES:
        raise ValueError("too many boxes")
    for box in boxes:
        if not (0 <= box.left < box.right <= columns and 0 <= box.top < box.bottom <= rows):
            raise ValueError("a box outside the image")


def clipped(boxes: Iterable[Box], rows: int, columns: int) -> tuple[Box, ...]:
    """Return the parts of boxes inside an image, without empty ones; the first 500."""
    inside = (box.grown(0, (rows, columns)) for box in boxes)
    return tuple(box for box in inside if box.left < box.right and box.top < box.bottom)[:MOST_BOXES]


def listed(boxes: Iterable[Box], rows: int, columns: int) -> tuple[Box, ...]:
    """Return boxes for a list, which cover every pixel of an image that lies in one of the given boxes.

    Those on one line are joined. Of more than 500, the last ones are one box.
    """
    inside = (box.grown(0, (rows, columns)) for box in boxes)
    joined = line_boxes(box for box in inside if box.left < box.right and box.top < box.bottom)
    if len(joined) <= MOST_BOXES:
        return joined
    return (*joined[: MOST_BOXES - 1], _hull(joined[MOST_BOXES - 1 :]))


def _hull(boxes: Sequence[Box]) -> Box:
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return Box(min(lefts), min(tops), max(rights), max(bottoms))


def with_boxes(listed_ones: Sequence[Box], boxes: Iterable[Box]) -> tuple[Box, ...]:
    """Return boxes that cover listed ones and further ones, such as those of another image of a layout.

    A line that is in the same place as a listed one becomes one box with it.
    """
    result = list(listed_ones)
    for box in boxes:
        if any(other.shared(box) == box.area for other in result):
            continue
        at = next((at for at, other in enumerate(result) if _same_place(box, other)), None)
        if at is None and len(result) >= MOST_BOXES:
            at = len(result) - 1
        if at is None:
            result.append(box)
        else:
            result[at] = _hull((box, result[at]))
    return tuple(result)


def share(boxes: Sequence[Box], rows: int, columns: int) -> float:
    """Return which share of an image lies in boxes, 0 to 1."""
    edges = sorted({edge for box in boxes for edge in (box.top, box.bottom)})
    filled = 0
    for top, bottom in itertools.pairwise(edges):
        reached = 0
        for box in sorted(box for box in boxes if box.top <= top and box.bottom >= bottom):
            filled += (bottom - top) * max(box.right - max(box.left, reached), 0)
            reached = max(reached, box.right)
    return filled / (rows * columns)


@dataclass(frozen=True)
class TextLayout:
    """One layout of a run: a line of ``private/layouts.jsonl``.

    Attributes:
        layout: short name, made from the first mask; no two layouts of a run share one.
        mask: of its first image.
        kept: boxes of technical text in the first image.
        texts: what was read in the redacted boxes of the first image.
        decision: the decision of a reviewer that was applied, or ``""``.
        instances: number of instances.
        source: path of the first image below the source; empty if its name is none that is read back.
        outputs: paths of the first images below the output folder, fifty at most; none if the decision keeps
            them out.
        filled: boxes that hold every filled pixel of every image of the layout.
        unread: boxes of the mask in which no character was read in the first image.
    """

    layout: str
    mask: LayoutMask
    kept: tuple[Box, ...] = ()
    texts: tuple[str, ...] = ()
    decision: str = ""
    instances: int = 0
    source: str = ""
    outputs: tuple[str, ...] = ()
    filled: tuple[Box, ...] = ()
    unread: tuple[Box, ...] = ()

    @property
    def unread_in_words(self) -> str:
        """How many boxes hold a shape that was taken for text and not read; empty if there is none."""
        if not self.unread:
            return ""
        boxes = number_of(len(self.unread), "box", "boxes")
        more = "; and more" if len(self.unread) > _MOST_NAMED else ""
        places = boxes_text(self.unread[:_MOST_NAMED])
        return f"{boxes} with a shape taken for text, in which nothing was read: {places}{more}"

    @property
    def share(self) -> float:
        """Share of the pixels that is filled, 0 to 1."""
        return share(self.filled, self.mask.rows, self.mask.columns)

    @property
    def is_mostly_filled(self) -> bool:
        """Whether so much is filled that the search may have taken the image itself for text."""
        return self.share > MOSTLY

    def to_line(self) -> bytes:
        """Return the layout as a line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=True).encode() + b"\n"

    @classmethod
    def from_line(cls, line: str | bytes) -> TextLayout:
        """Return the layout of one line.

        Guarantee: the name is twelve hexadecimal digits, every box lies inside the image, every path stays
            below its folder, and no field is longer than this module writes it.

        Raises:
            ValueError, TypeError, RecursionError, MemoryError, DataError: the line is damaged.
        """
        layout = plain.from_plain(json.loads(line), cls, where=LAYOUTS)
        mask = layout.mask
        check_boxes(layout.filled, mask.rows, mask.columns)
        check_boxes(layout.kept, mask.rows, mask.columns)
        check_boxes(layout.unread, mask.rows, mask.columns)
        if layout.decision:
            ReviewChoice(layout.decision)
        for output in layout.outputs:
            check_relative(output)
        fits = len(layout.texts) <= MOST_BOXES and len(layout.outputs) <= MOST_OUTPUTS
        fits &= all(len(text) <= LONGEST for text in layout.texts) and 0 < layout.instances < 1 << 53
        named = _NAME.fullmatch(layout.layout) and (not layout.source or files.is_inside(layout.source))
        if not (fits and named):
            raise ValueError("a field that this module does not write")
        return layout


def read_layouts(path: Path) -> list[TextLayout]:
    """Return the layouts of a run.

    Raises:
        DataError: no such file, too many lines, or a damaged line; the message names the line.
    """
    found: list[TextLayout] = []
    names: set[str] = set()
    try:
        with files.regular(path) as stream:
            while line := stream.readline(_LONGEST_LINE + 1):
                if len(line) > _LONGEST_LINE or len(found) == _MOST_LISTED:
                    raise ValueError("too long")
                layout = TextLayout.from_line(line)
                if layout.layout in names:
                    raise ValueError("a name twice")
                names.add(layout.layout)
                found.append(layout)
    except (*_DAMAGES, DataError) as error:
        if not path.is_file():
            raise DataError(problem("no such file", where=LAYOUTS, fix="run meninx deid first")) from error
        where, fix = f"{LAYOUTS}, line {len(found) + 1}", "run meninx deid again"
        raise DataError(problem("a line is damaged", where=where, fix=fix)) from None
    return found


@dataclass
class LayoutTable:
    """Gathers the images of a run into layouts, in the order in which they are added."""

    layouts: list[TextLayout] = field(default_factory=list)

    def add(self, mask: LayoutMask, found: Mapping[str, Any], source: str, output: str) -> None:
        """Add one image.

        Args:
            mask: of the image.
            found: ``filled``, ``kept``, ``texts`` and ``decision`` of it.
            source: path below the source.
            output: path below the output folder; empty for an image that a decision keeps out.
        """
        written = (output,) if output else ()
        filled = tuple(map(Box._make, found["filled"]))
        for at, layout in enumerate(self.layouts):
            if layout.decision == found["decision"] and layout.mask.matches(mask):
                outputs = (*layout.outputs, *written)[:MOST_OUTPUTS]
                self.layouts[at] = replace(
                    layout, instances=layout.instances + 1, outputs=outputs,
                    filled=with_boxes(layout.filled, filled),
                )  # fmt: skip
                return
        self.layouts.append(
            TextLayout(
                layout=self._name(mask, found["decision"]), mask=mask, filled=filled,
                kept=tuple(map(Box._make, found["kept"])),
                unread=tuple(map(Box._make, found.get("unread", ()))),  # none in earlier versions
                texts=tuple(found["texts"]),
                decision=found["decision"], instances=1,
                source=source if files.is_inside(source) else "", outputs=written,
            )
        )  # fmt: skip

    def _name(self, mask: LayoutMask, decision: str) -> str:
        """Return the digest of the mask, or of it and the decision where another layout has that name."""
        name, taken = mask.digest, {layout.layout for layout in self.layouts}
        while name in taken:
            name = hashlib.sha256(f"{name} {decision}".encode()).hexdigest()[:12]
        return name


@dataclass(frozen=True)
class LayoutDecision:
    """What reviewers decided about one layout: a row of ``decisions.csv``.

    Attributes:
        layout: short name of the layout.
        choice: ``accept`` redacts what was found, ``redact`` redacts more, ``keep`` leaves the text in some
            of its boxes, ``quarantine`` keeps the images out, and ``undecided``, because reviewers have not
            agreed, does the same.
        mask: of the first image of the layout; it says which images the row is about.
        chosen: boxes to redact besides, or the boxes of the mask to keep.
        reviewers: who decided, or of an undecided layout who voted; names with semicolons between them.
    """

    layout: str
    choice: ReviewChoice
    mask: LayoutMask
    chosen: tuple[Box, ...] = ()
    reviewers: str = ""

    def __post_init__(self) -> None:
        check_boxes(self.chosen, self.mask.rows, self.mask.columns)
        takes_boxes = self.choice in (ReviewChoice.REDACT, ReviewChoice.KEEP)
        foreign = self.choice == ReviewChoice.KEEP and not set(self.chosen) <= set(self.mask.boxes)
        if bool(self.chosen) != takes_boxes or foreign:
            raise ValueError("boxes that the choice does not take")
        if len(self.layout) > LONGEST or len(self.reviewers) > 50 * LONGEST:
            raise ValueError("too long")

    def to_row(self) -> dict[str, str]:
        """Return the row of the table."""
        mask = self.mask
        row = {
            "layout": self.layout, "decision": str(self.choice), "chosen_boxes": boxes_text(self.chosen),
            "manufacturer": mask.manufacturer, "model": mask.model, "rows": str(mask.rows),
            "columns": str(mask.columns), "boxes": boxes_text(mask.boxes), "reviewers": self.reviewers,
        }  # fmt: skip
        return {name: f"'{cell}" if cell.startswith(_FORMULA) else cell for name, cell in row.items()}

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> LayoutDecision:
        """Return the decision of a row.

        Raises:
            ValueError, KeyError, AttributeError, TypeError: the row is damaged.
        """
        cells = {name: _unquoted(row[name]) for name in COLUMNS[:-1]}
        rows, columns = _number(cells["rows"]), _number(cells["columns"])
        mask = LayoutMask(cells["manufacturer"], cells["model"], rows, columns, parse_boxes(cells["boxes"]))
        choice, chosen = ReviewChoice(cells["decision"].strip()), parse_boxes(cells["chosen_boxes"])
        return cls(cells["layout"].strip(), choice, mask, chosen, _unquoted(row.get("reviewers") or ""))


def _unquoted(cell: str) -> str:
    """Return the text of a cell that was written as text, so that no spreadsheet computes it."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text.strip()):
        raise ValueError("no number")
    return int(text)


def boxes_text(boxes: Iterable[Box]) -> str:
    """Return boxes as words: left, top, right and bottom of each, with semicolons between them."""
    return "; ".join(" ".join(map(str, box)) for box in boxes)


def parse_boxes(text: str) -> tuple[Box, ...]:
    """Return the boxes of such a text; :func:`check_boxes` checks their place.

    Raises:
        ValueError, TypeError: it holds something else.
    """
    parts = text.strip(" ;\r\n").split(";") if text.strip(" ;\r\n") else []
    if len(parts) > MOST_BOXES:
        raise ValueError("too many boxes")
    return tuple(Box(*map(_number, part.split())) for part in parts)


def read_decisions(path: Path) -> tuple[LayoutDecision, ...]:
    """Return the decisions of a table.

    Raises:
        DataError: the table cannot be read, a row is damaged, or two rows contradict each other; the message
            names the row.
    """
    number = 1
    try:
        if path.stat().st_size > _LIMIT:
            raise DataError(problem("the table is too large", where=DECISIONS, fix="check the path"))
        with path.open(newline="", encoding="utf-8-sig") as stream:
            table = csv.DictReader(stream)
            missing = set(COLUMNS[:-1]) - set(table.fieldnames or ())
            if missing:
                got = f"no column {min(missing)!r}"
                raise DataError(expected("the columns of decisions.csv", got=got, where=DECISIONS))
            decisions = []
            for number, row in enumerate(table, start=2):
                if number > _MOST_LISTED:
                    raise ValueError("too many")
                decisions.append(LayoutDecision.from_row(row))
            _refuse_contradiction(decisions)
            return tuple(decisions)
    except OSError:
        raise DataError(problem("the table cannot be read", where=DECISIONS, fix="check the path")) from None
    except (*_DAMAGES, csv.Error):
        fix = (
            "write accept, quarantine, undecided, redact with boxes inside the image, or keep with some of "
            "the layout's boxes"
        )
        where = f"{DECISIONS}, row {number}"
        raise DataError(problem("the row is no decision", where=where, fix=fix)) from None


def _refuse_contradiction(decisions: Iterable[LayoutDecision]) -> None:
    """Refuse rows that decide differently about one layout: the order of rows must not decide.

    Raises:
        DataError: with the number of the second row.
    """
    known: dict[LayoutMask, LayoutDecision] = {}
    for number, one in enumerate(decisions, start=2):
        first = known.setdefault(one.mask, one)
        if (first.choice, set(first.chosen)) != (one.choice, set(one.chosen)):
            raise DataError(
                problem(
                    "the row contradicts an earlier one about the same layout",
                    where=f"{DECISIONS}, row {number}",
                    fix="let the reviewers agree, and leave one of the rows",
                )
            )


def write_decisions(path: Path, decisions: Iterable[LayoutDecision]) -> None:
    """Write a table of decisions, readable by its owner only.

    Raises:
        StorageError: the disk refused.
    """
    rows = (decision.to_row() for decision in decisions)
    lines = [csv_line(COLUMNS), *(csv_line([row[name] for name in COLUMNS]) for row in rows)]
    write_lines(path, lines, mode=files.PRIVATE_MODE)


def decision_for(decisions: Iterable[LayoutDecision], mask: LayoutMask) -> LayoutDecision | None:
    """Return the decision whose layout an image has, or None.

    Masks of two rows may be so near to each other that an image has both layouts. One that keeps it out then
    counts first, and otherwise the order of the rows.
    """
    fitting = [one for one in decisions if one.mask.matches(mask)]
    return min(fitting, key=lambda one: one.choice not in KEEPING_OUT, default=None)
