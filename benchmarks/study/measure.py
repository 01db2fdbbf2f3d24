"""Measurement of a trained network on one split: mean AUROC or Dice, with a patient-bootstrap interval."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import nn

from meninx.core.manifest import DatasetInfo, Manifest, TaskKind
from meninx.learn.config import LearnConfig
from meninx.learn.inference import predict, predict_maps
from meninx.metrics import segmentation
from meninx.metrics.evaluation import evaluate_classification
from meninx.metrics.segmentation import evaluate_segmentation
from meninx.train.predictions import read_mask


def measured(
    model: nn.Module,
    info: DatasetInfo,
    config: LearnConfig,
    part: Manifest,
    labels: tuple[str, ...],
    *,
    draws: int = 500,
) -> dict[str, Any]:
    """Return value, patient-bootstrap interval and value of each label, on the cases of ``part``.

    Args:
        model: the network.
        info: what it was trained for.
        config: settings of its training.
        part: cases of one split.
        labels: labels to average; empty for all.
        draws: resamples of patients.
    """
    if info.task is TaskKind.SEGMENTATION:
        table = np.array(
            [
                segmentation.dice(mask, read_mask(part, case)[0], len(info.labels))
                for case, mask in predict_maps(model, info, part, config)
            ]
        )
        found = evaluate_segmentation(table, part.patient_index(), info.labels, {}, seed=0, draws=draws)
        return _table(found.metrics, "dice", info.labels)
    names = labels or info.labels
    columns = [info.labels.index(name) for name in names]
    scores = predict(model, info, part, config).probabilities[:, columns].astype(np.float64)
    truth = part.targets()[:, columns].astype(np.float64)
    found = evaluate_classification(
        truth, scores, part.patient_index(), names, {}, task="multilabel", seed=0, draws=draws
    )
    return _table(found.metrics, "auroc", names)


def _table(rows: Any, metric: str, labels: tuple[str, ...]) -> dict[str, Any]:
    own = [row for row in rows if row.name == metric]
    whole = next((row for row in own if not row.label), own[0])
    by_label = {
        row.label: round(float(row.value), 5)
        for row in own
        if row.label in labels and math.isfinite(row.value)
    }
    return {
        "value": float(whole.value),
        "low": float(whole.low),
        "high": float(whole.high),
        "labels": by_label,
    }
