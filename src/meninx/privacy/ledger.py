"""The ledger: what was really run, step by step, hash-chained.

Epsilon may only be read off here once training has begun.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from meninx.core.budget import NeighboringRelation, PrivacySpent, PrivacyUnit
from meninx.core.errors import DataError, PrivacyRefusal, expected
from meninx.privacy import accounting
from meninx.privacy.accounting import Phase
from meninx.privacy.entry import GENESIS, LedgerEntry, digest
from meninx.privacy.plan import Plan, sampler_name

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Account:
    """The steps of one plan under one set of keys.

    Attributes:
        first: the entry that opened it; holds the mechanism.
        spans: the distinct steps, as sorted disjoint ranges [start, stop).
        entries: lines written, replays included.
        torn: unfinished lines charged to it.
    """

    first: LedgerEntry
    spans: tuple[Span, ...] = ()
    entries: int = 0
    torn: int = 0

    @property
    def steps(self) -> int:
        """Optimiser steps to account: distinct ones where keys are named, else every line."""
        return (
            sum(stop - start for start, stop in self.spans) if self.first.stream else self.entries
        ) + self.torn

    def phase(self) -> Phase:
        """Return what has to be accounted.

        With correlated noise a unit takes part in every ``noise_bands``-th step at most, so the largest
        number of steps of one remainder counts; without named keys groups may have changed between lines, and
        every line does.
        """
        bands = self.first.noise_bands
        if bands == 1 or not self.first.stream:
            return self.first.phase(self.steps)
        rounds = max(sum(_congruent(span, rest, bands) for span in self.spans) for rest in range(bands))
        return self.first.phase(rounds + self.torn)

    def add(self, step: int, torn: int) -> Account:
        """Return the account with one more line."""
        return replace(self, spans=_insert(self.spans, step), entries=self.entries + 1, torn=self.torn + torn)


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """An append-only account of steps, as a value: text in, new value and one line out.

    Write the line that :meth:`next` returns to the disk *before* the optimiser step, and keep
    :attr:`anchor` in every checkpoint.

    Guarantee:
        ``epsilon(delta)`` bounds what all steps ever begun spend together, over resumes and
        changes of plan. A line cut short by a crash counts as a spent step. A step begun again under the
        same keys, plan and binding counts once, because sampler and noise repeat it exactly (the abandoned
        attempt must not be released); without named keys every line counts. One set of keys has one binding:
        with other settings or data the same noise would cover other gradients, and their difference would be
        free of noise. Editing, removing or reordering lines is refused; removing the last lines shows against
        a checkpoint's anchor. The chain is not signed: who can write the file *and* every anchor can forge
        both.

    Attributes:
        accounts: one for every plan and set of keys, in order of first use.
        entries: complete lines so far.
        head: hash of the last complete line; zeros for none.
        next_step: one more than the largest step entered.
        pending: unfinished text at the end, to be acknowledged by the next entry; empty for none.
        terminated: whether the text ends with a newline.
    """

    accounts: tuple[Account, ...] = ()
    entries: int = 0
    head: str = GENESIS
    next_step: int = 0
    pending: str = ""
    terminated: bool = True

    @property
    def anchor(self) -> tuple[int, str]:
        """The number of entries and the head: what a checkpoint keeps to find a shortened ledger out."""
        return self.entries, self.head

    @classmethod
    def parse(cls, text: str, *, anchor: tuple[int, str] | None = None) -> Ledger:
        """Return the ledger that ``text`` holds, verified line by line.

        Args:
            text: the whole file; empty for a new ledger.
            anchor: that of a checkpoint: the ledger must contain it.

        Raises:
            PrivacyRefusal: a line was changed, removed, added or moved; or the anchor is not in it.
        """
        lines = text.split("\n")
        terminated = lines[-1] == ""
        ledger = _read(lines[:-1] if terminated else lines, anchor)
        return replace(ledger, terminated=terminated)

    def next(self, plan: Plan, step: int, *, stream: str = "", binding: str = "") -> tuple[Ledger, str]:
        """Return the ledger with one more step, and the text to append to the file first.

        Args:
            plan: the plan that the step belongs to; a changed plan opens a new account.
            step: optimiser step, at most :attr:`next_step` (a resumed run may go back).
            stream: ``keystream.stream_id(...)`` of the sampling and noise keys; empty counts every line.
            binding: digest of everything else that determines the steps under these keys: settings, data,
                initial weights. A step may be replayed only when everything that determines it is the same.

        Raises:
            PrivacyRefusal: the step is ahead of the ledger or beyond the plan; unit, relation or binding
                change.
        """
        self.refuse_other_binding(stream, binding)
        if step >= plan.steps:
            raise PrivacyRefusal(
                expected(
                    f"step < plan.steps = {plan.steps}", got=step, where="Ledger.next", fix="plan more steps"
                )
            )
        torn = digest(self.pending) if self.pending else ""
        entry = LedgerEntry.of(
            plan, index=self.entries, step=step, stream=stream, torn=torn, previous=self.head, binding=binding
        )
        book = _Book(self)
        book.enter(entry, self.pending, "Ledger.next")
        return book.close(), ("" if self.terminated else "\n") + entry.line() + "\n"

    def verify(self, *, plan: Plan | None = None, steps: int = 0) -> None:
        """Raise PrivacyRefusal if the ledger knows less than a checkpoint of ``steps`` steps, or holds another plan.

        Args:
            plan: the only plan that may have been run; None allows several.
            steps: steps that the checkpoint has taken.
        """
        if steps > self.next_step:
            fix = "the ledger was shortened or replaced; restore it"
            raise PrivacyRefusal(
                expected(f"a ledger of {steps} steps or more", got=self.next_step, where="Ledger", fix=fix)
            )
        if plan is not None and any(account.first.plan != plan.fingerprint() for account in self.accounts):
            fix = "resume with the plan that was begun, or start a new phase on purpose"
            raise PrivacyRefusal(
                expected("entries of this plan only", got="a foreign plan", where="Ledger", fix=fix)
            )

    def refuse_other_binding(self, stream: str, binding: str) -> None:
        """Raise PrivacyRefusal if the keys named ``stream`` were used with other settings, data or initial weights.

        Args:
            stream: name of the secret keys; without one no two lines share noise that could be told apart.
            binding: digest of what determines a step under them.
        """
        used = next(
            (item.first.binding for item in self.accounts if stream and item.first.stream == stream), binding
        )
        if used == binding:
            return
        if not used:
            got = "a ledger of an earlier version, which does not say"
            fix = (
                "start a new run: this one cannot be resumed, and its stated epsilon may not hold "
                "(docs: differential privacy)"
            )
        else:
            got = "others"
            fix = (
                "the same noise would be added to other gradients; go on with what the run was begun "
                "with, or start a new run"
            )
        rule = "the settings, data and initial weights that these keys were used with"
        raise PrivacyRefusal(expected(rule, got=got, where="ledger", fix=fix))

    def phases(self) -> tuple[Phase, ...]:
        """Return everything spent, as phases.

        An unfinished last line is a step as dear as any account's could be.
        """
        phases = [account.phase() for account in self.accounts]
        if self.pending and phases:
            rate, noise = (
                max(phase.sample_rate for phase in phases),
                min(phase.noise_multiplier for phase in phases),
            )
            phases.append(Phase(sample_rate=rate, noise_multiplier=noise, steps=self.pending.count("\n") + 1))
        return accounting.merge(phases)

    def epsilon(self, delta: float) -> float:
        """Return epsilon of everything spent at ``delta``.

        ``inf`` if all that exists is an unfinished line.
        """
        if self.pending and not self.accounts:
            return math.inf
        return accounting.epsilon(self.phases(), delta).value

    def spent(self, delta: float | None = None) -> PrivacySpent:
        """Return everything spent; with several phases the stated rates are the worst ones and steps are summed.

        Args:
            delta: None for that of the last account.

        Raises:
            DataError: nothing was entered yet.
        """
        if not self.accounts:
            raise DataError(expected("a ledger with an entry", got="none", where="Ledger.spent"))
        first = [account.first for account in self.accounts]
        last, phases = first[-1], self.phases()
        at = last.delta if delta is None else delta
        cost = accounting.epsilon(phases, at)
        return PrivacySpent(
            epsilon=cost.value,
            delta=at,
            unit=PrivacyUnit(last.unit),
            relation=NeighboringRelation(last.relation),
            noise_multiplier=min(phase.noise_multiplier for phase in phases),
            max_grad_norm=max(entry.max_grad_norm for entry in first),
            sample_rate=max(entry.sample_rate for entry in first),
            steps=sum(account.steps for account in self.accounts)
            + (self.pending.count("\n") + 1 if self.pending else 0),
            sampler=" and ".join(dict.fromkeys(sampler_name(entry.noise_bands) for entry in first)),
            accountant=cost.accountant if len(phases) == 1 else f"{cost.accountant}, {len(phases)} phases",
            clipping=" and ".join(dict.fromkeys(entry.clipping for entry in first if entry.clipping)),
        )


class _Book:
    """A ledger open for writing; lives inside one call."""

    def __init__(self, ledger: Ledger) -> None:
        self.accounts = {(item.first.plan, item.first.stream): item for item in ledger.accounts}
        self.mechanisms = {item.first.plan: item.first.mechanism() for item in ledger.accounts}
        self.entries, self.head, self.next_step = ledger.entries, ledger.head, ledger.next_step

    def enter(self, entry: LedgerEntry, pending: str, where: str) -> None:
        """Append one entry, or raise PrivacyRefusal."""
        problem = self._problem(entry, pending)
        if problem:
            raise PrivacyRefusal(
                expected(problem, got="another", where=where, fix="restore the ledger as it was written")
            )
        key = (entry.plan, entry.stream)
        account = self.accounts.get(key)
        if account is None:
            Phase(sample_rate=entry.sample_rate, noise_multiplier=entry.noise_multiplier, steps=1)  # ranges
            account = Account(first=entry)
            self.mechanisms[entry.plan] = entry.mechanism()
        self.accounts[key] = account.add(entry.step, pending.count("\n") + 1 if pending else 0)
        self.entries, self.head = self.entries + 1, entry.hash
        self.next_step = max(self.next_step, entry.step + 1)

    def _problem(self, entry: LedgerEntry, pending: str) -> str:
        mechanism = entry.mechanism()
        group = next((account.first.group for account in self.accounts.values()), entry.group)
        checks = (
            (entry.index == self.entries, f"entry {self.entries}"),
            (entry.previous == self.head, "the hash of the entry before"),
            (entry.torn == (digest(pending) if pending else ""), "the digest of the unfinished line before"),
            (0 <= entry.step <= self.next_step, f"a step from 0 to {self.next_step}"),
            (group == entry.group, f"privacy unit and relation {group[0]}, {group[1]} in all entries"),
            (self._used(entry).noise_bands == entry.noise_bands, "one noise_bands under one set of keys"),
            (self._used(entry).binding == entry.binding, "one binding under one set of keys"),
            (
                self.mechanisms.get(entry.plan, mechanism) == mechanism,
                "one mechanism for one plan fingerprint",
            ),
        )
        return next((rule for holds, rule in checks if not holds), "")

    def _used(self, entry: LedgerEntry) -> LedgerEntry:
        """Return the first entry of the keys: with another noise_bands or binding they would give the same noise twice."""
        used = (
            account.first
            for account in self.accounts.values()
            if entry.stream and account.first.stream == entry.stream
        )
        return next(used, entry)

    def close(self) -> Ledger:
        """Return the ledger as a value again."""
        accounts = tuple(self.accounts.values())
        return Ledger(accounts=accounts, entries=self.entries, head=self.head, next_step=self.next_step)


def _read(lines: list[str], anchor: tuple[int, str] | None) -> Ledger:
    book = _Book(Ledger())
    fragments: list[str] = []
    anchored = anchor is None or anchor == (book.entries, book.head)
    for number, line in enumerate(lines, start=1):
        where = f"ledger, line {number}"
        try:
            entry = LedgerEntry.parse(line)
        except ValueError:
            fix = "restore the ledger as it was written"
            raise PrivacyRefusal(
                expected("a line as it was written", got="a changed one", where=where, fix=fix)
            ) from None
        if entry is None:
            fragments.append(line)
            continue
        book.enter(entry, "\n".join(fragments), where)
        fragments = []
        anchored = anchored or anchor == (book.entries, book.head)
    if not anchored:
        fix = "the ledger was shortened or replaced; restore it"
        raise PrivacyRefusal(
            expected("the entry that the checkpoint names", got="none", where="ledger", fix=fix)
        )
    return replace(book.close(), pending="\n".join(fragments))


def _congruent(span: Span, rest: int, modulus: int) -> int:
    """Return how many numbers of [start, stop) leave ``rest`` when divided by ``modulus``."""
    start, stop = span
    return (stop - rest - 1) // modulus - (start - rest - 1) // modulus


def _insert(spans: tuple[Span, ...], step: int) -> tuple[Span, ...]:
    """Return sorted disjoint ranges with one step more."""
    if spans and spans[-1][1] == step:
        return (*spans[:-1], (spans[-1][0], step + 1))
    if any(start <= step < stop for start, stop in spans):
        return spans
    merged: list[Span] = []
    for start, stop in sorted([*spans, (step, step + 1)]):
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return tuple(merged)
