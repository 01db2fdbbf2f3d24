"""The three lines of an audit's verdict: what is guaranteed, what attacks found, whether the program works.

They are never mixed: a proven bound says nothing about the program, and an attack that finds nothing proves
nothing. Each line prints the rule of its colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from meninx.audit import patient_bounds
from meninx.audit.plan_config import PlannedLimits
from meninx.core.audit_summary import DONE, NO_GUARANTEE, AuditedPart, PlainSentence, VerdictLine
from meninx.core.budget import PrivacyUnit
from meninx.core.findings import (
    GUARANTEED,
    IMPLEMENTATION,
    LONGEST_TEXT,
    MEASURED,
    Finding,
    worst_colour,
)
from meninx.core.percentages import at_most, percent
from meninx.core.risk_records import BoundsRecord, PriorRecord
from meninx.metrics import verdict_rule

_DECIDING = "tpr@fpr=0.01"
NOT_PROVEN = "An attack that finds nothing is no evidence of privacy: another one may find more."


@dataclass(frozen=True, kw_only=True)
class Reservations:
    """What keeps a run's verdict from a good colour.

    Attributes:
        void: why no guarantee holds at all; empty when one does.
        caps: why a line cannot be green, whatever the numbers are.
        unit: what the guarantee is for.
        several: a patient may have several units, so that nothing is guaranteed for a patient.
    """

    void: str = ""
    caps: tuple[str, ...] = ()
    unit: str = PrivacyUnit.PATIENT
    several: bool = False


def lines(
    parts: Sequence[AuditedPart], limits: PlannedLimits, reservations: Reservations
) -> tuple[VerdictLine, VerdictLine, VerdictLine]:
    """Return the three lines of a verdict.

    Args:
        parts: of the audit.
        limits: of the plan.
        reservations: about the run.
    """
    by_name = {part.name: part for part in parts}
    guaranteed = _guaranteed(by_name.get("bounds"), limits, reservations)
    return (
        guaranteed,
        _measured(parts, guaranteed.colour, reservations),
        _implementation(by_name.get("one-run"), reservations),
    )


def _guaranteed(part: AuditedPart | None, limits: PlannedLimits, held: Reservations) -> VerdictLine:
    rule = (
        f"green: no attack finds more than {percent(limits.bound_green)} of the patients at 1 % false "
        f"accusations; amber: {percent(limits.bound_amber)}; red: more, or nothing is guaranteed; never "
        "green without Poisson sampling, or where the bound is not for a patient"
    )

    def line(colour: str, word: str, words: str) -> VerdictLine:
        return VerdictLine(line=GUARANTEED, colour=colour, word=word, words=_fitting(words), rule=rule)

    if held.void:
        return line("red", NO_GUARANTEE, f"No guarantee holds: {held.void}.")
    if part is None:
        return line("grey", "not computed", "The plan computes no bounds.")
    if part.state != DONE:
        return line("grey", "not computed", f"No bound was computed: {part.reason}.")
    found = {item.key.rpartition("/")[2]: item for item in part.findings}
    deciding = found[f"largest-{_DECIDING}"]
    most, epsilon = deciding.value or 0.0, found["epsilon"].value or 0.0
    words = (
        f"Epsilon {epsilon:.3g}: whatever an attacker knows and computes, at most {at_most(most)} of the "
        f"{held.unit}s {'who' if held.unit == PrivacyUnit.PATIENT else 'that'} took part can be found at 1 % "
        "false accusations. This is for this model alone: others trained on the same patients add to it."
    )
    for_patient = found.get(f"patient-{_DECIDING}")
    bounded = for_patient is not None and for_patient.value is not None
    if for_patient is not None and for_patient.value is not None:
        words += f" {for_patient.words}"
        most = max(most, for_patient.value)
    elif held.several:
        why = f" ({for_patient.reason})" if for_patient is not None else ""
        words += (
            f" No bound per patient was computed{why}: a patient with several {held.unit}s is found more "
            "easily."
        )
    colour, word = "green", "strong bound"
    if most > limits.bound_green:
        colour, word = ("red", "weak bound") if most > limits.bound_amber else ("amber", "moderate bound")
    if held.several and not bounded:
        word = f"bound for one {held.unit} only"
    if most > 0.5:
        word = "no useful guarantee"
    return _capped(line(colour, word, words), held)


def _measured(parts: Sequence[AuditedPart], guaranteed: str, held: Reservations) -> VerdictLine:
    rule = (
        "red: an attack exceeds the guarantee, finds something where nothing is guaranteed, or is right more "
        "often than wrong among ten or more; amber: it "
        "finds something and is not shown to exceed the guarantee, or a rate at 1 % false accusations could "
        "not be measured, or a number is beyond chance by itself and not at the level that the attacks "
        "share, or the guarantee is red; green: no attack of the plan found anything; grey: none, "
        "or a control failed"
    )

    def line(colour: str, word: str, words: str) -> VerdictLine:
        return VerdictLine(line=MEASURED, colour=colour, word=word, words=_fitting(words), rule=rule)

    attacks = [part for part in parts if any(item.line == MEASURED for item in part.findings)]
    if not attacks:
        return line("grey", "not tested", "No attack was carried out.")
    void = "; ".join(f"{part.name}: {part.void}" for part in attacks if part.void)
    found = [item for part in attacks for item in part.findings if item.line == MEASURED]
    colour = worst_colour(item.colour for item in found)
    if colour == "red":
        return line("red", "attack succeeded", _with_controls(_worst_words(found, "red"), attacks))
    if colour == "amber":
        words = _with_controls(_worst_words(found, "amber"), attacks)
        return _capped(line("amber", "something found", words), held)
    if all(part.void for part in attacks):
        return line("grey", "void", f"The attacks say nothing. {void}.")
    names = ", ".join(part.name for part in attacks if not part.void)
    words = f"No attack of the plan found anything ({names}). {NOT_PROVEN}"
    if void:
        return line("amber", "nothing found, weak test", f"{words} These attacks say nothing: {void}.")
    unknown = [item for item in found if item.value is None and _DECIDING in item.key]
    if unknown:
        why = f"The rate at 1 % false accusations is not known: {unknown[0].reason}"
        return line("amber", "nothing found, weak test", f"{words} {why}.")
    undecided = [item for item in found if _is_undecided(item)]
    if undecided:
        why = f"{undecided[0].key}: {undecided[0].reason}"
        return line("amber", "nothing found, weak test", f"{words} {why}.")
    if guaranteed == "red":
        return line("amber", "nothing found", f"{words} Nothing useful is guaranteed.")
    return _capped(line("green", "nothing found", words), held)


def _with_controls(words: str, parts: Sequence[AuditedPart]) -> str:
    """Return a sentence with the controls that failed, where it does not name them itself."""
    failed = [f"{part.name}: {part.void}" for part in parts if part.void and part.void not in words]
    return f"{words} A control failed: {'; '.join(failed)}." if failed else words


def _is_undecided(item: Finding) -> bool:
    """Return whether a number is beyond chance by itself alone, or an attack on images says nothing."""
    if verdict_rule.is_undecided(item.reason):
        return True
    return item.key.startswith("reconstruction/") and item.colour == "grey" and item.value is not None


def _worst_words(found: Sequence[Finding], colour: str) -> str:
    """Return the first finding of a colour in words, and how many more there are."""
    worst = [item for item in found if item.colour == colour]
    part, more = worst[0].key.partition("/")[0], len(worst) - 1
    others = f" {more} more number{'s are' if more > 1 else ' is'} {colour}." if more else ""
    return f"{part.capitalize()}: {worst[0].words} Why {colour}: {worst[0].reason}.{others}"


def _implementation(part: AuditedPart | None, held: Reservations) -> VerdictLine:
    rule = (
        "red: the made-up patients were told apart better than the guarantee allows; amber: only a model of "
        "the scores speaks against it; green: consistent, and half of the noise was noticed as a control; "
        "grey: not tested, or the control was not noticed"
    )

    def line(colour: str, word: str, words: str) -> VerdictLine:
        return VerdictLine(line=IMPLEMENTATION, colour=colour, word=word, words=_fitting(words), rule=rule)

    if part is None or part.state != DONE:
        why = part.reason if part is not None else "the plan does not test it"
        return line("grey", "not tested", f"The program's private steps were not tested: {why}.")
    mu = next(item for item in part.findings if item.key.endswith("/mu"))
    allowed = "any" if mu.bound is None else f"{mu.bound:.2f}"
    numbers = f"mu {mu.value or 0:.2f} ({mu.interval()}), the guarantee allows {allowed}, {mu.n:,} canaries"
    if mu.bound is not None and mu.low is not None and (mu.value or 0) > mu.bound >= mu.low:
        numbers += "; the lower end of the interval is what is compared, and it is within the guarantee"
    worded = {
        "red": ("refuted", "The run does NOT keep its guarantee"),
        "amber": ("suspicious", "A model of the scores speaks against the guarantee"),
        "green": ("consistent", "The program's private steps are consistent with the guarantee"),
        "grey": ("void", "The audit says nothing: half of the noise was not noticed"),
    }
    word, words = worded[mu.colour]
    return _capped(line(mu.colour, word, f"{words}: {numbers}."), held)


def _capped(line: VerdictLine, held: Reservations) -> VerdictLine:
    """Return a line with the reservations; a green one becomes amber."""
    if not held.caps:
        return line
    colour = "amber" if line.colour == "green" else line.colour
    words = f"{line.words} But {'; '.join(held.caps)}."
    return replace(line, colour=colour, words=_fitting(words))


def _fitting(words: str) -> str:
    """Return a sentence as long as a line may be; the reasons in full stand beside the findings."""
    if len(words) <= LONGEST_TEXT:
        return words
    return f"{words[: LONGEST_TEXT - 2].rsplit(' ', 1)[0]} …"


def plain_sentences(record: BoundsRecord, *, several: bool = False) -> tuple[PlainSentence, ...]:
    """Return what a guarantee means for an attacker who has narrowed a patient's data to some candidates.

    It is the worst case: the attacker knows all other patients' data.

    Args:
        record: proven bounds.
        several: a patient may have several of the units that the bounds are for.
    """
    operating, found = record.operating, []
    if operating is None:
        return ()
    for prior in record.priors:
        if prior.candidates is None:
            continue
        most = operating.worst[prior.name].upper
        found.append(_sentence(record, prior, most, several=several))
    return tuple(sorted(found, key=lambda item: item.candidates))


def nothing_guaranteed(candidates: Sequence[int]) -> tuple[PlainSentence, ...]:
    """Return the sentences of a run for which no guarantee holds."""
    return tuple(
        PlainSentence(
            candidates=count, guess=1 / count, most=1.0,
            words=f"An attacker who has narrowed a patient's data to 1 of {count:,} may be right every "
            f"time: nothing bounds it. A blind guess is right {percent(1 / count)} of the time.",
        )
        for count in sorted(set(candidates))
    )  # fmt: skip


def _sentence(record: BoundsRecord, prior: PriorRecord, most: float, *, several: bool) -> PlainSentence:
    unit, candidates = patient_bounds.unit_of(record), round(1 / prior.kappa)
    what = "a patient's data" if unit == PrivacyUnit.PATIENT else f"the data of one {unit}"
    words = (
        f"An attacker who has narrowed {what} to 1 of {candidates:,} picks the right one at most "
        f"{at_most(most)} of the time; a blind guess is right {percent(1 / candidates)} of the time."
    )
    if most > 0.5 and most > (1 + 1 / candidates) / 2:
        words += " That is no useful guarantee."
    if record.patient is not None and prior.name in record.patient.success:
        most = max(most, record.patient.success[prior.name])
        who = f"a patient with {record.patient.cases:,} {unit}s"
        words += f" For all data of {who} it is at most {at_most(most)}."
    elif several:
        words += f" For a patient with several {unit}s nothing is guaranteed here."
    return PlainSentence(
        candidates=candidates, guess=1 / candidates, most=max(most, 1 / candidates), words=words
    )
