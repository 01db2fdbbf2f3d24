"""What a reconstruction audit records: identification among candidates, attacks, levels of noise, controls.

Written and read by :mod:`meninx.core.artifacts`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from meninx.core.origin import Origin
from meninx.core.summaries import FORMAT

CRITERIA = 2
"""Version of the criteria of success: 1 had no ranking, and its threshold fell with noise."""
NOTHING, UNJUDGED = "nothing found", "cannot be judged"


def attack_name(attack: str, package: str) -> str:
    """Return the name of an attack for people, marked as external code where a package offers it.

    >>> attack_name("trap", ""), attack_name("mirror", "other 1.0")
    ('trap', 'mirror (external code of other 1.0)')
    """
    return f"{attack} (external code of {package})" if package else attack


@dataclass(frozen=True, kw_only=True)
class LevelRecord:
    """A level of noise at which attacks were run.

    Attributes:
        name: in words, e.g. ``this run`` or ``epsilon 1e+09``.
        noise_multiplier: standard deviation of the noise of a step over the clipping threshold; 0 without.
        epsilon: of a training with this noise; None without noise, or where it is not known.
        own: the noise of the audited run.
    """

    name: str
    noise_multiplier: float
    epsilon: float | None = None
    own: bool = False


@dataclass(frozen=True, kw_only=True)
class IdentificationRecord:
    """How often an attacker picked a patient's image out of several, over all steps of a training.

    Attributes:
        level: name of the level.
        encoder: what the attacker's first layer computes; ``candidates`` is fitted on the candidates
            themselves.
        candidates: images among which it chooses.
        trials: simulated attacks.
        success: share of right choices.
        low: lower end of its 95 % interval.
        high: upper end.
        bound: the largest success that the steps allow, gamma(1/n); 1 without noise.
        excess: the success is above the bound beyond chance.
    """

    level: str
    encoder: str
    candidates: int
    trials: int
    success: float
    low: float
    high: float
    bound: float
    excess: bool = False

    @property
    def guess(self) -> float:
        """Success of a blind guess."""
        return 1 / self.candidates


@dataclass(frozen=True, kw_only=True)
class RankingRecord:
    """How often what an attack made of a step is most like the image of a patient of the step.

    Each original is ranked with members that took no part in the step, by the largest correlation with a
    candidate. It is identified where it is the first.

    Attributes:
        pool: images of a ranking: the original and members that took no part.
        success: share of the originals that are the first.
        patients: independent trials that these are worth.
        low: lower end of its 95 % interval.
        high: upper end.
        noise_null: share that are the first by candidates made of noise alone.
        heldout_null: the same from steps of held-out patients.
        steps_null: the same from steps of other members; None where only one step was attacked.
        control: share of held-out patients that are the first from steps of the originals.
        bound: the largest success that the steps allow; 1 without noise.
    """

    pool: int
    success: float
    patients: float
    low: float
    high: float
    noise_null: float
    heldout_null: float
    steps_null: float | None
    control: float
    bound: float

    @property
    def null(self) -> float:
        """Largest share of first places that need nothing of the patient, at least that of a blind guess."""
        shares = (self.noise_null, self.heldout_null, self.steps_null or 0.0, self.control)
        return max(1 / self.pool, *shares)


@dataclass(frozen=True, kw_only=True)
class MatchRecord:
    """How many images an attack reconstructed at one level, against its null.

    Attributes:
        attack: name of the attack.
        encoder: linear map in front of the attacked rows; empty where there is none.
        view: what the attacker saw: ``step``, or sums and differences over sites.
        level: name of the level.
        noise_multiplier: of a step of one client.
        server: ``malicious`` or ``honest but curious``.
        batch: images in a step of one client.
        participations: steps that the attacker averaged.
        originals: images that were attacked, in steps that they took part in.
        patients: independent trials that these are worth: fewer where patients were attacked several times.
        candidates: reconstructions among which each step's images were looked for.
        metric: similarity by which they were matched.
        threshold: similarity from which on an image counts as reconstructed.
        nulls: similarities of the null that the threshold was set on.
        level_of_null: share of the null that may exceed the threshold.
        noise_null: share of the originals that count as reconstructed from noise alone.
        heldout_null: the same from steps of held-out patients.
        steps_null: the same from steps of other members; None where only one step was attacked.
        success: share of the originals that were reconstructed.
        low: lower end of its 95 % interval.
        high: upper end.
        control: share of held-out patients that count as reconstructed from steps of the originals: the
            negative control.
        control_patients: independent trials that it rests on.
        kappa: upper limit of how often as many public images as there are candidates hold one that is close
            enough to an image: success without the model.
        bound: the largest success at this kappa that the steps allow, gamma(kappa); 1 without noise.
        quantiles: metric -> similarity of the best, the median and the worst matched image.
        works: the attack finds images where there is no noise, by the criteria of the verdict.
        self_test: share that it reconstructs or identifies there.
        seconds: that it took.
        excess: a success is above its bound beyond chance.
        ranking: identification of the originals by the candidates; None where all members took part, and in
            records of an earlier version.
        found: the attack reconstructs or identifies more images than its nulls explain, beyond chance.
        package: name and version of the package that the attack is external code of; empty for one of
            meninx's own.
    """

    attack: str
    encoder: str
    view: str
    level: str
    noise_multiplier: float
    server: str
    batch: int
    participations: int
    originals: int
    patients: float
    candidates: int
    metric: str
    threshold: float
    nulls: int
    level_of_null: float
    noise_null: float
    heldout_null: float
    steps_null: float | None
    success: float
    low: float
    high: float
    control: float
    control_patients: float
    kappa: float
    bound: float
    quantiles: dict[str, tuple[float, float, float]]
    works: bool
    self_test: float
    seconds: float
    excess: bool = False
    ranking: RankingRecord | None = None
    found: bool = False
    package: str = ""

    @property
    def name(self) -> str:
        """Name of the attack for people, with the package where it is external code."""
        return attack_name(self.attack, self.package)

    @property
    def null(self) -> float:
        """Largest share of images that count as reconstructed where nothing of them was in the step."""
        return max(self.level_of_null, self.noise_null, self.heldout_null, self.steps_null or 0.0)

    @property
    def without_model(self) -> float:
        """Share of images that count as reconstructed by the null, or by public images alone."""
        return max(self.null, self.kappa)


@dataclass(frozen=True, kw_only=True)
class ReconstructionAudit:
    """What images an attacker gets from the steps of a training: ``audit/reconstruction.json``.

    Numbers depend on patients' images and are outside the guarantee of a private run.

    Attributes:
        identification: rank-1 identification among candidates.
        identified_without: the negative control of identification: the patient took part in nothing.
        matches: attacks at the levels.
        not_attacked: attack -> why it was not run.
        levels: of noise, the one of the audited run first.
        sample_rate: probability of a patient in a step.
        steps: of the training.
        sampler: how the run draws its patients; bounds assume ``poisson``.
        members: patients of the training split whose images were attacked or served as candidates.
        heldout: patients of the null and the negative control.
        public: where the attacker's images come from, in words.
        pictures: what was drawn outside ``private/``, in words.
        seconds: of everything.
        significance: largest probability of an unjust verdict.
        verdict: ``refuted`` (an attack exceeds the bound), ``exposed`` (an attack succeeds beyond its null at
            the run's own noise), ``nothing found``, ``cannot be judged`` (too few images), or ``void`` (a
            control failed).
        reason: which control failed, or why it ``cannot be judged``; else empty.
        origin: the audited run.
        criteria: version of the criteria of success: 1 compared a threshold that fell with noise.
        unit: what the run protects, ``patient`` or ``case``.
        guaranteed: the bounds hold; the noise of a run with ``--deterministic`` comes from a seed.
        version: format of the record.
    """

    identification: tuple[IdentificationRecord, ...]
    identified_without: IdentificationRecord
    matches: tuple[MatchRecord, ...]
    not_attacked: dict[str, str]
    levels: tuple[LevelRecord, ...]
    sample_rate: float
    steps: int
    sampler: str
    members: int
    heldout: int
    public: str
    pictures: str
    seconds: float
    significance: float
    verdict: str
    reason: str
    origin: Origin
    criteria: int = 1
    unit: str = "patient"
    guaranteed: bool = True
    version: int = FORMAT

    def without_bounds(self) -> ReconstructionAudit:
        """Return the audit of a run for which no guarantee holds: a bound of 1, which nothing exceeds."""
        return replace(
            self,
            guaranteed=False,
            identification=tuple(replace(one, bound=1.0, excess=False) for one in self.identification),
            identified_without=replace(self.identified_without, bound=1.0, excess=False),
            matches=tuple(_without_bound(one) for one in self.matches),
        )

    @property
    def standing(self) -> str:
        """Verdict by the criteria of this version: by earlier ones nothing was found where something was."""
        return UNJUDGED if self.criteria < CRITERIA and self.verdict == NOTHING else self.verdict

    @property
    def own_level(self) -> str:
        """Name of the level of the audited run."""
        return next(level.name for level in self.levels if level.own)


def _without_bound(match: MatchRecord) -> MatchRecord:
    ranking = None if match.ranking is None else replace(match.ranking, bound=1.0)
    return replace(match, bound=1.0, excess=False, ranking=ranking)
