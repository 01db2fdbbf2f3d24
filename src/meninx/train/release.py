"""The release of a finished run: built in ``private/staging``, published whole, closed by ``run.json``."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from meninx.core import artifacts, integrity, names, provenance, staging
from meninx.core.artifacts import BundleRecord, PrivacyRecord, RunRecord
from meninx.core.errors import DataError, problem
from meninx.core.manifest import DatasetInfo
from meninx.core.run import Run
from meninx.core.workspace import REPLACED, STAGING
from meninx.learn import guarantee, record
from meninx.learn.config import LearnConfig
from meninx.learn.inference import load_model, released_step
from meninx.learn.state_digest import weights_digest
from meninx.learn.task import image_task
from meninx.train import bundle, identity, lineage
from meninx.train.config import TrainConfig


def publish(config: TrainConfig, run: Run, *, network: nn.Module | None = None) -> int:
    """Build the release of a run after its last step, close the run, and return the number of parameters.

    The order is ``release/``, then ``privacy.json`` with the digest of the weights, then ``run.json``. A run
    that is killed in between is not released; resuming it builds the release again.

    Args:
        config: settings, with the formats to export.
        run: the run folder.
        network: architecture of a run that was given its own network; a copy of it receives the weights.

    Raises:
        DataError: the run has no lineage, or a name in it cannot be released.
        StorageError: a file cannot be written.
    """
    model, learned, info = load_model(run, network=copy.deepcopy(network))
    weights = weights_digest(model)
    found = lineage.of_run(run)
    if found is None:
        raise DataError(problem("the lineage of the run is missing", where=run.name, fix="start a new run"))
    root = run.private / STAGING
    shutil.rmtree(root, ignore_errors=True)
    staged = root / run.release.name  # laid out like the run folder, so that records find their places
    staged.mkdir(mode=0o700, parents=True)
    onnx = "onnx" in config.export
    if "bundle" in config.export or onnx:
        _write_bundle(staged / bundle.FOLDER, run, model, learned, info, onnx=onnx)
    # The list of digests comes last, here and in the move: a release without it counts as incomplete.
    artifacts.write(root, found)
    integrity.write(staged, integrity.measured(staged, _files(staged)))
    staging.move_whole(staged, run.release, run.private / REPLACED, last=[integrity.CHECKSUMS])
    shutil.rmtree(root, ignore_errors=True)
    # The stated epsilon covers all steps, including those after the selected one.
    done = artifacts.require(run.root, RunRecord, fix="start a new run").step
    origin = identity.origin(run, weights=weights, step=done)
    record.close(run, origin, released_step=released_step(run))
    return sum(value.numel() for value in model.parameters())


def _write_bundle(
    folder: Path, run: Run, model: nn.Module, learned: LearnConfig, info: DatasetInfo, *, onnx: bool
) -> None:
    task, known = image_task(info, learned.task), run.record
    network: dict[str, Any] = {
        "name": learned.model.name,
        "spatial_dims": info.spatial_dims,
        "in_channels": info.channels,
        "out_channels": task.out_channels,
        **learned.model.options,
    }
    privacy = artifacts.read(run.root, PrivacyRecord)
    if known is None or known.private:
        info = guarantee.public_facts(info, learned.model)
    contents = bundle.Contents(
        record=BundleRecord(
            info=replace(info, attributes=()),
            network=network,
            loss=task.loss_name,
            image_size=learned.model.image_size,
            patch_size=learned.model.patch_size,
            weights=weights_digest(model),
            run=known.id if known is not None else "",
            meninx=provenance.version(),
        ),
        sigmoid=task.sigmoid,
        size=tuple(learned.model.patch_size or learned.model.image_size or info.size),
        privacy=privacy.sentence if privacy else "not stated",
        outside=privacy.outside_guarantee if privacy else (),
        card=_short_card(info, run),
    )
    bundle.write_bundle(folder, model, contents, onnx=onnx)


def _short_card(info: DatasetInfo, run: Run) -> str:
    privacy, known = artifacts.read(run.root, PrivacyRecord), run.record
    labels = ", ".join(names.markdown(label) for label in info.labels)
    outside = privacy.outside_guarantee if privacy else ()
    listed = "".join(f"- {names.markdown(item)}\n" for item in outside)
    hidden = f"Trained on {names.markdown(info.obfuscated)}.\n\n" if info.obfuscated else ""
    restriction = f"Outside this guarantee:\n\n{listed}\n" if listed else ""
    return (
        f"# {names.markdown(info.name)}: {info.task}\n\nLabels: {labels}.\n\n"
        f"Trained by meninx for {known.step if known else 0} steps.\n\n"
        f"{hidden}Privacy: {privacy.sentence if privacy else 'not stated.'}\n\n"
        f"{restriction}"
        "`meninx report --card` writes the full model card. Research only; not a medical device.\n"
    )


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path != folder / integrity.CHECKSUMS]
