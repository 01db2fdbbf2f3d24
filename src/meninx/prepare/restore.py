"""Exported pictures with their side-cars back to DICOM, a folder at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from meninx.core.errors import DataError, StorageError
from meninx.core.progress import SILENT, Progress, task
from meninx.imaging import decode, encapsulate, load
from meninx.imaging.uids import new_uid
from meninx.prepare import copies, sidecar
from meninx.prepare.export import ExportResult


def restore_images(
    source: Path,
    out: Path,
    *,
    uid: Callable[[str], str] = new_uid,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> ExportResult:
    """Write every picture below a folder that has a side-car as DICOM, at the same relative path with ``.dcm``.

    Args:
        source: folder of PNG or JPEG files with JSON side-cars.
        out: folder of the DICOM files, apart from the source.
        uid: gives the new UID of an old one and is asked once for each, so that studies and series stay
            together.
        overwrite: replace existing files; without it, existing ones are left as they are.
        progress: told of every file.

    Raises:
        UsageError: the folders are one within the other.
        StorageError: the disk refused.
    """
    copies.refuse_inside(source, out)
    known: dict[str, str] = {}
    counts: Counter[str] = Counter()
    failed: list[tuple[int, str]] = []
    paths = decode.find_files(source)
    with task(progress, "restore", len(paths)):
        for number, path in enumerate(paths, start=1):
            progress.advance()
            beside = sidecar.path_of(path)
            if load.suffix(path) not in load.PICTURES or not beside.is_file():
                counts["passed_over"] += path.suffix != ".json"
                continue
            target = (out / path.relative_to(source)).with_suffix(".dcm")
            if target.exists() and not overwrite:
                counts["unchanged"] += 1
            else:
                try:
                    encapsulate.dicom_from_png(
                        path, beside, target, uid=_remembered(uid, known), overwrite=overwrite
                    )
                except StorageError:
                    raise
                except DataError as error:
                    failed.append((number, str(error)))
                    continue
            counts["pictures"] += 1
    return ExportResult(out=out, instances=counts["pictures"], failed=tuple(failed), **counts)


def _remembered(uid: Callable[[str], str], known: dict[str, str]) -> Callable[[str], str]:
    """Return ``uid`` with a memory: the same old UID gives the same new one, an empty one always a fresh one."""
    return lambda old: known.setdefault(old, uid(old)) if old else uid(old)
