"""Differential privacy for your own training loop: sampling, clipping, noise, ledger and resuming.

The network is not wrapped and the data are not moved. The context yields the rows of the patients drawn for
each step, and its ``step`` replaces ``loss.backward(); optimizer.step()``::

    >>> import tempfile, torch
    >>> from meninx.privacy import training
    >>> patients = [f"patient {row // 2}" for row in range(40)]                   # two images per patient
    >>> images, labels = torch.randn(40, 1, 8, 8), torch.randint(0, 2, (40,))
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> loss = torch.nn.CrossEntropyLoss(reduction="none")
    >>> settings = dict(epsilon=8, delta=1e-3, batch=10, steps=4)
    >>> folder = tempfile.mkdtemp() + "/run"
    >>> with training(model, optimizer, loss, units=patients, run=folder, **settings) as dp:
    ...     for rows in dp:
    ...         dp.step(images[rows], labels[rows])
    >>> dp.spent.steps, dp.spent.epsilon <= 8
    (4, True)

It consists of the trainer's own parts, such as :class:`.dp_step.PrivateStep`. The folder is a run folder
(:mod:`.own_run`) for ``meninx verify`` and ``meninx report``, and after the last planned step
``release/model.pt`` holds the weights.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from meninx.core import randomness, workspace
from meninx.core.budget import PrivacySpent
from meninx.core.errors import ConfigError, PrivacyRefusal, UsageError, expected, problem
from meninx.core.randomness import KEY_BYTES
from meninx.learn import kernels, own_arguments
from meninx.learn.batches import Batch
from meninx.learn.dp_step import Keys, PrivateStep, prove_network
from meninx.learn.own_run import OwnRun
from meninx.learn.sampler import PrivateSampler, UnitBatch
from meninx.learn.state import TrainState
from meninx.privacy.noise_calibration import calibrate
from meninx.privacy.plan import Plan

Loss = Callable[[Tensor, Tensor], Tensor]
_COST = ("delta", "epsilon", "noise_multiplier", "steps", "epochs", "max_grad_norm")

_NO_REPLAY = hashlib.sha256(b"meninx own loop: no step is taken twice").hexdigest()
"""Binding of the ledger. Each opening of the folder has new keys, so no noise is used twice."""


@contextmanager
def training(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    *,
    run: str | Path,
    delta: float,
    batch: float,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    units: Sequence[str] | Sequence[int] | None = None,
    rows: int | None = None,
    declared_units: int | None = None,
    max_grad_norm: float = 1.0,
    physical_batch: int = 32,
    functional: Sequence[str] = (),
    save_every: int = 50,
    resume: bool = False,
    deterministic_seed: int | None = None,
    **mechanism: Any,
) -> Iterator[PrivateTraining]:
    """Yield the private training of a network, over whose steps the caller iterates in their own loop.

    Give exactly two of ``epsilon``, ``noise_multiplier`` and ``steps`` (or ``epochs``).

    Args:
        model: the network, in training mode. The first step tests that its rows do not interact, and refuses
            it otherwise.
        optimizer: over parameters of ``model``.
        loss: (outputs, targets) -> one number per row, without reduction.
        run: folder of the ledger, the checkpoint and the records; created if it does not exist.
        delta: in (0, 1 / number of units).
        batch: mean number of units per step.
        epsilon: largest epsilon of the whole run, including all resumes.
        noise_multiplier: noise standard deviation over ``max_grad_norm``.
        steps: optimiser steps.
        epochs: expected passes over the units.
        units: the patient of each row of the data. Without it every row is a unit.
        rows: number of rows if ``units`` is not given.
        declared_units: number of units as publicly declared, at least the true one; by default the true one,
            which then counts as public.
        max_grad_norm: clipping threshold of a unit's gradient.
        physical_batch: largest number of rows in memory at once; affects speed, not the guarantee.
        functional: paths of modules without a rule for private gradients, to be run row by row.
        save_every: steps between checkpoints; one is also written at the end and on an interruption.
        resume: continue from the checkpoint in ``run``.
        deterministic_seed: for tests only: derive the keys from this seed and stamp the folder NOT FOR
            RELEASE.
        **mechanism: fields of :class:`~meninx.privacy.plan.Plan` that choose clipping and noise:
            ``clipping``, ``clip_quantile``, ``clip_rate``, ``count_noise_multiplier``, ``noise_bands``.

    Guarantee: the weights after any number of steps are (``dp.spent.epsilon``, delta)-differentially private
        for the unit, relation add-or-remove-one, if (1) the rows given to ``dp.step`` are functions of the
        data of the drawn rows alone, whatever else is in the dataset (augment with ``dp.row_seeds``, not with
        a generator that runs over the batch), and (2) only ``dp.step`` changes the weights depending on the
        data. A step is in the ledger on disk before the optimiser uses it. Every attempt is a separate step:
        a step lost in a crash stays spent and is not repeated, so a resumed run spends no more than planned
        and no noise is used twice.

    When all planned steps are done and the block ends without an error, the run is finished: its weights are
    in ``release/model.pt``, and a resumed run has no further step.

    Raises:
        UsageError: the folder holds a run and ``resume`` is false, or it holds none and ``resume`` is true;
            or it cannot be a run folder.
        ConfigError: an argument has an unknown name or the wrong type, or is out of range.
        PrivacyRefusal: epsilon cannot be reached; a resumed run differs in plan, units, records, checkpoint
            or ledger, or has correlated noise (``noise_bands``), which cannot continue under other keys.
        RunLocked: another process trains in this folder.
    """
    settings = own_arguments.checked(
        {
            "delta": delta,
            "batch": batch,
            "epsilon": epsilon,
            "noise_multiplier": noise_multiplier,
            "steps": steps,
            "epochs": epochs,
            "rows": rows,
            "declared_units": declared_units,
            "max_grad_norm": max_grad_norm,
            "physical_batch": physical_batch,
            "functional": functional,
            "save_every": save_every,
            "resume": resume,
            "deterministic_seed": deterministic_seed,
            **mechanism,
        },
        inspect.signature(training).parameters,
    )
    own_arguments.refuse_wrong_parts(model, optimizer, loss)
    members, names, unit = own_arguments.grouped(units, settings["rows"])
    plan = calibrate(
        n_units=len(members) if declared_units is None else settings["declared_units"],
        expected_batch_size=settings["batch"],
        unit=unit,
        **{name: settings[name] for name in (*_COST, *mechanism)},
    )
    if len(members) > plan.n_units_declared:
        rule = f"at most declared_units = {plan.n_units_declared} units"
        raise PrivacyRefusal(expected(rule, got=len(members), where="privacy.training"))
    folder = OwnRun(
        own_arguments.folder_of(run),
        plan,
        declared_units=settings["declared_units"],
        deterministic=deterministic_seed is not None,
    )
    folder.begun(resume=resume)
    with workspace.held(folder.run.root):
        begun = folder.begun(resume=resume)  # checked again, now that no other process can write
        if begun:
            folder.resume()
        private = _assembled(model, optimizer, loss, folder, settings, members, names)
        if begun:
            private.restore()
        else:
            folder.begin(model, optimizer)
            private.save()  # so that a checkpoint missing later must have been removed
        try:
            yield private
        finally:
            private.close()
        private.publish()  # not after an error


def _assembled(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    folder: OwnRun,
    settings: dict[str, Any],
    members: tuple[tuple[int, ...], ...],
    names: tuple[str, ...],
) -> PrivateTraining:
    """Return the private training of checked arguments; the caller holds the folder."""
    plan, seed = folder.plan, settings["deterministic_seed"]
    keys = _fresh_keys(seed)
    loader = _GivenRows()
    step = PrivateStep(
        plan,
        folder.run,
        _OwnTask(loss),
        loader,
        keys,
        binding=_NO_REPLAY,
        physical_batch=settings["physical_batch"],
        kernels=kernels.opened(next(model.parameters()).device, deterministic=seed is not None),
        functional=settings["functional"],
    )
    sampler = PrivateSampler(plan.sampler(keys.sampling, len(members)), members, names, plan.sample_rate)
    return PrivateTraining(
        folder, TrainState.of(model, optimizer), sampler, step, loader, settings["save_every"]
    )


class PrivateTraining:
    """A private training in progress, created by :func:`training`.

    Iteration yields the rows of each remaining step, as an int64 tensor that may be empty: a draw without
    patients is a step of noise only. Each draw must be followed by exactly one call of :meth:`step`.

    Attributes:
        plan: sampling, clipping, noise and cost.
        row_seeds: (rows,) int64, one seed per drawn row, for its augmentation; it depends only on the row's
            own unit, its place in the unit and the step.
    """

    def __init__(
        self,
        folder: OwnRun,
        state: TrainState,
        sampler: PrivateSampler,
        step: PrivateStep,
        loader: _GivenRows,
        save_every: int,
    ) -> None:
        self.plan: Plan = folder.plan
        self.row_seeds = torch.empty(0, dtype=torch.int64)
        self._state = state
        self._folder, self._sampler, self._step, self._loader = folder, sampler, step, loader
        self._every = save_every
        self._drawn: UnitBatch | None = None
        self._whole = True
        self._process, self._closed = os.getpid(), False
        self._proved_as: object = None
        self._grouping = hashlib.sha256(repr((sampler.names, sampler.members)).encode()).hexdigest()
        self._names = {rows[0]: name for rows, name in zip(sampler.members, sampler.names, strict=True)}
        state.step = step.ledger.next_step

    def __len__(self) -> int:
        """Return the number of remaining steps; an unfinished ledger line counts as a spent step."""
        ledger = self._step.ledger
        return max(0, self.plan.steps - ledger.next_step - ledger.torn)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the rows of each remaining step.

        Raises:
            PrivacyRefusal: the rows of the last draw were not used; skipping draws, even empty ones, would
                not be the sampling that is accounted for.
        """
        while len(self):
            self._refuse_closed()
            if self._drawn is not None:
                fix = "call dp.step once for every batch of rows, an empty one included"
                raise PrivacyRefusal(
                    problem("the drawn rows were not used in a step", where="privacy.training", fix=fix)
                )
            self._state.step = self._step.ledger.next_step
            self._drawn = drawn = self._sampler(self._state.step)
            rows = [row for unit in drawn.units for row in unit]
            keys = [self._key(unit, place) for unit in drawn.units for place in range(len(unit))]
            self.row_seeds = torch.tensor(keys, dtype=torch.int64)
            yield torch.tensor(rows, dtype=torch.int64)

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        """Take one private step with the rows that were drawn.

        Args:
            inputs: (rows, ...), the drawn rows in the order in which they were yielded.
            targets: (rows, ...), in the same order.

        Raises:
            UsageError: no rows are drawn, or their number differs.
            PrivacyRefusal: the network cannot be trained privately (detected before the first step with
                rows).
        """
        self._refuse_closed()
        drawn = self._drawn
        if drawn is None:
            raise UsageError("dp.step was called without a draw: use it once inside `for rows in dp`")
        for name, value in (("inputs", inputs), ("targets", targets)):
            if not isinstance(value, Tensor) or not value.ndim:
                rule = "a tensor with one row per drawn row"
                raise UsageError(expected(rule, got=type(value).__name__, where=f"dp.step: {name}"))
        if not len(inputs) == len(targets) == drawn.cases:
            got = f"{len(inputs)} inputs and {len(targets)} targets"
            raise UsageError(expected(f"the {drawn.cases} rows that were drawn", got=got, where="dp.step"))
        device = next(self._state.model.parameters()).device
        self._loader.give(drawn, inputs.to(device), targets.to(device), self.row_seeds)
        if drawn.cases and self._proved_as != _structure(self._state.model):
            self._prove()
        self._whole = False
        try:
            self._step.gradients(self._state, drawn)
            self._step.update(self._state)
            self._whole = True
        finally:
            # Even after an error, a step in the ledger is spent, and the next one has different noise.
            self._loader.forget()
            self._drawn = None
            self._state.step = self._step.ledger.next_step
            self._folder.note_steps(self._step.ledger)
        if self._state.step % self._every == 0:
            self.save()

    @property
    def spent(self) -> PrivacySpent:
        """Privacy spent so far according to the ledger, including interrupted steps.

        Raises:
            DataError: no step was taken yet.
        """
        return self._step.ledger.spent(self.plan.delta)

    def save(self) -> None:
        """Write the checkpoint into ``private/checkpoints`` and, at intervals, ``privacy.json``."""
        self._folder.save(self._state, self._step.ledger, units=self._grouping, last=self._closed)

    def restore(self) -> None:
        """Load the checkpoint and check the ledger against it; warn about lost steps, which stay spent.

        Raises:
            DataError: the file is damaged, or of another network.
            PrivacyRefusal: it is missing or belongs to another plan or other units, or the ledger was
                shortened.
        """
        self._folder.restore(self._state, units=self._grouping)
        lost = self._step.ledger.next_step - self._state.step
        if lost > 0:
            warnings.warn(
                f"{lost} steps after the last checkpoint were lost; they stay spent and are not taken again",
                stacklevel=4,
            )

    def close(self) -> None:
        """Save the state, unless a step was interrupted half-way; the context takes no further step."""
        self._closed = True
        if self._is_whole() and not self._folder.released:
            self.save()

    def publish(self) -> None:
        """Write the weights into ``release/`` and finish the run, if every planned step was taken.

        Raises:
            StorageError: the disk refused; resuming the run tries again.
        """
        if self._is_whole() and not len(self) and not self._folder.released:
            self._folder.publish(self._state.model, self._step.ledger)

    def _is_whole(self) -> bool:
        """Return whether this process took at least one step and completed its last one."""
        return self._whole and os.getpid() == self._process and bool(self._step.ledger.entries)

    def _refuse_closed(self) -> None:
        if self._closed or os.getpid() != self._process:
            why = "the context is closed" if self._closed else "another process made this context"
            raise UsageError(f"privacy.training: {why}; open one with resume=True")

    def _prove(self) -> None:
        """Refuse a network whose rows interact, before the first row is used."""
        state, loader = self._state, self._loader
        most = min(self._step.physical_batch, 64)
        prove_network(
            state.model,
            self._step.task,
            loader.first_two(),
            physical_batch=most,
            functional=self._step.functional,
        )
        self._step.proved = True
        self._proved_as = _structure(state.model)

    def _key(self, unit: tuple[int, ...], place: int) -> int:
        """Return the seed of a unit's row, from the step, the unit's name and the row's place in the unit.

        A row's number would not do: it changes when another patient is removed from the data.
        """
        return randomness.child_seed(0, "own loop", self._state.step, self._names[unit[0]], place)


