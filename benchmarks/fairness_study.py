"""Does privacy cost some groups more? The second seed's question on real data and on the generated cohort.

Run: ``python benchmarks/fairness_study.py --data data --out fairness [--sets nih64 pad128] [--dry-run]``.
``--data`` holds prepared datasets: ``nih64`` (nih_cxr_64) and ``pad128`` (pad_ufes_224). ``planted`` and
``null`` are generated: in the first the findings of women are fainter. Each set is a sweep of one network
over seeds, with and without privacy, then ``meninx evaluate --baseline --repeats``.

An interrupted study goes on where it stopped: finished runs are not trained again, and a set that has its
line in ``fairness.jsonl`` is skipped. The script prints a Markdown table at the end.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meninx import api
from meninx.core import artifacts
from meninx.core.artifacts import ComparisonRecord, EvaluationRecord
from meninx.metrics.estimates import Estimate, Evaluation
from meninx.metrics.paired_difference import GAP_NAMES, gap_verdict
from meninx.synthetic import write_dataset
from study.sets import RECIPES

RECIPE = RECIPES / "fairness.toml"  # one network from a random start, with and without privacy
VERDICTS = ("amplified", "closes a gap", "not amplified", "not decided")


@dataclass(frozen=True, kw_only=True)
class Set:
    """One dataset of the study.

    Attributes:
        title: for the table.
        disparity: of a generated cohort; None for a dataset of the data folder.
        patients: of a generated cohort.
        steps: optimiser steps of every run.
        batch: expected patients a step.
    """

    title: str
    disparity: float | None = None
    patients: int = 0
    steps: int
    batch: int


SETS = {
    "nih64": Set(title="nih_cxr_64, 14 findings", steps=40, batch=100),
    "pad128": Set(title="pad_ufes_224 at 128 px, cancer", steps=25, batch=256),
    "planted": Set(title="generated, women fainter", disparity=0.6, patients=3000, steps=80, batch=512),
    "null": Set(title="generated, no disparity", disparity=0.0, patients=3000, steps=80, batch=512),
}  # fmt: skip


def dataset(name: str, data: Path, out: Path) -> Path:
    """Return the folder of a set's dataset; a generated cohort is written where it is missing."""
    chosen = SETS[name]
    if chosen.disparity is None:
        return data / name
    root = out / "cohorts" / name
    if not (root / "manifest.csv").is_file():
        write_dataset(
            root, patients=chosen.patients, size=32, seed=7, prevalence=0.4, contrast=1.8,
            disparity=chosen.disparity,
        )  # fmt: skip
    return root


def measured(name: str, data: Path, out: Path, seeds: Sequence[int], epsilon: float) -> dict[str, Any]:
    """Return the line of one set, after training and comparing its runs."""
    start, root, sweep, chosen = time.process_time(), dataset(name, data, out), out / name, SETS[name]
    api.sweep(
        root, sweep, epsilons=epsilon, seeds=tuple(seeds), recipe=str(RECIPE), steps=chosen.steps,
        batch_size=chosen.batch, delta=1e-4 if chosen.patients else 1e-3, attack_risk=False, threads=1,
        device="cpu",
    )  # fmt: skip
    pairs = [
        tuple(sweep / "cells" / f"epsilon-{kind}_seed-{seed}" / "latest" for kind in (f"{epsilon:g}", "none"))
        for seed in seeds
    ]
    run, baseline = pairs[0]
    api.evaluate(
        run, baseline=baseline, repeats=tuple(f"{a}={b}" for a, b in pairs[1:]), predictions=(), device="cpu"
    )
    own = artifacts.read(run, EvaluationRecord)
    compared = artifacts.read(run, ComparisonRecord)
    assert own is not None
    assert compared is not None
    evaluation = Evaluation.from_table(own.evaluation)
    rows = [Estimate.from_table(row) for row in compared.differences]
    return {
        "set": name,
        "title": chosen.title,
        "epsilon": epsilon,
        "seeds": list(seeds),
        "test_patients": evaluation.n_patients,
        "auroc": evaluation.headline.to_table(),
        "lost": next(row.to_table() for row in rows if row.name == "auroc_difference" and not row.attribute),
        "gaps": [row.to_table() for row in evaluation.gaps if row.name == "auroc_gap"],
        "beyond": [row.to_table() for row in rows if row.name in GAP_NAMES],
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the lines as a Markdown table: verdicts, and the group that loses most beyond the others."""
    text = [
        "| set | patients | AUROC, private | lost to privacy | "
        "amplified / closes a gap / not / not decided / insufficient | largest |",
        "|---|---|---|---|---|---|",
    ]
    for line in lines:
        rows = [Estimate.from_table(row) for row in line["beyond"]]
        known = [row for row in rows if row.value == row.value]
        found = Counter(gap_verdict(row) for row in known)
        counts = " / ".join(str(found[word]) for word in VERDICTS)
        largest = max(known, key=lambda row: abs(row.value), default=None)
        words = (
            "none with a number" if largest is None else f"{_of(largest)} {_number(largest)}: {largest.note}"
        )
        text.append(
            f"| {line['title']} | {line['test_patients']} | {_number(Estimate.from_table(line['auroc']))} | "
            f"{_number(Estimate.from_table(line['lost']))} | {counts} / {len(rows) - len(known)} | {words} |"
        )
    return "\n".join(text)


def _of(row: Estimate) -> str:
    return f"{row.label or 'mean over labels'}, {row.attribute} {row.group}"


def _number(row: Estimate) -> str:
    return f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"


def main() -> None:
    """Measure every set that has no line yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("fairness"))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epsilon", type=float, default=8.0)
    parser.add_argument("--dry-run", action="store_true", help="print what would be trained")
    args = parser.parse_args()
    path = args.out / "fairness.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    done = {line["set"] for line in lines}
    for name in args.sets:
        if args.dry_run:
            state = "done" if name in done else f"{2 * len(args.seeds)} runs of {SETS[name].steps} steps"
            print(f"{name}: {SETS[name].title}: {state}")
        elif name not in done:
            args.out.mkdir(parents=True, exist_ok=True)
            lines.append(measured(name, args.data, args.out, args.seeds, args.epsilon))
            with path.open("a") as stream:
                stream.write(json.dumps(lines[-1]) + "\n")
    if lines and not args.dry_run:
        print(table(lines))


if __name__ == "__main__":
    main()
