"""Attacks a release and returns what was found: ``audit_release(question) -> ReleaseAuditRecord``.

Every attacker is retrained on released images and chosen on the validation split. The test split is read
once. The audit is void where the same attackers cannot find the attribute in the original images, or where
they find it in images that show nothing. ::

    question = ReleaseQuestion(original=table, draws=lambda number: released[number], attribute="sex",
                               source=origin, released=origin, target=0.6)
    record = audit_release(question)
    print(record.worst, record.worst_attacker.auroc, record.verdict)

A release of another program is audited in the same way: :func:`foreign_release` matches it by case.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from meninx.core.errors import DataError, expected
from meninx.core.obfuscation_records import (
    AttackerRecord,
    DistortionRecord,
    NullRecord,
    ReleaseAuditRecord,
)
from meninx.core.progress import SILENT, Progress
from meninx.core.progress import task as progress_task
from meninx.core.randomness import child_seed
from meninx.learn.release_attackers import families_of
from meninx.metrics.image_matching import paired_similarity
from meninx.metrics.vector_attacks import VECTOR_ATTACKS
from meninx.obfuscate.attack_measurement import Judge, measure_null
from meninx.obfuscate.label_attacks import attack_codes, attack_with_labels
from meninx.obfuscate.obfuscator import ImageTable, Values
from meninx.obfuscate.release_attacks import Attack, Attempt, ReleaseAttacks, average_name
from meninx.obfuscate.release_linkage import measure_reidentification
from meninx.obfuscate.release_question import (
    AttackRows,
    DrawCache,
    ReleaseQuestion,
    attack_rows,
    one_row_per_patient,
    patient_means,
    refuse_divided,
)
from meninx.obfuscate.release_utility import measure_utility
from meninx.obfuscate.release_verdict import MEASURED, verdict_of


def audit_release(question: ReleaseQuestion, *, progress: Progress = SILENT) -> ReleaseAuditRecord:
    """Return what retrained attackers find in a release, with its controls.

    Args:
        question: the release and what is asked.
        progress: shows the attackers.

    Raises:
        DataError: a patient or an image is in two splits, values are not finite or of another shape, or too
            few patients have the attribute.
    """
    begin = time.perf_counter()
    rows = attack_rows(question)
    draws = DrawCache(question.draws, question.original.values.shape)
    refuse_divided(question, draws(0))
    judge = Judge(rows, seed=child_seed(question.seed, "resampled patients"))
    attacks = ReleaseAttacks(question, draws, rows, progress)
    subject = f"original {question.subject}"
    clean = attacks.fitted(lambda number: question.original.values, subject)
    originals = [
        Attempt(name, subject, attack(question.original.values), seconds, retrained=False)
        for name, (attack, seconds) in clean.items()
    ]
    of_originals = {attempt.name: judge.of(attempt) for attempt in originals}
    static = [
        judge.of(replace(attempt, margins=clean[attempt.name][0](draws(0))), of_originals[attempt.name])
        for attempt in originals
    ]
    tried = _retrained(attacks, clean, judge)
    records = [judge.of(attempt, of_originals.get(attempt.name)) for attempt in tried]
    if question.draws_to_average > 1 and draws.constant:
        records.append(_not_averaged(question.draws_to_average))
    worst = judge.best(tried)
    with progress_task(progress, "utility", None):
        losses, leaks = measure_utility(question, draws, rows)
    found = ReleaseAuditRecord(
        attribute=question.attribute, method=question.method, method_summary=question.method_summary,
        caveat=question.caveat, worst=worst.name, target=question.target, attackers=tuple(records),
        static=tuple(static), output_leaks=leaks, code_attack=attack_codes(question, rows, judge),
        floor=question.floor, certificates=question.certificates, utility=losses,
        reidentification=measure_reidentification(question, draws),
        distortion=distortion(question.original, draws(0)),
        divided=bool(question.fitted is not None and question.fitted.any()),
        splits=_patients(question), deterministic=question.deterministic, synthetic=question.synthetic,
        seed=question.seed, seconds=0.0, verdict=MEASURED, reason="", source=question.source,
        released=question.released, with_labels=attack_with_labels(question, draws(0), rows, judge),
        every_question=judge.every(worst), per_patient=_per_patient(question, rows, tried),
        clean=of_originals[judge.best(originals).name], clean_floor=question.clean_floor,
        control=_control(attacks, judge), null=_null(attacks, draws(0), progress), subject=question.subject,
    )  # fmt: skip
    verdict, reason = verdict_of(found)
    found = replace(found, verdict=verdict, reason=reason, seconds=time.perf_counter() - begin)
    return _without_times(found) if question.deterministic else found


def distortion(original: ImageTable, released: Values) -> DistortionRecord | None:
    """Return how much released images differ from the originals; None for features."""
    if original.values.ndim != 4:
        return None
    test, train = (np.flatnonzero(original.where(name)) for name in ("test", "train"))
    before, after = original.values[test], released[test]
    change = np.abs(after.astype(np.float64) - before)
    learned = np.abs(released[train].astype(np.float64) - original.values[train])
    return DistortionRecord(
        l1=float(change.mean()),
        linf=float(change.max()),
        ssim=float(paired_similarity("ssim", before, after).mean()),
        train_l1=float(learned.mean()),
        images=len(test),
    )


def foreign_release(original: ImageTable, released: ImageTable) -> Values:
    """Return the released values in the order of the originals, matched by case.

    Raises:
        DataError: they do not belong together: other cases, other patients or splits of a case, or another
            shape.
    """
    place = {case: row for row, case in enumerate(released.cases)}
    if set(place) != set(original.cases):
        missing, more = len(set(original.cases) - set(place)), len(set(place) - set(original.cases))
        got = f"{missing} that are missing and {more} others"
        fix = "give the original that was released, and all of its images"
        raise DataError(expected("a release of the same cases", got=got, where="case_id", fix=fix))
    order = np.array([place[case] for case in original.cases], dtype=np.int64)
    for what in ("patients", "split"):
        theirs, ours = getattr(released, what), getattr(original, what)
        other = sum(theirs[row] != own for row, own in zip(order.tolist(), ours, strict=True))
        if other:
            got = f"{other} cases with another one"
            raise DataError(expected(f"the same {what} as in the original", got=got, where="manifest.csv"))
    if released.values.shape[1:] != original.values.shape[1:]:
        got = f"{released.values.shape[1:]} and {original.values.shape[1:]}"
        raise DataError(expected("images of one size", got=got, where="released images"))
    return np.ascontiguousarray(released.values[order])


def _retrained(
    attacks: ReleaseAttacks, clean: Mapping[str, tuple[Attack, float]], judge: Judge
) -> list[Attempt]:
    """Return what every retrained attacker says, of purifiers and averages the best ones."""
    tried = list(attacks.of_release())
    with progress_task(attacks.progress, "purifier and averages", None):
        tried.append(judge.best(attacks.purified(clean).values()))
        averages = attacks.averages()
    return [*tried, judge.best(averages.values())] if averages else tried


def _per_patient(
    question: ReleaseQuestion, rows: AttackRows, tried: Sequence[Attempt]
) -> AttackerRecord | None:
    """Return the best attacker that knows which images are of one patient; None where nobody has several."""
    if len(np.unique(rows.patient[rows.test])) == len(rows.test):
        return None
    judge = Judge(one_row_per_patient(rows), seed=child_seed(question.seed, "resampled patients"))
    pooled = [
        replace(attempt, margins=patient_means(attempt.margins, rows.patient))
        for attempt in tried
        if attempt.margins is not None
    ]
    return judge.of(judge.best(pooled))


def _control(attacks: ReleaseAttacks, judge: Judge) -> AttackerRecord:
    """Return the best attacker of images that show nothing: all alike."""
    values = np.full(attacks.draws.shape, 0.5, dtype=np.float32)
    name = f"constant {attacks.question.subject}"
    tried = [
        Attempt(name, f"{name}, by {kind}", attacks.vector(kind, values)(values)) for kind in VECTOR_ATTACKS
    ]
    return judge.of(judge.best(tried))


def _null(attacks: ReleaseAttacks, released: Values, progress: Progress) -> NullRecord | None:
    question, rows = attacks.question, attacks.rows
    if not question.permutations:
        return None
    family = families_of(released.ndim)[0]
    with progress_task(progress, "permuted attributes", None):
        return measure_null(
            released, rows, permutations=question.permutations, seed=child_seed(question.seed, "null"),
            network=lambda kinds: attacks.network(family, attacks.draws, kinds)(released),
        )  # fmt: skip


def _not_averaged(count: int) -> AttackerRecord:
    why = "every draw gives the same, so the average tells nothing more"
    return AttackerRecord(name=average_name(count), refusal=why)


def _patients(question: ReleaseQuestion) -> dict[str, int]:
    """Return the patients of the method, of the attackers, and of the other two splits."""
    table = question.original
    fitted = np.zeros(len(table), dtype=bool) if question.fitted is None else question.fitted
    masks = {
        "fit": fitted,
        "attack": table.where("train") & ~fitted,
        "valid": table.where("valid"),
        "test": table.where("test"),
    }
    return {name: len({table.patients[row] for row in np.flatnonzero(mask)}) for name, mask in masks.items()}


def _without_times(found: ReleaseAuditRecord) -> ReleaseAuditRecord:
    """Return the record without the time that anything took, which differs between two runs."""

    def still(items: Sequence[AttackerRecord]) -> tuple[AttackerRecord, ...]:
        return tuple(replace(item, seconds=0.0) for item in items)

    return replace(
        found, seconds=0.0, attackers=still(found.attackers), static=still(found.static),
        every_question=still(found.every_question), output_leaks=still(found.output_leaks),
        with_labels=still(found.with_labels),
        code_attack=None if found.code_attack is None else replace(found.code_attack, seconds=0.0),
        per_patient=None if found.per_patient is None else replace(found.per_patient, seconds=0.0),
        clean=None if found.clean is None else replace(found.clean, seconds=0.0),
        control=None if found.control is None else replace(found.control, seconds=0.0),
    )  # fmt: skip
