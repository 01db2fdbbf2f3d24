"""Sums are those of plain integers, whoever is lost and whatever the shape."""

from __future__ import annotations

import numpy as np
import pytest
from secagg_sites import Consortium, agreed_round, random_vector

from meninx.core.errors import DataError, PrivacyRefusal, UsageError
from meninx.secagg import Quantiser, covered, payload, verify


def plain_sum(vectors, names):
    total = np.zeros_like(vectors[names[0]])
    for name in names:
        total += vectors[name]
    return total


@pytest.mark.parametrize("count", range(3, 17))
def test_sum_is_exact_with_random_losses_at_every_stage(count):
    rules, rng = covered(count), np.random.default_rng(count)
    consortium = Consortium(count)
    for number in range(3):
        bits = (32, 64)[number % 2]
        length = (0, 1, 257, 40_000)[int(rng.integers(4))]
        names = list(rng.permutation(consortium.names))
        vectors = {name: random_vector(length, 1000 * number + int(name[4:]), bits) for name in names}
        uploading = names[: int(rng.integers(rules.quorum, count + 1))]
        agreeing = uploading[: int(rng.integers(rules.quorum, len(uploading) + 1))]
        revealing = agreeing[-int(rng.integers(rules.threshold, len(agreeing) + 1)) :]
        aggregation, uploads = agreed_round(
            consortium, vectors, uploading=uploading, agreeing=agreeing, revealing=revealing, round=number
        )
        assert aggregation.complete
        total = aggregation.total()
        assert total.dtype == vectors[names[0]].dtype
        np.testing.assert_array_equal(total, plain_sum(vectors, uploading))
        transcript = aggregation.transcript().with_uploads(uploads)
        assert verify(transcript.to_bytes(), total, roster=consortium.roster).matches


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5, 7), (2, 0, 3), (16_384 * 2 + 1,)])
@pytest.mark.parametrize("bits", [32, 64])
def test_updates_of_odd_shapes_come_back(shape, bits):
    consortium = Consortium(4)
    quantiser = Quantiser(clip=1.0, sites=4, bits=bits, max_weight=10, metrics=1)
    rng = np.random.default_rng(5)
    updates = {name: rng.uniform(-1, 1, size=shape).astype(np.float32) for name in consortium.names}
    weights = {name: 1 + number for number, name in enumerate(consortium.names)}
    vectors = {name: quantiser.encode(updates[name], weights[name], [0.5]) for name in consortium.names}
    aggregation, _ = agreed_round(consortium, vectors, uploading=consortium.names[1:])
    decoded = quantiser.decode(aggregation.total())
    chosen = consortium.names[1:]
    wanted = sum(weights[name] * np.asarray(updates[name], np.float64) for name in chosen) / 9
    assert decoded.weight == 9
    assert decoded.metrics == pytest.approx((0.5,), abs=1e-6)
    assert np.abs(decoded.mean - np.ravel(wanted)).max(initial=0) <= quantiser.error_bound(3, 9)


def test_below_the_quorum_nothing_is_opened():
    consortium = Consortium(4)
    vectors = {name: random_vector(10, 1) for name in consortium.names}
    with pytest.raises(PrivacyRefusal, match="uploads of at least 3 of 4 sites, got 2"):
        agreed_round(consortium, vectors, uploading=consortium.names[:2])


def test_too_many_losses_after_the_agreement_lose_the_round():
    consortium = Consortium(6)  # q = 5, t = 4
    vectors = {name: random_vector(10, 1) for name in consortium.names}
    names = consortium.names
    with pytest.raises(PrivacyRefusal, match="at most 2 lost survivors, got 3"):
        agreed_round(consortium, vectors, uploading=names, revealing=names[:3])
    aggregation = consortium.aggregation(1)
    for name in names:
        aggregation.receive(consortium.sites[name].upload(1, 0, names, vectors[name]))
    for name in names:
        aggregation.accept(consortium.sites[name].agree(1, 0, names))
    for name in names[:3]:
        aggregation.accept_reveal(consortium.sites[name].reveal(1, aggregation.agreements))
    assert not aggregation.complete
    with pytest.raises(UsageError, match="the seeds of site03, site04, site05 are missing"):
        aggregation.total()
    with pytest.raises(UsageError, match="missing"):
        aggregation.transcript()


def test_a_site_that_was_lost_comes_back_in_the_next_round():
    consortium = Consortium(4)
    vectors = {name: random_vector(100, number) for number, name in enumerate(consortium.names)}
    agreed_round(consortium, vectors, uploading=consortium.names[:3])
    aggregation, _ = agreed_round(consortium, vectors, uploading=consortium.names, round=1)
    np.testing.assert_array_equal(aggregation.total(), plain_sum(vectors, consortium.names))


def test_a_later_attempt_before_the_agreement_is_fine():
    consortium = Consortium(5)
    vectors = {name: random_vector(100, number) for number, name in enumerate(consortium.names)}
    for name in consortium.names[:3]:  # too few; the coordinator tries again without the fifth
        consortium.sites[name].upload(0, 0, consortium.names, vectors[name])
    members = consortium.names[:4]
    aggregation = consortium.aggregation(0, 1, members)
    for name in members:
        aggregation.receive(consortium.sites[name].upload(0, 1, members, vectors[name]))
    for name in members:
        aggregation.accept(consortium.sites[name].agree(0, 1, members))
    for name in members:
        aggregation.accept_reveal(consortium.sites[name].reveal(0, aggregation.agreements))
    np.testing.assert_array_equal(aggregation.total(), plain_sum(vectors, members))


def test_thirty_two_sites_lose_ten_before_and_ten_after_the_agreement():
    consortium = Consortium(32)  # q = 22, t = 12
    vectors = {name: random_vector(1000, number) for number, name in enumerate(consortium.names)}
    names = consortium.names
    aggregation, uploads = agreed_round(consortium, vectors, uploading=names[:22], revealing=names[10:22])
    np.testing.assert_array_equal(aggregation.total(), plain_sum(vectors, names[:22]))
    assert len(payload.split(uploads[names[0]])[0]) < 50_000


@pytest.mark.slow
def test_ten_million_elements_are_exact():
    consortium = Consortium(3)
    vectors = {name: random_vector(10**7 + 3, number) for number, name in enumerate(consortium.names)}
    aggregation, _ = agreed_round(consortium, vectors, uploading=consortium.names)
    np.testing.assert_array_equal(aggregation.total(), plain_sum(vectors, consortium.names))


@pytest.mark.parametrize("bits", [32, 64])
def test_a_mean_beyond_the_clip_is_refused(bits: int) -> None:
    quantiser = Quantiser(clip=0.5, sites=3, bits=bits, max_weight=100)
    honest = [quantiser.encode(np.full(4, 9.0, np.float32), weight) for weight in (1, 100, 37)]
    assert np.allclose(quantiser.decode(honest[0] + honest[1] + honest[2]).mean, 0.5)
    false = honest[0].copy()
    false[:-1] *= 50  # an update of fifty times the clip, with the weight of one unit
    with pytest.raises(DataError, match=r"means of at most 0\.5"):
        quantiser.decode(false + honest[0])
