"""Output folders: who may write to one, what is replaced and when, and what nobody else may read.

A stage builds its result in ``private/staging`` and publishes it at the end, by renames that a later run
completes if this one is killed between them. Until then an earlier result stays as it is.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "data"
    >>> with claim(folder, stage="prepare", fingerprint="settings-1", sources=()) as space:
    ...     files.write_text(space.staging / "manifest.csv", "case_id")
    ...     space.publish(["manifest.csv"])
    >>> (folder / "manifest.csv").read_text()
    'case_id'

On disk: ``private/`` (mode 0700) with ``workspace.json`` (stage, fingerprint, state), ``lock`` and, while a
stage works, ``staging/``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from meninx.core import files, integrity, plain
from meninx.core.errors import DataError, RunLocked, StorageError, UsageError, expected, problem

PRIVATE, LOCK, MARKER, STAGING, REPLACED = "private", "lock", "workspace.json", "staging", "replaced"
CACHE = "cache"  # in the private room: what can be computed again from the result, e.g. decoded images
_OWN = (PRIVATE, LOCK, MARKER, STAGING, REPLACED, CACHE)
_STAGE = re.compile(r"[a-z][a-z-]{0,39}")


@dataclass(frozen=True, kw_only=True)
class Marker:
    """State of an output folder: ``private/workspace.json``.

    Attributes:
        stage: the stage that the folder belongs to.
        published: fingerprint of the complete result; empty when there is none.
        building: fingerprint of what lies in staging; empty when nothing does.
        publishing: top-level names that are being moved into place; empty between publications.
        removing: top-level names that go with the earlier result.
        secret: names of files that are being moved into the private room.
    """

    stage: str
    published: str = ""
    building: str = ""
    publishing: tuple[str, ...] = ()
    removing: tuple[str, ...] = ()
    secret: tuple[str, ...] = ()

    @property
    def unfinished(self) -> bool:
        """Whether a publication began and did not end."""
        return bool(self.publishing or self.removing or self.secret)


@dataclass
class Workspace:
    """An output folder that this process holds; made by :func:`claim`.

    Attributes:
        root: the folder.
        earlier: fingerprint of the complete result that lies there; empty when there is none.
        continued: staging holds what an interrupted run of the same fingerprint finished.
    """

    root: Path
    marker: Marker
    earlier: str
    continued: bool

    @property
    def private(self) -> Path:
        """What nobody but the owner may read; mode 0700."""
        return self.root / PRIVATE

    @property
    def staging(self) -> Path:
        """Where the new result is built; the same names as in the folder itself."""
        return self.private / STAGING

    def publish(
        self, names: Iterable[str], *, remove: Iterable[str] = (), secret: Iterable[str] = ()
    ) -> None:
        """Move finished top-level files and folders from staging into place, and the earlier ones out.

        A publication that is killed half-way is completed by the next :func:`claim`.

        Args:
            names: names below staging: constants of the stage, never a value of a file. One that does not
                exist is passed over; the one that says that the result is complete comes last.
            remove: names of an earlier result that have no successor.
            secret: names of files below ``staging/private`` that go to the private room, before the others.

        Raises:
            StorageError: the disk refused.
        """
        coming = tuple(names)
        going = tuple(
            name for name in remove if name not in coming
        )  # a repeated publication would remove the new one
        hidden = tuple(secret)
        _check_names(coming + going + hidden)
        self.marker = replace(self.marker, publishing=coming, removing=going, secret=hidden)
        _write_marker(self.root, self.marker)
        self.marker = _completed(self.root, self.marker)
        self.earlier = self.marker.published


@contextmanager
def claim(
    out: Path,
    *,
    stage: str,
    fingerprint: str,
    sources: Iterable[Path] = (),
    resume: bool = False,
    overwrite: bool = False,
    ours: Callable[[Path], bool] | None = None,
) -> Iterator[Workspace]:
    """Hold an output folder for this process, after checking that it may be written to.

    An unfinished result never blocks a command: the same fingerprint goes on with it, another one starts
    afresh.

    Args:
        out: the folder; made when it is not there.
        stage: name of the stage.
        fingerprint: digest of everything that decides the result (settings, keys, sources as far as they are
            settings).
        sources: folders that are read; none may contain ``out`` or lie in it.
        resume: going on with a complete result of the same fingerprint is wanted (to add what is new).
        overwrite: replacing a complete result is wanted; it stays until :meth:`Workspace.publish`.
        ours: says whether a folder without a marker was written by an older version of this stage.

    Raises:
        UsageError: the folder is a file, holds something else, another stage's or a complete result, or
            overlaps a source; its private room is a link.
        RunLocked: another process holds it. A killed process holds nothing.
        StorageError: the disk refused.
        DataError: the marker is damaged.
    """
    sources = tuple(sources)
    apart(out, sources)
    refuse_links(out)
    resume = _mended(out, stage) or resume
    check(
        out,
        stage=stage,
        fingerprint=fingerprint,
        sources=sources,
        resume=resume,
        overwrite=overwrite,
        ours=ours,
    )
    with held(out):
        check(
            out,
            stage=stage,
            fingerprint=fingerprint,
            sources=sources,
            resume=resume,
            overwrite=overwrite,
            ours=ours,
        )
        marker = read_marker(out) or Marker(stage=stage, published="older" if ours and ours(out) else "")
        space = _begun(out, marker, fingerprint)
        try:
            yield space
        except BaseException:
            _forget(space)
            raise


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Hold an output folder for this process.

    A folder that was not there before goes again when the block fails without work.

    Args:
        out: the folder; made when it is not there.

    Raises:
        RunLocked: another process holds it. A killed process holds nothing.
        StorageError: the disk refused.
    """
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        make_private(out)
        with locked(out):
            try:
                yield
            except BaseException:
                if new and not _holds_work(out):
                    shutil.rmtree(out / PRIVATE, ignore_errors=True)
                raise
    except BaseException:
        with contextlib.suppress(
            OSError
        ):  # only empty folders go: one that another process claimed meanwhile is not
            for folder in (out / PRIVATE, *new) if new else ():
                if folder.exists():
                    folder.rmdir()
        raise


