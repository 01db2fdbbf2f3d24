"""``meninx demo``: the full pipeline on synthetic patients."""

from __future__ import annotations

from pathlib import Path

from meninx.cli import early
from meninx.cli.console import Output
from meninx.cli.flags import with_settings
from meninx.demo.config import DemoConfig


@with_settings()
def demo(
    out: Path,
    /,
    *,
    config: DemoConfig,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Run the full pipeline on synthetic patients of three hospitals that train together, up to the report.

    Each hospital de-identifies and prepares its own images. They train together by the rounds, the secure
    aggregation and the differential privacy of a real study, in one process; beside it without privacy, each
    alone, and with all data in one place.

    Args:
        out: New folder for all results.
    """
    if not config.dry_run:
        early.extra("train")
    from meninx.demo import stage

    output.show(stage.run(config, out, progress=output.progress()))
