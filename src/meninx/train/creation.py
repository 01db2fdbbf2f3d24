"""The start of a run: checks before anything is written, and the run folder with its identity."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from meninx.core import artifacts, belonging, names, provenance, workspace
from meninx.core import run as runs
from meninx.core.artifacts import Ancestry, StudyPart
from meninx.core.errors import DataError, problem
from meninx.core.manifest import Manifest, TaskKind
from meninx.core.run import Run
from meninx.learn import assemble, distributed, finetune, pretrained, runtime
from meninx.learn.config import TaskConfig
from meninx.learn.distributed import World
from meninx.privacy.clipping import trained_layers
from meninx.privacy.plan import Plan
from meninx.train import bundle, effect, identity, lineage, onnx_export, testdata
from meninx.train.config import TrainConfig
from meninx.train.lineage import Start
from meninx.train.planning import make_plan


def checked(
    config: TrainConfig, data: Manifest, out: Path, world: World, network: nn.Module | None
) -> tuple[Plan | None, Start]:
    """Return the privacy plan and what is known of the starting weights.

    Everything that cannot become a run is refused here, before a folder exists.
    """
    public = [Path(config.model.standardize)] if config.model.standardize else []
    workspace.outside(out, [data.root, *public])
    names.check([data.info.name], what="dataset", where="dataset.toml")
    names.check(data.info.labels, what="label", where="dataset.toml")
    names.check(data.info.attributes, what="attribute", where="dataset.toml")
    bundle.check_options(config.model.options)
    runtime.device(distributed.own_device(config.runtime.device, world))
    effect.refuse_idle(config, data)
    if config.task.kind == TaskConfig.kind:  # a task of another package may not need labels
        _refuse_unlabelled(data)
    plan = agreed_plan(config, data, world)
    effect.refuse_long_warmup(config.optim, effect.total_steps(config.sampling, data, plan))
    found: list[Start] = []
    if config.model.pretrained:  # only process 0 sees the folders, and its refusal must stop all processes
        world.shared(lambda: found.append(_traced(config, data, out, network)))
    own = Start(Ancestry()) if network is not None else Start()  # the origin of its weights is unknown
    return plan, found[0] if found else own


def _refuse_unlabelled(data: Manifest) -> None:
    """Refuse a training split without any known label."""
    chosen = data.split("train")
    if not len(chosen):
        raise DataError(testdata.empty_split(data, "train"))
    masks = data.info.task is TaskKind.SEGMENTATION
    known = any(case.mask for case in chosen.cases) if masks else np.isfinite(chosen.targets()).any()
    if not known:
        fix = "prepare the dataset with the table or the masks that hold them"
        what = f"no case of the training split has a {'mask' if masks else 'label'}"
        raise DataError(problem(what, where="manifest.csv", fix=fix))


def _traced(config: TrainConfig, data: Manifest, out: Path, network: nn.Module | None) -> Start:
    """Return what is known about the starting weights, including statistics of their features."""
    unit = str(config.privacy.unit) if config.privacy else ""
    members, known = identity.members_of(data), identity.data_record(data.root)
    start = lineage.trace(
        pretrained.path_of(config.model.pretrained), members, known, unit=unit, folders=(out,)
    )
    if not config.model.standardize:
        return start
    public = Manifest.read(Path(config.model.standardize))
    caveats = lineage.refuse_shared_people(public, members, private=config.privacy is not None)
    statistics = assemble.feature_statistics(config, data.info, network=network)
    return lineage.standardized(start, public, statistics, caveats)


def agreed_plan(config: TrainConfig, data: Manifest, world: World) -> Plan | None:
    """Return the privacy plan, which is the same in all processes."""
    plan = make_plan(config, data)
    world.agree("privacy plan", lambda: plan.fingerprint() if plan else "none")
    return plan


def first_network(config: TrainConfig, data: Manifest, plan: Plan | None, own: nn.Module | None) -> nn.Module:
    """Return a copy of the network that a run starts from, if it can be trained with the plan."""
    with torch.random.fork_rng():
        network, _ = assemble.initial_network(config, data.info, network=copy.deepcopy(own))
        if "onnx" in config.export:  # before epsilon is spent on a run whose release would fail
            size = config.model.patch_size or config.model.image_size or data.info.size
            onnx_export.refuse_unfit(network, data.info, size)
    if plan is not None:
        finetune.apply(network, finetune.never_trained(network, config.model))
        trained_layers(network, config.model.functional)
    return network


def created(
    config: TrainConfig, data: Manifest, out: Path, start: Start, *, study: StudyPart | None = None
) -> str:
    """Make the run folder with the records of its identity, and return its path."""
    folder = runs.create(
        out,
        f"{config.name}_s{config.runtime.seed}",
        config_toml=effect.to_toml(config),
        private=config.privacy is not None,
        deterministic=config.runtime.deterministic,
    )
    with discarded_on_failure(folder, World()):
        known = identity.data_record(data.root)
        key = folder.key(identity.KEY, seed=config.runtime.seed if config.runtime.deterministic else None)
        members = identity.members_of(data)
        entry = folder.update(
            data=identity.keyed_data(key, known.digest),
            dataset=data.info.name,
            patients_known=data.info.patients_known,
            obfuscated=data.info.obfuscated,
            software=((0, provenance.software()),) if config.privacy else (),
            study=study,
        )
        artifacts.write(folder.root, known)
        artifacts.write(folder.root, replace(members, earlier=start.patients, earlier_images=start.images))
        artifacts.write(folder.root, lineage.draft(entry, key, members, config.privacy, start), private=True)
        if start.ancestry is not None:
            artifacts.write(folder.root, start.ancestry)
        folder.update(secrets=belonging.secrets_of(folder.root))
    return str(folder.root)


@contextmanager
def leaving_no_trace(out: Path, world: World) -> Iterator[None]:
    """Remove the folder of runs if a start fails, unless it existed before or is not empty."""
    made = not out.exists()
    try:
        yield
    except BaseException:
        if made and world.main:
            with suppress(OSError):
                out.rmdir()
        raise


@contextmanager
def discarded_on_failure(folder: Run, world: World) -> Iterator[None]:
    """Remove a run folder if its start fails before the first step."""
    try:
        yield
    except BaseException:
        if world.main:
            folder.discard()
        raise
