"""A run: two rooms, a release without anything private, and a config that repeats it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
import torch

from meninx.core import artifacts, integrity, settings
from meninx.core import run as runs
from meninx.core.artifacts import DataRecord, PrivacyRecord, RunRecord, RunState
from meninx.core.errors import ConfigError, DataError, Interrupted, PrivacyRefusal, UsageError
from meninx.core.manifest import Manifest
from meninx.core.names import markdown
from meninx.core.progress import Silent
from meninx.core.run import Run
from meninx.learn.inference import load_model
from meninx.learn.state_digest import weights_digest
from meninx.synthetic import write_dataset
from meninx.train import evaluate, stage
from meninx.train.config import EvaluateConfig, PrivacyConfig, TrainConfig


class StopAfter(Silent):
    """Progress of a user who presses Ctrl-C after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, count: int = 1, **fields: float | str) -> None:
        self.left -= count
        if not self.left:
            raise KeyboardInterrupt


SMALL = TrainConfig.of(model="resnet9-small", epochs=1, batch_size=6, lr=3e-3)
DP = SMALL.replace(privacy=PrivacyConfig(noise_multiplier=1.0, delta=1e-3), attack_risk=False)


def names(run: Run) -> set[str]:
    found = {path.relative_to(run.root).as_posix() for path in run.root.rglob("*") if path.is_file()}
    scripts = {name for name in found if name.startswith("release/bundle/scripts/")}
    assert all(name.endswith(".py") for name in scripts)  # which ones: test_train_bundle_source
    return found - scripts


def weights(run: Run) -> dict[str, torch.Tensor]:
    return torch.load(run.release / "bundle" / "models" / "model.pt", weights_only=True)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


BUNDLE = {
    "release/bundle/checksums.sha256",
    "release/bundle/LICENSE",
    "release/bundle/configs/inference.json",
    "release/bundle/configs/meninx.json",
    "release/bundle/configs/metadata.json",
    "release/bundle/docs/README.md",
    "release/bundle/models/model.pt",
    "release/checksums.sha256",
    "release/lineage.json",
}
EVERY = BUNDLE | {
    "NOT_FOR_RELEASE",
    "config.toml",
    "environment.json",
    "run.json",
    "privacy.json",
    "private/checkpoints/last.pt",
    "private/data.json",
    "private/keys/identity.key",
    "private/lineage.json",
    "private/lock",
    "private/members.json",
    "private/metrics.jsonl",
}


def test_a_plain_run_has_these_files_and_no_others(plain):
    assert names(plain) == EVERY | {"private/checkpoints/best.pt", "release/bundle/models/model.onnx"}
    assert plain.name.endswith("_plain_s0")
    assert (plain.root.parent / "latest").resolve() == plain.root.resolve()


def test_a_private_run_has_its_keys_and_ledger_in_the_private_room(private):
    assert names(private) == EVERY | {
        "private/checkpoints/best.pt",
        "private/keys/noise.key",
        "private/keys/sampling.key",
        "private/ledger.jsonl",
    }
    assert private.private.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in (private.private / "keys").iterdir())


def test_nothing_outside_the_private_room_names_a_case_a_key_or_a_folder(private, data):
    secrets = [key.read_bytes() for key in (private.private / "keys").iterdir()]
    told = [word.encode() for case in data.cases for word in (case.case_id, case.image, case.study)]
    told += [artifacts.read(private.root, DataRecord).digest.encode()]
    told += [f"{patient}".encode() for patient in data.patients] + [str(data.root).encode()]
    told += [form for secret in secrets for form in (secret, secret.hex().encode())]
    open_files = [
        path for path in private.root.rglob("*") if path.is_file() and private.private not in path.parents
    ]
    assert len([path for path in open_files if "scripts" not in path.parts]) == len(BUNDLE) + 5
    for path in open_files:
        content = path.read_bytes()
        assert not [word for word in told if word in content], path.name


def test_the_search_above_can_find_something(private, data):
    assert str(data.root).encode() in (private.private / "data.json").read_bytes()


def test_the_result_says_what_was_trained(data, tmp_path):
    result = stage.run(DP, data.root, tmp_path)
    training = data.split("train")
    assert (result.train_cases, result.train_patients) == (len(training), len(training.patients))
    assert result.parameters == sum(value.numel() for value in weights(Run(result.out)).values())
    assert f"{result.privacy.summary()}." == json.loads((result.out / "privacy.json").read_text())["sentence"]
    assert result.privacy.summary() in result.summary()
    assert f"steps: {result.steps}" in result.summary()


def test_a_dry_run_promises_what_the_run_then_does(data, tmp_path):
    dry = stage.run(DP, data.root, tmp_path / "runs", dry_run=True)
    assert not (tmp_path / "runs").exists()
    real = stage.run(DP, data.root, tmp_path / "runs")
    assert (dry.parameters, dry.steps, dry.privacy, dry.train_cases) == (
        real.parameters,
        real.steps,
        real.privacy,
        real.train_cases,
    )
    assert (dry.dry_run, real.dry_run) == (True, False)


