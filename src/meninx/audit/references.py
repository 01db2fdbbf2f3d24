"""Reference models of a membership audit: like the audited model, each trained on half of the patients.

Half of the members and half of the non-members are drawn, by patient, and the next model is trained on all
others, so that each patient is known to half of the models. Of a model only what it says about the cases is
kept, in a file in the run's ``private/``. An interrupted audit takes up the files that are there.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from meninx.audit.audited_run import prepared
from meninx.core import artifacts, files, plain
from meninx.core.artifacts import Ancestry
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.core.manifest import DatasetInfo, Manifest, TaskKind
from meninx.core.progress import Progress
from meninx.core.randomness import child, child_seed
from meninx.core.run import Run
from meninx.learn import checkpoint, inference, runtime
from meninx.learn.config import LearnConfig
from meninx.learn.data import CaseStore
from meninx.learn.distributed import World
from meninx.learn.fitting import fit
from meninx.learn.inference import load_model
from meninx.learn.sampler import unit_members
from meninx.learn.task import ImageTask, image_task
from meninx.metrics.membership_attacks import LEAST_SIGNAL
from meninx.models import registry
from meninx.privacy.plan import Plan

COMMAND = "meninx audit membership"
_MOST_BYTES = 1 << 28
_SEEDS = 1 << 31
_CONTROL_CASES = 16
_PURPOSE = "made_for"
_OTHER = "the reference model belongs to another run, dataset or seed"
_FIX = "give the --seed of the interrupted audit, or remove private/audit/membership of the run"
Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Audited:
    """What the reference models of an audit have in common.

    Attributes:
        run: the audited run.
        config: its learning settings.
        plan: its privacy plan; None without privacy.
        data: its dataset.
        pool: the members and non-members, in the order of the dataset.
        room: where the audit keeps its files, in ``private/`` of the run.
    """

    run: Run
    config: LearnConfig
    plan: Plan | None
    data: Manifest
    pool: Manifest
    room: Path

    def make_room(self) -> None:
        """Make the room, readable by the owner alone."""
        for place in (self.room.parent, self.room):
            place.mkdir(mode=0o700, exist_ok=True)

    def digest(self, config: LearnConfig, plan: Plan | None) -> str:
        """Return the name of what a model of the audit depends on beside its patients."""
        known = artifacts.require(self.run.root, artifacts.DataRecord, fix="train again")
        parts = (
            self.run.config_digest,
            plain.to_json(config),
            plan.fingerprint() if plan else "",
            known.digest,
            _names_digest(case.case_id for case in self.pool.cases),
        )
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ReferenceFile:
    """What one model says about the cases: ``private/audit/membership/<name>.json``.

    Attributes:
        made_for: :meth:`Audited.digest` of settings, plan and dataset.
        subset: SHA-256 of the patients that the model was trained on.
        signals: log-likelihood of each case of the pool, at most 0.
    """

    made_for: str
    subset: str
    signals: tuple[float, ...]


def halves(members: Sequence[str], others: Sequence[str], count: int, seed: int) -> list[frozenset[str]]:
    """Return the patients of each reference model.

    Models 2 k and 2 k + 1 share no patient and have all of them together. A larger count begins with the same
    models.

    Args:
        members: patients of the training split.
        others: patients that took no part.
        count: how many models, even.
        seed: public seed.

    Raises:
        DataError: a patient is a member and a non-member.
    """
    if shared := len(set(members) & set(others)):
        rule = "patients that are either members or non-members"
        raise DataError(expected(rule, got=f"{shared} that are both", where="splits"))
    everybody, found = frozenset(members) | frozenset(others), []
    for pair in range(count // 2):
        rng = child(seed, "membership references", pair)
        half: set[str] = set()
        for group in (sorted(members), sorted(others)):
            size = len(group) // 2 + (len(group) % 2 and int(rng.integers(2)))
            half |= {group[index] for index in rng.permutation(len(group))[:size]}
        found += [frozenset(half), everybody - half]
    return found


def reference_signals(audited: Audited, number: int, patients: frozenset[str], progress: Progress) -> Array:
    """Return what reference model ``number`` says about the pool; it is trained unless its file is there."""
    config, plan = _reference(audited, number, patients)
    chosen = _training(audited, patients)
    return _signals(audited, _name(number), config, plan, chosen, patients, progress)


def is_trained(audited: Audited, number: int, patients: frozenset[str]) -> bool:
    """Return whether the file of reference model ``number`` is there.

    Raises:
        UsageError: the file, or a model that is half trained, belongs to another run, dataset or seed.
        DataError: the file is damaged.
    """
    config, plan = _reference(audited, number, patients)
    made_for, subset = audited.digest(config, plan), _names_digest(patients)
    path = audited.room / f"{_name(number)}.json"
    if path.is_file():
        _read(path, made_for, subset, len(audited.pool))
        return True
    begun = audited.room / _name(number) / "private" / _PURPOSE
    if begun.is_file() and files.read_text(begun, limit=256).strip() != f"{made_for} {subset}":
        raise UsageError(problem(_OTHER, where=_name(number), fix=_FIX))
    return False


def _name(number: int) -> str:
    return f"reference-{number:03d}"


def _reference(audited: Audited, number: int, patients: frozenset[str]) -> tuple[LearnConfig, Plan | None]:
    """Return settings and plan of a reference model."""
    seed = child_seed(audited.config.runtime.seed, "reference", number) % _SEEDS
    config, plan = audited.config.replace(seed=seed), audited.plan
    if plan is not None:
        chosen = _training(audited, patients).split("train")
        units = max(1, len(unit_members(chosen, plan.unit)))
        plan = replace(plan, n_units_declared=units, expected_batch_size=plan.sample_rate * units)
    return config, plan


def control_signals(audited: Audited, patients: frozenset[str], steps: int, progress: Progress) -> Array:
    """Return what a model says that was trained for many steps on a few patients without privacy."""
    chosen = _training(audited, patients).split("train")
    config = audited.config.replace(
        seed=child_seed(audited.config.runtime.seed, "planted leak") % _SEEDS,
        optimizer="adam", lr=1e-3, head_lr=1.0, bias_correction="auto", weight_decay=0.0, ema=0.0,
        schedule="constant", milestones=(), rates=(), warmup=0, augment=(), views=1, label_smoothing=0.0,
        sampling="shuffle", batch_size=min(_CONTROL_CASES, len(chosen)), steps=steps, cases_per_patient=0,
        select="last", early_stopping=0, eval_every=steps,
    )  # fmt: skip
    return _signals(audited, "planted-leak", config, None, chosen, patients, progress)


def fresh_signals(audited: Audited) -> Array:
    """Return what a network says that was trained on nothing."""
    config, info = audited.config, audited.data.info
    with runtime.prepared(config.runtime, World()):
        runtime.seed_torch(config.runtime.seed, "never trained")
        network = registry.build(
            config.model.name,
            spatial_dims=info.spatial_dims,
            in_channels=info.channels,
            out_channels=image_task(info, config.task).out_channels,
            **config.model.options,
        )
        return log_likelihoods(network, audited.pool, config)


def log_likelihoods(network: nn.Module, cases: Manifest, config: LearnConfig) -> Array:
    """Return the mean log-likelihood of a case's known labels or voxels, at most 0, shape (cases,).

    Raises:
        DataError: the network gives NaN.
    """
    device = runtime.device(config.runtime.device)
    store, task = CaseStore(cases, config.model), _likelihood(cases.info, config)
    found = np.zeros(len(cases))
    network.to(device)
    for index, logits in inference.outputs(network, store, config, device):
        with torch.no_grad():
            found[index] = -float(task.loss(logits.double()[None], store.target(index)[None])[0])
    if np.isnan(found).any():
        what = f"the model gives NaN for {int(np.isnan(found).sum())} cases"
        raise DataError(problem(what, where=cases.info.name, fix="train it again with a lower learning rate"))
    return np.clip(found, LEAST_SIGNAL, 0.0)


def _likelihood(info: DatasetInfo, config: LearnConfig) -> ImageTask:
    """Return the task whose loss is the negative log-likelihood, whatever the run minimised."""
    task = image_task(info, config.task)
    kinds = {TaskKind.MULTICLASS: "ce", TaskKind.MULTILABEL: "bce"}
    name = kinds.get(info.task, "bce" if task.sigmoid else "ce")
    return replace(task, loss_name=name, weights=(), smoothing=0.0)


def _training(audited: Audited, patients: frozenset[str]) -> Manifest:
    """Return the pool's cases of some patients as training cases, beside the run's own validation cases."""
    pool = {case.case_id for case in audited.pool.cases if case.patient_id in patients}
    cases = tuple(
        replace(case, split="train") if case.case_id in pool else case
        for case in audited.data.cases
        if case.case_id in pool or case.split == "valid"
    )
    return Manifest(audited.data.root, audited.data.info, cases)


def _signals(
    audited: Audited,
    name: str,
    config: LearnConfig,
    plan: Plan | None,
    chosen: Manifest,
    patients: frozenset[str],
    progress: Progress,
) -> Array:
    """Return the signals in a model's file; train the model and write the file where there is none."""
    made_for, subset = audited.digest(config, plan), _names_digest(patients)
    path = audited.room / f"{name}.json"
    if path.is_file():
        return _read(path, made_for, subset, len(audited.pool))
    audited.make_room()
    folder = prepared(
        audited.room / name, audited.run, COMMAND, private=plan is not None,
        deterministic=config.runtime.deterministic,
    )  # fmt: skip
    _refuse_other_subset(folder, f"{made_for} {subset}")
    begun = checkpoint.path_of(folder, "last").is_file() or folder.ledger_path.is_file()
    fit(
        config, chosen, folder, plan=plan, progress=progress, resume=begun,
        ancestry=artifacts.read(audited.run.root, Ancestry),
    )  # fmt: skip
    network, _, _ = load_model(folder)
    found = log_likelihoods(network, audited.pool, config)
    written = ReferenceFile(made_for=made_for, subset=subset, signals=tuple(map(float, found)))
    files.write_text(path, plain.to_json(written), mode=files.PRIVATE_MODE)
    (audited.room / "latest").unlink(missing_ok=True)
    shutil.rmtree(folder.root, ignore_errors=True)
    return found


