"""A study that runs is watched by one call, and `meninx federate status` shows it from another process."""

import io
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from rich.console import Console
from study_events import study

from meninx.cli.app import run
from meninx.core.errors import DataError
from meninx.core.progress import SILENT, Silent
from meninx.federated import events as kinds
from meninx.federated import site_folder
from meninx.federated.event_words import sentence
from meninx.federated.events import StudyEvents, StudyOutcome
from meninx.federated.policy import PolicyConfig
from meninx.federated.study_watch import find_events, viewer_of, watching


def fetched(url: str) -> str:
    """Return a page as a browser that keeps cookies gets it."""
    handlers = (urllib.request.HTTPCookieProcessor(), urllib.request.ProxyHandler({}))
    with urllib.request.build_opener(*handlers).open(url, timeout=5) as answer:
        return answer.read().decode()


class Lines(Silent):
    """Progress that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a study in its second round."""
    with watching(tmp_path, tmp_path / "private" / "events.jsonl", progress=SILENT) as emit:
        for event in study():
            emit(event)
    return tmp_path


def test_a_watched_study_writes_events_and_snapshots_and_a_line_per_event(tmp_path: Path) -> None:
    progress, path = Lines(), tmp_path / "private" / "events.jsonl"
    with watching(tmp_path, path, progress=progress) as emit:
        for event in study():
            emit(event)
        table = json.loads((tmp_path / "status.json").read_text())
        assert (table["phase"], table["rounds_accepted"]) == ("between rounds", 1)
        emit(kinds.StudyEnded(outcome=StudyOutcome.STOPPED))
    assert "stopped" in (tmp_path / "status.html").read_text()
    assert list(StudyEvents(path).read())[:-1] == study()
    assert progress.lines == [sentence(event) for event in study()] + ["The study was stopped."]


def test_a_study_that_goes_on_keeps_its_numbers_and_shows_nothing_twice(folder: Path) -> None:
    progress = Lines()
    with watching(folder, folder / "private" / "events.jsonl", progress=progress) as emit:
        emit(kinds.RoundAccepted(round=1, attempt=0, survivors=("east", "north", "west")))
    assert json.loads((folder / "status.json").read_text())["rounds_accepted"] == 2
    assert progress.lines == ["Round 2 gave a new model from 3 sites."]


def test_nothing_is_printed_of_sites_that_leave_a_study_that_is_over(tmp_path: Path) -> None:
    progress, gone = Lines(), kinds.SiteLost(site="north", reason="its connection is closed")
    with watching(tmp_path, tmp_path / "events.jsonl", progress=progress) as emit:
        emit(gone)
        emit(kinds.StudyEnded(outcome=StudyOutcome.FINISHED))
        emit(gone)
    assert progress.lines == [sentence(gone), "The study finished."]
    assert len(list(StudyEvents(tmp_path / "events.jsonl").read())) == 3


def test_the_snapshot_of_a_site_shows_its_own_figures_only(tmp_path: Path) -> None:
    with watching(tmp_path, tmp_path / "events.jsonl", progress=SILENT, viewer="east") as emit:
        for event in [*study(), kinds.StudyEnded(outcome=StudyOutcome.STOPPED)]:
            emit(event)
    for text in ((tmp_path / name).read_text() for name in ("status.html", "status.json")):
        assert "connection was cut" not in text
        assert "4101101" not in text  # bytes that left north


def test_a_terminal_shows_the_status_instead_of_lines(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    progress = Lines()
    with watching(tmp_path, tmp_path / "events.jsonl", progress=progress, console=console) as emit:
        for event in study():
            emit(event)
    assert "round 2 is running" in console.file.getvalue()
    assert progress.lines == []


def test_a_console_that_is_no_terminal_shows_lines(tmp_path: Path) -> None:
    console, progress = Console(file=io.StringIO()), Lines()
    with watching(tmp_path, tmp_path / "events.jsonl", progress=progress, console=console) as emit:
        emit(kinds.SiteConnected(site="east"))
    assert (console.file.getvalue(), progress.lines) == ("", ["east connected."])


def test_the_newest_events_of_a_folder_are_found(folder: Path) -> None:
    assert find_events(folder).path == folder / "private" / "events.jsonl"
    later = StudyEvents(folder / "private" / "studies" / "chest" / "events.jsonl")
    with later.writing() as emit:
        emit(kinds.SiteConnected(site="east"))
    os.utime(later.path, ns=(10**19 // 2, 10**19 // 2))
    assert find_events(folder).path == later.path


def test_a_folder_without_events_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no events"):
        find_events(tmp_path)


def test_the_command_shows_the_coordinator_everything(folder: Path, capsys: pytest.CaptureFixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run(["federate", "status", str(folder)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "as the coordinator sees it" in out
    assert "budget of patients spent" in out
    assert run(["federate", "status", str(folder), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["sites"]) == 3
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_command_shows_a_site_its_own_figures(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    site = site_folder.create(tmp_path / "east", "east", PolicyConfig())
    with StudyEvents(site.private / "chest" / "events.jsonl").writing() as emit:
        for event in study():
            emit(event)
    assert viewer_of(site.root) == "east"
    assert run(["federate", "status", str(site.root)]) == 0
    out = capsys.readouterr().out
    assert "as east sees it" in out
    assert "budget of patients" not in out


def test_a_port_without_a_page_is_refused(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(["federate", "status", str(folder), "--port", "9000"]) == 2
    assert "no effect" in capsys.readouterr().err


def test_a_port_that_does_not_exist_is_refused(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(["federate", "status", str(folder), "--page", "--port", "70000"]) == 2
    assert "65535" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_serves_the_page_until_it_is_interrupted(folder: Path) -> None:
    pytest.importorskip("starlette", reason="the page needs meninx[federated]")
    command = [sys.executable, "-m", "meninx", "federate", "status", str(folder), "--page", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        lines = "".join(iter(lambda: served.stdout.readline(), "}\n")) + "}"
        assert "round 2 is running" in fetched(json.loads(lines)["url"])
        served.send_signal(signal.SIGINT)
        assert served.wait(timeout=10) == 0


def test_a_damaged_file_of_events_does_not_keep_a_process_from_starting(tmp_path: Path) -> None:
    progress, path = Lines(), tmp_path / "private" / "events.jsonl"
    path.parent.mkdir()
    path.write_text('{"event": "round_opened", "round": -1, "attempt": 0, "members": []}\n')
    with watching(tmp_path, path, progress=progress) as emit:
        emit(kinds.SiteConnected(site="north"))
    assert [type(event) for event in StudyEvents(path).read()] == [kinds.SiteConnected]
    assert "renamed" in progress.lines[0]
    assert len(list(path.parent.glob("events-damaged-*.jsonl"))) == 1
