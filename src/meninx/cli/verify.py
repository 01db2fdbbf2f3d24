"""``meninx verify``: a folder of meninx against its records, or DICOM files against what they may hold."""

from __future__ import annotations

from pathlib import Path

from meninx.cli import early
from meninx.cli.console import Output
from meninx.cli.flags import with_settings
from meninx.verify.config import DicomCheckConfig


@with_settings("originals", "identifiers", "page")
def verify(
    folder: Path,
    /,
    *,
    config: DicomCheckConfig,
    signer: str = "",
    decision: Path | None = None,
    recipe: str | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Check that a folder is as meninx wrote it, or what DICOM files of any origin still hold.

    Nothing but the page is written. A folder of meninx: digests, matching records, epsilon from the
    ledger. The command detects damage, mixed-up parts and edited numbers; forgery only where a folder is
    signed (a clean archive, a medium of one, a dossier) and --signer names the key. Of a dossier, epsilon,
    the bounds on attacks and every fact are computed again from the files in it. Of several folders, each
    one without a fault is shown in one line; `--verbose` and `--json` show every check. Exit code 0: no check
    failed (checks that cannot be made are named). 3: damaged, incomplete, or a dossier of another version,
    whose words cannot be derived again. 4: a guarantee to patients is broken.

    DICOM files that another program wrote (or of a clean archive, with `--dicom`): markers, attributes that
    the profile removes, private attributes, UIDs, dates, hidden bytes, and, with `--originals` or
    `--identifiers`, every identifier at every depth, in paths and in the bytes of the pixels; with
    `--pixels` also in what the pixels show. A file that no marker calls de-identified and that names a
    person fails without any list. For each file: nothing found, suspicious, a leak or unreadable; values
    are never shown. The last line names the parts that were not checked. Exit code 0: no leak in what was
    checked; read the counts of suspicious files. 3: files could not be read. 4: an identifier was found, or
    a file is not de-identified.

    Args:
        folder: DICOM files of any origin; or a run, dataset, clean archive, medium, predictions, release,
            sweep or dossier, or a folder of them.
        signer: Fingerprint of the key that has to have signed the dossier, the clean archive or the archive
            of the medium, as the signer read it to you.
        decision: Filled-in copy of the dossier's form decision.json, to be checked with it.
        recipe: TOML file with these settings; flags override it.
    """
    early.exists(folder, decision, config.originals, config.identifiers, config.crosswalks)
    from meninx.verify import stage

    result = stage.run(folder, signer=signer, decision=decision, config=config, progress=output.progress())
    if isinstance(result, stage.VerifyResult) and output.verbose and not output.json:
        print(result.in_full())
    else:
        output.show(result)
    result.raise_if_failed()
