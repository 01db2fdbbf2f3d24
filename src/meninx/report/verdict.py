"""The first row of the page: its questions, each with a colour, a word, a value and the limit applied."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from meninx.core.artifacts import DeidRecord
from meninx.core.summaries import number_of, unsearched
from meninx.dicomfile import refusals
from meninx.metrics.estimates import Estimate, Evaluation
from meninx.metrics.paired_difference import AMPLIFIED, CLOSED, MARGIN, NOT_AMPLIFIED, NOT_DECIDED
from meninx.report import formatting, privacy_cost, section_audit, section_obfuscation, training_log
from meninx.report.context import Comparison, ReportContext, departures_of, keeps_attribute
from meninx.report.joint_privacy import Cap, Joint
from meninx.report.sources import TrainedRun
from meninx.report.table_model import Verdict

GREEN, AMBER, RED, GREY = "green", "amber", "red", "grey"
_WORSE = (GREEN, AMBER, GREY, RED)


def verdicts(context: ReportContext) -> tuple[Verdict, ...]:
    """Return the cards of a report, in reading order."""
    hidden = section_obfuscation.card(context.releases, context.obfuscated_runs)
    return (
        _identifiers(context),
        _epsilon(context),
        _attack(context),
        section_audit.audit_card(context),
        *([hidden] if hidden is not None else []),
        _gap(context),
        _utility(context),
    )


def _identifiers(context: ReportContext) -> Verdict:
    question = "Identifiers removed?"
    limit = (
        "green: nothing found, profile kept, images that may hold text searched for it; amber: one of these "
        "is missing; red: an identifier found or kept"
    )
    records = [item.record for item in context.deid]
    if not records:
        return Verdict(
            question, GREY, "not known", formatting.DASH, "no de-identification summary", limit, "deid"
        )
    found = sum(record.residual_findings for record in records)
    value = f"{found:,} found"
    kept = sorted(
        {item.name for record in records for item in departures_of(record) if keeps_attribute(item)}
    )
    less = sum(len(departures_of(record)) for record in records)
    pixels = _pixels(records)
    if found:
        return Verdict(question, RED, "identifiers found", value, pixels, limit, "deid")
    if kept:
        return Verdict(
            question,
            RED,
            "identifiers kept",
            f"{len(kept):,} kept",
            f"kept on purpose: {_few(kept)}; {pixels}",
            limit,
            "deid",
        )
    if less:
        detail = f"{less:,} departure{'s' if less > 1 else ''} from the profile; {pixels}"
        return Verdict(question, AMBER, "less than the profile", value, detail, limit, "deid")
    if not all(record.pixels == "redact" and not record.burned_in_unknown for record in records):
        return Verdict(question, AMBER, "pixels not checked", value, pixels, limit, "deid")
    return Verdict(question, GREEN, "none found", value, pixels, limit, "deid")


def _pixels(records: Sequence[DeidRecord]) -> str:
    flagged = sum(record.burned_in_unknown for record in records)
    if not flagged and all(record.pixels == "redact" for record in records):
        searched = sum(record.pixels_searched for record in records)
        redacted = sum(record.pixels_redacted for record in records)
        kept_out = sum(refusals.kept_out_after_search(record.quarantined) for record in records)
        done = f"{redacted:,} redacted" + (f", {kept_out:,} kept out" if kept_out else "")
        return (
            "headers were searched; so were the pixels of the "
            f"{number_of(searched + kept_out, 'image')} that may hold text ({done})"
        )
    if not flagged:
        return "headers were searched; nobody read the pixels"
    return unsearched(flagged)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _epsilon(context: ReportContext) -> Verdict:
    config = context.config
    limit = (
        f"green: ε ≤ {config.epsilon_amber:g} and δ ≤ 1/(10n); amber: ε ≤ {config.epsilon_red:g}; red: "
        "above or none"
    )
    question = "Privacy of training?"
    if not context.joints:
        return _not_private(context, question, limit)
    cards = [_cost(context, item, question, limit) for item in context.joints]
    return max(cards, key=lambda card: _WORSE.index(card.colour))  # of equals the first, which is the dearest


def _not_private(context: ReportContext, question: str, limit: str) -> Verdict:
    if not context.runs:
        detail = f"{_runs(context.unfinished)} not finished" if context.unfinished else "no run was given"
        return Verdict(question, GREY, "not known", formatting.DASH, detail, limit, "privacy")
    detail = f"{_runs(context.runs)}: trained without differential privacy"
    return Verdict(question, RED, "not private", "no epsilon", detail, limit, "privacy")


def _cost(context: ReportContext, joint: Joint, question: str, limit: str) -> Verdict:
    config, spent = context.config, joint.spent
    share = "which may share" if joint.assumed else "which share"
    who = _runs(joint.runs) + (f", {share} {context.people}, together" if len(joint.runs) > 1 else "")
    if spent is None:
        cap = _worst(joint.caps)
        word = cap.word if cap is not None else "not finished"
        return Verdict(question, cap.colour if cap else GREY, word, formatting.DASH, who, limit, "privacy")
    value = "no bound" if math.isinf(joint.epsilon) else f"ε = {formatting.number(joint.epsilon)}"
    detail = f"{who}: at delta {spent.delta:g}, per {joint.unit} ({spent.relation})"
    detail += _other_sites(context, joint) + _beside(context)
    colour, word = _graded(
        joint.epsilon, config.epsilon_amber, config.epsilon_red, ("strong", "moderate", "weak")
    )
    if math.isinf(joint.epsilon):
        word = "no bound"
    open_runs = [run for run in joint.runs if not run.finished]
    caps = [*joint.caps]
    if len(open_runs) == len(joint.runs):
        caps.append(Cap(colour=GREY, word="not finished", reason=""))
    cap = _worst(caps)
    if cap is not None and (colour == GREEN or _WORSE.index(cap.colour) >= max(2, _WORSE.index(colour))):
        colour, word = cap.colour, cap.word
    elif cap is not None:
        detail += f"; {cap.word}"
    if open_runs and len(open_runs) < len(joint.runs):
        detail += f"; {_runs(open_runs)} not finished, counted so far"
    return Verdict(question, colour, word, value, detail, limit, "privacy")


def _other_sites(context: ReportContext, joint: Joint) -> str:
    """Return a remark about the other sites of the same study, whose patients have their own epsilon."""
    other = [run for item in context.joints if item is not joint for run in item.runs]
    for run in joint.runs:
        sites = {item.part.site for item in other if item.part is not None and item.is_beside(run)}
        if sites and run.part is not None:
            return (
                f"; one of {len(sites) + 1} sites of study {run.part.study}, whose patients each have the "
                "epsilon of their own site"
            )
    return ""


def _beside(context: ReportContext) -> str:
    """Return a remark about finished runs without privacy, which the verdict does not cover."""
    names = [run for run in context.runs if not run.private]
    return f"; not covered: {_runs(names)}, trained without privacy" if names else ""


def _worst(caps: Sequence[Cap]) -> Cap | None:
    return max((cap for cap in caps if cap.word), key=lambda cap: _WORSE.index(cap.colour), default=None)


def _runs(runs: Sequence[TrainedRun]) -> str:
    return f"run{'s' if len(runs) > 1 else ''} {_few([run.name for run in runs])}"


def _attack(context: ReportContext) -> Verdict:
    config = context.config
    limit = f"green: bound ≤ {config.attack_amber:g}; amber: ≤ {config.attack_red:g}; red: above"
    question = "Attack risk?"
    if not context.joints:
        return Verdict(
            question,
            GREY,
            "not known",
            formatting.DASH,
            "no proven bound, no measured attack",
            limit,
            "privacy",
        )
    cards = [_risk(context, item, question, limit) for item in context.joints]
    return max(cards, key=lambda card: _WORSE.index(card.colour))


def _risk(context: ReportContext, joint: Joint, question: str, limit: str) -> Verdict:
    who = _runs(joint.runs)
    cap = _worst([item for item in joint.caps if item.attacks])
    if cap is not None and cap.colour in (RED, GREY):
        return Verdict(
            question, cap.colour, cap.word, formatting.DASH, f"{who}: no bound holds", limit, "privacy"
        )
    if joint.bounds is None:
        return Verdict(
            question,
            GREY,
            "not known",
            formatting.DASH,
            f"{who}: no proven bound, no measured attack",
            limit,
            "privacy",
        )
    bound = joint.bounds.tpr_at_fpr[0.01]
    colour, word = _graded(
        bound,
        context.config.attack_amber,
        context.config.attack_red,
        ("bound is low", "bound is medium", "bound is high"),
    )
    if cap is not None and colour == GREEN:
        colour, word = AMBER, cap.word
    detail = f"{who}: membership, TPR at 1 % FPR at most, proven; attacks are the audit's"
    return Verdict(question, colour, word, f"≤ {formatting.number(bound)}", detail, limit, "privacy")


def _gap(context: ReportContext) -> Verdict:
    """Return the card on groups: what privacy costs each, if that was measured, else the run's own gaps.

    Several private runs (seeds, sites) may have been compared. The card shows the worst comparison, those of
    the headline's run first, so that an amplified loss of one run is not hidden behind another run.
    """
    own = _own_gap(context)
    compared = [item for item in privacy_cost.costs(context) if item.compared.origin.split == "test"]
    compared.sort(key=lambda item: item.run is not context.headline)
    cards = [_group_cost(context, item, own) for item in compared]
    return min(cards, key=lambda card: _SEVERITY.index(card.colour), default=own)


_SEVERITY = (RED, AMBER, GREY, GREEN)


def _group_cost(context: ReportContext, item: Comparison, own: Verdict) -> Verdict:
    """Return the card of a private run against one without privacy; a gap of the run itself stays red."""
    margin = item.compared.record.margin or MARGIN
    rule = (
        f"green: no group loses more than the others, within ±{margin:g}, and no gap above "
        f"±{context.config.gap_limit:g}; red: amplified (p < 0.05 after Holm), or a gap; amber: between"
    )
    rows, row = privacy_cost.gaps_of(item), privacy_cost.most_telling(item)
    if row is None or own.colour == RED:
        return replace(own, limit=rule)
    unknown = len(rows) - len(privacy_cost.known(rows))
    found = privacy_cost.counted(item)
    colour, word = _cost_colour(found, unknown, own)
    if item.compared.record.differing_in() and colour == GREEN:
        colour, word = AMBER, "unlike baseline"
    where = f"{row.attribute} {row.group}" + (f", {row.label}" if row.label else "")
    counts = ", ".join(f"{found[one]} {one}" for one in privacy_cost.ORDER)
    detail = (
        f"run {item.run.name} against {item.baseline.name if item.baseline else ''}: AUROC lost beyond the "
        f"other groups {formatting.interval(row)}: {where}; {privacy_cost.words(row, item)}; {counts}"
        + (f", {unknown} insufficient" if unknown else "")
        + f"; gaps of the run itself: {own.word}"
    )
    return Verdict(own.question, colour, word, formatting.value(row), detail, rule, own.anchor)


def _cost_colour(found: Counter[str], unknown: int, own: Verdict) -> tuple[str, str]:
    if found[AMPLIFIED]:
        return RED, AMPLIFIED
    if found[NOT_DECIDED]:
        return AMBER, NOT_DECIDED
    if found[CLOSED]:
        return AMBER, CLOSED
    if unknown:
        return AMBER, "some groups too small"
    return (GREEN, NOT_AMPLIFIED) if own.colour == GREEN else (AMBER, f"{NOT_AMPLIFIED} by privacy")


def _own_gap(context: ReportContext) -> Verdict:
    limit = context.config.gap_limit
    question, rule = (
        "Fair to groups?",
        f"green: every interval within ±{limit:g}; red: one wholly outside; amber: between",
    )
    run = context.headline
    measured = run.evidence.test if run else None
    every = (
        [item for item in measured.evaluation.gaps if item.name in ("auroc_gap", "dice_gap")]
        if measured
        else []
    )
    known = [
        item
        for item in every
        if not (math.isnan(item.value) or math.isnan(item.low) or math.isnan(item.high))
    ]
    if not known or run is None:
        detail = "no group is large enough" if measured else "no evaluation"
        return Verdict(question, GREY, "not known", formatting.DASH, detail, rule, "fairness")
    worst = max(known, key=lambda item: abs(item.value))
    outside = [item for item in known if item.low > limit or item.high < -limit]
    if outside:
        worst = max(outside, key=lambda item: abs(item.value))
        colour, word = RED, "gap found"
    elif all(-limit <= item.low and item.high <= limit for item in known):
        colour, word = GREEN, "no gap"
    else:
        colour, word = AMBER, "not decided"
    unknown = len(every) - len(known)
    if unknown and colour == GREEN:
        colour, word = AMBER, "some groups too small"
    detail = f"run {run.name}: {_gap_detail(worst, unknown)}"
    return Verdict(question, colour, word, formatting.value(worst), detail, rule, "fairness")


def _gap_detail(worst: Estimate, unknown: int) -> str:
    where = f"{worst.attribute} {worst.group}" + (f", {worst.label}" if worst.label else "")
    more = f"; {unknown} more insufficient" if unknown else ""
    return (
        f"largest {formatting.metric(worst.name)} {formatting.interval(worst)}: {where}, n = "
        f"{worst.n:,}{more}"
    )


def _utility(context: ReportContext) -> Verdict:
    question, run = "Useful?", context.headline
    measured = run.evidence.test if run else None
    limit = utility_rule(context)
    if run is None or measured is None:
        return Verdict(
            question,
            GREY,
            "not known",
            formatting.DASH,
            "no evaluation of the released weights",
            limit,
            "utility",
        )
    best = measured.evaluation.headline
    colour, word, reason = utility(context, run)
    detail = (
        f"run {run.name}: {formatting.metric(best.name)} {formatting.interval(best)}, n = {best.n:,} "
        f"cases; {reason}"
    )
    return Verdict(question, colour, word, formatting.value(best), detail, limit, "utility")


def utility_rule(context: ReportContext) -> str:
    """Return what utility is judged against."""
    floor, loss = context.config.utility_floor, context.config.utility_loss
    if floor is not None:
        return f"green: every label's interval above {floor:g}; red: one wholly below; amber: between"
    return (
        f"against a run without privacy on the same cases; green: every label loses less than {loss:g}; "
        f"red: one loses more; amber: between; no utility floor was given"
    )


def utility(context: ReportContext, run: TrainedRun) -> tuple[str, str, str]:
    """Return colour, word and reason of a run's utility, judged label by label.

    Chance is no floor: without a floor of the user's and without a measured baseline the colour is grey.
    """
    measured = run.evidence.test
    if measured is None:
        return GREY, "not known", "no evaluation"
    diverged = training_log.divergence(run.log)
    if diverged:
        return RED, "diverged", "; ".join(diverged)
    evaluation, floor = measured.evaluation, context.config.utility_floor
    labels, chance = by_label(evaluation), at_chance(evaluation)
    baseline = _baseline(context, run)
    if floor is not None:
        colour, word, reason = _against(
            labels, floor, f"the floor {floor:g}", ("below the floor", "above the floor")
        )
    elif baseline is not None and baseline.baseline is not None:
        rows = [
            item for item in baseline.compared.differences if not item.attribute and item.name in _DIFFERENCES
        ]
        rows = [item for item in rows if item.label] or rows
        text = f"run {baseline.baseline.name} without privacy"
        loss = context.config.utility_loss
        colour, word, reason = _against(
            rows, -loss, text, (f"loses more than {loss:g}", f"loses less than {loss:g}")
        )
    else:
        colour, word, reason = (
            GREY,
            "no floor set",
            "neither a floor nor a baseline: nothing to judge against",
        )
    odd = training_log.oddities(evaluation)
    unlike = baseline.compared.record.differing_in() if floor is None and baseline is not None else ""
    if unlike:
        reason += f", which differs in more than privacy ({unlike})"
        if colour == GREEN:
            colour, word = AMBER, "unlike baseline"
    if chance and colour in (GREEN, GREY):
        colour, word = AMBER, "labels at chance"
    doubts = training_log.doubts(run.log)
    if doubts and colour in (GREEN, GREY):
        colour, word = AMBER, doubts[0][0]
    if odd and colour == GREEN:
        colour, word = AMBER, "odd threshold or calibration"
    text = f"cannot be told from chance: {_few(chance)}" if chance else ""
    return (
        colour,
        word,
        "; ".join(part for part in (reason, text, *(text for _, text in doubts), *odd) if part),
    )


_DIFFERENCES = ("auroc_difference", "dice_difference")


def by_label(evaluation: Evaluation) -> list[Estimate]:
    """Return the headline metric of every label, or of all together where no label has its own."""
    name = "dice" if evaluation.task == "segmentation" else "auroc"
    found = [item for item in evaluation.metrics if item.name == name and not item.attribute]
    return [item for item in found if item.label] or found


def at_chance(evaluation: Evaluation) -> list[str]:
    """Return the labels whose AUROC interval reaches down to one half, or whose Dice may be zero."""
    floor = 0.0 if evaluation.task == "segmentation" else 0.5
    return [item.label or "all labels" for item in by_label(evaluation) if not item.low > floor]


def _against(
    rows: Sequence[Estimate], floor: float, what: str, words: tuple[str, str]
) -> tuple[str, str, str]:
    """Return colour, word (``words``: below, above) and reason of rows that must all lie above a floor.

    The worst is named.
    """
    known = [item for item in rows if not (math.isnan(item.low) or math.isnan(item.high))]
    if not known:
        return GREY, "not known", f"against {what}: no label has an interval"
    worst = min(known, key=lambda item: (item.low, item.value))
    reason = (
        f"against {what}: lowest {worst.label or 'of all labels'} {formatting.value(worst)} "
        f"{formatting.interval(worst)}"
    )
    if any(item.high < floor for item in known):
        return RED, words[0], reason
    if len(known) == len(rows) and all(item.low > floor for item in known):
        return GREEN, words[1], reason
    return AMBER, "not decided", reason


def _baseline(context: ReportContext, run: TrainedRun) -> Comparison | None:
    """Return the comparison of a run with one without privacy on its test split."""
    found = [item for item in context.comparisons if item.run is run and item.compared.origin.split == "test"]
    return next((item for item in found if item.baseline is not None and not item.baseline.private), None)


def _graded(number: float, amber: float, red: float, words: tuple[str, str, str]) -> tuple[str, str]:
    if number <= amber:
        return GREEN, words[0]
    return (AMBER, words[1]) if number <= red else (RED, words[2])
