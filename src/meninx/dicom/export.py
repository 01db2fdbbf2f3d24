"""De-identified DICOM to PNG and NIfTI with JSON side-cars."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meninx.core import check, files, names, plain
from meninx.core.errors import DataError, PrivacyRefusal, StorageError, UsageError, expected, problem
from meninx.core.progress import SILENT, Progress, task
from meninx.core.result import Result
from meninx.core.staging import Build
from meninx.core.summaries import number_of, unsearched
from meninx.dicom import copies, sidecar
from meninx.imaging import decode, dicom_image, nifti, png, tags
from meninx.imaging.image import Image

INDEX_NAME = "export.csv"
SUMMARY_NAME = "export.json"
INDEX_COLUMNS = ("file", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "instances")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Settings of the export.

    Attributes:
        intensity: stored (lossless: pictures keep stored values, volumes modality values) or display
            (windowed, 8 or 16 bit).
        bits: bit depth of display images: 8 or 16.
        attributes: keywords of further attributes for the side-cars, e.g. one with a label.
        trusted: accept files without PatientIdentityRemoved YES, including their identifiers.
        overwrite: replace images of an earlier export.
    """

    intensity: str = "stored"
    bits: int = 8
    attributes: tuple[str, ...] = ()
    trusted: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        check.one_of(("stored", "display"), intensity=self.intensity)
        check.one_of(("8", "16"), bits=str(self.bits))
        sidecar.check_attributes(self.attributes)


@dataclass(frozen=True, kw_only=True)
class ExportResult(Result):
    """Counts of an export, or of its inverse.

    Attributes:
        pictures: PNG files (or DICOM files of the inverse) in the output.
        volumes: NIfTI files in the output.
        unchanged: how many of these were left by an earlier run.
        instances: number of DICOM files that these contain.
        passed_over: files that are not DICOM (for the inverse: not pictures with a side-car).
        failed: position in the sorted listing of the source, and reason, of every file that could not be
            exported.
    """

    pictures: int = 0
    volumes: int = 0
    unchanged: int = 0
    instances: int = 0
    passed_over: int = 0
    failed: tuple[tuple[int, str], ...] = ()


def export_images(
    source: Path, out: Path, config: ExportConfig, *, progress: Progress = SILENT
) -> ExportResult:
    """Write every image below a folder of de-identified DICOM as PNG or NIfTI with a JSON side-car.

    A series of slices with positions becomes one volume, ``<PatientID>/<SeriesInstanceUID>.nii.gz``
    (``_2``, ``_3`` for further orientations), as does a multi-frame object; any other image
    ``<PatientID>/<series>/<instance>.png``. An index ``export.csv`` and a summary ``export.json`` are written
    beside them. Files that cannot be exported are reported and do not stop the others. A second call skips
    images that exist already.

    Guarantee: names and side-cars contain only attributes of the list :data:`sidecar.EXPORTED`, as in the
        clean files, and those that ``config.attributes`` names; no text is written into the images.

    Raises:
        PrivacyRefusal: a file lacks PatientIdentityRemoved YES; nothing has been written then.
        UsageError: one folder is inside the other, or the output contains an export with other settings.
        StorageError: the disk refused.
    """
    copies.refuse_inside(source, out)
    entries, failed, passed_over = survey(source, trusted=config.trusted, progress=progress)
    counts: Counter[str] = Counter()
    index: list[tuple[str, ...]] = []
    images = images_of(entries, failed)
    settings = {key: value for key, value in asdict(config).items() if key != "overwrite"}
    with (
        copies.building(source, out, settings, last=SUMMARY_NAME) as build,
        task(progress, "export", sum(len(group) for _, group in images)),
    ):
        for target, group in images:
            try:
                is_new = _export_one(build, target, group, config)
            except StorageError:
                raise
            except DataError as error:
                failed += [(entry.number, str(error)) for entry in group]
            else:
                counts["volumes" if target.endswith(".nii.gz") else "pictures"] += 1
                counts["unchanged"] += not is_new
                counts["instances"] += len(group)
                one = group[0]
                instance = one.instance if len(group) == 1 else ""
                index.append(
                    (target, names.csv_cell(one.patient), one.study, one.series, instance, str(len(group)))
                )
            progress.advance(len(group))
        result = ExportResult(out=out, passed_over=passed_over, failed=tuple(sorted(failed)), **counts)
        _write_index(build, index)
        table = {key: value for key, value in result.to_table().items() if key not in ("out", "unchanged")}
        files.write_text(build.new(SUMMARY_NAME), plain.to_json({"settings": settings, **table}))
    return result


