"""Artefacts, output folders, pool, journal, names and errors that every stage shares; no torch, scipy or DICOM library."""
