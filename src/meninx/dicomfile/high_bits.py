"""Bits of native pixels that are no part of the stored value: an old place for overlays, and for anything.

BitsStored and HighBit say which bits of a pixel are its value. Older devices wrote graphics and patient texts
into the other bits, where no viewer shows them as pixels. They are cleared. Sign extension and the padding
value, which many devices write with all bits, are no such use as long as they follow from the stored value
alone. Where two pixels have one stored value and other unused bits, all pixels of that value get one form.

References:
    DICOM PS3.5, section 8.1.1; PS3.3, section C.9.2 (retired use of the unused bits).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meninx.dicomfile.elements import Element

ALLOCATED, STORED, HIGH, SIGNED, PADDING, PADDING_LIMIT = (
    0x00280100,
    0x00280101,
    0x00280102,
    0x00280103,
    0x00280120,
    0x00280121,
)
_SIZES = {8: 1, 16: 2, 32: 4}
Words = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class UnusedBits:
    """Which bits of a pixel are unused.

    Attributes:
        size: bytes of a pixel.
        little: byte order.
        low: number of unused bits below the value.
        stored: number of bits of the value.
        signed: whether the value is a two's complement.
        padding: whole values that mark pixels without content.
    """

    size: int
    little: bool
    low: int
    stored: int
    signed: bool
    padding: tuple[int, ...] = ()

    def clearing(self, windows: Iterable[bytes | memoryview]) -> Clearing | None:
        """Return how the unused bits are cleared; None where nothing stands in them.

        Args:
            windows: all pixels, in pieces; bytes of an incomplete last pixel are ignored.
        """
        seen: Counter[str] = Counter()
        marks = {mark: Counter[str]() for mark in self.padding if mark & self.unused}
        for window in windows:
            words = self.words(window)
            if not len(words) or not (marks or self.signed or np.bitwise_or.reduce(words) & self.unused):
                continue
            for mark, counts in marks.items():
                same = (words & self.value) == (mark & self.value)
                if same.any():
                    counts += self._forms(words[same], mark)
                    words = words[~same]
            seen += self._forms(words)
        kept = tuple(mark for mark, counts in marks.items() if 2 * counts["mark"] > counts.total())
        for mark in marks.keys() - set(kept):  # pixels of these values are like those of any other
            seen += marks[mark] if self._is_negative(mark) else Counter(stray=marks[mark]["stray"])
        extends = self.signed and bool(seen["extended"] or seen["stray"])
        clears = bool(seen["stray"] or (seen["extended"] and seen["plain"]))
        for mark, counts in marks.items():
            usual = "extended" if extends and self._is_negative(mark) else "plain"
            clears |= counts["mark" if mark in kept else usual] != counts.total()
        return Clearing(self, extends, kept) if clears else None

    @property
    def value(self) -> int:
        """The bits of the stored value."""
        return ((1 << self.stored) - 1) << self.low

    @property
    def unused(self) -> int:
        """The other bits."""
        return ((1 << 8 * self.size) - 1) ^ self.value

    def words(self, pixels: bytes | memoryview) -> Words:
        """Return whole pixels as unsigned numbers."""
        kind = np.dtype(f"{'<' if self.little else '>'}u{self.size}")
        return np.frombuffer(pixels, dtype=kind, count=len(pixels) // self.size)

    def extended(self, values: Words) -> Words:
        """Return stored values with ones above the negative ones."""
        return np.where(self._is_negative(values), values | self._above, values).astype(values.dtype)

    @property
    def _above(self) -> int:
        return ((1 << 8 * self.size) - 1) ^ ((1 << (self.low + self.stored)) - 1)

    def _is_negative(self, words: Any) -> Any:
        return (words >> (self.low + self.stored - 1)) & 1 == 1

    def _forms(self, words: Words, mark: int | None = None) -> Counter[str]:
        """Return how many pixels have which form of their unused bits.

        ``mark``: the padding value. ``plain``: zeros, of a value that could be extended or is one of padding.
        ``extended``: ones above a negative value. ``stray``: anything else.
        """
        values = words & self.value
        is_mark = words == mark if mark is not None else np.zeros(len(words), dtype=np.bool_)
        is_plain = (words == values) & ~is_mark
        is_extended = (
            (words == self.extended(values)) & ~is_plain & ~is_mark if self.signed else np.zeros_like(is_mark)
        )
        stray = int(np.count_nonzero(~(is_mark | is_plain | is_extended)))
        if mark is None:
            is_plain &= self._is_negative(values)
        return Counter(
            mark=int(np.count_nonzero(is_mark)), plain=int(np.count_nonzero(is_plain)),
            extended=int(np.count_nonzero(is_extended)), stray=stray,
        )  # fmt: skip


@dataclass(frozen=True)
class Clearing:
    """One form of the unused bits for each stored value.

    Attributes:
        bits: which they are.
        extends: whether negative values get ones above them.
        padding: whole values that all pixels of their stored value get.
    """

    bits: UnusedBits
    extends: bool
    padding: tuple[int, ...]

    def cleared(self, pixels: bytes | memoryview) -> bytes:
        """Return pixels whose unused bits follow from their stored values.

        Args:
            pixels: whole pixels; bytes of an incomplete last one are returned as they are.
        """
        words = self.bits.words(pixels)
        values = words & self.bits.value
        new = self.bits.extended(values) if self.extends else values
        for mark in self.padding:
            new[values == (mark & self.bits.value)] = mark
        return new.astype(words.dtype).tobytes() + bytes(pixels[len(words) * self.bits.size :])


def unused_bits(elements: Iterable[Element], *, little: bool) -> UnusedBits | None:
    """Return which bits of a native pixel are unused; None where all are used or the header does not say.

    Args:
        elements: the data set.
        little: its byte order.
    """
    numbers: dict[int, int] = {}
    for element in elements:
        overlay_bit = element.tag >> 24 == 0x60 and element.tag & 0xFFFF == 0x0102
        if (element.tag >> 16 == 0x0028 or overlay_bit) and (
            _is_number(element) or element.tag not in (ALLOCATED, STORED, HIGH)
        ):
            numbers.setdefault(element.tag, _number(element, little=little))
    size, stored = _SIZES.get(numbers.get(ALLOCATED, 0)), numbers.get(STORED, 0)
    high = numbers.get(HIGH, stored - 1)
    low = high - stored + 1
    if size is None or not 0 < stored < 8 * size:
        return None
    if low < 0 or high >= 8 * size:
        low = 0  # an impossible HighBit; decoders take the lowest bits
    # An overlay in the unused bits of empty pixels has the value that marks padding.
    drawn = any(numbers.get(tag, 0) for tag in numbers if tag >> 24 == 0x60)
    known = (PADDING, PADDING_LIMIT) if size == 2 and not drawn else ()
    padding = tuple(dict.fromkeys(numbers[tag] for tag in known if tag in numbers))
    return UnusedBits(size, little, low, stored, numbers.get(SIGNED) == 1, padding)


def says_stored_bits(elements: Iterable[Element], *, little: bool) -> bool:
    """Return whether a header says which bits of a pixel are its value, in one way for all readers.

    Without BitsStored, pixels of up to 8 bits have no unused ones: every reader shows them all.

    Args:
        elements: the data set.
        little: its byte order.
    """
    found = [e for e in elements if e.tag in (ALLOCATED, STORED)]
    if not all(map(_is_number, found)) or len({e.tag for e in found}) != len(found):
        return False
    numbers = {e.tag: _number(e, little=little) for e in found}
    allocated = numbers.get(ALLOCATED, 0)
    return 0 < numbers.get(STORED, allocated if allocated <= 8 else 0) <= allocated


def _is_number(element: Element) -> bool:
    return element.items is None and len(element.value) == 2 and element.vr in ("US", "SS", "UN")


def _number(element: Element, *, little: bool) -> int:
    return int.from_bytes(bytes(element.value[:2]), "little" if little else "big")
