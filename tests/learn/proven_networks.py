"""One proof for each packaged network and shape in a process: many tests train the same networks.

The proof before a private run (:func:`~meninx.learn.dp_step.prove_network`) compares the gradients of a
network in float64 and takes a quarter of the time of a small run. Here it is made once for all runs with the
same layers, sizes and loss, and no larger a batch. A network with code of a test's own is proved every time.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

    from meninx.learn.step import Loader

PACKAGED = ("meninx.models.", "torch.nn.modules.", "monai.networks.")
PROVED: dict[Hashable, int] = {}  # what was proved -> most rows of a batch in its proofs


@contextmanager
def proved_once() -> Iterator[None]:
    """Let private runs prove a packaged network once in this process, where their modules are loaded."""
    assemble = sys.modules.get("meninx.learn.assemble")
    with pytest.MonkeyPatch.context() as patch:
        if assemble is not None:
            prove = assemble.prove_network

            def once(network: nn.Module, task: Any, loader: Loader, **given: Any) -> None:
                key, rows = _key(network, task, loader, **given)
                if key is None or PROVED.get(key, 0) < rows:
                    prove(network, task, loader, **given)
                    PROVED[key] = rows

            patch.setattr(assemble, "prove_network", once)
        yield


def _key(
    network: nn.Module,
    task: Any,
    loader: Loader,
    *,
    physical_batch: int,
    functional: tuple[str, ...],
    cases: int,
) -> tuple[Hashable | None, int]:
    """Return what a proof depends on, None where a module is not a packaged one, and its rows in a batch."""
    from meninx.learn.sampler import UnitBatch

    rows = min(max(physical_batch, loader.views), cases * loader.views)
    if not all(type(module).__module__.startswith(PACKAGED) for module in network.modules()):
        return None, rows
    batch = next(iter(loader.batches(UnitBatch(((0,),)), 0, 1)))
    parts = [*network.named_parameters(), *network.named_buffers()]
    key = (
        str(network),
        tuple((name, tuple(part.shape), part.requires_grad, str(part.dtype)) for name, part in parts),
        tuple(module.training for module in network.modules()),
        repr(task),
        tuple((tuple(part.shape[1:]), str(part.dtype)) for part in (batch.inputs, batch.targets)),
        str(batch.inputs.device),
        functional,
        min(2, cases),
    )
    return key, rows
