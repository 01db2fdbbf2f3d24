"""Checks of a run's audit: its summary belongs to the run, and follows from the records of its parts."""

from __future__ import annotations

from pathlib import Path

from meninx.core import artifacts, audit_parts
from meninx.core.artifacts import RunRecord
from meninx.core.audit_summary import AuditRecord
from meninx.verify.check_list import CheckList, plain


def check(book: CheckList, root: Path) -> None:
    """Derive the audit of a run again from the records of its parts, and compare; nothing without any.

    Args:
        book: collects the lines.
        root: the run folder, or the folder of its records in a dossier.
    """
    from meninx.audit import rederivation

    records = rederivation.records_of(root)
    summary = artifacts.read(root, AuditRecord)
    if not records and summary is None:
        return
    what, run = "audits from their records", artifacts.read(root, RunRecord)
    wrong = [plain(words) for words in rederivation.records_contradict(root)]
    remark = ", ".join(records)
    if run is not None and summary is not None:
        stale = audit_parts.stale(root, summary, run)
        place = artifacts.place(AuditRecord)
        found = [stale] if stale else rederivation.summary_contradicts(root, summary, run)
        wrong += [f"{place}: {plain(words)}" for words in found]
        remark += f", and {len(summary.findings)} findings of the summary"
    book.judge(what, wrong, privacy=True, remark=remark, fix="run `meninx audit RUN` again")
    for words in rederivation.UNSEEN:
        book.impossible("audit", words)
