"""Measure a baseline, PCA and logistic regression on small images, on the split of a network.

Run: ``python benchmarks/pca_baseline.py DATASET [--size 32] [--labels A B] [--attribute sex=F]
[--with-valid]``. The number of components and the strength of the penalty are chosen on the validation split;
the test split is used once. ``--with-valid`` then fits anew on training and validation cases together (a
network keeps its validation cases apart). Intervals come from resamples of patients, as in ``meninx
evaluate``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from meninx.core.manifest import Manifest
from meninx.metrics.classification import auroc
from meninx.metrics.evaluation import evaluate_classification

COMPONENTS = (16, 32, 64, 128)
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)

Array = npt.NDArray[np.float64]


def pixels(data: Manifest, size: int) -> Array:
    """Return the images as rows of values in [0, 1], shrunk to ``size`` by ``size``."""
    rows = []
    for case in data.cases:
        with Image.open(data.root / case.image) as image:
            rows.append(
                np.asarray(image.resize((size, size), Image.Resampling.BOX), dtype=np.float64).ravel() / 255
            )
    return np.stack(rows)


def truth_of(data: Manifest, labels: tuple[str, ...], attribute: str) -> tuple[tuple[str, ...], Array]:
    """Return names and 0/1 values of the wanted labels, or of one attribute given as ``name=value``.

    NaN is unknown.
    """
    if attribute:
        name, _, wanted = attribute.partition("=")
        return (attribute,), np.array([[_asked(text, wanted)] for text in data.attribute(name)])
    columns = [data.info.labels.index(label) for label in labels or data.info.labels]
    return tuple(data.info.labels[column] for column in columns), data.targets()[:, columns].astype(
        np.float64
    )


def _asked(text: str, wanted: str) -> float:
    if not text:
        return np.nan
    return float(float(text) > float(wanted[1:])) if wanted.startswith(">") else float(text == wanted)


def scores(train: Array, truth: Array, test: Array, components: int, penalty: float) -> Array:
    """Return the probability of one label for the test rows."""
    known = ~np.isnan(truth)
    shrink = PCA(min(components, int(known.sum()) - 1), random_state=0).fit(train[known])
    scale = StandardScaler().fit(shrink.transform(train[known]))
    model = LogisticRegression(C=penalty, max_iter=2000)
    model.fit(scale.transform(shrink.transform(train[known])), truth[known])
    return np.asarray(model.predict_proba(scale.transform(shrink.transform(test)))[:, 1])


def chosen(train: Array, truth: Array, valid: Array, valid_truth: Array) -> tuple[int, float]:
    """Return the components and the penalty with the best mean AUROC of all labels in validation."""
    best, pick = -1.0, (COMPONENTS[0], PENALTIES[0])
    for components in COMPONENTS:
        for penalty in PENALTIES:
            areas = [
                auroc(valid_truth[:, column], scores(train, truth[:, column], valid, components, penalty))
                for column in range(truth.shape[1])
            ]
            mean = float(np.nanmean(areas))
            if mean > best:
                best, pick = mean, (components, penalty)
    return pick


def main() -> None:
    """Print one JSON object: what was chosen, AUROC with intervals, CPU seconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--labels", nargs="*", default=())
    parser.add_argument("--attribute", default="", help="for example sex=F or age=>60, in place of labels")
    parser.add_argument("--with-valid", action="store_true")
    args = parser.parse_args()

    start = time.process_time()
    data = Manifest.read(args.dataset)
    parts = {name: data.split(name) for name in ("train", "valid", "test")}
    rows = {name: pixels(part, args.size) for name, part in parts.items()}
    truths = {name: truth_of(part, tuple(args.labels), args.attribute) for name, part in parts.items()}
    names = truths["train"][0]
    usable = [
        column for column in range(len(names)) if len(set(truths["train"][1][:, column]) - {np.nan}) == 2
    ]
    names = tuple(names[column] for column in usable)
    values = {name: truth[1][:, usable] for name, truth in truths.items()}
    components, penalty = chosen(rows["train"], values["train"], rows["valid"], values["valid"])
    fit, fit_truth = rows["train"], values["train"]
    if args.with_valid:
        fit, fit_truth = np.vstack([fit, rows["valid"]]), np.vstack([fit_truth, values["valid"]])
    said = np.stack(
        [
            scores(fit, fit_truth[:, column], rows["test"], components, penalty)
            for column in range(len(names))
        ],
        axis=1,
    )
    test = parts["test"]
    found = evaluate_classification(
        values["test"], said, test.patient_index(), names, {}, task="multilabel", seed=0, draws=1000
    )
    table = {
        "dataset": data.info.name,
        "cases": {name: len(part) for name, part in parts.items()},
        "patients_of_test": len(test.patients),
        "components": components,
        "penalty_c": penalty,
        "fitted_on": "train and valid" if args.with_valid else "train",
        "auroc": [
            row.to_table() for row in found.metrics if row.name in ("auroc", "macro_auroc", "auroc_macro")
        ],
        "cpu_seconds": round(time.process_time() - start, 1),
    }
    print(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
