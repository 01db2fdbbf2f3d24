"""The parts of an audit as one registry: how each is carried out; its record speaks by the part rules.

A part is entered here when it can be planned. The stage knows parts only through :class:`AuditPart`.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from meninx.audit import (
    attributes,
    bounds,
    membership,
    one_run,
    reidentification,
)
from meninx.audit.config import (
    AttributesConfig,
    BoundsConfig,
    IdentityConfig,
    MembershipConfig,
    OneRunConfig,
)
from meninx.audit.plan_config import AuditConfig, AuditPlan
from meninx.audit.reconstruction import steps as reconstruction
from meninx.audit.reconstruction.candidates import INDEX
from meninx.audit.reconstruction.config import ReconstructionConfig
from meninx.core import artifacts, files, settings
from meninx.core.artifacts import DataRecord, RunRecord
from meninx.core.audit_parts import FOLDER, PARTS, PartName
from meninx.core.errors import MeninxError
from meninx.core.manifest import Manifest
from meninx.core.progress import Progress
from meninx.core.run import Run
from meninx.core.settings import Settings
from meninx.metrics.attack_success import LEAST_PATIENTS
from meninx.models.network_names import OWN_PREFIX

_OWN_NETWORK = "the run trained a network of the caller's own, which the audit cannot build"


@dataclass(frozen=True, kw_only=True)
class AuditPart:
    """One part of an audit.

    Attributes:
        name: as in the plan; :data:`meninx.core.audit_parts.PARTS` describes it.
        settings: plan and flags -> settings of the part.
        minutes: plan -> its budget.
        obstacle: why the part cannot be done on a run; empty when it can.
        seconds: about how long it takes, from the seconds of the run's training.
        carry_out: writes its record.
        about: record -> identity and weights of the run that it belongs to.
        inputs: run -> digest of results of other parts that it reads; empty for none.
    """

    name: PartName
    settings: Callable[[AuditConfig], Settings]
    minutes: Callable[[AuditPlan], float]
    obstacle: Callable[[Run], str]
    seconds: Callable[[AuditPlan, float], float]
    carry_out: Callable[[AuditConfig, Run, Progress], None]
    about: Callable[[Any], tuple[str, str]]
    inputs: Callable[[Run], str] = lambda run: ""

    @property
    def title(self) -> str:
        """Heading on a page."""
        return PARTS[self.name].title

    def settings_hash(self, config: AuditConfig, run: Run) -> str:
        """Return the SHA-256 of the settings, and of other parts' results, that its result depends on."""
        plain = self.settings(config).replace(overwrite=False)
        text = settings.to_toml(plain.replace(device="auto") if hasattr(plain, "device") else plain)
        return hashlib.sha256(f"{text}{self.inputs(run)}".encode()).hexdigest()


def training_seconds(record: RunRecord) -> float:
    """Return how long a run took from its start to its release; 0 when that is not known."""
    try:
        begun, ended = (datetime.fromisoformat(text) for text in (record.made, record.finished))
    except ValueError:
        return 0.0
    return max(0.0, (ended - begun).total_seconds())


# bounds


def _bounds_settings(config: AuditConfig) -> BoundsConfig:
    planned = config.bounds
    return BoundsConfig(
        candidates=planned.candidates, eps_min=planned.eps_min, eps_max=planned.eps_max,
        n_eps=planned.n_eps, precision=planned.precision, deterministic=config.deterministic, overwrite=True,
    )  # fmt: skip


def _without_guarantee(run: Run) -> str:
    record = artifacts.read(run.root, RunRecord)
    if record is not None and not record.private:
        return "the run was trained without differential privacy, so nothing bounds what an attack learns"
    return ""


def _compute_bounds(config: AuditConfig, run: Run, progress: Progress) -> None:
    bounds.run_bounds(_bounds_settings(config), run.root / FOLDER, run=run.root, progress=progress)


# one run


def _one_run_settings(config: AuditConfig) -> OneRunConfig:
    planned = config.one_run
    return OneRunConfig(
        canaries=planned.canaries, significance=planned.significance, seed=config.seed,
        deterministic=config.deterministic, device=config.device, overwrite=True,
    )  # fmt: skip


def _no_one_run(run: Run) -> str:
    if _without_guarantee(run):
        return "the run was trained without differential privacy, so there is no guarantee to test"
    table = tomllib.loads(files.read_text(run.config_path))
    if _table(table, "privacy").get("noise_bands", 1) != 1:
        return "canaries need independent noise, and the noise of this run is correlated over steps"
    return _OWN_NETWORK if _own_network(table) else ""


