"""``meninx train``: one run, private or not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from meninx import workflow
from meninx.cli import early
from meninx.cli.console import Output
from meninx.cli.flags import with_settings
from meninx.core import workspace
from meninx.core.errors import Interrupted
from meninx.core.progress import SILENT
from meninx.train.config import TrainConfig


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
    workflow.refuse_page(report, archives, data, dry_run=dry_run)
    if resume is None:
        workspace.outside(out, [data])
    from meninx.learn import distributed

    speaks = distributed.is_main()
    try:
        found = workflow.train(
            config,
            data,
            out,
            page=report,
            archives=archives,
            resume=resume,
            recipe=recipe,
            dry_run=dry_run,
            progress=output.progress() if speaks else SILENT,
        )
    except Interrupted as error:
        if speaks:
            raise
        raise SystemExit(error.exit_code) from error  # process 0 says it, or the one that is gone did
    if speaks:
        output.show(*found.results)
