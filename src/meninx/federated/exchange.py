"""Exchange: asks sites and collects their replies, whatever carries them.

The coordinator's rounds (:mod:`.rounds`) know this interface alone. Implementations: all sites in one process
(``simulate``), Flower with the mailbox (a study), Flower alone (the fallback).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from meninx.federated.messages import Reply, Request


class Exchange(Protocol):
    """Carries requests to sites and their replies back."""

    def present(self) -> frozenset[str]:
        """Return the enrolled sites that are connected now."""

    def ask(self, requests: Mapping[str, Request], *, within: float) -> Mapping[str, Reply]:
        """Return the replies that arrived within the time; a site that did not answer is absent.

        Args:
            requests: one request per site, by the name of the site.
            within: seconds to wait.

        Raises:
            StorageError, UsageError: the carrier itself does not work; no reply will come.
        """


class Site(Protocol):
    """The site's end: answers one request at a time. It is the same object behind every carrier."""

    name: str

    def handle(self, request: Request) -> Reply:
        """Return the reply; errors of meninx become :class:`.messages.Declined`."""
