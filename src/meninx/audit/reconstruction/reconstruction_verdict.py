"""The verdict of a reconstruction audit, in words and as findings of the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meninx.core.findings import MEASURED, Finding, key_of
from meninx.core.reconstruction_records import IdentificationRecord, MatchRecord, ReconstructionAudit
from meninx.metrics import intervals

REFUTED, EXPOSED, NOTHING, VOID = "refuted", "exposed", "nothing found", "void"
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
    if _lower(without.success, without.trials, significance) > without.guess:
        return VOID, (
            "patients that took no part are identified more often than by guessing, so the images say too "
            "much by themselves"
        )
    each = significance / max(1, len(matches))
    for match in matches:
        if _lower(match.control, match.control_patients, each) > _CONTROL_FACTOR * match.null:
            return VOID, (
                f"patients that took no part count as reconstructed by {match.attack}, so its threshold is "
                "too low"
            )
    if any(found.excess for found in identification) or any(match.excess for match in matches):
        return REFUTED, ""
    if any(beyond_null(match, each) for match in matches if match.level == own and match.works):
        return EXPOSED, ""
    if any(often(found) for found in identification if found.level == own):
        return EXPOSED, ""
    if matches and not any(match.works for match in matches):
        return VOID, (
            "no attack reconstructs images even without noise, so its failure under noise says nothing; use "
            "more --attacks, or more images of the attacker by --public"
        )
    return NOTHING, ""


def beyond_null(match: MatchRecord, significance: float = 0.05) -> bool:
    """Return whether an attack reconstructs more images than its null does, and than public images hold."""
    return _lower(match.success, match.patients, significance) > match.without_model


def often(found: IdentificationRecord) -> bool:
    """Return whether an attacker picks the right one of ten or more images more often than a wrong one."""
    return found.candidates >= 10 and found.low >= OFTEN


def verdict_words(audit: ReconstructionAudit) -> str:
    """Return the verdict as a sentence."""
    if audit.verdict == VOID:
        return f"VOID: {audit.reason}"
    if audit.verdict == REFUTED:
        exceeding = [match.attack for match in audit.matches if match.excess]
        exceeding += [f"identification by {found.encoder}" for found in audit.identification if found.excess]
        return f"REFUTED: {', '.join(dict.fromkeys(exceeding))} succeeds more often than the guarantee allows"
    if audit.verdict == EXPOSED:
        own = audit.own_level
        seen = [match.attack for match in audit.matches if match.level == own and beyond_null(match)]
        if any(often(found) for found in audit.identification if found.level == own):
            seen.insert(0, "identification among candidates")
        return f"EXPOSED: {', '.join(dict.fromkeys(seen))} succeeds at the noise of this run"
    return "nothing reconstructed by these attacks at the noise of this run; another attack may do better"


def findings(audit: ReconstructionAudit) -> tuple[Finding, ...]:
    """Return the numbers of the page: identification, attacks at the run's own noise, and the controls."""
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
    for count, found in best_identification(audit, audit.own_level).items():
        colour, reason = "green", ""
        if found.low > found.guess:
            colour, reason = "amber", "more often than a blind guess"
        if often(found):
            colour, reason = "red", "more often right than wrong"
        if found.excess:
            colour, reason = "red", "more often than the guarantee allows"
        yield Finding(
            key=key_of("reconstruction", f"rank1@n={count}"),
            line=MEASURED,
            words=(
                f"An attacker that has narrowed a patient's image to 1 of {count:,} picks the right one in "
                f"{_percent(found.success)}; a blind guess in {_percent(found.guess)}, and no attack in more "
                f"than {_percent(found.bound)}."
            ),
            value=found.success,
            low=found.low,
            high=found.high,
            n=found.trials,
            null=found.guess,
            bound=found.bound,
            colour=colour,
            reason=reason,
            counted="trials",
        )


def _attacks(audit: ReconstructionAudit) -> Iterator[Finding]:
    for match in audit.matches:
        if match.level != audit.own_level:
            continue
        colour, reason = _colour(match)
        yield Finding(
            key=key_of("reconstruction", match.attack, match.view),
            line=MEASURED,
            words=(
                f"The attack {match.attack} of {_server(match)} reconstructs {_percent(match.success)} of "
                f"{match.originals} images {view_words(match.view)}; without any leak "
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


def _colour(match: MatchRecord) -> tuple[str, str]:
    if match.excess:
        return "red", "more often than the guarantee allows"
    if beyond_null(match):
        if match.success >= _LARGE:
            return "red", "far more often than without any leak"
        return "amber", "more often than without any leak"
    if not match.works:
        return "grey", "the attack reconstructs too little even without noise, so its failure says nothing"
    return "green", "no more often than without any leak; another attack may do better"


def _controls(audit: ReconstructionAudit) -> Iterator[Finding]:
    without = audit.identified_without
    held = without.low <= without.guess
    yield Finding(
        key=key_of("reconstruction", "negative control"),
        line=MEASURED,
        words=(
            f"Negative control: a patient that took no part is picked out of {without.candidates:,} in "
            f"{_percent(without.success)}; a blind guess in {_percent(without.guess)}."
        ),
        value=without.success, low=without.low, high=without.high, n=without.trials, null=without.guess,
        bound=None, colour="green" if held else "red", reason="" if held else "the control failed",
        counted="trials",
    )  # fmt: skip
    working = max(audit.matches, key=lambda match: match.self_test, default=None)
    if working is None:
        return
    low, high = intervals.clopper_pearson(round(working.self_test * working.originals), working.originals)
    words = "a planted leak is found" if working.works else "a planted leak is not found"
    yield Finding(
        key=key_of("reconstruction", "positive control"),
        line=MEASURED,
        words=(
            f"Positive control: without noise the attack {working.attack} reconstructs "
            f"{_percent(working.self_test)} of the images."
        ),
        value=working.self_test, low=min(low, working.self_test), high=max(high, working.self_test),
        n=working.originals, null=None, bound=None, colour="green" if working.works else "red",
        reason=words, counted="images",
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
