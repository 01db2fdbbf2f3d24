"""Shamir's and additive shares: what rebuilds, what does not, and what fewer shares say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from secagg_sites import random_vector

from meninx.core.errors import ConfigError, DataError, PrivacyRefusal
from meninx.secagg import add_shares, additive_shares
from meninx.secagg.shares import PRIME, join_checked, join_secret, seal, split_secret, unseal

SECRET = bytes(range(32))


def test_prime_is_a_prime_above_every_seed():
    """Miller-Rabin with the first 40 primes as bases."""
    assert PRIME > 2**256
    odd, power = PRIME - 1, 0
    while odd % 2 == 0:
        odd, power = odd // 2, power + 1
    bases = [number for number in range(2, 180) if all(number % other for other in range(2, number))]
    for base in bases[:40]:
        value = pow(base, odd, PRIME)
        seen = [pow(value, 2**step, PRIME) for step in range(power)]
        assert value == 1 or PRIME - 1 in seen


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, SECRET])
def test_any_threshold_of_shares_rebuilds(secret):
    shares = dict(zip(range(1, 8), split_secret(secret, range(1, 8), 4), strict=True))
    for chosen in itertools.combinations(shares, 4):
        assert join_secret({point: shares[point] for point in chosen}, 4) == secret
    with pytest.raises(DataError, match="expected 4 shares, got 3"):
        join_secret(dict(itertools.islice(shares.items(), 3)), 4)


def test_fewer_shares_fit_every_secret():
    """For t - 1 shares and any secret there is one t-th share: they say nothing."""
    shares = dict(zip(range(1, 5), split_secret(SECRET, range(1, 5), 3), strict=True))
    known = {1: shares[1], 2: shares[2]}
    for claimed in (bytes(32), b"\x77" * 32):
        # the polynomial through (0, claimed), (1, ...), (2, ...), at 3
        values = {0: int.from_bytes(claimed, "big")} | {p: int.from_bytes(s, "big") for p, s in known.items()}
        third = 0
        for point, value in values.items():
            for other in values:
                if other != point:
                    value = value * (3 - other) * pow(point - other, -1, PRIME) % PRIME
            third += value
        fitting = known | {3: (third % PRIME).to_bytes(33, "big")}
        assert join_secret(fitting, 3) == claimed


def test_wrong_share_is_found_out():
    shares = dict(zip(range(1, 8), split_secret(SECRET, range(1, 8), 3), strict=True))
    spoiled = shares | {1: shares[2], 4: bytes(33), 5: b"short"}
    assert join_checked(spoiled, 3, lambda seed: seed == SECRET) == SECRET
    assert join_checked({1: shares[2], 2: shares[2], 3: shares[3]}, 3, lambda seed: seed == SECRET) is None


def test_wrong_shares_among_many_are_found_out():
    points = range(1, 23)
    shares = dict(zip(points, split_secret(SECRET, points, 12), strict=True))
    spoiled = shares | {1: bytes(33), 9: bytes(33)}
    assert join_checked(spoiled, 12, lambda seed: seed == SECRET) == SECRET


def test_impossible_requests_are_refused():
    for secret, points, threshold in ((SECRET, [1, 2], 3), (SECRET, [1], 0), (bytes(31), [1, 2], 1)):
        with pytest.raises(ConfigError):
            split_secret(secret, points, threshold)
    for points in ([0, 1], [1, 1]):
        with pytest.raises(ConfigError, match="the same number, or one has 0"):
            split_secret(SECRET, points, 1)


def test_sealed_shares_open_for_their_recipient_in_their_attempt_only():
    context = bytes(32)
    sealed = seal(b"share", SECRET, context, "east", "west")
    assert unseal(sealed, SECRET, context, "east", "west") == b"share"
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for attempt in (
        (sealed, SECRET, context, "west", "east"),
        (sealed, SECRET, context, "east", "north"),
        (sealed, SECRET, bytes([1]) * 32, "east", "west"),
        (sealed, bytes(32), context, "east", "west"),
        (changed, SECRET, context, "east", "west"),
        (sealed[:11], SECRET, context, "east", "west"),
        (b"", SECRET, context, "east", "west"),
    ):
        with pytest.raises(PrivacyRefusal, match="not for"):
            unseal(*attempt)


@pytest.mark.parametrize("aggregators", [3, 4, 7])
@pytest.mark.parametrize("bits", [32, 64])
def test_additive_shares_of_several_sites_add_up(aggregators, bits):
    vectors = [random_vector(1001, number, bits) for number in range(5)]
    sent = [additive_shares(vector, aggregators) for vector in vectors]
    partial = [add_shares([shares[number] for shares in sent]) for number in range(aggregators)]
    np.testing.assert_array_equal(add_shares(partial), sum(vectors))


def test_all_but_one_additive_share_are_uniform():
    shares = additive_shares(np.zeros(100_000, dtype="<u4"), 3)
    for left_out in range(3):
        seen = add_shares([share for number, share in enumerate(shares) if number != left_out])
        counts = np.bincount(seen.view(np.uint8), minlength=256)
        expected = counts.sum() / 256
        assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 6 * np.sqrt(2 * 255)


def test_two_aggregators_and_mixed_shares_are_refused():
    with pytest.raises(ConfigError, match="at least 3 independent aggregators, got 2"):
        additive_shares(np.zeros(3, dtype="<u4"), 2)
    with pytest.raises(DataError, match="differ in length or ring"):
        add_shares([np.zeros(3, dtype="<u4"), np.zeros(3, dtype="<u8")])
    with pytest.raises(DataError, match="there is none"):
        add_shares([])
