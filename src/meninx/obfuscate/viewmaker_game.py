"""The game in which a viewmaker is trained: attackers learn from its views, and it learns from them.

Every step updates one side along the gradient of its own loss (:class:`.AlternatingStep`). The other networks
are in evaluation mode meanwhile, so that neither their weights nor the statistics of their norms change. The
network of the labels never moves. Attackers begin with what they learned from original images. ::

    viewmaker = trained_viewmaker(table, "sex", settings.in_force("maxent"), budget=0.05, seed=0)

Training ends after a fixed number of steps. No attacker chooses among several viewmakers: the one that an
attacker reads worst is the one that fools this attacker, not the one that hides most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from meninx.core.errors import DataError, expected, problem
from meninx.core.progress import SILENT, Progress, task
from meninx.core.randomness import child_seed
from meninx.learn import runtime
from meninx.learn.batches import Batch
from meninx.learn.hooks import Hook, ProgressHook, StepDone
from meninx.learn.release_attackers import (
    Sides,
    attribute_task,
    channel_moments,
    fit_release_network,
    label_task,
    seeded,
)
from meninx.learn.sampler import ShuffleSampler
from meninx.learn.state import Player, TrainState
from meninx.learn.step import AlternatingStep, PlayerLoss, TensorLoader
from meninx.learn.task import ImageTask, binary_cross_entropy
from meninx.learn.trainer import Trainer
from meninx.learn.viewmaker_losses import (
    GAMMA,
    contrastive_loss,
    entropy_gap,
    focal_attribute_loss,
    inverse_frequency,
)
from meninx.models.attack_networks import FAMILIES, attack_network
from meninx.models.viewmaker_networks import LEAST_SIDE, Viewmaker, viewmaker
from meninx.obfuscate.config import ViewmakerSettings
from meninx.obfuscate.obfuscator import ImageTable

VIEWMAKER, OPPONENTS = "viewmaker", "opponents"
_EMBEDDING = 64
_SEEDS = 1 << 31


class Standardized(nn.Module):
    """A network behind the standardisation of its images.

    Args:
        network: maps standardised images to outputs.
        centre: mean of each channel, (1, channels, 1, 1).
        spread: deviation of each channel, same shape.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, network: nn.Module, centre: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread)

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs of images in [0, 1]."""
        outputs: Tensor = self.network((images - self.centre) / self.spread)
        return outputs


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Put networks into evaluation mode, and each of their modules back into its mode afterwards.

    Norm layers then neither read nor update the statistics of the batch, and dropout is off.
    """
    modes = {module: module.training for network in networks for module in network.modules()}
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@dataclass(frozen=True, eq=False)
class Game:
    """The losses of both sides.

    Attributes:
        settings: in force.
        alpha: weight of each class of the attribute, (classes,).
        task_network: predicts the labels and is never trained here; None where the term is left out.
        device: where the networks lie.
    """

    settings: ViewmakerSettings
    alpha: Tensor
    task_network: nn.Module | None
    device: torch.device

    @property
    def classes(self) -> int:
        """Number of classes of the attribute: the first columns of the targets."""
        return len(self.alpha)

    def losses(self) -> Mapping[str, PlayerLoss]:
        """Return the loss of each player."""
        if self.settings.loss == "contrastive":
            return {OPPONENTS: self.encoding, VIEWMAKER: self.spoiling}
        return {OPPONENTS: self.attack, VIEWMAKER: self.hide}

    def attack(self, networks: Mapping[str, nn.Module], batch: Batch) -> Tensor:
        """Return the focal loss of all attackers on views of the viewmaker, (rows,)."""
        with torch.no_grad(), frozen(networks[VIEWMAKER]):
            views = _draw(networks, batch.inputs.to(self.device))
        guesses = [attacker(views) for attacker in _members(networks)]
        return self._attribute_loss(guesses, batch).sum(0)

    def hide(self, networks: Mapping[str, nn.Module], batch: Batch) -> Tensor:
        """Return the loss of the viewmaker: of the labels, and of what the attackers still find, (rows,)."""
        others = [*_members(networks), *([self.task_network] if self.task_network is not None else [])]
        views = _draw(networks, batch.inputs.to(self.device))
        with frozen(*others):
            guesses = [attacker(views) for attacker in _members(networks)]
            if self.settings.loss == "entropy":
                found = torch.stack([entropy_gap(logits) for logits in guesses]).mean(0)
            else:
                found = -self._attribute_loss(guesses, batch).mean(0)
            total = self.settings.attack_weight * found
            if self.task_network is None:
                return total
            labels = batch.targets[:, self.classes :].to(self.device)
            kept = binary_cross_entropy(self.task_network(views), labels, gamma=GAMMA)
        return total + (self.settings.task_weight or 0.0) * kept

    def encoding(self, networks: Mapping[str, nn.Module], batch: Batch) -> Tensor:
        """Return the contrastive loss of the encoder on two views of each image, (rows,)."""
        images = batch.inputs.to(self.device)
        with torch.no_grad(), frozen(networks[VIEWMAKER]):
            first, second = _draw(networks, images), _draw(networks, images)
        return self._contrast(networks, first, second)

    def spoiling(self, networks: Mapping[str, nn.Module], batch: Batch) -> Tensor:
        """Return the negative contrastive loss, which the viewmaker minimises, (rows,)."""
        images = batch.inputs.to(self.device)
        first, second = _draw(networks, images), _draw(networks, images)
        with frozen(networks[OPPONENTS]):
            return -self._contrast(networks, first, second)

    def _contrast(self, networks: Mapping[str, nn.Module], first: Tensor, second: Tensor) -> Tensor:
        (encoder,) = _members(networks)
        return contrastive_loss(encoder(first), encoder(second), temperature=self.settings.temperature)

    def _attribute_loss(self, guesses: Sequence[Tensor], batch: Batch) -> Tensor:
        """Return the focal loss of each attacker, (attackers, rows)."""
        truth = batch.targets[:, : self.classes].to(self.device)
        return torch.stack([focal_attribute_loss(logits, truth, self.alpha) for logits in guesses])


