"""Networks by name in 2-D and 3-D, all suitable for private training (no layer mixes the images of a batch).

The public names are those of ``__all__``; the modules behind them may change.

Example:
    >>> from meninx.models import build
    >>> net = build("unet", spatial_dims=3, in_channels=1, out_channels=3, base=8, depth=2)
    >>> sum(value.numel() for value in net.parameters()) > 10_000
    True
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meninx.core.lazy import lazy_exports

if TYPE_CHECKING:
    from meninx.models.registry import build
    from meninx.models.resnet import ResNet
    from meninx.models.unet import UNet
    from meninx.models.wideresnet import WideResNet

__all__ = ["ResNet", "UNet", "WideResNet", "build"]

if not TYPE_CHECKING:  # a type checker would otherwise accept any name
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "ResNet": "meninx.models.resnet",
            "UNet": "meninx.models.unet",
            "WideResNet": "meninx.models.wideresnet",
            "build": "meninx.models.registry",
        },
    )
