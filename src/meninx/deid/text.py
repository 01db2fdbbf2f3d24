"""What may stay of free text: words of a small built-in vocabulary (``tables/vocabulary.csv``), and nothing else.

The vocabulary is closed and short on purpose: a word that is not in it may be a name. A larger vocabulary takes the
place of :data:`VOCABULARY` behind :func:`clean_text` without any other change.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from meninx.deid.iod import read_table

VOCABULARY: frozenset[str] = frozenset(row["word"] for row in read_table("vocabulary.csv"))
_WORDS = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
REMOVED = "REMOVED"


@dataclass(frozen=True)
class TextContext:
    """Where a text stands.

    Attributes:
        keyword: keyword of the attribute, empty when it has none.
        vr: its VR.
    """

    keyword: str = ""
    vr: str = ""


def clean_text(value: str, context: TextContext) -> str:
    """Return the words of ``value`` that are in the vocabulary, in their order, joined by blanks; often an empty string.

    Guarantee: every word of the result is a member of :data:`VOCABULARY` (any case); numbers, dates, punctuation and
    unknown words are gone. Nothing is promised about what the order of the remaining words tells.

    Args:
        value: one value, decoded.
        context: where it stands; every context is treated alike so far.
    """
    del context
    kept: list[str] = []
    for word in _WORDS.findall(value):
        parts = [word] if word.casefold() in VOCABULARY else word.split("-")
        kept += [part for part in parts if part.casefold() in VOCABULARY and part.isascii()]
    return " ".join(kept)
