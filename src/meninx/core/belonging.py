"""Whether the records of a run belong together: one set of rules for training, sweeps, reports and `verify`.

Functions return what is wrong, as the end of a sentence or a list of them, so that a report can state why it
leaves something out and `verify` can count it; :func:`require` raises.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from meninx.core import artifacts, files, integrity
from meninx.core.artifacts import (
    Ancestry,
    ComparisonRecord,
    DataRecord,
    EvaluationRecord,
    Lineage,
    Members,
    Origin,
    PrivacyRecord,
    RunRecord,
    RunState,
)
from meninx.core.budget import PrivacySpent
from meninx.core.errors import DataError, problem

TOLERANCE = 1e-7  # relative difference allowed between a recorded epsilon and one computed elsewhere
MeasuredT = TypeVar("MeasuredT", EvaluationRecord, ComparisonRecord)
_NUMBERS = ("steps", "delta", "noise_multiplier", "max_grad_norm", "sample_rate")
_WORDS = ("unit", "relation", "sampler", "clipping")
_NEWER_WORDS = ("sampler", "clipping")  # earlier versions did not record these
_ODD = re.compile(r"[^A-Za-z0-9._+-]")


def mismatch(origin: Origin | None, run: RunRecord) -> str:
    """Return why a measurement does not belong to a run's released weights, as the end of a sentence.

    The result is empty if it does.

    With ``select = "best"`` the released weights are those of ``run.released_step``, which may come before
    the last step.
    """
    if run.state is not RunState.RELEASED:
        return "belongs to a run that is not finished"
    if origin is None:
        return (
            "was written by an earlier version of meninx, which did not record the weights that it measured"
        )
    if origin.run != run.id or not run.id:
        return "was measured on another run"
    released = run.released_step or run.step
    unclear = not run.released_step and run.selected == "best" and origin.step < run.step
    if origin.weights != run.weights or not run.weights or (origin.step != released and not unclear):
        return f"was measured on other weights (step {origin.step:,} of {run.step:,})"
    return ""


def measured(record: EvaluationRecord | ComparisonRecord, run: RunRecord, name: str) -> str:
    """Return why an evaluation or comparison does not belong to a run, as the end of a sentence.

    The result is empty if it does.

    Args:
        record: the evaluation or comparison.
        run: the run.
        name: name of the file, without folders; it states split and dataset.
    """
    origin = record.origin
    problem = mismatch(origin, run)
    if problem or origin is None:
        return problem
    external = record.external if isinstance(record, EvaluationRecord) else "-external-" in name
    if not external and origin.data != run.data:
        return "was measured on another dataset"
    return _misplaced(name, type(record), origin, external=external)


def unlisted(root: Path, run: RunRecord, name: str) -> str:
    """Return why a measurement in ``release/`` is not the one that the release lists.

    The result is the end of a sentence. It is empty if the measurement is listed, and for runs of versions
    without a list.

    Args:
        root: the run folder.
        run: its record.
        name: name of the file in ``release/``.
    """
    if not run.release:
        return ""
    release = root / "release"
    listed = integrity.read(release) if run.names_list(integrity.digest_of(release)) else {}
    if name not in listed:
        return "is not in the list of the release (measure again)"
    if listed[name] != files.digest(release / name):
        return "is not the one in the list of the release (measure again)"
    return ""


def _misplaced(name: str, kind: type, origin: Origin, *, external: bool) -> str:
    """Return a complaint if a file has the name of another split or dataset, because it was renamed."""
    try:
        usual = Path(artifacts.place(kind, split=origin.split, dataset="x" if external else "")).name
    except DataError:
        return "names a split that cannot be"
    if external:
        head, tail = usual.split("-x", 1)
        good = name.startswith(f"{head}-") and name.endswith(tail) and len(name) > len(head) + len(tail) + 1
    else:
        good = name == usual
    return "" if good else "stands under the name of another split"


def require(root: Path, run: RunRecord, kind: type[MeasuredT], *, split: str = "test", fix: str) -> MeasuredT:
    """Return the evaluation or comparison of a run's released weights on one split of its own dataset.

    Args:
        root: the run folder.
        run: its record.
        kind: which of the two.
        split: the split.
        fix: what to do if it is missing or does not belong.

    Raises:
        DataError: it is missing or damaged, or belongs to another run, dataset, split or other weights.
    """
    place = artifacts.place(kind, split=split)
    where = f"{root.name}/{place}"
    record = artifacts.read(root, kind, split=split)
    if record is None:
        raise DataError(problem("the run was not measured", where=where, fix=fix))
    wrong = measured(record, run, Path(place).name) or unlisted(root, run, Path(place).name)
    if (
        not wrong
        and isinstance(record, EvaluationRecord)
        and (record.external or record.evaluation.get("split") != split)
    ):
        wrong = "was measured on another dataset or split"
    if wrong:
        raise DataError(problem(f"the measurement {wrong}", where=where, fix=fix))
    return record


def promise(said: PrivacyRecord, run: RunRecord) -> Iterator[str]:
    """Yield why a ``privacy.json`` does not belong to a run.

    Its step must be the last one, even if ``best`` is released, because all steps were spent.
    """
    if run.private != said.private:
        yield "run.json and privacy.json disagree on whether the run is private"
    if run.deterministic != said.deterministic:
        yield "run.json and privacy.json disagree on where the noise came from"
    origin = said.origin
    released = run.state is RunState.RELEASED
    if origin is not None and origin.run != run.id:
        yield "of another run"
    elif origin is not None and released:
        if origin.weights not in ("", run.weights):
            yield "of other weights than the released ones"
        if origin.data not in ("", run.data):
            yield "of another dataset than the run's own"
        if origin.step not in (0, run.step):
            yield f"of step {origin.step}, the run has {run.step}"


def promise_changed(root: Path, run: RunRecord) -> bool:
    """Return whether ``privacy.json`` in a run folder is missing or not the file that ``run.json`` names.

    An unfinished run and runs of earlier versions name none.
    """
    path = root / artifacts.place(PrivacyRecord)
    return bool(run.privacy) and not (path.is_file() and files.digest(path) == run.privacy)


def start(said: PrivacyRecord, lineage: Lineage) -> Iterator[str]:
    """Yield every disagreement about the starting weights between ``privacy.json`` and the lineage."""
    origin = said.start.origin if said.start is not None else "random"
    if lineage.unknown_start != (origin == "unknown"):
        yield "it disagrees with privacy.json on whether the starting weights are of unknown origin"
    if bool(lineage.parents) and origin == "random":
        yield "it names the runs behind the starting weights, privacy.json names no start"
    if not lineage.parents and origin == "run":
        yield "privacy.json names a run behind the starting weights, it does not"
    if (
        said.start is not None
        and said.start.run
        and said.start.run not in {parent.run for parent in lineage.parents}
    ):
        yield "privacy.json names another run behind the starting weights"


def secrets_changed(root: Path, run: RunRecord) -> Iterator[str]:
    """Yield the names of the records in ``private/`` that changed since the run was created."""
    for path in _secret_paths(root):
        known = run.secrets.get(path.name, "")
        older = path.name == Path(artifacts.place(Lineage)).name and not known
        if run.secrets and not older and known != (files.digest(path) if path.is_file() else ""):
            yield f"private/{path.name}"


def secrets_of(root: Path) -> dict[str, str]:
    """Return the digests of a new run's records, with which :func:`secrets_changed` compares later."""
    return {path.name: files.digest(path) for path in _secret_paths(root) if path.is_file()}


