"""Output folders: exclusive access, replacement of an earlier result as a whole, and private files.

A stage builds its result in ``private/staging`` and publishes it at the end, by renames that a later run
completes if this one is killed between them. Until then an earlier result is not changed.

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
AUDIT_LOCK = "audit.lock"  # in the private folder of a run: held as long as an audit of it works
CACHE = "cache"  # in the private folder: data that can be recomputed from the result, e.g. decoded images
_OWN = (PRIVATE, LOCK, MARKER, STAGING, REPLACED, CACHE)
_RUN = "run.json"  # marks the folder of a run
_STAGE = re.compile(r"[a-z][a-z-]{0,39}")


@dataclass(frozen=True, kw_only=True)
class Marker:
    """State of an output folder: ``private/workspace.json``.

    Attributes:
        stage: the stage that the folder belongs to.
        published: fingerprint of the complete result; empty if there is none.
        building: fingerprint of the result in staging; empty if there is none.
        publishing: top-level names that are being moved into place; empty between publications.
        removing: top-level names that are removed with the earlier result.
        secret: names of files that are being moved into the private folder.
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
    """An output folder that this process has locked; created by :func:`claim`.

    Attributes:
        root: the folder.
        marker: its recorded state.
        earlier: fingerprint of the complete result in the folder; empty if there is none.
        continued: whether staging holds files finished by an interrupted run of the same fingerprint.
    """

    root: Path
    marker: Marker
    earlier: str
    continued: bool

    @property
    def private(self) -> Path:
        """Folder that only the owner may read; mode 0700."""
        return self.root / PRIVATE

    @property
    def staging(self) -> Path:
        """Folder where the new result is built, with the same names as in the output folder."""
        return self.private / STAGING

    def publish(
        self, names: Iterable[str], *, remove: Iterable[str] = (), secret: Iterable[str] = ()
    ) -> None:
        """Move finished top-level files and folders from staging into place, and the earlier ones out.

        A publication that is killed half-way is completed by the next :func:`claim`.

        Args:
            names: names below staging: constants of the stage, never a value from a file. Names that do not
                exist are skipped; the file that marks the result as complete comes last.
            remove: names of an earlier result that have no successor.
            secret: names of files below ``staging/private`` that move to the private folder first.

        Raises:
            StorageError: the disk refused.
        """
        coming = tuple(names)
        # A name in both would be removed again if a killed publication were repeated.
        going = tuple(name for name in remove if name not in coming)
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
    renews: Callable[[str], bool] | None = None,
) -> Iterator[Workspace]:
    """Lock an output folder for this process, after checking that it may be written to.

    An unfinished result never blocks a command: the same fingerprint continues it, another one starts again.

    Args:
        out: the folder; created if it does not exist.
        stage: name of the stage.
        fingerprint: digest of everything that determines the result (settings, keys, sources as far as they
            are settings).
        sources: folders that are read; none may contain ``out`` or be inside it.
        resume: whether to continue a complete result of the same fingerprint (to add new items).
        overwrite: whether to replace a complete result; it remains until :meth:`Workspace.publish`.
        ours: folder without a marker -> whether an older version of this stage wrote it.
        renews: fingerprint of a complete result -> whether this run replaces it without ``overwrite``, e.g.
            one of the same settings and an older program; it, too, remains until :meth:`Workspace.publish`.

    Raises:
        UsageError: the folder is a file, holds other files, another stage's or a complete result, or overlaps
            a source; or its private folder is a link.
        RunLocked: another process holds it. The lock of a killed process is released.
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
        renews=renews,
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
            renews=renews,
        )
        marker = read_marker(out) or Marker(stage=stage, published="older" if ours and ours(out) else "")
        space = _begun(out, marker, fingerprint)
        try:
            yield space
        finally:
            _forget(space)


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Lock an output folder for this process.

    A folder that did not exist before is removed again if the block fails before it has written anything.

    Args:
        out: the folder; created if it does not exist.

    Raises:
        RunLocked: another process holds it. The lock of a killed process is released.
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
        # rmdir removes only empty folders, so a folder that another process has claimed by now stays.
        with contextlib.suppress(OSError):
            for folder in (out / PRIVATE, *new) if new else ():
                if folder.exists():
                    folder.rmdir()
        raise


def _mended(out: Path, stage: str) -> bool:
    """Complete a publication that was killed half-way, and return whether there was one."""
    marker = read_marker(out)
    if marker is None or marker.stage != stage or not marker.unfinished:
        return False
    with locked(out):
        marker = read_marker(out)
        if marker is not None and marker.unfinished:
            _completed(out, marker)
    return True


def _holds_work(out: Path) -> bool:
    """Return whether a folder holds anything except the files that :func:`claim` itself creates."""
    try:
        entries = {item.name for item in out.iterdir()}
        inside = {item.name for item in (out / PRIVATE).iterdir()} if PRIVATE in entries else set()
    except OSError:
        return True
    return not (entries <= {PRIVATE} and inside <= {LOCK, MARKER})


def _begun(out: Path, marker: Marker, fingerprint: str) -> Workspace:
    """Record the fingerprint of the new result and return the workspace.

    Files of an interrupted run with the same fingerprint are kept in staging.
    """
    continued = marker.building == fingerprint and (out / PRIVATE / STAGING).is_dir()
    try:
        if not continued:
            files.remove(out / PRIVATE / STAGING)
        files.remove(out / PRIVATE / REPLACED)  # left by a publication that was killed after its last rename
        partial = f"{files.PARTIAL}*"  # incomplete files of a killed process
        for path in [*(out / PRIVATE).glob(partial), *(out / PRIVATE / STAGING).rglob(partial)]:
            files.remove(path)
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
    renews: Callable[[str], bool] | None = None,
) -> None:
    """Raise the errors of :func:`claim` without creating anything: for dry runs and before slow work."""
    apart(out, sources)
    refuse_links(out)
    _refuse_results(_resolved(out).parents)
    files.refuse_place_below_file(out)
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
    same = fingerprint in (marker.published, marker.building) or (renews and renews(marker.published))
    if marker.published and not overwrite and not same:
        fix = "use the same settings, or --overwrite to replace the result"
        raise UsageError(problem("the result was made with other settings", where=out.name, fix=fix))


def apart(out: Path, sources: Iterable[Path]) -> None:
    """Raise UsageError if ``out`` is inside a source or a source is inside ``out``; links are followed."""
    place = _resolved(out)
    for source in sources:
        origin = _resolved(source)
        if _within(place, origin) or _within(origin, place):
            fix = "choose a folder beside the source"
            raise UsageError(
                problem("source and output folder must lie apart from each other", where="out", fix=fix)
            )


def outside(out: Path, sources: Iterable[Path] = (), *, in_release: bool = False) -> None:
    """Refuse an output inside a source, or inside a dataset, archive, release or bundle.

    A list of digests covers such a folder, so that an additional file in it makes `meninx verify` fail. A
    source may be beside or below the output.

    Args:
        out: file or folder to write.
        sources: folders that are read.
        in_release: whether the output may be in a release, like the page of a report that is released with
            the model.

    Raises:
        UsageError: the output is inside one of them, or inside a private folder.
    """
    place = _resolved(out)
    fix = "choose a place beside it"
    if any(_within(place, _resolved(source)) for source in sources):
        raise UsageError(problem("the output must lie outside the source", where="out", fix=fix))
    _refuse_results((place, *place.parents), in_release=in_release)
    if any(_is_private(folder) for folder in (place, *place.parents)):
        what = "the output must lie outside private folders, which hold records that nothing replaces"
        raise UsageError(problem(what, where="out", fix=fix))


def _is_private(folder: Path) -> bool:
    """Return whether a folder is the private one of a run or of a stage."""
    marks = (folder / LOCK, folder / MARKER, folder.parent / _RUN)
    return folder.name.casefold() == PRIVATE and any(mark.is_file() for mark in marks)


def refuse_linked(root: Path, name: str) -> Path:
    """Return the folder ``name`` in ``root``, or refuse one that is a link.

    Guarantee: files that are written into the folder stay inside ``root``.

    Raises:
        UsageError: it is a link, even if its target does not exist.
    """
    place = root / name
    if place.is_symlink():
        fix = "replace the link by the folder itself, or choose another output folder"
        raise UsageError(
            problem(
                "the folder is a link, and files would be written elsewhere",
                where=f"{root.name}/{name}",
                fix=fix,
            )
        )
    return place


def _refuse_results(folders: Iterable[Path], *, in_release: bool = False) -> None:
    """Refuse an output if one of the folders is the result of a stage, a release or a bundle."""
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
    """Return whether a resolved path equals another or is inside it, also with other spellings of a folder.

    Case-insensitive file systems and bind mounts give one folder several paths, so inodes are compared.
    """
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
    """Create ``root/private``, readable by the owner only.

    Raises:
        UsageError: the path is a link.
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
    """Refuse a private folder that is a link, or whose lock, marker, staging or replaced result is one.

    Guarantee: files that a stage writes into ``private/`` stay inside ``root``, and the mode of no folder
        outside it is changed.

    Raises:
        UsageError: one of them is a link, even if its target does not exist.
    """
    room = root / PRIVATE
    for path in (room, *(room / name for name in (LOCK, AUDIT_LOCK, MARKER, STAGING, REPLACED))):
        if path.is_symlink():
            fix = "remove the link, or choose another output folder"
            where = path.relative_to(root).as_posix()
            raise UsageError(problem("the private room of the output folder is a link", where=where, fix=fix))


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Lock ``root`` for this process through ``private/lock``.

    Raises:
        RunLocked: another process holds it. The operating system releases the lock of a killed process.
        StorageError: the disk refused.
    """
    fix = "wait for it, or choose another output folder"
    with _locked(root, LOCK, problem("another process writes to this folder", where=root.name, fix=fix)):
        yield


@contextmanager
def audit_locked(root: Path) -> Iterator[None]:
    """Keep other audits of a run away through ``private/audit.lock``; parts of an audit may enter it again.

    :func:`locked` is held only while a part works, so that it cannot keep two audits apart whose parts
    alternate.

    Raises:
        RunLocked: another process audits the run.
        StorageError: the disk refused.
    """
    refuse_links(root)
    fix = "wait until it has ended"
    busy = problem("an audit of this run is running", where=root.name, fix=fix)
    with _locked(root, AUDIT_LOCK, busy, again=True):
        yield


@contextmanager
def _locked(root: Path, name: str, busy: str, *, again: bool = False) -> Iterator[None]:
    lock = FileLock(root / PRIVATE / name, mode=files.PRIVATE_MODE, is_singleton=again)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunLocked(busy) from error
    except OSError as error:
        raise files.storage_error(error, root / PRIVATE / name) from error
    try:
        yield
    finally:
        lock.release()


def read_marker(root: Path) -> Marker | None:
    """Return the state of a folder; None if no stage of this version wrote it.

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
    """Raise DataError unless every name is a top-level file or folder of the stage itself."""
    # The names decide what is moved and removed, and a marker may have been edited.
    for name in names:
        path = files.relative(name, where=MARKER)
        if len(path.parts) != 1 or name != path.name or name.casefold() in _OWN:
            raise DataError(problem("the marker names files that are not the stage's own", where=MARKER))


