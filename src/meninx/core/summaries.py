"""Summaries of stages: what ``deid.json``, ``prepare.json`` and ``predict.json`` say.

Written and read by :mod:`meninx.core.artifacts`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FORMAT = 2
"""Format of every record that carries a version."""


@dataclass(frozen=True, kw_only=True)
class Departure:
    """One setting by which de-identification does less than its profile.

    Attributes:
        kind: ``override``, ``option``, ``burned-in``, ``lookup``, ``age`` or the like.
        name: attribute keyword or setting.
        chosen: what was done, e.g. ``K`` or ``keep``.
        usual: what the profile says.
        files: files concerned; None when not counted.
    """

    kind: str
    name: str
    chosen: str
    usual: str
    files: int | None = None


@dataclass(frozen=True, kw_only=True)
class DeidRecord:
    """Summary of a de-identified archive: ``deid.json``. Counts and settings, no value of a patient.

    Attributes:
        profile: name of the profile.
        options: PS3.15 options in force.
        codes: code values of ``DeidentificationMethodCodeSequence``.
        departures: settings by which less is done than the profile says.
        overrides: attribute -> action, as the user gave them.
        max_age: highest age that is written unchanged.
        missing_lookup: what happens to patients who are missing in a lookup table.
        site: name of the site.
        files_read: files found.
        files_written: instances written.
        quarantined: reason -> files.
        patients: distinct patients written.
        studies: distinct studies written.
        series: distinct series written.
        actions: keyword -> action letter -> elements.
        residual_findings: files kept out because the self-check found an original identifier.
        burned_in_unknown: images written that may show text in their pixels; nobody looked.
        flagged: reason -> images among these.
        checksums: SHA-256 of ``checksums.sha256``; empty in older archives.
        version: version of meninx that wrote it.
    """

    profile: str
    options: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    departures: tuple[Departure, ...] = ()
    overrides: Any = None
    max_age: int = 89
    missing_lookup: str = ""
    site: str = ""
    files_read: int = 0
    files_written: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)
    patients: int = 0
    studies: int = 0
    series: int = 0
    actions: dict[str, dict[str, int]] = field(default_factory=dict)
    residual_findings: int = 0
    burned_in_unknown: int = 0
    flagged: dict[str, int] = field(default_factory=dict)
    checksums: str = ""
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class PrepareRecord:
    """Summary of a prepared dataset: ``prepare.json``; written last, so it says that the dataset is whole.

    Attributes:
        name: short name of the dataset.
        reader: layout that was read.
        task: what is to be learnt.
        settings: settings of the preparation without paths.
        patients_known: the source names its patients.
        cases: number of cases.
        patients: number of patients.
        splits: split -> cases.
        split_patients: split -> patients.
        sites: site -> cases.
        labels: label -> cases.
        attributes: attribute -> group -> cases.
        skipped: reason -> rows or files left out.
        checks: what was found on the way.
        checksums: SHA-256 of ``checksums.sha256``; empty in older datasets.
        archives: those of the clean archives that it was made from; empty for other sources and in older
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
    """How often something was noticed, and where.

    Attributes:
        count: number of cases.
        cases: identifiers of the first of them.
        example: numbers of the first of them, in words; empty when there is nothing to add.
    """

    count: int
    cases: tuple[str, ...] = ()
    example: str = ""


@dataclass(frozen=True, kw_only=True)
class PredictRecord:
    """Summary of predictions: ``predict.json``; written last, so it says that the result is whole.

    Identifiers are those of ``predictions.csv``: UIDs of DICOM objects, or paths below the input.

    Attributes:
        model: name of the dataset that the model was trained on.
        run: identity of the run that trained it; empty when unknown.
        weights: SHA-256 of the network's state.
        network: name of the network.
        task: what the model was asked.
        labels: its labels, in output order.
        cases: number of predicted cases.
        input: images found, by modality of DICOM and kind of file.
        refused: reason -> images without a prediction.
        warnings: what does not fit the training well -> predicted images concerned.
        thresholds: label -> operating threshold; empty without one.
        thresholds_from: where the thresholds come from, in words, or why there are none.
        not_deidentified: DICOM files that are not marked PatientIdentityRemoved YES.
        ignored: files below the input that are no images.
        settings: settings that decide the result.
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
