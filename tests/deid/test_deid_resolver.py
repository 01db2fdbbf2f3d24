from __future__ import annotations

import pytest
from deid_samples import KEY

from meninx.deid.identity.issuer_policy import IssuerPolicy
from meninx.deid.identity.keys import SiteKey
from meninx.deid.identity.lookup import Lookup
from meninx.deid.identity.pseudonyms import Pseudonyms, Resolver
from meninx.dicomfile.refusals import Reason, Refused

NAMES = Pseudonyms(SiteKey(KEY, "north"))
OWN, APART = IssuerPolicy("north"), IssuerPolicy("north", "separate", domains={"pacs": "", "lab": "east"})


def test_the_site_numbers_its_patients_together_unless_the_policy_says_otherwise():
    one = Resolver(NAMES, OWN)
    assert one.patient("7", "SOUTH", "1.2") == one.patient(" 7 ", "", "1.3") == NAMES.patient("7")
    several = Resolver(NAMES, APART)
    assert len({several.patient("7", issuer, "1.2").pseudonym for issuer in ("SOUTH", "EAST", "")}) == 3
    assert several.patient("7", "PACS", "1.2") == several.patient("7", "", "1.2") == NAMES.patient("7")
    assert several.patient("7", "Lab ") == several.patient("7", "EAST") != several.patient("7")


def test_an_issuer_of_the_name_of_the_site_is_the_sites_own():
    assert Resolver(NAMES, APART).patient("7", "North ") == NAMES.patient("7")


def test_without_a_patient_id_the_study_is_the_patient_whatever_the_issuer():
    strict = IssuerPolicy("north", "listed", "quarantine")
    known = Resolver(NAMES, OWN).patient("", "", "1.2")
    assert Resolver(NAMES, strict).patient(" ", "SOUTH", "1.2") == known
    assert known != NAMES.patient("", "", "1.3")


def test_the_policy_refuses_what_it_does_not_know():
    strict = Resolver(NAMES, IssuerPolicy("north", "listed", "quarantine", {"pacs": ""}))
    assert strict.patient("7", "PACS") == NAMES.patient("7")
    for issuer, reason in (("", Reason.ISSUER_MISSING), ("SOUTH", Reason.ISSUER_NOT_LISTED)):
        with pytest.raises(Refused) as refusal:
            strict.patient("7", issuer)
        assert refusal.value.reason == reason


def test_the_hospitals_own_table_comes_first():
    table = Lookup({("", "7"): "TRIAL-1"}, {("TRIAL-1", "a9"): "ACC-1"}, "")
    resolver = Resolver(NAMES, OWN, table)
    known = resolver.patient("7", "", "1.2")
    assert known.pseudonym == "TRIAL-1"
    assert known.shift_days == NAMES.patient("7", "", "1.2").shift_days
    assert resolver.accession(known, "A9 ") == "ACC-1"
    assert resolver.accession(known, "B1") == NAMES.accession(known, "B1")
    assert resolver.patient("8", "", "1.2") == NAMES.patient("8", "", "1.2")
    with pytest.raises(Refused) as refusal:
        Resolver(NAMES, OWN, table, strict=True).patient("8", "", "1.2")
    assert refusal.value.reason == Reason.NOT_IN_LOOKUP


def test_a_table_without_issuers_never_gives_one_new_id_to_two_people():
    table = Lookup({("", "7"): "TRIAL-1", ("east", "8"): "TRIAL-2"}, {}, "")
    resolver = Resolver(NAMES, APART, table)
    assert resolver.patient("7", "PACS").pseudonym == "TRIAL-1"
    assert resolver.patient("8", "EAST").pseudonym == "TRIAL-2"
    with pytest.raises(Refused) as refusal:
        resolver.patient("7", "EAST")
    assert refusal.value.reason == Reason.LOOKUP_WITHOUT_ISSUER
    named = Resolver(NAMES, APART, Lookup(table.patients, {}, "", names_issuers=True))
    assert named.patient("7", "EAST") == Resolver(NAMES, APART).patient("7", "EAST")
