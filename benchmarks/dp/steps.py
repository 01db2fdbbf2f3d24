"""One training step of every engine: forward, backward, clip, noise, SGD with momentum.

None does less than another.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from opacus.grad_sample import (
    GradSampleModule,
    GradSampleModuleExpandedWeights,
    GradSampleModuleFastGradientClipping,
)
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import Tensor
from torch.func import functional_call, grad, vmap

from dp.setup import FORMATS, Setup
from meninx.core.budget import PrivacyUnit
from meninx.privacy import clipping
from meninx.privacy.noise import GaussianNoise
from meninx.privacy.plan import Plan

Step = Callable[[], None]
MAX_GRAD_NORM = 1.0
NOISE_MULTIPLIER = 1.0
_NOISE = {"noise_multiplier": NOISE_MULTIPLIER, "max_grad_norm": MAX_GRAD_NORM}


def sgd(setup: Setup, planner: object = None) -> Step:
    """Return the non-private step."""

    def step() -> None:
        setup.losses(setup.model).mean().backward()
        setup.optimizer.step()
        setup.optimizer.zero_grad(set_to_none=True)

    return step


def new_planner() -> object:
    """Return a planner that measures and knows nothing yet."""
    return clipping.Planner(mode="measure")


def ours(setup: Setup, planner: object = None) -> Step:
    """Return meninx's step: clipped sum, noise and release of a plan, then SGD."""
    records = setup.case.batch // setup.case.views
    plan = Plan.build(
        n_units=10_000,
        expected_batch_size=records,
        unit=PrivacyUnit.CASE,
        steps=10_000,
        delta=1e-5,
        views=setup.case.views,
        **_NOISE,
    )
    clipped = _clipped_sum(plan, setup.precision, planner)
    noise = plan.noise(bytes(range(32)))
    unit = torch.arange(records, device=setup.device)
    named = dict(setup.model.named_parameters())
    count = 0

    def step() -> None:
        nonlocal count
        total = clipped(
            setup.model, setup.loss, setup.images, setup.targets, unit_index=unit, n_units=records
        )
        for name, value in plan.release(total, noise, count).items():
            named[name].grad = value
        setup.optimizer.step()
        setup.optimizer.zero_grad(set_to_none=True)
        count += 1

    return step


def noise_alone(setup: Setup) -> Step:
    """Return the part of our step that draws the noise and adds it."""
    noise = GaussianNoise(key=bytes(range(32)), std=NOISE_MULTIPLIER * MAX_GRAD_NORM)
    zeros = {name: torch.zeros_like(value) for name, value in setup.model.named_parameters()}

    def step() -> None:
        noise.add(zeros, 0)

    return step


def _clipped_sum(plan: Plan, precision: str, planner: object) -> Callable[..., Any]:
    """Return the plan's clipped sum, computed by the engine with this planner and precision."""
    wanted = {} if planner is None else {"planner": planner}
    if precision != "fp32":
        wanted["precision"] = precision
    direct = partial(
        clipping.clipped_gradient_sum,
        max_grad_norm=plan.max_grad_norm,
        clipping=plan.clipping,
        views=plan.views,
    )
    for function in (plan.clipped_sum, direct):
        if wanted.keys() <= inspect.signature(function).parameters.keys():
            return partial(function, **wanted)
    raise NotImplementedError(f"the engine takes no {' or '.join(wanted)}")


def opacus(setup: Setup, planner: object = None, *, mode: str) -> Step:
    """Return the step of an Opacus mode with a fixed batch: hooks, functorch or ew."""
    model: Any
    if mode == "ew":
        model = GradSampleModuleExpandedWeights(setup.model)
    else:
        model = GradSampleModule(setup.model, force_functorch=mode == "functorch")
    optimizer = DPOptimizer(setup.optimizer, expected_batch_size=setup.case.batch, **_NOISE)

    def step() -> None:
        setup.losses(model).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def opacus_ghost(setup: Setup, planner: object = None) -> Step:
    """Return the step of Opacus' ghost clipping: two backward passes."""
    model = GradSampleModuleFastGradientClipping(
        setup.model, max_grad_norm=MAX_GRAD_NORM, use_ghost_clipping=True
    )
    optimizer = DPOptimizerFastGradientClipping(
        setup.optimizer, expected_batch_size=setup.case.batch, **_NOISE
    )

    def step() -> None:
        DPTensorFastGradientClipping(model, optimizer, setup.losses(model), "mean").backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def whole_model(setup: Setup, planner: object = None) -> Step:
    """Return the step of torch's tutorial: vmap of grad over the whole model, then clip and noise."""
    named = dict(setup.model.named_parameters())

    def loss_of_one(weights: dict[str, Tensor], image: Tensor, target: Tensor) -> Tensor:
        with setup.autocast():
            output = functional_call(setup.model, weights, (image.unsqueeze(0),))
        return setup.loss(output, target.unsqueeze(0)).sum()

    per_sample = vmap(grad(loss_of_one), in_dims=(None, 0, 0))

    def step() -> None:
        weights = {name: value.detach() for name, value in named.items()}
        gradients = per_sample(weights, setup.images, setup.targets)
        norms = torch.stack([value.flatten(1).norm(dim=1) for value in gradients.values()]).norm(dim=0)
        factor = (MAX_GRAD_NORM / (norms + 1e-6)).clamp(max=1.0)
        for name, parameter in named.items():
            total = torch.einsum("i,i...->...", factor, gradients[name])
            total = total + torch.normal(
                0.0, NOISE_MULTIPLIER * MAX_GRAD_NORM, total.shape, device=total.device
            )
            parameter.grad = total / setup.case.batch
        setup.optimizer.step()
        setup.optimizer.zero_grad(set_to_none=True)

    return step


STEPS: dict[str, Callable[..., Step]] = {
    "sgd": sgd,
    "ours": ours,
    "hooks": partial(opacus, mode="hooks"),
    "functorch": partial(opacus, mode="functorch"),
    "ew": partial(opacus, mode="ew"),
    "ghost": opacus_ghost,
    "torch.func": whole_model,
}


def formats(variant: str, dims: int) -> tuple[str, ...]:
    """Return the memory formats in which a variant's gradients are right.

    Opacus 1.6 takes patches of a 2-D image by strides that hold for contiguous images only: with
    channels_last images its hooks and ghost clipping return other gradients, without an error.
    """
    return ("contiguous",) if dims == 2 and variant in ("hooks", "ghost") else FORMATS


def quiet() -> None:
    """Silence the peers' warnings, which say nothing about time."""
    warnings.filterwarnings("ignore")
