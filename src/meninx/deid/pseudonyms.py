"""Keyed replacements of UIDs, patients, accession numbers and other identifiers, and the shift of dates.

:class:`Pseudonyms` derives every replacement from the site key, without any state. A hospital may bring its
own pseudonyms in a CSV table (:class:`Lookup`). :class:`Resolver` combines the two.
"""

from __future__ import annotations

import csv
import hmac
import io
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydicom._uid_dict import UID_dictionary

from meninx.core import files
from meninx.core.errors import DataError, LayoutError, expected, problem
from meninx.deid.keys import SiteKey, framed, normal, refuse_pickle
from meninx.deid.profile import iod_of_sop_class
from meninx.deid.quarantine import Reason, Refused

# No vowels and no Y: a pseudonym can hardly spell a name, so the self-check raises no false alarm over one.
ALPHABET = "0123456789BCDFGHJKLMNPQRSTVWXZ"
LENGTH = 15  # after the leading letter: 73 bits, 16 characters in all, the most that SH takes
# Whole days only, so that times of day and uptake intervals stay. Back only, so that no date is in the
# future. At least a year, so that a shifted date cannot be mistaken for a neighbouring original one. At most
# ten years, so that devices and practice still fit the period.
SHIFT_DAYS = (-3650, -365)
# Coding schemes of PS3.16 Table 8-1 whose UIDs are registered elsewhere.
_ARCS = """
    6.1 6.2 6.3 6.4 6.5 6.6 6.8 6.12 6.24 6.42 6.43 6.43.1 6.51 6.53 6.55.1 6.63 6.69 6.73
    6.84 6.86 6.88 6.90 6.96 6.97 6.99 6.100 6.103 6.104 6.119 6.121 6.177 6.256 6.316
    3.26.1.1 3.26.1.2
"""
_CODING_SCHEMES = frozenset(f"2.16.840.1.113883.{arc}" for arc in _ARCS.split())


@dataclass(frozen=True)
class Patient:
    """The new identity of one patient.

    Attributes:
        identity: issuer (or site) and normalised PatientID, framed; never leaves the private room.
        pseudonym: the new PatientID.
        shift_days: added to every date of this patient, one of ``SHIFT_DAYS[0] .. SHIFT_DAYS[1]``.
    """

    identity: bytes
    pseudonym: str
    shift_days: int


