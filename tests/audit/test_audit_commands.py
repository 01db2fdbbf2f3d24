"""What the audit commands have in common: dry runs, a dataset that was moved, and files that they replace."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from dataclasses import replace

import pytest
from filelock import FileLock, Timeout

from meninx import api, workflow
from meninx.audit import attributes, bounds, membership, one_run, parts, references, reidentification, stage
from meninx.audit.audit_files import AuditFiles
from meninx.audit.audited_run import dataset_of
from meninx.audit.plan_config import AuditConfig
from meninx.audit.reconstruction import steps as reconstruction
from meninx.cli.app import run as command
from meninx.core import artifacts, plain
from meninx.core.errors import DataError, UsageError
from meninx.core.manifest import Manifest
from meninx.core.run import Run
from meninx.report import stage as reporting
from meninx.synthetic.dataset import write_dataset

PATIENTS = 90
WHOLE = ("--parts", "one-run", "membership", "reconstruction", "attributes", "identity")
READING = (
    ("", *WHOLE), ("one-run",), ("membership",), ("attributes",), ("identity",), ("reconstruct",),
    ("reconstruct", "create"),
)  # fmt: skip
WRITING = {
    "membership": ("membership", "membership.csv", "membership.png"),
    "attributes": ("attributes", "attributes.csv", "attributes.svg"),
    "identity": ("identity", "identity.csv", "identity.png"),
    "reconstruction": ("reconstruct", "reconstruction.csv", "identification.svg"),
}
"""Name of a record -> command, its table and one of its figures."""
FILES = {
    "bounds": bounds.FILES,
    "one_run": one_run.FILES,
    "membership": membership.FILES,
    "attributes": attributes.FILES,
    "identity": reidentification.FILES,
    "reconstruction": reconstruction.FILES,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset whose patients are in training or test, and a private run."""
    root = tmp_path_factory.mktemp("commands")
    data = write_dataset(root / "data", patients=PATIENTS, size=16)
    patients = {patient: number for number, patient in enumerate(data.patients)}
    cases = tuple(
        replace(case, split=("train", "test")[patients[case.patient_id] % 2]) for case in data.cases
    )
    Manifest(data.root, replace(data.info, split_rule="exact"), cases).write()
    settings = {"recipe": "tiny", "steps": 1, "out": root / "runs", "epsilon": 1.0, "delta": 1e-3}
    return root / "data", api.train(root / "data", attack_risk=False, **settings).out


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another dataset."""
    return write_dataset(tmp_path_factory.mktemp("other") / "other", patients=10, size=16, seed=5).root


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made[1], tmp_path / "run", symlinks=True)


@pytest.fixture
def moved(made, folder, tmp_path):
    """The dataset, elsewhere than the run recorded."""
    path = folder / "private" / "data.json"
    record = artifacts.read(folder, artifacts.DataRecord)
    path.write_text(plain.to_json(replace(record, dataset=str(tmp_path / "was-here"))))
    return shutil.copytree(made[0], tmp_path / "moved")


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def audit(run, words, *more):
    """Return the exit code of an audit command; the first words name it, the flags follow the run."""
    verb = [word for word in words if word and not word.startswith("-")][: 2 if words[0] else 0]
    flags = words[1:] if not words[0] else ()
    return command(["audit", *verb, str(run), *flags, *more, "-q"])


# dry runs


@pytest.mark.parametrize("words", [*READING, ("", "--parts", "bounds")])
def test_a_dry_run_writes_nothing_not_even_a_lock(folder, words, capsys):
    for lock in (folder / "private").glob("*lock"):
        lock.unlink()
    before = contents(folder)
    assert audit(folder, words, "--dry-run") == 0, capsys.readouterr().err
    assert "dry run: nothing" in capsys.readouterr().out
    assert contents(folder) == before


def test_a_dry_run_of_membership_counts_patients_and_models(folder, capsys):
    assert audit(folder, ("membership",), "--dry-run") == 0
    out = capsys.readouterr().out
    for words in (
        "members: 45 patients", "non-members: 45 of the test split", "reference models: 4",
        "0 of them are trained already, 4 would be trained", "refused: no rate at 1 % false positives: 1000",
        "as the training of the run took",
    ):  # fmt: skip
        assert words in out, words


def test_a_dry_run_of_membership_finds_trained_models_and_refuses_those_of_another_seed(
    folder, monkeypatch, capsys
):
    monkeypatch.setattr(references, "fit", lambda *given, **named: None)
    monkeypatch.setattr(references, "load_model", lambda run: (None, None, None))
    monkeypatch.setattr(
        references, "log_likelihoods", lambda network, pool, config: -0.5 * (1 + 0 * pool.patient_index())
    )
    monkeypatch.setattr(membership, "_planted", lambda patients, seed: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        membership.run_membership(membership.MembershipConfig(references=2), folder)
    assert audit(folder, ("membership",), "--dry-run", "--references", "4") == 0
    assert "2 of them are trained already, 2 would be trained" in capsys.readouterr().out
    assert audit(folder, ("membership",), "--dry-run", "--seed", "1") == 2
    assert "another run, dataset or seed" in capsys.readouterr().err


def test_a_dry_run_of_the_implementation_states_twin_canaries_and_time(folder, capsys):
    assert audit(folder, ("one-run",), "--dry-run", "--canaries", "400") == 0
    out = capsys.readouterr().out
    for words in ("1 steps on 45 patients", "400 made-up patients", "no twin is there", "about "):
        assert words in out, words
    twin = folder / "private" / "audit" / "twin" / "private"
    twin.mkdir(parents=True)
    (twin / "ledger.jsonl").write_text("")
    (twin / "canaries").write_text("400\n")
    assert audit(folder, ("one-run",), "--dry-run", "--canaries", "400") == 0
    assert "would go on where it stopped" in capsys.readouterr().out
    assert audit(folder, ("one-run",), "--dry-run") == 2
    assert "give --canaries 400" in capsys.readouterr().err


@pytest.mark.parametrize("step", ["match", "visualise"])
def test_a_dry_run_of_a_step_refuses_what_the_step_would_refuse(folder, step, capsys):
    assert audit(folder, ("reconstruct", step), "--dry-run") == 2
    assert "create them first" in capsys.readouterr().err


def test_identity_is_not_taken_over_after_reconstructions_that_are_made_anew(folder, monkeypatch):
    config = AuditConfig.of(parts=["reconstruction", "identity"], dry_run=True)
    run, seen = Run(folder), {"reconstruction": False, "identity": True}
    monkeypatch.setattr(stage, "_is_done", lambda part, *given: seen[part.name])
    artifacts.write(folder, artifacts.PlanRecord(sha256="0" * 64, registered="", text=""))

    def remarks():
        return [item.remark for item in stage._planned(config, run, run.record, None)]

    assert remarks() == ["", ""]
    seen["reconstruction"] = True
    assert remarks() == ["finished before, taken over"] * 2


# a dataset that was moved


@pytest.mark.parametrize("words", READING)
def test_a_dataset_that_was_moved_is_taken_from_where_it_is_now(folder, moved, words, capsys):
    assert audit(folder, words, "--dry-run") == (3 if words[0] else 0)
    told = capsys.readouterr()
    assert "--data FOLDER" in (told.err if words[0] else told.out)
    assert audit(folder, words, "--dry-run", "--data", str(moved)) == 0, capsys.readouterr().err
    assert "--data FOLDER" not in capsys.readouterr().out


@pytest.mark.parametrize("words", READING)
def test_another_dataset_is_refused_with_both_digests(folder, moved, other, words, capsys):
    capsys.readouterr()
    dry = ("--dry-run",) if words[0] else ()  # the plan is not registered before the dataset is known
    before = contents(folder)
    assert audit(folder, words, *dry, "--data", str(other)) == 3
    error, known = capsys.readouterr().err, Run(folder).record.data
    assert f"begins with {known[:16]}" in error
    assert error.count("digest begins with") == 2
    assert {path for path in contents(folder) if "lock" not in path.name} == {
        path for path in before if "lock" not in path.name
    }


def test_a_dry_run_refuses_another_dataset_where_no_part_reads_it(folder, other, capsys):
    for dry in (("--dry-run",), ()):
        assert audit(folder, [""], "--parts", "bounds", *dry, "--data", str(other)) == 3
        assert "digest begins with" in capsys.readouterr().err


def test_a_line_break_in_a_path_is_not_printed(folder, tmp_path, capsys):
    place = tmp_path / "a\nmeninx: all is well"
    assert audit(folder, [""], "--data", str(place)) == 3
    assert "\nmeninx: all is well" not in capsys.readouterr().err


def test_the_digests_of_a_refusal_tell_nothing_about_the_patients(folder, other):
    plain_digests = [artifacts.read(folder, artifacts.DataRecord).digest]
    with pytest.raises(DataError) as caught:
        dataset_of(Run(folder), other)
    assert not any(digest[:16] in str(caught.value) for digest in plain_digests)


def test_every_part_that_reads_the_dataset_gets_the_one_that_was_moved(folder, moved, monkeypatch):
    seen = {}

    def remember(name):
        def carried_out(config, run, data, progress):
            seen[name] = data
            raise DataError("enough")

        return carried_out

    for name, part in parts.REGISTRY.items():
        monkeypatch.setitem(parts.REGISTRY, name, replace(part, carry_out=remember(name)))
        with pytest.raises(DataError, match="enough"):
            api.audit(folder, parts=[name], data=moved, overwrite=True)
    assert seen == dict.fromkeys(parts.REGISTRY, moved)


def test_an_audit_of_a_moved_dataset_is_carried_out(folder, moved):
    result = api.audit(folder, parts=["identity"], data=moved, deterministic=True)
    assert [part.state for part in result.record.parts] == ["done"]


# files


@pytest.mark.parametrize(
    ("name", "kind"),
    [*itertools.product(WRITING, ("table", "figure", "record")), ("reconstruction", "pictures")],
)
def test_no_audit_replaces_files_that_it_did_not_write(folder, tmp_path, name, kind, capsys):
    words, table, figure = WRITING[name]
    place = tmp_path / "mine" / "audit"
    place.mkdir(parents=True)
    file = {"table": table, "figure": figure, "record": f"{name}.json", "pictures": "reconstruction/a.png"}
    (place / file[kind]).parent.mkdir(exist_ok=True)
    (place / file[kind]).write_text('{"patients": 7}')
    before = contents(tmp_path / "mine")
    for more in ((), ("--overwrite",)):
        assert audit(folder, (words,), "--out", str(place.parent), *more) == 2
        assert "holds files that no audit wrote" in capsys.readouterr().err
    assert contents(tmp_path / "mine") == before


@pytest.mark.parametrize("where", ["out", "run"])
@pytest.mark.parametrize("kind", ["table", "figure", "record"])
@pytest.mark.parametrize("name", WRITING)
def test_no_audit_writes_through_a_link(folder, tmp_path, name, kind, where, capsys):
    words, table, figure = WRITING[name]
    root = folder if where == "run" else tmp_path / "mine"
    (root / "audit").mkdir(parents=True)
    file = {"table": table, "figure": figure, "record": f"{name}.json"}[kind]
    (root / "audit" / file).symlink_to(folder / "private" / "ledger.jsonl")
    before = contents(folder)
    assert audit(folder, (words,), "--out", str(root), "--overwrite") == 2
    assert "is a link" in capsys.readouterr().err
    assert contents(folder).items() >= {path: text for path, text in before.items() if text}.items()


@pytest.mark.parametrize("name", [*WRITING, "bounds"])
def test_the_audit_of_another_run_is_not_replaced(folder, tmp_path, name):
    kind = FILES[name]
    place = tmp_path / "mine" / "audit"
    place.mkdir(parents=True)
    (place / kind.record).write_text("{}")
    known = replace(kind, run_of=lambda record: "f" * 32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AuditFiles, "_found", lambda self, where: "a record")
        known.refuse(place, run="f" * 32, own=False, overwrite=True)
        with pytest.raises(UsageError, match="the audit of another run"):
            known.refuse(place, run="e" * 32, own=False, overwrite=True)
        with pytest.raises(UsageError, match=r"holds .* already"):
            known.refuse(place, run="f" * 32, own=False, overwrite=False)


@pytest.mark.parametrize("name", ["bounds.csv", "bounds.png", "bounds.json"])
def test_bounds_replace_no_other_files_and_no_run(folder, tmp_path, name, capsys):
    place = tmp_path / "mine"
    place.mkdir()
    (place / name).write_text("7")
    words = ("bounds", "--units", "100", "--sample-rate", "0.1", "--steps", "5", "--noise-multiplier", "1")
    for out in (place, folder):
        assert command(["audit", *words, "--n-eps", "2", "--overwrite", "--out", str(out), "-q"]) == 2
    assert (place / name).read_text() == "7"
    assert "the folder is a run" in capsys.readouterr().err


def test_an_audit_that_was_killed_while_it_wrote_is_written_again(folder, tmp_path):
    place, kind = tmp_path / "audit", membership.FILES
    place.mkdir()
    with contextlib.suppress(KeyboardInterrupt), kind.writing(place):
        (place / "membership.csv").write_text("half")
        raise KeyboardInterrupt
    kind.refuse(place, run="f" * 32, own=False, overwrite=False)
    (place / kind.mark).write_text("mine")
    with pytest.raises(UsageError, match=r"no audit wrote: membership\.csv"):
        kind.refuse(place, run="f" * 32, own=False, overwrite=True)


# the page


def test_the_page_is_written_while_no_other_audit_can_begin(folder, monkeypatch):
    write, held = reporting.write_audit_page, []

    def watched(root, path):
        other = FileLock(folder / "private" / "audit.lock", is_singleton=False)
        with pytest.raises(Timeout):
            other.acquire(timeout=0)
        held.append(path)
        return write(root, path)

    monkeypatch.setattr(reporting, "write_audit_page", watched)
    config = AuditConfig.of(parts=["bounds"], n_eps=2, deterministic=True)
    assert workflow.audit(config, folder).page == held[0] == folder / "audit" / "audit.html"
