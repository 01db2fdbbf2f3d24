"""Artefacts, output folders, process pool, journal, names and errors shared by all stages.

The package imports no torch, scipy or DICOM library, so that commands without them start quickly.
"""
