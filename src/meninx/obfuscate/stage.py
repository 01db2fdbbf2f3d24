"""`meninx obfuscate`: releases a dataset whose images hide an attribute, and attacks the release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from meninx.core import names
from meninx.core import progress as bars
from meninx.core.artifacts import ReleaseAuditRecord
from meninx.core.errors import DataError, PrivacyRefusal, UsageError, expected, problem
from meninx.core.manifest import MANIFEST_NAME, SPLITS, Manifest
from meninx.core.obfuscation_records import LabelFloorRecord
from meninx.core.result import Result
from meninx.obfuscate import dataset_table, released_dataset, sealed_audit
from meninx.obfuscate.audit_words import audit_lines
from meninx.obfuscate.audited_release import (
    audit_own,
    raise_if_failed,
    refuse_unanswerable,
    with_target,
)
from meninx.obfuscate.config import CHANCE, ObfuscateConfig
from meninx.obfuscate.dataset_table import AttributeClasses
from meninx.obfuscate.obfuscator import (
    OBFUSCATORS,
    UNKNOWN,
)
from meninx.obfuscate.published_columns import PublishedColumns, published_columns
from meninx.obfuscate.release_audit import strength
from meninx.obfuscate.released_dataset import Release, fit_method, released_values


@dataclass(frozen=True, kw_only=True)
class ObfuscateResult(Result):
    """The result of `meninx obfuscate`: counts, the label floor and what the attackers found.

    Attributes:
        method: name of the method.
        sentence: how the images were changed, and what this does not do.
        attribute: the attribute that was to be hidden.
        classes: class -> images with it.
        unknown: images whose class is not known.
        cases: released images.
        patients: their patients.
        floor: what the true labels alone tell; None where it was not measured.
        facts: what was fitted.
        change: mean absolute change of a pixel, of the range 0 to 1; None in a dry run.
        published: columns of the released table with content about a patient: labels and attributes.
        withheld: columns of the dataset that the released table does not have.
        audit: what retrained attackers find; None where the release was not attacked.
        page: HTML page of the release; None where none was written.
        dry_run: nothing was written.
    """

    method: str
    sentence: str
    attribute: str
    classes: dict[str, int]
    unknown: int
    cases: int
    patients: int
    floor: LabelFloorRecord | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    change: float | None = None
    published: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    audit: ReleaseAuditRecord | None = None
    page: Path | None = None
    dry_run: bool = False

    def summary(self) -> str:
        """Return the result in a few lines of text."""
        counted = ", ".join(f"{name} {count}" for name, count in self.classes.items())
        unknown = f", unknown {self.unknown}" if self.unknown else ""
        verb = "to release" if self.dry_run else "released"
        lines = [
            f"out: {self.out}",
            *([f"page: {self.page}"] if self.page is not None else []),
            f"{verb}: {self.cases} images of {self.patients} patients",
            f"method: {self.sentence}",
            f"{self.attribute}: {counted}{unknown}",
        ]
        if self.floor is not None:
            lines.append(f"label floor: {self.floor.sentence or self.floor.refusal}")
        if self.change is not None:
            lines.append(f"mean change of a pixel: {self.change:.4f} of the range")
        lines += [f"{name.replace('_', ' ')}: {shown_fact(value)}" for name, value in self.facts.items()]
        lines += column_lines(self.published, self.withheld)
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


def column_lines(published: Sequence[str], withheld: Sequence[str]) -> list[str]:
    """Return what a released table holds beside images or vectors, in lines of text."""
    shown = ", ".join(map(names.printable, published)) or "none"
    lines = [f"published columns: {shown}; with the release they may tell more than either"]
    if withheld:
        lines.append(f"columns that are not published: {', '.join(map(names.printable, withheld))}")
    return lines


def shown_fact(value: Any) -> str:
    """Return a fact in words: numbers with four digits, tables as ``name value``."""
    if isinstance(value, Mapping):
        return ", ".join(f"{names.printable(str(name))} {shown_fact(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown_fact, value))
    return f"{value:.4g}" if isinstance(value, float) else names.printable(str(value))


def run(
    config: ObfuscateConfig, source: Path, out: Path, *, progress: bars.Progress = bars.SILENT
) -> ObfuscateResult:
    """Release a dataset whose images hide an attribute, and return counts and what attackers find.

    Writes a dataset folder with the same cases, patients and splits: images of 8 bits, and a table with the
    labels and the columns that the settings name and no others. ``obfuscation.json`` says how it was made,
    and ``private/`` holds the key, the files of the method and a sheet of images before and after, which do
    not leave the hospital.

    Guarantee: no file outside ``private/`` shows an original image or a value of the attribute, unless
        ``keep_attribute`` is set. That the attribute cannot be inferred from the released images is not
        guaranteed: it is measured by attackers that are trained on them.

    Args:
        config: the settings.
        source: prepared dataset of 2-D images with labels.
        out: folder of the release; must be new or empty unless ``resume`` or ``overwrite``.
        progress: shows the work.

    Raises:
        UsageError: the dataset has no such attribute or label, or ``out`` contains something.
        DataError: the images are of a kind that no method can change, or a patient or image is in two splits.
        PrivacyRefusal: the target is below what the labels alone tell, for a method that ignores the
            attribute.
        RunLocked: another process writes to ``out``.
    """
    if OBFUSCATORS[config.method].features:
        what = f"the method {config.method} is for feature vectors"
        fix = "use `meninx obfuscate features RUN OUT`"
        raise UsageError(problem(what, where="method", fix=fix))
    manifest = Manifest.read(source)
    dataset_table.refuse_unfit(manifest.info)
    published = published_columns(manifest, config)
    private = dataset_table.attribute_classes(manifest, config.attributes, config.bins)
    refuse_empty_splits(manifest)
    released_dataset.check(out, config, manifest)
    floor = dataset_table.measured_floor(manifest, private, published, config.seed)
    progress.note(f"label floor: {floor.sentence or floor.refusal}")
    refuse_below_floor(config, floor)
    if config.dry_run:
        return _result(config, out, manifest, private, floor, published, dry_run=True)
    values = dataset_table.read_images(manifest, progress)
    table = dataset_table.read_table(manifest, private, published, values)
    if config.release_audit.audit:
        refuse_unanswerable(config, manifest, table)
    with released_dataset.claimed(out, config, manifest) as space:
        there = space.earlier == released_dataset.fingerprint(config, manifest) and config.resume
        key = released_dataset.secret_key(space, config, published=there)
        fitted = fit_method(config, table, key, progress)
        work = Release(config, manifest, table, fitted, released_values(fitted, table), floor, published, key)
        if there:
            released_dataset.refuse_other_images(work, out, progress)
        else:
            released_dataset.publish(space, work, progress)
        change = float(np.abs(work.values - values).mean(dtype=np.float64))
        facts = dict(fitted.facts())
        audit = _audited(work, Manifest.read(out), progress)
    return _result(config, out, manifest, private, floor, published, facts=facts, change=change, audit=audit)


def _audited(work: Release, released: Manifest, progress: bars.Progress) -> ReleaseAuditRecord | None:
    """Return the audit of the published release: the one that is there, or a new one; None without any.

    Raises:
        UsageError: the one that is there was made by other attacks.
        DataError: it was edited, or removed.
    """
    config, root = work.config, released.root
    there = sealed_audit.earlier(root)
    if there is not None and there.released.data == released_dataset.keyed(work.key, root):
        return audit_of_before(config, there, root, work.table.values.ndim)
    if not config.release_audit.audit:
        return None
    return audit_own(work, released, progress)


def audit_of_before(
    config: ObfuscateConfig, there: ReleaseAuditRecord, root: Path, axes: int
) -> ReleaseAuditRecord:
    """Return the finished audit of a release, with the target that is asked for entered behind the first.

    Raises:
        UsageError: other attacks are asked for.
    """
    asked = config.release_audit
    if not asked.audit:
        return there
    unlike = list(there.strength.differences(strength(asked, axes)))
    if there.seed != config.seed:
        unlike.append(f"seed {there.seed} and {config.seed}")
    if unlike:
        what = f"the release was attacked with other settings: {'; '.join(unlike)}"
        fix = "leave them out, or attack it again by `meninx obfuscate audit DATA RELEASE --overwrite`"
        raise UsageError(problem(what, where="resume", fix=fix))
    last = there.asked[-1].target if there.asked else there.target
    return there if asked.target == last else with_target(there, asked.target, root)


def refuse_below_floor(config: ObfuscateConfig, floor: LabelFloorRecord) -> None:
    """Refuse a target that a method cannot reach that keeps the labels and ignores the attribute.

    Raises:
        PrivacyRefusal: the target is below the floor, and the floor is beyond chance (its lower end is above
            one half).
    """
    target = config.release_audit.target
    beyond_chance = floor.auroc is not None and (floor.low or 0.0) > CHANCE
    if target and not config.aware and beyond_chance and target < (floor.auroc or 0.0):
        what = f"a target of {target:g} is below the label floor: {floor.sentence}"
        fix = "accept a higher target, publish fewer columns, or use a method that reads the attribute: codes"
        raise PrivacyRefusal(problem(what, where="target", fix=fix))


def refuse_empty_splits(manifest: Manifest) -> None:
    """Refuse a dataset without images to fit on, to choose attackers on, or to judge them on."""
    empty = [name for name in SPLITS if not any(case.split == name for case in manifest.cases)]
    if empty:
        fix = "prepare the dataset with three splits by patient"
        got = f"none in {', '.join(empty)}"
        raise DataError(expected("images in every split", got=got, where=MANIFEST_NAME, fix=fix))


def _result(
    config: ObfuscateConfig,
    out: Path,
    manifest: Manifest,
    private: AttributeClasses,
    floor: LabelFloorRecord,
    published: PublishedColumns,
    **more: Any,
) -> ObfuscateResult:
    method = OBFUSCATORS[config.method]
    counts = {name: int((private.index == number).sum()) for number, name in enumerate(private.names)}
    return ObfuscateResult(
        out=out,
        method=config.method,
        sentence=f"{method.summary}, which {method.caveat}",
        attribute=config.attribute,
        classes=counts,
        unknown=int((private.index == UNKNOWN).sum()),
        cases=len(manifest),
        patients=len(manifest.patients),
        floor=floor,
        published=published.names,
        withheld=published.withheld,
        **more,
    )
