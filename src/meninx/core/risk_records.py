"""What the theory of an audit records: proven bounds on attacks over an axis of epsilon.

Written and read by :mod:`meninx.core.artifacts`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meninx.core.summaries import FORMAT


@dataclass(frozen=True, kw_only=True)
class Bounded:
    """A proven bound on an attack, with what is known to be reachable.

    Attributes:
        lower: an adversary with the knowledge of the threat model reaches it.
        value: best estimate.
        upper: no attack exceeds it.
    """

    lower: float
    value: float
    upper: float


@dataclass(frozen=True, kw_only=True)
class PriorRecord:
    """What an adversary knows before seeing the model.

    Attributes:
        name: short name, e.g. ``1 of 10``.
        kappa: its success without the model.
        meaning: in words.
    """

    name: str
    kappa: float
    meaning: str


@dataclass(frozen=True, kw_only=True)
class BoundPoint:
    """One epsilon: the noise that spends it and what any attack can reach.

    Attributes:
        epsilon: the epsilon.
        noise_multiplier: noise standard deviation over sensitivity; None where several runs are composed.
        accountant: who computed it.
        worst: name of a prior -> largest success of an adversary that knows all other patients' data and the
            direction of the patient's gradient.
        relaxed: the same where only the line of the gradient is known.
    """

    epsilon: float
    noise_multiplier: float | None
    accountant: str
    worst: dict[str, Bounded]
    relaxed: dict[str, Bounded]


@dataclass(frozen=True, kw_only=True)
class MembershipRecord:
    """Proven bounds on membership tests at the operating point, in the worst case.

    Attributes:
        auc: area under the ROC curve.
        advantage: largest TPR - FPR.
        accuracy: largest share of right answers if half of the candidates were members.
        tpr_at_fpr: false positive rate (as text) -> largest true positive rate.
    """

    auc: Bounded
    advantage: Bounded
    accuracy: Bounded
    tpr_at_fpr: dict[str, Bounded]


@dataclass(frozen=True, kw_only=True)
class MechanismRecord:
    """The mechanism that bounds are about.

    Attributes:
        sample_rate: probability of a unit in a step.
        steps: number of steps.
        noise_multiplier: of the operating point; None without one.
        delta: the delta of every epsilon.
        unit: privacy unit.
        units: declared number of units; None where unknown.
        sampler: the sampler that was used; the bounds assume ``poisson``.
        accountant: of the operating point's epsilon; empty without one.
        source: where it comes from, in words.
        run: identity of the run; empty without one.
        weights: SHA-256 of the run's released weights; empty without any.
        ledger: number of lines and head of the ledger that the numbers were read from.
    """

    sample_rate: float
    steps: int
    noise_multiplier: float | None
    delta: float
    unit: str
    units: int | None
    sampler: str = "poisson"
    accountant: str = ""
    source: str = ""
    run: str = ""
    weights: str = ""
    ledger: tuple[int, str] = (0, "")


@dataclass(frozen=True, kw_only=True)
class PatientBounds:
    """Upper bounds on attacks on a patient, where the guarantee is for one case.

    Attributes:
        cases: largest number of training cases of one patient; 0 where it is not known, without bounds.
        reason: why there are no bounds; empty where there are.
        advantage: largest TPR - FPR of a membership test; None without bounds.
        tpr_at_fpr: false positive rate (as text) -> largest true positive rate.
        success: name of a prior -> largest success in the worst case.
    """

    cases: int
    reason: str = ""
    advantage: float | None = None
    tpr_at_fpr: dict[str, float] = field(default_factory=dict)
    success: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BoundsRecord:
    """Proven bounds on attacks: ``bounds.json`` in the folder that ``meninx audit bounds`` wrote.

    Attributes:
        mechanism: what the bounds are about.
        priors: the adversaries.
        points: the axis of epsilon, ascending.
        operating: the run or recipe itself; None where it has no noise multiplier, or nothing bounds it.
        membership: of the operating point; None without one.
        patient: of the operating point, for a patient; None where the bounds are for patients, or there is no
            run.
        no_guarantee_from: lowest epsilon of the axis at which the first adversary may gain more than half of
            all that guessing leaves, in the worst case; None where there is none.
        precision: largest relative distance of lower and upper bound that was asked for.
        void: why no bound holds for the run, e.g. because its noise came from a seed; then the record holds
            none for it, and the axis is about trainings with noise that nobody knows. Empty otherwise.
        made: time, ISO 8601 in UTC.
        versions: package -> version.
        version: format of the record.
    """

    mechanism: MechanismRecord
    priors: tuple[PriorRecord, ...]
    points: tuple[BoundPoint, ...]
    operating: BoundPoint | None = None
    membership: MembershipRecord | None = None
    patient: PatientBounds | None = None
    no_guarantee_from: float | None = None
    precision: float = 1e-3
    void: str = ""
    made: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    version: int = FORMAT
