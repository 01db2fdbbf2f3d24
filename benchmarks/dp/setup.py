"""A model, a batch and a loss of a case, ready for a step; the same weights and images for every variant."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dp.cases import Case
from meninx.learn.task import soft_dice
from meninx.models.registry import build

FORMATS = ("channels_last", "contiguous")


@dataclass(eq=False)
class Setup:
    """Everything a step needs."""

    case: Case
    model: nn.Module
    optimizer: torch.optim.Optimizer
    images: Tensor
    targets: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    precision: str

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.images.device

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of a forward pass in the case's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def losses(self, model: nn.Module) -> Tensor:
        """Return the losses of all images, (batch,), under the case's precision."""
        with self.autocast():
            outputs = model(self.images)
        return self.loss(outputs, self.targets)


def labels_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the multi-label binary cross-entropy of each sample."""
    return (
        functional.binary_cross_entropy_with_logits(outputs.float(), targets, reduction="none")
        .flatten(1)
        .mean(1)
    )


def map_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return binary cross-entropy plus soft Dice of each sample."""
    return labels_loss(outputs, targets) + soft_dice(torch.sigmoid(outputs.float()), targets)


def prepare(case: Case, memory_format: str, device: str = "cpu", precision: str | None = None) -> Setup:
    """Return a fresh model with SGD (momentum) and the batch of a case.

    Args:
        case: the case.
        memory_format: one of :data:`FORMATS`, for weights and images.
        device: ``cpu`` or ``cuda``.
        precision: another precision than the case's.
    """
    torch.manual_seed(0)
    dims = len(case.size)
    layout = torch.contiguous_format
    if memory_format == "channels_last":
        layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    model = build(
        case.network, spatial_dims=dims, in_channels=case.channels, out_channels=case.outputs, **case.options
    )
    model = model.to(device=device, memory_format=layout).train()
    images = torch.randn(case.batch, case.channels, *case.size).to(device=device, memory_format=layout)
    shape = (case.batch, case.outputs, *case.size) if case.segment else (case.batch, case.outputs)
    targets = (torch.rand(shape) < 0.3).float().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    loss = map_loss if case.segment else labels_loss
    return Setup(case, model, optimizer, images, targets, loss, precision or case.precision)
