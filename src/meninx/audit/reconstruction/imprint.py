"""Attacks of a malicious server: image codes in the rows of a front block, read out of noisy gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from meninx.audit.reconstruction.encoders import Encoder, EncoderName, fit_encoder
from meninx.audit.reconstruction.front_block import GAIN, WATCHED, Connection, FrontBlock, Gate
from meninx.audit.reconstruction.knowledge import Knowledge
from meninx.audit.reconstruction.victim import Gradients

_MOST_VALUES = 1 << 24
"""Of the weights of a front block: 64 MiB."""
_LEAST_ROWS = 16


class Imprint:
    """A front block and the decoder of its rows.

    Args:
        knowledge: what the server has.
        encoder: its linear map.
        gate: how rows react.
        connection: where the block enters the network.
        gain: how much of the gradient is the block's.
        batch: images whose clipped sums are added in one view, from which the number of rows follows.
    """

    watched = WATCHED

    def __init__(
        self,
        knowledge: Knowledge,
        encoder: EncoderName,
        gate: Gate = "bins",
        *,
        connection: Connection = "logits",
        gain: float | None = GAIN,
        batch: int | None = None,
    ) -> None:
        self.encoder: Encoder = fit_encoder(encoder, knowledge.public, components=knowledge.components)
        images = batch or knowledge.batch
        self.gate, self.words = gate, "a front block and the run's network"
        rows = max(_LEAST_ROWS, knowledge.bins or 8 * images)
        rows = max(2, min(rows, _MOST_VALUES // self.encoder.size))
        self.network: nn.Module = FrontBlock(
            knowledge.network,
            self.encoder,
            knowledge.public,
            rows=rows,
            gate=gate,
            connection=connection,
            gain=gain,
            batch=images,
            lowest=knowledge.lowest,
            span=knowledge.span,
            generator=torch.Generator().manual_seed(knowledge.seed),
        )
        codes = self.encoder.encode(knowledge.public)
        self.typical_norm = float(codes.norm(dim=1).median())
        self._known = codes.mean(dim=0) if encoder == "raw" else None
        signs = 1 if self._known is not None else 2
        self.candidates = signs * min(rows, 4 * images)

    def decode(self, steps: Sequence[Gradients], targets: Tensor, noise: float) -> Tensor:
        """Return images, (steps, candidates, *shape): rows scaled to the norm of codes of public images.

        The sign of a row is that of the loss's derivative. Codes of whole images have a known sign; of others
        both signs are candidates. Rows are read as they are: a division by a noisy bias gradient would add
        noise. The longest rows are taken, since the others hold noise alone.

        Args:
            steps: gradients of the rows.
            targets: not used.
            noise: not used.
        """
        return torch.stack([self._images(seen[WATCHED[0]]) for seen in steps])

    def _images(self, rows: Tensor) -> Tensor:
        """Return the images in the rows of one gradient."""
        if self.gate == "steps":
            rows = torch.cat([rows[:-1] - rows[1:], rows[-1:]])
        lengths = rows.norm(dim=1)
        count = self.candidates if self._known is not None else self.candidates // 2
        chosen = lengths.argsort(descending=True, stable=True)[:count]
        rows, lengths = rows[chosen], lengths[chosen]
        codes = rows * (self.typical_norm / lengths.clamp(min=1e-30))[:, None]
        if self._known is not None:
            signs = torch.where(codes @ self._known < 0, -1.0, 1.0)
            found = self.encoder.decode(codes * signs[:, None])
        else:
            found = torch.cat([self.encoder.decode(codes), self.encoder.decode(-codes)])
            lengths = torch.cat([lengths, lengths])
        found[lengths <= _nothing(lengths)] = 0.0
        return found


def _nothing(lengths: Tensor) -> float:
    """Return the length up to which a row is rounding error."""
    return 1e-7 * float(lengths.max()) if len(lengths) else 0.0
