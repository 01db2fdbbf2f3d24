"""``meninx audit membership``: does a run's model tell who took part in its training?

Members are the patients of the training split, non-members those of the test split. Attacks that compare the
model with reference models (:mod:`meninx.audit.references`) give each patient a score. A positive control has
to be found and a negative control must not be, or the audit says nothing.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from meninx.audit import mechanism
from meninx.audit.audit_files import AuditFiles
from meninx.audit.audited_run import (
    FOLDER,
    UNKNOWN_START,
    alone,
    dataset_of,
    duration_words,
    finished_record,
    origin_of,
    plan_of,
    refuse_other_files,
    seeded,
    strangers_of,
    training_seconds,
)
from meninx.audit.config import MembershipConfig
from meninx.audit.membership_figure import draw
from meninx.audit.membership_findings import (
    ATTACKS,
    LEAST_REFERENCES,
    MAIN_ATTACK,
    is_tested,
    untested,
    verdict_of,
)
from meninx.audit.references import (
    Audited,
    control_signals,
    fresh_signals,
    halves,
    is_trained,
    log_likelihoods,
    reference_signals,
)
from meninx.core import artifacts, files
from meninx.core import run as runs
from meninx.core.artifacts import RunRecord
from meninx.core.audit_records import AttackRecord, MembershipAudit, OperatingPoint
from meninx.core.errors import AuditFinding, DataError, expected, problem
from meninx.core.manifest import Manifest
from meninx.core.percentages import at_most, percent
from meninx.core.progress import SILENT, Progress
from meninx.core.randomness import child
from meninx.core.result import Result
from meninx.core.run import Run
from meninx.learn import checkpoint
from meninx.learn.inference import load_model
from meninx.metrics.attack_success import (
    FPRS,
    LEAST_PATIENTS,
    NON_MEMBERS_TIMES_FPR,
    compared,
    measure_attack,
    measure_groups,
    needed_for,
    operating_point,
)
from meninx.metrics.membership_attacks import (
    Signals,
    dominated_shares,
    lira_scores,
    loss_scores,
    patient_scores,
    rmia_scores,
)
from meninx.metrics.verdict_rule import but
from meninx.privacy.risk import RiskCurve

TABLE = "membership.csv"
FIGURES = ("membership.svg", "membership.png")
FILES = AuditFiles(kind=MembershipAudit, title="an audit of membership", names=(TABLE, *FIGURES))
CACHE, SCORES = "membership", "membership_scores.csv"
_SPLITS = {
    "": "the dataset does not say how they were made",
    "stable": "drawn at random, each patient alone",
    "exact": "drawn at random, with balanced labels",
    "published": "those of the publisher, who need not have drawn them at random",
}
_STUDY = (
    "the model was trained in a study of {} sites, the reference models on the patients of this site alone"
)
_CURVE_POINTS = 25
_MOST_PLANTED = 64
Array = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class MembershipResult(Result):
    """The audit of what a model tells about membership; ``out`` is its record.

    Attributes:
        audit: attacks, controls, bound and verdict; None after a dry run.
        planned: what a dry run found, in sentences; empty otherwise.
    """

    audit: MembershipAudit | None
    planned: tuple[str, ...] = ()

    def summary(self) -> str:
        """Return the audit in words."""
        audit = self.audit
        if audit is None:
            return "\n".join([*self.planned, "dry run: nothing was trained or written"])
        first = audit.attacks[0]
        unit = "patients" if audit.patients_known else "images, each counted as a patient"
        lines = [
            f"out: {self.out}",
            f"members: {first.members} {unit} of the training split",
            f"non-members: {first.others} of the test split",
            f"reference models: {audit.references}, each trained on half of both",
            *([_STUDY.format(audit.sites)] if audit.sites > 1 else []),
            *(line for attack in audit.attacks for line in _attack_lines(attack, audit)),
            *([] if audit.bound_auc is None else [f"the guarantee allows an AUC of {audit.bound_auc:.3f}"]),
            *_untested_lines(audit),
            *_group_lines(audit),
            f"positive control, a model that knows a few patients: {_area_words(audit.positive)}",
            f"negative control, a network trained on nothing: {_area_words(audit.negative)}",
            *_split_lines(audit),
            f"splits: {_SPLITS[audit.split_rule]}",
            *(
                [f"left out: {audit.left_out} patients of the test split, behind the starting weights"]
                if audit.left_out
                else []
            ),
        ]
        return "\n".join([*lines, f"verdict: {verdict_words(audit)}"])

    def alerts(self) -> tuple[str, ...]:
        """Return what limits the audit."""
        if self.audit is None:
            return ()
        found = [
            "a difference between members and non-members shows what the model learned only if the split was "
            "made at random among the patients"
        ]
        return (*found, UNKNOWN_START) if self.audit.unknown_start else tuple(found)

    def raise_if_refuted(self) -> None:
        """Raise AuditFinding when the run exceeds its bound, or a control failed."""
        if self.audit is not None and self.audit.verdict in ("refuted", "void"):
            raise AuditFinding(problem(verdict_words(self.audit), where="meninx audit membership"))


def run_membership(
    config: MembershipConfig,
    folder: Path,
    *,
    out: Path | None = None,
    data: Path | None = None,
    progress: Progress = SILENT,
) -> MembershipResult:
    """Attack a finished run and return what the attacks learn about membership.

    An interrupted audit takes up the reference models that are trained. Scores of single patients are written
    only into the run's ``private/audit/``.

    Args:
        config: number of reference models, seed and significance.
        folder: a finished run of ``meninx train``, private or not.
        out: folder that gets ``audit/`` with record, table and figure; by default the run folder.
        data: the run's dataset, where it is no longer at the recorded place.
        progress: shows steps of the reference models.

    Raises:
        UsageError: no finished run, audited before, ``out`` holds other files, or reference models of
            another seed are there.
        DataError: the dataset is not the one of the run, or has fewer than ten members or non-members.
        Interrupted: stopped by the user; what is trained is saved.
    """
    run, begun = runs.open_run(folder), time.monotonic()
    with alone(run, dry_run=config.dry_run):
        record = finished_record(run)
        refuse_other_files(FILES, out, run, overwrite=config.overwrite)
        audited = _audited(run, config, data)
        members, strangers = frozenset(audited.pool.split("train").patients), strangers_of(run, audited.data)
        others = strangers.patients
        audited = replace(audited, pool=audited.pool.select(lambda case: case.patient_id in members | others))
        _refuse_few(len(members), len(others))
        if config.dry_run:
            planned = _planned(audited, config, record, members, others)
            return MembershipResult(out=out or run.root, audit=None, planned=planned)
        for words in _refused_rates(len(others)):
            progress.note(words)
        audited.make_room()
        included, references = _references(audited, config, members, others, progress)
        people = tuple(case.patient_id for case in audited.pool.cases)

        def attacked(target: Array) -> tuple[tuple[str, ...], dict[str, Array]]:
            return scores_of(Signals(target=target, references=references, included=included), people)

        network, _, _ = load_model(run)
        patients, scores = attacked(log_likelihoods(network, audited.pool, audited.config))
        member = np.array([patient in members for patient in patients])
        progress.note("positive control: a model that is trained on few patients until it knows them")
        planted = _planted(patients, config.seed)
        _, leaked = attacked(control_signals(audited, planted, config.control_steps, progress))
        known = np.array([patient in planted for patient in patients])
        _, fresh = attacked(fresh_signals(audited))
        curve = mechanism.curve_of_patient(run, patients_known=audited.data.info.patients_known, rates=FPRS)
        audit = _judged(
            config, scores, member, curve,
            positive=_measured(MAIN_ATTACK, leaked[MAIN_ATTACK], known, config.seed),
            negative=_measured(MAIN_ATTACK, fresh[MAIN_ATTACK], member, config.seed),
            split_control=split_control(references, included, people, members, config.seed),
            groups=_attributes(audited.pool, patients),
            about=(audited.data, record),
        )  # fmt: skip
        _write_scores(run, patients, member, scores)
        audit = replace(
            audit,
            left_out=strangers.left_out,
            unknown_start=strangers.unknown,
            seconds=0.0 if config.deterministic else time.monotonic() - begun,
        )
        path = _write(out or run.root, audit)
    return MembershipResult(out=path, audit=audit)


def split_control(
    references: Array, included: Bits, people: Sequence[str], members: frozenset[str], seed: int
) -> AttackRecord | None:
    """Return the attack on the reference models in place of the run's model; None with fewer than four.

    Each knows half of the members and half of the others, so it cannot tell the two apart, unless they differ
    in more than membership. Easier members give a larger area or a smaller one, so both count. The score of a
    patient is the mean over the models.

    Args:
        references: what they say about the cases, shape (models, cases); models 2 k and 2 k + 1 are a pair.
        included: which cases they know, of the same shape.
        people: the patient of each case.
        members: patients of the training split.
        seed: of resamples and permutations.
    """
    if len(references) < LEAST_REFERENCES:
        return None
    shares: list[Array] = []
    patients: tuple[str, ...] = ()
    for number, target in enumerate(references):
        rest = np.arange(len(references)) // 2 != number // 2
        signals = Signals(target=target, references=references[rest], included=included[rest])
        patients, scores = scores_of(signals, people)
        shares.append(scores[MAIN_ATTACK])
    member = np.array([patient in members for patient in patients])
    return _measured(MAIN_ATTACK, np.mean(shares, axis=0), member, seed)


def scores_of(signals: Signals, people: Sequence[str]) -> tuple[tuple[str, ...], dict[str, Array]]:
    """Return the patients, and the scores of each by every attack.

    Args:
        signals: of the cases.
        people: the patient of each case.
    """
    patients, loss = patient_scores(loss_scores(signals), people)
    _, lira = patient_scores(lira_scores(signals), people)
    _, ratios = patient_scores(rmia_scores(signals), people)
    return patients, {"loss": loss, "lira": lira, "rmia": dominated_shares(ratios, ratios)}


# the run


def _audited(run: Run, config: MembershipConfig, moved: Path | None = None) -> Audited:
    content = checkpoint.load(run, "last")
    learned = seeded(
        checkpoint.config_of(content).replace(device=config.device, attack_risk=False, tensorboard=False),
        config.seed if config.deterministic else None,
    )
    data = dataset_of(run, moved)
    private = bool(content["plan"])
    return Audited(
        run=run,
        config=learned,
        plan=plan_of(run, learned, content["plan"]) if private else None,
        data=data,
        pool=data.select(lambda case: case.split in ("train", "test")),
        room=run.private / FOLDER / CACHE,
    )


def estimated_seconds(references: int, training: float) -> float:
    """Return about how long an audit takes.

    Args:
        references: models that are not trained yet.
        training: seconds that the run was trained for.
    """
    return 15.0 + 0.8 * training * references


def _planned(
    audited: Audited,
    config: MembershipConfig,
    record: RunRecord,
    members: frozenset[str],
    others: frozenset[str],
) -> tuple[str, ...]:
    """Return what an audit would do, in sentences."""
    chosen = halves(sorted(members), sorted(others), config.references, config.seed)
    known = sum(is_trained(audited, number, patients) for number, patients in enumerate(chosen))
    steps = "its steps and settings" if audited.plan is None else "its steps, settings and noise"
    left, training = len(chosen) - known, training_seconds(record)
    return (
        f"members: {len(members)} patients of the training split",
        f"non-members: {len(others)} of the test split",
        f"reference models: {len(chosen)}, each trained on half of both like the run, with {steps}",
        f"  {known} of them are trained already, {left} would be trained",
        f"positive control: a model that is trained for {config.control_steps} steps on few patients",
        *(f"refused: {words}" for words in _refused_rates(len(others))),
        f"about {duration_words(estimated_seconds(left, training))}, as the training of the run took "
        f"{duration_words(training)}",
    )


def _refused_rates(others: int) -> list[str]:
    """Return the rates that too few non-members cannot give, in words."""
    return [
        f"no rate at {percent(fpr)} false positives: {needed_for(fpr)} non-members needed, {others} there"
        for fpr in FPRS
        if others < needed_for(fpr)
    ]


def _refuse_few(members: int, others: int) -> None:
    """Refuse a dataset that is too small before any model is trained."""
    for count, split in ((members, "train"), (others, "test")):
        if count < LEAST_PATIENTS:
            rule = f"at least {LEAST_PATIENTS} patients in the {split} split"
            fix = "a membership audit compares patients of the training split with those of the test split"
            raise DataError(expected(rule, got=count, where="splits", fix=fix))


def _references(
    audited: Audited,
    config: MembershipConfig,
    members: frozenset[str],
    others: frozenset[str],
    progress: Progress,
) -> tuple[Bits, Array]:
    """Return which cases each reference model knows, and what it says, each of shape (models, cases)."""
    chosen = halves(sorted(members), sorted(others), config.references, config.seed)
    rows = []
    for number, patients in enumerate(chosen):
        progress.note(f"reference model {number + 1} of {len(chosen)}: {len(patients)} patients")
        rows.append(reference_signals(audited, number, patients, progress))
    people = [case.patient_id for case in audited.pool.cases]
    included = np.array([[person in patients for person in people] for patients in chosen])
    return included, np.array(rows)


def _planted(patients: Sequence[str], seed: int) -> frozenset[str]:
    """Return the patients of the positive control: a quarter of all, at least 10 and at most 64."""
    count = max(LEAST_PATIENTS, min(_MOST_PLANTED, len(patients) // 4))
    chosen = child(seed, "planted leak").permutation(len(patients))[:count]
    return frozenset(patients[index] for index in chosen)


def _attributes(pool: Manifest, patients: Sequence[str]) -> dict[str, list[str]]:
    """Return sex, site and the other attributes of each patient: those of its first case."""
    first = {case.patient_id: case for case in reversed(pool.cases)}
    found = {name: [first[one].attributes.get(name, "") for one in patients] for name in pool.info.attributes}
    return found | ({"site": [first[one].site for one in patients]} if pool.sites else {})


# the verdict


def _judged(
    config: MembershipConfig,
    scores: dict[str, Array],
    member: Bits,
    curve: RiskCurve | None,
    *,
    positive: AttackRecord,
    negative: AttackRecord,
    split_control: AttackRecord | None,
    groups: dict[str, list[str]],
    about: tuple[Manifest, RunRecord],
) -> MembershipAudit:
    """Return the audit with its verdict; the attacks share the significance."""
    data, record = about
    each, most = config.significance / len(ATTACKS), _upper(curve)
    attacks = []
    for name in ATTACKS:
        found = _measured(name, scores[name], member, config.seed)
        if curve is not None and most is not None:
            inside, outside = scores[name][member], scores[name][~member]
            found = compared(found, inside, outside, most, curve.auc().upper, significance=each)
        attacks.append(found)
    verdict, reason = verdict_of(attacks, positive, (negative, split_control), config.significance)
    curves, allowed = _curves(scores, member, most)
    return MembershipAudit(
        attacks=tuple(attacks),
        groups=measure_groups(scores[MAIN_ATTACK], member, groups, seed=config.seed),
        negative=negative,
        split_control=split_control,
        positive=positive,
        references=config.references,
        split_rule=data.info.split_rule,
        patients_known=data.info.patients_known,
        bound={f"{fpr:g}": most(fpr) for fpr in FPRS} if most is not None else {},
        bound_auc=curve.auc().upper if curve is not None else None,
        significance=config.significance,
        verdict=verdict,
        reason=reason,
        sites=record.study.sites if record.study is not None else 1,
        origin=origin_of(record, timeless=config.deterministic),
        curves=curves,
        curve_bound=allowed,
    )


def _curves(
    scores: dict[str, Array], member: Bits, most: Callable[[float], float] | None
) -> tuple[dict[str, tuple[OperatingPoint, ...]], tuple[float, ...]]:
    """Return the ROC curve of each attack as far as the non-members allow, and the bound at its rates."""
    axis = np.geomspace(min(0.5, NON_MEMBERS_TIMES_FPR / int((~member).sum())), 0.9, _CURVE_POINTS)
    curves = {
        name: tuple(operating_point(values[member], values[~member], float(fpr)) for fpr in axis)
        for name, values in scores.items()
    }
    return curves, () if most is None else tuple(most(float(fpr)) for fpr in axis)


def _measured(name: str, scores: Array, member: Bits, seed: int) -> AttackRecord:
    return measure_attack(name, scores[member], scores[~member], fprs=FPRS, seed=seed)


def _upper(curve: RiskCurve | None) -> Callable[[float], float] | None:
    return None if curve is None else lambda fpr: curve.tpr(fpr).upper


def verdict_words(audit: MembershipAudit) -> str:
    """Return the verdict as a sentence."""
    if audit.verdict == "void":
        return f"VOID: {audit.reason}"
    if audit.verdict == "refuted":
        found = ", ".join(attack.attack for attack in audit.attacks if attack.excess)
        return f"REFUTED: {found} finds more members than the guarantee allows{but(audit.reason)}"
    if audit.verdict == "exposed":
        sure = audit.significance / len(audit.attacks)
        found = ", ".join(attack.attack for attack in audit.attacks if attack.p_value <= sure)
        return f"EXPOSED: {found} tells members from non-members better than chance{but(audit.reason)}"
    return "nothing found by these attacks; another attack may find more"


def _untested_lines(audit: MembershipAudit) -> list[str]:
    if audit.bound_auc is None or all(map(is_tested, audit.attacks)):
        return []
    return [f"the guarantee {untested(audit.attacks[0])}"]


def _split_lines(audit: MembershipAudit) -> list[str]:
    if audit.split_control is None:
        return []
    return [f"negative control, models that know half of both splits: {_area_words(audit.split_control)}"]


def _attack_lines(attack: AttackRecord, audit: MembershipAudit) -> list[str]:
    lines = [f"attack {attack.attack}: {_area_words(attack)}"]
    for point in attack.points:
        words = point.refusal and f"refused ({point.refusal})"
        if point.tpr is not None and point.low is not None and point.high is not None:
            words = f"{percent(point.tpr)} ({percent(point.low)} to {percent(point.high)})"
        allowed = audit.bound.get(f"{point.fpr:g}")
        limit = "" if allowed is None else f"; the guarantee allows {at_most(allowed)}"
        lines.append(f"  members found at {percent(point.fpr)} false positives: {words}{limit}")
    return lines


def _area_words(attack: AttackRecord) -> str:
    return (
        f"AUC {attack.auc:.3f} ({attack.auc_low:.3f} to {attack.auc_high:.3f}), "
        f"by chance {attack.null_low:.3f} to {attack.null_high:.3f}, p {attack.p_value:.3g}"
    )


def _group_lines(audit: MembershipAudit) -> list[str]:
    lines = []
    for group in audit.groups:
        words = f"refused ({group.refusal})"
        if group.auc is not None and group.auc_low is not None and group.auc_high is not None:
            counts = f"{group.members} members, {group.others} non-members"
            words = f"AUC {group.auc:.3f} ({group.auc_low:.3f} to {group.auc_high:.3f}), {counts}"
        lines.append(f"  {group.attribute} {group.group}: {words}")
    return [f"by group, attack {MAIN_ATTACK}:", *lines] if lines else []


# files


def _write(root: Path, audit: MembershipAudit) -> Path:
    """Write table and figure, and at the end the record that says that all is there."""
    place = root / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    curves, bound = audit.curves, audit.curve_bound or None
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["attack", "fpr", "fpr_high", "tpr", "tpr_low", "tpr_high", "bound"])
    for name, points in curves.items():
        for number, point in enumerate(points):
            limit = None if bound is None else bound[number]
            writer.writerow([name, point.fpr, point.fpr_high, point.tpr, point.low, point.high, limit])
    with FILES.writing(place):
        files.write_text(place / TABLE, buffer.getvalue())
        draw(audit, curves, bound, *(place / name for name in FIGURES))
        return artifacts.write(root, audit)


def _write_scores(run: Run, patients: Sequence[str], member: Bits, scores: dict[str, Array]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["patient_id", "member", *scores])
    for number, patient in enumerate(patients):
        writer.writerow(
            [patient, int(member[number]), *(float(values[number]) for values in scores.values())]
        )
    path = run.private / FOLDER / SCORES
    files.write_text(path, buffer.getvalue(), mode=files.PRIVATE_MODE)
