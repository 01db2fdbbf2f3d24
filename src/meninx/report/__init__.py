"""One self-contained HTML page, a model card, and the figures in them."""

from meninx.core.lazy import callable_package

callable_package(__name__, "meninx.api", "report")  # meninx.report(...) is the public function
