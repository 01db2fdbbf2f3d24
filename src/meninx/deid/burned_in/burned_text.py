"""The lines of text in the pixels of an instance, and which of them are technical and may stay.

A line that is not proven to be technical is redacted. No list of names decides, so an unknown name, a misread
line or another script is redacted, too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

import numpy as np

from meninx.deid.burned_in.technical_text import is_technical
from meninx.deid.identifiers import Identifiers
from meninx.deid.review.layouts import NEAR, line_boxes
from meninx.deid.wording.text import clean_text
from meninx.dicomfile import frames
from meninx.dicomfile.frames import Layers, Values
from meninx.dicomfile.instance import SOP_CLASS, Instance
from meninx.imaging import ocr
from meninx.imaging.ocr import Box, Found, Glyph, Picture, Reading, Search

FIRST, SECOND = Search(scale=1.25), Search(scale=1.0)
"""The search, and the search of the result in another scale."""
# Mean probability of a line that is redacted in any case, and of one that is redacted if it can be read.
_STRONG, _WEAK = 0.55, 0.12
# A find that is larger in both directions counts only if it can be read: pixels, and a share of the shorter
# side of the picture, because an organ in a small picture is no larger than a letter elsewhere.
_LARGE, _LARGE_PART = 72, 0.5
_READ = 0.8  # confidence from which a line may be technical
_MOST_PAGES = 3  # distinct frames that are searched one by one even in a clip
_PART = 0.8  # share of a find inside a known line from which it is a part of it
_INITIALS = (
    0.5  # height of a line beside a side marker, as a share of the marker's, up to which it is no name
)
_MARGIN = 2  # pixels around what stands beside a side marker
_SAME = 0.5  # share of a box inside another one from which both are the same line
_CINE = frozenset({0x00181063, 0x00181065, 0x00180040, 0x00082144})  # frame times and rates
_SIGNS = re.compile(r"[^\W_]")  # letters and digits
_SMALLEST, _SHORTEST = 16, 6  # pixels; a name needs four letters of three pixels, and five pixels in height
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@dataclass(frozen=True)
class Reader:
    """How text is found and read; tests replace it.

    Attributes:
        find: picture and search -> lines.
        read: picture and box -> characters.
        glyph: picture and box -> the one connected character in it, if any.
    """

    find: Callable[[Picture, Search], list[Found]] = ocr.find
    read: Callable[[Picture, Box], Reading] = ocr.read
    glyph: Callable[[Picture, Box], Glyph | None] = ocr.glyph


@dataclass(frozen=True)
class TextLine:
    """One line of text in the pixels.

    Attributes:
        box: its place.
        text: what was read, which may be wrong; private.
        technical: it is proven to be technical, or a reviewer keeps it; it stays.
        glyph: it is one character that was not read as a technical one.
        confidence: with which it was read, 0 to 1.
        reviewed: it stays because a reviewer keeps it.
    """

    box: Box
    text: str
    technical: bool
    glyph: bool = False
    confidence: float = 0.0
    reviewed: bool = False


@dataclass(frozen=True)
class TextRule:
    """What decides whether a line may stay.

    Attributes:
        found: identifiers of the header, which no line that stays may hold.
        measurements: whether the labels of measurements are technical.
    """

    found: Identifiers
    measurements: bool = False

    def is_technical(self, reading: Reading) -> bool:
        """Return whether a line was read with confidence, is on the list and holds nothing of the header."""
        return (
            reading.confidence >= _READ
            and is_technical(reading.text, measurements=self.measurements)
            and not self.found.found_in(reading.text)
        )

    def resembles(self, text: str) -> bool:
        """Return whether a part of a text resembles a name or a number of the header."""
        words = [word.casefold() for word in text.replace("^", " ").split() if len(word) >= 4]
        seeds = [seed for seed in (*self.found.names, *self.found.numbers) if len(seed) >= 4]
        return self.found.found_in(text) or any(
            SequenceMatcher(None, word, seed, autojunk=False).ratio() >= 0.7
            for word in words
            for seed in seeds
        )


def kept_by_reviewer(found: Sequence[TextLine], places: Sequence[Box], rule: TextRule) -> list[TextLine]:
    """Return lines in which those stay that lie in places that a reviewer keeps.

    A line that was not read with confidence, resembles something of the header, or holds a word or number
    that :func:`meninx.deid.wording.text.clean_text` would remove, does not stay: the decision is about a
    layout, and in the next image somebody's name may stand in the same place.

    Args:
        found: lines of one image.
        places: boxes that the reviewer saw in the first image of the layout.
        rule: what decides whether a line may stay.
    """
    around = [place.grown(NEAR, (1 << 30, 1 << 30)) for place in places]

    def stays(line: TextLine) -> bool:
        inside = any(place.shared(line.box) == line.box.area for place in around)
        known = inside and not line.technical and line.confidence >= _READ and _is_of_the_field(line.text)
        return known and not rule.resembles(line.text)

    return [replace(line, technical=True, reviewed=True) if stays(line) else line for line in found]


def _is_of_the_field(text: str) -> bool:
    """Return whether every word and number of a line is one that a description may hold."""
    return _SIGNS.findall(clean_text(text)) == _SIGNS.findall(text) != []


def can_hold_text(layers: Layers) -> bool:
    """Return whether a frame is large enough for a legible name."""
    return max(layers.rows, layers.columns) >= _SMALLEST and min(layers.rows, layers.columns) >= _SHORTEST


def lines(
    original: Instance,
    layers: Layers,
    rule: TextRule,
    reader: Reader,
    *,
    second: bool = False,
    known: Sequence[Box] = (),
) -> list[TextLine]:
    """Return the lines of text in all frames of an instance.

    Args:
        original: the instance.
        layers: of its frames.
        rule: what decides whether a line may stay.
        reader: how text is found and read.
        second: search the way that the result is searched.
        known: boxes of technical text; what is found there again is left out.

    Raises:
        Refused: ``pixels-unreadable``.
        UsageError: the extra ``ocr`` is not installed.
    """
    found: list[TextLine] = []
    for values in views(original, layers, single=not second):
        picture = as_picture(values, enhanced=second)
        places = reader.find(picture, SECOND if second else FIRST)
        places = [one for one in places if not any(_is_same(one.box, box) for box in known)]
        found += _without_crowded_glyphs([_lines(picture, one, rule, reader) for one in places])
    return merged(found)


def _is_same(box: Box, known: Box) -> bool:
    """Return whether a find is a known line or a part of it, whatever a second reading of it says."""
    shared = known.shared(box)
    return shared >= 0.6 * max(box.area, 0.6 * known.area) or shared >= _PART * box.area


def _without_crowded_glyphs(found: list[list[TextLine]]) -> list[TextLine]:
    """Return the lines of all finds, in which a single character stays only if it stands alone.

    A letter on an empty background is a side marker and identifies nobody, even where the network cannot name
    it because a technician laid it askew. Beside other letters of its size it may be part of a name. Initials
    beside a marker are smaller and go by themselves.
    """
    result = []
    for at, one in enumerate(found):
        others = [line.box for lines in found[:at] + found[at + 1 :] for line in lines]
        for line in one:
            near = line.box.grown(2 * line.box.height, (1 << 30, 1 << 30))
            crowded = any(near.shared(box) and box.height > _INITIALS * line.box.height for box in others)
            alone = line.technical and not crowded
            result.append(replace(line, technical=alone) if line.glyph else line)
    return result


def _lines(picture: Picture, one: Found, rule: TextRule, reader: Reader) -> list[TextLine]:
    """Return what a find is: nothing, a line, or a side marker and what stands beside it."""
    if one.score < _WEAK:
        return []
    shorter, allowed = min(one.box.width, one.box.height), _LARGE_PART * min(picture.shape[:2])
    large = shorter > min(_LARGE, allowed)
    upright = one.box.height <= 2.2 * one.box.width
    reading = reader.read(picture, one.box) if upright else Reading("", 0.0)
    if large or one.score < _STRONG:
        # Round organs resemble a large O. Letters of this size can be read, in one of four directions.
        turned = [] if upright and not large else _turned(picture, one.box, reader)
        if not any(_is_legible(way, rule) for way in (reading, *turned)):
            return []
    plain = TextLine(one.box, reading.text, rule.is_technical(reading), confidence=reading.confidence)
    if plain.technical or len(reading.text.strip()) > 1 or not _is_letter(one.box):
        return [plain]
    glyph = reader.glyph(picture, one.box)
    if glyph is None or not _is_letter(glyph.box):
        return [plain]
    beside = [around(box, [glyph.box], _MARGIN, picture.shape) for box in line_boxes(glyph.beside)]
    marker = replace(plain, box=glyph.box, technical=True, glyph=True)
    return [marker, *(TextLine(box, "", technical=False) for box in beside)]


def _is_letter(box: Box) -> bool:
    return 0.45 < box.width / box.height < 2.2


def around(box: Box, others: Sequence[Box], margin: int, shape: tuple[int, ...]) -> Box:
    """Return a box with the largest margin, up to a given one, that reaches into no other box."""
    grown = (box.grown(pixels, shape) for pixels in range(margin, 0, -1))
    return next((one for one in grown if not any(one.shared(other) for other in others)), box)


def _is_legible(reading: Reading, rule: TextRule) -> bool:
    clear = reading.confidence >= _READ and sum(map(str.isalnum, reading.text)) >= 3
    return clear or rule.resembles(reading.text)


def _turned(picture: Picture, box: Box, reader: Reader) -> list[Reading]:
    """Return what is read in a box when it is turned by 90, 180 and 270 degrees."""
    piece = picture[box.top : box.bottom, box.left : box.right]
    readings = []
    for turns in (1, 2, 3):
        turned = np.ascontiguousarray(np.rot90(piece, turns))
        readings.append(reader.read(turned, Box(0, 0, turned.shape[1], turned.shape[0])))
    return readings


def merged(found: Sequence[TextLine]) -> list[TextLine]:
    """Return lines without those that another view showed as well; one that is redacted in any view goes."""
    result: list[TextLine] = []
    for line in sorted(found, key=lambda one: (one.technical, one.box)):
        inside = [other for other in result if other.box.shared(line.box) >= _SAME * line.box.area]
        if line.technical and inside:
            continue
        if not any(other.box.shared(line.box) == line.box.area for other in inside):
            result.append(line)
    return sorted(result, key=lambda one: one.box)


def views(original: Instance, layers: Layers, *, single: bool = True) -> Iterator[Values]:
    """Yield the images that show everything that is written in any frame of an instance.

    Up to three distinct frames, and pages of a secondary capture, are yielded as they are. A clip is reduced
    to its lowest and highest values: text that stays shows in both, and text of some frames in one of them.
    What a single frame adds to the highest values is yielded, too, unless ``single`` is false.

    Raises:
        Refused: ``pixels-unreadable``.
    """
    seen: set[bytes] = set()
    pages: list[Values] = []
    cine = _is_cine(original)
    range_: _Range | None = None
    for values in frames.all_shown(original, layers):
        digest = hashlib.blake2b(np.ascontiguousarray(values).data, digest_size=16).digest()
        if digest in seen:
            continue
        seen.add(digest)
        if not cine:
            yield values
        elif range_ is not None:
            range_.add(values)
        else:
            pages.append(values)
            if len(pages) > _MOST_PAGES:
                range_ = _Range(pages)
    yield from pages if range_ is None else range_.views(single=single)


def _is_cine(original: Instance) -> bool:
    capture = original.text(SOP_CLASS).startswith(_SECONDARY_CAPTURE)
    timed = any(element.tag in _CINE for element in original.elements)
    return timed or not capture


class _Range:
    """The two lowest and the two highest values of each pixel over frames, added one by one."""

    def __init__(self, pages: list[Values]) -> None:
        stack = np.sort(np.stack(pages[:2]), axis=0)
        self.low, self.high = stack[0].copy(), stack[1].copy()
        self.second = stack[0].copy()  # the second highest
        for values in pages[2:]:
            self.add(values)
        pages.clear()

    def add(self, values: Values) -> None:
        """Add a frame."""
        np.minimum(self.low, values, out=self.low)
        np.maximum(self.second, np.minimum(self.high, values), out=self.second)
        np.maximum(self.high, values, out=self.high)

    def views(self, *, single: bool) -> Iterator[Values]:
        """Yield the lowest values, the highest values and what one frame alone adds to them."""
        yield self.low
        yield self.high
        alone = self.high - self.second
        if single and alone.max() > 0.15 * max(float(self.high.max()) - float(self.low.min()), 1e-6):
            yield alone


def as_picture(values: Values, *, enhanced: bool = False) -> Picture:
    """Return an image in RGB with 8 bits.

    Args:
        values: shape (rows, columns) or (rows, columns, 3).
        enhanced: of more than 8 bits, show all values from the lowest to the highest, dark ones brighter.
            Otherwise the middle 99 % are shown, because text often has the highest value that can be stored,
            far above the image itself. 8 bits stay as they are.
    """
    if values.dtype == np.uint8:
        picture = values
    else:
        scaled = values.astype(np.float32)
        scaled[~np.isfinite(scaled)] = 0
        low, high = float(scaled.min()), float(scaled.max())
        middle = scaled[(scaled > low) & (scaled < high)] if not enhanced else scaled[:0]
        if middle.size:
            low, high = (float(level) for level in np.percentile(middle, (0.5, 99.5)))
        scaled = ((scaled - low) / max(high - low, 1e-6)).clip(0, 1)
        picture = np.round((np.sqrt(scaled) if enhanced else scaled) * 255).astype(np.uint8)
    return np.ascontiguousarray(picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2))