class _OwnTask:
    """The user's loss as a task without metrics.

    Args:
        loss: (outputs, targets) -> one number per row.
    """

    metric = "loss"

    def __init__(self, loss: Loss) -> None:
        self._loss = loss

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each row.

        Raises:
            ConfigError: the user's loss does not return one value per row.
        """
        losses: Any = self._loss(outputs, targets)
        if not isinstance(losses, Tensor):
            got = type(losses).__name__
            raise ConfigError(expected("a tensor with one loss for each row", got=got, where="loss"))
        if losses.shape != (len(outputs),):
            fix = 'leave the reduction out, e.g. CrossEntropyLoss(reduction="none")'
            got = f"shape {tuple(losses.shape)}"
            raise ConfigError(
                expected(f"one loss for each of {len(outputs)} rows", got=got, where="loss", fix=fix)
            )
        return losses

    def metrics(self, results: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return no metrics, because the user evaluates the model."""
        return {}


class _GivenRows:
    """The loader of a step whose rows the user provides."""

    views = 1

    def __init__(self) -> None:
        self._rows: tuple[Tensor, Tensor, Tensor] | None = None
        self._place: dict[int, int] = {}

    def give(self, drawn: UnitBatch, inputs: Tensor, targets: Tensor, seeds: Tensor) -> None:
        """Store the rows of one step, those of the drawn units in order."""
        self._rows = inputs, targets, seeds
        rows = [row for unit in drawn.units for row in unit]
        self._place = {row: place for place, row in enumerate(rows)}

    def forget(self) -> None:
        """Release the rows."""
        self._rows, self._place = None, {}

    def first_two(self) -> _GivenRows:
        """Return a loader of the first two rows (or twice the only one), as cases 0 and 1."""
        assert self._rows is not None
        inputs, targets, seeds = (torch.cat([value[:2], value[:1]])[:2] for value in self._rows)
        two = _GivenRows()
        two.give(UnitBatch(((0,), (1,))), inputs, targets, seeds)
        return two

    def batches(self, units: UnitBatch, step: int, most: int) -> Iterator[Batch]:
        """Yield the rows of the units in order, at most ``most`` at a time; a unit is never divided."""
        assert self._rows is not None
        inputs, targets, seeds = self._rows
        for part in units.microbatches(most):
            places = torch.tensor([self._place[row] for unit in part.units for row in unit])
            unit = [index for index, rows in enumerate(part.units, part.first) for _ in rows]
            on = places.to(inputs.device)
            yield Batch(inputs[on], targets[on], torch.tensor(unit, device=inputs.device), 1, seeds[places])


def _fresh_keys(deterministic_seed: int | None) -> Keys:
    """Return new secret keys, which exist only in memory.

    No step is taken twice, so a resumed run does not need the earlier keys, and a copied folder cannot repeat
    their noise.
    """
    sampling, noise = (
        randomness.private_bytes(KEY_BYTES, deterministic_seed=deterministic_seed, purpose=purpose)
        for purpose in ("sampling", "noise")
    )
    return Keys(sampling, noise)


def _structure(model: nn.Module) -> object:
    """Return everything a proof depends on: the modules, their modes, and which parameters are trained."""
    modules = tuple((name, id(part), part.training) for name, part in model.named_modules())
    return modules, tuple(name for name, value in model.named_parameters() if value.requires_grad)