@dataclass(eq=False)
class AttackerResets(Hook):
    """Gives one attacker after the other new random weights and a new state of its optimiser.

    Attributes:
        every: steps of the trainer between two resets.
        build: (number of the attacker, seed) -> a new network of its architecture.
        seed: of the weights.
        done: resets so far.
    """

    every: int
    build: Callable[[int, int], nn.Module]
    seed: int
    done: int = field(default=0, init=False)

    def on_step_end(self, state: TrainState, event: StepDone) -> None:
        """Reset the attacker whose turn it is, if a reset is due."""
        if event.step % self.every:
            return
        player = state.players[OPPONENTS]
        attackers = [module for module in player.model.children() if isinstance(module, Standardized)]
        number = self.done % len(attackers)
        fresh = self.build(number, child_seed(self.seed, "reset", self.done))
        attackers[number].network.load_state_dict(fresh.state_dict())
        for parameter in attackers[number].parameters():
            player.optimizer.state.pop(parameter, None)
        self.done += 1


def trained_viewmaker(
    table: ImageTable,
    attribute: str,
    settings: ViewmakerSettings,
    *,
    budget: float,
    seed: int,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> Viewmaker:
    """Return a viewmaker after its last step, in evaluation mode.

    Args:
        table: rows of ``train`` are learned from; rows of ``valid`` decide when the network of the labels and
            the first attackers are trained well enough.
        attribute: key of ``table.private``.
        settings: in force for the method.
        budget: largest mean absolute change of an image.
        seed: of initial weights, order and the random numbers of training.
        device: where it is trained.
        progress: shows the steps.

    Raises:
        DataError: the images are too small, or no label is known well enough for the term of the labels.
    """
    _refuse_small(table)
    place = runtime.device(device)
    labels = _usable_labels(table) if settings.task_weight else ()
    opening = _Opening(table, attribute, settings, seed, device, progress)
    game = Game(
        settings=settings,
        alpha=inverse_frequency(_train_column(table, attribute), len(table.classes[attribute])),
        task_network=opening.task_network(labels).to(place) if labels else None,
        device=place,
    )
    network = opening.viewmaker(budget).to(place)
    players = {
        VIEWMAKER: _player(network, settings.viewmaker_rate),
        OPPONENTS: _player(opening.opponents().to(place), settings.attacker_rate),
    }
    order = (*(OPPONENTS,) * (settings.attacker_steps or 1), VIEWMAKER)
    train = table.select(table.where("train"))
    loader = TensorLoader(torch.from_numpy(train.values), _targets(train, attribute, labels), seed=seed)
    batch = settings.viewmaker_batch
    step = AlternatingStep(losses=game.losses(), order=order, loader=loader, physical_batch=batch, seed=seed)
    hooks: list[Hook] = [ProgressHook(progress, "train the viewmaker")]
    if settings.reset_every:
        hooks.append(AttackerResets(settings.reset_every * len(order), opening.attacker, seed))
    sampler = ShuffleSampler(len(train), batch=batch, seed=seed)
    trainer = Trainer(TrainState(players), sampler, step, hooks=hooks)
    trainer.run(until=settings.steps * len(order))
    return network.eval()


@dataclass(frozen=True, eq=False)
class _Opening:
    """The networks with which the game begins."""

    table: ImageTable
    attribute: str
    settings: ViewmakerSettings
    seed: int
    device: str
    progress: Progress

    @property
    def channels(self) -> int:
        return int(self.table.values.shape[1])

    def viewmaker(self, budget: float) -> Viewmaker:
        """Return the viewmaker with random weights."""
        chosen = self.settings
        return seeded(
            lambda: viewmaker(
                chosen.network, channels=self.channels, budget=budget,
                residual_blocks=chosen.residual_blocks, dct=chosen.dct,
            ),
            child_seed(self.seed, "viewmaker"),
        )  # fmt: skip

    def attacker(self, number: int, seed: int) -> nn.Module:
        """Return an attacker with random weights; its architecture depends on its number."""
        family, outputs = FAMILIES[number % len(FAMILIES)], len(self.table.classes[self.attribute])
        return seeded(lambda: attack_network(family, channels=self.channels, outputs=outputs), seed)

    def opponents(self) -> nn.ModuleList:
        """Return the attackers, trained on original images, or an encoder with random weights."""
        if self.settings.loss == "contrastive":
            build = partial(attack_network, FAMILIES[0], channels=self.channels, outputs=_EMBEDDING)
            values = torch.from_numpy(self.table.values[self.table.where("train")])
            encoder = seeded(build, child_seed(self.seed, "encoder"))
            return nn.ModuleList([Standardized(encoder, *channel_moments(values))])
        hot = _one_hot(self.table, self.attribute)
        known = np.asarray(hot.any(1), dtype=bool)
        counts = hot[self.table.where("train")].sum(0)
        count = self.settings.attackers or 0
        with task(self.progress, "train attackers on original images", count):
            found = []
            for number in range(count):
                family = FAMILIES[number % len(FAMILIES)]
                rate, seed = self.settings.attacker_rate, self._seed("attacker", number)
                found.append(self._fitted(family, hot, known, attribute_task(counts), rate, seed))
                self.progress.advance()
        return nn.ModuleList(found)

    def task_network(self, labels: tuple[str, ...]) -> nn.Module:
        """Return a network of the labels, trained on original images; its weights are fixed."""
        truth = np.stack([self.table.labels[name] for name in labels], axis=1)
        everyone = np.ones(len(self.table), dtype=bool)
        with task(self.progress, "train a network of the labels", None):
            rate, seed = self.settings.task_rate, self._seed("labels")
            fitted = self._fitted(FAMILIES[0], truth, everyone, label_task(labels), rate, seed)
        return fitted.requires_grad_(False).eval()

    def _fitted(
        self,
        family: str,
        truth: npt.NDArray[Any],
        rows: npt.NDArray[np.bool_],
        goal: ImageTask,
        rate: float,
        seed: int,
    ) -> Standardized:
        train, valid = (np.flatnonzero(rows & self.table.where(name)) for name in ("train", "valid"))
        fitted = fit_release_network(
            family, lambda draw: self.table.values, truth, Sides(train, valid), task=goal, rate=rate,
            seed=seed, device=self.device,
        )  # fmt: skip
        return Standardized(fitted.network, fitted.centre, fitted.spread)

    def _seed(self, *names: str | int) -> int:
        return child_seed(self.seed, *names) % _SEEDS


def _draw(networks: Mapping[str, nn.Module], images: Tensor) -> Tensor:
    views: Tensor = networks[VIEWMAKER].draw(images)  # type: ignore[operator]
    return views


def _members(networks: Mapping[str, nn.Module]) -> list[nn.Module]:
    return list(networks[OPPONENTS].children())


def _player(network: nn.Module, rate: float) -> Player:
    return Player(network, torch.optim.Adam(network.parameters(), lr=rate))


def _refuse_small(table: ImageTable) -> None:
    if table.values.ndim != 4 or min(table.values.shape[2:]) < LEAST_SIDE:
        got = " x ".join(map(str, table.values.shape[1:]))
        raise DataError(expected(f"images of at least {LEAST_SIDE} pixels a side", got=got, where="images"))


def _usable_labels(table: ImageTable) -> tuple[str, ...]:
    """Return the labels that some training and validation rows have and some do not.

    Raises:
        DataError: there is none.
    """

    def both(column: npt.NDArray[np.float64]) -> bool:
        return all({0.0, 1.0} <= set(column[table.where(split)].tolist()) for split in ("train", "valid"))

    found = tuple(name for name, column in table.labels.items() if both(column))
    if not found:
        what = "no label is there in some images and absent in others, of training and of validation patients"
        fix = "name other labels, or set task_weight to 0"
        raise DataError(problem(what, where="labels", fix=fix))
    return found


def _targets(train: ImageTable, attribute: str, labels: tuple[str, ...]) -> Tensor:
    """Return one-hot classes of the attribute, then the labels, (rows, classes + labels)."""
    columns: list[npt.NDArray[Any]] = [_one_hot(train, attribute)]
    columns += [train.labels[name][:, None] for name in labels]
    return torch.from_numpy(np.concatenate(columns, axis=1).astype(np.float32))


def _one_hot(table: ImageTable, attribute: str) -> npt.NDArray[np.float32]:
    """Return (rows, classes), a row of zeros where the attribute is unknown."""
    kinds = np.arange(len(table.classes[attribute]))
    return np.asarray(table.private[attribute][:, None] == kinds, dtype=np.float32)


def _train_column(table: ImageTable, attribute: str) -> npt.NDArray[np.int64]:
    return np.asarray(table.private[attribute][table.where("train")])
