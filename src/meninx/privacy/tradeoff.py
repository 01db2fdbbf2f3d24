"""Bounds on attacks implied by a run: membership advantage, TPR at a fixed FPR, and reconstruction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.optimize import minimize_scalar

from meninx.core import check
from meninx.privacy import accounting
from meninx.privacy.accounting import Phase

FPRS = (0.001, 0.01, 0.1)
_FAR = 40.0  # exp(-40): where bounds no longer move
_STEPS_FINE = 2e4  # with more steps a step loses about 1e-3, and the grid has to be finer
_FINEST = 5e-5


@dataclass(frozen=True, kw_only=True)
class AttackRisk:
    """Upper bounds on what any attack on one unit can reach, whatever its computing power.

    Attributes:
        advantage: largest TPR - FPR of a membership test.
        tpr_at_fpr: false positive rate -> largest true positive rate at it.
        prior: chance of guessing a unit's data without the model.
        reconstruction: largest chance of reconstructing it with the model.
    """

    advantage: float
    tpr_at_fpr: dict[float, float]
    prior: float
    reconstruction: float


def attack_risk(phases: Iterable[Phase], *, prior: float, fprs: Sequence[float] = FPRS) -> AttackRisk:
    """Return the bounds of a run, e.g. ``attack_risk([plan.phase()], prior=1 / plan.n_units_declared)``.

    Guarantee:
        Every membership test between two datasets that differ by adding or removing one unit has
        TPR <= exp(e) FPR + delta(e) for every e; the bounds are the least of these over e, with delta(e) from
        the pessimistic privacy loss distribution. An adversary whose guess of a unit's data succeeds with
        probability ``prior`` a priori succeeds with probability at most ``reconstruction`` given all models
        of the run and all other units.

    References:
        Dong, Roth, Su (2022), Gaussian Differential Privacy, Proposition 2.12 (trade-off function and
        delta(e)). Balle, Cherubin, Hayes (2022), Reconstructing Training Data with Informed Adversaries,
        Theorem 4. Hayes, Mahloujifar, Balle (2023), Bounding Training Data Reconstruction in DP-SGD, Theorem
        2. Kaissis et al. (2023), Bounding Data Reconstruction Attacks with the Hypothesis Testing
        Interpretation.
    """
    curve = _Curve(accounting.merge(phases))
    check.probability(prior=prior)
    rates = {float(fpr): curve.most(fpr) for fpr in fprs}
    return AttackRisk(
        advantage=curve.delta(0.0), tpr_at_fpr=rates, prior=prior, reconstruction=curve.most(prior)
    )


class _Curve:
    """delta(e) of a run, and what follows from it."""

    def __init__(self, phases: tuple[Phase, ...]) -> None:
        many = sum(phase.steps for phase in phases) > _STEPS_FINE
        self.delta = accounting.delta_curve(phases, interval=_FINEST if many else accounting.FINE)

    def most(self, rate: float) -> float:
        """Return the least upper bound found on the TPR at the false positive rate ``rate``.

        Any e gives a valid one.

        Both branches of the trade-off function have one minimum, for delta is convex in exp(e).
        """
        if rate >= 1:
            return 1.0

        def rising(e: float) -> float:
            return math.exp(e) * rate + self.delta(e)

        def falling(e: float) -> float:
            return 1 - math.exp(-e) * (1 - rate - self.delta(e))

        top = _FAR if rate == 0 else max(_FAR, math.log(1 / rate))
        found = [
            minimize_scalar(f, bounds=(0.0, top), method="bounded", options={"xatol": 1e-4}).fun
            for f in (rising, falling)
        ]
        return float(min(1.0, rising(0.0), *found))
