"""A loop of the user's own leaves a run folder: `verify` and `report` read it, other verbs refuse it."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from meninx.core import artifacts, run
from meninx.core.artifacts import Lineage, Members, PrivacyRecord, RunRecord, RunState
from meninx.core.errors import DataError, PrivacyRefusal, UsageError
from meninx.core.manifest import Case, DatasetInfo, Manifest, TaskKind
from meninx.core.run import Run
from meninx.learn import checkpoint
from meninx.learn.state_digest import weights_digest
from meninx.privacy import training
from meninx.report import stage as report
from meninx.report.config import ReportConfig
from meninx.train import lineage
from meninx.verify import stage as verify
from meninx.verify.check_list import State

PATIENTS = [f"Mustermann {row // 2}" for row in range(24)]
IMAGES = torch.randn(24, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 2


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))


def train(
    folder: Path, *, most: int = 100, at_the_end: Callable[[], Any] = lambda: None, **changes: Any
) -> nn.Module:
    """Take at most so many steps of six, and return the network."""
    model = network()
    optimizer, loss = torch.optim.SGD(model.parameters(), lr=0.5), nn.CrossEntropyLoss(reduction="none")
    terms = {"units": PATIENTS, "noise_multiplier": 1.0, "delta": 1e-3, "batch": 6, "steps": 6, **changes}
    with training(model, optimizer, loss, run=folder, **terms) as dp:
        for done, rows in enumerate(dp, start=1):
            dp.step(IMAGES[rows], LABELS[rows])
            if done == most:
                break
        at_the_end()
    return model


def dataset(folder: Path) -> Path:
    info = DatasetInfo(name="d", task=TaskKind.MULTICLASS, labels=("a", "b"), size=(8, 8))
    case = Case(case_id="c", patient_id="p", image="images/c.png", split="train", labels={"a": 1.0, "b": 0.0})
    Manifest(folder, info, (case,)).write()
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    folder = tmp_path_factory.mktemp("own") / "own"
    return folder, train(folder)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that took three of its six steps."""
    folder = tmp_path_factory.mktemp("stopped") / "own"
    train(folder, most=3)
    return folder


@pytest.fixture
def finished(trained: tuple[Path, nn.Module], tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained[0], tmp_path / "own"))


@pytest.fixture
def unfinished(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "own"))


