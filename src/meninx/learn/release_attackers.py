"""Networks that are trained on released images: attackers, utility models and the purifier.

A mechanism that draws random numbers is attacked with fresh draws in every epoch, because an attacker who
knows the mechanism can run it as often as he likes::

    def draws(number):  # images (n, channels, height, width) in [0, 1]; 0 is the draw that is released
        return clean + noise(number)

    sides = Sides(train=rows_of_the_attacker, valid=rows_to_choose_by)
    attack = fit_release_network("residual", draws, one_hot, sides, task=attribute_task(2), seed=0)
    scores = attack(draws(0))  # logits of all images

Early stopping reads the validation rows only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from meninx.core.errors import DataError, expected
from meninx.core.manifest import TaskKind
from meninx.core.progress import SILENT, Progress
from meninx.core.randomness import child, child_seed
from meninx.learn import runtime
from meninx.learn.batches import Batch
from meninx.learn.config import OptimConfig
from meninx.learn.hooks import Evaluated, Hook, ProgressHook
from meninx.learn.optim import Schedule
from meninx.learn.sampler import ShuffleSampler, UnitBatch
from meninx.learn.state import TrainState
from meninx.learn.step import SupervisedStep
from meninx.learn.task import ImageTask, Task
from meninx.learn.trainer import Evaluator, Trainer
from meninx.models.attack_networks import FAMILIES, PERCEPTRON, Restorer, VectorRestorer, attack_network

Array = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]
NetworkT = TypeVar("NetworkT", bound=nn.Module)
ReleaseDraws = Callable[[int], Array]
"""From the number of a draw to released images (n, channels, height, width); draw 0 is the released one."""
EPOCHS = 12
_BATCH, _LEAST_BATCH, _STEPS_PER_EPOCH = 32, 8, 12  # few images are seen in smaller batches, more often
_EVAL_BATCH, _MOST_STEPS = 256, 400
_RATE, _VECTOR_RATE, _DECAY = 2e-3, 1e-2, 5e-2
_SHIFT = 16  # an image is moved by up to a sixteenth of its side
_TINY = 1e-6
_IMAGE_AXES = 4


@dataclass(frozen=True, eq=False)
class Sides:
    """Which rows a network learns from and which it is chosen by.

    Attributes:
        train: rows to learn from.
        valid: rows that decide when to stop.
    """

    train: Numbers
    valid: Numbers

    def __post_init__(self) -> None:
        if not len(self.train) or not len(self.valid) or np.intersect1d(self.train, self.valid).size:
            got = f"{len(self.train)} and {len(self.valid)}"
            raise DataError(expected("separate rows to train on and to choose by", got=got, where="sides"))


@dataclass(frozen=True)
class RestoreTask:
    """The task of predicting originals from releases: the mean squared error of each image.

    Attributes:
        metric: ``closeness``, the negative error, so that higher is better.
    """

    metric: str = "closeness"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error of each image, (rows,)."""
        return (outputs - targets).square().flatten(1).mean(1)

    def metrics(self, results: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return ``loss`` and ``closeness``, its negative."""
        losses = [float(self.loss(output[None], target[None])) for output, target in results]
        mean = float(np.mean(losses)) if losses else math.nan
        return {"loss": mean, self.metric: -mean}


def families_of(axes: int) -> tuple[str, ...]:
    """Return the networks for values with so many axes: 4 for images, 2 for features."""
    return FAMILIES if axes == _IMAGE_AXES else (PERCEPTRON,)


def attribute_task(counts: npt.ArrayLike) -> ImageTask:
    """Return the task of telling the values of an attribute apart, every value with the same weight.

    Args:
        counts: number of training images with each value.
    """
    there = np.maximum(np.asarray(counts, dtype=np.float64), 1.0)
    weights = tuple((there.sum() / (len(there) * there)).tolist())
    return ImageTask(TaskKind.MULTICLASS, tuple(str(value) for value in range(len(there))), "ce", weights)


def label_task(labels: tuple[str, ...]) -> ImageTask:
    """Return the task of a utility model: any of several findings, unknown ones left out."""
    return ImageTask(TaskKind.MULTILABEL, labels, "bce")


@dataclass(frozen=True, eq=False)
class ReleaseNetwork:
    """A trained network, which maps images of one size to its outputs.

    Attributes:
        network: in evaluation mode.
        centre: mean of the images that it was trained on, one per channel.
        spread: their standard deviation.
        device: where the network lies.
    """

    network: nn.Module
    centre: Tensor
    spread: Tensor
    device: torch.device

    @torch.no_grad()
    def __call__(self, images: npt.ArrayLike) -> Array:
        """Return outputs of images (n, channels, height, width): logits (n, outputs), or images."""
        values = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
        parts = [
            self.network(((part - self.centre) / self.spread).to(self.device)).cpu()
            for part in torch.split(values, _EVAL_BATCH)
        ]
        return np.asarray(torch.cat(parts).numpy())


def fit_release_network(
    family: str,
    draws: ReleaseDraws,
    targets: npt.ArrayLike,
    sides: Sides,
    *,
    task: ImageTask,
    epochs: int = EPOCHS,
    rate: float | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> ReleaseNetwork:
    """Return a network trained on released images, with the weights of its best validation.

    Args:
        family: one of :func:`families_of` the values.
        draws: released images of all rows, fresh for each number.
        targets: shape (n, outputs); one-hot, or 0, 1 and NaN under a task of several labels.
        sides: rows to train on and to choose by.
        task: loss and metrics.
        epochs: passes over the training rows, each with its own draw; fewer where they are more than 400
            steps.
        rate: learning rate; by default that of the family.
        seed: of initial weights, order and augmentation.
        device: where it is trained.
        progress: shows the steps.

    Raises:
        DataError: values that are not finite, or neither (n, channels, height, width) nor (n, features).
    """
    first = _checked(draws(0), len(np.asarray(targets)))
    wanted = torch.from_numpy(np.ascontiguousarray(targets, dtype=np.float32))
    network = seeded(lambda: attack_network(family, channels=first.shape[1], outputs=wanted.shape[1]), seed)
    return _fitted(
        network, draws, lambda rows: wanted[rows], sides, task, epochs=epochs, seed=seed, device=device,
        shift=min(first.shape[2:]) // _SHIFT if family in FAMILIES[1:] else 0,
        rate=rate or (_VECTOR_RATE if family == PERCEPTRON else _RATE), progress=progress, label=family,
    )  # fmt: skip


def fit_purifier(
    draws: ReleaseDraws,
    originals: npt.ArrayLike,
    sides: Sides,
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> Callable[[npt.ArrayLike], Array]:
    """Return a map from released images to estimates of their originals, learned on pairs of the attacker.

    Args:
        draws: released images of all rows.
        originals: shape (n, channels, height, width).
        sides: rows to train on and to choose by.
        epochs: passes over the training rows.
        seed: of initial weights and order.
        device: where it is trained.
        progress: shows the steps.
    """
    clean = torch.from_numpy(_checked(originals, len(np.asarray(originals))))
    centre, spread = channel_moments(clean[torch.from_numpy(sides.train)])
    scaled = (clean - centre) / spread
    restorer = Restorer if clean.ndim == _IMAGE_AXES else VectorRestorer
    network = seeded(lambda: restorer(clean.shape[1]), seed)
    fitted = _fitted(
        network, draws, lambda rows: scaled[rows], sides, RestoreTask(), epochs=epochs, seed=seed,
        device=device, shift=0, progress=progress, label="purifier",
    )  # fmt: skip
    return lambda images: fitted(images) * spread.numpy() + centre.numpy()


def averaged(draws: ReleaseDraws, count: int, *, first: int = 0) -> Array:
    """Return the mean of ``count`` independent releases of the same images, from draw ``first`` on."""
    total = np.zeros_like(draws(first), dtype=np.float64)
    for number in range(first, first + count):
        total += draws(number)
    return np.asarray(total / count, dtype=np.float32)


@dataclass(frozen=True)
class _ReleaseLoader:
    """Makes batches of a fresh draw in every epoch; changes each image a little."""

    draws: ReleaseDraws
    targets: Callable[[Tensor], Tensor]
    rows: Numbers
    centre: Tensor
    spread: Tensor
    steps_per_epoch: int
    shift: int
    seed: int
    device: torch.device
    views: int = field(default=1, init=False)

    def batches(self, units: UnitBatch, step: int, most: int) -> Iterator[Batch]:
        """Yield the units in order, in batches of at most ``most`` cases."""
        images = self.draws(step // self.steps_per_epoch)  # whoever gives draws keeps the last one
        for part in units.microbatches(most):
            rows = self.rows[[case for unit in part.units for case in unit]]
            rng = child(self.seed, "released images", step, part.first)
            inputs = (torch.from_numpy(images[rows]) - self.centre) / self.spread
            inputs = _shifted(inputs, self.shift, rng) if self.shift else inputs
            place = torch.arange(part.first, part.first + len(rows), device=self.device)
            keys = [child_seed(self.seed, "dropout", step, int(row)) for row in rows]
            targets = self.targets(torch.from_numpy(rows))
            yield Batch(
                inputs.to(self.device), targets.to(self.device), place, self.views,
                torch.tensor(keys, dtype=torch.int64),
            )  # fmt: skip


class _BestWeights(Hook):
    """Remembers the weights of the best evaluation."""

    def __init__(self) -> None:
        self.weights: Mapping[str, Tensor] = {}

    def on_evaluation(self, state: TrainState, event: Evaluated) -> None:
        if event.improved or not self.weights:
            self.weights = state.weights()


def _fitted(
    network: nn.Module,
    draws: ReleaseDraws,
    targets: Callable[[Tensor], Tensor],
    sides: Sides,
    task: Task,
    *,
    epochs: int,
    seed: int,
    device: str,
    shift: int,
    progress: Progress,
    label: str,
    rate: float = _RATE,
) -> ReleaseNetwork:
    """Return the network after training, with the weights of the best validation."""
    place = runtime.device(device)
    centre, spread = channel_moments(torch.from_numpy(draws(0)[sides.train]))
    network.to(place)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=_DECAY)
    batch = min(_BATCH, max(_LEAST_BATCH, len(sides.train) // _STEPS_PER_EPOCH))
    sampler = ShuffleSampler(len(sides.train), batch=batch, seed=seed)
    steps = min(epochs * sampler.steps_per_epoch, max(_MOST_STEPS, sampler.steps_per_epoch))
    schedule = Schedule(OptimConfig(lr=rate, schedule="cosine", warmup=min(20, steps // 10)), 1)
    loader = _ReleaseLoader(
        draws, targets, sides.train, centre, spread, sampler.steps_per_epoch, shift, seed, place
    )
    valid, truth = draws(0)[sides.valid], targets(torch.from_numpy(sides.valid))

    def measure(state: TrainState) -> Mapping[str, float]:
        state.model.eval()
        outputs = torch.from_numpy(ReleaseNetwork(state.model, centre, spread, place)(valid))
        state.model.train()
        return task.metrics(zip(outputs, truth, strict=True))

    best = _BestWeights()
    trainer = Trainer(
        TrainState.of(network, optimizer, schedule),
        sampler,
        SupervisedStep(task, loader, physical_batch=_BATCH, seed=seed),
        hooks=(best, ProgressHook(progress, label)),
        evaluator=Evaluator(measure, monitor="loss"),
    )
    trainer.run(until=steps)
    network.load_state_dict(dict(best.weights))
    return ReleaseNetwork(network.eval(), centre, spread, place)


def seeded(build: Callable[[], NetworkT], seed: int) -> NetworkT:
    """Return a network whose initial weights depend on the seed alone."""
    with torch.random.fork_rng([]):
        runtime.seed_torch(seed, "release attacker")
        return build()


def channel_moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of each channel (1, channels, 1, 1), or of each feature (1, features)."""
    axes = (0, 2, 3) if images.ndim == _IMAGE_AXES else (0,)
    spread = images.std(axes, keepdim=True, correction=0)
    return images.mean(axes, keepdim=True), spread.clamp_min(_TINY)


def _shifted(images: Tensor, most: int, rng: np.random.Generator) -> Tensor:
    """Return images moved by up to ``most`` pixels along each axis, each by its own amount."""
    height, width = images.shape[2:]
    padded = functional.pad(images, (most,) * 4, mode="replicate")
    moves = rng.integers(0, 2 * most + 1, size=(len(images), 2))
    parts = [
        image[:, down : down + height, right : right + width]
        for image, (down, right) in zip(padded, moves.tolist(), strict=True)
    ]
    return torch.stack(parts)


def _checked(images: npt.ArrayLike, count: int) -> Array:
    values = np.ascontiguousarray(images, dtype=np.float32)
    if values.ndim not in (2, _IMAGE_AXES) or len(values) != count or not np.isfinite(values).all():
        rule = f"{count} finite images of shape (channels, height, width), or rows of features"
        raise DataError(expected(rule, got=f"shape {values.shape}", where="released images"))
    return values
