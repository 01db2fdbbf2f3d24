"""``meninx verify``: is a folder whole, and does its epsilon follow from its ledger?"""

from __future__ import annotations

from pathlib import Path

from meninx.cli.console import Output


def verify(folder: Path, /, *, output: Output = Output()) -> None:  # noqa: B008 (frozen)
    """Check that a folder is as meninx wrote it: digests, records that belong together, epsilon computed again from the ledger.

    Nothing is written. It sees damage, mixed-up parts and edited numbers, but no forgery: nothing is signed.
    Of several folders, one that is whole gets one line; `--verbose` and `--json` show every check.
    Exit code 0: no check failed (impossible ones are named). 3: damaged or incomplete. 4: a promise to
        patients is broken.

    Args:
        folder: A run, dataset, clean archive, release or sweep, or a folder of them.
    """
    from meninx.verify import stage

    result = stage.run(folder, progress=output.progress())
    if output.verbose and not output.json:
        print(result.in_full())
    else:
        output.show(result)
    result.raise_if_failed()
