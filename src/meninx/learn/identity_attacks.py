"""Attacks on identity: maps from images to vectors that are similar for images of one patient.

``pixels`` and ``hog`` need no learned model (:mod:`meninx.metrics.descriptors`). ``siamese`` is a network
trained here, by the trainer, on pairs of images of the attacker's own patients. Whoever uses them evaluates
other patients than those that they were fitted on. ::

    embed = fit_embedding("siamese", images, patients, seed=0)
    vectors = embed(images_of_others)
    measure_linkage("siamese", vectors @ vectors.T, owners)  # meninx.metrics.linkage
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from meninx.core.errors import DataError, expected, problem
from meninx.core.progress import SILENT, Progress
from meninx.core.randomness import child
from meninx.learn import runtime
from meninx.learn.batches import Batch
from meninx.learn.config import OptimConfig
from meninx.learn.hooks import ProgressHook
from meninx.learn.optim import Schedule
from meninx.learn.sampler import ShuffleSampler, UnitBatch
from meninx.learn.state import TrainState
from meninx.learn.step import SupervisedStep
from meninx.learn.task import PairTask
from meninx.learn.trainer import Trainer
from meninx.metrics.descriptors import COMPONENTS, Whitening, fit_description, fit_whitening, standardised

Array = npt.NDArray[np.float32]
Embedding = Callable[[npt.ArrayLike], Array]
"""From images (images, channels, *spatial) to unit vectors (images, features)."""
SIAMESE = "siamese"
STEPS = 600
LEAST_TO_TRAIN = 2
_PAIRS, _WIDTH, _FEATURES = 64, 16, 64
_MARGIN, _RATE, _DECAY = 1.0, 2e-3, 1e-2
_EVAL_BATCH = 256


def fit_embedding(
    attack: str,
    images: npt.ArrayLike,
    patients: Sequence[str],
    *,
    components: int = COMPONENTS,
    steps: int = STEPS,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> Embedding:
    """Return an attack fitted on images of the attacker's own patients.

    Args:
        attack: ``pixels``, ``hog`` or ``siamese``.
        images: shape (images, channels, *spatial).
        patients: the patient of each image; used by ``siamese`` alone.
        components: of ``pixels`` and ``hog``.
        steps: optimiser steps of ``siamese``.
        seed: of its pairs and initial weights.
        device: where it is trained.
        progress: shows its steps.

    Raises:
        DataError: images that do not differ, or, for ``siamese``, no two patients with two images.
    """
    if attack == SIAMESE:
        values = standardised(images)
        return _train(values, list(patients), steps, seed, runtime.device(device), progress)
    return fit_description(attack, images, components=components)


class Siamese(nn.Module):
    """Embeds both images of a pair with one encoder, as unit vectors.

    Args:
        channels: of the images.
        dims: 2 or 3 spatial axes.
    """

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        conv, pool = (nn.Conv2d, nn.AdaptiveAvgPool2d) if dims == 2 else (nn.Conv3d, nn.AdaptiveAvgPool3d)
        layers: list[nn.Module] = []
        width = channels
        for growth in (1, 2, 4, 4):
            layers += [
                conv(width, _WIDTH * growth, 3, stride=2, padding=1),
                nn.GroupNorm(4, _WIDTH * growth),
                nn.ReLU(),
            ]
            width = _WIDTH * growth
        self.encoder = nn.Sequential(
            *layers, pool(2), nn.Flatten(), nn.Linear(width * 2**dims, _FEATURES)
        )  # the pool keeps where in the image something is

    def embed(self, images: Tensor) -> Tensor:
        """Return unit vectors (images, features)."""
        return functional.normalize(self.encoder(images), dim=1)

    def forward(self, pairs: Tensor) -> Tensor:
        """Return embeddings (pairs, 2, features) of pairs (pairs, 2, channels, *spatial)."""
        return torch.stack([self.embed(pairs[:, member]) for member in range(2)], dim=1)


@dataclass(frozen=True)
class PairLoader:
    """Makes pairs of images by a public seed: even units show one patient, odd ones two.

    Attributes:
        images: (images, channels, *spatial).
        patients: rows of each patient.
        seed: of the pairs and of small shifts, turns, and changes of contrast.
    """

    images: Tensor
    patients: tuple[tuple[int, ...], ...]
    seed: int
    views: int = field(default=1, init=False)

    def batches(self, units: UnitBatch, step: int, most: int) -> Iterator[Batch]:
        """Yield one pair per unit, in batches of at most ``most``."""
        several = [rows for rows in self.patients if len(rows) > 1]
        for part in units.microbatches(most):
            numbers = [case for unit in part.units for case in unit]
            rng = child(self.seed, "pairs", step, part.first)
            rows = [self._pair(rng, several, same=number % 2 == 0) for number in numbers]
            pairs = torch.stack(
                [_varied(self.images[list(side)], rng) for side in zip(*rows, strict=True)], 1
            )
            same = torch.tensor([float(number % 2 == 0) for number in numbers], device=pairs.device)
            place = torch.arange(part.first, part.first + len(numbers), device=pairs.device)
            yield Batch(pairs, same, place, self.views, torch.zeros(len(numbers), dtype=torch.int64))

    def _pair(
        self, rng: np.random.Generator, several: Sequence[tuple[int, ...]], *, same: bool
    ) -> tuple[int, int]:
        if same:
            first, second = rng.choice(several[int(rng.integers(len(several)))], 2, replace=False)
        else:
            people = rng.choice(len(self.patients), 2, replace=False)
            first, second = (rng.choice(self.patients[person]) for person in people)
        return int(first), int(second)


@dataclass(frozen=True, eq=False)
class NetworkEmbedding:
    """A trained network and the whitening of what it gives for the images that it was trained on.

    Attributes:
        network: in evaluation mode.
        whitening: of its vectors.
        device: where the network lies.
    """

    network: Siamese
    whitening: Whitening
    device: torch.device

    def __call__(self, images: npt.ArrayLike) -> Array:
        """Return unit vectors of images (images, channels, *spatial) of any size."""
        return self.whitening(_vectors(self.network, standardised(images), self.device))

    def state(self) -> dict[str, Tensor]:
        """Return what :func:`restored_embedding` makes the same embedding of."""
        parts = {"mean": self.whitening.mean, "directions": self.whitening.directions}
        weights = {f"network.{name}": value.cpu() for name, value in self.network.state_dict().items()}
        return weights | {name: torch.from_numpy(value) for name, value in parts.items()}


def restored_embedding(
    state: Mapping[str, Tensor], *, channels: int, dims: int, device: str = "cpu"
) -> NetworkEmbedding:
    """Return the embedding of a :meth:`NetworkEmbedding.state`.

    Raises:
        DataError: the state is not one of such an embedding.
    """
    place = runtime.device(device)
    network = Siamese(channels, dims)
    parts = ("mean", "directions")
    try:
        network.load_state_dict(
            {name.removeprefix("network."): value for name, value in state.items() if name not in parts}
        )
        whitening = Whitening(*(state[name].numpy() for name in parts))
    except (RuntimeError, KeyError) as error:
        raise DataError(problem("the file holds no embedding of this attack", where=SIAMESE)) from error
    return NetworkEmbedding(network.to(place).eval(), whitening, place)


def _vectors(network: Siamese, images: Array, device: torch.device) -> Array:
    with torch.no_grad():
        parts = torch.split(torch.from_numpy(images), _EVAL_BATCH)
        return np.asarray(torch.cat([network.embed(part.to(device)).cpu() for part in parts]).numpy())


def _varied(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Return images turned, scaled and shifted a little, with other contrast and noise."""
    dims, count = images.ndim - 2, len(images)
    change = np.zeros((count, dims, dims + 1), np.float32)
    change[:, :, :dims] = np.eye(dims) * rng.uniform(0.92, 1.08, (count, 1, 1))
    turn = rng.uniform(-0.1, 0.1, count)
    change[:, 0, 1], change[:, 1, 0] = -turn, turn
    change[:, :, dims] = rng.uniform(-0.08, 0.08, (count, dims))
    grid = functional.affine_grid(
        torch.from_numpy(change).to(images.device), list(images.shape), align_corners=False
    )
    moved = functional.grid_sample(images, grid, align_corners=False, padding_mode="border")
    shape = (count, *[1] * (images.ndim - 1))
    gain = torch.from_numpy(rng.normal(1.0, 0.1, shape).astype(np.float32)).to(images.device)
    noise = rng.normal(0.0, 0.1, tuple(images.shape)).astype(np.float32)
    return moved * gain + torch.from_numpy(noise).to(images.device)