def test_the_config_of_a_run_is_a_recipe_that_repeats_it(private, data, tmp_path):
    table, source = settings.read_recipe(str(private.config_path))
    config = settings.build(TrainConfig, table, source)
    assert config == stage.stored_config(private)
    again = Run(stage.run(config, data.root, tmp_path, recipe=str(private.config_path)).out)
    assert again.name.endswith("_private_s0")
    assert again.metrics_path.read_text() == private.metrics_path.read_text()
    assert again.ledger_path.read_text() == private.ledger_path.read_text()
    one, other = (replace(artifacts.read(run.root, PrivacyRecord), origin=None) for run in (again, private))
    assert one == other
    assert same(weights(again), weights(private))


def test_without_deterministic_the_noise_is_new_and_no_seed_can_repeat_it(data, tmp_path):
    one, other = (Run(stage.run(DP, data.root, tmp_path).out) for _ in range(2))
    assert one.config_path.read_text() == other.config_path.read_text()
    assert not same(weights(one), weights(other))
    keys = [
        (run.private / "keys" / name).read_bytes()
        for run in (one, other)
        for name in ("noise.key", "sampling.key")
    ]
    assert len(set(keys)) == 4
    assert not (one.root / "NOT_FOR_RELEASE").exists()


def test_a_name_comes_from_the_recipe_unless_it_is_given(data, tmp_path):
    tiny = SMALL.replace(steps=1)
    assert stage.run(tiny, data.root, tmp_path, recipe="recipes/tiny.toml").out.name.endswith("_tiny_s0")
    assert stage.run(tiny.replace(name="mine", seed=3), data.root, tmp_path, recipe="tiny").out.name.endswith(
        "_mine_s3"
    )


def test_nothing_is_exported_when_nothing_is_asked_for(data, tmp_path):
    result = stage.run(SMALL.replace(steps=1, export=()), data.root, tmp_path)
    assert {path.name for path in (result.out / "release").iterdir()} == {"checksums.sha256", "lineage.json"}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"model": "resnet99"}, ConfigError),
        ({"model_options": {"wide": 8}}, ConfigError),
        ({"loss": "dice"}, ConfigError),
        ({"privacy": PrivacyConfig(epsilon=1e-7, delta=1e-5)}, PrivacyRefusal),
        ({"privacy": PrivacyConfig(epsilon=8.0, delta=0.5)}, PrivacyRefusal),
        ({"privacy": DP.privacy, "model": "monai:DenseNet121"}, PrivacyRefusal),
        ({"privacy": DP.privacy, "batch_size": 1000}, ConfigError),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_run_that_cannot_be_is_refused_before_there_is_a_folder(data, tmp_path, changes, kind, dry_run):
    with pytest.raises(kind, match="expected "):
        stage.run(SMALL.replace(**changes), data.root, tmp_path / "runs", dry_run=dry_run)
    assert not (tmp_path / "runs").exists()


def test_an_empty_training_split_is_refused(data, tmp_path):
    shutil.copytree(data.root, tmp_path / "data")
    Manifest(tmp_path / "data", data.info, data.split("test").cases).write()
    for config in (SMALL, DP):
        with pytest.raises(DataError, match="train"):
            stage.run(config, tmp_path / "data", tmp_path / "runs")


def test_a_finished_run_is_closed_and_says_so(data, tmp_path):
    run = Run(stage.run(SMALL.replace(steps=1), data.root, tmp_path).out)
    before = {path: path.read_bytes() for path in run.root.rglob("*") if path.is_file()}
    shutil.copytree(data.root, tmp_path / "moved")
    again = stage.run(SMALL, tmp_path / "moved", tmp_path, resume=run.root)
    assert (again.closed, again.steps, again.out) == (True, 1, run.root)
    assert "finished before: nothing was changed" in again.summary()
    assert {path: path.read_bytes() for path in run.root.rglob("*") if path.is_file()} == before


def test_a_finished_private_run_that_was_touched_is_refused(data, tmp_path):
    run = Run(stage.run(DP.replace(steps=1, export=()), data.root, tmp_path).out)
    other = write_dataset(tmp_path / "other", patients=12, size=32, seed=1)
    with pytest.raises(PrivacyRefusal, match="got another dataset"):
        stage.run(SMALL, other.root, tmp_path, resume=run.root)
    text = run.config_path.read_text()
    run.config_path.write_text(text.replace("lr = 0.003", "lr = 0.3"))
    with pytest.raises(PrivacyRefusal, match="edited config"):
        stage.run(SMALL, data.root, tmp_path, resume=run.root)
    run.config_path.write_text(text)
    weights_before = artifacts.read(run.root, RunRecord)
    shutil.rmtree(run.private / "checkpoints")
    with pytest.raises(PrivacyRefusal, match="no checkpoints"):
        stage.run(SMALL, data.root, tmp_path, resume=run.root)
    assert artifacts.read(run.root, RunRecord) == weights_before


