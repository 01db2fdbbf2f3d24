"""What an audit of identity records: whether images can be linked to other images of the same patient.

Written and read by :mod:`meninx.core.artifacts`.
"""

from __future__ import annotations

from dataclasses import dataclass

from meninx.core.origin import Origin
from meninx.core.summaries import FORMAT


@dataclass(frozen=True, kw_only=True)
class LinkRecord:
    """How well one attack links images to the patients they show.

    Each image asks for its most similar image in a gallery. The patients are others than those that the
    attack was fitted on.

    Attributes:
        attack: ``pixels``, ``hog``, ``siamese``, or ``labels`` (labels and attributes alone).
        question: ``another image`` of the patient (the image itself and images of the same study are left out
            of the gallery) or ``own image`` (the image that a changed or reconstructed one was made from).
        probes: images that ask and have an answer in the gallery.
        patients: patients behind them.
        gallery: images in the gallery.
        p_at_1: share of the probes whose most similar image is an answer; ties count in part; None where it
            is refused.
        p_at_1_low: lower end of its 95 % interval, with as many trials as the images are worth in patients;
            None as above.
        p_at_1_high: upper end.
        chance: expected share of a random choice from the gallery, exact.
        per_patient: mean over patients of the share of their probes, so that a patient with many images
            counts once; None as above.
        per_patient_low: lower end of its 95 % interval, patients resampled.
        per_patient_high: upper end.
        auc: area under the ROC curve of "the same patient" over all pairs of a probe and a gallery image.
        auc_low: lower end of its 95 % interval; patients are left out one at a time.
        auc_high: upper end.
        null_low: lower end of the range that holds 95 % of the shares with permuted identities.
        null_high: upper end.
        p_value: probability of such a share or a larger one with permuted identities.
        source: of a reconstruction the attack that made it and the level of noise, e.g. ``imprint, sigma
            0.1``; empty for images of a dataset.
        refusal: why there is no number, e.g. ``too few patients with another image: 10 needed, 3 there``.
    """

    attack: str
    question: str
    probes: int
    patients: int
    gallery: int
    p_at_1: float | None = None
    p_at_1_low: float | None = None
    p_at_1_high: float | None = None
    chance: float | None = None
    per_patient: float | None = None
    per_patient_low: float | None = None
    per_patient_high: float | None = None
    auc: float | None = None
    auc_low: float | None = None
    auc_high: float | None = None
    null_low: float | None = None
    null_high: float | None = None
    p_value: float | None = None
    source: str = ""
    refusal: str = ""


@dataclass(frozen=True, kw_only=True)
class IdentityAudit:
    """Whether images can be linked to other images of the same patient: ``audit/identity.json``.

    The numbers depend on patients' data and are outside the guarantee of a private run.

    Attributes:
        subject: what asked: ``dataset`` (its own images) or ``changed images`` (another dataset with the same
            cases).
        links: the attacks, each with its question.
        floor: the attack by labels and attributes alone, which an attack on images has to beat before it
            shows that the pixels identify; None where the dataset has none.
        negative: the attacks on the same images with shuffled identities.
        positive: the attacks on images with shuffled identities and a planted mark for each of them.
        reconstructions: the attacks with reconstructed images as probes, where the run has some, and with
            what the same decoder gives from noise alone and from other patients.
        fitted_patients: patients whose images the attacks were fitted on; none of them is in a number.
        fitted_images: their images.
        copies: images left out because another image of the patient has the same pixels.
        grid: size that all images were brought to.
        patients_known: the source names its patients.
        synthetic: no patient stands behind the images.
        probes: short name of the dataset of the changed images; empty without one.
        probes_data: keyed digest of that dataset; empty as above.
        significance: largest probability of an unjust verdict.
        seed: of the division of the patients, the controls and the permutations.
        seconds: of the audit.
        verdict: ``linked`` (better than chance), ``nothing found``, or ``void`` (a control failed).
        reason: which control failed; else empty.
        origin: dataset, and the run where one was audited.
        version: format of the record.
    """

    subject: str
    links: tuple[LinkRecord, ...]
    floor: LinkRecord | None
    negative: tuple[LinkRecord, ...]
    positive: tuple[LinkRecord, ...]
    reconstructions: tuple[LinkRecord, ...]
    fitted_patients: int
    fitted_images: int
    copies: int
    grid: tuple[int, ...]
    patients_known: bool
    synthetic: bool
    probes: str
    probes_data: str
    significance: float
    seed: int
    seconds: float
    verdict: str
    reason: str
    origin: Origin
    version: int = FORMAT
