"""The page, its snapshot, the metrics and the terminal show a status, each viewer's own."""

import base64
import hashlib
import html.parser
import io
import json
import re
import stat
from pathlib import Path

import pytest
from rich.console import Console
from study_events import study

from meninx.federated import events as kinds
from meninx.federated import status_page
from meninx.federated.events import AnyEvent, StudyOutcome
from meninx.federated.status_metrics import prometheus
from meninx.federated.status_page import cards, page, write_snapshot
from meninx.federated.status_terminal import view
from meninx.federated.study_status import StudyStatus, status_of, view_of

NOW = 1100.0


class Words(html.parser.HTMLParser):
    """Collects text and tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.tags, self.ids = "", [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"

    @property
    def line(self) -> str:
        return " ".join(self.text.split())


def shown(status: StudyStatus, *, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(view(status, now=NOW))
    return console.file.getvalue()


def test_the_page_shows_what_a_coordinator_asks() -> None:
    line = Words(page(status_of(study()), now=NOW)).line
    for words in (
        "chest",
        "round 2 is running",
        "1 of 3 rounds gave a model",
        "2 of 3 a round needs 3",
        "about 2 min",
        "the connection was cut",
        "budget of patients spent",
        "takes no further part",
        "8.2 MB",
        "7.5 left",
        "1 round matches",
        "loss 0.6",
    ):
        assert words in line, words


def test_the_page_of_a_site_shows_its_own_figures_only() -> None:
    line = Words(page(view_of("east", study()), now=NOW)).line
    assert "what east may see" in line
    assert "8.2 MB" in line
    for words in (
        "budget of patients",
        "connection was cut",
        "6.5 left",
        "5.5 left",
    ):
        assert words not in line
    assert line.count("not shown to other sites") == 10


def test_the_cards_name_the_site_with_the_least_budget_and_turn_red_below_the_quorum() -> None:
    found = {card.title: card for card in cards(status_of(study()), NOW)}
    assert (found["Sites connected"].tone, found["Sites connected"].value) == ("red", "2 of 3")
    assert found["ε left"].value == "5.5"
    assert "west" in found["ε left"].detail
    assert found["Refusals"].tone == "amber"


@pytest.mark.parametrize(
    ("added", "title", "tone"),
    [
        (kinds.SumRecomputed(time=NOW, site="east", round=0, share=0.01, matches=False), "Alarms", "red"),
        (kinds.EpsilonSpent(time=NOW, site="east", epsilon=8.0, delta=1e-5, limit=8.0), "ε left", "red"),
        (kinds.EpsilonSpent(time=NOW, site="east", epsilon=7.9, delta=1e-5, limit=8.0), "ε left", "amber"),
        (kinds.StudyEnded(time=NOW, outcome=StudyOutcome.FAILED, reason="disk full"), "Study", "red"),
        (kinds.SitesAwaited(time=NOW, connected=2, needed=3), "Study", "amber"),
        (kinds.SiteConnected(time=NOW, site="west"), "Sites connected", "green"),
    ],
)
def test_a_card_changes_its_tone(added: AnyEvent, title: str, tone: str) -> None:
    found = {card.title: card.tone for card in cards(status_of([*study(), added]), NOW)}
    assert found[title] == tone


def test_a_study_that_takes_longer_than_expected_says_so() -> None:
    late = {card.title: card for card in cards(status_of(study()), 9000.0)}["Time left"]
    assert (late.tone, late.value) == ("amber", "late")


def test_a_budget_without_a_limit_is_no_budget() -> None:
    spent = kinds.EpsilonSpent(time=NOW, site="east", epsilon=3.0, delta=1e-5)
    card = {card.title: card for card in cards(status_of([spent]), NOW)}["ε left"]
    assert (card.tone, card.value) == ("amber", "–")
    assert "no limit" in card.detail


def test_the_snapshot_is_one_file_without_script_or_address(tmp_path: Path) -> None:
    write_snapshot(status_of(study()), tmp_path, now=NOW)
    text = html.unescape((tmp_path / "status.html").read_text())
    assert not re.search(r"<script|https?:|href=\"/|src=|@import|url\(", text)
    policy = re.search(r"style-src '(sha256-[^']+)'", text)
    style = re.search(r"<style>(.*)</style>", text, re.DOTALL)
    assert policy is not None
    assert style is not None
    digest = hashlib.sha256(style[1].encode()).digest()
    assert policy[1] == f"sha256-{base64.b64encode(digest).decode()}"
    assert json.loads((tmp_path / "status.json").read_text())["study"] == "chest"
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in tmp_path.iterdir())


def test_every_part_that_the_script_replaces_has_a_name_of_its_own() -> None:
    text = page(status_of(study()), now=NOW)
    ids = Words(text).ids
    assert len(ids) == len(set(ids))
    assert len(re.findall(r" id=\"[a-z-]+\"[^>]* data-part", text)) == text.count("data-part")
    assert len(status_page.static_file("status.js").splitlines()) <= 150


def test_an_empty_study_has_a_page() -> None:
    line = Words(page(status_of([]), now=NOW)).line
    assert "not started" in line
    assert "No site is known yet." in line


def test_times_that_no_calendar_holds_do_not_break_the_page() -> None:
    page(status_of([kinds.SiteConnected(time=1e300, site="east")]), now=NOW)


def test_the_metrics_hold_every_number() -> None:
    lines = prometheus(status_of(study())).splitlines()
    for line in (
        'meninx_study_info{study="chest",run="a1"} 1',
        'meninx_study_phase{phase="round running"} 1',
        "meninx_study_rounds_accepted_total 1",
        "meninx_study_round_seconds 60.0",
        'meninx_site_up{site="west"} 0',
        'meninx_site_sent_bytes_total{site="east"} 8201100',
        'meninx_site_epsilon_left{site="north"} 6.5',
        'meninx_site_refusals_total{site="west"} 1',
        'meninx_site_sums_matching_total{site="north"} 1',
    ):
        assert line in lines, line


def test_the_metrics_of_a_site_hold_the_others_as_up_or_down_only() -> None:
    text = prometheus(view_of("east", study()))
    about = [line for line in text.splitlines() if "north" in line or "west" in line]
    assert about == ['meninx_site_up{site="north"} 1', 'meninx_site_up{site="west"} 0']


def test_the_terminal_shows_the_same() -> None:
    text = " ".join(shown(status_of(study())).split())
    for words in (
        "round 2 is running",
        "2 of 3",
        "8.2 MB",
        "7.5 left",
        "not connected",
        "budget of patients spent",
    ):
        assert words in text, words


def test_the_terminal_of_a_site_shows_its_own_figures_only() -> None:
    text = shown(view_of("east", study()))
    assert "8.2 MB" in text
    for words in ("budget of patients", "5.5 left", "6.5 left"):
        assert words not in text
