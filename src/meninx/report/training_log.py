"""Training curves of a run from its private log, and what they say about divergence."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, variance

from meninx.core import files
from meninx.metrics.estimates import Evaluation

Curve = tuple[tuple[float, float], ...]
TRAIN, VALID = "train loss", "valid loss"
_POINTS = 200
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_@.-]{0,30}")
_RISE = 1.1  # a loss that ends this many times above its start has risen; less is noise of the batches
_LEAST_TRAIN = 20  # points of the training loss; with fewer, an end is one noisy batch or two
_LEAST_VALID = 3
_ERRORS = 3.0  # standard errors by which the ends of the training loss must differ
_METRICS = {"auroc": "AUROC", "dice": "Dice"}
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
        foreign: the file is not the one that the run ended with, so nothing is read from it.
    """

    curves: Mapping[str, Curve]
    lost: tuple[str, ...] = ()
    foreign: bool = False


FOREIGN = "the training log is not the one that the run ended with, so whether training diverged is not known"


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
    """Return sentences about training that diverged; empty when it did not, or when that is unknown.

    A loss that is no number any more is divergence. Otherwise the smoothed training loss must rise over
    enough points, and with it the validation loss, where there is one.
    """
    sentences = [f"the {name} was no number any more at the end" for name in log.lost]
    train, valid = _train_rise(log), _valid_rise(log)
    if train and (valid or VALID not in log.curves):
        sentences += [sentence for sentence in (train, valid) if sentence]
    return tuple(sentences)


def doubts(log: Log) -> tuple[tuple[str, str], ...]:
    """Return (word, sentence) of what a run that did not diverge shows: a word for its card, and why."""
    if log.foreign:
        return (("log not the run's", FOREIGN),)
    valid, train = _valid_rise(log), _train_rise(log)
    if divergence(log) or not (valid or train):
        return ()
    metric = next((name for name in _METRICS if _grew(log.curves.get(f"valid {name}", ()))), "")
    if valid and metric:
        return (
            (
                "mis-calibrated",
                (
                    f"{valid} while the validation {_METRICS[metric]} rose: it ranks better, but is "
                    "mis-calibrated"
                ),
            ),
        )
    return (
        (
            "divergence not known",
            f"{valid or train}, but whether training diverged cannot be told from this log",
        ),
    )


def _valid_rise(log: Log) -> str:
    """Return a sentence when the validation loss ended clearly above its first value; empty otherwise."""
    points = [y for _, y in log.curves.get(VALID, ())]
    if len(points) < _LEAST_VALID or not _above(min(points[-2:]), points[0]):
        return ""
    return f"the validation loss rose from {points[0]:.3g} to {points[-1]:.3g}"


def _train_rise(log: Log) -> str:
    """Return a sentence when the training loss rose by more than the noise of its batches.

    Empty otherwise.
    """
    points = [y for _, y in log.curves.get(TRAIN, ())]
    if len(points) < _LEAST_TRAIN:
        return ""
    size = len(points) // 4
    first, last = points[:size], points[-size:]
    low, high = fmean(first), fmean(last)
    error = math.sqrt((variance(first) + variance(last)) / size)
    if not _above(high, low) or high - low <= _ERRORS * error:
        return ""
    return f"the training loss rose from {low:.3g} to {high:.3g}"


def _above(last: float, first: float) -> bool:
    return last > first * _RISE if first > 0 else last > first + 0.1


def _grew(points: Curve) -> bool:
    return len(points) > 1 and points[-1][1] > points[0][1]


def oddities(evaluation: Evaluation) -> tuple[str, ...]:
    """Return sentences about thresholds at the edge and probabilities far from what was observed."""
    sentences = []
    edge = [
        item.label for item in evaluation.thresholds if not _EXTREME < item.value < 1 - _EXTREME and item.n
    ]
    if edge:
        sentences.append(f"the decision threshold of {', '.join(edge)} lies at the edge of its range")
    off = [item for item in evaluation.calibration if item.ece > _ECE and item.ece > 2 * item.ece_null]
    if off:
        worst = max(off, key=lambda item: item.ece)
        sentences.append(f"probabilities for {worst.label} are off by {worst.ece:.2f} on average (ECE)")
    return tuple(sentences)


def _finite(value: object) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def _thinned(points: Sequence[tuple[float, float]]) -> Curve:
    size = math.ceil(len(points) / _POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return tuple((sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts)
