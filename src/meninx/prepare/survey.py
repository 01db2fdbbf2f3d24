"""What a folder of DICOM holds for the export: which files make a volume, which stand alone, which are not marked clean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meninx.core.errors import DataError, PrivacyRefusal, expected
from meninx.core.progress import SILENT, Progress, task
from meninx.imaging import decode, dicom, encapsulate, tags

_SURVEYED = (
    "PatientIdentityRemoved", "DeidentificationMethod", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID",
    "SOPClassUID", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
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
) -> tuple[list[Entry], list[tuple[int, str]], int]:
    """Return the DICOM files below a folder, position and reason of unreadable ones, and the count of other files.

    Raises:
        PrivacyRefusal: a file does not say PatientIdentityRemoved YES, unless ``trusted``.
    """
    entries: list[Entry] = []
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
                entry = _entry(number, path, header)
            except DataError as error:
                failed.append((number, str(error)))
                continue
            if not trusted and tags.NOT_REVIEWED in str(header.get("DeidentificationMethod") or ""):
                fix = "look at private/review.html of the clean archive, then set trusted"
                what, where = "an image whose pixels need no look", "PatientIdentityRemoved"
                failed.append((number, expected(what, got="one that may show text", where=where, fix=fix)))
                continue
            entries.append(entry)
            if str(header.get("PatientIdentityRemoved") or "").strip().upper() != "YES":
                unmarked.append(number)
    if unmarked and not trusted:
        got = f"{len(unmarked)} files without it, the first at position {unmarked[0]} of the sorted source"
        fix = "run `meninx deid` first, or set trusted for data that holds no identity"
        raise PrivacyRefusal(
            expected("PatientIdentityRemoved YES in every file", got=got, where="source", fix=fix)
        )
    return entries, failed, passed_over


def _entry(number: int, path: Path, header: Any) -> Entry:
    try:
        frames = int(header.get("NumberOfFrames") or 1)
        names = [str(header.get(name) or "") for name in ("PatientID", *encapsulate.UIDS[:3])]
    except (TypeError, ValueError):
        raise DataError(
            expected("a readable header", got="values of another form", where="NumberOfFrames, UIDs")
        ) from None
    if not names[3]:
        raise DataError(expected("an instance with its own UID", got="none", where="SOPInstanceUID"))
    return Entry(number, path, names[0], names[1], names[2], names[3], frames, dicom.has_place(header))


def jobs(entries: list[Entry], failed: list[tuple[int, str]]) -> list[tuple[str, list[Entry]]]:
    """Return relative target and files of every image to write.

    Doubled instances go to the list ``failed``.
    """
    series: dict[tuple[str, str, str], list[Entry]] = {}
    seen: set[tuple[str, str]] = set()
    for entry in entries:
        if (entry.patient, entry.instance) in seen:
            failed.append(
                (entry.number, expected("each instance once", got="a second copy", where="SOPInstanceUID"))
            )
            continue
        seen.add((entry.patient, entry.instance))
        series.setdefault((entry.patient, entry.study, entry.series), []).append(entry)
    found: list[tuple[str, list[Entry]]] = []
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


def _volumes(group: list[Entry]) -> tuple[list[list[Entry]], list[Entry]]:
    """Return the files of a series that make volumes, one list an orientation, and those that stand alone."""
    slices = [entry for entry in group if entry.placed and entry.frames == 1]
    alone = [entry for entry in group if not (entry.placed and entry.frames == 1)]
    if len(slices) < 2:
        return [], group
    of_path = {entry.path: entry for entry in slices}
    try:
        parts = dicom.split_orientations(list(of_path))
    except DataError:
        return [slices], alone  # reading it will say what is wrong
    volumes = [[of_path[path] for path in part] for part in parts if len(part) > 1]
    return volumes, [*alone, *(of_path[part[0]] for part in parts if len(part) == 1)]


def _name(text: str) -> str:
    """Return a text as the name of a file or folder."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text).strip(".") or "unknown"
