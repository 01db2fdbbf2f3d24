"""Facts about the guarantee, computed from the ledgers in the dossier, and about the choice among runs."""

from __future__ import annotations

import math
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from meninx.core import artifacts
from meninx.core.artifacts import EvaluationRecord, PrivacyRecord, RunRecord, SweepRecord
from meninx.core.budget import PrivacySpent
from meninx.core.dossier_records import Candidate, DossierPart, SelectionRecord
from meninx.core.errors import DataError, problem
from meninx.dossier.facts import RUN, RUNS, SELECTION, EvidenceFolder, FactList
from meninx.metrics.estimates import Evaluation
from meninx.report import privacy_account
from meninx.report.privacy_account import RunAccount

PRIVACY, RUN_RECORD = f"{RUN}/privacy.json", f"{RUN}/run.json"
if TYPE_CHECKING:
    from meninx.privacy.ledger import Ledger

LEDGER, EARLIER = "ledger.jsonl", "earlier"
"""A run's own ledger in its folder, and the folder of those of earlier runs that count."""
SWEEPS = "sweep-*.json"  # records of the sweeps whose runs were given
_RUN = re.compile(r"[0-9a-f]{32}")
WITHOUT = "the run was trained without differential privacy: nothing is promised"
SEEDED = "the noise came from a seed: whoever knows it can subtract the noise, and no bound holds"


def selection_of(evidence: EvidenceFolder) -> SelectionRecord:
    """Return which runs were given and which was chosen."""
    record = artifacts.require(evidence.root, SelectionRecord, fix="ask for the whole dossier")
    names = {item.run for item in record.candidates}
    known = all(_RUN.fullmatch(item.run) and item.folder == folder_of(item.run) for item in record.candidates)
    known = known and len({item.folder for item in record.candidates}) == len(record.candidates)
    grouped = all(name in names for group in record.groups for name in group)
    if record.chosen not in names or not known or not grouped or len(record.groups) != len(record.assumed):
        raise DataError(problem("the runs that were given contradict each other", where=SELECTION))
    return record


def candidate_of(evidence: EvidenceFolder) -> Candidate:
    """Return the run whose model is to be released."""
    selection = selection_of(evidence)
    return next(item for item in selection.candidates if item.run == selection.chosen)


def own_ledger(candidate: Candidate) -> str:
    """Return the path of a run's ledger in the dossier."""
    return f"{candidate.folder}/{LEDGER}"


def account(evidence: EvidenceFolder, candidate: Candidate) -> RunAccount:
    """Return what a private run spent, from its ledger and those of the earlier runs that count.

    Raises:
        PrivacyRefusal: a ledger was changed.
    """
    texts = {candidate.run: evidence.text(own_ledger(candidate))}
    for path in evidence.below(candidate.folder, f"{EARLIER}/*.jsonl"):
        texts[PurePosixPath(path).stem] = evidence.text(path)
    ledger = ledger_of(evidence, candidate)
    spent = ledger.spent() if ledger.accounts else None
    total = spent
    if spent is not None and len(texts) > 1:
        total, _ = privacy_account.together(list(texts.values()), spent.delta)
    return RunAccount(texts=texts, exact=True, own=spent, spent=total)


def ledger_of(evidence: EvidenceFolder, candidate: Candidate) -> Ledger:
    """Return a run's own ledger.

    Raises:
        PrivacyRefusal: it was changed.
    """
    path = own_ledger(candidate)
    return privacy_account.parsed(evidence.text(path), path)


def guarantee(evidence: EvidenceFolder) -> DossierPart:
    """Return what the run promises, with what is needed to compute epsilon again."""
    found = FactList(evidence, "guarantee", "Guarantee of the run, from its ledger")
    candidate = candidate_of(evidence)
    run = artifacts.require(evidence.run.root, RunRecord, fix="ask for the whole dossier")
    found.add("private", "trained with differential privacy", run.private, RUN_RECORD)
    found.add("seeded", "noise came from a seed", run.deterministic, RUN_RECORD)
    if not candidate.private:
        for key in ("epsilon", "delta", "unit", "noise_multiplier", "sample_rate", "steps"):
            found.unknown(key, key.replace("_", " "), WITHOUT)
        return found.part()
    spent, path = account(evidence, candidate), own_ledger(candidate)
    if spent.own is None or spent.spent is None:
        found.unknown("epsilon", "epsilon", "the ledger names no step")
        return found.part()
    _mechanism(found, spent.own, spent.spent, path, candidate)
    ledger = ledger_of(evidence, candidate)
    found.add("ledger/lines", "lines of the ledger", ledger.entries, path)
    found.add("ledger/head", "hash of its last line", ledger.head, path)
    found.add("ledger/torn", "steps that were begun and not finished", ledger.torn, path)
    found.add("ledger/earlier", "ledgers of earlier runs that are counted", len(spent.texts) - 1, path)
    record = evidence.record(PRIVACY, PrivacyRecord)
    if record is not None:
        found.add(
            "units",
            "number of units that was declared",
            record.declared_units,
            PRIVACY,
            none="none was declared: the true number counts as public",
        )
        found.add(
            "outside",
            "what the guarantee does not cover",
            record.outside_guarantee,
            PRIVACY,
            none="the run names nothing",
        )
        start = record.start.summary() if record.start is not None else None
        found.add("start", "what the network started from", start, PRIVACY)
    return found.part()


