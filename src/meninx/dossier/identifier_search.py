"""Search for identifiers of patients in what is about to be written.

The dossier is made of named fields, so nothing private should ever get into it. This search looks whether it
did all the same, by a folder that somebody named after a patient, for example: it reads the private files
that know the identifiers, and refuses a dossier that holds one of them.
"""

from __future__ import annotations

import html
import re
import unicodedata
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
_LONG = 8  # letters and digits from which on an identifier is found inside of words
_LETTERS = 6  # letters of a name that is found although its words are written as one
_DIGITS = re.compile(r"[0-9]+")
_DIGEST = re.compile(r"[0-9a-f]{32,}")
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
_TEXTS = (".json", ".html", ".md", ".toml", ".csv", ".txt", ".jsonl", ".sha256", ".py")
_PIECE = 1 << 22  # bytes that are searched at a time
_DEPTHS = ("", "*/", "*/*/")  # a folder of archives or datasets may be given
_COLUMNS = frozenset({"case_id", "patient_id", "patient", "key", "study", "id_old", "id_new"})
"""Columns that name a person, a study or an image, in the tables of deid and prepare."""


class IdentifierIndex:
    """Identifiers as sequences of words, found in a text by the first word.

    One of eight characters or more is also found inside a longer word, and without what stands between its
    words. Letters are compared without case, and as their composed form.

    >>> index = IdentifierIndex(["Doe^Jane_1", "p1", "MRN0012345", "123456789"])
    >>> index.is_in("of DOE JANE 1, female"), index.is_in("doe jane"), index.is_in("p1"), index.count
    (True, False, False, 3)
    >>> [index.is_in(text) for text in ("DOEJANE1", "xMRN0012345a", "id123456789", "id1234567890")]
    [True, True, True, False]
    """

    def __init__(self, identifiers: Iterable[str]) -> None:
        self._known: dict[str, set[tuple[str, ...]]] = {}
        self._numbers: set[str] = set()
        self._long: dict[str, set[str]] = {}
        self._named: dict[str, set[str]] = {}
        for text in identifiers:
            words = tuple(_WORD.findall(_folded(text)))
            letters = "".join(words)
            if len(letters) >= (_SHORTEST_NUMBER if letters.isdigit() else _SHORTEST):
                self._known.setdefault(words[0], set()).add(words)
                self._enter_long(letters, several=len(words) > 1)
            elif len(words) == 1 and letters.isdigit() and len(letters) >= _SHORTEST_IN_TEXT:
                self._numbers.add(letters)
        self.longest = max((len(item) for known in self._known.values() for item in known), default=1)

    def _enter_long(self, letters: str, *, several: bool) -> None:
        """Enter an identifier that chance does not write, to be found inside of words."""
        if letters.isdigit() or len(letters) < _LONG:
            return
        self._long.setdefault(letters[:_LONG], set()).add(letters)
        if several and sum(map(str.isalpha, letters)) >= _LETTERS:
            self._named.setdefault(letters[:_LONG], set()).add(letters)

    @property
    def count(self) -> int:
        """Number of identifiers that are searched for; those that are too short are not."""
        return sum(map(len, self._known.values())) + len(self._numbers)

    def is_in_texts(self, value: object) -> bool:
        """Return whether a text of a table names somebody, also by a number of six to eight digits alone.

        >>> index = IdentifierIndex(["0000123"])
        >>> index.is_in_texts({"a": ["audit of 0000123"]}), index.is_in_texts({"0000124": 123})
        (True, False)
        """
        if isinstance(value, dict):
            return any(self.is_in_texts(item) for pair in value.items() for item in pair)
        if isinstance(value, list):
            return any(map(self.is_in_texts, value))
        if not isinstance(value, str):
            return False
        return not self._numbers.isdisjoint(_WORD.findall(value)) or self.is_in(value)

    def is_in(self, text: str, *, joined: bool = True) -> bool:
        """Return whether a text holds one of them, whatever stands between their words.

        Args:
            text: the text.
            joined: look for names whose words are written as one, which takes long in weights.
        """
        words = _WORD.findall(_folded(text))
        return (
            any(
                tuple(words[place : place + len(item)]) == item
                for place, word in enumerate(words)
                for item in self._known.get(word, ())
            )
            or any(map(self._is_inside, words))
            or (joined and bool(self._named) and _holds(self._named, _joined(words)))
        )

    def _is_inside(self, word: str) -> bool:
        """Return whether a longer word holds one of them; a digest holds nobody."""
        if len(word) < _LONG or _DIGEST.fullmatch(word):
            return False
        if _holds(self._long, word):
            return True
        numbers = () if word.isdigit() else _DIGITS.findall(word)
        return any((number,) in self._known.get(number, ()) for number in numbers)


def _folded(text: str) -> str:
    """Return a text with composed letters and without case."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _joined(words: Iterable[str]) -> str:
    """Return words as one, with a gap for every digest."""
    return "".join(" " if _DIGEST.fullmatch(word) else word for word in words)


def _holds(known: dict[str, set[str]], text: str) -> bool:
    """Return whether a text holds an identifier of a table by its first characters."""
    return bool(known) and any(
        text.startswith(item, place)
        for place in range(len(text) - _LONG + 1)
        for item in known.get(text[place : place + _LONG], ())
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


def without_tables(runs: Iterable[TrainedRun]) -> tuple[str, ...]:
    """Return the names of runs whose dataset is not where it was, so that its patients are not known."""
    return tuple(
        run.name for run in runs if run.data is None or not (Path(run.data.dataset) / MANIFEST_NAME).is_file()
    )


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

    The PDF stores its text in the codes of its fonts. It shows the texts of ``dossier.json``, which are
    searched.

    Raises:
        PrivacyRefusal: one does; names the file by its place, never the identifier.
    """
    for path in sorted(item for item in root.rglob("*") if item.is_file()):
        name = path.relative_to(root).as_posix()
        if index.is_in(name) or _is_in_file(path, index) or _is_in_record(path, index):
            fix = "a folder may be named after a patient: rename it, and make this record again"
            where = "a name in the dossier" if index.is_in(name) else name
            raise PrivacyRefusal(
                problem("a file of the dossier would hold an identifier of a patient", where=where, fix=fix)
            )


def _is_in_file(path: Path, index: IdentifierIndex) -> bool:
    """Return whether a file names somebody, as it is or with the escapes of JSON and HTML decoded."""
    readable = path.suffix in _TEXTS
    for text in _pieces(path):
        if index.is_in(text, joined=readable):
            return True
        decoded = html.unescape(_ESCAPED.sub(_letter, text)) if readable else text
        if decoded != text and index.is_in(decoded):
            return True
    return False


def _letter(match: re.Match[str]) -> str:
    """Return the letter that an escape of JSON stands for."""
    return chr(int(match[1], 16))


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
