"""Whether the page of a dossier shows the values of ``dossier.json``, whatever version wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

from meninx.core.dossier_records import DossierRecord
from meninx.dossier.facts import every, shown
from meninx.verify.check_list import some

_ACTIVE = ("script", "iframe", "object", "embed", "base", "form")
_CELLS = ("td", "th")


def differences(page: str, record: DossierRecord) -> Iterator[str]:
    """Yield what a page shows otherwise than the record: values by the words of their row.

    Args:
        page: HTML of the dossier.
        record: what ``dossier.json`` says.
    """
    reader = _Rows()
    reader.feed(page)
    reader.close()
    if reader.active:
        yield f"it holds {some(reader.active)}, which no page of a dossier does"
    allowed: dict[str, set[str]] = {}
    for fact in every(record.parts):
        allowed.setdefault(_plain(fact.words), set()).add(_plain(shown(fact)))
    seen: dict[str, set[str]] = {}
    wrong = set()
    for row in reader.rows:
        if len(row) < 2 or row[0] not in allowed:
            continue
        values = [value for value in allowed[row[0]] if row[1].startswith(value)]
        seen.setdefault(row[0], set()).update(values)
        if not values:
            wrong.add(row[0])
    if wrong:
        yield f"it shows another value of {some(wrong)}"
    missing = {words for words, values in allowed.items() if values - seen.get(words, set())} - wrong
    if missing:
        yield f"it does not show {some(missing)}"


def _plain(text: str) -> str:
    return " ".join(text.split())


class _Rows(HTMLParser):
    """Collects the rows of all tables, cells as plain text, and elements that could do something."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[list[str]] = []
        self.active: set[str] = set()
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a row or a cell."""
        if tag in _ACTIVE:
            self.active.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in _CELLS and self.rows:
            self.rows[-1].append("")
        self._inside = self._inside or tag in _CELLS

    def handle_endtag(self, tag: str) -> None:
        """End a cell."""
        self._inside = self._inside and tag not in _CELLS
        if tag in _CELLS and self.rows and self.rows[-1]:
            self.rows[-1][-1] = _plain(self.rows[-1][-1])

    def handle_data(self, data: str) -> None:
        """Collect the text of a cell."""
        if self._inside and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data
