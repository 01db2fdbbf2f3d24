"""Summaries of stages: the records ``deid.json``, ``media.json``, ``prepare.json`` and ``predict.json``.

Written and read by :mod:`meninx.core.artifacts`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FORMAT = 2
"""Format of every record that carries a version."""

UNSEARCHED = "images that may show text in their pixels, which were not searched"


def unsearched(count: int) -> str:
    """Return in words that images may show text, because their pixels were not searched.

    >>> unsearched(1200)
    '1,200 images may show text in their pixels, which were not searched'
    """
    images, their = ("image", "its") if count == 1 else ("images", "their")
    return f"{count:,} {images} may show text in {their} pixels, which were not searched"


def not_searched(searched: int, images: int) -> str:
    """Return in words how many of the images with pixel data were not searched for text.

    >>> not_searched(2, 7)
    '5 of 7 images were not searched for text'
    """
    left = images - searched
    verb = "was" if left == 1 else "were"
    return f"{left:,} of {number_of(images, 'image')} {verb} not searched for text"


def searched_for_text(written: int, kept_out: int, redacted: int, layouts: int) -> str:
    """Return in words what the search for text in pixels did.

    >>> searched_for_text(3, 1, redacted=2, layouts=2)
    '4 images searched for text, 2 redacted, 1 kept out, 2 layouts'

    Args:
        written: images that were searched and written.
        kept_out: images that were searched and kept out for what was found.
        redacted: written images in which text was redacted.
        layouts: distinct layouts of text.
    """
    return (
        f"{number_of(written + kept_out, 'image')} searched for text, {redacted:,} redacted, "
        + (f"{kept_out:,} kept out, " if kept_out else "")
        + number_of(layouts, "layout")
    )


def number_of(count: int, singular: str, plural: str = "") -> str:
    """Return a number with its word.

    >>> number_of(1, "study", "studies"), number_of(1200, "patient")
    ('1 study', '1,200 patients')
    """
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def mostly_filled(count: int) -> str:
    """Return in words that more than half of some images was filled, which may be a mistake of the search."""
    return f"in {number_of(count, 'image')} more than half of the picture was filled"


@dataclass(frozen=True, kw_only=True)
class Departure:
    """One setting by which de-identification does less than its profile.

    Attributes:
        kind: ``override``, ``option``, ``burned-in``, ``lookup``, ``age`` or the like.
        name: attribute keyword or setting.
        chosen: the action taken, e.g. ``K`` or ``keep``.
        usual: the action of the profile.
        files: number of files affected; None if not counted.
    """

    kind: str
    name: str
    chosen: str
    usual: str
    files: int | None = None


@dataclass(frozen=True, kw_only=True)
class ReviewCounts:
    """What reviewers decided about the layouts of a run, whose decisions it applied: a part of ``deid.json``.

    A choice is ``accept``, ``redact`` (more), ``keep`` (some text), ``quarantine``, ``undecided`` (two people
    have not agreed: kept out) or ``not-reviewed`` (no decision is about it: written as the search left it).
    :mod:`meninx.core.review_words` has the words.

    Attributes:
        layouts: choice -> layouts of the run.
        images: choice -> images of these layouts, those that are kept out included.
        persons: number of persons who made a decision -> layouts that they decided.
        decisions: decisions in the table.
        unused: decisions among these that fit no image of the source.
    """

    layouts: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    persons: dict[int, int] = field(default_factory=dict)
    decisions: int = 0
    unused: int = 0


@dataclass(frozen=True, kw_only=True)
class DeidRecord:
    """Summary of a de-identified archive: ``deid.json``, with counts and settings but no value of a patient.

    Attributes:
        profile: name of the profile.
        options: PS3.15 options in force.
        codes: code values of ``DeidentificationMethodCodeSequence``.
        code_files: code value -> files that carry it; empty in older archives.
        departures: settings by which less is removed than in the profile.
        overrides: attribute -> action, as given by the user.
        max_age: highest age that is written unchanged, in years.
        missing_lookup: treatment of patients who are missing in a lookup table.
        issuers: what an issuer of a PatientID means that the site's policy does not list; empty in older
            archives.
        missing_issuer: treatment of files without an issuer; empty in older archives.
        site: name of the site.
        files_read: files found.
        files_written: instances written.
        quarantined: reason -> files.
        patients: distinct patients written.
        studies: distinct studies written.
        series: distinct series written.
        contradicting: patients among these whose files contradict each other in name, birth date or sex.
        deidentified_before: instances written whose original was a clean file of meninx, made with another
            key or for another site.
        actions: keyword -> action letter -> elements.
        residual_findings: files excluded because the self-check found an original identifier.
        burned_in_unknown: images written that may show text in their pixels, which were not searched.
        flagged: reason -> images among these.
        pixels: treatment of images that may hold text in their pixels; empty in older archives.
        search_all: all images were searched, not only those that may hold text by their header.
        images: instances written that have pixel data; None in older archives.
        pixels_searched: images among these whose pixels were searched for text.
        pixels_redacted: images among these in which text was redacted.
        pixels_mostly_filled: images among these of which more than half was filled.
        pixels_recoded: images that lost their compression, because text in them was redacted or bits beyond
            their values were cleared.
        layouts: distinct layouts of text among the searched images.
        review: what the decisions of reviewers did; None where none were given, and in older archives.
        defacing: treatment of faces in CT and MR series; empty in older archives.
        series_defaced: CT and MR series from which a mask of the face was removed.
        series_not_head: CT and MR series that show no head, by header and pixels.
        series_face_refused: CT and MR series that were kept out because they may show a face.
        directories: files that DICOMDIRs of the source name, those among them that are missing, and those
            that would lie outside of the DICOMDIR's folder, which are not looked up.
        audit_lines: number of lines of the audit log.
        audit_head: SHA-256 of its last line, which holds that of the line before it, and so on; empty in
            older archives.
        signer: fingerprint of the key that signed the archive; empty in older archives.
        checksums: SHA-256 of ``checksums.sha256``; empty in older archives.
        version: version of meninx that wrote it.
    """

    profile: str
    options: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    code_files: dict[str, int] = field(default_factory=dict)
    departures: tuple[Departure, ...] = ()
    overrides: Any = None
    max_age: int = 89
    missing_lookup: str = ""
    issuers: str = ""
    missing_issuer: str = ""
    site: str = ""
    files_read: int = 0
    files_written: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)
    patients: int = 0
    studies: int = 0
    series: int = 0
    contradicting: int = 0
    deidentified_before: int = 0
    actions: dict[str, dict[str, int]] = field(default_factory=dict)
    residual_findings: int = 0
    burned_in_unknown: int = 0
    flagged: dict[str, int] = field(default_factory=dict)
    pixels: str = ""
    search_all: bool = False
    images: int | None = None
    pixels_searched: int = 0
    pixels_redacted: int = 0
    pixels_mostly_filled: int = 0
    pixels_recoded: int = 0
    layouts: int = 0
    review: ReviewCounts | None = None
    defacing: str = ""
    series_defaced: int = 0
    series_not_head: int = 0
    series_face_refused: int = 0
    directories: dict[str, int] = field(default_factory=dict)
    audit_lines: int = 0
    audit_head: str = ""
    signer: str = ""
    checksums: str = ""
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class MediaRecord:
    """Summary of a medium that was written from a clean archive: ``media.json``.

    Attributes:
        files: instances.
        patients: distinct patients.
        studies: distinct studies.
        series: distinct series.
        private_records: name of a SOP class -> instances with a private record in the DICOMDIR.
        stand_ins: keyword -> records with a value that the archive does not have.
        archive: SHA-256 of the list of digests of the archive.
        signer: fingerprint of the key that signed the archive; empty for an unsigned one.
        checksums: SHA-256 of ``checksums.sha256`` of the medium.
        software: versions of meninx and pydicom that wrote the DICOMDIR.
    """

    files: int
    patients: int
    studies: int
    series: int
    private_records: dict[str, int] = field(default_factory=dict)
    stand_ins: dict[str, int] = field(default_factory=dict)
    archive: str
    signer: str = ""
    checksums: str
    software: str


@dataclass(frozen=True, kw_only=True)
class PrepareRecord:
    """Summary of a prepared dataset: ``prepare.json``, written last as a sign that the dataset is complete.

    Attributes:
        name: short name of the dataset.
        reader: layout of the source.
        task: multiclass, multilabel or segmentation.
        settings: settings of the preparation without paths.
        patients_known: whether the source names its patients.
        cases: number of cases.
        patients: number of patients.
        splits: split -> cases.
        split_patients: split -> patients.
        sites: site -> cases.
        labels: label -> cases.
        attributes: attribute -> group -> cases.
        skipped: reason -> rows or files left out.
        checks: findings of the checks.
        checksums: SHA-256 of ``checksums.sha256``; empty in older datasets.
        archives: the same digests of the clean archives in its source; empty for other sources and in older
            datasets.
        version: format of the record.
    """

    name: str
    reader: str
    task: str
    settings: dict[str, Any] = field(default_factory=dict)
    patients_known: bool = True
    cases: int = 0
    patients: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    split_patients: dict[str, int] = field(default_factory=dict)
    sites: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    attributes: dict[str, dict[str, int]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    checks: Any = None
    checksums: str = ""
    archives: tuple[str, ...] = ()
    version: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class Noticed:
    """Number of cases with a finding, and the first of them.

    Attributes:
        count: number of cases.
        cases: identifiers of the first of them.
        example: details of the first of them, in words; may be empty.
    """

    count: int
    cases: tuple[str, ...] = ()
    example: str = ""


@dataclass(frozen=True, kw_only=True)
class PredictRecord:
    """Summary of predictions: ``predict.json``, written last as a sign that the result is complete.

    Identifiers are those of ``predictions.csv``: UIDs of DICOM objects, or paths below the input.

    Attributes:
        model: name of the dataset that the model was trained on.
        run: identity of the run that trained it; empty when unknown.
        weights: SHA-256 of the network's state.
        network: name of the network.
        task: task of the model.
        labels: its labels, in output order.
        cases: number of predicted cases.
        input: number of images by DICOM modality or kind of file.
        refused: reason -> images without a prediction.
        warnings: difference from the training data -> predicted images affected.
        thresholds: label -> operating threshold; empty without thresholds.
        thresholds_from: origin of the thresholds, in words, or why there are none.
        not_deidentified: number of DICOM files that are not marked PatientIdentityRemoved YES.
        ignored: number of files below the input that are not images.
        settings: settings that determine the result.
        device: device of the network.
        versions: package -> version.
        made: time, ISO 8601 in UTC.
        checksums: SHA-256 of ``checksums.sha256``.
        version: format of the record.
    """

    model: str
    run: str
    weights: str
    network: str
    task: str
    labels: tuple[str, ...]
    cases: int
    input: dict[str, int] = field(default_factory=dict)
    refused: dict[str, Noticed] = field(default_factory=dict)
    warnings: dict[str, Noticed] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    thresholds_from: str = ""
    not_deidentified: int = 0
    ignored: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    made: str = ""
    checksums: str = ""
    version: int = FORMAT
