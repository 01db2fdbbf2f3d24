"""Keyed replacements of UIDs, patients, accession numbers and other identifiers, and the shift of dates.

:class:`Pseudonyms` derives every replacement from the site key, without any state. A hospital may bring its
own pseudonyms in a table (:mod:`meninx.deid.identity.lookup`). :class:`Resolver` combines the two with the
site's policy on issuers.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field, replace
from typing import Any

from pydicom._uid_dict import UID_dictionary

from meninx.deid.identity.issuer_policy import IssuerPolicy
from meninx.deid.identity.keys import SiteKey, framed, normal, refuse_pickle
from meninx.deid.identity.lookup import Lookup
from meninx.deid.profile import iod_of_sop_class
from meninx.dicomfile.refusals import Reason, Refused

# No vowels and no Y: a pseudonym can hardly spell a name, so the self-check raises no false alarm over one.
ALPHABET = "0123456789BCDFGHJKLMNPQRSTVWXZ"
_DIGITS, _CONSONANTS = ALPHABET[:10], ALPHABET[10:]
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
_ONE_DOMAIN = IssuerPolicy()


@dataclass(frozen=True)
class Patient:
    """The new identity of one patient.

    Attributes:
        identity: domain (or site) and normalised PatientID, framed; never leaves the private room.
        pseudonym: the new PatientID.
        shift_days: added to every date of this patient, one of ``SHIFT_DAYS[0] .. SHIFT_DAYS[1]``.
        domain: name of the domain that numbers the patient; empty for the site's own.
    """

    identity: bytes = field(repr=False)
    pseudonym: str
    shift_days: int
    domain: str = field(default="", repr=False)


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
            for name in (
                "uid",
                "patient",
                "accession",
                "identifier",
                "dates",
                "audit",
                "path",
                "text",
                "trait",
            )
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

    def patient(self, patient_id: str, domain: str = "", study_uid: str = "") -> Patient:
        """Return the patient behind (domain or site, normalised PatientID).

        Without a PatientID each study becomes a patient of its own: two people are never merged by what is
        missing.
        """
        name = normal(patient_id)
        identity = (
            framed("patient", normal(domain) or self.site, name)
            if name
            else framed("study", self.site, study_uid.strip(" \0"))
        )
        low, high = SHIFT_DAYS
        draw = int.from_bytes(self._mac("dates", identity)[:16], "big")
        shift = low + draw % (high - low + 1)
        return Patient(identity, "P" + self._token("patient", identity), shift, domain if name else "")

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

    def suffix(self, patient: Patient, text: str) -> str:
        """Return five signs that stand for one text of one patient: two consonants, a digit, two consonants.

        The digit in the middle prevents that the signs spell a name. Two texts of a patient share a suffix
        with probability 1 in 1.6 million.
        """
        number = int.from_bytes(self._mac("text", framed(text) + patient.identity), "big")
        signs = []
        for alphabet in (_CONSONANTS, _CONSONANTS, _DIGITS, _CONSONANTS, _CONSONANTS):
            number, sign = divmod(number, len(alphabet))
            signs.append(alphabet[sign])
        return "".join(signs)

    def digest(self, content: str | bytes) -> str:
        """Return a keyed digest that may stand in the public audit log."""
        return self._mac("audit", content if isinstance(content, bytes) else framed(content)).hex()[:32]

    def trait(self, identity: bytes, kind: str, text: str) -> str:
        """Return a keyed digest of what a file says of a patient, for the private room.

        Digests of two patients cannot be compared with each other.

        Args:
            identity: of the patient.
            kind: what is said, e.g. ``sex``.
            text: the value, in the form in which it is compared.
        """
        return self._mac("trait", framed(kind, text) + identity).hex()[:16]

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


@dataclass(frozen=True)
class Resolver:
    """Patients and accession numbers of one site.

    Guarantee: the patient of a file is a function of its PatientID and issuer (its study, where there is no
        PatientID), the key, the policy and the lookup table. No other file counts, so every order and every
        partition of an archive gives the same pseudonyms.

    Attributes:
        pseudonyms: the keyed maps.
        policy: which issuers number their patients together.
        lookup: the hospital's own table, or None.
        strict: a patient that the table does not list is refused instead of getting a keyed pseudonym.
    """

    pseudonyms: Pseudonyms
    policy: IssuerPolicy = _ONE_DOMAIN
    lookup: Lookup | None = None
    strict: bool = False

    def patient(self, patient_id: str, issuer: str = "", study_uid: str = "") -> Patient:
        """Return the patient behind an original PatientID.

        Raises:
            Refused: the policy refuses the issuer; or the lookup table does not list the patient and such
                patients are quarantined; or it lists the ID without saying whose it is.
        """
        domain = self.policy.domain(issuer) if normal(patient_id) else ""
        patient = self.pseudonyms.patient(patient_id, domain, study_uid)
        if self.lookup is None:
            return patient
        new = self.lookup.patients.get((domain, normal(patient_id)))
        if new is not None:
            return replace(patient, pseudonym=new)
        if self.lookup.lacks_issuer(domain, patient_id):
            raise Refused(Reason.LOOKUP_WITHOUT_ISSUER, issuer=issuer)
        if self.strict:
            raise Refused(Reason.NOT_IN_LOOKUP)
        return patient

    def accession(self, patient: Patient, original: str) -> str:
        """Return the replacement of an accession number: the patient's row of the table, else keyed."""
        if self.lookup is not None:
            new = self.lookup.accessions.get((patient.pseudonym, normal(original)))
            if new is not None:
                return new
        return self.pseudonyms.accession(patient, original)
