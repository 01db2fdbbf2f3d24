"""``meninx report``: one HTML page for the data-protection officer."""

from __future__ import annotations

from pathlib import Path

from meninx.cli.console import Output
from meninx.cli.flags import with_settings
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
        sources: Folders that deid, prepare, train and sweep wrote, or folders of them.
        out: HTML file to write.
        recipe: TOML file with these settings; flags override it.
    """
    from meninx.report import stage

    output.show(stage.run(config, sources, out, progress=output.progress()))
