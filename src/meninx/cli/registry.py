"""``meninx registry``: what a site's identity registry holds, as numbers."""

from __future__ import annotations

from pathlib import Path

from meninx.cli import early
from meninx.cli.console import Output


def registry(
    key: Path,
    /,
    *,
    site: str = "site",
    registry: Path | None = None,
    issuer_domains: Path | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Show a site's identity registry: patients per issuer, IDs that were kept out, and the signing key.

    Nothing is written. The registry holds keyed digests, so an issuer has a name here only if
    --issuer-domains lists it. The fingerprint is that of the key that signs the site's clean archives. It is
    derived from the site key; tell it to whoever checks an archive with `meninx verify --signer`. Exit code
    4: the registry was changed, or belongs to another key or site.

    Args:
        key: File with the site key.
        site: Name of the hospital, as for `meninx deid`.
        registry: File of the registry; beside the key by default.
        issuer_domains: TOML file with the issuers of each domain, as for `meninx deid`.
    """
    early.exists(key, registry, issuer_domains)
    from dataclasses import replace

    from meninx.deid.identity import identity_registry, issuer_policy, keys
    from meninx.deid.papers import archive_signature

    place = registry or identity_registry.usual_place(key, site)
    early.exists(place)
    policy = issuer_policy.read_policy(issuer_domains, site, "listed")
    secret = keys.read_key(key, site)
    opened = identity_registry.IdentityRegistry(place, secret, policy, frozen=True)
    signer = archive_signature.fingerprint_of(archive_signature.signing_key(secret))
    output.show(replace(opened.report(), signer=signer))
