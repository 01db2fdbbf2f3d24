"""``meninx train``: one run, private or not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from meninx.cli import early
from meninx.cli.console import Output
from meninx.cli.flags import with_settings
from meninx.core import workspace
from meninx.core.errors import Interrupted, UsageError
from meninx.core.progress import SILENT
from meninx.core.result import Result
from meninx.report.config import ReportConfig
from meninx.train.config import EvaluateConfig, TrainConfig


@with_settings("model", "epsilon", "delta", "epochs", "batch_size", "lr", "augment", "name", "seed", "device")
def train(
    data: Path,
    /,
    *,
    config: TrainConfig,
    out: Path = Path("runs"),
    recipe: str | None = None,
    resume: Path | None = None,
    report: Path | None = None,
    archives: tuple[Path, ...] = (),
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Train a model on a prepared dataset, with or without differential privacy, into a new run folder.

    On several GPUs or machines: `torchrun --nproc-per-node 4 -m meninx train ...`; the run is the same.

    Args:
        data: Prepared dataset folder.
        out: Folder of runs; the run gets a new folder in it.
        recipe: Packaged recipe or TOML file; flags override it.
        resume: Run folder to continue with its own config; other settings are refused.
        report: HTML page to write at the end: the run is measured on the test split and reported.
        archives: Clean archives to describe on that page, as `meninx deid` wrote them.
        dry_run: Print the plan (cases, parameters, noise, epsilon) and write nothing.
    """
    early.dataset(data)
    early.runs(resume)
    early.extra("train", *(["export"] if "onnx" in config.export else []))
    early.device(config.runtime.device)
    early.pretrained(config.model.pretrained)
    early.dataset(Path(config.model.standardize) if config.model.standardize else None)
    early.network(config.model.name, data)
    _check_page(report, archives, dry_run=dry_run)
    if resume is None:
        workspace.outside(out, [data])
    from meninx.learn import distributed
    from meninx.train import stage

    speaks = distributed.is_main()
    progress = output.progress() if speaks else SILENT
    try:
        result = stage.run(
            config, data, out, progress=progress, resume=resume, dry_run=dry_run, recipe=recipe
        )
    except Interrupted as error:
        if speaks:
            raise
        raise SystemExit(error.exit_code) from error  # process 0 says it, or the one that is gone did
    if not speaks:
        return
    found: list[Result] = [result]
    if report is not None:
        from meninx.report import stage as page
        from meninx.train import evaluate

        config_of_test = EvaluateConfig(device=config.runtime.device)
        found.append(evaluate.run(config_of_test, result.out, progress=progress))
        found.append(page.run(ReportConfig(), (*archives, data, result.out), report, progress=progress))
    output.show(*found)


def _check_page(report: Path | None, archives: tuple[Path, ...], *, dry_run: bool) -> None:
    """Refuse a page that cannot be written, before anything slow.

    Raises:
        UsageError: the page exists, or a flag has no effect.
    """
    if report is None:
        if archives:
            raise UsageError("archives are described on the page of --report: give --report PAGE.html")
        return
    if dry_run:
        raise UsageError("a dry run trains nothing, so there is nothing to report on: leave --report out")
    early.exists(*archives)
    early.new_file(report, overwrite=False)
