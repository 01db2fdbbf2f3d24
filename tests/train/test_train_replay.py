"""No noise is used twice: edited finished runs, other data under a run's keys, replayed killed runs."""

import shutil
import stat

import pytest

from meninx.core import files
from meninx.core.artifacts import RunState
from meninx.core.errors import ConfigError, PrivacyRefusal
from meninx.core.run import Run
from meninx.synthetic import write_dataset
from meninx.train import stage
from meninx.train.config import PrivacyConfig, TrainConfig

CONFIG = TrainConfig.of(
    model="resnet9-small", epochs=1, batch_size=6, lr=3e-3, deterministic=True, name="bound",
    privacy=PrivacyConfig(epsilon=8.0, delta=1e-3),
)  # fmt: skip


@pytest.fixture
def finished(private, tmp_path):
    """A finished, released private run."""
    return Run(shutil.copytree(private.root, tmp_path / "run"))


def released(run):
    return {
        path.relative_to(run.root): files.digest(path)
        for path in sorted(run.release.rglob("*"))
        if path.is_file()
    }


def edited(run, before, after):
    text = run.config_path.read_text()
    assert before in text
    run.config_path.write_text(text.replace(before, after))


def resumed(run, source, tmp_path):
    return stage.run(CONFIG, source, tmp_path, resume=run.root)


def untouched(run, source, tmp_path):
    """Return the refusal, after a look whether anything was changed."""
    before = (
        released(run),
        run.ledger_path.read_bytes(),
        run.metrics_path.read_bytes(),
        run.read_json("privacy.json"),
    )
    assert before[0]
    with pytest.raises(PrivacyRefusal, match="start a new run") as refusal:
        resumed(run, source, tmp_path)
    assert before == (
        released(run),
        run.ledger_path.read_bytes(),
        run.metrics_path.read_bytes(),
        run.read_json("privacy.json"),
    )
    assert refusal.value.exit_code == 4


@pytest.mark.parametrize("changes", [("lr = 0.003", "lr = 0.006"), ("seed = 0", "seed = 1")])
def test_a_finished_run_without_its_checkpoints_is_not_run_again_with_other_settings(
    finished, data, tmp_path, changes
):
    shutil.rmtree(finished.private / "checkpoints")
    edited(finished, *changes)
    untouched(finished, data.root, tmp_path)


def test_other_data_under_the_same_keys_is_refused(finished, tmp_path):
    other = write_dataset(tmp_path / "other", patients=24, size=32, seed=5)
    shutil.rmtree(finished.private / "checkpoints")
    (finished.private / "data.json").unlink()
    untouched(finished, other.root, tmp_path)


def test_with_its_checkpoint_an_edited_run_is_refused_as_ever(finished, data, tmp_path):
    edited(
        finished, "steps = 4", "steps = 2"
    )  # free to change: the plan follows, and the checkpoint is of more steps
    edited(finished, "lr = 0.003", "lr = 0.006")
    with pytest.raises((ConfigError, PrivacyRefusal)):
        resumed(finished, data.root, tmp_path)


def test_a_run_without_its_checkpoints_and_the_same_settings_is_repeated_and_spends_once(
    finished, data, tmp_path
):
    before = finished.read_json("privacy.json")["epsilon"], released(finished)
    whole = finished.ledger_path.read_text().splitlines(keepends=True)
    closed = {"weights": "", "release": "", "released_step": 0, "finished": ""}
    finished.update(state=RunState.TRAINING, **closed)  # as if it had been killed before its last step
    finished.ledger_path.write_text("".join(whole[:-1]))
    shutil.rmtree(finished.private / "checkpoints")
    shutil.rmtree(finished.release)
    finished.release.mkdir()
    resumed(finished, data.root, tmp_path)
    assert finished.read_json("privacy.json")["epsilon"] == before[0]
    assert len(finished.ledger_path.read_text().splitlines()) == 2 * len(whole) - 1


def test_the_ledger_is_for_the_owner_alone(private):
    assert stat.S_IMODE(private.ledger_path.stat().st_mode) == 0o600
