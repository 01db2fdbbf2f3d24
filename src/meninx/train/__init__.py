"""The training stage: recipes, evaluation, sweeps, export."""

from meninx.core.lazy import callable_package

callable_package(__name__, "meninx.api", "train")  # meninx.train(...) is the public function
