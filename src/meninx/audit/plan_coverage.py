"""What in the record of a part is not what the registered plan of the audit asked for.

A record with fewer adversaries, attacks or patients than planned would hide what these found. One that names
why it lacks something is accepted where the part may refuse it; the summary shows the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from meninx.audit.membership_findings import ATTACKS, LEAST_REFERENCES
from meninx.audit.plan_config import AuditPlan
from meninx.audit.reconstruction.config import names_of
from meninx.core.attribute_records import AttributesAudit
from meninx.core.audit_records import AttackRecord, MembershipAudit, OneRunRecord
from meninx.core.identity_records import IdentityAudit
from meninx.core.reconstruction_records import ReconstructionAudit
from meninx.core.risk_records import BoundsRecord
from meninx.metrics.attack_success import FPRS

_ROUNDING = 1e-9


def of_bounds(record: BoundsRecord, plan: AuditPlan) -> Iterator[str]:
    """Yield which adversaries or points of the plan are not those of the bounds."""
    planned, units = plan.bounds, record.mechanism.units
    names = [f"1 of all {units:,}"] if units is not None and units > 1 else []
    names += [f"1 of {count:,}" for count in planned.candidates]
    yield from _lacking("adversaries", names, [prior.name for prior in record.priors])
    axis = np.geomspace(planned.eps_min, planned.eps_max, planned.n_eps)
    found = [point.epsilon for point in record.points]
    if len(found) != len(axis) or not np.allclose(found, axis, rtol=_ROUNDING, atol=0):
        yield "its axis of epsilon is not that of the plan"
    if not math.isclose(record.precision, planned.precision, rel_tol=_ROUNDING):
        yield "its precision is not that of the plan"


def of_one_run(record: OneRunRecord, plan: AuditPlan) -> Iterator[str]:
    """Yield which numbers of canaries or significances are not those of the plan."""
    for audit in (record.audit, record.control):
        if audit.included + audit.excluded != plan.one_run.canaries:
            yield f"it has {audit.included + audit.excluded} canaries, planned {plan.one_run.canaries}"
        yield from _significance(1 - audit.confidence, plan.one_run.significance)


def of_membership(record: MembershipAudit, plan: AuditPlan) -> Iterator[str]:
    """Yield which attacks, rates, references or controls of the plan are not those of the record."""
    yield from _lacking("attacks", ATTACKS, [attack.attack for attack in record.attacks])
    known = [*record.attacks, record.negative, record.positive, record.split_control]
    if not all(map(_has_every_rate, (attack for attack in known if attack is not None))):
        yield f"an attack has other rates than {', '.join(f'{fpr:g}' for fpr in FPRS)}"
    if record.references != plan.membership.references:
        yield f"it has {record.references} reference models, planned {plan.membership.references}"
    if (record.split_control is None) != (record.references < LEAST_REFERENCES):
        yield "the control by models that know half of both splits is missing"
    yield from _significance(record.significance, plan.membership.significance)


def of_reconstruction(record: ReconstructionAudit, plan: AuditPlan) -> Iterator[str]:
    """Yield which attacks of the plan have no result at the run's own noise, and no reason."""
    at_own = {match.attack for match in record.matches if match.level == record.own_level}
    refused = {name.partition(",")[0] for name, why in record.not_attacked.items() if why}
    lacking = [name for name in names_of(plan.reconstruction.attacks) if name not in at_own | refused]
    if lacking:
        yield f"attacks of the plan are missing: {', '.join(lacking)}"
    if not any(one.level == record.own_level for one in record.identification):
        yield "it holds no identification at the run's own noise"
    yield from _significance(record.significance, plan.reconstruction.significance)


def of_attributes(record: AttributesAudit, plan: AuditPlan) -> Iterator[str]:
    """Yield which attributes of the plan are missing, or lack a signal without a reason."""
    planned, known = plan.attribute, list(dict.fromkeys(one.attribute for one in record.attributes))
    lacking = [name for name in planned.attributes if name not in known]
    if lacking or not known:
        yield f"attributes of the plan are missing: {', '.join(lacking) or 'all'}"
    signals = {name: {one.signal for one in record.attributes if one.attribute == name} for name in known}
    refused = {one.attribute for one in record.attributes if one.accuracy is None and one.refusal}
    whole = set().union(*signals.values()) if signals else set()
    for name in known:
        if name not in refused and signals[name] != whole:
            yield f"attribute {name} lacks signals: {', '.join(sorted(whole - signals[name]))}"
    yield from _significance(record.significance, planned.significance)
    yield from _seed(record.seed, plan)


def of_identity(record: IdentityAudit, plan: AuditPlan) -> Iterator[str]:
    """Yield which attacks of the plan are missing for a question that others answer."""
    questions = dict.fromkeys(link.question for link in record.links)
    for question in questions or ("another image",):
        found = [link.attack for link in record.links if link.question == question]
        yield from _lacking(f"attacks on {question}", plan.identity.attacks, found)
    yield from _significance(record.significance, plan.identity.significance)
    yield from _seed(record.seed, plan)


def _lacking(what: str, planned: Iterable[str], found: Iterable[str]) -> Iterator[str]:
    """Yield what is missing or was not planned."""
    wanted, there = list(dict.fromkeys(planned)), list(found)
    missing = [name for name in wanted if name not in there]
    if missing:
        yield f"{what} of the plan are missing: {', '.join(missing)}"
    elif sorted(there) != sorted(wanted):
        yield f"it has {what} that the plan does not name, or one twice"


def _has_every_rate(attack: AttackRecord) -> bool:
    return sorted(point.fpr for point in attack.points) == sorted(FPRS)


def _significance(stated: float, planned: float) -> Iterator[str]:
    if not math.isclose(stated, planned, rel_tol=_ROUNDING):
        yield f"its significance is {stated:g}, planned {planned:g}"


def _seed(stated: int, plan: AuditPlan) -> Iterator[str]:
    if stated != plan.seed:
        yield "its seed is not that of the plan"
