"""Forward passes over the cases of a store, without gradients: whole images in batches, or a sliding window over each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from meninx.learn.config import LearnConfig
from meninx.learn.data import CaseStore

OVERLAP = 0.5


@torch.no_grad()
def outputs(
    model: nn.Module, store: CaseStore, config: LearnConfig, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """Yield (case index, logits) of every case in order, on the CPU.

    Logits are (out_channels,) or (out_channels, ...).

    The model is put into evaluation mode and stays there.
    """
    model.eval()
    size = 1 if config.patch_size else config.physical_batch
    for start in range(0, len(store), size):
        indices = range(start, min(start + size, len(store)))
        images = torch.stack([store.image(index) for index in indices])
        yield from zip(indices, forward(model, images.to(device), config).cpu(), strict=True)


def forward(model: nn.Module, images: Tensor, config: LearnConfig) -> Tensor:
    """Return logits of whole images (batch, channels, ...), by a Gaussian-weighted sliding window when patches are used."""
    if not config.patch_size:
        return cast("Tensor", model(images))
    from monai.inferers import sliding_window_inference  # a heavy import that whole images do not need

    result = sliding_window_inference(
        images,
        config.patch_size,
        config.physical_batch,
        model,
        overlap=OVERLAP,
        mode="gaussian",
        padding_mode="replicate",
    )
    return cast("Tensor", result)
