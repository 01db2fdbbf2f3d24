"""Private fine-tuning: a step trains exactly the chosen parameters, and releases have no adapters."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from meninx.core.artifacts import Ancestry
from meninx.core.errors import ConfigError, PrivacyRefusal
from meninx.core.manifest import Manifest
from meninx.core.progress import Silent
from meninx.core.run import Run
from meninx.learn import assemble, checkpoint, finetune, pretrained
from meninx.learn.config import LearnConfig
from meninx.learn.fitting import fit
from meninx.learn.inference import load_model, predict
from meninx.models import lora, registry
from meninx.privacy.plan import Plan

OPTIONS = {"width": 4}
SMALL = LearnConfig.of(
    model="resnet9-small",
    model_options=OPTIONS,
    physical_batch=8,
    device="cpu",
    lr=0.05,
    attack_risk=False,
    deterministic=True,
)
Data = Callable[..., Manifest]
NewRun = Callable[..., Run]


def plan(**changes: Any) -> Plan:
    terms: dict[str, Any] = {
        "n_units": 8,
        "expected_batch_size": 4,
        "steps": 4,
        "noise_multiplier": 1.0,
        "delta": 1e-3,
    }
    return Plan.build(**{**terms, "max_grad_norm": 1.0, **changes})


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A file with weights of the small network."""
    torch.manual_seed(7)
    model = registry.build("resnet9-small", spatial_dims=2, in_channels=1, out_channels=2, **OPTIONS)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    return str(tmp_path / "weights.pt")


def norms_and_biases(name: str) -> bool:
    """By the names of this network, not by the types of its layers."""
    return (
        name.startswith(("stem.1.", "head."))
        or any(part in name for part in ("norm", ".shortcut.1.", ".scale."))
        or name.endswith(".bias")
    )


WAYS: dict[str, tuple[dict[str, Any], Callable[[str], bool]]] = {
    "all": ({}, lambda name: True),
    "head": ({"freeze": "features"}, lambda name: name.startswith("head.")),
    "bitfit": ({"freeze": "bitfit"}, norms_and_biases),
    "prefix": ({"freeze": "stages.0."}, lambda name: not name.startswith("stages.0.")),
    "unfreezing": (
        {"freeze": "features", "unfreeze_every": 1},
        lambda name: name.startswith(("head.", "stages.3.")),
    ),
    "lora": ({"lora_rank": 2}, lambda name: name.startswith("head.") or ".down." in name or ".up." in name),
    "lora and bitfit": (
        {"lora_rank": 2, "freeze": "bitfit"},
        lambda name: (norms_and_biases(name) and ".base." not in name) or ".down." in name or ".up." in name,
    ),
}


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
@pytest.mark.parametrize("way", WAYS)
def test_a_private_step_changes_exactly_what_is_trained(
    way: str, optimizer: str, dataset: Data, new_run: NewRun, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, trained = WAYS[way]
    config = SMALL.replace(pretrained=weights, optimizer=optimizer, weight_decay=0.1, **changes)
    built: list[assemble.Training] = []
    seen: list[dict[str, Tensor]] = []
    build = assemble.from_config

    def watched(*args: Any, **options: Any) -> assemble.Training:
        training = build(*args, **options)
        built.append(training)
        seen.append({name: value.detach().clone() for name, value in training.state.model.named_parameters()})
        return training

    class Watch(Silent):
        def advance(self, count: int = 1, **fields: float | str) -> None:
            seen.append(
                {name: value.detach().clone() for name, value in built[0].state.model.named_parameters()}
            )

    monkeypatch.setattr(assemble, "from_config", watched)
    fit(config, dataset(), new_run(), plan=plan(), progress=Watch())
    before, after = (seen[2], seen[3]) if way == "unfreezing" else seen[:2]  # two steps make an epoch
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if trained(name)}
    if way != "unfreezing":
        assert changed == {name for name in before if not torch.equal(before[name], seen[-1][name])}


def test_biases_and_norms_are_known_by_type_in_other_networks() -> None:
    model = registry.build(
        "monai:BasicUNet", spatial_dims=2, in_channels=1, out_channels=2, features=(4,) * 6
    )
    names = finetune.biases_and_norms(model)
    assert "conv_0.conv_0.conv.bias" in names
    assert {
        f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.InstanceNorm2d)
    } <= names
    assert not [name for name in names if name.endswith("weight") and ".N." not in name]
    layer = nn.TransformerEncoderLayer(4, 1)
    found = finetune.biases_and_norms(layer)
    assert {"norm1.weight", "norm1.bias", "self_attn.in_proj_bias", "linear1.bias"} <= found
    assert not found & {"linear1.weight", "self_attn.in_proj_weight"}


def tuned(weights: str, **changes: Any) -> LearnConfig:
    return SMALL.replace(
        pretrained=weights, lora_rank=2, lora_alpha=4.0, ema=0.5, optimizer="adam", **changes
    )


