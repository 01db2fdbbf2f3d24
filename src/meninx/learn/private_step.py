"""The step with differential privacy, driven by the plan: draw, clip, account, add noise, one optimiser step."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from meninx.core import files
from meninx.core.errors import ConfigError, PrivacyRefusal, expected
from meninx.core.run import NOT_FOR_RELEASE, Run
from meninx.learn import kernels, ledger_file, optim
from meninx.learn.batches import Assembler, Batch
from meninx.learn.config import LearnConfig
from meninx.learn.distributed import current
from meninx.learn.draw import Groups, PrivateDraw, members, names, share, slices
from meninx.learn.kernels import KernelCache
from meninx.learn.keys import secret_key
from meninx.learn.private_adam import PrivateAdam
from meninx.learn.steps import StepReport
from meninx.learn.task import Objective
from meninx.learn.trainee import Trainee
from meninx.privacy import accounting
from meninx.privacy.clipping import ClippedSum
from meninx.privacy.clipping.dropout import keyed_dropout
from meninx.privacy.keystream import stream_id
from meninx.privacy.ledger import Ledger
from meninx.privacy.noise import GaussianNoise
from meninx.privacy.plan import ClippingThreshold, Plan

LOSS_POINTS = 30  # looks at the training loss, each of which costs a forward pass of its own
_LOSS_SHARE = (
    0.03  # images looked at over images trained on; a training image costs at least three forward passes
)
_LOSS_IMAGES = 8  # at least at a time: a mean over fewer says nothing


class PrivateStep:
    """The noisy clipped sum of a plan, one ledger line and one optimiser step.

    Guarantee: the optimiser sees nothing of the drawn cases but ``plan.release`` of their clipped sum, with
        the noise of this step, and only after the step is in the ledger on disk. An empty draw is such a
        step, too. Of several processes each clips its share of the drawn units, process 0 writes the line
        before it gives its share away, and the noise, which all compute alike, is added once, to the sum over
        all.

    Args:
        plan: the plan.
        run: where the ledger lies.
        assembler: makes tensors of cases.
        objective: the loss.
        physical: most images in memory at once.
        noise: of the plan, with the run's key.
        stream: name of the run's keys in the ledger.
        binding: digest of what determines a step under these keys.
        kernels: the planner and where it remembers.
        precision: ``"fp32"`` or ``"bf16"``.
        functional: paths of modules to run image by image.
    """

    def __init__(
        self, plan: Plan, run: Run, assembler: Assembler, objective: Objective, physical: int, noise: GaussianNoise, stream: str,
        *, binding: str, kernels: KernelCache, precision: str = "fp32", functional: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.plan, self.run, self.assembler, self.objective = plan, run, assembler, objective
        self.noise, self.stream, self.kernels, self.precision = noise, stream, kernels, precision
        self.binding = binding
        self.functional = functional
        self.cases = max(1, physical // assembler.views)  # at once
        self.world = current()
        self.ledger = ledger_file.read(run) if self.world.main else Ledger()
        self.ledger.verify(plan=plan)
        self.ledger.refuse_other_binding(stream, binding)

    @property
    def anchor(self) -> tuple[int, str]:
        """Number of ledger lines and hash of the last one."""
        return self.ledger.anchor

    def __call__(self, trainee: Trainee, groups: Groups, *, leave: bool = False) -> StepReport:
        """Do step ``trainee.step`` with the drawn groups of cases.

        ``leave`` says that this process was asked to stop.
        """
        model, step = trainee.model, trainee.step
        force = ClippingThreshold(value=trainee.threshold) if trainee.threshold else self.plan.threshold()
        total, looked = self._clip(model, step, groups, force)
        self._enter(step)
        leave = self._pool(total, step, groups, leave)
        self._assign(model, self.plan.release(total, self.noise, step))
        if self.plan.clipping == "adaptive" and isinstance(trainee.optimizer, PrivateAdam):
            trainee.optimizer.noise_variance = optim.noise_variance(self.plan, force.value)
        trainee.optimizer.step()
        trainee.threshold = self.plan.next_threshold(force, total, self.noise, step).value
        self.kernels.save()
        return StepReport(self._look(model, looked, step), len(groups), leave)

    def _clip(
        self, model: nn.Module, step: int, groups: Groups, force: ClippingThreshold
    ) -> tuple[ClippedSum, Batch | None]:
        """Return the clipped sum of this process's share of the drawn groups, and its first physical batch."""
        plan = self.plan
        total = ClippedSum.empty(model, max_grad_norm=force.value, n_units=len(groups))
        first, own = share(groups, self.world.rank, self.world.size)
        looked = None
        for part in slices(own, self.cases):
            batch = self.assembler(part, step, first=first)
            total = total + plan.clipped_sum(
                model, self.objective.loss, batch.images, batch.targets,
                unit_index=batch.unit, n_units=len(groups), chunk=self.cases,
                planner=self.kernels.planner, precision=self.precision, threshold=force, functional=self.functional,
                row_keys=batch.row_keys,
            )  # fmt: skip
            looked = looked or batch
            first += len(part)
        return total, looked

    def _pool(self, total: ClippedSum, step: int, groups: Groups, leave: bool) -> bool:
        """Make the gradients of ``total`` those of all processes, and return whether one of them was asked to stop.

        Nobody has the sum before process 0, which wrote the ledger, has added its own share: the sum is the
        barrier.

        Raises:
            PrivacyRefusal: a drawn unit was left out or taken twice.
        """
        gradients = [total.gradients[name] for name in sorted(total.gradients)]
        units, asked = self.world.sum_(gradients, [total.units, leave], same=(step, groups))
        if units != len(groups):
            raise PrivacyRefusal(
                expected(f"each of {len(groups)} drawn units once", got=int(units), where=f"step {step}")
            )
        if (
            self.plan.clipping == "adaptive"
        ):  # whose count asks for the norms of all; as many in every process, as just checked
            self.world.sum_([total.unit_norms])
            total.present.fill_(True)
        return asked > 0

    def epsilon(self, steps: int) -> float:
        """Return a quick upper bound on epsilon of the first ``steps`` steps.

        The exact one is the ledger's.
        """
        return accounting.epsilon([self.plan.phase(steps)], self.plan.delta, coarse=True).value

    def _enter(self, step: int) -> None:
        """Write the step into the ledger, on the disk, before anything of it is used."""
        if not self.world.main:
            return
        self.ledger = ledger_file.enter(
            self.run, self.ledger, self.plan, step, stream=self.stream, binding=self.binding
        )

    def _assign(self, model: nn.Module, gradients: dict[str, Tensor]) -> None:
        """Give every trained parameter its released gradient, and the others none."""
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name].to(parameter.dtype) if parameter.requires_grad else None

    @torch.no_grad()
    def _look(self, model: nn.Module, batch: Batch | None, step: int) -> float:
        """Return the loss of some drawn images after the step, about thirty times in a run, for the private log alone."""
        steps = self.plan.steps
        if batch is None or (step % -(-steps // LOSS_POINTS) and step != steps - 1):
            return math.nan
        budget = _LOSS_SHARE * steps * self.plan.expected_batch_size * self.assembler.views / LOSS_POINTS
        rows = slice(0, max(_LOSS_IMAGES, int(budget)))
        with keyed_dropout(model, batch.row_keys[rows]):
            return float(self.objective.loss(model(batch.images[rows]), batch.targets[rows]).mean())


def private_parts(
    config: LearnConfig,
    run: Run,
    plan: Plan,
    assembler: Assembler,
    objective: Objective,
    *,
    resumed: bool,
    bind: Callable[[str], str],
) -> tuple[PrivateDraw, PrivateStep]:
    """Return the draw and the step of a private run, with the run's secret keys, which all processes are told.

    Args:
        config: the settings.
        run: the run folder.
        plan: the privacy plan.
        assembler: makes tensors of cases.
        objective: the loss.
        resumed: the run was started before.
        bind: from the name of the run's keys to the binding of its ledger lines
            (:func:`.ledger_file.binding_of`).

    Raises:
        ConfigError: config and plan disagree on the views.
        PrivacyRefusal: fewer units than the plan's public number suggests is fine, more are not.
    """
    if plan.views != config.views:
        raise ConfigError(expected(f"views = {plan.views} as in the plan", got=config.views, where="views"))
    units = members(assembler.store.manifest, plan.unit)
    if len(units) > plan.n_units_declared:
        fix = "declare the true number of units, or more"
        got = f"{len(units)} in the training split"
        raise PrivacyRefusal(
            expected(f"at most {plan.n_units_declared} units", got=got, where="plan", fix=fix)
        )
    seed = config.seed if config.deterministic else None
    world = current()
    if world.main and config.deterministic and not (run.root / "NOT_FOR_RELEASE").exists():
        files.write_text(run.root / "NOT_FOR_RELEASE", NOT_FOR_RELEASE + "\n")
    sampling, noise = (
        world.shared_bytes(partial(secret_key, run, name, resumed=resumed, deterministic_seed=seed))
        for name in ("sampling", "noise")
    )
    draw = PrivateDraw(
        plan.sampler(sampling, len(units)), units, names(assembler.store.manifest, plan.unit), plan.sample_rate,
        config.cases_per_patient, config.seed,
    )  # fmt: skip
    stream = stream_id(sampling, noise)
    step = PrivateStep(
        plan, run, assembler, objective, config.physical_batch, plan.noise(noise), stream,
        binding=bind(stream),
        kernels=kernels.opened(assembler.device, deterministic=config.deterministic), precision=config.precision,
        functional=config.functional,
    )  # fmt: skip
    return draw, step
