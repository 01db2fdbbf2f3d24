"""``meninx federate simulate``: a federated study of several datasets on one machine, in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from meninx.cli import early
from meninx.cli.console import Output
from meninx.cli.flags import with_settings
from meninx.core import workspace
from meninx.core.errors import Interrupted, problem
from meninx.core.setting_types import Device
from meninx.federated.config import StudyConfig


@with_settings("rounds", "local_steps", "local_epochs", "algorithm", "aggregation", "train")
def simulate(
    *datasets: Path,
    config: StudyConfig,
    out: Path = Path("simulation"),
    recipe: str | None = None,
    baselines: Annotated[bool, Parameter(negative="")] = False,
    device: Device = "auto",
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Train prepared datasets together as sites of a study, in one process, and compare.

    It uses the rounds, the secure aggregation and the records of a real study. Nothing travels, so nothing is
    hidden from whoever runs it.

    Args:
        datasets: Prepared dataset folders, one per site.
        out: Folder of the simulation; a study in it that was stopped goes on, finished runs are not repeated.
        recipe: Packaged recipe or TOML file of `meninx train`, or a study's TOML file; flags override it.
        baselines: Also train each site alone and all data pooled, with the same steps (or passes).
        device: Where networks run.
    """
    for path in datasets:
        early.dataset(path)
    early.extra("train")
    early.device(device)
    workspace.outside(out, list(datasets))
    from meninx.federated.simulate import run

    try:
        found = run(config, datasets, out, baselines=baselines, device=device, progress=output.progress())
    except KeyboardInterrupt:
        what, fix = "stopped; what was finished is saved", "the same command again goes on"
        raise Interrupted(problem(what, where=out.name, fix=fix)) from None
    output.show(found)
