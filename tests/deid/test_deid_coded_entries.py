from __future__ import annotations

import pytest
from deid_samples import image, one
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr._concepts_dict import concepts

from meninx.deid.coded_entries import has_form_of, is_ucum, published_meanings


def code(value, scheme, meaning):
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, scheme, meaning
    return ds


@pytest.mark.parametrize("unit", [value for codes in concepts["UCUM"].values() for value in codes])
def test_every_unit_of_the_standard_is_a_unit(unit):
    assert is_ucum(unit) or published_meanings("UCUM", unit)


@pytest.mark.parametrize(
    "unit", ["mm", "mm2", "10*-6.mm2/s", "kg/m2", "{counts}/s", "mm[Hg]", "1", "%", "ug/ml", "/min"]
)
def test_units_by_grammar(unit):
    assert is_ucum(unit)


@pytest.mark.parametrize(
    "text", ["Quentinsso", "Smith", "5512347", "", "{Quentinsson}", "Marlowe.Ann", "m" * 40, "//"]
)
def test_names_and_numbers_are_no_units(text):
    assert not is_ucum(text)


def test_codes_of_numbers_carry_a_check_digit():
    assert has_form_of("SCT", "10200004")
    assert not has_form_of("SCT", "5512347")
    assert has_form_of("LN", "18185-9")
    assert not has_form_of("LN", "55123-7")
    assert not has_form_of("DCM", "551234")
    assert not has_form_of("99LOCAL", "A1")


def test_meanings_are_kept_where_they_are_harmless(tmp_path):
    ds = image()
    ds.AnatomicRegionSequence = Sequence([code("mm", "UCUM", "millimeter")])
    ds.ViewCodeSequence = Sequence([code("399162004", "SCT", "cranio-caudal for Quentinsson")])
    ds.ProcedureCodeSequence = Sequence([code("121014", "DCM", "Quentinsson device")])
    new = one(tmp_path, ds)
    assert new.AnatomicRegionSequence[0].CodeMeaning == "millimeter"
    assert new.ViewCodeSequence[0].CodeMeaning == published_meanings("SCT", "399162004")[0]
    assert new.ProcedureCodeSequence[0].CodeMeaning == published_meanings("DCM", "121014")[0]


def test_a_code_that_may_be_a_name_gets_a_local_one(tmp_path):
    ds = image(PatientID="C551234")
    ds.AnatomicRegionSequence = Sequence([code("Quentinsso", "UCUM", "Quentinsson")])
    ds.ViewCodeSequence = Sequence([code("5512347", "SCT", "Quentinsson")])
    ds.ProcedureCodeSequence = Sequence([code("C551234", "NCIt", "Quentinsson")])
    new = one(tmp_path, ds)
    for keyword in ("AnatomicRegionSequence", "ViewCodeSequence", "ProcedureCodeSequence"):
        assert new[keyword].value[0].CodingSchemeDesignator == "99MENINX"
        assert new[keyword].value[0].CodeMeaning == "REMOVED"


def test_a_meaning_spells_no_identifier_in_pieces(tmp_path):
    ds = image(PatientID="078-05-1120")
    ds.ViewCodeSequence = Sequence([code("A1", "99HOSPITAL", "078 mm 051 cm 120 ml")])
    assert one(tmp_path, ds).ViewCodeSequence[0].CodeMeaning == "REMOVED"


@pytest.mark.parametrize(
    ("value", "meaning", "left"),
    [
        ("363819003", "Drug cumulative dose", "REMOVED"),  # "dose" alone would be the meaning of another code
        ("111552007", "Quentinsson without chest", "REMOVED"),
        ("363819003", "dose", "dose"),
    ],
)
def test_a_code_that_stays_keeps_its_whole_meaning_or_none(tmp_path, value, meaning, left):
    ds = image(ProcedureCodeSequence=Sequence([code(value, "SCT", meaning)]))
    (new,) = one(tmp_path, ds).ProcedureCodeSequence
    assert (new.CodeValue, new.CodeMeaning) == (value, left)


@pytest.mark.parametrize(
    "unit",
    [
        *("mGy", "mGy.cm", "cGy", "kW", "mSv", "mmol/l", "Ohm", "mT/m"),
        ("mGy", "MGY"),
        ("mGy", "mSv"),
        ("mGy.cm", "Gy.m"),
    ],
)
def test_a_unit_as_the_meaning_of_a_unit_stays(tmp_path, unit):
    value, meaning = (unit, unit) if isinstance(unit, str) else unit
    new = one(tmp_path, image(ProcedureCodeSequence=Sequence([code(value, "UCUM", meaning)])))
    assert new.ProcedureCodeSequence[0].CodeMeaning == meaning


def test_the_meaning_of_a_unit_that_is_an_identifier_goes(tmp_path):
    ds = image(PatientName="Gyan^Mmol", ProcedureCodeSequence=Sequence([code("mmol", "UCUM", "mmol")]))
    new = one(tmp_path, ds).ProcedureCodeSequence[0]
    assert "mmol" not in (new.CodeValue, new.CodeMeaning)
