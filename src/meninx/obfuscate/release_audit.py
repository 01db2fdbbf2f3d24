"""Attacks a release and returns what was found: ``audit_release(question) -> ReleaseAuditRecord``.

Every attacker is retrained on released images and chosen on the validation split. The test split is read
once. The audit is void where the same attackers cannot find the attribute in the original images, or where
they find it in images that show nothing. ::

    question = ReleaseQuestion(original=table, draws=lambda number: released[number], attribute="sex",
                               source=origin, released=origin, attacks=AttackSettings(target=0.6))
    record = audit_release(question)
    print(record.chosen, record.highest_attacker.auroc, record.verdict)

A release of another program is audited in the same way: :func:`foreign_release` matches it by case.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from meninx.core.errors import DataError, expected
from meninx.core.obfuscation_records import (
    AttackerRecord,
    AttackStrength,
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
from meninx.obfuscate.config import AttackSettings
from meninx.obfuscate.label_attacks import attack_codes, attack_columns, attack_with_columns
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
from meninx.obfuscate.release_verdict import MEASURED, chosen_of, verdict_of


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
    groups = _retrained(attacks, clean)
    tried = [attempt for group in groups for attempt in group]
    records = [
        record for group in groups for record in judge.variants(group, of_originals.get(group[0].name))
    ]
    chosen = chosen_of(records) if judge.may_choose else ""
    pooled = _PatientJudge(question, rows)
    with progress_task(progress, "utility", None):
        losses, leaks = measure_utility(question, draws, rows)
    found = ReleaseAuditRecord(
        attribute=question.attribute, classes=rows.names, labels=tuple(question.original.labels),
        published=question.published or tuple(question.original.labels), strength=strength_of(question),
        method=question.method, method_summary=question.method_summary, caveat=question.caveat,
        chosen=chosen, validation=judge.validation, target=question.attacks.target,
        attackers=(*records, *_not_averaged(question, draws)), static=tuple(static), output_leaks=leaks,
        code_attacks=attack_codes(question, rows, judge),
        floor=question.floor, certificates=question.certificates, utility=losses,
        reidentification=measure_reidentification(question, draws),
        distortion=distortion(question.original, draws(0)),
        divided=bool(question.fitted is not None and question.fitted.any()),
        splits=_patients(question), deterministic=question.deterministic, synthetic=question.synthetic,
        seed=question.seed, seconds=0.0, verdict=MEASURED, reason="", source=question.source,
        released=question.released, columns=attack_columns(question, rows, judge),
        with_columns=attack_with_columns(question, draws(0), rows, judge),
        every_question=judge.every(_asked_further(judge, tried, chosen)),
        per_patient=pooled.of(tried), not_measured=question.not_measured,
        unaveraged=_unaveraged(question, draws), clean=of_originals[judge.best(originals).name],
        clean_floor=question.clean_floor, clean_high=_limit(of_originals.values(), pooled.of(originals)),
        control=_control(attacks, judge), null=_null(attacks, draws(0), progress), subject=question.subject,
    )  # fmt: skip
    verdict, reason = verdict_of(found)
    found = replace(found, verdict=verdict, reason=reason, seconds=time.perf_counter() - begin)
    return _without_times(found) if question.deterministic else found


def strength_of(question: ReleaseQuestion) -> AttackStrength:
    """Return how hard a release is attacked."""
    return strength(question.attacks, question.original.values.ndim)


def strength(asked: AttackSettings, axes: int) -> AttackStrength:
    """Return how hard images (4 axes) or features (2) are attacked with some settings."""
    return AttackStrength(
        epochs=asked.attack_epochs,
        draws=asked.draws,
        permutations=asked.permutations,
        networks=families_of(axes),
    )


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


def _retrained(attacks: ReleaseAttacks, clean: Mapping[str, tuple[Attack, float]]) -> list[Sequence[Attempt]]:
    """Return what every retrained attacker says, the variants of an attacker together."""
    groups: list[Sequence[Attempt]] = [(attempt,) for attempt in attacks.of_release()]
    with progress_task(attacks.progress, "purifier and averages", None):
        groups.append(tuple(attacks.purified(clean).values()))
        averages = tuple(attacks.averages().values())
    return [*groups, averages] if averages else groups


def _asked_further(judge: Judge, tried: Sequence[Attempt], chosen: str) -> Attempt:
    """Return the chosen attacker, or the highest one where none is chosen."""
    same = [attempt for attempt in tried if attempt.name == chosen]
    return judge.best(same or tried)


class _PatientJudge:
    """Measures attackers that know which images are of one patient."""

    def __init__(self, question: ReleaseQuestion, rows: AttackRows) -> None:
        self.rows = rows
        several = len(np.unique(rows.patient[rows.test])) < len(rows.test)
        seed = child_seed(question.seed, "resampled patients")
        self.judge = Judge(one_row_per_patient(rows), seed=seed) if several else None

    def of(self, tried: Sequence[Attempt]) -> tuple[AttackerRecord, ...]:
        """Return the chosen attacker and the one with the largest limit; none where nobody has several."""
        if self.judge is None:
            return ()
        pooled = [
            replace(
                attempt,
                name=f"{attempt.name}, all images of a patient",
                margins=patient_means(attempt.margins, self.rows.patient),
            )
            for attempt in tried
            if attempt.margins is not None
        ]
        return self.judge.variants(pooled)


def _limit(*groups: Iterable[AttackerRecord]) -> float | None:
    highs = [item.high for group in groups for item in group if item.high is not None]
    return max(highs, default=None)


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
    if not question.attacks.permutations:
        return None
    family = families_of(released.ndim)[0]
    permutations, seed = question.attacks.permutations, child_seed(question.seed, "null")
    with progress_task(progress, "permuted attributes", None):
        return measure_null(
            released, rows, permutations=permutations, seed=seed,
            network=lambda kinds: attacks.network(family, attacks.draws, kinds)(released),
        )  # fmt: skip


def _unaveraged(question: ReleaseQuestion, draws: DrawCache) -> bool:
    """Return whether a method draws at random without an attacker that averages several releases."""
    if draws.constant:
        return question.random
    return question.attacks.draws < 2


def _not_averaged(question: ReleaseQuestion, draws: DrawCache) -> tuple[AttackerRecord, ...]:
    """Return the row of the average of several releases where there is nothing to average."""
    if question.attacks.draws < 2 or not draws.constant or question.not_measured:
        return ()
    why = "every draw gives the same, so the average tells nothing more"
    return (AttackerRecord(name=average_name(question.attacks.draws), refusal=why),)


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
        columns=still(found.columns), with_columns=still(found.with_columns),
        code_attacks=still(found.code_attacks), per_patient=still(found.per_patient),
        clean=None if found.clean is None else replace(found.clean, seconds=0.0),
        control=None if found.control is None else replace(found.control, seconds=0.0),
    )  # fmt: skip
