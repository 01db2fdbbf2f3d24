"""The columns of a table of predictions as in `meninx predict`, for programs without torch and meninx.

A bundle ships this source as ``scripts/table.py``.

    >>> columns = Columns(labels=("a", "b"), thresholds={"b": 0.5}, classes=True)
    >>> columns.names
    ['a', 'b', 'positive:b', 'most_probable']
    >>> columns.cells([0.25, 0.75])
    ['0.25', '0.75', '1', 'b']
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from meninx.core import check, files, names
from meninx.core.errors import DataError, expected, problem

POSITIVE, MOST_PROBABLE = "positive:", "most_probable"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a table of predictions.

    Attributes:
        labels: names of the network's outputs, in order.
        thresholds: label -> operating threshold; a label with a threshold gets a column ``positive:<label>``.
        classes: the labels exclude each other, so a column names the most probable one.
    """

    labels: tuple[str, ...]
    thresholds: Mapping[str, float] = field(default_factory=dict)
    classes: bool = False

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            fix = "rename the label in the source table, prepare and train again"
            raise DataError(
                problem("a label has the name of a column of predictions", where="labels", fix=fix)
            )

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        decided = [f"{POSITIVE}{label}" for label in self.labels if label in self.thresholds]
        return [*self.labels, *decided, *([MOST_PROBABLE] if self.classes else [])]

    def cells(self, values: Sequence[float]) -> list[str]:
        """Return the cells of one image.

        Args:
            values: probabilities, (labels,).

        Raises:
            DataError: the number of outputs differs from the number of labels.
        """
        if len(values) != len(self.labels):
            got = f"{len(values)} outputs"
            raise DataError(expected(f"{len(self.labels)} outputs", got=got, where="network"))
        found = dict(zip(self.labels, values, strict=True))
        limits = {label: self.thresholds[label] for label in self.labels if label in self.thresholds}
        decided = [str(int(found[label] >= limit)) for label, limit in limits.items()]
        most = [names.csv_cell(max(self.labels, key=found.__getitem__))] if self.classes else []
        return [*(f"{value:.9g}" for value in values), *decided, *most]


def read_thresholds(path: Path, labels: Sequence[str], weights: str | None) -> dict[str, float]:
    """Return the thresholds of a file in the order of the labels; empty without the file.

    Args:
        path: ``configs/thresholds.json``.
        labels: names of the network's outputs.
        weights: digest of the network's state; thresholds fitted for other weights are ignored with a
            warning. None if it is unknown.

    Raises:
        DataError: the file is damaged, or a threshold is not a number from 0 to 1.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(files.read_text(path))
        table, made_for = dict(content["thresholds"]), content.get("weights")
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise DataError(problem("the thresholds cannot be read", where=path.name)) from error
    if not all(check.is_probability(value) for value in table.values()):
        raise DataError(problem("a threshold is not a number from 0 to 1", where=path.name))
    if weights is not None and made_for != weights:
        warnings.warn("the thresholds were fitted for other weights and are left out", stacklevel=2)
        return {}
    return {label: float(table[label]) for label in labels if label in table}
