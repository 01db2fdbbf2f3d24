"""The audit of a release: of the one that `meninx obfuscate` has just made, or of one that anybody made."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from meninx.core import artifacts, files, integrity, randomness, settings, workspace
from meninx.core.artifacts import ObfuscationRecord, Origin, ReleaseAuditRecord
from meninx.core.errors import AuditFinding, DataError, UsageError, expected, problem
from meninx.core.manifest import Manifest
from meninx.core.obfuscation_records import AskedTarget, LabelFloorRecord
from meninx.core.progress import SILENT, Progress
from meninx.core.result import Result
from meninx.learn import runtime
from meninx.obfuscate import asked_targets, dataset_table, released_dataset, sealed_audit, sealed_release
from meninx.obfuscate.audit_words import audit_lines, verdict_line
from meninx.obfuscate.config import AttackSettings, HiddenAttribute, ObfuscateConfig, ReleaseAuditConfig
from meninx.obfuscate.keyed_names import KeyedNames
from meninx.obfuscate.obfuscator import (
    OBFUSCATORS,
    CodedObfuscator,
    ImageTable,
    Values,
    fitting_half,
    stored,
)
from meninx.obfuscate.published_columns import (
    columns_of_release,
    in_order_of,
    known_labels,
    published_columns,
)
from meninx.obfuscate.release_audit import audit_release, foreign_release, strength_of
from meninx.obfuscate.release_question import ReleaseQuestion, attack_rows
from meninx.obfuscate.release_verdict import FAILED, PASSED, verdict_at, verdict_of
from meninx.obfuscate.released_dataset import Release, fit_method

PLACE = "release_audit"
"""Folder of the record of a release that meninx did not make, without another one."""
ONE_RELEASE = (
    "average of several releases, attack on a code, certificate: another program made the release, of which "
    "one is here"
)


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
    last = record.asked[-1] if record.asked else None
    missed = last is not None and last.target and last.verdict != PASSED
    if record.verdict == FAILED or (record.target and record.verdict != PASSED) or missed:
        raise AuditFinding(problem(verdict_line(record), where="release audit"))


def refuse_unanswerable(config: ObfuscateConfig, source: Manifest, table: ImageTable) -> None:
    """Refuse a dataset with too few patients for the attackers, before anything is fitted.

    Raises:
        DataError: as ``attack_rows``.
    """
    attack_rows(question_of(config, config.release_audit, table, synthetic=source.info.synthetic))


def audit_own(work: Release, released: Manifest, progress: Progress) -> ReleaseAuditRecord:
    """Attack a published release, and write ``release_audit.json`` into its folder.

    Args:
        work: the release, with its method.
        released: the published dataset.
        progress: shows the attackers.

    Raises:
        DataError: see ``audit_release``.
    """
    config = work.config
    question = question_of(
        config, config.release_audit, work.table, floor=work.floor, synthetic=work.source.info.synthetic
    )
    question = replace(with_method(question, work, released), published=work.published.names)
    return _finished(question, released.root, released.root, progress)


def audit_existing(
    config: ReleaseAuditConfig,
    original: Path,
    release: Path,
    out: Path | None = None,
    *,
    progress: Progress = SILENT,
) -> ReleaseAuditResult:
    """Attack a released dataset, whoever made it, and write ``release_audit.json``.

    A release of meninx whose private room is there has to be as it was written, and a release of this very
    original. Its method is fitted again from its settings and its key, so that everything is measured
    that `meninx obfuscate` measures, and the audit is entered into its history of targets wherever the record
    goes. Images of another release are matched by case. What its ``obfuscation.json`` says is its own
    statement, which leaves out no attacker; what cannot be measured of it is named in the record.

    Args:
        config: the settings; classes, labels and target of an own release are those that it was made with.
        original: prepared dataset of the original images.
        release: dataset with the same cases, patients and splits, and changed images.
        out: folder of the record; by default the release where meninx made it, else ``release_audit``.
        progress: shows the attackers.

    Raises:
        UsageError: the original has no such attribute, there is a record, the release was made to hide
            something else, or the attack is weaker than the one that is recorded.
        DataError: the two do not belong together, or a patient or an image is in two splits.
    """
    source, released = Manifest.read(original), Manifest.read(release)
    dataset_table.refuse_unfit(source.info)
    made = artifacts.read(release, ObfuscationRecord)
    if made is not None:
        sealed_release.refuse_damaged(release, made, released.info, progress)
    key = _key_of(release, made, source)
    place = out or (release if key else Path(PLACE))
    if made is not None:
        config = _as_made(config, made, apart=place.resolve() != release.resolve())
    earlier = _earlier(place, config, (original, *(() if place == release else (release,))))
    released = _under_names_of(source, released, made, key)
    images = dataset_table.read_images(source, progress)
    question = _about_release(config, source, released, images, progress)
    values = foreign_release(question.original, _released_table(released, progress))
    refitted = _refitted(made, key, source, values, images, progress) if made is not None and key else None
    if refitted is not None:
        question = with_method(question, refitted, released)
    else:
        _refuse_idle_draws(config.attacks, "one release is there to attack")
        question = _of_published(question, made, key, source, released, values)
    if earlier is not None:
        _refuse_weaker(question, earlier)
    before = earlier.asked if earlier is not None else ()
    record = _finished(question, place, release, progress, known=before, stated="" if key else _stated(made))
    return ReleaseAuditResult(out=place, record=record)


def question_of(
    config: HiddenAttribute,
    attacks: AttackSettings,
    table: ImageTable,
    *,
    floor: LabelFloorRecord | None = None,
    synthetic: bool = False,
) -> ReleaseQuestion:
    """Return what is asked of every release alike, with the originals in place of what is released.

    Args:
        config: the attribute, seed and device.
        attacks: how it is attacked.
        table: the original images or features.
        floor: the label floor.
        synthetic: no patient stands behind them.
    """
    nothing = Origin(run="", data="")
    return ReleaseQuestion(
        original=table,
        draws=lambda number: table.values,
        attribute=config.attribute,
        source=nothing,
        released=nothing,
        attacks=attacks,
        seed=config.seed,
        device=str(runtime.device(config.device)),
        synthetic=synthetic,
        floor=floor,
    )


def with_method(question: ReleaseQuestion, work: Release, released: Manifest) -> ReleaseQuestion:
    """Return a question about a release whose method is there: its draws, codes and certificates.

    Args:
        question: of :func:`question_of`; it may be about another attribute than the hidden one.
        work: the release, with its method.
        released: the published dataset.
    """
    config, table, fitted = work.config, work.table, work.fitted
    method = OBFUSCATORS[config.method]
    question = replace(
        question,
        draws=lambda number: stored(fitted.release(table, draw=number)) if number else work.values,
        fitted=fitting_half(table, seed=config.seed) if method.learned else None,
        method=config.method,
        method_summary=method.summary,
        caveat=method.caveat,
        deterministic=config.deterministic,
        source=released_dataset.origin(work.key, work.source, deterministic=config.deterministic),
        released=released_dataset.origin(work.key, released, deterministic=config.deterministic),
    )
    if not isinstance(fitted, CodedObfuscator):
        return question
    question = replace(question, codes=fitted.codes(table))
    if question.attribute != config.attribute:
        return question
    found = fitted.certificates(table, config.attribute, target=question.attacks.target)
    return replace(question, certificates=found)


def finished(found: ReleaseAuditRecord, earlier: Sequence[AskedTarget] = ()) -> ReleaseAuditRecord:
    """Return a record that knows which targets were asked for before, and is judged by the first one.

    Args:
        found: a new audit, or the earlier one with another target.
        earlier: targets that were asked of the same release about the same classes, the first one first.
    """
    made = found.released.made
    asked = AskedTarget(
        target=found.target, verdict=verdict_at(found, found.target), seed=found.seed, made=made
    )
    history = (*earlier, asked)
    found = replace(found, asked=history, target=history[0].target)
    verdict, reason = verdict_of(found)
    return replace(found, verdict=verdict, reason=reason)


def with_target(there: ReleaseAuditRecord, target: float, root: Path) -> ReleaseAuditRecord:
    """Return a finished audit with another target entered behind the first one, and write it."""
    return entered(replace(there, target=target, asked=()), root, root, known=there.asked)


def entered(
    found: ReleaseAuditRecord, place: Path, release: Path, *, known: Sequence[AskedTarget] = ()
) -> ReleaseAuditRecord:
    """Return a finished audit after it was entered into the history of its release, and written.

    Args:
        found: the audit with the target that is asked for.
        place: folder of the record.
        release: the release.
        known: targets of an earlier record in ``place``, which stand for the history where the private room
            of the release is not here.

    Raises:
        DataError: the history was changed.
    """
    sealed = sealed_release.is_sealed(release)
    with workspace.audit_locked(release) if sealed else nullcontext():
        past = [line.asked for line in asked_targets.history(release) if line.is_about(found)]
        record = finished(replace(found, earlier_unknown=not sealed), past if sealed else known)
        asked_targets.enter(release, record, elsewhere=place.resolve() != release.resolve())
        sealed_audit.write(place, record)
    return record


def _finished(
    question: ReleaseQuestion,
    place: Path,
    release: Path,
    progress: Progress,
    *,
    known: Sequence[AskedTarget] = (),
    stated: str = "",
) -> ReleaseAuditRecord:
    """Attack, enter target and digests, write the record, and return it."""
    found = audit_release(question, progress=progress)
    made = release / sealed_release.RECORD
    found = replace(
        found,
        checksums=integrity.digest_of(release),
        obfuscation=files.digest(made) if made.is_file() else "",
        stated=stated,
    )
    return entered(found, place, release, known=known)


def _stated(made: ObfuscationRecord | None) -> str:
    """Return what somebody's release says of itself, on one line and of limited length."""
    return sealed_release.stated(made.sentence()) if made is not None else ""


