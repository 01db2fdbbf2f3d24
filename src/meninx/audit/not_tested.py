"""What an audit leaves open, as its page and its dossier say."""

from __future__ import annotations

from collections.abc import Sequence

from meninx.core.audit_parts import PARTS
from meninx.core.audit_summary import DONE, AuditedPart

_NEVER_TESTED = (
    "Attacks on data, reports or models other than the released weights of this run.",
    "Whether the de-identification of headers and pixels is complete.",
    "Attackers with side knowledge that no part above describes, e.g. of another hospital's records. The "
    "bound covers them for this model; the attacks do not.",
    "Other models that were trained on the same patients: what they tell adds up, and the bound is for this "
    "model alone.",
)


def left_open(parts: Sequence[AuditedPart]) -> tuple[str, ...]:
    """Return what an audit leaves open, beginning with the parts that were not done."""
    state = {part.name: part for part in parts}
    found = []
    for name, known in PARTS.items():
        part, what = state.get(name), known.question
        if part is None:
            found.append(f"{what} The plan does not name it.")
        elif part.state != DONE:
            found.append(f"{what} Reason: {part.reason}.")
    return (*found, *_NEVER_TESTED)
