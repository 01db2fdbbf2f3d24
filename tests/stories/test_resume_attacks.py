"""After edits of a run's folder the same noise meets no other gradients, and no page is wrong."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meninx.core import artifacts, files, integrity, provenance
from meninx.core import run as runs
from meninx.core.artifacts import Ancestry, DataRecord, Lineage, Members, RunState
from meninx.core.errors import DataError, Interrupted, MeninxError, PrivacyRefusal
from meninx.core.manifest import Manifest
from meninx.core.progress import Silent
from meninx.core.run import Run
from meninx.report import stage as report
from meninx.report.config import ReportConfig
from meninx.synthetic import write_dataset
from meninx.train import evaluate, identity, stage
from meninx.train.config import EvaluateConfig, PrivacyConfig, TrainConfig
from meninx.verify import stage as verify

PLAIN = TrainConfig.of(
    model="resnet9-small", model_options={"width": 4}, steps=4, batch_size=6, device="cpu", attack_risk=False
)
PRIVATE = PLAIN.replace(privacy=PrivacyConfig(epsilon=8.0, delta=1e-3), eval_every=10)
QUICK = EvaluateConfig(draws=100, predictions=())
WEIGHTS = Path("release") / "bundle" / "models" / "model.pt"


class StopAfter(Silent):
    """Progress of a user who presses Ctrl-C after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, count: int = 1, **fields: float | str) -> None:
        self.left -= count if fields else 0  # filling the cache of images says nothing of a loss or epsilon
        if not self.left:
            raise KeyboardInterrupt


def listed(root: Path) -> None:
    """Give a dataset the list of digests that `prepare` writes."""
    tables = [root / "manifest.csv", root / "dataset.toml"]
    integrity.write(
        root,
        integrity.measured(
            root, [*tables, *(path for path in (root / "images").rglob("*") if path.is_file())]
        ),
    )


def inverted(root: Path, cases: Manifest) -> None:
    """Invert the images of some cases; every table and list stays."""
    for case in cases.cases:
        with Image.open(root / case.image) as image:
            other = np.iinfo(np.asarray(image).dtype).max - np.asarray(image)
        Image.fromarray(other).save(root / case.image)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Radiographs of 24 invented patients, with digests."""
    found = write_dataset(tmp_path_factory.mktemp("attacks") / "data", patients=24, size=32)
    listed(found.root)
    return Manifest.read(found.root)


@pytest.fixture(scope="module")
def unlisted(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The same without digests."""
    return write_dataset(tmp_path_factory.mktemp("unlisted") / "data", patients=24, size=32)


def interrupted_on(source: Manifest, out: Path) -> Run:
    with pytest.raises(Interrupted):
        stage.run(PRIVATE, source.root, out, progress=StopAfter(2))
    return runs.open_run((out / "latest").resolve())


