"""Checks of a run's audit: its summary follows from the records of its parts, and these from the ledgers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meninx.core import artifacts, audit_parts
from meninx.core.artifacts import RunRecord
from meninx.core.audit_summary import AuditRecord
from meninx.core.summaries import number_of
from meninx.verify import attack_bounds, bounds_checks
from meninx.verify.audited_ledgers import AuditedLedgers
from meninx.verify.check_list import CheckList, plain


def check(book: CheckList, root: Path, ledgers: AuditedLedgers | None) -> None:
    """Derive the audit of a run again from the records of its parts, and compare; nothing without any.

    Args:
        book: collects the lines.
        root: the run folder, or the folder of its records in a dossier.
        ledgers: of the run; None where there are none to compare with.
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
        remark += f", and {number_of(len(summary.findings), 'finding')} of the summary"
    book.judge(what, wrong, privacy=True, remark=remark, fix="run `meninx audit RUN` again")
    _against_ledgers(book, root, records, ledgers)
    for words in rederivation.UNSEEN:
        book.impossible("audit", words)


def _against_ledgers(
    book: CheckList, root: Path, records: dict[str, Any], ledgers: AuditedLedgers | None
) -> None:
    """Check the bounds, and what attacks say about them, against the ledgers."""
    if ledgers is None:
        why = "there is no ledger of a private run, or not of all runs behind it"
        book.impossible(bounds_checks.WHAT, why)
        return
    if "bounds" in records:
        bounds_checks.check(book, records["bounds"], ledgers, root)
    else:
        book.impossible(bounds_checks.WHAT, "no bounds are here")
    compared = [name for name in records if name in attack_bounds.PARTS]
    if not compared or ledgers.void:
        return
    wrong = [
        f"{audit_parts.place_of(name)}: {plain(words)}"
        for name in compared
        for words in attack_bounds.contradictions(records[name], ledgers)
    ]
    book.judge("attacks against the ledger", wrong, privacy=True, remark=", ".join(compared))
