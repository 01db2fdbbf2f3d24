"""The gradient that a private step leaves, against a float64 loop: every step, canaries, rounds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from meninx.core.errors import PrivacyRefusal
from meninx.core.run import create
from meninx.learn import (
    Hook,
    Keys,
    PrivateSampler,
    PrivateStep,
    Report,
    ShuffleSampler,
    TensorLoader,
    Trainer,
    TrainState,
    UnitSource,
)
from meninx.privacy import ClippedSum, Ledger, Plan

PATIENTS, CANARIES = 20, 6
PLAN = Plan.build(
    n_units=PATIENTS, expected_batch_size=7, steps=6, noise_multiplier=0.7, max_grad_norm=0.4, delta=1e-3
)


class Squares:
    metric = "loss"

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs - targets).square().flatten(1).mean(1)

    def metrics(self, results: object) -> dict[str, float]:
        return {}


class Compare(Hook):
    """Compares what was released with the textbook, step by step."""

    def __init__(self, parts: list[tuple[PrivateSampler, TensorLoader]], noise_key: bytes) -> None:
        self.parts, self.noise_key, self.worst = parts, noise_key, []

    def on_gradients(self, state: TrainState, report: Report) -> None:
        model, step = state.model, state.step
        total = {name: value.detach().double() * 0 for name, value in model.named_parameters()}
        for sampler, loader in self.parts:
            for unit in sampler(step).units:
                copy = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
                copy.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
                rows = list(unit)
                outputs = copy(loader.inputs[rows].double())
                Squares().loss(outputs, loader.targets[rows].double()).sum().backward()
                norm = torch.stack([value.grad.norm() for value in copy.parameters()]).norm()
                for name, value in copy.named_parameters():
                    total[name] += value.grad * min(1.0, PLAN.max_grad_norm / float(norm))
        empty = ClippedSum.empty(model, max_grad_norm=PLAN.max_grad_norm, n_units=0)
        noise = PLAN.release(empty, PLAN.noise(self.noise_key), step)
        wanted = {
            name: part / PLAN.expected_batch_size + noise[name].double() for name, part in total.items()
        }
        found = {name: value.grad.double() for name, value in model.named_parameters()}
        error = torch.cat([(found[name] - wanted[name]).flatten() for name in wanted]).norm()
        self.worst.append(float(error / torch.cat([value.flatten() for value in wanted.values()]).norm()))


def parts(tmp_path: Path, *, canaries: bool) -> tuple[TrainState, PrivateSampler, PrivateStep, Compare]:
    generator = torch.Generator().manual_seed(0)
    run = create(tmp_path, "run", config_toml="")
    keys = Keys.of(run, resumed=False)
    made = []
    for name, count, key in (("patient", PATIENTS, keys.sampling), ("canary", CANARIES, b"c" * 32)):
        loader = TensorLoader(
            3 * torch.randn(count, 3, generator=generator), torch.randn(count, 1, generator=generator),
            names=tuple(f"{name}-{row}" for row in range(count)),
        )  # fmt: skip
        members = tuple((row,) for row in range(count))
        draw = PLAN.sampler(key, count)
        names = tuple(f"{name}-{row}" for row in range(count))
        made.append((PrivateSampler(draw, members, names, PLAN.sample_rate), loader))
    made = made if canaries else made[:1]
    sources = [UnitSource("canaries", *pair, digest="six canaries") for pair in made[1:]]
    step = PrivateStep(
        PLAN, run, Squares(), made[0][1], keys, binding="this test", physical_batch=3, sources=sources
    )
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    state = TrainState.of(network, torch.optim.SGD(network.parameters(), lr=0.1))
    return state, made[0][0], step, Compare(made, keys.noise)


@pytest.mark.parametrize("canaries", [False, True])
def test_every_released_gradient_is_the_clipped_sum_plus_the_noise_of_its_step(tmp_path, canaries):
    state, sampler, step, compare = parts(tmp_path, canaries=canaries)
    trainer = Trainer(state, sampler, step, hooks=[compare])
    for until in (2, 3, PLAN.steps):
        trainer.run(until=until, horizon=PLAN.steps)
    assert len(compare.worst) == PLAN.steps
    assert max(compare.worst) < 1e-5
    assert step.ledger.epsilon(PLAN.delta) == PLAN.epsilon()


def test_a_step_is_passed_over_rather_than_repeated_with_other_weights(tmp_path):
    state, sampler, step, _ = parts(tmp_path, canaries=False)
    trainer = Trainer(state, sampler, step)
    trainer.run(until=2, horizon=PLAN.steps)
    saved = {name: value.clone() for name, value in state.model.state_dict().items()}
    kept = state.state_dict()
    trainer.run(until=4, horizon=PLAN.steps)
    state.load_state_dict(kept)
    state.model.load_state_dict(saved)
    trainer.run(until=3, horizon=PLAN.steps)  # the same weights: the same release, which costs nothing
    state.model.load_state_dict({name: 2 * value for name, value in saved.items()})
    lines = step.ledger.entries
    trainer.run(until=5, horizon=PLAN.steps)  # step 3 was begun with other weights: on with step 4
    assert state.step == 5
    assert step.ledger.entries == lines + 1
    assert step.ledger.epsilon(PLAN.delta) == PLAN.epsilon(5)


def test_the_ledger_refuses_a_line_that_repeats_a_step_with_another_state():
    ledger, _ = Ledger().next(PLAN, 0, stream="a", state="x")
    ledger, _ = ledger.next(PLAN, 1, stream="a", state="y")
    assert ledger.next(PLAN, 0, stream="a", state="x")[0].entries == 3
    with pytest.raises(PrivacyRefusal, match="begun with"):
        ledger.next(PLAN, 0, stream="a", state="z")


def test_another_sampler_than_the_accounted_one_is_refused(tmp_path):
    state, sampler, step, _ = parts(tmp_path, canaries=False)
    others = (
        ShuffleSampler(PATIENTS, 7, 0),
        PrivateSampler(PLAN.sampler(b"x" * 32, PATIENTS), sampler.members, sampler.names, PLAN.sample_rate),
        PrivateSampler(sampler.draw, sampler.members, sampler.names, 1.0),
        PrivateSampler(sampler.draw, ((0,), *sampler.members[:-1]), sampler.names, PLAN.sample_rate),
    )
    for other in others:
        with pytest.raises(PrivacyRefusal):
            Trainer(state, other, step).run(until=1, horizon=PLAN.steps)
    assert step.ledger.entries == 0


def test_a_hook_that_declares_nothing_sees_neither_the_loss_nor_the_number_of_drawn_units(tmp_path):
    class Curious(Hook):
        def __init__(self) -> None:
            self.seen: list[object] = []

        def on_step_end(self, state, event):
            self.seen.append((event.units, dict(event.metrics)))

    state, sampler, step, _ = parts(tmp_path, canaries=False)
    curious = Curious()
    Trainer(state, sampler, step, hooks=[curious]).run(until=2, horizon=PLAN.steps)
    assert curious.seen == [(0, {}), (0, {})]
