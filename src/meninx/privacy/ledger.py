"""The ledger: one hash-chained line per optimiser step, written before the step is taken.

:class:`LedgerEntry` is one line, :class:`Ledger` the whole account. Once training has begun, epsilon is read
from the ledger and never from the plan, because the ledger also contains repeated and interrupted steps.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field, replace

from meninx.core.budget import NeighboringRelation, PrivacySpent, PrivacyUnit
from meninx.core.errors import DataError, PrivacyRefusal, expected, problem
from meninx.privacy import accounting
from meninx.privacy.accounting import Phase
from meninx.privacy.plan import Plan, sampler_name

GENESIS = "0" * 32
# A line is hashed as the text before this seal, so a reader verifies exactly the bytes that were written and
# does not depend on how its JSON library prints numbers.
_SEAL = ',"hash":"'


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerEntry:
    """What one optimiser step spends; written before the step is taken.

    Attributes:
        index: position in the ledger, from 0.
        plan: fingerprint of the plan.
        sample_rate: q of the step.
        noise_multiplier: noise standard deviation over ``max_grad_norm``.
        max_grad_norm: clipping threshold.
        unit: privacy unit.
        relation: neighboring relation.
        delta: the plan's delta.
        step: optimiser step, from 0.
        stream: name of the secret keys (``keystream.stream_id``), or empty.
        torn: digest of the unfinished lines just before this one, or empty.
        noise_bands: steps over which noise is correlated and sampling is cyclic; 1 for neither. Lines of
            earlier versions may lack this field and the next three.
        clipping: clipping function, or empty in ledgers of earlier versions.
        binding: digest of everything else that determines the step, or empty.
        state: keyed digest of the weights, the threshold and the drawn units at the beginning of the step,
            or empty.
        previous: hash of the entry before; zeros for the first.
        hash: 32 hexadecimal digits of SHA-256 over all of the above as written.
    """

    index: int
    plan: str
    sample_rate: float
    noise_multiplier: float
    max_grad_norm: float
    unit: str
    relation: str
    delta: float
    step: int
    stream: str
    torn: str
    previous: str
    hash: str
    noise_bands: int = 1
    clipping: str = ""
    binding: str = ""
    state: str = ""

    @classmethod
    def of(
        cls,
        plan: Plan,
        *,
        index: int,
        step: int,
        stream: str,
        torn: str,
        previous: str,
        binding: str = "",
        state: str = "",
    ) -> LedgerEntry:
        """Return the entry of one step of ``plan``, with its hash."""
        draft = cls(
            index=index,
            plan=plan.fingerprint(),
            sample_rate=plan.sample_rate,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.max_grad_norm,
            unit=str(plan.unit),
            relation=str(plan.relation),
            delta=plan.delta,
            step=step,
            stream=stream,
            torn=torn,
            previous=previous,
            hash="",
            noise_bands=plan.noise_bands,
            clipping=plan.clipping,
            binding=binding,
            state=state,
        )
        return dataclasses.replace(draft, hash=digest(draft._body()))

    def line(self) -> str:
        """Return the entry as one line of JSON, without the newline."""
        return f'{self._body()}{_SEAL}{self.hash}"}}'

    def _body(self) -> str:
        table = {
            item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "hash"
        }
        return json.dumps(table, separators=(",", ":"))[:-1]

    @classmethod
    def parse(cls, line: str) -> LedgerEntry | None:
        """Return the entry of a line, or None for an unfinished line.

        Raises:
            ValueError: the line is complete but is not what was written.
        """
        try:
            table = json.loads(line)
        except ValueError:
            # A crash leaves a prefix of a line, which cannot end like a whole one. Invalid JSON with the
            # right end was edited.
            if line.endswith('"}'):
                raise
            return None
        body, seal, _ = line.rpartition(_SEAL)
        try:
            entry = cls(**table)
        except TypeError:
            raise ValueError("unknown or missing fields") from None
        if not seal or entry.hash != digest(body):
            raise ValueError("the hash does not match the line")
        return entry

    @property
    def group(self) -> tuple[str, str]:
        """Privacy unit and neighboring relation, which must agree wherever costs are added up."""
        return self.unit, self.relation

    def mechanism(self) -> tuple[float | str, ...]:
        """Return the fields that must agree in all entries with the same plan fingerprint."""
        numbers = (self.sample_rate, self.noise_multiplier, self.max_grad_norm, self.delta, self.noise_bands)
        return (*numbers, *self.group)

    def phase(self, rounds: int) -> Phase:
        """Return ``rounds`` accounted rounds of the mechanism, each of ``noise_bands`` optimiser steps."""
        rate = min(1.0, self.noise_bands * self.sample_rate)
        return Phase(sample_rate=rate, noise_multiplier=self.noise_multiplier, steps=rounds)


def digest(text: str) -> str:
    """Return 32 hexadecimal digits of SHA-256 of a text."""
    # surrogateescape: a torn or damaged line may hold any bytes, and its digest has to be taken all the same.
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class LedgerAccount:
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

        With correlated noise a unit takes part only in steps of one remainder modulo ``noise_bands``, so the
        remainder with the most steps counts. Without named keys the groups may have changed from line to
        line, and every line counts.
        """
        bands = self.first.noise_bands
        if bands == 1 or not self.first.stream:
            return self.first.phase(self.steps)
        rounds = max(sum(_congruent(span, rest, bands) for span in self.spans) for rest in range(bands))
        return self.first.phase(rounds + self.torn)

    def add(self, step: int, torn: int) -> LedgerAccount:
        """Return the account with one more line."""
        return replace(self, spans=_insert(self.spans, step), entries=self.entries + 1, torn=self.torn + torn)


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """An append-only account of optimiser steps, as an immutable value.

    :meth:`parse` reads it from text; :meth:`next` returns a new ledger and the line to append. The caller
    writes the file.

    Example::

        >>> from meninx.privacy import Plan
        >>> plan = Plan.build(n_units=1_000, expected_batch_size=50, delta=1e-5, steps=200,
        ...                   noise_multiplier=1.0, max_grad_norm=1.0)
        >>> ledger, text = Ledger(), ""
        >>> for step in range(3):
        ...     ledger, line = ledger.next(plan, step)
        ...     text += line                        # append it to the file and sync, then take the step
        >>> again = Ledger.parse(text, anchor=ledger.anchor)
        >>> again.spent().steps, again.epsilon(plan.delta) == plan.epsilon(3)
        (3, True)

    Write the line that :meth:`next` returns to the disk *before* the optimiser step, and keep
    :attr:`anchor` in every checkpoint.

    Guarantee:
        ``epsilon(delta)`` bounds what all steps ever begun spend together, over resumes and
        changes of plan. A line cut short by a crash counts as a spent step. A step repeated under the
        same keys, plan and binding counts once, because sampler and noise repeat it exactly (the abandoned
        attempt must not be released); without named keys every line counts. A step may be repeated only
        from the state recorded for it, where a state was recorded. One set of keys has one binding:
        with other settings or data the same noise would cover other gradients, and their difference would be
        free of noise. Editing, removing or reordering lines is refused; removing the last lines is detected
        by comparison with a checkpoint's anchor. The chain is not signed: an attacker who can write the file
        *and* every anchor can forge both.

    Attributes:
        accounts: one per plan and set of keys, in order of first use.
        entries: complete lines so far.
        head: hash of the last complete line; zeros for none.
        next_step: one more than the largest step entered.
        pending: unfinished text at the end, whose digest the next entry will contain; empty for none.
        terminated: whether the text ends with a newline.
        states: (stream, step) -> state recorded when the step was first begun.
    """

    accounts: tuple[LedgerAccount, ...] = ()
    entries: int = 0
    head: str = GENESIS
    next_step: int = 0
    pending: str = ""
    terminated: bool = True
    states: dict[tuple[str, int], str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def anchor(self) -> tuple[int, str]:
        """The number of entries and the head; a checkpoint stores both to detect a shortened ledger."""
        return self.entries, self.head

    @property
    def ending(self) -> str:
        """The end of the ledger's text, from the hash of the last complete line on.

        A writer compares it with the end of the file before it appends, so that it never appends to a file
        that another process has changed.
        """
        last = f'{_SEAL}{self.head}"}}' if self.entries else ""
        newline = "\n" if last and (self.pending or self.terminated) else ""
        return last + newline + self.pending + ("\n" if self.pending and self.terminated else "")

    @classmethod
    def parse(cls, text: str, *, anchor: tuple[int, str] | None = None) -> Ledger:
        """Return the ledger that ``text`` holds, verified line by line.

        Args:
            text: the whole file; empty for a new ledger.
            anchor: the anchor of a checkpoint, which the ledger must contain; None for no check.

        Raises:
            PrivacyRefusal: a line was changed, removed, added or moved; or the anchor is not in it.
        """
        lines = text.split("\n")
        terminated = lines[-1] == ""
        ledger = _read(lines[:-1] if terminated else lines, anchor)
        return replace(ledger, terminated=terminated)

    def next(
        self, plan: Plan, step: int, *, stream: str = "", binding: str = "", state: str = ""
    ) -> tuple[Ledger, str]:
        """Return the ledger with one more step, and the text to append to the file before the step is taken.

        Args:
            plan: the plan that the step belongs to; a changed plan opens a new account.
            step: optimiser step, at most :attr:`next_step` (a resumed run may go back).
            stream: ``keystream.stream_id(...)`` of the sampling and noise keys; empty counts every line.
            binding: digest of everything else that determines the steps under these keys: settings, data,
                initial weights. A step may be replayed only with the same binding.
            state: keyed digest of the weights, the threshold and the drawn units at the start of the step.

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
            plan,
            index=self.entries,
            step=step,
            stream=stream,
            torn=torn,
            previous=self.head,
            binding=binding,
            state=state,
        )
        writer = _LedgerWriter(self)
        writer.enter(entry, self.pending, "Ledger.next")
        return writer.close(), ("" if self.terminated else "\n") + entry.line() + "\n"

    def repeats(self, stream: str, step: int, state: str) -> bool:
        """Return whether a step under named keys is new, or starts from the state recorded for it.

        A line of an earlier version has no state and is taken to agree.
        """
        return step >= self.next_step or self.states.get((stream, step), state) == state

    def began(self, stream: str, step: int, state: str) -> bool:
        """Return whether the ledger records that a step under named keys was begun from this state."""
        return step < self.next_step and bool(state) and self.states.get((stream, step)) == state

    def verify(self, *, plan: Plan | None = None, steps: int = 0) -> None:
        """Raise PrivacyRefusal if the ledger has fewer than ``steps`` steps, or entries of another plan.

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
            raise PrivacyRefusal(problem("the ledger has entries of another plan", where="Ledger", fix=fix))

    def refuse_other_binding(self, stream: str, binding: str) -> None:
        """Raise PrivacyRefusal if the keys ``stream`` were used with other settings, data or initial weights.

        Args:
            stream: name of the secret keys; empty where they are not named, which is never refused because
                every line is then charged.
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
                "with, or start a new run (a run that an earlier version began, before a setting was added, "
                "cannot be resumed)"
            )
        rule = "the settings, data and initial weights that these keys were used with"
        raise PrivacyRefusal(expected(rule, got=got, where="ledger", fix=fix))

    def phases(self) -> tuple[Phase, ...]:
        """Return everything spent, as phases.

        An unfinished last line is charged as one step at the most expensive rate and noise of all accounts.
        """
        phases = [account.phase() for account in self.accounts]
        if self.pending and phases:
            # What the unfinished line said is unknown, and its step may have been released.
            rate, noise = (
                max(phase.sample_rate for phase in phases),
                min(phase.noise_multiplier for phase in phases),
            )
            phases.append(Phase(sample_rate=rate, noise_multiplier=noise, steps=self.pending.count("\n") + 1))
        return accounting.merge(phases)

    @property
    def torn(self) -> int:
        """Unfinished lines, each of which counts as a step."""
        pending = self.pending.count("\n") + 1 if self.pending else 0
        return pending + sum(account.torn for account in self.accounts)

    def epsilon(self, delta: float) -> float:
        """Return epsilon of everything spent at ``delta``; ``inf`` if there is only an unfinished line."""
        if self.pending and not self.accounts:
            return math.inf
        return accounting.epsilon(self.phases(), delta).value

    def spent(self, delta: float | None = None) -> PrivacySpent:
        """Return everything spent; with several phases, their worst rates and the sum of their steps.

        Args:
            delta: in (0, 1); None for that of the last account.

        Raises:
            DataError: the ledger has no entry.
        """
        if not self.accounts:
            raise DataError(problem("the ledger has no entry", where="Ledger.spent"))
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


class _LedgerWriter:
    """A mutable copy of a ledger, used within one call."""

    def __init__(self, ledger: Ledger) -> None:
        self.accounts = {(item.first.plan, item.first.stream): item for item in ledger.accounts}
        self.mechanisms = {item.first.plan: item.first.mechanism() for item in ledger.accounts}
        self.entries, self.head, self.next_step = ledger.entries, ledger.head, ledger.next_step
        # Shared between values, because copying it would make a run quadratic in its steps. It may therefore
        # hold steps that another value entered after this one; they are at or beyond next_step and ignored.
        self.states = ledger.states

    def enter(self, entry: LedgerEntry, pending: str, where: str) -> None:
        """Append one entry, or raise PrivacyRefusal."""
        rule = self._broken_rule(entry, pending)
        if rule:
            raise PrivacyRefusal(
                problem(
                    f"the entry breaks the rule: {rule}",
                    where=where,
                    fix="restore the ledger as it was written",
                )
            )
        key = (entry.plan, entry.stream)
        account = self.accounts.get(key)
        if account is None:
            # Built for its range checks only: the numbers may come from a file.
            Phase(sample_rate=entry.sample_rate, noise_multiplier=entry.noise_multiplier, steps=1)
            account = LedgerAccount(first=entry)
            self.mechanisms[entry.plan] = entry.mechanism()
        place = (entry.stream, entry.step)
        # Another value already entered this step, so the two histories diverge: this one gets its own copy,
        # without the steps that it does not share.
        if entry.step == self.next_step and place in self.states:
            self.states = {item: state for item, state in self.states.items() if item[1] < self.next_step}
        if entry.stream and entry.state:
            self.states.setdefault(place, entry.state)
        self.accounts[key] = account.add(entry.step, pending.count("\n") + 1 if pending else 0)
        self.entries, self.head = self.entries + 1, entry.hash
        self.next_step = max(self.next_step, entry.step + 1)

    def _broken_rule(self, entry: LedgerEntry, pending: str) -> str:
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
                not self._under_another_plan(entry),
                "one plan for each step under one set of keys: scaled otherwise, the same noise would cancel",
            ),
            (
                not entry.state or self._begun_with(entry) == entry.state,
                "a step is repeated with the weights, the threshold and the units it was begun with: the "
                "same noise would cover other gradients",
            ),
            (
                self.mechanisms.get(entry.plan, mechanism) == mechanism,
                "one mechanism for one plan fingerprint",
            ),
        )
        return next((rule for holds, rule in checks if not holds), "")

    def _used(self, entry: LedgerEntry) -> LedgerEntry:
        """Return the first entry of these keys; all others must have its noise_bands and binding."""
        used = (
            account.first
            for account in self.accounts.values()
            if entry.stream and account.first.stream == entry.stream
        )
        return next(used, entry)

    def _begun_with(self, entry: LedgerEntry) -> str:
        """Return the state recorded for an entry's step; the entry's own if the step is new."""
        known = self.states if entry.step < self.next_step else {}
        return known.get((entry.stream, entry.step), entry.state)

    def _under_another_plan(self, entry: LedgerEntry) -> bool:
        """Return whether the same keys were used for the same step under another plan."""
        return bool(entry.stream) and any(
            start <= entry.step < stop
            for (plan, stream), account in self.accounts.items()
            if stream == entry.stream and plan != entry.plan
            for start, stop in account.spans
        )

    def close(self) -> Ledger:
        """Return the ledger as a value again."""
        accounts = tuple(self.accounts.values())
        return Ledger(
            accounts=accounts,
            entries=self.entries,
            head=self.head,
            next_step=self.next_step,
            states=self.states,
        )


def _read(lines: list[str], anchor: tuple[int, str] | None) -> Ledger:
    """Return the ledger of some lines; raise PrivacyRefusal where a line or the anchor does not fit."""
    writer = _LedgerWriter(Ledger())
    fragments: list[str] = []
    anchored = anchor is None or anchor == (writer.entries, writer.head)
    for number, line in enumerate(lines, start=1):
        where = f"ledger, line {number}"
        try:
            entry = LedgerEntry.parse(line)
        except ValueError:
            fix = "restore the ledger as it was written"
            raise PrivacyRefusal(problem("the line was changed", where=where, fix=fix)) from None
        if entry is None:
            fragments.append(line)
            continue
        # The next complete entry contains the digest of the fragments before it, so they cannot be removed
        # later to make the spent steps disappear.
        writer.enter(entry, "\n".join(fragments), where)
        fragments = []
        anchored = anchored or anchor == (writer.entries, writer.head)
    if not anchored:
        fix = "the ledger was shortened or replaced; restore it"
        raise PrivacyRefusal(
            problem("the ledger lacks the entry that the checkpoint names", where="ledger", fix=fix)
        )
    return replace(writer.close(), pending="\n".join(fragments))


def _congruent(span: Span, rest: int, modulus: int) -> int:
    """Return how many numbers of [start, stop) leave ``rest`` when divided by ``modulus``."""
    start, stop = span
    return (stop - rest - 1) // modulus - (start - rest - 1) // modulus


def _insert(spans: tuple[Span, ...], step: int) -> tuple[Span, ...]:
    """Return sorted disjoint ranges with one more step."""
    # The usual case first: a run goes on by one step, and the last range grows.
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
