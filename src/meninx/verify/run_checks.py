"""Checks of a run: settings, release, evaluations, and privacy computed again from the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from meninx.core import artifacts, audit_parts, belonging, integrity, settings
from meninx.core.artifacts import (
    Ancestry,
    ComparisonRecord,
    EvaluationRecord,
    Lineage,
    PrivacyRecord,
    RunRecord,
    RunState,
)
from meninx.core.progress import Progress
from meninx.core.run import Run
from meninx.core.summaries import number_of
from meninx.verify import audit_checks, audited_ledgers, folder_checks
from meninx.verify.check_list import CheckList, State, plain

if TYPE_CHECKING:
    from meninx.privacy.ledger import Ledger

_OLDER = "an older version wrote this run"
_OWN_LOOP = "the user's own: data, labels and evaluation were not seen by meninx and cannot be checked"


def check(book: CheckList, root: Path, progress: Progress) -> None:
    """Check a run folder."""
    run = Run(root)
    book.guard("run.json", lambda: _state(book, run))
    book.guard("release", lambda: _release(book, run, progress))
    book.guard("evaluations", lambda: _measurements(book, run))
    book.guard("privacy.json", lambda: _privacy(book, run))
    book.guard("lineage", lambda: _lineage(book, run))
    book.guard("audit", lambda: _audit(book, run))
    book.guard("file modes of private/", lambda: folder_checks.modes(book, root))


def _state(book: CheckList, run: Run) -> None:
    record = run.record
    if record is None:
        book.impossible("run.json", f"none: {_OLDER}")
        return
    if record.own_loop:
        book.add("training loop", State.OK, _OWN_LOOP)
    finished = record.state is RunState.RELEASED
    book.judge(
        "state",
        [] if finished else [f"the run is not finished: {record.state}, step {record.step}"],
        fix=_how_to_finish(record, book.folder or run.name),
    )
    if record.log:
        changed = belonging.log_changed(run.root, record)
        book.judge("training log", ["changed since the release, or gone"] if changed else [])
    digest = run.config_digest
    secret = [
        f"{name}: changed since the run was made, or gone"
        for name in belonging.secrets_changed(run.root, record)
    ]
    book.judge("private records", secret, privacy=record.private)
    exchanged = [
        f"{name}: changed since the release, or gone"
        for name in belonging.checkpoints_changed(run.root, record)
    ]
    if record.checkpoints:
        book.judge("checkpoints", exchanged, privacy=record.private)
    else:
        _seals(book, run, record)
    book.judge(
        "config.toml", [] if digest == record.config else ["changed since the run was made or released"]
    )


def _how_to_finish(record: RunRecord, folder: str) -> str:
    if record.own_loop:
        return "finish it with meninx.privacy.training(..., resume=True)"
    return f"finish it with `meninx train DATA --resume {plain(folder)}`"


def _seals(book: CheckList, run: Run, record: RunRecord) -> None:
    """Check the digest that each checkpoint of a run that is not finished carries at its end."""
    what = "seals of the checkpoints"
    found = {path.name: integrity.is_whole(path) for path in (run.private / "checkpoints").glob("*.pt")}
    broken = [
        f"{plain(name)}: changed since it was written" for name, whole in found.items() if whole is False
    ]
    if broken or any(found.values()):
        book.judge(what, sorted(broken), privacy=record.private)
    elif found:
        book.impossible(what, "they carry none")


def _release(book: CheckList, run: Run, progress: Progress) -> None:
    record = run.record
    if record is not None and record.state is not RunState.RELEASED:
        book.impossible("release", "the run is not finished")
        return
    recorded, listed = record.release if record else "", integrity.digest_of(run.release)
    if record is not None and record.names_list(listed):
        recorded = listed
    folder_checks.released_files(book, run.release, recorded, progress)


def _measurements(book: CheckList, run: Run) -> None:
    """Check that every evaluation and comparison belongs to the released weights."""
    record = run.record
    for path in sorted([*run.release.glob("*.json"), *run.private.glob("*.json")]):
        kind = _measured(path.name)
        if kind is None:
            continue
        what = f"{path.parent.name}/{plain(path.name)}"
        table = artifacts.read_file(path, kind)
        if record is None or table is None or table.origin is None:
            book.impossible(what, f"it does not say what it was measured on: {_OLDER}")
            continue
        problem = belonging.measured(table, record, path.name)
        book.judge(what, [problem] if problem else [])


def _measured(name: str) -> type[EvaluationRecord] | type[ComparisonRecord] | None:
    if name.startswith("evaluation"):
        return EvaluationRecord
    return ComparisonRecord if name.startswith("comparison") else None


def _privacy(book: CheckList, run: Run) -> None:
    record, promise = run.record, artifacts.read(run.root, PrivacyRecord)
    text = run.ledger_text()
    if promise is None:
        wrong = "missing" if text or (record is not None and record.private) else ""
        if wrong:
            book.judge("privacy.json", [wrong], privacy=True)
        else:
            book.impossible("privacy.json", "none here")
        return
    book.judge("privacy.json belongs to the run", _belonging(run, promise, bool(text)), privacy=True)
    if promise.private:
        _account(book, run, promise, text)


def _belonging(run: Run, promise: PrivacyRecord, ledger: bool) -> Iterator[str]:
    if ledger and not promise.private:
        yield "it says that the run is not private, but there is a ledger"
    record = run.record
    if record is None:
        return
    yield from belonging.promise(promise, record)
    if belonging.promise_changed(run.root, record):
        yield "changed since the run was released"


def _account(book: CheckList, run: Run, promise: PrivacyRecord, text: str) -> None:
    """Compute everything again from the ledger."""
    try:
        from meninx.privacy.ledger import Ledger  # dp-accounting takes seconds, and only private runs need it
    except ImportError:
        book.impossible("privacy ledger", "dp-accounting is not installed: pip install 'meninx[train]'")
        return
    if not text:
        book.judge("privacy ledger", ["missing"], privacy=True)
        return
    ledger = Ledger.parse(text)
    book.add("privacy ledger", State.OK, f"{number_of(ledger.entries, 'line')}, chain intact", privacy=True)
    if not ledger.accounts:
        book.judge("privacy.json against the ledger", ["the ledger names no step"], privacy=True)
        return
    book.judge("privacy.json against the ledger", _contradictions(run, promise, ledger), privacy=True)


def _contradictions(run: Run, promise: PrivacyRecord, ledger: Ledger) -> Iterator[str]:
    from meninx.privacy.composition import compose
    from meninx.privacy.ledger import Ledger as Read

    delta = ledger.accounts[-1].first.delta
    own = ledger.spent(delta)
    behind = artifacts.read(run.root, Ancestry)
    earlier = [Read.parse("\n".join(lines)) for lines in behind.ledgers] if behind is not None else []
    total = compose([ledger, *earlier], delta=delta).epsilon if earlier else own.epsilon
    found = belonging.contradictions(
        promise, own, totals=(total,), anchor=ledger.anchor, declared=_declared(run)
    )
    yield from (item.words for item in found)


def _declared(run: Run) -> object:
    """Return the number of units that the config declares."""
    table, _ = settings.read_recipe(str(run.config_path))
    terms = table.get("privacy")
    return terms.get("units_declared") if isinstance(terms, dict) else None


def _audit(book: CheckList, run: Run) -> None:
    """Check the audit of the run, which rests on its own records."""
    if not (run.root / audit_parts.FOLDER).is_dir():
        return
    try:
        from meninx.audit import rederivation  # noqa: F401 (its libraries are those of [train])
    except ImportError:
        book.impossible("audits from their records", "a library is missing: pip install 'meninx[train]'")
        return
    record = run.record
    audit_checks.check(book, run.root, audited_ledgers.of_run(run, record) if record is not None else None)


def _lineage(book: CheckList, run: Run) -> None:
    record, found = run.record, artifacts.read(run.root, Lineage)
    if found is None:
        if record is not None and record.state is RunState.RELEASED:
            book.judge("release/lineage.json", ["missing"], privacy=record.private)
        else:
            book.impossible("release/lineage.json", "none here")
        return
    wrong = []
    if record is not None:
        wrong += ["of another run"] if found.run != record.id else []
        wrong += (
            ["it disagrees with run.json on whether the run is private"]
            if found.private != record.private
            else []
        )
        wrong += ["of another dataset"] if found.data != record.data else []
        wrong += ["of another part of a federated study"] if found.study != record.study else []
    if "\n".join(found.ledger).rstrip("\n") != run.ledger_text().rstrip("\n"):
        wrong.append("its ledger is not the run's")
    promise = artifacts.read(run.root, PrivacyRecord)
    if promise is not None and found.private and found.delta != promise.delta:
        wrong.append("its delta is not that of privacy.json")
    if promise is not None and promise.version >= artifacts.FORMAT:
        wrong += belonging.start(promise, found)
    book.judge("release/lineage.json", wrong, privacy=found.private)
