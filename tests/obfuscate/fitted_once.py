"""One training for each attacker, images and seed in a test module: many tests audit the same releases.

``memory()`` keeps what ``release_attackers`` trains for one epoch. What is trained anew depends on all that
goes in: initial weights, images, targets, rows, task, seed and rate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from meninx.learn import release_attackers

FIT = release_attackers._fitted


@contextmanager
def memory() -> Iterator[None]:
    known: dict[str, Any] = {}

    def fitted(network: Any, draws: Any, targets: Any, sides: Any, task: Any, **given: Any) -> Any:
        if given["epochs"] != 1:
            return FIT(network, draws, targets, sides, task, **given)
        seal = hashlib.sha256(repr((str(network), task, sorted(_plain(given).items()))).encode())
        for value in network.state_dict().values():
            seal.update(np.ascontiguousarray(value.numpy()).tobytes())
        rows = torch.from_numpy(np.concatenate((sides.train, sides.valid)))
        for value in (draws(0), targets(rows).numpy(), sides.train, sides.valid):
            seal.update(repr((value.shape, value.dtype)).encode())
            seal.update(np.ascontiguousarray(value).tobytes())
        key = seal.hexdigest()
        if key not in known:
            known[key] = FIT(network, draws, targets, sides, task, **given)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release_attackers, "_fitted", fitted)
        yield


@contextmanager
def anew() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release_attackers, "_fitted", FIT)
        yield


def _plain(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name != "progress"}
