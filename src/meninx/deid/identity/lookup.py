"""A hospital's own new patient IDs and accession numbers, from a CSV file.

The file has the columns of :data:`COLUMNS`; the accession numbers and the issuer may be left out, and the
issuer's column may be called ``old_issuer``. Values are separated by commas, semicolons (as Excel does in
much of Europe) or tabs.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meninx.core import files
from meninx.core.errors import DataError, LayoutError, expected, problem
from meninx.deid.identity.issuer_policy import IssuerPolicy
from meninx.deid.identity.keys import normal
from meninx.dicomfile.refusals import Refused

COLUMNS = ("old_patient_id", "new_patient_id", "old_accession_number", "new_accession_number", "issuer")
_OLD, _NEW, _OLD_NUMBER, _NEW_NUMBER, _ISSUER = COLUMNS
_OTHER_ISSUER = "old_issuer"
_LARGEST = 256 << 20  # bytes of the table
_SEPARATORS = ",;\t"
_HINT = re.compile(r"sep=.(\r\n|\r|\n)")  # a first line that Excel reads and some programs write
_HEADING = re.compile(r"[^\r\n]*")
_LO = re.compile(r"[ -\[\]-~]{1,64}")
_SH = re.compile(r"[ -\[\]-~]{1,16}")
# Two words of letters, or the separator of DICOM's names. A pseudonym such as STUDY-001 has neither.
_NAME = re.compile(r"\^|^[^\W\d_]{2,}[ ,.]+[^\W\d_]{2,}([ ,.]+[^\W\d_]+)*[ .]*$")
_SHORTEST_INSIDE = 4  # signs of an original ID that count when they stand inside a new one; "7" is no finding
_SIGNS = re.compile(r"[\W_]+")

_TWO_PEOPLE = (
    "if two issuers gave the ID to two people, add a column `issuer`, and give --issuers separate "
    "or --issuer-domains"
)

PatientKey = tuple[str, str]  # domain (empty: the site's own) and normalised original PatientID


@dataclass(frozen=True)
class Lookup:
    """Original to new identifiers.

    Guarantee: no two patients share a new ID, and no patient has two. A patient is (domain, PatientID), as in
        :mod:`meninx.deid.identity.issuer_policy`, so an ID that two domains use is two patients here, too.

    Attributes:
        patients: (domain, normalised original PatientID) -> new PatientID.
        accessions: (new PatientID, normalised original accession number) -> new accession number.
        digest: SHA-256 of the file, for the fingerprint of a run.
        names_issuers: whether the table has a column of issuers.
    """

    patients: Mapping[PatientKey, str] = field(repr=False)  # originals stay out of logs
    accessions: Mapping[tuple[str, str], str] = field(repr=False)
    digest: str
    names_issuers: bool = False

    def lacks_issuer(self, domain: str, patient_id: str) -> bool:
        """Return whether the table lists an ID without saying that it means the one of this domain."""
        return bool(domain) and not self.names_issuers and ("", normal(patient_id)) in self.patients


def read_lookup(path: Path, policy: IssuerPolicy) -> Lookup:
    """Return the lookup table in a CSV file.

    Args:
        path: the file, UTF-8; values that hold the separator are in quotes.
        policy: says which patient an ID of an issuer means; a row without an issuer means the site's own.

    Raises:
        LayoutError: no such file, not UTF-8, or a column is missing or there twice.
        DataError: a new identifier is empty, too long, not plain ASCII, the original one or contains it, or
            reads like a name; one patient has two, or two patients share one; a new ID is the original ID of
            another patient; the policy refuses an issuer. Names the row, never the value.
    """
    try:
        text = files.read_text(path, limit=_LARGEST)
    except DataError as error:
        fix = "give a CSV file in UTF-8; in Excel, save as `CSV UTF-8`"
        raise LayoutError(problem("the table cannot be read", where="lookup", fix=fix)) from error
    rows = _Rows(path.name, policy)
    try:
        for number, row in _rows(text, path.name):
            rows.add(number, row)
    except csv.Error as error:
        raise LayoutError(expected("a CSV file", got="a damaged one", where=path.name)) from error
    rows.refuse_originals()
    return Lookup(rows.patients, rows.accessions, files.digest(path), rows.names_issuers)


def _rows(text: str, where: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows with the numbers that a spreadsheet shows.

    Raises:
        LayoutError: the heading lacks a column.
        DataError: a row is longer or shorter than the heading.
    """
    hint = _HINT.match(text)
    body = text[hint.end() :] if hint else text
    separator = max(_SEPARATORS, key=_HEADING.match(body)[0].count)  # type: ignore[index]
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=separator, strict=True)
    heading = [name.strip() for name in next(reader, [])]
    columns = [_ISSUER if name == _OTHER_ISSUER else name for name in heading]
    missing = [name for name in (_OLD, _NEW) if name not in columns]
    if missing:
        fix = "write them in the first row, with commas, semicolons or tabs between them"
        raise LayoutError(
            expected(f"the columns {_OLD}, {_NEW}", got=f"no {missing[0]}", where=where, fix=fix)
        )
    if any(columns.count(name) > 1 for name in COLUMNS):
        raise LayoutError(problem("a column is there twice", where=where, fix="leave one of them out"))
    for number, values in enumerate(reader, start=3 if hint else 2):
        if not values:
            continue
        if len(values) != len(columns):
            fix = "quote values that hold the separator"
            what = "the row has more or fewer values than columns"
            raise DataError(problem(what, where=f"{where}, row {number}", fix=fix))
        yield number, dict(zip(columns, values, strict=True))


