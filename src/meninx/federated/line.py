"""The line between a site and the coordinator: how it is opened, and how it fails."""

from __future__ import annotations

import ssl

import httpx

from meninx.core import names
from meninx.core.errors import DataError, problem

_LONGEST_REASON = 200  # characters; a proxy may have written them
_TIMEOUT = 30.0  # seconds without a byte after which a call is given up


class Unreachable(DataError):
    """No connection, or it broke; the call may be tried again."""


class NotAdmitted(DataError):
    """The other end was reached, and one of the two ends does not accept the other."""


def open_line(root_certificate: bytes, *, timeout: float = _TIMEOUT) -> httpx.Client:
    """Return an HTTP client that trusts the study's certificate authority alone.

    It goes through the proxy that the environment names (``HTTPS_PROXY``, ``NO_PROXY``).

    Args:
        root_certificate: the authority's certificate, PEM.
        timeout: seconds without a byte after which a call is given up.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=root_certificate.decode("ascii"))
    return httpx.Client(verify=context, timeout=timeout, follow_redirects=False)


def line_error(error: Exception) -> DataError:
    """Return the error of meninx for a failed call, with a sentence for the site's administrator."""
    if isinstance(error, httpx.HTTPStatusError):
        return _status_error(error.response)
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return NotAdmitted(
            problem(
                "the coordinator's certificate is not one of this study",
                where="TLS",
                fix="compare the fingerprint with the coordinator; a proxy that opens TLS has to exempt it",
            )
        )
    reason = names.printable(text)[:_LONGEST_REASON] or type(error).__name__
    return Unreachable(problem(f"no connection to the coordinator: {reason}", where="network"))


def _status_error(response: httpx.Response) -> DataError:
    status = response.status_code
    if status == 401:
        plain = response.headers.get("content-type", "").startswith("text/plain")
        reason = response.text[:300] if plain else "its key is not enrolled, or revoked"
        return NotAdmitted(
            problem(f"the coordinator does not admit this site: {reason}", where="coordinator")
        )
    return Unreachable(problem(f"the coordinator or a proxy answers {status}", where="network"))