def _mended(out: Path, stage: str) -> bool:
    """Complete a publication that was killed half-way, before anything else; return whether there was one."""
    marker = read_marker(out)
    if marker is None or marker.stage != stage or not marker.unfinished:
        return False
    with locked(out):
        marker = read_marker(out)
        if marker is not None and marker.unfinished:
            _completed(out, marker)
    return True


def _holds_work(out: Path) -> bool:
    """Return whether a folder holds anything beyond what :func:`claim` itself puts there."""
    try:
        entries = {item.name for item in out.iterdir()}
        inside = {item.name for item in (out / PRIVATE).iterdir()} if PRIVATE in entries else set()
    except OSError:
        return True
    return not (entries <= {PRIVATE} and inside <= {LOCK, MARKER})


def _begun(out: Path, marker: Marker, fingerprint: str) -> Workspace:
    """Record what is being built and return the workspace.

    The workspace holds what an interrupted run of the same settings left.
    """
    continued = marker.building == fingerprint and (out / PRIVATE / STAGING).is_dir()
    try:
        if not continued:
            _remove(out / PRIVATE / STAGING)
        _remove(out / PRIVATE / REPLACED)  # of a publication that was killed after its end
        partial = f"{files.PARTIAL}*"  # what a killed process was writing
        for path in [*(out / PRIVATE).glob(partial), *(out / PRIVATE / STAGING).rglob(partial)]:
            _remove(path)
        marker = replace(marker, building=fingerprint)
        _write_marker(out, marker)
        (out / PRIVATE / STAGING).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise files.storage_error(error, out / PRIVATE) from error
    return Workspace(out, marker, marker.published, continued)


