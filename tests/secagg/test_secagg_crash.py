"""A site that is killed between writing and sending can send the same bytes again, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from secagg_sites import Consortium, agreed_round, random_vector

from meninx.core.errors import DataError, PrivacyRefusal
from meninx.secagg.site_history import read_history


class Killed(BaseException):
    """The process ends inside ``record``."""


@pytest.fixture
def four():
    return Consortium(4)


def kill_while_recording(consortium, name, action, *, written):
    """The process dies in ``record``, before or after the entry is on the disk; then it starts again."""
    site = consortium.sites[name]
    entries = []

    def record(entry):
        if written:
            consortium.history[name].append(entry)
        entries.append(entry)
        raise Killed

    site._record = record
    with pytest.raises(Killed):
        action(site)
    assert len(entries) == 1
    return consortium.start(name)


def uploads_of(consortium, attempt=0):
    vectors = {name: random_vector(50, number) for number, name in enumerate(consortium.names)}
    uploads = {
        name: consortium.sites[name].upload(0, attempt, consortium.names, vectors[name])
        for name in consortium.names
    }
    return vectors, uploads


def test_key_that_was_written_is_announced_again():
    consortium = Consortium(4)
    first = consortium.announcements[0]
    assert consortium.start("site00").announce() == first
    consortium.start("site00").meet(consortium.announcements)


def test_upload_written_and_not_sent_is_sent_again(four):
    vector = random_vector(50, 0)
    again = kill_while_recording(
        four, "site00", lambda site: site.upload(0, 0, four.names, vector), written=True
    )
    with pytest.raises(PrivacyRefusal, match="another vector was masked"):
        again.upload(0, 0, four.names, random_vector(50, 1))
    first = again.upload(0, 0, four.names, vector)
    assert four.start("site00").upload(0, 0, four.names, vector) == first


def test_upload_not_written_was_not_sent_either(four):
    again = kill_while_recording(
        four, "site00", lambda site: site.upload(0, 0, four.names, random_vector(50, 0)), written=False
    )
    assert again.phase == "met"
    again.upload(0, 0, four.names, random_vector(50, 1))  # nobody saw the first


@pytest.mark.parametrize("written", [True, False])
def test_no_second_set_is_signed_after_a_kill(four, written):
    uploads_of(four)
    again = kill_while_recording(four, "site00", lambda site: site.agree(0, 0, four.names), written=written)
    if not written:
        again.agree(0, 0, four.names[:3])
        return
    with pytest.raises(PrivacyRefusal, match="another set of survivors was signed"):
        again.agree(0, 0, four.names[:3])
    with pytest.raises(PrivacyRefusal, match="round 0 is closed"):
        again.upload(0, 1, four.names[:3], random_vector(50, 0))
    assert again.agree(0, 0, four.names) == four.start("site00").agree(0, 0, four.names)


def test_round_ends_exactly_although_a_site_is_killed_at_every_step(four):
    vectors, uploads = uploads_of(four)
    aggregation = four.aggregation()
    for upload in uploads.values():
        aggregation.receive(upload)
    four.start("site01")
    for name in four.names:
        aggregation.accept(four.sites[name].agree(0, 0, four.names))
    four.start("site01")
    agreements = aggregation.agreements
    again = kill_while_recording(four, "site01", lambda site: site.reveal(0, agreements), written=True)
    opening = again.reveal(0, agreements)
    assert opening == four.start("site01").reveal(0, agreements)
    for name in four.names:
        aggregation.accept_reveal(four.sites[name].reveal(0, agreements))
    np.testing.assert_array_equal(aggregation.total(), sum(vectors.values()))
    agreed_round(four, vectors, uploading=four.names, round=1)


def test_nothing_is_returned_when_the_record_fails(four):
    def full(entry):
        raise OSError("no space left on device")

    uploads_of(four)
    site = four.sites["site00"]
    site._record = full
    with pytest.raises(OSError, match="no space"):
        site.agree(0, 0, four.names)
    assert site.phase == "uploaded"
    with pytest.raises(OSError, match="no space"):
        site.upload(0, 1, four.names, random_vector(50, 0))
    site._record = four.history["site00"].append
    assert site.upload(0, 0, four.names, random_vector(50, 0))  # the attempt that was recorded still stands
    site.agree(0, 0, four.names)


@pytest.mark.parametrize("stage", ["met", "uploaded", "agreed", "revealed", "closed"])
def test_history_without_closed_rounds_restores_the_same_site(four, stage):
    vectors, uploads = uploads_of(four)
    site = four.sites["site00"]
    if stage == "met":
        four = Consortium(4)
        site = four.sites["site00"]
    aggregation = four.aggregation()
    if stage in ("agreed", "revealed", "closed"):
        for name in four.names:
            aggregation.receive(uploads[name])
        for name in four.names:
            aggregation.accept(four.sites[name].agree(0, 0, four.names))
    if stage in ("revealed", "closed"):
        opening = site.reveal(0, aggregation.agreements)
    if stage == "closed":
        site.close()
    four.history["site00"] = list(site.entries())
    again = four.start("site00")
    assert again.phase == ("met" if stage == "closed" else stage)
    assert again.announce() == four.announcements[0]
    if stage == "uploaded":
        assert again.upload(0, 0, four.names, vectors["site00"]) == uploads["site00"]
    if stage == "revealed":
        assert again.reveal(0, aggregation.agreements) == opening
    if stage == "closed":
        with pytest.raises(PrivacyRefusal, match="round 0 is closed"):
            again.upload(0, 1, four.names, vectors["site00"])
        again.upload(1, 0, four.names, vectors["site00"])


def test_seeds_are_gone_after_the_round_and_keys_after_the_run(four):
    uploads_of(four)
    site = four.sites["site00"]
    seed = site._open.seed
    secret = bytes(seed)
    assert any(secret in entry for entry in site.entries())
    site.close()
    assert seed == bytearray(32)
    assert not any(secret in entry for entry in site.entries())
    private = site._key.secret
    pair = next(iter(site._pairs._secrets.values()))
    site.finish()
    assert pair == bytearray(32)
    assert not any(private in entry for entry in site.entries())


def test_damaged_or_foreign_history_is_refused(four):
    records = four.history["site00"]
    with pytest.raises(DataError, match="record 2 is damaged"):
        read_history([records[0], records[1][:-1]], "chest")
    with pytest.raises(DataError, match="record 1 belongs to another study"):
        read_history(records, "brain")
    four.history["site00"] = records[1:]
    with pytest.raises(DataError, match="the key of this run is missing"):
        four.start("site00")
