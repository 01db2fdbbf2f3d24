"""The privacy ledger on disk: read whole and verified, extended one durable line at a time."""

from __future__ import annotations

from meninx.core import files
from meninx.core.run import Run
from meninx.privacy.ledger import Ledger
from meninx.privacy.plan import Plan


def read(run: Run, *, anchor: tuple[int, str] | None = None) -> Ledger:
    """Return the run's ledger, verified; an empty one when none was begun.

    Args:
        run: the run folder.
        anchor: that of a checkpoint; the ledger must contain it.

    Raises:
        PrivacyRefusal: the file was changed, or ends before the anchor.
    """
    path = run.ledger_path
    text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.is_file() else ""
    return Ledger.parse(text, anchor=anchor)


def enter(run: Run, ledger: Ledger, plan: Plan, step: int, *, stream: str) -> Ledger:
    """Write the next line to the disk, wait until it is there, and return the ledger that holds it."""
    longer, line = ledger.next(plan, step, stream=stream)
    files.append_line(run.ledger_path, line)
    return longer
