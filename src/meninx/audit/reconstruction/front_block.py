"""The layers that a malicious server puts in front of a client's network so that gradients hold images.

A block computes one number of each image, its measurement, and gives it to rows of weights that react to
different ranges of it. The gradient of a row that one image of the batch alone excites is a multiple of that
image's code, whatever the rest of the network is. How rows react is the gate:

- ``bins``: each row reacts between two neighbouring edges and nowhere else, so an image's clipped gradient is
  in one row;
- ``steps``: each row reacts above its edge (cumulative bins), so it is spread over all rows below, and the
  difference of two noisy rows is read;
- ``traps``: each row has a random measurement of its own and reacts to few images.

The server also chooses how large the numbers in front of the rows are (``gain``), without any effect on the
network's output: rows are smaller by the same factor. With a large gain the block's gradient takes all of
the clipping threshold.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from meninx.audit.reconstruction.encoders import Encoder
from meninx.core.errors import ConfigError, UsageError, expected

Gate = Literal["bins", "steps", "traps"]
Connection = Literal["logits", "input"]
WATCHED = ("rows.weight",)
GAIN = 1e5
"""Typical norm of the numbers in front of the rows; the gradient of a network is rarely above 100."""
_FAR = 1e6
_STEEPNESS = 0.3
_REACH = 20.0
"""Of the first and the last bin, in standard deviations of the measurement."""
_LEAST_SPREAD = 1e-5


class FrontBlock(nn.Module):
    """A client's network behind a block that imprints images on the gradients of ``rows``.

    Args:
        network: the run's network; takes normalised images.
        encoder: linear map in front of the rows; frozen.
        public: images that the server has, float32 in [0, 1], (images, *shape).
        rows: number of rows.
        gate: how rows react.
        connection: where the block's sum enters: the ``logits``, or the ``input`` image as a constant, as in
            published imprint blocks, where a norm layer may remove it.
        gain: typical norm of the encoded images in front of the rows; None leaves it as it is.
        batch: expected images in a step, for traps.
        lowest: network input at image value 0.
        span: network input at image value 1, minus ``lowest``.
        generator: of the random measurements.
    """

    def __init__(
        self,
        network: nn.Module,
        encoder: Encoder,
        public: Tensor,
        *,
        rows: int,
        gate: Gate = "bins",
        connection: Connection = "logits",
        gain: float | None = GAIN,
        batch: int = 1,
        lowest: float = 0.0,
        span: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if rows < 2:
            raise ConfigError(expected("at least 2 rows", got=rows, where="rows"))
        self.encoder, self.gate, self.connection = encoder, gate, connection
        self.lowest, self.span = lowest, span
        codes = encoder.encode(public)
        self.typical_norm = float(codes.norm(dim=1).median())
        self.factor = 1.0 if gain is None else gain / max(self.typical_norm, 1e-12)
        self.rows = nn.Linear(encoder.size, rows)
        if gate == "traps":
            weights, edges = _traps(codes, rows, batch, generator)
            widths = torch.full((rows,), _FAR)
        else:
            weights, edges, widths = _bins(codes, encoder, rows)
            if gate == "steps":
                widths = torch.full((rows,), _FAR)
        with torch.no_grad():
            self.rows.weight.copy_(weights / self.factor)
            self.rows.bias.copy_(-edges)
        self._add_frozen(encoder, widths)
        with torch.no_grad():
            sums = self.reaction(public)
            self.middle = float(sums.mean())
            self.spread = float(sums.std()) if len(public) > 1 else 1.0
        self.network = network
        self.eval()

    def _add_frozen(self, encoder: Encoder, widths: Tensor) -> None:
        self.register_buffer("mean", encoder.mean.clone(), persistent=False)
        matrix = None if encoder.directions is None else encoder.matrix()
        self.register_buffer("matrix", matrix, persistent=False)
        self.register_buffer("widths", widths, persistent=False)

    def reaction(self, images: Tensor) -> Tensor:
        """Return the sum of what the rows give to each image, (images,)."""
        codes = images.flatten(1) - self.get_buffer("mean")
        matrix = self.matrix
        if isinstance(matrix, Tensor):
            codes = codes @ matrix.T
        reacted = torch.relu(self.rows(codes * self.factor))
        return torch.minimum(reacted, self.get_buffer("widths")).sum(1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's logits with the block's sum added.

        Args:
            images: float32 in [0, 1], (images, *shape).
        """
        added = _STEEPNESS * (self.reaction(images) - self.middle) / max(self.spread, 1e-12)
        network_input = images * self.span + self.lowest
        if self.connection == "input":
            lifted = network_input + added.reshape(-1, *[1] * (images.ndim - 1))
            result: Tensor = self.network(lifted)
            return result
        logits: Tensor = self.network(network_input)
        signs = 1.0 - 2.0 * (torch.arange(logits.shape[1], device=logits.device) % 2)
        shape = (-1, *[1] * (logits.ndim - 2))
        return logits + added.reshape(-1, *[1] * (logits.ndim - 1)) * signs.reshape(shape)


def _bins(codes: Tensor, encoder: Encoder, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights, lower edges and widths of rows that share one measurement, evenly filled by the public.

    The measurement is the mean brightness, or the first coordinate of a code that has few; its public
    standard deviation is 1.
    """
    direction = torch.zeros(encoder.size)
    if encoder.directions is None:
        direction[:] = 1 / encoder.size
    else:
        direction[0] = 1.0
    values = codes @ direction
    spread = float(values.std()) if len(values) > 1 else 0.0
    if spread <= _LEAST_SPREAD * float(values.abs().max()):
        fix = "give public images that differ from each other"
        raise UsageError(
            expected(
                "public images of different brightness",
                got="images of one brightness",
                where="public",
                fix=fix,
            )
        )
    direction, values = direction / spread, values / spread
    inner = torch.quantile(values.double(), torch.linspace(0, 1, rows + 1)[1:-1].double()).float()
    inner = _apart(inner)
    lower = torch.cat([inner[:1] - _REACH, inner])
    upper = torch.cat([inner, inner[-1:] + _REACH])
    return direction.expand(rows, -1), lower, upper - lower


def _apart(edges: Tensor) -> Tensor:
    """Return rising edges, no two of them equal."""
    least = 1e-5 * torch.arange(len(edges))
    return torch.cummax(edges - least, dim=0).values + least


def _traps(codes: Tensor, rows: int, batch: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Return weights and edges of rows with random measurements that one image of a batch exceeds on average.

    References:
        Boenisch et al. 2023, "When the curious abandon honesty: federated learning is not private".
    """
    weights = torch.randn(rows, codes.shape[1], generator=generator)
    values = codes @ weights.T
    spread = values.std(dim=0) if len(codes) > 1 else torch.ones(rows)
    weights, values = weights / spread.clamp(min=1e-12)[:, None], values / spread.clamp(min=1e-12)
    edges = torch.quantile(values.double(), 1 - 1 / max(2, batch), dim=0).float()
    return weights, edges
