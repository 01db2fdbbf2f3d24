"""The coordinator's certificate authority: TLS certificates of a study's server and sites.

The authority belongs to one study and signs nothing else. Sites trust its certificate because it stands in
the study file that they approve, not because of a public authority.

>>> from datetime import timedelta
>>> from cryptography.hazmat.primitives.asymmetric import ec
>>> key, site = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
>>> root = self_signed(key, "chest")
>>> issued = issue(root, key, site.public_key(), "north", hosts=())
>>> days_left(issued) > 360, check_issued(issued, root, "north", where="roster")
(True, None)
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meninx.core.errors import DataError, PrivacyRefusal, problem

AUTHORITY_DAYS, CERTIFICATE_DAYS = 3650, 397
WARNING_DAYS = 30  # a certificate that ends sooner is warned about
_SKEW = timedelta(hours=1)  # by which clocks may be behind ours
_LIMIT = 1 << 14  # bytes of a certificate
_LOOPBACK = ("localhost", "127.0.0.1")


def self_signed(key: ec.EllipticCurvePrivateKey, study: str) -> bytes:
    """Return the authority's own certificate, in DER."""
    name = _name(f"{study} authority")
    public = key.public_key()
    builder = _builder(name, name, public, AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    return _der(builder.sign(key, hashes.SHA384()))


def issue(
    authority: bytes,
    key: ec.EllipticCurvePrivateKey,
    public: ec.EllipticCurvePublicKey,
    subject: str,
    *,
    hosts: Iterable[str],
) -> bytes:
    """Return a certificate, in DER.

    Args:
        authority: the authority's certificate, in DER.
        key: the authority's private key.
        public: the key that is certified.
        subject: name of the site, or ``coordinator``.
        hosts: names and IP addresses at which it is reached, beside loopback.
    """
    issuer = certificate(authority, where="authority")
    builder = _builder(_name(subject), issuer.subject, public, CERTIFICATE_DAYS)
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    names = x509.SubjectAlternativeName([_host(host) for host in dict.fromkeys((*hosts, *_LOOPBACK))])
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(usages, critical=False)
    builder = builder.add_extension(names, critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
    )
    return _der(builder.sign(key, hashes.SHA384()))


def certificate(content: bytes, *, where: str) -> x509.Certificate:
    """Return a certificate from its DER.

    Raises:
        DataError: it is none, or too large.
    """
    if len(content) > _LIMIT:
        raise DataError(problem("a certificate is too large", where=where))
    try:
        return x509.load_der_x509_certificate(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DataError(problem("a certificate cannot be read", where=where)) from error


def check_issued(content: bytes, authority: bytes, subject: str, *, where: str) -> None:
    """Refuse a certificate that the authority did not issue to a subject.

    Raises:
        PrivacyRefusal: it was issued by somebody else, or to somebody else.
        DataError: it cannot be read.
    """
    own, root = certificate(content, where=where), certificate(authority, where=where)
    fix = "ask the coordinator for the study file again"
    try:
        own.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature) as error:
        what = f"the certificate of {subject} is not from the study's authority"
        raise PrivacyRefusal(problem(what, where=where, fix=fix)) from error
    if own.subject != _name(subject):
        raise PrivacyRefusal(problem(f"the certificate of {subject} names another", where=where, fix=fix))


def check_dates(content: bytes, subject: str, *, where: str) -> None:
    """Refuse a certificate that is not valid now.

    Raises:
        PrivacyRefusal: it has ended, or begins later.
    """
    own, moment = certificate(content, where=where), datetime.now(UTC)
    if moment < own.not_valid_before_utc - _SKEW or moment > own.not_valid_after_utc:
        fix = "check the clock of this machine; otherwise the coordinator accepts the site's enrolment again"
        raise PrivacyRefusal(problem(f"the certificate of {subject} is not valid now", where=where, fix=fix))


def public_key(content: bytes, *, where: str) -> ec.EllipticCurvePublicKey:
    """Return the key in a certificate; DataError if it is none of ECDSA P-384."""
    try:
        found = certificate(content, where=where).public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DataError(problem("the key of a certificate cannot be read", where=where)) from error
    if not isinstance(found, ec.EllipticCurvePublicKey) or not isinstance(found.curve, ec.SECP384R1):
        raise DataError(problem("the key of a certificate is not of ECDSA P-384", where=where))
    return found


def days_left(content: bytes) -> int:
    """Return the whole days until a certificate ends, negative afterwards."""
    ends = certificate(content, where="certificate").not_valid_after_utc
    return (ends - datetime.now(UTC)).days


def pem(content: bytes) -> bytes:
    """Return a certificate in PEM, as TLS libraries read it, from its DER."""
    return certificate(content, where="certificate").public_bytes(serialization.Encoding.PEM)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    begins = datetime.now(UTC).replace(microsecond=0) - _SKEW
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=public)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(begins).not_valid_after(begins + timedelta(days=days))


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(subject: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _der(found: x509.Certificate) -> bytes:
    return found.public_bytes(serialization.Encoding.DER)
