"""The step with differential privacy, driven by the plan: draw, clip, account, add noise, one optimiser step.

The secrets of a run are two keys, one for the draws and one for the noise. They are created once from the
operating system's entropy, stored in ``private/keys`` and never exported.

::

    keys = Keys.of(run, resumed=False)
    sampler = PrivateSampler(plan.sampler(keys.sampling, len(cases)), cases, names, plan.sample_rate)
    step = PrivateStep(plan, run, task, loader, keys, binding=digest_of_everything_else)
    Trainer(state, sampler, step).run(until=plan.steps)
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from meninx.core import files
from meninx.core.errors import DataError, PrivacyRefusal, StorageError, expected, problem
from meninx.core.run import NOT_FOR_RELEASE, Run
from meninx.learn import ledger_file, optim
from meninx.learn.batches import Batch
from meninx.learn.distributed import World
from meninx.learn.kernels import KernelCache
from meninx.learn.private_adam import PrivateAdam
from meninx.learn.sampler import PrivateSampler, Sampler, UnitBatch
from meninx.learn.state import TrainState
from meninx.learn.step import Loader, Report, StepSpent
from meninx.learn.task import Task
from meninx.learn.unit_sources import PointLoader, PointSource, Source, bound, observe
from meninx.privacy import accounting
from meninx.privacy.accounting import Phase
from meninx.privacy.clipping import ClippedSum, Planner, clipped_gradient_sum, dropout, prove
from meninx.privacy.clipping.dropout import keyed_dropout
from meninx.privacy.clipping.point_gradients import PointGradients
from meninx.privacy.clipping.precision import refuse_unbounded
from meninx.privacy.keystream import stream_id
from meninx.privacy.ledger import Ledger
from meninx.privacy.plan import ClippingThreshold, Plan

LOSS_POINTS = 30  # measurements of the training loss per run, each of which costs a forward pass
# Images in these measurements over images trained on; a training image costs at least three forward passes.
_LOSS_SHARE = 0.03
_LOSS_IMAGES = 8  # smallest number per measurement; a mean over fewer has no meaning
EPSILON_UPDATES = 20  # values of epsilon shown per run, each of which costs an accounting
# Relative rounding error of float32 gradients between batches of different sizes. A dropout mask of another
# image changes a gradient by far more.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Keys:
    """The secret keys of a private run.

    Attributes:
        sampling: 32 bytes, from which the draws follow.
        noise: 32 bytes, from which the noise follows.
    """

    sampling: bytes = field(repr=False)
    noise: bytes = field(repr=False)

    @classmethod
    def of(
        cls, run: Run, *, resumed: bool, deterministic_seed: int | None = None, world: World | None = None
    ) -> Keys:
        """Return the keys of a run, created when it begins; process 0 sends them to the others.

        Args:
            run: the run folder; the keys are in ``private/keys``.
            resumed: the run was started before.
            deterministic_seed: None for real entropy; an integer stamps the run NOT FOR RELEASE.
            world: the processes of the run.

        Raises:
            PrivacyRefusal: see :func:`secret_key`.
        """
        world = world or World()
        if world.main and deterministic_seed is not None and not (run.root / "NOT_FOR_RELEASE").exists():
            files.write_text(run.root / "NOT_FOR_RELEASE", NOT_FOR_RELEASE + "\n")
        sampling, noise = (
            world.shared_bytes(
                partial(secret_key, run, name, resumed=resumed, deterministic_seed=deterministic_seed)
            )
            for name in ("sampling", "noise")
        )
        return cls(sampling, noise)

    @property
    def stream(self) -> str:
        """Name of the keys in the ledger, which reveals nothing about them."""
        return stream_id(self.sampling, self.noise)


class ReplayRefusal(PrivacyRefusal):
    """A step was begun before from other weights: they were loaded since, or another machine rounds them."""


class PrivateStep:
    """The noisy clipped sum of a plan, one ledger line and one optimiser step.

    The parts of a step in order, with their modules::

        the drawn units of the step                       sampler, privacy.sampling
        refuse one that was begun with other weights      privacy.ledger
        tensors of the units, augmented by their keys     loader, batches, augment
        clipped sum of each physical batch                privacy.clipping.engine (layer_rules, planner)
        one line of the ledger, on the disk               ledger_file, privacy.ledger
        sum over sources and processes                    privacy.clipping.clipped_sum, distributed
        noise, and division by the expected batch size    privacy.plan, privacy.noise
        hooks see the released gradients                  trainer, hooks
        optimiser step, averages, next threshold          state.Player, optim, private_adam

    Guarantee: the optimiser receives nothing of the drawn cases except ``plan.release`` of their clipped sum,
        with the noise of this step, and only after the step is in the ledger on disk. This includes empty
        draws. With several processes, each clips its share of the drawn units, process 0 writes the line
        before it contributes its share, and the noise, which all compute identically, is added once, to the
        sum over all. Every drawn unit of every source is in the sum exactly once, or the step is refused.
        :meth:`gradients` keeps no tensor of a step except the released gradients. Weights may be loaded from
        outside between two rounds, only through ``TrainState.load_weights``; a step is begun twice only after
        the same loads.

    Args:
        plan: the plan.
        run: folder of the ledger.
        task: the loss.
        loader: makes tensors of the cases.
        keys: of the run.
        binding: digest of everything that determines a step under these keys.
        physical_batch: largest number of rows (cases times views) in memory at once.
        kernels: the planner and its file; by default the fixed rule.
        precision: ``"fp32"`` or ``"bf16"``.
        functional: paths of modules to run row by row.
        sources: further units that take part in every step.
        earlier: phases of private runs behind the starting weights, included in the epsilon that is shown.
        proved: whether the network was proved before (:func:`prove_network`); else :meth:`begin` does it.
        world: the processes of the run.
    """

    private = True

    def __init__(
        self,
        plan: Plan,
        run: Run,
        task: Task,
        loader: Loader,
        keys: Keys,
        *,
        binding: str,
        physical_batch: int = 32,
        kernels: KernelCache | None = None,
        precision: str = "fp32",
        functional: tuple[str, ...] = (),
        sources: Sequence[Source] = (),
        earlier: Sequence[Phase] = (),
        proved: bool = False,
        world: World | None = None,
    ) -> None:
        refuse_unbounded(precision)
        self.plan, self.run, self.task, self.loader = plan, run, task, loader
        self.noise, self.stream = plan.noise(keys.noise), keys.stream
        self._keys = keys
        if any(source.loader is loader for source in sources):
            why = (
                "a source of further units has the loader of the patients, whose sum would come out in "
                "the slots"
            )
            raise PrivacyRefusal(problem(why, where="PrivateStep", fix="give the source a loader of its own"))
        self.kernels = kernels or KernelCache(Planner(mode="rule"), None)
        self.precision, self.functional, self.physical_batch = precision, functional, physical_batch
        self.sources, self.earlier, self.proved = tuple(sources), tuple(earlier), proved
        self.binding = bound(binding, self.sources)
        self.world = world or World()
        self.ledger = ledger_file.read(run) if self.world.main else Ledger()
        self.ledger.verify(plan=plan)
        self.ledger.refuse_other_binding(self.stream, self.binding)
        self._entered = 0  # number of steps in the ledger when the round began
        self._torn = self.ledger.torn
        self._thresholds: tuple[float, float] = (0.0, 0.0)  # in force, and after the step

    @property
    def anchor(self) -> tuple[int, str]:
        """Number of ledger lines and hash of the last one."""
        return self.ledger.anchor

    def begin(self, state: TrainState, horizon: int, sampler: Sampler) -> None:
        """Refuse a network that fails its proof, a wrong sampler, and rates that do not end with the plan.

        Raises:
            PrivacyRefusal: one of these. The rates must end with the plan's steps because the ledger's
                binding states so; for the network see :func:`prove_network`.
        """
        if horizon != self.plan.steps:
            fix = f"give horizon={self.plan.steps}; until may be any step before it"
            rule = "a horizon of the plan's steps"
            raise PrivacyRefusal(expected(rule, got=horizon, where="Trainer.run", fix=fix))
        self._refuse_other_sampler(sampler)
        self._entered = self.world.shared(lambda: self.ledger.next_step)
        for source in self.sources:
            if isinstance(source, PointSource):
                source.loader.begin(state.model)
        if not self.proved:
            prove_network(
                state.model,
                self.task,
                self.loader,
                physical_batch=self.physical_batch,
                functional=self.functional,
            )
            self.proved = True

    def gradients(self, state: TrainState, units: UnitBatch, *, stop_requested: bool = False) -> Report:
        """Set the released gradient of step ``state.step`` on the trained parameters and None on the others.

        Raises:
            StepSpent: the step was begun before from another state, so it must not be repeated.
        """
        model, step = state.model, state.step
        threshold_now = ClippingThreshold(value=state.threshold) if state.threshold else self.plan.threshold()
        drawn = self._drawn(units, step)
        begun = self._begun_with(state, threshold_now, drawn)
        self._refuse_replay(state, begun)
        self._pass_over_spent(step, begun)
        count = sum(len(part) for part in drawn)
        parts, first_batch = [], None
        for loader, part in zip(
            [self.loader, *(source.loader for source in self.sources)], drawn, strict=True
        ):
            own, batch = self._clip(model, step, loader, part, count, threshold_now)
            parts.append(own)
            first_batch = first_batch or (batch if loader is self.loader else None)
        total = parts[0]
        for part_sum in parts[1:]:
            total = total + part_sum
        loss = self._look(model, first_batch, step)
        # The line is on disk before anything derived from the data leaves this process: a crash from here on
        # costs a step that was not used, never a step that was used and not charged.
        self._enter(step, begun)
        stop_requested = self._pool(total, parts[1:], step, drawn, stop_requested)
        self._assign(model, self.plan.release(total, self.noise, step))
        after = self.plan.next_threshold(threshold_now, total, self.noise, step)
        self._thresholds = threshold_now.value, after.value
        self.kernels.save()
        metrics = {"loss": loss, "epsilon": self.epsilon_ahead(step + 1)}
        slots = self._slots(total, parts[1:], drawn)
        observe(model, self.sources, total, slots, self.plan.expected_batch_size)
        return Report(metrics, len(units), stop_requested, slots)

    def update(self, state: TrainState) -> None:
        """Do one optimiser step with the released gradient, and move the clipping threshold."""
        now, after = self._thresholds
        optimizer = state.player.optimizer
        if self.plan.clipping == "adaptive" and isinstance(optimizer, PrivateAdam):
            optimizer.noise_variance = optim.noise_variance(self.plan, now)
        state.player.update()
        state.threshold = after

    def epsilon_ahead(self, steps: int) -> float:
        """Return epsilon at the next of a few fixed steps, for the display.

        It is never below what is spent, and cheap because only a few values are computed. The ledger has the
        exact value.
        """
        stride = max(1, self.plan.steps // EPSILON_UPDATES)
        ahead = min(self.plan.steps, math.ceil(steps / stride) * stride) + self._torn
        return accounting.epsilon([self.plan.phase(ahead), *self.earlier], self.plan.delta, coarse=True).value

    def _drawn(self, units: UnitBatch, step: int) -> list[UnitBatch]:
        """Return the units of all sources, each with its own slots: first the cases', then the others."""
        drawn = [units]
        for source in self.sources:
            drawn.append(UnitBatch(source.sampler(step).units, first=drawn[-1].first + len(drawn[-1])))
        return drawn

    def _clip(
        self,
        model: nn.Module,
        step: int,
        loader: Loader | PointLoader,
        units: UnitBatch,
        count: int,
        threshold_now: ClippingThreshold,
    ) -> tuple[ClippedSum, Batch | None]:
        """Return the clipped sum of this process's share of one source's units, and its first microbatch.

        Args:
            model: the network.
            step: optimiser step.
            loader: of the source.
            units: drawn units of the source.
            count: drawn units of all sources.
            threshold_now: clipping threshold in force.
        """
        total = ClippedSum.empty(model, max_grad_norm=threshold_now.value, n_units=count)
        most = max(1, self.physical_batch // loader.views)
        first = None
        for batch in loader.batches(units.share(self.world.rank, self.world.size), step, most):
            if isinstance(batch, PointGradients):
                total = total + self.plan.clipped_points(
                    model,
                    batch,
                    n_units=count,
                    precision=self.precision,
                    threshold=threshold_now,
                    functional=self.functional,
                )
                continue
            total = total + self.plan.clipped_sum(
                model,
                self.task.loss,
                batch.inputs,
                batch.targets,
                unit_index=batch.unit,
                n_units=count,
                chunk=most,
                planner=self.kernels.planner,
                precision=self.precision,
                threshold=threshold_now,
                functional=self.functional,
                row_keys=batch.row_keys,
            )
            first = first or batch
        return total, first

    def _pool(
        self,
        total: ClippedSum,
        parts: Sequence[ClippedSum],
        step: int,
        drawn: Sequence[UnitBatch],
        stop_requested: bool,
    ) -> bool:
        """Sum the gradients of ``total`` over all processes, and return whether one was asked to stop.

        The sum acts as a barrier: no process has it before process 0, which wrote the ledger line, has added
        its share.

        Raises:
            PrivacyRefusal: a drawn unit is missing or was included twice.
        """
        gradients = [total.gradients[name] for name in sorted(total.gradients)]
        slots = [slice(part.first, part.first + len(part)) for part in drawn]
        present = torch.stack([total.present[slot].sum() for slot in slots]).tolist()
        same = (step, *drawn)
        *counts, requests = self.world.all_reduce(gradients, [*present, stop_requested], same=same)
        for count, part in zip(counts, drawn, strict=True):
            if count != len(part):
                rule = f"each of {len(part)} drawn units once"
                raise PrivacyRefusal(expected(rule, got=int(count), where=f"step {step}"))
        for own in parts:  # these units are no patients, so their sums may be shown, in every process alike
            self.world.all_reduce([own.gradients[name] for name in sorted(own.gradients)])
        if self.plan.clipping == "adaptive" or parts:
            # Adaptive clipping counts the units within the threshold, and an audit needs the norms of its own
            # units: both need the norms of all processes. The counts above show that every unit is present.
            self.world.all_reduce([total.unit_norms])
            total.present.fill_(True)
        return requests > 0

    def _slots(
        self, total: ClippedSum, parts: Sequence[ClippedSum], drawn: Sequence[UnitBatch]
    ) -> dict[str, ClippedSum]:
        """Return the part of the sum that each further source contributed; never that of the patients."""
        return {
            source.name: ClippedSum(
                gradients=own.gradients,
                unit_norms=total.unit_norms[part.first : part.first + len(part)].clone(),
                present=total.present[part.first : part.first + len(part)].clone(),
                sensitivity=own.sensitivity,
            )
            for source, own, part in zip(self.sources, parts, drawn[1:], strict=True)
        }

    def _refuse_replay(self, state: TrainState, begun: str) -> None:
        """Refuse to repeat a step after other weights were loaded.

        After a crash a step is repeated with the same noise. This costs nothing only if everything else is
        the same, too; with other weights the difference of the two releases would contain no noise. A round
        that continues from a checkpoint has the same loads, which the state in the ledger's line confirms.
        """
        begun_before = state.loads and state.step < self.ledger.next_step
        if self.world.main and begun_before and not self.ledger.began(self.stream, state.step, begun):
            fix = f"continue with state.step = {self.ledger.next_step}; the steps in between stay accounted"
            rule = "a step that was not begun before, because weights came in from outside"
            raise ReplayRefusal(expected(rule, got=f"step {state.step} again", where="ledger", fix=fix))

    def _refuse_other_sampler(self, sampler: Sampler) -> None:
        """Refuse any sampler except the plan's own under the run's key, which is the one accounted for."""
        if not isinstance(sampler, PrivateSampler):
            got = type(sampler).__name__
            raise PrivacyRefusal(
                expected("a PrivateSampler", got=got, where="Trainer", fix="see Plan.sampler")
            )
        accounted = self.plan.sampler(self._keys.sampling, len(sampler.members))
        if sampler.draw != accounted or sampler.sample_rate != self.plan.sample_rate:
            why = "the sampler has another rate, kind, key or number of units than the plan accounts for"
            raise PrivacyRefusal(
                problem(why, where="Trainer", fix="make it with plan.sampler and the run's key")
            )
        cases = [case for unit in sampler.members for case in unit]
        if len(set(cases)) != len(cases):
            raise PrivacyRefusal(problem("a case belongs to two units of the sampler", where="Trainer"))

    def _begun_with(
        self, state: TrainState, threshold_now: ClippingThreshold, drawn: Sequence[UnitBatch]
    ) -> str:
        """Return a keyed digest of the weights, the threshold and the drawn units at the start of the step.

        A step that is repeated under the same noise must start from the same state, which the ledger
        compares. Sums over the bits detect random changes but not deliberate ones, so the digest also
        contains the SHA-256 of weights that were loaded from outside. It is keyed because it depends on
        private data and the ledger is not secret.
        """
        if not self.world.main:
            return ""
        text = json.dumps([threshold_now.value, [part.units for part in drawn]])
        code = hmac.new(self._keys.noise, b"begun with\0" + text.encode() + b"\0", hashlib.sha256)
        code.update(state.loaded.encode())
        sums = [total for value in state.model.state_dict().values() for total in _bit_sums(value)]
        if sums:  # a single copy from the device, for any number of tensors
            code.update(torch.cat([value.to(sums[0].device) for value in sums]).cpu().numpy().tobytes())
        return code.hexdigest()[:32]

    def _pass_over_spent(self, step: int, begun: str) -> None:
        """Raise StepSpent for a step that was begun before with other weights, threshold or units.

        After a crash, steps are repeated from the last checkpoint. On another machine or with another number
        of processes, rounding leads to other weights, and the same noise must not cover their gradients. Such
        steps stay charged and are skipped.
        """
        if step >= self._entered:
            return
        free = self.world.shared(
            lambda: 0 if self.ledger.repeats(self.stream, step, begun) else self.ledger.next_step
        )
        if free:
            raise StepSpent(free)

    def _enter(self, step: int, state: str) -> None:
        """Write the step into the ledger on disk before any result of it is used."""
        if not self.world.main:
            return
        self.ledger = ledger_file.enter(
            self.run, self.ledger, self.plan, step, stream=self.stream, binding=self.binding, state=state
        )

    def _assign(self, model: nn.Module, gradients: dict[str, Tensor]) -> None:
        """Set the released gradient of every trained parameter, and None for the others."""
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name].to(parameter.dtype) if parameter.requires_grad else None

    @torch.no_grad()
    def _look(self, model: nn.Module, batch: Batch | None, step: int) -> float:
        """Return the loss of some drawn images before the step, for the private log only.

        It is computed about thirty times per run and NaN otherwise. The images of the step depend on the
        secret draw, so the number must not leave ``private/``.
        """
        steps = self.plan.steps
        if batch is None or (step % -(-steps // LOSS_POINTS) and step != steps - 1):
            return math.nan
        budget = _LOSS_SHARE * steps * self.plan.expected_batch_size * self.loader.views / LOSS_POINTS
        rows = slice(0, max(_LOSS_IMAGES, int(budget)))
        with keyed_dropout(model, batch.row_keys[rows]):
            return float(self.task.loss(model(batch.inputs[rows]), batch.targets[rows]).mean())


def _bit_sums(value: Tensor) -> list[Tensor]:
    """Return exact sums over the bits of a tensor arranged as a square: by column, by row, and the remainder.

    Integer sums do not depend on the order, so every device gives the same result, without copying all
    weights to the CPU. Changed or exchanged weights have the same sums only if the changes cancel in every
    row and in every column.
    """
    plain = torch.view_as_real(value) if value.is_complex() else value
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = plain.detach().contiguous().view(-1).view(kinds[plain.element_size()])
    width = max(1, math.isqrt(bits.numel()))
    square = bits[: bits.numel() // width * width].view(-1, width)
    rest = bits[square.numel() :].to(torch.int64)
    return [square.sum(0, dtype=torch.int64), square.sum(1, dtype=torch.int64), rest]


def prove_network(
    network: nn.Module,
    task: Task,
    loader: Loader,
    *,
    physical_batch: int,
    functional: tuple[str, ...] = (),
    cases: int = 2,
) -> None:
    """Refuse a network for which the engine does not compute the true gradients of single images.

    The test images are random noise of the loader's shapes, so the test reveals nothing about patients.

    Args:
        network: in training mode and with the frozen parameters of the run.
        task: the loss.
        loader: provides the shapes.
        physical_batch: largest number of rows in memory at once.
        functional: paths of modules to run row by row.
        cases: number of cases in the training split.

    Raises:
        PrivacyRefusal: rows interact, share random numbers, or have gradients that the engine misses.
    """
    some = UnitBatch(tuple((case,) for case in range(min(2, cases))))
    batch = next(iter(loader.batches(some, 0, 2)))
    given = batch.inputs[:2]
    images = torch.randn_like(given) if given.is_floating_point() else given
    targets, keys = batch.targets[:2], batch.row_keys[:2]

    def summed(rows: slice) -> Tensor:
        """Return the sum of some images' gradients in training mode, with dropout.

        :func:`~meninx.privacy.clipping.proof.prove` switches keyed dropout off, so this covers it.
        """
        units = torch.arange(len(keys[rows]))
        total = clipped_gradient_sum(
            network,
            task.loss,
            images[rows],
            targets[rows],
            unit_index=units,
            n_units=len(units),
            max_grad_norm=1e9,
            functional=functional,
            row_keys=keys[rows],
        )
        return torch.cat([value.flatten() for value in total.gradients.values()])

    whole = summed(slice(None))
    most = min(max(physical_batch, loader.views), cases * loader.views)
    prove(network, task.loss, images, targets, functional=functional, physical=most)
    alone = [summed(slice(row, row + 1)) for row in range(len(images))]
    if not float((whole - sum(alone)).norm()) <= _ROUNDING * sum(float(part.norm()) for part in alone):
        if any(dropout.active(module) for module in network.modules()):
            wrong, where = "the dropout masks of an image depend on the other images", "dropout layers"
            fix = (
                "keep the images of a batch along the first axis of the input of dropout layers, or set "
                "its rate to 0"
            )
        else:
            wrong, where = (
                "in training mode the gradients of an image depend on the other images",
                "the network",
            )
            fix = "draw random numbers in nn.Dropout layers only"
        raise PrivacyRefusal(problem(wrong, where=where, fix=fix))


def secret_key(run: Run, purpose: str, *, resumed: bool, deterministic_seed: int | None = None) -> bytes:
    """Return the run's key for one purpose, created when the run begins.

    Args:
        run: the run folder; the key is in ``private/keys`` with mode 0600.
        purpose: ``sampling`` or ``noise``.
        resumed: the run was started before, so the key must exist; otherwise it must not.
        deterministic_seed: None for real entropy; an integer only in a run stamped NOT FOR RELEASE.

    Raises:
        PrivacyRefusal: the key of a resumed run is missing or was changed, or a new run already has one.
    """
    exists = run.key_path(purpose).is_file()
    if exists and not resumed:  # the key may have covered steps that no ledger lists
        fix = "restore private/ledger.jsonl from a backup, or start a new run"
        raise PrivacyRefusal(
            problem(f"there is a {purpose} key, but no ledger", where="private/keys", fix=fix)
        )
    fix = "restore private/keys from a backup, or start a new run"
    if resumed and not exists:
        raise PrivacyRefusal(
            problem(f"the {purpose} key of the run is missing", where="private/keys", fix=fix)
        )
    try:
        return run.key(purpose, seed=deterministic_seed)
    except StorageError:
        raise
    except DataError as error:
        raise PrivacyRefusal(f"the {purpose} key in private/keys was changed; {fix}") from error
