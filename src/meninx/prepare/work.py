"""All cases through one or several processes, in a form that can be stopped at any moment."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Generator, Sequence
from contextlib import closing

from meninx.core import progress as bars
from meninx.core.errors import Interrupted
from meninx.prepare.build import Job, Record, run_job
from meninx.prepare.checks import Findings, Unusable
from meninx.prepare.outputs import Folder

JOURNAL_EVERY = 64


def do_all(
    jobs: Sequence[Job], folder: Folder, findings: Findings, workers: int, progress: bars.Progress
) -> tuple[dict[str, Record], int]:
    """Return the record of every usable case and how many were up to date already.

    Args:
        jobs: the cases.
        folder: told of what is done, so that a killed run loses little.
        findings: told of what cannot be used.
        workers: processes; 0 for one a core.
        progress: told of every case.

    Raises:
        DataError: a case that stops the work.
        Interrupted: the user stopped it; what is done is journalled.
    """
    records: dict[str, Record] = {}
    fresh: list[Record] = []
    reused = 0
    try:
        with bars.task(progress, "prepare images", len(jobs)), closing(_results(jobs, workers)) as results:
            for job, done in zip(jobs, results, strict=False):
                if isinstance(done, Unusable):
                    findings.add(done.reason, job.found.where, done.detail)
                else:
                    records[job.case_id] = done
                    reused += done == job.before
                    fresh += [] if done == job.before else [done]
                if len(fresh) >= JOURNAL_EVERY:
                    folder.journal(fresh)
                    fresh = []
                progress.advance()
    except KeyboardInterrupt:
        raise Interrupted("stopped; what is done is kept: run again with resume") from None
    finally:
        folder.journal(fresh)
    return records, reused


def _results(jobs: Sequence[Job], workers: int) -> Generator[Record | Unusable, None, None]:
    count = min(workers or os.cpu_count() or 1, max(1, len(jobs) // 8))
    if count == 1 or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(run_job, jobs)
        return
    with multiprocessing.get_context("fork").Pool(count) as pool:
        yield from pool.imap(run_job, jobs, chunksize=8)
