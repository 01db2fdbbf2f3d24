"""From cleaned images to one dataset: labels, export, splits by patient, sites."""

from meninx.core.lazy import callable_package

callable_package(__name__, "meninx.api", "prepare")  # meninx.prepare(...) is the public function