class Pseudonyms:
    """Maps original values of one site to replacements, without any state.

    Guarantee: every map is HMAC-SHA-256 under its own subkey of the site key, so the same value becomes the
        same replacement in every file, run and process, and without the key nobody can confirm a guess. Two
        identities share a pseudonym with probability below ``n**2 / 2**74`` for ``n`` patients.
    """

    def __init__(self, key: SiteKey) -> None:
        self.site = key.site
        self._keys = {
            name: key.derive(name)
            for name in ("uid", "patient", "accession", "identifier", "dates", "audit", "path")
        }

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a worker process that is being started; see :func:`.keys.refuse_pickle`."""
        refuse_pickle()
        return self.__dict__

    def uid(self, original: str) -> str:
        """Return a valid UID below 2.25 for an original one; registered UIDs of the standard stay."""
        value = original.strip(" \0")
        if not value or is_registered(value):
            return value
        number = bytearray(self._mac("uid", framed(value))[:16])
        number[6] = (
            number[6] & 0x0F | 0x40
        )  # the version bits that make the number a UUID, as the root 2.25 requires
        number[8] = number[8] & 0x3F | 0x80
        return f"2.25.{int.from_bytes(number, 'big')}"

    def patient(self, patient_id: str, issuer: str = "", study_uid: str = "") -> Patient:
        """Return the patient behind (issuer or site, normalised PatientID).

        Without a PatientID each study becomes a patient of its own: two people are never merged by what is
        missing.
        """
        domain = normal(issuer) or self.site
        name = normal(patient_id)
        identity = (
            framed("patient", domain, name) if name else framed("study", self.site, study_uid.strip(" \0"))
        )
        low, high = SHIFT_DAYS
        draw = int.from_bytes(self._mac("dates", identity)[:16], "big")
        return Patient(identity, "P" + self._token("patient", identity), low + draw % (high - low + 1))

    def accession(self, patient: Patient, original: str) -> str:
        """Return a replacement of at most 16 characters for one patient's accession number.

        Empty stays empty.
        """
        name = normal(original)
        return "A" + self._token("accession", framed("accession", name) + patient.identity) if name else ""

    def identifier(self, kind: str, original: str) -> str:
        """Return a replacement of 16 characters for another identifier.

        ``kind`` separates attributes from each other.
        """
        name = normal(original)
        return "N" + self._token("identifier", framed(kind, name)) if name else ""

    def digest(self, content: str | bytes) -> str:
        """Return a keyed digest that may stand in the public audit log."""
        return self._mac("audit", content if isinstance(content, bytes) else framed(content)).hex()[:32]

    def path_part(self, path: str) -> str:
        """Return a file name part that stands for an original path."""
        return "F" + self._token("path", framed(path))

    def _mac(self, purpose: str, content: bytes) -> bytes:
        return hmac.digest(self._keys[purpose], content, "sha256")

    def _token(self, purpose: str, content: bytes) -> str:
        number = int.from_bytes(self._mac(purpose, content), "big")
        signs = []
        for _ in range(LENGTH):
            number, sign = divmod(number, len(ALPHABET))
            signs.append(ALPHABET[sign])
        return "".join(signs)


def is_registered(uid: str) -> bool:
    """Return whether a UID names something published (a SOP class, a transfer syntax, a coding scheme, ...).

    Only the UIDs of the dictionary count. Anything else below the root of DICOM may have been made up for an
    instance.
    """
    return uid in UID_dictionary or uid in _CODING_SCHEMES or uid in iod_of_sop_class()


LOOKUP_COLUMNS = ("old_patient_id", "new_patient_id", "old_accession_number", "new_accession_number")
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

    patients: dict[str, str] = field(repr=False)  # originals stay out of logs
    accessions: dict[tuple[str, str], str] = field(repr=False)
    digest: str


def read_lookup(path: Path) -> Lookup:
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
            problem("the table cannot be read", where="lookup", fix="give a CSV file in UTF-8")
        ) from error
    table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    patients: dict[str, str] = {}
    owners: dict[str, str] = {}
    accessions: dict[tuple[str, str], str] = {}
    try:
        missing = [name for name in LOOKUP_COLUMNS[:2] if name not in (table.fieldnames or ())]
        if missing:
            raise LayoutError(
                expected(
                    f"the columns {', '.join(LOOKUP_COLUMNS[:2])}", got=f"no {missing[0]}", where=path.name
                )
            )
        for number, row in enumerate(table, start=2):
            _add_row(row, f"{path.name}, row {number}", patients, owners, accessions)
    except csv.Error as error:
        raise LayoutError(expected("a CSV file", got=str(error), where=path.name)) from error
    return Lookup(patients, accessions, files.digest(path))


def _add_row(
    row: dict[str, str],
    where: str,
    patients: dict[str, str],
    owners: dict[str, str],
    accessions: dict[tuple[str, str], str],
) -> None:
    if None in row or any(value is None for value in row.values()):
        raise DataError(
            problem(
                "the row has more or fewer values than columns",
                where=where,
                fix="quote values that hold a comma",
            )
        )
    old, new = normal(row[LOOKUP_COLUMNS[0]]), row[LOOKUP_COLUMNS[1]].strip()
    if not old or not _LO.fullmatch(new):
        raise DataError(
            problem(
                "a patient ID is empty, too long or not plain text",
                where=where,
                fix="give an old and a new one of 1 to 64 plain characters",
            )
        )
    if patients.setdefault(old, new) != new:
        raise DataError(expected("one new ID per patient", got="a second one", where=where))
    if owners.setdefault(new, old) != old:
        raise DataError(
            expected(
                "one patient per new ID",
                got="a second patient",
                where=where,
                fix="two people would become one",
            )
        )
    old_number, new_number = (
        normal(row.get(LOOKUP_COLUMNS[2]) or ""),
        (row.get(LOOKUP_COLUMNS[3]) or "").strip(),
    )
    if not old_number and not new_number:
        return
    if not old_number or not _SH.fullmatch(new_number):
        raise DataError(
            problem(
                "an accession number is missing, too long or not plain text",
                where=where,
                fix="give an old and a new one of 1 to 16 plain characters, or neither",
            )
        )
    if accessions.setdefault((new, old_number), new_number) != new_number:
        raise DataError(expected("one new accession number for an old one", got="a second one", where=where))


@dataclass(frozen=True)
class Resolver:
    """Patients and accession numbers of one site.

    Attributes:
        pseudonyms: the keyed maps.
        lookup: the hospital's own table, or None.
        strict: a patient that the table does not list is refused instead of getting a keyed pseudonym.
        shared: normalised PatientIDs that mean several people, one for each issuer
            (:func:`meninx.deid.discover.shared_ids`).
    """

    pseudonyms: Pseudonyms
    lookup: Lookup | None = None
    strict: bool = False
    shared: frozenset[str] = frozenset()

    def is_shared(self, patient_id: str) -> bool:
        """Return whether the issuer is needed to know whom a PatientID means."""
        return normal(patient_id) in self.shared

    def patient(self, patient_id: str, issuer: str = "", study_uid: str = "") -> Patient:
        """Return the patient behind an original PatientID.

        Raises:
            Refused: the lookup table does not list the patient and the policy is to quarantine.
        """
        patient = self.pseudonyms.patient(patient_id, issuer if self.is_shared(patient_id) else "", study_uid)
        if self.lookup is None:
            return patient
        new = self.lookup.patients.get(normal(patient_id))
        if new is None and self.strict:
            raise Refused(Reason.NOT_IN_LOOKUP)
        if new is not None:
            patient = replace(patient, pseudonym=new)
        return patient

    def accession(self, patient: Patient, original: str) -> str:
        """Return the replacement of an accession number: the patient's row of the table, else keyed."""
        if self.lookup is not None:
            new = self.lookup.accessions.get((patient.pseudonym, normal(original)))
            if new is not None:
                return new
        return self.pseudonyms.accession(patient, original)