def _train(
    images: Array, patients: Sequence[str], steps: int, seed: int, device: torch.device, progress: Progress
) -> Embedding:
    """Return the embedding of a network trained on pairs."""
    members: dict[str, list[int]] = {}
    for row, patient in enumerate(patients):
        members.setdefault(patient, []).append(row)
    several = sum(len(rows) > 1 for rows in members.values())
    if several < LEAST_TO_TRAIN:
        rule = f"at least {LEAST_TO_TRAIN} patients with two images to train on"
        raise DataError(expected(rule, got=several, where=SIAMESE, fix="leave this attack out"))
    tensors = torch.from_numpy(images).to(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        runtime.seed_torch(seed, "identity attack")
        network = Siamese(tensors.shape[1], tensors.ndim - 2).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=_DECAY)
    schedule = Schedule(OptimConfig(lr=_RATE, schedule="cosine", warmup=min(50, steps // 10)), 1)
    trainer = Trainer(
        TrainState.of(network, optimizer, schedule),
        ShuffleSampler(_PAIRS, batch=_PAIRS, seed=seed),
        SupervisedStep(
            PairTask(margin=_MARGIN),
            PairLoader(tensors, tuple(tuple(rows) for rows in members.values()), seed),
            physical_batch=_PAIRS,
        ),
        hooks=(ProgressHook(progress, SIAMESE),),
    )
    trainer.run(until=steps)
    network.eval()
    return NetworkEmbedding(network, fit_whitening(_vectors(network, images, device)), device)
