"""Who is who at one site: keyed pseudonyms, overridden by the hospital's own lookup table."""

from __future__ import annotations

from dataclasses import dataclass, replace

from meninx.deid.keys import normal
from meninx.deid.lookup import Lookup
from meninx.deid.pseudonyms import Patient, Pseudonyms
from meninx.deid.quarantine import Reason, Refused


@dataclass(frozen=True)
class Resolver:
    """Patients and accession numbers of one site.

    Attributes:
        pseudonyms: the keyed maps.
        lookup: the hospital's own table, or None.
        strict: a patient that the table does not list is refused instead of getting a keyed pseudonym.
        shared: normalised PatientIDs that mean several people, one for each issuer
            (:func:`meninx.deid.issuers.shared_ids`).
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
