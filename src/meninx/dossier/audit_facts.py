"""Facts about proven bounds and about attacks, each attack with its controls, its null and its interval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from meninx.core import artifacts
from meninx.core.artifacts import RunRecord
from meninx.core.audit_records import AttackRecord, MembershipAudit, OneRunRecord
from meninx.core.dossier_records import DossierPart
from meninx.core.origin import Origin
from meninx.core.risk_records import Bounded, BoundsRecord
from meninx.dossier.facts import RUN, EvidenceFolder, FactList

AUDIT = "audit"
BOUNDS = f"{RUN}/{AUDIT}/{artifacts.place(BoundsRecord)}"
ONE_RUN, MEMBERSHIP = (f"{RUN}/{artifacts.place(kind)}" for kind in (OneRunRecord, MembershipAudit))
FPR = "false positive rate"


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
    """Yield the records of audits that are about another run, other weights or another ledger."""
    run = artifacts.require(evidence.run.root, RunRecord, fix="ask for the whole dossier")
    bounds = evidence.record(BOUNDS, BoundsRecord)
    if bounds is not None:
        mechanism = bounds.mechanism
        if mechanism.run != run.id:
            yield Stranger(BOUNDS, "is about another run")
        elif mechanism.weights != run.weights:
            yield Stranger(BOUNDS, "is about other weights")
    for path, kind in ((ONE_RUN, OneRunRecord), (MEMBERSHIP, MembershipAudit)):
        record = evidence.record(path, kind)
        origin: Origin | None = getattr(record, "origin", None)
        if origin is None:
            continue
        if origin.run != run.id:
            yield Stranger(path, "is about another run")
        elif origin.weights != run.weights:
            yield Stranger(path, "is about other weights")


def bounds(evidence: EvidenceFolder) -> DossierPart:
    """Return what no attack exceeds."""
    found = FactList(evidence, "bounds", "Proven bounds on any attack")
    record = evidence.record(BOUNDS, BoundsRecord)
    if record is None or record.operating is None:
        fix = "`meninx audit bounds --run RUN --out RUN/audit` makes them"
        found.unknown("operating", "bounds at the run's noise", f"the run holds none ({fix})")
        return found.part()
    how = "upper bound, with what is known to be reachable"
    for prior in record.priors:
        worst, relaxed = record.operating.worst[prior.name], record.operating.relaxed[prior.name]
        _bounded(
            found, f"worst/{prior.name}", f"bound on reconstruction, {prior.name}, worst case", worst, how
        )
        _bounded(
            found, f"relaxed/{prior.name}", f"bound on reconstruction, {prior.name}, relaxed", relaxed, how
        )
        found.add(
            f"prior/{prior.name}", f"blind guess, {prior.name}", prior.kappa, BOUNDS, remark=prior.meaning
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
    found.add(
        "no_guarantee_from",
        "epsilon from which an attack could gain half of what guessing leaves",
        record.no_guarantee_from,
        BOUNDS,
        missing="the axis ends below it",
    )
    return found.part()


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
    found.add("verdict", "canaries: verdict on the claimed guarantee", audit.verdict, ONE_RUN)
    found.add(
        "control",
        "canaries: verdict with half of the noise, which has to be refuted",
        record.control.verdict,
        ONE_RUN,
    )
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
        missing="there is no guarantee for a patient",
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
