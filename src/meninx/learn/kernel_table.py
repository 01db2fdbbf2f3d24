"""Which kernel each layer of a network gets on this machine, and what the others would have cost."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from meninx.core import check
from meninx.learn import kernels
from meninx.models import registry
from meninx.privacy.clipping import Choice, clipped_gradient_sum


@dataclass(frozen=True)
class KernelTable:
    """The planner's choices for one network and batch.

    Attributes:
        choices: one for every kind of layer met, in the order of the backward pass; key and choice.
        planning_seconds: CPU seconds of the first private pass, planning included.
        pass_seconds: CPU seconds of the next.
        cache: where measured choices are kept.
    """

    choices: dict[str, Choice]
    planning_seconds: float
    pass_seconds: float
    cache: str


def kernel_table(
    model: str, *, image_size: tuple[int, ...], channels: int = 1, batch: int = 32, views: int = 1
) -> KernelTable:
    """Return what the planner chooses for a network on generated images.

    Measures what is not known of this machine yet.

    Args:
        model: name of a network.
        image_size: 2 or 3 numbers.
        channels: image channels.
        batch: images in a physical batch, views included.
        views: views of each image.

    Raises:
        ConfigError, PrivacyRefusal: no such network, or one that cannot be trained privately.
    """
    check.positive(
        channels=channels,
        batch=batch,
        views=views,
        **{f"image_size[{i}]": size for i, size in enumerate(image_size)},
    )
    device = torch.device("cpu")
    network = registry.build(model, spatial_dims=len(image_size), in_channels=channels, out_channels=2).to(
        device
    )
    units = max(1, batch // views)
    images = torch.randn(units * views, channels, *image_size, device=device)
    cache = kernels.opened(device, deterministic=False)
    seconds = []
    for _ in range(2):
        begun = time.process_time()
        clipped_gradient_sum(
            network, lambda outputs, _: outputs.flatten(1).square().mean(1), images, torch.zeros(len(images)),
            unit_index=torch.arange(units), n_units=units, max_grad_norm=1.0, views=views, planner=cache.planner,
        )  # fmt: skip
        seconds.append(time.process_time() - begun)
    cache.save()
    first, following = seconds
    return KernelTable(cache.planner.seen, first, following, cache=str(kernels.folder()))
