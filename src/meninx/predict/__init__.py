"""Trained models on new images: probabilities and label maps from a run, a release or a bundle."""

from meninx.core.lazy import callable_package

callable_package(__name__, "meninx.api", "predict")  # meninx.predict(...) is the public function
