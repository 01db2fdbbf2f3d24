"""Meaning of the cells of published tables: labels, sex, age, classes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from meninx.core import check
from meninx.core.csv_table import CsvRow, CsvTable
from meninx.core.errors import ConfigError, LayoutError, expected, problem
from meninx.core.manifest import FIXED_COLUMNS, TaskKind
from meninx.prepare.config import PrepareConfig
from meninx.prepare.setting_tables import AUTO, LabelsConfig

MALE_FEMALE = {"f": "F", "female": "F", "w": "F", "woman": "F", "m": "M", "male": "M", "man": "M"}
_WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
_POLICY = {"unknown": None, "zero": 0.0, "one": 1.0}
_AGE = re.compile(r"(\d{1,3})(?:[.,]\d*)?([YMWD])?")
_PER_YEAR = {"Y": 1, "M": 12, "W": 52, "D": 365}
OLDEST = 120


def label(row: CsvRow, column: str, config: LabelsConfig, *, blank: str = "unknown") -> float | None:
    """Return a label cell as 0, 1 or None (unknown) by the config's policies.

    Args:
        row: the row.
        column: the label's column.
        config: settings with ``uncertain``, ``blank`` and ``positive_from``.
        blank: meaning of ``blank="auto"`` in this layout.

    Raises:
        LayoutError: the cell is neither 0, 1, -1, a yes or no, a grade where grades are expected, nor empty.
    """
    text = row.get(column).lower()
    if text in ("", "nan", "none"):
        return _POLICY[blank if config.blank == AUTO else config.blank]
    try:
        value = _WORDS[text] if text in _WORDS else float(text)
    except ValueError:
        value = float("nan")
    if value == -1:
        return _POLICY[config.uncertain]
    if config.positive_from is not None and value >= 0:
        return float(value >= config.positive_from)
    if value not in (0, 1):
        where = f"{row.where}, column {column!r}"
        raise LayoutError(problem("a label is not 0, 1, -1 (uncertain) or empty", where=where))
    return value


def sex(text: str, codes: dict[str, str]) -> str:
    """Return ``F``, ``M`` or an empty text.

    >>> sex("female", {}), sex("2", {"2": "F"}), sex("?", {})
    ('F', 'F', '')
    """
    word = text.strip().lower()
    return codes.get(word, MALE_FEMALE.get(word, ""))


def age(text: str) -> str:
    """Return whole years as text; empty if unknown or above 120.

    >>> age("057Y"), age("58.0"), age("018M"), age("411"), age("")
    ('57', '58', '1', '', '')
    """
    match = _AGE.fullmatch(text.strip().upper())
    if match is None:
        return ""
    years = int(match[1]) // _PER_YEAR[match[2] or "Y"]
    return str(years) if years <= OLDEST else ""


def sex_codes(config: LabelsConfig, published: dict[str, str] | None = None) -> dict[str, str]:
    """Return the codes of a layout combined with those of the config."""
    given = dict(item.lower().split("=", 1) for item in config.sex_codes)
    return {**(published or {}), **{code: value.upper() for code, value in given.items()}}


def chosen(columns: tuple[str, ...], published: Iterable[str], where: str) -> tuple[str, ...]:
    """Return the labels of the settings, or all published ones if there are none.

    Raises:
        ConfigError: one is not published.
    """
    known = tuple(published)
    for name in columns:
        if name not in known:
            fix = check.did_you_mean(name, known) or f"known: {', '.join(known)}"
            raise ConfigError(
                expected("a published label", got=repr(name), where=f"label_columns, {where}", fix=fix)
            )
    return columns or known


def task_of(config: PrepareConfig, *, one_class: bool = False) -> TaskKind:
    """Return the configured task, or the task that follows from the given columns and masks."""
    if config.task != AUTO:
        return TaskKind(config.task)
    masks = config.masks
    if masks.column or masks.folder or masks.labels or masks.object != AUTO or masks.series:
        return TaskKind.SEGMENTATION
    if (one_class or config.labels.class_column) and not config.labels.positive:
        return TaskKind.MULTICLASS
    return TaskKind.MULTILABEL


def of_class(text: str, config: LabelsConfig) -> dict[str, float | None]:
    """Return the labels of one class: yes or no if classes are merged, else only that class.

    The result is empty for a class that the settings exclude.
    """
    if not text or (config.classes and text not in config.classes):
        return {}
    return {config.positive_name: float(text in config.positive)} if config.positive else {text: 1.0}


def class_names(config: LabelsConfig, seen: Iterable[str], where: str) -> tuple[str, ...]:
    """Return the label names that follow from the classes, in output order.

    Raises:
        ConfigError: a class named in ``classes`` or ``positive`` never occurs.
    """
    found = sorted({name for name in seen if name})
    for field, names in (("positive", config.positive), ("classes", config.classes)):
        for name in names:
            if name not in found and (field == "positive" or not config.positive):
                fix = check.did_you_mean(name, found) or f"classes found: {', '.join(found)}"
                raise ConfigError(
                    expected(f"{field} to name classes that occur", got=repr(name), where=where, fix=fix)
                )
    return (config.positive_name,) if config.positive else config.classes or tuple(found)


def columns_of(
    table: CsvTable, config: PrepareConfig, *, sex_column: str, age_column: str
) -> tuple[str, ...]:
    """Return the attribute names that a table offers: sex, age, and the further columns of the config."""
    table.needs(config.labels.attribute_columns)
    known = [name for name, column in (("sex", sex_column), ("age", age_column)) if column in table.columns]
    return (*known, *(name for name in _further(config, table) if name not in known))


def attributes(
    row: CsvRow, names: Iterable[str], codes: dict[str, str], *, sex_column: str, age_column: str
) -> dict[str, str]:
    """Return the attributes of a row as text; sex is F, M or empty, age whole years."""
    special = {"sex": lambda: sex(row.get(sex_column), codes), "age": lambda: age(row.get(age_column))}
    return {name: special[name]() if name in special else row.get(name) for name in names}


def _further(config: PrepareConfig, table: CsvTable) -> tuple[str, ...]:
    extra = config.sites.column
    wanted = extra in table.columns and extra not in (*config.labels.attribute_columns, *FIXED_COLUMNS)
    return (*config.labels.attribute_columns, *([extra] if wanted else []))
