"""From source folders to one list of cases: several sources are several sites.

Identifiers become pseudonyms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from meninx.core import artifacts, names
from meninx.core.artifacts import DeidRecord
from meninx.core.errors import ConfigError, DataError, LayoutError, expected, problem
from meninx.core.manifest import FIXED_COLUMNS, LONGEST_TEXT, TaskKind, is_odd_text
from meninx.prepare.assignment import number_of
from meninx.prepare.checks import Findings
from meninx.prepare.config import PrepareConfig, refuse_by_source
from meninx.prepare.readers import reader_of
from meninx.prepare.readers.clean_dicom import SUMMARY
from meninx.prepare.readers.source_files import linked_folders, resolve
from meninx.prepare.setting_tables import LabelsConfig
from meninx.prepare.source_cases import DatasetCase, ReaderOutput, SourceCase

CT = "CT"
CT_WITHOUT_WINDOW = (
    "CT without a window: each image is scaled by its own percentiles (set window, e.g. -150 250)"
)


@dataclass(frozen=True, kw_only=True)
class CollectedCases:
    """All cases of all sources, sorted by pseudonym, with their labels, task and channels."""

    entries: tuple[DatasetCase, ...]
    labels: tuple[str, ...]
    task: TaskKind
    attributes: tuple[str, ...]
    patients_known: bool
    spatial_dims: int
    channels: tuple[str, ...] = ()
    channel_positions: tuple[int, ...] = ()
    source_channels: int = 0


def collect_cases(config: PrepareConfig, source: Path | Sequence[Path], findings: Findings) -> CollectedCases:
    """Return the cases of one or several source folders.

    Args:
        config: reader and its settings.
        source: a folder, or several: each is a site named after its folder. For reader dicom also a folder of
            outputs of `meninx deid`: each is a site.
        findings: receives every row that is not a case.

    Raises:
        LayoutError: a source has another layout; names file, column and row.
        DataError: no case is left, or two sources do not fit together.
    """
    places = _places(config, source)
    readings = []
    for site, root in places.items():
        reading = _read(root, config, site)
        for reason, where in reading.skipped:
            findings.add(reason, f"{site}: {where}" if site else where)
        for reason, where in reading.notes:
            findings.note(reason, f"{site}: {where}" if site else where)
        readings.append(_of_site(reading, site, several=len(places) > 1))
    first = _joined(readings, config.labels)
    entries = tuple(
        sorted((_entry(found, config.name) for found in first.cases), key=lambda entry: entry.case_id)
    )
    _refuse_twice(entries)
    if not entries:
        raise DataError(
            problem("no case was found", where=config.reader, fix="check the source and the settings")
        )
    _refuse_names(first)
    if first.task is TaskKind.MULTICLASS:
        _refuse_unclear(first.cases)
    elif first.task is TaskKind.MULTILABEL:
        _refuse_unlabelled(first, findings)
    dims = config.images.spatial_dims or first.spatial_dims
    channels = first.channels or config.images.channels
    refuse_by_source(config, task=first.task, spatial_dims=dims, labels=first.labels, channels=len(channels))
    if CT in (name.upper() for name in channels) and not config.images.window:
        findings.notes[CT_WITHOUT_WINDOW].append("channels")
    named = config.images.color != "rgb"
    return CollectedCases(
        entries=limited(entries, config.limit, config.seed),
        labels=first.labels,
        task=first.task,
        attributes=first.attributes,
        patients_known=first.patients_known,
        spatial_dims=dims,
        channels=channels if named else (),
        channel_positions=first.channel_positions if named else (),
        source_channels=first.source_channels if named else 0,
    )


def sources_of(config: PrepareConfig, source: Path | Sequence[Path]) -> tuple[Path, ...]:
    """Return all folders that are read: the sources, and image folders elsewhere that are linked or named.

    Raises:
        DataError: a source does not exist.
    """
    roots = [source] if isinstance(source, Path) else list(source)
    elsewhere = [name for name in (config.input.image_folder, config.masks.folder) if name]
    places = _places(config, source)
    linked = [target for root in roots for target in linked_folders(root)]
    return (
        *roots,
        *linked,
        *(resolve(name, root, site) for site, root in places.items() for name in elsewhere),
    )


def limited(entries: Sequence[DatasetCase], limit: int, seed: int) -> tuple[DatasetCase, ...]:
    """Return at most ``limit`` cases (0 for all) of whole patients chosen by hash; at least one patient."""
    if not limit or len(entries) <= limit:
        return tuple(entries)
    chosen: set[str] = set()
    count = 0
    sizes: dict[str, int] = {}
    for entry in entries:
        sizes[entry.patient_id] = sizes.get(entry.patient_id, 0) + 1
    for patient in sorted(sizes, key=lambda name: (number_of(name, seed, "limit"), name)):
        if chosen and count + sizes[patient] > limit:
            break
        chosen.add(patient)
        count += sizes[patient]
    return tuple(entry for entry in entries if entry.patient_id in chosen)


def pseudonym(kind: str, name: str, identifier: str) -> str:
    """Return ``kind`` and 16 hexadecimal digits that depend on the dataset's name and the identifier.

    >>> pseudonym("p", "demo", "A1") == pseudonym("p", "demo", "A1") != pseudonym("p", "other", "A1")
    True
    """
    return (
        kind
        + hashlib.sha256(f"{kind}\0{name}\0{identifier}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
    )


def _read(root: Path, config: PrepareConfig, site: str) -> ReaderOutput:
    """Return what a reader finds; its unexpected exceptions become a LayoutError."""
    try:
        return reader_of(config.reader)(root, config, site)
    except (
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        OSError,
        RecursionError,
        MemoryError,
    ) as error:
        got, fix = f"something else ({type(error).__name__})", "check that the source is not damaged"
        raise LayoutError(
            expected(f"the layout of reader {config.reader}", got=got, where="source", fix=fix)
        ) from error


def _entry(found: SourceCase, name: str) -> DatasetCase:
    """Return a case with pseudonyms that depend only on its own identity in the source."""
    keeps = found.pseudonymous and not names.problem(found.patient, hash_sign=True)
    return DatasetCase(
        case_id=pseudonym("c", name, found.key),
        patient_id=found.patient if keeps else pseudonym("p", name, found.patient),
        study=pseudonym("s", name, found.study) if found.study else "",
        source=found,
    )


def _places(config: PrepareConfig, source: Path | Sequence[Path]) -> dict[str, Path]:
    """Return a map from site name to source folder.

    One source has the name that its de-identification gave it, or none.
    """
    roots = [source] if isinstance(source, Path) else list(source)
    for root in roots:
        if not root.exists():
            raise DataError(problem("there is no such folder", where=root.name, fix="check the path"))
    if config.reader == "dicom" and len(roots) == 1 and not (roots[0] / SUMMARY).is_file():
        below = (
            [path for path in sorted(roots[0].iterdir()) if (path / SUMMARY).is_file()]
            if roots[0].is_dir()
            else []
        )
        roots = below or roots
        # A folder of archives: every archive that `meninx deid` made in it is a site.
        if below and (len(below) > 1 or isinstance(source, Path)):
            return {path.name: path for path in below}
    if len(roots) == 1:
        return {_own_site(roots[0]): roots[0]}
    for sites in ([root.name for root in roots], [root.parent.name for root in roots]):
        if len(set(sites)) == len(roots):
            return dict(zip(sites, roots, strict=True))
    raise ConfigError(
        problem("source folders have the same name", where="source", fix="rename one: it is a site")
    )


def _own_site(root: Path) -> str:
    """Return the site that an archive of `meninx deid` names, or an empty text for another folder.

    A damaged record raises DataError.
    """
    record = artifacts.read(root, DeidRecord)
    return record.site if record is not None else ""


def _of_site(reading: ReaderOutput, site: str, *, several: bool) -> ReaderOutput:
    """Return the cases with their site and, for several sites, with identifiers that begin with it.

    Equal identifiers of two sites are two patients, unless they are keyed pseudonyms.
    """

    def named(text: str) -> str:
        return f"{site}/{text}" if several and text else text

    cases = tuple(
        replace(
            found,
            site=found.site or site,
            key=named(found.key),
            study=named(found.study),
            patient=found.patient if found.pseudonymous else named(found.patient),
            where=f"{site}: {found.where}" if site else found.where,
        )
        for found in reading.cases
    )
    return replace(reading, cases=cases)


def _joined(readings: Sequence[ReaderOutput], config: LabelsConfig) -> ReaderOutput:
    first = readings[0]
    for other in readings[1:]:
        if first.task is not TaskKind.MULTICLASS and other.labels != first.labels:
            raise LayoutError(
                problem("the sites have different labels", where="source", fix="give label_columns")
            )
        if other.channels != first.channels:
            fix = "choose those that all have, with channels"
            raise LayoutError(problem("the sites have different channels", where="source", fix=fix))
    same_numbers = len({(item.channel_positions, item.source_channels) for item in readings}) == 1
    classes = config.classes or tuple(sorted({label for reading in readings for label in reading.labels}))
    attributes = tuple(dict.fromkeys(name for reading in readings for name in reading.attributes))
    return replace(
        first,
        cases=tuple(found for reading in readings for found in reading.cases),
        labels=first.labels if len(readings) == 1 or first.task is not TaskKind.MULTICLASS else classes,
        attributes=attributes,
        patients_known=all(reading.patients_known for reading in readings),
        channel_positions=first.channel_positions if same_numbers else (),
        source_channels=max(reading.source_channels for reading in readings),
    )


def _refuse_names(reading: ReaderOutput) -> None:
    """Refuse names and texts that a dataset must not contain, before any image is read."""
    where = "source"
    names.check(reading.labels, what="label", where=where)
    names.check(reading.attributes, what="attribute", where=where)
    names.check(sorted({found.site for found in reading.cases} - {""}), what="site", where=where)
    for found in reading.cases:
        if "\0" in found.patient or "\0" in found.study:
            raise LayoutError(problem("the identifier of a patient or study holds a NUL", where=found.where))
        if any(map(is_odd_text, found.attributes.values())):
            raise LayoutError(
                problem(
                    f"an attribute is longer than {LONGEST_TEXT} characters, or not plain text",
                    where=found.where,
                )
            )
    columns = [*(reading.labels if reading.task is not TaskKind.SEGMENTATION else ()), *reading.attributes]
    for name in columns:
        if name in FIXED_COLUMNS or columns.count(name) > 1:
            fix = "rename the column, or leave it out"
            raise ConfigError(
                expected(
                    "labels and attributes of different names",
                    got=repr(name),
                    where="manifest columns",
                    fix=fix,
                )
            )


def _refuse_unclear(cases: Sequence[SourceCase]) -> None:
    for found in cases:
        ones = sum(value == 1 for value in found.labels.values())
        if ones != 1:
            raise LayoutError(
                expected("exactly one class per case", got=ones, where=found.where, fix="use task multilabel")
            )


def _refuse_unlabelled(reading: ReaderOutput, findings: Findings) -> None:
    """Refuse a source without any known label, and note labels that are unknown in every case."""
    known = {name for found in reading.cases for name, value in found.labels.items() if value is not None}
    if not known:
        cells = ", ".join(reading.labels)
        what = f"none of {len(reading.cases):,} cases has a label: every cell of {cells} is empty"
        fix = "check label_columns, or give blank zero if empty means no"
        raise DataError(problem(what, where="source", fix=fix))
    for name in reading.labels:
        if name not in known:
            findings.note("label that is unknown in every case", f"label {name!r}")


def _refuse_twice(entries: Sequence[DatasetCase]) -> None:
    seen: Mapping[str, DatasetCase] = {entry.case_id: entry for entry in entries}
    if len(seen) == len(entries):
        return
    for entry in entries:
        if seen[entry.case_id] is not entry:
            got = f"it again: {entry.source.where} and {seen[entry.case_id].source.where}"
            fix = "remove one of the rows, or give several_rows any or majority"
            raise LayoutError(expected("each image once", got=got, where="source", fix=fix))
