"""Facts and the files they come from: a fact without a file of the dossier is "not shown", with a reason."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from meninx.core import artifacts, files, names
from meninx.core.dossier_records import NOT_SHOWN, DossierPart, Fact, Scalar
from meninx.core.run import Run

RecordT = TypeVar("RecordT")
RUN, RELEASE, DATA, RUNS = "run", "release", "data", "runs"
"""Folders of a dossier: records of the run, its release, data behind it, all runs that were given."""
SELECTION = "selection.json"
NONE = "none"
"""Value of a fact that says that there is nothing of its kind, as its file shows."""
LONGEST = 2_000
"""Characters of a text that a fact holds."""


class EvidenceFolder:
    """The files of a dossier that facts are taken from; nothing else is read.

    Attributes:
        root: the dossier.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @functools.cached_property
    def run(self) -> Run:
        """The records of the run, laid out as in a run folder."""
        return Run(self.root / RUN)

    @functools.lru_cache(maxsize=4096)  # noqa: B019 (one folder lives as long as a command)
    def digest(self, path: str) -> str:
        """Return the SHA-256 of a file."""
        return files.digest(self.root / path)

    def record(self, path: str, kind: type[RecordT]) -> RecordT | None:
        """Return the record in a file; None without the file."""
        return artifacts.read_file(self.root / path, kind)

    def has(self, path: str) -> bool:
        """Return whether there is such a file."""
        return (self.root / path).is_file()

    def text(self, path: str) -> str:
        """Return the text of a file; foreign bytes stay, so that its check refuses them."""
        content = files.read_bytes(self.root / path, limit=artifacts.LEDGER_LIMIT)
        return content.decode("utf-8", "surrogateescape")

    def below(self, folder: str, pattern: str) -> list[str]:
        """Return the paths of files below a folder, sorted."""
        found = (self.root / folder).glob(pattern) if (self.root / folder).is_dir() else ()
        return sorted(path.relative_to(self.root).as_posix() for path in found if path.is_file())


class FactList:
    """Collects the facts of one part.

    Attributes:
        key: stable name of the part.
        title: its heading.
    """

    def __init__(self, evidence: EvidenceFolder, key: str, title: str) -> None:
        self.evidence, self.key, self.title = evidence, key, title
        self._facts: list[Fact] = []

    def add(
        self,
        key: str,
        words: str,
        value: object,
        source: str,
        *,
        limits: tuple[float | None, float | None] = (None, None),
        remark: str = "",
        missing: str = "the record does not state it",
        none: str = "",
    ) -> None:
        """Add a fact.

        Args:
            key: its name below the part.
            words: what it is.
            value: its value; None, an empty text or an empty list are not shown.
            source: path of its file in the dossier.
            limits: its interval.
            remark: how the value was computed.
            missing: why nothing is shown, where the value is None or empty.
            none: what is known where the value is None or empty: there is none, so that the fact says so.
        """
        shown = _value(value)
        if shown is None and none:
            shown, remark = NONE, none
        if shown is None:
            self.unknown(key, words, missing)
            return
        low, high = (item if item is not None and math.isfinite(item) else None for item in limits)
        self._facts.append(
            Fact(
                key=f"{self.key}/{key}",
                words=words,
                value=shown,
                low=low,
                high=high,
                source=source,
                sha256=self.evidence.digest(source),
                remark=remark,
            )
        )

    def unknown(self, key: str, words: str, reason: str) -> None:
        """Add a fact that is not shown."""
        self._facts.append(Fact(key=f"{self.key}/{key}", words=words, value=NOT_SHOWN, remark=reason))

    def part(self) -> DossierPart:
        """Return the part."""
        return DossierPart(key=self.key, title=self.title, facts=tuple(self._facts))


def _value(value: object) -> Scalar | tuple[str, ...] | None:
    """Return a value as a fact holds it; None for nothing."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**53 else str(value)
    if isinstance(value, float):
        if math.isinf(value):
            return "infinite" if value > 0 else None
        return None if math.isnan(value) else value
    if isinstance(value, (tuple, list)):
        return tuple(_text(str(item)) for item in value) or None
    return None if value is None else _text(str(value)) or None


def _text(text: str) -> str:
    """Return a text on one printable line of bounded length."""
    plain = names.printable(text).strip()
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]} (cut)"


def shown(fact: Fact) -> str:
    """Return a fact's value as pages and terminals show it, the same everywhere.

    >>> shown(Fact(key="a", words="", value=0.123456, low=0.1, high=0.2, source="x", sha256="0"))
    '0.1235 (0.1 to 0.2)'
    >>> shown(Fact(key="a", words="", value=1234, source="x", sha256="0"))
    '1,234'
    """
    text = "; ".join(fact.value) if isinstance(fact.value, tuple) else number(fact.value)
    if fact.low is None or fact.high is None:
        return text
    return f"{text} ({number(fact.low)} to {number(fact.high)})"


def number(value: Scalar) -> str:
    """Return a value in words and digits: thousands separated, fractions with four significant digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else value


def every(parts: tuple[DossierPart, ...]) -> Iterator[Fact]:
    """Yield the facts of all parts."""
    for part in parts:
        yield from part.facts
