"""The DICOM file format: bytes, elements, instances, frames, and archives of files.

Nothing here decides what identifies a person; reason codes of refused files
(:mod:`meninx.dicomfile.refusals`) are shared by all who read files.
"""
