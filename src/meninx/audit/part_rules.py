"""What the record of each part says: its numbers, whether it refutes the guarantee, and its verdict.

The stage derives a summary by these rules, and whoever reads the summary derives it again. They read records
alone, so this module imports no network library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from meninx.audit import (
    attribute_findings,
    bounds,
    identity_findings,
    membership_findings,
    one_run_findings,
    record_consistency,
)
from meninx.audit.mechanism import SEEDED
from meninx.audit.plan_config import AuditPlan
from meninx.audit.reconstruction import reconstruction_verdict
from meninx.audit.verdict_lines import Reservations
from meninx.core.attribute_records import AttributesAudit
from meninx.core.audit_records import MembershipAudit
from meninx.core.audit_summary import DONE, AuditedPart
from meninx.core.findings import GUARANTEED, Finding
from meninx.core.identity_records import IdentityAudit
from meninx.core.reconstruction_records import ReconstructionAudit
from meninx.core.risk_records import BoundsRecord
from meninx.metrics.attack_success import FPRS

_ATTACKS = ("loss", "lira", "rmia")
_RATES = tuple(f"tpr@fpr={rate:g}" for rate in FPRS)
_BOUNDS = ("bounds/epsilon", "bounds/largest-auc", *(f"bounds/largest-{rate}" for rate in _RATES))
_SUCCESSES = ("bounds/largest-success@*", "bounds/relaxed-success@*")
_OF_A_PATIENT = ("bounds/patient-tpr@fpr=*", "bounds/patient-advantage", "bounds/patient-success@*")


@dataclass(frozen=True, kw_only=True)
class PartRules:
    """What the record of a part says.

    Attributes:
        keys: keys of findings that it always gives; for conditions on a part that was not done.
        further: patterns of the keys that depend on the data and the plan; ``*`` stands for any text.
        one_sided: pattern of a key -> ``exact``, or the limit that its number is, without an interval.
        findings: record and plan -> its numbers.
        refuted: record -> whether it refutes the guarantee of the run.
        contradictions: record -> what in it does not follow from its own numbers, in words.
        unbounded: record -> the record of a run for which no guarantee holds.
        void: record -> which control failed, so that none of its numbers is green; else empty.
    """

    keys: tuple[str, ...]
    further: tuple[str, ...]
    findings: Callable[[Any, AuditPlan], tuple[Finding, ...]]
    refuted: Callable[[Any], bool]
    contradictions: Callable[[Any], Iterator[str]]
    one_sided: Mapping[str, str] = field(default_factory=dict)
    unbounded: Callable[[Any], Any] = lambda record: record
    void: Callable[[Any], str] = lambda record: ""


def _void(record: MembershipAudit | AttributesAudit | IdentityAudit) -> str:
    return record.reason


def _bound_findings(record: BoundsRecord, plan: AuditPlan) -> tuple[Finding, ...]:
    return bounds.findings(record, amber=plan.limits.bound_green, red=plan.limits.bound_amber)


def _membership_without_bounds(record: MembershipAudit) -> MembershipAudit:
    attacks = tuple(replace(one, excess=None) for one in record.attacks)
    return replace(record, attacks=attacks, bound={}, bound_auc=None, curve_bound=())


def _attributes_without_bounds(record: AttributesAudit) -> AttributesAudit:
    attributes = tuple(replace(one, bound=None, excess=None) for one in record.attributes)
    leaks = tuple(replace(one, bound=None) for one in record.leaks)
    return replace(record, attributes=attributes, leaks=leaks, prior_bounds={})


RULES: Mapping[str, PartRules] = {
    "bounds": PartRules(
        keys=_BOUNDS,
        further=(*_SUCCESSES, *_OF_A_PATIENT),
        one_sided=dict.fromkeys((*_BOUNDS, *_SUCCESSES, *_OF_A_PATIENT), "exact"),
        findings=_bound_findings,
        refuted=lambda record: False,
        contradictions=record_consistency.of_bounds,
        unbounded=lambda record: replace(
            record, operating=None, membership=None, patient=None, void=record.void or SEEDED
        ),
    ),
    "one-run": PartRules(
        keys=(
            "one-run/mu",
            "one-run/epsilon-lower-limit",
            "one-run/advantage-lower-limit",
            "one-run/noise",
        ),
        further=("one-run/halved-noise-control", "one-run/clipped-length"),
        one_sided=dict.fromkeys(
            ("one-run/epsilon-lower-limit", "one-run/advantage-lower-limit"), "lower limit"
        ),
        findings=lambda record, plan: one_run_findings.findings(record),
        refuted=lambda record: bool(record.refuted_by),
        contradictions=record_consistency.of_one_run,
        void=one_run_findings.void,
    ),
    "membership": PartRules(
        keys=tuple(f"membership/{name}/{key}" for name in _ATTACKS for key in ("auc", *_RATES)),
        further=("membership/*/*/auc", "membership/*-control"),
        findings=lambda record, plan: membership_findings.findings(record),
        refuted=lambda record: record.verdict == "refuted",
        contradictions=record_consistency.of_membership,
        void=_void,
        unbounded=_membership_without_bounds,
    ),
    "reconstruction": PartRules(
        keys=("reconstruction/rank1@n=10",),
        further=(
            "reconstruction/rank1@n=*",
            "reconstruction/*/step",
            "reconstruction/*/*sites*",
            "reconstruction/*/rank1",
            "reconstruction/*/not-run",
            "reconstruction/*-control",
        ),
        findings=lambda record, plan: reconstruction_verdict.findings(record),
        refuted=lambda record: record.verdict == "refuted",
        contradictions=record_consistency.of_reconstruction,
        void=reconstruction_verdict.void,
        unbounded=ReconstructionAudit.without_bounds,
    ),
    "attributes": PartRules(
        keys=(),
        further=(
            "attributes/*/*/auroc",
            "attributes/*/*/accuracy",
            "attributes/*/*/advantage",
            "attributes/*-control",
            "attributes/*/untrained-control",
        ),
        findings=lambda record, plan: attribute_findings.findings(record),
        refuted=lambda record: record.verdict == "refuted",
        contradictions=record_consistency.of_attributes,
        void=_void,
        unbounded=_attributes_without_bounds,
    ),
    "identity": PartRules(
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
        findings=lambda record, plan: identity_findings.findings(record),
        refuted=lambda record: False,
        contradictions=record_consistency.of_identity,
        void=_void,
    ),
}
"""Name of a part -> what its record says."""


def missing(parts: Iterable[AuditedPart]) -> dict[str, str]:
    """Return the keys of findings that parts would have given that were not done -> why not."""
    return {key: part.reason for part in parts if part.state != DONE for key in patterns_of(part.name)}


def patterns_of(part: str) -> tuple[str, ...]:
    """Return the keys of findings that a part always gives, and patterns of the others."""
    return (*RULES[part].keys, *RULES[part].further)


def holds_a_bound(part: str, record: Any) -> bool:
    """Return whether a record holds a bound, which that of a run without a guarantee must not."""
    unbounded: Any = RULES[part].unbounded(record)
    return bool(unbounded != record)


def findings_of(part: str, record: Any, plan: AuditPlan, held: Reservations) -> tuple[Finding, ...]:
    """Return the numbers of a part under the reservations about its run.

    Where no guarantee holds, bounds have no number and attacks are compared with none. A bound for another
    unit than the patient is not green.
    """
    rules = RULES[part]
    found = rules.findings(rules.unbounded(record) if held.void else record, plan)
    return tuple(_reserved(item, held) if item.line == GUARANTEED else item for item in found)


def _reserved(item: Finding, held: Reservations) -> Finding:
    if held.void:
        return replace(
            item, words="Nothing bounds an attack on this run.", value=None, low=None, high=None, n=0,
            bound=None, colour="red", reason=held.void,
        )  # fmt: skip
    if held.several and item.colour == "green" and not item.key.startswith("bounds/patient-"):
        reason = f"for one {held.unit}, not for a patient"
        return replace(item, colour="amber", reason=reason)
    return item
