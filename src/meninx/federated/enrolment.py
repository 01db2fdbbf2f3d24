"""Enrolment: a site asks to take part, the coordinator accepts, and keys are replaced or revoked.

A site's request is a signed file with its public keys. It proves that the site holds each private key, and
after a rotation it also carries a signature of the key before, so that the coordinator can tell a site with
new keys from somebody who uses its name. What a person must do is compare twelve words by telephone.

Order of the checks in :func:`accept`: form, signature, proofs, name, invitation, revocation, then
continuity with the keys that are enrolled under that name. Nothing is written before all requests of the
call have passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from meninx.core import artifacts, files, names, signed_file
from meninx.core.errors import DataError, PrivacyRefusal, UsageError, problem
from meninx.core.signed_file import Statement
from meninx.federated import authority, enrolment_keys
from meninx.federated.enrolment_keys import EnrolmentKeys, PublicKeys
from meninx.federated.site_folder import SiteFolder
from meninx.federated.study import COORDINATOR, EnrolledSite, Study, StudyFolder, is_name

_POSSESSION, _CONTINUITY = b"meninx possession 1\0", b"meninx continuity 1\0"


class EnrolmentRequest(Statement, frozen=True, kw_only=True, tag="enrolment"):
    """What is signed in ``enrol-SITE.json``.

    Attributes:
        name: name of the site.
        signing: raw Ed25519 public key, which signs the request.
        node: ECDSA P-384 public key of the node, as SubjectPublicKeyInfo in DER.
        tls: ECDSA P-384 public key for the certificate.
        node_proof: signature of the node's key over the fingerprint.
        tls_proof: signature of the TLS key over the fingerprint.
        made: time, ISO 8601 in UTC.
        previous: after a rotation the Ed25519 public key before, else empty.
        continuity: signature of that key over the fingerprint, else empty.
    """

    name: str
    signing: bytes
    node: bytes
    tls: bytes
    node_proof: bytes
    tls_proof: bytes
    made: str
    previous: bytes = b""
    continuity: bytes = b""

    @property
    def keys(self) -> PublicKeys:
        """The public keys of the site."""
        return PublicKeys(self.name, self.signing, self.node, self.tls)


@dataclass(frozen=True)
class Accepted:
    """A request that passed.

    Attributes:
        site: the site as it stands in the study file.
        change: ``new``, ``renewed`` (same keys, new certificate), ``rotated`` or ``unchanged``.
        retired: fingerprint of the keys that were replaced; empty for none.
    """

    site: EnrolledSite
    change: str
    retired: str = ""


def request(site: SiteFolder, *, before: EnrolmentKeys | None = None) -> bytes:
    """Write the request of a site into its folder and return its content.

    Args:
        site: the site.
        before: after a rotation, the keys before.

    Raises:
        StorageError: the disk refused.
    """
    keys = site.keys()
    public, print_ = keys.public, bytes.fromhex(keys.public.fingerprint())
    algorithm = ec.ECDSA(hashes.SHA384())
    statement = EnrolmentRequest(
        name=site.name,
        signing=public.signing,
        node=public.node,
        tls=public.tls,
        node_proof=keys.node.sign(_POSSESSION + print_, algorithm),
        tls_proof=keys.tls.sign(_POSSESSION + print_, algorithm),
        made=artifacts.now(),
        previous=before.public.signing if before else b"",
        continuity=before.signing.sign(_CONTINUITY + print_) if before else b"",
    )
    content = signed_file.seal(statement, keys.signing)
    files.write_bytes(site.request_path, content)
    site.log().append("enrolment requested", fingerprint=public.fingerprint(), rotated=before is not None)
    return content


def read_request(path: Path) -> EnrolmentRequest:
    """Return the request in a file that may come from anybody.

    Raises:
        DataError: it is too large, damaged, or has an odd name or key.
        PrivacyRefusal: a signature or proof does not fit.
    """
    where = path.name
    content = files.read_bytes(path, limit=signed_file.LIMIT)
    found = signed_file.read(content, EnrolmentRequest, where=where)
    if not is_name(found.name) or found.name == COORDINATOR:
        raise DataError(problem("the request has no usable name of a site", where=where))
    names.check([found.made], what="time", where=where)
    enrolment_keys.ed25519(found.signing, where=where)
    signed_file.check_signature(content, found.signing, where=where)
    print_ = bytes.fromhex(found.keys.fingerprint())
    for key, proof in ((found.node, found.node_proof), (found.tls, found.tls_proof)):
        _check_proof(enrolment_keys.p384(key, where=where), proof, print_, where)
    if found.previous and not signed_file.verified(found.previous, found.continuity, _CONTINUITY + print_):
        raise PrivacyRefusal(problem("the old key did not sign the new ones", where=where))
    return found


def accept(folder: StudyFolder, paths: Iterable[Path]) -> tuple[Study, tuple[Accepted, ...]]:
    """Take requests into a study, publish the next revision and return it; all pass or none does.

    Args:
        folder: the coordinator's folder.
        paths: files of requests.

    Raises:
        DataError: a request is damaged, or two are of one site.
        UsageError: a site is not invited, or is enrolled with other keys already.
        PrivacyRefusal: a signature does not fit, or keys are revoked.
    """
    study = folder.published()
    found: dict[str, EnrolmentRequest] = {}
    for path in paths:
        item = read_request(path)
        if item.name in found:
            raise DataError(problem("two requests are of one site", where=path.name))
        found[item.name] = item
    config = folder.config()
    for name in found:
        if config.sites.names and name not in config.sites.names:
            fix = "add it to [sites] names in study.toml first"
            raise UsageError(problem(f"{name} is not invited", where="sites", fix=fix))
    accepted = tuple(_accepted(folder, study, item) for item in found.values())
    sites = {site.name: site for site in study.file.sites} | {item.site.name: item.site for item in accepted}
    revoked = {*study.file.revoked, *(item.retired for item in accepted if item.retired)}
    published = folder.publish(sites.values(), revoked)
    log = folder.log()
    for done in accepted:
        print_ = done.site.keys.fingerprint()
        log.append("site enrolled", site=done.site.name, change=done.change, fingerprint=print_)
    return published, accepted


def revoke(folder: StudyFolder, revoked_names: Iterable[str]) -> Study:
    """Remove sites from a study, refuse their keys for ever, and return the next revision.

    Raises:
        UsageError: a site is not enrolled.
    """
    study = folder.published()
    going: Mapping[str, EnrolledSite] = {
        name: site for name in revoked_names if (site := study.site(name)) is not None
    }
    missing = [name for name in revoked_names if name not in going]
    if missing:
        shown = ", ".join(names.printable(name)[:60] for name in missing)
        raise UsageError(problem(f"not enrolled: {shown}", where="--revoke"))
    prints = {site.keys.fingerprint() for site in going.values()}
    staying = [site for site in study.file.sites if site.name not in going]
    published = folder.publish(staying, {*study.file.revoked, *prints})
    for name, site in going.items():
        folder.log().append("site revoked", site=name, fingerprint=site.keys.fingerprint())
    return published


def _accepted(folder: StudyFolder, study: Study, item: EnrolmentRequest) -> Accepted:
    keys, before = item.keys, study.site(item.name)
    if keys.fingerprint() in study.file.revoked:
        fix = "the site makes new keys with `meninx federate enrol SITE --rotate`"
        raise PrivacyRefusal(problem(f"the keys of {item.name} are revoked", where="enrolment", fix=fix))
    if before is None:
        return Accepted(_enrolled(folder, keys), "new")
    if before.keys == keys:
        if authority.days_left(before.certificate) > authority.WARNING_DAYS:
            return Accepted(before, "unchanged")
        return Accepted(_enrolled(folder, keys), "renewed")
    if item.previous != before.signing:
        fix = f"telephone the site; if it lost its keys, `--revoke {item.name}` and accept this request then"
        what = f"{item.name} is enrolled with other keys, which did not sign the new ones"
        raise PrivacyRefusal(problem(what, where="enrolment", fix=fix))
    return Accepted(_enrolled(folder, keys), "rotated", before.keys.fingerprint())


def _enrolled(folder: StudyFolder, keys: PublicKeys) -> EnrolledSite:
    certificate = folder.issue(keys)
    return EnrolledSite(name=keys.name, signing=keys.signing, node=keys.node, certificate=certificate)


def _check_proof(key: ec.EllipticCurvePublicKey, proof: bytes, print_: bytes, where: str) -> None:
    try:
        key.verify(proof, _POSSESSION + print_, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature as error:
        what = "the request does not prove that the site holds its keys"
        raise PrivacyRefusal(problem(what, where=where)) from error
