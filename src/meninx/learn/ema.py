"""Exponential moving average of the weights: for evaluation only, free under differential privacy (post-processing)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Shadow weights ``s = decay * s + (1 - decay) * w``; training never reads them.

    The decay starts lower (``(1 + t) / (10 + t)``), so that the average forgets the random start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.shadow = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's current weights into the average."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.shadow[name] = torch.lerp(value.detach(), self.shadow[name], decay)
            else:
                self.shadow[name] = value.detach().clone()

    def state_dict(self) -> dict[str, object]:
        """Return the average and its age."""
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.updates = int(state["updates"])  # type: ignore[call-overload]
        shadow: Mapping[str, Tensor] = state["shadow"]  # type: ignore[assignment]
        self.shadow = {name: shadow[name].to(value.device) for name, value in self.shadow.items()}


@contextmanager
def averaged(model: nn.Module, average: Average | None) -> Iterator[None]:
    """Run a block with the averaged weights in ``model`` and put the training weights back, exactly, whatever happens."""
    if average is None:
        yield
        return
    kept = {name: value.detach().clone() for name, value in model.state_dict().items()}
    model.load_state_dict(average.shadow)
    try:
        yield
    finally:
        model.load_state_dict(kept)