def _audit_one_run(config: AuditConfig, run: Run, progress: Progress) -> None:
    one_run.run_one_run(_one_run_settings(config), run.root, progress=progress)


# membership


def _membership_settings(config: AuditConfig) -> MembershipConfig:
    planned = config.membership
    return MembershipConfig(
        references=planned.references, control_steps=planned.control_steps, seed=config.seed,
        significance=planned.significance, deterministic=config.deterministic, device=config.device,
        overwrite=True,
    )  # fmt: skip


def _no_membership(run: Run) -> str:
    if _own_network(tomllib.loads(files.read_text(run.config_path))):
        return _OWN_NETWORK
    known = artifacts.read(run.root, DataRecord)
    try:
        data = Manifest.read(Path(known.dataset)) if known is not None else None
    except MeninxError:
        return ""  # the part itself says what is wrong with the dataset
    if data is None:
        return ""
    for split in ("train", "test"):
        there = len(data.split(split).patients)
        if there < LEAST_PATIENTS:
            return f"{LEAST_PATIENTS} patients are needed in the {split} split, {there} are there"
    return ""


def _attack_membership(config: AuditConfig, run: Run, progress: Progress) -> None:
    membership.run_membership(_membership_settings(config), run.root, progress=progress)


# reconstruction and identity


def _reconstruction_settings(config: AuditConfig) -> ReconstructionConfig:
    planned = config.reconstruction
    return ReconstructionConfig(
        attacks=planned.attacks, trials=planned.trials, eps_last=planned.eps_last, seed=config.seed,
        significance=planned.significance, deterministic=config.deterministic, device=config.device,
        overwrite=True,
    )  # fmt: skip


def _no_reconstruction(run: Run) -> str:
    return _OWN_NETWORK if _own_network(tomllib.loads(files.read_text(run.config_path))) else ""


def _reconstruct(config: AuditConfig, run: Run, progress: Progress) -> None:
    settings = _reconstruction_settings(config)
    reconstruction.run_reconstruction(settings, run.root, resume=True, progress=progress)


def _attribute_settings(config: AuditConfig) -> AttributesConfig:
    planned = config.attribute
    return AttributesConfig(
        attributes=planned.attributes, significance=planned.significance, seed=config.seed,
        deterministic=config.deterministic, device=config.device, overwrite=True,
    )  # fmt: skip


def _infer(config: AuditConfig, run: Run, progress: Progress) -> None:
    attributes.run_attributes(_attribute_settings(config), run.root, progress=progress)


def _identity_settings(config: AuditConfig) -> IdentityConfig:
    planned = config.identity
    return IdentityConfig(
        attacks=planned.attacks, most_images=planned.most_images, significance=planned.significance,
        seed=config.seed, deterministic=config.deterministic, device=config.device, overwrite=True,
    )  # fmt: skip


def _no_identity(run: Run) -> str:
    record = artifacts.read(run.root, RunRecord)
    return "" if record is None or record.patients_known else "the source does not name its patients"


def _link(config: AuditConfig, run: Run, progress: Progress) -> None:
    reidentification.run_identity(_identity_settings(config), run.root, progress=progress)


def _candidates_of(run: Run) -> str:
    """Return the digest of the reconstructions that are there, which serve as probes; empty without any."""
    index = run.private / FOLDER / reconstruction.ROOM / INDEX
    return files.digest(index) if index.is_file() else ""


def _table(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def _own_network(config: Mapping[str, Any]) -> bool:
    return str(_table(config, "model").get("name", "")).startswith(OWN_PREFIX)


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
        ),
        AuditPart(
            name="one-run",
            settings=_one_run_settings,
            minutes=lambda plan: plan.one_run.minutes,
            obstacle=_no_one_run,
            seconds=lambda plan, training: 5.0 + 1.2 * training,
            carry_out=_audit_one_run,
            about=lambda record: (record.origin.run, record.origin.weights),
        ),
        AuditPart(
            name="membership",
            settings=_membership_settings,
            minutes=lambda plan: plan.membership.minutes,
            obstacle=_no_membership,
            seconds=lambda plan, training: 15.0 + 0.8 * training * plan.membership.references,
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
        ),
    )
}
"""Name of a part -> the part, in the order of a page."""
