"""``meninx audit scores``: a verdict on anybody's run, from two files with the scores of its canaries."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from meninx.audit.config import ScoresConfig
from meninx.core import files
from meninx.core.audit_records import ScoreAudit
from meninx.core.errors import AuditFinding, ConfigError, DataError, UsageError, expected, problem
from meninx.core.percentages import percent
from meninx.core.result import Result
from meninx.privacy.accounting import Phase
from meninx.privacy.claim import Claim
from meninx.privacy.score_audit import MOST_CANARIES, audit_scores, ceilings

_MOST_BYTES = 16 * MOST_CANARIES + 65_536
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_SLACK = 1.02  # accountants of other programs may state a slightly smaller epsilon


@dataclass(frozen=True, kw_only=True)
class ScoresResult(Result):
    """The audit of a run by the scores of its canaries; ``out`` is the file of the included ones.

    Attributes:
        audit: bounds, estimates and verdict.
        mechanism: the claim is that of a mechanism, not an epsilon alone.
    """

    audit: ScoreAudit
    mechanism: bool

    def summary(self) -> str:
        """Return the audit in words."""
        return "\n".join(audit_lines(self.audit, mechanism=self.mechanism))

    def raise_if_refuted(self) -> None:
        """Raise AuditFinding when the claim is refuted."""
        if self.audit.verdict == "refuted":
            what = f"the claim is refuted by {', '.join(self.audit.refuted_by)}"
            raise AuditFinding(problem(what, where=f"epsilon {self.audit.claim_epsilon:.4g}"))


def run_scores(config: ScoresConfig, included: Path, excluded: Path) -> ScoresResult:
    """Return the verdict on a claim.

    Args:
        config: the claim.
        included: ``.npy`` file with the scores of canaries that took part.
        excluded: that of those that did not.

    Raises:
        UsageError: no claim, or half of a mechanism.
        DataError: a file that holds no scores.
    """
    claim = claim_of(config)
    audit = audit_scores(
        read_scores(included), read_scores(excluded), claim, significance=config.significance
    )
    return ScoresResult(out=included, audit=audit, mechanism=bool(claim.phases))


def claim_of(config: ScoresConfig) -> Claim:
    """Return the claim that settings state.

    Raises:
        UsageError: neither epsilon nor a whole mechanism is given.
        ConfigError: the mechanism spends more than the claimed epsilon.
    """
    given = (config.noise_multiplier, config.sample_rate, config.steps)
    if None in given and any(value is not None for value in given):
        rule = "noise_multiplier, sample_rate and steps together"
        got = f"{sum(value is not None for value in given)} of the three"
        raise UsageError(expected(rule, got=got, where="the claimed mechanism"))
    if config.noise_multiplier is None or config.sample_rate is None or config.steps is None:
        if config.claimed_eps is None:
            fix = "give --claimed-eps, or --noise-multiplier, --sample-rate and --steps"
            raise UsageError(problem("there is no claim to test", where="meninx audit scores", fix=fix))
        return Claim(epsilon=config.claimed_eps, delta=config.claimed_delta)
    phase = Phase(
        sample_rate=config.sample_rate, noise_multiplier=config.noise_multiplier, steps=config.steps
    )
    claim = Claim.of_mechanism([phase], delta=config.claimed_delta)
    if config.claimed_eps is not None and claim.epsilon > config.claimed_eps * _SLACK:
        rule = f"a mechanism of epsilon {config.claimed_eps:.4g} or less at delta {claim.delta:g}"
        fix = "claim the epsilon of the mechanism, or leave --claimed-eps out"
        raise ConfigError(expected(rule, got=f"{claim.epsilon:.4g}", where="claimed_eps", fix=fix))
    return claim


def read_scores(path: Path) -> npt.NDArray[np.float64]:
    """Return the list of numbers in a ``.npy`` file, whoever wrote it.

    Nothing in the file is executed, and no more memory is used than the file has bytes.

    Raises:
        DataError: too large, no ``.npy`` file, or no list of numbers; names the file.
    """
    content = files.read_bytes(path, limit=_MOST_BYTES)
    stream, where = io.BytesIO(content), path.name
    try:
        shape, _, kind = _READERS[np.lib.format.read_magic(stream)](stream)
    except Exception as error:  # whatever numpy meets in foreign bytes
        fix = "write it with numpy.save(path, scores)"
        raise DataError(expected("a .npy file", got="something else", where=where, fix=fix)) from error
    if kind.kind not in "fiu" or kind.hasobject or kind.itemsize > 16 or len(shape) != 1:
        got = f"shape {shape} of type {kind}"[:80]
        raise DataError(expected("a list of numbers", got=got, where=where))
    size = shape[0] * kind.itemsize
    if shape[0] < 0 or len(content) - stream.tell() != size:
        rule = f"{shape[0]} numbers, as its header says"
        raise DataError(expected(rule, got=f"{len(content) - stream.tell()} bytes", where=where))
    return np.frombuffer(content, dtype=kind, offset=stream.tell()).astype(np.float64)


def audit_lines(audit: ScoreAudit, *, mechanism: bool = True) -> list[str]:
    """Return an audit in words: certified bounds, then model-based numbers, then the verdict."""
    sure = percent(audit.confidence)
    most = ceilings(audit.included, audit.excluded, delta=audit.delta, significance=1 - audit.confidence)
    claim = "of the stated mechanism" if mechanism else "alone; the mechanism is not stated"
    lines = [
        f"canaries: {audit.included} included, {audit.excluded} excluded",
        f"claim: epsilon {audit.claim_epsilon:.4g} at delta {audit.delta:g}, {claim}",
        f"certified, each with {sure} confidence:",
        f"  epsilon at least {audit.one_run_epsilon:.3g} (Steinke et al. 2023)",
        f"  epsilon at least {audit.fdp_epsilon:.3g} (f-DP form, Mahloujifar et al. 2024)",
        f"  epsilon at least {audit.rates_epsilon:.3g} (error rates, Clopper-Pearson)",
        f"  epsilon at least {audit.fdp_split_epsilon:.3g} (f-DP form, one half chooses the guesses)",
        f"  TPR - FPR at least {audit.advantage:.3f}, the claim allows {audit.claim_advantage:.3f}",
        "model-based, not certified:",
        f"  mu {audit.mu:.2f} ({sure} interval {audit.mu_low:.2f} to {audit.mu_high:.2f}), "
        f"the claim allows {'any' if audit.claim_mu is None else f'{audit.claim_mu:.2f}'}",
        f"  epsilon at least {audit.gdp_epsilon:.3g} (Gaussian)",
        f"note: with so many canaries no certified bound exceeds {most.one_run:.3g} (Steinke et al.), "
        f"{most.fdp:.3g} (f-DP form), {most.rates:.3g} (error rates) or {most.fdp_split:.3g} (f-DP form, one "
        "half chooses), whatever the run does; a small bound is no evidence of privacy",
    ]
    return [*lines, f"verdict: {verdict_words(audit)}"]


def verdict_words(audit: ScoreAudit) -> str:
    """Return the verdict as a sentence."""
    if audit.verdict == "refuted":
        found = ", ".join(f"{check.name} ({check.basis})" for check in audit.checks if check.refuted)
        return f"REFUTED by {found}"
    if audit.verdict == "suspicious":
        return (
            "suspicious: a Gaussian mechanism with these scores has a larger epsilon; state the mechanism to "
            "test it"
        )
    return "consistent with the claim"
