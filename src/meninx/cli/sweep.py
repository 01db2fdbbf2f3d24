"""``meninx sweep``: utility against epsilon, several seeds, one table and one figure."""

from __future__ import annotations

from pathlib import Path

from meninx.cli import early
from meninx.cli.console import Output
from meninx.cli.flags import with_settings
from meninx.core import workspace
from meninx.train.config import SweepConfig


@with_settings(
    "epsilons", "seeds", "non_private", "model", "delta", "epochs", "batch_size", "lr", "name", "device"
)
def sweep(
    data: Path,
    /,
    *,
    config: SweepConfig,
    out: Path = Path("runs/sweep"),
    recipe: str | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Train over several epsilons and seeds; write a table and a figure of utility against epsilon.

    Args:
        data: Prepared dataset folder.
        out: Folder of the sweep; finished runs in it are not repeated.
        recipe: Packaged recipe or TOML file; flags override it.
    """
    early.dataset(data)
    early.extra("train", *(["export"] if "onnx" in config.export else []))
    early.device(config.runtime.device)
    early.pretrained(config.model.pretrained)
    early.dataset(Path(config.model.standardize) if config.model.standardize else None)
    early.network(config.model.name, data)
    workspace.outside(out, [data])
    from meninx.train.sweep import run

    output.show(run(config.training, config.grid, data, out, progress=output.progress(), recipe=recipe))
