"""The output folder: whose it is, and what may be made or removed in it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from meninx.core import files
from meninx.core.errors import StorageError, UsageError, expected
from meninx.deid.config import DeidConfig
from meninx.deid.journal import Journal

PRIVATE, IMAGES, JOURNAL, LOCK, STAGING = "private", "images", "journal.jsonl", "lock", "staging"
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
PAPERS = ("deid.json", "audit.jsonl")
TABLES = tuple(f"{name}.csv" for name in ("crosswalk_uids", "crosswalk_patients", "crosswalk_accessions", "quarantine", "lookup"))


def journal_of(out: Path, fingerprint: str = "") -> Journal:
    """Return the journal of an output folder, there or not."""
    return Journal(out / PRIVATE / JOURNAL, fingerprint)


def refuse_strange(out: Path) -> None:
    """Refuse a folder that holds something which no run of this stage left; nothing is made or changed.

    Without a journal a killed run leaves an empty private room with its lock; with a damaged one, its own files only.

    Raises:
        UsageError: with what to do.
    """
    there = journal_of(out).fingerprint_there()
    if there or not out.is_dir():
        return
    public, private = {PRIVATE}, {LOCK, STAGING}
    if there is not None:
        public, private = {PRIVATE, IMAGES, *PAPERS}, {LOCK, STAGING, JOURNAL, *TABLES}
    strange = [item for item in out.iterdir() if item.name not in public]
    room = out / PRIVATE
    inside = room.iterdir() if room.is_dir() else ()
    strange += [item for item in inside if item.name not in private and not item.name.startswith(".partial-")]
    if strange:
        fix = "choose a new or empty output folder"
        raise UsageError(expected("an empty output folder", got=f"{len(strange)} other entries", where="out", fix=fix))


def refuse_foreign(config: DeidConfig, out: Path, journal: Journal) -> None:
    """Refuse a folder with something else in it, and an earlier result that cannot be gone on with; nothing is made.

    Raises:
        UsageError: with what to do.
    """
    refuse_strange(out)
    there = journal.fingerprint_there()
    goes_on = there == journal.fingerprint and config.resume
    if there is not None and not (config.overwrite or goes_on):
        fix = "choose another output folder, or give --overwrite to remove the earlier result"
        raise UsageError(expected("a result of the same key and settings", got="an earlier result", where="out", fix=fix))


def check_below(out: Path, relative: str) -> None:
    """Refuse a path that does not lie below the images of an output folder, or that leads out of it by a link.

    Args:
        out: the output folder, resolved.
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
            raise StorageError(expected("folders of this stage's own in the output folder", got="a link", where=IMAGES, fix=fix))


def publish(out: Path, relative: str, staged: Path) -> None:
    """Move a checked image from the staging folder to its place.

    Raises:
        ValueError: as :func:`check_below`.
        StorageError: a link stands in the way, or the disk refused.
    """
    check_below(out, relative)
    target = out / relative
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staged.replace(target)
    except OSError as error:
        raise files.storage_error(error, target) from error


def make_private(out: Path) -> None:
    """Make the private room, mode 0700.

    Raises:
        StorageError: the disk refused.
    """
    private = out / PRIVATE
    try:
        private.mkdir(parents=True, exist_ok=True, mode=0o700)
        private.chmod(0o700)
    except OSError as error:
        raise files.storage_error(error, private / JOURNAL) from error


def begin(config: DeidConfig, out: Path, journal: Journal) -> None:
    """Begin or go on in a folder that this process holds; checked again, as others may have written before it was held.

    Raises:
        UsageError: as :func:`refuse_foreign`.
        StorageError: the disk refused.
    """
    refuse_foreign(config, out, journal)
    if config.overwrite:
        _remove_result(out)
    if not journal.path.exists():
        journal.rewrite([])


def _remove_result(out: Path) -> None:
    """Remove what an earlier run wrote, the journal last, so that a killed removal can be repeated."""
    shutil.rmtree(out / IMAGES, ignore_errors=True)
    for name in PAPERS:
        (out / name).unlink(missing_ok=True)
    for name in (*TABLES, JOURNAL):
        (out / PRIVATE / name).unlink(missing_ok=True)
