"""What one stage writes and another reads: one frozen type per file, one writer, one reader, one place.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> _ = write(root, Members(train=("p1",), valid=(), patients_known=True))
    >>> read(root, Members).train
    ('p1',)

No other module spells these file names. Every number that reaches a page carries its :class:`Origin`: the
run, the dataset, the weights, the step and the split that it was measured on. A reader compares origins and
refuses what does not belong together.

Digests of private data are keyed. A plain digest of a manifest in ``release/`` would tell whoever knows all
patients but one whether that one took part; so records outside ``private/`` name a dataset by :func:`keyed`
under a key of the run that stays in ``private/keys``. The plain digest stands in ``private/data.json``.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from meninx.core import files, plain, workspace
from meninx.core.ancestry import Ancestry as Ancestry
from meninx.core.ancestry import FeatureStatistics as FeatureStatistics
from meninx.core.ancestry import Lineage as Lineage
from meninx.core.ancestry import StartRecord as StartRecord
from meninx.core.attribute_records import AttributesAudit
from meninx.core.audit_records import MembershipAudit, OneRunRecord
from meninx.core.audit_summary import AuditRecord, PlanRecord
from meninx.core.comparison_records import ComparisonRecord as ComparisonRecord
from meninx.core.comparison_records import RepeatedPair as RepeatedPair
from meninx.core.comparison_records import SettingDifference as SettingDifference
from meninx.core.dossier_records import DatasetExtract, Decision, DossierRecord, SelectionRecord
from meninx.core.errors import DataError, expected, problem
from meninx.core.federation import ArmsRecord, FederatedRecord, RoundRecord
from meninx.core.federation import StudyPart as StudyPart
from meninx.core.identity_records import IdentityAudit
from meninx.core.manifest import DatasetInfo
from meninx.core.obfuscation_records import ObfuscationRecord as ObfuscationRecord
from meninx.core.obfuscation_records import ReleaseAuditRecord as ReleaseAuditRecord
from meninx.core.obfuscation_records import ReleaseComparisonRecord as ReleaseComparisonRecord
from meninx.core.origin import Origin as Origin
from meninx.core.provenance import Environment as Environment
from meninx.core.reconstruction_records import ReconstructionAudit
from meninx.core.risk_records import BoundsRecord
from meninx.core.summaries import FORMAT as FORMAT
from meninx.core.summaries import DeidRecord as DeidRecord
from meninx.core.summaries import Departure as Departure
from meninx.core.summaries import MediaRecord as MediaRecord
from meninx.core.summaries import Noticed as Noticed
from meninx.core.summaries import PredictRecord as PredictRecord
from meninx.core.summaries import PrepareRecord as PrepareRecord

RecordT = TypeVar("RecordT")
_PART = re.compile(r"[A-Za-z0-9_-]{0,64}")


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


LEDGER_LIMIT = 1 << 30  # bytes of a ledger; lineage and ancestry hold whole ones, with escaped quotes
_LIMITS: Mapping[type, int] = {Lineage: 2 * LEDGER_LIMIT, Ancestry: 2 * LEDGER_LIMIT}
_MADE_AGAIN = (ObfuscationRecord, ReleaseAuditRecord)

_PLACES: Mapping[type, str] = {
    RunRecord: "run.json",
    PrivacyRecord: "privacy.json",
    DataRecord: "private/data.json",
    Members: "private/members.json",
    RoundRecord: "private/round.json",
    FederatedRecord: "federated.json",
    ArmsRecord: "arms.json",
    Ancestry: "private/start.json",
    Lineage: "release/lineage.json",
    EvaluationRecord: "release/evaluation.json",
    ComparisonRecord: "release/comparison.json",
    OneRunRecord: "audit/one_run.json",
    MembershipAudit: "audit/membership.json",
    AuditRecord: "audit/audit.json",
    PlanRecord: "audit/plan.json",
    IdentityAudit: "audit/identity.json",
    AttributesAudit: "audit/attributes.json",
    ReconstructionAudit: "audit/reconstruction.json",
    CaseValuesRecord: "private/case_values.json",
    DeidRecord: "deid.json",
    MediaRecord: "media.json",
    PrepareRecord: "prepare.json",
    PredictRecord: "predict.json",
    ObfuscationRecord: "obfuscation.json",
    ReleaseAuditRecord: "release_audit.json",
    ReleaseComparisonRecord: "release_comparison.json",
    SweepRecord: "sweep.json",
    BoundsRecord: "bounds.json",
    Environment: "environment.json",
    BundleRecord: "configs/meninx.json",
    ThresholdRecord: "configs/thresholds.json",
    DossierRecord: "dossier.json",
    Decision: "decision.json",
    SelectionRecord: "selection.json",
    DatasetExtract: "data/dataset.json",
}


def place(kind: type, *, split: str = "test", dataset: str = "", private: bool = False) -> str:
    """Return where a record lies below its folder, as a relative POSIX path.

    Args:
        kind: type of the record.
        split: of an evaluation or comparison; only the test split has the plain name, so nothing takes its
            place.
        dataset: short digest of another dataset than the run's own, for an external evaluation; empty for its
            own.
        private: in the private room instead of ``release/``: exact numbers about training patients of a
            private run, and the lineage of a run that is not finished.

    Raises:
        DataError: split or dataset hold anything but letters, digits, dashes and underscores.
    """
    if not all(_PART.fullmatch(part) for part in (split, dataset)):
        raise DataError(
            problem("the name may hold only letters, digits and dashes", where="name of a split or dataset")
        )
    name = _PLACES[kind]
    if kind in (EvaluationRecord, ComparisonRecord, CaseValuesRecord):
        tail = "".join(
            f"-{part}"
            for part in (f"external-{dataset}" if dataset else "", "" if split == "test" else split)
            if part
        )
        name = name.replace(".json", f"{tail}.json")
    return name.replace("release/", "private/") if private else name


def write(root: Path, record: Any, *, split: str = "test", dataset: str = "", private: bool = False) -> Path:
    """Write a record to its place below ``root`` and return the path; it is whole or absent.

    Raises:
        StorageError: the disk refused.
    """
    name = place(type(record), split=split, dataset=dataset, private=private)
    path, secret = root / name, name.startswith("private/")
    if secret:
        workspace.make_private(root)
    files.write_text(path, plain.to_json(record), mode=files.PRIVATE_MODE if secret else None)
    return path


def read(
    root: Path, kind: type[RecordT], *, split: str = "test", dataset: str = "", private: bool = False
) -> RecordT | None:
    """Return a record of the folder ``root``; None when there is none.

    Raises:
        DataError: the file is damaged, too large, or not of this type; names the file.
    """
    return read_file(root / place(kind, split=split, dataset=dataset, private=private), kind)


def read_file(path: Path, kind: type[RecordT]) -> RecordT | None:
    """Return the record in a file; None when there is no file; raises as :func:`read`."""
    where = f"{path.parent.name}/{path.name}"
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(problem("the file may not be read", where=where)) from error
    content = files.read_bytes(path, limit=_LIMITS.get(kind, files.TEXT_LIMIT))
    if kind in (EvaluationRecord, ComparisonRecord):
        table = plain.from_json(content, dict[str, Any], where=where)
        record = plain.from_plain(_of_an_older_version(table, kind), kind, where=where)
    else:
        record = _decoded(content, kind, where)
    version = getattr(record, "version", None)
    if isinstance(version, int) and version > FORMAT:
        fix = "read it with the version of meninx that wrote it, or a newer one"
        raise DataError(expected(f"a record of format {FORMAT} or older", got=version, where=where, fix=fix))
    return record


def _decoded(content: bytes, kind: type[RecordT], where: str) -> RecordT:
    """Return a record; the message about one that is made again says how."""
    try:
        return plain.from_json(content, kind, where=where)
    except DataError as error:
        if kind not in _MADE_AGAIN:
            raise
        what = "another version of meninx wrote the file, or it was changed"
        fix = "make the release again with --overwrite"
        raise DataError(problem(what, where=where, fix=fix)) from error


def _of_an_older_version(table: dict[str, Any], kind: type) -> dict[str, Any]:
    """Return the table of this version's record for one that carries no origin."""
    if "origin" in table:
        return table
    if kind is EvaluationRecord:
        return {"origin": None, "evaluation": table, "version": 1}
    return {
        "origin": None,
        "baseline": None,
        "baseline_name": table.get("baseline", ""),
        "differences": table.get("differences", []),
        "version": 1,
    }


def keyed(key: bytes, *parts: str) -> str:
    """Return the HMAC-SHA-256 of a text under ``key``, 64 hexadecimal digits.

    Args:
        key: 32 secret bytes.
        parts: what is digested; ``("a", "b")`` and ``("ab",)`` give different digests.
    """
    message = b"".join(len(part.encode()).to_bytes(8, "big") + part.encode() for part in parts)
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def key_name(key: bytes) -> str:
    """Return the public name of a key, from which nobody can compute the key."""
    return hashlib.sha256(b"meninx key name\0" + key).hexdigest()[:32]


def now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def require(root: Path, kind: type[RecordT], *, fix: str) -> RecordT:
    """Return a record that must be there.

    Raises:
        DataError: it is not, or it is damaged.
    """
    record = read(root, kind)
    if record is None:
        raise DataError(problem(f"the folder has no {place(kind)}", where=root.name, fix=fix))
    return record
