"""Adam, AdamW and NAdam that subtract the variance of the privacy noise from the second moment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from meninx.core import check

KINDS = ("adam", "adamw", "nadam")
_MOMENTUM_DECAY = 0.004  # of NAdam, as in torch


class PrivateAdam(torch.optim.Optimizer):
    """The Adam family with ``m / sqrt(max(v - Phi, floor))`` instead of ``m / sqrt(v)``.

    Noise of variance Phi on every coordinate of the gradient adds Phi to the second moment v. Where the noise
    is larger than the signal, v is close to Phi everywhere, so Adam divides all coordinates by the same
    number and behaves like SGD. Subtracting Phi restores the second moment of the gradient. ``v - Phi`` is
    itself noisy and may be negative, so it is bounded below by ``floor_factor`` times the variance that the
    noise leaves in the numerator. For Adam this floor is

        floor_factor * Phi * (1 - b1) (1 + b1**t) / ((1 + b1) (1 - b1**t)),

    which is Phi at the first step and 0.053 Phi later (b1 = 0.9): a coordinate without signal moves by about
    one learning rate per step, as in Adam without noise. Phi, and so the floor, is public: it follows from
    the noise multiplier, the clipping threshold and the expected batch size. The result is post-processing of
    the released gradients.

    With ``noise_variance=0`` the three are torch's Adam, AdamW and NAdam.

    Args:
        params: parameters, or groups of them; those without a gradient are not changed.
        kind: ``adam`` (L2 penalty), ``adamw`` (decoupled decay) or ``nadam`` (Nesterov momentum, L2 penalty).
        lr: learning rate, > 0.
        noise_variance: Phi, variance of the noise on one coordinate of the gradient, >= 0.
        betas: decay of the first and of the second moment, in [0, 1).
        eps: added to the denominator, >= 0.
        weight_decay: >= 0.
        floor_factor: see above, > 0.

    Raises:
        ConfigError: another kind, or a number out of range.

    References:
        Tang, Shpilevskiy, Lécuyer (2024), DP-AdamBC: Your DP-Adam Is Actually DP-SGD (Unless You Apply Bias
        Correction), AAAI, Algorithm 1; the floor there is a constant to tune, here it follows from Phi. Dozat
        (2016), Incorporating Nesterov Momentum into Adam.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        kind: str = "adam",
        lr: float = 1e-3,
        noise_variance: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        floor_factor: float = 1.0,
    ) -> None:
        check.one_of(KINDS, kind=kind)
        check.positive(
            lr=lr, floor_factor=floor_factor, **{f"1 - betas[{n}]": 1 - beta for n, beta in enumerate(betas)}
        )
        check.non_negative(noise_variance=noise_variance, eps=eps, weight_decay=weight_decay)
        self.kind, self.floor_factor = kind, floor_factor
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "noise_variance": noise_variance,
        }
        super().__init__(params, defaults)

    @property
    def noise_variance(self) -> float:
        """Variance of the noise in the gradients of the next step."""
        return float(self.param_groups[0]["noise_variance"])

    @noise_variance.setter
    def noise_variance(self, value: float) -> None:
        check.non_negative(noise_variance=value)
        for group in self.param_groups:
            group["noise_variance"] = float(value)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient, and return the result of ``closure``, or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self._advance(parameter, group)
                    alike[(parameter.device, state["step"], state["noise"], state["momentum"])].append(
                        parameter
                    )
            for parameters in alike.values():
                self._update(parameters, group)
        return loss

    def _advance(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Advance the scalar part of a parameter's state by one step, and return the state."""
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state.update(step=0, noise=0.0, momentum=1.0)
            state["first"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["second"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        beta1, beta2 = group["betas"]
        state["step"] += 1
        # The noise variance changes over time with adaptive clipping, so it gets the same running average as
        # the squared gradients that contain it.
        state["noise"] = beta2 * state["noise"] + (1 - beta2) * group["noise_variance"]
        if self.kind == "nadam":
            state["momentum"] *= _momentum(beta1, state["step"])
        return state

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters with equal scalar state, in a few calls for all of them."""
        states = [self.state[parameter] for parameter in parameters]
        lr, decay, (beta1, beta2) = group["lr"], group["weight_decay"], group["betas"]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if decay and self.kind == "adamw":
            torch._foreach_mul_(parameters, 1 - lr * decay)
        elif decay:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=decay))
        first, second = [state["first"] for state in states], [state["second"] for state in states]
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        direct, averaged = self._weights(beta1, states[0])
        roots = self._roots(second, states[0], group)
        if direct:
            torch._foreach_addcdiv_(parameters, gradients, roots, -lr * direct)
        torch._foreach_addcdiv_(parameters, first, roots, -lr * averaged)

    def _weights(self, beta1: float, state: dict[str, Any]) -> tuple[float, float]:
        """Return the weights of the gradient and of its running average in the numerator."""
        if self.kind != "nadam":
            return 0.0, 1 / (1 - beta1 ** state["step"])
        now, after, product = (
            _momentum(beta1, state["step"]),
            _momentum(beta1, state["step"] + 1),
            state["momentum"],
        )
        return (1 - now) / (1 - product), after / (1 - product * after)

    def _roots(self, second: list[Tensor], state: dict[str, Any], group: dict[str, Any]) -> list[Tensor]:
        """Return the denominators: root of the corrected second moment, plus eps."""
        beta1, beta2 = group["betas"]
        whole = 1 - beta2 ** state["step"]
        roots = list(torch._foreach_div(second, whole))
        noise = state["noise"] / whole
        if noise > 0:
            direct, averaged = self._weights(beta1, state)
            # Variance of the running average for independent noise of variance 1.
            spread = (1 - beta1) * (1 - beta1 ** (2 * state["step"])) / (1 + beta1)
            share = direct**2 + 2 * direct * averaged * (1 - beta1) + averaged**2 * spread
            torch._foreach_sub_(roots, noise)
            torch._foreach_clamp_min_(roots, self.floor_factor * noise * share)
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, group["eps"])
        return roots


def _momentum(beta1: float, step: int) -> float:
    """Return NAdam's momentum of a step, counted from 1; it rises from beta1 / 2 to beta1."""
    return float(beta1 * (1 - 0.5 * 0.96 ** (step * _MOMENTUM_DECAY)))
