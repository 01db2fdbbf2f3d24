"""Who may read the status page: one person at this machine, by GET, with a token that works once."""

import http.client
import json
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
from study_events import study

pytest.importorskip("starlette", reason="the page needs meninx[federated]")
pytest.importorskip("uvicorn", reason="the page needs meninx[federated]")

from meninx.core.errors import DataError, UsageError
from meninx.federated import coordinator_process, status_page
from meninx.federated import events as kinds
from meninx.federated.events import StudyEvents
from meninx.federated.status_server import StatusReader, scrape_token_of, serving
from meninx.serving.local_page import PageAddress

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
Entered: TypeAlias = tuple[PageAddress, str]
EVIL = "<script>document.title='owned'</script><img src=http://evil.example/x.png onerror=alert(1)>"


class Answer:
    """One answer of the page."""

    def __init__(self, port: int, path: str, *, method: str = "GET", **headers: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=sent)
        answer = connection.getresponse()
        self.status, self.headers, self.text = answer.status, answer.headers, answer.read().decode()
        connection.close()

    @property
    def cookie(self) -> str:
        return self.headers["Set-Cookie"].partition(";")[0]


def written(folder: Path) -> StudyEvents:
    events = StudyEvents(folder / "events.jsonl")
    with events.writing() as emit:
        for event in study():
            emit(event)
        emit(kinds.SiteRefused(time=1095.0, site="east", reason=EVIL))
    return events


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> StudyEvents:
    return written(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def served(events: StudyEvents) -> Iterator[tuple[PageAddress, str]]:
    """A page that was entered once, and its cookie."""
    with serving(events, scrape_token="ab" * 32) as address:
        entered = Answer(address.port, path_of(address))
        assert entered.status == 303
        assert entered.headers["Location"] == "/"
        yield address, entered.cookie


def path_of(address: PageAddress) -> str:
    return address.url.partition(f":{address.port}")[2]


def test_the_token_is_exchanged_once_for_a_cookie_that_scripts_and_strangers_cannot_use(
    events: StudyEvents,
) -> None:
    with serving(events) as address:
        first, second = (Answer(address.port, path_of(address)) for _ in range(2))
        assert (first.status, second.status) == (303, 403)
        attributes = {part.strip().lower() for part in first.headers["Set-Cookie"].split(";")[1:]}
        assert {"httponly", "samesite=strict", "path=/"} <= attributes
        assert "Set-Cookie" not in second.headers
        again = Answer(address.port, path_of(address), Cookie=first.cookie)
        assert again.status == 303  # the same browser may follow the address again


def test_every_page_has_its_own_token_and_cookie(events: StudyEvents, served: Entered) -> None:
    with serving(events) as address:
        assert Answer(address.port, path_of(served[0])).status == 403
        stolen = f"meninx_{address.port}={served[1].partition('=')[2]}"
        assert Answer(address.port, "/", Cookie=stolen).status == 403


@pytest.mark.parametrize(
    "path", ["/", "/status.json", "/metrics", "/style.css", "/status.js", "/icon.svg", "/x"]
)
def test_nothing_is_shown_without_the_cookie(served: Entered, path: str) -> None:
    address, cookie = served
    for wrong in ({}, {"Cookie": cookie[:-1] + ("0" if cookie[-1] != "0" else "1")}, {"Cookie": "a=b"}):
        answer = Answer(address.port, path, **wrong)
        assert answer.status == 403
        assert "chest" not in answer.text


@pytest.mark.parametrize("token", ["", "0" * 64, "%ff%00", "\u00e9".encode().hex(), "a" * 5000])
def test_a_wrong_token_opens_nothing(events: StudyEvents, token: str) -> None:
    with serving(events) as address:
        assert Answer(address.port, f"/enter?token={token}").status == 403
        assert Answer(address.port, path_of(address)).status == 303  # and does not use the right one up


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "[::1]:{port}", ""]
)
def test_a_foreign_host_name_is_refused(served: Entered, host: str) -> None:
    address, cookie = served
    answer = Answer(address.port, "/", Cookie=cookie, Host=host.format(port=address.port))
    assert answer.status == 421
    assert "chest" not in answer.text
    assert Answer(address.port, "/", Cookie=cookie, Host=f"localhost:{address.port}").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE"])
