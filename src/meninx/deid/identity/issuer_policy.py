"""Which authorities that assign patient IDs number their patients together: the domains of one site.

A patient is identified by (domain, PatientID), never by the PatientID alone. The domain of a file depends
only on its IssuerOfPatientID and on this policy:

- A file without an issuer belongs to the site's own domain.
- An issuer that the policy lists belongs to the domain that lists it.
- Any other issuer belongs to the site's own domain (rule ``site``, the usual one), is a domain of its own
  (``separate``), or is refused (``listed``).

Under ``site``, an ID that two unlisted issuers gave out would merge two people; the site's registry
(:mod:`meninx.deid.identity.identity_registry`) keeps the second issuer's files out until the policy lists it.

    >>> policy = IssuerPolicy("north", "site", domains={"east lab": "east"})
    >>> policy.domain("NORTH-PACS") == policy.domain("") == ""
    True
    >>> policy.domain("East Lab ")
    'east'
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from meninx.core import files
from meninx.core.errors import ConfigError, DataError, expected, problem
from meninx.deid.identity.keys import normal
from meninx.dicomfile.refusals import Reason, Refused

IssuerRule = Literal["site", "separate", "listed"]
MissingIssuer = Literal["site", "quarantine"]
OWN = "site"  # the word for the site's own domain in a file of domains
_LARGEST = 4 << 20  # bytes of such a file


@dataclass(frozen=True)
class IssuerPolicy:
    """The domain of every issuer.

    Guarantee: the domain is a function of the issuer and the policy; other files do not count.

    Attributes:
        site: name of the site; an issuer of this name is the site's own. Empty for a site without a name.
        rule: what an issuer means that ``domains`` does not list.
        missing: what a file without an issuer means.
        domains: normalised issuer -> normalised name of its domain, empty for the site's own.
    """

    site: str = ""
    rule: IssuerRule = "site"
    missing: MissingIssuer = "site"
    domains: Mapping[str, str] = field(default_factory=dict)

    def domain(self, issuer: str) -> str:
        """Return the normalised name of an issuer's domain; empty for the site's own.

        Raises:
            Refused: ``issuer-missing`` or ``issuer-not-listed``, where the policy says so.
        """
        name = normal(issuer)
        if not name:
            if self.missing == "quarantine":
                raise Refused(Reason.ISSUER_MISSING)
            return ""
        if name in self.domains:
            return self.domains[name]
        if name == normal(self.site):
            return ""
        if self.rule == "listed":
            raise Refused(Reason.ISSUER_NOT_LISTED, issuer=issuer)
        return "" if self.rule == "site" else name

    @property
    def names(self) -> frozenset[str]:
        """Normalised names of issuers and domains that the policy spells out."""
        return frozenset(self.domains) | frozenset(name for name in self.domains.values() if name)


def read_policy(
    path: Path | None, site: str, rule: IssuerRule = "site", missing: MissingIssuer = "site"
) -> IssuerPolicy:
    """Return the policy of a site.

    Args:
        path: TOML file with the issuers of each domain, e.g. ``site = ["NORTH-PACS", "NORTH RIS"]`` and
            ``"east lab" = ["EAST LAB", "ELAB"]``; the domain ``site`` is the site's own. None for no list.
        site: name of the site.
        rule: what an issuer means that the file does not list.
        missing: what a file without an issuer means.

    Raises:
        ConfigError: the file cannot be read, is no TOML, holds something else than lists of names, or lists
            an issuer in two domains; names the line or the place, never an issuer.
    """
    domains = {normal(site): ""}
    for number, (label, issuers) in enumerate(_tables(path).items(), start=1):
        where = f"issuer domains, entry {number}"
        name = normal(label)
        if not name or not isinstance(issuers, list) or not all(map(_is_name, issuers)):
            fix = 'write "east" = ["EAST LAB", "ELAB"]'
            what = "a domain and a list of names of issuers"
            raise ConfigError(expected(what, got="something else", where=where, fix=fix))
        own = "" if name in (OWN, normal(site)) else name
        # A domain may have the name of an issuer, and then it is that issuer's.
        for issuer in (*map(normal, issuers), *([own] if own else [])):
            if domains.setdefault(issuer, own) != own:
                fix = "list every issuer in one domain"
                raise ConfigError(problem("an issuer is listed in two domains", where=where, fix=fix))
    return IssuerPolicy(normal(site), rule, missing, domains)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(normal(value))


def _tables(path: Path | None) -> dict[str, object]:
    if path is None:
        return {}
    try:
        return tomllib.loads(files.read_text(path, limit=_LARGEST))
    except (DataError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(
            expected("a TOML file", got=type(error).__name__, where="issuer domains")
        ) from error
