"""Checks of folders that meninx wrote: digests, consistent records, epsilon recomputed from the ledger."""

from meninx.core.lazy import callable_package

callable_package(__name__, "meninx.api", "verify")  # meninx.verify(...) is the public function
