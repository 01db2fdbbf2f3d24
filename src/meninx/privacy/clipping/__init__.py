"""Per-unit gradient clipping: :func:`clipped_gradient_sum`, the check :func:`prove`, and their parts."""

from meninx.privacy.clipping.clipped_sum import ClippedSum
from meninx.privacy.clipping.engine import clipped_gradient_sum
from meninx.privacy.clipping.layer_rules import refuse_unsafe_modules, trained_layers
from meninx.privacy.clipping.planner import Choice, Planner
from meninx.privacy.clipping.proof import prove
from meninx.privacy.clipping.unit_rows import slice_units

__all__ = [
    "Choice",
    "ClippedSum",
    "Planner",
    "clipped_gradient_sum",
    "prove",
    "refuse_unsafe_modules",
    "slice_units",
    "trained_layers",
]