def _export_one(build: Build, relative: str, group: list[DicomFile], config: ExportConfig) -> bool:
    """Write one image and its side-car; return False if they already exist."""
    target = build.new(relative)
    settings = {"image": target.name, "intensity": config.intensity}
    if config.intensity == "display":
        settings["bits"] = str(config.bits)
    beside = sidecar.path_of(target)
    finished = build.existing(relative)
    if finished is not None and sidecar.path_of(finished).is_file() and not config.overwrite:
        found = sidecar.read_sidecar(sidecar.path_of(finished)).get("meninx", {})
        if any(str(found.get(key)) != value for key, value in settings.items()):
            fix = "choose another output folder, or allow overwriting"
            raise UsageError(problem("the output holds an export with other settings", where="out", fix=fix))
        return False
    image, table = _volume(group, config) if target.name.endswith(".nii.gz") else _picture(group[0], config)
    table["meninx"].update(settings)
    (nifti if target.name.endswith(".nii.gz") else png).write(target, image)
    files.write_text(beside, plain.to_json(table))
    return True


def _volume(group: list[DicomFile], config: ExportConfig) -> tuple[Image, dict[str, Any]]:
    intensity: dicom_image.Intensity = "display" if config.intensity == "display" else "modality"
    image = dicom_image.read_series([entry.path for entry in group], intensity=intensity, bits=config.bits)
    chosen = sidecar.attributes_of(decode.open_dataset(group[0].path, pixels=False), config.attributes)
    with decode.guarded():
        if image.channels == 3:
            sidecar.describe_colour(chosen, 8 * image.array.dtype.itemsize)
        elif intensity == "display":
            sidecar.describe_display(chosen, config.bits)
        sidecar.describe_volume(chosen)
    return image, sidecar.to_table(chosen, instances=sorted(entry.instance for entry in group))


def _picture(entry: DicomFile, config: ExportConfig) -> tuple[Image, dict[str, Any]]:
    dataset = decode.open_dataset(entry.path)
    intensity: dicom_image.Intensity = "display" if config.intensity == "display" else "stored"
    with decode.guarded():
        image = dicom_image.image_of(dataset, intensity=intensity, bits=config.bits)
        chosen = sidecar.attributes_of(dataset, config.attributes)
        offset = 0
        if image.channels == 3:
            sidecar.describe_colour(chosen, 8 * image.array.dtype.itemsize)
        elif intensity == "display":
            sidecar.describe_display(chosen, config.bits)
        else:
            image, offset = _unsigned(image)
    return image, sidecar.to_table(chosen, offset=offset, instances=[entry.instance])


def _unsigned(image: Image) -> tuple[Image, int]:
    """Return stored values as uint8 or uint16, and the offset that was added to them."""
    kind = image.array.dtype
    if kind.kind == "u" and kind.itemsize <= 2:
        return image, 0
    if kind.kind == "i" and kind.itemsize <= 2:
        # PNG has no signed values; the side-car records the offset, so the export stays lossless.
        offset = 2 ** (8 * kind.itemsize - 1)
        return Image(
            (image.array.astype(np.int32) + offset).astype(f"u{kind.itemsize}"), image.affine, image.header
        ), offset
    fix = "use intensity display"
    raise DataError(expected("stored values of 8 or 16 bits", got=str(kind), where="BitsAllocated", fix=fix))


