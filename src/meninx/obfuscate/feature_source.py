"""Where feature vectors come from: the network of a finished run, or a file of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from meninx.core import artifacts
from meninx.core import run as runs
from meninx.core.artifacts import DataRecord, Members, RunRecord, RunState
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.core.manifest import Manifest, dataset_digest
from meninx.core.run import Run
from meninx.learn import inference
from meninx.learn.state_digest import weights_digest
from meninx.learn.task import image_task
from meninx.obfuscate import feature_file
from meninx.obfuscate.obfuscator import Values

if TYPE_CHECKING:
    from torch import nn

    from meninx.core.manifest import DatasetInfo
    from meninx.learn.config import LearnConfig

Array = npt.NDArray[np.float64]
_TOLERANCE = 1e-3  # of logits


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSource:
    """Feature vectors and what belongs to them.

    Attributes:
        values: shape (n, d), float32.
        manifest: cases, patients, splits, labels and attributes, row by row; its images are not read.
        digest: of the data: SHA-256 of the file, or digest of the dataset folder.
        place: file or folder that is not written to.
        run: identity of the run; empty for a user's own file.
        weights: digest of the network's weights; empty as above.
        step: optimiser step of these weights.
        head: from vectors (n, d) to a probability of every label of ``manifest``, shape (n, labels); None
            where there is none, or where it does not take these vectors alone.
        calibration: splits whose patients took no part in fitting the network.
        note: what the user has to know; else empty.
        unused: columns of a user's own file that are not read, so that they are not published.
    """

    values: Values
    manifest: Manifest
    digest: str
    place: Path
    run: str = ""
    weights: str = ""
    step: int = 0
    head: Callable[[Values], Array] | None = None
    calibration: tuple[str, ...] = ("valid", "test")
    note: str = ""
    unused: tuple[str, ...] = ()


def of_file(
    path: Path, *, attributes: Sequence[str], others: Sequence[str], labels: Sequence[str], seed: int
) -> FeatureSource:
    """Return the vectors of a user's own file: see ``feature_file.read_features``."""
    found = feature_file.read_features(path, attributes=attributes, others=others, labels=labels, seed=seed)
    words = "certificates assume that the network behind these features was not trained on the patients"
    divided = "the file has no splits: patients were divided by the seed; " if found.divided else ""
    return FeatureSource(
        values=found.features,
        manifest=found.manifest,
        digest=found.digest,
        place=path,
        note=f"{divided}{words} of the validation and test splits",
        unused=found.unused,
    )


def of_run(path: Path, data: Path | None, *, device: str, network: nn.Module | None = None) -> FeatureSource:
    """Return the embeddings that a finished run's network gives for a dataset.

    Args:
        path: the run folder.
        data: dataset; by default that of the run, at the place that it recorded.
        device: where the network runs.
        network: architecture of a run that was given its own network.

    Raises:
        UsageError: not a finished run.
        DataError: the dataset of the run is gone or was changed, the checkpoint does not hold the released
            weights, or patients of the run's training are in another split of the dataset.
    """
    run = runs.open_run(path)
    record = artifacts.require(run.root, RunRecord, fix="train again: an older version made this run")
    if record.state is not RunState.RELEASED:
        fix = f"finish it with `meninx train DATA --resume {run.name}`"
        raise UsageError(expected("a finished run", got="one that is not", where=run.name, fix=fix))
    manifest, own = _dataset(run, record, data)
    _refuse_trained(run, manifest)
    model, config, info = inference.load_model(run, network=network)
    weights = weights_digest(model)
    if weights != record.weights:
        fix = "restore private/checkpoints, or train again"
        raise DataError(problem("the checkpoint does not hold the released weights", where=run.name, fix=fix))
    config = replace(config, runtime=replace(config.runtime, device=device))
    found = inference.embed(model, info, manifest, config)
    head = _head(model, info, manifest, config, found)
    words = "certificates count patients of the test split: the network was trained and chosen on the others"
    return FeatureSource(
        values=found.values,
        manifest=manifest,
        digest=dataset_digest(manifest.root).digest,
        place=manifest.root,
        run=record.id,
        weights=weights,
        step=record.released_step or record.step,
        head=head,
        calibration=("test",) if own else ("valid", "test"),
        note=words if own else "",
    )


def _dataset(run: Run, record: RunRecord, data: Path | None) -> tuple[Manifest, bool]:
    """Return the dataset, and whether it is the run's own."""
    known = artifacts.require(run.root, DataRecord, fix="train again")
    folder = data or Path(known.dataset)
    if data is None and not folder.is_dir():
        fix = "give the folder where it is now by --data FOLDER"
        raise DataError(problem("the dataset of the run is not where it was", where=record.dataset, fix=fix))
    manifest = Manifest.read(folder)
    digest = dataset_digest(folder, images=known.images).digest
    own = runs.keyed_data(runs.read_key(run.key_path(runs.IDENTITY)), digest) == record.data
    if data is None and not own:
        fix = "restore the dataset that the run was trained on, or name another one by --data FOLDER"
        raise DataError(problem("the dataset of the run was changed", where=record.dataset, fix=fix))
    return manifest, own


def _refuse_trained(run: Run, manifest: Manifest) -> None:
    """Refuse a dataset in whose validation or test split the run's training patients are."""
    members = artifacts.read(run.root, Members)
    if members is None:
        return
    seen, images = set(members.train), set(members.train_images)
    others = [case for case in manifest.cases if case.split != "train"]
    digests = manifest.image_digests()
    shared = sum(case.patient_id in seen or digests.get(case.case_id, "-") in images for case in others)
    if shared:
        got = f"{shared} images of them, or with the same pseudonym"
        fix = "leave them out: attackers would be judged on patients that the network was trained on"
        what = "no patients of the run's training in the validation and test splits"
        raise DataError(expected(what, got=got, where=manifest.info.name, fix=fix))


def _head(
    model: nn.Module,
    info: DatasetInfo,
    manifest: Manifest,
    config: LearnConfig,
    found: inference.Embeddings,
) -> Callable[[Values], Array] | None:
    """Return the run's own last layer as a map from vectors to probabilities of the dataset's labels."""
    import torch

    if not set(manifest.info.labels) <= set(info.labels) or not len(found.values):
        return None
    task = image_task(info, config.task)
    columns = [info.labels.index(name) for name in manifest.info.labels]
    try:
        if np.abs(inference.head_outputs(model, found.values) - found.logits).max() > _TOLERANCE:
            return None
    except (DataError, ValueError):
        return None

    def head(values: Values) -> Array:
        logits = torch.from_numpy(inference.head_outputs(model, values[:, : found.values.shape[1]]))
        return task.probabilities(logits).double().numpy()[:, columns]

    return head
