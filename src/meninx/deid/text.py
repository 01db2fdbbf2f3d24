"""What may stay of free text: words of a closed vocabulary (``tables/vocabulary.csv``), measures, kernels, and nothing else.

A word that is not in the vocabulary may be a name. The vocabulary holds general words of radiology and none
that is common as a person's name (no eponyms: a Dixon sequence loses its name); the patient's own names are
cut out afterwards all the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from meninx.deid.iod import read_table

VOCABULARY: frozenset[str] = frozenset(row["word"] for row in read_table("vocabulary.csv"))
REMOVED = "REMOVED"
# Numbers of at most three digits and only with a unit: without one they may be a day, a room, or a piece of a
# phone number.
_MEASURE = r"[0-9]{1,3}(?:\.[0-9]{1,3})? ?(?:mm|cm|ml|kvp?|mas|sec|min|mgy|gy|mbq|hz|mhz)|[1-9](?:\.[0-9])?t"
_KERNEL = r"(?:[bhi][0-9]{2}[fshmv]?|(?:br|bl|bv|hr|hc|hv|hp|qr|ur)[0-9]{2}[a-z]?|f[cl][0-9]{2})"
_THICKNESS = r"[0-9]\.[0-9]{1,2}"
_TOKENS = re.compile(
    rf"(?<![\w.,:/-])(?P<number>(?:{_MEASURE})(?!\w)|{_THICKNESS}(?=\s{_KERNEL}\b))|(?P<word>[^\W_]+(?:-[^\W_]+)*)",
    re.IGNORECASE,
)
_KERNELS = re.compile(_KERNEL, re.IGNORECASE)
_NUMBERS = re.compile(rf"{_MEASURE}|{_THICKNESS}", re.IGNORECASE)


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
    """Return what is harmless of ``value`` in its order, joined by blanks; often an empty string.

    Guarantee: every word of the result passes :func:`is_harmless`: a member of :data:`VOCABULARY` (any case),
        a number of at
    most three digits with its unit (``2.5mm``), or a reconstruction kernel (``B30f``) with its slice
    thickness. Other numbers, dates, punctuation and unknown words are gone. Nothing is promised about what
    the order of the remaining words tells.

    Args:
        value: one value, decoded.
        context: where it stands; every context is treated alike so far.

    >>> clean_text("CT THORAX 3.0 B30f for Dr Quillfeather 14.03.2019", TextContext())
    'CT THORAX 3.0 B30f for'
    """
    del context
    kept: list[str] = []
    for token in _TOKENS.finditer(value):
        if token["number"] and token["number"].isascii():
            kept.append(token["number"].replace(" ", ""))
            continue
        word = token["word"] or ""
        parts = [word] if word.casefold() in VOCABULARY else word.split("-")
        kept += [part for part in parts if _is_known(part)]
    return " ".join(kept)


def is_harmless(word: str) -> bool:
    """Return whether one word of a cleaned text may be there: known, or a number in the form of a measure or a thickness."""
    return _is_known(word) or bool(word.isascii() and _NUMBERS.fullmatch(word))


def _is_known(word: str) -> bool:
    return word.isascii() and (word.casefold() in VOCABULARY or bool(_KERNELS.fullmatch(word)))
