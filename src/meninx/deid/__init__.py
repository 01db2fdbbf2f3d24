"""De-identification of DICOM headers: PS3.15 Annex E profiles, keyed pseudonyms, self-check."""
