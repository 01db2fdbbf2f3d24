"""Secure aggregation: the sum of the sites' updates, and no other information about them.

Hospitals train one network together. Each sends an update under masks that cancel in the sum, so that the
coordinator computes the sum without seeing a single update, although it relays every message and may
falsify any of them::

    >>> import numpy as np
    >>> from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    >>> keys = {name: Ed25519PrivateKey.generate() for name in ("east", "north", "south", "west")}
    >>> members = [Member(name=name, key=key.public_key().public_bytes_raw()) for name, key in keys.items()]
    >>> roster = Roster(study="chest", members=tuple(members))
    >>> roster = roster.signed({name: roster.signature(key) for name, key in keys.items()})

    >>> sites = {}
    >>> for name, key in keys.items():
    ...     sites[name] = SiteProtocol(roster, name, key, "run-1", record=[].append)
    >>> announcements = [site.announce() for site in sites.values()]
    >>> for site in sites.values():
    ...     site.meet(announcements)

    >>> quantiser = Quantiser(clip=1.0, sites=4)
    >>> aggregation = Aggregation(roster, announcements, round=0, attempt=0, members=roster.names)
    >>> update = np.array([0.5, -0.25, 0.0], np.float32)
    >>> for name in ("east", "north", "south"):  # west drops out
    ...     _ = aggregation.receive(sites[name].upload(0, 0, roster.names, quantiser.encode(update)))
    >>> survivors = aggregation.freeze()
    >>> for name in survivors:
    ...     _ = aggregation.accept(sites[name].agree(0, 0, survivors))
    >>> for name in survivors:
    ...     _ = aggregation.accept_reveal(sites[name].reveal(0, aggregation.agreements))
    >>> quantiser.decode(aggregation.total()).mean.round(6)
    array([ 0.5 , -0.25,  0.  ], dtype=float32)

The package consists of pure functions and objects over values: it uses no socket, file, log, clock or torch.

The adversary is the coordinator, which may send anything to anyone, together with at most c sites, which may
sign anything, and the network. The other sites follow the rules below. ``covered(n)`` returns c for n sites.

1. *Keys once per run.* Every site signs a fresh exchange key over study, run and the roster that every site
   signed. Later statements contain the digest of all exchange keys. So the coordinator cannot insert its own
   key between two sites, sites that were shown different keys never complete a round, and n cannot be
   reduced. A site that lost its history announces another key, and its signatures then count in no session of
   the others.
2. *Upload* ``y_i = x_i + PRG(b_i) + sum of ±PRG(k_ij)``. While one b_i or one k_ij with an honest j is
   unknown to the adversary, y_i is uniform. k_ij is bound to session, round, attempt, members and the
   starting model, so opening it in one attempt opens nothing of another, and a site that received a different
   model is in no sum with the others. b_i is fresh; c < t shares of it, or of a k_ij, contain no information
   about it.
3. *Agreement.* An honest site signs one (attempt, members, survivors) per round. Two sets with q signatures
   each would need 2(q - c) honest signers of n - c, which 2q > n + c excludes. So at most one set is
   certified per round. This prevents split views, second attempts and partitions.
4. *Reveal.* After receiving the certificate, honest sites open b_i of survivors and k_ij of survivors with
   members outside, the latter also by shares if the survivor has been lost since. For an honest survivor i,
   the adversary learns b_i, k_ij for j outside and k_ij for colluding j, but no k_ij with an honest survivor
   j. The honest survivors form a complete graph of unknown masks and number at least q - c >= 2, so their
   uploads are uniform except for their sum. For an honest site outside, no site opens its b_i, and fewer than
   t shares of it are known. The same holds for every b_i of other attempts.
5. *Numbers.* n, q, t, c and the dropouts are printed by ``covered(n).sentence()``.
6. *Integers.* Updates are clipped and rounded to a ring in which the sum of all sites cannot wrap; weight and
   metrics are elements of the same vector.
7. *Recomputation.* Statements contain digests of the vectors and commitments to the seeds, so every site can
   compute the published sum again, completely or in samples, and detect a coordinator that publishes another
   sum.

The argument above, tested by search in ``tests/secagg``, shows that at most one sum per round is opened, over
at least q - c honest sites. That the program implements the argument is tested only. Nothing is claimed about
the sum itself, which can reveal a lot about a site in a small study. Sums of rounds with changing
participants differ by a single update when one site joins or leaves; this should be logged, warned about, and
bounded by differential privacy. Availability is not protected: the coordinator, or n - q + 1 sites, can stop
a study. A site can send a false update.

===============  =====================================================================
module           contents
===============  =====================================================================
roster           Roster, Member, quorum, covered: participants, and what n sites tolerate
statements       signed messages of the sites, in one canonical encoding
quantiser        Quantiser: updates as integers whose sum cannot wrap
masks            AES-256-CTR masks over the ring; seeds of pairs
shares           Shamir's shares of seeds, encrypted; additive shares of vectors
payload          digests and tags of masked vectors
pair_secrets     keys and seeds that two sites derive from their common secret
site_history     entries that a site records before it answers
site_session     SiteSession: keys, agreement and certificate of every kind of site
site_protocol    SiteProtocol: a site's answers
agreed_attempt   AgreedAttempt: survivors and the quorum's signatures at the coordinator
aggregation      Aggregation: the coordinator's sum
verification     Transcript, verify: the sum computed again by a site
sharing          SharingSite, SharingAggregation: additive shares among all sites instead of masks
encrypted        EncryptedSite, EncryptedAggregation: homomorphic encryption instead of masks
ckks             ckks_keys, CkksSite, CkksAggregation: CKKS by TenSEAL (optional)
===============  =====================================================================

References:
    Bonawitz et al. (2017), Practical secure aggregation for privacy-preserving machine learning, CCS.
    Bell, Bonawitz, Gascón, Lepoint, Raykova (2020), Secure single-server aggregation with (poly)logarithmic
    overhead, CCS. Pasquini, Francati, Ateniese (2022), Eluding secure aggregation in federated learning via
    model inconsistency, CCS. Lam et al. (2021), Gradient disaggregation, ICML.
"""