def test_only_get_is_answered(served: Entered, method: str) -> None:
    address, cookie = served
    for path in ("/", "/status.json", path_of(address)):
        answer = Answer(address.port, path, method=method, Cookie=cookie)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "path", ["/", "/status.json", "/metrics", "/status.js", "/nowhere", "/enter?token=no"]
)
def test_every_answer_carries_the_protective_headers(served: Entered, path: str) -> None:
    address, cookie = served
    for answer in (Answer(address.port, path, Cookie=cookie), Answer(address.port, path)):
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "Server" not in answer.headers


def test_the_page_json_and_metrics_show_the_study(served: Entered) -> None:
    address, cookie = served
    page = Answer(address.port, "/", Cookie=cookie)
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "round 2 is running" in page.text
    assert EVIL not in page.text
    assert not re.search(r"<script(?! src=\"/status\.js\")|<style|\son\w+=\"|style=\"", page.text)
    table = json.loads(Answer(address.port, "/status.json", Cookie=cookie).text)
    assert (table["study"], table["sites"][0]["numbers"]["refused"]) == ("chest", 1)
    metrics = Answer(address.port, "/metrics", Cookie=cookie)
    assert metrics.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'meninx_site_up{site="east"} 1' in metrics.text.splitlines()


def test_a_browser_shows_within_two_seconds_who_connected() -> None:
    every = re.search(r"EVERY = (\d+);", status_page.static_file("status.js"))
    assert every is not None
    assert int(every.group(1)) / 1000 + coordinator_process._PRESENCE <= 2


def test_each_change_of_a_site_is_on_the_page_within_two_seconds(tmp_path: Path) -> None:
    events = StudyEvents(tmp_path / "events.jsonl")
    names, at = ("east", "north"), {"round": 0, "attempt": 0}
    changes = (
        (kinds.SiteConnected(site="north"), lambda site: site["up"]),
        (kinds.RoundOpened(members=names, **at), lambda site: site["numbers"]["step"] == "training"),
        (
            kinds.UpdateUploaded(site="north", sent=7, **at),
            lambda site: site["numbers"]["step"] == "uploaded",
        ),
        (kinds.SiteRefused(site="north", reason="no"), lambda site: site["numbers"]["refused"] == 1),
        (kinds.SiteLost(site="north", reason="its connection is closed"), lambda site: not site["up"]),
    )
    with events.writing() as emit, serving(events) as address:
        cookie = Answer(address.port, path_of(address)).cookie
        emit(kinds.StudyStarted(study="chest", run="a1", sites=names, rounds=2))
        for event, shown in changes:
            began = time.monotonic()
            emit(event)
            while not shown(json.loads(Answer(address.port, "/status.json", Cookie=cookie).text)["sites"][1]):
                assert time.monotonic() - began < 2
                time.sleep(0.05)


