"""``meninx demo``: the full pipeline on invented patients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from meninx.cli.console import Output
from meninx.demo.config import DemoConfig


def demo(
    out: Path,
    /,
    *,
    config: Annotated[DemoConfig, Parameter(name="*")] = DemoConfig(),  # noqa: B008 (frozen)
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Run the full pipeline on invented patients: three hospitals, a dataset, two models, one report.

    Args:
        out: New folder for everything.
    """
    from meninx.demo import stage

    output.show(stage.run(config, out, progress=output.progress()))
