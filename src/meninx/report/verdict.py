"""The first row of the page: five questions, each answered by a colour, a word, a value and the limit it was held against."""

from __future__ import annotations

import math
from dataclasses import dataclass

from meninx.metrics.tables import Estimate
from meninx.report import words
from meninx.report.context import Context

GREEN, AMBER, RED, GREY = "green", "amber", "red", "grey"


@dataclass(frozen=True)
class Verdict:
    """One card.

    Attributes:
        question: what is asked.
        colour: green, amber, red, or grey when it cannot be told.
        word: the same as a word.
        value: the number behind it.
        detail: what the number rests on.
        limit: what it was held against.
        anchor: id of the section that says more.
    """

    question: str
    colour: str
    word: str
    value: str
    detail: str
    limit: str
    anchor: str


def verdicts(context: Context) -> tuple[Verdict, ...]:
    """Return the cards of a report, in reading order."""
    return (_identifiers(context), _epsilon(context), _attack(context), _gap(context), _utility(context))


def _identifiers(context: Context) -> Verdict:
    question, limit = "Identifiers left?", "green: 0 findings, pixels checked; amber: 0 findings in headers; red: any finding"
    counts = [words.total(item.table.get("residual_findings")) for item in context.deid]
    if not counts or None in counts:
        return Verdict(question, GREY, "not known", words.DASH, "no de-identification summary", limit, "deid")
    found = sum(count or 0 for count in counts)
    written = sum(words.total(item.table.get("files_written")) or 0 for item in context.deid)
    detail = f"findings in the headers of {written:,} files of {len(counts)} archive{'s' if len(counts) > 1 else ''}"
    if found:
        return Verdict(question, RED, "identifiers found", f"{found:,}", detail, limit, "deid")
    if all(pixels_checked(item.table) for item in context.deid):
        return Verdict(question, GREEN, "none found", "0", detail, limit, "deid")
    return Verdict(question, AMBER, "pixels not checked", "0", detail, limit, "deid")


def pixels_checked(table: object) -> bool:
    """Tell whether a de-identification summary says that pixels were searched for burned-in text and none is unknown."""
    return isinstance(table, dict) and table.get("pixels_checked") is True and not table.get("burned_in_unknown")


def _epsilon(context: Context) -> Verdict:
    config, run = context.config, context.headline
    limit = f"green: epsilon ≤ {config.epsilon_amber:g}; amber: ≤ {config.epsilon_red:g}; red: above or none"
    question = "Privacy of training?"
    if run is None:
        return Verdict(question, GREY, "not known", words.DASH, "no run was given", limit, "privacy")
    if run.privacy is None or not run.private:
        return Verdict(question, RED, "not private", "no epsilon", "trained without differential privacy", limit, "privacy")
    epsilon = float(run.privacy["epsilon"])
    detail = f"at delta {run.privacy.get('delta'):g}, per {run.privacy.get('unit')} ({run.privacy.get('relation')})"
    value = f"ε = {words.number(epsilon)}"
    if run.name in context.not_for_release:
        return Verdict(question, RED, "void, noise from a seed", value, detail, limit, "privacy")
    colour, word = _graded(epsilon, config.epsilon_amber, config.epsilon_red, ("strong", "moderate", "weak"))
    return Verdict(question, colour, word, value, detail, limit, "privacy")


def _attack(context: Context) -> Verdict:
    config, run = context.config, context.headline
    limit = f"green: bound ≤ {config.attack_amber:g}; amber: ≤ {config.attack_red:g}; red: above"
    question = "Attack risk?"
    bound = (((run.privacy or {}).get("risk") or {}).get("tpr_at_fpr") or {}).get("0.01") if run else None
    if bound is None:
        return Verdict(question, GREY, "not known", words.DASH, "no proven bound, no measured attack", limit, "privacy")
    if run is not None and run.name in context.not_for_release:
        return Verdict(
            question, RED, "void, noise from a seed", words.DASH, "the bound holds only for secret noise", limit, "privacy"
        )
    colour, word = _graded(
        float(bound), config.attack_amber, config.attack_red, ("bound is low", "bound is medium", "bound is high")
    )
    detail = "membership: TPR at 1 % FPR at most, proven; no attack was measured"
    return Verdict(question, colour, word, f"≤ {words.number(float(bound))}", detail, limit, "privacy")


def _gap(context: Context) -> Verdict:
    limit = context.config.gap_limit
    question, rule = "Fair to groups?", f"green: every interval within ±{limit:g}; red: one wholly outside; amber: between"
    run = context.headline
    evaluation = run.evaluation if run else None
    every = [item for item in evaluation.gaps if item.name in ("auroc_gap", "dice_gap")] if evaluation else []
    known = [item for item in every if not (math.isnan(item.value) or math.isnan(item.low))]
    if not known:
        return Verdict(question, GREY, "not known", words.DASH, "no group is large enough", rule, "fairness")
    worst = max(known, key=lambda item: abs(item.value))
    outside = [item for item in known if item.low > limit or item.high < -limit]
    if outside:
        worst = max(outside, key=lambda item: abs(item.value))
        colour, word = RED, "gap found"
    elif all(-limit <= item.low and item.high <= limit for item in known):
        colour, word = GREEN, "no gap"
    else:
        colour, word = AMBER, "not decided"
    return Verdict(question, colour, word, words.value(worst), _gap_detail(worst, len(every) - len(known)), rule, "fairness")


def _gap_detail(worst: Estimate, unknown: int) -> str:
    where = f"{worst.attribute} {worst.group}" + (f", {worst.label}" if worst.label else "")
    more = f"; {unknown} more insufficient" if unknown else ""
    return f"largest {words.metric(worst.name)} {words.interval(worst)}: {where}, n = {worst.n:,}{more}"


def _utility(context: Context) -> Verdict:
    floor = context.config.utility_floor
    question, limit = "Useful?", f"green: whole interval above {floor:g}; red: wholly below; amber: between"
    run = context.headline
    if run is None or run.evaluation is None:
        return Verdict(question, GREY, "not known", words.DASH, "no evaluation", limit, "utility")
    best = run.evaluation.headline
    detail = f"{words.metric(best.name)} {words.interval(best)}, n = {best.n:,} cases of {best.patients:,} patients"
    if math.isnan(best.low):
        return Verdict(question, GREY, "not known", words.value(best), detail, limit, "utility")
    colour, word = (
        (GREEN, "above the floor") if best.low > floor else (RED, "below") if best.high < floor else (AMBER, "not decided")
    )
    return Verdict(question, colour, word, words.value(best), detail, limit, "utility")


def _graded(number: float, amber: float, red: float, said: tuple[str, str, str]) -> tuple[str, str]:
    if number <= amber:
        return GREEN, said[0]
    return (AMBER, said[1]) if number <= red else (RED, said[2])
