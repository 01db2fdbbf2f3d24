"""Text values: decoding by character set, and reduction of free text to a closed vocabulary.

A word that is not in the vocabulary (``tables/vocabulary.csv``) may be a name, so it is removed. The
vocabulary holds general words of radiology and none that is common as a person's name; a Dixon sequence
therefore loses its name. The patient's own names are removed from the result as well.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
import warnings
from functools import lru_cache

from pydicom.charset import convert_encodings, decode_bytes, encode_string, python_encoding

from meninx.deid.profile import read_table

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


def clean_text(value: str) -> str:
    """Return what is harmless of ``value`` in its order, joined by blanks; often an empty string.

    Guarantee: every word of the result is a member of :data:`VOCABULARY` (any case), a number of at most
        three digits with its unit (``2.5mm``), or a reconstruction kernel (``B30f``) with its slice
        thickness. Other numbers, dates, punctuation and unknown words are gone. Nothing is promised about
        what the order of the remaining words tells.

    Args:
        value: one value, decoded.

    >>> clean_text("CT THORAX 3.0 B30f for Dr Quillfeather 14.03.2019")
    'CT THORAX 3.0 B30f for'
    """
    kept: list[str] = []
    for token in _TOKENS.finditer(value):
        if token["number"] and token["number"].isascii():
            kept.append(token["number"].replace(" ", ""))
            continue
        word = token["word"] or ""
        parts = [word] if word.casefold() in VOCABULARY else word.split("-")
        kept += [part for part in parts if _is_known(part)]
    return " ".join(kept)


def _is_known(word: str) -> bool:
    return word.isascii() and (word.casefold() in VOCABULARY or bool(_KERNELS.fullmatch(word)))
