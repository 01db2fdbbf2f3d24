"""All cases through one or several processes, in a form that can be stopped at any moment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from typing import NoReturn

from meninx.core import pool
from meninx.core import progress as bars
from meninx.core.errors import DataError, expected
from meninx.prepare.build import Job, Record, Shared, begin, run_job
from meninx.prepare.checks import Findings, Unusable
from meninx.prepare.outputs import Folder

JOBS_PER_WORKER = 16  # fewer are done sooner than a process starts


def do_all(
    jobs: Sequence[Job],
    shared: Shared,
    folder: Folder,
    findings: Findings,
    workers: int,
    progress: bars.Progress,
) -> tuple[dict[str, Record], int]:
    """Return the record of every usable case and how many were up to date already.

    Args:
        jobs: the cases.
        shared: what all of them need.
        folder: told of what is done, so that a killed run loses little.
        findings: told of what cannot be used.
        workers: processes; 0 for one a core.
        progress: told of every case.

    Raises:
        DataError: a case that stops the work, or one that kills its worker process.
        Interrupted: the user stopped it; what is done is journalled.
    """
    records: dict[str, Record] = {}
    reused = 0
    count = min(workers or os.cpu_count() or 1, max(1, len(jobs) // JOBS_PER_WORKER))
    try:
        with (
            bars.task(progress, "prepare images", len(jobs)),
            folder.journal.appending() as lines,
            pool.Stop() as stop,
        ):
            results = pool.mapped(
                run_job,
                jobs,
                workers=count,
                stop=stop,
                setup=begin,
                setup_args=(shared,),
                died=_refuse_deadly,
            )
            with closing(results):
                for job, done in zip(jobs, results, strict=False):
                    if isinstance(done, Unusable):
                        findings.add(done.reason, job.found.where, done.detail)
                    else:
                        records[job.case_id] = done.record
                        reused += done.reused
                        lines.add(folder.line(done.record))
                    progress.advance()
    except KeyboardInterrupt:
        raise pool.interrupted() from None
    return records, reused


def _refuse_deadly(job: Job) -> NoReturn:
    got = "one that kills it (out of memory, or a crash in a decoder)"
    fix = "take the image out, or give the machine more memory; the same command goes on where it stopped"
    raise DataError(
        expected("an image that a worker process can prepare", got=got, where=job.found.where, fix=fix)
    )
