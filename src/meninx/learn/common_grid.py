"""Images of a dataset on one grid, so that attacks can compare them: of any size, 2-D or 3-D."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from meninx.core.manifest import Manifest
from meninx.core.progress import SILENT, Progress, task
from meninx.learn.config import ModelConfig
from meninx.learn.data import CaseStore

SIDE_2D, SIDE_3D = 64, 32
"""Pixels along each axis. Most of what tells patients apart is coarse."""


def grid_images(manifest: Manifest, *, side: int | None = None, progress: Progress = SILENT) -> Tensor:
    """Return the images of all cases in order, float32 of shape (cases, channels, *grid).

    Intensities are normalised as for training. Larger images are averaged, smaller ones repeated.

    Args:
        manifest: the cases.
        side: pixels along each axis of the grid; 64 in 2-D and 32 in 3-D by default.
        progress: shows the images.

    Raises:
        DataError: a file cannot be read, is not the one that was prepared, or holds NaN; names the row.
    """
    dims = manifest.info.spatial_dims
    grid = (side or (SIDE_2D if dims == 2 else SIDE_3D),) * dims
    store = CaseStore(manifest, ModelConfig(patch_size=(1,) * dims), memory=0)  # sizes may differ
    found = torch.empty((len(manifest), manifest.info.channels, *grid))
    with task(progress, "images", len(manifest)):
        for index in range(len(manifest)):
            found[index] = on_grid(store.image(index)[None], grid)[0]
            progress.advance()
    return found


def on_grid(images: Tensor | npt.NDArray[np.float32], grid: tuple[int, ...]) -> Tensor:
    """Return images (images, channels, *spatial) on another grid, by averages over its cells."""
    values = torch.as_tensor(images, dtype=torch.float32)
    if tuple(values.shape[2:]) == grid:
        return values
    pool = functional.adaptive_avg_pool2d if len(grid) == 2 else functional.adaptive_avg_pool3d
    return pool(values, grid)  # type: ignore[arg-type]