def page_of(folder: Path, **settings: Any) -> str:
    """Return the text of the report."""
    out = folder.parent / "page.html"
    report.run(ReportConfig(overwrite=True, **settings), [folder], out)
    text = re.sub(r"<(style|script).*?</\1>", "", out.read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def failed(folder: Path) -> list[str]:
    return [check.line() for check in verify.run(folder).checks if check.state is State.NOT_OK]


def test_verify_checks_ledger_seal_and_records_of_a_finished_loop(trained):
    folder, _ = trained
    found = verify.run(folder)
    assert failed(folder) == []
    assert (found.kinds, found.exit_code) == (("run",), 0)
    text = found.summary()
    for line in ("6 lines, chain intact", "privacy.json against the ledger", "checkpoints", "lineage.json"):
        assert line in text
    assert "data, labels and evaluation were not seen by meninx" in text


def test_the_report_states_the_promise_of_a_loop_and_what_meninx_did_not_see(trained):
    folder, _ = trained
    record = artifacts.read(folder, PrivacyRecord)
    assert record is not None
    page = page_of(folder)
    for part in (
        f"epsilon = {record.epsilon:.2f}",
        "at delta = 0.001 per patient (add-or-remove-one), 6 steps of poisson sampling",
        "noise_multiplier 1",
        "sample_rate 0.5",
        "Its data, labels and evaluation are the user's own and were not seen by meninx",
        "its key was in memory alone",
        "starting weights meninx knows nothing about",
        "Outside the guarantee: what the loop does with the data beside its private steps",
    ):
        assert part in page, part
    assert "evaluation of its released weights" not in page
    assert "Nobody can tell how many" not in page
    assert "Mustermann" not in page


def test_a_finished_loop_releases_the_weights_of_its_last_step(trained):
    folder, model = trained
    record = artifacts.read(folder, RunRecord)
    assert record is not None
    assert (record.state, record.own_loop) == (RunState.RELEASED, True)
    assert (record.step, record.planned_steps) == (6, 6)
    released = torch.load(folder / "release/model.pt", weights_only=True)
    assert all(torch.equal(value, released[name]) for name, value in model.state_dict().items())
    assert record.weights == weights_digest(model) == weights_digest(released)
    outside = [path for path in folder.rglob("*") if path.is_file() and "private" not in path.parts]
    assert not any(b"Mustermann" in path.read_bytes() for path in outside)


def test_a_loop_that_stopped_early_is_not_released_and_counts_what_it_spent(unfinished):
    record = artifacts.read(unfinished, RunRecord)
    assert record is not None
    assert (record.state, record.step) == (RunState.TRAINING, 3)
    assert not (unfinished / "release/model.pt").exists()
    found = verify.run(unfinished)
    assert [check.what for check in found.checks if check.state is State.NOT_OK] == ["state"]
    with pytest.raises(DataError, match=r"training\(\.\.\., resume=True\)"):
        found.raise_if_failed()
    assert "not finished: epsilon" in page_of(unfinished)
    model = train(unfinished, resume=True)
    assert failed(unfinished) == []
    assert artifacts.read(unfinished, RunRecord).weights == weights_digest(model)


def test_a_loop_that_ended_in_an_error_is_not_released(tmp_path):
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "own", steps=2, at_the_end=lambda: 1 // 0)
    assert artifacts.read(tmp_path / "own", RunRecord).state is RunState.TRAINING
    train(tmp_path / "own", steps=2, resume=True)  # no step is left; the release is
    assert failed(tmp_path / "own") == []


def _edit(folder: Path, **changes: Any) -> None:
    record = artifacts.require(folder, PrivacyRecord, fix="")
    artifacts.write(folder, replace(record, **changes))


@pytest.mark.parametrize("changes", [{"epsilon": 0.5, "own_epsilon": 0.5}, {"steps": 3}, {"delta": 1e-6}])
def test_an_edited_privacy_record_of_a_finished_loop_is_refused(finished, changes):
    _edit(finished, **changes)
    assert any("privacy.json" in line for line in failed(finished))
    assert verify.run(finished).exit_code == 4
    with pytest.raises(PrivacyRefusal, match=r"privacy\.json"):
        page_of(finished)
    with pytest.raises(PrivacyRefusal, match=r"privacy\.json"):
        train(finished, resume=True)


def test_an_edited_privacy_record_of_an_unfinished_loop_is_named_and_computed_again(unfinished):
    _edit(unfinished, epsilon=0.5, own_epsilon=0.5)
    assert any("privacy.json against the ledger" in line for line in failed(unfinished))
    assert "epsilon = 0.5 " not in page_of(unfinished)  # every number of the page is the ledger's
    train(unfinished, most=1, resume=True)
    record = artifacts.require(unfinished, PrivacyRecord, fix="")
    assert (record.steps, record.epsilon > 0.5) == (4, True)
    assert [check.what for check in verify.run(unfinished).checks if check.state is State.NOT_OK] == ["state"]


def _shortened(folder: Path) -> None:
    path = Run(folder).ledger_path
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_a_shortened_ledger_is_refused_everywhere(request, state):
    folder = request.getfixturevalue(state)
    _shortened(folder)
    assert any("privacy.json against the ledger" in line for line in failed(folder))
    assert verify.run(folder).exit_code == 4
    with pytest.raises(PrivacyRefusal, match="shortened"):
        train(folder, resume=True)
    if state == "finished":
        with pytest.raises((PrivacyRefusal, DataError)):
            page_of(folder)


def test_a_lost_ledger_does_not_let_the_run_begin_anew(unfinished):
    Run(unfinished).ledger_path.unlink()
    for resume in (True, False):
        with pytest.raises(PrivacyRefusal, match="ledger of the run is missing"):
            train(unfinished, resume=resume)


def _reopened(folder: Path) -> None:
    Run(folder).update(state=RunState.TRAINING)


def _other_config(folder: Path) -> None:
    path = folder / "config.toml"
    path.write_text(path.read_text().replace("delta = 0.001", "delta = 0.0001"))


def _no_record(folder: Path) -> None:
    (folder / "run.json").unlink()


def _other_lineage(folder: Path) -> None:
    path = folder / "private/lineage.json"
    path.write_text(path.read_text().replace('"unknown_start": true', '"unknown_start": false'))


@pytest.mark.parametrize("change", [_reopened, _other_config, _no_record, _other_lineage])
def test_a_changed_record_of_a_finished_loop_is_refused(finished, change: Callable[[Path], None]):
    change(finished)
    with pytest.raises(PrivacyRefusal):
        train(finished, resume=True)
    if change is not _no_record:  # such a folder is shown as one of an earlier version, not confirmed
        with pytest.raises((PrivacyRefusal, DataError)):
            page_of(finished)


def test_exchanged_weights_of_a_finished_loop_are_named(finished):
    torch.save(network().state_dict(), finished / "release/model.pt")
    assert any("checksums" in line for line in failed(finished))
    with pytest.raises(DataError, match="changed since the run finished"):
        page_of(finished)


def test_a_changed_bit_in_a_checkpoint_breaks_its_seal(unfinished):
    path = checkpoint.path_of(Run(unfinished), "last")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert any("seals of the checkpoints" in line for line in failed(unfinished))


def test_a_finished_loop_is_closed(finished):
    before = contents(finished)
    train(finished, resume=True)
    assert contents(finished) == before
    with pytest.raises(UsageError, match="finished after 6 steps"):
        train(finished, resume=True, steps=8)


def test_evaluate_train_and_load_model_refuse_the_folder_by_name(trained, tmp_path):
    import meninx

    folder, model = trained
    with pytest.raises(UsageError, match="loop of your own"):
        meninx.load_model(folder, model=model)
    with pytest.raises(UsageError, match="loop of your own"):
        meninx.evaluate(folder)
    with pytest.raises(UsageError, match="loop of your own"):
        meninx.train(dataset(tmp_path / "data"), resume=folder)
    with pytest.raises(DataError, match="saw neither data nor evaluation"):
        page_of(folder, card=True, license="mit", authors="a", contact="c", intended_use="research")


def test_checkpoints_of_the_two_loops_are_refused_by_name(finished, tmp_path):
    theirs = run.create(tmp_path / "runs", "x", config_toml="")
    target = checkpoint.path_of(theirs, "last")
    target.parent.mkdir()
    shutil.copy(checkpoint.path_of(Run(finished), "last"), target)
    with pytest.raises(UsageError, match=r"got one of meninx\.privacy\.training"):
        checkpoint.load(theirs, "last")
    checkpoint.write(Run(finished), "last", checkpoint.Kind.TRAINER, {"version": checkpoint.VERSION})
    with pytest.raises(UsageError, match="got one of `meninx train`"):
        train(finished, resume=True)


def test_a_folder_with_other_files_or_of_another_run_is_not_written_to(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.toml").write_text("a = 1\n")
    with pytest.raises(UsageError, match=r"other files: config\.toml"):
        train(tmp_path / "mine")
    theirs = run.create(tmp_path / "runs", "x", config_toml="")
    with pytest.raises(UsageError, match="run of `meninx train`"):
        train(theirs.root)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="run is a file"):
        train(tmp_path / "file")
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["config.toml"]


def test_a_declared_number_is_shown_and_sealed(tmp_path):
    folder = tmp_path / "own"
    train(folder, declared_units=20)
    assert failed(folder) == []
    assert "patients, as declared 20" in page_of(folder)
    _edit(folder, declared_units=12)
    assert any("declared units" in line for line in failed(folder))


def test_a_seeded_loop_is_stamped_in_every_record(tmp_path):
    folder = tmp_path / "own"
    train(folder, deterministic_seed=1)
    assert failed(folder) == []
    assert (folder / "NOT_FOR_RELEASE").is_file()
    assert "void" in page_of(folder)
    with pytest.raises(UsageError, match="deterministic_seed"):
        train(folder, resume=True)


def test_the_weights_of_a_loop_are_a_start_of_unknown_patients(trained):
    folder, _ = trained
    members = Members(train=("p1",), valid=(), patients_known=True)
    data = artifacts.DataRecord(dataset="", digest="d" * 64)
    start = lineage.trace(folder / "release/model.pt", members, data, unit="patient", folders=())
    assert start.ancestry is not None
    assert start.ancestry.origin == "unknown"
    assert [item.run for item in start.parents] == [artifacts.read(folder, RunRecord).id]
    assert json.loads((folder / "release/lineage.json").read_text())["patients"] == []
    assert artifacts.read(folder, Lineage) is not None
