"""Roster: the participants of a study, signed by every site, and the numbers that follow from its size.

Everything else in the package is checked against the roster: a message counts only with the signature of a
member, and the quorum follows from the size of the roster, never from the sites that a coordinator names.

The numbers for n sites, quorum q, share threshold t and c sites that collude with the coordinator:

- q = floor(2n/3) + 1 sites sign one set of survivors before anything is opened. A colluding site may sign two
  sets, an honest site signs one. Two sets would need 2(q - c) honest signatures from n - c honest sites,
  which is impossible when 2q > n + c. So at most one sum is opened per round.
- The opened sum contains at least q - c honest updates. It hides single updates when q - c >= 2. The largest
  c that both rules allow is c = min(2q - n - 1, q - 2); the second rule matters for three sites only.
- t = c + 1 shares rebuild a secret, so c colluders cannot rebuild any. From four sites on t = 2q - n, which
  is at most q: t sites remain when n - q are lost before the agreement and n - q after it.

With more colluders than ``covered(n).colluders`` there is no guarantee; a site whose signing key was stolen
counts as a colluder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from meninx.core import names
from meninx.core.errors import ConfigError, DataError, PrivacyRefusal, expected, problem

# Sites of a secure aggregation; more than 32 would need sparse graphs of pairs and a separate analysis.
SMALLEST, LARGEST = 3, 32
ROSTER_LIMIT = 1 << 20  # bytes of an encoded roster
_ROSTER_DOMAIN = b"meninx/secagg/1/roster\x00"
_KEY_BYTES = 32
_SMALL_ORDER = frozenset(  # Ed25519 points of small order, for which anyone can forge signatures; no sign bit
    bytes.fromhex(point)
    for point in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)


def quorum(sites: int) -> int:
    """Return q = floor(2n/3) + 1, the number of sites that must agree before a sum is opened.

    >>> [quorum(n) for n in (3, 4, 5, 6, 7, 9, 10)]
    [3, 3, 4, 5, 5, 7, 7]

    Raises:
        ConfigError: fewer than 3 or more than 32 sites.
    """
    # With two sites the sum reveals the other site's update, so no protocol can help.
    if not SMALLEST <= sites <= LARGEST:
        rule = f"{SMALLEST} to {LARGEST} sites"
        fix = "secure aggregation masks every pair of sites; a larger study needs groups of at most 32 sites"
        raise ConfigError(expected(rule, got=sites, where="roster", fix=fix if sites > LARGEST else ""))
    return 2 * sites // 3 + 1


class Covered(msgspec.Struct, frozen=True, kw_only=True):
    """What a study of n sites tolerates.

    Attributes:
        sites: n, the size of the roster.
        quorum: q, the sites that must agree on the survivors.
        threshold: t, the shares that rebuild a secret.
        colluders: c, the sites that may collude with the coordinator.
        dropouts: sites that may be missing when the survivors are agreed on.
    """

    sites: int
    quorum: int
    threshold: int
    colluders: int
    dropouts: int

    def sentence(self) -> str:
        """Return a sentence that states what is covered, as printed for the study."""
        honest = self.quorum - self.colluders
        lost = "No site" if not self.dropouts else f"Up to {_count(self.dropouts, 'site')}"
        return (
            f"Of {self.sites} sites, {self.quorum} must agree before a sum is opened. "
            f"Up to {_count(self.colluders, 'site')} may collude with the coordinator: together they learn "
            f"the sum of at least {honest} other sites and no single update. {self.colluders + 1} colluding "
            f"sites are not covered{_with_three(self.sites)}. "
            f"{lost} may drop out of a round before the agreement."
        )


def covered(sites: int) -> Covered:
    """Return the colluders and dropouts that a study of n sites tolerates.

    >>> covered(4)
    Covered(sites=4, quorum=3, threshold=2, colluders=1, dropouts=1)
    >>> covered(3).colluders, covered(3).dropouts, covered(10).colluders, covered(10).dropouts
    (1, 0, 3, 3)

    Raises:
        ConfigError: fewer than 3 or more than 32 sites.
    """
    q = quorum(sites)
    colluders = min(2 * q - sites - 1, q - 2)
    return Covered(sites=sites, quorum=q, threshold=colluders + 1, colluders=colluders, dropouts=sites - q)


class Member(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One enrolled site.

    Attributes:
        name: of the site; unique in the study.
        key: Ed25519 public key, 32 bytes.
    """

    name: str
    key: bytes


