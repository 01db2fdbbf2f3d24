"""Homomorphic encryption adds what the coordinator cannot read, and says what it does not cover."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from meninx.core.errors import DataError, PrivacyRefusal, UsageError
from meninx.secagg.ckks import COLLUSION, SLOTS, CkksAggregation, CkksSite, ckks_keys

pytest.importorskip("tenseal")


@pytest.fixture(scope="module")
def keys():
    return ckks_keys()


def test_sum_of_three_sites_is_within_the_bound(keys):
    private, public = keys
    rng = np.random.default_rng(0)
    updates = [rng.uniform(-1, 1, SLOTS + 17).astype(np.float32) for _ in range(3)]
    aggregation = CkksAggregation(public)
    sizes = []
    for update in updates:
        upload = CkksSite(private).encrypt(update)
        sizes.append(len(upload))
        aggregation.receive(upload)
    total = CkksSite(private).decrypt(aggregation.total())
    assert np.abs(total - sum(update.astype(float) for update in updates)).max() < 1e-6
    assert aggregation.uploads == 3
    whole = CkksSite(private).encrypt(np.zeros(2 * SLOTS))
    assert len(whole) / (2 * SLOTS * 4) <= 8.1  # next to float32


def test_coordinator_refuses_the_secret_key(keys):
    private, _ = keys
    with pytest.raises(PrivacyRefusal, match="could read every update"):
        CkksAggregation(private)


def test_collusion_limit_is_real_and_in_words(keys):
    """One site's key reads another site's upload: what COLLUSION says."""
    private, _ = keys
    secret = np.array([0.25, -0.5])
    seen = CkksSite(private).decrypt(CkksSite(private).encrypt(secret))
    np.testing.assert_allclose(seen, secret, atol=1e-6)
    assert "any one site together read every update" in COLLUSION


def test_damaged_or_foreign_values_are_refused(keys):
    private, public = keys
    site, aggregation = CkksSite(private), CkksAggregation(public)
    with pytest.raises(UsageError, match="no site uploaded"):
        aggregation.total()
    upload = site.encrypt(np.ones(3))
    aggregation.receive(upload)
    with pytest.raises(DataError, match="expected 3 values, got 4"):
        aggregation.receive(site.encrypt(np.ones(4)))
    length, parts = msgspec.msgpack.decode(upload)
    for wrong in ((length, []), (0, []), (length, [b"x" * (1 << 19)]), (10**12, parts)):
        with pytest.raises(DataError, match="number or size"):
            aggregation.receive(msgspec.msgpack.encode(wrong))
    for wrong in ((length, [b"nonsense"]), (length, [parts[0][:1000]])):
        with pytest.raises(DataError, match=r"damaged|another length"):
            aggregation.receive(msgspec.msgpack.encode(wrong))
    with pytest.raises(DataError, match="another length"):
        aggregation.receive(msgspec.msgpack.encode((2, parts)))
    with pytest.raises(DataError, match="not ciphertexts"):
        aggregation.receive(b"\xc1")
    for values in (np.array([np.nan]), np.array([1e9]), np.zeros(0), np.zeros((2, 2))):
        with pytest.raises(DataError):
            site.encrypt(values)
    with pytest.raises(DataError, match="no secret key"):
        CkksSite(public)
    with pytest.raises(DataError, match="not a context"):
        CkksSite(b"nonsense")
