"""What is done about text in the pixels of one instance: search, redact, search the result.

The result looks to the rest of the engine like an instance that came in without the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from meninx.deid.burned_in import burned_text, pixel_triggers
from meninx.deid.burned_in.burned_text import Reader, TextLine, TextRule
from meninx.deid.config import Pixels
from meninx.deid.identifiers import Identifiers
from meninx.deid.review import layouts
from meninx.deid.review.layouts import (
    KEEPING_OUT,
    LONGEST,
    MOST_BOXES,
    LayoutDecision,
    LayoutMask,
    ReviewChoice,
)
from meninx.dicomfile import frames, redaction
from meninx.dicomfile.frames import Layers
from meninx.dicomfile.instance import Instance
from meninx.dicomfile.refusals import Reason, Refused
from meninx.imaging import ocr
from meninx.imaging.ocr import Box

_MOST_ROUNDS = 6  # searches of the result; text that is still there keeps the file out
_MANUFACTURER, _MODEL = 0x00080070, 0x00081090
_MARGIN = 3  # pixels by which what the search of the result finds is grown


@dataclass(frozen=True)
class PixelReport:
    """What was found and done in the pixels of one instance.

    Attributes:
        reasons: why text may be in the pixels, in fixed words; empty when nothing suggests it.
        searched: every frame was searched, and the result was searched again without a finding.
        lines: the lines that were found; their texts are private.
        recoded: the pixels lost their compression, because their values cannot be compressed again exactly.
        mask: what is redacted without a decision, by which a layout is recognised; None without a search.
        decision: the decision of a reviewer that was applied, or ``""``.
        filled: places that hold every filled pixel, a line of words as one place.
        unread_boxes: boxes of the mask in which no character was read: a shape that was taken for text.
    """

    reasons: tuple[str, ...] = ()
    searched: bool = False
    lines: tuple[TextLine, ...] = ()
    recoded: bool = False
    mask: LayoutMask | None = None
    decision: str = ""
    filled: tuple[Box, ...] = ()
    unread_boxes: tuple[Box, ...] = ()

    def table(self) -> dict[str, Any]:
        """Return what the private journal holds about a search; empty without one."""
        if self.mask is None:
            return {}
        texts = [
            line.text[:LONGEST] for line in self.lines if line.text and (not line.technical or line.reviewed)
        ]
        kept = layouts.clipped(self.kept, self.mask.rows, self.mask.columns)
        return {
            "mask": asdict(self.mask), "filled": list(self.filled), "kept": list(kept),
            "unread": list(self.unread_boxes),
            "texts": texts[:MOST_BOXES],
            "boxes": len(self.boxes), "decision": self.decision,
            "kept_by_reviewer": self.kept_by_reviewer,
        }  # fmt: skip

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The boxes that were filled."""
        return tuple(line.box for line in self.lines if not line.technical)

    @property
    def kept(self) -> tuple[Box, ...]:
        """The boxes of text that stays: technical, or kept by a reviewer."""
        return tuple(line.box for line in self.lines if line.technical)

    @property
    def kept_by_reviewer(self) -> int:
        """Lines that stay only because a reviewer keeps their place."""
        return sum(line.reviewed for line in self.lines)

    @property
    def unread(self) -> tuple[str, ...]:
        """Why text may be in the pixels, if they were not searched."""
        return () if self.searched else self.reasons


