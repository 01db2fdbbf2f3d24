"""The verdict on a release, from the numbers of its audit alone: whoever reads a record derives it again."""

from __future__ import annotations

from meninx.core.obfuscation_records import ReleaseAuditRecord

VOID, FAILED, PASSED, MEASURED = "void", "failed", "passed", "measured"
_SAME = 1e-9


def verdict_of(found: ReleaseAuditRecord) -> tuple[str, str]:
    """Return the verdict and its reason, which is empty for ``passed`` and ``measured``."""
    if found.clean is None or found.clean.auroc is None or found.clean.auroc < found.clean_floor:
        what = f"the attackers do not find the attribute in the original {found.subject} either"
        return VOID, f"{what}, so that finding nothing in the release would say nothing"
    if found.control is None or found.control.auroc is None or abs(found.control.auroc - 0.5) > _SAME:
        return VOID, f"an attacker finds the attribute in {found.subject} that show nothing"
    if not found.target:
        return MEASURED, ""
    reason = _beyond_target(found) or _beyond_target_with_labels(found)
    return (FAILED, reason) if reason else (PASSED, "")


def _beyond_target(found: ReleaseAuditRecord) -> str:
    """Return which attacker of images or codes exceeds the target; empty for none."""
    decisive = found.worst_attacker
    if decisive is None or decisive.high is None or not decisive.high <= found.target:
        return f"the interval of the attacker {found.worst} reaches beyond the target"
    code = found.code_attack
    if code is not None and code.high is not None and not code.high <= found.target:
        return "the interval of the attacker of the code itself reaches beyond the target"
    for item in (*found.attackers, code, found.per_patient):
        if item is not None and item.low is not None and item.low > found.target:
            more = " with all images of a patient" if item is found.per_patient else ""
            return f"the whole interval of the attacker {item.name}{more} is beyond the target"
    return ""


def _beyond_target_with_labels(found: ReleaseAuditRecord) -> str:
    """Return what exceeds the target, and the labels alone, together with the published labels."""
    alone = next((item.high for item in found.with_labels if item.high is not None), None)
    for item in found.with_labels[1:]:
        if item.low is not None and alone is not None and item.low > max(found.target, alone):
            return f"{item.name} together tell more than the target, and more than the labels alone"
    return ""
