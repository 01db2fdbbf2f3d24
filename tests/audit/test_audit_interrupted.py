"""Audits that run at the same time, or are killed: no registration is lost, and the run stays usable."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from types import SimpleNamespace

import forked_commands
import pytest
from audit_samples import given_parts, one_run_record, record_of
from report_samples import write_run

from meninx.audit import bounds, parts, plan_file, stage
from meninx.audit.config import BoundsConfig, MembershipConfig
from meninx.audit.membership import run_membership
from meninx.audit.plan_config import AuditConfig
from meninx.audit.reconstruction import attack_run
from meninx.audit.reconstruction.candidates import CandidateIndex, write_index
from meninx.core import artifacts, files
from meninx.core.audit_summary import PlanRecord
from meninx.core.errors import DataError, RunLocked, UsageError
from meninx.core.progress import SILENT
from meninx.core.run import Run

ONE, TWO = AuditConfig.of(parts=["bounds"], n_eps=3), AuditConfig.of(parts=["bounds"], n_eps=4)


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run", private=True, noise=0.8)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def died(*_, **__):
    raise Killed


def test_a_second_audit_of_the_same_run_is_refused_and_the_first_goes_on(folder):
    def second(config, run, data, progress):
        words = ("audit", folder, "--parts", "bounds", "-q")
        other = forked_commands.start(folder.parent, *words, prepare=as_packaged)
        assert other.wait() != 0
        assert "an audit of this run is running" in other.err.read_text()
        right.carry_out(config, run, data, progress)

    def as_packaged():
        parts.REGISTRY["bounds"] = right

    with given_parts(folder, one_run=one_run_record(record_of(folder))):
        right = parts.REGISTRY["bounds"]
        parts.REGISTRY["bounds"] = replace(right, carry_out=second)
        assert stage.run(ONE, folder).record.parts[0].state == "done"
    assert stage.run(ONE, folder).record.parts[0].state == "done"


def _hold(root, ready, done):
    with Run(root).audit_lock():
        ready.set()
        done.wait(30)


def test_single_audits_respect_the_lock_of_an_audit(folder):
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(folder, ready, done))
    other.start()
    try:
        assert ready.wait(30)
        with pytest.raises(RunLocked, match="an audit of this run is running"):
            run_membership(MembershipConfig(), folder)
        with pytest.raises(RunLocked, match="an audit of this run is running"):
            bounds.run_bounds(BoundsConfig(n_eps=3), folder / "audit", run=folder)
    finally:
        done.set()
        other.join()
    bounds.run_bounds(BoundsConfig(n_eps=3), folder / "audit", run=folder)


def test_a_part_is_not_entered_into_another_registration(folder):
    run = Run(folder)
    stage.run(ONE, folder)
    stale = artifacts.read(folder, PlanRecord)
    stage.run(TWO.replace(overwrite=True), folder)
    with pytest.raises(DataError, match="another plan was registered"):
        plan_file.enter(run, stale, "bounds", "0" * 64, 1.0)
    assert artifacts.read(folder, PlanRecord).sha256 == plan_file.plan_hash(plan_file.audit_plan_of(TWO))


@pytest.mark.parametrize("first", [True, False])
def test_a_kill_between_the_two_writes_of_a_registration_loses_nothing(folder, monkeypatch, first):
    if not first:
        stage.run(ONE, folder)
    with monkeypatch.context() as patch:
        # Only the writes of this module: the record beside the plan is written by another.
        patch.setattr(plan_file, "files", SimpleNamespace(digest=files.digest, write_text=died))
        with pytest.raises(Killed):
            plan_file.register(Run(folder), plan_file.audit_plan_of(TWO), overwrite=True)
    assert stage.run(TWO, folder).record.plan.sha256 == plan_file.plan_hash(plan_file.audit_plan_of(TWO))
    known = artifacts.read(folder, PlanRecord)
    assert (folder / "audit" / "plan.toml").read_text() == known.text
    assert [item.results for item in known.earlier] == ([] if first else [True])


def test_a_torn_registration_of_an_earlier_version_gives_way_to_overwrite(folder):
    stage.run(ONE, folder)
    known = artifacts.read(folder, PlanRecord)
    artifacts.write(folder, replace(known, text=""))
    (folder / "audit" / "plan.toml").write_text(plan_file.plan_text(plan_file.audit_plan_of(TWO)))
    with pytest.raises(DataError, match=r"registered plan was changed.*--overwrite"):
        stage.run(TWO, folder)
    record = stage.run(TWO.replace(overwrite=True), folder).record
    assert [item.sha256 for item in record.plan.earlier] == [known.sha256]
    assert record.plan.after_results == ("bounds",)


def test_an_interrupted_reconstruction_keeps_its_candidates(tmp_path):
    (tmp_path / "imprint.npy").write_bytes(b"candidates")
    write_index(tmp_path, CandidateIndex(made_for="same"))
    attack_run._begun(tmp_path, "same", overwrite=True, resume=True)
    assert (tmp_path / "imprint.npy").is_file()
    attack_run._begun(tmp_path, "other", overwrite=True, resume=True)
    assert not (tmp_path / "imprint.npy").exists()


def test_the_audit_goes_on_with_candidates_that_are_there(folder, monkeypatch):
    found = {}
    monkeypatch.setattr(
        parts.reconstruction, "run_reconstruction", lambda config, root, **more: found.update(more)
    )
    parts.REGISTRY["reconstruction"].carry_out(
        AuditConfig.of(parts=["reconstruction"]), Run(folder), None, SILENT
    )
    assert found["resume"]


def test_identity_is_made_again_when_there_are_other_candidates(folder):
    config, part = AuditConfig.of(parts=["identity"]), parts.REGISTRY["identity"]
    before = part.settings_hash(config, Run(folder))
    room = folder / "private" / "audit" / "reconstruction"
    room.mkdir(parents=True)
    write_index(room, CandidateIndex(made_for="one"))
    after = part.settings_hash(config, Run(folder))
    assert part.settings_hash(config, Run(folder)) == after != before
    bounds_part = parts.REGISTRY["bounds"]
    assert bounds_part.settings_hash(config, Run(folder)) == bounds_part.settings_hash(config, Run(folder))


def test_bounds_replace_only_files_that_an_audit_wrote(tmp_path):
    config = BoundsConfig(n_eps=3, units=100, sample_rate=0.1, steps=5, noise_multiplier=1.0)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "bounds.csv").write_text("my own table\n")
    for changed in (config, config.replace(overwrite=True)):
        with pytest.raises(UsageError, match=r"files that no audit wrote: bounds\.csv"):
            bounds.run_bounds(changed, mine)
    assert (mine / "bounds.csv").read_text() == "my own table\n"
    bounds.run_bounds(config, tmp_path / "new")
    bounds.run_bounds(config.replace(overwrite=True), tmp_path / "new")


def test_bounds_that_were_killed_half_way_go_on(tmp_path, monkeypatch):
    config = BoundsConfig(n_eps=3, units=100, sample_rate=0.1, steps=5, noise_multiplier=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(bounds, "draw", died)
        with pytest.raises(Killed):
            bounds.run_bounds(config, tmp_path / "new")
    bounds.run_bounds(config, tmp_path / "new")
    assert {path.suffix for path in (tmp_path / "new").iterdir()} == {".csv", ".json", ".svg", ".png"}
