"""The verdict of a reconstruction audit, in words and as findings of the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meninx.audit.reconstruction import criteria
from meninx.core.findings import MEASURED, Finding, key_of
from meninx.core.percentages import at_most, percent
from meninx.core.proportions import clopper_pearson
from meninx.core.reconstruction_records import (
    CRITERIA,
    NOTHING,
    UNJUDGED,
    IdentificationRecord,
    MatchRecord,
    ReconstructionAudit,
)
from meninx.metrics import verdict_rule
from meninx.metrics.verdict_rule import REFUTED, VOID, but, silenced

EXPOSED = "exposed"
PUBLIC, WEAK = "public images as close", "fails without noise"
"""What one attack shows beside the verdicts of a whole audit."""
_LARGE = 0.1
_TOO_FEW = "cannot be judged: even full success could be chance, or public images alone come as close"
_NOT_WORKING = "the attack finds too little even without noise, so its failure says nothing"
_NOTHING_WORKS = (
    "no attack reconstructs images even without noise, so its failure under noise says nothing; use more "
    "--attacks, or more images of the attacker by --public"
)
_EARLIER = (
    "an earlier version judged this by a threshold that falls with noise; repeat "
    "`meninx audit reconstruct match RUN --overwrite`"
)


def verdict_of(
    identification: Sequence[IdentificationRecord],
    without: IdentificationRecord,
    matches: Sequence[MatchRecord],
    *,
    own: str,
    significance: float,
) -> tuple[str, str]:
    """Return the verdict, and which control failed, or why nothing can be judged.

    Args:
        identification: of all levels.
        without: the negative control.
        matches: of all levels.
        own: name of the run's own level.
        significance: largest probability of an unjust verdict.
    """
    each = criteria.each_test(significance, len(matches))
    shown = {judged_match(match, each) for match in matches if match.level == own}
    ranked = [found for found in identification if found.level == own]
    alone = significance / max(1, len(ranked))
    exposed = EXPOSED in shown or any(criteria.often(found, alone) for found in ranked)
    verdict, reason = verdict_rule.verdict_of(
        refuted=any(found.excess for found in identification) or any(match.excess for match in matches),
        failed=_failed(without, matches, significance),
        found=EXPOSED if exposed else "",
        weak=_NOTHING_WORKS if matches and not any(match.works for match in matches) else "",
    )
    if verdict == NOTHING and shown and shown <= {UNJUDGED, WEAK}:
        fix = "use more --batches, or more patients"
        return UNJUDGED, f"no attack that works has enough images at the noise of this run; {fix}"
    return verdict, reason


def _failed(without: IdentificationRecord, matches: Sequence[MatchRecord], significance: float) -> str:
    """Return which negative control failed; empty where all hold."""
    controls = significance / (1 + len(matches))
    if criteria.above_guess(without, controls):
        return (
            "patients that took no part are identified more often than by guessing, so the images say too "
            "much by themselves"
        )
    low = next((match.name for match in matches if criteria.threshold_fails(match, controls)), "")
    return (
        f"patients that took no part count as reconstructed by {low}, so its threshold is too low"
        if low
        else ""
    )


def judged_match(match: MatchRecord, each: float) -> str:
    """Return what one attack shows; record, console and page judge by this function.

    Args:
        match: the attack at one level.
        each: significance of each of its two tests.

    Returns:
        ``refuted``, ``exposed``, or ``nothing found``; :data:`PUBLIC` where it reconstructs more than the
        null does, but public images come as close; :data:`WEAK` where it fails without noise as well; and
        ``cannot be judged`` where no success would be more than what needs nothing of the patient.
    """
    if match.excess:
        return REFUTED
    if not match.works:
        return WEAK
    if criteria.beyond_null(match, each):
        return EXPOSED
    if criteria.lower(match.success, match.patients, each) > match.null:
        return PUBLIC
    return NOTHING if criteria.can_be_judged(match, each) else UNJUDGED


def verdict_words(audit: ReconstructionAudit) -> str:
    """Return the verdict as a sentence."""
    if audit.standing != audit.verdict:
        return f"CANNOT BE JUDGED: {_EARLIER}"
    if audit.verdict in (VOID, UNJUDGED):
        return f"{'VOID' if audit.verdict == VOID else 'CANNOT BE JUDGED'}: {audit.reason}"
    if audit.verdict == REFUTED:
        exceeding = [match.name for match in audit.matches if match.excess]
        exceeding += [f"identification by {found.encoder}" for found in audit.identification if found.excess]
        what = "succeeds more often than the guarantee allows"
        return f"REFUTED: {', '.join(dict.fromkeys(exceeding))} {what}{but(audit.reason)}"
    own, alone = audit.own_level, _alone(audit)
    ranked = [found for found in audit.identification if found.level == own]
    judged = [
        (match.name, judged_match(match, _each(audit))) for match in audit.matches if match.level == own
    ]
    if audit.verdict == EXPOSED:
        seen = [attack for attack, found in judged if found == EXPOSED]
        if any(criteria.often(found, alone) for found in ranked):
            seen.insert(0, "identification among candidates")
        what = "succeeds at the noise of this run"
        return f"EXPOSED: {', '.join(dict.fromkeys(seen)) or 'an attack'} {what}{but(audit.reason)}"
    words = "nothing reconstructed by these attacks at the noise of this run; another attack may do better"
    if any(criteria.above_guess(found, alone) for found in ranked):
        words += "; identification among candidates is right more often than a blind guess"
    close = list(dict.fromkeys(attack for attack, found in judged if found in (PUBLIC, UNJUDGED)))
    if close:
        words += f"; {', '.join(close)} cannot be told from public images alone, which come as close"
    return words


def findings(audit: ReconstructionAudit) -> tuple[Finding, ...]:
    """Return the numbers of the page: identification, attacks at the run's own noise, and the controls.

    Attacks at other levels appear where they succeed more often than the guarantee allows.
    """
    return (*_rank_one(audit), *_attacks(audit), *_controls(audit))


def _each(audit: ReconstructionAudit) -> float:
    return criteria.each_test(audit.significance, len(audit.matches))


def _alone(audit: ReconstructionAudit) -> float:
    own = [found for found in audit.identification if found.level == audit.own_level]
    return audit.significance / max(1, len(own))


def best_identification(audit: ReconstructionAudit, level: str) -> dict[int, IdentificationRecord]:
    """Return number of candidates -> the most successful identification at a level."""
    found: dict[int, IdentificationRecord] = {}
    for one in audit.identification:
        if one.level == level and (
            one.candidates not in found or one.success > found[one.candidates].success
        ):
            found[one.candidates] = one
    return dict(sorted(found.items()))


def _rank_one(audit: ReconstructionAudit) -> Iterator[Finding]:
    for count, found in best_identification(audit, audit.own_level).items():
        yield _identified(audit, found, key_of("reconstruction", f"rank1@n={count}"))
    for found in audit.identification:
        if found.excess and found.level != audit.own_level:
            key = key_of("reconstruction", f"rank1@n={found.candidates}", found.encoder, found.level)
            yield _identified(audit, found, key, where=f"At the level {found.level}: ")


def _identified(
    audit: ReconstructionAudit, found: IdentificationRecord, key: str, *, where: str = ""
) -> Finding:
    colour, reason = _identification_colour(audit, found)
    return Finding(
        key=key,
        line=MEASURED,
        words=(
            f"{where}An attacker that has narrowed {_unit(audit)} to 1 of {found.candidates:,} picks the "
            f"right one in {identification_words(audit, found)}."
        ),
        value=found.success,
        low=found.low,
        high=found.high,
        n=found.trials,
        null=found.guess,
        bound=_bound(audit, found.bound),
        colour=colour,
        reason=reason,
        counted="trials",
    )


def _bound(audit: ReconstructionAudit, value: float) -> float | None:
    """Return a bound; None where none holds."""
    return value if audit.guaranteed and value < 1 else None


def _unit(audit: ReconstructionAudit) -> str:
    return "a patient's image" if audit.unit == "patient" else "an image"


def identification_words(audit: ReconstructionAudit, found: IdentificationRecord) -> str:
    """Return a rate of identification with its interval, the blind guess and the bound, where one holds."""
    words = (
        f"{percent(found.success)} ({percent(found.low)} to {percent(found.high)}, {found.trials:,} "
        f"trials); a blind guess in {percent(found.guess)}"
    )
    if not audit.guaranteed or found.bound >= 1:
        return f"{words}, and nothing bounds it"
    words += f", and no attack in more than {at_most(found.bound)} on average"
    return f"{words}, so what is above that is chance" if above_by_chance(found) else words


def above_by_chance(found: IdentificationRecord) -> bool:
    """Return whether a rate is printed as more than its bound though chance explains it."""
    above = found.success > found.bound and percent(found.success) != percent(found.bound)
    return above and not found.excess


def _identification_colour(audit: ReconstructionAudit, found: IdentificationRecord) -> tuple[str, str]:
    failed = control_failed(audit)
    if found.excess:
        return (
            "red",
            f"more often than the {'guarantee' if audit.guaranteed else 'noise'} allows{but(failed)}",
        )
    if failed and audit.verdict in (VOID, REFUTED):
        return "grey", silenced(failed)
    if criteria.often(found, _alone(audit)):
        return "red", "more often right than wrong"
    if criteria.above_guess(found, _alone(audit)):
        return "amber", "more often than a blind guess"
    return ("grey", silenced(failed)) if failed else ("green", "")


def _attacks(audit: ReconstructionAudit) -> Iterator[Finding]:
    for match in audit.matches:
        own = match.level == audit.own_level
        if own or match.excess:
            yield from _attack(audit, match, *([] if own else [match.level]))
    for attack, why in audit.not_attacked.items():
        yield Finding(
            key=key_of("reconstruction", attack, "not run"),
            line=MEASURED,
            words=f"The attack {attack} was not run.",
            value=None, low=None, high=None, n=0, null=None, bound=None, colour="grey", reason=why,
        )  # fmt: skip


def _attack(audit: ReconstructionAudit, match: MatchRecord, *level: str) -> Iterator[Finding]:
    """Yield how many images come close, and how many rankings are right, with one colour for both."""
    colour, reason = _colour(audit, match)
    where = "".join(f" at the level {name}" for name in level)
    key = ("reconstruction", match.attack, match.view, *level)
    yield Finding(
        key=key_of(*key),
        line=MEASURED,
        words=(
            f"What the attack {match.name} of {_server(match)} finds {view_words(match.view)}{where} is "
            f"close to {percent(match.success)} of {match.originals} images; without any leak to "
            f"{percent(match.null)}, and public images alone to up to {percent(match.kappa)}."
        ),
        value=match.success,
        low=match.low,
        high=match.high,
        n=match.originals,
        null=match.without_model,
        bound=_bound(audit, match.bound),
        colour=colour,
        reason=reason,
        counted="images",
    )
    ranking = match.ranking
    if ranking is None:
        return
    yield Finding(
        key=key_of(*key, "rank1"),
        line=MEASURED,
        words=(
            f"What the attack {match.name} finds {view_words(match.view)}{where} is more like the right "
            f"image than like {ranking.pool - 1:,} others of the training in "
            f"{percent(ranking.success)}; without any leak in {percent(ranking.null)}."
        ),
        value=ranking.success,
        low=ranking.low,
        high=ranking.high,
        n=match.originals,
        null=ranking.null,
        bound=_bound(audit, ranking.bound),
        colour=colour,
        reason=reason,
        counted="images",
    )


def _colour(audit: ReconstructionAudit, match: MatchRecord) -> tuple[str, str]:
    if audit.criteria < CRITERIA:
        return "grey", _EARLIER
    failed, found = control_failed(audit), judged_match(match, _each(audit))
    if found != REFUTED and failed and (found == NOTHING or audit.verdict in (VOID, REFUTED)):
        return "grey", silenced(failed)
    if found == EXPOSED:
        return _exposed(match, _each(audit))
    close = percent(match.kappa)
    return {
        REFUTED: ("red", f"more often than the guarantee allows{but(failed)}"),
        WEAK: ("grey", _NOT_WORKING),
        PUBLIC: ("amber", f"more often than the null, but public images alone come as close in {close}"),
        UNJUDGED: ("grey", _TOO_FEW),
        NOTHING: (
            "green",
            "no more often than nulls and public images explain; another attack may do better",
        ),
    }[found]


def _exposed(match: MatchRecord, each: float) -> tuple[str, str]:
    by, shares = criteria.beyond_null(match, each), [match.success]
    if match.ranking is not None and criteria.FIRST in by:
        shares.append(match.ranking.success)
    words: dict[tuple[str, ...], str] = {
        (criteria.CLOSE,): "more images come back than nulls and public images explain",
        (criteria.FIRST,): "what comes back singles out the right image among others",
    }
    why = words.get(by, "images come back, and they single out the right one among others")
    return "red" if max(shares) >= _LARGE else "amber", why


def control_failed(audit: ReconstructionAudit) -> str:
    """Return which control failed; empty where all hold."""
    return "" if audit.verdict in (UNJUDGED, NOTHING) else audit.reason


def void(audit: ReconstructionAudit) -> str:
    """Return which control failed, or that an earlier rule judged the attacks; else empty.

    An excess over the bound does not depend on that rule, so it still counts.
    """
    early = audit.criteria < CRITERIA and all(item.colour != "red" for item in findings(audit))
    return control_failed(audit) or (_EARLIER if early else "")


def _controls(audit: ReconstructionAudit) -> Iterator[Finding]:
    controls = audit.significance / (1 + len(audit.matches))
    without = audit.identified_without
    yield _control(
        "negative control",
        f"Negative control: a patient that took no part is picked out of {without.candidates:,} in "
        f"{percent(without.success)}; a blind guess in {percent(without.guess)}.",
        (without.low, without.success, without.high),
        without.trials,
        null=without.guess,
        counted="trials",
        wrong="the control failed" if criteria.above_guess(without, controls) else "",
    )
    if not audit.matches:
        return
    failed = [match for match in audit.matches if criteria.threshold_fails(match, controls)]
    worst = max(failed or audit.matches, key=lambda match: match.control)
    low, high = clopper_pearson(worst.control * worst.control_patients, worst.control_patients)
    yield _control(
        "threshold control",
        f"Negative control: {percent(worst.control)} of the images of patients that took no part count as "
        f"reconstructed by {worst.name}; {percent(worst.null)} do by its null.",
        (min(low, worst.control), worst.control, max(high, worst.control)),
        worst.originals,
        null=worst.null,
        counted="images",
        wrong=f"the threshold of {worst.name} is too low" if failed else "",
    )
    yield _positive_control(audit)


def _positive_control(audit: ReconstructionAudit) -> Finding:
    working = max(audit.matches, key=lambda match: (match.works, match.self_test))
    share, count = working.self_test, working.originals
    low, high = clopper_pearson(round(share * count), count)
    wrong = "" if working.works else "a planted leak is not found"
    if audit.criteria < CRITERIA:
        wrong = _EARLIER
    return _control(
        "positive control",
        f"Positive control: without noise the attack {working.name} finds {percent(share)} of the images.",
        (min(low, share), share, max(high, share)),
        count,
        null=None,
        counted="images",
        wrong=wrong,
        right="a planted leak is found",
    )


def _control(
    name: str,
    words: str,
    numbers: tuple[float, float, float],
    n: int,
    *,
    null: float | None,
    counted: str,
    wrong: str,
    right: str = "",
) -> Finding:
    """Return the finding of a control: green, or grey with what is wrong. It is never an attack's success."""
    low, value, high = numbers
    return Finding(
        key=key_of("reconstruction", name), line=MEASURED, words=words, value=value, low=low, high=high, n=n,
        null=null, bound=None, colour="grey" if wrong else "green", reason=wrong or right, counted=counted,
    )  # fmt: skip


def view_words(view: str) -> str:
    """Return where an image was looked for.

    >>> view_words("step"), view_words("sum of 3 sites")
    ('in the gradient of their step', 'in the sum of 3 sites')
    """
    return "in the gradient of their step" if view == "step" else f"in the {view}"


def _server(match: MatchRecord) -> str:
    return "a malicious server" if match.server == "malicious" else "a server that follows the protocol"
