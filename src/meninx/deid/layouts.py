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
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from meninx.core import files
from meninx.core.errors import DataError, expected, problem
from meninx.deid.output import csv_line, write_lines
from meninx.imaging.ocr import Box

LAYOUTS, DECISIONS = "layouts.jsonl", "decisions.csv"
MOST_OUTPUTS = 50  # paths that are listed per layout
COLUMNS = (
    "layout",
    "decision",
    "extra_boxes",
    "manufacturer",
    "model",
    "rows",
    "columns",
    "boxes",
    "reviewers",
)
_NEAR = 10  # pixels by which an edge of a line may differ in one layout
_MOST_SIDE = 1 << 16
_LIMIT = 1 << 24  # bytes of a table of decisions


class ReviewChoice(StrEnum):
    """What a reviewer decides about a layout."""

    ACCEPT = "accept"
    REDACT = "redact"
    KEEP = "keep"
    QUARANTINE = "quarantine"


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

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> LayoutMask:
        """Return a mask from its JSON table."""
        return cls(**{**table, "boxes": _boxes_of(table["boxes"])})

    def matches(self, other: LayoutMask) -> bool:
        """Return whether two images have one layout.

        Device and size are the same, and each box has a partner on the same line that begins, ends or has its
        middle in the same place: names of different lengths make no new layout.
        """
        mine = (self.manufacturer, self.model, self.rows, self.columns, len(self.boxes))
        if mine != (other.manufacturer, other.model, other.rows, other.columns, len(other.boxes)):
            return False
        return _paired(self.boxes, other.boxes) and _paired(other.boxes, self.boxes)


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
    line = abs(a.top - b.top) <= _NEAR and abs(a.bottom - b.bottom) <= _NEAR
    middle = abs(a.left + a.right - b.left - b.right) <= 2 * _NEAR
    return line and (abs(a.left - b.left) <= _NEAR or abs(a.right - b.right) <= _NEAR or middle)


