"""The verdict on a release, from the numbers of its audit alone: whoever reads a record derives it again.

A release passes if the upper limit of **every** retrained attacker is at most the target: networks, linear,
kernel and boosted ones, purifier, average of several releases, all images of a patient, the code, and images
or codes together with the published columns as far as they find more than these columns alone. A certificate
that there is must be at most the target, too. This is an intersection-union test (Berger 1982): the release
is bad if the AUROC of some attacker exceeds the target, so it passes only if each of the single hypotheses is
rejected. Such a test holds its level without any correction for the number of attackers, and no choice among
them can help a release.

Controls take the good news, never the bad (:mod:`meninx.metrics.verdict_rule`).

References:
    Berger, Technometrics 24 (1982) 295-300.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from meninx.core.obfuscation_records import AskedTarget, AttackerRecord, ReleaseAuditRecord
from meninx.metrics import verdict_rule
from meninx.metrics.groups import MIN_CELL
from meninx.metrics.verdict_rule import VOID

FAILED, PASSED, MEASURED = "failed", "passed", "measured"
TOO_FEW = "too few patients to choose an attacker"
DIGITS = 12
"""Of areas that are compared: others are equal."""
_SAME = 1e-9
_CHANCE = 0.5


def verdict_of(found: ReleaseAuditRecord) -> tuple[str, str]:
    """Return the verdict and its reason, which is empty for ``passed`` and ``measured``."""
    if not found.target:
        noticed = MEASURED if any(_noticed(found)) else ""
        verdict, control = verdict_rule.verdict_of(
            failed=_negative_control(found), found=noticed, weak=_positive_control(found)
        )
        return (VOID, control) if verdict == VOID else (MEASURED, "")
    shown, missed = next(_beyond(found), ""), next(_not_below(found), "")
    verdict, control = verdict_rule.verdict_of(
        refuted=bool(shown),
        failed=_negative_control(found),
        found=FAILED if missed else "",
        weak=_positive_control(found) or _undecidable(found),
    )
    if verdict == VOID:
        return VOID, control
    if verdict == verdict_rule.NOTHING:
        return PASSED, ""
    return FAILED, f"{shown or missed}{verdict_rule.but(control)}"


def chosen_of(attackers: Sequence[AttackerRecord]) -> str:
    """Return the name of the attacker with the highest validation area, of equal ones the furthest apart.

    Empty where none has a number.
    """
    known = [item for item in attackers if item.valid_auroc is not None]

    def key(item: AttackerRecord) -> tuple[float, float, str]:
        return round(item.valid_auroc or 0.0, DIGITS), item.valid_separation or 0.0, item.name

    best = max(known, key=key, default=None)
    return best.name if best is not None else ""


def verdict_at(found: ReleaseAuditRecord, target: float) -> str:
    """Return the verdict that the same numbers have for another target, whatever was asked before."""
    return verdict_of(replace(found, target=target, asked=()))[0]


def published_tell(found: ReleaseAuditRecord) -> AttackerRecord | None:
    """Return the attacker of the published columns alone whose limit exceeds the target; None for none."""
    above = [item for item in found.columns if found.target and _high(item) > found.target]
    return max(above, key=_high, default=None)


def noticeable(found: ReleaseAuditRecord) -> float:
    """Return the AUROC above which an attacker finds more than permuted attributes give."""
    return max(_CHANCE, found.null.high) if found.null is not None else _CHANCE


def missed_before(found: ReleaseAuditRecord) -> AskedTarget | None:
    """Return the earlier audit of the same release that missed the first target; None for none."""
    first = found.asked[0].target if found.asked else 0.0
    return next(
        (item for item in found.asked[:-1] if item.verdict == FAILED and first and item.target >= first), None
    )


def _noticed(found: ReleaseAuditRecord) -> Iterator[bool]:
    chance = noticeable(found)
    return (item.low is not None and item.low > chance for item in found.retrained)


def _negative_control(found: ReleaseAuditRecord) -> str:
    control = found.control
    if control is None or control.auroc is None or abs(control.auroc - _CHANCE) > _SAME:
        return f"an attacker finds the attribute in {found.subject} that show nothing"
    return ""


def _positive_control(found: ReleaseAuditRecord) -> str:
    clean = found.clean
    if clean is None or clean.auroc is None or clean.auroc < found.clean_floor:
        what = f"the attackers do not find the attribute in the original {found.subject} either"
        return f"{what}, so that finding nothing in the release would say nothing"
    return ""


def _undecidable(found: ReleaseAuditRecord) -> str:
    """Return why a release cannot pass that no attacker finds anything in; empty where it can."""
    if not found.chosen:
        return f"{TOO_FEW}: fewer than {MIN_CELL} of a class in the validation split"
    if found.unaveraged:
        return "the method draws at random, and no attacker averaged several of its releases"
    return ""


def _beyond(found: ReleaseAuditRecord) -> Iterator[str]:
    """Yield which attackers are beyond the target with their whole interval."""
    for item in _deciding(found):
        if item.low is not None and item.low > found.target:
            yield f"the whole interval of the attacker {item.name} is beyond the target"
    for item in found.columns:
        if item.low is not None and item.low > found.target:
            yield f"the published columns alone tell more than the target, whatever the {found.subject} hide"
    if missed_before(found) is not None:
        yield "an earlier audit of this release missed the target"


def _not_below(found: ReleaseAuditRecord) -> Iterator[str]:
    """Yield which attackers are not below the target with the upper end of their interval, highest first."""
    for item in sorted(_deciding(found), key=_high, reverse=True):
        if not _high(item) <= found.target:
            yield f"the interval of the attacker {item.name} reaches beyond the target"
    for certificate in found.certificates:
        if certificate.limit is not None and certificate.limit > found.target:
            yield f"the certificate allows an attacker with AUROC {certificate.limit:.3f}"
    if not found.attackers or any(item.auroc is None and not item.refusal for item in found.attackers):
        yield "no attacker could be measured"


def _deciding(found: ReleaseAuditRecord) -> Sequence[AttackerRecord]:
    """Return every attacker whose interval is held against the target."""
    questions = [item for item in found.every_question if item.auroc is not None]
    return (*found.retrained, *questions, *_more_than_columns(found))


def _more_than_columns(found: ReleaseAuditRecord) -> Sequence[AttackerRecord]:
    """Return attackers of images and columns together that find more than the columns alone."""
    alone = max((_high(item) for item in found.columns), default=0.0)
    return [item for item in found.with_columns if item.auroc is not None and _high(item) > alone]


def _high(item: AttackerRecord) -> float:
    return 1.0 if item.high is None else item.high
