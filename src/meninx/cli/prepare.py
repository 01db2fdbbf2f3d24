"""``meninx prepare``: one dataset of cleaned images."""

from __future__ import annotations

from pathlib import Path

from meninx.cli import early
from meninx.cli.console import Output
from meninx.cli.flags import with_settings
from meninx.core import workspace
from meninx.prepare.config import PrepareConfig


@with_settings(
    "reader",
    "table",
    "label_columns",
    "patient_column",
    "size",
    "spatial_dims",
    "split",
    "fractions",
    "limit",
    "dry_run",
)
def prepare(
    source: Path,
    out: Path,
    /,
    *,
    config: PrepareConfig,
    recipe: str | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Build one dataset of cleaned images with labels, splits by patient and sites.

    Args:
        source: Folder whose layout is recognised, or that --reader names.
        out: New dataset folder.
        recipe: TOML file with these settings; flags override it.
    """
    early.exists(source)
    workspace.apart(out, [source])
    if workspace.read_marker(out) is not None:  # the stage judges the folders of older versions
        early.result(out, source, stage="prepare", replaced=config.work.resume or config.work.overwrite)
    from meninx.prepare import stage

    output.show(stage.run(config, source, out, progress=output.progress()))
