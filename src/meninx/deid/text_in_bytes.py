"""Whether bytes that should be numbers or samples are readable text, or hold some of it.

No header says whose text it may be, so the words do not matter. What matters is that arrays do not read like
this: the more bytes there are, the longer a readable run has to be before chance does not explain it.
"""

from __future__ import annotations

import math
import string

import numpy as np
import numpy.typing as npt

NUMBERS = frozenset({"AT", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"})
_Signs = npt.NDArray[np.bool_]


def _table(signs: str) -> _Signs:
    table = np.zeros(256, dtype=np.bool_)
    table[np.frombuffer(signs.encode("ascii"), dtype=np.uint8)] = True
    return table


_SPACED = _table(string.ascii_letters + " ")
_NAMES = _table(string.ascii_letters + " ^'.,-")
_WORDS = _table(string.ascii_letters + string.digits + " ^'.,:;/()@+_=-")
_PRINTABLE = _table("".join(map(chr, range(32, 127))))
_CONTROL = _table("".join(chr(sign) for sign in range(32) if chr(sign) not in "\t\n\r"))
_SHORT = 64  # bytes of a value of which no part has to be an array
_LEAST_CHANGE = 3.0  # between the same bytes of two samples, on average
_CHANCE = 9.0  # minus the logarithm of the probability that an array of random bytes is taken for text
_WINDOW, _OVERLAP = 1 << 18, 256


def is_prose(value: bytes, vr: str) -> bool:
    """Return whether numbers or samples are readable text, which no array and no look-up table is.

    Args:
        value: all bytes.
        vr: by which they are understood; values of ``UN`` are judged elsewhere.
    """
    plain = value.rstrip(b"\0")
    if vr in NUMBERS and len(plain) >= 7 and _share(plain, _PRINTABLE) == 1:
        return True
    sample = value.rstrip(b"\0 ")
    if vr == "UN" or len(sample) < 4:
        return False
    short = vr not in NUMBERS and len(sample) <= _SHORT and _share(sample, _PRINTABLE) == 1
    if short and len(sample) >= 6 and _share(sample, _WORDS) > 0.9:
        return True
    if _share(sample, _SPACED) <= 0.6:
        return False
    return short or (len(sample) >= 16 and is_texty(sample) and _is_uneven(sample))


def holds_text(value: bytes) -> bool:
    """Return whether an array holds a readable run somewhere that chance does not explain.

    >>> holds_text(bytes(5000) + b"Quentinsson, Bob, call Dr Featherbee" + bytes(5000))
    True
    >>> holds_text(bytes(range(256)) * 20)
    False
    """
    for signs in (_NAMES, _WORDS):
        # The high byte of a sample may be a letter everywhere; the low ones are signs by chance.
        of_chance = 0.5 * math.log(256 / np.count_nonzero(signs))
        least = max(16, math.ceil((math.log(len(value) or 1) + _CHANCE) / of_chance))
        for start in range(0, len(value), _WINDOW):
            window = value[start : start + _WINDOW + _OVERLAP]
            if any(_is_uneven(window[first:last], least) for first, last in _runs(window, signs, least)):
                return True
    return False


def is_texty(value: bytes) -> bool:
    """Return whether bytes look like text: nearly all of them are printable in some character set."""
    sample = value.rstrip(b"\0 ")
    return bool(sample) and _share(sample, _CONTROL) < 0.1


def _runs(window: bytes, signs: _Signs, least: int) -> list[tuple[int, int]]:
    """Return where so many of some signs stand beside each other, as (first, behind the last)."""
    others = np.flatnonzero(~signs[np.frombuffer(window, dtype=np.uint8)])
    ends = np.concatenate(([-1], others, [len(window)]))
    long = np.flatnonzero(np.diff(ends) > least)
    return [(int(ends[at]) + 1, int(ends[at + 1])) for at in long]


def _is_uneven(run: bytes, part: int = 0) -> bool:
    """Return whether the bytes change as those of words do at every place of a sample of 1, 2 or 4 bytes.

    Those of a ramp, of a smooth curve, or of one value do not.

    Args:
        run: the bytes, 16 or more.
        part: where given, whether any so many bytes beside each other do.
    """
    part = part or len(run)
    signs = np.frombuffer(run, dtype=np.uint8).astype(np.int16)
    parts = np.lib.stride_tricks.sliding_window_view(signs, part)[:: max(part // 4, 1)]
    for step in (1, 2, 4):
        for first in range(step):
            changes = np.abs(np.diff(parts[:, first::step], axis=1))
            often = (changes > 0).mean(axis=1) >= 0.5
            parts = parts[often & (changes.mean(axis=1) >= _LEAST_CHANGE)]
            if not len(parts):
                return False
    return True


def _share(value: bytes, signs: _Signs) -> float:
    """Return the share of the bytes that are one of these signs."""
    return float(signs[np.frombuffer(value, dtype=np.uint8)].mean())
