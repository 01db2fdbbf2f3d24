"""Status of a study in the terminal: one view for ``meninx federate status`` and for a study that runs.

>>> from meninx.federated.events import SiteConnected
>>> from meninx.federated.study_status import status_of
>>> console = Console(width=80, color_system=None)
>>> with console.capture() as shown:
...     console.print(view(status_of([SiteConnected(time=0.0, site="east")]), now=0.0))
>>> [line.strip() for line in shown.get().splitlines() if "not started" in line]
['Study            not started  its terms are not known here']

Text of a site is printed as text: rich reads no markup in it, and control characters are replaced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from meninx.core import names
from meninx.federated import event_words, status_page
from meninx.federated.study_status import SiteStatus, StatusEntry, StudyStatus

ENTRIES = 8  # latest events below the table
_COLOURS = {"green": "green", "amber": "yellow", "red": "red", "grey": "dim"}
_REDRAWS = 2.0  # per second


def view(status: StudyStatus, *, now: float, entries: int = ENTRIES) -> RenderableType:
    """Return what rich prints of a status.

    Args:
        status: as the viewer may see it.
        now: seconds since 1970.
        entries: how many of the latest events are shown.
    """
    viewer = "the coordinator" if status.viewer is None else status.viewer
    title = _text(status.study or "study", "bold").append_text(_text(f", as {viewer} sees it", "not bold"))
    parts: list[RenderableType] = [title, _cards(status, now)]
    if status.sites:
        parts.append(_sites(status))
    if entries:
        parts += [_entry(entry) for entry in status.history[-entries:]]
    return Group(*parts)


@contextmanager
def drawing(console: Console, status: Callable[[], StudyStatus]) -> Iterator[None]:
    """Draw the view of a running study again and again until the block ends.

    Args:
        console: the terminal.
        status: gives the latest status; called from another thread.
    """

    def drawn() -> RenderableType:
        return view(status(), now=time.time())

    with Live(console=console, get_renderable=drawn, refresh_per_second=_REDRAWS):
        yield


def _cards(status: StudyStatus, now: float) -> Table:
    table = Table.grid(padding=(0, 2))
    for card in status_page.cards(status, now):
        table.add_row(_text(card.title), _text(card.value, _COLOURS[card.tone]), _text(card.detail))
    return table


_COLUMNS: tuple[tuple[str, Callable[[SiteStatus], str]], ...] = (
    ("This round", lambda site: status_page.step(site) if site.numbers else ""),
    ("Left the site", lambda site: event_words.size(site.numbers.sent) if site.numbers else ""),
    ("ε", lambda site: status_page.epsilon(site) if site.numbers else ""),
    ("In models", lambda site: _in_models(site)),
    ("Sum checked", lambda site: _checked(site)),
)


def _sites(status: StudyStatus) -> Table:
    table = Table(
        Column("Site", overflow="fold"), "Connection", *(title for title, _ in _COLUMNS), box=box.SIMPLE_HEAD
    )
    for site in status.sites:
        state = Text("connected", "green") if site.up else Text("not connected", "red")
        if status.over and status.viewer is not None:
            state = Text(status_page.DASH)  # nobody is connected to a study that is over
        table.add_row(_text(site.name), state, *(_text(read(site)) for _, read in _COLUMNS))
    return table


def _in_models(site: SiteStatus) -> str:
    if site.numbers is None:
        return ""
    missed = f", missed {site.numbers.missed}" if site.numbers.missed else ""
    return f"{site.numbers.rounds}{missed}"


def _checked(site: SiteStatus) -> str:
    if site.numbers is None:
        return ""
    if site.numbers.differing:
        return f"DIFFERS in {site.numbers.differing}"
    return f"{site.numbers.recomputed} match" if site.numbers.recomputed else status_page.DASH


def _entry(entry: StatusEntry) -> Text:
    return _text(f"{status_page.clock(entry.time)}  {entry.text}", "yellow" if entry.warns else "")


def _text(words: str, style: str = "") -> Text:
    return Text(names.printable(words), style)
