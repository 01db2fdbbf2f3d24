"""Conversion of the rows of a table to cases, which most published layouts share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from meninx.core.csv_table import CsvRow, CsvTable
from meninx.core.errors import ConfigError, LayoutError, expected, problem
from meninx.core.manifest import TaskKind
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import mask_labels, values
from meninx.prepare.readers.source_files import ImageIndex, relative
from meninx.prepare.setting_tables import AUTO
from meninx.prepare.source_cases import FileSource, ReaderOutput, Source, SourceCase

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validate", "validation", "val"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
NOT_ASKED_FOR, DISAGREE = "no class that was asked for", "rows of one image that disagree"


def _nothing(row: CsvRow) -> str:
    return ""


def _no_mask(row: CsvRow) -> Source | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the rows of one published table describe cases: the image, the patient and the label cells.

    Attributes:
        image: the image's path for a row.
        indices: the indices of files that ``image`` and ``mask`` use; ambiguous names in them are refused.
        patient: the patient's identifier; an empty one makes the image its own patient.
        study: the study's identifier.
        split: the published split, in any of the usual words.
        site: the site.
        mask: the mask, or None.
        classes: the class of a row; None if the table has labels.
        labels: labels, in output order.
        label: the value of a label of a row; None for the cell in the column of that name.
        blank: meaning of an empty label in this layout.
        sex: column of the sex.
        age: column of the age.
        further: further attributes of this layout: name to column.
        codes: the layout's own codes of sex.
        several_rows: how rows of one image are merged unless the setting says so: refuse, any, majority.
        patients_known: False if the layout publishes no patients.
        notes: observations about the source: reason and place.
        skipped: rows that are left out before they are read: reason and place.
    """

    image: Callable[[CsvRow], Path]
    indices: tuple[ImageIndex, ...] = ()
    patient: Callable[[CsvRow], str]
    study: Callable[[CsvRow], str] = _nothing
    split: Callable[[CsvRow], str] = _nothing
    site: Callable[[CsvRow], str] = _nothing
    mask: Callable[[CsvRow], Source | None] = _no_mask
    classes: Callable[[CsvRow], str] | None = None
    labels: tuple[str, ...] = ()
    label: Callable[[CsvRow, str], float | None] | None = None
    blank: str = "unknown"
    sex: str = ""
    age: str = ""
    further: Mapping[str, str] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    several_rows: str = "refuse"
    patients_known: bool = True
    notes: tuple[tuple[str, str], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()


def read_rows(root: Path, tables: Iterable[CsvTable], layout: Layout, config: PrepareConfig) -> ReaderOutput:
    """Return the cases of one or several tables of the same layout.

    Raises:
        LayoutError: a cell does not fit the layout, names file, column and row; or several files have the
            name of one image.
        ConfigError: the settings select nothing, or a class that never occurs.
    """
    chosen = [table.having(config.input.require) for table in tables]
    task = values.task_of(config, one_class=layout.classes is not None)
    names = values.columns_of(chosen[0], config, sex_column=layout.sex, age_column=layout.age)
    names = (*names, *(name for name in layout.further if name not in names))
    labels = _label_names(task, chosen, layout, config)
    cases: list[SourceCase] = []
    skipped = list(layout.skipped)
    for table in chosen:
        for row in table:
            found = _labels(row, task, labels, layout, config)
            if found is None:
                skipped.append((NOT_ASKED_FOR, row.where))
                continue
            cases.append(_case(root, row, found, names, layout, config))
    for index in layout.indices:
        index.refuse_ambiguous()
    rule = config.labels.several_rows if config.labels.several_rows != AUTO else layout.several_rows
    merged, disagreeing, several = merge_rows(cases, task, rule)
    notes = [*layout.notes, *((form, table.name) for table in chosen for form in table.form)]
    notes += [(f"images with several rows ({rule})", where) for where in several]
    return ReaderOutput(
        cases=tuple(merged),
        labels=labels,
        task=task,
        attributes=names,
        skipped=(*skipped, *((DISAGREE, where) for where in disagreeing)),
        notes=tuple(notes),
        patients_known=layout.patients_known,
        spatial_dims=3 if cases and _is_volume(cases[0].image) else 2,
    )


def split_name(text: str) -> str:
    """Return ``train``, ``valid`` or ``test``, or an empty text for an unknown word.

    >>> split_name("validate"), split_name("Test"), split_name("")
    ('valid', 'test', '')
    """
    return SPLIT_NAMES.get(text.strip().lower(), "")


def merge_rows(
    cases: Sequence[SourceCase], task: TaskKind, rule: str
) -> tuple[list[SourceCase], list[str], list[str]]:
    """Return one case per image, the places of images whose rows disagree, and of those with several rows.

    Args:
        cases: one case per row.
        task: what is learnt; rows with masks are never merged.
        rule: ``refuse`` leaves several cases of one image, which is then an error. ``any``: a label is 1 if
            one row says so. ``majority``: a label is what more than half of the rows with a value say, else
            unknown; a class needs more than half of the rows.

    Raises:
        LayoutError: rows of one image name different patients or splits.
    """
    groups: dict[str, list[SourceCase]] = defaultdict(list)
    for case in cases:
        groups[case.key].append(case)
    if rule == "refuse" or len(groups) == len(cases):
        return list(cases), [], []
    merged: list[SourceCase] = []
    disagreeing: list[str] = []
    several: list[str] = []
    for group in groups.values():
        if len(group) == 1:
            merged.append(group[0])
            continue
        several.append(group[0].where)
        _refuse_other_owner(group)
        labels = _voted_class(group) if task is TaskKind.MULTICLASS else _voted_labels(group, rule)
        if task is TaskKind.MULTICLASS and not labels:
            disagreeing.append(group[0].where)
        else:
            merged.append(replace(group[0], labels=labels))
    return merged, disagreeing, several


def _voted_labels(group: Sequence[SourceCase], rule: str) -> dict[str, float | None]:
    voted: dict[str, float | None] = {}
    for name in group[0].labels:
        votes = [value for case in group if (value := case.labels[name]) is not None]
        ones = votes.count(1.0)
        if not votes or (rule == "majority" and 2 * ones == len(votes)):
            voted[name] = None
        else:
            voted[name] = float(ones > 0 if rule == "any" else 2 * ones > len(votes))
    return voted


def _voted_class(group: Sequence[SourceCase]) -> dict[str, float | None]:
    """Return the class that more than half of the rows give; empty if there is none."""
    classes = [tuple(case.labels) for case in group]
    most = max(set(classes), key=lambda found: (classes.count(found), found))
    return dict.fromkeys(most, 1.0) if 2 * classes.count(most) > len(group) else {}


def _refuse_other_owner(group: Sequence[SourceCase]) -> None:
    first = group[0]
    for case in group[1:]:
        if (case.patient, case.split, case.site) != (first.patient, first.split, first.site):
            where = f"{first.where} and {case.where}"
            raise LayoutError(expected("one patient, split and site per image", got="several", where=where))


def _label_names(
    task: TaskKind, tables: list[CsvTable], layout: Layout, config: PrepareConfig
) -> tuple[str, ...]:
    if task is TaskKind.SEGMENTATION:
        return mask_labels.of_values(config.masks.labels).names
    if layout.classes is not None:
        seen = [layout.classes(row) for table in tables for row in table]
        return values.class_names(config.labels, seen, tables[0].name)
    if not layout.labels:
        fix = f"give label_columns, class_column, or masks; its columns are {', '.join(tables[0].columns)}"
        raise ConfigError(
            problem("there is no label column, so nothing to learn", where=tables[0].name, fix=fix)
        )
    if layout.label is None:
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
    if layout.label is not None:
        return {name: layout.label(row, name) for name in labels}
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
    attributes = values.attributes(row, names, codes, sex_column=layout.sex, age_column=layout.age)
    return SourceCase(
        key=key,
        patient=layout.patient(row) or key,
        image=FileSource(path),
        where=row.where,
        study=layout.study(row),
        mask=layout.mask(row),
        mask_values=mask_labels.of_values(config.masks.labels).values,
        labels=labels,
        attributes={**attributes, **{name: row.get(column) for name, column in layout.further.items()}},
        site=layout.site(row),
        split=split_name(layout.split(row)),
    )


def _is_volume(source: Source) -> bool:
    return isinstance(source, FileSource) and source.path.name.lower().endswith((".nii", ".nii.gz"))
