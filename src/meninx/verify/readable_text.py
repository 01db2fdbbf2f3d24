"""The text of a file that names no encoding, and whether all of it can be read.

UTF-8 is decided line by line, because one file may hold lines of several origins, and its beginning says
nothing of its end. A line that is no UTF-8 is read as Latin-1, and its words beyond ASCII in every usual
encoding: a name is found in any of them. Which one is right is known only where the words look Latin.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from meninx.deid.text_in_bytes import is_texty

BY_LINE = "by line"
ENCODINGS = (
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "koi8_r", "iso8859_2", "iso8859_5", "iso8859_7",
    "gb18030", "big5", "shift_jis", "euc_jp", "euc_kr", "cp437", "cp850", "cp866", "mac_roman",
)  # fmt: skip
"""In which words that are no UTF-8 are read."""
_MOST_WORDS = 20_000  # different words of one block that are read in every encoding
_CONTROL = re.compile(r"[\0-\x06\x0e-\x19]")  # no text holds them
_APART = re.compile(rb"[\0-\x3f]+")  # never a part of a sign in any of the encodings
_SHIFTED = re.compile(rb"\x1b\$.")  # ISO 2022
_FOREIGN = re.compile(
    rb"[\x80-\xff]{3}|[\xa1-\xbf]{2}|[\x81\x8d\x8f\x90\x9d]"
    rb"|(?<=[a-z])[\x80-\x91\x93-\x95\x98\x99\x9b\x9f](?=[a-z])|^[\x80-\x84\x86-\x91\x94\x9a\x9b](?=[a-z]{2})"
    rb"|(?<=[A-Za-z])[\xa1-\xac\xae-\xb3\xb5\xb6\xb8-\xbf](?=[A-Za-z])"
)
"""What words of Latin letters do not hold: runs of bytes above 127, and signs among letters."""
_ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})|\\[nrtbf]")
_ENTITY = re.compile(r"&(?:#[0-9xX]|[A-Za-z])")


@dataclass(frozen=True)
class Block:
    """A part of a text.

    Attributes:
        text: as UTF-8, UTF-16 or Latin-1.
        words: words that are no UTF-8, in other encodings.
        unread: some of it is no text, or is in an encoding that cannot be told.
    """

    text: str
    words: frozenset[str] = frozenset()
    unread: bool = False


def encoding_of(sample: bytes) -> str:
    """Return how a file is read: as UTF-16 of an order, or by line; empty for what begins as no text.

    Args:
        sample: its first bytes.
    """
    for encoding, mark, zeros in (
        ("utf-16-le", b"\xff\xfe", sample[1::2]),
        ("utf-16-be", b"\xfe\xff", sample[::2]),
    ):
        if sample.startswith(mark) or (zeros and zeros.count(0) > 0.5 * len(zeros)):
            text = sample[: len(sample) & ~1].decode(encoding, "replace").lstrip("\ufeff")
            return encoding if is_texty(text.encode()) else ""
    return BY_LINE if is_texty(sample) and b"%PDF-" not in sample[:1024] else ""


def read(block: bytes, encoding: str) -> Block:
    """Return the text of a block of whole lines.

    Args:
        block: its bytes.
        encoding: from :func:`encoding_of`.
    """
    try:
        text = block.decode("utf-8" if encoding == BY_LINE else encoding)
    except UnicodeDecodeError:
        if encoding == BY_LINE:
            return _by_line(block)
        return Block(block.decode(encoding, "replace"), unread=True)
    shifted = encoding == BY_LINE and _SHIFTED.search(block)
    words = frozenset({block.decode("iso2022_jp_2", "replace")}) if shifted else frozenset[str]()
    return Block(text, words, bool(shifted or _CONTROL.search(text.rstrip("\0"))))


def _by_line(block: bytes) -> Block:
    lines, odd, unread = [], set[bytes](), False
    for line in block.split(b"\n"):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            lines.append(line.decode("latin-1"))
            if not _CONTROL.search(lines[-1].rstrip("\0")):
                odd |= {word for word in _APART.split(line) if not word.isascii()}
        unread = unread or bool(_CONTROL.search(lines[-1].rstrip("\0")))
    unread = unread or len(odd) > _MOST_WORDS or any(map(_FOREIGN.search, odd))
    known = sorted(odd)[:_MOST_WORDS]
    return Block("\n".join(lines), frozenset(way for word in known for way in _ways(word)), unread)


def _ways(word: bytes) -> Iterator[str]:
    """Yield a word in every encoding that has it, where signs that are no letters do not part it."""
    for encoding in ENCODINGS:
        try:
            text = word.decode(encoding)
        except UnicodeDecodeError:
            continue
        yield "".join(sign if _may_part(sign) or sign.isalnum() else "\u0138" for sign in text)


def _may_part(sign: str) -> bool:
    """Return whether a sign parts words, and is no letter of the right encoding in a wrong one."""
    return (
        sign.isascii() or "\u3000" <= sign <= "\u30ff" or sign >= "\uff00" or unicodedata.combining(sign) > 0
    )


def spellings(line: str) -> Iterator[str]:
    """Yield a line as it is, and as JSON and HTML mean it that spell letters by their numbers and names.

    >>> list(spellings("M&uuml;ller"))
    ['M&uuml;ller', 'Müller']
    """
    yield line
    if "\\" in line and _ESCAPE.search(line):
        text = _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else " ", line)
        line = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        yield line
    if "&" in line and _ENTITY.search(line):
        yield html.unescape(line)
