"""Checks of folders that meninx wrote, and of DICOM files that anybody wrote.

Folders: digests, signatures, consistent records, epsilon computed again from the ledger. DICOM files:
identifiers that are left, markers, UIDs, dates, conformance, text in the pixels.
"""

from meninx.core.lazy import callable_package

callable_package(__name__, "meninx.api", "verify")  # meninx.verify(...) is the public function
