"""Releases of images in which an attribute of the patient is hard to find."""

from meninx.core.lazy import callable_package

callable_package(__name__, "meninx.api_releases", "obfuscate")
