"""Sites that share their updates among each other: exact sums, what n - 2 colluders learn, and refusals."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from cheating import eliminated, reduced
from secagg_sites import random_vector, signed_roster, signing_keys

from meninx.core.errors import DataError, PrivacyRefusal, UsageError
from meninx.secagg import SharingAggregation, SharingSite
from meninx.secagg import payload as upload_bytes
from meninx.secagg.sharing import SharingTranscript
from meninx.secagg.statements import Shared, read, sign


class SharingConsortium:
    def __init__(self, count, run="run-1"):
        self.roster, self.run = signed_roster(count), run
        self.names = self.roster.names
        self.history = {name: [] for name in self.names}
        self.sites = {}
        for name in self.names:
            self.start(name)
        self.announcements = [site.announce() for site in self.sites.values()]
        for site in self.sites.values():
            site.meet(self.announcements)

    def start(self, name):
        key = signing_keys(len(self.names))[name]
        past = tuple(self.history[name])
        self.sites[name] = SharingSite(
            self.roster, name, key, self.run, record=self.history[name].append, history=past
        )
        return self.sites[name]


def whole_round(consortium, vectors, round=0, attempt=0):
    aggregation = SharingAggregation(consortium.roster, consortium.announcements, round, attempt)
    for name in consortium.names:
        aggregation.receive(consortium.sites[name].upload(round, attempt, consortium.names, vectors[name]))
    for name in consortium.names:
        aggregation.accept(consortium.sites[name].agree(round, attempt, aggregation.survivors))
    assert len(aggregation.agreements) == len(consortium.names)
    for name in consortium.names:
        aggregation.accept_reveal(consortium.sites[name].answer(round, attempt, aggregation.statements(name)))
    return aggregation


@pytest.mark.parametrize("count", [3, 4, 7])
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("length", [0, 1, 20_001])
def test_sum_is_exact(count, bits, length):
    consortium = SharingConsortium(count)
    vectors = {name: random_vector(length, number, bits) for number, name in enumerate(consortium.names)}
    for round in range(2):
        aggregation = whole_round(consortium, vectors, round)
        np.testing.assert_array_equal(aggregation.total(), sum(vectors.values()))


@pytest.mark.parametrize("count", [3, 4, 6])
def test_up_to_all_but_two_colluders_learn_one_sum(count):
    """Linear algebra: rests and answers of honest sites, over seeds that no colluder made or got."""
    for colluders in range(count):
        honest = list(range(colluders, count))
        seeds = {(i, j): number for number, (i, j) in enumerate((i, j) for i in honest for j in honest)}
        rows = []
        for site in honest:
            rest = np.zeros(len(seeds) + len(honest), np.int64)
            answer = rest.copy()
            rest[len(seeds) + honest.index(site)] = 1
            for other in honest:
                rest[seeds[site, other]] -= 1
                answer[seeds[other, site]] += 1
            rows += [rest, answer]
        learned = reduced(eliminated(np.array(rows) % (2**31 - 1), len(seeds))[:, len(seeds) :])
        assert learned.tolist() == [[1] * len(honest)]


def test_single_rest_and_single_answer_are_uniform():
    consortium = SharingConsortium(3)
    zeros = np.zeros(100_000, dtype="<u4")
    uploads = {name: site.upload(0, 0, consortium.names, zeros) for name, site in consortium.sites.items()}
    statements = [upload_bytes.split(uploads[name])[0] for name in consortium.names[1:]]
    answer = consortium.sites["site00"].answer(0, 0, statements)
    for data in (uploads["site00"], answer):
        body = np.frombuffer(upload_bytes.split(data)[1], dtype=np.uint8)
        counts = np.bincount(body, minlength=256)
        expected = counts.sum() / 256
        assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 6 * np.sqrt(2 * 255)


def test_round_goes_on_after_a_kill_and_the_same_vector_alone():
    consortium = SharingConsortium(3)
    vectors = {name: random_vector(50, number) for number, name in enumerate(consortium.names)}
    first = consortium.sites["site00"].upload(0, 0, consortium.names, vectors["site00"])
    for history in (consortium.history["site00"], list(consortium.sites["site00"].entries())):
        consortium.history["site00"] = list(history)
        again = consortium.start("site00")
        assert again.upload(0, 0, consortium.names, vectors["site00"]) == first
        with pytest.raises(PrivacyRefusal, match="another vector was shared"):
            again.upload(0, 0, consortium.names, vectors["site01"])
    aggregation = whole_round(consortium, vectors)
    np.testing.assert_array_equal(aggregation.total(), sum(vectors.values()))
    whole_round(consortium, vectors, 0, 1)
    with pytest.raises(PrivacyRefusal, match="a later attempt was shared before"):
        consortium.sites["site00"].upload(0, 0, consortium.names, vectors["site00"])


def test_nobody_may_be_missing():
    consortium = SharingConsortium(4)
    vector = random_vector(10, 0)
    site = consortium.sites["site00"]
    for members in (consortium.names[:3], (*consortium.names[:3], "mallory")):
        with pytest.raises(PrivacyRefusal, match="all 4 sites of the roster"):
            site.upload(0, 0, members, vector)
    with pytest.raises(PrivacyRefusal, match="at least 4 members that announced keys, got 3"):
        SharingAggregation(consortium.roster, consortium.announcements[:3], 0, 0)
    aggregation = SharingAggregation(consortium.roster, consortium.announcements, 0, 0)
    for name in consortium.names:
        aggregation.receive(consortium.sites[name].upload(0, 0, consortium.names, vector))
    with pytest.raises(PrivacyRefusal, match="all 4 sites"):
        site.agree(0, 0, consortium.names[:3])
    with pytest.raises(PrivacyRefusal, match="the shares of site03 are missing"):
        site.answer(0, 0, aggregation.statements("site00")[:2])
    aggregation.accept_reveal(site.answer(0, 0, aggregation.statements("site00")))
    assert not aggregation.complete
    assert aggregation.agreements == ()
    with pytest.raises(UsageError, match="site01, site02, site03 are missing"):
        aggregation.total()


def test_statements_of_other_attempts_recipients_and_strangers_are_refused():
    consortium = SharingConsortium(3)
    vector = random_vector(10, 0)
    old = {name: site.upload(0, 0, consortium.names, vector) for name, site in consortium.sites.items()}
    new = {name: site.upload(0, 1, consortium.names, vector) for name, site in consortium.sites.items()}
    site = consortium.sites["site00"]
    heads = {name: upload_bytes.split(data)[0] for name, data in new.items()}
    stale = upload_bytes.split(old["site01"])[0]
    with pytest.raises(PrivacyRefusal, match="another attempt or shape"):
        site.answer(0, 1, [stale, heads["site02"]])
    with pytest.raises(PrivacyRefusal, match="given twice"):
        site.answer(0, 1, [heads["site01"], heads["site01"], heads["site02"]])
    with pytest.raises(UsageError, match="no upload of round 0, attempt 0"):
        site.answer(0, 0, list(heads.values()))
    found = read(heads["site01"], Shared, consortium.roster)
    for shares in ((), tuple((name, sealed[:-1]) for name, sealed in found.shares)):
        forged = sign(msgspec.structs.replace(found, shares=shares), signing_keys(3)["site01"])
        with pytest.raises(PrivacyRefusal, match="not for site00"):
            site.answer(0, 1, [forged, heads["site02"]])
    third = SharingConsortium(3)
    for name, one in third.sites.items():
        new[name] = one.upload(0, 0, third.names, vector, model=b"other" if name == "site01" else b"")
    heads_of_other = [upload_bytes.split(new[name])[0] for name in ("site01", "site02")]
    with pytest.raises(PrivacyRefusal, match="another attempt or shape"):  # site01 trained from another model
        third.sites["site00"].answer(0, 0, heads_of_other)
    new = {name: site.upload(0, 1, consortium.names, vector) for name, site in consortium.sites.items()}
    aggregation = SharingAggregation(consortium.roster, consortium.announcements, 0, 1)
    with pytest.raises(PrivacyRefusal, match="another run, round, attempt"):
        aggregation.receive(old["site00"])
    damaged = bytearray(new["site00"])
    damaged[-1] ^= 1
    with pytest.raises(PrivacyRefusal, match="not the one that site00 signed"):
        aggregation.receive(bytes(damaged))
    aggregation.receive(new["site00"])
    aggregation.receive(new["site00"])
    other = SharingConsortium(3)
    other.announcements = consortium.announcements
    with pytest.raises(PrivacyRefusal):
        aggregation.receive(other.sites["site01"].upload(0, 1, other.names, vector))
    longer = consortium.sites["site01"].upload(0, 2, consortium.names, random_vector(11, 0))
    third = SharingAggregation(consortium.roster, consortium.announcements, 0, 2)
    third.receive(consortium.sites["site00"].upload(0, 2, consortium.names, vector))
    with pytest.raises(DataError, match="another shape"):
        third.receive(longer)


def published(consortium, vectors):
    aggregation = SharingAggregation(consortium.roster, consortium.announcements, 0, 0)
    names, sites = consortium.names, consortium.sites
    uploads = [sites[name].upload(0, 0, names, vectors[name]) for name in names]
    for upload in uploads:
        aggregation.receive(upload)
    answers = [sites[name].answer(0, 0, aggregation.statements(name)) for name in names]
    for answer in answers:
        aggregation.accept_reveal(answer)
    return aggregation, SharingTranscript(uploads=tuple(uploads), answers=tuple(answers))


def test_every_site_computes_the_sum_again_and_finds_another_one_out():
    consortium = SharingConsortium(3)
    vectors = {name: random_vector(20_001, number) for number, name in enumerate(consortium.names)}
    aggregation, transcript = published(consortium, vectors)
    total, data = aggregation.total(), transcript.to_bytes()
    other = total.copy()
    other[-1] += 1
    assert aggregation.verified(data, total)
    assert not aggregation.verified(data, other)
    for name in consortium.names:
        consortium.history[name] = list(consortium.sites[name].entries())
        for site in (consortium.sites[name], consortium.start(name)):  # also after a kill
            assert site.recompute(0, 0, data, total)
            assert not site.recompute(0, 0, data, other)
            assert not site.recompute(0, 0, data, total[:-1])


def test_transcript_that_is_not_of_the_signed_attempt_is_refused():
    consortium = SharingConsortium(3)
    vectors = {name: random_vector(10, number) for number, name in enumerate(consortium.names)}
    aggregation, good = published(consortium, vectors)
    total, site = aggregation.total(), consortium.sites["site00"]

    def changed(**parts):
        return msgspec.structs.replace(good, **parts).to_bytes()

    spoiled = good.answers[1][:-1] + bytes([good.answers[1][-1] ^ 1])
    for data, reason in (
        (changed(answers=good.answers[:2]), "an upload or answer of a site is missing"),
        (changed(uploads=good.uploads[1:]), "an upload or answer of a site is missing"),
        (changed(answers=(good.answers[0], spoiled, good.answers[2])), "not the one that site01 signed"),
        (changed(answers=(*good.answers[:2], good.answers[1])), "is missing"),
        (changed(uploads=good.answers), "not a statement"),
        (b"\xc1", "not a transcript"),
    ):
        with pytest.raises((DataError, PrivacyRefusal), match=reason):
            site.recompute(0, 0, data, total)
    of_other_keys, theirs = published(SharingConsortium(3), vectors)
    with pytest.raises(PrivacyRefusal, match="another run, round, attempt"):
        site.recompute(0, 0, theirs.to_bytes(), of_other_keys.total())
    with pytest.raises(UsageError, match="no upload of round 1"):
        site.recompute(1, 0, good.to_bytes(), total)
    signed_twice = consortium.start("site02")  # a colluder that lost its memory on purpose
    consortium.history["site02"] = [entry for entry in signed_twice.entries() if b"shares" not in entry]
    second = consortium.start("site02").upload(0, 0, consortium.names, vectors["site00"])
    with pytest.raises(PrivacyRefusal, match="answered twice, differently"):
        site.recompute(0, 0, changed(uploads=(*good.uploads, second)), total)
    site.finish()
    with pytest.raises(UsageError, match="no upload of round 0"):
        site.recompute(0, 0, good.to_bytes(), total)
