"""Checks of the arguments of :func:`meninx.privacy.training`, before any of them is used.

Every refusal is a :class:`~meninx.core.errors.ConfigError` that names the argument. Values that may name a
patient are not quoted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from meninx.core import check, setting_types
from meninx.core.budget import PrivacyUnit
from meninx.core.errors import ConfigError, expected, problem
from meninx.core.setting_types import Count, Positive

WHERE = "privacy.training"
MECHANISM = ("clipping", "clip_quantile", "clip_rate", "count_noise_multiplier", "noise_bands")
"""Fields of the plan that ``training`` passes on; its own arguments determine the others."""

_TYPES: Mapping[str, Any] = {
    "delta": float,
    "batch": Positive,
    "epsilon": Positive | None,
    "noise_multiplier": Positive | None,
    "steps": Count | None,
    "epochs": Positive | None,
    "rows": Count | None,
    "declared_units": Count | None,
    "max_grad_norm": Positive,
    "physical_batch": Count,
    "save_every": Count,
    "functional": tuple[str, ...],
    "resume": bool,
    "deterministic_seed": int | None,
    "clipping": str,
    "clip_quantile": float | None,
    "clip_rate": Positive | None,
    "count_noise_multiplier": Positive | None,
    "noise_bands": Count,
}


def checked(settings: Mapping[str, Any], own: Iterable[str]) -> dict[str, Any]:
    """Return settings converted to their types.

    Args:
        settings: name -> value, including those of the plan's mechanism.
        own: names of all arguments of ``training``, to suggest one after a typing error.

    Raises:
        ConfigError: a name is unknown, or a value has another type or is out of range.
    """
    result = {}
    for name, value in settings.items():
        if name not in _TYPES:
            known = sorted({*own, *MECHANISM})
            fix = check.did_you_mean(name, known) or f"beside the arguments there are {', '.join(MECHANISM)}"
            raise ConfigError(expected(f"an argument of {WHERE}", got=repr(name), where=WHERE, fix=fix))
        plain = value.item() if isinstance(value, np.generic) else value
        result[name] = setting_types.convert(_TYPES[name], plain, f"{WHERE}: {name}", name)
    return result


def folder_of(run: object) -> Path:
    """Return the run folder as an absolute path.

    Raises:
        ConfigError: the argument is not a path.
    """
    if not isinstance(run, str | os.PathLike) or not isinstance(os.fspath(run), str) or not str(run).strip():
        got = type(run).__name__ if not isinstance(run, str) else "an empty text"
        raise ConfigError(expected("the path of a folder", got=got, where=f"{WHERE}: run"))
    return Path(run).resolve()


def refuse_wrong_parts(model: object, optimizer: object, loss: object) -> None:
    """Refuse a network, an optimiser or a loss that cannot take a private step.

    Raises:
        ConfigError: one of them is a class or of another type; the optimiser needs a closure; the network has
            no trainable parameter, or is on several devices or on none.
    """
    for name, value, kind in (("model", model, nn.Module), ("optimizer", optimizer, torch.optim.Optimizer)):
        if not isinstance(value, kind):
            got = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
            fix = f"call it: {value.__name__}(...)" if isinstance(value, type) else ""
            rule = f"an object of torch's {kind.__name__}"
            raise ConfigError(expected(rule, got=got, where=f"{WHERE}: {name}", fix=fix))
    if isinstance(optimizer, torch.optim.LBFGS):
        fix = "use SGD, Adam or another optimiser that takes one gradient per step"
        why = "LBFGS evaluates the loss several times per step, which is not accounted"
        raise ConfigError(problem(why, where=f"{WHERE}: optimizer", fix=fix))
    if isinstance(loss, type) or not callable(loss):
        got = f"the class {loss.__name__}" if isinstance(loss, type) else type(loss).__name__
        fix = 'e.g. torch.nn.CrossEntropyLoss(reduction="none")'
        raise ConfigError(
            expected("a function (outputs, targets) -> losses", got=got, where=f"{WHERE}: loss", fix=fix)
        )
    assert isinstance(model, nn.Module)
    assert isinstance(optimizer, torch.optim.Optimizer)
    _refuse_scattered(model)
    _refuse_other_optimizer(model, optimizer)


def _refuse_scattered(model: nn.Module) -> None:
    devices = sorted({str(value.device) for value in (*model.parameters(), *model.buffers())})
    if not any(value.requires_grad for value in model.parameters()):
        fix = "leave requires_grad on for the layers to train"
        raise ConfigError(problem("the network has no parameter to train", where=f"{WHERE}: model", fix=fix))
    if len(devices) != 1 or devices == ["meta"]:
        fix = "move it with model.to(device) before the optimiser is made"
        rule = "a network whose parameters and buffers lie on one device"
        raise ConfigError(expected(rule, got=" and ".join(devices), where=f"{WHERE}: model", fix=fix))


def _refuse_other_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimiser that does not update exactly the trainable parameters of the network."""
    moved = {id(value) for group in optimizer.param_groups for value in group["params"]}
    trained = {id(value) for value in model.parameters() if value.requires_grad}
    if moved - {id(value) for value in model.parameters()}:
        fix = "make the optimiser after the network was converted"
        why = "the optimizer holds parameters that are not of the network"
        raise ConfigError(problem(why, where=WHERE, fix=fix))
    if trained - moved:
        fix = "freeze the others with requires_grad_(False), or give them to the optimizer"
        why = "the optimizer leaves out trainable parameters of the network, which would be clipped, too"
        raise ConfigError(problem(why, where=WHERE, fix=fix))


