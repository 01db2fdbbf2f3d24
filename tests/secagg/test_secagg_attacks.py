"""Coordinators, colluding sites and networks that cheat: each is refused, with a reason."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from secagg_sites import Consortium, agreed_round, random_vector, signed_roster, signing_keys

from meninx.core.errors import ConfigError, DataError, MeninxError, PrivacyRefusal, UsageError
from meninx.secagg import Aggregation, Member, Roster, SiteProtocol, quorum
from meninx.secagg import payload as upload_bytes
from meninx.secagg.roster import public_bytes
from meninx.secagg.statements import Agreement, Announcement, Masked, read, sign


@pytest.fixture
def six():
    return Consortium(6)  # q = 5, c = 3, t = 4


def vectors_of(consortium, seed=0):
    return {name: random_vector(20, seed + number) for number, name in enumerate(consortium.names)}


def uploaded(consortium, round=0, attempt=0, members=None):
    members = members or consortium.names
    vectors = vectors_of(consortium)
    return {name: consortium.sites[name].upload(round, attempt, members, vectors[name]) for name in members}


def signed_by(consortium, names, survivors, round=0, attempt=0):
    return [consortium.sites[name].agree(round, attempt, survivors) for name in names]


def statement_of(upload):
    return upload_bytes.split(upload)[0]


# what broke earlier designs


def test_split_view_is_refused(six):
    """The victim is told that it survived, the others that it dropped."""
    uploaded(six)
    victim, *others = six.names
    without = tuple(others)
    signatures = signed_by(six, others, without)
    alone = six.sites[victim].agree(0, 0, six.names)
    with pytest.raises(PrivacyRefusal, match="signed another set of survivors"):
        six.sites[victim].reveal(0, [alone, *signatures])
    with pytest.raises(PrivacyRefusal, match="agreements of 5 sites, got 1"):
        six.sites[victim].reveal(0, [alone])
    with pytest.raises(PrivacyRefusal, match="another set of survivors was signed in round 0"):
        six.sites[others[0]].agree(0, 0, six.names)


def test_second_attempt_after_an_agreement_is_refused(six):
    agreed_round(six, vectors_of(six), uploading=six.names)
    others = six.names[1:]
    for name in others:
        with pytest.raises(PrivacyRefusal, match="round 0 is closed"):
            six.sites[name].upload(0, 1, others, random_vector(20, 0))


def test_second_run_of_a_round_is_refused(six):
    """The coordinator says that it crashed, and asks for the same round without the victim in another run."""
    agreed_round(six, vectors_of(six), uploading=six.names, round=4)
    again = Consortium(6, run="run-2", history=six.history)
    with pytest.raises(PrivacyRefusal, match="round 4 is closed"):
        again.sites[again.names[1]].upload(4, 0, again.names[1:], random_vector(20, 1))
    agreed_round(again, vectors_of(again), uploading=again.names, round=5)


def test_partition_is_refused(six):
    half = six.names[:3]
    with pytest.raises(PrivacyRefusal, match="at least 5 of the 6 sites of the roster, got 3"):
        six.sites[half[0]].upload(0, 0, half, random_vector(20, 0))
    uploaded(six)
    with pytest.raises(PrivacyRefusal, match="at least 5 of the 6 sites of the roster, got 3"):
        six.sites[half[0]].agree(0, 0, half)


def test_partition_by_members_finds_no_quorum(six):
    """Two groups are shown different members; their agreements do not add up."""
    first, second = six.names[:5], six.names[1:]
    vectors = vectors_of(six)
    six.sites[first[0]].upload(0, 0, first, vectors[first[0]])
    for name in second:
        six.sites[name].upload(0, 0, six.names, vectors[name])
    survivors = first
    signatures = [six.sites[name].agree(0, 0, survivors) for name in first]
    for name in first:
        with pytest.raises(
            PrivacyRefusal, match="signed another set of survivors, round, attempt or session"
        ):
            six.sites[name].reveal(0, signatures)


def test_victim_that_is_given_another_model_is_in_no_sum_with_the_others(six):
    """From a model in which the others' updates are known, an honest sum would give away the victim's."""
    victim, *others = six.names
    aggregation = Aggregation(six.roster, six.announcements, 0, 0, six.names, model=b"common")
    for name in others:
        upload = six.sites[name].upload(0, 0, six.names, random_vector(20, 0), model=b"common")
        aggregation.receive(upload)
    upload = six.sites[victim].upload(0, 0, six.names, random_vector(20, 0), model=b"other")
    with pytest.raises(PrivacyRefusal, match="set of members or model"):
        aggregation.receive(upload)
    with pytest.raises(PrivacyRefusal, match="another model was masked before"):
        six.sites[victim].upload(0, 0, six.names, random_vector(20, 0), model=b"common")
    signatures = [six.sites[name].agree(0, 0, six.names) for name in six.names]
    for name in six.names:
        with pytest.raises(PrivacyRefusal, match="signed another set of survivors"):
            six.sites[name].reveal(0, signatures)


def test_member_named_active_and_lost_is_refused(six):
    """The shares of a site outside the survivors stay closed, because its common seeds are opened."""
    uploads = uploaded(six)
    victim, *others = six.names
    signatures = signed_by(six, others, others)
    for lost in ([victim], [victim, others[0]]):
        with pytest.raises(PrivacyRefusal, match=f"{victim} is no other survivor"):
            six.sites[others[1]].reveal(0, signatures, [statement_of(uploads[name]) for name in lost])
    with pytest.raises(PrivacyRefusal, match="is no other survivor"):  # itself
        six.sites[others[1]].reveal(0, signatures, [statement_of(uploads[others[1]])])


# identities


def test_stranger_among_survivors_or_members_is_refused(six):
    uploaded(six)
    site = six.sites[six.names[0]]
    with pytest.raises(PrivacyRefusal, match="stranger"):
        site.agree(0, 0, (*six.names, "mallory"))
    with pytest.raises(PrivacyRefusal, match="stranger"):
        site.upload(1, 0, (*six.names, "mallory"), random_vector(20, 0))


def test_survivor_that_was_no_member_is_refused(six):
    members = six.names[:5]
    uploaded(six, members=members)
    with pytest.raises(PrivacyRefusal, match="site05 did not take part before"):
        six.sites[members[0]].agree(0, 0, six.names)


def test_site_that_is_missing_itself_refuses(six):
    uploaded(six)
    with pytest.raises(PrivacyRefusal, match="site00 itself is missing"):
        six.sites["site00"].agree(0, 0, six.names[1:])
    with pytest.raises(PrivacyRefusal, match="site00 itself is missing"):
        six.sites["site00"].upload(1, 0, six.names[1:], random_vector(20, 0))


def test_site_listed_twice_does_not_fill_the_quorum(six):
    uploaded(six)
    names = six.names[:4]
    with pytest.raises(PrivacyRefusal, match="listed twice"):
        six.sites[names[0]].agree(0, 0, (*names, names[1]))
    signature = six.sites[names[0]].agree(0, 0, six.names)
    with pytest.raises(PrivacyRefusal, match="agreements of 5 sites, got 1"):
        six.sites[names[0]].reveal(0, [signature] * 5)


def announcement(consortium, name, signing_key=None, **changes):
    found = read(consortium.announcements[consortium.names.index(name)], Announcement, consortium.roster)
    key = signing_key or signing_keys(consortium.count)[name]
    return sign(msgspec.structs.replace(found, **changes), key)


def fresh_site(consortium, name):
    records = []
    key = signing_keys(consortium.count)[name]
    site = SiteProtocol(consortium.roster, name, key, consortium.run, record=records.append)
    return site, site.announce()


def shown_to_fresh_site(consortium, name, replaced):
    """The announcements with one replaced, shown to a site that has met nobody."""
    site, own = fresh_site(consortium, consortium.names[0])
    others = [
        replaced if other == name else data
        for other, data in zip(consortium.names, consortium.announcements, strict=True)
    ]
    site.meet([own, *others[1:]])


def other_key():
    return X25519PrivateKey.generate().public_key().public_bytes_raw()


def test_key_swapped_by_the_coordinator_is_refused(six):
    forged = announcement(six, "site03", Ed25519PrivateKey.generate(), exchange_key=other_key())
    with pytest.raises(PrivacyRefusal, match="not that of site03"):
        shown_to_fresh_site(six, "site03", forged)


def test_own_key_swapped_is_refused(six):
    site, _ = fresh_site(six, "site00")
    with pytest.raises(PrivacyRefusal, match="own key is missing or was changed"):
        site.meet(six.announcements)


@pytest.mark.parametrize("change", [{"run": "run-0"}, {"study": "brain"}, {"roster": bytes(32)}])
def test_key_of_another_run_study_or_roster_is_refused(six, change):
    with pytest.raises(PrivacyRefusal, match="another study, run or roster"):
        shown_to_fresh_site(six, "site03", announcement(six, "site03", **change))


def test_key_that_gives_a_known_secret_is_refused(six):
    with pytest.raises(PrivacyRefusal, match="key of site03 is not valid"):
        shown_to_fresh_site(six, "site03", announcement(six, "site03", exchange_key=bytes(32)))


def test_key_copied_from_another_site_is_refused(six):
    copied = read(six.announcements[2], Announcement, six.roster).exchange_key
    with pytest.raises(PrivacyRefusal, match="no key of its own"):
        shown_to_fresh_site(six, "site03", announcement(six, "site03", exchange_key=copied))


def test_too_few_keys_and_other_keys_later_are_refused(six):
    site, own = fresh_site(six, "site00")
    with pytest.raises(PrivacyRefusal, match="the keys of at least 5 of 6 sites, got 4"):
        site.meet([own, *six.announcements[1:4]])
    site.meet([own, *six.announcements[1:]])
    with pytest.raises(PrivacyRefusal, match="other keys were shown before"):
        site.meet([own, *six.announcements[1:5]])


def test_two_rosters_never_share_a_session():
    """Same sites and keys, other terms: no announcement of one counts in the other."""
    keys = signing_keys(4)
    members = tuple(Member(name=name, key=public_bytes(key)) for name, key in keys.items())
    other = Roster(study="chest", members=members, terms=b"weaker")
    other = other.signed({name: other.signature(key) for name, key in keys.items()})
    assert other.hash != signed_roster(4).hash
    consortium = Consortium(4)
    site = SiteProtocol(other, "site00", keys["site00"], "run-1", record=[].append)
    with pytest.raises(PrivacyRefusal, match="another study, run or roster"):
        site.meet([site.announce(), *consortium.announcements[1:]])
    with pytest.raises(PrivacyRefusal, match="another study, run or roster"):
        Aggregation(other, consortium.announcements, 0, 0, consortium.names)


def test_roster_without_every_signature_is_refused():
    keys = signing_keys(4)
    members = tuple(Member(name=name, key=public_bytes(key)) for name, key in keys.items())
    roster = Roster(study="chest", members=members)
    with pytest.raises(PrivacyRefusal, match="0 of 4 sites signed"):
        SiteProtocol(roster, "site00", keys["site00"], "run", record=[].append)
    signatures = {name: roster.signature(key) for name, key in keys.items()}
    with pytest.raises(PrivacyRefusal, match="not signed by site02"):
        roster.signed({name: signatures[name] for name in signatures if name != "site02"})
    with pytest.raises(PrivacyRefusal, match="signature of site02 does not belong"):
        roster.signed(signatures | {"site02": signatures["site01"]})


def test_key_that_anybody_can_sign_for_is_refused():
    """A zero signature fits a quarter of all messages under the key of zeros."""
    good = public_bytes(signing_keys(4)["site00"])
    for weak in (bytes(32), b"\x01" + bytes(31), bytes(31) + b"\x80", b"\xec" + b"\xff" * 30 + b"\x7f"):
        with pytest.raises(DataError, match="anybody can sign for"):
            Roster(study="chest", members=(Member(name="east", key=good), Member(name="west", key=weak)))


def test_own_key_must_be_the_one_of_the_roster():
    with pytest.raises(PrivacyRefusal, match="another key for site00"):
        SiteProtocol(signed_roster(4), "site00", Ed25519PrivateKey.generate(), "run", record=[].append)


def test_site_that_lost_its_history_counts_in_no_quorum(six):
    """Its fresh keys make another session, so it cannot be used to sign a second set."""
    uploaded(six)
    forgetful, own = fresh_site(six, "site00")
    forgetful.meet([own, *six.announcements[1:]])
    forgetful.upload(0, 0, six.names, random_vector(20, 0))
    signatures = [*signed_by(six, six.names[1:5], six.names), forgetful.agree(0, 0, six.names)]
    with pytest.raises(
        PrivacyRefusal, match="site00 signed another set of survivors, round, attempt or session"
    ):
        six.sites["site01"].reveal(0, signatures)


def test_equivocating_colluder_splits_the_session(six):
    """A colluder announces two keys; sites that saw different ones never complete a round."""
    first, own_first = fresh_site(six, "site00")
    second, own_second = fresh_site(six, "site01")
    other = announcement(six, "site05", exchange_key=other_key())
    common = [own_first, own_second, *six.announcements[2:5]]
    first.meet([*common, six.announcements[5]])
    second.meet([*common, other])
    vector = random_vector(20, 0)
    first.upload(0, 0, six.names, vector)
    second.upload(0, 0, six.names, vector)
    signatures = [first.agree(0, 0, six.names), second.agree(0, 0, six.names)]
    with pytest.raises(PrivacyRefusal, match="session"):
        first.reveal(0, signatures)


# shares


def test_replayed_share_is_refused(six):
    old = uploaded(six)
    uploaded(six, attempt=1)
    signatures = signed_by(six, six.names, six.names, attempt=1)
    with pytest.raises(PrivacyRefusal, match="another round or run"):
        six.sites["site00"].reveal(0, signatures, [statement_of(old["site01"])])


def resealed(six, upload, **changes):
    """A colluder signs its upload again with other shares."""
    found = read(statement_of(upload), Masked, six.roster)
    return sign(msgspec.structs.replace(found, **changes), signing_keys(6)[found.site])


def test_share_moved_from_another_attempt_is_refused(six):
    old = uploaded(six)
    new = uploaded(six, attempt=1)
    signatures = signed_by(six, six.names, six.names, attempt=1)
    stale = read(statement_of(old["site01"]), Masked, six.roster).shares
    with pytest.raises(PrivacyRefusal, match="not for site00 in this attempt"):
        six.sites["site00"].reveal(0, signatures, [resealed(six, new["site01"], shares=stale)])


def test_share_for_another_recipient_is_refused(six):
    uploads = uploaded(six)
    signatures = signed_by(six, six.names, six.names)
    shares = dict(read(statement_of(uploads["site01"]), Masked, six.roster).shares)
    swapped = tuple((name, shares["site02" if name == "site00" else name]) for name in shares)
    with pytest.raises(PrivacyRefusal, match="not for site00 in this attempt"):
        six.sites["site00"].reveal(0, signatures, [resealed(six, uploads["site01"], shares=swapped)])


def test_share_that_is_missing_or_short_is_refused(six):
    uploads = uploaded(six)
    signatures = signed_by(six, six.names, six.names)
    with pytest.raises(PrivacyRefusal, match="no share for site00"):
        six.sites["site00"].reveal(0, signatures, [resealed(six, uploads["site01"], shares=())])


def test_wrong_shares_of_colluders_are_outvoted():
    """Three of nine survivors reveal wrong shares of a lost one; its commitment shows which seed is right."""
    from meninx.secagg.statements import Opening

    nine = Consortium(9)  # t = 5
    vectors = vectors_of(nine)
    aggregation = nine.aggregation()
    for name in nine.names:
        aggregation.receive(nine.sites[name].upload(0, 0, nine.names, vectors[name]))
    for name in nine.names:
        aggregation.accept(nine.sites[name].agree(0, 0, nine.names))
    present = nine.names[1:]
    for name in present:
        aggregation.accept_reveal(nine.sites[name].reveal(0, aggregation.agreements))
    for number, name in enumerate(present):
        opening = nine.sites[name].reveal(0, aggregation.agreements, aggregation.lost())
        if number < 3:
            found = read(opening, Opening, nine.roster)
            wrong = tuple((lost, other, bytes(33)) for lost, other, _ in found.shares)
            opening = sign(msgspec.structs.replace(found, shares=wrong), signing_keys(9)[name])
        aggregation.accept_reveal(opening)
    np.testing.assert_array_equal(aggregation.total(), sum(vectors[name] for name in nine.names))


# one vector per attempt


def test_second_vector_below_the_same_masks_is_refused(six):
    site = six.sites["site00"]
    first = site.upload(0, 0, six.names, random_vector(20, 0))
    assert site.upload(0, 0, six.names, random_vector(20, 0)) == first
    with pytest.raises(PrivacyRefusal, match="another vector was masked"):
        site.upload(0, 0, six.names, random_vector(20, 1))
    with pytest.raises(PrivacyRefusal, match="other members or another model was masked before"):
        site.upload(0, 0, six.names[:5], random_vector(20, 0))
    site.upload(0, 1, six.names, random_vector(20, 0))
    with pytest.raises(PrivacyRefusal, match="a later one"):
        site.upload(0, 0, six.names, random_vector(20, 0))


def test_attempt_whose_seed_is_forgotten_is_masked_no_second_time(six):
    """Others hold shares of the first seed, which with a second one would give away a difference."""
    site = six.sites["site00"]
    site.upload(0, 0, six.names, random_vector(20, 0))
    site.close()
    six.history["site00"] = list(site.entries())
    for one in (site, six.start("site00")):
        with pytest.raises(PrivacyRefusal, match="was masked before"):
            one.upload(0, 0, six.names, random_vector(20, 0))
    six.sites["site00"].upload(0, 1, six.names, random_vector(20, 0))


def test_statement_with_another_ring_is_refused(six):
    uploads = uploaded(six)
    vector = upload_bytes.split(uploads["site00"])[1]
    for change in ({"bits": 16}, {"bits": 64}, {"length": -1}, {"length": 21}):
        forged = resealed(six, uploads["site00"], **change)
        data = len(forged).to_bytes(4, "big") + forged + bytes(vector)
        with pytest.raises(DataError):
            six.aggregation().receive(data)


def test_forged_or_replayed_statements_do_not_reach_the_sum(six):
    uploads = uploaded(six)
    aggregation = six.aggregation()
    aggregation.receive(uploads["site00"])
    assert aggregation.receive(uploads["site00"]) == "site00"  # sent again, counted once
    data = bytearray(uploads["site01"])
    data[-1] ^= 1
    with pytest.raises(PrivacyRefusal, match="not the one that site01 signed"):
        aggregation.receive(bytes(data))
    data = bytearray(uploads["site01"])
    data[40] ^= 1
    with pytest.raises(MeninxError):
        aggregation.receive(bytes(data))
    for cut in (0, 3, 100, len(data) - 1):
        with pytest.raises(DataError):
            aggregation.receive(uploads["site02"][:cut])
    with pytest.raises(PrivacyRefusal, match="another run, round, attempt, set of members or model"):
        six.aggregation(1).receive(uploads["site01"])
    for name in six.names[1:5]:
        aggregation.receive(uploads[name])
    aggregation.freeze()
    with pytest.raises(PrivacyRefusal, match="after the survivors were named"):
        aggregation.receive(uploads["site05"])
    assert aggregation.survivors == six.names[:5]


def test_agreements_and_openings_over_other_survivors_are_refused_by_the_coordinator(six):
    uploads = uploaded(six)
    aggregation = six.aggregation()
    for name in six.names:
        aggregation.receive(uploads[name])
    aggregation.freeze()
    wrong = six.sites["site00"].agree(0, 0, six.names[:5])
    with pytest.raises(PrivacyRefusal, match="site00 signed other survivors"):
        aggregation.accept(wrong)
    assert not aggregation.certified


def test_false_seeds_are_refused_by_the_coordinator(six):
    from meninx.secagg.statements import Opening

    uploads = uploaded(six)
    aggregation = six.aggregation()
    for name in six.names[:5]:
        aggregation.receive(uploads[name])
    survivors = aggregation.freeze()
    for name in survivors:
        aggregation.accept(six.sites[name].agree(0, 0, survivors))
    opening = read(six.sites["site00"].reveal(0, aggregation.agreements), Opening, six.roster)
    for change in ({"own": bytes(32)}, {"pairs": ((opening.pairs[0][0], bytes(32)),)}):
        forged = sign(msgspec.structs.replace(opening, **change), signing_keys(6)["site00"])
        with pytest.raises(PrivacyRefusal, match="a seed of site00 is not the one it committed to"):
            aggregation.accept_reveal(forged)
    forged = sign(msgspec.structs.replace(opening, pairs=()), signing_keys(6)["site00"])
    with pytest.raises(PrivacyRefusal, match="too few or too many seeds"):
        aggregation.accept_reveal(forged)


def test_sites_with_different_common_seeds_are_named(six):
    uploads = uploaded(six)
    found = read(statement_of(uploads["site01"]), Masked, six.roster)
    pairs = tuple((name, bytes(32)) for name, _ in found.pairs)
    vector = upload_bytes.vector_of(upload_bytes.split(uploads["site01"])[1], found)
    forged = upload_bytes.join(resealed(six, uploads["site01"], pairs=pairs), vector)
    aggregation = six.aggregation()
    aggregation.receive(uploads["site00"])
    with pytest.raises(DataError, match="site01 and site00 derived different seeds"):
        aggregation.receive(forged)


# order, sizes, formats


def test_steps_out_of_order_are_refused():
    site = SiteProtocol(signed_roster(4), "site00", signing_keys(4)["site00"], "run-1", record=[].append)
    with pytest.raises(UsageError, match="cannot meet when it has state 'start'"):
        site.meet([])
    with pytest.raises(UsageError, match="cannot upload"):
        site.upload(0, 0, ("site00",), random_vector(2, 0))
    four = Consortium(4)
    site = four.sites["site00"]
    with pytest.raises(UsageError, match="cannot agree when it has state 'met'"):
        site.agree(0, 0, four.names)
    uploaded(four)
    with pytest.raises(UsageError, match="cannot reveal when it has state 'uploaded'"):
        site.reveal(0, [])
    with pytest.raises(UsageError, match="no upload of round 0, attempt 1"):
        site.agree(0, 1, four.names)
    site.finish()
    with pytest.raises(UsageError, match="cannot announce when it has state 'finished'"):
        site.announce()


@pytest.mark.parametrize("count", [1, 2, 33, 100])
def test_too_few_and_too_many_sites_are_refused_by_name(count):
    with pytest.raises(ConfigError, match=f"expected 3 to 32 sites, got {count}"):
        quorum(count)


def test_vectors_that_are_no_ring_elements_are_refused(six):
    for vector in (np.zeros(3, np.float32), np.zeros((2, 2), np.uint32), np.zeros(3, np.int32)):
        with pytest.raises(DataError, match="one axis of uint32 or uint64"):
            six.sites["site00"].upload(0, 0, six.names, vector)


def test_statement_of_one_kind_never_counts_as_another(six):
    uploaded(six)
    agreement = six.sites["site00"].agree(0, 0, six.names)
    with pytest.raises(DataError, match="not a statement of meninx"):
        read(agreement, Masked, six.roster)
    with pytest.raises(DataError, match="not a statement"):
        read(b"\xc1" * 10, Agreement, six.roster)
    with pytest.raises(DataError, match="at most"):
        read(bytes(1 << 24), Agreement, six.roster)


def test_two_colluders_of_three_sites_see_the_third():
    """What covered(3) says: with two colluding sites the sum of a round is the third site's update."""
    three = Consortium(3)
    vectors = vectors_of(three)
    aggregation, _ = agreed_round(three, vectors, uploading=three.names)
    seen = aggregation.total() - vectors["site01"] - vectors["site02"]
    np.testing.assert_array_equal(seen, vectors["site00"])
    assert three.sites["site00"].rules.colluders == 1
