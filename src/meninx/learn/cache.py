"""Where the decoded images of a dataset are cached, and when a cache is worth building.

A cache lies in the dataset's private folder (``private/cache``), where all runs share it. If a run may not
write there, the cache lies in the run's private folder and is removed with the process. It is built once,
before the first step, by a run that reads its images several times. If no cache can be built (a full disk,
another user's folder), training is slower but does not stop.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from meninx.core import files, machine, provenance, workspace
from meninx.core.errors import StorageError
from meninx.core.manifest import Manifest, dataset_digest
from meninx.core.progress import SILENT, Progress, task
from meninx.learn import cache_file
from meninx.learn.cache_file import Decoder, ImageCache, Item, Stopped

AUTO, OFF = "auto", "off"
FILE = "decoded.bin"
_LEAST_READS = 2  # average reads of an image by a run from which caching pays
_LEAST_GROWTH = 1.25  # a cache that was cut off is rebuilt only if the limit grew by this factor
_DECODERS = (
    "meninx",
    "numpy",
    "pillow",
    "nibabel",
    "pydicom",
    "imagecodecs",
    "pyjpegls",
    "pylibjpeg-openjpeg",
)


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a run needs from a cache.

    Attributes:
        arrays: the arrays that it reads, with the functions that decode them.
        reads: average number of reads per array.
        setting: ``auto`` (up to half of the free disk), ``off`` (no cache; an existing one is removed) or the
            largest size, e.g. ``20 GB``.
        progress: shows the decoding, and a note if the cache does not hold all arrays.
        stop: polled while the cache is built; True abandons it.
    """

    arrays: dict[Item, Decoder]
    reads: float
    setting: str = AUTO
    progress: Progress = SILENT
    stop: Callable[[], bool] = lambda: False


def obtained(
    manifest: Manifest, demand: Demand, *, run: Path, shared: bool = False, builds: bool = True
) -> ImageCache | None:
    """Return the cache of a dataset, built first if it pays; None if there is none.

    A dataset without a list of checksums has no cache, because a changed image could not be distinguished
    from the cached one.

    Args:
        manifest: the dataset.
        demand: what the run needs.
        run: private folder of the run.
        shared: several processes train together; they share the cache in the dataset's folder or have none.
        builds: whether this process may build, remove and repair; the others only open an existing cache.
    """
    room = _room(manifest)
    if demand.setting == OFF:
        if room is not None and builds:
            with contextlib.suppress(OSError):
                (room / workspace.CACHE / FILE).unlink(missing_ok=True)
        return None
    if not demand.arrays or not manifest.checksums:
        return None
    if room is None and (shared or os.name != "posix"):
        return None  # other processes could not open it, or it could not be removed while it is open
    key, folder = _key(manifest), (room or run) / workspace.CACHE
    if builds:
        _built(folder, key, demand)
    cache = ImageCache.open(folder / FILE, key)
    if room is None and cache is not None:
        cache.remove()  # the open file stays readable and disappears with the process, even after a crash
        with contextlib.suppress(OSError):
            (folder / workspace.LOCK).unlink(missing_ok=True)
            folder.rmdir()
    return cache


def _room(manifest: Manifest) -> Path | None:
    """Return the private folder of a dataset; None if this process may not store images in it."""
    room = manifest.root / workspace.PRIVATE
    folder = room / workspace.CACHE
    # Decoded images are patients' data. A link could place them outside the private folder, and a folder that
    # others may read would disclose them.
    if any(path.is_symlink() for path in (room, folder, folder / FILE, folder / workspace.LOCK)):
        return None
    try:
        info = room.stat()
    except OSError:
        return None
    own = sys.platform == "win32" or (info.st_uid == os.geteuid() and not stat.S_IMODE(info.st_mode) & 0o077)
    return room if own and room.is_dir() and os.access(room, os.R_OK | os.W_OK | os.X_OK) else None


def _key(manifest: Manifest) -> str:
    """Return a digest that identifies the decoded values: layout, digests of all files, decoder versions."""
    decoders = sorted(provenance.versions(_DECODERS).items())
    text = json.dumps([cache_file.FORMAT, dataset_digest(manifest.root).digest, decoders])
    return hashlib.sha256(text.encode()).hexdigest()


def _built(folder: Path, key: str, demand: Demand) -> None:
    """Build the cache in a folder if it pays; an error of the disk becomes a note."""
    if demand.reads < _LEAST_READS and not (folder / FILE).exists():
        return
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        with _held(folder, demand.stop) as held:
            if held:
                _build(folder, key, demand)
    except (OSError, StorageError) as error:
        cause = error.__cause__ if isinstance(error, StorageError) else error
        full = isinstance(cause, OSError) and cause.errno == errno.ENOSPC
        _note(demand, "none, the disk is full" if full else "none, the disk refuses it")


@contextlib.contextmanager
def _held(folder: Path, stop: Callable[[], bool]) -> Iterator[bool]:
    """Lock the folder against other runs; wait for one that builds the same cache until ``stop`` is True."""
    lock = FileLock(folder / workspace.LOCK, mode=files.PRIVATE_MODE)
    while not lock.is_locked and not stop():
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=1)
    try:
        yield lock.is_locked
    finally:
        lock.release()


def _build(folder: Path, key: str, demand: Demand) -> None:
    """Build the cache of a locked folder, taking over the arrays of an earlier cache of the same dataset."""
    path, free = folder / FILE, machine.free_disk(folder)
    for left in folder.glob(f"{files.PARTIAL}*"):  # left by a killed process
        left.unlink(missing_ok=True)
    wanted = machine.byte_size(demand.setting)
    limit = free // 2 if wanted is None else min(wanted, free)
    with ImageCache.open(path, key) or contextlib.nullcontext() as earlier:
        if earlier is None:
            path.unlink(missing_ok=True)  # incomplete, or of another dataset
        if demand.reads < _LEAST_READS or not _lacks(earlier, demand, limit):
            return
        there = {item: partial(earlier.read, item) for item in earlier.entries} if earlier is not None else {}
        if not limit:
            _note(demand, "none, the disk is full")
            return
        arrays = demand.arrays | {item: read for item, read in there.items() if item not in demand.arrays}
        with task(demand.progress, "decoding images", len(arrays)), contextlib.suppress(Stopped):
            cache_file.build(
                path, key, arrays, limit=limit, threads=machine.processors(), stop=demand.stop,
                done=demand.progress.advance,
            )  # fmt: skip
    with ImageCache.open(path, key) or contextlib.nullcontext() as made:
        if made is not None and made.limit:
            held = sum(item in made for item in demand.arrays)
            _note(demand, f"{held} of {len(demand.arrays)} arrays, {machine.shown_size(limit)} may be used")


def _lacks(cache: ImageCache | None, demand: Demand, limit: int) -> bool:
    """Return whether a cache lacks arrays that a new one of this limit would hold."""
    if cache is None:
        return True
    cut_off = bool(cache.limit) and limit < _LEAST_GROWTH * cache.limit
    return not cut_off and any(item not in cache for item in demand.arrays)


def _note(demand: Demand, words: str) -> None:
    demand.progress.note(f"cache of decoded images: {words}; the others are decoded when they are used")
