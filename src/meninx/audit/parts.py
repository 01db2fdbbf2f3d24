"""The parts of an audit as one registry: how each is carried out; its record speaks by the part rules.

A part is entered here when it can be planned. The stage knows parts only through :class:`AuditPart`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meninx.audit import (
    attributes,
    bounds,
    membership,
    one_run,
    reidentification,
)
from meninx.audit.audited_run import OWN_NETWORK, dataset_of, has_own_network
from meninx.audit.config import (
    AttributesConfig,
    BoundsConfig,
    IdentityConfig,
    MembershipConfig,
    OneRunConfig,
)
from meninx.audit.plan_config import AuditConfig, AuditPlan
from meninx.audit.reconstruction import steps as reconstruction
from meninx.audit.reconstruction.attack_registry import package_of
from meninx.audit.reconstruction.candidates import INDEX
from meninx.audit.reconstruction.config import ReconstructionConfig
from meninx.core import artifacts, files, settings
from meninx.core.artifacts import RunRecord
from meninx.core.audit_parts import FOLDER, PARTS, PartName
from meninx.core.errors import MeninxError
from meninx.core.progress import Progress
from meninx.core.run import Run
from meninx.core.settings import Settings
from meninx.metrics.attack_success import LEAST_PATIENTS


@dataclass(frozen=True, kw_only=True)
class AuditPart:
    """One part of an audit.

    Attributes:
        name: as in the plan; :data:`meninx.core.audit_parts.PARTS` describes it.
        settings: plan and flags -> settings of the part.
        minutes: plan -> its budget.
        obstacle: run, and dataset that was moved -> why the part cannot be done; empty when it can.
        seconds: about how long it takes, from the seconds of the run's training.
        carry_out: settings, run, dataset that was moved, and progress; writes the record.
        about: record -> identity and weights of the run that it belongs to.
        inputs: plan, run -> digest of results of other parts, or versions of external code, that its result
            depends on; empty for none.
        after: names of these parts.
        reads_dataset: it needs the dataset of the run.
    """

    name: PartName
    settings: Callable[[AuditConfig], Settings]
    minutes: Callable[[AuditPlan], float]
    obstacle: Callable[[Run, Path | None], str]
    seconds: Callable[[AuditPlan, float], float]
    carry_out: Callable[[AuditConfig, Run, Path | None, Progress], None]
    about: Callable[[Any], tuple[str, str]]
    inputs: Callable[[AuditConfig, Run], str] = lambda config, run: ""
    after: tuple[str, ...] = ()
    reads_dataset: bool = True

    @property
    def title(self) -> str:
        """Heading on a page."""
        return PARTS[self.name].title

    def settings_hash(self, config: AuditConfig, run: Run) -> str:
        """Return the SHA-256 of the settings, and of other parts' results, that its result depends on."""
        plain = self.settings(config).replace(overwrite=False)
        text = settings.to_toml(plain.replace(device="auto") if hasattr(plain, "device") else plain)
        return hashlib.sha256(f"{text}{self.inputs(config, run)}".encode()).hexdigest()


# bounds


def _bounds_settings(config: AuditConfig) -> BoundsConfig:
    planned = config.bounds
    return BoundsConfig(
        candidates=planned.candidates, eps_min=planned.eps_min, eps_max=planned.eps_max,
        n_eps=planned.n_eps, precision=planned.precision, deterministic=config.deterministic, overwrite=True,
    )  # fmt: skip


def _without_guarantee(run: Run, moved: Path | None = None) -> str:
    record = artifacts.read(run.root, RunRecord)
    if record is not None and not record.private:
        return "the run was trained without differential privacy, so nothing bounds what an attack learns"
    return ""


def _compute_bounds(config: AuditConfig, run: Run, moved: Path | None, progress: Progress) -> None:
    bounds.run_bounds(_bounds_settings(config), run.root / FOLDER, run=run.root, progress=progress)


# one run


def _one_run_settings(config: AuditConfig) -> OneRunConfig:
    planned = config.one_run
    return OneRunConfig(
        canaries=planned.canaries, significance=planned.significance, seed=config.seed,
        deterministic=config.deterministic, device=config.device, overwrite=True,
    )  # fmt: skip


def _no_one_run(run: Run, moved: Path | None) -> str:
    if _without_guarantee(run):
        return "the run was trained without differential privacy, so there is no guarantee to test"
    return one_run.obstacle(run)


def _audit_one_run(config: AuditConfig, run: Run, moved: Path | None, progress: Progress) -> None:
    one_run.run_one_run(_one_run_settings(config), run.root, data=moved, progress=progress)


# membership


def _membership_settings(config: AuditConfig) -> MembershipConfig:
    planned = config.membership
    return MembershipConfig(
        references=planned.references, control_steps=planned.control_steps, seed=config.seed,
        significance=planned.significance, deterministic=config.deterministic, device=config.device,
        overwrite=True,
    )  # fmt: skip


def _no_membership(run: Run, moved: Path | None) -> str:
    if has_own_network(run):
        return OWN_NETWORK
    try:
        data = dataset_of(run, moved)
    except MeninxError:
        return ""  # the part itself says what is wrong with the dataset
    for split in ("train", "test"):
        there = len(data.split(split).patients)
        if there < LEAST_PATIENTS:
            return f"{LEAST_PATIENTS} patients are needed in the {split} split, {there} are there"
    return ""


