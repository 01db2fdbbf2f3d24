"""Whether folders are as meninx wrote them: digests, records that belong together, epsilon computed again from its ledger."""

from meninx.core.lazy import callable_package

callable_package(__name__, "meninx.api", "verify")  # meninx.verify(...) is the public function
