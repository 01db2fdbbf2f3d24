"""The privacy ledger on disk: verified when read, extended by one durable line at a time.

It is bound to what determines a step.
"""

from __future__ import annotations

import hashlib
import json
import os

from torch import nn

from meninx.core import files, settings
from meninx.core.manifest import Manifest, dataset_digest
from meninx.core.run import Run
from meninx.learn import distributed
from meninx.learn.config import LearnConfig
from meninx.privacy.ledger import Ledger
from meninx.privacy.plan import Plan

FREE_TO_CHANGE = frozenset(
    {
        "device",
        "threads",
        "memory_format",
        "workers",
        "cache",
        "tensorboard",
        "physical_batch",
        "epochs",
        "steps",
        "eval_every",
        "attack_risk",
    }
)
"""Settings that may change when a run is resumed: they change rounding, length or output, but no step."""


def binding_of(
    config: LearnConfig,
    data: Manifest,
    network: nn.Module,
    plan: Plan,
    *,
    stream: str,
    data_digest: str = "",
    architecture: str = "",
) -> str:
    """Return the digest of everything that determines the steps of a private run.

    Args:
        config: the settings; :data:`FREE_TO_CHANGE` are left out, unless the learning rate follows them.
        data: the dataset.
        network: with the weights that the run begins with.
        plan: the privacy plan.
        stream: name of the run's secret keys.
        data_digest: a keyed digest of the dataset; by default the plain one of its folder.
        architecture: of a network and task that the settings do not name; empty when they do.

    Guarantee: two runs of one set of keys have one binding only if they draw, clip and step alike, up to
        rounding: device, threads and the size of a physical batch are not in it.
    """
    table = {name: value for name, value in settings.to_flat(config).items() if name not in FREE_TO_CHANGE}
    if config.optim.schedule == "cosine":
        table["planned steps"] = plan.steps
    if config.optim.schedule == "plateau":
        table["eval_every"] = config.validation.eval_every
    parts = {
        "settings": table,
        "data": data_digest or dataset_digest(data.root).digest,
        "weights": distributed.digest(network),
        "trained": [name for name, value in network.named_parameters() if value.requires_grad],
        "plan": plan.fingerprint(),
        "keys": stream,
    }
    if architecture:
        parts["architecture"] = architecture
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def read(run: Run, *, anchor: tuple[int, str] | None = None) -> Ledger:
    """Return the run's ledger, verified; an empty one when none was begun.

    Args:
        run: the run folder.
        anchor: that of a checkpoint; the ledger must contain it.

    Raises:
        PrivacyRefusal: the file was changed, or ends before the anchor.
    """
    return Ledger.parse(run.ledger_text(), anchor=anchor)


def enter(run: Run, ledger: Ledger, plan: Plan, step: int, *, stream: str, binding: str) -> Ledger:
    """Write the next line to the disk, wait until it is there, and return the ledger that holds it.

    The file is made for the owner alone, mode 0600. Before the first line ``run.json`` names the keys, so
    that a run whose ledger and keys were both removed is known to have begun.

    Raises:
        PrivacyRefusal: see :meth:`meninx.privacy.ledger.Ledger.next`.
        StorageError: the disk refused the line.
    """
    longer, line = ledger.next(plan, step, stream=stream, binding=binding)
    known = run.record if not ledger.entries else None
    if known is not None and known.keys != stream:
        run.update(keys=stream)
    path = run.ledger_path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError as error:
        raise files.storage_error(error, path) from error
    files.append_line(path, line)
    return longer
