"""Search for identifiers of patients in what is about to be written.

The dossier is made of named fields, so nothing private should ever get into it. This search looks whether it
did all the same, by a folder that somebody named after a patient, for example: it reads the private files
that know the identifiers, and refuses a dossier that holds one of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from meninx.core import csv_table, files, plain, workspace
from meninx.core.errors import MeninxError, PrivacyRefusal, problem
from meninx.core.manifest import MANIFEST_NAME
from meninx.report.sources import TrainedRun

_WORD = re.compile(r"[^\W_]+")
_SHORTEST, _SHORTEST_NUMBER = 6, 9  # letters and digits below which chance alone would find an identifier
_SHORTEST_IN_TEXT = 6  # digits of a number that stands in a text of a record, and not among numbers
_PIECE = 1 << 22  # bytes that are searched at a time
_DEPTHS = ("", "*/", "*/*/")  # a folder of archives or datasets may be given
_COLUMNS = frozenset({"case_id", "patient_id", "patient", "key", "study", "id_old", "id_new"})
"""Columns that name a person, a study or an image, in the tables of deid and prepare."""


class IdentifierIndex:
    """Identifiers as sequences of words, found in a text by the first word.

    >>> index = IdentifierIndex(["Doe^Jane_1", "p1"])
    >>> index.is_in("of DOE JANE 1, female"), index.is_in("doe jane"), index.is_in("p1"), index.count
    (True, False, False, 1)
    """

    def __init__(self, identifiers: Iterable[str]) -> None:
        self._known: dict[str, set[tuple[str, ...]]] = {}
        self._numbers: set[str] = set()
        for text in identifiers:
            words = tuple(_WORD.findall(text.casefold()))
            letters = "".join(words)
            if len(letters) >= (_SHORTEST_NUMBER if letters.isdigit() else _SHORTEST):
                self._known.setdefault(words[0], set()).add(words)
            elif len(words) == 1 and letters.isdigit() and len(letters) >= _SHORTEST_IN_TEXT:
                self._numbers.add(letters)
        self.longest = max((len(item) for known in self._known.values() for item in known), default=1)

    @property
    def count(self) -> int:
        """Number of identifiers that are searched for; those that are too short are not."""
        return sum(map(len, self._known.values())) + len(self._numbers)

    def is_in_texts(self, value: object) -> bool:
        """Return whether a text of a table holds a number of six to eight digits that names somebody.

        >>> index = IdentifierIndex(["0000123"])
        >>> index.is_in_texts({"a": ["audit of 0000123"]}), index.is_in_texts({"0000124": 123})
        (True, False)
        """
        if isinstance(value, dict):
            return any(self.is_in_texts(item) for pair in value.items() for item in pair)
        if isinstance(value, list):
            return any(map(self.is_in_texts, value))
        return isinstance(value, str) and not self._numbers.isdisjoint(_WORD.findall(value))

    def is_in(self, text: str) -> bool:
        """Return whether a text holds one of them, whatever stands between their words."""
        words = _WORD.findall(text.casefold())
        return any(
            tuple(words[place : place + len(item)]) == item
            for place, word in enumerate(words)
            for item in self._known.get(word, ())
        )


def of_patients(runs: Iterable[TrainedRun], sources: Iterable[Path]) -> Iterator[str]:
    """Yield the identifiers that the private files of runs, datasets and archives know.

    Args:
        runs: the runs that were given.
        sources: the folders that were given.
    """
    datasets: set[Path] = set()
    for run in runs:
        members = run.members
        if members is not None:
            yield from (*members.train, *members.valid, *members.earlier)
            yield from (*members.images, *members.train_images, *members.identifiers, *members.source_files)
        if run.data is not None:
            yield run.data.digest
            datasets.add(Path(run.data.dataset))
    tables = {folder / MANIFEST_NAME for folder in datasets}
    for folder in (*datasets, *sources):
        for depth in _DEPTHS:
            tables |= {
                *folder.glob(f"{depth}{workspace.PRIVATE}/*.csv"),
                *folder.glob(f"{depth}{MANIFEST_NAME}"),
            }
    for path in sorted(tables):
        yield from _cells(path)


def _cells(path: Path) -> Iterator[str]:
    """Yield the cells of a table that name somebody: columns of identifiers, names and files."""
    if not path.is_file():
        return
    try:
        rows = csv_table.read_table(path).rows
    except MeninxError:
        return  # a table of another form names nobody that could be looked for
    for row in rows:
        yield from (value for name, value in row.cells.items() if name in _COLUMNS)


def refuse(root: Path, index: IdentifierIndex) -> None:
    """Refuse a folder one of whose files or names holds an identifier.

    Raises:
        PrivacyRefusal: one does; names the file by its place, never the identifier.
    """
    for path in sorted(item for item in root.rglob("*") if item.is_file()):
        name = path.relative_to(root).as_posix()
        if (
            index.is_in(name)
            or any(index.is_in(text) for text in _pieces(path))
            or _is_in_record(path, index)
        ):
            fix = "a folder may be named after a patient: rename it, and make this record again"
            where = "a name in the dossier" if index.is_in(name) else name
            raise PrivacyRefusal(
                problem("a file of the dossier would hold an identifier of a patient", where=where, fix=fix)
            )


def _is_in_record(path: Path, index: IdentifierIndex) -> bool:
    if path.suffix != ".json":
        return False
    return index.is_in_texts(plain.from_json(files.read_bytes(path), Any, where=path.name))


def _pieces(path: Path) -> Iterator[str]:
    """Yield the text of a file, in pieces that overlap by more than an identifier."""
    tail = b""
    with files.regular(path) as stream:
        while piece := stream.read(_PIECE):
            yield (tail + piece).decode("utf-8", "replace")
            tail = piece[-4096:]
