"""What hides an attribute in a dataset and what attackers find in it: two records, checked for a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from meninx.core import artifacts, csv_table, files, integrity, names
from meninx.core.artifacts import ObfuscationRecord, ReleaseAuditRecord
from meninx.core.errors import DataError, problem
from meninx.core.manifest import MANIFEST_NAME, DatasetInfo
from meninx.core.obfuscation_records import AttackerRecord
from meninx.metrics.groups import MIN_CELL
from meninx.obfuscate import asked_targets, sealed_audit, sealed_release
from meninx.obfuscate.asked_targets import AskedAudit
from meninx.obfuscate.audit_words import measured_words
from meninx.obfuscate.release_verdict import chosen_of, verdict_at, verdict_of

RECORD, AUDIT = artifacts.place(ObfuscationRecord), artifacts.place(ReleaseAuditRecord)
NOT_ATTACKED = "not attacked: nothing is known of what it hides"
_RESTORE = "restore the folder as meninx wrote it"


@dataclass(frozen=True, kw_only=True)
class ObfuscatedDataset:
    """A released dataset, or the audit alone of one that another program released.

    Attributes:
        name: folder name.
        root: the folder.
        record: how it was made; None where another program made it.
        audit: what attackers find in it; None where it was not attacked.
        synthetic: nobody stands behind the images.
        sentence: how the images were changed, as the dataset says it.
        asked: every audit of the release, wherever its record is; empty without its private room.
        lost: that the record of an audit is missing, in words; else empty.
        sealed: the private room is here, and the record is the one that was written with it.
        patients: patients in the table that lies here; None where that is unknown.
    """

    name: str
    root: Path
    record: ObfuscationRecord | None = None
    audit: ReleaseAuditRecord | None = None
    synthetic: bool = False
    sentence: str = ""
    asked: tuple[AskedAudit, ...] = ()
    lost: str = ""
    sealed: bool = False
    patients: int | None = None

    @property
    def attribute(self) -> str:
        """The attribute that was to be hidden, or that was attacked."""
        if self.record is not None:
            return names.printable(self.record.attribute)
        return names.printable(self.audit.attribute) if self.audit is not None else ""

    @property
    def method(self) -> str:
        """The method in words."""
        known = self.record or self.audit
        words = known.method_summary if known is not None else ""
        return sealed_release.stated(words) or "a method that is not recorded"

    @property
    def of_features(self) -> bool:
        """Whether vectors were released instead of images."""
        return self.record is not None and not self.sentence

    @property
    def deterministic(self) -> bool:
        """Whether what hides the attribute came from a seed."""
        return self.record is not None and self.record.deterministic

    def caveat(self) -> str:
        """Return what the method does not do, with the number that was measured."""
        known = self.record or self.audit
        words = sealed_release.stated(known.caveat) if known is not None else ""
        what = "features" if self.of_features else "images"
        start = f"To hide {self.attribute or 'an attribute'}, {what} were changed by {self.method}"
        return f"{start}, which {words}; {self.finding()}." if words else f"{start}; {self.finding()}."

    def finding(self) -> str:
        """Return what retrained attackers find, in words that stand behind a semicolon."""
        if self.audit is None:
            return self.lost or NOT_ATTACKED
        if self.audit.highest_attacker is None:
            return "no attacker could be measured: nothing is known of what it hides"
        other = self.record is not None and self.audit.attribute != self.record.attribute
        whom = f" of {names.printable(self.audit.attribute)}" if other else ""
        void = ", and the audit is void" if self.audit.verdict == "void" else ""
        return f"{measured_words(self.audit).replace('AUROC', f'AUROC{whom}')}{void}"


def read(root: Path, name: str, info: DatasetInfo | None) -> ObfuscatedDataset | None:
    """Return what a folder says of an obfuscated dataset; None for a folder that says nothing of one.

    Args:
        root: a dataset folder, or a folder that holds the audit of a release alone.
        name: to show.
        info: description of the dataset; None where there is none.

    Raises:
        DataError: a record is damaged, was changed, or belongs to another dataset; names the file.
    """
    record, audit = artifacts.read(root, ObfuscationRecord), artifacts.read(root, ReleaseAuditRecord)
    sentence = info.obfuscated if info is not None else ""
    if record is None and audit is None and not sentence:
        return None
    if record is not None:
        _refuse(sealed_release.contradictions(root, record, info), f"{name}/{RECORD}")
    if audit is not None:
        _refuse(_of_another(root, audit, record, has_data=info is not None), f"{name}/{AUDIT}")
        _refuse(_impossible(audit), f"{name}/{AUDIT}")
    _refuse(sealed_audit.contradictions(root), name)
    asked = asked_targets.history(root) if record is not None else ()
    sealed = record is not None and sealed_release.is_sealed(root)
    lost = (asked_targets.lost(asked, audit) if sealed else "") or sealed_audit.lost(root)
    synthetic = audit.synthetic if info is None and audit is not None else bool(info and info.synthetic)
    return ObfuscatedDataset(
        name=name, root=root, record=record, audit=audit, synthetic=synthetic, sentence=sentence,
        asked=asked, lost=lost, sealed=sealed,
        patients=_patients(root) if record is not None else None,
    )  # fmt: skip


def _patients(root: Path) -> int:
    """Return the patients of the table of a release, whose digest was checked."""
    table = csv_table.read_table(root / MANIFEST_NAME, ("patient_id",))
    return len({row.get("patient_id") for row in table})


def _refuse(found: Iterator[str], where: str) -> None:
    wrong = next(found, "")
    if wrong:
        raise DataError(problem(wrong, where=where, fix=_RESTORE))


def _of_another(
    root: Path, audit: ReleaseAuditRecord, record: ObfuscationRecord | None, *, has_data: bool
) -> Iterator[str]:
    """Yield why an audit is not that of the dataset beside it."""
    if (has_data or record is not None) and audit.checksums and audit.checksums != integrity.digest_of(root):
        yield "the audit is that of another release"
    if record is None:
        return
    if not audit.checksums:
        yield "the audit does not say which release was attacked"
    if audit.obfuscation != files.digest(root / RECORD) and (audit.obfuscation or record.keyed_names):
        yield f"{RECORD} is not the one that the audit names"
    if audit.earlier_unknown:
        return  # the audit believes nothing of the record
    if audit.source.data != record.source.data:
        yield "the release was audited against another dataset than the one that it was made of"
    theirs = (audit.method, audit.method_summary, audit.caveat)
    if theirs != (record.method, record.method_summary, record.caveat):
        yield "the audit is that of a release by another method"
    if audit.attribute == record.attribute and audit.classes != record.classes:
        yield "the audit is about other classes of the attribute than those that were to be hidden"
    elif audit.attribute == record.attribute and audit.labels != record.utility:
        yield "the audit is about other labels than those of the release"


def _impossible(audit: ReleaseAuditRecord) -> Iterator[str]:
    """Yield what of an audit does not follow from its own numbers."""
    every = [*audit.attackers, *audit.static, *audit.output_leaks, *audit.every_question, *audit.columns]
    every += [*audit.with_columns, *audit.code_attacks, *audit.per_patient]
    every += [item for item in (audit.clean, audit.control) if item]
    if not all(map(_possible, every)):
        yield "an attacker has an area or an interval that cannot be"
    if len({item.name for item in audit.attackers}) < len(audit.attackers):
        yield "two attackers have one name"
    few = min(audit.validation.values(), default=0) < MIN_CELL
    if audit.chosen != ("" if few else chosen_of(audit.attackers)):
        yield "another attacker than the one named does best on the validation split"
    retrained = (*audit.attackers, *audit.code_attacks, *audit.per_patient)
    if not all(item.retrained for item in retrained) or any(item.retrained for item in audit.static):
        yield "attackers that were retrained are mixed with others"
    yield from _of_other_classes(audit, every)
    if audit.asked and audit.asked[0].target != audit.target:
        yield "the target is not the one that was asked for first"
    if audit.asked and audit.asked[-1].verdict != verdict_at(audit, audit.asked[-1].target):
        yield "the verdict on the target that was asked for last does not follow from the numbers"
    if (audit.verdict, audit.reason) != verdict_of(audit):
        yield "the verdict does not follow from the numbers"
    if any(item.limit is not None and min(item.patients) < 1 for item in audit.certificates):
        yield "a certificate rests on no patient"


def _of_other_classes(audit: ReleaseAuditRecord, every: Sequence[AttackerRecord]) -> Iterator[str]:
    """Yield what of an audit is about other classes than those that it names."""
    known = set(audit.classes)
    named = {name for item in every for name in item.classes} | set(audit.validation)
    named |= {name for item in audit.certificates for name in item.groups}
    if not named <= known or len(known) != len(audit.classes):
        yield "an attacker tells other classes apart than those that the audit names"


def _possible(item: AttackerRecord) -> bool:
    """Return whether an area is one, and its interval too."""
    known = [value for value in (item.auroc, item.low, item.high, item.valid_auroc, item.clean_auroc)
             if value is not None]  # fmt: skip
    ordered = item.low is None or item.high is None or item.low <= item.high
    folded = item.auroc is None or item.auroc >= 0.5
    return ordered and folded and all(math.isfinite(value) and 0 <= value <= 1 for value in known)
