"""The table of ``audit_results.py`` over seeds: what further runs of an arm gave, with median and range."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

from audit_tables import Row, epsilon_words, header, part_of, percentage, table_row


def table(rows: Sequence[Row], studies: Mapping[str, Any]) -> str:
    """Return the table in Markdown; an empty text where no arm has several seeds."""
    lines = list(over_seeds(rows, studies))
    return "\n".join(lines) if len(lines) > 2 else ""


def over_seeds(rows: Sequence[Row], studies: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was measured with several seeds, and the median and range over them."""
    seeds = sorted(
        {seed for study in studies.values() for more in study.seeds.values() for seed in (0, *more)}
    )
    yield from header(
        "run", "epsilon", "measured", *(f"seed {seed} [95 %]" for seed in seeds), "median [range]"
    )
    for name, study in studies.items():
        for arm in study.seeds:
            head = [study.title, epsilon_words(arm)]
            for words, measure in MEASURES.items():
                found = {seed: measure(_parts_of(rows, name, arm, seed)) for seed in seeds}
                known = [value for value in found.values() if value is not None]
                if len(known) < 2:
                    continue
                cells = [_value(found[seed]) for seed in seeds]
                values, percent = [value[0] for value in known], known[0][3]
                ends = " to ".join(_number(end, percent) for end in (min(values), max(values)))
                middle = _number(float(median(values)), percent)
                yield table_row(*head, words, *cells, f"{middle} [{ends}], n = {len(values)}")
                head = ["", ""]


Measure = tuple[float, float, float, bool]
"""A value with the ends of its interval, and whether it is a share."""


def _parts_of(rows: Sequence[Row], name: str, arm: str, seed: int) -> dict[str, Row]:
    parts = ("train", "one-run", "membership", "reconstruction")
    found = {part: part_of(rows, name, arm, part, seed) for part in parts}
    return {part: row for part, row in found.items() if row is not None}


def _quality(parts: Mapping[str, Row]) -> Measure | None:
    row = parts.get("train")
    return None if row is None else (row["value"], row["low"], row["high"], False)


def _canaries(parts: Mapping[str, Row], of: str, name: str) -> Measure | None:
    row = parts.get("one-run")
    if row is None:
        return None
    record = row["record"][of]
    return record[name], record[f"{name}_low"], record[f"{name}_high"], False


def _area(parts: Mapping[str, Row], attack: str) -> Measure | None:
    row = parts.get("membership")
    if row is None:
        return None
    found = next(one for one in row["record"]["attacks"] if one["attack"] == attack)
    return found["auc"], found["auc_low"], found["auc_high"], False


def _found_at_one_percent(parts: Mapping[str, Row], attack: str) -> Measure | None:
    row = parts.get("membership")
    if row is None:
        return None
    found = next(one for one in row["record"]["attacks"] if one["attack"] == attack)
    point = next(point for point in found["points"] if point["fpr"] == 0.01)
    return None if point["tpr"] is None else (point["tpr"], point["low"], point["high"], True)


def _picked(parts: Mapping[str, Row], count: int) -> Measure | None:
    row = parts.get("reconstruction")
    if row is None:
        return None
    own = next(level["name"] for level in row["record"]["levels"] if level["own"])
    known = [
        item
        for item in row["record"]["identification"]
        if (item["level"], item["candidates"], item["encoder"]) == (own, count, "candidates")
    ]
    return (known[0]["success"], known[0]["low"], known[0]["high"], True) if known else None


def _read_out(parts: Mapping[str, Row], attack: str) -> Measure | None:
    row = parts.get("reconstruction")
    if row is None:
        return None
    own = next(level["name"] for level in row["record"]["levels"] if level["own"])
    known = [item for item in row["linked"] if (item["level"], item["attack"]) == (own, attack)]
    return (known[0]["success"], known[0]["low"], known[0]["high"], True) if known else None


MEASURES: Mapping[str, Callable[[Mapping[str, Row]], Measure | None]] = {
    "AUROC on test patients": _quality,
    "one run: mu": partial(_canaries, of="audit", name="mu"),
    "one run: noise over the promised one [99.9 %]": partial(_canaries, of="mechanism", name="noise"),
    "members: AUC of the loss": partial(_area, attack="loss"),
    "members: AUC of lira": partial(_area, attack="lira"),
    "members: AUC of rmia": partial(_area, attack="rmia"),
    "members: lira finds at 1 % FPR": partial(_found_at_one_percent, attack="lira"),
    "members: rmia finds at 1 % FPR": partial(_found_at_one_percent, attack="rmia"),
    "rank 1 of 10": partial(_picked, count=10),
    "rank 1 of 1,000": partial(_picked, count=1000),
    "whitened imprint of one step names its patient": partial(_read_out, attack="imprint-whitened"),
    "readout of one step names its patient": partial(_read_out, attack="readout"),
}


def _value(measured: Measure | None) -> str:
    if measured is None:
        return ""
    value, low, high, percent = measured
    return f"{_number(value, percent)} [{_number(low, percent)}, {_number(high, percent)}]"


def _number(value: float, percent: bool) -> str:
    return percentage(value) if percent else f"{value:.3f}"