def _secret_paths(root: Path) -> list[Path]:
    kinds = (Members, DataRecord, Ancestry)
    return [*(root / artifacts.place(kind) for kind in kinds), root / artifacts.place(Lineage, private=True)]


def log_changed(root: Path, run: RunRecord) -> bool:
    """Return whether the training log of a finished run is missing or was changed.

    The result is False for runs of versions that did not record its digest.
    """
    path = root / "private" / "metrics.jsonl"
    return bool(run.log) and run.log != (files.digest(path) if path.is_file() else "")


def checkpoints_changed(root: Path, run: RunRecord) -> Iterator[str]:
    """Yield the names of the checkpoints of a finished run that are missing or were changed.

    There are none for runs of versions that did not record their digests.
    """
    for name, digest in run.checkpoints.items():
        path = root / "private" / "checkpoints" / name
        if digest != (files.digest(path) if path.is_file() else ""):
            yield f"private/checkpoints/{name}"


@dataclass(frozen=True)
class Contradiction:
    """A field of a record that disagrees with the ledger.

    Attributes:
        field: its name.
        words: its value and the value according to the ledger.
    """

    field: str
    words: str


def contradictions(
    said: PrivacyRecord,
    own: PrivacySpent,
    *,
    totals: Iterable[float],
    anchor: tuple[int, str],
    declared: object,
) -> Iterator[Contradiction]:
    """Yield every field of a ``privacy.json`` that disagrees with the ledger.

    The ledger is the source of the guarantee, so an edited record cannot lower the stated epsilon unnoticed.

    Args:
        said: the record of a private run.
        own: cost of the run's own steps according to the ledger.
        totals: values of epsilon that the run may state: its own steps together with earlier runs that share
            its patients.
        anchor: number of lines and head of the ledger.
        declared: number of units declared in the run's config; None without one.
    """
    possible = tuple(totals)
    if not any(same_epsilon(said.epsilon, value) for value in possible):
        yield _unlike("epsilon", _shown(said.epsilon), _shown(possible[0] if possible else None))
    current = said.version >= artifacts.FORMAT
    if current and not same_epsilon(said.own_epsilon, own.epsilon):
        yield _unlike(
            "own_epsilon", _shown(said.own_epsilon), _shown(own.epsilon), what="epsilon of its own steps"
        )
    for name in (*_NUMBERS, *_WORDS):
        stated, computed = _plain(getattr(said, name)), _plain(getattr(own, name))
        unknown = name in _NEWER_WORDS and not current and not stated
        if stated != computed and not unknown:
            yield _unlike(name, _printable(stated), _printable(computed))
    if said.ledger[0] and tuple(said.ledger) != anchor:
        yield Contradiction("ledger", "it was written with another ledger")
    if current and said.declared_units != declared:
        yield _unlike(
            "declared_units", _printable(said.declared_units), _printable(declared), by="config.toml"
        )


def same_epsilon(stated: float | None, computed: float) -> bool:
    """Return whether two epsilons agree; both None and infinity mean no noise."""
    if stated is None or not math.isfinite(computed):
        return stated is None and not math.isfinite(computed)
    return math.isclose(stated, computed, rel_tol=TOLERANCE)


def _unlike(
    field: str, stated: str, computed: str, *, what: str = "", by: str = "the ledger"
) -> Contradiction:
    return Contradiction(field, f"{what or field.replace('_', ' ')} {stated}, by {by} {computed}")


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _printable(value: object) -> str:
    return "none" if value is None else _ODD.sub("?", str(value))[:40]


def _shown(epsilon: float | None) -> str:
    return "none" if epsilon is None or not math.isfinite(epsilon) else f"{epsilon:.6g}"
