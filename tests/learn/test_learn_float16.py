"""Training in float16: the loss is scaled, steps that overflow are skipped, private training refuses it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from meninx.core import run as run_folder
from meninx.core.errors import ConfigError, DataError, Interrupted, PrivacyRefusal
from meninx.core.manifest import Manifest
from meninx.core.progress import Silent
from meninx.core.run import Run
from meninx.learn import (
    Hook,
    Keys,
    LearnConfig,
    PrivateStep,
    ShuffleSampler,
    SupervisedStep,
    TensorLoader,
    Trainer,
    TrainState,
    checkpoint,
    fit,
)
from meninx.learn.state import LossScale, WeightAverage
from meninx.privacy import Plan, clipped_gradient_sum

CASES = 8
INPUTS = torch.randn(CASES, 3, generator=torch.Generator().manual_seed(1))
TARGETS = INPUTS.sum(1, keepdim=True)
SMALL = LearnConfig.of(
    model="resnet9-small", model_options={"width": 4}, physical_batch=4, device="cpu", optimizer="sgd",
    lr=0.01, deterministic=True, attack_risk=False, batch_size=4, steps=4,
)  # fmt: skip
PLAN = Plan.build(
    n_units=CASES, expected_batch_size=4, steps=4, noise_multiplier=1.0, max_grad_norm=1.0, delta=1e-3
)


class Squares:
    metric = "loss"

    def __init__(self, *overflows: int) -> None:
        self.overflows, self.calls = overflows, 0

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return squared errors; in some calls of a size whose gradient float16 cannot hold."""
        self.calls += 1
        factor = 1e6 if self.calls - 1 in self.overflows else 1.0
        return factor * (outputs - targets).square().flatten(1).mean(1)

    def metrics(self, results: object) -> dict[str, float]:
        return {}


class Log(Hook):
    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_step_end(self, state: Any, event: Any) -> None:
        self.steps.append(dict(event.metrics))


START = 2.0**8  # torch's own, 2**16, overflows in the first steps of so small a network


def trainer(task: Any, *, precision: str = "fp16", most: int = 4, log: Log | None = None) -> Trainer:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    state = TrainState.of(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
    state.player.average = WeightAverage(model, 0.5)
    state.player.loss_scale = LossScale(START) if precision == "fp16" else None
    step = SupervisedStep(task, TensorLoader(INPUTS, TARGETS), physical_batch=most, precision=precision)
    return Trainer(state, ShuffleSampler(CASES, 4, seed=5), step, hooks=[log] if log else [])


def values(state: TrainState) -> Tensor:
    return torch.cat([value.flatten() for value in state.weights().values()])


def test_float16_is_close_to_float32_and_leaves_float32_weights() -> None:
    half, full = trainer(Squares()), trainer(Squares(), precision="fp32")
    for each in (half, full):
        each.run(until=6)
    assert all(value.dtype == torch.float32 for value in half.state.weights().values())
    assert not torch.equal(values(half.state), values(full.state))
    torch.testing.assert_close(values(half.state), values(full.state), rtol=0.02, atol=0.005)


def test_a_gradient_too_small_for_float16_arrives_because_the_loss_is_scaled() -> None:
    class Faint(Squares):
        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return 1e-7 * super().loss(outputs, targets)

    half, full = trainer(Faint()), trainer(Faint(), precision="fp32")
    for each in (half, full):
        each.step.gradients(each.state, each.sampler(0))
    found, wanted = (
        torch.cat([item.grad.flatten() for item in each.state.model.parameters()]) for each in (half, full)
    )
    assert float((found - wanted).norm() / wanted.norm()) < 0.01


def test_a_step_whose_gradients_overflow_is_skipped_and_counted() -> None:
    log = Log()
    run = trainer(Squares(1, 3), log=log)
    run.run(until=1)
    before, shadow = values(run.state), {n: v.clone() for n, v in run.state.player.average.shadow.items()}
    momentum = [dict(item) for item in run.state.player.optimizer.state.values()]
    run.run(until=2)
    assert torch.equal(values(run.state), before)
    assert all(torch.equal(run.state.player.average.shadow[name], value) for name, value in shadow.items())
    assert run.state.player.average.updates == 1
    assert all(
        torch.equal(old["momentum_buffer"], new["momentum_buffer"])
        for old, new in zip(momentum, run.state.player.optimizer.state.values(), strict=True)
    )
    run.run(until=5)
    assert not torch.equal(values(run.state), before)
    assert [step["skipped"] for step in log.steps] == [0, 1, 1, 2, 2]
    assert [step["loss_scale"] for step in log.steps] == [START, START, START / 2, START / 2, START / 4]
    assert run.state.player.loss_scale == LossScale(START / 4, steps=1, skipped=2)


def test_a_gradient_hook_of_a_skipped_step_sees_zeros() -> None:
    class Seen(Hook):
        def on_gradients(self, state: Any, report: Any) -> None:
            self.norm = sum(float(item.grad.abs().sum()) for item in state.model.parameters())

    run = trainer(Squares(0))
    run.hooks = [seen := Seen()]
    run.run(until=1)
    assert seen.norm == 0


def test_gradients_that_overflow_without_any_scale_end_the_training() -> None:
    class Broken(Squares):
        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return super().loss(outputs, targets) * math.inf

    run = trainer(Broken())
    with pytest.raises(DataError, match="bf16 or fp32"):
        run.run(until=40)
    assert run.state.step == 8  # the scale went from 2**8 to 1


def test_a_draw_of_nobody_moves_no_scale() -> None:
    run = trainer(Squares())
    run.run(until=1)
    run.sampler = lambda step: run_empty
    run_empty = ShuffleSampler(0, 4, 0)(0)
    run.step.gradients(run.state, run_empty)
    run.step.update(run.state)
    assert run.state.player.loss_scale == LossScale(START, steps=1)


@given(st.lists(st.booleans(), max_size=30), st.integers(0, 2_000))
def test_the_scale_follows_the_rule_of_torch(finite: list[bool], before: int) -> None:
    own, theirs = LossScale(steps=before % 2_000), torch.amp.GradScaler("cpu")
    theirs.load_state_dict(theirs.state_dict() | {"_growth_tracker": before % 2_000})
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for good in finite:
        weight.grad = torch.ones(1) if good else torch.full((1,), math.inf)
        theirs.scale(torch.ones(1))  # torch makes its numbers at the first call
        moved = weight.detach().clone()
        theirs.step(optimizer)
        theirs.update()
        own.finite = good
        assert own.settle() == (not torch.equal(moved, weight.detach()))
        assert own.value == theirs.get_scale()
        assert own.steps == theirs.state_dict()["_growth_tracker"]


class StopAfter(Silent):
    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, count: int = 1, **fields: float | str) -> None:
        self.left -= count
        if not self.left:
            raise KeyboardInterrupt


