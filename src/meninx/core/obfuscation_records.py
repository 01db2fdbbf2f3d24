"""How a dataset was obfuscated, and what retrained attackers still find in it.

Written and read by :mod:`meninx.core.artifacts`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from meninx.core.origin import Origin
from meninx.core.summaries import FORMAT


@dataclass(frozen=True, kw_only=True)
class LabelFloorRecord:
    """How well the true utility labels alone tell the attribute.

    No method that keeps these labels exactly and does not read the attribute can go below it.

    Attributes:
        attribute: e.g. ``sex`` or ``sex+age``.
        group: the class that is told best from all others.
        labels: utility labels that were used.
        rows: images with a known class.
        patients: their patients.
        auroc: area under the ROC curve, at least 1/2; None where it is refused.
        low: lower end of its 95 % interval over patients; None as above.
        high: upper end.
        sentence: the floor in words.
        refusal: why there is no number; else empty.
    """

    attribute: str
    group: str = ""
    labels: tuple[str, ...] = ()
    rows: int = 0
    patients: int = 0
    auroc: float | None = None
    low: float | None = None
    high: float | None = None
    sentence: str = ""
    refusal: str = ""


@dataclass(frozen=True, kw_only=True)
class CertificateRecord:
    """A bound on the AUROC of any attacker on released codes for two classes, or why there is none.

    It holds for one image per patient, and conditional on the fitted method.

    Attributes:
        attribute: the attribute.
        groups: the two classes that are compared.
        patients: independent patients of each that took no part in fitting.
        leaves: number of codes.
        target: largest AUROC that was accepted in advance.
        delta: probability that the bound is too low.
        needed: patients per class for which the bound is expected to reach the target if the classes do not
            differ.
        plug_in: AUROC of the best order of the codes on these patients themselves; None where it is refused.
        limit: largest AUROC of any attacker with probability ``1 - delta``; None where it is refused.
        sentence: the certificate, or ``not certified: needs n, has m``, in words.
    """

    attribute: str
    groups: tuple[str, str]
    patients: tuple[int, int]
    leaves: int
    target: float
    delta: float
    needed: int
    plug_in: float | None = None
    limit: float | None = None
    sentence: str = ""


@dataclass(frozen=True, kw_only=True)
class AttackerRecord:
    """How well one attacker infers the attribute from released images of the test split.

    Attributes:
        name: e.g. ``small-cnn``, ``linear``, ``kernel``, ``purifier``, ``average-of-10``.
        knows: what the attacker was trained on, in words.
        retrained: it was trained on released images. False for a static attacker, which is no privacy
            measure.
        question: the classes that are told apart, chosen on the validation split where there are several,
            e.g. ``F against M`` or ``60 or older against the rest``.
        valid_auroc: folded AUROC on the validation split, by which an attacker is chosen; None where it is
            refused.
        valid_separation: distance of the mean scores of both classes on the validation split, in standard
            deviations within a class, by which equal areas are told apart; None as above.
        auroc: folded AUROC on the test split: at least 1/2; None as above.
        low: lower end of its 95 % interval, patients resampled.
        high: upper end.
        oriented_auroc: AUROC on the test split without folding, in the direction that is right on the
            validation split; below 1/2 where the directions differ. None as above.
        clean_auroc: that of the same attacker trained and measured on the original images; None as above.
        patients: patients of the test split with a known attribute.
        classes: values of the attribute -> such patients.
        seconds: of training and measurement.
        refusal: why there is no number; else empty.
    """

    name: str
    knows: str = ""
    retrained: bool = True
    question: str = ""
    valid_auroc: float | None = None
    valid_separation: float | None = None
    auroc: float | None = None
    low: float | None = None
    high: float | None = None
    oriented_auroc: float | None = None
    clean_auroc: float | None = None
    patients: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    refusal: str = ""


@dataclass(frozen=True, kw_only=True)
class NullRecord:
    """What the linear and the kernel attacker find where there is nothing to find: permuted attributes.

    Each patient gets the attribute of another one of the same split, and the attackers are fitted and chosen
    again. Folding makes these areas larger than 1/2, the more so the fewer patients there are.

    Attributes:
        permutations: how many.
        mean: mean folded AUROC on the test split.
        high: 95 % of them are below.
        observed: folded AUROC of the same two attackers with the true attribute, the better one on the
            validation split.
        p_value: probability of ``observed`` or more with permuted attributes.
        network: folded AUROC of a network that was retrained on permuted attributes, one per repetition.
    """

    permutations: int
    mean: float
    high: float
    observed: float
    p_value: float
    network: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class UtilityLossRecord:
    """What the release costs for one utility label, measured on the same patients of the test split.

    Attributes:
        label: the label.
        regime: ``drop-in`` (the model was trained on original images) or ``retrained`` (on released ones);
            for features also ``drop-in head`` (the last layer of their network) and ``retrained linear``.
        group: value of the attribute whose patients were measured; empty for all.
        clean: AUROC on the original images; None where it is refused.
        released: AUROC on the released images.
        loss: ``clean - released``.
        loss_low: lower end of its 95 % interval, the same resampled patients for both.
        loss_high: upper end.
        patients: patients of the test split whose label is known.
        refusal: why there is no number, e.g. ``insufficient``; else empty.
    """

    label: str
    regime: str
    group: str = ""
    clean: float | None = None
    released: float | None = None
    loss: float | None = None
    loss_low: float | None = None
    loss_high: float | None = None
    patients: int = 0
    refusal: str = ""


@dataclass(frozen=True, kw_only=True)
class ReidentificationRecord:
    """Whether two images of one patient are recognised as such.

    Attributes:
        subject: ``original``, ``released`` or ``labels`` (the labels of the patient alone: the floor).
        auroc: of telling pairs of one patient from pairs of two; None where it is refused.
        low: lower end of its 95 % interval over patients.
        high: upper end.
        patients: patients of the test split with two images or more.
        refusal: why there is no number; else empty.
    """

    subject: str
    auroc: float | None = None
    low: float | None = None
    high: float | None = None
    patients: int = 0
    refusal: str = ""


@dataclass(frozen=True, kw_only=True)
class DistortionRecord:
    """How much released images differ from the originals, over images of the test split.

    Attributes:
        l1: mean absolute change of a pixel, of the range [0, 1].
        linf: largest change of a pixel of any image.
        ssim: mean structural similarity.
        train_l1: mean absolute change over the training split, which a budget fixes.
        images: images of the test split.
    """

    l1: float
    linf: float
    ssim: float
    train_l1: float
    images: int


@dataclass(frozen=True, kw_only=True)
class AttackStrength:
    """How hard a release was attacked. Audits of different strength are not compared.

    Attributes:
        epochs: of every network.
        draws: independent releases of each image that one attacker averages; 1 for none.
        permutations: permuted attributes of the null.
        networks: families of the networks that attack.
    """

    epochs: int
    draws: int
    permutations: int
    networks: tuple[str, ...]

    def differences(self, other: AttackStrength) -> tuple[str, ...]:
        """Return what differs from another strength, in words; empty for the same.

        >>> AttackStrength(epochs=1, draws=10, permutations=99, networks=()).differences(
        ...     AttackStrength(epochs=15, draws=10, permutations=99, networks=()))
        ('attack_epochs 1 and 15',)
        """
        pairs = (
            ("attack_epochs", self.epochs, other.epochs),
            ("draws", self.draws, other.draws),
            ("permutations", self.permutations, other.permutations),
            ("networks", " ".join(self.networks) or "none", " ".join(other.networks) or "none"),
        )
        return tuple(f"{name} {mine} and {theirs}" for name, mine, theirs in pairs if mine != theirs)

    def weaker_than(self, other: AttackStrength) -> bool:
        """Return whether some part of the other attack is missing or smaller here."""
        less = (
            self.epochs < other.epochs, self.draws < other.draws, self.permutations < other.permutations,
        )  # fmt: skip
        return any(less) or not set(other.networks) <= set(self.networks)


@dataclass(frozen=True, kw_only=True)
class AskedTarget:
    """A target for which a verdict on a release was asked, and the verdict.

    Attributes:
        target: 0 for none.
        verdict: with the numbers of that time.
        seed: of the attackers of that time.
        made: time, ISO 8601 in UTC; empty in a deterministic audit.
    """

    target: float
    verdict: str
    seed: int = 0
    made: str = ""


@dataclass(frozen=True, kw_only=True)
class ReleaseAuditRecord:
    """What retrained attackers find in a released dataset: ``release_audit.json``.

    The question is ``attribute``, ``classes``, ``labels`` and ``published``; ``strength`` says how hard the
    release was attacked. Numbers of two audits can be compared where all of these are equal.

    Attributes:
        attribute: the attacked attribute, e.g. ``sex`` or ``sex+age``.
        classes: its classes, in the order of their numbers.
        labels: labels whose utility was measured.
        published: columns that are published beside the images: labels and attributes.
        strength: how hard the release was attacked.
        method: name of the method; empty for a release of another program.
        method_summary: the method in words.
        caveat: what holds of the method whatever was measured.
        chosen: name of the attacker with the highest AUROC on the validation split, among equal ones the one
            that separates the classes furthest there; empty where too few patients are there to choose.
        validation: class -> patients of the validation split, who choose.
        target: highest folded AUROC that was accepted when the release was audited first; 0 without one.
        asked: the targets that were asked for, the first one first; it decides.
        attackers: the retrained ones, each by the variant and question that the validation split chooses. A
            variant or question with a larger upper limit on the test split is an attacker of its own.
        static: attackers trained on original images alone: not a privacy measure.
        every_question: the chosen attacker, or the highest one where none is chosen, on each class against
            the rest and on each two classes; empty where there are two classes.
        per_patient: attackers that average over all images of a patient: the chosen one, and the one with the
            largest upper limit where that is another; empty where every patient has one image.
        clean: the attacker of the original images that the validation split chooses: the positive control.
        clean_floor: the audit is void where ``clean`` finds less.
        clean_high: largest upper limit of all attackers of the original images; None where it is refused.
        subject: what was attacked: ``images`` or ``features``.
        control: the best attacker of constant images, which must find nothing.
        null: the same with permuted attributes; None where it was not measured.
        output_leaks: the attribute from the outputs of utility models.
        code_attacks: the attribute from the released code itself; empty for a method without one.
        columns: the attribute from the published columns alone; empty without any.
        with_columns: the attribute from images or codes together with the published columns; empty as above.
        not_measured: what was not measured and why, in words; empty where everything was.
        unaveraged: the method draws at random, and no attacker averaged several of its releases.
        floor: the label floor.
        certificates: of a method that releases codes, one for every two classes; empty for any other.
        utility: what the release costs.
        reidentification: original, released, floor.
        distortion: None where the images have another size.
        divided: the method was fitted on other training patients than the attackers'; False: it learned
            nothing about patients, or is cross-fitted.
        splits: ``fit``, ``attack``, ``valid``, ``test`` -> patients.
        deterministic: randomness of the mechanism came from the seed: NOT FOR RELEASE.
        synthetic: no patient stands behind the images.
        seed: of attackers and resamples.
        seconds: of the audit.
        verdict: ``passed`` (the upper limit of every retrained attacker is at most the target), ``failed``,
            ``measured`` (no target), or ``void`` (nothing was found and a control failed, e.g. no attacker
            finds the attribute in the original images).
        reason: of ``void`` and ``failed``; else empty.
        source: origin of the original dataset.
        released: origin of the released one.
        checksums: SHA-256 of ``checksums.sha256`` of the released dataset; empty where it has none.
        obfuscation: SHA-256 of ``obfuscation.json`` of the release; empty where it has none, and in a record
            of an earlier version.
        earlier_unknown: the private room of the release was not there, so that it is not known whether other
            targets were asked for before.
        stated: what ``obfuscation.json`` says of a release whose private room was not there: the statement
            of whoever made it.
        version: format of the record.
    """

    attribute: str
    classes: tuple[str, ...]
    labels: tuple[str, ...]
    published: tuple[str, ...]
    strength: AttackStrength
    method: str
    method_summary: str
    caveat: str
    chosen: str
    validation: dict[str, int]
    target: float
    attackers: tuple[AttackerRecord, ...]
    static: tuple[AttackerRecord, ...]
    output_leaks: tuple[AttackerRecord, ...]
    code_attacks: tuple[AttackerRecord, ...]
    floor: LabelFloorRecord | None
    certificates: tuple[CertificateRecord, ...]
    utility: tuple[UtilityLossRecord, ...]
    reidentification: tuple[ReidentificationRecord, ...]
    distortion: DistortionRecord | None
    divided: bool
    splits: dict[str, int]
    deterministic: bool
    synthetic: bool
    seed: int
    seconds: float
    verdict: str
    reason: str
    source: Origin
    released: Origin
    asked: tuple[AskedTarget, ...] = ()
    every_question: tuple[AttackerRecord, ...] = ()
    columns: tuple[AttackerRecord, ...] = ()
    with_columns: tuple[AttackerRecord, ...] = ()
    per_patient: tuple[AttackerRecord, ...] = ()
    not_measured: tuple[str, ...] = ()
    unaveraged: bool = False
    clean: AttackerRecord | None = None
    clean_floor: float = 0.0
    clean_high: float | None = None
    control: AttackerRecord | None = None
    null: NullRecord | None = None
    subject: str = "images"
    checksums: str = ""
    obfuscation: str = ""
    earlier_unknown: bool = False
    stated: str = ""
    version: int = FORMAT

    @property
    def chosen_attacker(self) -> AttackerRecord | None:
        """The attacker that the validation split chooses; None where too few patients are there to choose."""
        return next((item for item in self.attackers if self.chosen and item.name == self.chosen), None)

    @property
    def retrained(self) -> tuple[AttackerRecord, ...]:
        """All attackers of released images and codes that have a number, those of whole patients included."""
        every = (*self.attackers, *self.code_attacks, *self.per_patient)
        return tuple(item for item in every if item.auroc is not None)

    @property
    def highest_attacker(self) -> AttackerRecord | None:
        """The attacker with the highest AUROC on the test split of all; None where none has a number."""
        return max(self.retrained, key=lambda item: item.auroc or 0.0, default=None)

    @property
    def limit(self) -> float | None:
        """Largest upper limit of all retrained attackers, which a target is held against."""
        return max((item.high for item in self.retrained if item.high is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class ComparedRelease:
    """One release of a comparison.

    Attributes:
        name: folder name.
        method: name of the method.
        strength: budget or number of codes, as it stands beside the point; empty without one.
        attacker: retrained attacker that the validation split chose; empty where it could not choose.
        auroc: its folded AUROC on the test split; None where there is no number.
        low: lower end of its 95 % interval.
        high: upper end.
        highest: the attacker with the highest folded AUROC on the test split of all.
        highest_auroc: that AUROC; None where there is no number.
        limit: largest upper limit of all retrained attackers, which a target is held against.
        loss: mean loss of AUROC over the labels, of retrained models; None where none was measured.
        loss_low: mean of the lower ends of the labels' 95 % intervals.
        loss_high: mean of the upper ends.
        drop_in_loss: mean loss of models of original images; None as above.
        best: no other release of the comparison has both a smaller loss and a lower limit.
        verdict: of its audit.
        target: of its audit; 0 without one.
        deterministic: NOT FOR RELEASE.
        audit: SHA-256 of its ``release_audit.json``.
    """

    name: str
    method: str
    strength: str
    attacker: str
    auroc: float | None
    low: float | None
    high: float | None
    highest: str
    highest_auroc: float | None
    limit: float | None
    loss: float | None
    loss_low: float | None
    loss_high: float | None
    drop_in_loss: float | None
    best: bool
    verdict: str
    target: float
    deterministic: bool
    audit: str


@dataclass(frozen=True, kw_only=True)
class ReleaseComparisonRecord:
    """Several releases of one dataset, by utility and by all attackers: ``release_comparison.json``.

    Attributes:
        attribute: the attribute that was to be hidden.
        labels: labels over which the mean loss is taken: those that were measured in every release.
        left_out: labels that were not measured in some release.
        clean_limit: largest upper limit of the attackers of the original images, of all audits; None where
            it is refused.
        floor: what the labels alone tell; None where it is refused.
        original_given: that all are releases of one original was checked with that original.
        releases: in the order of the largest upper limit of all their attackers.
        version: format of the record.
    """

    attribute: str
    labels: tuple[str, ...]
    left_out: tuple[str, ...]
    clean_limit: float | None
    floor: float | None
    original_given: bool
    releases: tuple[ComparedRelease, ...]
    version: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class ObfuscationRecord:
    """How a dataset was obfuscated: ``obfuscation.json`` of the released dataset, written last.

    Attributes:
        method: name of the method, e.g. ``noise``.
        method_summary: the method in words that follow "images obfuscated by".
        caveat: what holds of the method whatever was measured.
        attribute: the attribute that was to be hidden.
        classes: its classes, in the order of their numbers.
        utility: labels that were to be kept.
        published: columns of the released table with content about a patient: labels and attributes.
        withheld: columns of the source that the released table does not have.
        settings: settings that determine the result, without paths.
        facts: what was fitted.
        floor: the label floor, which was shown before anything was fitted.
        cases: number of released images.
        patients: number of their patients.
        splits: split -> cases.
        deterministic: randomness of the mechanism came from the seed: NOT FOR RELEASE.
        source_record: digest of ``prepare.json`` of the source under the key of the release; empty
            where it has none.
        checksums: SHA-256 of ``checksums.sha256`` of the released dataset.
        source: origin of the source: its name, and its digest under a key in ``private/``.
        made: time, ISO 8601 in UTC; empty in a deterministic release.
        versions: package -> version.
        subject: what was obfuscated: ``images`` or ``features``.
        keyed_names: cases and patients have names under the key of the release, and rows stand in the order
            of these names. False in a release of an earlier version, which kept names and order of its
            source.
        version: format of the record.
    """

    method: str
    method_summary: str
    caveat: str
    attribute: str
    classes: tuple[str, ...]
    utility: tuple[str, ...]
    published: tuple[str, ...]
    withheld: tuple[str, ...]
    settings: dict[str, Any]
    facts: dict[str, Any]
    floor: LabelFloorRecord | None
    cases: int
    patients: int
    splits: dict[str, int]
    deterministic: bool
    source_record: str
    checksums: str
    source: Origin
    made: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    subject: str = "images"
    keyed_names: bool = False
    version: int = FORMAT

    @property
    def attribute_published(self) -> bool:
        """Whether the released table has a column of the attribute itself."""
        return bool(set(self.attribute.split("+")) & set(self.published))

    def sentence(self) -> str:
        """Return the sentence that stands wherever the dataset or a model trained on it is described."""
        what = f"{self.subject} obfuscated by {self.method_summary}"
        where = "measured AUROC, where it was attacked: release_audit.json of the release"
        words = f"{what} to hide {self.attribute}, which {self.caveat} ({where})"
        return f"{words} (NOT FOR RELEASE: deterministic)" if self.deterministic else words
