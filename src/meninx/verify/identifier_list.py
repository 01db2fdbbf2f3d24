"""Lists of identifiers to search for: one value per line, or a table whose columns say what they hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from meninx.core import csv_table, files
from meninx.core.errors import DataError, expected, problem
from meninx.deid import dates
from meninx.deid.identifiers import Identifiers
from meninx.verify.known_values import days_in

MOST_VALUES, MOST_LENGTH = 1_000_000, 1024
_MOST_BYTES = 64 << 20
_KINDS = (
    ("uid", ("uid",)),
    ("day", ("birth", "dob", "date", "geburt", "naissance")),
    ("number", ("id", "mrn", "accession", "number", "ssn", "nr", "phone", "tel", "issuer")),
    ("phrase", ("address", "street", "city", "institution", "hospital", "mail")),
    ("name", ("name", "patient", "physician", "surname", "nom", "vorname")),
)
_UID = re.compile(r"[0-9]+(?:\.[0-9]+){2,}")


def read(path: Path) -> Identifiers:
    """Return the identifiers in a file.

    A file whose first line has several cells, or the name of a known column, is a table (commas, semicolons
    or tabs); each column holds names, numbers, days, UIDs or addresses by its heading, else by its values. In
    any other file each line is one value.

    Raises:
        DataError: it cannot be read, is too large, or holds no value long enough to be searched for.
    """
    found = Identifiers()
    for count, (kind, value) in enumerate(_values(path), start=1):
        if count > MOST_VALUES or len(value) > MOST_LENGTH:
            limit = f"at most {MOST_VALUES:,} values of {MOST_LENGTH:,} characters"
            raise DataError(expected(limit, got="more", where="identifiers", fix="check the file"))
        add(found, kind or kind_of(value), value)
    if not any((found.names, found.numbers, found.days, found.uids, found.phrases)):
        fix = "names need three letters, numbers four characters"
        raise DataError(problem("no value in it is long enough to search for", where="identifiers", fix=fix))
    return found


def add(found: Identifiers, kind: str, value: str) -> None:
    """Add one value of a kind: ``name``, ``number``, ``day``, ``uid`` or ``phrase``."""
    if kind == "name":
        found.add_name(value.replace(",", "^"))
    elif kind == "day" and (days := _days(value)):
        found.days |= days
    elif kind == "uid" and len(value) >= 10:
        found.uids.add(value)
    elif kind == "phrase":
        found.add_phrase(value)
    else:
        found.add_number(value)


def kind_of(value: str) -> str:
    """Return what a value without a heading is.

    >>> [kind_of(value) for value in ("Smithson^Ann", "5512347", "14.03.1957", "1.2.840.99.1", "a@b.org")]
    ['name', 'number', 'day', 'uid', 'phrase']
    """
    if "@" in value:
        return "phrase"
    if _days(value):
        return "day"
    if _UID.fullmatch(value) and len(value) >= 10:
        return "uid"
    digits = sum(sign.isdigit() for sign in value)
    if digits and " " in value.strip() and digits < len(value) / 2:
        return "phrase"
    return "number" if digits else "name"


def _days(value: str) -> set[str]:
    day = dates.parse(value) if re.fullmatch(r"[0-9]{8}.*", value) else None
    if day is not None:
        return {day.strftime("%Y%m%d").rjust(8, "0")}
    return days_in(value) if re.fullmatch(r"[0-9]{1,4}[-./ ][0-9]{1,2}[-./ ][0-9]{1,4}", value) else set()


def _values(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (kind, or nothing; value)."""
    content = files.read_bytes(path, limit=_MOST_BYTES)
    text = content.decode("utf-8-sig", "replace") if _is_utf_8(content) else content.decode("latin-1")
    lines = [line.strip() for line in text.replace("\0", "").splitlines() if line.strip()]
    if not lines:
        return
    if _heading(lines[0]) or re.search(r"[;\t]", lines[0]):
        table = csv_table.read_table(path)
        kinds = {column: _heading(column) for column in table.columns}
        for row in table:
            for column, kind in kinds.items():
                if row.get(column):
                    yield kind, row.get(column)
        return
    for line in lines:
        yield "", line


def _is_utf_8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _heading(text: str) -> str:
    """Return the kind of the first word in a heading that names one; empty for a value."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    words = re.findall(r"[a-z]+", spaced.casefold())
    return next((kind for kind, known in _KINDS if any(word in known for word in words)), "")
