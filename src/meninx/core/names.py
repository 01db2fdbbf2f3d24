"""Names from files (labels, attributes, datasets, sites): checked once, escaped wherever they are shown.

A released bundle is opened by programs that interpret text: MONAI evaluates strings that begin with ``$``,
resolves those that begin with ``@`` or ``%`` and replaces every ``#`` by ``::``; spreadsheets execute cells
that begin with ``=``, and terminals interpret control characters. :func:`problem` returns why a name is not
allowed; :func:`check` refuses it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from meninx.core.errors import DataError, expected

LONGEST = 255
LONGEST_SENTENCE = 500
_LEADING = "$@%="
_HIDDEN = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")
_MARKDOWN = re.compile(
    r"([\\`*_{}\[\]<>()#+!|~$&@]|(?<=\d)[.)](?= |$)|:(?=//)|(?<=www)\.|^[-=])", re.IGNORECASE
)
# Beginnings of spreadsheet formulae; the full-width forms work in some languages.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def problem(name: str, *, hash_sign: bool = False) -> str:
    """Return why a name is not allowed, in words that do not quote it; empty if it is allowed.

    Example::

        >>> problem("effusion"), problem("$import os")
        ('', 'one that begins with one of $ @ % =')

    Args:
        name: the name.
        hash_sign: whether ``#`` is allowed, as in identifiers, which are never part of a bundle.
    """
    if not name or name != name.strip():
        return "an empty one, or one with blanks at its ends"
    if len(name) > LONGEST:
        return f"one of more than {LONGEST} characters"
    if name[0] in _LEADING:
        return f"one that begins with one of {' '.join(_LEADING)}"
    if "#" in name and not hash_sign:
        return "one with #"
    if any(unicodedata.category(character) in _HIDDEN for character in name):
        return "one with a control, direction or unassigned character"
    return ""


def check(names: Iterable[str], *, what: str, where: str) -> None:
    """Raise DataError unless every name is allowed; the message gives its position and never the name.

    Args:
        names: the names, in the order of the file.
        what: e.g. ``"label"``.
        where: the file that holds them.
    """
    for number, name in enumerate(names, start=1):
        found = problem(name)
        if found:
            fix = "rename it in the source table and prepare again"
            raise DataError(expected(f"a plain name for {what} {number}", got=found, where=where, fix=fix))


def check_sentence(text: str, *, what: str, where: str) -> None:
    """Raise DataError unless a text is one printable line of at most 500 characters.

    Args:
        text: the text.
        what: name of its key.
        where: the file that holds it.
    """
    if len(text) > LONGEST_SENTENCE or printable(text) != text:
        rule = f"one printable line of at most {LONGEST_SENTENCE} characters"
        got = f"{len(text)} characters" if len(text) > LONGEST_SENTENCE else "characters that do not print"
        raise DataError(expected(rule, got=got, where=f"{where}, {what}"))


def encodable(text: str) -> str:
    """Return text that UTF-8 can encode: an undecodable byte of a file name becomes an escape sequence."""
    return text.encode("utf-8", "backslashreplace").decode()


def printable(text: str, *, hidden: str = "?") -> str:
    """Return text on one line that a terminal or a page shows literally.

    Args:
        text: any text, e.g. a file name with bytes that are not UTF-8.
        hidden: replaces every control and direction character, every blank except the space, and every
            undecodable byte.
    """
    return "".join(character if character.isprintable() else hidden for character in text)


def markdown(text: str) -> str:
    """Return text on one line that Markdown shows literally: no link, image, HTML, table, list or heading."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def csv_cell(text: str) -> str:
    """Return a cell that a spreadsheet shows as text: the start of a formula is quoted, a number is not."""
    if not text.startswith(_FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
