"""The privacy ledger on disk: verified when read, extended by one durable line at a time.

Each line contains a binding, the digest of everything that determines the steps (:func:`binding_of`).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from torch import nn

from meninx.core import files, settings
from meninx.core.errors import PrivacyRefusal, problem
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
"""Settings that may change when a run is resumed: they affect rounding, length or output, but no step."""


_NEWLINES = 2  # largest number of them at the end of a ledger


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
        data_digest: a keyed digest of the dataset; by default the plain digest of its folder.
        architecture: of a network and task that the settings do not name; empty if they do.

    Guarantee: two runs with one set of keys have the same binding only if they draw, clip and step
        identically up to rounding. Device, threads and the size of a physical batch are not part of it.
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
    """Return the run's verified ledger; an empty one if none was begun.

    Args:
        run: the run folder.
        anchor: the anchor of a checkpoint, which the ledger must contain; None for no check.

    Raises:
        PrivacyRefusal: the file was changed, or ends before the anchor.
    """
    return Ledger.parse(run.ledger_text(), anchor=anchor)


def enter(
    run: Run, ledger: Ledger, plan: Plan, step: int, *, stream: str, binding: str, state: str = ""
) -> Ledger:
    """Write the next line to disk, synchronise the file, and return the ledger that contains it.

    The file is created with mode 0600. Before the first line ``run.json`` records the name of the keys, so a
    run is known to have begun even if its ledger and its keys are both removed.

    Guarantee: no two steps are entered at one position. The file must still end like ``ledger``, so another
        trainer on the same folder, or an earlier line that was written in part, is detected.

    Raises:
        PrivacyRefusal: the file holds other lines; or see :meth:`meninx.privacy.ledger.Ledger.next`.
        StorageError: the disk refused the line.
    """
    longer, line = ledger.next(plan, step, stream=stream, binding=binding, state=state)
    known = run.record if not ledger.entries else None
    if known is not None and known.keys != stream:
        run.update(keys=stream)
    path = run.ledger_path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        ending = ledger.ending.encode("utf-8", "surrogateescape").rstrip(b"\n")
        same = _end_of(path, len(ending)) == ending
    except OSError as error:
        raise files.storage_error(error, path) from error
    if not same:
        why = "the file has other lines than those that this training read or wrote"
        fix = "use one trainer at a time on a run folder, or resume the run"
        raise PrivacyRefusal(problem(why, where="private/ledger.jsonl", fix=fix))
    files.append_line(path, line)
    return longer


def _end_of(path: Path, count: int) -> bytes:
    """Return the last ``count`` bytes of a file before its final newlines.

    With ``count`` 0 the result is empty only if the file is, so that an empty ledger is compared correctly.
    """
    with path.open("rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - count - _NEWLINES))
        text = stream.read().rstrip(b"\n")
    return text[-count:] if count else text
