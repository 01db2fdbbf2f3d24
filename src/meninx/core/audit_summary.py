"""What an audit as a whole records: its registered plan and the summary of its parts.

Written and read by :mod:`meninx.core.artifacts`. The numbers stand in the findings, the details in the
records of the parts, which the summary names by their SHA-256.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from meninx.core.errors import DataError, expected, problem
from meninx.core.findings import COLOURS, LINES, MOST_FINDINGS, Finding, check_text
from meninx.core.origin import Origin
from meninx.core.summaries import FORMAT

DONE, NOT_DONE = "done", "not done"
NO_GUARANTEE = "no guarantee"
"""Word of a line where nothing at all is guaranteed."""


@dataclass(frozen=True, kw_only=True)
class FinishedPart:
    """A part of an audit that is finished, so that another audit with the same settings takes it over.

    Attributes:
        settings: SHA-256 of the settings that it was made with.
        sha256: of its record.
        seconds: what it took; 0 in an audit that can be repeated bit for bit.
    """

    settings: str
    sha256: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class EarlierPlan:
    """A plan that a later one took the place of.

    Attributes:
        sha256: of the plan.
        registered: time, ISO 8601 in UTC.
        results: results of it existed when it was replaced.
    """

    sha256: str
    registered: str
    results: bool


def registration_hash(plan_sha256: str, run: str, weights: str) -> str:
    """Return the SHA-256 that binds a plan to one run: publish it before the audit begins.

    It is that of three lines: the hash of the plan, the run's id, and the digest of its weights.

    Args:
        plan_sha256: of ``audit/plan.toml``.
        run: id of the audited run.
        weights: digest of its released weights.
    """
    return hashlib.sha256(f"{plan_sha256}\n{run}\n{weights}\n".encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """When the plan of an audit was registered, and what is finished of it: ``audit/plan.json``.

    Attributes:
        sha256: of ``audit/plan.toml``.
        registered: time of the registration, ISO 8601 in UTC; empty in an audit that can be repeated bit for
            bit.
        after_results: parts of which results existed already, so that the plan was not made before them.
        earlier: plans that it took the place of.
        parts: name of a part -> what is finished.
        text: the plan as TOML, from which ``audit/plan.toml`` is written again when a process was killed
            before it; empty in a summary.
        version: format of the record.
    """

    sha256: str
    registered: str
    after_results: tuple[str, ...] = ()
    earlier: tuple[EarlierPlan, ...] = ()
    parts: dict[str, FinishedPart] = field(default_factory=dict)
    text: str = ""
    version: int = FORMAT

    def words(self) -> str:
        """Return in a sentence when the plan was made."""
        when = f" on {self.registered}" if self.registered else ""
        if not self.after_results:
            return f"The plan was registered{when}, before any result existed."
        results = ", ".join(self.after_results)
        return f"The plan was registered{when} AFTER results existed ({results}): it is no pre-registration."


@dataclass(frozen=True, kw_only=True)
class AuditedPart:
    """One part of an audit.

    Attributes:
        name: ``bounds``, ``one-run``, ``membership`` or another part's name.
        state: ``done`` or ``not done``.
        reason: why it was not done; else empty.
        sha256: of its record; empty where it was not done.
        seconds: what it took; 0 in an audit that can be repeated bit for bit.
        findings: its numbers.
        refuted: it refutes the guarantee of the run.
        void: which control failed, so that no number of the part is green; else empty.
    """

    name: str
    state: str
    reason: str = ""
    sha256: str = ""
    seconds: float = 0.0
    findings: tuple[Finding, ...] = ()
    refuted: bool = False
    void: str = ""

    def __post_init__(self) -> None:
        """Refuse a part that contradicts itself."""
        if self.state not in (DONE, NOT_DONE) or (self.state == DONE) != bool(self.sha256):
            raise DataError(problem("the part of the audit contradicts itself", where=self.name[:40]))
        if len(self.findings) > MOST_FINDINGS:
            raise DataError(expected(f"at most {MOST_FINDINGS:,} findings", got="more", where=self.name[:40]))


@dataclass(frozen=True, kw_only=True)
class VerdictLine:
    """One of the three lines of an audit's verdict.

    Attributes:
        line: ``guaranteed``, ``measured`` or ``implementation``.
        colour: ``green``, ``amber``, ``red`` or ``grey``.
        word: the verdict in a few words.
        words: the verdict in a sentence.
        rule: what the colour rests on.
    """

    line: str
    colour: str
    word: str
    words: str
    rule: str

    def __post_init__(self) -> None:
        """Refuse a line that is none, or claims too much."""
        if self.line not in LINES or self.colour not in COLOURS:
            raise DataError(problem("the verdict of the audit has another line or colour", where="audit"))
        for text in (self.word, self.words, self.rule):
            check_text(text, where=f"verdict {self.line}")


@dataclass(frozen=True, kw_only=True)
class PlainSentence:
    """What a guarantee means for an attacker that already narrowed a patient's data to a few candidates.

    Attributes:
        candidates: how many candidates there are.
        guess: what a blind guess gives.
        most: no attack is right more often; 1 where nothing is guaranteed.
        words: the sentence.
    """

    candidates: int
    guess: float
    most: float
    words: str

    def __post_init__(self) -> None:
        """Refuse numbers that are no shares."""
        if self.candidates < 1 or not 0 <= self.guess <= self.most <= 1:
            raise DataError(problem("the plain sentences of the audit contradict themselves", where="audit"))
        check_text(self.words, where=f"sentence for {self.candidates}")


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """The summary of a run's audit: ``audit/audit.json``.

    Attributes:
        origin: the audited run, its released weights and its dataset.
        private: the run was trained with differential privacy.
        plan: SHA-256 of the plan, when it was registered, and earlier plans; what is finished stands in
            ``parts``.
        parts: in the order of the plan.
        lines: the three lines of the verdict.
        sentences: what the guarantee means; for a run without privacy they say that nothing is guaranteed.
        facts: mechanism and origin, as (name, value).
        not_tested: what the audit did not test.
        conditions: conditions of the plan that are met, so that the audit fails.
        seconds: of all parts; 0 in an audit that can be repeated bit for bit.
        rerun: command that repeats the audit.
        deterministic: the audit can be repeated bit for bit; its randomness came from a seed.
        version: format of the record.
    """

    origin: Origin
    private: bool
    plan: PlanRecord
    parts: tuple[AuditedPart, ...]
    lines: tuple[VerdictLine, ...]
    sentences: tuple[PlainSentence, ...]
    facts: tuple[tuple[str, str], ...]
    not_tested: tuple[str, ...]
    conditions: tuple[str, ...] = ()
    seconds: float = 0.0
    rerun: str = ""
    deterministic: bool = False
    version: int = FORMAT

    def __post_init__(self) -> None:
        """Refuse a summary without its three lines, or with texts that claim too much."""
        if tuple(item.line for item in self.lines) != LINES:
            raise DataError(problem(f"the verdict has other lines than {', '.join(LINES)}", where="audit"))
        if len({item.name for item in self.parts}) != len(self.parts):
            raise DataError(problem("the audit names a part twice", where="audit"))
        for text in self.not_tested:
            check_text(text, where="what was not tested")

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings of all parts."""
        return tuple(found for part in self.parts for found in part.findings)

    def line(self, name: str) -> VerdictLine:
        """Return one line of the verdict by its name."""
        return next(item for item in self.lines if item.line == name)
