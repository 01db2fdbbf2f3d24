"""Packaged recipes against PCA and logistic regression, on the test patients of real images.

Run: ``python benchmarks/recipes.py --data DIR --out FILE [--recipes NAME ...] [--seeds 3]``. Each recipe is
trained on its dataset, as packaged, once per seed, and measured on the test part; the baseline is fitted and
measured on the same split. One line of JSON per run; what is in FILE already is not repeated. ``--table``
prints the comparison: mean and spread over the runs, interval over patients of the first run, the baseline.

DIR holds the datasets as ``docs/results.md`` prepares them (``kermany64``, ``kermany224``, ``nih64`` and
``pad128``).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pages

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before torch

SETS = {
    "kermany": "kermany64",
    "kermany-dp": "kermany64",
    "kermany-224": "kermany224",
    "nih-small": "nih64",
    "pad-small": "pad128",
    "skin-dp": "pad128",
}
"""Recipe -> dataset, for the packaged classification recipes whose data are public and small."""
BASELINE = "PCA + logistic regression"

Row = dict[str, Any]


def main() -> None:
    """Measure what is missing, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of prepared datasets")
    parser.add_argument("--out", type=Path, required=True, help="file of results, one line of JSON per run")
    parser.add_argument("--recipes", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3, help="runs of every recipe (default 3)")
    parser.add_argument("--table", action="store_true", help="print the table and stop")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page and stop")
    args = parser.parse_args()
    if not (args.table or args.write):
        for recipe in args.recipes:
            wanted = [(SETS[recipe], BASELINE, 0)]
            wanted += [(SETS[recipe], recipe, seed) for seed in range(args.seeds)]
            for data, name, seed in wanted:
                if (data, name, seed) not in {_key(row) for row in rows_of(args.out)}:
                    found = (
                        baseline(args.data / data)
                        if name == BASELINE
                        else trained(args.data / data, name, seed)
                    )
                    with args.out.open("a") as stream:
                        stream.write(json.dumps({"set": data, "arm": name, "seed": seed, **found}) + "\n")
    if args.write:
        pages.put(args.write, "recipes", f"{table(rows_of(args.out))}\n")
        return
    print(table(rows_of(args.out)))


def rows_of(path: Path) -> list[Row]:
    """Return the finished runs."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _key(row: Row) -> tuple[str, str, int]:
    return row["set"], row["arm"], row["seed"]


def trained(data: Path, recipe: str, seed: int) -> Row:
    """Return the test AUROC of one run of a packaged recipe, with its patient interval and CPU seconds."""
    from meninx import api
    from meninx.core.manifest import Manifest
    from meninx.core.run import Run
    from meninx.learn.inference import load_model
    from study.measure import measured

    with tempfile.TemporaryDirectory() as place:
        begun = time.process_time()
        result = api.train(data, out=Path(place), recipe=recipe, seed=seed, threads=1, attack_risk=False)
        seconds = time.process_time() - begun
        model, config, info = load_model(Run(result.out))
        test = Manifest.read(data).split("test")
        found = measured(model, info, config, test, (), draws=1000)
    epsilon = result.privacy.epsilon if result.privacy else None
    return {**found, "patients": len(test.patients), "cpu": round(seconds, 1), "epsilon": epsilon}


def baseline(data: Path) -> Row:
    """Return the test AUROC of PCA and logistic regression, as ``pca_baseline.py`` fits them."""
    import numpy as np

    import pca_baseline
    from meninx.core.manifest import Manifest
    from meninx.metrics.evaluation import evaluate_classification

    parts = {name: Manifest.read(data).split(name) for name in ("train", "valid", "test")}
    rows = {name: pca_baseline.pixels(part, 32) for name, part in parts.items()}
    truth = {name: part.targets().astype(np.float64) for name, part in parts.items()}
    labels = parts["test"].info.labels
    usable = [column for column in range(len(labels)) if len(np.unique(truth["train"][:, column])) == 2]
    components, penalty = pca_baseline.chosen(
        rows["train"], truth["train"][:, usable], rows["valid"], truth["valid"][:, usable]
    )
    scores = [
        pca_baseline.scores(rows["train"], truth["train"][:, column], rows["test"], components, penalty)
        for column in usable
    ]
    test, names = parts["test"], tuple(labels[column] for column in usable)
    found = evaluate_classification(
        truth["test"][:, usable], np.stack(scores, 1), test.patient_index(), names, {}, task="multilabel",
        seed=0, draws=1000,
    )  # fmt: skip
    whole = next(row for row in found.metrics if row.name == "auroc" and (not row.label or len(names) == 1))
    return {"value": whole.value, "low": whole.low, "high": whole.high, "patients": len(test.patients)}


def table(rows: list[Row]) -> str:
    """Return the comparison as Markdown."""
    lines = [
        "| recipe | data | epsilon | AUROC: mean of the runs [lowest, highest] | patients, first run | "
        f"{BASELINE} | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    floors = {row["set"]: row for row in rows if row["arm"] == BASELINE}
    for data, arm in dict.fromkeys((row["set"], row["arm"]) for row in rows if row["arm"] != BASELINE):
        own = sorted(
            (row for row in rows if (row["set"], row["arm"]) == (data, arm)), key=lambda row: row["seed"]
        )
        values, first, floor = [row["value"] for row in own], own[0], floors.get(data)
        spread = f"{values[0]:.3f}, one run"
        if len(values) > 1:
            mean = sum(values) / len(values)
            spread = f"{mean:.3f} [{min(values):.3f}, {max(values):.3f}], {len(values)} runs"
        floor_text = f"{floor['value']:.3f} [{floor['low']:.3f}, {floor['high']:.3f}]" if floor else ""
        epsilon = f"{first['epsilon']:.3g}" if first["epsilon"] else "none"
        lines.append(
            f"| `{arm}` | {data} | {epsilon} | {spread} | [{first['low']:.3f}, {first['high']:.3f}], "
            f"n = {first['patients']} | {floor_text} | {sum(row['cpu'] for row in own) / len(own):.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
