"""Homomorphic encryption with agreement: a site decrypts the sum that a quorum signed, and nothing else."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from secagg_sites import signed_roster, signing_keys

from meninx.core.errors import DataError, PrivacyRefusal, UsageError
from meninx.secagg import EncryptedAggregation, EncryptedSite
from meninx.secagg import payload as upload_bytes
from meninx.secagg.ckks import CkksSite
from meninx.secagg.encrypted import _parts
from meninx.secagg.statements import CkksKey, Encrypted, read, sign

pytest.importorskip("tenseal")


class EncryptedConsortium:
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
        self.sites[name] = EncryptedSite(
            self.roster, name, key, self.run, record=self.history[name].append, history=past
        )
        return self.sites[name]

    def received(self, names, values, round=0):
        aggregation = EncryptedAggregation(self.roster, self.announcements, round, 0, self.names)
        for name in names:
            aggregation.receive(self.sites[name].upload(round, 0, self.names, values[name]))
        return aggregation


def values_of(consortium):
    rng = np.random.default_rng(0)
    return {name: rng.uniform(-3, 3, 10) for name in consortium.names}


@pytest.fixture(scope="module")
def four():
    return EncryptedConsortium(4)


def test_sum_over_survivors_is_decrypted_by_each_of_them():
    consortium = EncryptedConsortium(4)
    values = values_of(consortium)
    aggregation = consortium.received(consortium.names[1:], values)
    survivors = aggregation.freeze()
    for name in survivors:
        aggregation.accept(consortium.sites[name].agree(0, 0, survivors))
    assert not aggregation.complete
    for name in survivors:
        aggregation.accept_reveal(
            consortium.sites[name].decrypt(0, aggregation.agreements, aggregation.uploads())
        )
    wanted = sum(values[name] for name in survivors)
    assert np.abs(aggregation.total() - wanted).max() < 2e-6


def test_nothing_but_the_agreed_sum_is_decrypted(four):
    values = values_of(four)
    aggregation = four.received(four.names, values)
    survivors = aggregation.freeze()
    signatures = [four.sites[name].agree(0, 0, survivors) for name in survivors]
    uploads, site = list(aggregation.uploads()), four.sites["site01"]
    for given, reason in (
        (uploads[:1], "not the uploads of the survivors"),  # a single update
        (uploads[:3], "not the uploads of the survivors"),
        ([uploads[0]] * 4, "given twice"),
        ([uploads[0][:-1] + b"\x00", *uploads[1:]], "not those that site00 signed"),
    ):
        with pytest.raises(PrivacyRefusal, match=reason):
            site.decrypt(0, signatures, given)
    with pytest.raises(PrivacyRefusal, match="agreements of 3 sites, got 2"):
        site.decrypt(0, signatures[:2], uploads)
    with pytest.raises(PrivacyRefusal, match="another set of survivors was signed"):
        site.agree(0, 0, survivors[:3])
    with pytest.raises(PrivacyRefusal, match="round 0 is closed"):
        site.upload(0, 1, four.names, values["site01"])
    with pytest.raises(UsageError, match="no survivors were signed in round 1"):
        site.decrypt(1, signatures, uploads)


def test_killed_site_goes_on_with_the_same_bytes():
    consortium = EncryptedConsortium(3)
    values = values_of(consortium)
    aggregation = consortium.received(consortium.names, values)
    first = aggregation.uploads()[0]
    consortium.history["site00"] = list(consortium.sites["site00"].entries())
    again = consortium.start("site00")
    assert again.announce() == consortium.announcements[0]
    assert again.upload(0, 0, consortium.names, values["site00"]) == first
    for name in consortium.names:
        aggregation.accept(consortium.sites[name].agree(0, 0, consortium.names))
    consortium.history["site00"] = list(again.entries())
    again = consortium.start("site00")
    with pytest.raises(PrivacyRefusal, match="another set"):
        again.agree(0, 0, (*consortium.names, "site00"))
    aggregation.accept_reveal(again.decrypt(0, aggregation.agreements, aggregation.uploads()))
    assert np.abs(aggregation.total() - sum(values.values())).max() < 2e-6
    secret = again._held.context
    assert any(secret in entry for entry in again.entries())
    again.finish()
    assert not any(secret in entry for entry in again.entries())


def test_key_of_the_run_reaches_its_sites_alone(four):
    """The announcements hold the public context, and the other one encrypted to each enrolled site."""
    statement = _parts(four.announcements[0])[1]
    found = read(statement, CkksKey, four.roster)
    with pytest.raises(DataError, match="no secret key"):
        CkksSite(found.public)
    secret = four.sites["site02"]._held.context
    assert secret not in four.announcements[0]
    key = signing_keys(4)["site03"]
    stranger = EncryptedSite(four.roster, "site03", key, "run-1", record=[].append)
    others = [stranger.announce() if number == 3 else data for number, data in enumerate(four.announcements)]
    stranger.meet(others)  # enrolled: its key opens the context
    assert stranger._held.context == secret
    wrong = tuple((name, bytes(60)) for name, _ in found.keys)
    for change, reason in (
        ({"keys": wrong}, "not for site03, or was changed"),
        ({"keys": ()}, "not for site03, or was changed"),
        ({"ephemeral": bytes(32)}, "not for site03, or was changed"),
        ({"run": "run-0"}, "another site, study, run or roster"),
    ):
        forged = sign(msgspec.structs.replace(found, **change), signing_keys(4)["site00"])
        site = EncryptedSite(four.roster, "site03", key, "run-1", record=[].append)
        own = site.announce()
        first = msgspec.msgpack.encode((_parts(four.announcements[0])[0], forged))
        with pytest.raises(PrivacyRefusal, match=reason):
            site.meet([first, *four.announcements[1:3], own])
    forged = sign(msgspec.structs.replace(found, keys=wrong), signing_keys(4)["site00"])
    first = msgspec.msgpack.encode((_parts(four.announcements[0])[0], forged))
    with pytest.raises(PrivacyRefusal, match="another key was shown before"):
        four.sites["site01"].meet([first, *four.announcements[1:]])
    for announcements, reason in (
        ([msgspec.msgpack.encode((_parts(data)[0], b"")) for data in four.announcements], "got 0"),
        ([msgspec.msgpack.encode((_parts(data)[0], statement)) for data in four.announcements], "got 4"),
    ):
        with pytest.raises(PrivacyRefusal, match=reason):
            EncryptedAggregation(four.roster, announcements, 0, 0, four.names)
    with pytest.raises(DataError, match="not an announcement"):
        EncryptedAggregation(four.roster, [b"\xc1"], 0, 0, four.names)


def test_coordinator_refuses_forged_and_second_uploads_and_other_sums():
    consortium = EncryptedConsortium(3)
    values = values_of(consortium)
    aggregation = consortium.received(consortium.names, values)
    uploads = dict(zip(consortium.names, aggregation.uploads(), strict=True))
    aggregation.receive(uploads["site00"])  # sent again
    head, body = upload_bytes.split(uploads["site00"])
    found = read(head, Encrypted, consortium.roster)
    forged = sign(msgspec.structs.replace(found, key=bytes(32)), signing_keys(3)["site00"])
    with pytest.raises(PrivacyRefusal, match="second upload"):
        aggregation.receive(len(forged).to_bytes(4, "big") + forged + bytes(body))
    with pytest.raises(UsageError, match="no survivor has decrypted"):
        aggregation.total()
    survivors = aggregation.freeze()
    for name in survivors:
        aggregation.accept(consortium.sites[name].agree(0, 0, survivors))
    assert aggregation.certified
    sums = [
        consortium.sites[name].decrypt(0, aggregation.agreements, aggregation.uploads()) for name in survivors
    ]
    aggregation.accept_reveal(sums[0])
    head, body = upload_bytes.split(sums[1])
    damaged = bytearray(body)
    damaged[0] ^= 1
    with pytest.raises(PrivacyRefusal, match="not the one that site01 signed"):
        aggregation.accept_reveal(len(head).to_bytes(4, "big") + head + bytes(damaged))
    aggregation.accept_reveal(sums[1])