def _write_index(build: Build, rows: list[tuple[str, ...]]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(INDEX_COLUMNS)
    writer.writerows(sorted(rows))
    files.write_text(build.new(INDEX_NAME), buffer.getvalue())


_SURVEYED = (
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "SOPClassUID",
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
)


@dataclass(frozen=True)
class DicomFile:
    """One DICOM file of the source; ``number`` is its position in the sorted listing."""

    number: int
    path: Path
    patient: str
    study: str
    series: str
    instance: str
    frames: int
    placed: bool


def survey(
    source: Path, *, trusted: bool = False, progress: Progress = SILENT
) -> tuple[list[DicomFile], list[tuple[int, str]], int]:
    """Return the DICOM files below a folder, the unreadable ones with reasons, and the count of others.

    Raises:
        PrivacyRefusal: a file lacks PatientIdentityRemoved YES and ``trusted`` is False.
    """
    entries: list[DicomFile] = []
    failed: list[tuple[int, str]] = []
    passed_over = 0
    unmarked: list[int] = []
    paths = decode.find_files(source)
    with task(progress, "read headers", len(paths)), decode.quiet():
        for number, path in enumerate(paths, start=1):
            progress.advance()
            if not decode.is_dicom(path):
                passed_over += 1
                continue
            try:
                header = decode.open_dataset(path, pixels=False, keywords=_SURVEYED)
                entry = _dicom_file(number, path, header)
            except DataError as error:
                failed.append((number, str(error)))
                continue
            if not trusted and tags.NOT_REVIEWED in str(header.get("DeidentificationMethod") or ""):
                fix = "look at private/review.html of the clean archive, then set trusted"
                what, where = "an image whose pixels need no look", "PatientIdentityRemoved"
                failed.append((number, expected(what, got=unsearched(1), where=where, fix=fix)))
                continue
            entries.append(entry)
            if not decode.is_marked_clean(header.get("PatientIdentityRemoved")):
                unmarked.append(number)
    # Only after all headers were read, so that nothing is written if any file may identify a patient.
    if unmarked and not trusted:
        got = (
            f"{number_of(len(unmarked), 'file')} without it, the first at position {unmarked[0]} of the "
            "sorted source"
        )
        fix = "run `meninx deid` first, or set trusted for data that holds no identity"
        raise PrivacyRefusal(
            expected("PatientIdentityRemoved YES in every file", got=got, where="source", fix=fix)
        )
    return entries, failed, passed_over


def _dicom_file(number: int, path: Path, header: Any) -> DicomFile:
    try:
        frames = int(header.get("NumberOfFrames") or 1)
        names = [str(header.get(name) or "") for name in ("PatientID", *sidecar.UIDS[:3])]
    except (TypeError, ValueError):
        raise DataError(
            problem("the header holds values of another form", where="NumberOfFrames, UIDs")
        ) from None
    if not names[3]:
        raise DataError(problem("the file has no SOPInstanceUID", where="SOPInstanceUID"))
    return DicomFile(
        number, path, names[0], names[1], names[2], names[3], frames, dicom_image.has_place(header)
    )


def images_of(entries: list[DicomFile], failed: list[tuple[int, str]]) -> list[tuple[str, list[DicomFile]]]:
    """Return relative target and files of every image to write.

    Duplicate instances are added to the list ``failed``.
    """
    series: dict[tuple[str, str, str], list[DicomFile]] = {}
    seen: set[tuple[str, str]] = set()
    for entry in entries:
        # A second file of the same instance would become a second slice at the same place.
        if (entry.patient, entry.instance) in seen:
            failed.append(
                (entry.number, problem("the instance occurs a second time", where="SOPInstanceUID"))
            )
            continue
        seen.add((entry.patient, entry.instance))
        series.setdefault((entry.patient, entry.study, entry.series), []).append(entry)
    found: list[tuple[str, list[DicomFile]]] = []
    for (patient, _, uid), group in series.items():
        base = f"{_name(patient)}/{_name(uid)}"
        volumes, rest = _volumes(group)
        found += [
            (f"{base}{f'_{n}' if n > 1 else ''}.nii.gz", volume) for n, volume in enumerate(volumes, start=1)
        ]
        found += [
            (f"{base}/{_name(one.instance)}{'.nii.gz' if one.frames > 1 else '.png'}", [one]) for one in rest
        ]
    return found


def _volumes(group: list[DicomFile]) -> tuple[list[list[DicomFile]], list[DicomFile]]:
    """Return the files of a series that make volumes, one list per orientation, and the single files."""
    slices = [entry for entry in group if entry.placed and entry.frames == 1]
    alone = [entry for entry in group if not (entry.placed and entry.frames == 1)]
    if len(slices) < 2:
        return [], group
    of_path = {entry.path: entry for entry in slices}
    try:
        parts = dicom_image.split_orientations(list(of_path))
    except DataError:
        return [slices], alone  # the error is reported when the volume is read
    volumes = [[of_path[path] for path in part] for part in parts if len(part) > 1]
    return volumes, [*alone, *(of_path[part[0]] for part in parts if len(part) == 1)]


def _name(text: str) -> str:
    """Return a text as a safe name of a file or folder."""
    # Identifiers come from the files: without separators and leading dots they cannot lead out of the folder.
    return re.sub(r"[^A-Za-z0-9._-]", "_", text).strip(".") or "unknown"
