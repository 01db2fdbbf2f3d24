"""Time the patient-cluster bootstrap of the AUROC against scikit-learn, and compare the values.

Run: ``python benchmarks/bench_bootstrap.py [--cases 40000] [--labels 8] [--draws 1000] [--oracle 10]``.
scikit-learn runs the first ``--oracle`` draws; its time is scaled to all draws.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from sklearn.metrics import roc_auc_score

from meninx.metrics.bootstrap import Areas, Draws
from meninx.metrics.classification import Ranking


def _scikit_learn(truth: np.ndarray, scores: np.ndarray, rows: np.ndarray) -> list[float]:
    """Return the areas of one resample, given as drawn rows: the usual way."""
    return [roc_auc_score(truth[rows, label], scores[rows, label]) for label in range(truth.shape[1])]


def main() -> None:
    """Print one JSON object: CPU seconds of both, their ratio, and the largest difference of values."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=40_000)
    parser.add_argument("--labels", type=int, default=8)
    parser.add_argument("--draws", type=int, default=1_000)
    parser.add_argument("--oracle", type=int, default=10)
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(args.cases), rng.integers(1, 4, args.cases))[: args.cases].astype(np.int64)
    truth = (rng.random((args.cases, args.labels)) < np.linspace(0.02, 0.5, args.labels)).astype(np.float64)
    scores = np.round(rng.normal(truth, 1.5), 3)
    draws = Draws(patient, args.draws, seed=0)

    start = time.process_time()
    areas = Areas([Ranking.of(truth[:, k], scores[:, k]) for k in range(args.labels)], patient)
    ours = np.concatenate([areas.auroc(block) for block in draws.blocks()])
    seconds = time.process_time() - start

    counts = np.concatenate(list(Draws(patient, args.oracle, seed=0).blocks()))
    start = time.process_time()
    theirs = np.array(
        [_scikit_learn(truth, scores, np.repeat(np.arange(args.cases), row[patient])) for row in counts]
    )
    oracle = (time.process_time() - start) * args.draws / args.oracle
    result = {
        "cases": args.cases,
        "patients": draws.patients,
        "labels": args.labels,
        "draws": args.draws,
        "cpu_seconds": round(seconds, 2),
        "scikit_learn_cpu_seconds_scaled": round(oracle, 2),
        "ratio": round(oracle / seconds, 1),
        "largest_difference": float(np.abs(ours[: args.oracle] - theirs).max()),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
