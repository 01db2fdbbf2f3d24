"""Text of elements by the character set of the instance: decoding, and the bytes that a text may have."""

from __future__ import annotations

import contextlib
import unicodedata
import warnings
from functools import lru_cache

from pydicom.charset import convert_encodings, decode_bytes, encode_string, python_encoding

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
