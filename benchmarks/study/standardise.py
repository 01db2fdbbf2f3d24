"""Features of mean 0 and deviation 1 over public images, written into the last affine of a pretrained ResNet.

A linear head on standardised features learns in a few private steps; the statistics are of public images, so
they cost no budget, and the network stays one of the registry: only two vectors of the weights change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from meninx.core.manifest import Manifest
from meninx.learn.config import ModelConfig
from meninx.learn.data import CaseStore

MOST = 500
LEAST_DEVIATION = 1e-3


@torch.no_grad()
def standardise(model: Any, folder: Path, size: int = 0) -> nn.Module:
    """Return ``model``, its features standardised over the training images of a public dataset.

    Args:
        model: a ResNet with ``scale_norm``; changed.
        folder: prepared dataset.
        size: rows and columns to which the images are resized first; 0 keeps them.
    """
    store = CaseStore(Manifest.read(folder).split("train"), ModelConfig())
    model.eval()
    parts = [_features(model, store.image(index), size) for index in range(min(MOST, len(store)))]
    features = torch.cat(parts)
    mean, deviation = features.mean(0), features.std(0).clamp_min(LEAST_DEVIATION)
    affine = model.stages[-1].scale
    affine.weight.div_(deviation)
    affine.bias.sub_(mean).div_(deviation)
    model.head.bias.add_(model.head.weight @ mean)
    model.head.weight.mul_(deviation)
    return model  # type: ignore[no-any-return]


def _features(model: Any, image: Tensor, size: int) -> Tensor:
    batch = image[None]
    if size:
        batch = functional.interpolate(batch, (size, size), mode="bilinear", align_corners=False)
    result: Tensor = model.features(batch)
    return result