def _under_names_of(
    source: Manifest, released: Manifest, made: ObfuscationRecord | None, key: bytes
) -> Manifest:
    """Return a release under the names of its source.

    Raises:
        DataError: the key does not give its names, or it has keyed names and the key is not here.
    """
    if made is None or not made.keyed_names:
        return released
    if key:
        return KeyedNames.of(source.cases, key).of_source(released)
    if {case.case_id for case in released.cases} == {case.case_id for case in source.cases}:
        return released
    what = "cases and patients of the release have names that only its private room translates"
    fix = "audit the folder that `meninx obfuscate` wrote, with private/"
    raise DataError(problem(what, where=sealed_release.RECORD, fix=fix))


def _as_made(config: ReleaseAuditConfig, made: ObfuscationRecord, *, apart: bool) -> ReleaseAuditConfig:
    """Return the settings with classes and labels of a release of meninx, where it hides the same attribute.

    Args:
        config: the settings.
        made: how the release was made.
        apart: the record goes to another folder, where another question may be asked.

    Raises:
        UsageError: another question is asked, whose record would stand for the release's own.
    """
    bins = _bins_of(made)
    asked = (
        ("attribute", config.attribute, made.attribute),
        ("age_bins", config.age_bins or bins, bins),
        ("labels", sorted(config.labels or made.utility), sorted(made.utility)),
    )
    other = [name for name, mine, theirs in asked if mine != theirs]
    if other and not apart:
        what = f"the release was made with another {other[0]}"
        fix = f"leave {other[0]} out, or give --out for the answer to another question"
        raise UsageError(problem(what, where=other[0], fix=fix))
    if config.attribute != made.attribute:
        return config
    return config.replace(
        age_bins=config.age_bins or (bins if "age" in config.attributes else ()),
        labels=config.labels or made.utility,
    )


