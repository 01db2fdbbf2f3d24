"""`meninx obfuscate features`: releases feature vectors that hide an attribute, and attacks the release.

Embeddings of a network tell what its images tell: sharing them is a release of the attribute, too. ::

    result = meninx.obfuscate_features("runs/latest", "shared/", attribute="sex", method="leace")
    print(result.summary())
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meninx.core import files, workspace
from meninx.core import progress as bars
from meninx.core.artifacts import ObfuscationRecord, ReleaseAuditRecord
from meninx.core.errors import ConfigError, UsageError, problem
from meninx.core.names import printable
from meninx.core.obfuscation_records import LabelFloorRecord
from meninx.core.result import Result
from meninx.obfuscate import dataset_table, feature_source, released_features, sealed_audit, sealed_release
from meninx.obfuscate.audit_words import audit_lines
from meninx.obfuscate.audited_release import entered, question_of, raise_if_failed
from meninx.obfuscate.config import ERASURES, ObfuscateConfig
from meninx.obfuscate.feature_file import SUFFIXES
from meninx.obfuscate.feature_source import FeatureSource
from meninx.obfuscate.obfuscator import (
    OBFUSCATORS,
    UNKNOWN,
    CodedObfuscator,
    FittedObfuscator,
    ImageTable,
    Values,
    fitting_half,
)
from meninx.obfuscate.published_columns import PublishedColumns, published_columns
from meninx.obfuscate.release_audit import audit_release
from meninx.obfuscate.release_question import attack_rows
from meninx.obfuscate.released_dataset import fit_method, secret_key
from meninx.obfuscate.released_features import FeatureRelease
from meninx.obfuscate.stage import (
    audit_of_before,
    column_lines,
    refuse_below_floor,
    refuse_empty_splits,
    shown_fact,
)

if TYPE_CHECKING:
    from torch import nn

METHODS = (*ERASURES, "codes")


@dataclass(frozen=True, kw_only=True)
class FeatureReleaseResult(Result):
    """The result of `meninx obfuscate features`.

    Attributes:
        record: how the features were made; None in a dry run.
        sentence: the method, and what it does not do.
        attribute: the attribute that was to be hidden.
        classes: class -> vectors with it.
        unknown: vectors whose class is not known.
        cases: vectors.
        patients: their patients.
        features: numbers in a released vector; 0 in a dry run.
        floor: what the published columns alone tell.
        published: columns of the released table with content about a patient: labels and attributes.
        withheld: columns of the source that the released table does not have.
        audit: what attackers find; None where the release was not attacked.
        page: HTML page of the release; None where none was written.
        note: what the user has to know; else empty.
        dry_run: nothing was written.
    """

    record: ObfuscationRecord | None
    sentence: str
    attribute: str
    classes: dict[str, int]
    unknown: int
    cases: int
    patients: int
    features: int = 0
    floor: LabelFloorRecord | None = None
    published: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    audit: ReleaseAuditRecord | None = None
    page: Path | None = None
    note: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    dry_run: bool = False

    def summary(self) -> str:
        """Return the result in a few lines of text."""
        counted = ", ".join(f"{name} {count}" for name, count in self.classes.items())
        unknown = f", unknown {self.unknown}" if self.unknown else ""
        verb = "to release" if self.dry_run else "released"
        size = f", {self.features} numbers each" if self.features else ""
        lines = [
            f"out: {self.out}",
            *([f"page: {self.page}"] if self.page is not None else []),
            f"{verb}: {self.cases} feature vectors of {self.patients} patients{size}",
            f"method: {self.sentence}",
            f"{self.attribute}: {counted}{unknown}",
        ]
        if self.floor is not None:
            lines.append(f"label floor: {self.floor.sentence or self.floor.refusal}")
        lines += column_lines(self.published, self.withheld)
        lines += [f"{name.replace('_', ' ')}: {shown_fact(value)}" for name, value in self.facts.items()]
        if self.note:
            lines.append(f"note: {self.note}")
        if self.dry_run:
            lines.append("dry run: nothing was written")
        elif self.audit is None:
            lines.append("the release was not attacked: what it hides is not known")
        else:
            lines += audit_lines(self.audit)
        return "\n".join(lines)

    def raise_if_failed(self) -> None:
        """Raise AuditFinding unless the target is met, where there is one.

        Raises:
            AuditFinding: it is not, or the audit is void.
        """
        if self.audit is not None:
            raise_if_failed(self.audit)


def run(
    config: ObfuscateConfig,
    source: Path,
    out: Path,
    *,
    data: Path | None = None,
    network: nn.Module | None = None,
    progress: bars.Progress = bars.SILENT,
) -> FeatureReleaseResult:
    """Release feature vectors that hide an attribute, and return counts and what attackers find.

    Writes ``features.npz``, ``manifest.csv`` with one row per vector and without the attribute,
    ``obfuscation.json``, ``checksums.sha256`` and, after the attacks, ``release_audit.json``.

    Guarantee: after LEACE no linear attacker is better than a constant on the patients that it was fitted on,
        and after kernel erasure none on the released kernel features. For other patients and other attackers
        nothing is guaranteed: they are measured. With codes the certificate says what holds for every
        attacker, or that there are too few patients for one.

    Args:
        config: the settings; the method is ``leace``, ``kernel-erasure`` or ``codes``.
        source: folder of a finished run, or a ``.npz`` or ``.csv`` file of feature vectors.
        out: folder of the release; must be new or empty unless ``resume`` or ``overwrite``.
        data: dataset to embed, where it is not that of the run.
        network: architecture of a run that was given its own network.
        progress: shows the work.

    Raises:
        UsageError: a method for images, no such attribute or label, or ``out`` contains something, e.g. the
            release of another run.
        DataError: the source is damaged, or a patient or vector is in two splits.
        PrivacyRefusal: the target is below what the labels alone tell.
        RunLocked: another process writes to ``out``.
    """
    if config.method not in METHODS:
        fix = f"use {' or '.join(METHODS)}"
        raise UsageError(problem(f"the method {config.method} is for images", where="method", fix=fix))
    if config.release_audit.draws != type(config.release_audit)().draws:
        what = "the setting has no effect: features are released once, without random draws"
        raise ConfigError(problem(what, where="draws", fix="leave draws out"))
    found = _source(config, source, data, network)
    manifest = found.manifest
    published = published_columns(manifest, config)
    private = dataset_table.attribute_classes(manifest, config.attributes, config.bins)
    refuse_empty_splits(manifest)
    workspace.check(out, **released_features.claim(config, found))
    floor = dataset_table.measured_floor(manifest, private, published, config.seed)
    progress.note(f"label floor: {floor.sentence or floor.refusal}")
    refuse_below_floor(config, floor)
    table = dataset_table.read_table(manifest, private, published, found.values)
    if config.dry_run:
        return _result(config, out, table, floor, found, published, dry_run=True)
    if config.release_audit.audit:
        attack_rows(question_of(config, config.release_audit, table))
    with workspace.claim(out, **released_features.claim(config, found)) as space:
        there = space.earlier == released_features.fingerprint(config, found) and config.resume
        key = secret_key(space, config, published=there)
        fitted = fit_method(config, table, key, progress)
        values = np.asarray(fitted.release(table), dtype=np.float32)
        work = FeatureRelease(
            config=config, source=found, table=table, fitted=fitted, values=values, floor=floor,
            published=published, key=key,
        )  # fmt: skip
        if there:
            record = released_features.refuse_other_vectors(work, out)
        else:
            record = released_features.publish(space, work)
        audit = _audited(work, record, out, progress)
    return _result(
        config, out, table, floor, found, published, record=record, features=values.shape[1], audit=audit,
        facts=dict(record.facts),
    )  # fmt: skip


def _source(
    config: ObfuscateConfig, source: Path, data: Path | None, network: nn.Module | None
) -> FeatureSource:
    if source.suffix.lower() in SUFFIXES or source.is_file():
        if source.suffix.lower() not in SUFFIXES:
            what = "the file is neither .npz nor .csv"
            raise UsageError(problem(what, where=source.name))
        if data is not None or network is not None:
            what = "a file of features has neither a dataset nor a network beside it"
            raise UsageError(problem(what, where="data", fix="leave it out"))
        return feature_source.of_file(
            source, attributes=config.attributes, others=config.keep_columns, labels=config.labels,
            seed=config.seed,
        )  # fmt: skip
    return feature_source.of_run(source, data, device=config.device, network=network)


def _audited(
    work: FeatureRelease, record: ObfuscationRecord, out: Path, progress: bars.Progress
) -> ReleaseAuditRecord | None:
    """Attack a published release, and write ``release_audit.json`` into its folder; None without an audit.

    Attackers compare the release with the vectors before erasure, in the kernel variant with kernel features.
    """
    config, table, fitted = work.config, work.table, work.fitted
    there = sealed_audit.earlier(out)
    if there is not None and there.checksums == record.checksums:
        return audit_of_before(config, there, out, table.values.ndim)
    if not config.release_audit.audit:
        return None
    method = OBFUSCATORS[config.method]
    question = question_of(
        config, config.release_audit, replace(table, values=_before(fitted, table)), floor=work.floor,
        synthetic=work.source.manifest.info.synthetic,
    )  # fmt: skip
    question = replace(
        question,
        draws=lambda number: work.values,
        fitted=fitting_half(table, seed=config.seed) if method.learned else None,
        method=config.method,
        method_summary=record.method_summary,
        caveat=record.caveat,
        deterministic=config.deterministic,
        source=work.origin,
        released=work.released_origin(record.checksums),
        head=_head_of(work),
        published=work.published.names,
    )
    if isinstance(fitted, CodedObfuscator):
        new = table.select(table.where(*work.source.calibration))
        found = fitted.certificates(new, config.attribute, target=config.release_audit.target)
        question = replace(question, codes=fitted.codes(table), certificates=found)
    audit = audit_release(question, progress=progress)
    made = files.digest(out / sealed_release.RECORD)
    return entered(replace(audit, checksums=record.checksums, obfuscation=made), out, out)


def _before(fitted: FittedObfuscator, table: ImageTable) -> Values:
    """Return the vectors before erasure in the space of the released ones."""
    represented = getattr(fitted, "represented", None)
    values: Values = table.values if represented is None else represented(table)
    return values


def _head_of(work: FeatureRelease) -> Any:
    """Return the run's last layer for the labels that are kept; None without one."""
    head = work.source.head
    if head is None or not work.table.labels:
        return None
    columns = [work.source.manifest.info.labels.index(name) for name in work.table.labels]
    return lambda values: head(values)[:, columns]


def _result(
    config: ObfuscateConfig,
    out: Path,
    table: ImageTable,
    floor: LabelFloorRecord,
    found: FeatureSource,
    published: PublishedColumns,
    *,
    record: ObfuscationRecord | None = None,
    **more: Any,
) -> FeatureReleaseResult:
    kinds = table.private[config.attribute]
    names = table.classes[config.attribute]
    facts: Mapping[str, Any] = more.pop("facts", {})
    return FeatureReleaseResult(
        out=out,
        record=record,
        sentence=f"{released_features.summary(config)}, which {released_features.caveat(config)}",
        attribute=config.attribute,
        classes={printable(name): int((kinds == number).sum()) for number, name in enumerate(names)},
        unknown=int((kinds == UNKNOWN).sum()),
        cases=len(table),
        patients=len(set(table.patients)),
        floor=floor,
        published=published.names,
        withheld=(*published.withheld, *found.unused),
        note=found.note,
        facts=dict(facts),
        **more,
    )