def test_a_private_run_with_adapters_can_be_resumed_and_releases_an_ordinary_network(
    dataset: Data, new_run: NewRun, weights: str
) -> None:
    class Crash(Silent):
        left = 2

        def advance(self, count: int = 1, **fields: float | str) -> None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    data, config = dataset(), tuned(weights)
    whole, halted = new_run("whole"), new_run("halted")
    fit(config, data, whole, plan=plan())
    with pytest.raises(BaseException, match="stopped"):
        fit(config, data, halted, plan=plan(), progress=Crash())
    fit(config, data, halted, plan=plan(), resume=True)
    first, second = (checkpoint.load(run, "last")["players"]["model"] for run in (whole, halted))
    for part in (first["weights"], first["average"]["shadow"]):
        assert any(".down." in name for name in part)
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
    shadow = second["average"]["shadow"]
    assert all(torch.equal(value, shadow[name]) for name, value in first["average"]["shadow"].items())

    model, kept, info = load_model(whole)
    with_adapters, start = assemble.initial_network(config, data.info)
    with_adapters.load_state_dict(first["average"]["shadow"])
    x = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(model(x), with_adapters.eval()(x), rtol=1e-4, atol=1e-5)
    plain = registry.build("resnet9-small", spatial_dims=2, in_channels=1, out_channels=2, **OPTIONS)
    plain.load_state_dict(model.state_dict())
    assert start is not None
    assert predict(model, info, data, kept).logits.shape == (len(data), 2)


def test_the_pretrained_weights_are_under_the_adapters(dataset: Data, weights: str) -> None:
    config, data = tuned(weights, keep_head=True), dataset()
    model, start = assemble.initial_network(config, data.info)
    plain = registry.build("resnet9-small", spatial_dims=2, in_channels=1, out_channels=2, **OPTIONS)
    pretrained.initialise(plain, Path(weights), keep_head=True)
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(model.eval()(x), plain.eval()(x))
    assert start is not None
    assert start.fresh == ()
    names = lora.adapter_names(model)
    adapters = sum(value.numel() for name, value in model.named_parameters() if name in names)
    assert adapters < sum(value.numel() for value in plain.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_rank": 2}, "pretrained"),
        ({"lora_rank": 2, "pretrained": "w.pt", "freeze": "stem."}, "bitfit"),
        ({"lora_rank": 2, "pretrained": "w.pt", "unfreeze_every": 1}, "unfreeze_every"),
        ({"lora_rank": -1}, "lora_rank"),
        ({"lora_alpha": 0.0}, "lora_alpha"),
        ({"head_lr": 0.0}, "head_lr"),
        ({"bias_floor": 0.0}, "bias_floor"),
        ({"bias_correction": "yes"}, "bias_correction"),
        ({"precision": "fp8"}, "precision"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LearnConfig.of(**changes)


def test_bfloat16_runs_the_model_and_not_the_loss(dataset: Data, new_run: NewRun) -> None:
    run, exact, data = new_run("bf16"), new_run("fp32"), dataset()
    config = SMALL.replace(optimizer="sgd", epochs=1, batch_size=8, steps=1)
    fit(config.replace(precision="bf16"), data, run)
    fit(config, data, exact)
    rounded, full = (checkpoint.load(item, "last")["players"]["model"]["weights"] for item in (run, exact))
    assert all(value.dtype == torch.float32 for value in rounded.values())
    assert not all(torch.equal(value, full[name]) for name, value in rounded.items())
    for name, value in rounded.items():
        torch.testing.assert_close(value, full[name], rtol=0.05, atol=0.01, msg=name)


def test_the_inventory_follows_what_is_frozen() -> None:
    """The gradients released are those of the trained parameters.

    A layer frozen whole costs nothing there.
    """
    torch.manual_seed(0)
    model: nn.Module = registry.build(
        "resnet9-small", spatial_dims=2, in_channels=1, out_channels=2, **OPTIONS
    )
    for way in ("features", "bitfit"):
        frozen = finetune.frozen_names(model, SMALL.replace(freeze=way).model, 0)
        finetune.apply(model, frozen)
        total = plan().clipped_sum(
            model,
            lambda outputs, targets: outputs.square().sum(1) + 0 * targets,
            torch.randn(2, 1, 8, 8),
            torch.zeros(2),
            unit_index=torch.arange(2),
            n_units=2,
        )
        assert set(total.gradients) == {name for name, _ in model.named_parameters()} - frozen


def others(manifest: Manifest) -> Manifest:
    """The same dataset with other pseudonyms."""
    cases = tuple(replace(case, patient_id=f"other-{case.patient_id}") for case in manifest.cases)
    made = Manifest(manifest.root, manifest.info, cases)
    made.write()
    return made


def test_features_standardised_by_private_people_are_refused_under_a_plan(
    dataset: Data, weights: str, new_run: NewRun, tmp_path: Path
) -> None:
    private = dataset()
    config = SMALL.replace(freeze="features", pretrained=weights)

    def standardized(root: Path) -> LearnConfig:
        return config.replace(standardize=str(root))

    copied = tmp_path / "copied"
    shutil.copytree(private.root, copied)
    for number, root in enumerate((private.root, copied, dataset(seed=1).root)):  # the last: same patients
        run = new_run(f"refused-{number}")
        with pytest.raises(PrivacyRefusal, match="standardize") as caught:
            fit(standardized(root), private, run, plan=plan())
        assert "train-p" not in str(caught.value)
        assert not run.ledger_text()
    public = others(dataset(seed=2))
    assert fit(standardized(public.root), private, new_run("public"), plan=plan()).steps == 4
    recorded = Ancestry(features=assemble.feature_statistics(standardized(private.root), private.info))
    with pytest.raises(PrivacyRefusal, match="standardize"):
        fit(standardized(public.root), private, new_run("recorded"), plan=plan(), ancestry=recorded)
    free = fit(standardized(private.root).replace(steps=1), private, new_run("free"))
    assert free.steps == 1