def weights_of(run: Run) -> dict[str, Tensor]:
    return checkpoint.load(run, "last")["players"]["model"]["weights"]


def test_a_resumed_run_in_float16_equals_one_without_interruption(
    dataset: Callable[..., Manifest], new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second step overflows by a plant, so that the scale is not the first one when the run goes on."""
    from meninx.learn import step as steps

    original = steps.measured
    monkeypatch.setattr(steps, "measured", lambda gradients, loss: _planted(original, gradients, loss))
    config, data, whole, parts = (
        SMALL.replace(precision="fp16"),
        dataset(),
        new_run("whole"),
        new_run("parts"),
    )
    fit(config, data, whole)
    _planted.calls = 0
    with pytest.raises(Interrupted):
        fit(config, data, parts, progress=StopAfter(2))
    saved = checkpoint.load(parts, "last")["players"]["model"]["loss_scale"]
    assert saved == {"value": 2.0**15, "steps": 0, "skipped": 1}
    fit(config, data, parts, resume=True)
    first, second = weights_of(whole), weights_of(parts)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    lines = [json.loads(line) for line in parts.metrics_path.read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    assert [line["skipped"] for line in trained] == [0, 1, 1, 1]
    assert [line["loss_scale"] for line in trained] == [2**16, 2**16, 2**15, 2**15]


def _planted(original: Any, gradients: Any, loss: Any) -> Any:
    """Measure as the step does, but call the gradients of the second step not finite."""
    value, finite = original(gradients, loss)
    _planted.calls += 1
    return value, finite and _planted.calls != 2


_planted.calls = 0  # type: ignore[attr-defined]


def test_a_checkpoint_without_a_scale_is_read() -> None:
    run = trainer(Squares())
    saved = run.state.state_dict()
    for player in saved["players"].values():
        del player["loss_scale"]
    run.state.load_state_dict(saved)
    assert run.state.player.loss_scale is None


def test_private_training_refuses_float16_and_says_why(
    tmp_path: Path, dataset: Callable[..., Manifest], new_run: Callable[..., Run]
) -> None:
    run = new_run("private")
    with pytest.raises(PrivacyRefusal, match=r"fp16.*use bf16 or fp32: no margin is proved"):
        fit(SMALL.replace(precision="fp16", steps=0, epochs=1), dataset(), run, plan=PLAN)
    assert not (run.private / "keys").exists()
    own = run_folder.create(tmp_path, "own", config_toml="")
    with pytest.raises(PrivacyRefusal, match="fp16"):
        PrivateStep(
            PLAN, own, Squares(), TensorLoader(INPUTS, TARGETS), Keys(b"s" * 32, b"n" * 32), binding="b",
            precision="fp16",
        )  # fmt: skip
    model, units = nn.Linear(3, 1), torch.arange(CASES)
    with pytest.raises(PrivacyRefusal, match="fp16"):
        clipped_gradient_sum(
            model, Squares().loss, INPUTS, TARGETS, unit_index=units, n_units=CASES, max_grad_norm=1.0,
            precision="fp16",
        )  # fmt: skip


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match="precision"):
        trainer(Squares(), precision="half").run(until=1)
