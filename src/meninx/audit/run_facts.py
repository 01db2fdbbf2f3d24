"""Facts about an audited run for its page, and what keeps its verdict from a good colour.

Numbers of the mechanism come from the ledger, by the record of the bounds where it is there.
"""

from __future__ import annotations

from meninx.audit.mechanism import SEEDED
from meninx.audit.patient_bounds import cases_of_a_patient, unit_words
from meninx.audit.plan_config import AuditPlan
from meninx.audit.verdict_lines import Reservations
from meninx.core import artifacts, settings
from meninx.core.artifacts import PrivacyRecord, RunRecord
from meninx.core.budget import PrivacyUnit
from meninx.core.names import printable
from meninx.core.risk_records import BoundsRecord
from meninx.core.run import Run

_POISSON = "poisson"
_KNOWN_STARTS = ("random", "run")


def reservations_of(run: Run, record: RunRecord, *, most: int | None = None) -> Reservations:
    """Return why no guarantee holds for a run, or why its lines cannot be green.

    Args:
        run: the run folder.
        record: its record.
        most: largest number of training cases of one patient; None to count them in the dataset.
    """
    privacy = artifacts.read(run.root, PrivacyRecord)
    if not record.private or privacy is None:
        return Reservations(void="the run was trained without differential privacy")
    if record.deterministic or privacy.deterministic:
        return Reservations(void=SEEDED)
    caps, several = [], False
    if privacy.sampler != _POISSON:
        caps.append(
            f"sampling was {printable(privacy.sampler) or 'not recorded'}, and the bounds assume Poisson"
        )
    unit = printable(privacy.unit)
    if not record.patients_known:
        unit, several = str(PrivacyUnit.CASE), True
        what = "the source does not name its patients"
        caps.append(f"{what}, so the guarantee is for one case, not for a patient")
    elif privacy.unit != PrivacyUnit.PATIENT:
        most = cases_of_a_patient(run) if most is None else most
        several = most != 1
        many = f", and a patient has up to {most:,}" if most > 1 else ""
        caps.append(f"the guarantee is for one {printable(privacy.unit)}, not for a patient{many}")
    if privacy.start is not None and privacy.start.origin not in _KNOWN_STARTS:
        caps.append(
            "the weights that the run started from have an unknown origin and are outside the guarantee"
        )
    return Reservations(caps=tuple(caps), unit=unit, several=several)


def facts_of(
    run: Run, record: RunRecord, plan: AuditPlan, bounds: BoundsRecord | None
) -> tuple[tuple[str, str], ...]:
    """Return mechanism and origin of a run as (name, value), for a page.

    Args:
        run: the run folder.
        record: its record.
        plan: of the audit.
        bounds: proven bounds; None where there are none.
    """
    config, _ = settings.read_recipe(str(run.config_path))
    runtime = config.get("runtime")
    seed = runtime.get("seed", 0) if isinstance(runtime, dict) else 0
    facts = [
        ("run", record.id),
        ("released weights", f"sha256 {record.weights}"),
        ("step of these weights", f"{record.released_step or record.step:,}"),
        ("dataset", printable(record.dataset) or "unnamed"),
        ("data (keyed digest)", record.data),
        *([("training images", printable(record.obfuscated))] if record.obfuscated else []),
        *_mechanism(run, record, bounds),
        ("seed of the training", f"{seed} (initialisation and order, never privacy noise)"),
        ("seed of the audit", str(plan.seed)),
    ]
    if record.deterministic:
        facts.append(("NOT FOR RELEASE", "noise and sampling of the run came from its seed"))
    return tuple((name, value[:200]) for name, value in facts)


def _mechanism(run: Run, record: RunRecord, bounds: BoundsRecord | None) -> list[tuple[str, str]]:
    privacy = artifacts.read(run.root, PrivacyRecord)
    if not record.private or privacy is None:
        return [("differential privacy", "none")]
    spent = bounds.operating if bounds is not None else None
    epsilon = spent.epsilon if spent is not None else privacy.epsilon
    if bounds is not None and bounds.void:
        epsilon = None
    accountant = spent.accountant if spent is not None else privacy.accountant
    rows = [
        ("epsilon", "no bound" if epsilon is None else f"{epsilon:.4g}"),
        ("delta", f"{privacy.delta:g}"),
        ("privacy unit", unit_words(privacy.unit, patients_known=record.patients_known)),
        ("neighboring relation", privacy.relation),
        ("sample_rate q", f"{privacy.sample_rate:.6g}"),
        ("noise_multiplier σ", f"{privacy.noise_multiplier:.6g}"),
        ("steps T", f"{privacy.steps:,}"),
        ("max_grad_norm C", f"{privacy.max_grad_norm:g} ({privacy.clipping or 'not recorded'} clipping)"),
        ("sampler", privacy.sampler or "not recorded"),
        ("accountant", accountant),
    ]
    if bounds is not None and bounds.mechanism.noise_multiplier is None:
        rows.append(("composition", "the bounds count earlier runs behind the starting weights as well"))
    if privacy.declared_units is not None:
        rows.append((f"{privacy.unit}s, as declared", f"{privacy.declared_units:,}"))
    if privacy.unit != PrivacyUnit.PATIENT and record.patients_known:
        most = cases_of_a_patient(run)
        rows.append(("group size", f"up to {most:,} per patient" if most else "not known"))
    return [(name, printable(value)) for name, value in rows]
