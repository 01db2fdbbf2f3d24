"""``meninx audit``: what theory bounds, and whether a run keeps what it claims."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from meninx.audit.config import BoundsConfig
from meninx.cli import early
from meninx.cli.console import Output
from meninx.cli.examples import epilogue
from meninx.cli.flags import with_settings

HELP = "Audit private training: bounds from theory, and tests of the implementation."
audit = App("audit", HELP, help_epilogue=epilogue("audit"))


@audit.command(help_epilogue=epilogue("audit bounds"))
@with_settings("units", "epsilon", "noise_multiplier", "sample_rate", "steps", "eps_min", "eps_max", "n_eps")
def bounds(
    *,
    config: BoundsConfig,
    run: Path | None = None,
    recipe: str | None = None,
    out: Path | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Bound what any attack on one patient can reach, over an axis of epsilon and for one recipe or run.

    Writes a table (bounds.csv), a record (bounds.json) and a figure (bounds.svg, bounds.png). No dataset is
    read. The mechanism comes from a run's ledger, from a recipe of `meninx train`, or from flags.

    Args:
        run: Private run whose ledger states the mechanism.
        recipe: Recipe of `meninx train` that states the mechanism, or TOML file with these settings.
        out: Folder of the four files; by default bounds/, or audit/ in the run folder.
    """
    early.extra("train")
    early.runs(run)
    from meninx.audit.bounds import run_bounds

    place = out or (Path("bounds") if run is None else run / "audit")
    output.show(run_bounds(config, place, run=run, recipe=recipe, progress=output.progress()))
