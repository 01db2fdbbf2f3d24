"""What belongs together in a text: the parts of a number, a number and its unit, the halves of brackets."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBER_JOINS = re.compile(r"[.,+#/-]*")  # what stands inside a number or between two of them
_LETTER_JOINS = re.compile(r".*[.+#-]")  # what makes the letters before a digit part of the number
_UNIT_ENDS = re.compile(r"[0-9].*[^\W\d_]")


def written_together(words: Sequence[str], between: Sequence[str]) -> list[tuple[int, int]]:
    """Return pairs (number, token): the number goes where the token is removed, as it may be a part of it.

    Args:
        words: the tokens of a text.
        between: what stands before each token, up to the token before it.
    """
    pairs = []
    run = False  # whether what is written together up to here has a digit
    for right in range(1, len(words)):
        left, join = right - 1, between[right]
        before, behind = words[left], words[right]
        if _UNIT_ENDS.fullmatch(before) and join.strip() == "/":
            pairs.append((left, right))  # "0.9 mg/dl"
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
        bare = before == "e" or (before[0].isdigit() and before[-1].isdigit() and join != ",")
        if bare or (all(digits) and (before[0].isdigit() or behind[0].isdigit())):
            pairs.append((left, right))
    return pairs


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
