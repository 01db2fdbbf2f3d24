"""Bits of native pixels that are no part of the stored value: an old place for overlays, and for anything.

BitsStored and HighBit say which bits of a pixel are its value. Older devices wrote graphics and patient texts
into the other bits, where no viewer shows them as pixels. They are cleared. Sign extension and the padding
value, which are written with all bits by many devices, are no such use.

References:
    DICOM PS3.5, section 8.1.1; PS3.3, section C.9.2 (retired use of the unused bits).
"""

from __future__ import annotations

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

    def used_in(self, pixels: bytes | memoryview) -> bool:
        """Return whether any pixel has something in its unused bits.

        Args:
            pixels: whole pixels; bytes of an incomplete last one are ignored.
        """
        words = self._words(pixels)
        if not len(words) or not int(np.bitwise_or.reduce(words)) & self._unused:
            return False
        return bool(self._strays(words).any())

    def cleared(self, pixels: bytes | memoryview) -> bytes:
        """Return the pixels with the unused bits cleared where they are used; signed values are extended.

        Args:
            pixels: whole pixels; bytes of an incomplete last one are returned as they are.
        """
        words = self._words(pixels)
        strays = self._strays(words)
        new = words.copy()
        new[strays] = (
            self._extended(words & self._value)[strays] if self.signed else words[strays] & self._value
        )
        return new.tobytes() + bytes(pixels[len(words) * self.size :])

    @property
    def _value(self) -> int:
        return ((1 << self.stored) - 1) << self.low

    @property
    def _unused(self) -> int:
        return ((1 << 8 * self.size) - 1) ^ self._value

    def _words(self, pixels: bytes | memoryview) -> NDArray[np.integer[Any]]:
        count = len(pixels) // self.size
        kind = np.dtype(f"{'<' if self.little else '>'}u{self.size}")
        return np.frombuffer(pixels, dtype=kind, count=count)

    def _strays(self, words: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        strays: NDArray[np.bool_] = (words & self._unused) != 0
        if self.signed:
            strays &= words != self._extended(words & self._value)
        if self.padding:
            strays &= ~np.isin(words, self.padding)
        return strays

    def _extended(self, values: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
        """Return values with the bits above the highest one set where the highest one is."""
        top = self.low + self.stored
        above = ((1 << 8 * self.size) - 1) ^ ((1 << top) - 1)
        return np.where((values >> (top - 1)) & 1, values | above, values).astype(values.dtype)


def unused_bits(elements: Iterable[Element], *, little: bool) -> UnusedBits | None:
    """Return which bits of the pixels are unused; None where all are used or the header does not say.

    Args:
        elements: the data set.
        little: its byte order.
    """
    numbers: dict[int, int] = {}
    for element in elements:
        overlay_bit = element.tag >> 24 == 0x60 and element.tag & 0xFFFF == 0x0102
        if (element.tag >> 16 == 0x0028 or overlay_bit) and element.items is None and len(element.value) >= 2:
            numbers.setdefault(element.tag, _number(element, little=little))
    size, stored = _SIZES.get(numbers.get(ALLOCATED, 0)), numbers.get(STORED, 0)
    high = numbers.get(HIGH, stored - 1)
    low = high - stored + 1
    if size is None or not 0 < stored < 8 * size or low < 0 or high >= 8 * size:
        return None
    # An overlay in the unused bits of empty pixels has the value that marks padding.
    drawn = any(numbers.get(tag, 0) for tag in numbers if tag >> 24 == 0x60)
    known = (PADDING, PADDING_LIMIT) if size == 2 and not drawn else ()
    padding = tuple(numbers[tag] for tag in known if tag in numbers)
    return UnusedBits(size, little, low, stored, numbers.get(SIGNED) == 1, padding)


def _number(element: Element, *, little: bool) -> int:
    return int.from_bytes(bytes(element.value[:2]), "little" if little else "big")
