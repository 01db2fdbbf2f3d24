"""What speaks against a release: it stands on the first page of a dossier, before all numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meninx.core.dossier_records import Candidate, DossierPart, Fact
from meninx.core.findings import LINES
from meninx.dossier.facts import every

_BAD_COLOURS = ("amber", "red", "grey")
_SAYS = {
    "implementation/verdict": ("The audit with canaries says", ("refuted", "suspicious")),
    "membership/verdict": ("The membership attacks say", ("refuted", "exposed", "void")),
    "attacks/reconstruction/verdict": (
        "The reconstruction attacks say",
        ("refuted", "exposed", "void", "cannot be judged"),
    ),
    "attacks/attributes/verdict": (
        "The attacks on attributes say",
        ("refuted", "exposed", "inferable", "void"),
    ),
    "attacks/identity/verdict": ("The audit of identity says", ("linked", "void")),
}
_AGAINST: dict[tuple[str, str | bool], str] = {
    ("guarantee/unit", "case"): "The guarantee is for one case, and a patient may have several.",
    ("lineage/unknown_start", True): "The weights that the run started from are of unknown origin.",
    ("utility/belongs", False): "The evaluation measured other weights.",
}
_WITHOUT = {
    "implementation/verdict": "No audit with canaries is in this dossier.",
    "membership/verdict": "No membership attack is in this dossier.",
    "deid/1/profile": "No record of de-identification is in this dossier.",
}
_BOUND, _GUESS = "bounds/worst/", "bounds/prior/"


def cautions(candidate: Candidate, parts: Sequence[DossierPart]) -> Iterator[str]:
    """Yield what speaks against a release, in sentences; what keeps a promise from holding comes first.

    Args:
        candidate: the run whose model is to be released.
        parts: all facts.
    """
    facts = {fact.key: fact for fact in every(tuple(parts))}
    if candidate.void:
        yield "Not for release: the noise of this run came from a seed."
    if not candidate.private:
        yield "The run was trained without differential privacy: nothing is promised to its patients."
    obfuscated = _value(facts, "lineage/obfuscated")
    if obfuscated is not None:
        finding = _value(facts, "dataset/attribute_found") or "what attackers find in them is not shown"
        yield f"The model was trained on {obfuscated}; {finding}."
    yield from _audits(facts)
    yield from (words for (key, value), words in _AGAINST.items() if _value(facts, key) == value)
    composed = _value(facts, "selection/composed")
    if composed not in (None, 1):
        yield f"{composed} runs share patients, or may: their joint epsilon counts, not that of this run."
    yield from (words for key, words in _WITHOUT.items() if _value(facts, key) is None)
    if _value(facts, "deid/1/linked") is False:
        yield "The dataset names none of the de-identified archives that were given as its source."
    if _value(facts, "membership/verdict") is not None and _value(facts, "guarantee/units") is not None:
        yield "Records of attacks state how many patients were attacked, beside the declared number."
    yield from _bounds(candidate, facts)


def _audits(facts: dict[str, Fact]) -> Iterator[str]:
    for key, (who, bad) in _SAYS.items():
        if _value(facts, key) in bad:
            yield f"{who}: {_value(facts, key)}."
    for line in LINES:
        value = _value(facts, f"audit/line/{line}")
        if isinstance(value, str) and value.startswith(_BAD_COLOURS):
            yield f"The line {line} of the audit is {value}."
    if _value(facts, "audit/conditions") is not None:
        yield "A condition of the audit's plan is met, by which the audit fails."
    if _value(facts, "implementation/control") not in (None, "refuted"):
        yield "The positive control of the audit with canaries was not found: it shows nothing."


def _bounds(candidate: Candidate, facts: dict[str, Fact]) -> Iterator[str]:
    names = [key.removeprefix(_BOUND) for key in facts if key.startswith(_BOUND)]
    vacuous = [name for name in names if _is_vacuous(facts, name)]
    if vacuous:
        yield (
            f"The guarantee says little to an attacker who knows that the data is {', '.join(vacuous)}: an "
            "attack may gain half of what guessing leaves."
        )
    if candidate.private and not names:
        yield "No proven bounds on attacks are in this dossier."


def _is_vacuous(facts: dict[str, Fact], prior: str) -> bool:
    """Return whether an attack may gain more than half of all that guessing leaves."""
    worst, guess = _value(facts, _BOUND + prior), _value(facts, _GUESS + prior)
    return isinstance(worst, float) and isinstance(guess, float) and worst > (1 + guess) / 2


def _value(facts: dict[str, Fact], key: str) -> object:
    """Return the value of a fact that is shown; None for another."""
    fact = facts.get(key)
    return fact.value if fact is not None and fact.shown else None
