"""What an audit leaves open, as its page and its dossier say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meninx.core.audit_summary import DONE, AuditedPart

_NEVER_TESTED = (
    "Attacks on data, reports or models other than the released weights of this run.",
    "Whether the de-identification of headers and pixels is complete.",
    "Attackers with side knowledge that no part above describes, e.g. of another hospital's records. The "
    "bound covers them for this model; the attacks do not.",
    "Other models that were trained on the same patients: what they tell adds up, and the bound is for this "
    "model alone.",
)
_LEFT_OUT: Mapping[str, str] = {
    "bounds": "What theory bounds.",
    "one-run": "Whether the program keeps its guarantee.",
    "membership": "Whether the model tells who took part in its training.",
    "reconstruction": "Whether images can be reconstructed from the steps of the training.",
    "attributes": "Whether attributes such as sex or age can be inferred from the model.",
    "identity": "Whether patients can be recognised in the images themselves.",
}


def left_open(parts: Sequence[AuditedPart]) -> tuple[str, ...]:
    """Return what an audit leaves open, beginning with the parts that were not done."""
    state = {part.name: part for part in parts}
    found = []
    for name, what in _LEFT_OUT.items():
        part = state.get(name)
        if part is None:
            found.append(f"{what} The plan does not name it.")
        elif part.state != DONE:
            found.append(f"{what} Reason: {part.reason}.")
    return (*found, *_NEVER_TESTED)
