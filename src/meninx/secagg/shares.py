"""Shares: a secret in pieces, of which t rebuild it (Shamir), or all of which add up to it (additive).

Shamir's shares allow the sum of a round to be opened although sites disappear. The secret, a seed of 256
bits, is the value at 0 of a random polynomial of degree t - 1 over the field of the prime 2^256 + 297; a
share is its value at the number of a member. Fewer than t shares are independent of the secret, for any
computing power. Each recipient's shares are encrypted (AES-256-GCM) under a key that only it and the sender
can derive for this attempt; sender, recipient and attempt are authenticated, so that a share that was
replayed, moved to another round or sent to the wrong recipient is refused.

Additive shares split a whole vector over the ring among n >= 3 independent aggregators. All n shares are
needed; any n - 1 of them are uniform. Each aggregator adds its shares and publishes their sum, and the sum of
these is the sum of the updates. The aggregators learn an update only if all of them collude. They must be
independent organisations, because anyone who runs all of them can read every update. This mode does not
tolerate the loss of an aggregator.

References:
    Shamir (1979), How to share a secret, Communications of the ACM.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from meninx.core.errors import ConfigError, DataError, PrivacyRefusal, expected, problem
from meninx.core.randomness import private_bytes
from meninx.secagg.masks import SEED_BYTES, Mask, Ring, apply_masks, check_ring, derive

PRIME = 2**256 + 297  # the smallest prime above every seed
SHARE_BYTES = 33
AGGREGATORS = 3  # smallest number for additive sharing
_NONCE_BYTES = 12
_TRIES = 4096  # sets of shares that are tried if some are wrong

Draw = Callable[[int], bytes]


def split_secret(
    secret: bytes | bytearray, points: Sequence[int], threshold: int, *, draw: Draw = private_bytes
) -> list[bytes]:
    """Return one share of a secret per point.

    >>> shares = split_secret(bytes(32), [1, 2, 3, 4], threshold=2)
    >>> join_secret({4: shares[3], 2: shares[1]}, threshold=2) == bytes(32)
    True

    Args:
        secret: 32 bytes.
        points: distinct numbers of the recipients, >= 1.
        threshold: number of shares that rebuild the secret, 1 to the number of points.
        draw: returns that many random bytes.
    """
    if len(secret) != SEED_BYTES or not 1 <= threshold <= len(points):
        got = f"{len(secret)} bytes, threshold {threshold} of {len(points)}"
        raise ConfigError(
            expected("a secret of 32 bytes and 1 <= threshold <= points", got=got, where="shares")
        )
    if len(set(points)) < len(points) or not all(0 < point < PRIME for point in points):
        raise ConfigError(problem("two recipients have the same number, or one has 0", where="shares"))
    # 32 bytes modulo the prime would be biased; 48 bytes are uniform up to 2^-127.
    drawn = [int.from_bytes(draw(48), "big") % PRIME for _ in range(threshold - 1)]
    polynomial = [int.from_bytes(secret, "big"), *drawn]
    return [_value(polynomial, point).to_bytes(SHARE_BYTES, "big") for point in points]


def join_secret(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return the secret from ``threshold`` shares, by their points.

    Raises:
        DataError: there are too few shares, or they do not belong together.
    """
    if len(shares) < threshold:
        raise DataError(expected(f"{threshold} shares", got=len(shares), where="shares"))
    chosen = dict(itertools.islice(shares.items(), threshold))
    if any(len(share) != SHARE_BYTES for share in chosen.values()):
        raise DataError(problem(f"a share is not {SHARE_BYTES} bytes long", where="shares"))
    secret = 0
    for point, share in chosen.items():
        numerator = denominator = 1
        for other in chosen:
            if other != point:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - point) % PRIME
        secret += int.from_bytes(share, "big") * numerator * pow(denominator, -1, PRIME)
    secret %= PRIME
    if secret.bit_length() > 8 * SEED_BYTES:
        raise DataError(problem("the shares do not belong together", where="shares"))
    return secret.to_bytes(SEED_BYTES, "big")


