"""Features standardised by a public dataset: in the weights, recorded, bound, never from private data."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from meninx.core import artifacts
from meninx.core.artifacts import Ancestry, Lineage, Members
from meninx.core.errors import ConfigError, DataError, Interrupted, PrivacyRefusal
from meninx.core.manifest import MANIFEST_NAME, Manifest
from meninx.core.run import Run
from meninx.learn import assemble, features
from meninx.learn.inference import load_model
from meninx.learn.trainer import Trainer
from meninx.models import registry
from meninx.train import stage
from meninx.train.config import PrivacyConfig, TrainConfig

CONFIG = TrainConfig.of(
    model="resnet9-small", freeze="features", steps=2, batch_size=6, physical_batch=8, deterministic=True,
    attack_risk=False, select="last", device="cpu",
)  # fmt: skip
TERMS = PrivacyConfig(epsilon=8.0, delta=1e-3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    network = registry.build("resnet9-small", spatial_dims=2, in_channels=1, out_channels=3)
    torch.save(network.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def config(public, weights) -> TrainConfig:
    return CONFIG.replace(pretrained=weights, standardize=str(public.root))


@pytest.fixture(scope="module")
def private(config, data, tmp_path_factory) -> Run:
    out = tmp_path_factory.mktemp("standardized")
    return Run(stage.run(config.replace(privacy=TERMS), data.root, out).out)


def seen_by_head(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network.eval().features(images)


def public_images(public: Manifest, size: int) -> torch.Tensor:
    store = assemble.split_store(public, "train", CONFIG.model)
    images = torch.stack([store.image(index) for index in range(len(store))])
    return nn.functional.interpolate(images, (size, size), mode="bilinear", align_corners=False)


def test_the_head_sees_standardised_features_of_the_public_images(config, public, data):
    network, start = assemble.initial_network(
        config, data.info, statistics=assemble.feature_statistics(config, data.info)
    )
    seen = seen_by_head(network, public_images(public, 32))
    assert seen.mean(0).abs().max() < 1e-3
    assert (seen.std(0) - 1).abs().max() < 1e-2
    assert (start.standardized, start.standardized_images) == (public.info.name, len(public.split("train")))
    raw, _ = assemble.initial_network(config, data.info)
    changed = {
        name for name, value in raw.state_dict().items() if not value.equal(network.state_dict()[name])
    }
    assert changed == {"stages.3.scale.weight", "stages.3.scale.bias"}


def test_a_kept_head_gives_the_same_outputs(config, public, data):
    wanted = config.replace(keep_head=True)
    statistics = assemble.feature_statistics(wanted, data.info)
    raw, _ = assemble.initial_network(wanted, data.info)
    network, _ = assemble.initial_network(wanted, data.info, statistics=statistics)
    images = public_images(public, 32)[:4]
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), raw.eval()(images), atol=1e-4, rtol=1e-4)


def test_the_statistics_are_those_of_the_public_images_alone(config, data, private):
    """Another private dataset of the same size gives the same numbers."""
    known = artifacts.read(private.root, Ancestry).features
    fewer = Manifest(data.root, data.info, data.cases[:3])
    assert assemble.feature_statistics(config, fewer.info) == known
    assert assemble.feature_statistics(config.replace(threads=2, seed=9), data.info) == known


def test_the_released_network_is_ordinary_and_holds_the_statistics(private, data, config):
    begun, _ = assemble.initial_network(
        config, data.info, statistics=artifacts.read(private.root, Ancestry).features
    )
    network = registry.build("resnet9-small", spatial_dims=2, in_channels=1, out_channels=3)
    network.load_state_dict(torch.load(private.release / "bundle" / "models" / "model.pt", weights_only=True))
    for name, value in begun.state_dict().items():
        assert name.startswith("head.") != value.equal(network.state_dict()[name])


def test_the_records_name_the_public_dataset(private, public):
    said = private.read_json("privacy.json")
    assert said["start"]["standardized"] == public.info.name
    assert said["start"]["standardized_images"] == len(public.split("train"))
    assert len(said["start"]["standardized_sha256"]) == 64
    assert any(
        public.info.name in text and "nothing is promised" in text for text in said["outside_guarantee"]
    )
    (parent,) = artifacts.read(private.root, Lineage).parents
    assert (parent.statistics_of, parent.private) == (public.info.name, False)
    assert len(parent.patients) == len(public.split("train").patients)
    assert set(public.split("train").patients) <= set(artifacts.read(private.root, Members).earlier)


def test_a_resumed_run_needs_the_public_dataset_no_more(config, data, public, tmp_path, monkeypatch):
    here = tmp_path / "public"
    shutil.copytree(public.root, here)
    private = config.replace(privacy=TERMS, standardize=str(here))
    whole = stage.run(private, data.root, tmp_path / "whole")
    real = Trainer.run

    def stopped(self, *given, **named):
        real(self, until=1, horizon=named["horizon"])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", stopped)
        with pytest.raises(Interrupted):
            stage.run(private, data.root, tmp_path / "cut")
    shutil.rmtree(here)
    resumed = stage.run(private, data.root, tmp_path / "cut", resume=tmp_path / "cut" / "latest")
    one, other = (load_model(Run(item.out))[0].state_dict() for item in (whole, resumed))
    assert all(value.equal(other[name]) for name, value in one.items())


def test_edited_statistics_are_refused(config, data, tmp_path):
    run = Run(stage.run(config.replace(privacy=TERMS), data.root, tmp_path).out)
    path = run.root / artifacts.place(Ancestry)
    table = json.loads(path.read_text())
    table["features"]["mean"][0] += 1.0
    path.write_text(json.dumps(table))
    with pytest.raises(PrivacyRefusal):
        stage.run(config, data.root, tmp_path, resume=run.root)


def test_private_data_may_not_give_the_statistics(config, data, tmp_path):
    for split in ("train", "test"):  # the whole dataset is compared, not only the part that is read
        shutil.copytree(data.root, tmp_path / split)
    path = tmp_path / "test" / MANIFEST_NAME
    path.write_text(
        path.read_text().replace(",train,", ",swap,").replace(",test,", ",train,").replace(",swap,", ",test,")
    )
    for split in ("train", "test"):
        wanted = config.replace(privacy=TERMS, standardize=str(tmp_path / split))
        with pytest.raises(PrivacyRefusal, match="standardize"):
            stage.run(wanted, data.root, tmp_path / "runs")
    stage.run(config.replace(standardize=str(data.root)), data.root, tmp_path / "runs", dry_run=True)


def test_a_later_private_run_on_the_public_people_is_refused(private, public, config, tmp_path):
    same = Path(shutil.copytree(public.root, tmp_path / "same"))  # the same people in another folder
    later = CONFIG.replace(
        pretrained=str(private.release / "bundle" / "models" / "model.pt"), privacy=TERMS, batch_size=4
    )
    with pytest.raises(PrivacyRefusal, match="standardised by a dataset that holds them"):
        stage.run(later, same, private.root.parent, dry_run=True)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"pretrained": ""}, ConfigError, "no pretrained features"),
        ({"standardize": "nowhere"}, DataError, "nowhere"),
        ({"model": "resnet9", "model_options": {"width": 8, "groups": 4}}, ConfigError, "norm layer"),
        ({"model": "wrn-16-4"}, ConfigError, "norm layer"),
    ],
)
def test_where_it_does_nothing_it_is_refused(config, data, tmp_path, changes, kind, words):
    if changes.get("model"):
        options = changes.get("model_options", {})
        network = registry.build(changes["model"], spatial_dims=2, in_channels=1, out_channels=3, **options)
        torch.save(network.state_dict(), tmp_path / "w.pt")
        changes = {**changes, "pretrained": str(tmp_path / "w.pt")}
    with pytest.raises(kind, match=words):
        stage.run(config.replace(**changes), data.root, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_segmentation_has_no_features(config, pictures, tmp_path):
    with pytest.raises(ConfigError, match="standardize has no effect"):
        stage.run(config.replace(model="unet-small", freeze="none"), pictures.root, tmp_path)


def test_a_norm_that_the_head_does_not_see_directly_is_found_out(public, data):
    class Squashed(nn.Module):
        head_name = "head"

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))

    network = Squashed()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ConfigError, match="something else than an average"):
        features.public_statistics(network, public)
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
