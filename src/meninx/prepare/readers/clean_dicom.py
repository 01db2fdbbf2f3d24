"""De-identified DICOM as written by `meninx deid`, with a label table.

Layout: any tree of DICOM files; each folder with a ``deid.json`` is a site, named after the folder. In 2-D
every instance is a case, in 3-D every series. Labels come from ``table`` (class_column or label_columns),
whose rows name an image by the most specific identifier that they fill in: SOPInstanceUID, SeriesInstanceUID,
StudyInstanceUID, AccessionNumber, PatientID. A table with original identifiers is translated by
``crosswalks`` (columns id_old, id_new). The masks of a segmentation are files that ``mask_column`` names, or
the SEG and RTSTRUCT objects of the archive (:mod:`meninx.prepare.readers.dicom_masks`); the table is then
optional.

Guarantee: a file that does not say PatientIdentityRemoved YES stops the work with PrivacyRefusal, unless
    ``trusted``. A file that `meninx deid` marked because its pixels may contain text is left out, unless
    ``trusted``.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

from meninx.core import artifacts
from meninx.core.artifacts import DeidRecord
from meninx.core.csv_table import CsvRow, CsvTable, read_table
from meninx.core.errors import ConfigError, DataError, LayoutError, PrivacyRefusal, expected, problem
from meninx.core.manifest import TaskKind
from meninx.core.summaries import unsearched
from meninx.imaging import decode, label_objects, tags
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import dicom_masks, mask_labels, values
from meninx.prepare.readers.dicom_masks import DicomMasks
from meninx.prepare.readers.source_files import relative, table_path
from meninx.prepare.source_cases import FileSource, ReaderOutput, SeriesSource, Source, SourceCase

Header = dict[str, str]
KEYWORDS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "AccessionNumber",
    "PatientID",
    "PatientSex",
    "PatientAge",
    "Modality",
    "ViewPosition",
    "Rows",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
)
VOLUME_MODALITIES = ("CT", "MR", "PT", "NM")
SUMMARY = artifacts.place(DeidRecord)
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima", "")
"""Suffixes of DICOM files; such a file that is not DICOM is reported, other suffixes are skipped."""


def read(root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
    """Return the cases of one folder of de-identified DICOM.

    Raises:
        PrivacyRefusal: a file is not marked as de-identified.
        LayoutError: the label table has a wrong column, cell or crosswalk; names file, column and row. Or
            several label objects refer to one image.
        DataError: no row of the label table fits any image.
    """
    headers, skipped = _headers(root)
    _refuse_identified(headers, trusted=config.input.trusted)
    if not config.input.trusted:
        headers, flagged = _reviewed(headers)
        skipped += flagged
    objects = {path for path, header in headers.items() if header["SOPClassUID"] in label_objects.CLASSES}
    masks = DicomMasks.read(sorted(objects), config) if dicom_masks.wanted(config) else None
    images = {path: header for path, header in headers.items() if path not in objects}
    skipped += [("object without pixels", "DICOM source")] * sum(
        not header["Rows"] for header in (images if masks else headers).values()
    )
    wanted = {path: header for path, header in images.items() if header["Rows"] and _wanted(header, config)}
    table = LabelTable.read(root, config, site) if config.input.table or masks is None else None
    dims = config.images.spatial_dims or 2
    units = _series(wanted) if dims == 3 else [((path,), header) for path, header in wanted.items()]
    pseudonymous = not config.input.trusted or all(map(_is_clean, headers.values()))
    cases: list[SourceCase] = []
    for number, (paths, header) in enumerate(units, start=1):
        labelled: Labelled | None = Labelled({}, None, {}, f"image {number} of {len(units)}")
        if table is not None:
            labelled = table.find(header, whole_series=dims == 3)
        if labelled is None:
            skipped.append(("no label row", f"image {number} of {len(units)}"))
            continue
        if not labelled.wanted:
            skipped.append(("no class that was asked for", labelled.where))
            continue
        instances = frozenset(wanted[path]["SOPInstanceUID"] for path in paths) - {""}
        case = _case(root, paths, header, labelled, config, whole_series=dims == 3)
        if masks is not None:
            series = header["SeriesInstanceUID"] if dims == 3 else ""
            found = masks.find(paths, header["PatientID"], series, instances, where=labelled.where)
            case = replace(case, mask=found, mask_values={})
        cases.append(replace(case, pseudonymous=pseudonymous))
    skipped += table.unused(bool(units)) if table is not None else []
    skipped += masks.left_over() if masks is not None else []
    further = table.attributes if table is not None else ()
    labels = table.labels if table is not None else ()
    return ReaderOutput(
        cases=tuple(cases),
        labels=labels if masks is None else masks.labels.names,
        task=values.task_of(config),
        skipped=tuple(skipped),
        spatial_dims=dims,
        attributes=("sex", "age", "view", *further),
        notes=masks.notes() if masks is not None else (),
    )


def _case(
    root: Path,
    paths: tuple[Path, ...],
    header: Header,
    labelled: Labelled,
    config: PrepareConfig,
    *,
    whole_series: bool,
) -> SourceCase:
    source: Source = SeriesSource(paths) if whole_series else FileSource(paths[0])
    identity = header["SeriesInstanceUID" if whole_series else "SOPInstanceUID"]
    by_column = labelled.mask is not None
    return SourceCase(
        key=identity or relative(paths[0], root),
        patient=header["PatientID"] or identity,
        study=header["StudyInstanceUID"],
        image=source,
        mask=labelled.mask,
        mask_values=mask_labels.of_values(config.masks.labels).values if by_column else {},
        where=labelled.where,
        labels=labelled.labels,
        attributes=_header_attributes(header, labelled.attributes, config),
    )


def _headers(root: Path) -> tuple[dict[Path, Header], list[tuple[str, str]]]:
    folder = root / "images" if (root / SUMMARY).is_file() and (root / "images").is_dir() else root
    found: dict[Path, Header] = {}
    skipped: list[tuple[str, str]] = []
    paths = [
        path
        for path in decode.find_files(folder)
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    for number, path in enumerate(paths, start=1):
        if not decode.is_dicom(path):
            if path.suffix.lower() in DICOM_SUFFIXES:
                skipped.append(("not DICOM", f"file {number} of {len(paths)}"))
            continue
        try:
            header = decode.open_dataset(path, pixels=False, keywords=KEYWORDS)
            with decode.quiet():
                found[path] = {name: str(header.get(name) or "").strip() for name in KEYWORDS}
        except (DataError, ValueError):
            skipped.append(("unreadable image", f"file {number} of {len(paths)}"))
    found, copies = _once(found)
    skipped += copies
    if not found:
        raise DataError(
            problem("no DICOM files", where=f"folder {root.name}", fix="give the output of `meninx deid`")
        )
    return found, skipped


def _once(headers: dict[Path, Header]) -> tuple[dict[Path, Header], list[tuple[str, str]]]:
    """Return one file per instance, and the copies; archives often contain an instance of a patient twice."""
    kept: dict[Path, Header] = {}
    seen: set[tuple[str, str]] = set()
    copies: list[tuple[str, str]] = []
    for number, (path, header) in enumerate(headers.items(), start=1):
        uid = header["SOPInstanceUID"]
        if uid and (header["PatientID"], uid) in seen:
            copies.append(("instance that is there twice", f"image {number} of {len(headers)}"))
        else:
            seen.add((header["PatientID"], uid))
            kept[path] = header
    return kept, copies


def _refuse_identified(headers: dict[Path, Header], *, trusted: bool) -> None:
    open_files = sum(not _is_clean(header) for header in headers.values())
    if open_files and not trusted:
        raise PrivacyRefusal(
            expected(
                "PatientIdentityRemoved YES in every file",
                got=f"{open_files} of {len(headers)} files without it",
                where="DICOM source",
                fix="run `meninx deid` first, or give trusted for images that hold no identity",
            )
        )


def _is_clean(header: Header) -> bool:
    """Return whether `meninx deid` or another program cleaned the header; the pixels are another matter."""
    unread = tags.NOT_REVIEWED in header["DeidentificationMethod"]
    return unread or decode.is_marked_clean(header["PatientIdentityRemoved"])


def _reviewed(headers: dict[Path, Header]) -> tuple[dict[Path, Header], list[tuple[str, str]]]:
    """Return the files whose pixels need no review, and the others as left out.

    Raises:
        PrivacyRefusal: there is no other file.
    """
    kept = {
        path: header
        for path, header in headers.items()
        if decode.is_marked_clean(header["PatientIdentityRemoved"])
    }
    if headers and not kept:
        fix = "look at private/review.html of the clean archive, then give trusted"
        got = unsearched(len(headers))
        raise PrivacyRefusal(
            expected("images whose pixels need no look", got=got, where="DICOM source", fix=fix)
        )
    left = [
        ("pixels that nobody has reviewed", f"image {number} of {len(headers)}")
        for number, path in enumerate(headers, start=1)
        if path not in kept
    ]
    return kept, left


def _wanted(header: Header, config: PrepareConfig) -> bool:
    modality = header["Modality"]
    if config.input.modalities:
        return modality in config.input.modalities
    return (modality in VOLUME_MODALITIES) == (config.images.spatial_dims == 3)


def _series(headers: dict[Path, Header]) -> list[tuple[tuple[Path, ...], Header]]:
    groups: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for path, header in headers.items():
        groups[tuple(header[name] for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"))].append(
            path
        )
    return [(tuple(sorted(paths)), headers[paths[0]]) for _, paths in sorted(groups.items())]


def _header_attributes(header: Header, more: dict[str, str], config: PrepareConfig) -> dict[str, str]:
    own = {
        "sex": values.sex(header["PatientSex"], values.sex_codes(config.labels)),
        "age": values.age(header["PatientAge"]),
        "view": header["ViewPosition"],
    }
    return {**own, **more}


KEYS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "AccessionNumber", "PatientID")
"""Identifiers from the most to the least specific."""


@dataclass(frozen=True)
class Labelled:
    """Labels of one image in the table; ``wanted`` is False for a class that the settings exclude."""

    labels: dict[str, float | None]
    mask: Source | None
    attributes: dict[str, str]
    where: str
    wanted: bool = True


@dataclass
class LabelTable:
    """The rows of a label table, which are looked up by the identifiers of an image."""

    labels: tuple[str, ...]
    task: TaskKind
    attributes: tuple[str, ...]
    config: PrepareConfig
    base: Path
    rows: dict[tuple[str, str], CsvRow] = field(default_factory=dict)
    used: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def read(cls, root: Path, config: PrepareConfig, site: str) -> LabelTable:
        """Return the table of the config.

        Raises:
            LayoutError: a column is missing, or two rows name the same image; names file, column and row.
        """
        if not config.input.table:
            fix = "give the label table"
            raise ConfigError(problem("no table of labels was given", where="table, reader dicom", fix=fix))
        path = table_path(config.input.table, root, site)
        table = read_table(path)
        keys = [name for name in KEYS if name in table.columns]
        if not keys:
            raise LayoutError(
                problem(f"no column is named {' or '.join(KEYS)}", where=f"{table.name}, row 1")
            )
        task, labels = _meaning(table, config, keys)
        attributes = _more_columns(table, config)
        found = cls(labels, task, attributes, config, path.parent)
        walks = config.input.crosswalks
        clean = _crosswalk([table_path(text, root, site, name="crosswalks") for text in walks])
        for row in table.having(config.input.require):
            found._add(row, keys, clean)
        return found

    def find(self, header: dict[str, str], *, whole_series: bool) -> Labelled | None:
        """Return the labels of an image by its most specific identifier, or None if no row matches."""
        for name in KEYS[1:] if whole_series else KEYS:
            key = (name, header[name])
            if header[name] and key in self.rows:
                self.used.add(key)
                return self._labelled(self.rows[key])
        return None

    def unused(self, have_images: bool) -> list[tuple[str, str]]:
        """Return reason and place of the rows that match no image.

        Raises:
            DataError: no row matches any of the images.
        """
        if self.rows and have_images and not self.used:
            fix = "give crosswalks when the table holds original identifiers"
            raise DataError(
                problem(f"none of {len(self.rows)} rows names an image", where="label table", fix=fix)
            )
        return [
            ("label row without an image", row.where)
            for key, row in self.rows.items()
            if key not in self.used
        ]

    def _add(self, row: CsvRow, keys: list[str], clean: dict[str, set[str]]) -> None:
        name = next((name for name in keys if row.get(name)), "")
        if not name:
            raise LayoutError(
                problem(
                    "the cells of all identifiers are empty", where=f"{row.where}, columns {', '.join(keys)}"
                )
            )
        new = clean.get(row.get(name), {row.get(name)})
        if len(new) > 1:
            fix = (
                "give a more specific identifier, or each site its own crosswalk with {source} or "
                "{site} in the path"
            )
            got = f"{len(new)} in the crosswalks"
            raise LayoutError(
                expected("one clean identifier", got=got, where=f"{row.where}, column {name!r}", fix=fix)
            )
        key = (name, next(iter(new)))
        if key in self.rows:
            fix = "keep one row an image"
            raise LayoutError(
                expected(
                    "each image once", got=f"it again, after {self.rows[key].where}", where=row.where, fix=fix
                )
            )
        self.rows[key] = row

    def _labelled(self, row: CsvRow) -> Labelled:
        config = self.config
        name = row.get(config.masks.column) if config.masks.column else ""
        mask = FileSource(self.base / name) if name else None
        attributes = {column: row.get(column) for column in self.attributes}
        if self.task is TaskKind.SEGMENTATION:
            return Labelled({}, mask, attributes, row.where)
        if config.labels.class_column:
            labels = values.of_class(row.get(config.labels.class_column), config.labels)
            return Labelled(labels, mask, attributes, row.where, bool(labels))
        return Labelled(
            {name: values.label(row, name, config.labels) for name in self.labels},
            mask,
            attributes,
            row.where,
        )


def _meaning(table: CsvTable, config: PrepareConfig, keys: list[str]) -> tuple[TaskKind, tuple[str, ...]]:
    task = values.task_of(config)
    if task is TaskKind.SEGMENTATION:
        if not config.masks.column:  # then the objects in the archive name the labels
            return task, ()
        table.needs([config.masks.column])
        return task, mask_labels.of_values(config.masks.labels).names
    if config.labels.class_column:
        table.needs([config.labels.class_column])
        return task, values.class_names(
            config.labels, [row.get(config.labels.class_column) for row in table], table.name
        )
    beside = {*keys, config.masks.column, *config.labels.attribute_columns, config.sites.column}
    labels = config.labels.label_columns or tuple(name for name in table.columns if name not in beside)
    if not labels:
        raise ConfigError(
            problem(
                "there is no label column, so nothing to learn", where=table.name, fix="give label_columns"
            )
        )
    table.needs(labels)
    return task, labels


def _more_columns(table: CsvTable, config: PrepareConfig) -> tuple[str, ...]:
    table.needs(config.labels.attribute_columns)
    extra = config.sites.column if config.sites.column in table.columns else ""
    names = (*config.labels.attribute_columns, *([extra] if extra else []))
    return tuple(dict.fromkeys(name for name in names if name not in ("sex", "age", "view")))


def _crosswalk(paths: list[Path]) -> dict[str, set[str]]:
    """Return a map from original to clean identifiers.

    One original may belong to several, because two hospitals may have used the same number.
    """
    clean: dict[str, set[str]] = {}
    for path in paths:
        for row in read_table(path, ("id_old", "id_new")):
            clean.setdefault(row.need("id_old"), set()).add(row.need("id_new"))
    return clean
