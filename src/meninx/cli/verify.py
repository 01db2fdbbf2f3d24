"""``meninx verify``: check digests and records of a folder, and the epsilon of its ledger."""

from __future__ import annotations

from pathlib import Path

from meninx.cli import early
from meninx.cli.console import Output


def verify(
    folder: Path,
    /,
    *,
    signer: str = "",
    decision: Path | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Check that a folder is as meninx wrote it: digests, matching records, epsilon from the ledger.

    Nothing is written. The command detects damage, mixed-up parts and edited numbers; forgery only where a
    folder is signed (a clean archive, a dossier) and --signer names the key. Of a dossier, epsilon, the
    bounds on attacks and every fact are computed again from the files in it. Of several folders, each one
    without a fault is shown in one line; `--verbose` and `--json` show every check. Exit code 0: no check
    failed (checks that cannot be made are named). 3: damaged, incomplete, or a dossier of another version,
    whose words cannot be derived again. 4: a guarantee to patients is broken.

    Args:
        folder: A run, dataset, clean archive, predictions, release, sweep or dossier, or a folder of them.
        signer: Fingerprint of the key that has to have signed the dossier or the clean archive, as the signer
            read it to you.
        decision: Filled-in copy of the dossier's form decision.json, to be checked with it.
    """
    early.exists(folder, decision)
    from meninx.verify import stage

    result = stage.run(folder, signer=signer, decision=decision, progress=output.progress())
    if output.verbose and not output.json:
        print(result.in_full())
    else:
        output.show(result)
    result.raise_if_failed()
