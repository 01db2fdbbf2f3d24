from __future__ import annotations

import pytest
from deid_samples import KEY, clean, image, save, tree

from meninx.deid.discover import files_below, shared_ids
from meninx.deid.keys import SiteKey
from meninx.deid.pseudonyms import Lookup, Pseudonyms, Resolver
from meninx.deid.quarantine import Reason, Refused

NAMES = Pseudonyms(SiteKey(KEY, "north"))


def test_an_issuer_counts_only_for_an_id_that_several_issuers_gave_out():
    one = Resolver(NAMES)
    assert one.patient("7", "SOUTH", "1.2") == one.patient(" 7 ", "", "1.3")
    several = Resolver(NAMES, shared=frozenset({"7"}))
    assert len({several.patient("7", issuer, "1.2").pseudonym for issuer in ("SOUTH", "EAST", "")}) == 3
    assert several.patient("8", "SOUTH", "1.2") == several.patient("8", "EAST", "1.2")
    assert several.patient("7", "", "1.2") == one.patient("7", "", "1.2")


def test_the_hospitals_own_table_comes_first():
    table = Lookup({"7": "TRIAL-1"}, {("TRIAL-1", "a9"): "ACC-1"}, "")
    resolver = Resolver(NAMES, table)
    known = resolver.patient("7", "", "1.2")
    assert known.pseudonym == "TRIAL-1"
    assert known.shift_days == NAMES.patient("7", "", "1.2").shift_days
    assert resolver.accession(known, "A9 ") == "ACC-1"
    assert resolver.accession(known, "B1") == NAMES.accession(known, "B1")
    assert resolver.patient("8", "", "1.2") == NAMES.patient("8", "", "1.2")
    with pytest.raises(Refused) as refusal:
        Resolver(NAMES, table, strict=True).patient("8", "", "1.2")
    assert refusal.value.reason == Reason.NOT_IN_LOOKUP


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"]
)
def test_ids_of_several_issuers_are_found_in_every_syntax(tmp_path, syntax):
    for number, (patient, issuer) in enumerate(
        [("A1", "X"), (" a1 ", "Y"), ("A1", None), ("B2", "X"), ("B2", None), ("C3", None)]
    ):
        ds = image(number, PatientID=patient)
        if issuer:
            ds.IssuerOfPatientID = issuer
        save(ds, tmp_path / "in" / str(number), syntax=syntax)
    (tmp_path / "in" / "text").write_text("no image")
    (tmp_path / "in" / "cut").write_bytes((tmp_path / "in" / "0").read_bytes()[:300])
    assert shared_ids(tmp_path / "in", files_below(tmp_path / "in")) == {"a1"}


def test_a_long_header_before_the_patient_is_read_on(tmp_path):
    for number, issuer in enumerate("XY"):
        save(
            image(number, IssuerOfPatientID=issuer, RetrieveURL="http://x/" + "x" * 60000),
            tmp_path / "in" / str(number),
        )
    assert shared_ids(tmp_path / "in", files_below(tmp_path / "in")) == {"0000123"}


def test_an_issuer_that_turns_up_later_parts_two_people_as_if_it_had_been_there(tmp_path):
    save(image(1, IssuerOfPatientID="X"), tmp_path / "in" / "a")
    save(image(2), tmp_path / "in" / "b")
    assert clean(tmp_path).patients == 1
    save(image(3, IssuerOfPatientID="Y"), tmp_path / "in" / "c")
    assert clean(tmp_path).patients == 3
    clean(tmp_path, out="fresh")
    files = [tree(tmp_path / out) for out in ("out", "fresh")]
    assert files[0] == files[1]
    assert clean(tmp_path).files_resumed == 3
