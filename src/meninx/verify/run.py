"""Whether the parts of a run belong together: settings, release, evaluations, and what its ledger says of its privacy."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meninx.core import artifacts, files
from meninx.core.artifacts import (
    Ancestry,
    ComparisonRecord,
    EvaluationRecord,
    Lineage,
    Origin,
    PrivacyRecord,
    RunRecord,
    RunState,
)
from meninx.core.progress import Progress
from meninx.core.run import Run
from meninx.verify import folders
from meninx.verify.check import Book, State, plain

if TYPE_CHECKING:
    from meninx.core.budget import PrivacySpent
    from meninx.privacy.ledger import Ledger

TOLERANCE = 1e-9  # relative, between an epsilon that was written down and one that is computed again
_LIMIT = 1 << 30  # bytes of a ledger
_OLDER = "an older version wrote this run"


def check(book: Book, root: Path, progress: Progress) -> None:
    """Check a run folder."""
    run = Run(root)
    book.guard("run.json", lambda: _state(book, run))
    book.guard("release", lambda: _release(book, run, progress))
    book.guard("evaluations", lambda: _measurements(book, run))
    book.guard("privacy.json", lambda: _privacy(book, run))
    book.guard("lineage", lambda: _lineage(book, run))
    book.guard("file modes of private/", lambda: folders.modes(book, root))


def _state(book: Book, run: Run) -> None:
    record = run.record
    if record is None:
        book.impossible("run.json", f"none: {_OLDER}")
        return
    finished = record.state is RunState.RELEASED
    book.judge("state", [] if finished else [f"the run is not finished: {record.state}, step {record.step}"])
    digest = hashlib.sha256(files.read_bytes(run.config_path)).hexdigest()
    book.judge("config.toml", [] if digest == record.config else ["changed since the run was made or released"])


def _release(book: Book, run: Run, progress: Progress) -> None:
    record = run.record
    if record is not None and record.state is not RunState.RELEASED:
        book.impossible("release", "the run is not finished")
        return
    folders.released_files(book, run.release, record.release if record else "", progress)


def _measurements(book: Book, run: Run) -> None:
    """Check that every evaluation and comparison belongs to the released weights."""
    record = run.record
    for path in sorted([*run.release.glob("*.json"), *run.private.glob("*.json")]):
        kind = _measured(path.name)
        if kind is None:
            continue
        what = f"{path.parent.name}/{plain(path.name)}"
        table = artifacts.read_file(path, kind)
        origin = table.origin if table is not None else None
        if record is None or origin is None:
            book.impossible(what, f"it does not say what it was measured on: {_OLDER}")
            continue
        external = isinstance(table, EvaluationRecord) and table.external
        book.judge(what, _differences(record, origin, external=external or "-external-" in path.name))


def _measured(name: str) -> type[EvaluationRecord] | type[ComparisonRecord] | None:
    if name.startswith("evaluation"):
        return EvaluationRecord
    return ComparisonRecord if name.startswith("comparison") else None


def _differences(record: RunRecord, origin: Origin, *, external: bool) -> Iterator[str]:
    if origin.run != record.id:
        yield "of another run"
    elif origin.weights != record.weights or not record.weights:
        yield f"stale: of other weights than the released ones, step {origin.step} of {record.step}"
    elif origin.step != record.step:
        yield f"stale: of step {origin.step}, released is step {record.step}"
    if not external and origin.data != record.data:
        yield "of another dataset than the run's own"


def _privacy(book: Book, run: Run) -> None:
    record, said = run.record, artifacts.read(run.root, PrivacyRecord)
    text = ledger_text(run)
    if said is None:
        wrong = "missing" if text or (record is not None and record.private) else ""
        if wrong:
            book.judge("privacy.json", [wrong], privacy=True)
        else:
            book.impossible("privacy.json", "none here")
        return
    book.judge("privacy.json belongs to the run", _belonging(record, said, bool(text)), privacy=True)
    if said.private:
        _account(book, run, said, text)


def _belonging(record: RunRecord | None, said: PrivacyRecord, ledger: bool) -> Iterator[str]:
    if ledger and not said.private:
        yield "it says that the run is not private, but there is a ledger"
    if record is None:
        return
    if record.private != said.private:
        yield "run.json and privacy.json disagree on whether the run is private"
    if record.deterministic != said.deterministic:
        yield "run.json and privacy.json disagree on where the noise came from"
    if said.origin is not None and said.origin.run != record.id:
        yield "of another run"
    elif said.origin is not None and record.state is RunState.RELEASED:
        if said.origin.weights != record.weights:
            yield "of other weights than the released ones"
        if said.origin.step != record.step:
            yield f"of step {said.origin.step}, released is step {record.step}"


def _account(book: Book, run: Run, said: PrivacyRecord, text: str) -> None:
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
    book.add("privacy ledger", State.OK, f"{ledger.entries} lines, chain intact", privacy=True)
    if not ledger.accounts:
        book.judge("privacy.json against the ledger", ["the ledger names no step"], privacy=True)
        return
    book.judge("privacy.json against the ledger", _contradictions(run, said, ledger), privacy=True)


def _contradictions(run: Run, said: PrivacyRecord, ledger: Ledger) -> Iterator[str]:
    from meninx.privacy.composition import compose
    from meninx.privacy.ledger import Ledger as Read

    delta = ledger.accounts[-1].first.delta
    own = ledger.spent(delta)
    behind = artifacts.read(run.root, Ancestry)
    earlier = [Read.parse("\n".join(lines)) for lines in behind.ledgers] if behind is not None else []
    total = compose([ledger, *earlier], delta=delta).epsilon if earlier else own.epsilon
    if not _same(said.epsilon, total):
        yield f"epsilon {_shown(said.epsilon)}, by the ledger {_shown(total)}"
    if said.version > 1 and not _same(said.own_epsilon, own.epsilon):
        yield f"epsilon of its own steps {_shown(said.own_epsilon)}, by the ledger {_shown(own.epsilon)}"
    if said.ledger[0] and tuple(said.ledger) != ledger.anchor:
        yield "it was written with another ledger"
    yield from _other_values(said, own)


def _other_values(said: PrivacyRecord, spent: PrivacySpent) -> Iterator[str]:
    pairs: dict[str, tuple[Any, Any]] = {
        "steps": (said.steps, spent.steps),
        "delta": (said.delta, spent.delta),
        "unit": (said.unit, str(spent.unit)),
        "relation": (said.relation, str(spent.relation)),
        "noise multiplier": (said.noise_multiplier, spent.noise_multiplier),
        "max grad norm": (said.max_grad_norm, spent.max_grad_norm),
        "sample rate": (said.sample_rate, spent.sample_rate),
    }
    for name, (stated, computed) in pairs.items():
        if stated != computed:
            yield f"{name} {plain(str(stated))[:40]}, by the ledger {computed}"


def _same(stated: float | None, computed: float) -> bool:
    """Return whether two epsilons are one; None and infinity both stand for no noise."""
    if stated is None or not math.isfinite(computed):
        return stated is None and not math.isfinite(computed)
    return math.isclose(stated, computed, rel_tol=TOLERANCE)


def _shown(epsilon: float | None) -> str:
    return "none" if epsilon is None or not math.isfinite(epsilon) else f"{epsilon:.6g}"


def _lineage(book: Book, run: Run) -> None:
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
        wrong += ["it disagrees with run.json on whether the run is private"] if found.private != record.private else []
        wrong += ["of another dataset"] if found.data != record.data else []
    if "\n".join(found.ledger).rstrip("\n") != ledger_text(run).rstrip("\n"):
        wrong.append("its ledger is not the run's")
    said = artifacts.read(run.root, PrivacyRecord)
    if said is not None and found.private and found.delta != said.delta:
        wrong.append("its delta is not that of privacy.json")
    book.judge("release/lineage.json", wrong, privacy=found.private)


def ledger_text(run: Run) -> str:
    """Return the ledger of a run as text; empty when there is none."""
    if not run.ledger_path.exists():
        return ""
    return files.read_bytes(run.ledger_path, limit=_LIMIT).decode("utf-8", "surrogateescape")
