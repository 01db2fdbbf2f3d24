"""Text of elements by the character set of the instance: decoding, and the bytes that a text may have.

:func:`decode` reads a value as well as it can, to search and to clean it. :func:`exact` and :func:`distinct`
are for what must not be confused: two different texts never give the same result there.

    >>> ivan, oleg = "Иван".encode("cp1251"), "Олег".encode("cp1251")
    >>> decode(ivan, ("UTF8",)) == decode(oleg, ("UTF8",))
    True
    >>> exact(ivan, ("UTF8",)) is None, distinct(ivan, ("UTF8",)) == distinct(oleg, ("UTF8",))
    (True, False)
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
import warnings
from functools import lru_cache

from pydicom.charset import (
    CODES_TO_ENCODINGS,
    convert_encodings,
    decode_bytes,
    default_encoding,
    encode_string,
    handled_encodings,
    python_encoding,
)

CHARSET_TAG = 0x00080005
UTF_8 = b"ISO_IR 192"
UNDECODED = "\ufffd"
"""The replacement character: stands where :func:`decode` lost bytes, and begins what no text decodes to."""
_DEFINED = frozenset(python_encoding.values()) - {default_encoding}
_SHIFTING = frozenset({*handled_encodings, "euc_kr"})  # with escape sequences even if declared alone
_FRAGMENTS = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*")
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
    would hide a name from the search. Two values may have the same text; see :func:`distinct`.
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


def exact(value: bytes, encodings: tuple[str, ...], *, undeclared: str = "latin-1") -> str | None:
    """Return the text of a value if each of its bytes is text in the declared character sets, else None.

    Nothing is left out and nothing is replaced. A text that holds a replacement character was damaged by an
    earlier program and is None, too.

    Args:
        value: the bytes.
        encodings: of the data set, see :func:`encodings_of`.
        undeclared: what bytes mean where no character set is declared, or none that DICOM defines. The
            standard allows ASCII only; most programs read Latin-1.
    """

    def plain(part: bytes, encoding: str) -> str:
        return part.decode(encoding if encoding in _DEFINED else undeclared)

    def fragment(part: bytes) -> str:
        if not part.startswith(b"\x1b"):
            return plain(part, encodings[0])
        code = part[: 4 if part.startswith((b"\x1b$(", b"\x1b$)")) else 3]
        encoding = CODES_TO_ENCODINGS.get(code, "")
        if encoding not in (*encodings, default_encoding):
            raise UnicodeError("an escape sequence that is not declared")
        if encoding in handled_encodings:  # Python reads these escape sequences itself
            return part.decode(encoding)
        rest = part[len(code) :]
        end = next((at for at, sign in enumerate(rest) if sign in _DELIMITERS), len(rest))
        return plain(rest[:end], encoding) + plain(rest[end:], encodings[0])

    try:
        if b"\x1b" not in value:
            text = plain(value, encodings[0])
        elif len(encodings) > 1 or encodings[0] in _SHIFTING:
            text = "".join(map(fragment, _FRAGMENTS.findall(value)))
        else:
            return None
    except UnicodeError:
        return None
    return None if UNDECODED in text else text


def distinct(value: bytes, encodings: tuple[str, ...]) -> str:
    """Return the text of a value, or, where that does not decode, its bytes as hexadecimal digits.

    Guarantee: two values give the same result only if they are the same text, or the same bytes that are no
        text. The digits stand behind :data:`UNDECODED`, which no text holds, so the bytes can be restored.
    """
    text = exact(value, encodings)
    return UNDECODED + value.strip(b" \0").hex() if text is None else text


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