def is_complete(root: Path) -> bool:
    """Return whether a folder holds a complete result that is not being replaced."""
    marker = read_marker(root)
    return marker is not None and bool(marker.published) and not marker.unfinished


def _foreign(out: Path) -> bool:
    """Return whether a folder without a marker holds more than an empty private folder.

    A killed :func:`claim` can leave an empty one.
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
    """Complete a publication and return the marker of the complete result.

    Every move is skipped if it was done before, so an interrupted publication can be repeated.
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
    # The result is complete. Anything that cannot be removed now is removed by the next claim.
    with contextlib.suppress(OSError):
        files.remove(room / REPLACED)
        files.remove(room / STAGING)
        files.remove(room / CACHE)  # of the earlier result; it may hold images of patients who were removed
    return done


def _move(path: Path, target: Path) -> None:
    if not (path.exists() or path.is_symlink()):
        return
    files.remove(target)
    path.rename(target)


def _forget(space: Workspace) -> None:
    """Remove a staging folder in which nothing was built: after a failure, or where nothing was new."""
    with contextlib.suppress(OSError, StorageError):  # the original failure is the one to report
        if not any(space.staging.iterdir()) and not space.marker.unfinished:
            files.remove(space.staging)
            _write_marker(space.root, replace(space.marker, building=""))


def _write_marker(root: Path, marker: Marker) -> None:
    files.write_text(root / PRIVATE / MARKER, plain.to_json(marker), mode=files.PRIVATE_MODE)