def _attack_membership(config: AuditConfig, run: Run, moved: Path | None, progress: Progress) -> None:
    membership.run_membership(_membership_settings(config), run.root, data=moved, progress=progress)


# reconstruction and identity


def _reconstruction_settings(config: AuditConfig) -> ReconstructionConfig:
    planned = config.reconstruction
    return ReconstructionConfig(
        attacks=planned.attacks, trials=planned.trials, eps_last=planned.eps_last, seed=config.seed,
        significance=planned.significance, deterministic=config.deterministic, device=config.device,
        overwrite=True,
    )  # fmt: skip


def _no_reconstruction(run: Run, moved: Path | None) -> str:
    return OWN_NETWORK if has_own_network(run) else ""


def _reconstruct(config: AuditConfig, run: Run, moved: Path | None, progress: Progress) -> None:
    settings = _reconstruction_settings(config)
    reconstruction.run_reconstruction(settings, run.root, data=moved, resume=True, progress=progress)


def _attribute_settings(config: AuditConfig) -> AttributesConfig:
    planned = config.attribute
    return AttributesConfig(
        attributes=planned.attributes, significance=planned.significance, seed=config.seed,
        deterministic=config.deterministic, device=config.device, overwrite=True,
    )  # fmt: skip


def _infer(config: AuditConfig, run: Run, moved: Path | None, progress: Progress) -> None:
    attributes.run_attributes(_attribute_settings(config), run.root, data=moved, progress=progress)


def _identity_settings(config: AuditConfig) -> IdentityConfig:
    planned = config.identity
    return IdentityConfig(
        attacks=planned.attacks, most_images=planned.most_images, significance=planned.significance,
        seed=config.seed, deterministic=config.deterministic, device=config.device, overwrite=True,
    )  # fmt: skip


def _no_identity(run: Run, moved: Path | None) -> str:
    record = artifacts.read(run.root, RunRecord)
    return "" if record is None or record.patients_known else "the source does not name its patients"


def _link(config: AuditConfig, run: Run, moved: Path | None, progress: Progress) -> None:
    reidentification.run_identity(_identity_settings(config), run.root, data=moved, progress=progress)


def _packages(config: AuditConfig, run: Run) -> str:
    """Return the versions of the packages whose attacks the plan names; empty for meninx's own."""
    return "".join(filter(None, map(package_of, config.reconstruction.attacks)))


def _candidates_of(config: AuditConfig, run: Run) -> str:
    """Return the digest of the reconstructions that are there, which serve as probes; empty without any."""
    index = run.private / FOLDER / reconstruction.ROOM / INDEX
    return files.digest(index) if index.is_file() else ""


REGISTRY: Mapping[str, AuditPart] = {
    part.name: part
    for part in (
        AuditPart(
            name="bounds",
            settings=_bounds_settings,
            minutes=lambda plan: plan.bounds.minutes,
            obstacle=_without_guarantee,
            seconds=lambda plan, training: 3.0 + 0.2 * plan.bounds.n_eps,
            carry_out=_compute_bounds,
            about=lambda record: (record.mechanism.run, record.mechanism.weights),
            reads_dataset=False,
        ),
        AuditPart(
            name="one-run",
            settings=_one_run_settings,
            minutes=lambda plan: plan.one_run.minutes,
            obstacle=_no_one_run,
            seconds=lambda plan, training: one_run.estimated_seconds(training),
            carry_out=_audit_one_run,
            about=lambda record: (record.origin.run, record.origin.weights),
        ),
        AuditPart(
            name="membership",
            settings=_membership_settings,
            minutes=lambda plan: plan.membership.minutes,
            obstacle=_no_membership,
            seconds=lambda plan, training: membership.estimated_seconds(plan.membership.references, training),
            carry_out=_attack_membership,
            about=lambda record: (record.origin.run, record.origin.weights),
        ),
        AuditPart(
            name="reconstruction",
            settings=_reconstruction_settings,
            minutes=lambda plan: plan.reconstruction.minutes,
            obstacle=_no_reconstruction,
            seconds=lambda plan, training: 60.0,
            carry_out=_reconstruct,
            about=lambda record: (record.origin.run, record.origin.weights),
            inputs=_packages,
        ),
        AuditPart(
            name="attributes",
            settings=_attribute_settings,
            minutes=lambda plan: plan.attribute.minutes,
            obstacle=_no_reconstruction,
            seconds=lambda plan, training: 60.0,
            carry_out=_infer,
            about=lambda record: (record.origin.run, record.origin.weights),
        ),
        AuditPart(
            name="identity",
            settings=_identity_settings,
            minutes=lambda plan: plan.identity.minutes,
            obstacle=_no_identity,
            seconds=lambda plan, training: 20.0,
            carry_out=_link,
            about=lambda record: (record.origin.run, record.origin.weights),
            inputs=_candidates_of,
            after=("reconstruction",),
        ),
    )
}
"""Name of a part -> the part, in the order of a page."""
