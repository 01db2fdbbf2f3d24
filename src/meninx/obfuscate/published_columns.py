"""The columns that a released table publishes beside images or vectors.

A column that stays may tell the attribute that the images hide. Therefore nothing stays that was not asked
for: labels by ``labels`` (by default all), attributes and the site by ``keep_columns`` (by default none).
Everything that stays counts in the label floor and is given to the attackers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.core import csv_table
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.core.manifest import (
    FIXED_COLUMNS,
    INFO_NAME,
    MANIFEST_NAME,
    DatasetInfo,
    Manifest,
    TaskKind,
)
from meninx.obfuscate.config import ObfuscateConfig

SITE = "site"
_MOST_VALUES = 8  # of a column that is not divided into ranges; the rarer values count as one
_RANGES = 8  # of a column of numbers


@dataclass(frozen=True, kw_only=True)
class PublishedColumns:
    """Columns of a released table.

    Attributes:
        labels: label columns.
        attributes: attribute columns, the site among them where it is published.
        withheld: columns of the source that the released table does not have.
    """

    labels: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All columns with content about a patient, labels first."""
        return (*self.labels, *self.attributes)


def published_columns(manifest: Manifest, config: ObfuscateConfig) -> PublishedColumns:
    """Return which columns of a dataset a release publishes.

    Args:
        manifest: the dataset.
        config: the attribute to hide, the labels, and the columns to keep.

    Raises:
        UsageError: the dataset does not have a column, a column is the hidden attribute, or some classes of
            a dataset would stay without the others.
    """
    info = manifest.info
    labels = _labels(info, config.labels)
    known = (*info.attributes, *_site(manifest))
    for name in config.keep_columns:
        if name in config.attributes:
            fix = "leave it out; --keep-attribute publishes the column of the hidden attribute"
            raise UsageError(problem("the column is the attribute to hide", where="keep_columns", fix=fix))
        if name not in known:
            fix = f"choose among {', '.join(n for n in known if n not in config.attributes) or 'none'}"
            raise UsageError(
                problem("the dataset has no such column", where=f"keep_columns: {name}", fix=fix)
            )
    wanted = {*config.keep_columns, *(config.attributes if config.keep_attribute else ())}
    return PublishedColumns(
        labels=labels,
        attributes=tuple(name for name in known if name in wanted),
        withheld=tuple(name for name in (*info.labels, *known) if name not in {*labels, *wanted}),
    )


def columns_of_release(released: Manifest, source: Manifest) -> PublishedColumns:
    """Return which columns somebody's release of a dataset publishes, also those that the dataset lacks.

    Args:
        released: the release, its cases in the order of the dataset: see :func:`in_order_of`.
        source: the dataset.

    Raises:
        DataError: the release has labels that the dataset lacks or other values of its labels, or its table
            has columns that ``dataset.toml`` does not name.
    """
    info = released.info
    where = f"{MANIFEST_NAME} of the release"
    named = {*FIXED_COLUMNS, *info.labels, *info.attributes}
    unnamed = [n for n in csv_table.read_table(released.root / MANIFEST_NAME, ()).columns if n not in named]
    if unnamed:
        what = f"{len(unnamed)} columns that {INFO_NAME} does not name, which no attacker would get"
        raise DataError(problem(what, where=where, fix="name them as attributes, or remove them"))
    if not set(info.labels) <= set(source.info.labels):
        raise DataError(problem("the release has labels that the original lacks", where=where))
    pairs = zip(released.cases, source.cases, strict=True)
    other = sum(one.labels.get(name) != two.labels.get(name) for one, two in pairs for name in info.labels)
    if other:
        what = f"{other} labels are not those of the original"
        raise DataError(problem(what, where=where, fix="release the labels as they are, or leave them out"))
    labels = tuple(name for name in source.info.labels if name in info.labels)
    return PublishedColumns(labels=labels, attributes=(*info.attributes, *_site(released)))


def in_order_of(source: Manifest, released: Manifest) -> Manifest:
    """Return a release with its cases in the order of the dataset.

    Raises:
        DataError: the cases differ.
    """
    by_case = {case.case_id: case for case in released.cases}
    if set(by_case) != {case.case_id for case in source.cases}:
        got = "other cases than those of the original"
        raise DataError(expected("a release of the same cases", got=got, where=MANIFEST_NAME))
    return Manifest(released.root, released.info, tuple(by_case[case.case_id] for case in source.cases))


def _site(manifest: Manifest) -> tuple[str, ...]:
    """Return the column of the site where it differs between cases."""
    several = len({case.site for case in manifest.cases}) > 1
    return (SITE,) if several and SITE not in manifest.info.attributes else ()


def known_labels(info: DatasetInfo, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return labels in the order of the dataset: the wanted ones, by default all.

    Raises:
        UsageError: the dataset does not have one.
    """
    unknown = [name for name in wanted if name not in info.labels]
    if unknown:
        fix = f"choose among {', '.join(info.labels)}"
        raise UsageError(problem("the dataset has no such label", where=f"labels: {unknown[0]}", fix=fix))
    return tuple(name for name in info.labels if name in wanted) if wanted else info.labels


def _labels(info: DatasetInfo, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the labels to publish; classes of one question only together."""
    labels = known_labels(info, wanted)
    if wanted and info.task is TaskKind.MULTICLASS and labels != info.labels:
        what = "the labels are the classes of one question, which can only be published together"
        raise UsageError(problem(what, where="labels", fix="leave labels out"))
    return labels


def indicators(
    manifest: Manifest, published: PublishedColumns, hidden: Sequence[str]
) -> Mapping[str, npt.NDArray[np.float64]]:
    """Return what published attributes say, as columns of 0, 1 and NaN (unknown), each of shape (cases,).

    Numbers are divided into ranges with equally many cases; other texts give one column per frequent value.

    Args:
        manifest: the dataset.
        published: its columns.
        hidden: columns of the attribute itself, which are left out even where they are published.
    """
    found: dict[str, npt.NDArray[np.float64]] = {}
    for name in published.attributes:
        if name not in hidden:
            found |= _indicated(name, _texts(manifest, name))
    return found


def _texts(manifest: Manifest, name: str) -> list[str]:
    if name in manifest.info.attributes:
        return [text.strip() for text in manifest.attribute(name)]
    return [case.site for case in manifest.cases]


def _indicated(name: str, texts: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
    known = np.array([bool(text) for text in texts])
    values, counts = np.unique([text for text in texts if text], return_counts=True)
    numbers = _numbers(texts) if len(values) > _MOST_VALUES else None
    if numbers is not None:
        cuts = np.unique(np.quantile(numbers[known], np.arange(1, _RANGES) / _RANGES))
        return {f"{name} above {cut:g}": np.where(known, numbers > cut, np.nan) for cut in cuts}
    frequent = values[np.argsort(-counts, kind="stable")][:_MOST_VALUES]
    column = np.array(texts)
    return {
        f"{name}, value {number}": np.where(known, column == value, np.nan)
        for number, value in enumerate(frequent, start=1)
    }


def _numbers(texts: Sequence[str]) -> npt.NDArray[np.float64] | None:
    """Return a column of numbers, NaN where it is empty; None if a text is none."""
    try:
        found = np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        return None
    return found if np.isfinite(found[[bool(text) for text in texts]]).all() else None
