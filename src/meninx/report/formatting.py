"""How the page words numbers and risks: few digits, an interval for every estimate, sentences for risks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from meninx.core.percentages import at_most, percent
from meninx.metrics.estimates import Estimate
from meninx.metrics.groups import INSUFFICIENT, MIN_CELL
from meninx.metrics.intervals import CLOPPER_PEARSON, COMBINED, PERCENTILE, UNSEEN

METRICS: Mapping[str, str] = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
    "mcc": "MCC",
    "brier": "Brier score",
    "dice": "Dice",
    "iou": "IoU",
    "hd95": "HD95",
    "surface_dice": "surface Dice",
    "dice_empty_as_one": "Dice, empty masks as 1",
    "false_positive_rate": "false positive rate",
    "selection_rate": "selection rate",
    "auroc_gap": "AUROC gap",
    "tpr_gap": "TPR gap",
    "fpr_gap": "FPR gap",
    "spd": "selection rate gap (SPD)",
    "acc_gap": "accuracy gap (acc_gap)",
    "dice_gap": "Dice gap",
    "auroc_difference": "AUROC difference",
    "auroc_gap_difference": "AUROC gap difference",
    "auroc_trend": "AUROC per decade of age",
    "auroc_trend_difference": "AUROC per decade, difference",
    "worst_group_auroc": "AUROC of the worst group",
    "es_auroc": "equity-scaled AUROC",
    "auroc_range": "AUROC range over groups",
    "demographic_parity_difference": "selection rate range (demographic parity difference)",
    "equal_opportunity_difference": "TPR range (equal opportunity difference)",
    "equalised_odds_difference": "equalised-odds difference",
    "dice_difference": "Dice difference",
}
_UNSIGNED = ("demographic_parity_difference", "equal_opportunity_difference", "equalised_odds_difference")
_KINDS: Mapping[str, str] = {
    PERCENTILE: "percentile",
    UNSEEN: "percentile, with an unseen patient",
    CLOPPER_PEARSON: "Clopper–Pearson",
    COMBINED: "combined",
}
ACTIONS: Mapping[str, str] = {
    "D": "replaced by a dummy value",
    "Z": "emptied or replaced by a dummy value",
    "X": "removed",
    "K": "kept",
    "C": "cleaned",
    "U": "UID replaced consistently",
}
DASH = "–"
HIDDEN = "not shown"
WHY_HIDDEN = (
    "A run declared its number of units, so that nobody learns the true one: counts that hold "
    "training cases, and totals "
    "from which they could be computed, are not shown."
)


def number(value: Any, digits: int = 3) -> str:
    """Return a number for people: thousands separated, three significant digits for fractions.

    A dash for nothing.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if math.isinf(value):
            return "infinite"
        text = f"{value:.{digits}g}"
        if "e+" in text:
            return f"{value:,.0f}"
        return text.replace("-", "−", 1) if value < 0 else text
    return str(value)


def value(item: Estimate) -> str:
    """Return an estimate's value, or why there is none."""
    if math.isnan(item.value):
        return item.note or "undefined"
    signed = item.name.endswith(("gap", "difference", "_trend")) or item.name == "spd"
    signed = signed and item.name not in _UNSIGNED
    text = f"{item.value:+.3f}" if signed else f"{item.value:.3f}"
    return _minus(text)


def signed(value: float) -> str:
    """Return a difference with its sign and three decimals.

    >>> signed(0.01), signed(-0.0004)
    ('+0.010', '0.000')
    """
    text = _minus(f"{value:+.3f}")
    return text.lstrip("+") if float(f"{value:.3f}") == 0 else text


def size(count: int, item: Estimate) -> str:
    """Return a number of cases or patients; "fewer than 10" for a group whose size is not published."""
    if not count and item.attribute:
        return f"fewer than {MIN_CELL}" if item.note == INSUFFICIENT else DASH
    return f"{count:,}"


def interval_kind(item: Estimate) -> str:
    """Return how an estimate's interval was made, in a word; empty where the record does not say."""
    return _KINDS.get(item.interval, "")


def interval(item: Estimate) -> str:
    """Return an estimate's 95 % interval in square brackets, a dash when it is unknown."""
    if math.isnan(item.low) or math.isnan(item.high):
        return DASH
    return f"[{_minus(f'{item.low:.3f}')}, {_minus(f'{item.high:.3f}')}]"


def _minus(text: str) -> str:
    """Return a decimal with a typographic minus, and none before a zero."""
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def metric(name: str) -> str:
    """Return a metric's readable name."""
    return METRICS.get(name, name.replace("_", " "))


def listed(value: Any) -> str:
    """Return a JSON value as a short text: lists joined by commas, tables as ``key: value``."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {listed(item)}" for key, item in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(listed(item) for item in value) or "none"
    if value is None or value == "":
        return "none"
    return number(value) if isinstance(value, (int, float)) else str(value)


def total(value: Any) -> int | None:
    """Return how many things a JSON value counts: a number, the length of a list, the sum of a table.

    None when unknown.
    """
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return None
    if isinstance(value, (int, float)):
        return int(value)
    if isinstance(value, Mapping):
        return sum(total(item) or 0 for item in value.values())
    return len(value)


def advantage_sentence(advantage: float, unit: str) -> str:
    """Return what a membership attacker can gain at most, for readers without statistics."""
    return (
        f"Shown one {unit} who was in the training data with probability one half, an attacker who "
        "knows everything else "
        f"guesses right at most {at_most((1 + advantage) / 2)} of the time; a coin is right 50 % of the time."
    )


def recognition_sentence(rate: float, bound: float, unit: str) -> str:
    """Return a bound on the true positive rate at a false positive rate, in words."""
    wrong = round(1 / rate)
    return (
        f"An attacker who may wrongly accuse 1 of {wrong:,} {unit}s who were not in the training "
        "data recognises at most "
        f"{at_most(bound)} of those who were; without the model it would be {percent(rate)}."
    )


def joined(names: Sequence[str]) -> str:
    """Return names as ``a, b and c``."""
    if len(names) < 2:
        return names[0] if names else "none"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def meaning(epsilon: float, delta: float, unit: str) -> str:
    """Return what an epsilon means, in one sentence for readers without statistics."""
    if not math.isfinite(epsilon):
        return f"No epsilon bounds what the model reveals about one {unit}."
    factor = math.exp(min(epsilon, 700.0))
    times = f"{factor:.3g} times" if factor < 1000 else f"{factor:,.0f} times"
    if factor >= 1e6:
        times = "more than a million times"
    chance = f"1 in {round(1 / delta):,}" if 0 < delta < 0.5 else "a chance that is not small"
    return (
        f"Epsilon {number(epsilon)} means: whatever somebody concludes from the model, the data of "
        f"one {unit} make that "
        f"conclusion at most {times} as likely as it would have been without them, apart from a "
        f"chance of {chance} (delta)."
    )
