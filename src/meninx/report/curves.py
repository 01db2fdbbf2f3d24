"""Training curves of a run from its private log, and what they say about divergence."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from meninx.core import files
from meninx.metrics.tables import Evaluation

Curve = tuple[tuple[float, float], ...]
TRAIN, VALID = "train loss", "valid loss"
_POINTS = 200
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_@.-]{0,30}")
_RISE = 1.1  # a loss that ends this many times above its start has diverged; less is noise of the batches
_EXTREME = 0.001
_ECE = 0.15
_LIMIT = 1 << 30
_LOST_FOR = 3  # one value may be missing: nobody took part in that step


@dataclass(frozen=True)
class Log:
    """A training log.

    Attributes:
        curves: name -> points over the steps, averaged to at most 200 each; text is dropped.
        lost: losses that were no number any more at the end.
    """

    curves: Mapping[str, Curve]
    lost: tuple[str, ...] = ()


def read(path: Path) -> Log:
    """Return the training log of a run; without one, a log of nothing.

    Raises:
        DataError: the log holds foreign bytes or is too large; names the file.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    gone: dict[str, int] = {}  # how many values in a row, up to now, were none
    for line in files.read_text(path, limit=_LIMIT).splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue  # the half-written last line of a killed run
        if not isinstance(row, dict):
            continue
        step = row.get("step", row.get("epoch"))
        kind = row.get("kind", "")
        prefix = f"{kind} " if isinstance(kind, str) and kind in ("train", "valid", "test") else ""
        if not _finite(step):
            continue
        for key, value in row.items():
            if key == "loss":
                gone[prefix + key] = gone.get(prefix + key, 0) + 1 if value is None else 0
            if key not in ("step", "epoch") and _NAME.fullmatch(key) and _finite(value):
                found.setdefault(prefix + key, []).append((float(str(step)), float(value)))
    lost = tuple(name for name, count in gone.items() if count >= _LOST_FOR)
    return Log({name: _thinned(points) for name, points in found.items() if len(points) > 1}, lost)


def divergence(log: Log) -> tuple[str, ...]:
    """Return sentences about losses that ended above where they began; empty when none did or none is known."""
    said = [f"the {name} was no number any more at the end" for name in log.lost]
    for name, what in ((TRAIN, "training loss"), (VALID, "validation loss")):
        points = log.curves.get(name, ())
        if len(points) < 2:
            continue
        size = max(1, len(points) // 10)
        first = sum(y for _, y in points[:size]) / size
        last = sum(y for _, y in points[-size:]) / size
        if last > first * _RISE if first > 0 else last > first + 0.1:
            said.append(f"the {what} rose from {first:.3g} to {last:.3g}")
    return tuple(said)


def oddities(evaluation: Evaluation) -> tuple[str, ...]:
    """Return sentences about thresholds at the edge and probabilities far from what was observed."""
    said = []
    edge = [item.label for item in evaluation.thresholds if not _EXTREME < item.value < 1 - _EXTREME and item.n]
    if edge:
        said.append(f"the decision threshold of {', '.join(edge)} lies at the edge of its range")
    off = [item for item in evaluation.calibration if item.ece > _ECE and item.ece > 2 * item.ece_null]
    if off:
        worst = max(off, key=lambda item: item.ece)
        said.append(f"probabilities for {worst.label} are off by {worst.ece:.2f} on average (ECE)")
    return tuple(said)


def _finite(value: object) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def _thinned(points: Sequence[tuple[float, float]]) -> Curve:
    size = math.ceil(len(points) / _POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return tuple((sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts)
