"""Adam without the noise of privacy in its second moment, which is torch's own when noise is zero."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from meninx.core.errors import ConfigError
from meninx.learn import optim
from meninx.learn.config import LearnConfig
from meninx.learn.private_adam import KINDS, PrivateAdam
from meninx.learn.state import Player
from meninx.models import registry
from meninx.privacy.noise import BandedNoise
from meninx.privacy.plan import Plan

TORCH: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "nadam": torch.optim.NAdam}


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (5,), (2, 3, 2))]


def give_gradients(items: list[nn.Parameter], step: int) -> None:
    """The last parameter is frozen for the first steps, as in gradual unfreezing."""
    generator = torch.Generator().manual_seed(100 + step)
    for index, item in enumerate(items):
        gradient = torch.randn(item.shape, generator=generator) * 10.0 ** (index - 1)
        item.grad = None if index == 2 and step < 4 else gradient


def plan(**changes: Any) -> Plan:
    terms: dict[str, Any] = {"n_units": 100, "expected_batch_size": 10, "steps": 4, "delta": 1e-3}
    return Plan.build(**{**terms, "noise_multiplier": 2.0, "max_grad_norm": 0.5, **changes})


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_it_is_the_optimiser_of_torch(kind: str, decay: float) -> None:
    ours, theirs = parameters(), parameters()
    first = PrivateAdam(ours, kind=kind, lr=0.01, weight_decay=decay)
    second = TORCH[kind](theirs, lr=0.01, weight_decay=decay)
    for step in range(20):
        for items, method in ((ours, first), (theirs, second)):
            give_gradients(items, step)
            method.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_from_its_state_bit_for_bit(kind: str) -> None:
    def fresh(items: list[nn.Parameter]) -> PrivateAdam:
        return PrivateAdam(items, kind=kind, lr=0.01, noise_variance=0.3, weight_decay=0.1)

    through, stopped = parameters(), parameters()
    whole, half = fresh(through), fresh(stopped)
    for step in range(12):
        if step == 6:
            state, half = copy.deepcopy(half.state_dict()), PrivateAdam(stopped, kind=kind)
            half.load_state_dict(state)
            assert half.noise_variance == (0.3 if step < 3 else 0.2)
        for items, method in ((through, whole), (stopped, half)):
            if step == 3:
                method.noise_variance = 0.2
            give_gradients(items, step)
            method.step()
    assert all(torch.equal(one, other) for one, other in zip(through, stopped, strict=True))


def moved(factor: float, signal: float, steps: int = 3000, kind: str = "adam") -> float:
    """The root mean square movement per step, in learning rates, of coordinates with this signal.

    The noise has variance 1.
    """
    item = nn.Parameter(torch.zeros(200))
    method = PrivateAdam([item], kind=kind, lr=1.0, noise_variance=factor)
    generator, total = torch.Generator().manual_seed(1), 0.0
    for step in range(steps):
        before = item.detach().clone()
        item.grad = signal * torch.sign(torch.randn(200, generator=generator)) + torch.randn(
            200, generator=generator
        )
        method.step()
        if step >= steps // 2:
            total += float((item.detach() - before).square().mean())
    return float((total / (steps - steps // 2)) ** 0.5)


def test_the_second_moment_is_that_of_the_gradient_alone() -> None:
    """With signal of size 1 and noise of variance 1, v - Phi is 1, so that steps are sqrt(2) longer."""
    assert moved(1.0, 1.0) / moved(0.0, 1.0) == pytest.approx(2**0.5, rel=0.03)


@pytest.mark.parametrize("kind", ["adam", "nadam"])
def test_pure_noise_moves_a_weight_by_about_a_learning_rate(kind: str) -> None:
    assert 0.7 < moved(1.0, 0.0, kind=kind) < 1.2


def test_the_first_steps_are_no_longer_than_those_of_adam_with_noise() -> None:
    """At the first step the floor is Phi itself.

    A coordinate with gradient g moves by g / sqrt(max(g^2 - Phi, Phi)).
    """
    item = nn.Parameter(torch.zeros(3))
    method = PrivateAdam([item], lr=1.0, noise_variance=4.0)
    item.grad = torch.tensor([1.0, 2.0, 4.0])
    method.step()
    torch.testing.assert_close(item.detach(), -torch.tensor([0.5, 1.0, 4 / 12**0.5]))


def test_a_changing_variance_is_averaged_as_the_squares_are() -> None:
    item = nn.Parameter(torch.zeros(1))
    method = PrivateAdam([item], lr=1.0, noise_variance=1.0, betas=(0.9, 0.5))
    for variance in (1.0, 3.0):
        method.noise_variance = variance
        item.grad = torch.ones(1)
        method.step()
    assert method.state[item]["noise"] == pytest.approx(0.5 * 0.5 * 1.0 + 0.5 * 3.0)


def test_the_variance_is_that_of_the_plan() -> None:
    assert optim.noise_variance(plan()) == pytest.approx((2.0 * 0.5 / 10) ** 2)
    assert optim.noise_variance(plan(), threshold=1.0) == pytest.approx((2.0 * 1.0 / 10) ** 2)
    adaptive = plan(clipping="adaptive")
    assert optim.noise_variance(adaptive) == pytest.approx(
        (adaptive.gradient_noise_multiplier * 0.5 / 10) ** 2
    )
    method = optim.optimizer(LearnConfig.of(optimizer="adamw").optim, parameters(), plan())
    assert isinstance(method, PrivateAdam)
    assert (method.kind, method.noise_variance) == ("adamw", optim.noise_variance(plan()))


def test_the_variance_of_correlated_noise_is_the_one_it_comes_to() -> None:
    correlated = plan(noise_bands=4)
    noise = correlated.noise(bytes(32))
    assert isinstance(noise, BandedNoise)
    value = noise.sample(60, "weight", (200, 200)) / correlated.expected_batch_size
    assert float(value.var()) == pytest.approx(optim.noise_variance(correlated), rel=0.03)


@pytest.mark.parametrize(
    ("optimizer", "correction", "private", "corrected"),
    [
        ("adam", "auto", True, True),
        ("nadam", "on", True, True),
        ("adam", "off", True, False),
        ("adam", "auto", False, False),
        ("momentum", "auto", True, False),
    ],
)
def test_private_runs_of_the_adam_family_are_corrected(
    optimizer: str, correction: str, private: bool, corrected: bool
) -> None:
    config = LearnConfig.of(optimizer=optimizer, bias_correction=correction).optim
    method = optim.optimizer(config, parameters(), plan() if private else None)
    assert isinstance(method, PrivateAdam) == corrected


@pytest.mark.parametrize(("optimizer", "private"), [("adam", False), ("sgd", True)])
def test_a_correction_of_nothing_is_refused(optimizer: str, private: bool) -> None:
    with pytest.raises(ConfigError, match="bias_correction"):
        optim.optimizer(
            LearnConfig.of(optimizer=optimizer, bias_correction="on").optim,
            parameters(),
            plan() if private else None,
        )


@pytest.mark.parametrize(
    "changes", [{"kind": "sgd"}, {"lr": 0.0}, {"noise_variance": -1.0}, {"betas": (0.9, 1.0)}]
)
def test_numbers_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PrivateAdam(parameters(), **changes)


def test_the_head_may_have_a_learning_rate_of_its_own() -> None:
    model = registry.build("resnet9-small", spatial_dims=2, in_channels=1, out_channels=2, width=4)
    config = LearnConfig.of(lr=0.1, head_lr=5.0, schedule="cosine").optim
    method = optim.optimizer(config, optim.groups(config, model))
    Player(model, method, optim.Schedule(config, 1)).set_rate(0, horizon=10)
    rates = {id(item): group["lr"] for group in method.param_groups for item in group["params"]}
    assert {name: rates[id(item)] for name, item in model.named_parameters()} == {
        name: pytest.approx(0.5 if name.startswith("head.") else 0.1) for name, _ in model.named_parameters()
    }
