"""Images of invented patients in the shape of a run's, for pictures that may leave a hospital."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from meninx.audit.reconstruction.pools import Patients, Pools
from meninx.synthetic.dataset import render, volumes
from meninx.synthetic.people import subjects

PUBLIC = 64
_GREY_LEVELS = 4095.0
_WINDOW = (-160.0, 240.0)
_LARGEST_SIDE = 256
_LEAST_SIDE = 16


def synthetic_pools(like: Pools, *, attacked: int, seed: int = 0) -> Pools:
    """Return pools of invented patients; no value of them depends on the run's patients.

    Args:
        like: pools of the run, of which the shape of images and targets is taken.
        attacked: members, and as many held-out patients.
        seed: public seed.
    """
    shape = tuple(like.members.images.shape[1:])
    images = _images(PUBLIC + 2 * attacked, shape, seed)
    target = torch.zeros_like(like.members.targets[:1])
    parts = torch.split(images, [attacked, attacked, PUBLIC])
    members, heldout, public = (
        Patients(images=part, targets=target.expand(len(part), *target.shape[1:]).clone()) for part in parts
    )
    return Pools(
        members=members,
        public=public,
        heldout=heldout,
        lowest=like.lowest,
        span=like.span,
        source=f"{PUBLIC} synthetic patients",
    )


def _images(count: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Return images in [0, 1] of shape (count, *shape): chests in 2-D, abdomens in 3-D."""
    channels, sides = shape[0], shape[1:]
    if len(sides) == 2:
        size = min(_LARGEST_SIDE, max(_LEAST_SIDE, *sides))
        people = subjects(count, seed)
        drawn = np.stack([render(one, 0, size, seed).array for one in people])
        found = torch.from_numpy(drawn.astype(np.float32)) / _GREY_LEVELS
    else:
        size_of = [min(_LARGEST_SIDE, max(_LEAST_SIDE, side)) for side in sides]
        scans = volumes(count, (size_of[0], size_of[1], size_of[2]), seed).images
        low, high = _WINDOW
        found = ((torch.from_numpy(scans).float() - low) / (high - low)).clamp(0.0, 1.0)
    resized = functional.interpolate(found[:, None], size=sides, mode="area")
    return resized.expand(count, channels, *sides).contiguous()
