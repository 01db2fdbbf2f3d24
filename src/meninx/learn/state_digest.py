"""The digest of a network's state, which identifies its weights; a bundle contains this source file, too."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def weights_digest(weights: nn.Module | Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a network's state: every tensor's name, type, shape and bytes, sorted by name.

    Files with equal weights have equal digests, whatever program wrote them.

    Args:
        weights: the network, or its state.
    """
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    total = hashlib.sha256()
    for name, value in sorted(state.items()):
        plain = value.detach().cpu().contiguous()
        total.update(f"{name}\0{plain.dtype}\0{tuple(plain.shape)}\0".encode())
        total.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
