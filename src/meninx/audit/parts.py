"""The parts of an audit as one registry: how each is carried out, and what it says.

A part is entered here when it can be planned. The stage knows parts only through :class:`AuditPart`.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from meninx.audit import (
    attribute_findings,
    attributes,
    bounds,
    identity_findings,
    membership,
    membership_findings,
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
from meninx.audit.reconstruction import reconstruction_verdict
from meninx.audit.reconstruction import steps as reconstruction
from meninx.audit.reconstruction.candidates import INDEX
from meninx.audit.reconstruction.config import ReconstructionConfig
from meninx.audit.verdict_lines import Reservations
from meninx.core import artifacts, files, settings
from meninx.core.artifacts import DataRecord, RunRecord
from meninx.core.attribute_records import AttributesAudit
from meninx.core.audit_parts import FOLDER
from meninx.core.audit_records import MembershipAudit, OneRunRecord
from meninx.core.errors import MeninxError
from meninx.core.findings import GUARANTEED, Finding
from meninx.core.identity_records import IdentityAudit
from meninx.core.manifest import Manifest
from meninx.core.progress import Progress
from meninx.core.reconstruction_records import ReconstructionAudit
from meninx.core.risk_records import BoundsRecord
from meninx.core.run import Run
from meninx.core.settings import Settings
from meninx.metrics.attack_success import FPRS, LEAST_PATIENTS
from meninx.models.network_names import OWN_PREFIX

_OWN_NETWORK = "the run trained a network of the caller's own, which the audit cannot build"


@dataclass(frozen=True, kw_only=True)
class AuditPart:
    """One part of an audit.

    Attributes:
        name: as in the plan.
        title: for people.
        keys: keys of findings that it always gives; for conditions on a part that was not done.
        further: patterns of the keys that depend on the data and the plan; ``*`` stands for any text.
        settings: plan and flags -> settings of the part.
        minutes: plan -> its budget.
        obstacle: why the part cannot be done on a run; empty when it can.
        seconds: about how long it takes, from the seconds of the run's training.
        carry_out: writes its record.
        findings: record and plan -> its numbers.
        refuted: record -> whether it refutes the guarantee of the run.
        about: record -> identity and weights of the run that it belongs to.
        inputs: run -> digest of results of other parts that it reads; empty for none.
        unbounded: record -> the record of a run for which no guarantee holds.
    """

    name: str
    title: str
    keys: tuple[str, ...]
    further: tuple[str, ...]
    settings: Callable[[AuditConfig], Settings]
    minutes: Callable[[AuditPlan], float]
    obstacle: Callable[[Run], str]
    seconds: Callable[[AuditPlan, float], float]
    carry_out: Callable[[AuditConfig, Run, Progress], None]
    findings: Callable[[Any, AuditPlan], tuple[Finding, ...]]
    refuted: Callable[[Any], bool]
    about: Callable[[Any], tuple[str, str]]
    inputs: Callable[[Run], str] = lambda run: ""
    unbounded: Callable[[Any], Any] = lambda record: record

    def settings_hash(self, config: AuditConfig, run: Run) -> str:
        """Return the SHA-256 of the settings, and of other parts' results, that its result depends on."""
        plain = self.settings(config).replace(overwrite=False)
        text = settings.to_toml(plain.replace(device="auto") if hasattr(plain, "device") else plain)
        return hashlib.sha256(f"{text}{self.inputs(run)}".encode()).hexdigest()


def findings_of(part: AuditPart, record: Any, plan: AuditPlan, held: Reservations) -> tuple[Finding, ...]:
    """Return the numbers of a part under the reservations about its run.

    Where no guarantee holds, bounds have no number and attacks are compared with none. A bound for another
    unit than the patient is not green.
    """
    found = part.findings(part.unbounded(record) if held.void else record, plan)
    return tuple(_reserved(item, held) if item.line == GUARANTEED else item for item in found)


def _reserved(item: Finding, held: Reservations) -> Finding:
    if held.void:
        return replace(
            item, words="Nothing bounds an attack on this run.", value=None, low=None, high=None, n=0,
            bound=None, colour="red", reason=held.void,
        )  # fmt: skip
    if held.several and item.colour == "green":
        reason = f"for one {held.unit}; no bound per patient was computed"
        return replace(item, colour="amber", reason=reason)
    return item


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


def _bound_findings(record: BoundsRecord, plan: AuditPlan) -> tuple[Finding, ...]:
    return bounds.findings(record, amber=plan.limits.bound_green, red=plan.limits.bound_amber)


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


def _one_run_findings(record: OneRunRecord, plan: AuditPlan) -> tuple[Finding, ...]:
    return one_run.findings(record)


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


def _membership_findings(record: MembershipAudit, plan: AuditPlan) -> tuple[Finding, ...]:
    return membership_findings.findings(record)


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


def _reconstruction_findings(record: ReconstructionAudit, plan: AuditPlan) -> tuple[Finding, ...]:
    return reconstruction_verdict.findings(record)


def _without_bounds(record: ReconstructionAudit) -> ReconstructionAudit:
    return replace(
        record,
        guaranteed=False,
        identification=tuple(replace(one, bound=1.0) for one in record.identification),
        matches=tuple(replace(one, bound=1.0) for one in record.matches),
    )


def _attribute_settings(config: AuditConfig) -> AttributesConfig:
    planned = config.attribute
    return AttributesConfig(
        attributes=planned.attributes, significance=planned.significance, seed=config.seed,
        deterministic=config.deterministic, device=config.device, overwrite=True,
    )  # fmt: skip


