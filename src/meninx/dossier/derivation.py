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
    DossierPart,
    DossierRecord,
    EvidenceFile,
)
from meninx.core.folder_signature import SIGNATURE
from meninx.core.integrity import CHECKSUMS
from meninx.dossier import audit_facts, cautions, data_facts, headings, model_facts, privacy_facts
from meninx.dossier.facts import DATA, RELEASE, RUN, RUNS, SELECTION, EvidenceFolder

PARTS: tuple[Callable[[EvidenceFolder], DossierPart], ...] = (
    model_facts.model,
    privacy_facts.guarantee,
    privacy_facts.selection,
    audit_facts.audit,
    audit_facts.bounds,
    audit_facts.implementation,
    audit_facts.membership,
    audit_facts.attacks,
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
        warnings=tuple(cautions.cautions(privacy_facts.candidate_of(evidence), parts)),
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
