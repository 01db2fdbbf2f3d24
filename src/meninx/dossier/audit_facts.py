"""Facts about proven bounds and about attacks, each attack with its controls, its null and its interval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from meninx.audit.plan_config import AuditPlan
from meninx.core import artifacts, audit_parts
from meninx.core.artifacts import RunRecord
from meninx.core.audit_records import AttackRecord, MembershipAudit, OneRunRecord
from meninx.core.audit_summary import AuditRecord, PlanRecord
from meninx.core.dossier_records import DossierPart
from meninx.core.errors import DataError, problem
from meninx.core.findings import LINES, Finding
from meninx.core.origin import Origin
from meninx.core.reconstruction_records import ReconstructionAudit
from meninx.core.risk_records import Bounded, BoundsRecord
from meninx.dossier.facts import RUN, EvidenceFolder, FactList

BOUNDS, ONE_RUN, MEMBERSHIP = (
    f"{RUN}/{audit_parts.place_of(name)}" for name in ("bounds", "one-run", "membership")
)
SUMMARY, PLAN = (f"{RUN}/{artifacts.place(kind)}" for kind in (AuditRecord, PlanRecord))
PLAN_FILE = f"{RUN}/{audit_parts.FOLDER}/{audit_parts.PLAN}"
FPR = "false positive rate"
_FURTHER = tuple(audit_parts.PARTS[name] for name in ("reconstruction", "attributes", "identity"))


def kinds() -> dict[str, type[Any]]:
    """Return where records of audits lie in a dossier -> their type."""
    return {f"{RUN}/{audit_parts.place_of(name)}": part.record for name, part in audit_parts.PARTS.items()}


def places() -> tuple[str, ...]:
    """Return where the files of audits lie in a dossier."""
    return (*kinds(), SUMMARY, PLAN, PLAN_FILE)


@dataclass(frozen=True)
class Stranger:
    """A record of an audit that is not about the run.

    Attributes:
        path: its path in the dossier.
        why: the end of a sentence.
    """

    path: str
    why: str


def strangers(evidence: EvidenceFolder) -> Iterator[Stranger]:
    """Yield the records of audits that are about another run or other weights, or that changed since.

    The summary of an audit names the SHA-256 of every record that it rests on.
    """
    run = artifacts.require(evidence.run.root, RunRecord, fix="ask for the whole dossier")
    for path, kind in kinds().items():
        about = _about(evidence.record(path, kind))
        if about is not None and about[0] != run.id:
            yield Stranger(path, "is about another run")
        elif about is not None and about[1] != run.weights:
            yield Stranger(path, "is about other weights")
    summary = evidence.record(SUMMARY, AuditRecord)
    if summary is not None:
        wrong = audit_parts.stale(evidence.run.root, summary, run)
        if wrong:
            yield Stranger(SUMMARY, wrong)


def _about(record: Any) -> tuple[str, str] | None:
    """Return identity and weights of the run that a record names; None without a record."""
    if record is None:
        return None
    if isinstance(record, BoundsRecord):
        return record.mechanism.run, record.mechanism.weights
    origin: Origin = record.origin
    return origin.run, origin.weights


def audit(evidence: EvidenceFolder) -> DossierPart:
    """Return the verdict of the audit as a whole, by its plan, and every number of it."""
    found = FactList(evidence, "audit", "Audit: three lines that are never mixed")
    record = evidence.record(SUMMARY, AuditRecord)
    if record is None:
        for line in LINES:
            found.unknown(
                f"line/{line}",
                f"audit, line {line}",
                "the run was not audited as a whole (`meninx audit RUN`)",
            )
        return found.part()
    for item in record.lines:
        found.add(
            f"line/{item.line}",
            f"audit, line {item.line}",
            f"{item.colour}: {item.word}",
            SUMMARY,
            remark=item.words,
        )
    found.add("plan", "SHA-256 of the plan", record.plan.sha256, SUMMARY, remark=record.plan.words())
    met = "no condition of the plan is met"
    found.add("conditions", "conditions by which the audit fails", record.conditions, SUMMARY, none=met)
    found.add("not_tested", "what was not tested", record.not_tested, SUMMARY, none="the audit names nothing")
    for part in record.parts:
        if part.reason:
            found.add(f"part/{part.name}", f"{part.name}, not done", part.reason, SUMMARY)
        for finding in part.findings:
            _finding(found, finding, SUMMARY)
    return found.part()


def _finding(found: FactList, finding: Finding, path: str) -> None:
    """Add one number of the audit with its null, what the guarantee allows, and what it rests on."""
    weaker = "/relaxed-" in finding.key  # bounds a weaker attacker: computed, and nothing is guaranteed
    kind = "computed for a weaker attacker" if weaker else finding.line
    told = [f"{finding.colour}, {kind}", finding.reason]
    told += [f"null {finding.null:.4g}"] if finding.null is not None else []
    told += [f"the guarantee allows {finding.bound:.4g}"] if finding.bound is not None else []
    told += [f"n = {finding.n:,} {finding.counted}"] if finding.n else []
    remark = "; ".join(item for item in told if item)
    limits = (None, None) if finding.is_exact else (finding.low, finding.high)
    key = f"finding/{finding.key}"
    found.add(key, finding.words, finding.value, path, limits=limits, remark=remark, missing=remark)


def attacks(evidence: EvidenceFolder) -> DossierPart:
    """Return what attacks beside the membership attacks found: on images, attributes and identity."""
    from meninx.audit.part_rules import RULES  # it computes bounds, which takes libraries of [train]

    found = FactList(evidence, "attacks", "Reconstruction, attributes and identity")
    summary = evidence.record(SUMMARY, AuditRecord)
    planned = {part.name for part in summary.parts} if summary is not None else set()
    for part in _FURTHER:
        name, words = part.name, part.title.lower()
        path = f"{RUN}/{audit_parts.place_of(name)}"
        record = evidence.record(path, part.record)
        if record is None:
            found.unknown(f"{name}/verdict", f"{words}: verdict", "the run holds no such audit")
            continue
        reason = record.reason or "an attack that finds nothing is no evidence of privacy"
        verdict = record.standing if isinstance(record, ReconstructionAudit) else record.verdict
        found.add(f"{name}/verdict", f"{words}: verdict", verdict, path, remark=reason)
        for finding in () if name in planned else RULES[name].findings(record, AuditPlan()):
            _finding(found, finding, path)
    return found.part()


def bounds(evidence: EvidenceFolder) -> DossierPart:
    """Return what no attack exceeds."""
    found = FactList(evidence, "bounds", "Proven bounds on any attack")
    record = evidence.record(BOUNDS, BoundsRecord)
    if record is None or record.operating is None:
        fix = "`meninx audit bounds --run RUN --out RUN/audit` makes them"
        found.unknown("operating", "bounds at the run's noise", f"the run holds none ({fix})")
        return found.part()
    how = "upper bound, with what is known to be reachable"
    names = {prior.name for prior in record.priors}
    if names != set(record.operating.worst) or names != set(record.operating.relaxed):
        raise DataError(problem("the adversaries are not those of the record", where=BOUNDS))
    for prior in record.priors:
        worst, relaxed = record.operating.worst[prior.name], record.operating.relaxed[prior.name]
        _bounded(
            found, f"worst/{prior.name}", f"bound on reconstruction, {prior.name}, worst case", worst, how
        )
        _bounded(
            found, f"relaxed/{prior.name}", f"bound on reconstruction, {prior.name}, relaxed", relaxed, how
        )
        found.add(
            f"prior/{prior.name}",
            f"blind guess, {prior.name}",
            prior.kappa,
            BOUNDS,
            remark=prior.meaning(record.unit),
        )
    if record.membership is not None:
        _bounded(
            found,
            "membership/auc",
            "bound on membership, area under the ROC curve",
            record.membership.auc,
            how,
        )
        _bounded(
            found, "membership/advantage", "bound on membership, TPR - FPR", record.membership.advantage, how
        )
        for rate, value in record.membership.tpr_at_fpr.items():
            _bounded(found, f"membership/tpr@{rate}", f"bound on membership, TPR at {FPR} {rate}", value, how)
    _of_a_patient(found, record)
    found.add(
        "no_guarantee_from",
        "epsilon from which an attack could gain half of what guessing leaves",
        record.no_guarantee_from,
        BOUNDS,
        none="the axis ends below it",
    )
    return found.part()


def _of_a_patient(found: FactList, record: BoundsRecord) -> None:
    """Add the bounds for a patient, where those above are for one case."""
    known = record.patient
    if known is None:
        return
    how = f"upper bound, for a patient with {known.cases:,} cases; the others here are for one case"
    words = "largest number of training cases of a patient"
    found.add("patient/cases", words, known.cases or None, BOUNDS, missing=known.reason)
    words = "bound on membership of a patient, TPR - FPR"
    found.add("patient/advantage", words, known.advantage, BOUNDS, remark=how, missing=known.reason)
    for rate, most in known.tpr_at_fpr.items():
        words = f"bound on membership of a patient, TPR at {FPR} {rate}"
        found.add(f"patient/tpr@{rate}", words, most, BOUNDS, remark=how)
    for name, most in known.success.items():
        words = f"bound on reconstruction of a patient, {name}, worst case"
        found.add(f"patient/worst/{name}", words, most, BOUNDS, remark=how)


def _bounded(found: FactList, key: str, words: str, value: Bounded, remark: str) -> None:
    found.add(key, words, value.upper, BOUNDS, limits=(value.lower, value.upper), remark=remark)


def implementation(evidence: EvidenceFolder) -> DossierPart:
    """Return whether the program adds the noise that it states, by the audit with canaries."""
    found = FactList(evidence, "implementation", "Implementation: audit with canaries, and its control")
    record = evidence.record(ONE_RUN, OneRunRecord)
    if record is None:
        found.unknown(
            "verdict",
            "canaries: verdict on the claimed guarantee",
            "the run holds none (`meninx audit one-run RUN` makes it)",
        )
        found.unknown(
            "control", "canaries: verdict with half of the noise, which has to be refuted", "as above"
        )
        return found.part()
    audit = record.audit
    by = ", ".join(record.refuted_by)
    verdict = "refuted" if by else audit.verdict
    remark = f"refuted by {by}" if by else ""
    found.add("verdict", "canaries: verdict on the claimed guarantee", verdict, ONE_RUN, remark=remark)
    found.add(
        "control",
        "canaries: verdict with half of the noise, which has to be refuted",
        "refuted" if record.control_found else record.control.verdict,
        ONE_RUN,
    )
    for name, check in (("noise", record.mechanism), ("control/noise", record.control_mechanism)):
        if check is not None:
            limits = (check.noise_low, check.noise_high)
            words = "measured noise over the promised one" + (", half of the noise" if "/" in name else "")
            found.add(name, words, check.noise, ONE_RUN, limits=limits)
    found.add("canaries", "canaries", audit.included + audit.excluded, ONE_RUN)
    found.add("mu", "estimate of mu", audit.mu, ONE_RUN, limits=(audit.mu_low, audit.mu_high))
    found.add("mu_allowed", "largest mu that the claim allows", audit.claim_mu, ONE_RUN)
    found.add("epsilon_low", "certified lower bound on epsilon", audit.one_run_epsilon, ONE_RUN)
    found.add("fdp_epsilon_low", "certified lower bound on epsilon, f-DP", audit.fdp_epsilon, ONE_RUN)
    found.add("epsilon_claimed", "epsilon that was claimed", audit.claim_epsilon, ONE_RUN)
    found.add("confidence", "confidence of each bound", audit.confidence, ONE_RUN)
    return found.part()


def membership(evidence: EvidenceFolder) -> DossierPart:
    """Return what attacks learn about who took part."""
    found = FactList(evidence, "membership", "Membership attacks, and their controls")
    record = evidence.record(MEMBERSHIP, MembershipAudit)
    if record is None:
        found.unknown(
            "verdict",
            "membership attacks: verdict",
            "the run holds none (`meninx audit membership RUN` makes it)",
        )
        for key in ("negative", "positive"):
            found.unknown(f"{key}/auc", f"{key} control", "as above")
        return found.part()
    reason = record.reason or "a measured zero of a weak attack is no evidence of privacy"
    found.add("verdict", "membership attacks: verdict", record.verdict, MEMBERSHIP, remark=reason)
    found.add("references", "reference models", record.references, MEMBERSHIP)
    split = "the dataset does not say how its splits were made"
    found.add("split", "how the splits were made", record.split_rule, MEMBERSHIP, missing=split)
    found.add(
        "bound",
        "largest area under the ROC curve that the guarantee allows",
        record.bound_auc,
        MEMBERSHIP,
        none="there is no guarantee for a patient",
    )
    for attack in record.attacks:
        _attack(found, attack.attack, f"attack {attack.attack}", attack)
    _attack(found, "negative", "negative control (a network trained on nothing)", record.negative)
    _attack(found, "positive", "positive control (a model that knows its patients)", record.positive)
    return found.part()


def _attack(found: FactList, key: str, words: str, record: AttackRecord) -> None:
    null = f"{record.null_low:.3g} to {record.null_high:.3g} with permuted membership"
    sample = f"{record.members} members and {record.others} others, 95 % interval; null: {null}"
    limits = (record.auc_low, record.auc_high)
    found.add(
        f"{key}/auc",
        f"{words}: area under the ROC curve",
        record.auc,
        MEMBERSHIP,
        limits=limits,
        remark=sample,
    )
    for point in record.points:
        found.add(
            f"{key}/tpr@{point.fpr:g}",
            f"{words}: TPR at {FPR} {point.fpr:g}",
            point.tpr,
            MEMBERSHIP,
            limits=(point.low, point.high),
            missing=point.refusal or "it was refused",
        )
