"""The audit of a release: of the one that `meninx obfuscate` has just made, or of one that anybody made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core import artifacts, files, integrity, randomness, workspace
from meninx.core.artifacts import ObfuscationRecord, Origin, ReleaseAuditRecord
from meninx.core.errors import AuditFinding, DataError, UsageError, expected, problem
from meninx.core.manifest import Manifest
from meninx.core.obfuscation_records import LabelFloorRecord
from meninx.core.progress import SILENT, Progress
from meninx.core.result import Result
from meninx.learn import runtime
from meninx.obfuscate import dataset_table, released_dataset
from meninx.obfuscate.audit_words import audit_lines, verdict_line
from meninx.obfuscate.config import AttackSettings, HiddenAttribute, ObfuscateConfig, ReleaseAuditConfig
from meninx.obfuscate.obfuscator import (
    OBFUSCATORS,
    CodedObfuscator,
    ImageTable,
    fitting_half,
    stored,
)
from meninx.obfuscate.published_columns import columns_of_release, known_labels
from meninx.obfuscate.release_audit import audit_release, foreign_release
from meninx.obfuscate.release_question import ReleaseQuestion, attack_rows
from meninx.obfuscate.release_verdict import FAILED, PASSED
from meninx.obfuscate.released_dataset import Release

PLACE = "release_audit"
"""Folder of the record of a release that meninx did not make, without another one."""


@dataclass(frozen=True, kw_only=True)
class ReleaseAuditResult(Result):
    """What attackers found in a release.

    Attributes:
        record: all of it.
        page: HTML page beside the record; None where none was written.
    """

    record: ReleaseAuditRecord
    page: Path | None = None

    def summary(self) -> str:
        """Return the record in lines of text."""
        page = [f"page: {self.page}"] if self.page is not None else []
        return "\n".join([f"out: {self.out}", *page, *audit_lines(self.record)])

    def raise_if_failed(self) -> None:
        """Raise AuditFinding unless the target is met, where there is one.

        Raises:
            AuditFinding: it is not, or the audit is void.
        """
        raise_if_failed(self.record)


def raise_if_failed(record: ReleaseAuditRecord) -> None:
    """Raise AuditFinding unless a release met the target, where there is one.

    Raises:
        AuditFinding: it did not, or the audit is void.
    """
    if record.verdict == FAILED or (record.target and record.verdict != PASSED):
        raise AuditFinding(problem(verdict_line(record), where="release audit"))


def refuse_unanswerable(config: ObfuscateConfig, source: Manifest, table: ImageTable) -> None:
    """Refuse a dataset with too few patients for the attackers, before anything is fitted.

    Raises:
        DataError: as ``attack_rows``.
    """
    nothing = Origin(run="", data="")
    question = question_of(config, config.release_audit, table, None, source.info.synthetic)
    question |= {"draws": lambda number: table.values, "source": nothing, "released": nothing}
    attack_rows(ReleaseQuestion(**question))


def audit_own(work: Release, released: Manifest, progress: Progress) -> ReleaseAuditRecord:
    """Attack a published release, and write ``release_audit.json`` into its folder.

    Args:
        work: the release, with its method.
        released: the published dataset.
        progress: shows the attackers.

    Raises:
        DataError: see ``audit_release``.
    """
    config, table, fitted = work.config, work.table, work.fitted
    method = OBFUSCATORS[config.method]
    question = question_of(config, config.release_audit, table, work.floor, work.source.info.synthetic)
    question |= {
        "draws": lambda number: stored(fitted.release(table, draw=number)) if number else work.values,
        "fitted": fitting_half(table, seed=config.seed) if method.learned else None,
        "method": config.method,
        "method_summary": method.summary,
        "caveat": method.caveat,
        "draws_to_average": config.release_audit.draws,
        "deterministic": config.deterministic,
        "source": released_dataset.origin(work.key, work.source, deterministic=config.deterministic),
        "released": released_dataset.origin(work.key, released, deterministic=config.deterministic),
    }
    if isinstance(fitted, CodedObfuscator):
        target = config.release_audit.target
        question["codes"] = fitted.codes(table)
        question["certificates"] = fitted.certificates(table, config.attribute, target=target)
    record = audit_release(ReleaseQuestion(**question), progress=progress)
    record = replace(record, checksums=integrity.digest_of(released.root))
    artifacts.write(released.root, record)
    return record


def audit_foreign(
    config: ReleaseAuditConfig,
    original: Path,
    release: Path,
    out: Path | None = None,
    *,
    progress: Progress = SILENT,
) -> ReleaseAuditResult:
    """Attack a released dataset, whoever made it, and write ``release_audit.json``.

    Images are matched by case. A release of meninx whose private room is there has to be a release of this
    very original.

    Args:
        config: the settings.
        original: prepared dataset of the original images.
        release: dataset with the same cases, patients and splits, and changed images.
        out: folder of the record; by default the release where meninx made it, else ``release_audit``.
        progress: shows the attackers.

    Raises:
        UsageError: the original has no such attribute, or there is a record.
        DataError: the two do not belong together, or a patient or an image is in two splits.
    """
    source, released = Manifest.read(original), Manifest.read(release)
    dataset_table.refuse_unfit(source.info)
    published = columns_of_release(released, source)
    labels = known_labels(released.info, config.labels)
    private = dataset_table.attribute_classes(source, config.attributes, config.bins)
    made = artifacts.read(release, ObfuscationRecord)
    key = _key_of(release, made, source)
    place = out or (release if key else Path(PLACE))
    _refuse_earlier(place, config, (original, *(() if place == release else (release,))))
    table = dataset_table.read_table(source, private, published, dataset_table.read_images(source, progress))
    table = dataset_table.with_utility(table, labels)
    values = foreign_release(table, _released_table(released, progress))
    key = key or randomness.private_bytes(randomness.KEY_BYTES)
    floor = dataset_table.measured_floor(source, private, published, config.seed)
    progress.note(f"label floor: {floor.sentence or floor.refusal}")
    question = question_of(config, config.attacks, table, floor, source.info.synthetic)
    question |= {
        "draws": lambda number: values,
        "fitted": _fitting_half_of(made, table),
        "draws_to_average": 1,
        "source": released_dataset.origin(key, source, deterministic=config.deterministic),
        "released": released_dataset.origin(key, released, deterministic=config.deterministic),
        "deterministic": config.deterministic,
    }
    if made is not None:
        question |= {"method": made.method, "method_summary": made.method_summary, "caveat": made.caveat}
    record = audit_release(ReleaseQuestion(**question), progress=progress)
    record = replace(record, checksums=integrity.digest_of(release))
    artifacts.write(place, record)
    return ReleaseAuditResult(out=place, record=record)


def question_of(
    config: HiddenAttribute,
    attacks: AttackSettings,
    table: ImageTable,
    floor: LabelFloorRecord | None,
    synthetic: bool,
) -> dict[str, Any]:
    """Return what all audits ask alike, as arguments of ``ReleaseQuestion``.

    Args:
        config: the attribute, seed and device.
        attacks: how it is attacked.
        table: the original images or features.
        floor: the label floor.
        synthetic: no patient stands behind them.
    """
    return {
        "original": table,
        "attribute": config.attribute,
        "target": attacks.target,
        "epochs": attacks.attack_epochs,
        "permutations": attacks.permutations,
        "seed": config.seed,
        "device": str(runtime.device(config.device)),
        "synthetic": synthetic,
        "floor": floor,
    }


def _key_of(release: Path, made: ObfuscationRecord | None, source: Manifest) -> bytes:
    """Return the key of a release whose private room is there; empty for any other.

    Raises:
        DataError: it is the release of another dataset.
    """
    path = release / workspace.PRIVATE / released_dataset.KEY
    if made is None or not path.is_file():
        return b""
    key = files.read_bytes(path, limit=randomness.KEY_BYTES)
    if released_dataset.keyed(key, source.root) != made.source.data:
        fix = "give the dataset that was released, as it was then"
        got = "a release of another dataset"
        raise DataError(expected("a release of this original", got=got, where=release.name, fix=fix))
    return key


def _fitting_half_of(made: ObfuscationRecord | None, table: ImageTable) -> npt.NDArray[np.bool_] | None:
    """Return which rows a learned method of meninx was fitted on; None where it is not known."""
    method = OBFUSCATORS.get(made.method) if made is not None else None  # type: ignore[call-overload]
    if made is None or method is None or not method.learned:
        return None
    seed = made.settings.get("seed", 0)
    if not isinstance(seed, int):
        raise DataError(problem("the seed is no number", where=artifacts.place(ObfuscationRecord)))
    return fitting_half(table, seed=seed)


def _released_table(released: Manifest, progress: Progress) -> ImageTable:
    """Return a released dataset without attributes and labels."""
    cases = released.cases
    return ImageTable(
        values=dataset_table.read_images(released, progress),
        cases=tuple(case.case_id for case in cases),
        patients=tuple(case.patient_id for case in cases),
        split=tuple(case.split for case in cases),
    )


def _refuse_earlier(place: Path, config: ReleaseAuditConfig, sources: tuple[Path, ...]) -> None:
    """Refuse a place in a source, and one that holds a record, unless it is to be replaced.

    Raises:
        UsageError: as above.
    """
    workspace.apart(place, sources)
    path = place / released_dataset.AUDIT
    if path.exists() and not config.overwrite:
        fix = "give --overwrite to replace it, or another --out"
        raise UsageError(problem("the release was audited before", where=path.name, fix=fix))
