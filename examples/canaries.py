"""Canaries beside the cases of a private run, in slots of their own.

An audit adds units that it made itself, the canaries, to a private run, and later asks whether the model
shows which of them took part. They are clipped and noised like patients. Sample rate, denominator and noise
stay those of the plan, so its epsilon for the patients is the same with and without them. What the canaries
alone added to each step comes out of the step; nothing of a patient does.

    python examples/canaries.py
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from meninx.core.run import Run, create
from meninx.learn import (
    Hook,
    Keys,
    PrivateSampler,
    PrivateStep,
    Report,
    TensorLoader,
    Trainer,
    TrainState,
    UnitSource,
)
from meninx.privacy import Plan, PrivacyUnit

PATIENTS, CANARIES = 64, 8


class Regression:
    """One number per case."""

    metric = "minus_error"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the squared error of each case."""
        return (outputs - targets).square().flatten(1).mean(1)

    def metrics(self, results: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return mean loss and mean absolute error."""
        outputs, targets = (torch.stack(values) for values in zip(*results, strict=True))
        return {
            "loss": float(self.loss(outputs, targets).mean()),
            "minus_error": -float((outputs - targets).abs().mean()),
        }


class Watch(Hook):
    """Keeps what the canaries added to each step."""

    def __init__(self) -> None:
        self.drawn: list[int] = []
        self.norms: list[list[float]] = []
        self.lengths: list[float] = []

    def on_gradients(self, state: TrainState, report: Report) -> None:
        """Listen; the parameters already hold the released gradient."""
        part = report.slots["canaries"]
        self.drawn.append(part.units)
        self.norms.append(part.unit_norms.tolist())
        self.lengths.append(sum(float(value.square().sum()) for value in part.gradients.values()) ** 0.5)


def units(name: str, count: int) -> tuple[tuple[tuple[int], ...], tuple[str, ...]]:
    """Return units of one case each, and their names."""
    return tuple((case,) for case in range(count)), tuple(f"{name}-{case}" for case in range(count))


def source(plan: Plan, seed: int) -> UnitSource:
    """Return the canaries, unusual inputs with random targets, drawn at the plan's rate by their own key."""
    generator = torch.Generator().manual_seed(seed)
    inputs = 5 * torch.randn(CANARIES, 4, generator=generator)
    targets = torch.randn(CANARIES, 1, generator=generator)
    members, names = units("canary", CANARIES)
    draw = plan.sampler(secrets.token_bytes(32), CANARIES)
    return UnitSource(
        "canaries",
        PrivateSampler(draw, members, names, plan.sample_rate),
        TensorLoader(inputs, targets, names=names),
        digest=f"canaries of seed {seed}",
    )


def train(plan: Plan, run: Run, sources: list[UnitSource]) -> tuple[Watch, float]:
    """Train privately in a run folder; return what the canaries did and the epsilon in the ledger."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(PATIENTS, 4, generator=generator)
    targets = inputs.sum(1, keepdim=True)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    members, names = units("patient", PATIENTS)
    keys = Keys.of(run, resumed=False)
    step = PrivateStep(
        plan, run, Regression(), TensorLoader(inputs, targets, names=names), keys,
        binding="the patients of this example", sources=sources,
    )  # fmt: skip
    sampler = PrivateSampler(plan.sampler(keys.sampling, PATIENTS), members, names, plan.sample_rate)
    state = TrainState.of(network, torch.optim.SGD(network.parameters(), lr=0.1))
    watch = Watch()
    Trainer(state, sampler, step, hooks=[watch] if sources else []).run(until=plan.steps)
    return watch, step.ledger.epsilon(plan.delta)


def main() -> dict[str, object]:
    """Train once with canaries and once without; return both epsilons and what the canaries did."""
    plan = Plan.build(
        n_units=PATIENTS, expected_batch_size=16, unit=PrivacyUnit.PATIENT, steps=12,
        noise_multiplier=1.0, max_grad_norm=0.5, delta=1e-3,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        runs = [create(Path(folder), name, config_toml="") for name in ("with", "without")]
        watch, epsilon = train(plan, runs[0], [source(plan, seed=1)])
        _, without = train(plan, runs[1], [])
    return {
        "epsilon": epsilon,
        "epsilon without": without,
        "planned": plan.epsilon(),
        "bound": plan.max_grad_norm,
        "drawn": watch.drawn,
        "norms": watch.norms,
        "lengths": watch.lengths,
    }


if __name__ == "__main__":
    result = main()
    print(f"epsilon {result['epsilon']:.2f} with canaries, {result['epsilon without']:.2f} without")
    print(f"canaries drawn per step: {result['drawn']}")