def _bins_of(made: ObfuscationRecord) -> tuple[float, ...]:
    """Return the age groups of a release, whose record anybody may have written.

    Raises:
        DataError: they are no numbers.
    """
    values = made.settings.get("age_bins", [])
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise DataError(problem("age_bins are no numbers", where=artifacts.place(ObfuscationRecord)))
    return tuple(float(value) for value in values)


def _about_release(
    config: ReleaseAuditConfig, source: Manifest, released: Manifest, images: Values, progress: Progress
) -> ReleaseQuestion:
    """Return what is asked of a release, with the originals."""
    released = in_order_of(source, released)
    published = columns_of_release(released, source)
    private = dataset_table.attribute_classes(source, config.attributes, config.bins)
    table = dataset_table.read_table(source, private, published, images, released)
    table = dataset_table.with_utility(table, known_labels(released.info, config.labels))
    floor = dataset_table.measured_floor(source, private, published, config.seed, released)
    progress.note(f"label floor: {floor.sentence or floor.refusal}")
    question = question_of(config, config.attacks, table, floor=floor, synthetic=source.info.synthetic)
    return replace(question, deterministic=config.deterministic, published=published.names)


def _of_published(
    question: ReleaseQuestion,
    made: ObfuscationRecord | None,
    key: bytes,
    source: Manifest,
    released: Manifest,
    values: Values,
) -> ReleaseQuestion:
    """Return a question about published images alone, which names what cannot be measured of them.

    Only a sealed record is believed. Any other one could leave out attackers: by a method that draws nothing,
    or by one that was fitted on half of the patients.
    """
    used = key or randomness.private_bytes(randomness.KEY_BYTES)
    still = question.deterministic
    question = replace(
        question,
        draws=lambda number: values,
        source=released_dataset.origin(used, source, deterministic=still),
        released=released_dataset.origin(used, released, deterministic=still),
        not_measured=(ONE_RELEASE,),
    )
    if made is None or not key:
        return question
    method = OBFUSCATORS.get(made.method)  # type: ignore[call-overload]
    why = "the method, fitted again, gives other images"
    missing = [f"average of several releases: {why}"]
    if method is not None and method.certified:
        missing = [f"attack on the code: {why}", f"certificate: {why}"]
    return replace(
        question, method=made.method, method_summary=made.method_summary, caveat=made.caveat,
        fitted=_fitting_half_of(made, question.original), random=method is None or method.random,
        not_measured=tuple(missing) if method is None or method.random or method.certified else (),
    )  # fmt: skip


