"""Starting from weights that were trained elsewhere: what fits by name and shape is taken, and what was taken is said."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from meninx.core import files
from meninx.core.artifacts import Ancestry, StartRecord
from meninx.core.errors import DataError, expected
from meninx.models import registry
from meninx.privacy.ledger import Ledger

_NESTS = ("state_dict", "model", "model_state_dict", "network_weights")


def known(start: StartRecord, ancestry: Ancestry) -> StartRecord:
    """Return what a network started from together with what is known of its training."""
    return replace(
        start,
        origin=ancestry.origin,
        run=ancestry.run,
        shared_patients=ancestry.shared_patients,
        composed=bool(ancestry.ledgers),
    )


def ledgers(ancestry: Ancestry) -> tuple[Ledger, ...]:
    """Return the ledgers whose cost is part of a run's.

    Raises:
        PrivacyRefusal: a line was changed.
    """
    return tuple(Ledger.parse("\n".join(lines)) for lines in ancestry.ledgers)


def initialise(model: nn.Module, path: Path, *, source: str = "", keep_head: bool = False) -> StartRecord:
    """Load what fits of a state dict into ``model`` and return what was done.

    Args:
        model: changed; its head keeps its random start unless ``keep_head``.
        path: file of ``torch.save``: a state dict, or one below ``state_dict``, ``model`` or the like.
        source: where the weights come from, in words.
        keep_head: take the last layer over too, if it has the same shape.

    Raises:
        DataError: no such file, not a state dict, or nothing in it fits.
    """
    given = {name.removeprefix("module."): value for name, value in _read(path).items()}
    head = registry.head_prefix(model)
    own = model.state_dict()
    taken = {
        name: given[name]
        for name, value in own.items()
        if name in given and given[name].shape == value.shape and (keep_head or not name.startswith(head))
    }
    if not taken:
        fix = "check that the file was saved from the same architecture"
        raise DataError(
            expected("weights that fit the model", got="none by name and shape", where=path.name, fix=fix)
        )
    model.load_state_dict({**own, **taken})
    return StartRecord(
        file=path.name,
        sha256=files.digest(path),
        source=source,
        loaded=len(taken),
        fresh=tuple(name for name in own if name not in taken),
        unused=len(set(given) - set(taken)),
        origin="unknown",
    )


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise DataError(expected("a file of pretrained weights", got="no such file", where=str(path)))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        fix = "save the state dict alone with torch.save(model.state_dict(), path)"
        raise DataError(expected("a state dict", got="something else", where=path.name, fix=fix)) from error
    for nest in _NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(nest), Mapping):
            content = content[nest]
    tensors = (
        {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise DataError(expected("a state dict", got="no tensors", where=path.name))
    return tensors
