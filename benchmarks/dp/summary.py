"""From times and memory of a case to the numbers that are printed, and the judgement of each target."""

from __future__ import annotations

import statistics
from typing import Any

from dp.cases import PLANNING_PEAK, PLANNING_STEPS
from dp.timing import Lane, Timed, ratios, wall_ratios

Row = dict[str, Any]
MODES = ("hooks", "functorch", "ew", "ghost")
_CACHED_STEPS = 0.2  # a known plan costs nothing, up to the noise of one first step


def summary(timed: Timed, used: dict[str, dict[str, float]], *, fast_bf16: bool) -> Row:
    """Return all numbers of a case, ready for JSON.

    Args:
        timed: its times.
        used: variant -> MiB, see :func:`dp.memory.measure`; may be empty.
        fast_bf16: the machine multiplies bf16 matrices fast, so that the target against fp32 applies.
    """
    case = timed.case
    reference = timed.lane("sgd")
    assert reference is not None
    row: Row = {
        "case": case.key,
        "title": case.title,
        "precision": case.precision,
        "reference_format": reference.memory_format,
        "reference_ms": 1e3 * reference.median(),
        "reference_wall_ms": 1e3 * statistics.median(sample.wall for sample in reference.samples),
        "variants": {name: _against(lane, reference) for name in _names(timed) if (lane := timed.lane(name))},
        "fails": timed.failures,
        "planning_steps": timed.planning,
        "noise_ratio": timed.noise / reference.median(),
        "memory_mib": used,
    }
    plain = timed.lane("sgd", "fp32")
    private = timed.lane("ours")
    like = timed.lane("sgd", memory_format=private.memory_format) if private else None
    if private and like:
        row["same_format"] = _against(private, like)
    if case.precision != "fp32" and plain and private:
        row["against_fp32"] = _against(private, plain)
        row["reference_fp32_ms"] = 1e3 * plain.median()
    modes = [(row["variants"][mode]["ratio"], mode) for mode in MODES if mode in row["variants"]]
    row["best_peer"] = min(modes)[1] if modes else None
    row["speed_up"] = {
        name: _speed_up(timed, name) for name in row["variants"] if name not in ("ours", "sgd")
    }
    row["judged"] = _judged(timed, row, fast_bf16=fast_bf16)
    return row


def _names(timed: Timed) -> list[str]:
    return list(dict.fromkeys(lane.variant for lane in timed.lanes if lane.variant != "sgd"))


def _against(lane: Lane, reference: Lane) -> Row:
    """Return median, extremes and number of the ratios of a lane, with its wall ratio and format."""
    values = ratios(lane, reference)
    return {
        "ratio": statistics.median(values),
        "least": min(values),
        "most": max(values),
        "n": len(values),
        "wall_ratio": statistics.median(wall_ratios(lane, reference)),
        "format": lane.memory_format,
    }


def _speed_up(timed: Timed, name: str) -> float | None:
    """Return how many times faster ours is than a peer, by the median over the rounds that both ran."""
    peer, private = timed.lane(name), timed.lane("ours")
    return statistics.median(ratios(peer, private)) if peer and private else None


def memory_ratio(row: Row, variant: str, base: str = "sgd") -> float | None:
    """Return the ratio of two variants' steady step memory, or None where one was not measured."""
    used = row["memory_mib"]
    return used[variant]["steady"] / used[base]["steady"] if variant in used and base in used else None


def _judged(timed: Timed, row: Row, *, fast_bf16: bool) -> list[Row]:
    """Return every target that applies to the case, what was measured, and whether it is met."""
    target, up = timed.case.target, row["speed_up"]
    private = row.get("same_format", {}).get("ratio")
    fp32 = row.get("against_fp32", {}).get("ratio")
    base = "non-private" if timed.case.precision == "fp32" else f"non-private {timed.case.precision}"
    first, steady = (row["memory_mib"].get("ours", {}).get(word) for word in ("first", "steady"))
    plan = timed.planning
    tests = [
        (f"time / {base}, same format", private, target.time, True),
        ("time / non-private fp32", fp32, target.time_fp32 if fast_bf16 else None, True),
        ("times faster than Opacus' best", up.get(row["best_peer"]), target.best, False),
        ("times faster than Opacus hooks", up.get("hooks"), target.hooks, False),
        ("times faster than Opacus functorch", up.get("functorch"), target.functorch, False),
        (
            "step memory / non-private",
            memory_ratio(row, "ours"),
            target.memory if row["memory_mib"] else None,
            True,
        ),
        ("planning, steps", plan.get("new"), PLANNING_STEPS, True),
        ("planning with a known plan, steps", plan.get("cached"), _CACHED_STEPS, True),
        (
            "planning peak / steady peak",
            first / steady if first and steady else None,
            PLANNING_PEAK if steady else None,
            True,
        ),
    ]
    return [
        {
            "what": what,
            "value": value,
            "limit": limit,
            "at_most": at_most,
            "met": _met(value, limit, at_most=at_most),
        }
        for what, value, limit, at_most in tests
        if limit is not None and (value is not None or "planning" not in what)
    ]


def _met(value: float | None, limit: float, *, at_most: bool) -> bool:
    """Return whether a rounded value keeps its limit; nothing measured is not met."""
    if value is None:
        return False
    return round(value, 2) <= limit if at_most else round(value, 2) >= limit
