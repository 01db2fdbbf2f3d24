"""Candidates of several attacks, noise levels and views of one run, in files: resumable.

::

    target = target_of_run(run, pools, data)
    index = create_candidates(target, ("imprint-pca", "readout"), levels, room=room)
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from meninx.audit.audited_run import plan_of
from meninx.audit.reconstruction.attack_registry import attack_kind
from meninx.audit.reconstruction.attacks import AttackKind
from meninx.audit.reconstruction.candidates import (
    CandidateIndex,
    CandidateRecord,
    NoiseLevel,
    read_candidates,
    read_index,
    write_candidates,
    write_index,
)
from meninx.audit.reconstruction.knowledge import Knowledge
from meninx.audit.reconstruction.pools import Pools
from meninx.audit.reconstruction.trials import Trials, reconstruct
from meninx.audit.reconstruction.victim import STEP, VictimStep, View
from meninx.core import artifacts, plain
from meninx.core.artifacts import RunRecord
from meninx.core.errors import DataError, UsageError, problem
from meninx.core.manifest import Manifest, TaskKind
from meninx.core.progress import SILENT, Progress
from meninx.core.run import Run
from meninx.learn import checkpoint
from meninx.learn.inference import load_model
from meninx.learn.task import image_task
from meninx.privacy.clipping.clipped_sum import PerSampleLoss
from meninx.privacy.plan import Plan

_CLIPPING = 1.0
"""Threshold at which the steps of a run without privacy are clipped, so that noise has a scale."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """What is attacked.

    Attributes:
        network: of the run, in evaluation mode.
        loss: of each row.
        outputs: of the network.
        segmentation: the run segments.
        plan: clipping and expected batch; its noise is replaced by that of each level.
        pools: members, the attacker's images, and held-out patients.
        digest: names the run, its weights and its data.
        functional: paths of modules of the network that are run row by row.
        device: where steps are computed.
    """

    network: nn.Module
    loss: PerSampleLoss
    outputs: int
    segmentation: bool
    plan: Plan
    pools: Pools
    digest: str
    functional: tuple[str, ...] = ()
    device: str = "cpu"


def target_of_run(run: Run, pools: Pools, data: Manifest, *, device: str = "cpu") -> Target:
    """Return what is attacked of a finished run: its network and weights, loss, clipping and batch.

    A run without privacy has no clipping threshold; its steps are clipped to 1, which leaves every image's
    direction and gives noise a scale.

    Args:
        run: a finished run.
        pools: images of its dataset.
        data: its dataset.
        device: where steps are computed.

    Raises:
        PrivacyRefusal: the records of a private run contradict each other.
    """
    record = artifacts.require(run.root, RunRecord, fix="train again: an older version made this run")
    network, config, info = load_model(run)
    content = checkpoint.load(run, "last")
    task = image_task(info, config.task)
    if record.private:
        plan = plan_of(run, checkpoint.config_of(content), content["plan"])
    else:
        patients = max(2, len(data.split("train").patients))
        plan = Plan.build(
            n_units=patients,
            expected_batch_size=min(config.sampling.batch_size, patients),
            steps=max(1, record.step),
            noise_multiplier=0.0,
            max_grad_norm=_CLIPPING,
            delta=min(1e-5, 0.1 / patients),
        )
    named = f"{record.id}\0{record.weights}\0{record.data}"
    return Target(
        network=network,
        loss=task.loss,
        outputs=task.out_channels,
        segmentation=task.kind is TaskKind.SEGMENTATION,
        plan=plan,
        pools=pools,
        digest=hashlib.sha256(named.encode()).hexdigest(),
        functional=tuple(config.model.functional),
        device=device,
    )


def create_candidates(
    target: Target,
    attacks: Sequence[str],
    levels: Sequence[NoiseLevel],
    *,
    room: Path,
    batches: int = 4,
    batch: int = 16,
    bins: int = 0,
    components: int = 64,
    participations: int = 1,
    views: Sequence[View] = (STEP,),
    seed: int = 0,
    iterations: int = 300,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress = SILENT,
) -> CandidateIndex:
    """Carry out the attacks and return the index of what they made; sets that are there are not made again.

    Args:
        target: what is attacked.
        attacks: names of attacks.
        levels: of noise.
        room: private folder of the candidates; made when it is not there.
        batches: attacked steps of each attack, noise level and view.
        batch: images in a step of one client; fewer where members or held-out patients are too few.
        bins: rows of a front block; 0 for eight times the images that are seen.
        components: of the encoders that have few.
        participations: steps of the same patients that the attacker averages.
        views: what the attacker sees of a round.
        seed: of draws and noise.
        iterations: of gradient matching.
        overwrite: make all sets again.
        resume: with ``overwrite``, keep sets of the same run and settings, of an interrupted audit.
        progress: shows attacks.

    Raises:
        UsageError: no such attack, or the folder holds sets of other settings.
        DataError: too few patients, or a damaged folder.
    """
    kinds = {name: attack_kind(name) for name in attacks}
    settings = (batches, batch, bins, components, participations, seed, iterations)
    room.mkdir(mode=0o700, parents=True, exist_ok=True)
    index = _begun(room, _digest(target, settings), overwrite=overwrite, resume=resume)
    pools = target.pools
    knowledge = Knowledge(
        public=pools.public.images, network=target.network, lowest=pools.lowest, span=pools.span,
        batch=batch, bins=bins, components=components, seed=seed, iterations=iterations,
    )  # fmt: skip
    trials = Trials(members=pools.members, heldout=pools.heldout, count=batches, seed=seed)
    victim = VictimStep(
        plan=target.plan, loss=target.loss, functional=target.functional, device=target.device
    )
    for name, view in itertools.product(kinds, views):
        kind, most = kinds[name], _largest_batch(pools, view)
        if kind.single and view != STEP:
            continue  # a sum over sites has more than one image
        if reason := _reason_against(target, kind, most):
            index = _without(index, name, view, reason)
            continue
        missing = [level for level in levels if not _complete(room, index, name, kind, view, level)]
        if not missing:
            continue
        progress.note(f"{name}, {view.name}: {kind.words}")
        try:
            for found in reconstruct(
                name, missing, trials=trials, knowledge=replace(knowledge, batch=min(batch, most)),
                victim=victim, outputs=target.outputs, participations=participations, view=view,
            ):  # fmt: skip
                index = _with(index, write_candidates(room, found))
                write_index(room, index)
        except UsageError as error:
            index = _without(index, name, view, str(error))
    write_index(room, index)
    return index


def _reason_against(target: Target, kind: AttackKind, most: int) -> str:
    """Return why an attack cannot be run, or an empty text."""
    if target.segmentation and not kind.segmentation:
        return "the network segments and has no linear layer that sees an image"
    if most == 0:
        members, heldout = len(target.pools.members), len(target.pools.heldout)
        return f"{members} members and {heldout} held-out patients are too few for one patient at each site"
    return ""


def _largest_batch(pools: Pools, view: View) -> int:
    """Return the most patients of a site for which members and held-out patients suffice."""
    members = len(pools.members) // (view.added + view.subtracted)
    return min(members, len(pools.heldout) // view.added)


def _digest(target: Target, settings: tuple[int, ...]) -> str:
    """Return the name of what all sets of a folder share."""
    parts = (
        target.digest,
        target.plan.fingerprint(),
        plain.to_json(settings),
        target.pools.source,
        hashlib.sha256(target.pools.public.images.numpy().tobytes()).hexdigest(),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _begun(room: Path, made_for: str, *, overwrite: bool, resume: bool = False) -> CandidateIndex:
    """Return the index of an interrupted or earlier creation, or an empty one.

    Raises:
        UsageError: the folder holds sets of another run or other settings.
    """
    found = None if overwrite and not resume else read_index(room)
    if found is not None and found.made_for != made_for and overwrite:
        found = None
    if found is not None and found.made_for != made_for:
        fix = "give the settings of the interrupted audit, or --overwrite"
        what = "the candidates that are there belong to another run or to other settings"
        raise UsageError(problem(what, where=room.name, fix=fix))
    if found is None:
        for path in room.glob("*.npy"):
            path.unlink()
        found = CandidateIndex(made_for=made_for)
        write_index(room, found)
    return found


def _complete(
    room: Path, index: CandidateIndex, attack: str, kind: AttackKind, view: View, level: NoiseLevel
) -> bool:
    """Return whether a set is there, undamaged, of the same noise, and of the same version of the attack."""
    record = index.find(attack, view.name, level.name)
    if record is None or record.level != level or record.package != kind.package:
        return False
    with contextlib.suppress(DataError):
        read_candidates(room, record)
        return True
    return False


def _with(index: CandidateIndex, record: CandidateRecord) -> CandidateIndex:
    others = tuple(one for one in index.sets if one.stem != record.stem)
    return replace(index, sets=(*others, record))


def _without(index: CandidateIndex, attack: str, view: View, reason: str) -> CandidateIndex:
    name = attack if view == STEP else f"{attack}, {view.name}"
    return replace(index, not_attacked={**index.not_attacked, name: reason})
