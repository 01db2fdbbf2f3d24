"""The cleaner of free text.

:func:`clean_text` retains the words of a vocabulary of radiology, because any other word may be
a name. The vocabulary is in :mod:`meninx.deid.wording.vocabulary`, the rules of phrases are in
:mod:`meninx.deid.wording.phrases`.
"""

from __future__ import annotations

from collections.abc import Callable

from meninx.deid.wording.phrases import reduce_text
from meninx.deid.wording.vocabulary import CORE_WORDS, PLAIN_WORDS, VOCABULARY

__all__ = ["CORE_WORDS", "PLAIN_WORDS", "VOCABULARY"]  # read by other modules from here

REMOVED = "REMOVED"


def clean_text(
    value: str,
    keyed: Callable[[str], str] | None = None,
    *,
    limit: int | None = None,
    identifies: Callable[[str], bool] | None = None,
) -> str:
    """Return what is harmless of ``value`` in its order; often an empty string.

    Guarantee: every word of the result is a member of :data:`VOCABULARY` (any case), a word composed of its
        members or of the pieces in ``tables/word_pieces.csv``, one of the relations and sides in
        :mod:`meninx.deid.wording.vocabulary`, a single letter, a number with a unit or in a form of the field
        (``2.5mm``, ``B30f``, ``L3``), a number of at most two digits, the size of a matrix, or the suffix.
        What states something (a negation, an exclusion, a comparison, a side, contrast, both halves of "with
        and without") stays with the words beside it, or its whole phrase goes; a text with a correction
        ("wrong") stays whole or goes. With ``keyed``, two texts give the same result only if they
        are equal or if their suffixes collide; that holds for each text alone, whatever else was cleaned.

    Args:
        value: one value, decoded.
        keyed: makes a short suffix out of the original. It is appended when the result is not the whole
            value, so that the descriptions of two series stay different.
        limit: most characters of the result; whole phrases are left out at the end.
        identifies: whether a text holds an identifier of the file; such words are removed.

    >>> clean_text("CT THORAX W/O CONTRAST 3.0 B30f, Dr Quillfeather 14.03.2019")
    'CT THORAX W/O CONTRAST 3.0 B30f'
    >>> clean_text("AX T2 Quillfeather", keyed=lambda original: "BX4TM")
    'AX T2 #BX4TM'
    """
    return reduce_text(value, keyed, limit, identifies)
