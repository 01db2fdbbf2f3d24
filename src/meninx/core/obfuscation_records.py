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
        labels: utility labels that were used.
        patients: patients with a known attribute that it was measured on.
        auroc: area under the ROC curve, folded: at least 1/2; None where it is refused.
        low: lower end of its 95 % interval over patients; None as above.
        high: upper end.
        refusal: why there is no number; else empty.
    """

    attribute: str
    labels: tuple[str, ...] = ()
    patients: int = 0
    auroc: float | None = None
    low: float | None = None
    high: float | None = None
    refusal: str = ""


@dataclass(frozen=True, kw_only=True)
class CertificateRecord:
    """A bound on the AUROC of any attacker on a released code, or why there is none.

    Attributes:
        bound: largest AUROC of any attacker with probability ``1 - delta``; None where it is refused.
        tv: estimated total variation between the codes of the two groups; None as above.
        tv_limit: its upper limit.
        delta: probability that the bound fails.
        leaves: number of codes.
        patients: group -> independent patients, one image each, that it was measured on.
        needed: patients per group that a bound of ``target`` needs if the groups do not differ.
        target: AUROC that was asked for.
        refusal: ``not certified: needs n, has m`` or another reason; else empty.
    """

    bound: float | None = None
    tv: float | None = None
    tv_limit: float | None = None
    delta: float = 0.05
    leaves: int = 0
    patients: dict[str, int] = field(default_factory=dict)
    needed: int = 0
    target: float = 0.0
    refusal: str = ""


@dataclass(frozen=True, kw_only=True)
class AttackerRecord:
    """How well one attacker infers the attribute from released images of the test split.

    Attributes:
        name: e.g. ``small-cnn``, ``linear``, ``kernel``, ``purifier``, ``average-of-10``.
        knows: what the attacker was trained on, in words.
        retrained: it was trained on released images. False for a static attacker, which is no privacy
            measure.
        valid_auroc: folded AUROC on the validation split, by which the worst attacker is chosen; None where
            it is refused.
        auroc: folded AUROC on the test split: at least 1/2; None as above.
        low: lower end of its 95 % interval, patients resampled.
        high: upper end.
        clean_auroc: that of the same attacker trained and measured on the original images; None as above.
        patients: patients of the test split with a known attribute.
        classes: values of the attribute -> such patients.
        seconds: of training and measurement.
        refusal: why there is no number; else empty.
    """

    name: str
    knows: str = ""
    retrained: bool = True
    valid_auroc: float | None = None
    auroc: float | None = None
    low: float | None = None
    high: float | None = None
    clean_auroc: float | None = None
    patients: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    refusal: str = ""


@dataclass(frozen=True, kw_only=True)
class UtilityLossRecord:
    """What the release costs for one utility label, measured on the same patients of the test split.

    Attributes:
        label: the label.
        regime: ``drop-in`` (the model was trained on original images) or ``retrained`` (on released ones).
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
class ReleaseAuditRecord:
    """What retrained attackers find in a released dataset: ``release_audit.json``.

    Attributes:
        attribute: the attacked attribute, e.g. ``sex`` or ``sex+age``.
        method: name of the method; empty for a release of another program.
        method_summary: the method in words.
        caveat: what holds of the method whatever was measured.
        worst: name of the retrained attacker with the highest AUROC on the validation split.
        target: highest folded AUROC that was accepted in advance; 0 without a target.
        attackers: the retrained ones.
        static: attackers trained on original images alone: not a privacy measure.
        output_leak: the attribute from the outputs of a utility model; None where it was not measured.
        code_attack: the attribute from the released code itself; None for a method without one.
        floor: the label floor.
        certificate: of a method that has one; else None.
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
        verdict: ``passed`` (upper limit of the worst attacker at most the target), ``failed``, ``measured``
            (no target), or ``void`` (no attacker finds the attribute in the original images).
        reason: of ``void``; else empty.
        source: origin of the original dataset.
        released: origin of the released one.
        version: format of the record.
    """

    attribute: str
    method: str
    method_summary: str
    caveat: str
    worst: str
    target: float
    attackers: tuple[AttackerRecord, ...]
    static: tuple[AttackerRecord, ...]
    output_leak: AttackerRecord | None
    code_attack: AttackerRecord | None
    floor: LabelFloorRecord | None
    certificate: CertificateRecord | None
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
    version: int = FORMAT

    @property
    def worst_attacker(self) -> AttackerRecord | None:
        """The attacker that decides, or None where no attacker could be measured."""
        return next((item for item in self.attackers if item.name == self.worst), None)


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
        attribute_removed: attribute columns that the released table does not have.
        settings: settings that determine the result, without paths.
        facts: what was fitted.
        floor: the label floor, which was shown before anything was fitted.
        cases: number of released images.
        patients: number of their patients.
        splits: split -> cases.
        deterministic: randomness of the mechanism came from the seed: NOT FOR RELEASE.
        source_record: SHA-256 of ``prepare.json`` of the source; empty where it has none.
        checksums: SHA-256 of ``checksums.sha256`` of the released dataset.
        source: origin of the source: its name, and its digest under a key in ``private/``.
        made: time, ISO 8601 in UTC; empty in a deterministic release.
        versions: package -> version.
        version: format of the record.
    """

    method: str
    method_summary: str
    caveat: str
    attribute: str
    classes: tuple[str, ...]
    utility: tuple[str, ...]
    attribute_removed: tuple[str, ...]
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
    version: int = FORMAT

    def sentence(self) -> str:
        """Return the sentence that stands wherever the dataset or a model trained on it is described."""
        text = f"images obfuscated by {self.method_summary} to hide {self.attribute}: {self.caveat}"
        return text + (" (NOT FOR RELEASE: deterministic)" if self.deterministic else "")
