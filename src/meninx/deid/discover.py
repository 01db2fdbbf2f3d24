"""The files below a source, in the same order on every machine, and which PatientIDs several issuers share.

Links that leave the source are never followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from meninx.core.errors import DataError, expected
from meninx.deid.elements import Malformed
from meninx.deid.instance import patient_id_and_issuer
from meninx.deid.keys import normal
from meninx.deid.quarantine import Reason
from meninx.imaging.decode import quiet


@dataclass(frozen=True, order=True, slots=True)
class SourceFile:
    """One file.

    Attributes:
        path: relative to the source, with forward slashes.
        refused: reason code of an entry that is never opened (a link that leaves the source or is broken, or
            no regular file); empty for others.
    """

    path: str
    refused: str = ""


def files_below(source: Path) -> list[SourceFile]:
    """Return every file below ``source`` (or the one file it is), sorted by path.

    Raises:
        DataError: there is no such folder or file, or it cannot be listed.
    """
    check_source(source)
    if source.is_file():
        return [SourceFile(source.name)]
    root = source.resolve()
    found: list[SourceFile] = []

    def failed(error: OSError) -> None:
        raise DataError(
            expected("a readable folder", got=error.strerror or "an error", where="a folder of the source")
        ) from error

    for folder, folders, names in os.walk(root, onerror=failed, followlinks=False):
        here = Path(folder)
        links = [name for name in folders if (here / name).is_symlink() and _leaves(here / name, root)]
        found += [
            SourceFile((here / name).relative_to(root).as_posix(), refused=Reason.SYMLINK_OUTSIDE)
            for name in links
        ]
        for name in names:
            path = here / name
            found.append(SourceFile(path.relative_to(root).as_posix(), refused=_refused(path, root)))
    return sorted(found)


def check_source(source: Path) -> None:
    """Refuse a source that is neither folder nor file.

    Raises:
        DataError: with what to do.
    """
    if not source.is_dir() and not source.is_file():
        raise DataError(
            expected("a folder of DICOM files", got="nothing there", where="source", fix="check the path")
        )


def _leaves(path: Path, root: Path) -> bool:
    try:
        return path.is_symlink() and not path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link that leads to itself
        return False


def _refused(path: Path, root: Path) -> str:
    """Return the reason why a directory entry is never opened, empty for a file."""
    if _leaves(path, root):
        return Reason.SYMLINK_OUTSIDE
    try:
        return "" if stat.S_ISREG(path.stat().st_mode) else Reason.NOT_A_FILE
    except OSError:  # also a link that leads to itself
        return Reason.BROKEN_LINK if path.is_symlink() else Reason.UNREADABLE


HEAD, LONGEST = (
    1 << 14,
    16 << 20,
)  # bytes; nearly every header has the patient in the first; no longer one is read


def shared_ids(source: Path, found: Iterable[SourceFile]) -> frozenset[str]:
    """Return the normalised patient IDs that at least two different issuers gave out.

    Such an ID identifies a patient only together with its issuer. Any other ID identifies one patient of the
    site, even in files without an issuer, as reports and presentation states often are. If the issuer were
    always part of the identity, one person would become two, and could be in two splits of a dataset.

    Args:
        source: folder that holds the files.
        found: the files.
    """
    issuers: dict[str, str] = {}
    shared: set[str] = set()
    with quiet():
        for item in found:
            patient, issuer = ("", "") if item.refused else map(normal, _looked_up(source / item.path))
            if patient and issuer and issuers.setdefault(patient, issuer) != issuer:
                shared.add(patient)
    return frozenset(shared)


def _looked_up(path: Path) -> tuple[str, str]:
    """Return PatientID and issuer of one file; empty for what will be refused later."""
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD)
            try:
                return patient_id_and_issuer(head)
            except Malformed:
                return patient_id_and_issuer(head + stream.read(LONGEST)) if len(head) == HEAD else ("", "")
    except Exception:  # whatever a broken file provokes: the worker judges it
        return "", ""