def grouped(
    units: object, rows: int | None
) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...], PrivacyUnit]:
    """Return the rows of each unit, the units' names and the kind of unit.

    Args:
        units: name of the patient of each row; None if every row is a unit.
        rows: number of rows if ``units`` is None.

    Raises:
        ConfigError: neither or both are given, there is no row, or a row has no name.
    """
    if (units is None) == (rows is None):
        raise ConfigError(f"{WHERE}: give units (a patient for each row), or rows (every row is a unit)")
    if units is None:
        names = tuple(str(row) for row in range(rows or 0))
        members: dict[str, list[int]] = {name: [row] for row, name in enumerate(names)}
        unit = PrivacyUnit.CASE
    else:
        members, unit = {}, PrivacyUnit.PATIENT
        for row, name in enumerate(_listed(units)):
            if name is None or name == "" or (isinstance(name, float) and math.isnan(name)):
                fix = "leave the row out, or name its patient"
                raise ConfigError(problem(f"row {row} has no unit", where=f"{WHERE}: units", fix=fix))
            if not isinstance(name, str | int | float):
                rule = f"a text or a number for row {row}"
                raise ConfigError(expected(rule, got=type(name).__name__, where=f"{WHERE}: units"))
            members.setdefault(str(name), []).append(row)
    if not members:
        raise ConfigError(f"{WHERE}: there is no row to train on")
    return tuple(tuple(own) for own in members.values()), tuple(members), unit


def _listed(units: object) -> list[Any]:
    """Return the units as a list, in the order of the rows."""
    if isinstance(units, Tensor | np.ndarray) and units.ndim == 1:
        return list(units.tolist())
    ordered = hasattr(units, "__len__") and hasattr(units, "__getitem__")
    if not ordered or isinstance(units, str | bytes | Mapping | Tensor | np.ndarray):
        fix = "rows=N makes every row a unit" if isinstance(units, int) else ""
        rule = "a list with one patient per row"
        raise ConfigError(expected(rule, got=type(units).__name__, where=f"{WHERE}: units", fix=fix))
    return [item.item() if isinstance(item, np.generic) else item for item in units]  # type: ignore[attr-defined]