def _refuse_other_subset(folder: Run, purpose: str) -> None:
    """Refuse to go on with a half-trained model of other patients or settings."""
    path = folder.private / _PURPOSE
    if not path.is_file():
        files.write_text(path, purpose + "\n", mode=files.PRIVATE_MODE)
    if files.read_text(path, limit=256).strip() != purpose:
        raise UsageError(problem(_OTHER, where=folder.name, fix=_FIX))


def _read(path: Path, made_for: str, subset: str, cases: int) -> Array:
    """Return the signals in a file.

    Raises:
        UsageError: the file belongs to another run, dataset, seed or version of the settings.
        DataError: it is damaged.
    """
    found = plain.from_json(files.read_bytes(path, limit=_MOST_BYTES), ReferenceFile, where=path.name)
    if (found.made_for, found.subset) != (made_for, subset):
        raise UsageError(problem(_OTHER, where=path.name, fix=_FIX))
    signals = np.array(found.signals, dtype=np.float64)
    if len(signals) != cases or not ((signals >= LEAST_SIGNAL) & (signals <= 0)).all():
        rule = f"{cases} log-likelihoods of at most 0"
        raise DataError(expected(rule, got="other numbers", where=path.name, fix=_FIX))
    return signals


def _names_digest(names: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(sorted(names)).encode()).hexdigest()
