"""``meninx audit reconstruct``: what attackers see of images in the steps of a run, at once or in steps."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from meninx.audit.reconstruction.config import ReconstructionConfig
from meninx.cli import early
from meninx.cli.console import Output
from meninx.cli.examples import epilogue
from meninx.cli.flags import with_settings

HELP = "Attack the steps of a run: which images of patients can be reconstructed or identified?"
reconstruct = App("reconstruct", HELP, help_epilogue=epilogue("audit reconstruct"))
_EVERYDAY = ("attacks", "eps_first", "eps_last", "eps_step", "batches")


@reconstruct.default
@with_settings(*_EVERYDAY)
def reconstruct_run(
    run: Path,
    /,
    *,
    config: ReconstructionConfig,
    public: Path | None = None,
    out: Path | None = None,
    data: Path | None = None,
    recipe: str | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Attack a run's steps, match reconstructions with originals, identify patients, and draw.

    Attacks are run at the noise of the run, at an axis of epsilon and without noise. An attack succeeds by
    either of two criteria: more images are close to their reconstruction than the same decoder without a
    leak and public images explain, or the reconstructions put the right image first among all members more
    often than that. Identification counts how often an attacker who sees all steps picks the right one of n
    images. Writes audit/reconstruction.json, tables and figures. Images of patients stay in the run's
    `private/`. Exit code 5: an attack exceeds the bound, or a control failed.

    Args:
        run: A finished run of `meninx train`.
        public: Prepared dataset whose images the attacker has; half of the test patients without it.
        out: Folder that gets audit/ with record, tables and figures; by default the run folder.
        data: Folder of the run's dataset, if it was moved since the training.
        recipe: TOML file with these settings; flags override it.
    """
    _run(config, run, ("create", "match", "visualise"), public, out, data, output)


@reconstruct.command(help_epilogue=epilogue("audit reconstruct create"))
@with_settings(*_EVERYDAY, "bins")
def create(
    run: Path,
    /,
    *,
    config: ReconstructionConfig,
    public: Path | None = None,
    data: Path | None = None,
    recipe: str | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Attack steps of a run and keep what the attacks make of them.

    Files lie in private/audit/reconstruction/ of the run. An interrupted creation goes on when the command is
    repeated with the same settings.

    Args:
        run: A finished run of `meninx train`.
        public: Prepared dataset whose images the attacker has; half of the test patients without it.
        data: Folder of the run's dataset, if it was moved since the training.
        recipe: TOML file with these settings; flags override it.
    """
    _run(config, run, ("create",), public, None, data, output)


@reconstruct.command(name="match", help_epilogue=epilogue("audit reconstruct match"))
@with_settings("metrics", "threshold", "candidates")
def match(
    run: Path,
    /,
    *,
    config: ReconstructionConfig,
    public: Path | None = None,
    out: Path | None = None,
    data: Path | None = None,
    recipe: str | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Match what was created with the originals, and count successes that nulls do not explain.

    Two criteria are counted: how many images are close to their reconstruction, matched one to one, and how
    often the reconstructions put the right image first among all members. Identification counts how often an
    attacker who sees all steps picks the right one of n images.

    Args:
        run: A finished run of `meninx train` whose candidates were created.
        public: Prepared dataset whose images the attacker has; half of the test patients without it.
        out: Folder that gets audit/ with record and tables; by default the run folder.
        data: Folder of the run's dataset, if it was moved since the training.
        recipe: TOML file with these settings; flags override it.
    """
    _run(config, run, ("match",), public, out, data, output)


@reconstruct.command(help_epilogue=epilogue("audit reconstruct visualise"))
@with_settings("best_images", "metrics", "threshold", "pictures")
def visualise(
    run: Path,
    /,
    *,
    config: ReconstructionConfig,
    out: Path | None = None,
    data: Path | None = None,
    recipe: str | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Draw figures, step curves, and pictures of the best, the median and the worst reconstruction.

    Pictures of patients lie in private/audit/reconstruction/shown/ of the run. Those in audit/reconstruction/
    show synthetic patients, unless `--pictures` says otherwise.

    Args:
        run: A finished run of `meninx train` whose candidates were matched.
        out: Folder that has audit/ with the record; by default the run folder.
        data: Folder of the run's dataset, if it was moved since the training.
        recipe: TOML file with these settings; flags override it.
    """
    _run(config, run, ("visualise",), None, out, data, output)


def _run(
    config: ReconstructionConfig,
    run: Path,
    steps: tuple[str, ...],
    public: Path | None,
    out: Path | None,
    data: Path | None,
    output: Output,
) -> None:
    early.runs(run)
    early.dataset(public)
    early.dataset(data)
    early.extra("train")
    early.device(config.device)
    from meninx.audit.reconstruction.steps import run_reconstruction

    result = run_reconstruction(
        config, run, steps=steps, public=public, out=out, data=data, progress=output.progress()
    )
    output.show(result)
    result.raise_if_refuted()
