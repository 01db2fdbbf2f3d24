"""What a membership audit found, as pages and thresholds read it: attacks, groups and controls."""

from __future__ import annotations

from collections.abc import Sequence

from meninx.audit.audited_run import UNKNOWN_START
from meninx.core.audit_records import AttackRecord, GroupRecord, MembershipAudit, OperatingPoint
from meninx.core.findings import MEASURED, Finding, key_of, named
from meninx.core.percentages import percent
from meninx.metrics import verdict_rule
from meninx.metrics.attack_success import FPRS, PERMUTATIONS, needed_for
from meninx.metrics.controls import control_level
from meninx.metrics.verdict_rule import REFUTED, VOID, but, silenced, undecided

ATTACKS = ("loss", "lira", "rmia")
LEAST_REFERENCES = 4
"""Of the control that attacks the reference models in place of the run's model."""
MAIN_ATTACK = "rmia"
"""The attack of groups and controls."""
_RATE, _EXCLUDES_NOTHING = 0.01, 0.99  # a guarantee that allows more at this rate is none


def two_sided(attack: AttackRecord) -> float:
    """Return the probability of an area as far from 1/2 with permuted membership, in either direction."""
    return min(1.0, 2 * min(attack.p_value, 1 + 1 / (PERMUTATIONS + 1) - attack.p_value))


def verdict_of(
    attacks: Sequence[AttackRecord],
    positive: AttackRecord,
    negatives: tuple[AttackRecord, AttackRecord | None],
    significance: float,
) -> tuple[str, str]:
    """Return the verdict, and which control failed; the negative controls share their significance."""
    fresh, split = negatives
    each, why = (
        control_level(significance, 1 if split is None else 2),
        "so they differ in more than membership",
    )
    failed = weak = ""
    if fresh.p_value <= each:
        failed = f"a network that was trained on nothing tells the splits apart, {why}"
    elif split is not None and two_sided(split) <= each:
        failed = f"models that know half of both splits tell them apart, {why}"
    if positive.p_value > significance:
        weak = (
            "a model that knows a few patients was not found, so the attacks are too weak to say anything; "
            "use more --references or more --control-steps"
        )
    exposed = any(attack.p_value <= significance / len(attacks) for attack in attacks)
    return verdict_rule.verdict_of(
        refuted=any(attack.excess for attack in attacks),
        failed=failed,
        found="exposed" if exposed else "",
        weak=weak,
    )


def findings(audit: MembershipAudit) -> tuple[Finding, ...]:
    """Return the numbers of an audit for pages and thresholds: attacks, groups and controls.

    An attack is red where it exceeds the guarantee, or finds members where nothing is guaranteed.
    """
    found = []
    for attack in audit.attacks:
        colour, reason = _colour(attack, audit)
        found.append(_area_finding(attack, audit, colour, reason))
        found += [_rate_finding(attack, point, audit, colour, reason) for point in attack.points]
    exposed = any(item.colour in ("amber", "red") for item in found)
    groups = (_group_finding(group, exposed=exposed, failed=audit.reason) for group in audit.groups)
    return (*found, *groups, *_controls(audit))


def _colour(attack: AttackRecord, audit: MembershipAudit) -> tuple[str, str]:
    """Return the colour of an attack, and why."""
    if attack.excess:
        return "red", f"the attack finds more members than the guarantee allows{but(audit.reason)}"
    if _is_silenced(audit):
        return "grey", silenced(audit.reason)
    if attack.p_value <= audit.significance / len(audit.attacks):
        if audit.bound_auc is None:
            return "red", "the attack finds members, and nothing is guaranteed for a patient"
        if audit.bound.get(f"{_RATE:g}", 1.0) > _EXCLUDES_NOTHING:
            return "red", "the attack finds members, and the guarantee excludes nothing"
        return "amber", f"the attack finds members; {_beside_the_bound(attack, audit)}"
    if audit.unknown_start:
        return "grey", UNKNOWN_START
    if audit.reason:
        return "grey", silenced(audit.reason)
    if attack.p_value <= audit.significance or attack.auc_low > 0.5:
        guess = f"guessing gives an area of 0.5, the null reaches {attack.null_high:.3f}"
        return "grey", undecided(attack.p_value, audit.significance, len(audit.attacks), guess=guess)
    return "green", "the attack is no better than chance; another attack may be"


def is_tested(attack: AttackRecord) -> bool:
    """Return whether an attack on so many patients could have shown that a guarantee does not hold."""
    return attack.excess is not None and (bool(attack.above) or attack.others >= needed_for(max(FPRS)))


def untested(attack: AttackRecord) -> str:
    """Return that a guarantee cannot be tested with so few patients, as the end of a sentence."""
    return f"cannot be tested with {attack.members} members and {attack.others} non-members"


