"""An obfuscator against an attribute attacker: two players that move in turn.

The obfuscator changes images so that an attacker can no longer tell an attribute (here: whether the left half
is bright) while a diagnosis (whether the right half is bright) stays. The attacker learns the attribute from
the changed images. Each step moves one player; the obfuscator's loss runs through the attacker's network.

    python examples/obfuscator_game.py
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from meninx.learn import (
    AlternatingStep,
    Batch,
    OptimConfig,
    Player,
    PlayerLoss,
    Schedule,
    ShuffleSampler,
    TensorLoader,
    Trainer,
    TrainState,
)

SIDE, CASES = 4, 256


class Obfuscator(nn.Module):
    """Changes an image of one channel; what it keeps has to pass through a few numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.change = nn.Sequential(nn.Linear(SIDE * SIDE, 2), nn.Linear(2, SIDE * SIDE))

    def forward(self, images: Tensor) -> Tensor:
        """Return changed images of the same shape."""
        changed: Tensor = self.change(images.flatten(1))
        return changed.view_as(images)


def classifier() -> nn.Module:
    """Return a network that gives one logit per image."""
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 32), nn.ReLU(), nn.Linear(32, 1))


def images_and_labels(seed: int) -> tuple[Tensor, Tensor]:
    """Return images, and for each the diagnosis and the attribute."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (CASES, 2), generator=generator).float()
    images = torch.randn(CASES, 1, SIDE, SIDE, generator=generator)
    images[..., SIDE // 2 :] += labels[:, 0].reshape(-1, 1, 1, 1)
    images[..., : SIDE // 2] += 2 * labels[:, 1].reshape(-1, 1, 1, 1)
    return images, labels


def errors(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the binary cross-entropy of each image."""
    losses: Tensor = nn.functional.binary_cross_entropy_with_logits(
        logits.squeeze(1), labels, reduction="none"
    )
    return losses


def guess(networks: Mapping[str, nn.Module], batch: Batch) -> Tensor:
    """Return the attacker's loss: it guesses the attribute from changed images."""
    return errors(networks["attacker"](networks["obfuscator"](batch.inputs)), batch.targets[:, 1])


def diagnose(networks: Mapping[str, nn.Module], batch: Batch) -> Tensor:
    """Return the doctor's loss: it diagnoses from changed images."""
    return errors(networks["doctor"](networks["obfuscator"](batch.inputs)), batch.targets[:, 0])


def hide(networks: Mapping[str, nn.Module], batch: Batch, weight: float) -> Tensor:
    """Return the obfuscator's loss: attacker undecided, classifier right, image little changed."""
    changed = networks["obfuscator"](batch.inputs)
    undecided = errors(networks["attacker"](changed), torch.full_like(batch.targets[:, 1], 0.5))
    moved: Tensor = (changed - batch.inputs).square().flatten(1).mean(1)
    right: Tensor = errors(networks["doctor"](changed), batch.targets[:, 0])
    return weight * undecided + right + 0.3 * moved


def player(network: nn.Module, rate: float, schedule: Literal["constant", "cosine"] = "constant") -> Player:
    """Return a network with its optimiser and learning rates."""
    rates = Schedule(OptimConfig(lr=rate, schedule=schedule), steps_per_epoch=1)
    return Player(network, torch.optim.Adam(network.parameters()), rates)


def accuracy(networks: Mapping[str, nn.Module], judge: str, images: Tensor, labels: Tensor) -> float:
    """Return how often a network is right about changed images."""
    with torch.no_grad():
        logits = networks[judge](networks["obfuscator"](images)).squeeze(1)
    return float(((logits > 0) == (labels > 0.5)).float().mean())


def main(weight: float = 2.0, steps: int = 750) -> dict[str, float]:
    """Play and return how often an attacker and the doctor are right afterwards, the attacker trained anew.

    Args:
        weight: of hiding in the obfuscator's loss; 0 for an obfuscator that does not hide.
        steps: moves of the game.
    """
    torch.manual_seed(0)
    images, labels = images_and_labels(seed=1)
    state = TrainState(
        {
            "obfuscator": player(Obfuscator(), 0.01, "cosine"),  # slower and slower: the attacker can follow
            "attacker": player(classifier(), 0.01),
            "doctor": player(classifier(), 0.02),
        }
    )
    losses: dict[str, PlayerLoss] = {
        "attacker": guess,
        "doctor": diagnose,
        "obfuscator": partial(hide, weight=weight),
    }
    loader, sampler = TensorLoader(images, labels), ShuffleSampler(CASES, batch=64, seed=0)
    game = AlternatingStep(
        losses,
        order=("attacker", "attacker", "attacker", "doctor", "obfuscator"),
        loader=loader,
        physical_batch=64,
    )
    Trainer(state, sampler, game).run(until=steps)

    # An attacker counts only when it is trained on the final images: the one of the game may have lost its
    # way.
    state.players["attacker"] = player(classifier(), 0.01)
    alone = AlternatingStep(losses, order=("attacker",), loader=loader, physical_batch=64)
    Trainer(state, sampler, alone).run(until=steps + 80)

    unseen, truth = images_and_labels(seed=2)
    networks = {name: each.model for name, each in state.players.items()}
    return {
        "attacker": accuracy(networks, "attacker", unseen, truth[:, 1]),
        "doctor": accuracy(networks, "doctor", unseen, truth[:, 0]),
    }


if __name__ == "__main__":
    for weight in (0.0, 2.0):
        result = main(weight)
        print(
            f"hiding {weight:g}: attacker right {result['attacker']:.0%}, doctor right {result['doctor']:.0%}"
        )