@dataclass(frozen=True)
class TextLayout:
    """One layout of a run: a line of ``private/layouts.jsonl``.

    Attributes:
        layout: short name, the digest of the first mask.
        mask: of its first image.
        kept: boxes of technical text in the first image.
        texts: what was read in the redacted boxes of the first image.
        decision: the decision of a reviewer that was applied, or ``""``.
        instances: number of instances.
        source: path of the first image below the source.
        outputs: paths of the first images below the output folder, fifty at most.
    """

    layout: str
    mask: LayoutMask
    kept: tuple[Box, ...] = ()
    texts: tuple[str, ...] = ()
    decision: str = ""
    instances: int = 0
    source: str = ""
    outputs: tuple[str, ...] = ()

    def to_line(self) -> bytes:
        """Return the layout as a line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=True).encode() + b"\n"

    @classmethod
    def from_line(cls, line: str | bytes) -> TextLayout:
        """Return the layout of one line.

        Raises:
            ValueError, TypeError, KeyError: the line is damaged.
        """
        table = json.loads(line)
        table |= {"mask": LayoutMask.from_table(table["mask"]), "kept": _boxes_of(table["kept"])}
        return cls(**{**table, "texts": tuple(table["texts"]), "outputs": tuple(table["outputs"])})


def _boxes_of(rows: Iterable[Iterable[int]]) -> tuple[Box, ...]:
    return tuple(Box(*map(int, row)) for row in rows)


def read_layouts(path: Path) -> list[TextLayout]:
    """Return the layouts of a run.

    Raises:
        DataError: no such file, or a damaged line.
    """
    try:
        with path.open("rb") as stream:
            return [TextLayout.from_line(line) for line in stream]
    except OSError:
        raise DataError(problem("no such file", where=LAYOUTS, fix="run meninx deid first")) from None
    except (ValueError, TypeError, KeyError):
        raise DataError(problem("a line is damaged", where=LAYOUTS, fix="run meninx deid again")) from None


@dataclass
class LayoutTable:
    """Gathers the images of a run into layouts, in the order in which they are added."""

    layouts: list[TextLayout] = field(default_factory=list)

    def add(self, mask: LayoutMask, found: Mapping[str, Any], source: str, output: str) -> None:
        """Add one image.

        Args:
            mask: of the image.
            found: ``kept``, ``texts`` and ``decision`` of it.
            source: path below the source.
            output: path below the output folder.
        """
        for at, layout in enumerate(self.layouts):
            if layout.decision == found["decision"] and layout.mask.matches(mask):
                outputs = (*layout.outputs, output)[:MOST_OUTPUTS]
                self.layouts[at] = replace(layout, instances=layout.instances + 1, outputs=outputs)
                return
        self.layouts.append(
            TextLayout(
                layout=mask.digest, mask=mask, kept=_boxes_of(found["kept"]), texts=tuple(found["texts"]),
                decision=found["decision"], instances=1, source=source, outputs=(output,),
            )
        )  # fmt: skip


@dataclass(frozen=True)
class LayoutDecision:
    """What reviewers decided about one layout: a row of ``decisions.csv``.

    Attributes:
        layout: short name of the layout.
        choice: ``accept`` redacts what was found, ``redact`` redacts more, ``keep`` redacts nothing,
            ``quarantine`` keeps the images out.
        mask: of the first image of the layout; it says which images the row is about.
        extra: boxes to redact besides.
        reviewers: who decided, free words.
    """

    layout: str
    choice: ReviewChoice
    mask: LayoutMask
    extra: tuple[Box, ...] = ()
    reviewers: str = ""

    def to_row(self) -> dict[str, str]:
        """Return the row of the table."""
        mask = self.mask
        return {
            "layout": self.layout, "decision": str(self.choice), "extra_boxes": _text_of(self.extra),
            "manufacturer": mask.manufacturer, "model": mask.model, "rows": str(mask.rows),
            "columns": str(mask.columns), "boxes": _text_of(mask.boxes), "reviewers": self.reviewers,
        }  # fmt: skip

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> LayoutDecision:
        """Return the decision of a row.

        Raises:
            ValueError, KeyError, AttributeError: the row is damaged.
        """
        rows, columns = int(row["rows"]), int(row["columns"])
        boxes = _parsed(row["boxes"], rows, columns)
        mask = LayoutMask(row["manufacturer"], row["model"], rows, columns, boxes)
        choice, extra = ReviewChoice(row["decision"].strip()), _parsed(row["extra_boxes"], rows, columns)
        if bool(extra) != (choice == ReviewChoice.REDACT):
            raise ValueError("extra boxes")
        return cls(row["layout"].strip(), choice, mask, extra, row.get("reviewers") or "")


def _text_of(boxes: Iterable[Box]) -> str:
    return "; ".join(" ".join(map(str, box)) for box in boxes)


def _parsed(text: str, rows: int, columns: int) -> tuple[Box, ...]:
    """Return the boxes of a cell: four numbers each, inside the image and not empty."""
    boxes = []
    for part in text.split(";") if text.strip() else ():
        box = Box(*map(int, part.split()))
        inside = 0 <= box.left < box.right <= columns and 0 <= box.top < box.bottom <= rows
        if not inside or max(rows, columns) > _MOST_SIDE:
            raise ValueError("a box outside the image")
        boxes.append(box)
    return tuple(boxes)


def read_decisions(path: Path) -> tuple[LayoutDecision, ...]:
    """Return the decisions of a table.

    Raises:
        DataError: the table cannot be read, or a row is damaged; the message names the row.
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
            for number, row in enumerate(table, start=2):  # noqa: B007 (named in the error)
                decisions.append(LayoutDecision.from_row(row))
            return tuple(decisions)
    except OSError:
        raise DataError(problem("the table cannot be read", where=DECISIONS, fix="check the path")) from None
    except (ValueError, KeyError, AttributeError, TypeError, csv.Error):
        fix = "write accept, redact with extra boxes, keep or quarantine, and boxes inside the image"
        where = f"{DECISIONS}, row {number}"
        raise DataError(problem("the row is no decision", where=where, fix=fix)) from None


def write_decisions(path: Path, decisions: Iterable[LayoutDecision]) -> None:
    """Write a table of decisions, readable by its owner only.

    Raises:
        StorageError: the disk refused.
    """
    rows = (decision.to_row() for decision in decisions)
    lines = [csv_line(COLUMNS), *(csv_line([row[name] for name in COLUMNS]) for row in rows)]
    write_lines(path, lines, mode=files.PRIVATE_MODE)


def decision_for(decisions: Iterable[LayoutDecision], mask: LayoutMask) -> LayoutDecision | None:
    """Return the first decision whose layout an image has, or None."""
    return next((one for one in decisions if one.mask.matches(mask)), None)