def _refitted(
    made: ObfuscationRecord,
    key: bytes,
    source: Manifest,
    values: Values,
    images: Values,
    progress: Progress,
) -> Release | None:
    """Return a release of meninx with its method fitted again; None where that gives other images.

    Args:
        made: how it was made.
        key: of its private room.
        source: the original dataset.
        values: published images, in the order of the original.
        images: original images.
        progress: shows the work.
    """
    config = settings.build(ObfuscateConfig, made.settings, artifacts.place(ObfuscationRecord))
    published = published_columns(source, config)
    private = dataset_table.attribute_classes(source, config.attributes, config.bins)
    table = dataset_table.read_table(source, private, published, images)
    fitted = fit_method(config, table, key, progress)
    again = released_dataset.released_values(fitted, table)
    floor = made.floor or LabelFloorRecord(attribute=made.attribute, refusal="not recorded")
    if not np.array_equal(again, values):
        return None
    return Release(config, source, table, fitted, again, floor, published, key)


def _refuse_idle_draws(attacks: AttackSettings, why: str) -> None:
    """Refuse a number of releases to average where there are not several.

    Raises:
        UsageError: another number than the default is given.
    """
    if attacks.draws != AttackSettings().draws:
        what = f"the setting has no effect: {why}"
        raise UsageError(problem(what, where="draws", fix="leave it out"))


def _refuse_weaker(question: ReleaseQuestion, earlier: ReleaseAuditRecord) -> None:
    """Refuse to replace a record by a weaker attack.

    Raises:
        UsageError: some part of the earlier attack is missing or smaller.
    """
    strength = strength_of(question)
    lost = [text for text in question.not_measured if text not in earlier.not_measured]
    if not lost and not strength.weaker_than(earlier.strength):
        return
    unlike = [f"not measured: {text}" for text in lost] or list(strength.differences(earlier.strength))
    fix = "attack it as hard as before, or give another --out"
    what = f"the recorded attack is stronger ({'; '.join(unlike)})"
    raise UsageError(problem(what, where=sealed_audit.AUDIT, fix=fix))


def _key_of(release: Path, made: ObfuscationRecord | None, source: Manifest) -> bytes:
    """Return the key of a release whose private room is there; empty for any other.

    Raises:
        DataError: it is the release of another dataset.
    """
    key = sealed_release.key_of(release)
    if made is None or not key:
        return b""
    if released_dataset.keyed(key, source.root) != made.source.data:
        fix = "give the dataset that was released, as it was then"
        got = "a release of another dataset"
        raise DataError(expected("a release of this original", got=got, where=release.name, fix=fix))
    return key


def _fitting_half_of(made: ObfuscationRecord, table: ImageTable) -> npt.NDArray[np.bool_] | None:
    """Return which rows a learned method of meninx was fitted on; None where it is not known."""
    method = OBFUSCATORS.get(made.method)  # type: ignore[call-overload]
    if method is None or not method.learned:
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


def _earlier(place: Path, config: ReleaseAuditConfig, sources: tuple[Path, ...]) -> ReleaseAuditRecord | None:
    """Return the record in a folder that is to be replaced; None where there is none.

    Raises:
        UsageError: the folder lies in a source, or the record is not to be replaced.
        DataError: the record was edited, or removed.
    """
    workspace.apart(place, sources)
    if (place / sealed_audit.AUDIT).exists() and not config.overwrite:
        fix = "give --overwrite to attack it again, or another --out"
        raise UsageError(problem("the release was audited before", where=sealed_audit.AUDIT, fix=fix))
    return sealed_audit.earlier(place)
