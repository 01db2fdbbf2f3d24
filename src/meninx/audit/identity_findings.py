"""What an audit of identity says: its verdict and its numbers in words and as findings."""

from __future__ import annotations

from meninx.core.findings import MEASURED, Finding, key_of
from meninx.core.identity_records import IdentityAudit, LinkRecord
from meninx.core.percentages import percent
from meninx.metrics.controls import control_level
from meninx.metrics.linkage import p_of_link
from meninx.metrics.verdict_rule import but, silenced

DATASET, CHANGED = "dataset", "changed images"
NULLS = (", noise alone", ", other patients")
"""Ends of the source of what a decoder makes of a gradient that holds nothing of the patients."""


def verdict_words(audit: IdentityAudit) -> str:
    """Return the verdict as a sentence."""
    if audit.verdict == "void":
        return f"VOID: {audit.reason}"
    if audit.verdict == "linked":
        sure = audit.significance / len(audit.links)
        found = ", ".join(dict.fromkeys(record.attack for record in audit.links if p_of_link(record) <= sure))
        return f"LINKED: {found} finds other images of a patient better than chance{but(audit.reason)}"
    return "nothing found by these attacks; another attack may find more"


def share_words(record: LinkRecord) -> str:
    """Return how often the most similar image is right."""
    if record.p_at_1 is None or record.p_at_1_low is None or record.p_at_1_high is None:
        return f"refused, {record.refusal}"
    ends = f"{percent(record.p_at_1_low)} to {percent(record.p_at_1_high)}"
    chance = f"by chance {percent(record.chance or 0.0)}, p {p_of_link(record):.3g}"
    return f"{percent(record.p_at_1)} ({ends}), {chance}"


def link_lines(record: LinkRecord, subject: str) -> list[str]:
    """Return what one attack found, in words."""
    who = "labels and attributes alone" if record.attack == "labels" else f"attack {record.attack}"
    asked = "" if subject == DATASET else f", {record.question}"
    lines = [
        f"{who}{asked}: most similar image right {share_words(record)}; "
        f"{record.probes} images of {record.patients} patients, gallery {record.gallery}"
    ]
    if record.auc is not None and record.per_patient is not None:
        lines.append(
            f"  pairs: AUC {record.auc:.3f} ({record.auc_low:.3f} to {record.auc_high:.3f}); mean over "
            f"patients {percent(record.per_patient)} ({percent(record.per_patient_low or 0.0)} to "
            f"{percent(record.per_patient_high or 0.0)})"
        )
    return lines


def findings(record: IdentityAudit) -> tuple[Finding, ...]:
    """Return the numbers of an audit of identity, as pages and thresholds read them."""
    found = [item for link in record.links for item in _link_findings(link, record)]
    best = max(record.links, key=lambda link: link.p_at_1 or 0.0)
    found.insert(0, _share_finding(key_of("identity", "p@1"), best, record, strongest=True))
    for link in record.reconstructions:
        last = "null" if link.source.endswith(NULLS) else "p@1"  # a null is no attack
        key = key_of("identity", "reconstruction", link.source, link.question, last)
        found.append(_share_finding(key, link, record))
    return (*found, *_controls(record))


def _controls(record: IdentityAudit) -> list[Finding]:
    """Return the planted mark, which has to be found, and shuffled identities, which must not be."""
    found = []
    rows = [("positive-control", "a planted mark per patient", link) for link in record.positive]
    rows += [("negative-control", "shuffled identities", link) for link in record.negative]
    for name, what, link in rows:
        if link.p_at_1 is None:
            continue
        limit = record.significance if name == "positive-control" else _control_level(record)
        good = (p_of_link(link) <= limit) == (name == "positive-control")
        found.append(
            Finding(
                key=key_of("identity", link.attack, name), line=MEASURED,
                words=f"Control with {what}: images whose most similar image is right, attack {link.attack}.",
                value=link.p_at_1, low=link.p_at_1_low, high=link.p_at_1_high, n=link.patients,
                null=link.chance, bound=None, colour="green" if good else "grey",
                reason="as it should be" if good else "the control FAILED",
            )
        )  # fmt: skip
    return found


def _control_level(record: IdentityAudit) -> float:
    return control_level(record.significance, len(record.negative))


def _link_findings(link: LinkRecord, record: IdentityAudit) -> list[Finding]:
    parts = [link.attack] if record.subject == DATASET else [link.attack, link.question]
    found = [_share_finding(key_of("identity", *parts, "p@1"), link, record)]
    if link.auc is not None:
        found.append(
            Finding(
                key=key_of("identity", *parts, "auc"),
                line=MEASURED,
                words=f"The attack {link.attack} tells pairs of images of one patient from pairs of two.",
                value=link.auc,
                low=link.auc_low,
                high=link.auc_high,
                n=link.patients,
                null=0.5,
                bound=None,
                colour=_colour(link, record),
                reason=_floor_words(record),
            )
        )
    return found


def _share_finding(key: str, link: LinkRecord, record: IdentityAudit, *, strongest: bool = False) -> Finding:
    who = f"The strongest of the attacks, {link.attack}," if strongest else f"The attack {link.attack}"
    made = {DATASET: "an image", CHANGED: "a changed image"}[record.subject]
    if link.source:
        made = "a reconstructed image"
    return Finding(
        key=key,
        line=MEASURED,
        words=f"{who} takes {made} and finds {link.question} of the patient among {link.gallery} images.",
        value=link.p_at_1,
        low=link.p_at_1_low,
        high=link.p_at_1_high,
        n=link.patients if link.p_at_1 is not None else 0,
        null=link.chance,
        bound=None,
        colour=_colour(link, record),
        reason=link.refusal or _floor_words(record),
    )


def _colour(link: LinkRecord, record: IdentityAudit) -> str:
    """Return red for linked images of patients, amber for invented ones, grey where nothing can be said."""
    if record.verdict == "void" or link.p_at_1 is None:
        return "grey"
    if link.source.endswith(NULLS):
        return "green" if p_of_link(link) > _control_level(record) and not record.reason else "grey"
    tests = record.reconstructions if link.source else record.links
    if p_of_link(link) > record.significance / max(1, len(tests)):
        return "grey" if record.reason else "green"
    return "amber" if record.synthetic else "red"


def _floor_words(record: IdentityAudit) -> str:
    if record.reason:
        return silenced(record.reason)
    if record.floor is None or record.floor.p_at_1 is None:
        return "Fitted on other patients; a weak attack that finds nothing shows nothing."
    return (
        f"Labels and attributes alone find {percent(record.floor.p_at_1)} "
        f"({percent(record.floor.p_at_1_low or 0.0)} to {percent(record.floor.p_at_1_high or 0.0)})."
    )
