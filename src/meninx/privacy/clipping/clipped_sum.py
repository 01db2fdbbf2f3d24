"""ClippedSum: a sum of clipped gradients together with its sensitivity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from meninx.core import check
from meninx.core.errors import PrivacyRefusal, problem
from meninx.privacy.clipping.gradient_record import wide_dtype

PerSampleLoss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets), both of leading length B -> B losses, each computed from its own row alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClippedSum:
    """The sum of clipped gradients of some units of one step. It is private; only the noisy sum may leave.

    The parts of one step can be added. No unit may be in two of them::

        >>> import torch
        >>> from meninx.privacy import clipped_gradient_sum
        >>> model, loss = torch.nn.Linear(4, 1), lambda outputs, targets: (outputs - targets).square().sum(1)
        >>> part = lambda unit: clipped_gradient_sum(
        ...     model, loss, torch.randn(1, 4), torch.zeros(1, 1),
        ...     unit_index=torch.tensor([unit]), n_units=2, max_grad_norm=1.0)
        >>> total = part(0) + part(1)
        >>> total.present.tolist(), total.sensitivity
        ([True, True], 1.0)

    Guarantee:
        Adding or removing one unit changes ``gradients``, taken as one long vector, by at most
        ``sensitivity`` in L2 norm, up to float32 rounding.

    Attributes:
        gradients: parameter name -> float32 tensor of the parameter's shape (float64 for float64 parameters);
            trainable parameters only. A sum, not a mean: the denominator is the plan's.
        unit_norms: (n_units,) float64, gradient norm of every unit before clipping; 0 for units that are not
            in this part, non-finite for those that were dropped. Never release it.
        present: (n_units,) bool, the units that are in this part.
        sensitivity: the bound C.
    """

    gradients: dict[str, Tensor]
    unit_norms: Tensor
    present: Tensor
    sensitivity: float

    @classmethod
    def empty(cls, model: nn.Module, *, max_grad_norm: float, n_units: int = 0) -> ClippedSum:
        """Return the sum over no units: zeros, as for an empty Poisson draw, which is still a step."""
        check.positive(max_grad_norm=max_grad_norm)
        weights = {name: value for name, value in model.named_parameters() if value.requires_grad}
        device = next((value.device for value in weights.values()), torch.device("cpu"))
        return cls(
            gradients={
                name: torch.zeros_like(value, dtype=wide_dtype(value)).detach()
                for name, value in weights.items()
            },
            unit_norms=torch.zeros(n_units, dtype=torch.float64, device=device),
            present=torch.zeros(n_units, dtype=torch.bool, device=device),
            sensitivity=max_grad_norm,
        )

    def __add__(self, other: ClippedSum) -> ClippedSum:
        """Return the sum over the units of both parts, which must be disjoint parts of one step."""
        if len(self.present) != len(other.present) or self.sensitivity != other.sensitivity:
            raise PrivacyRefusal(
                problem(
                    "the two parts have different n_units or bounds, so they are not of one step",
                    where="ClippedSum",
                )
            )
        if self.gradients.keys() != other.gradients.keys():
            raise PrivacyRefusal(problem("the two parts have different parameters", where="ClippedSum"))
        if bool((self.present & other.present).any()):
            fix = "a unit clipped twice counts twice; cut batches with slice_units, which keeps units whole"
            raise PrivacyRefusal(problem("a unit is in both parts", where="ClippedSum", fix=fix))
        return ClippedSum(
            gradients=self._added(other),
            unit_norms=self.unit_norms + other.unit_norms,
            present=self.present | other.present,
            sensitivity=self.sensitivity,
        )

    def _added(self, other: ClippedSum) -> dict[str, Tensor]:
        """Return the sums of both parts' gradients.

        A part without units is added like any other, because its gradients may come from another rank.
        """
        return {name: value + other.gradients[name] for name, value in self.gradients.items()}

    @property
    def units(self) -> int:
        """Number of units in this part; private, because it reveals whether a unit was drawn."""
        return int(self.present.sum())

    @property
    def dropped(self) -> int:
        """Number of units that contribute exactly 0 because their gradient was not finite."""
        return int((~torch.isfinite(self.unit_norms)).sum())