def _mechanism(
    found: FactList, own: PrivacySpent, total: PrivacySpent, path: str, candidate: Candidate
) -> None:
    epsilon = math.inf if candidate.void else total.epsilon
    how = SEEDED if candidate.void else f"computed from the ledger, {total.accountant} accountant"
    found.add("epsilon", "epsilon of all that is counted", epsilon, path, remark=how)
    found.add("own_epsilon", "epsilon of the run's own steps", own.epsilon, path, remark="from the ledger")
    found.add("delta", "delta", own.delta, path)
    found.add("unit", "privacy unit", str(own.unit), path)
    found.add("relation", "neighboring relation", str(own.relation), path)
    found.add("noise_multiplier", "noise multiplier", own.noise_multiplier, path)
    found.add("sample_rate", "sample rate", own.sample_rate, path)
    found.add("steps", "steps accounted", own.steps, path)
    found.add("max_grad_norm", "clipping threshold", own.max_grad_norm, path)
    found.add("sampler", "sampler", own.sampler, path)
    found.add("clipping", "clipping", own.clipping, path)


def selection(evidence: EvidenceFolder) -> DossierPart:
    """Return the choice among the runs that were given, and what all of them spend together."""
    found = FactList(evidence, "selection", "Choice among runs, and what they spend together")
    record = selection_of(evidence)
    private = [item for item in record.candidates if item.private]
    finished = [item for item in record.candidates if item.finished and not item.beside]
    found.add("runs", "runs that were given", len(record.candidates), SELECTION)
    found.add("candidates", "finished runs to choose from", len(finished), SELECTION)
    found.add("private", "private runs among them", len(private), SELECTION)
    found.add("sweep", "the runs are those of a sweep", record.sweep, SELECTION)
    beside = sum(item.beside for item in record.candidates)
    if beside:
        words = "runs of other sites in the same study, which hold the same model"
        remark = "the epsilon of a site is about its own patients"
        found.add("sites", words, beside, SELECTION, remark=remark)
    for path in evidence.below(RUNS, SWEEPS):
        _sweep(found, evidence, path)
    lacking = runs_left_out(evidence, record)
    if lacking:
        words = "runs that a sweep names and that were not given"
        found.add("not_given", words, len(lacking), SELECTION, remark="what they spent is not counted")
    _joint(found, evidence, record)
    if len(finished) > 1:
        unstated = "nobody stated it (--chosen-by and --chosen-on)"
        found.add("by", "number that the choice rests on, as stated", record.by, SELECTION, missing=unstated)
        found.add(
            "split", "split that it was measured on, as stated", record.split, SELECTION, missing=unstated
        )
        found.add(
            "inside",
            "is the choice inside the guarantee?",
            _inside(record, finished),
            SELECTION,
            missing=f"it depends on the split, and {unstated}",
        )
        _rank(found, evidence, record, finished)
    elif lacking:
        reason = "the sweep names further runs, so that nobody sees what the choice was among"
        found.unknown("inside", "is the choice inside the guarantee?", reason)
    else:
        found.add("inside", "is the choice inside the guarantee?", _single(evidence), RUN_RECORD)
    found.add("left_out", "remarks on the runs", record.missing_runs, SELECTION, none="there are none")
    return found.part()


def runs_left_out(evidence: EvidenceFolder, record: SelectionRecord) -> tuple[str, ...]:
    """Return the identities that the sweeps of a dossier name and that are no candidates, sorted.

    Raises:
        DataError: the record of a sweep is damaged.
    """
    sweeps = [evidence.record(path, SweepRecord) for path in evidence.below(RUNS, SWEEPS)]
    named = {name for sweep in sweeps if sweep is not None for name in sweep.runs}
    return tuple(sorted(named - {item.run for item in record.candidates}))


