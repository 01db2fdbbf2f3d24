"""``dossier.json`` from the evidence in the dossier, and from nothing else.

The dossier is made by this function, and ``meninx verify`` calls it again on another machine: whatever stands
in ``dossier.json`` and does not follow from the files beside it is found.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from meninx.core import audit_parts, files, names
from meninx.core.dossier_records import (
    CRATE,
    DOSSIER,
    FORM,
    PAGE,
    PDF,
    SCHEMA,
    SIGNATURE,
    DossierPart,
    DossierRecord,
    EvidenceFile,
    Fact,
)
from meninx.core.findings import LINES
from meninx.core.integrity import CHECKSUMS
from meninx.dossier import audit_facts, data_facts, headings, model_facts, privacy_facts
from meninx.dossier.facts import DATA, RELEASE, RUN, RUNS, SELECTION, EvidenceFolder

PARTS: tuple[Callable[[EvidenceFolder], DossierPart], ...] = (
    model_facts.model,
    privacy_facts.guarantee,
    privacy_facts.selection,
    audit_facts.audit,
    audit_facts.bounds,
    audit_facts.implementation,
    audit_facts.membership,
    model_facts.utility,
    data_facts.deid,
    data_facts.dataset,
    data_facts.lineage,
    model_facts.environment,
)
OWN = (DOSSIER, PAGE, PDF, CRATE, FORM, SCHEMA, CHECKSUMS, SIGNATURE)
"""Files at the top of a dossier that are made from the evidence."""
LIMITS = (
    "Whether the ledger names every step that was taken. Its lines are chained, but whoever holds the run "
    "can write another ledger.",
    "Whether the noise of the ledger was added. The audit with canaries tests the program, not this run.",
    "Whether the sample rate follows from the true number of patients.",
    "Whether the released weights come from the steps of the ledger.",
    "Whether other runs on the same patients exist that were not given to this dossier.",
    "Whether the attacks would find the same again: their data stay where they are.",
    "Whether de-identification missed something that its own check does not look for.",
    "Who holds the key behind a fingerprint. Compare it with the signer by telephone.",
)
_BAD_COLOURS = ("amber", "red", "grey")
_AGAINST: dict[tuple[str, str | bool], str] = {
    ("implementation/verdict", "refuted"): "The audit with canaries says: refuted.",
    ("implementation/verdict", "suspicious"): "The audit with canaries says: suspicious.",
    ("membership/verdict", "refuted"): "The membership attacks say: refuted.",
    ("membership/verdict", "exposed"): "The membership attacks say: exposed.",
    ("membership/verdict", "void"): "The membership attacks say: void.",
    ("guarantee/unit", "case"): "The guarantee is for one case, and a patient may have several.",
    ("lineage/unknown_start", True): "The weights that the run started from are of unknown origin.",
    ("utility/belongs", False): "The evaluation measured other weights.",
}
_WITHOUT = {
    "implementation/verdict": "No audit with canaries is in this dossier.",
    "membership/verdict": "No membership attack is in this dossier.",
    "deid/1/profile": "No record of de-identification is in this dossier.",
}
_EXTRACTS = {
    f"{RUN}/run.json": "identity and state of the run, without names and digests of private files",
    f"{RUN}/environment.json": "versions and machine, without the command",
    f"{DATA}/dataset.json": "counts of the prepared dataset",
}


def derived(root: Path, *, title: str, date: str, signer: str, made_by: dict[str, str]) -> DossierRecord:
    """Return what the evidence in a folder shows.

    Args:
        root: the dossier, complete or with its evidence alone.
        title: heading.
        date: date of the dossier.
        signer: fingerprint of the key, or ``unsigned``.
        made_by: package -> version of the program that wrote the dossier.

    Raises:
        DataError: a record is damaged or missing; names the file.
        PrivacyRefusal: a ledger was changed.
    """
    evidence = EvidenceFolder(root)
    parts = tuple(part(evidence) for part in PARTS)
    return DossierRecord(
        title=names.printable(title),
        date=date,
        run=privacy_facts.selection_of(evidence).chosen,
        signer=signer,
        warnings=tuple(_warnings(evidence, parts)),
        parts=parts,
        headings=headings.mapped(parts),
        limits=LIMITS,
        evidence=tuple(described(root)),
        made_by=made_by,
    )


def described(root: Path) -> list[EvidenceFile]:
    """Return every file that facts may come from, with its digest, sorted by path."""
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return [_file(root, path) for path in paths if path not in OWN]


def _file(root: Path, path: str) -> EvidenceFile:
    kind, about = "copy", "record of the run"
    if path == SELECTION:
        kind, about = "statement", "runs that were given, and which was chosen"
    elif path in _EXTRACTS:
        kind, about = "extract", _EXTRACTS[path]
    elif path.startswith(f"{DATA}/"):
        kind, about = "extract", "counts and settings of a de-identified archive"
    elif path.startswith(f"{RELEASE}/"):
        about = "released file"
    elif path.startswith(f"{RUNS}/"):
        about = "privacy ledger" if path.endswith(".jsonl") else "numbers of the candidates"
    elif path.startswith(f"{RUN}/{audit_parts.FOLDER}/"):
        about = "record of an audit"
    size = (root / path).stat().st_size
    return EvidenceFile(path=path, sha256=files.digest(root / path), size=size, kind=kind, about=about)  # type: ignore[arg-type]


def _warnings(evidence: EvidenceFolder, parts: tuple[DossierPart, ...]) -> list[str]:
    """Return what speaks against a release, from the facts; what keeps a promise from holding comes first."""
    facts = {fact.key: fact for part in parts for fact in part.facts}
    found = []
    candidate = privacy_facts.candidate_of(evidence)
    if candidate.void:
        found.append("Not for release: the noise of this run came from a seed.")
    if not candidate.private:
        found.append("The run was trained without differential privacy: nothing is promised to its patients.")
    for (key, value), words in _AGAINST.items():
        if key in facts and facts[key].value == value:
            found.append(words)
    lines = {line: str(facts[f"audit/line/{line}"].value) for line in LINES}
    bad = {line: value for line, value in lines.items() if value.startswith(_BAD_COLOURS)}
    found += [f"The line {line} of the audit is {value}." for line, value in bad.items()]
    if "audit/conditions" in facts and facts["audit/conditions"].shown:
        found.append("A condition of the audit's plan is met, by which the audit fails.")
    if facts["implementation/control"].shown and facts["implementation/control"].value != "refuted":
        found.append("The positive control of the audit with canaries was not found: it shows nothing.")
    composed = facts.get("selection/composed")
    if composed is not None and composed.value != 1:
        found.append(
            f"{composed.value} runs share patients: their joint epsilon counts, not that of this run."
        )
    found += [words for key, words in _WITHOUT.items() if key not in facts or not facts[key].shown]
    vacuous = [name for name in _priors(facts) if _is_vacuous(facts, name)]
    if vacuous:
        found.append(
            f"The guarantee says little to an attacker who knows that the data is {', '.join(vacuous)}: an "
            "attack may gain half of what guessing leaves."
        )
    if candidate.private and not _priors(facts):
        found.append("No proven bounds on attacks are in this dossier.")
    return found


def _priors(facts: dict[str, Fact]) -> list[str]:
    head = "bounds/worst/"
    return [key.removeprefix(head) for key in facts if key.startswith(head)]


def _is_vacuous(facts: dict[str, Fact], prior: str) -> bool:
    """Return whether an attack may gain more than half of all that guessing leaves."""
    worst, guess = facts[f"bounds/worst/{prior}"].value, facts[f"bounds/prior/{prior}"].value
    return isinstance(worst, float) and isinstance(guess, float) and worst > (1 + guess) / 2
