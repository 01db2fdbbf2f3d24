"""RO-Crate metadata of a dossier: every file with its digest, for programs that read research objects."""

from __future__ import annotations

import json
import mimetypes
from pathlib import Path
from typing import Any

from meninx.core.dossier_records import CRATE, DOSSIER, FORM, PAGE, PDF, SCHEMA, DossierRecord
from meninx.core.errors import UsageError, problem

_TYPES = {
    ".j2": "text/plain",
    ".toml": "application/toml",
    ".jsonl": "application/jsonl",
    ".pt": "application/octet-stream",
}
_MADE = {
    DOSSIER: "all facts with their files, machine-readable",
    SCHEMA: "JSON schema of dossier.json",
    PAGE: "all facts as a page",
    PDF: "all facts as PDF",
    FORM: "empty form for the decision of an output checker",
}


def write(folder: Path, record: DossierRecord) -> None:
    """Write ``ro-crate-metadata.json``; no connection is opened.

    Args:
        folder: the dossier.
        record: what ``dossier.json`` says; its evidence is described with digests.

    Raises:
        UsageError: rocrate is not installed.
    """
    try:
        from rocrate.rocrate import ROCrate
    except ImportError as error:
        fix = "pip install 'meninx[dossier]'"
        raise UsageError(problem("rocrate is not installed", where="dossier", fix=fix)) from error
    crate = ROCrate()
    crate.name = record.title
    crate.description = (
        f"Egress dossier of the run {record.run}: evidence for a decision on the release of its model"
    )
    crate.root_dataset["datePublished"] = record.date
    crate.root_dataset["identifier"] = record.run
    program = crate.add_jsonld(
        {
            "@id": "#meninx",
            "@type": "SoftwareApplication",
            "name": "meninx",
            "softwareVersion": record.made_by.get("meninx", "unknown"),
        }
    )
    for item in record.evidence:
        known = {"sha256": item.sha256, "contentSize": str(item.size)}
        _add(crate, folder, item.path, {**known, "description": f"{item.about} ({item.kind})"})
    for name, words in _MADE.items():
        _add(crate, folder, name, {"description": words, "creator": {"@id": "#meninx"}})
    crate.root_dataset["creator"] = program
    crate.root_dataset["mainEntity"] = crate.dereference(DOSSIER)
    crate.metadata.write(folder)
    path = folder / CRATE
    table = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(table, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _add(crate: Any, folder: Path, name: str, properties: dict[str, Any]) -> None:
    kind = mimetypes.guess_type(name)[0] or _TYPES.get(Path(name).suffix, "application/octet-stream")
    crate.add_file(folder / name, name, properties={"encodingFormat": kind, **properties})
