"""``meninx evaluate``: metrics of a run on data that training did not use."""

from __future__ import annotations

from pathlib import Path

from meninx.cli import early
from meninx.cli.console import Output
from meninx.cli.flags import with_settings
from meninx.train.config import EvaluateConfig


@with_settings()
def evaluate(
    run: Path,
    /,
    *,
    config: EvaluateConfig,
    data: Path | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Measure a run on the test split, with intervals over patients.

    Thresholds are chosen on the validation split.

    Args:
        run: Run folder.
        data: Prepared dataset, if it is not the one of the training.
    """
    pairs = [folder for text in config.repeats for folder in map(Path, text.split("="))]
    early.runs(run, config.baseline, *pairs)
    early.dataset(data)
    early.exists(config.dicom)
    early.extra("train", *(["export"] if "dicom-seg" in config.predictions else []))
    early.device(config.device)
    early.same_task(data, run, config.baseline)
    from meninx.train import evaluate as measure

    output.show(measure.run(config, run, data, progress=output.progress()))
