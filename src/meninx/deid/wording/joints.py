"""What belongs together in a text: the parts of a number, a number and its unit, the halves of brackets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from meninx.deid.wording.vocabulary import UNITS

_NUMBER_JOINS = re.compile(r"[.,+#/^*-]*")  # what stands inside a number or between two of them
_LETTER_JOINS = re.compile(r".*[.+#-]")  # what makes the letters before a digit part of the number
_HYPHENS = frozenset("-!\u2010\u2011\u2012\u2013\u2014\u2212")
_POWERS = re.compile(r"[mc]?m[23]|hu|ppm")
_DECIMAL = re.compile(r"[0-9]+[.,][0-9]+")
_MOST_PARTS = 64  # tokens behind a number that are looked at


def written_together(words: Sequence[str], between: Sequence[str]) -> list[tuple[int, int]]:
    """Return pairs (number, token): the number goes where the token is removed, as it may be a part of it.

    A unit goes with the token before it, which may be its number, and with what stands below the line.

    Args:
        words: the tokens of a text, casefolded.
        between: what stands before each token, up to the token before it.
    """
    pairs = []
    run = False  # whether what is written together up to here has a digit
    for right in range(1, len(words)):
        left, join = right - 1, between[right]
        before, behind = words[left], words[right]
        if before[0].isdigit():
            pairs += [(left, part) for part in _parts_behind(left, words, between)]
        pairs += _joined(left, right, words, join)
        # The numbers of a subtraction ("/4/121") are tokens of their own.
        if not _NUMBER_JOINS.fullmatch(join) or "/" in (behind[0], before[0]):
            run = False
            continue
        digits = [any("0" <= sign <= "9" for sign in word) for word in (before, behind)]
        if digits[0] and (not join or behind == "e"):
            pairs += [(left, right), (right, left)]  # "1.5e"
        run |= digits[0]
        if behind[0].isdigit() and (run or _LETTER_JOINS.fullmatch(join)):
            pairs.append((right, left))
        if before == "e" or (all(digits) and behind[0].isdigit()):
            pairs.append((left, right))
    return pairs


def _joined(left: int, right: int, words: Sequence[str], join: str) -> Iterator[tuple[int, int]]:
    """Yield which of two neighbours goes where the other one is removed, because of a unit or a hyphen."""
    before, behind = words[left], words[right]
    if (UNITS.fullmatch(behind) or _POWERS.fullmatch(behind)) and not join.strip(" .,+#/-"):
        yield right, left  # "0.9 Smith mm" is not 0.9 mm
    if (UNITS.fullmatch(before) and join.strip() == "/") or (join == " " and _DECIMAL.fullmatch(before)):
        yield left, right  # "3.5 mSv": an unknown word may be the unit
    if join in _HYPHENS and any(map(str.isalpha, behind)):
        yield left, right  # "Lungs-GTV" is not the lungs
    if join in _HYPHENS and before[0].isalpha() and before[-1].isdigit():
        yield right, left  # "PTV5400-Rectum" is not the rectum


def _parts_behind(index: int, words: Sequence[str], between: Sequence[str]) -> Iterator[int]:
    """Yield the tokens behind a number that may be parts of it or of its unit: ``3.mg/dl``, ``3ml/s-1``."""
    for part in range(index + 1, min(index + 1 + _MOST_PARTS, len(words))):
        join, before, behind = between[part], words[part - 1], words[part]
        per = join.strip() == "/" and not before[-1].isdigit()  # "0.9 mg / dl"
        if behind[0] == "/" or not (per or _NUMBER_JOINS.fullmatch(join)):
            return
        # A word behind a unit begins something else ("5mm-AXIAL"), unless it has a digit ("5mm-T2").
        unit = before[-1].isdigit() and join != ","
        mixed = before[0].isdigit() and any(sign.isdigit() for sign in behind)
        if not (behind[0].isdigit() or "/" in join or not join or unit or mixed):
            return
        yield part
        if behind[0].isdigit():
            return  # that number has pairs of its own


def style_of(word: str) -> str:
    """Return ``A`` for capitals, ``a`` for small letters, ``Aa`` for a capital first, or an empty string."""
    if not word.isalpha() or len(word) < 3:
        return ""
    if word.isupper():
        return "A" * (len(word) > 4)  # a shorter one is an abbreviation
    return "a" if word.islower() else "Aa" * word.istitle()


def without_lone_brackets(text: str) -> str:
    """Return a text with a comma for each round bracket whose other half is missing."""
    lone: list[int] = []
    for found in re.finditer(r"[()]", text):
        if found[0] == ")" and lone and text[lone[-1]] == "(":
            lone.pop()
        else:
            lone.append(found.start())
    if not lone:
        return text
    places = set(lone)
    signs = ["\0" if index in places else sign for index, sign in enumerate(text)]
    return ", ".join(part for each in "".join(signs).split("\0") if (part := each.strip(" ,")))