def join_checked(
    shares: Mapping[int, bytes], threshold: int, accept: Callable[[bytes], bool]
) -> bytes | None:
    """Return the secret that ``accept`` confirms, even if some shares are wrong; None if there is none.

    Args:
        shares: by point.
        threshold: shares that rebuild the secret.
        accept: compares with a commitment.
    """
    for chosen in _subsets(sorted(shares), threshold):
        try:
            secret = join_secret({point: shares[point] for point in chosen}, threshold)
        except DataError:
            continue
        if accept(secret):
            return secret
    return None


def _subsets(points: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Yield sets of points: all of them if they are few, else random ones, some without wrong shares."""
    if math.comb(len(points), size) <= _TRIES:
        yield from itertools.combinations(points, size)
    else:
        for _ in range(_TRIES):
            yield [points[number] for number in draw_numbers(len(points), size)]


def draw_numbers(limit: int, count: int, draw: Draw = private_bytes) -> list[int]:
    """Return ``count`` distinct numbers below a limit, drawn uniformly and sorted."""
    numbers = list(range(limit))
    for position in range(count):  # Fisher-Yates; 16 bytes modulo the rest are uniform up to 2^-96
        other = position + int.from_bytes(draw(16), "big") % (limit - position)
        numbers[position], numbers[other] = numbers[other], numbers[position]
    return sorted(numbers[:count])


def _value(polynomial: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * point + coefficient) % PRIME
    return value


def seal(
    plaintext: bytes,
    pair_secret: bytes | bytearray,
    context: bytes,
    sender: str,
    recipient: str,
    *,
    draw: Draw = private_bytes,
) -> bytes:
    """Return shares encrypted to a recipient, bound to the sender, the recipient and the attempt.

    Args:
        plaintext: shares.
        pair_secret: X25519 secret of sender and recipient.
        context: digest of session, round, attempt and members.
        sender: name of the site that created the shares.
        recipient: name of the site that may read them.
        draw: returns that many random bytes, for the nonce.
    """
    nonce = draw(_NONCE_BYTES)
    key = derive(pair_secret, context, "shares", sender, recipient)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, context)


def unseal(
    sealed: bytes, pair_secret: bytes | bytearray, context: bytes, sender: str, recipient: str
) -> bytes:
    """Return the shares from :func:`seal`.

    Raises:
        PrivacyRefusal: they were changed, replayed, or encrypted by or to a different site.
    """
    key = derive(pair_secret, context, "shares", sender, recipient)
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
    except (InvalidTag, ValueError):
        what = f"the shares of {sender} are not for {recipient} in this attempt, or were changed"
        raise PrivacyRefusal(problem(what, where="shares")) from None


def additive_shares(vector: Ring, aggregators: int, *, draw: Draw = private_bytes) -> list[Ring]:
    """Return shares of a vector that add up to it; any set without at least one of them is uniform.

    >>> import numpy as np
    >>> shares = additive_shares(np.array([1, 2, 3], dtype="<u4"), aggregators=3)
    >>> add_shares(shares)
    array([1, 2, 3], dtype=uint32)

    Args:
        vector: ring elements of :meth:`.quantiser.Quantiser.encode`.
        aggregators: independent organisations, at least 3.
        draw: returns that many random bytes.
    """
    check_ring(vector)
    if aggregators < AGGREGATORS:
        rule = f"at least {AGGREGATORS} independent aggregators"
        raise ConfigError(expected(rule, got=aggregators, where="aggregators"))
    seeds = [draw(SEED_BYTES) for _ in range(aggregators - 1)]
    last = vector.copy()
    apply_masks(last, [Mask(seed, add=False) for seed in seeds])
    shares = []
    for seed in seeds:
        share = vector * 0
        apply_masks(share, [Mask(seed)])
        shares.append(share)
    return [*shares, last]


def add_shares(shares: Sequence[Ring]) -> Ring:
    """Return the sum of ring vectors: of an aggregator's shares, or of the aggregators' sums.

    Raises:
        DataError: there is none, or they differ in length or ring.
    """
    if not shares or any(
        (share.shape, share.dtype) != (shares[0].shape, shares[0].dtype) for share in shares
    ):
        raise DataError(problem("the shares differ in length or ring, or there is none", where="shares"))
    check_ring(shares[0])
    total = shares[0].copy()
    for share in shares[1:]:
        total += share
    return total
