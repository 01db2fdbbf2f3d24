"""``meninx reidentify``: restore originals from an escrow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from meninx.cli import early
from meninx.cli.console import Output


def reidentify(
    escrow: Path,
    /,
    *pseudonyms: str,
    out: Path,
    key: Path | None = None,
    broker: Path | None = None,
    reason: str = "",
    ids: Path | None = None,
    dicom: Path | None = None,
    all: Annotated[bool, Parameter(negative="")] = False,
    site: str | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Write the original identifiers of patients into one private table, and record who asked and why.

    Clean DICOM files are read and never rewritten. The access log lies beside the
    key file. Exit code 3: none of the patients is in the escrow. 4: the escrow is for another key or site, or
    was changed.

    Args:
        escrow: The file escrow.meninx.
        pseudonyms: New PatientIDs; or give --ids, --dicom or --all.
        out: CSV table to write, readable by you only; outside of every result.
        key: File with the site key.
        broker: File with the broker's private key, for an escrow that was sealed for a broker.
        reason: Who needs it and what for; it stands in the access log. Asked for at a terminal.
        ids: CSV table with a column pseudonym (or patient_id, id_new).
        dicom: Clean DICOM file or folder; restores its patients, UIDs, accession numbers and dates, each
            with its place.
        all: Restore every patient of the escrow.
        site: Refuse the escrow of another site.
        dry_run: Count only; nothing is written and nothing is recorded.
        overwrite: Replace an existing table.
    """
    early.exists(escrow, key, broker, ids, dicom)
    early.new_file(out, overwrite=overwrite or dry_run)
    from meninx.deid.escrow import identities
    from meninx.deid.escrow import reidentify as stage
    from meninx.deid.escrow.escrow_file import Opener

    listed = identities.pseudonyms_in(ids) if ids else ()
    request = stage.Request(
        pseudonyms=tuple(dict.fromkeys((*pseudonyms, *listed))), dicom=dicom, everything=all
    )
    opener = Opener(key=key, broker=broker)
    if not reason and not dry_run and sys.stdin is not None and sys.stdin.isatty():
        reason = input("reason: ")
    output.show(stage.run(escrow, opener, request, out, reason=reason, site=site, dry_run=dry_run))
