"""The output folder of this stage: what lies where, and that no image lands anywhere else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from meninx.core import artifacts, files
from meninx.core.artifacts import DeidRecord
from meninx.core.errors import StorageError, expected
from meninx.core.integrity import CHECKSUMS
from meninx.core.workspace import PRIVATE, Workspace
from meninx.deid.journal import JOURNAL, KNOWN

IMAGES, WAITING = "images", "waiting"
PAPERS = ("audit.jsonl", CHECKSUMS, artifacts.place(DeidRecord))
"""Public papers in the order in which they are published; the last one says that the result is complete."""
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def is_older(out: Path) -> bool:
    """Return whether a version of this stage without a marker wrote the folder."""
    journal = out / PRIVATE / JOURNAL
    if not journal.is_file() or not {item.name for item in out.iterdir()} <= {PRIVATE, IMAGES, *PAPERS}:
        return False
    with journal.open("rb") as stream:
        return stream.readline(200).startswith(b'{"fingerprint": ')


def take_back(space: Workspace) -> None:
    """Move a complete result of the same settings back into staging, to go on with it.

    It is published again at the end.

    Raises:
        StorageError: the disk refused.
    """
    try:
        known = space.private / JOURNAL
        if known.is_file() and not (space.staging / KNOWN).exists():
            shutil.copyfile(known, space.staging / KNOWN)
            (space.staging / KNOWN).chmod(files.PRIVATE_MODE)
        for name in (*reversed(PAPERS), IMAGES):
            if (space.root / name).exists() and not (space.staging / name).exists():
                (space.root / name).rename(space.staging / name)
    except OSError as error:
        raise files.storage_error(error, space.staging) from error


def check_below(out: Path, relative: str) -> None:
    """Refuse a path that does not lie below the images of a folder, or that leads out of it by a link.

    Args:
        out: the folder that holds ``images``, resolved.
        relative: path of an image below it.

    Raises:
        ValueError: the path has another form than this stage gives its images.
        StorageError: a folder on the way is a link.
    """
    parts = relative.split("/")
    if parts[0] != IMAGES or len(parts) < 2 or not all(map(_PART.fullmatch, parts)):
        raise ValueError("no path of an image")
    place = out
    for part in parts[:-1]:
        place = place / part
        if place.is_symlink():
            fix = "remove the link, or choose another output folder"
            raise StorageError(
                expected(
                    "folders of this stage's own in the output folder", got="a link", where=IMAGES, fix=fix
                )
            )


def publish(out: Path, relative: str, waiting: Path) -> None:
    """Move a checked image to its place among the finished ones.

    Raises:
        ValueError: as :func:`check_below`.
        StorageError: a link stands in the way, or the disk refused.
    """
    check_below(out, relative)
    target = out / relative
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        waiting.replace(target)
    except OSError as error:
        raise files.storage_error(error, target) from error
