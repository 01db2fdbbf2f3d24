"""`verify`: a folder as it was written passes; every single change to it is named."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import verify_samples as samples

from meninx.core import artifacts, files, integrity, workspace
from meninx.core.artifacts import Ancestry, EvaluationRecord, Lineage, PrivacyRecord, RunState
from meninx.core.errors import DataError, PrivacyRefusal, UsageError
from meninx.core.run import Run
from meninx.learn import cache_file
from meninx.verify import stage
from meninx.verify.check_list import State


def failed(folder: Path) -> list[str]:
    """Return the lines that are not ok."""
    return [check.line() for check in stage.run(folder).checks if check.state is State.NOT_OK]


@pytest.mark.parametrize("private", [True, False])
def test_a_run_as_it_was_written_passes(tmp_path: Path, private: bool):
    run = samples.a_run(tmp_path, private=private)
    found = stage.run(run.root)
    assert failed(run.root) == []
    assert (found.ok, found.exit_code, found.kinds) == (True, 0, ("run",))
    found.raise_if_failed()
    assert found.summary().endswith("all checks passed")
    assert {check.state for check in found.checks} == {State.OK}
    assert ("privacy ledger" in found.summary()) is private
    assert json.loads(found.to_json())["ok"] is True


def _edited(run: Run, **changes: object) -> None:
    artifacts.write(run.root, replace(artifacts.require(run.root, PrivacyRecord, fix=""), **changes))  # type: ignore[arg-type]


def _line_changed(run: Run) -> None:
    text = run.ledger_path.read_text()
    run.ledger_path.write_text(text.replace('"step":1', '"step":2', 1))


def _last_line_gone(run: Run) -> None:
    lines = run.ledger_path.read_text().splitlines(keepends=True)
    run.ledger_path.write_text("".join(lines[:-1]))


def _other_lineage(run: Run, **changes: object) -> None:
    artifacts.write(run.root, replace(artifacts.require(run.root, Lineage, fix=""), **changes))  # type: ignore[arg-type]
    samples.listed_again(run)


def _stale_evaluation(run: Run) -> None:
    record = artifacts.require(run.root, EvaluationRecord, fix="")
    assert record.origin is not None
    artifacts.write(run.root, replace(record, origin=replace(record.origin, step=1, weights="e" * 64)))
    samples.listed_again(run)


def _renamed_evaluation(run: Run) -> None:
    record = artifacts.require(run.root, EvaluationRecord, fix="")
    assert record.origin is not None
    artifacts.write(run.root, replace(record, origin=replace(record.origin, split="valid")))
    samples.listed_again(run)


PRIVACY_CHANGES: dict[str, tuple[Callable[[Run], object], str, int]] = {
    "epsilon": (lambda run: _edited(run, epsilon=0.5), "epsilon 0.5, by the ledger", 4),
    "a little": (
        lambda run: _edited(
            run, epsilon=float(artifacts.require(run.root, PrivacyRecord, fix="").epsilon or 0) * 0.999999
        ),
        "epsilon",
        4,
    ),
    "own epsilon": (lambda run: _edited(run, own_epsilon=0.1), "own steps", 4),
    "steps": (lambda run: _edited(run, steps=1), "steps 1, by the ledger 3", 4),
    "delta": (lambda run: _edited(run, delta=0.1), "delta 0.1", 4),
    "unit": (lambda run: _edited(run, unit="case"), "unit case, by the ledger patient", 4),
    "noise": (lambda run: _edited(run, noise_multiplier=9.0), "noise multiplier 9.0", 4),
    "declared units": (
        lambda run: _edited(run, declared_units=9999),
        "declared units 9999, by config.toml none",
        4,
    ),
    "clipping": (lambda run: _edited(run, clipping="auto-s"), "clipping auto-s, by the ledger flat", 4),
    "sampler": (lambda run: _edited(run, sampler="shuffle"), "sampler shuffle, by the ledger poisson", 4),
    "words": (
        lambda run: _edited(run, outside_guarantee=()),
        "privacy.json belongs to the run (changed since",
        4,
    ),
    "evaluation of another split": (_renamed_evaluation, "stands under the name of another split", 3),
    "not private": (lambda run: _edited(run, private=False), "disagree on whether the run is private", 4),
    "no record": (lambda run: (run.root / "privacy.json").unlink(), "privacy.json (missing)", 4),
    "no ledger": (lambda run: run.ledger_path.unlink(), "privacy ledger (missing)", 4),
    "ledger edited": (_line_changed, "the line was changed", 4),
    "ledger cut": (_last_line_gone, "another ledger", 4),
    "lineage of another ledger": (
        lambda run: _other_lineage(run, ledger=()),
        "its ledger is not the run's",
        4,
    ),
    "lineage without privacy": (lambda run: _other_lineage(run, private=False), "disagrees with run.json", 3),
    "open room": (lambda run: run.private.chmod(0o755), "others may enter private/", 4),
    "open file": (lambda run: run.ledger_path.chmod(0o644), "others may read 1 file ", 4),
    "settings": (lambda run: run.config_path.write_text("epochs = 2\n"), "config.toml (changed", 3),
    "weights": (
        lambda run: (run.release / "bundle/models/model.pt").write_text("weightS"),
        "1 file changed: bundle/models/model.pt",
        3,
    ),
    "weights gone": (lambda run: (run.release / "bundle/models/model.pt").unlink(), "1 file missing", 3),
    "a file more": (lambda run: (run.release / "notes.txt").write_text("x"), "not in the list: notes.txt", 3),
    "list gone": (lambda run: (run.release / integrity.CHECKSUMS).unlink(), "checksums.sha256 is missing", 3),
    "stale evaluation": (
        _stale_evaluation,
        "release/evaluation.json (was measured on other weights (step 1 of 3))",
        3,
    ),
    "unfinished": (
        lambda run: run.update(state=RunState.TRAINING),
        "the run is not finished: training, step 3",
        3,
    ),
    "foreign bytes": (lambda run: (run.root / "privacy.json").write_bytes(b"\xff\xfe"), "privacy.json", 3),
    "run.json torn": (lambda run: (run.root / "run.json").write_text("{"), "run.json", 3),
}


@pytest.mark.parametrize("name", PRIVACY_CHANGES)
def test_every_single_change_to_a_run_is_named(tmp_path: Path, name: str):
    change, words, code = PRIVACY_CHANGES[name]
    run = samples.a_run(tmp_path)
    change(run)
    found = stage.run(run.root)
    assert any(words in line for line in failed(run.root)), found.summary()
    assert found.exit_code == code
    with pytest.raises(PrivacyRefusal if code == 4 else DataError, match="failed check"):
        found.raise_if_failed()


def test_a_list_that_was_made_to_fit_shows_against_the_record(tmp_path: Path):
    run = samples.a_run(tmp_path)
    before = run.record
    (run.release / "bundle/models/model.pt").write_text("other")
    samples.listed_again(run)
    assert before is not None
    artifacts.write(run.root, replace(before))
    assert failed(run.root) == ["not ok        digest of checksums.sha256 (the list was changed later)"]


def test_the_evaluation_of_another_run_is_named(tmp_path: Path):
    one, other = samples.a_run(tmp_path, "a"), samples.a_run(tmp_path, "b", stream="t")
    shutil.copy(other.release / "evaluation.json", one.release / "evaluation.json")
    samples.listed_again(one)
    assert failed(one.root) == ["not ok        release/evaluation.json (was measured on another run)"]


def test_epsilon_includes_a_composed_start(tmp_path: Path):
    from meninx.privacy.composition import compose
    from meninx.privacy.ledger import Ledger

    run = samples.a_run(tmp_path)
    earlier = samples.ledger_lines("other")
    artifacts.write(run.root, Ancestry(origin="run", ledgers=(tuple(earlier.split("\n")),)))
    assert any("epsilon" in line for line in failed(run.root))
    said = artifacts.require(run.root, PrivacyRecord, fix="")
    both = compose([Ledger.parse(run.ledger_path.read_text()), Ledger.parse(earlier)], delta=said.delta)
    _edited(run, epsilon=both.epsilon)
    run.update(privacy=samples.sha256(run.root / "privacy.json"))
    assert failed(run.root) == []


def test_a_run_of_an_older_version_says_what_cannot_be_checked(tmp_path: Path):
    run = samples.a_run(tmp_path)
    for name in ("run.json", "release/lineage.json", "release/checksums.sha256"):
        (run.root / name).unlink()
    table = json.loads((run.root / "privacy.json").read_text())
    for name in ("origin", "ledger", "own_epsilon", "version"):
        del table[name]
    (run.root / "privacy.json").write_text(json.dumps({**table, "weights": "last", "pretrained": None}))
    (run.release / "evaluation.json").write_text('{"version": 1}')
    found = stage.run(run.root)
    assert found.ok, found.summary()
    assert sum(check.state is State.NOT_POSSIBLE for check in found.checks) == 4
    assert "older version" in found.summary()
    (run.root / "privacy.json").write_text(json.dumps({**table, "epsilon": 0.5}))
    assert stage.run(run.root).exit_code == 4


def test_a_bundle_that_was_run_is_not_damaged(tmp_path: Path):
    """Python left 34 caches in a bundle that MONAI ran once, and every later check failed."""
    run = samples.a_run(tmp_path)
    names = ("bundle/scripts/inference.py", "bundle/scripts/core/files.py")
    for name in names:
        files.write_text(run.release / name, "x = 1\n")
    run.enlist(added=[run.release / name for name in names])
    for name in ("__pycache__/inference.cpython-311.pyc", "core/__pycache__/files.cpython-313.pyc"):
        files.write_text(run.release / "bundle" / "scripts" / name, "compiled")
    assert failed(run.root) == []
    found = stage.run(run.root)
    assert "caches of Python (2 files that Python writes" in found.summary()
    for name in ("__pycache__/other.cpython-311.pyc", "core/__pycache__/files.sh", "more.py"):
        files.write_text(run.release / "bundle" / "scripts" / name, "x")
        assert any("1 file not in the list" in line for line in failed(run.root))
        (run.release / "bundle" / "scripts" / name).unlink()


@pytest.mark.parametrize("make", [samples.a_dataset, samples.an_archive])
def test_datasets_and_archives(tmp_path: Path, make: Callable[[Path], Path]):
    root = make(tmp_path / "data")
    assert failed(root) == []
    image = next(path for path in (root / "images").rglob("*") if path.is_file())
    text = image.read_text()
    image.write_text(text.swapcase())
    assert any("1 file changed" in line for line in failed(root))
    image.unlink()
    assert any("1 file missing" in line for line in failed(root))
    image.write_text(text)
    (root / "images" / "Meier\x1b[2J.png").write_text("x")
    lines = failed(root)
    assert any("not in the list" in line for line in lines)
    assert "\x1b" not in "".join(lines)
    (root / "images" / "Meier\x1b[2J.png").unlink()
    files.write_text(root / integrity.CHECKSUMS, "")
    assert any("the list was changed" in line for line in failed(root))
    (root / integrity.CHECKSUMS).unlink()
    assert any("is missing" in line for line in failed(root))


def test_a_dataset_that_is_not_finished_or_older(tmp_path: Path):
    root = samples.a_dataset(tmp_path / "data")
    marker = workspace.read_marker(root)
    assert marker is not None
    workspace._write_marker(root, replace(marker, publishing=("images",)))
    assert failed(root) == [
        "not ok        completion (the stage has not finished; run the same command again)"
    ]
    shutil.rmtree(root / "private")
    (root / "prepare.json").unlink()
    (root / integrity.CHECKSUMS).unlink()
    found = stage.run(root)
    assert found.ok
    assert "no digests: an older version" in found.summary()


def test_a_claimed_folder_without_a_result_is_said_to_be_unfinished(tmp_path: Path):
    with pytest.raises(RuntimeError):
        samples.half_done(tmp_path / "data")
    assert stage.run(tmp_path).kinds == ("clean archive",)
    assert failed(tmp_path) == [
        "not ok        data: completion (the stage has not finished; run the same command again)"
    ]


def test_a_table_that_was_edited_with_its_digests_does_not_fit_the_summary(tmp_path: Path):
    root = samples.a_dataset(tmp_path / "data")
    table = root / "manifest.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    assert any("other numbers of cases" in line for line in failed(root))


def test_releases_sweeps_and_folders_of_them(tmp_path: Path):
    runs = samples.a_sweep(tmp_path / "all" / "sweep")
    samples.a_dataset(tmp_path / "all" / "data")
    (tmp_path / "all" / "latest").symlink_to("data")
    found = stage.run(tmp_path / "all")
    assert found.kinds == ("dataset", "sweep", "run", "run")
    assert found.ok, found.summary()
    shutil.copytree(runs[0].release, tmp_path / "given")
    assert stage.run(tmp_path / "given").kinds == ("release",)
    assert stage.run(tmp_path / "given" / "bundle").ok is True
    (tmp_path / "given/bundle/models/model.pt").write_text("other")
    assert failed(tmp_path / "given")
    shutil.rmtree(runs[0].root)
    assert any("not here: 1 of 2 runs" in line for line in failed(tmp_path / "all"))


def test_a_whole_folder_among_several_is_one_line(tmp_path: Path):
    good = samples.a_run(tmp_path, name="good")
    bad = samples.a_run(tmp_path, name="bad")
    (bad.release / "extra").write_text("x")
    lines = stage.run(tmp_path).summary().splitlines()
    assert [line for line in lines if good.name in line] == [
        f"ok            {good.name}: {len(stage.run(good.root).checks)} checks passed"
    ]
    assert sum(f"{bad.name}: " in line for line in lines) == len(stage.run(bad.root).checks)
    found = stage.run(tmp_path)
    assert len(found.in_full().splitlines()) == len(found.checks) + 1


def test_the_advice_for_an_interrupted_run_is_to_resume(tmp_path: Path):
    run = samples.a_run(tmp_path, private=False)
    run.update(state=RunState.TRAINING)
    with pytest.raises(DataError, match=f"--resume {run.name}"):
        stage.run(run.root).raise_if_failed()


def test_what_is_none_of_meninx_is_a_usage_error(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError):
            stage.run(folder)


def test_a_hostile_list_reads_nothing_outside(tmp_path: Path):
    root = samples.a_dataset(tmp_path / "data")
    (root / integrity.CHECKSUMS).write_text(f"{'0' * 64}  ../../etc/passwd\n")
    assert any("line 1" in line for line in failed(root))


def test_verify_reads_only(tmp_path: Path):
    run = samples.a_run(tmp_path)

    def state() -> list[tuple[str, int, int]]:
        return sorted(
            (str(path), path.stat().st_mtime_ns, path.stat().st_mode) for path in run.root.rglob("*")
        )

    before = state()
    stage.run(run.root)
    assert state() == before


@pytest.mark.parametrize("private", [True, False])
def test_no_accountant_is_loaded_where_nothing_is_private_and_torch_never(tmp_path: Path, private: bool):
    run = samples.a_run(tmp_path, private=private)
    code = (
        "import sys; from pathlib import Path; from meninx.verify import stage; assert "
        "stage.run(Path(sys.argv[1])).ok;"
        f"assert not {{{'' if private else repr('dp_accounting') + ','} 'torch'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(run.root)], check=True, timeout=60)


def test_what_a_killed_stage_left_in_staging_is_no_open_private_file(tmp_path: Path):
    root = samples.a_dataset(tmp_path / "data")
    for name in ("staging/images/a.png", "replaced/images/a.png"):
        files.write_text(root / "private" / name, "x")
    assert failed(root) == []
    secret = root / "private" / "staging" / "private" / "crosswalk.csv"
    files.write_text(secret, "x", mode=0o644)
    assert any("1 file" in line and "copied out" in line for line in failed(root))


def test_a_cache_of_decoded_images_is_a_private_file_like_any_other(tmp_path: Path):
    root = samples.a_dataset(tmp_path / "data")
    folder = root / "private" / workspace.CACHE
    folder.mkdir(mode=0o700)
    item = cache_file.Item("images/c1.png", "image")
    cache_file.build(
        folder / "decoded.bin", "key", {item: lambda: np.zeros((1, 4, 4), np.uint8)}, limit=1 << 20
    )
    assert failed(root) == []
    (folder / "decoded.bin").chmod(0o644)
    assert any("1 file" in line and "copied out" in line for line in failed(root))