def check(
    out: Path,
    *,
    stage: str,
    fingerprint: str,
    sources: Iterable[Path] = (),
    resume: bool = False,
    overwrite: bool = False,
    ours: Callable[[Path], bool] | None = None,
) -> None:
    """Raise what :func:`claim` would, making nothing: for dry runs and before anything slow."""
    apart(out, sources)
    refuse_links(out)
    _refuse_results(_resolved(out).parents)
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(problem("the output folder is a file", where="out", fix="choose another name"))
    marker = read_marker(out)
    if marker is None:
        if _foreign(out) and not (ours and ours(out)):
            fix = "choose a new or empty folder"
            raise UsageError(problem("the output folder holds other files", where=out.name, fix=fix))
        marker = Marker(stage=stage, published="older" if ours and ours(out) else "")
    if marker.stage != stage:
        got = f"a folder that `{marker.stage}` wrote"
        raise UsageError(
            expected("a new or empty output folder", got=got, where=out.name, fix="choose another folder")
        )
    if marker.published and not (resume or overwrite):
        fix = "give --resume to go on with it, or --overwrite to replace it when the new one is complete"
        raise UsageError(problem("the output folder holds a complete result", where=out.name, fix=fix))
    if marker.published and not overwrite and fingerprint not in (marker.published, marker.building):
        fix = "use the same settings, or --overwrite to replace the result"
        raise UsageError(problem("the result was made with other settings", where=out.name, fix=fix))


def apart(out: Path, sources: Iterable[Path]) -> None:
    """Raise UsageError when ``out`` lies in a source or a source lies in ``out``; links are followed."""
    place = _resolved(out)
    for source in sources:
        origin = _resolved(source)
        if _within(place, origin) or _within(origin, place):
            fix = "choose a folder beside the source"
            raise UsageError(
                problem("source and output folder must lie apart from each other", where="out", fix=fix)
            )


def outside(out: Path, sources: Iterable[Path] = (), *, in_release: bool = False) -> None:
    """Refuse an output that lies in a source, or in a dataset, archive, release or bundle.

    A source may lie beside or below it.

    What lies in such a folder is in its list of digests; another file there makes `meninx verify` refuse it.

    Args:
        out: file or folder to write.
        sources: folders that are read.
        in_release: whether it may lie in a release, as the page of a report does that leaves with the model.

    Raises:
        UsageError: it lies in one of them.
    """
    place = _resolved(out)
    fix = "choose a place beside it"
    if any(_within(place, _resolved(source)) for source in sources):
        raise UsageError(problem("the output must lie outside the source", where="out", fix=fix))
    _refuse_results((place, *place.parents), in_release=in_release)


def _refuse_results(folders: Iterable[Path], *, in_release: bool = False) -> None:
    """Refuse an output for which one of its folders is the result of a stage, a release or a bundle."""
    marks = (Path(PRIVATE, MARKER), *([] if in_release else [Path(integrity.CHECKSUMS)]))
    result = next((folder for folder in folders if any((folder / mark).is_file() for mark in marks)), None)
    if result is not None:
        outside = "outside releases, and outside datasets and archives"
        what = f"the output must lie {outside}, and {result.name} is one"
        raise UsageError(problem(what, where="out", fix="choose a place beside it"))


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(problem("the path cannot be followed", where=path.name)) from error


def _within(inner: Path, outer: Path) -> bool:
    """Return whether a resolved path is another or lies in it, also where two spellings name one folder."""
    if inner.is_relative_to(outer):
        return True
    with contextlib.suppress(OSError):
        mine = outer.stat()
        for folder in (inner, *inner.parents):
            with contextlib.suppress(OSError):
                if os.path.samestat(folder.stat(), mine):
                    return True
    return False


def make_private(root: Path) -> None:
    """Make ``root/private``, readable by the owner only.

    Raises:
        UsageError: it is a link.
        StorageError: the disk refused.
    """
    refuse_links(root)
    room = root / PRIVATE
    try:
        room.mkdir(parents=True, exist_ok=True, mode=0o700)
        room.chmod(0o700)
    except OSError as error:
        raise files.storage_error(error, room) from error


