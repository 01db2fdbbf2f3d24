"""The model in a folder: a run, a release, a bundle, and what is none of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from meninx.core import integrity, plain
from meninx.core.artifacts import RunState, ThresholdRecord
from meninx.core.errors import DataError, MeninxError, UsageError
from meninx.core.run import Run
from meninx.imaging.preprocessing import Preprocessing
from meninx.learn.inference import load_bundle
from meninx.predict.trained import open_trained
from meninx.synthetic import write_dataset
from meninx.train import stage
from meninx.train.config import TrainConfig

SMALL = {
    "model": "resnet9-small",
    "model_options": {"width": 4},
    "steps": 1,
    "batch_size": 4,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    root = tmp_path_factory.mktemp("trained")
    data = write_dataset(root / "data", patients=8, size=16)
    return Run(stage.run(TrainConfig.of(**SMALL, name="a"), data.root, root / "runs").out)


def test_every_place_gives_the_same_weights(run, tmp_path):
    copy = shutil.copytree(run.release, tmp_path / "release")
    bundle = shutil.copytree(run.release / "bundle", tmp_path / "other name")
    found = [open_trained(place) for place in (run.root, run.release, copy, bundle, copy / "bundle")]
    assert len({item.weights for item in found}) == 1
    assert {item.run for item in found} == {run.record.id}
    assert {item.preprocessing for item in found} == {Preprocessing(size=(16, 16))}
    assert found[3].thresholds_from.startswith("none: ")


def test_a_run_without_a_bundle_is_read_from_its_checkpoint(run, tmp_path):
    root = shutil.copytree(run.root, tmp_path / "run")
    shutil.rmtree(root / "release" / "bundle")
    assert open_trained(root).weights == open_trained(run.root).weights


def test_what_is_no_model(run, tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="expected a trained model"):
            open_trained(place)
    root = shutil.copytree(run.root, tmp_path / "run")
    Run(root).update(state=RunState.TRAINING)
    with pytest.raises(UsageError, match="expected a finished run"):
        open_trained(root)


def test_another_runs_bundle_in_a_run_is_refused(run, tmp_path):
    root = shutil.copytree(run.root, tmp_path / "run")
    Run(root).update(weights="0" * 64)
    with pytest.raises(DataError, match="the weights are not those of the release"):
        open_trained(root)


def test_exchanged_weights_are_refused(run, tmp_path):
    bundle = shutil.copytree(run.release / "bundle", tmp_path / "bundle")
    path = bundle / "configs" / "meninx.json"
    table = json.loads(path.read_text())
    path.write_text(json.dumps({**table, "weights": "1" * 64}))
    with pytest.raises(DataError, match="the weights are not those of the release"):
        load_bundle(bundle)
    path.write_text(json.dumps({**table, "network": {**table["network"], "width": 8}}))
    with pytest.raises(DataError, match="not those of the network"):
        load_bundle(bundle)
    path.unlink()
    with pytest.raises(DataError, match=r"configs/meninx\.json"):
        load_bundle(bundle)


def _edited(run: Run, root: Path, **changes: object) -> Path:
    """Return a copy of the bundle whose record says something else."""
    bundle = shutil.copytree(run.release / "bundle", root / "bundle")
    path = bundle / "configs" / "meninx.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return bundle


@pytest.mark.parametrize("size", [(24_000, 24_000), (-5, 10), (16,), (0, 0)])
@pytest.mark.parametrize("name", ["image_size", "patch_size"])
def test_a_size_that_no_image_has_is_refused(run, tmp_path, name, size):
    with pytest.raises(MeninxError, match=name):
        load_bundle(_edited(run, tmp_path, **{name: size}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 20_000}, "much larger than the weights"),
        ({"name": "monai:UNet", "channels": [1, 1], "strides": [1], "num_res_units": 10**7}, "much larger"),
        ({"width": -3}, "options the network accepts"),
        ({"width": 8}, "not those of the network"),
    ],
)
def test_a_network_of_other_numbers_is_refused_before_memory_is_taken(run, tmp_path, change, message):
    network = json.loads((run.release / "bundle/configs/meninx.json").read_text())["network"]
    if "name" in change:
        del network["width"]
    with pytest.raises(MeninxError, match=message):
        load_bundle(_edited(run, tmp_path, network={**network, **change}))


def test_a_record_without_the_digest_of_its_weights_is_refused(run, tmp_path):
    with pytest.raises(DataError, match="the weights are not those of the release"):
        load_bundle(_edited(run, tmp_path, weights=""))


@pytest.mark.parametrize("name", ["configs/meninx.json", "configs/thresholds.json", "models/model.pt"])
@pytest.mark.parametrize("where", ["bundle", "release", "bundle in a release"])
def test_an_edited_file_is_refused_wherever_the_bundle_lies(run, tmp_path, name, where):
    root = shutil.copytree(run.release, tmp_path / "release")
    if where == "bundle":
        root = shutil.move(root / "bundle", tmp_path / "alone")
    bundle = root if where == "bundle" else root / "bundle"
    (bundle / name).write_bytes((bundle / name).read_bytes() + b" " if (bundle / name).exists() else b"{}")
    with pytest.raises(DataError, match=rf"changed since the release.*{name}"):
        open_trained(root if where == "release" else bundle)


def test_a_bundle_alone_without_its_list_is_refused(run, tmp_path):
    bundle = shutil.copytree(run.release / "bundle", tmp_path / "bundle")
    assert integrity.damage(bundle) == integrity.Damage()
    (bundle / integrity.CHECKSUMS).unlink()
    with pytest.raises(DataError, match=r"missing.*checksums\.sha256"):
        open_trained(bundle)


@pytest.mark.parametrize("value", [-5.0, 1.5, float("nan"), float("inf")])
def test_a_threshold_that_is_no_probability_is_refused(run, tmp_path, value):
    bundle = shutil.copytree(run.release / "bundle", tmp_path / "bundle")
    record = ThresholdRecord(thresholds={run_label(run): value}, weights=load_bundle(bundle).record.weights)
    path = bundle / "configs" / "thresholds.json"
    path.write_text(json.dumps(plain.to_plain(record)))
    integrity.write(bundle, integrity.read(bundle) | integrity.measured(bundle, [path]))
    with pytest.raises(DataError, match=r"thresholds"):
        open_trained(bundle)


def run_label(run: Run) -> str:
    return load_bundle(run.release / "bundle").info.labels[0]
