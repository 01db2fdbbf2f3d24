"""The names that cases and patients of a released dataset have in its source, from the private table."""

from __future__ import annotations

from dataclasses import replace

from meninx.core import csv_table
from meninx.core.errors import DataError, expected
from meninx.core.manifest import SOURCES_NAME, Manifest

COLUMNS = ("source_case_id", "source_patient_id")
"""Columns of ``private/cases.csv`` of a release; a dataset that `meninx prepare` wrote has none."""


def under_source_names(released: Manifest) -> Manifest:
    """Return a dataset under the names of the one that it was made of; itself where no table translates.

    Raises:
        DataError: the private table lacks a case.
    """
    path = released.root / SOURCES_NAME
    if not released.info.obfuscated or not path.is_file():
        return released
    table = csv_table.read_table(path, ("case_id",))
    if not set(COLUMNS) <= set(table.columns):
        return released
    case_column, patient_column = COLUMNS
    known = {row.cells["case_id"]: (row.cells[case_column], row.cells[patient_column]) for row in table.rows}
    missing = sum(case.case_id not in known for case in released.cases)
    if missing:
        got = f"{missing} cases that it lacks"
        raise DataError(expected("the names of all cases", got=got, where=SOURCES_NAME))
    cases = []
    for case in released.cases:
        own, patient = known[case.case_id]
        cases.append(replace(case, case_id=own, patient_id=patient))
    return Manifest(released.root, released.info, tuple(cases))
