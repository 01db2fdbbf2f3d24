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
from meninx.obfuscate.release_verdict import FAILED, PASSED, TOO_FEW, published_tell

STATIC_HEADING = "not a privacy measure (attackers that never saw a released image):"


def audit_lines(record: ReleaseAuditRecord) -> list[str]:
    """Return what was found in a release: attackers, controls, utility, and the verdict last."""
    strength = record.strength
    subject = f"attackers of {printable(record.attribute)}, retrained on the release (AUROC, test split):"
    lines = [subject, *(f"  {_attacker(item, record)}" for item in record.attackers)]
    more = (*record.code_attacks, *record.per_patient, *record.with_columns)
    lines += [f"  {_attacker(item, record)}" for item in more]
    lines += [f"  not measured: {printable(text)}" for text in record.not_measured]
    other = (*record.columns, *record.output_leaks)
    if other:
        lines.append("what else tells it:")
        lines += [f"  {_attacker(item, record)}" for item in other]
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
    lines.append(
        f"attack: {strength.epochs} epochs, {strength.draws} releases averaged at most, "
        f"{strength.permutations} permutations, networks {', '.join(strength.networks)}, seed {record.seed}"
    )
    return [*lines, *_caveat(record), *_history(record), *_columns(record), verdict_line(record)]


def _caveat(record: ReleaseAuditRecord) -> list[str]:
    """Return what holds of the method whatever is measured, beside the number that was measured."""
    if not record.caveat or record.highest_attacker is None:
        return []
    subject = printable(record.method_summary or record.method)
    return [f"{subject}: {printable(record.caveat)}; {measured_words(record)}"]


def measured_words(record: ReleaseAuditRecord) -> str:
    """Return the measured AUROC in words: of the chosen attacker and of the highest of all."""
    chosen, highest = record.chosen_attacker, record.highest_attacker
    if highest is None:
        return "no attacker could be measured"
    most = f"highest of all attackers on the test split ({printable(highest.name)})"
    if chosen is None:
        return f"{TOO_FEW}; {most}: measured AUROC {_area(highest)}"
    found = f"measured AUROC {_area(chosen)} by the attacker chosen on validation ({printable(chosen.name)})"
    return f"{found}, also the worst of all" if chosen == highest else f"{found}; {most}: {_area(highest)}"


def history_words(record: ReleaseAuditRecord) -> str:
    """Return the targets that were asked for in their order, with what came of the first; empty for one."""
    if len(record.asked) < 2:
        return ""
    first, *later = record.asked
    words = {FAILED: "missed", PASSED: "met"}
    start = f"{first.target:.2f} {words.get(first.verdict, first.verdict)}" if first.target else "none"
    return "; ".join([start, *(f"{item.target:.2f} asked later" if item.target else "none asked later"
                               for item in later)])  # fmt: skip


def columns_words(record: ReleaseAuditRecord) -> str:
    """Return that the published columns may tell the attribute above the target; empty where they do not."""
    item = published_tell(record)
    if item is None:
        return ""
    names = ", ".join(map(printable, record.published)) or "of the table"
    shown = item.low is not None and item.low > record.target
    what = "tell" if shown else "may tell"
    return f"the published columns {names} alone {what} more than the target: AUROC {_area(item)}"


def _history(record: ReleaseAuditRecord) -> list[str]:
    words = history_words(record)
    lines = [f"targets: {words}; the first one decides"] if words else []
    if record.stated:
        lines.append(f'the release states of itself, which was not checked: "{printable(record.stated)}"')
    return [*lines, unknown_words(record)] if record.earlier_unknown else lines


def unknown_words(record: ReleaseAuditRecord) -> str:
    """Return that earlier targets are not known; empty where they are."""
    if not record.earlier_unknown:
        return ""
    return (
        "earlier targets are not known: the private room of the release was not here, and a target that is "
        "chosen after an attack was seen proves nothing"
    )


def _columns(record: ReleaseAuditRecord) -> list[str]:
    words = columns_words(record)
    return [words] if words else []


def verdict_line(record: ReleaseAuditRecord) -> str:
    """Return the verdict, and what the chosen attacker and the highest of all find."""
    target = f", target {record.target:g}" if record.target else ""
    reason = f": {printable(record.reason)}" if record.reason else ""
    return f"verdict: {record.verdict}{reason}; {measured_words(record)}{target}"


def _attacker(item: AttackerRecord, record: ReleaseAuditRecord) -> str:
    if item.auroc is None:
        return f"{item.name}: {item.refusal or 'no number'}"
    clean = f", on original {record.subject} {item.clean_auroc:.3f}" if item.clean_auroc is not None else ""
    question = f", {printable(item.question)}" if item.question else ""
    chosen = " <- chosen on the validation split" if item.retrained and item.name == record.chosen else ""
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
