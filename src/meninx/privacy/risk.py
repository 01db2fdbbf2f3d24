"""Proven limits for any attack on one unit: reconstruction, membership and identification.

One function answers all of these questions. An attack that guesses a unit's data without the model succeeds
with probability kappa; with the models and all other units' data it succeeds with probability gamma(kappa) at
most. For a membership test kappa is the false positive rate and gamma the largest true positive rate::

    >>> from meninx.privacy.accounting import Phase
    >>> curve = risk_curve([Phase(sample_rate=0.25, noise_multiplier=3.2, steps=300)], rates=[1 / 1000])
    >>> found = curve.gamma(of_candidates(1000))  # which one of 1,000 known images was in the training?
    >>> round(found.value, 3), found.upper / found.lower < 1.001
    (0.044, True)
    >>> round(curve.auc().value, 3)  # of the best membership test
    0.833

Every number comes with a certified lower and upper bound (:class:`Bracket`). State the upper bound as a
guarantee; an attack with perfect knowledge reaches the lower one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from meninx.core import check
from meninx.core.errors import PrivacyRefusal, expected
from meninx.core.proportions import upper_limit
from meninx.privacy import accounting
from meninx.privacy.accounting import Phase
from meninx.privacy.loss_distribution import Curve, ThreatModel, curves

FPRS = (0.001, 0.01, 0.1)
PRECISION = 1e-3
LEAST_RATE = 1e-6
_LEAST_ADVANTAGE = 0.01  # lower ones are found up to ``precision`` times this
_FIRST_CELLS, _MOST_CELLS = 2**14, 2**21
_UPPER_SHARE = 1 / 3  # on one grid the lower bound is twice as close as the upper one


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """A number between two certified bounds.

    Attributes:
        value: best estimate, in [lower, upper].
        lower: success of an attack that exists.
        upper: no attack exceeds it.
    """

    value: float
    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True)
class RiskCurve:
    """gamma(kappa) of a run: the largest success of an attack against its success without the model.

    Attributes:
        upper: no attack exceeds it.
        lower: an attack with all knowledge of the threat model reaches it.
        model: what the adversary knows.
        least_rate: the lowest kappa for which the curve was computed; below it the upper bound is loose.
    """

    upper: Curve
    lower: Curve
    model: ThreatModel
    least_rate: float

    def gamma(self, kappa: float) -> Bracket:
        """Return the largest success of a reconstruction whose prior success is ``kappa``, in [0, 1]."""
        check.probability(kappa=kappa)
        return self._bracket(lambda curve: float(curve.power(kappa)))

    def gammas(self, kappas: Iterable[float]) -> list[Bracket]:
        """Return :meth:`gamma` of every kappa."""
        return [self.gamma(kappa) for kappa in kappas]

    def tpr(self, fpr: float) -> Bracket:
        """Return the largest true positive rate of a membership test at a false positive rate in [0, 1]."""
        return self.gamma(fpr)

    def auc(self) -> Bracket:
        """Return the area under the ROC curve of the best membership test, in [1/2, 1]."""
        return self._bracket(Curve.area)

    def advantage(self) -> Bracket:
        """Return the largest TPR - FPR of a membership test, in [0, 1]."""
        return self._bracket(Curve.advantage)

    def accuracy(self, prior: float = 0.5) -> Bracket:
        """Return the largest accuracy of a membership test where a share ``prior`` of the units took part."""
        check.probability(prior=prior)
        return self._bracket(lambda curve: curve.accuracy(prior))

    def gap(self, rates: Iterable[float]) -> float:
        """Return the largest upper / lower - 1 over some rates > 0."""
        return max((found.upper / found.lower - 1 for found in map(self.gamma, rates)), default=0.0)

    def refuse_above(self, epsilon: float, delta: float, kappas: Iterable[float]) -> None:
        """Refuse a curve that contradicts (epsilon, delta): gamma <= e^epsilon kappa + delta must hold.

        Raises:
            PrivacyRefusal: even the lower bound is above it, so the accounting or the curve is wrong.
        """
        for kappa in kappas:
            most = min(1.0, math.exp(min(epsilon, 700.0)) * kappa + delta)
            if self.gamma(kappa).lower > most * (1 + 1e-9):
                rule = (
                    f"a success of at most {most:.6g}, which epsilon {epsilon:.4g} and delta {delta:g} allow"
                )
                raise PrivacyRefusal(expected(rule, got=self.gamma(kappa).lower, where=f"kappa {kappa:.4g}"))

    def _bracket(self, of: Callable[[Curve], float]) -> Bracket:
        lower, upper = of(self.lower), of(self.upper)
        return Bracket(value=lower + _UPPER_SHARE * (upper - lower), lower=lower, upper=upper)


def risk_curve(
    phases: Iterable[Phase],
    *,
    rates: Sequence[float] = (),
    model: ThreatModel = ThreatModel.WORST,
    precision: float = PRECISION,
) -> RiskCurve:
    """Return the risk of all phases composed, with the requested precision at the rates of interest.

    The grid of the privacy loss is refined until upper / lower - 1 is at most ``precision`` at every rate,
    and for an advantage of 0.01 or more. Below a rate of about 1e-9, with more than 1e6 steps, or for phases
    of very different noise, rounding or the size of the grid may prevent that. The bounds remain valid.

    Args:
        phases: what was run, in any order; no phase costs nothing, a phase without noise everything.
        rates: false positive rates (kappas) of interest, in [0, 1].
        model: what the adversary knows.
        precision: largest relative distance of the two bounds, > 0.

    Guarantee:
        Given the models of all steps and all other units' data, an adversary of the threat model whose guess
        of a unit's data succeeds with probability kappa a priori succeeds with probability at most
        ``upper.power(kappa)``, whatever its computing power, if every step added Gaussian noise of
        ``noise_multiplier`` times its sensitivity to a sum over a Poisson sample of the units.

    References:
        Balle, Cherubin, Hayes (2022), Reconstructing Training Data with Informed Adversaries, Theorem 4.
        Hayes, Mahloujifar, Balle (2023), Bounding Training Data Reconstruction in DP-SGD, Theorem 2.
        Kaissis et al. (2023), Bounding Data Reconstruction Attacks with the Hypothesis Testing
        Interpretation.
    """
    check.positive(precision=precision)
    for rate in rates:
        check.probability(rate=rate)
    merged = accounting.merge(phases)
    wanted = [rate for rate in rates if rate > 0]
    least = min([LEAST_RATE, *wanted])
    if not merged or any(phase.noise_multiplier == 0 for phase in merged):
        return _without_noise(merged, model, least)
    cells = _FIRST_CELLS
    while True:
        upper, lower = curves(merged, model, least_rate=least, cells=cells)
        found = RiskCurve(upper=upper, lower=lower, model=model, least_rate=least)
        apart = upper.advantage() - lower.advantage()
        gap = max(found.gap(wanted), apart / max(_LEAST_ADVANTAGE, lower.advantage()))
        if gap <= precision or cells >= _MOST_CELLS:
            return found
        # The distance of the two curves falls with the square of the grid's width.
        needed = cells * math.sqrt(min(gap, 1.0) / precision)
        cells = min(_MOST_CELLS, max(2 * cells, 2 ** math.ceil(math.log2(needed))))


def _without_noise(phases: Sequence[Phase], model: ThreatModel, least: float) -> RiskCurve:
    """Return the curve of a run without steps (guessing) or without noise (no guarantee at all)."""
    diagonal = Curve(rates=np.array([0.0, 1.0]), powers=np.array([0.0, 1.0]), margin=0.0)
    if not phases:
        return RiskCurve(upper=diagonal, lower=diagonal, model=model, least_rate=least)
    sure = Curve(rates=np.array([0.0, 1.0]), powers=np.array([1.0, 1.0]), margin=0.0)
    return RiskCurve(upper=sure, lower=diagonal, model=model, least_rate=least)


def of_candidates(count: int) -> float:
    """Return kappa of an adversary who knows that a unit is one of ``count`` equally likely records."""
    check.positive(count=count)
    return 1 / count


def of_classes(shares: Sequence[float]) -> float:
    """Return kappa of an adversary who guesses an attribute: the share of the most frequent class.

    Args:
        shares: prior probabilities of the classes; they add up to 1.
    """
    for share in shares:
        check.probability(share=share)
    if not math.isclose(sum(shares), 1.0, rel_tol=1e-6):
        raise PrivacyRefusal(expected("shares that add up to 1", got=sum(shares), where="shares"))
    return max(shares)


def of_metric(hits: int, images: int, *, confidence: float = 0.95) -> float:
    """Return kappa of an image metric: an upper limit on how often one fixed guess is close enough.

    Args:
        hits: reference images within the metric's threshold of that guess.
        images: reference images, none of them from the training.
        confidence: of the one-sided Clopper-Pearson limit that is returned, in (0, 1).
    """
    check.positive(images=images)
    check.non_negative(hits=hits)
    check.open_unit(confidence=confidence)
    if hits > images:
        raise PrivacyRefusal(expected(f"at most {images} hits", got=hits, where="hits"))
    return upper_limit(hits, images, 1 - confidence)


@dataclass(frozen=True, kw_only=True)
class AttackRisk:
    """Upper bounds on the success of any attack on one unit, whatever its computing power.

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

    Guarantee: that of :func:`risk_curve` in the worst case.
    """
    check.probability(prior=prior)
    rates = [float(rate) for rate in fprs]
    curve = risk_curve(phases, rates=[*rates, prior])
    return AttackRisk(
        advantage=curve.advantage().upper,
        tpr_at_fpr={rate: curve.gamma(rate).upper for rate in rates},
        prior=prior,
        reconstruction=curve.gamma(prior).upper,
    )
