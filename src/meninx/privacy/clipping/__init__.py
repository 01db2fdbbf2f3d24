"""Clipping: the sum over privacy units of gradients scaled to a bounded norm, by one function: clipped_gradient_sum."""

from meninx.privacy.clipping.engine import clipped_gradient_sum
from meninx.privacy.clipping.inventory import refuse_unsafe_modules, trained_layers
from meninx.privacy.clipping.planner import Choice, Planner
from meninx.privacy.clipping.proof import prove
from meninx.privacy.clipping.result import ClippedSum
from meninx.privacy.clipping.slices import slice_units

__all__ = [
    "Choice", "ClippedSum", "Planner", "clipped_gradient_sum", "prove", "refuse_unsafe_modules", "slice_units", "trained_layers",
]  # fmt: skip