def refuse_links(root: Path) -> None:
    """Refuse a private room that is a link, or whose lock, marker, staging or replaced result is one.

    Guarantee: what a stage writes into ``private/`` lies in ``root``, and the mode of no folder outside it is
        changed.

    Raises:
        UsageError: one of them is a link; it may lead nowhere.
    """
    room = root / PRIVATE
    for path in (room, *(room / name for name in (LOCK, MARKER, STAGING, REPLACED))):
        if path.is_symlink():
            fix = "remove the link, or choose another output folder"
            where = path.relative_to(root).as_posix()
            raise UsageError(problem("the private room of the output folder is a link", where=where, fix=fix))


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold ``root`` for this process through ``private/lock``.

    Raises:
        RunLocked: another process holds it. A killed process holds nothing: the lock is the operating
        system's.
        StorageError: the disk refused.
    """
    lock = FileLock(root / PRIVATE / LOCK, mode=files.PRIVATE_MODE)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        fix = "wait for it, or choose another output folder"
        raise RunLocked(problem("another process writes to this folder", where=root.name, fix=fix)) from error
    except OSError as error:
        raise files.storage_error(error, root / PRIVATE / LOCK) from error
    try:
        yield
    finally:
        lock.release()


def read_marker(root: Path) -> Marker | None:
    """Return the state of a folder; None when no stage of this version wrote it.

    Raises:
        DataError: the marker is damaged.
    """
    path = root / PRIVATE / MARKER
    if not path.is_file():
        return None
    marker = plain.from_json(files.read_bytes(path), Marker, where=MARKER)
    _check_names((*marker.publishing, *marker.removing, *marker.secret))
    if not _STAGE.fullmatch(marker.stage):
        raise DataError(problem("the name of the stage is damaged", where=MARKER))
    return marker


def _check_names(names: Iterable[str]) -> None:
    """Raise DataError unless every name is a file or folder of the stage's own, at the top of its folder."""
    for name in names:
        path = files.relative(name, where=MARKER)
        if len(path.parts) != 1 or name != path.name or name.casefold() in _OWN:
            raise DataError(problem("the marker names files that are not the stage's own", where=MARKER))


def is_complete(root: Path) -> bool:
    """Return whether a stage finished its result here and is not in the middle of replacing it."""
    marker = read_marker(root)
    return marker is not None and bool(marker.published) and not marker.unfinished


def _foreign(out: Path) -> bool:
    """Return whether a folder without a marker holds more than an empty private folder.

    A claim that was killed leaves such a folder.
    """
    entries = [item.name for item in out.iterdir()]
    room = out / PRIVATE
    inside = list(room.iterdir()) if room.is_dir() else []
    strange = [
        item
        for item in inside
        if item.name != LOCK and not item.name.startswith(files.PARTIAL) and not _empty(item)
    ]
    return bool([name for name in entries if name != PRIVATE] or strange)


def _empty(staging: Path) -> bool:
    return staging.name == STAGING and staging.is_dir() and not any(staging.iterdir())


def _completed(root: Path, marker: Marker) -> Marker:
    """Do what is left of a publication and return the marker of the complete result.

    Repeating it changes nothing.
    """
    room = root / PRIVATE
    try:
        (room / REPLACED).mkdir(mode=0o700, exist_ok=True)
        for name in marker.secret:
            if (room / STAGING / PRIVATE / name).is_file():
                (room / STAGING / PRIVATE / name).replace(room / name)
        for name in marker.removing:
            _move(root / name, room / REPLACED / name)
        for name in marker.publishing:
            if (room / STAGING / name).exists():
                _move(root / name, room / REPLACED / name)
                (room / STAGING / name).rename(root / name)
    except OSError as error:
        raise files.storage_error(error, room) from error
    done = Marker(stage=marker.stage, published=marker.building or marker.published)
    _write_marker(root, done)
    with contextlib.suppress(
        OSError
    ):  # the result is complete; what cannot be removed now goes with the next claim
        _remove(room / REPLACED)
        _remove(room / STAGING)
        _remove(room / CACHE)  # of the earlier result: it may hold images of patients who are gone
    return done


def _move(path: Path, target: Path) -> None:
    if not (path.exists() or path.is_symlink()):
        return
    _remove(target)
    path.rename(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _forget(space: Workspace) -> None:
    """After a failure remove what would only be in the way: an empty staging."""
    with contextlib.suppress(OSError, StorageError):  # the failure itself is what the user hears of
        if not any(space.staging.iterdir()) and not space.marker.unfinished:
            _remove(space.staging)
            _write_marker(space.root, replace(space.marker, building=""))


def _write_marker(root: Path, marker: Marker) -> None:
    files.write_text(root / PRIVATE / MARKER, plain.to_json(marker), mode=files.PRIVATE_MODE)
