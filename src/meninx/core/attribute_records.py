"""What an audit of attributes records: what a model tells about sex, age or site of a patient.

Written and read by :mod:`meninx.core.artifacts`.
"""

from __future__ import annotations

from dataclasses import dataclass

from meninx.core.origin import Origin
from meninx.core.summaries import FORMAT


@dataclass(frozen=True, kw_only=True)
class AttributeRecord:
    """How well one attribute of a patient can be inferred from one thing that an attacker sees.

    Every patient is judged by an attack that was fitted on other patients. Members are those of the training
    split, others those of the test split.

    Attributes:
        attribute: e.g. ``sex``.
        signal: what the attacker sees of the patient: ``labels`` (the true labels alone), ``logits``,
            ``embedding``, ``gradient`` (of the released model on the patient) or ``noisy gradient`` (clipped
            and with the noise of the run's steps).
        attack: ``linear`` or ``rbf``, whichever was chosen most often on validation patients.
        classes: values of the attribute that enough patients have.
        members: patients of the training split with such a value.
        others: of the test split.
        prior: share of the most frequent value, which guessing reaches.
        accuracy: share of all these patients whose value is inferred; None where it is refused.
        accuracy_low: lower end of its 95 % interval by Clopper and Pearson; None as above.
        accuracy_high: upper end.
        on_members: the share among members.
        on_members_low: lower end of its interval.
        on_members_high: upper end.
        on_others: the share among others: what the attack imputes about patients that the model never saw.
        on_others_low: lower end of its interval.
        on_others_high: upper end.
        advantage: ``on_members`` minus ``on_others``: what the model learned about its own patients.
        advantage_low: lower end of its 95 % interval by Newcombe.
        advantage_high: upper end.
        advantage_p: probability of such an advantage or a larger one with membership permuted among patients
            with the same value.
        over_labels: ``accuracy`` minus that of the attack on true labels alone; None for that attack itself
            and where there are no labels.
        over_labels_low: lower end of its 95 % interval, patients resampled.
        over_labels_high: upper end.
        auroc: area under the ROC curve, mean over the values, folded: at least 1/2 with two values.
        auroc_low: lower end of its 95 % interval, patients resampled.
        auroc_high: upper end.
        null_high: the area that 5 % of the attacks on a permuted attribute exceed.
        p_value: probability of such an area or a larger one with a permuted attribute.
        bound: largest share among members that the guarantee of a private run allows an attack that imputes
            as well as this one; of a noisy gradient, that it allows from this one gradient to an attacker who
            knows the prior. None where nothing is guaranteed.
        excess: the attack exceeds its bound beyond chance; None without one.
        refusal: why there is no number; else empty.
    """

    attribute: str
    signal: str
    attack: str = ""
    classes: tuple[str, ...] = ()
    members: int = 0
    others: int = 0
    prior: float | None = None
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    on_members: float | None = None
    on_members_low: float | None = None
    on_members_high: float | None = None
    on_others: float | None = None
    on_others_low: float | None = None
    on_others_high: float | None = None
    advantage: float | None = None
    advantage_low: float | None = None
    advantage_high: float | None = None
    advantage_p: float | None = None
    over_labels: float | None = None
    over_labels_low: float | None = None
    over_labels_high: float | None = None
    auroc: float | None = None
    auroc_low: float | None = None
    auroc_high: float | None = None
    null_high: float | None = None
    p_value: float | None = None
    bound: float | None = None
    excess: bool | None = None
    refusal: str = ""


@dataclass(frozen=True, kw_only=True)
class LeakRecord:
    """How well the gradient of one patient tells the patient's labels.

    The sign of the gradient of the last bias tells whether a label is present: no attack needs to be fitted.

    Attributes:
        signal: ``gradient`` or ``noisy gradient``.
        patients: one image of each.
        prior: share of right guesses by the most frequent value of each label.
        accuracy: share of labels that are read correctly; None where it is refused.
        accuracy_low: lower end of its 95 % interval over patients; None as above.
        accuracy_high: upper end.
        bound: largest share that the noise of one step allows an attacker who knows the prior, for one label
            per patient; None for a gradient without noise and for several labels.
        refusal: why there is no number; else empty.
    """

    signal: str
    patients: int
    prior: float | None = None
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    bound: float | None = None
    refusal: str = ""


@dataclass(frozen=True, kw_only=True)
class AttributesAudit:
    """What a run's model tells about attributes of patients: ``audit/attributes.json``.

    The numbers depend on patients' data and are outside the guarantee of a private run.

    Attributes:
        attributes: every attribute with every signal.
        leaks: what single gradients tell about labels.
        negative: the attacks on an attribute that is a coin for each patient.
        fresh: the attacks on the embedding of a network that was trained on nothing: members must not be
            easier than others.
        positive: the attack on embeddings into which such a coin was planted, for members only.
        prior_bounds: attribute -> largest share that the guarantee of a private run allows an attacker who
            knows nothing but the prior; empty without a guarantee for a patient.
        noise_multiplier: of the noisy gradient; 0 without privacy.
        split_rule: how the dataset says that its splits were made; empty where it does not say.
        patients_known: the source names its patients; otherwise every image counts as one.
        left_out: patients of the test split that were left out because the weights that the run started from
            were trained on them.
        unknown_start: the run started from weights of unknown origin, so that patients of the test split may
            be behind them.
        synthetic: no patient stands behind the images.
        folds: parts of the patients; each is judged by an attack fitted on the others.
        permutations: of the null.
        significance: largest probability of an unjust verdict.
        seed: of folds, noise, coins and permutations.
        seconds: of the audit.
        verdict: ``refuted`` (an attack exceeds the bound), ``exposed`` (an attack infers more about members
            than about others), ``inferable`` (what is inferred is a statistic of the population: it is found
            in strangers, too), ``nothing found`` or ``void`` (a control failed).
        reason: which control failed; else empty. An attack above its bound counts all the same.
        origin: the audited run.
        version: format of the record.
    """

    attributes: tuple[AttributeRecord, ...]
    leaks: tuple[LeakRecord, ...]
    negative: tuple[AttributeRecord, ...]
    fresh: tuple[AttributeRecord, ...]
    positive: tuple[AttributeRecord, ...]
    prior_bounds: dict[str, float]
    noise_multiplier: float
    split_rule: str
    patients_known: bool
    left_out: int
    unknown_start: bool
    synthetic: bool
    folds: int
    permutations: int
    significance: float
    seed: int
    seconds: float
    verdict: str
    reason: str
    origin: Origin
    version: int = FORMAT
