"""Records of a run, its evaluations and its released network.

Written and read by :mod:`meninx.core.artifacts`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from meninx.core.ancestry import StartRecord
from meninx.core.federation import StudyPart
from meninx.core.manifest import DatasetInfo
from meninx.core.origin import Origin
from meninx.core.summaries import FORMAT


class RunState(StrEnum):
    """Where a run stands."""

    STARTING = "starting"
    """The folder exists; no step was taken. Such a folder is removed when the start fails."""
    TRAINING = "training"
    """Steps were taken; running now, interrupted or killed."""
    RELEASED = "released"
    """Finished: the release is complete and the run is closed."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Identity and state of a run: ``run.json``.

    Attributes:
        id: identity of the run; a copy of the folder keeps it, so two copies are recognised.
        name: name of the folder when it was made.
        state: see :class:`RunState`.
        private: trained with differential privacy.
        deterministic: noise and sampling came from the seed: NOT FOR RELEASE.
        own_loop: trained in a loop of the user's own through ``meninx.privacy.training``, so data, labels and
            evaluation were not seen by meninx.
        config: SHA-256 of ``config.toml`` as it was when the run was created.
        data: keyed digest of the dataset.
        dataset: short name of the dataset.
        patients_known: the source names its patients; otherwise every image counts as one.
        obfuscated: how the images of the dataset were changed to hide an attribute; empty if they were not.
        step: optimiser steps done.
        planned_steps: optimiser steps planned; 0 before the first step.
        selected: checkpoint whose weights are released, ``last`` or ``best``.
        weights: SHA-256 of the released weights; empty before the release.
        released_step: optimiser step of the released weights, an earlier one than ``step`` for ``best``; 0
            before the release, and in a run of a version that did not record it.
        privacy: SHA-256 of ``privacy.json`` as it was released; empty as above.
        release: SHA-256 of ``release/checksums.sha256``; empty before the release.
        release_next: that of the list that is being written in its place; empty when none is. A process that
            is killed at that moment leaves one of the two.
        checkpoints: name of a checkpoint (``last.pt``, ``best.pt``) -> SHA-256 of the file at the release;
            empty before, and in a run of a version that did not record it.
        log: SHA-256 of ``private/metrics.jsonl`` at the release; empty as above.
        keys: name of the secret keys of a private run in its ledger, from the first step on; empty before.
        software: (first step, versions) of the programs that took the steps of a private run, in ascending
            order; empty as above.
        study: the federated study that the run is a part of; None for a run of its own.
        secrets: name of a record in ``private/`` (``members.json``, ``data.json``, ``start.json``,
            ``lineage.json``) -> SHA-256 of the file as it was when the run was created; empty in a run of a
            version that did not record it.
        made: time of creation, ISO 8601 in UTC.
        finished: time of the release.
        version: format of the record.
    """

    id: str
    name: str
    state: RunState = RunState.STARTING
    private: bool = False
    deterministic: bool = False
    own_loop: bool = False
    config: str = ""
    data: str = ""
    dataset: str = ""
    patients_known: bool = True
    obfuscated: str = ""
    step: int = 0
    planned_steps: int = 0
    selected: str = "last"
    weights: str = ""
    released_step: int = 0
    privacy: str = ""
    release: str = ""
    release_next: str = ""
    checkpoints: dict[str, str] = field(default_factory=dict)
    log: str = ""
    keys: str = ""
    software: tuple[tuple[int, str], ...] = ()
    secrets: dict[str, str] = field(default_factory=dict)
    study: StudyPart | None = None
    made: str = ""
    finished: str = ""
    version: int = FORMAT

    @property
    def ended(self) -> bool:
        """Whether the record names a part of a release, which closes the run whatever its state says."""
        return bool(self.finished or self.weights or self.release or self.released_step)

    def names_list(self, digest: str) -> bool:
        """Return whether a list of the release, given by its digest, is the recorded one or the next one."""
        return bool(digest) and digest in (self.release, self.release_next)


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """Which dataset a run was trained on: ``private/data.json``.

    Attributes:
        dataset: folder of the dataset.
        digest: plain digest of its manifest, its meaning and, where it carries ``checksums.sha256``, its
            images.
        images: whether ``digest`` covers the images.
    """

    dataset: str
    digest: str
    images: bool = False


@dataclass(frozen=True, kw_only=True)
class Members:
    """Who took part in training: ``private/members.json``. Never leaves the hospital.

    Attributes:
        train: pseudonyms of the training patients.
        valid: pseudonyms of the validation patients.
        patients_known: the source names its patients.
        images: SHA-256 of the files of training and validation images, where the dataset carries digests.
        train_images: those of the training images alone.
        identifiers: SHA-256 of the identifiers that training and validation patients have in the source,
            where the dataset keeps them; they compare datasets that were prepared under other names.
        source_files: SHA-256 of the names of their images in the source, likewise.
        earlier: pseudonyms of the patients behind the starting weights, as far as they are known.
        earlier_images: digests of their images.
    """

    train: tuple[str, ...]
    valid: tuple[str, ...]
    patients_known: bool
    images: tuple[str, ...] = ()
    train_images: tuple[str, ...] = ()
    identifiers: tuple[str, ...] = ()
    source_files: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    earlier_images: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RiskRecord:
    """Proven bounds on attacks, from the ledger.

    Attributes:
        advantage: largest membership advantage, in [0, 1].
        tpr_at_fpr: false positive rate (as text) -> largest true positive rate.
        prior: prior probability of the reconstruction bound.
        reconstruction: largest probability of reconstruction.
    """

    advantage: float
    tpr_at_fpr: dict[str, float]
    prior: float
    reconstruction: float


@dataclass(frozen=True, kw_only=True)
class PrivacyRecord:
    """What a run promises, spent and leaves outside: ``privacy.json``.

    The ledger is the account; this repeats it.

    Attributes:
        private: trained with differential privacy.
        epsilon: spent epsilon of all that the guarantee counts (own steps and a composed start); None without
            privacy or without noise.
        own_epsilon: that of the run's own steps alone.
        delta: the delta of both; 0 without privacy.
        unit: privacy unit.
        relation: neighboring relation.
        noise_multiplier: noise standard deviation over ``max_grad_norm``.
        max_grad_norm: clipping threshold.
        sample_rate: probability of a unit in a step.
        steps: optimiser steps accounted.
        planned_steps: optimiser steps planned.
        sampler: e.g. ``poisson``.
        accountant: e.g. ``pld``.
        clipping: e.g. ``flat``.
        expected_batch_size: of the plan; 0 without privacy.
        declared_units: number of units that was declared; None when none was and the true number counts as
            public.
        sentence: the guarantee in words.
        risk: bounds on attacks; None when not computed.
        outside_guarantee: what the guarantee does not cover, in words.
        start: what the network started from.
        deterministic: noise came from the seed.
        ledger: number of lines and head of the ledger that the numbers were read from.
        origin: what the record belongs to; None in records of an older version.
        version: format of the record.
    """

    private: bool
    epsilon: float | None = None
    own_epsilon: float | None = None
    delta: float = 0.0
    unit: str = ""
    relation: str = ""
    noise_multiplier: float = 0.0
    max_grad_norm: float = 0.0
    sample_rate: float = 0.0
    steps: int = 0
    planned_steps: int = 0
    sampler: str = ""
    accountant: str = ""
    clipping: str = ""
    expected_batch_size: float = 0.0
    declared_units: int | None = None
    sentence: str = ""
    risk: RiskRecord | None = None
    outside_guarantee: tuple[str, ...] = ()
    start: StartRecord | None = None
    deterministic: bool = False
    ledger: tuple[int, str] = (0, "")
    origin: Origin | None = None
    version: int = 1


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """An evaluation of a run on one split: ``release/evaluation.json`` for the test split of its own dataset.

    Attributes:
        origin: run, weights, step, dataset and split; None in files of an older version.
        evaluation: the table of ``metrics.estimates.Evaluation``.
        external: measured on another dataset than the run's own.
        patients_compared: training patients and measured patients were compared and none is shared.
        patients_known: the source of the measured dataset names its patients.
        thresholds_from: split and dataset that the thresholds were fitted on, in words.
        version: format of the record.
    """

    origin: Origin | None
    evaluation: dict[str, Any]
    external: bool = False
    patients_compared: bool = False
    patients_known: bool = True
    thresholds_from: str = ""
    version: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class CaseValuesRecord:
    """The values of single cases of a segmentation, without their names: ``private/case_values.json``.

    Attributes:
        origin: run, weights, step, dataset and split, as in the evaluation.
        metric: what the values are, e.g. ``dice``.
        values: label -> value of each case in ascending order, without cases that have none.
        version: format of the record.
    """

    origin: Origin
    metric: str
    values: dict[str, tuple[float, ...]]
    version: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class SweepRecord:
    """Utility against epsilon: ``sweep.json``.

    Attributes:
        rows: one table per epsilon.
        together: what all private runs spend together; None without any.
        runs: identities of the runs behind the rows, and of all other private runs in the cells: their cost
            counts.
        version: format of the record.
    """

    rows: tuple[dict[str, Any], ...]
    together: dict[str, Any] | None
    runs: tuple[str, ...] = ()
    version: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class BundleRecord:
    """What a released network needs beside its weights: ``configs/meninx.json`` of a bundle.

    With ``models/model.pt`` it makes predictions without the run folder, on another machine.

    Attributes:
        info: what the network was trained for: task, labels, preprocessing and intensity of its images. Names
            of attributes are left out.
        network: arguments of ``models.registry.build``; a name that begins with ``own:`` cannot be built.
        loss: resolved loss, which decides between softmax and sigmoid.
        image_size: size to which smaller images are padded; empty when all images share one size.
        patch_size: size of the sliding window; empty for whole images.
        weights: SHA-256 of the network's state (``learn.state_digest``).
        run: identity of the run that trained it.
        meninx: version that wrote the bundle.
        version: format of the record.
    """

    info: DatasetInfo
    network: dict[str, Any]
    loss: str
    image_size: tuple[int, ...] = ()
    patch_size: tuple[int, ...] = ()
    weights: str = ""
    run: str = ""
    meninx: str = ""
    version: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class ThresholdRecord:
    """Operating thresholds of a released classifier: ``configs/thresholds.json`` of a bundle.

    Attributes:
        thresholds: label -> probability from which on the label counts as present.
        weights: SHA-256 of the state of the network that they were fitted for.
        source: split and dataset that they were fitted on, in words.
        outside_guarantee: what a private run does not promise to the patients behind them, in words.
        version: format of the record.
    """

    thresholds: dict[str, float]
    weights: str
    source: str = ""
    outside_guarantee: str = ""
    version: int = FORMAT
