"""``meninx report``: one HTML page for the data-protection officer."""

from __future__ import annotations

from pathlib import Path

from meninx.cli import early
from meninx.cli.console import Output
from meninx.cli.flags import with_settings
from meninx.core.errors import UsageError, problem
from meninx.report.config import ReportConfig


@with_settings()
def report(
    *sources: Path,
    config: ReportConfig,
    out: Path = Path("report.html"),
    recipe: str | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Write one HTML page about de-identification, data and runs. The page loads no external resources.

    Args:
        sources: Folders that deid, prepare, train, sweep and federate wrote, or folders of them. Runs of one
            federated study are shown as one study.
        out: HTML file to write.
        recipe: TOML file with these settings; flags override it.
    """
    if not sources:
        fix = "give the folders that deid, prepare, train and sweep wrote"
        raise UsageError(problem("there is nothing to report on", where="meninx report", fix=fix))
    early.exists(*sources)
    if not out.is_dir():
        early.new_file(out, overwrite=config.overwrite)
    from meninx.report import stage

    output.show(stage.run(config, sources, out, progress=output.progress()))