def _sweep(found: FactList, evidence: EvidenceFolder, path: str) -> None:
    """Add the rows of a sweep: what each epsilon gave on the test split."""
    record = evidence.record(path, SweepRecord)
    rows = [
        f"epsilon {_cell(row, 'epsilon', 'none')}: {row.get('metric')} {_cell(row, 'mean', 'unknown')} "
        f"({_cell(row, 'low', 'unknown')} to {_cell(row, 'high', 'unknown')}), {row.get('seeds')} seeds"
        for row in (record.rows if record is not None else ())
    ]
    name = PurePosixPath(path).stem
    found.add(f"rows/{name}", "test metric by epsilon, mean over seeds", rows, path, missing="no row")


def _cell(row: dict[str, Any], name: str, otherwise: str) -> str:
    value = row.get(name)
    return f"{value:.4g}" if isinstance(value, (int, float)) and math.isfinite(value) else otherwise


def _joint(found: FactList, evidence: EvidenceFolder, record: SelectionRecord) -> None:
    """Add the joint epsilon of the chosen run with all runs that share its patients, or may."""
    words = "joint epsilon with all runs that share patients"
    group, assumed = next(
        (
            (names, sure)
            for names, sure in zip(record.groups, record.assumed, strict=True)
            if record.chosen in names
        ),
        ((), False),
    )
    if not group:
        found.unknown("epsilon", words, WITHOUT)
        return
    runs = [item for item in record.candidates if item.run in group]
    accounts = [account(evidence, item) for item in runs]
    begun = [item for item in accounts if item.own is not None]
    delta = max(item.own.delta for item in begun if item.own is not None)
    spent, _ = privacy_account.together(privacy_account.joint_texts(begun), delta)
    void = any(item.void for item in runs)
    remark = (
        SEEDED
        if void
        else f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} composed, {spent.accountant} accountant"
    )
    if assumed:
        remark += "; nothing says that their patients differ, so they are counted together"
    epsilon = math.inf if void else spent.epsilon
    found.add("epsilon", words, epsilon, SELECTION, remark=remark)
    found.add("delta", "delta of the joint epsilon", delta, SELECTION)
    found.add("composed", "runs in it", len(runs), SELECTION)


def _inside(record: SelectionRecord, finished: list[Candidate]) -> str | None:
    """Return whether the guarantee covers the choice, in words; None where the split is not known."""
    open_ones = sum(not item.private for item in finished)
    if open_ones:
        return f"no: {open_ones} of the {len(finished)} candidates were trained without privacy"
    if record.split == "train":
        return "no: a number of the training split depends on its patients without noise"
    if not record.split:
        return None
    return (
        f"for the training patients yes, at the joint epsilon of all candidates; for the patients of the "
        f"{record.split} split no, they have no guarantee"
    )


def _single(evidence: EvidenceFolder) -> str:
    run = artifacts.require(evidence.run.root, RunRecord, fix="ask for the whole dossier")
    if run.selected == "best":
        return (
            "there was one run; its checkpoint was chosen on the validation split, whose patients have no "
            "guarantee"
        )
    return "there was one run, and its last checkpoint was released: nothing was chosen"


def _rank(
    found: FactList, evidence: EvidenceFolder, record: SelectionRecord, finished: list[Candidate]
) -> None:
    """Add where the chosen run stands by the stated number on the test split, as far as that is recorded."""
    words = "candidates with a better value of the headline on the test split"
    values = {item.run: _headline(evidence, item) for item in finished}
    known = {run: value for run, value in values.items() if value is not None}
    if record.chosen not in known:
        found.unknown("better", words, "the chosen run has no evaluation on the test split")
        return
    better = sum(value > known[record.chosen] for value in known.values())
    chosen = next(item for item in finished if item.run == record.chosen)
    remark = f"of {len(known)} candidates with an evaluation"
    found.add("better", words, better, _evaluation(chosen), remark=remark)


def _evaluation(candidate: Candidate) -> str:
    return f"{candidate.folder}/evaluation.json"


def _headline(evidence: EvidenceFolder, candidate: Candidate) -> float | None:
    record = evidence.record(_evaluation(candidate), EvaluationRecord)
    if record is None:
        return None
    value = Evaluation.from_table(record.evaluation).headline.value
    return value if math.isfinite(value) else None


def folder_of(run: str) -> str:
    """Return the folder of a run in the dossier."""
    return f"{RUNS}/{run[:12]}"
