"""The JSON schema of ``dossier.json`` and of the decision form, published with the package."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import msgspec

from meninx.core.dossier_records import SCHEMA, Decision, DossierRecord


def text() -> str:
    """Return the schema as the package holds it."""
    return (resources.files("meninx.dossier") / SCHEMA).read_text(encoding="utf-8")


def made() -> str:
    """Return the schema as it follows from the types; `make docs` writes it."""
    (dossier, decision), parts = msgspec.json.schema_components(
        [DossierRecord, Decision], ref_template="#/$defs/{name}"
    )
    table: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Egress dossier of meninx: dossier.json; its decision form is $defs/Decision",
        **dossier,
        "$defs": _closed(parts),
    }
    assert decision == {"$ref": "#/$defs/Decision"}
    return json.dumps(table, indent=2, sort_keys=True) + "\n"


def _closed(parts: dict[str, Any]) -> dict[str, Any]:
    """Return the definitions, which take no other fields than their own, and need all of them."""
    return {
        name: {**part, "additionalProperties": False, "required": sorted(part["properties"])}
        if part.get("type") == "object"
        else part
        for name, part in parts.items()
    }
