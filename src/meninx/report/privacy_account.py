"""What private runs cost, computed again from their ledgers; a record with another number is refused.

``privacy.json`` repeats the ledger for people. The page never prints it: every epsilon, delta and bound comes
from the ledger's lines, whose hashes are chained, and the record is only compared with them.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meninx.core import artifacts, belonging
from meninx.core.artifacts import Ancestry, Lineage, PrivacyRecord, StartRecord
from meninx.core.budget import PrivacySpent
from meninx.core.errors import ConfigError, DataError, PrivacyRefusal, UsageError, expected, problem
from meninx.core.run import Run

if TYPE_CHECKING:
    from meninx.privacy.accounting import Phase
    from meninx.privacy.ledger import Ledger

_CURVE_POINTS = 16
_MOST_TRIED = 4  # earlier runs of which every choice is tried


@dataclass(frozen=True, kw_only=True)
class RunAccount:
    """What one private run has spent.

    Attributes:
        texts: run identity -> text of its ledger: the run's own and those of the private runs that it started
            from and that its guarantee counts.
        exact: ``private/`` tells which earlier runs count; otherwise all of them do.
        own: what the run's own steps spent; None before the first.
        spent: own steps and composed starts.
        curve: (step, upper bound on epsilon) of the run's own steps; empty where the ledger has several
            phases.
    """

    texts: Mapping[str, str]
    exact: bool
    own: PrivacySpent | None
    spent: PrivacySpent | None
    curve: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Bounds on any attack on one unit, computed from the ledgers.

    Attributes:
        advantage: largest membership advantage, in [0, 1].
        tpr_at_fpr: false positive rate -> largest true positive rate.
    """

    advantage: float
    tpr_at_fpr: Mapping[float, float]


def of_run(
    run: Run, key: str, lineage: Lineage | None, start: StartRecord | None, ancestry: Ancestry | None
) -> RunAccount:
    """Return the account of a private run, from ``private/ledger.jsonl`` or, without it, from its lineage.

    Args:
        run: the run folder.
        key: identity of the run, or another text that tells it apart.
        lineage: where its weights come from.
        start: what it started from, by its privacy record.
        ancestry: the earlier runs whose cost is part of this one's; None where the private room is not there.

    Raises:
        PrivacyRefusal: the ledger was changed.
        DataError: ledger and lineage differ, or a composed start has no ledger.
        UsageError: the libraries of ``[train]`` are not installed.
    """
    with _Libraries():
        text = run.ledger_text() if run.ledger_path.is_file() else None
        released = "\n".join(lineage.ledger) if lineage is not None else ""
        where = artifacts.place(Lineage)
        if text is not None and released and text.rstrip("\n") != released.rstrip("\n"):
            both = f"{run.name}/{where} and {run.ledger_path.name}"
            raise DataError(problem("the lines are not those of the run's own ledger", where=both))
        own_text = text if text is not None else released
        ledger = parsed(own_text, f"{run.name}: {run.ledger_path.name}")
        own = ledger.spent() if ledger.accounts else None
        texts = {key: own_text}
        if ancestry is not None:
            texts |= _counted(ancestry, lineage)
        elif start is not None and start.composed:
            texts |= {item.run: _text_of(item, where) for item in ancestors(lineage) if item.private}
            if len(texts) == 1:
                fix = "restore the release folder"
                raise DataError(
                    problem(
                        "the ledger of the run that this one started from is missing", where=where, fix=fix
                    )
                )
        spent = own
        if own is not None and len(texts) > 1:
            spent = composed([parsed(item, where) for item in texts.values()], own.delta)
        return RunAccount(texts=texts, exact=ancestry is not None, own=own, spent=spent, curve=_curve(ledger))


def joint_texts(accounts: Iterable[RunAccount]) -> list[str]:
    """Return the ledgers of several runs, each once: a run that two others started from is paid for once.

    Raises:
        PrivacyRefusal: two copies of one ledger went on in different ways.
    """
    found: dict[str, str] = {}
    for account in accounts:
        for key, text in account.texts.items():
            short, long = sorted((found.get(key, ""), text), key=len)
            if not long.startswith(short.rstrip("\n")):
                fix = "give the runs as they were made; of copies that went on in two ways, release neither"
                raise PrivacyRefusal(problem("two ledgers of one run differ", where="ledger", fix=fix))
            found[key] = long
    return list(found.values())


def together(texts: Sequence[str], delta: float) -> tuple[PrivacySpent, Bounds | None]:
    """Return what ledgers spend together at ``delta``, and the bounds on attacks.

    None where there is no noise.

    Raises:
        PrivacyRefusal: units or relations differ, or two ledgers used the same secret keys.
        UsageError: the libraries of ``[train]`` are not installed.
    """
    with _Libraries():
        from meninx.privacy.composition import joint_phases

        ledgers = [parsed(text, "ledger") for text in texts if text.strip()]
        spent = composed(ledgers, delta)
        if not math.isfinite(spent.epsilon):
            return spent, None
        return spent, _bounds(joint_phases(ledgers))


def largest_delta(units: int) -> float:
    """Return the largest delta at which a run on ``units`` may be called well protected."""
    from meninx.privacy import accounting

    return accounting.largest_delta(units)


