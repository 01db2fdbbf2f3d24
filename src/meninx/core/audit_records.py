"""What audits record: the numbers of an audit by canary scores, alone and of a training run.

Written and read by :mod:`meninx.core.artifacts`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meninx.core.origin import Origin
from meninx.core.summaries import FORMAT


@dataclass(frozen=True, kw_only=True)
class ScoreCheck:
    """One comparison of what was measured with what the claim allows.

    Attributes:
        name: ``mu``, ``guesses`` or ``TPR - FPR``.
        basis: ``certified`` or ``asymptotic``.
        measured: the measured number: the estimate of mu, the share of correct guesses, the lower limit of
            TPR - FPR.
        allowed: the largest value that the claim allows; None where it is no single number.
        refuted: the claim is rejected at the check's share of the significance.
    """

    name: str
    basis: str
    measured: float
    allowed: float | None
    refuted: bool


@dataclass(frozen=True, kw_only=True)
class ScoreAudit:
    """What the scores of canaries show about a run.

    Every bound holds on its own with ``confidence``. The verdict as a whole accuses a run whose claim is true
    with probability at most 1 - ``confidence``.

    Attributes:
        included: canaries that took part.
        excluded: canaries that did not.
        confidence: e.g. 0.95.
        delta: at which epsilons are stated.
        one_run_epsilon: certified lower bound, Steinke et al. (2023).
        fdp_mu: certified lower bound on the mu of a Gaussian guarantee, Mahloujifar et al. (2024), over a
            fixed grid of guess counts.
        fdp_epsilon: its epsilon.
        fdp_split_epsilon: the same with the guess count chosen on one half and tested on the other.
        rates_epsilon: certified lower bound from true and false positive rates by Clopper and Pearson, for
            canaries whose scores are independent of each other.
        advantage: certified lower limit of TPR - FPR, for independent scores.
        auroc: area under the ROC curve.
        mu: model-based estimate: distance of two unit normals with this area.
        mu_low: lower end of its two-sided interval.
        mu_high: upper end.
        gdp_epsilon: model-based lower bound: epsilon of the one-sided lower limit of mu.
        claim_epsilon: the claim.
        claim_mu: largest mu that the claim allows; None where it allows any.
        claim_advantage: largest TPR - FPR that the claim allows.
        checks: the comparisons that the verdict rests on.
        verdict: ``refuted``, ``suspicious`` (only a model speaks against the claim) or ``consistent``.
    """

    included: int
    excluded: int
    confidence: float
    delta: float
    one_run_epsilon: float
    fdp_mu: float
    fdp_epsilon: float
    fdp_split_epsilon: float
    rates_epsilon: float
    advantage: float
    auroc: float
    mu: float
    mu_low: float
    mu_high: float
    gdp_epsilon: float
    claim_epsilon: float
    claim_mu: float | None
    claim_advantage: float
    checks: tuple[ScoreCheck, ...]
    verdict: str

    @property
    def refuted_by(self) -> tuple[str, ...]:
        """Names of the checks that reject the claim."""
        return tuple(check.name for check in self.checks if check.refuted)


@dataclass(frozen=True, kw_only=True)
class MechanismCheck:
    """What residuals of canaries show about the noise and the clipping of a run, whatever its epsilon.

    Attributes:
        noise: standard deviation of the noise over that of the plan.
        noise_low: lower confidence limit.
        noise_high: upper confidence limit; below 1 it refutes the run.
        length: norm of a clipped canary over what the plan allows; None where the noise hides it.
        length_low: lower confidence limit; clearly above 1 it refutes the run; None as above.
        length_high: upper confidence limit; None as above.
        samples: residuals of canaries that take no part, on which the noise rests.
        significance: of each limit.
        refuted_by: ``noise``, ``length``, both or none.
    """

    noise: float
    noise_low: float
    noise_high: float
    length: float | None
    length_low: float | None
    length_high: float | None
    samples: int
    significance: float
    refuted_by: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OneRunRecord:
    """The audit of a run's implementation by one more training with canaries: ``audit/one_run.json``.

    The audited twin has the settings, the data and the plan of the run. Nothing here depends on a patient's
    data: scores are made of canaries and noise.

    Attributes:
        audit: of the twin, against the run's own plan.
        control: of the same audit with half of the noise, which has to be refuted.
        steps: optimiser steps of the twin.
        seconds: of the twin's training.
        overhead: share of these seconds that canaries took.
        origin: the audited run.
        mechanism: noise and clipping of the twin, measured; None in a record of an earlier version.
        control_mechanism: of the audit with half of the noise.
        version: format of the record.
    """

    audit: ScoreAudit
    control: ScoreAudit
    steps: int
    seconds: float
    overhead: float
    origin: Origin
    mechanism: MechanismCheck | None = None
    control_mechanism: MechanismCheck | None = None
    version: int = FORMAT

    @property
    def refuted_by(self) -> tuple[str, ...]:
        """Names of what rejects the claim of the run."""
        measured = self.mechanism.refuted_by if self.mechanism is not None else ()
        return (*self.audit.refuted_by, *measured) if self.audit.verdict == "refuted" else measured

    @property
    def control_found(self) -> bool:
        """Whether half of the noise was noticed."""
        measured = self.control_mechanism is not None and "noise" in self.control_mechanism.refuted_by
        return self.control.verdict == "refuted" or measured


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """The true positive rate of an attack at one false positive rate, both over patients.

    The threshold is set on non-members alone, and the true positive rate is counted among members alone.

    Attributes:
        fpr: the false positive rate that the threshold keeps among the non-members.
        tpr: share of the members above the threshold; None where it is refused.
        low: lower end of its 95 % interval by Clopper and Pearson; None as above.
        high: upper end.
        fpr_high: upper end of the one-sided 95 % interval of the false positive rate of such a threshold,
            among all patients that took no part; None as above.
        refusal: why there is no number, e.g. ``too few non-members: 1000 needed, 120 there``; else empty.
    """

    fpr: float
    tpr: float | None = None
    low: float | None = None
    high: float | None = None
    fpr_high: float | None = None
    refusal: str = ""


@dataclass(frozen=True, kw_only=True)
class AttackRecord:
    """How well one membership attack tells members from non-members.

    Attributes:
        attack: ``loss``, ``lira`` or ``rmia``.
        members: patients of the training split.
        others: patients that took no part.
        auc: area under the ROC curve.
        auc_low: lower end of its 95 % interval, patients resampled.
        auc_high: upper end.
        null_low: lower end of the range that holds 95 % of the areas with permuted membership.
        null_high: upper end.
        p_value: probability of such an area or a larger one with permuted membership.
        points: true positive rates at false positive rates.
        excess: a lower limit of the area or of a true positive rate is above what the guarantee allows; None
            where no guarantee is compared, and where so few patients could not show an excess.
        above: members above each threshold of the test against the guarantee, the highest threshold first;
            empty where no guarantee is compared, and in a record of an earlier version.
    """

    attack: str
    members: int
    others: int
    auc: float
    auc_low: float
    auc_high: float
    null_low: float
    null_high: float
    p_value: float
    points: tuple[OperatingPoint, ...]
    excess: bool | None = None
    above: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GroupRecord:
    """The attack within one group of patients.

    Attributes:
        attribute: what divides the patients, e.g. ``sex``.
        group: the group.
        members: members in it; None where they are too few to be published.
        others: non-members in it; None as above.
        auc: area under the ROC curve; None where it is refused.
        auc_low: lower end of its 95 % interval; None as above.
        auc_high: upper end.
        refusal: why there is no number; else empty.
    """

    attribute: str
    group: str
    members: int | None = None
    others: int | None = None
    auc: float | None = None
    auc_low: float | None = None
    auc_high: float | None = None
    refusal: str = ""


@dataclass(frozen=True, kw_only=True)
class MembershipAudit:
    """What attacks learn about who took part in a run's training: ``audit/membership.json``.

    Members are the patients of the training split, non-members those of the test split. What the attacks
    find is what the model learned only where the splits do not differ otherwise. The numbers depend on
    patients' data and are outside the guarantee of a private run.

    Attributes:
        attacks: of the audited model, the one without reference models first.
        groups: the attack ``rmia`` within groups of patients.
        negative: the attack ``rmia`` on a network that was trained on nothing.
        positive: the attack ``rmia`` on a model that was trained on few patients until it knew them.
        split_control: the attack ``rmia`` on the reference models, which know half of both splits; None with
            fewer than four of them, and in a record of an earlier version.
        references: reference models.
        split_rule: how the dataset says that its splits were made; empty where it does not say.
        patients_known: the source names its patients; otherwise every image counts as one.
        left_out: patients of the test split that were left out because the weights that the run started from
            were trained on them.
        unknown_start: the run started from weights of unknown origin, so that patients of the test split may
            be behind them, and the attacks may find less than there is.
        bound: false positive rate -> largest true positive rate that the guarantee allows; empty where there
            is none for a patient.
        bound_auc: largest area under the ROC curve that it allows; None as above.
        significance: largest probability of an unjust verdict.
        verdict: ``refuted`` (an attack exceeds the bound), ``exposed`` (an attack tells members from
            non-members), ``nothing found``, or ``void`` (a control failed).
        reason: which control failed; else empty. An attack above its bound counts all the same.
        sites: sites that trained the audited model together; reference models know the run's own patients
            alone, so with more than one they resemble it less.
        origin: the audited run.
        seconds: of the audit, without models that an earlier one had trained.
        curves: attack -> its true positive rates over rising false positive rates, the same for all attacks;
            empty in a record of an earlier version.
        curve_bound: largest true positive rates that the guarantee allows at these rates; empty where there
            is no bound.
        version: format of the record.
    """

    attacks: tuple[AttackRecord, ...]
    groups: tuple[GroupRecord, ...]
    negative: AttackRecord
    positive: AttackRecord
    references: int
    split_rule: str
    patients_known: bool
    bound: dict[str, float]
    bound_auc: float | None
    significance: float
    verdict: str
    reason: str
    origin: Origin
    split_control: AttackRecord | None = None
    sites: int = 1
    seconds: float = 0.0
    curves: dict[str, tuple[OperatingPoint, ...]] = field(default_factory=dict)
    curve_bound: tuple[float, ...] = ()
    left_out: int = 0
    unknown_start: bool = False
    version: int = FORMAT