def test_a_finished_run_without_privacy_is_closed_too(data, tmp_path):
    run = Run(stage.run(SMALL.replace(steps=1), data.root, tmp_path).out)
    run.config_path.write_text(run.config_path.read_text().replace("steps = 1", "steps = 9"))
    with pytest.raises(UsageError, match="--pretrained"):
        stage.run(SMALL, data.root, tmp_path, resume=run.root)


def test_an_interrupted_run_goes_on_with_its_own_cases_only(data, tmp_path):
    with pytest.raises(Interrupted):
        stage.run(SMALL.replace(steps=3), data.root, tmp_path, progress=StopAfter(1))
    run = runs.open_run(tmp_path / "latest")
    assert artifacts.read(run.root, RunRecord).state is RunState.TRAINING
    other = write_dataset(tmp_path / "other", patients=12, size=32, seed=1)
    with pytest.raises(DataError, match="the cases differ from those that the run was started with"):
        stage.run(SMALL, other.root, tmp_path, resume=run.root)
    assert stage.run(SMALL, data.root, tmp_path, resume=run.root).steps == 3
    assert artifacts.read(run.root, RunRecord).state is RunState.RELEASED


def test_a_run_whose_config_was_broken_is_refused(data, tmp_path):
    run = Run(stage.run(SMALL.replace(steps=1), data.root, tmp_path).out)
    run.config_path.write_text("epochs = ")
    with pytest.raises(ConfigError, match=r"config\.toml"):
        stage.run(SMALL, data.root, tmp_path, resume=run.root)


def test_the_dataset_of_a_run_is_known(plain, data, tmp_path):
    assert stage.dataset_folder(plain) == data.root
    with pytest.raises(UsageError, match="--data"):
        stage.dataset_folder(Run(Path(tmp_path)))


def test_a_run_killed_while_it_is_released_is_not_released_and_ends_the_same(data, tmp_path, monkeypatch):
    config = SMALL.replace(steps=2, name="cut")
    real = artifacts.write

    def killed(root, entry, **place):
        if isinstance(entry, RunRecord) and entry.state is RunState.RELEASED:
            raise KeyboardInterrupt
        return real(root, entry, **place)

    monkeypatch.setattr(artifacts, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        stage.run(config, data.root, tmp_path)
    monkeypatch.undo()
    run = runs.open_run(tmp_path / "latest")
    assert artifacts.read(run.root, RunRecord).state is RunState.TRAINING
    with pytest.raises(UsageError, match="expected a finished run"):
        evaluate.run(EvaluateConfig(draws=100), run.root)
    before = weights(run)
    stage.run(config, data.root, tmp_path, resume=run.root)
    assert artifacts.read(run.root, RunRecord).state is RunState.RELEASED
    assert same(weights(run), before)
    assert not integrity.damage(run.release)
    assert {path.name for path in run.private.iterdir()} == {
        "checkpoints", "data.json", "keys", "lineage.json", "lock", "members.json", "metrics.jsonl"
    }  # fmt: skip


def test_the_digest_of_weights_names_their_values_and_not_their_file(plain):
    model, _, _ = load_model(plain)
    digest = artifacts.read(plain.root, RunRecord).weights
    assert weights_digest(model) == digest
    next(model.parameters()).data.view(-1)[0] += 1e-6
    assert weights_digest(model) != digest


def test_the_card_of_a_bundle_escapes_the_names(data, tmp_path):
    info = replace(data.info, name="a*b_[c](http://x)")
    root = tmp_path / "data"
    shutil.copytree(data.root, root)
    replace(Manifest.read(root), info=info).write()
    run = Run(stage.run(SMALL.replace(steps=1), root, tmp_path / "runs").out)
    card = (run.release / "bundle" / "docs" / "README.md").read_text()
    assert card.startswith(f"# {markdown(info.name)}: multilabel")
    assert "](" not in card.splitlines()[0]


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_run_does_not_lie_in_its_dataset(data, dry_run):
    with pytest.raises(UsageError, match="outside the source"):
        stage.run(SMALL, data.root, data.root / "runs", dry_run=dry_run)
    assert not (data.root / "runs").exists()


def test_the_flat_config_of_a_run_of_an_earlier_version_is_read_with_a_warning(private, data, tmp_path):
    """Its learning settings also compare equal, so that evaluation, report and resume see the same run."""
    before = stage.stored_config(private)
    copied = Run(shutil.copytree(private.root, tmp_path / "old"))
    flat = {name: value for name, value in settings.to_flat(before).items() if name not in PRIVACY_NAMES}
    flat["privacy"] = settings.to_table(before)["privacy"]
    copied.config_path.write_text(tomli_w.dumps(flat))
    copied.update(config=copied.config_digest)
    with pytest.warns(settings.OldLayout, match=r"config.toml has the flat layout .*--convert FILE"):
        assert stage.stored_config(copied) == before
    with pytest.warns(settings.OldLayout):
        measured = evaluate.run(EvaluateConfig(predictions=(), draws=10), copied.root, data.root)
    assert measured.metrics


PRIVACY_NAMES = {name for name, (path, _) in settings.index(TrainConfig).items() if path[0] == "privacy"}