from typing import TYPE_CHECKING

from meninx.core.lazy import lazy_exports

if TYPE_CHECKING:
    from meninx.secagg.aggregation import Aggregation
    from meninx.secagg.ckks import CkksAggregation, CkksSite, ckks_keys
    from meninx.secagg.encrypted import EncryptedAggregation, EncryptedSite, check_encrypted_announced
    from meninx.secagg.pair_secrets import check_announced
    from meninx.secagg.quantiser import Decoded, Quantiser
    from meninx.secagg.roster import Covered, Member, Roster, covered, quorum
    from meninx.secagg.shares import add_shares, additive_shares
    from meninx.secagg.sharing import SharingAggregation, SharingSite
    from meninx.secagg.site_protocol import SitePhase, SiteProtocol
    from meninx.secagg.verification import Transcript, Verification, verify

__all__ = [
    "Aggregation",
    "CkksAggregation",
    "CkksSite",
    "Covered",
    "Decoded",
    "EncryptedAggregation",
    "EncryptedSite",
    "Member",
    "Quantiser",
    "Roster",
    "SharingAggregation",
    "SharingSite",
    "SitePhase",
    "SiteProtocol",
    "Transcript",
    "Verification",
    "add_shares",
    "additive_shares",
    "check_announced",
    "check_encrypted_announced",
    "ckks_keys",
    "covered",
    "quorum",
    "verify",
]

_MODULES = {
    "meninx.secagg.aggregation": ("Aggregation",),
    "meninx.secagg.ckks": ("CkksAggregation", "CkksSite", "ckks_keys"),
    "meninx.secagg.encrypted": ("EncryptedAggregation", "EncryptedSite", "check_encrypted_announced"),
    "meninx.secagg.pair_secrets": ("check_announced",),
    "meninx.secagg.quantiser": ("Decoded", "Quantiser"),
    "meninx.secagg.roster": ("Covered", "Member", "Roster", "covered", "quorum"),
    "meninx.secagg.shares": ("add_shares", "additive_shares"),
    "meninx.secagg.sharing": ("SharingAggregation", "SharingSite"),
    "meninx.secagg.site_protocol": ("SitePhase", "SiteProtocol"),
    "meninx.secagg.verification": ("Transcript", "Verification", "verify"),
}
if not TYPE_CHECKING:  # a type checker would take every name for one that exists
    __getattr__, __dir__ = lazy_exports(
        __name__, {name: module for module, names in _MODULES.items() for name in names}
    )
