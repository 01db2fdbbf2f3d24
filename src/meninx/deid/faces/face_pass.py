"""The pass over a folder that makes the plan of each CT and MR series, before the first file is cleaned."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from meninx.core.errors import StorageError
from meninx.core.pool import Stop, mapped
from meninx.core.progress import Progress, task
from meninx.deid.faces.face_plans import FolderPlans, SeriesFile, plan_of
from meninx.deid.faces.slice_header import SliceHeader, header_of
from meninx.deid.worker import content_of
from meninx.dicomfile import instance
from meninx.dicomfile.discover import SourceFile
from meninx.dicomfile.instance import Instance
from meninx.imaging.decode import quiet

FOLDER = "faces"
_Member = tuple[SourceFile, SliceHeader]


def make_plans(
    source: Path, folder: Path, found: list[SourceFile], workers: Callable[[int], int], progress: Progress
) -> FolderPlans:
    """Return the plans of all series below a source, made anew.

    Files that cannot be read are left out; the series then lacks slices, and its plan is a refusal.

    Args:
        source: folder of the files.
        folder: private folder for the plans, emptied first; large members of archives are inflated in it.
        found: the files.
        workers: number of items -> number of processes.
        progress: shows how far the pass is.

    Raises:
        StorageError: the disk refused a plan.
        Interrupted: stopped by the user.
    """
    shutil.rmtree(folder, ignore_errors=True)
    plans = FolderPlans(folder)
    series: dict[str, list[_Member]] = {}
    readable = [item for item in found if not item.refused]
    count = workers(len(readable))
    with Stop(progress.note) as stop, task(progress, "find heads", len(readable)):
        headers = mapped(
            partial(_header, source, folder), readable, workers=count, stop=stop, died=_no_header
        )
        with closing(headers):
            for item, header in zip(readable, headers, strict=True):
                if header is not None:
                    series.setdefault(header.series, []).append((item, header))
                progress.advance()
    count = min(count, max(len(series), 1))
    with Stop(progress.note) as stop, task(progress, "find faces", len(series)):
        make = partial(_plan, source, folder, plans)
        with closing(mapped(make, series.values(), workers=count, stop=stop, died=_no_plan)) as made:
            for _ in made:
                progress.advance()
    return plans


def _header(source: Path, room: Path, found: SourceFile) -> SliceHeader | None:
    """Return the header of a CT or MR image, None for any other file and one that cannot be read."""
    try:
        with quiet(), _opened(source, room, found) as original:
            return header_of(original)
    except StorageError:
        raise
    except Exception:  # the file itself gets its reason when it is cleaned
        return None


def _no_header(found: SourceFile) -> None:
    """Return that a file which kills its worker has no header."""


def _plan(source: Path, room: Path, plans: FolderPlans, members: list[_Member]) -> None:
    """Make and write the plan of one series."""
    with quiet():
        files = [SeriesFile(header, partial(_opened, source, room, item)) for item, header in members]
        plans.write(members[0][1].series, plan_of(files))


def _no_plan(members: list[_Member]) -> None:
    """Leave a series that kills its worker without a plan: its files are refused."""


@contextmanager
def _opened(source: Path, room: Path, found: SourceFile) -> Iterator[Instance]:
    with content_of(source, found, room=room) as data:
        yield instance.read(data)
