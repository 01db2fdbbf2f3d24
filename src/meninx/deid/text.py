"""Text values: decoding by character set, and the cleaner of free text.

The cleaner (:func:`clean_text`) retains the words of a vocabulary of radiology, because any other word may be
a name. The vocabulary is in :mod:`meninx.deid.vocabulary`, the rules of phrases are in
:mod:`meninx.deid.phrases`.
"""

from __future__ import annotations

import contextlib
import unicodedata
import warnings
from collections.abc import Callable
from functools import lru_cache

from pydicom.charset import convert_encodings, decode_bytes, encode_string, python_encoding

from meninx.deid.phrases import reduce_text
from meninx.deid.vocabulary import CORE_WORDS, PLAIN_WORDS, VOCABULARY

__all__ = ["CORE_WORDS", "PLAIN_WORDS", "VOCABULARY"]  # read by other modules from here

CHARSET_TAG = 0x00080005
UTF_8 = b"ISO_IR 192"
_DELIMITERS = {0x0A, 0x0C, 0x0D, 0x5C, 0x5E, 0x3D}


@lru_cache(maxsize=256)
def encodings_of(value: bytes) -> tuple[str, ...]:
    """Return the Python encodings that a SpecificCharacterSet value stands for.

    Latin-1 for what is no character set.
    """
    terms = [term.strip() for term in value.decode("latin-1").strip(" \0").split("\\")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return tuple(convert_encodings(terms if len(terms) > 1 else terms[0]))
        except (LookupError, ValueError):
            return ("iso8859",)


@lru_cache(maxsize=256)
def is_valid(value: bytes) -> bool:
    """Return whether every value of a SpecificCharacterSet is a defined term."""
    terms = [term.strip() for term in value.decode("latin-1").strip(" \0").split("\\")]
    return all(term in python_encoding for term in terms) and (
        len(terms) == 1 or all("ISO 2022" in t or not t for t in terms)
    )


def decode(value: bytes, encodings: tuple[str, ...]) -> str:
    """Return the text of a value; what cannot be decoded becomes a replacement character.

    Invisible characters (zero-width blanks, soft hyphens, marks of direction) are left out, because they
    would hide a name from the search.
    """
    if value.isascii() and b"\x1b" not in value and encodings[0] not in ("shift_jis", "utf_16", "utf_32"):
        return value.decode("ascii")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            text = decode_bytes(value, encodings, _DELIMITERS)
        except (LookupError, ValueError):
            text = value.decode("latin-1")
    return "".join(sign for sign in text if unicodedata.category(sign) != "Cf")


def encoded(text: str, encodings: tuple[str, ...]) -> set[bytes]:
    """Return the bytes that ``text`` may have in a file with these encodings; UTF-8 is always among them."""
    ways = set()
    for encoding in {"utf_8", "iso8859", *encodings}:
        try:
            ways.add(text.encode(encoding))
        except (LookupError, UnicodeError):
            continue
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(LookupError, ValueError):
            ways.add(encode_string(text, encodings))
    return ways


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
        members, one of the relations and sides in :mod:`meninx.deid.vocabulary`, a single letter, a number
        with a unit or in a form of the field (``2.5mm``, ``B30f``, ``L3``), a number of at most two digits,
        or the suffix. A negation, a side and a mention of contrast stay only with what they stood beside, so
        none of them is turned round. With ``keyed``, two texts give the same result only if they are equal
        or if their suffixes collide.

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
