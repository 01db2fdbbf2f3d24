"""From the rows of a table to cases: the part that most published layouts share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from meninx.core.csv_table import CsvRow, CsvTable
from meninx.core.errors import ConfigError, problem
from meninx.core.manifest import TaskKind
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import mask_labels, values
from meninx.prepare.readers.source_files import relative
from meninx.prepare.source_cases import FileSource, ReaderOutput, Source, SourceCase

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validate", "validation", "val"), "valid"),
    "test": "test",
}


def _nothing(row: CsvRow) -> str:
    return ""


def _no_mask(row: CsvRow) -> Source | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one published table tells a case: where the image is, whose it is, and which cells are labels.

    Attributes:
        image: the image's path for a row.
        patient: the patient's identifier; an empty one makes the image its own patient.
        study: the study's identifier.
        split: the published split, in any of the usual words.
        site: the site.
        mask: the mask, None when there is none.
        classes: the class of a row; None when the table has label columns.
        labels: label columns, in output order.
        blank: what an empty label means in this layout.
        sex: column of the sex.
        age: column of the age.
        codes: the layout's own codes of sex.
        patients_known: False when the layout publishes no patients.
    """

    image: Callable[[CsvRow], Path]
    patient: Callable[[CsvRow], str]
    study: Callable[[CsvRow], str] = _nothing
    split: Callable[[CsvRow], str] = _nothing
    site: Callable[[CsvRow], str] = _nothing
    mask: Callable[[CsvRow], Source | None] = _no_mask
    classes: Callable[[CsvRow], str] | None = None
    labels: tuple[str, ...] = ()
    blank: str = "unknown"
    sex: str = ""
    age: str = ""
    codes: dict[str, str] = field(default_factory=dict)
    patients_known: bool = True


def read_rows(root: Path, tables: Iterable[CsvTable], layout: Layout, config: PrepareConfig) -> ReaderOutput:
    """Return the cases of one or several tables of the same layout.

    Raises:
        LayoutError: a cell does not fit the layout; names file, column and row.
        ConfigError: nothing was asked for, or a class that never occurs.
    """
    kept = [table.having(config.input.require) for table in tables]
    task = values.task_of(config, one_class=layout.classes is not None)
    names = values.columns_of(kept[0], config, sex_column=layout.sex, age_column=layout.age)
    labels = _label_names(task, kept, layout, config)
    cases: list[SourceCase] = []
    skipped: list[tuple[str, str]] = []
    for table in kept:
        for row in table:
            found = _labels(row, task, labels, layout, config)
            if found is None:
                skipped.append(("no class that was asked for", row.where))
                continue
            cases.append(_case(root, row, found, names, layout, config))
    return ReaderOutput(
        cases=tuple(cases),
        labels=labels,
        task=task,
        attributes=names,
        skipped=tuple(skipped),
        patients_known=layout.patients_known,
        spatial_dims=3 if cases and _is_volume(cases[0].image) else 2,
    )


def split_name(text: str) -> str:
    """Return train, valid, test, or nothing for an unknown word.

    >>> split_name("validate"), split_name("Test"), split_name("")
    ('valid', 'test', '')
    """
    return SPLIT_NAMES.get(text.strip().lower(), "")


def _label_names(
    task: TaskKind, tables: list[CsvTable], layout: Layout, config: PrepareConfig
) -> tuple[str, ...]:
    if task is TaskKind.SEGMENTATION:
        return mask_labels.of_values(config.masks.labels).names
    if layout.classes is not None:
        seen = [layout.classes(row) for table in tables for row in table]
        return values.class_names(config.labels, seen, tables[0].name)
    if not layout.labels:
        fix = "give label_columns, class_column, or masks"
        raise ConfigError(
            problem("there is no label column, so nothing to learn", where=tables[0].name, fix=fix)
        )
    for table in tables:
        table.needs(layout.labels)
    return layout.labels


def _labels(
    row: CsvRow, task: TaskKind, labels: tuple[str, ...], layout: Layout, config: PrepareConfig
) -> dict[str, float | None] | None:
    if task is TaskKind.SEGMENTATION:
        return {}
    if layout.classes is not None:
        return values.of_class(layout.classes(row), config.labels) or None
    return {name: values.label(row, name, config.labels, blank=layout.blank) for name in labels}


def _case(
    root: Path,
    row: CsvRow,
    labels: dict[str, float | None],
    names: tuple[str, ...],
    layout: Layout,
    config: PrepareConfig,
) -> SourceCase:
    path = layout.image(row)
    key = relative(path, root)
    codes = values.sex_codes(config.labels, layout.codes)
    return SourceCase(
        key=key,
        patient=layout.patient(row) or key,
        image=FileSource(path),
        where=row.where,
        study=layout.study(row),
        mask=layout.mask(row),
        mask_values=mask_labels.of_values(config.masks.labels).values,
        labels=labels,
        attributes=values.attributes(row, names, codes, sex_column=layout.sex, age_column=layout.age),
        site=layout.site(row),
        split=split_name(layout.split(row)),
    )


def _is_volume(source: Source) -> bool:
    return isinstance(source, FileSource) and source.path.name.lower().endswith((".nii", ".nii.gz"))
