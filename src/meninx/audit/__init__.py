"""The audit stage: what theory bounds, what attacks find, and whether a run keeps what it claims."""

from meninx.core.lazy import callable_package

callable_package(__name__, "meninx.api", "audit")  # meninx.audit(...) is the public function
