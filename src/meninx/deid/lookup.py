"""The hospital's own pseudonyms: a CSV table in, and the same table out for whoever may re-identify."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

from meninx.core import files
from meninx.core.errors import DataError, LayoutError, expected
from meninx.deid.keys import normal

COLUMNS = ("old_patient_id", "new_patient_id", "old_accession_number", "new_accession_number")
_LARGEST = 256 << 20  # bytes of the table
_LO = re.compile(r"[ -\[\]-~]{1,64}")
_SH = re.compile(r"[ -\[\]-~]{1,16}")


@dataclass(frozen=True)
class Lookup:
    """Original to new identifiers.

    Attributes:
        patients: normalised original PatientID -> new PatientID.
        accessions: (new PatientID, normalised original accession number) -> new accession number.
        digest: SHA-256 of the file, for the fingerprint of a run.
    """

    patients: dict[str, str]
    accessions: dict[tuple[str, str], str]
    digest: str


def read(path: Path) -> Lookup:
    """Return the lookup table in a CSV file (comma, quotes where a value holds a comma).

    Raises:
        LayoutError: no such file, not UTF-8, or a column is missing.
        DataError: a new identifier is empty, too long or not plain ASCII, one patient has two, or two
            patients share one; names the row, never the value.
    """
    try:
        text = files.read_text(path, limit=_LARGEST)
    except DataError as error:
        raise LayoutError(
            expected("a readable UTF-8 CSV file", got="another file or none", where="lookup")
        ) from error
    table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    patients: dict[str, str] = {}
    owners: dict[str, str] = {}
    accessions: dict[tuple[str, str], str] = {}
    try:
        missing = [name for name in COLUMNS[:2] if name not in (table.fieldnames or ())]
        if missing:
            raise LayoutError(
                expected(f"the columns {', '.join(COLUMNS[:2])}", got=f"no {missing[0]}", where=path.name)
            )
        for number, row in enumerate(table, start=2):
            _add(row, f"{path.name}, row {number}", patients, owners, accessions)
    except csv.Error as error:
        raise LayoutError(expected("a CSV file", got=str(error), where=path.name)) from error
    return Lookup(patients, accessions, files.digest(path))


def _add(
    row: dict[str, str],
    where: str,
    patients: dict[str, str],
    owners: dict[str, str],
    accessions: dict[tuple[str, str], str],
) -> None:
    if None in row or any(value is None for value in row.values()):
        raise DataError(
            expected(
                "as many values as columns",
                got="another number",
                where=where,
                fix="quote values that hold a comma",
            )
        )
    old, new = normal(row[COLUMNS[0]]), row[COLUMNS[1]].strip()
    if not old or not _LO.fullmatch(new):
        raise DataError(
            expected(
                "an old and a new patient ID (1 to 64 plain characters)", got="another value", where=where
            )
        )
    if patients.setdefault(old, new) != new:
        raise DataError(expected("one new ID a patient", got="a second one", where=where))
    if owners.setdefault(new, old) != old:
        raise DataError(
            expected(
                "one patient a new ID", got="a second patient", where=where, fix="two people would become one"
            )
        )
    old_number, new_number = normal(row.get(COLUMNS[2]) or ""), (row.get(COLUMNS[3]) or "").strip()
    if not old_number and not new_number:
        return
    if not old_number or not _SH.fullmatch(new_number):
        raise DataError(
            expected(
                "an old and a new accession number (1 to 16 plain characters)",
                got="another value",
                where=where,
            )
        )
    if accessions.setdefault((new, old_number), new_number) != new_number:
        raise DataError(expected("one new accession number for an old one", got="a second one", where=where))
