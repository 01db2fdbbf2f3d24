"""Rules for the label of a file: from its folder, a table, a pattern on its path, or an attribute."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from meninx.core import check
from meninx.core.csv_table import read_table
from meninx.core.errors import ConfigError, LayoutError, expected
from meninx.imaging import decode, tags

KEYS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "file")
"""Possible keys of the rows of a table; ``file`` is the path relative to the source, with ``/``."""

Labeller = Callable[[PurePosixPath, Dataset], str]
"""Returns the label of a file from its relative path and attributes; empty if it has none."""


@dataclass(frozen=True, kw_only=True)
class FromFolder:
    """The label is the name of a folder above the file.

    Attributes:
        level: -1 for the folder that holds the file, 0 for the first below the source, and so on.
    """

    level: int = -1


@dataclass(frozen=True, kw_only=True)
class FromTable:
    """The label is in a column of a CSV table.

    Attributes:
        table: the CSV file, with a header row.
        column: the column of the label; empty cells are no label.
        key: the column that identifies the file: SOPInstanceUID, SeriesInstanceUID, StudyInstanceUID,
            PatientID or file.
    """

    table: Path
    column: str
    key: str = "SOPInstanceUID"

    def __post_init__(self) -> None:
        check.one_of(KEYS, key=self.key)


@dataclass(frozen=True, kw_only=True)
class FromPattern:
    """The label is the match of a regular expression in the relative path.

    Attributes:
        pattern: searched in the path with ``/``; the label is its group ``label``, or else its only group.
    """

    pattern: str

    def __post_init__(self) -> None:
        try:
            compiled = re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(
                expected("a regular expression", got=f"one with an error ({error})", where="pattern")
            ) from error
        if "label" not in compiled.groupindex and compiled.groups != 1:
            got = f"{compiled.groups} groups"
            raise ConfigError(expected("a group (?P<label>...), or one group", got=got, where="pattern"))


@dataclass(frozen=True, kw_only=True)
class FromTag:
    """The label is the value of an attribute; several values are joined by ``+``.

    Attributes:
        tag: keyword, ``(gggg,eeee)`` or eight hexadecimal digits.
    """

    tag: str

    def __post_init__(self) -> None:
        tags.keyword_of(self.tag)


Rule = FromFolder | FromTable | FromPattern | FromTag


def needed(rule: Rule) -> tuple[str, ...]:
    """Return the keywords of the attributes that a rule reads."""
    if isinstance(rule, FromTag):
        return (tags.keyword_of(rule.tag),)
    return (rule.key,) if isinstance(rule, FromTable) and rule.key != "file" else ()


def labeller(rule: Rule) -> Labeller:
    """Return the function that labels files by a rule; a table is read once, in this call.

    Raises:
        LayoutError: the table or one of its columns is missing, or one key has two labels; names file
            and rows.
        DataError: raised by the function for a file whose attribute is malformed.
    """
    if isinstance(rule, FromFolder):
        return lambda path, _: (
            path.parts[:-1][rule.level] if -len(path.parts) < rule.level < len(path.parts) - 1 else ""
        )
    if isinstance(rule, FromPattern):
        return lambda path, _: _found(re.search(rule.pattern, path.as_posix()))
    if isinstance(rule, FromTag):
        keyword = tags.keyword_of(rule.tag)
        return lambda _, dataset: _text(dataset, keyword)
    table, key = read_labels(rule), rule.key
    if key == "file":
        return lambda path, _: table.get(path.as_posix(), "")
    return lambda _, dataset: table.get(decode.header_texts(dataset, [key])[key], "")


def read_labels(rule: FromTable) -> dict[str, str]:
    """Return the label of each key of a table; rows without a label are left out.

    Raises:
        LayoutError: as for :func:`labeller`.
    """
    labels: dict[str, str] = {}
    rows: dict[str, int] = {}
    for row in read_table(rule.table, (rule.key, rule.column)):
        key, label = row.get(rule.key), row.get(rule.column)
        if not key or not label:
            continue
        if labels.setdefault(key, label) != label:
            got = f"two, in rows {rows[key]} and {row.number}"
            raise LayoutError(
                expected(f"one label per {rule.key}", got=got, where=rule.table.name, fix="keep one of them")
            )
        rows.setdefault(key, row.number)
    return labels


def _found(match: re.Match[str] | None) -> str:
    if match is None:
        return ""
    return (match.group("label" if "label" in match.re.groupindex else 1) or "").strip()


def _text(dataset: Dataset, keyword: str) -> str:
    with decode.guarded():
        value = dataset.get(keyword)
    if isinstance(value, (MultiValue, list, tuple)):
        return "+".join(str(item).strip() for item in value)
    return "" if value is None or isinstance(value, bytes) else str(value).strip()
