"""Outputs of a trained model on the measured cases: probabilities, or Dice and surface distances."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from meninx.core import settings
from meninx.core.manifest import DatasetInfo, Manifest, TaskKind
from meninx.core.progress import Progress, task
from meninx.core.run import Run
from meninx.learn.config import LearnConfig
from meninx.learn.inference import load_model, predict, predict_maps, released_step
from meninx.learn.state_digest import weights_digest
from meninx.metrics import segmentation
from meninx.metrics.surface import SurfaceTable, compare_surfaces
from meninx.models import registry
from meninx.train import predictions, testdata
from meninx.train.config import EvaluateConfig, TrainConfig
from meninx.train.external import LabelMatch

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EvaluatedModel:
    """A trained network with the settings and the dataset of its training.

    Attributes:
        network: the network in evaluation mode.
        learned: settings of the training.
        info: description of the training dataset.
        weights: digest of its weights.
        step: optimiser step of the weights.
    """

    network: nn.Module
    learned: LearnConfig
    info: DatasetInfo
    weights: str
    step: int

    @classmethod
    def of(cls, folder: Run, network: nn.Module | None) -> EvaluatedModel:
        """Return the released model of a run; a checkpoint with other weights is refused."""
        settled = settings.resolve_recipe(TrainConfig, str(folder.config_path))
        own = network if settled.model.name.startswith(registry.OWN_PREFIX) else None
        network, learned, info = load_model(folder, network=copy.deepcopy(own))
        weights = weights_digest(network)
        testdata.check_weights(folder, weights)
        return cls(network, learned, info, weights, released_step(folder))


@dataclass(frozen=True)
class ModelOutputs:
    """Outputs of a model on the chosen cases and on the validation cases.

    Attributes:
        scores: probabilities, or the Dice, of each case and output of the model, shape (cases, labels).
        validation: probabilities of the validation cases; None without any.
        surfaces: surface distances of a segmentation; None for a classifier.
    """

    scores: Array
    validation: Array | None = None
    surfaces: SurfaceTable | None = None


def outputs_of(
    config: EvaluateConfig,
    model: EvaluatedModel,
    match: LabelMatch,
    chosen: Manifest,
    valid: Manifest,
    progress: Progress,
    maps: predictions.PredictionFiles | None,
) -> ModelOutputs:
    """Return a model's outputs for the cases to measure and, for a classifier, for the validation cases.

    Args:
        config: device and formats of predictions.
        model: the model.
        match: correspondence between labels of the cases and outputs.
        chosen: the cases to measure.
        valid: validation cases, on which thresholds are fitted; may be empty.
        progress: shows the cases.
        maps: writes label maps of a segmentation; None for none.
    """
    learned = model.learned.replace(device=config.device)
    with task(progress, f"predicting {config.split}", len(chosen)):
        if chosen.info.task is TaskKind.SEGMENTATION:
            return _segmented(config, model, match, chosen, progress, maps)
        scores = predict(model.network, model.info, chosen, learned).probabilities.astype(np.float64)
        on_valid = None
        if len(valid):
            on_valid = predict(model.network, model.info, valid, learned).probabilities.astype(np.float64)
        return ModelOutputs(scores, on_valid)


def _segmented(
    config: EvaluateConfig,
    model: EvaluatedModel,
    match: LabelMatch,
    chosen: Manifest,
    progress: Progress,
    maps: predictions.PredictionFiles | None,
) -> ModelOutputs:
    """Return Dice and surface distances of every case; write its label map if it is wanted."""
    labels, dims = len(model.info.labels), chosen.info.spatial_dims
    known = dims == 3 or len(chosen.info.spacing_mm) == dims
    surfaces = SurfaceTable(tolerance=config.surface_tolerance, unit="mm" if known else "voxels")
    dice = []
    learned = model.learned.replace(device=config.device)
    for case, label_map in predict_maps(model.network, model.info, chosen, learned):
        mask, spacing = predictions.read_mask(chosen, case)
        true = match.translated(mask)
        dice.append(segmentation.dice(label_map, true, labels))
        surfaces.cases.append(
            compare_surfaces(
                label_map, true, labels, spacing=spacing or (1.0,) * dims, tolerance=surfaces.tolerance
            )
        )
        if maps is not None:
            maps.keep(case, label_map)
        progress.advance()
    return ModelOutputs(np.array(dice, dtype=np.float64), surfaces=surfaces)
