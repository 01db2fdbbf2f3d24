"""A private run begins with a proof that the network gives every image a gradient of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from meninx.core.budget import PrivacyUnit
from meninx.core.errors import PrivacyRefusal
from meninx.core.manifest import Manifest
from meninx.core.progress import Silent
from meninx.core.run import Run
from meninx.learn import checkpoint, dp_step
from meninx.learn.config import LearnConfig
from meninx.learn.fitting import fit
from meninx.models import registry
from meninx.privacy.plan import Plan

CONFIG = LearnConfig.of(
    model="odd", device="cpu", optimizer="sgd", lr=0.1, attack_risk=False, deterministic=True
)
PLAN = Plan.build(
    n_units=8,
    expected_batch_size=4,
    unit=PrivacyUnit.CASE,
    steps=2,
    noise_multiplier=1.0,
    max_grad_norm=1.0,
    delta=1e-3,
)
Data = Callable[..., Manifest]
NewRun = Callable[..., Run]


@pytest.fixture(autouse=True, scope="module")
def networks_are_proved_once() -> None:
    """Every run of this module proves its network."""


class Scale(nn.Identity):
    """A layer derived from one of torch, with a parameter more: no rule knows it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Odd(nn.Module):
    """Pixels, pooled, and a linear head; ``mixes`` subtracts the mean image of the batch."""

    head_name = "head"

    def __init__(self, in_channels: int, out_channels: int, *, mixes: bool, **_: Any) -> None:
        super().__init__()
        self.mixes, self.scale, self.head = (
            mixes,
            nn.Identity() if mixes else Scale(),
            nn.Linear(16 * in_channels, out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(0, keepdim=True) if self.mixes else x
        logits: Tensor = self.head(self.scale(nn.functional.adaptive_avg_pool2d(x, 4)).flatten(1))
        return logits


def named(monkeypatch: pytest.MonkeyPatch, mixes: bool) -> None:
    def build(spatial_dims: int, in_channels: int, out_channels: int, **options: Any) -> nn.Module:
        return Odd(in_channels, out_channels, mixes=mixes)

    monkeypatch.setattr(registry, "MODELS", {**registry.MODELS, "odd": build})


def test_a_network_that_mixes_images_is_refused_before_the_first_step(
    dataset: Data, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(monkeypatch, mixes=True)
    run = new_run()
    with pytest.raises(PrivacyRefusal, match="computed for the row alone"):
        fit(CONFIG, dataset(), run, plan=PLAN)
    assert not run.ledger_path.exists()


def test_a_module_without_a_rule_is_refused_by_name_and_trained_when_it_is_named(
    dataset: Data, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(monkeypatch, mixes=False)
    cases = dataset()
    with pytest.raises(PrivacyRefusal, match=r"module scale"):
        fit(CONFIG, cases, new_run("without"), plan=PLAN)
    run = new_run()
    fit(LearnConfig.of(**{**vars(CONFIG), "functional": ("scale",)}), cases, run, plan=PLAN)
    assert float(checkpoint.load(run, "last")["players"]["model"]["weights"]["scale.scale"]) != 1.0


class Noisy(Odd):
    """Drops pixels in the order of the batch, by a function that no list of modules shows."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, training=self.training))


def test_random_numbers_that_are_not_an_images_own_are_refused_before_the_first_step(
    dataset: Data, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(spatial_dims: int, in_channels: int, out_channels: int, **options: Any) -> nn.Module:
        noisy = Noisy(in_channels, out_channels, mixes=False)
        noisy.scale = nn.Identity()
        return noisy

    monkeypatch.setattr(registry, "MODELS", {**registry.MODELS, "odd": build})
    run = new_run()
    with pytest.raises(PrivacyRefusal, match=r"no random numbers.*\(root\)"):
        fit(CONFIG, dataset(), run, plan=PLAN)
    assert not run.ledger_path.exists()
    plain = LearnConfig.of(**{**vars(CONFIG), "epochs": 1})
    assert fit(plain, dataset(), new_run("plain")).steps == 1  # without privacy it is nobody's concern


def by_numpy(rows: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).random(rows) < 0.5)


def by_an_own_generator(rows: int) -> Tensor:
    return torch.rand(rows, generator=torch.Generator().manual_seed(1)) < 0.5


def by_a_forked_generator(rows: int) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return torch.rand(rows) < 0.5


class DropRows(nn.Module):
    """Drops whole images of a batch in training; neither its name nor torch's generator gives it away."""

    def __init__(self, draw: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        return x * self.draw(len(x)).view(-1, 1, 1, 1) if self.training else x


@pytest.mark.parametrize("draw", [by_numpy, by_an_own_generator, by_a_forked_generator])
@pytest.mark.parametrize("proof", [True, False])
def test_masks_of_a_batch_are_refused_by_the_proof_and_by_the_sums(
    dataset: Data,
    new_run: NewRun,
    monkeypatch: pytest.MonkeyPatch,
    draw: Callable[[int], Tensor],
    proof: bool,
) -> None:
    def build(spatial_dims: int, in_channels: int, out_channels: int, **options: Any) -> nn.Module:
        odd = Odd(in_channels, out_channels, mixes=False)
        odd.scale = DropRows(draw)
        return odd

    monkeypatch.setattr(registry, "MODELS", {**registry.MODELS, "odd": build})
    if not proof:
        monkeypatch.setattr(dp_step, "prove", lambda *_, **__: None)
    with pytest.raises(
        PrivacyRefusal, match="alone" if proof else "in training mode the gradients of an image depend"
    ):
        fit(CONFIG, dataset(), new_run(), plan=PLAN)


class Turned(Odd):
    """Shows its dropout layer the pixels along the first axis, where the images should be."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, mixes=True)
        self.mixes, self.drop = False, nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.drop(x.transpose(0, 2)).transpose(0, 2))


def test_a_dropout_layer_that_does_not_see_image_after_image_is_refused(
    dataset: Data, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(spatial_dims: int, in_channels: int, out_channels: int, **options: Any) -> nn.Module:
        return Turned(in_channels, out_channels)

    monkeypatch.setattr(registry, "MODELS", {**registry.MODELS, "odd": build})
    with pytest.raises(PrivacyRefusal, match="dropout masks of an image depend"):
        fit(CONFIG, dataset(), new_run(), plan=PLAN)


def test_dropout_trains_privately_and_moves_no_generator_of_torch(dataset: Data, new_run: NewRun) -> None:
    options = {
        "init_features": 4,
        "growth_rate": 4,
        "block_config": (1, 1),
        "norm": ("GROUP", {"num_groups": 2}),
    }
    config = LearnConfig.of(
        **{**vars(CONFIG), "model": "monai:DenseNet", "model_options": {**options, "dropout_prob": 0.3}}
    )
    data, seen = dataset(), []

    class Listen(Silent):
        def advance(self, count: int = 1, **fields: float | str) -> None:
            seen.append(torch.get_rng_state())

    runs = [new_run(name) for name in ("one", "two")]
    for run in runs:
        fit(config, data, run, plan=PLAN, progress=Listen())
    assert all(torch.equal(state, seen[0]) for state in seen)
    one, two = (checkpoint.load(run, "last")["players"]["model"]["weights"] for run in runs)
    assert all(torch.equal(one[name], two[name]) for name in one)
