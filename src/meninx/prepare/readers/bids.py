"""BIDS: ``sub-*/[ses-*/]anat/*_T1w.nii.gz``, masks below ``derivatives/``, patients in ``participants.tsv``.

Each examination of a subject (its folder, or each of its ``ses-*`` folders) is a case, and the subject is the
patient. The suffix of the file (``T1w``, ``FLAIR``, ...) is the channel; ``channels`` chooses where a dataset
has several, and more than one become the channels of one image.

*Segmentation* (the default): ``derivatives/<pipeline>/sub-*/[ses-*/]anat/*_dseg.nii.gz``, whose values
``*dseg.tsv`` names (columns index, name), or ``*_label-<name>_mask.nii.gz``, one file per label.
*Classification* (with ``class_column`` or ``label_columns``): columns of ``participants.tsv``. Its columns
``sex`` and ``age`` become attributes, and so do those of ``attribute_columns``.

Where several files fit (runs, acquisitions, spaces, descriptions), ``entities`` chooses: ``run-1``,
``desc-manual``, ``space-`` for files without that entity, ``suffix-dseg`` for label maps where masks per
label lie beside them. Where several pipelines have masks, ``mask_folder`` chooses. Without a choice they are
refused, because no choice would be right for all datasets.

References:
    Gorgolewski et al., The Brain Imaging Data Structure, Scientific Data 2016;
    bids-specification.readthedocs.io.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from meninx.core import names
from meninx.core.csv_table import CsvRow, CsvTable, read_table
from meninx.core.errors import ConfigError, LayoutError, expected, problem
from meninx.core.manifest import TaskKind
from meninx.prepare.config import PrepareConfig, segments_of_bids
from meninx.prepare.readers import mask_labels, values
from meninx.prepare.readers.channels import positions_of
from meninx.prepare.readers.mask_labels import MaskLabels
from meninx.prepare.readers.source_files import files_below, resolve, table_path
from meninx.prepare.source_cases import (
    ChannelSource,
    FileSource,
    MaskPerLabel,
    ReaderOutput,
    Source,
    SourceCase,
)

ENDINGS = (".nii.gz", ".nii")
MASK_SUFFIXES = ("dseg", "mask")
PATIENTS = "participants.tsv"
SUFFIX = "suffix"  # treated as an entity, so that the same setting can choose by it
_UNKNOWN = "n/a"
_LISTED = 20


@dataclass(frozen=True)
class _Named:
    """A file with the entities of its name.

    Attributes:
        path: the file.
        entities: key to value (``run`` to ``1``), with the suffix as ``suffix``.
    """

    path: Path
    entities: Mapping[str, str]


@dataclass(frozen=True)
class _Examination:
    """One examination of a subject.

    Attributes:
        subject: name of the folder, ``sub-...``.
        session: name of the folder, ``ses-...``; empty without sessions.
        where: place for messages.
        images: files of ``anat``.
        masks: label maps, or masks per label, of the same examination below the pipeline.
    """

    subject: str
    session: str
    where: str
    images: tuple[_Named, ...]
    masks: tuple[_Named, ...] = ()

    @property
    def key(self) -> str:
        """Identity of the examination."""
        return f"{self.subject}/{self.session}" if self.session else self.subject


def read(root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
    """Return one case per examination.

    Raises:
        LayoutError: there is no subject or no image, several files fit, or a table is not as published.
        ConfigError: a setting names something that the dataset does not have, or ``mask_folder``,
            ``channels`` or ``entities`` must choose.
    """
    people = _people(root, config, site)
    segmentation = segments_of_bids(config)
    pipeline = _pipeline(root, config, site) if segmentation else None
    found = _chosen(_examinations(root, pipeline), config)
    channels = _channels(found, config)
    skipped: list[tuple[str, str]] = []
    if segmentation:
        task, (labels, masks) = TaskKind.SEGMENTATION, _masks(found, pipeline or root, config)
    else:
        task, masks = values.task_of(config), {}
        labels = MaskLabels(_label_columns(people, config))
    attributes = _attribute_names(people, config)
    codes = values.sex_codes(config.labels)
    sex, age = config.labels.sex_column, config.labels.age_column
    cases = []
    for examination in found:
        images = [_one(_of_suffix(examination.images, name), name, examination) for name in channels]
        row = people.get(examination.subject)
        reason = _unfit(examination, images, row, masks, config, segmentation=segmentation)
        answers = {} if segmentation or row is None else _labels(row, config)
        if not reason and not segmentation and config.labels.class_column and not answers:
            reason = "no class that was asked for"
        if reason:
            skipped.append((reason, examination.where))
            continue
        cases.append(
            SourceCase(
                key=examination.key,
                patient=examination.subject,
                study=examination.key if examination.session else "",
                image=ChannelSource(
                    tuple(FileSource(image.path) for image in images if image), examination.where
                ),
                mask=masks.get(examination.key),
                mask_values=labels.values if segmentation else {},
                where=examination.where,
                labels=answers,
                attributes=values.attributes(row, attributes, codes, sex_column=sex, age_column=age)
                if row
                else {},
            )
        )
    subjects = {examination.subject for examination in found}
    skipped += [
        ("participant without images", row.where) for name, row in people.items() if name not in subjects
    ]
    return ReaderOutput(
        cases=tuple(cases),
        labels=labels.names,
        task=task,
        attributes=attributes,
        skipped=tuple(skipped),
        spatial_dims=3,
        channels=channels,
    )


def _unfit(
    examination: _Examination,
    images: Sequence[_Named | None],
    row: CsvRow | None,
    masks: Mapping[str, Source | None],
    config: PrepareConfig,
    *,
    segmentation: bool,
) -> str:
    """Return why an examination is not a case; empty if it is one."""
    if config.input.require and row is None:
        return "row that require leaves out"
    if not all(images):
        return "examination without every channel" if any(images) else "examination without an image"
    if not segmentation:
        return "" if row is not None else "no label row"
    if masks.get(examination.key) is None and config.masks.empty == "skip":
        return "examination without a mask of every label"
    return ""


# The files


def _examinations(root: Path, pipeline: Path | None) -> list[_Examination]:
    """Return every examination below the source, with the masks of the pipeline."""
    subjects = [path for path in sorted(root.glob("sub-*")) if path.is_dir()]
    if not subjects:
        raise LayoutError(
            problem("there are no folders sub-*", where=f"folder {root.name}", fix="check the path")
        )
    found = []
    for number, subject in enumerate(subjects, start=1):
        sessions = [path for path in sorted(subject.glob("ses-*")) if path.is_dir()] or [subject]
        for count, folder in enumerate(sessions, start=1):
            where = f"subject {number} of {len(subjects)}" + (
                f", session {count}" if folder != subject else ""
            )
            below = pipeline / folder.relative_to(root) if pipeline else None
            found.append(
                _Examination(
                    subject=subject.name,
                    session=folder.name if folder != subject else "",
                    where=where,
                    images=tuple(_files(folder / "anat")),
                    masks=tuple(_mask_files(below)) if below else (),
                )
            )
    return found


def _files(folder: Path) -> list[_Named]:
    paths = sorted(folder.glob("*")) if folder.is_dir() else []
    found = [_named(path) for path in paths if path.name.endswith(ENDINGS) and path.is_file()]
    return [item for item in found if item is not None and item.entities[SUFFIX] not in MASK_SUFFIXES]


def _mask_files(folder: Path) -> list[_Named]:
    """Return label maps and masks per label; a mask without a label (such as a brain mask) is neither."""
    paths = files_below(folder, ENDINGS) if folder.is_dir() else []
    found = [_named(path) for path in sorted(paths)]
    return [
        item
        for item in found
        if item is not None
        and (
            item.entities[SUFFIX] == "dseg" or (item.entities[SUFFIX] == "mask" and "label" in item.entities)
        )
    ]


def _named(path: Path) -> _Named | None:
    """Return a file with its entities, or None if its name does not consist of entities."""
    *parts, suffix = path.name.partition(".")[0].split("_")
    pairs = [part.partition("-") for part in parts]
    if "-" in suffix or not suffix or not all(key and dash and value for key, dash, value in pairs):
        return None
    return _Named(path, {**{key: value for key, _, value in pairs}, SUFFIX: suffix})


def _chosen(found: list[_Examination], config: PrepareConfig) -> list[_Examination]:
    """Return the examinations with only the files that ``entities`` selects."""
    asked = [entity.partition("-")[::2] for entity in config.input.entities]
    everything = [item for examination in found for item in (*examination.images, *examination.masks)]
    for key, value in asked:
        if not any(item.entities.get(key, "") == value for item in everything):
            known = sorted({item.entities[key] for item in everything if key in item.entities})
            fix = f"known: {', '.join(known[:_LISTED])}" if known and key != "sub" else ""
            raise ConfigError(
                expected("entities that a file has", got=repr(f"{key}-{value}"), where="entities", fix=fix)
            )
    return [
        replace(
            examination,
            images=tuple(_leaving(examination.images, asked)),
            masks=tuple(_leaving(examination.masks, asked)),
        )
        for examination in found
    ]


def _leaving(items: Iterable[_Named], asked: Sequence[tuple[str, str]]) -> list[_Named]:
    """Return the files without another value of an entity; files with the value take precedence.

    Precedence applies among files with the same suffix and label, of which only one can be used.
    """
    kept = list(items)
    for key, value in asked:
        kept = [item for item in kept if item.entities.get(key, value) == value]
        having = {_place(item) for item in kept if key in item.entities}
        kept = [item for item in kept if key in item.entities or _place(item) not in having]
    return kept


def _place(item: _Named) -> tuple[str, str]:
    return item.entities[SUFFIX], item.entities.get("label", "")


def _of_suffix(items: Iterable[_Named], suffix: str) -> list[_Named]:
    return [item for item in items if item.entities[SUFFIX] == suffix]


def _one(items: Sequence[_Named], what: str, examination: _Examination) -> _Named | None:
    """Return the only file, or None if there is none.

    Raises:
        LayoutError: there are several files; the message names the entities in which they differ.
    """
    if len(items) < 2:
        return items[0] if items else None
    keys = {key for item in items for key in item.entities}
    differ = sorted(key for key in keys if len({item.entities.get(key) for item in items}) > 1)
    names_of = (
        f"that differ in {', '.join(differ)}" if differ else "of equal names in other folders or formats"
    )
    fix = f"choose with entities, e.g. {differ[0]}-..." if differ else "keep one of them"
    raise LayoutError(
        expected(
            f"one {what} per examination", got=f"{len(items)} {names_of}", where=examination.where, fix=fix
        )
    )


def _channels(found: Sequence[_Examination], config: PrepareConfig) -> tuple[str, ...]:
    known = tuple(sorted({item.entities[SUFFIX] for examination in found for item in examination.images}))
    if not known:
        raise LayoutError(problem("there are no images below anat", where="folders sub-*"))
    if len(known) > 1 and not config.images.channels:
        fix = f"choose with channels: {', '.join(known[:_LISTED])}"
        raise ConfigError(expected("one kind of images", got=len(known), where="folders anat", fix=fix))
    return tuple(
        known[position] for position in positions_of(config.images.channels, known, where="channels")
    )


# The masks


def _pipeline(root: Path, config: PrepareConfig, site: str) -> Path:
    """Return the folder below ``derivatives`` that contains the masks."""
    if config.masks.folder:
        folder = resolve(config.masks.folder, root, site)
        if not folder.is_dir():
            raise LayoutError(problem("there is no such folder", where="mask_folder"))
        return folder
    top = root / "derivatives"
    below = [path for path in sorted(top.glob("*")) if path.is_dir() and not path.name.startswith("sub-")]
    having = [folder for folder in (top, *below) if any(map(_mask_files, folder.glob("sub-*")))]
    if len(having) == 1:
        return having[0]
    shown = ", ".join(names.printable(path.relative_to(root).as_posix()) for path in having[:_LISTED])
    fix = (
        f"choose with mask_folder: {shown}"
        if having
        else "for classification give class_column or label_columns"
    )
    what = "one pipeline with *_dseg.nii.gz or *_label-<name>_mask.nii.gz"
    raise ConfigError(expected(what, got=len(having), where="derivatives", fix=fix))


def _masks(
    found: Sequence[_Examination], pipeline: Path, config: PrepareConfig
) -> tuple[MaskLabels, dict[str, Source | None]]:
    """Return the labels, and the label map of each examination or None."""
    kinds = {item.entities[SUFFIX] for examination in found for item in examination.masks}
    if len(kinds) != 1:
        fix = (
            "choose with entities: suffix-dseg or suffix-mask" if kinds else "check mask_folder and entities"
        )
        what = "there are label maps (dseg) and masks per label" if kinds else "there are no masks"
        raise ConfigError(problem(what, where="derivatives", fix=fix))
    if "mask" in kinds:
        return _of_masks(found, config)
    maps = {examination.key: _one(examination.masks, "dseg", examination) for examination in found}
    files = [item for item in maps.values() if item is not None]
    return _of_table(files, pipeline, config), {
        key: FileSource(item.path) if item is not None else None for key, item in maps.items()
    }


def _of_table(files: Sequence[_Named], pipeline: Path, config: PrepareConfig) -> MaskLabels:
    """Return the labels that ``dseg.tsv`` names; they must be the same for all label maps."""
    tables = {item.path: _table_of(item, pipeline) for item in files}
    contents = {path: _label_table(path) for path in set(tables.values()) if path is not None}
    if not contents and config.masks.labels:
        return mask_labels.of_values(config.masks.labels)
    if None in tables.values() or len({tuple(sorted(table.items())) for table in contents.values()}) > 1:
        got = "none" if not contents else "several, or some without"
        fix = "give mask_labels as name=value" if not contents else "choose with entities"
        raise LayoutError(
            expected("one *dseg.tsv for all label maps", got=got, where=f"folder {pipeline.name}", fix=fix)
        )
    path, table = next(iter(contents.items()))
    return mask_labels.of_names(config.masks.labels, table, where=path.name)


def _table_of(item: _Named, pipeline: Path) -> Path | None:
    """Return the label table of a label map: the one with the most entities, all of which must agree with it.

    Tables may lie beside the label map or in any folder above it, up to that of the pipeline.
    """
    folder = item.path.parent
    fitting: list[tuple[int, Path]] = []
    while folder.is_relative_to(pipeline):
        for path in sorted(folder.glob("*dseg.tsv")):
            table = _named(path)
            if table is not None and table.entities.items() <= item.entities.items():
                fitting.append((len(table.entities), path))
        folder = folder.parent
    if not fitting:
        return None
    most = max(count for count, _ in fitting)
    best = [path for count, path in fitting if count == most]
    if len(best) > 1:
        raise LayoutError(expected("one label table", got=len(best), where=f"folder {pipeline.name}"))
    return best[0]


def _label_table(path: Path) -> dict[str, int]:
    """Return name to value of a ``dseg.tsv``, without background."""
    found: dict[str, int] = {}
    for row in read_table(path, ("index", "name")):
        index, name = row.need("index"), row.need("name")
        if not (index.isascii() and index.isdigit() and len(index) <= 5):
            raise LayoutError(
                problem("a label value is not a whole number", where=f"{row.where}, column 'index'")
            )
        if name in found:
            raise LayoutError(problem("a label is named twice", where=row.where))
        if int(index):
            found[name] = int(index)
    return found


def _of_masks(
    found: Sequence[_Examination], config: PrepareConfig
) -> tuple[MaskLabels, dict[str, Source | None]]:
    """Return the labels that have their own masks, and the combined label map of each examination."""
    known = sorted({item.entities["label"] for examination in found for item in examination.masks})
    labels = mask_labels.of_names(
        config.masks.labels, {name: number for number, name in enumerate(known, start=1)}, where="derivatives"
    )
    masks: dict[str, Source | None] = {}
    for examination in found:
        files = [
            _one([item for item in examination.masks if item.entities["label"] == name], "mask", examination)
            for name in labels.sources
        ]
        whole = all(files) if config.masks.empty == "skip" else any(files)
        sources = tuple(FileSource(item.path) if item else None for item in files)
        masks[examination.key] = (
            MaskPerLabel(sources, config.masks.overlap, examination.where) if whole else None
        )
    return MaskLabels(labels.names), masks


# The patients


def _people(root: Path, config: PrepareConfig, site: str) -> dict[str, CsvRow]:
    """Return the row of each subject; ``n/a`` becomes an empty cell."""
    named = config.input.table
    path = table_path(named, root, site) if named else root / PATIENTS
    if not path.is_file() and not config.input.table and segments_of_bids(config):
        return {}
    table = read_table(path, ("participant_id",)).having(config.input.require)
    table.needs((*config.labels.attribute_columns, *config.labels.label_columns))
    table.needs([config.labels.class_column] if config.labels.class_column else [])
    found: dict[str, CsvRow] = {}
    for row in table:
        subject = row.need("participant_id")
        subject = subject if subject.startswith("sub-") else f"sub-{subject}"
        if subject in found:
            got = f"it again, after {found[subject].where}"
            raise LayoutError(expected("each participant once", got=got, where=row.where))
        cells = {name: "" if cell.strip().lower() == _UNKNOWN else cell for name, cell in row.cells.items()}
        found[subject] = replace(row, cells=cells)
    return found


def _label_columns(people: Mapping[str, CsvRow], config: PrepareConfig) -> tuple[str, ...]:
    column = config.labels.class_column
    if column:
        return values.class_names(config.labels, [row.get(column) for row in people.values()], PATIENTS)
    return config.labels.label_columns


def _labels(row: CsvRow, config: PrepareConfig) -> dict[str, float | None]:
    if config.labels.class_column:
        return values.of_class(row.get(config.labels.class_column), config.labels)
    return {name: values.label(row, name, config.labels) for name in config.labels.label_columns}


def _attribute_names(people: Mapping[str, CsvRow], config: PrepareConfig) -> tuple[str, ...]:
    rows = tuple(people.values())
    if not rows:
        return ()
    table = CsvTable(PATIENTS, tuple(rows[0].cells), rows)
    return values.columns_of(
        table, config, sex_column=config.labels.sex_column, age_column=config.labels.age_column
    )
