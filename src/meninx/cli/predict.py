"""``meninx predict``: probabilities and label maps of new images."""

from __future__ import annotations

from pathlib import Path

from meninx.cli import early
from meninx.cli.console import Output
from meninx.cli.flags import with_settings
from meninx.predict.config import PredictConfig


@with_settings("format", "probabilities", "device", "batch", "strict", "dry_run", "resume", "overwrite")
def predict(
    model: Path,
    source: Path,
    out: Path,
    /,
    *,
    config: PredictConfig,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Predict new images with a trained model: DICOM, PNG, JPEG, TIFF, NIfTI or a prepared dataset.

    Images go through the preprocessing that the model records. Each has a row in predictions.csv with the
    probability of every label and, where the model was evaluated, the decision at the operating threshold.
    Images that do not fit are refused by name and do not stop the others.

    Args:
        model: Run folder, its release/, or release/bundle copied to another machine.
        source: File or folder with images.
        out: New folder for the predictions.
    """
    early.model(model)
    early.exists(source)
    early.extra("train", *(["export"] if "dicom-seg" in config.format else []))
    early.device(config.device)
    early.result(out, source, model, stage="predict", replaced=config.resume or config.overwrite)
    from meninx.predict import stage

    output.show(stage.run(config, model, source, out, progress=output.progress()))
