"""Clipping: the sum over privacy units of gradients scaled to a bounded norm, by one function: clipped_gradient_sum."""

from meninx.privacy.clipping.engine import clipped_gradient_sum
from meninx.privacy.clipping.inventory import refuse_unsafe_modules
from meninx.privacy.clipping.result import ClippedSum
from meninx.privacy.clipping.slices import slice_units

__all__ = ["ClippedSum", "clipped_gradient_sum", "refuse_unsafe_modules", "slice_units"]
