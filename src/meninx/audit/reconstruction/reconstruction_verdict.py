"""The verdict of a reconstruction audit, in words and as findings of the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meninx.core.findings import MEASURED, Finding, key_of
from meninx.core.reconstruction_records import IdentificationRecord, MatchRecord, ReconstructionAudit
from meninx.metrics import intervals

REFUTED, EXPOSED, NOTHING, VOID = "refuted", "exposed", "nothing found", "void"
PUBLIC, WEAK, UNDECIDED = "public images as close", "fails without noise", "cannot be judged"
"""What one attack shows beside the verdicts of a whole audit."""
OFTEN = 0.5
"""Success from which on an attack is right more often than wrong."""
_LARGE = 0.1
_CONTROL_FACTOR = 1.5
"""Of the share of the null, which the negative control may reach by chance of the threshold itself."""


def verdict_of(
    identification: Sequence[IdentificationRecord],
    without: IdentificationRecord,
    matches: Sequence[MatchRecord],
    *,
    own: str,
    significance: float,
) -> tuple[str, str]:
    """Return the verdict, and the reason of one that says nothing.

    Args:
        identification: of all levels.
        without: the negative control.
        matches: of all levels.
        own: name of the run's own level.
        significance: largest probability of an unjust verdict.
    """
    if _found_without_leak(without, significance):
        return VOID, (
            "patients that took no part are identified more often than by guessing, so the images say too "
            "much by themselves"
        )
    each = _each(significance, matches)
    low = next((match for match in matches if _found_in_steps_of_others(match, each)), None)
    if low is not None:
        return VOID, (
            f"patients that took no part count as reconstructed by {low.attack}, so its threshold is too low"
        )
    if any(found.excess for found in identification) or any(match.excess for match in matches):
        return REFUTED, ""
    if any(judged_match(match, each) == EXPOSED for match in matches if match.level == own):
        return EXPOSED, ""
    if any(often(found) for found in identification if found.level == own):
        return EXPOSED, ""
    if matches and not any(match.works for match in matches):
        return VOID, (
            "no attack reconstructs images even without noise, so its failure under noise says nothing; use "
            "more --attacks, or more images of the attacker by --public"
        )
    return NOTHING, ""


def judged_match(match: MatchRecord, significance: float) -> str:
    """Return what one attack shows; record, console and page judge by this function.

    Args:
        match: the attack at one level.
        significance: of this comparison, its share of that of the audit.

    Returns:
        ``refuted``, ``exposed``, or ``nothing found``; :data:`PUBLIC` where it reconstructs more than the
        null does, but public images come as close; :data:`WEAK` where it fails without noise as well;
        :data:`UNDECIDED` where public images come so close that no success would be more than theirs.
    """
    if match.excess:
        return REFUTED
    if beyond_null(match, significance):
        return EXPOSED
    if _lower(match.success, match.patients, significance) > match.null:
        return PUBLIC
    if not match.works:
        return WEAK
    if _lower(1.0, match.patients, significance) <= match.without_model:
        return UNDECIDED
    return NOTHING


def beyond_null(match: MatchRecord, significance: float = 0.05) -> bool:
    """Return whether an attack reconstructs more images than its null does, and than public images hold."""
    return _lower(match.success, match.patients, significance) > match.without_model


def often(found: IdentificationRecord) -> bool:
    """Return whether an attacker picks the right one of ten or more images more often than a wrong one."""
    return found.candidates >= 10 and found.low >= OFTEN


def _each(significance: float, tests: Sequence[object]) -> float:
    """Return the significance of each of several tests, whose sum is that of the audit."""
    return significance / max(1, len(tests))


def _found_without_leak(without: IdentificationRecord, significance: float) -> bool:
    return _lower(without.success, without.trials, significance) > without.guess


def _found_in_steps_of_others(match: MatchRecord, significance: float) -> bool:
    return _lower(match.control, match.control_patients, significance) > _CONTROL_FACTOR * match.null


def verdict_words(audit: ReconstructionAudit) -> str:
    """Return the verdict as a sentence."""
    if audit.verdict == VOID:
        return f"VOID: {audit.reason}"
    if audit.verdict == REFUTED:
        exceeding = [match.attack for match in audit.matches if match.excess]
        exceeding += [f"identification by {found.encoder}" for found in audit.identification if found.excess]
        return f"REFUTED: {', '.join(dict.fromkeys(exceeding))} succeeds more often than the guarantee allows"
    own, each = audit.own_level, _each(audit.significance, audit.matches)
    judged = [(match.attack, judged_match(match, each)) for match in audit.matches if match.level == own]
    if audit.verdict == EXPOSED:
        seen = [attack for attack, found in judged if found == EXPOSED]
        if any(often(found) for found in audit.identification if found.level == own):
            seen.insert(0, "identification among candidates")
        return f"EXPOSED: {', '.join(dict.fromkeys(seen))} succeeds at the noise of this run"
    close = list(dict.fromkeys(attack for attack, found in judged if found in (PUBLIC, UNDECIDED)))
    words = "nothing reconstructed by these attacks at the noise of this run; another attack may do better"
    if close:
        words += f"; {', '.join(close)} cannot be told from public images alone, which come as close"
    return words


def findings(audit: ReconstructionAudit) -> tuple[Finding, ...]:
    """Return the numbers of the page: identification, attacks at the run's own noise, and the controls.

    Attacks at other levels appear where they succeed more often than the guarantee allows.
    """
    return (*_rank_one(audit), *_attacks(audit), *_controls(audit))


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
    own = [found for found in audit.identification if found.level == audit.own_level]
    each = _each(audit.significance, own)
    for count, found in best_identification(audit, audit.own_level).items():
        yield _identified(found, audit, each, key_of("reconstruction", f"rank1@n={count}"))
    for found in audit.identification:
        if found.excess and found.level != audit.own_level:
            key = key_of("reconstruction", f"rank1@n={found.candidates}", found.encoder, found.level)
            yield _identified(found, audit, each, key, where=f" at the level {found.level}")


def _identified(
    found: IdentificationRecord, audit: ReconstructionAudit, each: float, key: str, *, where: str = ""
) -> Finding:
    colour, reason = "green", ""
    if _lower(found.success, found.trials, each) > found.guess:
        colour, reason = "amber", "more often than a blind guess"
    if often(found):
        colour, reason = "red", "more often right than wrong"
    if found.excess:
        colour, reason = "red", "more often than the guarantee allows"
    if audit.verdict == VOID:
        colour, reason = "grey", f"a control failed: {audit.reason}"
    limit = f"no attack in more than {_percent(found.bound)}" if found.bound < 1 else "nothing bounds it"
    if found.success > found.bound >= found.low:
        limit += ", which lies in the interval: chance explains the difference"
    return Finding(
        key=key, line=MEASURED,
        words=(
            f"An attacker that has narrowed a patient's image to 1 of {found.candidates:,} picks the right "
            f"one in {_percent(found.success)} ({_percent(found.low)} to {_percent(found.high)}){where}; a "
            f"blind guess in {_percent(found.guess)}, and {limit}."
        ),
        value=found.success, low=found.low, high=found.high, n=found.trials, null=found.guess,
        bound=found.bound if found.bound < 1 else None, colour=colour, reason=reason, counted="trials",
    )  # fmt: skip


def _attacks(audit: ReconstructionAudit) -> Iterator[Finding]:
    each = _each(audit.significance, audit.matches)
    for match in audit.matches:
        own = match.level == audit.own_level
        if not own and not match.excess:
            continue
        colour, reason = _colour(match, each)
        if audit.verdict == VOID:
            colour, reason = "grey", f"a control failed: {audit.reason}"
        more, where = ([], "") if own else ([match.level], f" at the level {match.level}")
        yield Finding(
            key=key_of("reconstruction", match.attack, match.view, *more),
            line=MEASURED,
            words=(
                f"The attack {match.attack} of {_server(match)} reconstructs {_percent(match.success)} of "
                f"{match.originals} images {view_words(match.view)}{where}; without any leak "
                f"{_percent(match.null)} count as reconstructed, and public images alone reach up to "
                f"{_percent(match.kappa)}."
            ),
            value=match.success,
            low=match.low,
            high=match.high,
            n=match.originals,
            null=match.without_model,
            bound=match.bound,
            colour=colour,
            reason=reason,
            counted="images",
        )
    for attack, why in audit.not_attacked.items():
        yield Finding(
            key=key_of("reconstruction", attack, "not run"),
            line=MEASURED,
            words=f"The attack {attack} was not run.",
            value=None, low=None, high=None, n=0, null=None, bound=None, colour="grey", reason=why,
        )  # fmt: skip


def _colour(match: MatchRecord, significance: float) -> tuple[str, str]:
    """Return the colour of an attack by the same judgement as the verdict, and why."""
    found, close = judged_match(match, significance), _percent(match.kappa)
    if found == REFUTED:
        return "red", "more often than the guarantee allows"
    if found == EXPOSED:
        if match.success >= _LARGE:
            return "red", "far more often than without any leak"
        return "amber", "more often than without any leak"
    if found == PUBLIC:
        return "amber", f"more often than the null, but public images alone come as close in {close}"
    if found == WEAK:
        return "grey", "the attack reconstructs too little even without noise, so its failure says nothing"
    if found == UNDECIDED:
        return "grey", f"cannot be judged: public images alone come as close as that in up to {close}"
    return "green", "no more often than without any leak; another attack may do better"


def _controls(audit: ReconstructionAudit) -> Iterator[Finding]:
    """Yield the controls; one that failed is grey, because then the attacks say nothing."""
    without = audit.identified_without
    yield _control(
        "negative control",
        f"Negative control: a patient that took no part is picked out of {without.candidates:,} in "
        f"{_percent(without.success)}; a blind guess in {_percent(without.guess)}.",
        (without.success, without.low, without.high), without.trials, without.guess,
        "a patient that took no part is identified"
        if _found_without_leak(without, audit.significance) else "",
    )  # fmt: skip
    working = max(audit.matches, key=lambda match: match.self_test, default=None)
    if working is None:
        return
    each = _each(audit.significance, audit.matches)
    worst = max(
        audit.matches,
        key=lambda match: (
            _found_in_steps_of_others(match, each),
            _lower(match.control, match.control_patients, each) - _CONTROL_FACTOR * match.null,
        ),
    )
    count = max(1, round(worst.control_patients))
    yield _control(
        "threshold control",
        f"Negative control: {_percent(worst.control)} of patients that took no part count as reconstructed "
        f"by {worst.attack}; {_percent(worst.null)} of the null do.",
        (worst.control, *intervals.clopper_pearson(worst.control * count, count)), count, worst.null,
        "its threshold is too low" if _found_in_steps_of_others(worst, each) else "",
    )  # fmt: skip
    yield _control(
        "positive control",
        f"Positive control: without noise the attack {working.attack} reconstructs "
        f"{_percent(working.self_test)} of the images.",
        (working.self_test,
         *intervals.clopper_pearson(round(working.self_test * working.originals), working.originals)),
        working.originals, None, "" if working.works else "a planted leak is not found", counted="images",
    )  # fmt: skip


def _control(
    name: str,
    words: str,
    of: tuple[float, float, float],
    n: int,
    null: float | None,
    failure: str,
    *,
    counted: str = "trials",
) -> Finding:
    value, low, high = of
    return Finding(
        key=key_of("reconstruction", name), line=MEASURED, words=words, value=value, low=min(low, value),
        high=max(high, value), n=n, null=null, bound=None, colour="grey" if failure else "green",
        reason=f"the control failed: {failure}" if failure else "as it should be", counted=counted,
    )  # fmt: skip


def view_words(view: str) -> str:
    """Return where an image was looked for.

    >>> view_words("step"), view_words("sum of 3 sites")
    ('in the gradient of their step', 'in the sum of 3 sites')
    """
    return "in the gradient of their step" if view == "step" else f"in the {view}"


def _server(match: MatchRecord) -> str:
    return "a malicious server" if match.server == "malicious" else "a server that follows the protocol"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _lower(share: float, of: float, significance: float) -> float:
    return intervals.clopper_pearson(share * of, of, 1 - 2 * significance)[0]
