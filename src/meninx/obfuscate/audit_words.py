"""The record of a release audit in lines of text."""

from __future__ import annotations

from meninx.core.names import printable
from meninx.core.obfuscation_records import (
    AttackerRecord,
    DistortionRecord,
    ReidentificationRecord,
    ReleaseAuditRecord,
    UtilityLossRecord,
)

STATIC_HEADING = "not a privacy measure (attackers that never saw a released image):"


def audit_lines(record: ReleaseAuditRecord) -> list[str]:
    """Return what was found in a release: attackers, controls, utility, and the verdict last."""
    subject = f"attackers of {printable(record.attribute)}, retrained on the release (AUROC, test split):"
    lines = [subject, *(f"  {_attacker(item, record)}" for item in record.attackers)]
    more = [item for item in (record.code_attack, *record.output_leaks) if item is not None]
    lines += [f"  {_attacker(item, record)}" for item in more]
    if record.static:
        heading = STATIC_HEADING.replace("image", "image" if record.subject == "images" else "vector")
        lines += [heading, *(f"  {_attacker(item, record)}" for item in record.static)]
    if record.clean is not None and record.clean.auroc is not None:
        lines.append(f"control, original {record.subject}: {_area(record.clean)} by {record.clean.name}")
    if record.null is not None:
        null = record.null
        lines.append(
            f"null, permuted attributes: {null.mean:.3f}, 95 % below {null.high:.3f}, p = {null.p_value:.2g}"
        )
    lines += [f"certificate: {item.sentence}" for item in record.certificates]
    lines += [f"label kept: {_utility(item)}" for item in record.utility if not item.group]
    lines += [f"same patient recognised: {_linked(item)}" for item in record.reidentification]
    if record.distortion is not None:
        lines.append(f"distortion: {_distorted(record.distortion)}")
    return [*lines, *_caveat(record), verdict_line(record)]


def _caveat(record: ReleaseAuditRecord) -> list[str]:
    """Return what holds of the method whatever is measured, beside the number that was measured."""
    worst = record.worst_attacker
    if not record.caveat or worst is None or worst.auroc is None:
        return []
    subject = printable(record.method_summary or record.method)
    return [f"{subject}: {printable(record.caveat)}; measured AUROC {_area(worst)}"]


def verdict_line(record: ReleaseAuditRecord) -> str:
    """Return what the worst retrained attacker finds, and the verdict."""
    worst = record.worst_attacker
    found = (
        f"the worst retrained attacker ({worst.name}) has AUROC {_area(worst)}" if worst else "no attacker"
    )
    target = f", target {record.target:g}" if record.target else ""
    reason = f": {record.reason}" if record.reason else ""
    return f"verdict: {record.verdict}{reason}; {found}{target}"


def _attacker(item: AttackerRecord, record: ReleaseAuditRecord) -> str:
    if item.auroc is None:
        return f"{item.name}: {item.refusal or 'no number'}"
    clean = f", on original {record.subject} {item.clean_auroc:.3f}" if item.clean_auroc is not None else ""
    question = f", {printable(item.question)}" if item.question else ""
    chosen = " <- chosen on the validation split" if item.retrained and item.name == record.worst else ""
    return f"{item.name}: {_area(item)}{question}{clean}{chosen}"


def _area(item: AttackerRecord) -> str:
    if item.auroc is None:
        return item.refusal or "no number"
    ends = _ends(item.low, item.high)
    return f"{item.auroc:.3f}{ends}"


def _utility(item: UtilityLossRecord) -> str:
    name = f"{printable(item.label)}, {item.regime}"
    if item.clean is None or item.released is None or item.loss is None:
        return f"{name}: {item.refusal or 'no number'}"
    ends = _ends(item.loss_low, item.loss_high)
    return f"{name}: AUROC {item.clean:.3f} -> {item.released:.3f}, loss {item.loss:.3f}{ends}"


def _linked(item: ReidentificationRecord) -> str:
    if item.auroc is None:
        return f"{item.subject}: {item.refusal or 'no number'}"
    ends = _ends(item.low, item.high)
    return f"{item.subject}: AUROC {item.auroc:.3f}{ends}"


def _distorted(item: DistortionRecord) -> str:
    return f"mean {item.l1:.4f}, largest {item.linf:.3f} of the range, SSIM {item.ssim:.3f}"


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
