"""``meninx escrow``: seal the way back to the patients, and look at who used it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from meninx.cli import early
from meninx.cli.console import Output
from meninx.cli.examples import epilogue
from meninx.cli.groups import GROUPS

escrow = App("escrow", GROUPS["escrow"], help_epilogue=epilogue("escrow"))


@escrow.command(help_epilogue=epilogue("escrow seal"))
def seal(
    clean: Path,
    /,
    *,
    key: Path,
    broker: Path | None = None,
    remove_plain: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Write private/escrow.meninx of a clean archive, as `meninx deid --escrow` does.

    Args:
        clean: Output folder of `meninx deid`.
        key: File with the site key that made it.
        broker: File with a broker's public key; without it the escrow is for the site key's holder.
        remove_plain: Then remove everything else that holds originals from private/. Later runs of
            `meninx deid` in the folder must seal it again. A removed file can still be on the disk and in
            backups.
        dry_run: Change nothing; show what would be removed.
    """
    early.exists(clean, key, broker)
    from meninx.deid.escrow import sealing
    from meninx.deid.escrow.escrow_file import BY_KEY, Recipient

    recipient = Recipient.of(str(broker) if broker else BY_KEY)
    output.show(sealing.seal(clean, key, recipient, remove_plain=remove_plain, dry_run=dry_run))


@escrow.command(help_epilogue=epilogue("escrow broker-key"))
def broker_key(path: Path, /, *, output: Output = Output()) -> None:  # noqa: B008 (frozen)
    """Make the key pair of a broker: PATH, which stays with the broker, and PATH.pub for the hospitals.

    Args:
        path: New file for the private key.
    """
    from meninx.deid.escrow.broker_key import make_pair

    output.show(make_pair(path))


@escrow.command(help_epilogue=epilogue("escrow log"))
def log(
    escrow: Path,
    /,
    *,
    key: Path | None = None,
    broker: Path | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Check the access log beside a key, and show who opened escrows of a site with it. Nothing is written.

    Exit code 4: a line was changed, removed or added by somebody who does not hold the key, or the log was
    deleted or cut. The latter is noticed by records beside the log and beside the escrow: not if both are
    deleted, too.

    Args:
        escrow: An escrow of the site.
        key: File with the site key.
        broker: File with the broker's private key.
    """
    early.exists(escrow, key, broker)
    from meninx.deid.escrow.access_log import report
    from meninx.deid.escrow.escrow_file import Opener

    output.show(report(escrow, Opener(key=key, broker=broker)))
