"""Where an audit may write: never over a record, never into a private folder, never through a link."""

from __future__ import annotations

import shutil

import pytest
from audit_samples import audited, membership_audit, one_run_record, record_of
from report_samples import write_run

from meninx import workflow
from meninx.audit import audited_run, bounds, stage
from meninx.audit.config import BoundsConfig
from meninx.audit.plan_config import AuditConfig
from meninx.cli.app import run as command
from meninx.core.errors import UsageError
from meninx.core.run import Run


@pytest.fixture
def folder(tmp_path):
    """A finished private run whose private folder has a lock, as every run has."""
    made = write_run(tmp_path / "run", private=True, noise=0.8)
    with Run(made).lock():
        pass
    return made


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name",
    ["private/ledger.jsonl", "run.json", "private/new.html", "audit/membership.json", "config.toml",
     "release/page.html"],
)  # fmt: skip
@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_the_page_of_an_audit_replaces_no_record(folder, name, more, capsys):
    (folder / "release" / "checksums.sha256").write_text("")
    before = contents(folder)
    code = command(["audit", str(folder), "--parts", "bounds", "--out", str(folder / name), *more, "-q"])
    assert code == 2, capsys.readouterr().err
    assert contents(folder) == before


def test_the_page_replaces_an_earlier_page_and_no_other_html(folder, tmp_path):
    page, notes = tmp_path / "page.html", tmp_path / "notes.html"
    config = AuditConfig.of(parts=["bounds"], n_eps=3, deterministic=True)
    workflow.audit(config, folder, page)
    with pytest.raises(UsageError, match="exists already"):
        workflow.audit(config, folder, page)
    assert workflow.audit(config.replace(overwrite=True), folder, page).page == page
    notes.write_text("<html><title>Notes</title>")
    link = tmp_path / "link.html"
    link.symlink_to(page)
    for other in (notes, link):
        with pytest.raises(UsageError, match="is not a page of meninx"):
            workflow.audit(config.replace(overwrite=True), folder, other)


def test_no_audit_writes_into_private_folders_or_other_runs(folder, tmp_path):
    other = write_run(tmp_path / "other", private=True)
    for place in (folder / "private", folder / "private" / "audit", other):
        with pytest.raises(UsageError, match=r"outside private folders|another run"):
            audited_run.place_of_audit(place, Run(folder))
    assert audited_run.place_of_audit(folder, Run(folder)) == folder
    config = BoundsConfig(n_eps=3, units=100, sample_rate=0.1, steps=5, noise_multiplier=1.0, overwrite=True)
    for place in (folder / "private", other / "audit"):
        with pytest.raises(UsageError, match=r"outside private folders|another run"):
            bounds.run_bounds(config, place)


def test_a_linked_audit_folder_is_refused_and_nothing_is_written(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "audit").symlink_to(elsewhere)
    with pytest.raises(UsageError, match="is a link"):
        stage.run(AuditConfig.of(parts=["bounds"], n_eps=3), folder)
    with pytest.raises(UsageError, match="is a link"):
        audited_run.place_of_audit(None, Run(folder))
    with pytest.raises(UsageError, match="is a link"):
        bounds.run_bounds(BoundsConfig(n_eps=3), folder / "audit", run=folder)
    assert not list(elsewhere.iterdir())


def test_a_plan_after_results_says_so_whatever_was_removed(folder):
    run = record_of(folder)
    records = {"one_run": one_run_record(run), "membership": membership_audit(run)}
    audited(folder, **records)
    for path in (folder / "audit").glob("*.json"):
        if path.name != "plan.json":
            path.unlink()
    with pytest.raises(UsageError, match=r"results of another plan exist \(bounds, one-run, membership\)"):
        audited(folder, plan={"references": 8}, **records)
    again = audited(folder, plan={"references": 8, "overwrite": True}, **records).record.plan
    assert again.after_results == ("bounds", "one-run", "membership")
    assert "AFTER results existed" in again.words()


@pytest.mark.parametrize(
    ("left", "part"),
    [("in.npy", "one-run"), ("membership_scores.csv", "membership"),
     ("membership/0/private/checkpoint.pt", "membership"), ("reconstruction/index.json", "reconstruction"),
     ("identity_scores.csv", "identity")],
)  # fmt: skip
def test_scores_and_models_of_an_earlier_audit_are_results(folder, left, part):
    run = record_of(folder)
    records = {"one_run": one_run_record(run), "membership": membership_audit(run)}
    path = folder / "private" / "audit" / left
    path.parent.mkdir(parents=True)
    path.write_text("0.5\n")
    with pytest.raises(UsageError, match=f"made without a plan .*{part}"):
        audited(folder, **records)
    assert audited(folder, plan={"overwrite": True}, **records).record.plan.after_results == (part,)
    shutil.rmtree(folder / "audit")
    path.unlink()
    for empty in sorted((folder / "private" / "audit").rglob("*"), reverse=True):
        empty.rmdir()
    assert audited(folder, **records).record.plan.after_results == ()
