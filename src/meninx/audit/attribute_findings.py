"""What an audit of attributes says: its verdict, and its numbers in words and as findings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meninx.core import names
from meninx.core.attribute_records import AttributeRecord, AttributesAudit, LeakRecord
from meninx.core.findings import MEASURED, Finding, key_of, named
from meninx.core.percentages import at_most, percent
from meninx.metrics import verdict_rule
from meninx.metrics.controls import control_level
from meninx.metrics.verdict_rule import REFUTED, VOID, but, silenced, undecided

LABELS = "labels"


def verdict_of(
    records: Sequence[AttributeRecord],
    negative: Sequence[AttributeRecord],
    fresh: Sequence[AttributeRecord],
    positive: Sequence[AttributeRecord],
    significance: float,
) -> tuple[str, str]:
    """Return the verdict, and which control failed; the attacks share the significance."""
    known = [record for record in records if record.accuracy is not None and record.signal != LABELS]
    each = significance / max(1, len(known))
    failed = weak = found = ""
    if not all(_coin_is_quiet(record, significance) for record in negative):
        failed = "an attribute that is a coin was inferred, so the attacks find something else"
    elif not all(_stranger_is_quiet(record, fresh, significance) for record in fresh):
        failed = (
            "members are easier than others for a network that was trained on nothing, so the splits differ "
            "in more than membership"
        )
    if not known:
        weak = "no attribute has enough patients with each of two values"
    elif not all(_is_found(record, significance) for record in positive):
        weak = "a coin that was planted into members was not found, so the attacks are too weak"
    if any(_advantage_p(record) <= each for record in known):
        found = "exposed"
    elif not weak and any(_p(record) <= each for record in known):
        found = "inferable"
    refuted = any(record.excess for record in known)
    return verdict_rule.verdict_of(refuted=refuted, failed=failed, found=found, weak=weak)


def _coin_is_quiet(record: AttributeRecord, significance: float) -> bool:
    """Return whether nothing was found in a negative control."""
    return min(_p(record), _advantage_p(record)) > control_level(significance)


def _stranger_is_quiet(
    record: AttributeRecord, fresh: Sequence[AttributeRecord], significance: float
) -> bool:
    """Return whether members are no easier for an untrained network; its attributes share the level."""
    known = sum(one.accuracy is not None for one in fresh)
    return record.accuracy is None or _advantage_p(record) > control_level(significance, known)


def _is_found(record: AttributeRecord, significance: float) -> bool:
    """Return whether a planted coin was found."""
    return max(_p(record), _advantage_p(record)) <= significance


def verdict_words(audit: AttributesAudit) -> str:
    """Return the verdict as a sentence."""
    if audit.verdict == "void":
        return f"VOID: {audit.reason}"
    known = [record for record in audit.attributes if record.accuracy is not None and record.signal != LABELS]
    each, why = audit.significance / max(1, len(known)), but(audit.reason)
    if audit.verdict == "refuted":
        found = _list(known, lambda one: bool(one.excess))
        return f"REFUTED: {found} exceeds what the guarantee allows{why}"
    if audit.verdict == "exposed":
        found = _list(known, lambda one: _advantage_p(one) <= each)
        return f"EXPOSED: {found} tells more about patients of the training than about others{why}"
    if audit.verdict == "inferable":
        found = _list(known, lambda one: _p(one) <= each)
        return f"INFERABLE: {found} can be told, of strangers as well as of patients of the training"
    return "nothing found by these attacks; another attack may find more"


def record_lines(record: AttributeRecord, prior_bound: float | None) -> list[str]:
    """Return what one attack found, in words."""
    who = f"{names.printable(record.attribute)} from {record.signal}"
    if record.accuracy is None or record.on_members is None or record.on_others is None:
        return [f"{who}: refused, {record.refusal}"]
    lines = [
        f"{who}: AUC {record.auroc:.3f} ({record.auroc_low:.3f} to {record.auroc_high:.3f}), "
        f"p {_p(record):.3g}; right {_share(record.accuracy, record.accuracy_low, record.accuracy_high)}, "
        f"most frequent value {percent(record.prior or 0.0)}"
    ]
    advantage = _share(record.advantage, record.advantage_low, record.advantage_high)
    allowed = "" if record.bound is None else f"; the guarantee allows {at_most(record.bound)}"
    lines.append(
        f"  members {percent(record.on_members)}, others {percent(record.on_others)}: advantage {advantage}, "
        f"p {_advantage_p(record):.3g}{allowed}"
    )
    if record.over_labels is not None:
        gain = _share(record.over_labels, record.over_labels_low, record.over_labels_high)
        lines[-1] += f"; over labels alone {gain}"
    if prior_bound is not None and record.signal == LABELS:
        lines.append(
            f"  who knows the prior alone infers it from the model at most {at_most(prior_bound)} of the time"
        )
    return lines


def leak_line(leak: LeakRecord) -> str:
    """Return what single gradients tell about labels, in words."""
    if leak.accuracy is None:
        return f"labels from the {leak.signal} of one image: refused, {leak.refusal}"
    allowed = "" if leak.bound is None else f", the noise allows {at_most(leak.bound)}"
    return (
        f"labels from the {leak.signal} of one image: right "
        f"{_share(leak.accuracy, leak.accuracy_low, leak.accuracy_high)}, "
        f"most frequent value {percent(leak.prior or 0.0)}{allowed}"
    )


def findings(record: AttributesAudit) -> tuple[Finding, ...]:
    """Return the numbers of an audit of attributes, as pages and thresholds read them."""
    found: list[Finding] = []
    for one in record.attributes:
        found += _attribute_findings(one, record)
    found += [_leak_finding(leak, record.reason) for leak in record.leaks]
    return (*found, *_controls(record))


def _attribute_findings(one: AttributeRecord, audit: AttributesAudit) -> list[Finding]:
    name, parts = named(one.attribute), ("attributes", one.attribute, one.signal)
    seen = "true labels alone" if one.signal == LABELS else f"the {one.signal}"
    if one.accuracy is None:
        return [
            Finding(
                key=key_of(*parts, "auroc"), line=MEASURED,
                words=f"Attribute {name} from {seen}: no number.",
                value=None, low=None, high=None, n=0, null=None, bound=None, colour="grey",
                reason=one.refusal,
            )
        ]  # fmt: skip
    patients = one.members + one.others
    colour, reason = _area_colour(one, audit)
    bound = None if one.bound is None else max(0.0, one.bound - (one.on_others or 0.0))
    advantage_colour, why = _advantage_colour(one, audit)
    found = [
        Finding(
            key=key_of(*parts, "auroc"), line=MEASURED,
            words=f"Area under the ROC curve of an attack that infers {name} from {seen} of a patient.",
            value=one.auroc, low=one.auroc_low, high=one.auroc_high, n=patients, null=0.5, bound=None,
            colour=colour, reason=reason,
        ),
        Finding(
            key=key_of(*parts, "accuracy"), line=MEASURED,
            words=f"Share of patients whose {name} an attack infers from {seen}; guessing reaches the null.",
            value=one.accuracy, low=one.accuracy_low, high=one.accuracy_high, n=patients, null=one.prior,
            bound=None, colour=colour, reason=reason,
        ),
    ]  # fmt: skip
    if one.signal == LABELS:
        return found
    return [
        *found,
        Finding(
            key=key_of(*parts, "advantage"), line=MEASURED,
            words=f"Share of training patients minus share of others whose {name} is inferred from {seen}.",
            value=one.advantage, low=one.advantage_low, high=one.advantage_high, n=patients, null=0.0,
            bound=bound if one.signal != "noisy gradient" else None, colour=advantage_colour, reason=why,
        ),
    ]  # fmt: skip


def _area_colour(one: AttributeRecord, audit: AttributesAudit) -> tuple[str, str]:
    if _is_silenced(audit):
        return "grey", silenced(audit.reason)
    if one.signal == LABELS:
        return "grey", "the floor: what the labels alone tell, without any model"
    if _p(one) <= _each(audit):
        return "amber", "better than chance, a statistic of the population where strangers are as easy"
    if audit.reason:
        return "grey", silenced(audit.reason)
    if _p(one) <= audit.significance:  # a folded area is never below 1/2, so its interval decides nothing
        reached = "" if one.null_high is None else f", the null reaches {one.null_high:.3f}"
        guess = f"guessing gives an area of 0.5{reached}"
        return "grey", undecided(_p(one), audit.significance, _tests(audit), guess=guess)
    return "green", "the attack is no better than chance; another attack may be"


def _advantage_colour(one: AttributeRecord, audit: AttributesAudit) -> tuple[str, str]:
    if one.excess:
        return "red", f"the attack exceeds what the guarantee allows{but(audit.reason)}"
    if _is_silenced(audit):
        return "grey", silenced(audit.reason)
    if _advantage_p(one) <= _each(audit):
        if one.bound is None:
            return "red", "the model tells more about its own patients, and nothing is guaranteed for one"
        return "amber", "the model tells more about its own patients; it is not shown to exceed the guarantee"
    if audit.reason:
        return "grey", silenced(audit.reason)
    if _advantage_p(one) <= audit.significance or (one.advantage_low or 0.0) > 0:
        guess = "guessing gives an advantage of 0"
        return "grey", undecided(_advantage_p(one), audit.significance, _tests(audit), guess=guess)
    return "green", "strangers are as easy as patients of the training; another attack may differ"


def _is_silenced(audit: AttributesAudit) -> bool:
    """Return whether what attacks find within the guarantee says nothing, because a control failed."""
    return audit.verdict in (VOID, REFUTED) and bool(audit.reason)


def _leak_finding(leak: LeakRecord, failed: str) -> Finding:
    known = leak.accuracy is not None
    noisy = leak.signal != "gradient"
    above = known and (leak.accuracy_low or 0.0) > (leak.prior or 0.0)
    colour = "grey"
    if known:
        colour = "amber" if above else "green"
    reason = "the sign of the last bias gradient names the label" if above else "no better than the prior"
    if above and not noisy:
        reason += "; a gradient of one patient must not leave a site without protection"
    if failed and colour == "green":
        colour, reason = "grey", silenced(failed)
    return Finding(
        key=key_of("attributes", "true-labels", leak.signal, "accuracy"),
        line=MEASURED,
        words=f"Share of labels that the sign of the {leak.signal} of one image tells.",
        value=leak.accuracy,
        low=leak.accuracy_low,
        high=leak.accuracy_high,
        n=leak.patients if known else 0,
        null=leak.prior,
        bound=leak.bound,
        colour=colour,
        reason=leak.refusal or reason,
    )


def _controls(audit: AttributesAudit) -> list[Finding]:
    """Return the planted coin, which has to be found, and the controls that must find nothing."""
    found = []
    rows = [
        ("positive-control", "a coin planted into the embedding of members", one) for one in audit.positive
    ]
    rows += [("negative-control", "an attribute that is a coin", one) for one in audit.negative]
    rows += [
        ("untrained-control", f"{named(one.attribute)} from a network trained on nothing", one)
        for one in audit.fresh
    ]
    for name, what, one in rows:
        if one.advantage is None:
            continue
        good = {
            "positive-control": _is_found(one, audit.significance),
            "negative-control": _coin_is_quiet(one, audit.significance),
            "untrained-control": _stranger_is_quiet(one, audit.fresh, audit.significance),
        }[name]
        last = [one.attribute] if name == "untrained-control" else []
        found.append(
            Finding(
                key=key_of("attributes", *last, name), line=MEASURED,
                words=f"Control: advantage among members for {what}.",
                value=one.advantage, low=one.advantage_low, high=one.advantage_high,
                n=one.members + one.others, null=0.0, bound=None, colour="green" if good else "grey",
                reason="as it should be" if good else "the control FAILED",
            )
        )  # fmt: skip
    return found


def _each(audit: AttributesAudit) -> float:
    return audit.significance / _tests(audit)


def _tests(audit: AttributesAudit) -> int:
    """Return how many attacks share the significance, at least 1."""
    known = [one for one in audit.attributes if one.accuracy is not None and one.signal != LABELS]
    return max(1, len(known))


def _list(records: Sequence[AttributeRecord], wanted: Callable[[AttributeRecord], bool]) -> str:
    found = [f"{names.printable(one.attribute)} from {one.signal}" for one in records if wanted(one)]
    return ", ".join(found)


def _p(record: AttributeRecord) -> float:
    return 1.0 if record.p_value is None else record.p_value


def _advantage_p(record: AttributeRecord) -> float:
    return 1.0 if record.advantage_p is None else record.advantage_p


def _share(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None:
        return "not known"
    return f"{percent(value)} ({percent(low)} to {percent(high)})"