@pytest.fixture(scope="module")
def _stopped(data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return interrupted_on(data, tmp_path_factory.mktemp("stopped"))


@pytest.fixture(scope="module")
def _finished(data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(stage.run(PRIVATE, data.root, tmp_path_factory.mktemp("finished")).out)


@pytest.fixture
def stopped(_stopped: Run, tmp_path: Path) -> Run:
    """A private run that was interrupted after 2 of 4 steps."""
    return Run(shutil.copytree(_stopped.root, tmp_path / "stopped"))


@pytest.fixture
def finished(_finished: Run, tmp_path: Path) -> Run:
    """A finished private run."""
    return Run(shutil.copytree(_finished.root, tmp_path / "finished"))


def refused(run: Run, source: Path, kind: type[MeninxError], match: str) -> None:
    """Resume a run, expect the refusal, and no new line in its ledger and nothing new in its release."""

    def state() -> tuple[str, dict[Path, str]]:
        return run.ledger_text(), {
            path: files.digest(path) for path in run.release.rglob("*") if path.is_file()
        }

    before = state()
    with pytest.raises(kind, match=match):
        stage.run(PRIVATE, source, run.root.parent, resume=run.root)
    assert state() == before


# a ledger that is gone


@pytest.mark.parametrize("emptied", [False, True])
@pytest.mark.parametrize("state", ["training", "starting"])
def test_a_private_run_without_its_ledger_does_not_begin_again(stopped, data, state, emptied):
    shutil.rmtree(stopped.private / "checkpoints")
    if emptied:
        stopped.ledger_path.write_text("")
    else:
        stopped.ledger_path.unlink()
    stopped.config_path.write_text(stopped.config_path.read_text().replace("lr = 0.", "lr = 0.1"))
    stopped.update(state=RunState(state))
    refused(stopped, data.root, PrivacyRefusal, "ledger")


def test_new_keys_do_not_begin_a_run_again_either(stopped, data):
    shutil.rmtree(stopped.private / "checkpoints")
    stopped.ledger_path.unlink()
    for name in ("noise", "sampling"):
        (stopped.private / "keys" / f"{name}.key").unlink()
    refused(stopped, data.root, PrivacyRefusal, "ledger")


# another dataset


def test_a_digest_written_into_data_json_does_not_make_another_dataset_the_runs_own(stopped, tmp_path):
    other = write_dataset(tmp_path / "other", patients=24, size=32, seed=3)
    listed(other.root)
    shutil.rmtree(stopped.private / "checkpoints")
    artifacts.write(stopped.root, identity.data_record(other.root))
    refused(stopped, other.root, MeninxError, "started with")


def test_nor_does_its_keyed_digest_in_run_json(stopped, tmp_path):
    other = write_dataset(tmp_path / "other", patients=24, size=32, seed=3)
    listed(other.root)
    shutil.rmtree(stopped.private / "checkpoints")
    record = identity.data_record(other.root)
    artifacts.write(stopped.root, record)
    key = stopped.key(identity.KEY)
    changes = {"data": identity.keyed_data(key, record.digest)}
    if stopped.record.secrets:
        changes["secrets"] = {
            **stopped.record.secrets,
            "data.json": files.digest(stopped.root / artifacts.place(DataRecord)),
        }
    stopped.update(**changes)
    refused(stopped, other.root, PrivacyRefusal, "ledger|started with")


# the same noise over other gradients


def test_images_changed_below_an_unchanged_list_are_refused(stopped, data, tmp_path):
    root = shutil.copytree(data.root, tmp_path / "copy")
    shutil.rmtree(stopped.private / "checkpoints")
    inverted(root, data.split("train"))
    refused(stopped, root, DataError, "image that was prepared")


def test_images_of_a_dataset_without_a_list_are_bound_too(unlisted, tmp_path):
    run = interrupted_on(unlisted, tmp_path / "runs")
    root = shutil.copytree(unlisted.root, tmp_path / "copy")
    shutil.rmtree(run.private / "checkpoints")
    inverted(root, unlisted.split("train"))
    refused(run, root, PrivacyRefusal, "ledger")


@pytest.mark.parametrize("state", ["training", "starting"])
@pytest.mark.parametrize("cleared", [False, True])
def test_a_released_run_is_closed_whatever_run_json_says(finished, data, state, cleared):
    finished.update(state=RunState(state))
    shutil.rmtree(finished.private / "checkpoints")
    if cleared:
        shutil.rmtree(finished.release)
        finished.release.mkdir()
    refused(finished, data.root, PrivacyRefusal, "finished run")


def test_an_earlier_checkpoint_does_not_open_a_released_run(finished, stopped, data):
    finished.update(state=RunState.TRAINING)
    shutil.copy(stopped.private / "checkpoints" / "last.pt", finished.private / "checkpoints" / "last.pt")
    refused(finished, data.root, PrivacyRefusal, "checkpoint of an earlier step|ledger")


@pytest.mark.parametrize("left", ["finished", "weights", "release", "released_step"])
def test_one_field_of_a_release_in_run_json_is_enough_to_close_a_run(finished, data, left):
    cleared = {"finished": "", "weights": "", "release": "", "released_step": 0}
    del cleared[left]
    finished.update(state=RunState.STARTING, **cleared)
    finished.update(keys="", step=0)
    for folder in (finished.release, finished.private / "checkpoints"):
        shutil.rmtree(folder)
        folder.mkdir()
    for path in (finished.ledger_path, *(finished.key_path(name) for name in ("sampling", "noise"))):
        path.unlink()
    refused(finished, data.root, PrivacyRefusal, "finished run")
    with pytest.raises(DataError, match=r"run\.json"):
        report.run(ReportConfig(), [finished.root], finished.root.parent / "page.html")


# the keys of a run


def emptied(run: Run, *, keys: bool) -> None:
    """Remove what a private run wrote of its steps, as if it had never begun."""
    shutil.rmtree(run.private / "checkpoints")
    run.ledger_path.unlink()
    if keys:
        for name in ("sampling", "noise"):
            run.key_path(name).unlink()
    run.update(state=RunState.STARTING, step=0, planned_steps=0)


def test_a_run_that_took_a_step_does_not_begin_again_with_new_keys(stopped, data):
    assert stopped.record.keys
    emptied(stopped, keys=True)
    refused(stopped, data.root, PrivacyRefusal, "ledger")


def test_other_keys_are_refused(stopped, data):
    stopped.key_path("noise").write_bytes(bytes(32))
    refused(stopped, data.root, PrivacyRefusal, "secret keys differ from those that the run began with")


# versions


def versions(monkeypatch: pytest.MonkeyPatch, torch: str) -> None:
    monkeypatch.setattr(provenance, "packages", lambda: {"meninx": "1.0", "torch": torch})


def test_a_step_is_repeated_by_the_versions_that_took_it_first(data, tmp_path, monkeypatch):
    versions(monkeypatch, "8.0")
    run = interrupted_on(data, tmp_path)
    (run.private / "checkpoints" / "last.pt").unlink()  # a run that was killed before its first checkpoint
    versions(monkeypatch, "9.0")
    refused(run, data.root, PrivacyRefusal, r"steps 1 to 2 .*install meninx 1\.0, torch 8\.0 to resume")
    versions(monkeypatch, "8.0")
    assert stage.run(PRIVATE, data.root, tmp_path, resume=run.root).privacy.steps == 4


def test_new_steps_are_taken_by_any_version(data, tmp_path, monkeypatch):
    versions(monkeypatch, "8.0")
    run = interrupted_on(data, tmp_path)
    early = (run.private / "checkpoints" / "last.pt").read_bytes()
    versions(monkeypatch, "9.0")
    with pytest.raises(Interrupted):
        stage.run(PRIVATE, data.root, tmp_path, resume=run.root, progress=StopAfter(1))
    assert run.record.software == ((0, "meninx 1.0, torch 8.0"), (2, "meninx 1.0, torch 9.0"))
    late = (run.private / "checkpoints" / "last.pt").read_bytes()
    (run.private / "checkpoints" / "last.pt").write_bytes(early)
    versions(monkeypatch, "8.0")
    refused(run, data.root, PrivacyRefusal, r"steps 3 to 3 .*torch 9\.0")
    (run.private / "checkpoints" / "last.pt").write_bytes(late)
    assert stage.run(PRIVATE, data.root, tmp_path, resume=run.root).privacy.steps == 4


def test_versions_that_nobody_recorded_repeat_nothing(stopped, data):
    (stopped.private / "checkpoints" / "last.pt").unlink()
    stopped.update(software=())
    refused(stopped, data.root, PrivacyRefusal, "start a new run")


# starting weights that are forgotten


@pytest.fixture
def composed(finished, data, tmp_path):
    """An interrupted private run that started from the weights of a private run on the same patients."""
    config = PRIVATE.replace(pretrained=str(finished.root / WEIGHTS))
    with pytest.raises(Interrupted):
        stage.run(config, data.root, tmp_path, progress=StopAfter(2))
    return runs.open_run((tmp_path / "latest").resolve())


@pytest.mark.parametrize("hidden", [False, True])
def test_a_run_whose_start_record_is_gone_is_not_resumed(composed, data, hidden):
    (composed.root / artifacts.place(Ancestry)).unlink()
    if hidden:
        composed.update(
            secrets={name: value for name, value in composed.record.secrets.items() if name != "start.json"}
        )
    refused(composed, data.root, PrivacyRefusal, "starting weights|private record of the run")


def test_nor_with_another_start_record(composed, data):
    known = artifacts.read(composed.root, Ancestry)
    artifacts.write(composed.root, replace(known, ledgers=()))
    composed.update(
        secrets=composed.record.secrets
        | {"start.json": files.digest(composed.root / artifacts.place(Ancestry))}
    )
    refused(composed, data.root, PrivacyRefusal, "ledger")


def test_verify_compares_the_lineage_with_the_start_that_privacy_json_names(finished):
    assert verify.run(finished.root).ok
    path = finished.root / artifacts.place(Lineage)
    lineage = artifacts.read(finished.root, Lineage)
    artifacts.write(finished.root, replace(lineage, unknown_start=True))
    finished.enlist(added=[path])
    assert "starting weights" in verify.run(finished.root).summary()


# who took part


def strangers_in(run: Run) -> None:
    """Exchange the patients in private/members.json for invented ones."""
    known = artifacts.read(run.root, Members)
    artifacts.write(
        run.root, replace(known, train=("X1",), valid=("X2",), images=(), train_images=(), identifiers=())
    )


def test_other_patients_in_members_json_are_refused_everywhere(finished, data, tmp_path):
    strangers_in(finished)
    refused(finished, data.root, PrivacyRefusal, "private/")
    with pytest.raises(PrivacyRefusal, match=r"members\.json"):
        evaluate.run(QUICK, finished.root)
    with pytest.raises(PrivacyRefusal, match=r"members\.json"):
        report.run(ReportConfig(), [finished.root], tmp_path / "page.html")
    found = verify.run(finished.root)
    assert found.exit_code == 4
    assert "members.json" in found.summary()


def test_the_lineage_names_the_patients_too(finished):
    strangers_in(finished)
    path = finished.root / artifacts.place(Members)
    finished.update(secrets=finished.record.secrets | {path.name: files.digest(path)})
    with pytest.raises(PrivacyRefusal, match=r"members\.json"):
        evaluate.run(QUICK, finished.root)


# images that are measured


def test_test_images_changed_below_an_unchanged_list_are_not_measured(finished, data, tmp_path):
    root = shutil.copytree(data.root, tmp_path / "copy")
    inverted(root, data.split("test"))
    with pytest.raises(DataError, match="image that was prepared"):
        evaluate.run(QUICK, finished.root, root)
    assert not (finished.release / "evaluation.json").exists()


def test_a_digest_in_data_json_does_not_make_another_dataset_the_measured_runs_own(finished, data, tmp_path):
    root = shutil.copytree(data.root, tmp_path / "copy")
    inverted(root, data.split("test"))
    listed(root)
    artifacts.write(finished.root, identity.data_record(root))
    path = finished.root / artifacts.place(DataRecord)
    finished.update(secrets=finished.record.secrets | {path.name: files.digest(path)})
    assert evaluate.run(QUICK, finished.root, root).external
