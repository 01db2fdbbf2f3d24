"""The record of one backward pass: squared gradient norms per unit, and how to sum the gradients later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from meninx.privacy.clipping.unit_rows import Bucket, Rows

_BLOCK = 256  # numbers whose squares are added in the gradient's own type before float64 takes over
Weighted = Callable[[Tensor, Tensor | None], Tensor]
"""(factor of every row of the bucket, rows to blank or None) -> the parameter's gradient, rows weighted."""


@dataclass(frozen=True)
class Stored:
    """Gradients of a parameter that are kept, of shape (units, *parameter)."""

    bucket: Bucket
    gradients: Tensor


@dataclass(frozen=True)
class Ghost:
    """Gradients of a parameter that were measured but not stored; one product gives their weighted sum."""

    bucket: Bucket
    weighted: Weighted


@dataclass
class GradientRecord:
    """The record of one backward pass.

    Attributes:
        rows: the layout of the batch.
        groups: parameter name -> clipping group; a single group when clipping is flat.
        squares: (members, groups) float64 squared norms so far.
        pieces: parameter name -> the parts from which its clipped gradients are summed.
        uses: layer -> calls in the forward pass. The gradients of a layer called twice are added before the
            norm is taken, because the norm of a sum is not the sum of the norms.
        pending: (parameter, first member of the bucket) -> sum over the calls of such a layer.
        leaves: name -> the tensor that replaces a parameter used by a module's own code.
    """

    rows: Rows
    groups: dict[str, int]
    squares: Tensor
    pieces: dict[str, list[Stored | Ghost]] = field(default_factory=dict)
    uses: dict[str, int] = field(default_factory=dict)
    pending: dict[tuple[str, int], tuple[Bucket, Tensor]] = field(default_factory=dict)
    leaves: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def empty(cls, rows: Rows, groups: dict[str, int], device: torch.device) -> GradientRecord:
        """Return an empty record."""
        count = 1 + max(groups.values(), default=0)
        return cls(rows, groups, torch.zeros(len(rows.members), count, dtype=torch.float64, device=device))

    def used(self, path: str) -> None:
        """Count one more call of a layer."""
        self.uses[path] = self.uses.get(path, 0) + 1

    def once(self, path: str) -> bool:
        """Return whether the layer was called once, so that its norm may be taken call by call."""
        return self.uses[path] == 1

    def store(self, name: str, bucket: Bucket, gradients: Tensor, *, once: bool) -> None:
        """Add the gradients (units, *parameter) of one call of a layer."""
        if once:
            self._keep(name, bucket, gradients)
        else:
            _, before = self.pending.get((name, bucket.member), (bucket, None))
            self.pending[name, bucket.member] = bucket, gradients if before is None else before + gradients

    def ghost(self, name: str, bucket: Bucket, squares: Tensor, weighted: Weighted) -> None:
        """Add the squared norms (units,) of gradients, and the function that sums them later."""
        self._add(name, bucket, squares)
        self.pieces.setdefault(name, []).append(Ghost(bucket, weighted))

    def finish(self) -> Tensor:
        """Return the squared norms, (members, groups) float64, over all calls of all layers."""
        for (name, _), (bucket, gradients) in self.pending.items():
            self._keep(name, bucket, gradients)
        self.pending.clear()
        return self.squares

    def _keep(self, name: str, bucket: Bucket, gradients: Tensor) -> None:
        flat = gradients.reshape(len(gradients), -1)
        self._add(name, bucket, row_norms(flat).square())
        self.pieces.setdefault(name, []).append(Stored(bucket, gradients))

    def _add(self, name: str, bucket: Bucket, squares: Tensor) -> None:
        self.squares[bucket.members, self.groups[name]] += squares.double()

    def total(self, name: str, factor: Tensor, keep: Tensor) -> Tensor | None:
        """Return the sum of a parameter's gradients, each times its unit's factor; None when there is none.

        Args:
            name: the parameter.
            factor: (members, groups) float64.
            keep: (members,) False where the gradient is not finite: such a unit contributes exactly 0.
        """
        sums = [self._part(piece, factor[piece.bucket.members, self.groups[name]], keep[piece.bucket.members])
                for piece in self.pieces.get(name, ())]  # fmt: skip
        if not sums:
            return None
        return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)

    def clear(self) -> None:
        """Release all tensors.

        Pieces refer to layer calls and these to the record. Without this, the reference cycle would keep a
        whole batch of activations alive until the next garbage collection.
        """
        self.pieces.clear()
        self.leaves.clear()

    def each(self) -> dict[str, Tensor]:
        """Return the gradients of every unit, (members, *parameter), of all parameters that were used."""
        found: dict[str, Tensor] = {}
        for name, pieces in self.pieces.items():
            for piece in pieces:
                bucket = piece.bucket
                part = piece.gradients if isinstance(piece, Stored) else _every(piece)
                found.setdefault(name, part.new_zeros((len(self.rows.members), *part.shape[1:])))[
                    bucket.members
                ] += part
        return found

    def _part(self, piece: Stored | Ghost, factor: Tensor, keep: Tensor) -> Tensor:
        blank = None if bool(keep.all()) else ~keep
        if isinstance(piece, Stored):
            flat = piece.gradients.reshape(len(piece.gradients), -1)
            if blank is not None:
                flat = torch.where(blank[:, None], 0.0, flat)  # because 0 * NaN is NaN
            flat = widen(flat)
            return (factor.to(flat.dtype) @ flat).reshape(piece.gradients.shape[1:])
        size = piece.bucket.size
        rows = None if blank is None else blank.repeat_interleave(size)
        return widen(piece.weighted(factor.repeat_interleave(size), rows))


def widen(value: Tensor) -> Tensor:
    """Return ``value`` in float32, or in float64 if it already is; sums and norms avoid half precision."""
    return value.to(wide_dtype(value))


def wide_dtype(value: Tensor) -> torch.dtype:
    """Return float64 for float64 and float32 for everything else: the type of sums."""
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def row_norms(value: Tensor) -> Tensor:
    """Return the float64 norms of the rows of ``value`` (units, numbers).

    Squares are added in blocks, then in float64: one float32 sum of millions of squares would lose the small
    ones beside a large one and underestimate the norm.
    """
    value = widen(value)
    whole = value.shape[1] // _BLOCK * _BLOCK
    rest: Tensor = torch.linalg.vector_norm(value[:, whole:], dim=1).double()
    if not whole:
        return rest
    blocks: Tensor = torch.linalg.vector_norm(
        value[:, :whole].reshape(len(value), -1, _BLOCK), dim=2
    ).double()
    total: Tensor = blocks.square().sum(1) + rest.square()
    return total.sqrt()


def _every(piece: Ghost) -> Tensor:
    """Return the gradients (units, *parameter) of a ghost, computed one unit at a time."""
    bucket = piece.bucket
    single = torch.eye(bucket.units, dtype=torch.float64)
    return torch.stack([piece.weighted(row.repeat_interleave(bucket.size), None) for row in single])


def zero_rows(value: Tensor, blank: Tensor | None) -> Tensor:
    """Return ``value`` with the marked rows set to 0, even where they hold NaN or infinity."""
    if blank is None:
        return value
    return torch.where(
        blank.view(-1, *(1,) * (value.dim() - 1)),
        torch.zeros((), dtype=value.dtype, device=value.device),
        value,
    )


def scale_rows(value: Tensor, factor: Tensor) -> Tensor:
    """Return the rows of ``value`` times their factors."""
    return value * factor.to(value.dtype).view(-1, *(1,) * (value.dim() - 1))