class _Rows:
    """The rows read so far."""

    def __init__(self, name: str, policy: IssuerPolicy) -> None:
        self.patients: dict[PatientKey, str] = {}
        self.accessions: dict[tuple[str, str], str] = {}
        self.names_issuers = False
        self._name, self._policy = name, policy
        self._owners: dict[str, PatientKey] = {}  # normalised new ID -> patient
        self._numbers: dict[str, int] = {}  # normalised new ID -> row
        self._originals: set[str] = set()

    def add(self, number: int, row: Mapping[str, str]) -> None:
        """Add one row.

        Raises:
            DataError: the row is wrong or contradicts an earlier one.
        """
        where = f"{self._name}, row {number}"
        patient, new = self._patient(row, where), row[_NEW].strip()
        _refuse_telling(patient[1], new, where)
        if self.patients.setdefault(patient, new) != new:
            raise DataError(
                expected("one new ID per patient", got="a second one", where=where, fix=_TWO_PEOPLE)
            )
        if self._owners.setdefault(normal(new), patient) != patient:
            fix = "two people would become one"
            raise DataError(expected("one patient per new ID", got="a second patient", where=where, fix=fix))
        self._numbers.setdefault(normal(new), number)
        self._originals.add(patient[1])
        self._add_accession(row, patient[1], new, where)

    def refuse_originals(self) -> None:
        """Refuse a new ID that is somebody's original one.

        Raises:
            DataError: there is one.
        """
        for new, number in self._numbers.items():
            if new in self._originals:
                what = "a new patient ID is the original ID of a patient in the table"
                raise DataError(problem(what, where=f"{self._name}, row {number}", fix="choose another"))

    def _patient(self, row: Mapping[str, str], where: str) -> PatientKey:
        issuer = row.get(_ISSUER)
        self.names_issuers = issuer is not None
        try:
            domain = self._policy.domain(issuer) if issuer and normal(issuer) else ""
        except Refused:
            fix = "list it in --issuer-domains"
            what = "the issuer is not listed, and --issuers is `listed`"
            raise DataError(problem(what, where=where, fix=fix)) from None
        old, new = normal(row[_OLD]), row[_NEW].strip()
        if not old or not _LO.fullmatch(new):
            fix = "give an old and a new one of 1 to 64 plain characters"
            what = "a patient ID is empty, too long or not plain text"
            raise DataError(problem(what, where=where, fix=fix))
        return domain, old

    def _add_accession(self, row: Mapping[str, str], old: str, new: str, where: str) -> None:
        old_number, new_number = normal(row.get(_OLD_NUMBER, "")), row.get(_NEW_NUMBER, "").strip()
        if not old_number and not new_number:
            return
        if not old_number or not _SH.fullmatch(new_number):
            fix = "give an old and a new one of 1 to 16 plain characters, or neither"
            what = "an accession number is missing, too long or not plain text"
            raise DataError(problem(what, where=where, fix=fix))
        for original, given in ((old_number, new_number), (old_number, new), (old, new_number)):
            _refuse_telling(original, given, where)
        if self.accessions.setdefault((new, old_number), new_number) != new_number:
            raise DataError(
                expected("one new accession number for an old one", got="a second one", where=where)
            )


def _refuse_telling(old: str, new: str, where: str) -> None:
    """Refuse a new identifier that gives the original one or a name away.

    Raises:
        DataError: it does.
    """
    inside, around = _SIGNS.sub("", old), _SIGNS.sub("", normal(new))
    if old == normal(new) or (len(inside) >= _SHORTEST_INSIDE and inside in around):
        what = "a new identifier is the original one or contains it"
        raise DataError(problem(what, where=where, fix="choose one that does not contain it"))
    if _NAME.search(new):
        fix = "choose one that is no name, e.g. STUDY-001"
        raise DataError(problem("a new identifier reads like a name", where=where, fix=fix))
