"""Artefacts, output folders, pool, journal, names and errors that every stage shares.

No torch, scipy or DICOM library.
"""
