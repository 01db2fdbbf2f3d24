"""What a dataset's columns and images mean: ``dataset.toml``.

A released bundle carries the same in ``configs/meninx.json``. Names are hostile until they are checked: a
:class:`DatasetInfo` with a name that another program could run cannot be made.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

import tomli_w

from meninx.core import check, names, plain
from meninx.core.errors import DataError, LayoutError, MeninxError, expected, problem

FIXED_COLUMNS = ("case_id", "patient_id", "study", "site", "split", "image", "mask")
"""Columns that every ``manifest.csv`` has, beside labels and attributes."""
_GREY_LEVELS = ((0.0, 255.0), (0.0, 65535.0))
_LARGEST_AXIS = 1 << 20
_MOST_CHANNELS = 64


class TaskKind(StrEnum):
    """What a model is asked: one class of several, any of several labels, or a label map."""

    MULTICLASS = "multiclass"
    MULTILABEL = "multilabel"
    SEGMENTATION = "segmentation"


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """How voxel values become network input: ``(value - shift) / scale`` after clipping to the window.

    Attributes:
        window: lowest and highest value kept, in the units of the file.
        shift: subtracted after clipping.
        scale: divided by after that, > 0.
        source: where the numbers came from: ``"format"`` (bit depth, public), ``"standard"`` (a published
            window, public) or ``"train"`` (statistics of the training split: refused by private training).
    """

    window: tuple[float, float] = (0.0, 255.0)
    shift: float = 127.5
    scale: float = 127.5
    source: str = "format"

    def __post_init__(self) -> None:
        check.positive(scale=self.scale)
        if not all(map(math.isfinite, (*self.window, self.shift))) or self.window[0] > self.window[1]:
            raise DataError(problem("window and shift must be finite, lowest value first", where="intensity"))
        check.one_of(("format", "standard", "train"), source=self.source)

    @property
    def has_grey_levels(self) -> bool:
        """Whether values are grey levels that fill 8 or 16 bits, not units such as Hounsfield's."""
        return self.window in _GREY_LEVELS

    def for_values_of(self, stored: Intensity) -> Intensity:
        """Return how values of another dataset become the network input that this intensity makes of its own.

        Grey levels keep their share of the range: 257 x 100 of 16 bits is 100 of 8 bits.

        Args:
            stored: the intensity of the other dataset, whose window says what its values mean.

        Raises:
            DataError: the windows differ, and one of them is not that of a bit depth.

        Examples:
            >>> wide = Intensity(window=(0.0, 65535.0), shift=32767.5, scale=32767.5)
            >>> Intensity().for_values_of(wide).scale
            32767.5
        """
        if stored.window == self.window:
            return self
        if not (self.has_grey_levels and stored.has_grey_levels):
            fix = f"prepare it with `--window {self.window[0]:g} {self.window[1]:g}`"
            if self.has_grey_levels:
                fix = "prepare it with grey levels, as the training data was"
            raise DataError(
                expected(
                    f"values from {self.window[0]:g} to {self.window[1]:g} as in training",
                    got=f"{stored.window[0]:g} to {stored.window[1]:g}",
                    where="dataset.toml, intensity",
                    fix=fix,
                )
            )
        factor = stored.window[1] / self.window[1]
        return Intensity(
            window=stored.window, shift=self.shift * factor, scale=self.scale * factor, source=self.source
        )


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What the stored training images are like: it depends on the patients, so no private run releases it.

    Attributes:
        images: number of images it was computed from.
        brightness: mean over the images of their mean values, and its standard deviation.
        spacing_mm: smallest and largest spacing along each axis; empty when it is not known of every image.
    """

    images: int
    brightness: tuple[float, float]
    spacing_mm: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What the columns and files of a dataset mean.

    Attributes:
        name: short name of the dataset.
        task: what is to be learnt.
        labels: label columns, in output order. MULTICLASS: one column per class, exactly one is 1.
            MULTILABEL: 0, 1 or empty (unknown). SEGMENTATION: names of the label values 1, 2, ... of the
                masks.
        attributes: attribute columns (``sex``, ``age``, ...), never model input.
        spatial_dims: 2 or 3.
        channels: image channels, 1 or 3.
        size: spatial size all images share, or empty when sizes differ.
        spacing_mm: voxel spacing all images share, or empty when unknown or different.
        intensity: normalisation and where it came from.
        laterality: pairs of labels that a left-right flip exchanges.
        patients_known: False when the source names no patients, so that every image (or lesion) counts as
            one.
        synthetic: True when no patient stands behind the images.
        split_rule: how patients were assigned to splits. ``stable`` and ``published`` look at the patient
            alone; ``exact`` also looks at the labels of the others, so that removing one patient may move
            another; empty when unknown.
        preprocessing: how a decoded image became a stored one, as the table of
            ``imaging.preprocessing.Preprocessing``; empty in a dataset of an older version.
        observed: what the training images are like; None when unknown, or withheld by a private run.

    Raises:
        DataError: a name cannot be used (see ``core.names``), or a number is out of range.
    """

    name: str
    task: TaskKind
    labels: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    spatial_dims: int = 2
    channels: int = 1
    size: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    intensity: Intensity = field(default_factory=Intensity)
    laterality: tuple[tuple[str, str], ...] = ()
    patients_known: bool = True
    synthetic: bool = False
    split_rule: str = ""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    observed: Observed | None = None

    def __post_init__(self) -> None:
        where = "dataset"
        names.check([self.name], what="dataset", where=where)
        names.check(self.labels, what="label", where=where)
        names.check(self.attributes, what="attribute", where=where)
        names.check([side for pair in self.laterality for side in pair], what="laterality", where=where)
        columns = (
            *FIXED_COLUMNS,
            *self.attributes,
            *(() if self.task is TaskKind.SEGMENTATION else self.labels),
        )
        if len(set(columns)) != len(columns):
            raise DataError(problem("a label or attribute is named twice", where=where))
        if self.spatial_dims not in (2, 3) or not 1 <= self.channels <= _MOST_CHANNELS:
            what = f"2 or 3 spatial axes and 1 to {_MOST_CHANNELS} channels"
            raise DataError(expected(what, got=f"{self.spatial_dims} and {self.channels}", where=where))
        if self.size and not (
            len(self.size) == self.spatial_dims and all(1 <= n <= _LARGEST_AXIS for n in self.size)
        ):
            raise DataError(
                expected(f"a size of 1 to {_LARGEST_AXIS} along each axis", got=self.size, where=where)
            )
        if self.spacing_mm and not all(math.isfinite(step) and step > 0 for step in self.spacing_mm):
            raise DataError(expected("a spacing > 0 along each axis", got=self.spacing_mm, where=where))
        check.one_of(("", "stable", "exact", "published"), split_rule=self.split_rule)

    def to_toml(self) -> str:
        """Return the content of ``dataset.toml``."""
        table = {item.name: getattr(self, item.name) for item in fields(self)}
        table["task"] = str(self.task)
        table["intensity"] = {item.name: getattr(self.intensity, item.name) for item in fields(Intensity)}
        table["observed"] = plain.to_plain(self.observed)
        absent = [name for name in ("preprocessing", "observed") if not table[name]]
        return tomli_w.dumps({name: value for name, value in table.items() if name not in absent})

    @classmethod
    def from_toml(cls, text: str, where: str) -> DatasetInfo:
        """Return the information in ``dataset.toml``; LayoutError names the file and key."""
        what = "a dataset.toml as `meninx prepare` writes it"
        try:
            table = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise LayoutError(expected(what, got=f"text that is no TOML ({error})", where=where)) from error
        unknown = sorted(set(table) - {item.name for item in fields(cls)})
        if unknown:
            raise LayoutError(expected(what, got=f"{len(unknown)} unknown keys", where=where))
        try:
            return plain.from_plain(table, cls, where=where)
        except MeninxError as error:
            raise LayoutError(expected(what, got=f"another value: {error}", where=where)) from error