def test_a_page_that_did_not_change_is_not_sent_again(
    served: Entered, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, cookie = served
    monkeypatch.setattr("meninx.federated.status_server.time.time", lambda: 1100.0)
    first = Answer(address.port, "/", Cookie=cookie)
    again = Answer(address.port, "/", Cookie=cookie, If_None_Match=first.headers["ETag"])
    assert (first.status, again.status, again.text) == (200, 304, "")


def test_prometheus_reads_the_metrics_by_its_own_token_and_nothing_else(
    served: Entered,
) -> None:
    address, _ = served
    bearer = {"Authorization": f"Bearer {'ab' * 32}"}
    assert Answer(address.port, "/metrics", **bearer).status == 200
    assert Answer(address.port, "/status.json", **bearer).status == 200
    assert Answer(address.port, "/", **bearer).status == 403
    for wrong in ("Bearer ", "Bearer x", f"Basic {'ab' * 32}", "ab" * 32):
        assert Answer(address.port, "/metrics", Authorization=wrong).status == 403


def test_without_a_scrape_token_no_empty_one_opens_the_metrics(events: StudyEvents) -> None:
    with serving(events) as address:
        assert Answer(address.port, "/metrics", Authorization="Bearer ").status == 403


def test_the_scrape_token_is_written_once_for_its_owner(tmp_path: Path) -> None:
    token = scrape_token_of(tmp_path)
    assert scrape_token_of(tmp_path) == token
    assert len(token) == 64
    path = tmp_path / "metrics.token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("")
    with pytest.raises(DataError, match="holds no token"):
        scrape_token_of(tmp_path)


def test_the_page_of_a_site_shows_no_figure_of_another(events: StudyEvents) -> None:
    with serving(events, viewer="north") as address:
        cookie = Answer(address.port, path_of(address)).cookie
        for path in ("/", "/status.json", "/metrics"):
            text = Answer(address.port, path, Cookie=cookie).text
            assert "north" in text
            assert "budget of patients" not in text
            assert "8201100" not in text
            assert "alert(1)" not in text


def test_the_page_listens_on_this_machine_alone(events: StudyEvents, served: Entered) -> None:
    with pytest.raises(UsageError, match="is not free"), serving(events, port=served[0].port):
        pass
    assert served[0].url.startswith("http://127.0.0.1:")


def test_the_reader_goes_on_with_the_last_status_when_the_file_is_damaged(tmp_path: Path) -> None:
    events = written(tmp_path)
    reader = StatusReader(events, None)
    before, problem = reader.read()
    assert (before.study, problem) == ("chest", "")
    with events.path.open("ab") as stream:
        stream.write(b'{"event": "unheard_of", "time": 1.0}\n')
    after, problem = reader.read()
    assert after == before
    assert "line" in problem


def test_the_reader_waits_for_a_file_and_for_its_site(tmp_path: Path) -> None:
    events = StudyEvents(tmp_path / "events.jsonl")
    reader = StatusReader(events, "south")
    assert reader.read()[0].study == ""
    written(tmp_path)
    assert "does not" in reader.read()[1] or "do not mention" in reader.read()[1]
    with events.writing() as emit:
        emit(kinds.SiteConnected(site="south"))
    status, problem = reader.read()
    assert (status.viewer, problem) == ("south", "")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed, so no browser has loaded the page")
def test_a_browser_loads_and_refreshes_the_page_without_violation_or_foreign_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = written(tmp_path)
    reads = []
    read = StatusReader.read

    def read_then_move_on(reader: StatusReader) -> tuple:
        reads.append(1)
        if len(reads) == 2:  # the browser shows the page; now something happens
            with events.writing() as emit:
                emit(kinds.RoundAccepted(round=1, attempt=0, survivors=("east", "north", "west")))
        return read(reader)

    monkeypatch.setattr(StatusReader, "read", read_then_move_on)
    with serving(events) as address:
        dom, messages, asked = browse(address.url, tmp_path)
    assert "<title>chest – federated study</title>" in dom
    assert "Round 2 gave a new model from 3 sites." in dom, "the script has not refreshed the page"
    assert 'rel="stylesheet"' in dom
    assert "&lt;script&gt;document.title" in dom
    assert not re.search(r"Content Security Policy|Refused|Uncaught|violat", messages), messages
    assert {url.partition(str(address.port))[2] for url in asked} == {
        "/",
        "/style.css",
        "/status.js",
        "/icon.svg",
    }
    assert all(url.startswith(f"http://127.0.0.1:{address.port}/") for url in asked), asked


def browse(url: str, folder: Path) -> tuple[str, str, list[str]]:
    """Return the page after its script ran for a while, the console, and what the page asked for.

    The browser also makes requests of its own (updates, accounts). They have no page as their initiator, and
    no name but this machine's is resolved.
    """
    log = folder / "net.json"
    flags = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run
        --disable-background-networking --disable-component-update --disable-sync --disable-extensions
        --enable-logging=stderr --virtual-time-budget=10000 --dump-dom"""
    command = [
        str(CHROMIUM),
        *flags.split(),
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={folder / 'browser'}",
        f"--log-net-log={log}",
        url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    events = json.loads(log.read_text(errors="replace"))["events"]
    starts = [event["params"] for event in events if "initiator" in event.get("params", {})]
    return done.stdout, console, [start["url"] for start in starts if start["initiator"].startswith("http")]