class Roster(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The members of a study and their signatures over the list.

    >>> keys = {name: Ed25519PrivateKey.generate() for name in ("west", "east", "north")}
    >>> members = tuple(Member(name=name, key=public_bytes(key)) for name, key in keys.items())
    >>> roster = Roster(study="chest", members=members)
    >>> roster = roster.signed({name: roster.signature(key) for name, key in keys.items()})
    >>> roster.names
    ('east', 'north', 'west')

    Attributes:
        study: name of the study.
        members: sorted by name.
        terms: digest of everything else that the sites sign with the list (settings, code, certificates).
        signatures: one per member in the order of the members; empty while signatures are collected.
    """

    study: str
    members: tuple[Member, ...]
    terms: bytes = b""
    signatures: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        """Sort the members and check them."""
        if names.problem(self.study):
            raise DataError(
                expected("a plain name", got=names.problem(self.study), where="study of the roster")
            )
        if not 2 <= len(self.members) <= LARGEST:
            raise DataError(expected(f"2 to {LARGEST} members", got=len(self.members), where="roster"))
        names.check((member.name for member in self.members), what="site", where="roster")
        if len(self.terms) > 1024:
            raise DataError(expected("a digest", got=f"{len(self.terms)} bytes", where="terms of the roster"))
        for attribute in ("name", "key"):
            if len({getattr(member, attribute) for member in self.members}) < len(self.members):
                raise DataError(problem(f"two members have the same {attribute}", where="roster"))
        for member in self.members:
            _public_key(member)
        ordered = tuple(sorted(self.members, key=lambda member: member.name))
        if self.signatures and ordered != self.members:
            raise DataError(problem("the members are not sorted by name", where="roster"))
        msgspec.structs.force_setattr(self, "members", ordered)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the members, sorted."""
        return tuple(member.name for member in self.members)

    @property
    def hash(self) -> bytes:
        """SHA-256 over study, names, keys and terms; the signatures are not part of it."""
        fields = (self.study, [(member.name, member.key) for member in self.members], self.terms)
        return hashlib.sha256(_ROSTER_DOMAIN + msgspec.msgpack.encode(fields)).digest()

    def position(self, name: str) -> int:
        """Return the number of a member, from 0.

        Raises:
            PrivacyRefusal: the roster has no such member.
        """
        for number, member in enumerate(self.members):
            if member.name == name:
                return number
        raise PrivacyRefusal(
            problem("a stranger is named, a site that the roster does not list", where="roster")
        )

    def public_key(self, name: str) -> Ed25519PublicKey:
        """Return the signing key of a member.

        Raises:
            PrivacyRefusal: the roster has no such member.
        """
        return _public_key(self.members[self.position(name)])

    def signature(self, signing_key: Ed25519PrivateKey) -> bytes:
        """Return a site's signature over the roster."""
        return signing_key.sign(_ROSTER_DOMAIN + self.hash)

    def signed(self, signatures: Mapping[str, bytes]) -> Roster:
        """Return the roster with the signatures of all members.

        Args:
            signatures: name of the site -> its signature.

        Raises:
            PrivacyRefusal: a signature is missing or wrong.
        """
        missing = [name for name in self.names if name not in signatures]
        if missing:
            raise PrivacyRefusal(problem(f"not signed by {', '.join(missing)}", where="roster"))
        complete = msgspec.structs.replace(self, signatures=tuple(signatures[name] for name in self.names))
        complete.require_signatures()
        return complete

    def require_signatures(self) -> None:
        """Raise PrivacyRefusal unless every member signed this roster."""
        if len(self.signatures) != len(self.members):
            what = f"{len(self.signatures)} of {len(self.members)} sites signed"
            raise PrivacyRefusal(problem(what, where="roster", fix="collect the signature of every site"))
        for member, signature in zip(self.members, self.signatures, strict=True):
            try:
                _public_key(member).verify(signature, _ROSTER_DOMAIN + self.hash)
            except InvalidSignature:
                what = f"the signature of {member.name} does not belong to this roster"
                raise PrivacyRefusal(
                    problem(what, where="roster", fix="ask the site to sign again")
                ) from None

    def to_bytes(self) -> bytes:
        """Return the roster as MessagePack."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Roster:
        """Return a roster from :meth:`to_bytes`; its signatures are not checked yet.

        Raises:
            DataError: it is not a roster.
        """
        if len(data) > ROSTER_LIMIT:
            raise DataError(expected(f"at most {ROSTER_LIMIT:,} bytes", got=f"{len(data):,}", where="roster"))
        try:
            return msgspec.msgpack.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DataError(problem("this is not a roster of meninx", where="roster")) from error


def public_bytes(signing_key: Ed25519PrivateKey) -> bytes:
    """Return the public half of a signing key, 32 bytes."""
    return signing_key.public_key().public_bytes_raw()


def _public_key(member: Member) -> Ed25519PublicKey:
    if len(member.key) != _KEY_BYTES:
        got = f"{len(member.key)} bytes"
        raise DataError(expected(f"a key of {_KEY_BYTES} bytes", got=got, where=f"roster, {member.name}"))
    if member.key[:-1] + bytes([member.key[-1] & 0x7F]) in _SMALL_ORDER:
        raise DataError(problem("the key is one that anybody can sign for", where=f"roster, {member.name}"))
    return Ed25519PublicKey.from_public_bytes(member.key)


def _with_three(sites: int) -> str:
    return ": two always see the update of the third" if sites == SMALLEST else ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