def _infer(config: AuditConfig, run: Run, progress: Progress) -> None:
    attributes.run_attributes(_attribute_settings(config), run.root, progress=progress)


def _attribute_findings(record: AttributesAudit, plan: AuditPlan) -> tuple[Finding, ...]:
    return attribute_findings.findings(record)


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


def _identity_findings(record: IdentityAudit, plan: AuditPlan) -> tuple[Finding, ...]:
    return identity_findings.findings(record)


def _table(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def _own_network(config: Mapping[str, Any]) -> bool:
    return str(_table(config, "model").get("name", "")).startswith(OWN_PREFIX)


_RATES = tuple(f"tpr@fpr={rate:g}" for rate in FPRS)
_ATTACK_KEYS = tuple(
    f"membership/{name}/{key}" for name in membership.ATTACKS for key in ("auc", *_RATES)
)  # fmt: skip

REGISTRY: Mapping[str, AuditPart] = {
    part.name: part
    for part in (
        AuditPart(
            name="bounds",
            title="Proven bounds",
            keys=("bounds/epsilon", "bounds/largest-auc", *(f"bounds/largest-{rate}" for rate in _RATES)),
            further=("bounds/largest-success@*", "bounds/relaxed-success@*"),
            settings=_bounds_settings,
            minutes=lambda plan: plan.bounds.minutes,
            obstacle=_without_guarantee,
            seconds=lambda plan, training: 3.0 + 0.2 * plan.bounds.n_eps,
            carry_out=_compute_bounds,
            findings=_bound_findings,
            refuted=lambda record: False,
            about=lambda record: (record.mechanism.run, record.mechanism.weights),
        ),
        AuditPart(
            name="one-run",
            title="Audit of the implementation",
            keys=(
                "one-run/mu",
                "one-run/epsilon-lower-limit",
                "one-run/advantage-lower-limit",
                "one-run/noise",
            ),
            further=("one-run/halved-noise-control", "one-run/clipped-length"),
            settings=_one_run_settings,
            minutes=lambda plan: plan.one_run.minutes,
            obstacle=_no_one_run,
            seconds=lambda plan, training: 5.0 + 1.2 * training,
            carry_out=_audit_one_run,
            findings=_one_run_findings,
            refuted=lambda record: bool(record.refuted_by),
            about=lambda record: (record.origin.run, record.origin.weights),
        ),
        AuditPart(
            name="membership",
            title="Membership attacks",
            keys=_ATTACK_KEYS,
            further=("membership/*/*/auc", "membership/*-control"),
            settings=_membership_settings,
            minutes=lambda plan: plan.membership.minutes,
            obstacle=_no_membership,
            seconds=lambda plan, training: 15.0 + 0.8 * training * plan.membership.references,
            carry_out=_attack_membership,
            findings=_membership_findings,
            refuted=lambda record: record.verdict == "refuted",
            about=lambda record: (record.origin.run, record.origin.weights),
            unbounded=lambda record: replace(record, bound={}, bound_auc=None, curve_bound=()),
        ),
        AuditPart(
            name="reconstruction",
            title="Reconstruction from steps",
            keys=("reconstruction/rank1@n=10",),
            further=(
                "reconstruction/rank1@n=*",
                "reconstruction/*/step",
                "reconstruction/*/*sites*",
                "reconstruction/*/rank1",
                "reconstruction/*/not-run",
                "reconstruction/*-control",
            ),
            settings=_reconstruction_settings,
            minutes=lambda plan: plan.reconstruction.minutes,
            obstacle=_no_reconstruction,
            seconds=lambda plan, training: 60.0,
            carry_out=_reconstruct,
            findings=_reconstruction_findings,
            refuted=lambda record: record.verdict == "refuted",
            about=lambda record: (record.origin.run, record.origin.weights),
            unbounded=_without_bounds,
        ),
        AuditPart(
            name="attributes",
            title="Attributes of patients",
            keys=(),
            further=(
                "attributes/*/*/auroc",
                "attributes/*/*/accuracy",
                "attributes/*/*/advantage",
                "attributes/*-control",
                "attributes/*/untrained-control",
            ),
            settings=_attribute_settings,
            minutes=lambda plan: plan.attribute.minutes,
            obstacle=_no_reconstruction,
            seconds=lambda plan, training: 60.0,
            carry_out=_infer,
            findings=_attribute_findings,
            refuted=lambda record: record.verdict == "refuted",
            about=lambda record: (record.origin.run, record.origin.weights),
            unbounded=lambda record: replace(
                record, attributes=tuple(replace(one, bound=None) for one in record.attributes)
            ),
        ),
        AuditPart(
            name="identity",
            title="Identity of images",
            keys=("identity/p@1",),
            further=(
                "identity/*/p@1",
                "identity/*/auc",
                "identity/*/*/p@1",
                "identity/*/*/auc",
                "identity/reconstruction/*/*/p@1",
                "identity/reconstruction/*/*/null",
                "identity/*/*-control",
            ),
            settings=_identity_settings,
            minutes=lambda plan: plan.identity.minutes,
            obstacle=_no_identity,
            seconds=lambda plan, training: 20.0,
            carry_out=_link,
            findings=_identity_findings,
            refuted=lambda record: False,
            about=lambda record: (record.origin.run, record.origin.weights),
            inputs=_candidates_of,
        ),
    )
}
"""Name of a part -> the part, in the order of a page."""
