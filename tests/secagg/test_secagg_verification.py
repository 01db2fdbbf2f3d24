"""Every site can compute the sum again; a coordinator that publishes anything else is found out."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from secagg_sites import Consortium, agreed_round, random_vector, signed_roster

from meninx.core.errors import ConfigError, DataError, PrivacyRefusal
from meninx.secagg import Transcript, verify
from meninx.secagg.payload import LEAF_BYTES
from meninx.secagg.verification import SeedPair

LENGTH = 5 * LEAF_BYTES // 4 + 7  # six chunks


@pytest.fixture(scope="module")
def finished():
    consortium = Consortium(6)
    vectors = {name: random_vector(LENGTH, number) for number, name in enumerate(consortium.names)}
    aggregation, uploads = agreed_round(consortium, vectors, uploading=consortium.names[:5])
    return consortium, aggregation.transcript().with_uploads(uploads), aggregation.total()


@pytest.mark.parametrize("reader", ["site00", "site05", None])
def test_whole_sum_is_confirmed_by_members_and_by_outsiders(finished, reader):
    """site05 was a member that did not survive; None is somebody who holds the roster only."""
    consortium, transcript, total = finished
    site = consortium.sites[reader] if reader else None
    found = verify(transcript.to_bytes(), total, roster=consortium.roster, site=site)
    assert found.matches
    assert found.share == 1
    assert found.survivors == consortium.names[:5]
    assert len(found.signers) == 5


def test_samples_are_fetched_in_parts(finished):
    consortium, transcript, total = finished
    vectors = dict(zip(consortium.names, transcript.vectors, strict=False))
    asked = []

    def fetch(site, first, last):
        asked.append((site, first, last))
        return vectors[site][4 * first : 4 * last]

    bare = msgspec.structs.replace(transcript, vectors=())
    found = verify(bare, total, roster=consortium.roster, share=0.4, fetch=fetch)
    assert found.matches
    assert 0 < found.share < 0.5
    assert len(asked) == 2 * 5
    assert verify(bare, total, roster=consortium.roster, share=1, fetch=fetch).share == 1
    with pytest.raises(DataError, match="holds no vectors"):
        verify(bare, total, roster=consortium.roster)
    with pytest.raises(DataError, match="elements"):
        verify(bare, total, roster=consortium.roster, share=0.4, fetch=lambda *_: b"")


def test_one_flipped_bit_of_the_sum_is_found(finished):
    consortium, transcript, total = finished
    wrong = total.copy()
    wrong[LENGTH // 2] ^= 1
    for site in (None, consortium.sites["site00"]):
        assert not verify(transcript, wrong, roster=consortium.roster, site=site).matches
    assert not verify(transcript, wrong, roster=consortium.roster, share=0.99).matches
    with pytest.raises(DataError, match="elements of 32 bits"):
        verify(transcript, total[:-1], roster=consortium.roster)


@pytest.mark.parametrize("reader", ["site00", None])
def test_one_flipped_bit_of_a_vector_is_found(finished, reader):
    consortium, transcript, total = finished
    data = bytearray(transcript.vectors[2])
    data[1000] ^= 1
    vectors = (*transcript.vectors[:2], bytes(data), *transcript.vectors[3:])
    wrong = msgspec.structs.replace(transcript, vectors=vectors)
    site = consortium.sites[reader] if reader else None
    with pytest.raises(PrivacyRefusal, match="not the one that site02"):
        verify(wrong, total, roster=consortium.roster, site=site)


def test_other_seeds_and_survivors_are_refused(finished):
    consortium, transcript, total = finished
    replace, roster = msgspec.structs.replace, consortium.roster
    wrong = [
        replace(transcript, seeds=(bytes(32), *transcript.seeds[1:])),
        replace(transcript, seeds=transcript.seeds[1:]),
        replace(transcript, pairs=transcript.pairs[1:]),
        replace(transcript, pairs=(*transcript.pairs, transcript.pairs[0])),
        replace(transcript, pairs=(SeedPair("site00", "site05", bytes(32)), *transcript.pairs[1:])),
        replace(transcript, agreements=transcript.agreements[:4]),
        replace(transcript, agreements=(transcript.agreements[0],) * 5),
        replace(transcript, statements=transcript.statements[:4], seeds=transcript.seeds[:4]),
        replace(transcript, announcements=transcript.announcements[:5]),
    ]
    for changed in wrong:
        with pytest.raises((PrivacyRefusal, DataError)):
            verify(changed, total, roster=roster)
    with pytest.raises(DataError, match="once each, sorted"):
        verify(replace(transcript, statements=transcript.statements[::-1]), total, roster=roster)
    with pytest.raises(PrivacyRefusal):
        verify(transcript, total, roster=signed_roster(5))
    with pytest.raises(DataError, match="not a transcript"):
        Transcript.from_bytes(b"\x00")
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        verify(transcript, total, roster=roster, share=0)


def test_statements_of_two_rounds_do_not_mix(finished):
    consortium, transcript, total = finished
    vectors = {name: random_vector(LENGTH, number) for number, name in enumerate(consortium.names)}
    aggregation, _ = agreed_round(consortium, vectors, uploading=consortium.names[:5], round=1)
    other = aggregation.transcript()
    mixed = msgspec.structs.replace(transcript, statements=(other.statements[0], *transcript.statements[1:]))
    with pytest.raises(PrivacyRefusal, match="several rounds"):
        verify(mixed, total, roster=consortium.roster)
    verify(transcript, total, roster=consortium.roster, round=0)
    with pytest.raises(PrivacyRefusal, match="is of round 0, not of round 1"):  # an old one, published again
        verify(transcript, total, roster=consortium.roster, round=1)
    with pytest.raises(DataError, match="upload of a survivor is missing"):
        transcript.with_uploads({})


def test_empty_vectors_are_confirmed():
    consortium = Consortium(3)
    vectors = {name: np.zeros(0, dtype="<u8") for name in consortium.names}
    aggregation, uploads = agreed_round(consortium, vectors, uploading=consortium.names)
    transcript = aggregation.transcript().with_uploads(uploads)
    for share in (1, 0.5):
        assert verify(transcript, aggregation.total(), roster=consortium.roster, share=share).matches
