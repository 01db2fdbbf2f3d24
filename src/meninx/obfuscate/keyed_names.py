"""Names and order of what is released: they say nothing of the source's order, names or numbers.

A case or patient of a release is named by a digest of its name in the source under the key of the release,
and rows stand in the order of these names. So a source that is sorted by the hidden attribute, or that
numbers its patients by it, gives a release that is neither. Two releases name the same patient differently.
Which patients have several images, and the split of each, stay.

``private/cases.csv`` translates, in the format that `meninx prepare` writes, so that a model of a release is
recognised as one of the source's patients.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from meninx.core import artifacts, csv_table, names, source_names
from meninx.core.errors import DataError, expected
from meninx.core.manifest import MANIFEST_NAME, SOURCES_NAME, Case, Manifest

CROSSWALK = Path(SOURCES_NAME).name
_DIGITS = 20
"""Hexadecimal digits of a name: 80 bits."""


@dataclass(frozen=True, eq=False)
class KeyedNames:
    """The names of the cases and patients of a source in one of its releases.

    Attributes:
        cases: case of the source -> case of the release.
        patients: patient of the source -> patient of the release.
        rows: rows of the source in the order of the release, shape (cases,).
    """

    cases: Mapping[str, str]
    patients: Mapping[str, str]
    rows: npt.NDArray[np.int64]

    @classmethod
    def of(cls, source: Sequence[Case], key: bytes) -> KeyedNames:
        """Return the names under the key of a release."""
        cases = {case.case_id: f"c{_digest(key, 'case', case.case_id)}" for case in source}
        patients = {case.patient_id: f"p{_digest(key, 'patient', case.patient_id)}" for case in source}
        order = sorted(range(len(source)), key=lambda row: cases[source[row].case_id])
        return cls(cases, patients, np.array(order, dtype=np.int64))

    def case(self, case: Case) -> str:
        """Return the released name of a case of the source."""
        return self.cases[case.case_id]

    def patient(self, case: Case) -> str:
        """Return the released name of a patient of the source."""
        return self.patients[case.patient_id]

    def of_source(self, released: Manifest) -> Manifest:
        """Return a release under the names of its source.

        Raises:
            DataError: it has other cases or patients.
        """
        cases = {new: old for old, new in self.cases.items()}
        patients = {new: old for old, new in self.patients.items()}
        other = sum(case.case_id not in cases or case.patient_id not in patients for case in released.cases)
        if other:
            got = f"{other} cases that the key of the release does not give"
            fix = "restore the folder as meninx wrote it"
            raise DataError(expected("a release of this original", got=got, where=MANIFEST_NAME, fix=fix))
        return Manifest(
            released.root,
            released.info,
            tuple(
                replace(case, case_id=cases[case.case_id], patient_id=patients[case.patient_id])
                for case in released.cases
            ),
        )

    def crosswalk(self, source: Manifest) -> bytes:
        """Return the private table of names, in the order of the release.

        ``key`` and ``patient`` are the identifiers that `meninx prepare` found in the source of the source;
        they are empty where the source dataset does not keep them.
        """
        known = _identifiers(source.root)
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("case_id", "patient_id", "key", "patient", *source_names.COLUMNS))
        for case in (source.cases[row] for row in self.rows):
            own = known.get(case.case_id, ("", ""))
            cells = (*own, names.csv_cell(case.case_id), names.csv_cell(case.patient_id))
            writer.writerow((self.case(case), self.patient(case), *cells))
        return text.getvalue().encode()


def _digest(key: bytes, what: str, name: str) -> str:
    return artifacts.keyed(key, f"released {what}", name)[:_DIGITS]


def _identifiers(root: Path) -> dict[str, tuple[str, str]]:
    """Return case -> identifiers of case and patient in the source of a dataset; empty where unknown."""
    path = root / SOURCES_NAME
    if not path.is_file():
        return {}
    rows = csv_table.read_table(path, ("case_id", "key", "patient")).rows
    return {row.cells["case_id"]: (row.cells["key"], row.cells["patient"]) for row in rows}
