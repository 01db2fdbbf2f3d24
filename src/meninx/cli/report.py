"""``meninx report``: one HTML page for the data-protection officer, or one folder for an output checker."""

from __future__ import annotations

from pathlib import Path

from meninx.cli import early
from meninx.cli.console import Output
from meninx.cli.flags import with_settings
from meninx.core.errors import UsageError, problem
from meninx.report.config import ReportConfig

_PAGE = Path("report.html")


@with_settings()
def report(
    *sources: Path,
    config: ReportConfig,
    out: Path = _PAGE,
    dossier: Path | None = None,
    key: Path | None = None,
    release: str = "",
    chosen_by: str = "",
    chosen_on: str = "",
    dry_run: bool = False,
    recipe: str | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Write one HTML page about de-identification, data and runs. The page loads no external resources.

    With `--dossier` it writes instead one folder from which an output checker can decide on the release of a
    model: the release, bounds, attacks with their controls, ledger, de-identification, lineage and
    environment, as JSON, RO-Crate, HTML and PDF, with the digest of every file. `meninx verify` checks it
    elsewhere.

    Args:
        sources: Folders that deid, prepare, train, sweep and federate wrote, or folders of them. Runs of one
            federated study are shown as one study.
        out: HTML file to write.
        dossier: Folder of an egress dossier to write instead of the page.
        key: File of the secret key that signs the dossier; made on first use, readable by its owner only.
        release: Run whose model is to be released, by its identity or name or path of its folder, where
            several finished runs are given. The cost of the others counts.
        chosen_by: Number by which that run was chosen among several, e.g. auroc, as the dossier states it.
        chosen_on: Split on which that number was measured, e.g. valid.
        dry_run: Say what the dossier would hold, and write nothing.
        recipe: TOML file with these settings; flags override it.
    """
    if not sources:
        fix = "give the folders that deid, prepare, train and sweep wrote"
        raise UsageError(problem("there is nothing to report on", where="meninx report", fix=fix))
    early.exists(*sources)
    chosen = {"release": release, "chosen_by": chosen_by, "chosen_on": chosen_on}
    if dossier is not None:
        _refuse_idle(config, out)
        early.extra("dossier", "train")
        from meninx.dossier import stage as dossiers
        from meninx.dossier.config import DossierConfig

        own = {"title": config.title} if config.title != ReportConfig().title else {}
        settings = DossierConfig(
            **own, **chosen, date=config.date, overwrite=config.overwrite, dry_run=dry_run
        )
        output.show(dossiers.run(settings, sources, dossier, key=key, progress=output.progress()))
        return
    idle = [name for name, value in {**chosen, "key": key, "dry_run": dry_run}.items() if value]
    if idle:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise UsageError(
            problem(f"a page has no {flags}", where="meninx report", fix="give --dossier FOLDER")
        )
    if not out.is_dir():
        early.new_file(out, overwrite=config.overwrite)
    from meninx.report import stage

    output.show(stage.run(config, sources, out, progress=output.progress()))


def _refuse_idle(config: ReportConfig, out: Path) -> None:
    """Refuse settings of the page beside ``--dossier``, which has none of them."""
    usual, shared = ReportConfig(), {"title", "date", "overwrite"}
    idle = [
        name for name in vars(usual) if name not in shared and getattr(config, name) != getattr(usual, name)
    ]
    idle += ["out"] if out != _PAGE else []
    if idle:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        fix = "leave them out, or write the page by a command of its own"
        raise UsageError(problem(f"a dossier has no {flags}", where="meninx report", fix=fix))
