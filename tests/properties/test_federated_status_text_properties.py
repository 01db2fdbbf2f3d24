"""Whatever text a site sends, it stays text: in the page, in JSON, for Prometheus and in the terminal."""

import html.parser
import io
import json
import re

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from study_events import HOSTILE, any_event

from meninx.core import plain
from meninx.federated import events as kinds
from meninx.federated.events import AnyEvent
from meninx.federated.status_metrics import prometheus
from meninx.federated.status_page import page
from meninx.federated.status_terminal import view
from meninx.federated.study_status import StudyStatus, status_of

START = kinds.StudyStarted(time=1.0, study="chest", run="a1", sites=("east",), rounds=3)
SAMPLE = re.compile(
    r'[a-z_]+(\{[a-z]+="(?:[^"\\\n]|\\[\\"n])*"(?:,[a-z]+="(?:[^"\\\n]|\\[\\"n])*")*\})? -?[0-9.einfa+-]+'
)


class Structure(html.parser.HTMLParser):
    """Collects tags with the names of their attributes, and comments."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[tuple[str, tuple[str, ...]]] = set()
        self.others: list[str] = []
        self.values: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add((tag, tuple(sorted(name for name, _ in attrs))))
        self.values += [(name, value) for name, value in attrs if name in ("href", "src", "class", "id")]

    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    def unknown_decl(self, data: str) -> None:
        self.others.append(data)


def raw(text: str) -> StudyStatus:
    """Return a status whose every text is the given one, as if no event had cleaned it."""
    refused = kinds.SiteRefused(time=2.0, site="east", reason="R", code=2)
    lost = kinds.SiteLost(time=3.0, site="east", reason="R")
    accepted = kinds.RoundAccepted(time=4.0, round=0, attempt=0, survivors=("east",), metrics={"m": 1.0})
    table = plain.to_plain(status_of([START, refused, lost, accepted]))
    site = table["sites"][0]
    site["name"] = site["numbers"]["lost_reason"] = site["numbers"]["refusals"][0]["reason"] = text
    table["rounds"][0]["metrics"] = {text: 1.0}
    for entry in table["history"]:
        entry["text"] = text
    table.update(study=text, run=text, aggregation=text)
    return msgspec.convert(table, StudyStatus)


def structure_of_ordinary_pages() -> tuple[set, set]:
    pages = [
        Structure(page(raw(text), now=5.0, live=live)) for text in ("ordinary", "") for live in (True, False)
    ]
    values = {value for one in pages for value in one.values}
    return {tag for one in pages for tag in one.tags}, values


TAGS, VALUES = structure_of_ordinary_pages()


@settings(max_examples=80, deadline=None)
@given(text=HOSTILE, live=st.booleans())
def test_no_text_becomes_a_tag_an_attribute_or_an_address(text: str, live: bool) -> None:
    found = Structure(page(raw(text), now=5.0, live=live, problem=text))
    assert found.tags <= TAGS | {("div", ("class", "role"))}
    assert set(found.values) <= VALUES | {("class", "banner")}
    assert not found.others


@settings(max_examples=80, deadline=None)
@given(text=HOSTILE)
def test_no_text_breaks_a_line_of_prometheus(text: str) -> None:
    ordinary = prometheus(raw("ordinary"))
    lines = prometheus(raw(text)).splitlines()
    assert len(lines) == len(ordinary.splitlines())
    assert "\n".join(lines).encode()
    assert all(line.startswith("# ") or SAMPLE.fullmatch(line) for line in lines)
    named = [line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")]
    assert named == [re.split(r"[{ ]", line)[0] for line in ordinary.splitlines() if not line.startswith("#")]


@settings(max_examples=80, deadline=None)
@given(text=HOSTILE)
def test_no_text_steers_the_terminal(text: str) -> None:
    for status in (raw(text), raw(f"[bold]{text}[/bold]")):
        console = Console(file=io.StringIO(), width=100, color_system=None)
        console.print(view(status, now=5.0))
        printed = console.file.getvalue()
        assert all(character.isprintable() or character == "\n" for character in printed)
    assert "[bold]" in printed


@settings(max_examples=50, deadline=None)
@given(events=st.lists(any_event(HOSTILE, HOSTILE), max_size=15))
def test_every_form_of_any_events_can_be_read(events: list[AnyEvent]) -> None:
    status = status_of([START, *events])
    assert msgspec.json.decode(plain.to_json(status).encode(), type=StudyStatus) == status
    assert json.loads(plain.to_json(status))["study"] == status.study
    for line in prometheus(status).splitlines():
        assert line.startswith("# ") or SAMPLE.fullmatch(line), line
    found = Structure(page(status, now=5.0))
    assert not found.others
    assert {tag for tag, _ in found.tags if tag in ("script", "img", "iframe", "style")} == {"script"}
