"""What an audit of the implementation found, as pages and thresholds read it: the twin and the control."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from meninx.audit.scores import verdict_words
from meninx.core.audit_records import MechanismCheck, OneRunRecord
from meninx.core.findings import IMPLEMENTATION, Finding, key_of

TOO_WEAK = "half of the noise was not noticed, so the audit is too weak to say anything"
_CHECK_WORDS = {"noise": "the measured noise", "length": "the measured length of a canary"}


def findings(record: OneRunRecord) -> tuple[Finding, ...]:
    """Return the numbers of an audit for pages and thresholds: the twin's, and those of the control."""
    audit, caught = record.audit, record.control_found
    colours = {"refuted": "red", "suspicious": "amber", "consistent": "green"}
    colour, reason = colours[audit.verdict], verdict_words(audit)
    if record.refuted_by and colour != "red":
        colour, reason = "red", f"REFUTED by {', '.join(record.refuted_by)}"
    if not caught and colour != "red":
        colour, reason = "grey", TOO_WEAK
    claim = audit.claim_epsilon if math.isfinite(audit.claim_epsilon) else None

    def finding(name: str, words: str, of: tuple[float, float, float | None], bound: float | None) -> Finding:
        value, low, high = of
        return Finding(
            key=key_of("one-run", name), line=IMPLEMENTATION, words=words, value=value, low=low, high=high,
            n=audit.included + audit.excluded, null=0.0, bound=bound, colour=colour, reason=reason,
            counted="canaries",
        )  # fmt: skip

    control = record.control
    return (
        finding(
            "mu", "How far the program's own steps drive apart made-up patients that took part or did not "
            "(mu, estimated).", (audit.mu, min(audit.mu, audit.mu_low), max(audit.mu, audit.mu_high)),
            audit.claim_mu,
        ),
        finding(
            "epsilon-lower-limit", "The run's real epsilon is at least this (f-DP form, 95 % sure).",
            (audit.fdp_epsilon, audit.fdp_epsilon, None), claim,
        ),
        finding(
            "advantage-lower-limit", "TPR - FPR of the best test on the made-up patients is at least this.",
            (audit.advantage, audit.advantage, None), audit.claim_advantage,
        ),
        replace(
            finding(
                "halved-noise-control", "Positive control: mu of the same steps with half of the noise.",
                (control.mu, min(control.mu, control.mu_low), max(control.mu, control.mu_high)),
                control.claim_mu,
            ),
            colour="green" if caught else "grey",
            reason=control_words(record),
        ),
        *(_mechanism_findings(record.mechanism, record) if record.mechanism is not None else ()),
    )  # fmt: skip


def void(record: OneRunRecord) -> str:
    """Return that the positive control was not noticed; else empty."""
    return "" if record.control_found else TOO_WEAK


def control_words(record: OneRunRecord) -> str:
    """Return by which checks half of the noise was noticed."""
    mechanism = record.control_mechanism
    by = (*record.control.refuted_by, *(mechanism.refuted_by if mechanism is not None else ()))
    if not record.control_found or not by:
        return "half of the noise was NOT noticed"
    names = [_CHECK_WORDS.get(name, name) for name in by]
    others = "" if "mu" in by else ", not by mu"
    return f"half of the noise was noticed by {', '.join(names)}{others}"


def _mechanism_findings(found: MechanismCheck, record: OneRunRecord) -> Iterator[Finding]:
    """Yield the noise and the length of a clipped canary; the latter where the noise does not hide it."""
    audit = record.audit

    def judged(check: str, bad: str, good: str) -> tuple[str, str]:
        if check in found.refuted_by:
            return "red", bad
        weak = void(record)
        return ("grey", weak) if weak else ("green", good)

    colour, reason = judged("noise", "less noise than promised", "the promised noise is there")
    yield Finding(
        key=key_of("one-run", "noise"), line=IMPLEMENTATION, value=found.noise, low=found.noise_low,
        high=found.noise_high, n=audit.excluded, null=None, bound=None, counted="canaries",
        words="Standard deviation of the noise that the program adds, over what the plan promises.",
        colour=colour, reason=reason,
    )  # fmt: skip
    if found.length is None or found.length_low is None or found.length_high is None:
        return
    colour, reason = judged("length", "longer than allowed", "not longer than allowed")
    yield Finding(
        key=key_of("one-run", "clipped-length"), line=IMPLEMENTATION, value=found.length,
        low=found.length_low, high=found.length_high, n=audit.included, null=None, bound=1.0,
        words="Length of a made-up patient after clipping, over what the plan allows.", counted="canaries",
        colour=colour, reason=reason,
    )  # fmt: skip
