"""The step with differential privacy, driven by the plan: draw, clip, account, add noise, one optimiser step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from meninx.core import files
from meninx.core.errors import ConfigError, PrivacyRefusal, expected
from meninx.core.run import NOT_FOR_RELEASE, Run
from meninx.learn import ledger_file
from meninx.learn.batches import Assembler, Batch
from meninx.learn.config import LearnConfig
from meninx.learn.draw import Groups, PrivateDraw, members, slices
from meninx.learn.keys import secret_key
from meninx.learn.steps import StepReport
from meninx.learn.task import Objective
from meninx.learn.trainee import Trainee
from meninx.privacy import accounting
from meninx.privacy.clipping import ClippedSum
from meninx.privacy.keystream import stream_id
from meninx.privacy.noise import GaussianNoise
from meninx.privacy.plan import Plan

LOSS_EVERY = 10  # steps between looks at the training loss, which costs a forward pass of its own


class PrivateStep:
    """The noisy clipped sum of a plan, one ledger line and one optimiser step.

    Guarantee: the optimiser sees nothing of the drawn cases but ``plan.release`` of their clipped sum, with the noise
        of this step, and only after the step is in the ledger on disk. An empty draw is such a step, too.

    Args:
        plan: the plan.
        run: where the ledger lies.
        assembler: makes tensors of cases.
        objective: the loss.
        physical: most images in memory at once.
        noise: of the plan, with the run's key.
        stream: name of the run's keys in the ledger.
    """

    def __init__(
        self, plan: Plan, run: Run, assembler: Assembler, objective: Objective, physical: int, noise: GaussianNoise, stream: str
    ) -> None:
        self.plan, self.run, self.assembler, self.objective = plan, run, assembler, objective
        self.physical, self.noise, self.stream = physical, noise, stream
        self.ledger = ledger_file.read(run)
        self.ledger.verify(plan=plan)

    @property
    def anchor(self) -> tuple[int, str]:
        """Number of ledger lines and hash of the last one."""
        return self.ledger.anchor

    def __call__(self, trainee: Trainee, groups: Groups) -> StepReport:
        """Do step ``trainee.step`` with the drawn groups of cases."""
        plan, model, step = self.plan, trainee.model, trainee.step
        total = ClippedSum.empty(model, max_grad_norm=plan.max_grad_norm, n_units=len(groups))
        first, looked = 0, None
        for part in slices(groups, max(1, self.physical // self.assembler.views)):
            batch = self.assembler(part, step, first=first)
            total = total + plan.clipped_sum(
                model, self.objective.loss, batch.images, batch.targets, unit_index=batch.unit, n_units=len(groups)
            )
            looked = looked or batch
            first += len(part)
        self._enter(step)
        self._assign(model, plan.release(total, self.noise, step))
        trainee.optimizer.step()
        return StepReport(self._look(model, looked, step), len(groups))

    def epsilon(self, steps: int) -> float:
        """Return a quick upper bound on epsilon of the first ``steps`` steps; the exact one is the ledger's."""
        return accounting.epsilon([self.plan.phase(steps)], self.plan.delta, coarse=True).value

    def _enter(self, step: int) -> None:
        """Write the step into the ledger, on the disk, before anything of it is used."""
        self.ledger = ledger_file.enter(self.run, self.ledger, self.plan, step, stream=self.stream)

    def _assign(self, model: nn.Module, gradients: dict[str, Tensor]) -> None:
        """Give every trained parameter its released gradient, and the others none."""
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name].to(parameter.dtype) if parameter.requires_grad else None

    @torch.no_grad()
    def _look(self, model: nn.Module, batch: Batch | None, step: int) -> float:
        """Return the loss of one physical batch after the step, now and then, for the private log alone."""
        if batch is None or step % LOSS_EVERY:
            return math.nan
        return float(self.objective.loss(model(batch.images), batch.targets).mean())


def private_parts(
    config: LearnConfig, run: Run, plan: Plan, assembler: Assembler, objective: Objective, *, resumed: bool
) -> tuple[PrivateDraw, PrivateStep]:
    """Return the draw and the step of a private run, with the run's secret keys.

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
        raise PrivacyRefusal(expected(f"at most {plan.n_units_declared} units", got=got, where="plan", fix=fix))
    seed = config.seed if config.deterministic else None
    if config.deterministic and not (run.root / "NOT_FOR_RELEASE").exists():
        files.write_text(run.root / "NOT_FOR_RELEASE", NOT_FOR_RELEASE + "\n")
    sampling = secret_key(run, "sampling", resumed=resumed, deterministic_seed=seed)
    noise = secret_key(run, "noise", resumed=resumed, deterministic_seed=seed)
    draw = PrivateDraw(plan.sampler(sampling, len(units)), units, plan.sample_rate, config.cases_per_patient, config.seed)
    stream = stream_id(sampling, noise)
    return draw, PrivateStep(plan, run, assembler, objective, config.physical_batch, plan.noise(noise), stream)
