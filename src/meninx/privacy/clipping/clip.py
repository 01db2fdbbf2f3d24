"""Clipping functions: from the norms of units to the factors of their gradients."""

from __future__ import annotations

import torch
from torch import Tensor

FUNCTIONS = ("flat", "auto-s", "per-layer")
AUTO_S_GAMMA = 0.01
_LEAST_FACTOR = 1e-30  # below, float32 would round the factor coarsely: the unit counts as not finite


def groups(parameters: dict[str, str], clipping: str) -> dict[str, int]:
    """Return the clipping group of every parameter: one for all, or one a layer.

    Args:
        parameters: full name -> path of the layer that owns it.
        clipping: one of :data:`FUNCTIONS`.
    """
    if clipping != "per-layer":
        return dict.fromkeys(parameters, 0)
    numbers = {path: number for number, path in enumerate(dict.fromkeys(parameters.values()))}
    return {name: numbers[path] for name, path in parameters.items()}


def factors(squares: Tensor, bound: float, clipping: str) -> tuple[Tensor, Tensor]:
    """Return the factor of every unit and group, and which units contribute at all.

    Args:
        squares: (units, groups) float64 squared norms.
        bound: C; each of G groups gets C / sqrt(G).
        clipping: ``"flat"`` (and ``"per-layer"``): min(1, C / norm); ``"auto-s"``: C / (norm + 0.01).

    Returns:
        (units, groups) float64 factors, 0 for units that do not contribute, and (units,) bool.

    Guarantee: the norm of a unit's gradient, each group times its factor, is at most ``bound`` up to
        rounding; a unit with a norm that is not finite, or so large that its factor has no precision,
        contributes exactly 0.

    References:
        Abadi et al. (2016), Deep Learning with Differential Privacy, Algorithm 1; McMahan et al. (2018), A
        General Approach to Adding Differential Privacy to Iterative Training Procedures, section 3
        (per-layer). Bu et al. (2023), Automatic Clipping, equation 4.2 (AUTO-S).
    """
    norms = squares.sqrt()
    share = bound / squares.shape[1] ** 0.5
    found = share / (norms + AUTO_S_GAMMA) if clipping == "auto-s" else (share / norms).clamp(max=1.0)
    keep = (torch.isfinite(norms) & (found > _LEAST_FACTOR)).all(1)
    return torch.where(keep[:, None], found, 0.0), keep
