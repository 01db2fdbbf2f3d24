"""Federated averaging of three hospitals in one process.

Each hospital is a trainer. A round is a call of ``run``: the mean of all weights goes in, every hospital
trains on its own cases, its weights come out. FedProx, a pull towards the weights of the round's start, is a
hook of the library. The learning rate follows one cosine over all rounds, because every call is given the
same horizon.

    python examples/federated_averaging.py
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from meninx.learn import (
    Hook,
    OptimConfig,
    ProximalPull,
    Schedule,
    ShuffleSampler,
    StepDone,
    SupervisedStep,
    TensorLoader,
    Trainer,
    TrainState,
)

ROUNDS, STEPS = 5, 8


class Classes:
    """A task of one's own: two classes, cross-entropy, accuracy."""

    metric = "accuracy"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each case."""
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    def metrics(self, results: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return mean loss and accuracy."""
        outputs, targets = (torch.stack(values) for values in zip(*results, strict=True))
        right = (outputs.argmax(1) == targets).float().mean()
        return {"loss": float(self.loss(outputs, targets).mean()), "accuracy": float(right)}


class Rates(Hook):
    """Keeps the learning rate of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_step_end(self, state: TrainState, event: StepDone) -> None:
        """Listen."""
        self.values.append(event.rates["model"])


def cases(count: int, generator: torch.Generator, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return points in a plane, some above and some below a curve; each hospital sees another part of it."""
    points = torch.randn(count, 2, generator=generator) + torch.tensor([shift, 0.0])
    return points, (points[:, 1] > torch.sin(points[:, 0])).long()


def hospital(number: int, mu: float) -> tuple[Trainer, Rates]:
    """Return the trainer of one hospital."""
    points, labels = cases(80, torch.Generator().manual_seed(number), shift=2.0 * (number - 1))
    network = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    schedule = Schedule(OptimConfig(lr=0.5, schedule="cosine"), steps_per_epoch=5)
    rates = Rates()
    trainer = Trainer(
        TrainState.of(network, optimizer, schedule),
        ShuffleSampler(cases=80, batch=16, seed=number),
        SupervisedStep(Classes(), TensorLoader(points, labels)),
        hooks=[ProximalPull(mu), rates],
    )
    return trainer, rates


def mean(weights: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the average of the hospitals' weights."""
    return {name: torch.stack([each[name] for each in weights]).mean(0) for name in weights[0]}


def main(mu: float = 0.05) -> dict[str, object]:
    """Train for all rounds and return what came out."""
    torch.manual_seed(0)
    hospitals = [hospital(number, mu) for number in range(3)]
    weights = hospitals[0][0].state.weights()
    drift = 0.0
    for done in range(1, ROUNDS + 1):
        for trainer, _ in hospitals:
            trainer.state.load_weights(weights)
            trainer.run(until=done * STEPS, horizon=ROUNDS * STEPS)
        own = [trainer.state.weights() for trainer, _ in hospitals]
        weights = mean(own)
        drift += sum(float((each[name] - weights[name]).square().sum()) for each in own for name in weights)
    state = hospitals[0][0].state
    state.load_weights(weights)
    points, labels = cases(2000, torch.Generator().manual_seed(9), shift=0.0)
    with torch.no_grad():
        measured = Classes().metrics(zip(state.model(points), labels, strict=True))
    return {**measured, "rates": hospitals[0][1].values, "drift": drift}


if __name__ == "__main__":
    result = main()
    print(f"accuracy of the averaged network: {result['accuracy']:.3f}")
