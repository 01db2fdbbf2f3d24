from __future__ import annotations

import pytest
from deid_samples import KEY
from pydicom.uid import UID

from meninx.core.errors import PrivacyRefusal
from meninx.deid.identity.keys import SiteKey, framed, normal
from meninx.deid.identity.pseudonyms import ALPHABET, SHIFT_DAYS, Pseudonyms, is_registered

NORTH = Pseudonyms(SiteKey(KEY, "north"))


def test_short_keys_are_refused():
    with pytest.raises(PrivacyRefusal):
        SiteKey(b"x" * 31, "north")


def test_subkeys_differ_by_purpose_and_site():
    keys = {SiteKey(KEY, site).derive(purpose) for site in ("north", "south") for purpose in ("uid", "dates")}
    assert len(keys) == 4
    assert SiteKey(KEY, " North").derive("uid") == SiteKey(KEY, "north").derive("uid")
    assert framed("ab", "c") != framed("a", "bc")


def test_uids_are_valid_and_registered_ones_stay():
    new = NORTH.uid("1.2.826.0.1.3680043.10.999.1")
    assert UID(new).is_valid
    assert new.startswith("2.25.")
    assert len(new) <= 64
    assert NORTH.uid("1.2.826.0.1.3680043.10.999.1 ") == new
    for uid in (
        "1.2.840.10008.5.1.4.1.1.2",
        "1.2.840.10008.1.2.1",
        "2.16.840.1.113883.6.96",
    ):
        assert NORTH.uid(uid) == uid
    for uid in (
        "1.2.840.10008.5.1.4.1.1.2.20190314.101500",
        "1.2.840.10008.99.1.2",
        "1.2.840.10008.5512.347",
        "2.16.840.1.113883.6.55123",
        "1.2.840.113619.2.1",
        "1.2.840.100089.1",
    ):
        assert not is_registered(uid)
        assert NORTH.uid(uid) != uid
    assert NORTH.uid("") == ""


def test_patients_are_issuer_and_normalised_number():
    same = {NORTH.patient(text).pseudonym for text in ("ab1", " AB1 ", "ａｂ１")}
    assert len(same) == 1
    others = [
        NORTH.patient("ab1", "SOUTH"),
        NORTH.patient("0ab1"),
        NORTH.patient("", "", "1.2"),
        NORTH.patient("", "", "1.3"),
    ]
    assert len(same | {item.pseudonym for item in others}) == 5
    assert all(SHIFT_DAYS[0] <= NORTH.patient(str(n)).shift_days <= SHIFT_DAYS[1] for n in range(300))
    assert len({NORTH.patient(str(n)).shift_days for n in range(300)}) > 200


def test_accession_numbers_fit_and_belong_to_a_patient():
    a, b = NORTH.patient("a"), NORTH.patient("b")
    assert len(NORTH.accession(a, "77")) == 16
    assert NORTH.accession(a, "77") != NORTH.accession(b, "77")
    assert NORTH.accession(a, "  ") == ""
    assert set(NORTH.accession(a, "77")[1:]) <= set(ALPHABET)
    assert NORTH.identifier("StudyID", "77") != NORTH.identifier("DeviceSerialNumber", "77")


def test_normal_keeps_leading_zeros():
    assert normal(" 00A ") == "00a" != normal("A")