def _beside_the_bound(attack: AttackRecord, audit: MembershipAudit) -> str:
    """Return how what an attack found compares with a guarantee that it was not shown to exceed."""
    if not is_tested(attack):
        return f"whether more than the guarantee allows {untested(attack)}"
    rates = [(point.tpr, audit.bound.get(f"{point.fpr:g}")) for point in attack.points]
    pairs = [(attack.auc, audit.bound_auc), *rates]
    if any(found is not None and most is not None and found > most for found, most in pairs):
        return "more than the guarantee allows, but no more than chance explains"
    return "within the guarantee"


def _is_silenced(audit: MembershipAudit) -> bool:
    """Return whether what attacks find within the guarantee says nothing, because a control failed."""
    return audit.verdict in (VOID, REFUTED) and bool(audit.reason)


def _area_finding(attack: AttackRecord, audit: MembershipAudit, colour: str, reason: str) -> Finding:
    words = (
        f"Shown one patient who took part and one who did not, attack {attack.attack} names the right one "
        f"{percent(attack.auc)} of the time."
    )
    return Finding(
        key=key_of("membership", attack.attack, "auc"), line=MEASURED, words=words, value=attack.auc,
        low=min(attack.auc, attack.auc_low), high=max(attack.auc, attack.auc_high),
        n=attack.members + attack.others, null=0.5, bound=audit.bound_auc, colour=colour, reason=reason,
    )  # fmt: skip


def _rate_finding(
    attack: AttackRecord, point: OperatingPoint, audit: MembershipAudit, colour: str, reason: str
) -> Finding:
    """Return the members found at one false positive rate, or why there is no number."""
    known = point.tpr is not None
    words = f"Attack {attack.attack} finds {percent(point.tpr or 0.0)} of the patients who took part"
    missing = f"How many patients attack {attack.attack} finds is not known"
    words = f"{words if known else missing}, at {percent(point.fpr)} false accusations."
    if known and colour in ("amber", "red") and (point.low or 0.0) <= (point.fpr_high or point.fpr):
        colour, reason = "amber", "the attack finds members, at this rate it cannot be told from chance"
    return Finding(
        key=key_of("membership", attack.attack, f"tpr@fpr={point.fpr:g}"), line=MEASURED, words=words,
        value=point.tpr, low=point.low, high=point.high, n=attack.members, null=point.fpr,
        bound=audit.bound.get(f"{point.fpr:g}"), colour=colour if known else "grey",
        reason=reason if known else point.refusal,
    )  # fmt: skip


def _group_finding(group: GroupRecord, *, exposed: bool, failed: str) -> Finding:
    name = f"{named(group.attribute)} {named(group.group)}"
    above = group.auc_low is not None and group.auc_low > 0.5
    colour, many = "green", "within this group, not corrected for the number of groups"
    reason = f"no better than chance {many}"
    if above:
        reason = f"above chance {many}"
        colour = "amber" if exposed else "grey"
    if failed and colour in ("green", "grey"):
        colour, reason = "grey", silenced(failed)
    known, part = group.auc is not None, f"{group.attribute}={group.group}"
    area = group.auc if group.auc is not None else 0.0
    return Finding(
        key=key_of("membership", MAIN_ATTACK, part, "auc"), line=MEASURED, group=key_of(part),
        words=f"Within group {name} attack {MAIN_ATTACK} has "
        + (f"an area under the ROC curve of {area:.3f}." if known else "no number."),
        value=group.auc, low=None if group.auc_low is None else min(area, group.auc_low),
        high=None if group.auc_high is None else max(area, group.auc_high),
        n=(group.members or 0) + (group.others or 0), null=0.5, bound=None,
        colour=colour if known else "grey", reason=reason if known else group.refusal,
    )  # fmt: skip


def _controls(audit: MembershipAudit) -> tuple[Finding, ...]:
    """Return the planted leak, which has to be found, and the models in which nothing may be found."""
    planted, caught = audit.positive, audit.positive.p_value <= audit.significance
    others = [
        (audit.negative, "negative-control", "Negative control: a network that was trained on nothing."),
        (audit.split_control, "split-control", "Negative control: models that know half of both splits."),
    ]
    known = [(attack, name, words) for attack, name, words in others if attack is not None]

    def control(attack: AttackRecord, name: str, words: str, colour: str, reason: str) -> Finding:
        return Finding(
            key=key_of("membership", name), line=MEASURED, words=words, value=attack.auc,
            low=min(attack.auc, attack.auc_low), high=max(attack.auc, attack.auc_high),
            n=attack.members + attack.others, null=0.5, bound=None, colour=colour, reason=reason,
        )  # fmt: skip

    def quiet(attack: AttackRecord, name: str, words: str) -> Finding:
        chance = two_sided(attack) if attack is audit.split_control else attack.p_value
        nothing = chance > control_level(audit.significance, 1 if audit.split_control is None else 2)
        colour, reason = ("green", "nothing was found") if nothing else ("grey", "it tells the splits apart")
        return control(attack, name, words, colour, reason)

    leak = control(
        planted, "positive-control",
        "Positive control: a model that was trained on a few patients until it knew them.",
        "green" if caught else "grey", "the planted leak was found" if caught else "it was NOT found",
    )  # fmt: skip
    return leak, *(quiet(*item) for item in known)
