"""A Siamese network: do two images come from the same source?

A case is a pair. The network embeds both images of a pair with the same weights, the task is the contrastive
loss of :class:`meninx.learn.PairTask`, and the rest of the trainer stays as it is.

    python examples/siamese_pairs.py
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from meninx.learn import (
    Evaluator,
    PairTask,
    ShuffleSampler,
    SupervisedStep,
    TensorLoader,
    Trainer,
    TrainState,
)

SIDE, SOURCES = 8, 20


class Siamese(nn.Module):
    """Embeds both members of a pair with one encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 32), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, pairs: Tensor) -> Tensor:
        """Return embeddings (pairs, 2, features) of (pairs, 2, channels, rows, columns)."""
        return torch.stack([self.encoder(pairs[:, member]) for member in range(2)], dim=1)


def pairs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return pairs of noisy copies of patterns, half of them of one pattern, and whether they are."""
    patterns = torch.randn(SOURCES, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(0, SOURCES, (count,), generator=generator)
    other = (first + torch.randint(1, SOURCES, (count,), generator=generator)) % SOURCES
    same = torch.arange(count) % 2 == 0
    chosen = torch.stack([patterns[first], patterns[torch.where(same, first, other)]], dim=1)
    return chosen + 1.0 * torch.randn(chosen.shape, generator=generator), same.float()


def main(steps: int = 200) -> dict[str, float]:
    """Train and return loss and AUROC on pairs that training never saw, before and after."""
    torch.manual_seed(0)
    inputs, targets = pairs(400, seed=1)
    unseen, truth = pairs(400, seed=2)
    task, network = PairTask(margin=2.0), Siamese()

    @torch.no_grad()
    def measure(state: TrainState) -> Mapping[str, float]:
        return task.metrics(zip(state.model.eval()(unseen), truth, strict=True))

    state = TrainState.of(network, torch.optim.Adam(network.parameters(), lr=3e-3))
    before = measure(state)["auroc"]
    trainer = Trainer(
        state,
        ShuffleSampler(len(inputs), batch=50, seed=0),
        SupervisedStep(task, TensorLoader(inputs, targets), physical_batch=50),
        evaluator=Evaluator(measure, monitor=task.metric),
        eval_every=steps,
    )
    trainer.run(until=steps)
    assert trainer.last is not None
    return {"before": before, **trainer.last.metrics}


if __name__ == "__main__":
    result = main()
    print(f"AUROC {result['before']:.2f} before training, {result['auroc']:.2f} after")
