"""What a study of real processes survives: kills in a private step, a full disk, other code, a bad line."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from bad_line import BadLine
from hospital_processes import FOUR, Hospitals, when

import meninx
from meninx.core import artifacts
from meninx.core.artifacts import PrivacyRecord
from meninx.core.errors import DataError, PrivacyRefusal, StorageError
from meninx.core.run import Run
from meninx.privacy.ledger import Ledger, LedgerEntry

PRIVATE = {"epsilon": 8.0, "delta": 1e-3, "deterministic": True}


def entries(here: Hospitals, site: str) -> list[LedgerEntry]:
    """Return the lines of the ledger of a site's only run."""
    (folder,) = here.runs(site)
    found = [
        LedgerEntry.parse(line) for line in (folder / "private" / "ledger.jsonl").read_text().splitlines()
    ]
    return [entry for entry in found if entry is not None]


def spent(here: Hospitals, site: str) -> dict[int, tuple[object, ...]]:
    """Return step -> what it spent and began with; a step that was begun twice began the same way."""
    steps: dict[int, tuple[object, ...]] = {}
    for entry in entries(here, site):
        began = (*entry.mechanism(), entry.state)
        assert steps.setdefault(entry.step, began) == began
    return steps


def lines(here: Hospitals, site: str, count: int) -> Callable[[], bool]:
    """Return whether the ledger of a site has so many lines, as a condition."""

    def reached() -> bool:
        path = next((run / "private" / "ledger.jsonl" for run in here.runs(site)), None)
        return path is not None and path.is_file() and path.read_text().count("\n") >= count

    return reached


@pytest.mark.slow
def test_no_dp_event_is_lost_or_doubled_when_a_site_and_the_coordinator_are_killed(
    hospitals: Callable[..., Hospitals],
) -> None:
    rounds, steps = 4, 3
    settings = {"rounds": rounds, "local_steps": steps, "train": PRIVATE}
    quiet = hospitals("quiet", FOUR, **settings)
    for name in FOUR:
        quiet.start_site(name)
    quiet.start("run", "run", "chest")
    assert quiet.wait("run") == 0
    for name in FOUR:
        assert quiet.wait(name) == 0

    shaken = hospitals("shaken", FOUR, **settings)
    for name in FOUR:
        shaken.start_site(name)
    shaken.start("run", "run", "chest")
    for count, also_the_coordinator in ((2, False), (steps + 1, True), (2 * steps + 2, False)):
        when(lines(shaken, "east", count))
        shaken.kill("east")  # inside a round, after a line of the ledger and perhaps before its step
        if also_the_coordinator:
            shaken.kill("run")
        shaken.start_site("east")
        if also_the_coordinator:
            shaken.start("run", "resume", "chest")
    when(shaken.seen("survivors_agreed", rounds - 1))
    shaken.kill("run")
    shaken.start("run", "resume", "chest")
    assert shaken.wait("run") == 0, shaken.log("run")
    for name in FOUR:
        assert shaken.wait(name) == 0

    assert shaken.model() == quiet.model()
    assert len(entries(shaken, "east")) > rounds * steps  # a step was begun again, or the kills came too late
    for name in FOUR:
        assert spent(shaken, name) == spent(quiet, name)
        assert sorted(spent(shaken, name)) == list(range(rounds * steps))
        (found,), (expected,) = shaken.runs(name), quiet.runs(name)
        assert Ledger.parse(Run(found).ledger_text()).spent().steps == rounds * steps
        shaken_record, quiet_record = (artifacts.read(path, PrivacyRecord) for path in (found, expected))
        assert shaken_record, (name, shaken.log(name))
        assert quiet_record, (name, quiet.log(name))
        assert shaken_record.epsilon == quiet_record.epsilon
        assert shaken_record.steps == rounds * steps


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit is not installed")
def test_a_full_disk_of_the_coordinator_ends_the_run_with_a_sentence_and_resume_goes_on(
    hospitals: Callable[..., Hospitals],
) -> None:
    here = hospitals("full", FOUR, rounds=2)
    for name in FOUR:
        here.start_site(name)
    # no file may grow beyond the first model and one or two of the four uploads of a round
    most = int(2.5 * here.bytes_of_weights)
    run = here.start("run", "run", "chest", before=("prlimit", f"--fsize={most}"))
    assert run.wait(200) == StorageError.exit_code, here.log("run")
    assert "the state of the study cannot be written" in here.log("run")
    assert "Traceback" not in here.log("run")
    for name in FOUR:
        assert here.running[name].wait(60) == DataError.exit_code, here.log(name)
        assert "the run of the study failed at the coordinator" in here.log(name)
        here.start_site(name)
    here.start("run", "resume", "chest", "--json")
    assert here.wait("run") == 0
    result = json.loads(here.result("run"))
    assert (result["rounds"], result["aborted"], result["sites"]) == (2, 0, list(FOUR))


@pytest.mark.slow
def test_other_code_is_refused_at_both_ends_with_a_sentence(
    hospitals: Callable[..., Hospitals], tmp_path: Path
) -> None:
    here = hospitals("skew", FOUR, rounds=1)
    other = tmp_path / "other"
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(meninx.__file__).parent, other / "meninx", ignore=skipped)
    with (other / "meninx" / "core" / "errors.py").open("a") as file:
        file.write("\n# of another version\n")
    newer = {"PYTHONPATH": str(other)}

    coordinator = here.start("other coordinator", "run", "chest", environment=newer)
    assert coordinator.wait(60) == PrivacyRefusal.exit_code
    assert "the source differs" in here.log("other coordinator")
    assert "publish the study again" in here.log("other coordinator")

    here.start("run", "run", "chest")
    for name in FOUR[1:]:
        here.start_site(name)
    when(lambda: all(here.seen_of("site_connected", name) for name in FOUR[1:]))
    here.start_site("east", environment=newer)
    assert here.running["east"].wait(60) == PrivacyRefusal.exit_code
    assert "the source differs" in here.log("east")
    when(lambda: here.seen_of("site_refused", "east"), 20)  # the coordinator reads why, too
    assert "the source differs" in here.log("run")
    written = (here.root / "chest" / "private" / "audit.jsonl").read_text()
    assert "the source differs" in written
    here.start_site("east")
    assert here.wait("run") == 0
    assert here.seen("round_accepted")()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rounds", "cut"), [pytest.param(3, 3.0, id="short cuts"), pytest.param(3, 30.0, id="long cuts")]
)
def test_rounds_on_a_bad_line_with_a_cut_in_each_end_with_the_same_model(
    hospitals: Callable[..., Hospitals], rounds: int, cut: float
) -> None:
    good = hospitals("good line", FOUR, rounds=rounds)
    for name in FOUR:
        good.start_site(name)
    good.start("run", "run", "chest")
    assert good.wait("run") == 0
    good.stop_all()

    bad = hospitals("bad line", FOUR, rounds=rounds)
    with BadLine(delay=0.05, bits_per_second=10e6) as line:
        for name in FOUR:
            bad.start_site(name, environment=line.environment)
        bad.start("run", "run", "chest")
        for number in range(rounds):
            when(bad.seen("round_opened", number))
            time.sleep(random.uniform(0.0, 2.0))  # while it goes out, while sites train, while updates come
            line.cut(cut)
        assert bad.wait("run", 900.0) == 0, bad.log("run")
    assert bad.model() == good.model()
    assert not [event for event in bad.events() if event["event"] == "round_aborted"]
    accepted = [event for event in bad.events() if event["event"] == "round_accepted"]
    assert [event["survivors"] for event in accepted] == [list(FOUR)] * rounds
