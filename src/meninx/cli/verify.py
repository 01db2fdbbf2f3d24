"""``meninx verify``: check digests and records of a folder, and the epsilon of its ledger."""

from __future__ import annotations

from pathlib import Path

from meninx.cli import early
from meninx.cli.console import Output


def verify(folder: Path, /, *, output: Output = Output()) -> None:  # noqa: B008 (frozen)
    """Check that a folder is as meninx wrote it: digests, matching records, epsilon from the ledger.

    Nothing is written. The command detects damage, mixed-up parts and edited numbers, but no forgery, because
    nothing is signed. Of several folders, each one without a fault is shown in one line; `--verbose` and
    `--json` show every check. Exit code 0: no check failed (checks that cannot be made are named). 3: damaged
    or incomplete. 4: a guarantee to patients is broken.

    Args:
        folder: A run, dataset, clean archive, predictions, release or sweep, or a folder of them.
    """
    early.exists(folder)
    from meninx.verify import stage

    result = stage.run(folder, progress=output.progress())
    if output.verbose and not output.json:
        print(result.in_full())
    else:
        output.show(result)
    result.raise_if_failed()
