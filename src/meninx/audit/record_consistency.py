"""What in the record of an audit does not follow from its own numbers: verdicts, intervals, excesses, bounds.

Whoever edits one number of a record has to edit all that follow from it. ``meninx verify`` and the report ask
these functions; only records are read, and no network library is imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from statistics import NormalDist

from meninx.audit import attribute_findings, bounds, membership_findings, patient_bounds
from meninx.audit.reconstruction import criteria, reconstruction_verdict
from meninx.core.attribute_records import AttributeRecord, AttributesAudit
from meninx.core.audit_records import AttackRecord, MechanismCheck, MembershipAudit, OneRunRecord, ScoreAudit
from meninx.core.identity_records import IdentityAudit, LinkRecord
from meninx.core.names import printable
from meninx.core.proportions import clopper_pearson, lower_limit
from meninx.core.reconstruction_records import CRITERIA, MatchRecord, ReconstructionAudit
from meninx.core.risk_records import Bounded, BoundPoint, BoundsRecord, MembershipRecord
from meninx.metrics.attack_success import (
    GROUP_REFUSALS,
    LEAST_PATIENTS,
    PERMUTATIONS,
    refusal_of,
    threshold_rank,
    threshold_ranks,
)
from meninx.metrics.linkage import linkage_verdict
from meninx.privacy.residual_audit import TOLERANCE
from meninx.privacy.score_audit import area_mu_of, gaussian_interval

OTHER_VERDICT = "its verdict does not follow from its numbers"
_BEYOND_NULL = 0.05  # p-value that a number above 97.5 % of those of the null cannot have
_WITHIN_NULL = 0.02  # and one that is below them can only have a larger one
_NULL_DEVIATIONS = 2.6  # half of the range of 95 % of the null, with the error of 999 permutations
_FAR = 1.5  # standard deviations from which on ties cannot make a p-value larger
_LEAST_P = 1 / (PERMUTATIONS + 1)
_ROUNDING = 1e-9  # of a sum of the same numbers in another order
_CLOSE = 1e-4  # between numbers that two machines compute from the same counts


def of_bounds(record: BoundsRecord) -> Iterator[str]:
    """Yield what contradicts itself in proven bounds."""
    names = {prior.name for prior in record.priors}
    points = [*record.points, *([record.operating] if record.operating is not None else [])]
    if any(set(point.worst) != names or set(point.relaxed) != names for point in points):
        yield "the adversaries of a point are not those of the record"
        return
    for point in points:
        yield from _point(record, point)
    if [point.epsilon for point in record.points] != sorted(point.epsilon for point in record.points):
        yield "its axis of epsilon does not rise"
    vacuous = (item.epsilon for item in record.points if bounds.is_vacuous(item, record.priors[0]))
    if record.priors and record.no_guarantee_from != next(vacuous, None):
        yield "where it says that no guarantee begins does not follow from its axis"
    if (record.membership is None) != (record.operating is None):
        yield "it holds bounds on membership or on reconstruction, and not both"
    if record.membership is not None:
        yield from _membership_bounds(record.membership)
    yield from patient_bounds.contradictions(record)


def _point(record: BoundsRecord, point: BoundPoint) -> Iterator[str]:
    where = f"at epsilon {point.epsilon:.4g}"
    for prior in record.priors:
        worst, relaxed = point.worst[prior.name], point.relaxed[prior.name]
        if not (_is_bracket(worst, prior.kappa) and _is_bracket(relaxed, prior.kappa)):
            yield f"a bound {where} for {prior.name} is none: it is below a blind guess, or in disorder"
        if relaxed.upper > worst.upper + 1e-9:
            yield f"{where} an adversary that knows less is bounded less, {prior.name}"


def _membership_bounds(found: MembershipRecord) -> Iterator[str]:
    pairs = [(float(rate), value) for rate, value in found.tpr_at_fpr.items()]
    pairs += [(0.5, found.auc), (0.0, found.advantage), (0.5, found.accuracy)]
    if not all(_is_bracket(value, least) for least, value in pairs):
        yield "a bound on membership is none: it is below guessing, or in disorder"


def _is_bracket(found: Bounded, least: float) -> bool:
    numbers = (found.lower, found.value, found.upper)
    ordered = 0 <= found.lower <= found.value <= found.upper <= 1 + 1e-9
    return all(map(math.isfinite, numbers)) and ordered and found.upper >= least - 1e-9


def of_one_run(record: OneRunRecord) -> Iterator[str]:
    """Yield what contradicts itself in an audit with canaries."""
    for name, audit in (("the twin", record.audit), ("half of the noise", record.control)):
        yield from (f"{words}, {name}" for words in _scores(audit))
    for found in (record.mechanism, record.control_mechanism):
        if found is not None and set(found.refuted_by) != _refuted(found):
            yield "its measured noise and its verdict on it contradict each other"


def _scores(audit: ScoreAudit) -> Iterator[str]:
    allowed = ("refuted",) if audit.refuted_by else ("consistent", "suspicious")
    if audit.verdict not in allowed:
        yield OTHER_VERDICT
    significance = 1 - audit.confidence
    mu = area_mu_of(audit.auroc, audit.included, audit.excluded)
    low, high = gaussian_interval(audit.auroc, audit.included, audit.excluded, significance=significance)
    stated = (audit.mu, audit.mu_low, audit.mu_high)
    if not all(map(_alike, stated, (mu, low, high))):
        yield "mu and its interval do not follow from the area under the curve"
    by_name = {check.name: check for check in audit.checks}
    mean, rates = by_name.get("mu"), by_name.get("TPR - FPR")
    if mean is None or rates is None:
        yield "a check is missing"
        return
    if not (_alike(mean.measured, audit.mu) and _alike(mean.allowed, audit.claim_mu)):
        yield "its check of mu compares other numbers"
    least = rates.measured  # with a third of the significance, so not above the limit that stands alone
    if least > audit.advantage + _CLOSE or not _alike(rates.allowed, audit.claim_advantage):
        yield "its check of TPR - FPR compares other numbers"
    if least > audit.claim_advantage + _CLOSE and not rates.refuted:
        yield OTHER_VERDICT


def _refuted(found: MechanismCheck) -> set[str]:
    wrong = {"noise"} if found.noise_high < 1 else set()
    if found.length_low is not None and found.length_low > 1 + TOLERANCE:
        wrong.add("length")
    return wrong


def of_membership(record: MembershipAudit) -> Iterator[str]:
    """Yield what contradicts itself in membership attacks."""
    found = membership_findings.verdict_of(
        record.attacks, record.positive, (record.negative, record.split_control), record.significance
    )
    if found != (record.verdict, record.reason):
        yield OTHER_VERDICT
    for attack in record.attacks:
        if attack.above and not _counts_follow(attack):
            yield f"attack {attack.attack}: its counts contradict its rates or its area"
    known = [*record.attacks, record.negative, record.positive, record.split_control]
    for attack in (item for item in known if item is not None):
        yield from _attack(attack)

    for group in record.groups:
        if group.auc is not None and not _contains(group.auc, group.auc_low, group.auc_high):
            yield f"group {printable(group.group)[:40]}: its interval does not contain its area"
        if (group.refusal not in GROUP_REFUSALS) if group.auc is None else bool(group.refusal):
            yield f"group {printable(group.group)[:40]}: the program never refuses a number for this reason"


def _counts_follow(attack: AttackRecord) -> bool:
    """Return whether the members above the tested thresholds can belong to the rates and to the area."""
    ranks, members, others = threshold_ranks(attack.others), attack.members, attack.others
    if len(ranks) != len(attack.above) or list(attack.above) != sorted(attack.above):
        return False
    counts = dict(zip(ranks, attack.above, strict=True))
    for rank, count in counts.items():
        # A member above the threshold is above all but rank - 1 others, another one above none of the rank.
        least = count * (others - rank + 1)
        most = count * others + (members - count) * (others - rank / 2)
        if not 0 <= count <= members or not least - 0.5 <= attack.auc * members * others <= most + 0.5:
            return False
    rates = ((point.tpr, counts.get(threshold_rank(point.fpr, others))) for point in attack.points)
    return all(rate is None or (count is not None and _alike(rate, count / members)) for rate, count in rates)


def _attack(attack: AttackRecord) -> Iterator[str]:
    if min(attack.members, attack.others) < LEAST_PATIENTS:
        yield f"attack {attack.attack}: it has fewer patients than any result needs"
        return
    if not _contains(attack.auc, attack.auc_low, attack.auc_high):
        yield f"attack {attack.attack}: its interval does not contain its area"
    yield from _null(attack)
    if not _follows(attack.p_value, attack.auc, attack.null_high):
        yield f"attack {attack.attack}: an area lies beyond its null and is called chance, or the reverse"
    for point in attack.points:
        ends = (point.low, point.high)
        if not 0 < point.fpr < 1 or point.refusal != refusal_of(point.fpr, attack.others):
            yield f"attack {attack.attack}: the refusal of a rate does not follow from the non-members"
        elif (point.tpr is None) != bool(point.refusal):
            yield f"attack {attack.attack}: a rate is refused, and it is there, or the reverse"
        if point.tpr is not None and not _is_interval(point.tpr, attack.members, ends):
            yield f"attack {attack.attack}: the rate at {point.fpr:g} and its interval contradict each other"


def _null(attack: AttackRecord) -> Iterator[str]:
    """Yield whether the range of the null, or a p-value, is one that so many patients cannot give."""
    members, others = attack.members, attack.others
    # Of an area with permuted membership, without ties; ties only make it smaller.
    deviation = math.sqrt((members + others + 1) / (12 * members * others))
    most = _NULL_DEVIATIONS * deviation
    if not 0.5 - most <= attack.null_low <= attack.null_high <= 0.5 + most:
        yield f"attack {attack.attack}: so many patients cannot have such a range by chance"
    distance = (attack.auc - 0.5 / (members * others) - 0.5) / deviation  # p counts an equal area as well
    if distance > _FAR:
        tail = NormalDist().cdf(-distance)
        error = 5 * math.sqrt(tail * (1 - tail) / PERMUTATIONS)
        if attack.p_value > tail + error + 2 * _LEAST_P:
            yield f"attack {attack.attack}: so many patients cannot have such an area by chance so often"


def of_reconstruction(record: ReconstructionAudit) -> Iterator[str]:
    """Yield what contradicts itself in an audit of reconstruction."""
    found = reconstruction_verdict.verdict_of(
        record.identification, record.identified_without, record.matches, own=record.own_level,
        significance=record.significance,
    )  # fmt: skip
    if found != (record.verdict, record.reason):
        yield OTHER_VERDICT
    tests = max(1, len(record.identification))
    for one in (*record.identification, record.identified_without):
        what = f"identification among {one.candidates:,} by {one.encoder}"
        if not _is_interval(one.success, one.trials, (one.low, one.high)):
            yield f"{what}: the rate and its interval contradict each other"
        least = lower_limit(round(one.success * one.trials), one.trials, record.significance / 2 / tests)
        if one is not record.identified_without and one.excess != (least > one.bound + 1e-12):
            yield f"{what}: whether the bound is exceeded does not follow from the counts"
    if record.criteria >= CRITERIA:
        each = criteria.each_test(record.significance / 2, len(record.matches))
        yield from chain.from_iterable(_match(match, each) for match in record.matches)


def _match(match: MatchRecord, each: float) -> Iterator[str]:
    where = f"{match.attack} at {match.level}"
    shares = [("images", match.success, match.patients, (match.low, match.high))]
    if match.ranking is not None:
        one = match.ranking
        shares.append(("rankings", one.success, one.patients, (one.low, one.high)))
    for what, share, trials, ends in shares:
        if not _is_interval(share, trials, ends):
            yield f"{what} by {where}: the rate and its interval contradict each other"
    if match.excess != criteria.exceeds_bound(match, each):
        yield f"{where}: whether the bound is exceeded does not follow from the counts"


def of_attributes(record: AttributesAudit) -> Iterator[str]:
    """Yield what contradicts itself in an audit of attributes."""
    found = attribute_findings.verdict_of(
        record.attributes, record.negative, record.fresh, record.positive, record.significance
    )
    if found != (record.verdict, record.reason):
        yield OTHER_VERDICT
    for one in chain(record.attributes, record.negative, record.fresh, record.positive):
        if not _attribute(one):
            yield f"the rates, the intervals or the p-value of {one.signal} contradict each other"


def _attribute(one: AttributeRecord) -> bool:
    if one.on_members is None or one.on_others is None or one.advantage is None:
        return True
    followed = one.auroc is None or one.null_high is None or one.p_value is None
    return (
        (followed or _follows(one.p_value or 0.0, one.auroc or 0.0, one.null_high or 0.0))
        and _alike(one.advantage, one.on_members - one.on_others)
        and _is_interval(one.on_members, one.members, (one.on_members_low, one.on_members_high))
        and _is_interval(one.on_others, one.others, (one.on_others_low, one.on_others_high))
    )


def of_identity(record: IdentityAudit) -> Iterator[str]:
    """Yield what contradicts itself in an audit of identity."""
    found = linkage_verdict(record.links, record.negative, record.positive, record.significance)
    if found != (record.verdict, record.reason):
        yield OTHER_VERDICT
    floor = [] if record.floor is None else [record.floor]
    for link in chain(record.links, record.negative, record.positive, record.reconstructions, floor):
        if not _link(link):
            yield f"the rate, the interval or the p-value of {link.attack} contradict each other"


def _link(link: LinkRecord) -> bool:
    value, low, high = link.p_at_1, link.p_at_1_low, link.p_at_1_high
    if value is None or low is None or high is None:
        return True
    known = link.p_value is not None and link.null_high is not None
    return low <= value <= high and (not known or _follows(link.p_value or 0.0, value, link.null_high or 0.0))


def _follows(p_value: float, value: float, null_high: float) -> bool:
    """Return whether a p-value can belong to a number, by the upper end of the range of its null."""
    if value > null_high + 1e-9:
        return p_value <= _BEYOND_NULL
    return value > null_high - 1e-9 or p_value >= _WITHIN_NULL


def _is_interval(share: float, trials: float, ends: tuple[float | None, float | None]) -> bool:
    """Return whether an interval is that of Clopper and Pearson at 95 %, drawn out to its share."""
    if trials <= 0 or not 0 <= share <= 1:
        return False
    low, high = clopper_pearson(share * trials, trials)
    return all(map(_alike, ends, (min(low, share), max(high, share))))


def _contains(value: float, low: float | None, high: float | None) -> bool:
    """Return whether an interval has both ends and contains its number."""
    return low is not None and high is not None and low - _ROUNDING <= value <= high + _ROUNDING


def _alike(one: float | None, two: float | None) -> bool:
    if one is None or two is None:
        return one is two
    return math.isclose(one, two, rel_tol=_CLOSE, abs_tol=_CLOSE)
