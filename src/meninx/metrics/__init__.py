"""Evaluation of classifiers and segmentations: every number has its sample size and its interval.

The public names are those of ``__all__``; the modules behind them may change. The package needs neither torch
nor scikit-learn. Intervals of rates and distances of surfaces need scipy (extra ``train``).

Example:
    >>> from meninx.metrics import evaluate_classification, fixed_thresholds
    >>> truth, scores = [[0], [0], [1], [1]] * 10, [[0.1], [0.6], [0.4], [0.9]] * 10
    >>> labels = ["effusion"]
    >>> found = evaluate_classification(
    ...     truth, scores, range(40), labels, {}, fixed_thresholds(labels), task="multilabel", seed=0
    ... )
    >>> auroc = found.headline
    >>> auroc.value, auroc.n, auroc.patients, 0.5 < auroc.low < auroc.value < auroc.high < 1
    (0.75, 40, 40, True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meninx.core.lazy import lazy_exports

if TYPE_CHECKING:
    from meninx.metrics.calibration import Calibration
    from meninx.metrics.classification import auroc, average_precision, brier
    from meninx.metrics.estimates import Estimate, Evaluation
    from meninx.metrics.evaluation import evaluate_classification
    from meninx.metrics.paired_difference import compare
    from meninx.metrics.segmentation import compare_segmentation, dice, evaluate_segmentation
    from meninx.metrics.surface import compare_surfaces
    from meninx.metrics.thresholds import Threshold, fit_thresholds, fixed_thresholds

__all__ = [
    "Calibration",
    "Estimate",
    "Evaluation",
    "Threshold",
    "auroc",
    "average_precision",
    "brier",
    "compare",
    "compare_segmentation",
    "compare_surfaces",
    "dice",
    "evaluate_classification",
    "evaluate_segmentation",
    "fit_thresholds",
    "fixed_thresholds",
]
if not TYPE_CHECKING:  # a type checker would take every name for one that exists
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "Calibration": "meninx.metrics.calibration",
            "Estimate": "meninx.metrics.estimates",
            "Evaluation": "meninx.metrics.estimates",
            "Threshold": "meninx.metrics.thresholds",
            "auroc": "meninx.metrics.classification",
            "average_precision": "meninx.metrics.classification",
            "brier": "meninx.metrics.classification",
            "compare": "meninx.metrics.paired_difference",
            "compare_segmentation": "meninx.metrics.segmentation",
            "compare_surfaces": "meninx.metrics.surface",
            "dice": "meninx.metrics.segmentation",
            "evaluate_classification": "meninx.metrics.evaluation",
            "evaluate_segmentation": "meninx.metrics.segmentation",
            "fit_thresholds": "meninx.metrics.thresholds",
            "fixed_thresholds": "meninx.metrics.thresholds",
        },
    )