@functools.lru_cache(maxsize=64)
def _bounds(phases: tuple[Phase, ...]) -> Bounds:
    from meninx.privacy.risk import attack_risk

    risk = attack_risk(phases, prior=0.5)  # the prior bounds reconstruction, which the page does not state
    return Bounds(advantage=risk.advantage, tpr_at_fpr=dict(risk.tpr_at_fpr))


def composed(ledgers: Sequence[Ledger], delta: float) -> PrivacySpent:
    """Return what ledgers spend together, each with at least a begun step."""
    from meninx.privacy.composition import compose

    return compose(ledgers, delta=delta)


def ancestors(lineage: Lineage | None) -> Iterator[Lineage]:
    """Yield every run that the weights come from, at most a thousand."""
    waiting = list(lineage.parents) if lineage is not None else []
    for _ in range(1000):
        if not waiting:
            return
        item = waiting.pop()
        yield item
        waiting += item.parents
    raise DataError(problem("the lineage names more than 1,000 earlier runs", where=artifacts.place(Lineage)))


def compare(account: RunAccount, record: PrivacyRecord, declared: object, where: str) -> None:
    """Refuse a privacy record that contradicts the ledger.

    Args:
        account: from the ledger.
        record: ``privacy.json`` of a finished private run.
        declared: the declared number in the run's config.
        where: names run and file.

    Raises:
        PrivacyRefusal: a field differs; names it.
    """
    own, spent = account.own, account.spent
    if own is None or spent is None:
        raise PrivacyRefusal(problem("the finished run has no ledger with its steps", where=where))
    anchor = parsed(next(iter(account.texts.values())), "ledger").anchor
    wrong = next(
        belonging.contradictions(record, own, totals=_possible(account), anchor=anchor, declared=declared),
        None,
    )
    if wrong is not None:
        fix = "restore the file as the run wrote it; `meninx verify` says what else was changed"
        raise PrivacyRefusal(
            problem(f"{wrong.field} is not the one that the ledger gives", where=where, fix=fix)
        )


def _possible(account: RunAccount) -> Iterator[float]:
    """Yield the costs that a record may state: the run's own, with earlier runs that share its patients.

    A lineage, whose digests are keyed, does not show which ones do; the page prints the cost with all of
    them.
    """
    if account.own is None or account.spent is None:
        return
    yield account.spent.epsilon
    own, *earlier = account.texts.values()
    for size in range(1, len(earlier)) if len(earlier) <= _MOST_TRIED and not account.exact else ():
        for chosen in itertools.combinations(earlier, size):
            yield composed([parsed(text, "ledger") for text in (own, *chosen)], account.own.delta).epsilon


def parsed(text: str, where: str) -> Ledger:
    """Return the ledger that a text holds.

    Args:
        text: lines of a ledger.
        where: file that holds them, for messages.

    Raises:
        PrivacyRefusal: a line was changed, or is none of a ledger.
    """
    from meninx.privacy.ledger import Ledger

    try:
        return Ledger.parse(text)
    except PrivacyRefusal as error:
        raise PrivacyRefusal(f"{where}: {error}") from error
    except (ConfigError, ValueError, TypeError, KeyError, OverflowError) as error:
        fix = "restore the ledger as it was written"
        raise PrivacyRefusal(problem("the lines are not those of a ledger", where=where, fix=fix)) from error


def _counted(ancestry: Ancestry, lineage: Lineage | None) -> dict[str, str]:
    """Return run identity -> ledger of the earlier runs that count.

    One whose identity is not known goes by its digest.
    """
    names = {"\n".join(item.ledger): item.run for item in ancestors(lineage)}
    texts = ["\n".join(lines) for lines in ancestry.ledgers]
    return {names.get(text, hashlib.sha256(text.encode()).hexdigest()): text for text in texts}


def _text_of(lineage: Lineage, where: str) -> str:
    if not lineage.ledger:
        raise DataError(
            problem("the ledger of a private run that the weights come from is missing", where=where)
        )
    return "\n".join(lineage.ledger)


def _curve(ledger: Ledger) -> tuple[tuple[int, float], ...]:
    """Return upper bounds on epsilon along the steps.

    Only where the ledger is one phase of independent steps.
    """
    from meninx.privacy import accounting

    if len(ledger.accounts) != 1 or ledger.pending or ledger.accounts[0].first.noise_bands != 1:
        return ()
    account = ledger.accounts[0]
    final = ledger.epsilon(account.first.delta)
    stride = max(1, -(-account.steps // _CURVE_POINTS))
    if not math.isfinite(final):
        return ()
    bounds = [
        (
            step,
            min(
                final, accounting.epsilon([account.first.phase(step)], account.first.delta, coarse=True).value
            ),
        )
        for step in range(stride, account.steps, stride)
    ]
    return (*bounds, (account.steps, final))


class _Libraries:
    """Turns a missing library of ``[train]`` into an error that names what to install."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("meninx"):
            fix = "pip install 'meninx[train]'"
            got = f"no {error.name}"
            what = (
                "the accounting libraries, because epsilon of a private run is computed again from its ledger"
            )
            raise UsageError(expected(what, got=got, where="report", fix=fix)) from error