@dataclass(frozen=True)
class PixelCleaner:
    """The setting for text in pixels, applied to one instance after the other.

    Attributes:
        pixels: ``redact`` searches and redacts, ``quarantine`` refuses what may hold text, ``keep`` leaves
            all pixels alone.
        search_all: search every instance with pixels, not only those that may hold text.
        keep_measurements: keep the labels of measurements.
        decisions: of reviewers, about layouts.
        reader: how text is found and read.
    """

    pixels: Pixels = "redact"
    search_all: bool = False
    keep_measurements: bool = False
    decisions: tuple[LayoutDecision, ...] = ()
    reader: Reader = field(default_factory=Reader)

    def clean(self, original: Instance, found: Identifiers) -> tuple[Instance, PixelReport]:
        """Return an instance without text in its pixels that is not technical, and what was done.

        Args:
            original: the instance as it was read.
            found: identifiers of its header.

        Raises:
            Refused: ``burned-in-declared`` or ``text-in-pixels-possible`` (not searched), ``text-remains``
                (found again after redaction), ``refused-in-review``, ``review-undecided``,
                ``pixels-unreadable``.
        """
        reasons = pixel_triggers.review_reasons(original)
        searches = bool(original.pixels) and self.pixels == "redact" and (self.search_all or bool(reasons))
        if searches and ocr.is_available():
            return self._redacted(original, reasons, TextRule(found, self.keep_measurements))
        if searches or (reasons and self.pixels != "keep"):
            declared = pixel_triggers.declares_burned_in(original)
            raise Refused(Reason.BURNED_IN_DECLARED if declared else Reason.TEXT_POSSIBLE)
        return original, PixelReport(reasons)

    def _redacted(
        self, original: Instance, reasons: tuple[str, ...], rule: TextRule
    ) -> tuple[Instance, PixelReport]:
        layers = frames.layers_of(original)
        if not burned_text.can_hold_text(layers):
            return original, PixelReport(reasons, searched=True, mask=mask_of(original, layers, ()))
        filling = _Filling(original, layers, rule, self.reader)
        first = burned_text.lines(original, layers, rule, self.reader)
        result = filling.result(first)
        mask = mask_of(original, layers, result.boxes)
        report = PixelReport(reasons, True, mask=mask, unread_boxes=_unread_of(mask.boxes, result.lines))
        decision = layouts.decision_for(self.decisions, report.mask) if report.mask else None
        if decision is not None:
            report = replace(report, decision=str(decision.choice))
            if decision.choice == ReviewChoice.REDACT:
                more = [TextLine(box, "", technical=False) for box in decision.chosen]
                result = filling.result(burned_text.merged([*result.lines, *more]))
            if decision.choice == ReviewChoice.KEEP:
                result = filling.result(first, decision.chosen)
        filled = listed_boxes(layers, result.boxes)
        report = replace(report, lines=tuple(result.lines), recoded=result.recoded, filled=filled)
        if decision is not None and decision.choice in KEEPING_OUT:
            undecided = decision.choice == ReviewChoice.UNDECIDED
            reason = Reason.REVIEW_UNDECIDED if undecided else Reason.REFUSED_IN_REVIEW
            raise Refused(reason, pixels=report.table())
        return result.instance, report


@dataclass(frozen=True)
class _Filled:
    """An instance whose text is filled, and the lines of all searches."""

    instance: Instance
    lines: list[TextLine]
    recoded: bool

    @property
    def boxes(self) -> list[Box]:
        return [line.box for line in self.lines if not line.technical]


@dataclass(frozen=True)
class _Filling:
    """Fills lines of text, searches the result and fills what is left, until nothing is."""

    original: Instance
    layers: Layers
    rule: TextRule
    reader: Reader

    def result(self, lines: list[TextLine], kept: Sequence[Box] = ()) -> _Filled:
        """Return the instance without these lines and without what the searches of the result find.

        Args:
            lines: of the instance as it came in.
            kept: places that a reviewer keeps.

        Raises:
            Refused: ``text-remains`` or ``pixels-unreadable``.
        """
        done = _Filled(self.original, burned_text.kept_by_reviewer(lines, kept, self.rule), recoded=False)
        for _ in range(_MOST_ROUNDS):
            if done.boxes:
                redacted = redaction.apply(self.original, done.boxes)
                done = _Filled(redacted.instance, done.lines, redacted.recoded)
            known = [line.box for line in done.lines if line.technical]
            layers = frames.layers_of(done.instance)
            left = burned_text.lines(done.instance, layers, self.rule, self.reader, second=True, known=known)
            left = burned_text.kept_by_reviewer(left, kept, self.rule)
            new = [line for line in left if not line.technical]
            stays = [line for line in left if line.technical]
            done = replace(done, lines=burned_text.merged([*done.lines, *stays, *self._grown(new, stays)]))
            if not new:
                return done
        raise Refused(Reason.TEXT_REMAINS)

    def _grown(self, new: list[TextLine], stays: list[TextLine]) -> list[TextLine]:
        """Return lines with a margin that leaves the letters alone that stay beside them."""
        shape, letters = (self.layers.rows, self.layers.columns), [line.box for line in stays if line.glyph]
        return [replace(line, box=burned_text.around(line.box, letters, _MARGIN, shape)) for line in new]


def _unread_of(boxes: Sequence[Box], lines: Sequence[TextLine]) -> tuple[Box, ...]:
    """Return the boxes in which no line has a character."""
    read = [line.box for line in lines if line.text.strip() and not line.technical]
    return tuple(box for box in boxes if not any(box.shared(other) for other in read))


def mask_of(original: Instance, layers: Layers, boxes: Sequence[Box]) -> LayoutMask:
    """Return the boxes of an image with the device that its header names."""
    manufacturer, model = (original.text(tag)[:LONGEST] for tag in (_MANUFACTURER, _MODEL))
    return LayoutMask(manufacturer, model, layers.rows, layers.columns, listed_boxes(layers, boxes))


def listed_boxes(layers: Layers, boxes: Sequence[Box]) -> tuple[Box, ...]:
    """Return boxes for the list of layouts, which hold every pixel that is filled for these boxes."""
    whole = (redaction.whole_pixels(box, layers) for box in boxes)
    return layouts.listed(whole, layers.rows, layers.columns)
