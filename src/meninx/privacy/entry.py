"""One line of the ledger: what a step is about to spend, chained to the line before by its hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass

from meninx.privacy.accounting import Phase
from meninx.privacy.plan import Plan

GENESIS = "0" * 32
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
        noise_bands: steps over which noise is correlated and sampling is cyclic; 1 for neither.
        clipping: clipping function, or empty in ledgers of before it was written down; like ``noise_bands``
            it may be missing in a line, as it is in those.
        binding: digest of everything else that determines the step, or empty; may be missing, too.
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

    @classmethod
    def of(
        cls, plan: Plan, *, index: int, step: int, stream: str, torn: str, previous: str, binding: str = ""
    ) -> LedgerEntry:
        """Return the sealed entry of one step of ``plan``."""
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
        """Privacy unit and neighboring relation: what has to be the same wherever costs are added up."""
        return self.unit, self.relation

    def mechanism(self) -> tuple[float | str, ...]:
        """Return the fields that the fingerprint stands for."""
        numbers = (self.sample_rate, self.noise_multiplier, self.max_grad_norm, self.delta, self.noise_bands)
        return (*numbers, *self.group)

    def phase(self, rounds: int) -> Phase:
        """Return so many accounted rounds of the mechanism: steps, or ``noise_bands`` steps each."""
        rate = min(1.0, self.noise_bands * self.sample_rate)
        return Phase(sample_rate=rate, noise_multiplier=self.noise_multiplier, steps=rounds)


def digest(text: str) -> str:
    """Return 32 hexadecimal digits of SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]
