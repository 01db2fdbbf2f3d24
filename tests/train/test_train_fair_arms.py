"""The arms of a comparison share all but privacy, and a comparison of others says in what they differ."""

from __future__ import annotations

import pytest
import torch

from meninx.core import artifacts
from meninx.core.artifacts import ComparisonRecord, DataRecord, SettingDifference
from meninx.core.run import Run
from meninx.learn import assemble, distributed
from meninx.models import registry
from meninx.train import evaluate, stage, sweep
from meninx.train.config import EvaluateConfig, GridConfig, PrivacyConfig, TrainConfig

CONFIG = TrainConfig.of(
    model="resnet9-small", model_options={"width": 8}, steps=2, batch_size=6, physical_batch=8, select="last",
    attack_risk=False, device="cpu",
)  # fmt: skip
TERMS = PrivacyConfig(epsilon=8.0, delta=1e-3)
WAYS = {
    "random": {},
    "pretrained": {"pretrained": True},
    "kept head": {"pretrained": True, "keep_head": True},
    "frozen": {"pretrained": True, "freeze": "features", "standardize": True},
    "adapters": {"pretrained": True, "lora_rank": 2, "standardize": True},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    network = registry.build("resnet9-small", spatial_dims=2, in_channels=1, out_channels=3, width=8)
    torch.save(network.state_dict(), path)
    return str(path)


def settings(way: str, weights: str, public) -> dict:
    found = dict(WAYS[way])
    if found.get("pretrained"):
        found["pretrained"] = weights
    if found.get("standardize"):
        found["standardize"] = str(public.root)
    return found


@pytest.mark.parametrize(
    "way",
    [
        "random",
        "adapters",
        *(pytest.param(way, marks=pytest.mark.slow) for way in WAYS if way not in ("random", "adapters")),
    ],
)
def test_both_arms_of_a_sweep_begin_with_one_network_and_are_called_alike(
    way, weights, public, data, tmp_path, monkeypatch
):
    begun = {}
    real = assemble.from_config

    def seen(config, data, run, *given, **named):
        training = real(config, data, run, *given, **named)
        begun[run.root.parent.name] = (distributed.digest(training.state.model), training.start)
        return training

    monkeypatch.setattr(assemble, "from_config", seen)
    config = CONFIG.replace(privacy=TERMS, **settings(way, weights, public))
    sweep.run(config, GridConfig(epsilons=(8.0,), seeds=(1,)), data.root, tmp_path / "out")
    assert begun["epsilon-8_seed-1"] == begun["epsilon-none_seed-1"]
    cells = [
        Run((tmp_path / "out" / "cells" / name / "latest").resolve())
        for name in ("epsilon-8_seed-1", "epsilon-none_seed-1")
    ]
    measured = EvaluateConfig(predictions=(), draws=20, baseline=cells[1].root)
    found = evaluate.run(measured, cells[0].root)
    assert artifacts.read(cells[0].root, ComparisonRecord).differing == ()
    assert not any("more than privacy" in note for note in found.notes)


@pytest.fixture(scope="module")
def measured_run(data, tmp_path_factory) -> Run:
    out = tmp_path_factory.mktemp("measured")
    return Run(stage.run(CONFIG.replace(privacy=TERMS), data.root, out).out)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({}, ()),
        ({"lr": 0.1, "batch_size": 4, "optimizer": "sgd", "augment": ("flip",)}, ()),
        ({"model_options": {"small_stem": False}}, ("network",)),
        ({"image_size": (40, 40)}, ("image size",)),
        ({"seed": 1}, ("initialisation",)),
        ({"pretrained": True}, ("initialisation",)),
        ({"freeze": "stem."}, ("features",)),
        ({"pretrained": True, "freeze": "features", "standardize": True}, ("initialisation", "features")),
    ],
)
def test_a_comparison_names_what_differs_beside_privacy(
    changes, what, measured_run, weights, public, data, tmp_path
):
    told = {"pretrained": weights, "standardize": str(public.root)}
    config = CONFIG.replace(
        **{name: told[name] if value is True else value for name, value in changes.items()}
    )
    baseline = stage.run(config, data.root, tmp_path)
    found = evaluate.run(EvaluateConfig(predictions=(), draws=20, baseline=baseline.out), measured_run.root)
    record = artifacts.read(measured_run.root, ComparisonRecord)
    assert tuple(item.what for item in record.differing) == what
    said = [note for note in found.notes if note.startswith("The runs differ in more than privacy: ")]
    assert said == ([record.note()] if what else [])
    assert all(item.run != item.baseline and item.run in said[0] for item in record.differing)


def test_another_dataset_is_named_without_its_digest(measured_run, public, data, tmp_path):
    baseline = stage.run(CONFIG.replace(image_size=(32, 32)), public.root, tmp_path)
    evaluate.run(EvaluateConfig(predictions=(), draws=20, baseline=baseline.out), measured_run.root)
    record = artifacts.read(measured_run.root, ComparisonRecord)
    assert record.differing == (
        SettingDifference(what="dataset", run=data.info.name, baseline=f"another one, {public.info.name}"),
    )
    assert artifacts.read(Run(baseline.out).root, DataRecord).digest[:8] not in record.note()
