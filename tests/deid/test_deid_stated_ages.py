from __future__ import annotations

import json
import struct
from decimal import Decimal

import pytest
from deid_samples import image, item, one
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from meninx.deid.coded_entries import CODE_MEANING, CODE_VALUE, CODING_SCHEME, published_meanings
from meninx.deid.dates import capped_age
from meninx.deid.options import Option
from meninx.deid.stated_ages import (
    CODE,
    CONCEPT_NAME,
    DENOMINATOR,
    FLOATING,
    MEASURED,
    NUMBER,
    NUMERATOR,
    UNITS,
    highest,
    limited,
)
from meninx.deid.units_of_time import unit_of
from meninx.dicomfile.elements import Element

LATIN = ("latin_1",)
AGE, PATIENTS_AGE = ("DCM", "121033", "Subject Age"), ("99HOSP", "A1", "Patient's age")
OTHER = ("99HOSP", "A2", "something")
DAY = Decimal(1) / Decimal("365.25")
# Units of time: scheme, code, meaning, and the length in years.
UNITS_OF_TIME = [
    ("UCUM", "a", "year", Decimal(1)),
    ("UCUM", "a{age}", "x", Decimal(1)),
    ("UCUM", "{years}", "years", Decimal(1)),
    ("UCUM", "10.a", "x", Decimal(10)),
    ("UCUM", "yr", "yr", Decimal(1)),
    ("UCUM", "mo", "month", Decimal(1) / 12),
    ("UCUM", "wk", "x", 7 * DAY),
    ("UCUM", "d", "day", DAY),
    ("UCUM", "h", "x", DAY / 24),
    ("UCUM", "Ms", "x", DAY / 86400 * 1_000_000),
    ("99HOSP", "99Y", "years", Decimal(1)),
    ("99HOSP", "U7", "year(s)", Decimal(1)),
    ("99HOSP", "U8", "Jahre", Decimal(1)),
    ("99HOSP", "99M", "months of age", Decimal(1) / 12),
    ("SCT", "258707000", "x", Decimal(1)),
]


def coded(tag, scheme, value, meaning):
    texts = ((CODE_VALUE, "SH", value), (CODING_SCHEME, "SH", scheme), (CODE_MEANING, "LO", meaning))
    return Element(tag, "SQ", items=[[Element(key, vr, text.encode("latin-1")) for key, vr, text in texts]])


def decimals(number):
    """Return legal decimal strings of the same number."""
    plain = format(number, "f")
    spellings = [plain, f" {plain} ", f"+{plain}", f"000{plain}", format(number, "E"), format(number, "e")]
    if "." not in plain:
        spellings += [f"{plain}.", f"{plain}.00", f"{plain}0e-1"]
    return st.sampled_from([text for text in spellings if len(text) <= 24])


def forms(number):
    """Return (name, elements) of every form in which an item can hold a number."""
    text = decimals(number).map(lambda written: ("text", [Element(NUMBER, "DS", written.encode())]))
    above, below = number.as_integer_ratio()
    choices = [text, st.just(("binary", [Element(FLOATING, "FD", struct.pack("<d", float(number)))]))]
    if max(above, below) < 1 << 31:
        parts = [
            Element(NUMERATOR, "SL", struct.pack("<i", above)),
            Element(DENOMINATOR, "UL", struct.pack("<I", below)),
        ]
        choices.append(st.just(("fraction", parts)))
    return st.one_of(choices)


def stated(elements, scale):
    """Return the ages in years that a reader of DICOM finds in an item."""
    value = {element.tag: bytes(element.value) for element in elements if element.items is None}
    found = [Decimal(text.strip()) for text in value.get(NUMBER, b"").decode().split("\\") if text.strip()]
    found += [Decimal(struct.unpack("<d", value[FLOATING])[0])] if FLOATING in value else []
    if NUMERATOR in value:
        below = int.from_bytes(value.get(DENOMINATOR, b"\1"), "little")
        found.append(Decimal(int.from_bytes(value[NUMERATOR], "little")) / below)
    return [number * scale for number in found]


@st.composite
def ages(draw):
    """Return an item, the place of its number, the number in years and the length of its unit."""
    *unit, scale = draw(st.sampled_from(UNITS_OF_TIME))
    quarters = draw(st.integers(0, 800))
    number = (Decimal(quarters) / 4 / scale).quantize(Decimal("0.0001")).normalize()
    _, held = draw(forms(number))
    holder = [coded(UNITS, *unit), *held]
    concept = coded(CONCEPT_NAME, *draw(st.sampled_from([AGE, PATIENTS_AGE, OTHER])))
    inside = draw(st.booleans())
    elements = [concept, Element(MEASURED, "SQ", items=[holder])] if inside else [concept, *holder]
    return elements, inside, number * scale, scale


@given(ages())
def test_an_age_above_the_limit_never_stays_and_others_do(drawn):
    """However number and unit are written, and wherever the number stands."""
    elements, inside, age, scale = drawn
    new = limited(elements, LATIN, little=True, max_age=89)
    (held,) = new[1].items if inside else (new,)
    if age >= 90 * Decimal("1.0001"):
        assert stated(held, scale), "90 years are stated instead"
        assert all(left < Decimal("90.6") for left in stated(held, scale))
    elif age < 90 * Decimal("0.9999"):
        assert new == elements
    assert abs(highest(elements, LATIN, little=True) - float(age)) < 1e-3


@pytest.mark.parametrize("text", [b"95,0", b"ninety", b"0x5F", b"9 5", b"NaN", b"1E9E9", b"\xb9\xb5"])
def test_an_age_that_cannot_be_read_is_removed(text):
    holder = [coded(UNITS, "UCUM", "a", "year"), Element(NUMBER, "DS", text)]
    elements = [coded(CONCEPT_NAME, *AGE), Element(MEASURED, "SQ", items=[holder])]
    assert limited(elements, LATIN, little=True, max_age=89)[1].items == []


@pytest.mark.parametrize(
    ("text", "age"),
    [(b"1E999999999", float("inf")), (b"1E-999999999999", 0.0), (b"9" * 64, 9.99e63), (b"9" * 65, None)],
)
def test_a_hostile_exponent_or_length_takes_no_time(text, age):
    holder = [coded(UNITS, "UCUM", "a", "year"), Element(NUMBER, "DS", text)]
    elements = [coded(CONCEPT_NAME, *AGE), Element(MEASURED, "SQ", items=[holder])]
    new = limited(elements, LATIN, little=True, max_age=89)
    if age is None:
        assert new[1].items == []
    elif age == 0:
        assert new == elements
    else:
        (held,) = new[1].items
        assert stated(held, Decimal(1)) == [Decimal(90)]


@pytest.mark.parametrize(
    ("concept", "unit", "left"),
    [
        (AGE, ("UCUM", "mm", "millimeter"), None),  # no age in millimetres: nobody can say what it is
        (AGE, ("99HOSP", "Q", "foo"), None),
        (PATIENTS_AGE, ("99HOSP", "Q", "foo"), None),
        (OTHER, ("UCUM", "mm", "years"), None),  # code and meaning contradict each other
        (AGE, None, "90"),
        (PATIENTS_AGE, ("UCUM", "1", "no units"), "90"),
        (OTHER, ("UCUM", "1", "no units"), "95"),
        (OTHER, ("UCUM", "mm", "millimeter"), "95"),
        (OTHER, ("UCUM", "mm/s", "millimeter per second"), "95"),
        (OTHER, ("UCUM", "s", "second"), "95"),
        (OTHER, ("99HOSP", "Q", "foo"), "95"),
        (("99HOSP", "P", "BMI percentile for age"), ("UCUM", "%", "percent"), "95"),
        (("LN", "18185-9", "Gestational Age"), ("UCUM", "d", "day"), "95"),
    ],
)
def test_what_is_an_age_depends_on_concept_and_unit(concept, unit, left):
    holder = [coded(UNITS, *unit)] if unit else []
    elements = [coded(CONCEPT_NAME, *concept), *holder, Element(NUMBER, "DS", b"95")]
    new = limited(elements, LATIN, little=True, max_age=89)
    kept = [bytes(element.value).decode().strip() for element in new if element.tag == NUMBER]
    assert kept == ([left] if left else [])


@pytest.mark.parametrize(
    ("code", "years"),
    [
        ("a", 1),
        ("12.mo", 1),
        ("10*1.a", 10),
        ("/a", None),
        ("a2", None),
        ("Pa", None),
        ("cd", None),
        ("m", None),
    ],
)
def test_ucum_codes_are_read_as_times(code, years):
    unit = unit_of({CODING_SCHEME: "UCUM", CODE_VALUE: code})
    assert (unit.years if unit.kind == "time" else None) == years


def code(scheme, value, meaning="x"):
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def numeric(concept, **values):
    """Return a content item as it stands outside of reports: it holds its number itself."""
    units = Sequence([code("UCUM", "a", "year")])
    return item(
        ValueType="NUMERIC",
        ConceptNameCodeSequence=Sequence([code(*concept)]),
        MeasurementUnitsCodeSequence=units,
        **values,
    )


@pytest.mark.parametrize("keyword", ["AcquisitionContextSequence", "ProtocolContextSequence"])
def test_an_age_outside_a_report_follows_the_same_rules(tmp_path, keyword):
    old = numeric(AGE, NumericValue="95")
    modified = item(ValueType="TEXT", ConceptNameCodeSequence=Sequence([code("DCM", "121071", "Finding")]))
    modified.ContentItemModifierSequence = Sequence([numeric(OTHER, FloatingPointValue=95.0)])
    young = numeric(AGE, NumericValue="4.5E1")
    ds = image(PatientBirthDate="19260502", **{keyword: Sequence([old, modified, young])})
    new = one(tmp_path, ds)
    first, second, third = new[keyword].value
    assert first.NumericValue == 90
    (inner,) = second.ContentItemModifierSequence
    assert (inner.NumericValue, "FloatingPointValue" in inner) == (90, False)
    assert third.NumericValue == 45
    assert new.get("PatientBirthDate", "") == ""
    gone = one(tmp_path / "b", ds, profile="basic")
    assert all("NumericValue" not in left or left.NumericValue != 45 for left in gone.get(keyword, []))


def test_an_age_in_a_report_removes_the_birth_date_under_all_options(tmp_path):
    options = (
        Option.RETAIN_FULL_DATES,
        Option.RETAIN_PATIENT_CHARACTERISTICS,
        Option.CLEAN_STRUCTURED_CONTENT,
    )
    born = item(ValueType="DATE", ConceptNameCodeSequence=Sequence([code("99HOSP", "B", "Date of birth")]))
    born.Date = "19280314"
    old = numeric(AGE, NumericValue="9.5E1")
    ds = image(PatientBirthDate="", AcquisitionContextSequence=Sequence([born, old]))
    new = one(tmp_path, ds, profile="basic", options=options)
    assert b"19280314" not in next((tmp_path / "out" / "images").rglob("*.dcm")).read_bytes()
    assert [left.NumericValue for left in new.AcquisitionContextSequence] == [90]


def test_a_code_tells_no_age_above_the_limit(tmp_path):
    def coded_item(concept, *entry):
        held = item(ValueType="CODE", ConceptNameCodeSequence=Sequence([code(*concept)]))
        held.ConceptCodeSequence = Sequence([code(*entry)])
        return held

    entries = [
        coded_item(AGE, "99HOSP", "K1", "95"),
        coded_item(OTHER, "99HOSP", "K2", "95 years"),
        coded_item(OTHER, "99HOSP", "K3", "45 years"),
        coded_item(OTHER, "99HOSP", "K4", "95 ms"),
    ]
    new = one(tmp_path, image(AcquisitionContextSequence=Sequence(entries)))
    meanings = [entry.ConceptCodeSequence[0].CodeMeaning for entry in new.AcquisitionContextSequence]
    assert [("95" in meaning, "45" in meaning) for meaning in meanings] == [
        (False, False),
        (False, False),
        (False, True),
        (True, False),
    ]


def test_only_the_values_of_an_age_are_replaced_by_a_dummy():
    young = [coded(CONCEPT_NAME, *AGE), coded(CODE, "99HOSP", "K", "45 years")]
    assert limited(young, LATIN, little=True, max_age=89) == young


@pytest.mark.parametrize(
    ("written", "left"),
    [
        ("095Y", "090Y"),
        ("95", "090Y"),
        ("1140M", ""),
        ("９５Y", "090Y"),
        ("４５Y", "045Y"),
        ("+95Y", ""),
        ("45", "045Y"),
    ],
)
def test_an_age_string_is_read_by_its_value(written, left):
    assert capped_age(written, 89) == left


def test_an_age_in_other_clothes_is_capped_or_goes(tmp_path):
    ds = Dataset()
    ds.update(image())
    ds.add_new(0x00101010, "LO", "95")
    assert one(tmp_path, ds).PatientAge == "090Y"


@pytest.mark.parametrize(
    ("concept", "unit", "number", "stays"),
    [
        (("LN", "80904-6", "Birth year"), ("UCUM", "{year}", "year"), "1928", False),
        (("99HOSP", "B", "Geburtsjahr"), ("UCUM", "1", "no units"), "1928", False),
        (("99HOSP", "B", "Year of birth"), ("UCUM", "1", "no units"), "1.931E3", False),  # of another person
        (OTHER, ("UCUM", "1", "no units"), "1928.0", False),  # it is the year of the patient's birth
        (OTHER, ("UCUM", "[hnsf'U]", "Hounsfield unit"), "1928", True),
        (OTHER, ("UCUM", "1", "no units"), "1931", True),
    ],
)
def test_a_year_of_birth_is_removed(tmp_path, concept, unit, number, stays):
    entry = item(ValueType="NUMERIC", ConceptNameCodeSequence=Sequence([code(*concept)]))
    entry.NumericValue, entry.MeasurementUnitsCodeSequence = number, Sequence([code(*unit)])
    ds = image(PatientBirthDate="19280402", AcquisitionContextSequence=Sequence([entry]))
    one(tmp_path, ds)
    content = next((tmp_path / "out" / "images").rglob("*.dcm")).read_bytes()
    assert (number.encode() in content) == stays


def test_a_number_of_a_listed_concept_goes_outside_of_reports_too(tmp_path):
    gone = numeric(("NCIt", "C54627", "Experience"), NumericValue="17")
    new = one(tmp_path, image(ProtocolContextSequence=Sequence([gone])))
    assert not any("NumericValue" in left for left in new.get("ProtocolContextSequence", []))


@pytest.mark.parametrize(
    "unit", ["years at scan", "full years", "Y/O", "y.o.", "Y-O", "years_at_exam", "YearsAtScan", "year/scan"]
)
def test_a_unit_with_a_word_of_time_is_that_time(unit):
    elements = [coded(CONCEPT_NAME, *OTHER), coded(UNITS, "99HOSP", "U", unit), Element(NUMBER, "DS", b"95")]
    assert stated(limited(elements, LATIN, little=True, max_age=89), 1) == [90]


@pytest.mark.parametrize(
    "unit",
    [
        *("counts per year", "events per year", "scans/year", "ml/minute", "millimeter per second"),
        *("pack years", "a.u.", "dB", "min value"),
    ],
)
def test_a_rate_or_another_unit_is_no_time(unit):
    elements = [coded(CONCEPT_NAME, *OTHER), coded(UNITS, "99HOSP", "U", unit), Element(NUMBER, "DS", b"95")]
    assert limited(elements, LATIN, little=True, max_age=89) == elements


@pytest.mark.parametrize(
    ("concept", "left"),
    [
        *dict.fromkeys(
            ["Years old", "years_old", "Old", "How old", "Patient_Age", "PatientAge"], "90"
        ).items(),
        *dict.fromkeys(["Age_at_scan", "AGE_YRS", "AgeAtScan", "Ages", "Lebensjahre", "y/o"], "90").items(),
        ("percentile for age", "95"),
        ("Age_z-score", "95"),
        ("Ratio to age", "95"),
        ("bone_age", "95"),
        ("Age-adjusted value", "95"),
        ("GestationalAge", "95"),
        ("Pack years", "95"),
        ("Old infarct", "95"),
    ],
)
def test_a_concept_is_read_in_any_spelling(concept, left):
    elements = [coded(CONCEPT_NAME, "99HOSP", "C", concept), Element(NUMBER, "DS", b"95")]
    assert stated(limited(elements, LATIN, little=True, max_age=89), 1) == [int(left)]


def test_a_percentile_in_years_is_an_age():
    years = coded(UNITS, "UCUM", "a", "year")
    elements = [coded(CONCEPT_NAME, "99HOSP", "C", "percentile for age"), years, Element(NUMBER, "DS", b"95")]
    assert stated(limited(elements, LATIN, little=True, max_age=89), 1) == [90]


@pytest.mark.parametrize(
    ("unit", "stays"),
    [
        (("UCUM", "J", "J"), True),
        (("UCUM", "J", "joule"), True),
        (("UCUM", "A", "a"), True),
        (("UCUM", "mm", "y"), True),
        (("UCUM", "dag", "dag"), True),  # dekagram, and a Dutch day
        (("UCUM", "A", "years"), False),
        (("UCUM", "A", "yr"), False),
        (("99HOSP", "J", "Jahre"), False),
    ],
)
def test_only_a_word_of_time_contradicts_a_valid_unit(unit, stays):
    elements = [coded(CONCEPT_NAME, *OTHER), coded(UNITS, *unit), Element(NUMBER, "DS", b"40000")]
    assert (limited(elements, LATIN, little=True, max_age=89) == elements) == stays


@pytest.mark.parametrize(
    ("unit", "stays"),
    [
        (("UCUM", "ms", "ms"), True),
        (("UCUM", "s", "second"), True),
        (("99HOSP", "U", "ms"), True),
        (("99HOSP", "U", "milliseconds"), True),
        (("99HOSP", "mGycm", "mGycm"), True),
        (("99HOSP", "U", "mm3"), True),
        (("99HOSP", "U", "cGy·cm²"), True),
        (("99HOSP", "U", "cubic millimeters"), True),
        (("99HOSP", "U", "foo"), False),
        (("UCUM", "{score}", "score"), False),
        (None, False),
    ],
)
def test_a_measurement_of_the_birth_year_stays(unit, stays):
    units = [coded(UNITS, *unit)] if unit else []
    elements = [coded(CONCEPT_NAME, *OTHER), *units, Element(NUMBER, "DS", b"1928")]
    new = limited(elements, LATIN, little=True, max_age=89, birth_days={"19280314"})
    assert (NUMBER in [element.tag for element in new]) == stays


def test_two_units_of_which_one_is_a_time_make_an_age():
    both = coded(UNITS, "UCUM", "a", "year")
    both.items += coded(UNITS, "UCUM", "mm", "mm").items
    elements = [coded(CONCEPT_NAME, *OTHER), both, Element(NUMBER, "DS", b"95")]
    assert NUMBER not in [element.tag for element in limited(elements, LATIN, little=True, max_age=89)]


def counts_of(tmp_path):
    (record,) = (tmp_path / "out").glob("deid.json")
    return json.loads(record.read_text())["actions"]


def test_capped_and_removed_numbers_are_counted_as_such(tmp_path):
    held = [numeric(OTHER, NumericValue=number) for number in ("95", "45")]
    unread = numeric(("99HOSP", "P", "Patient_Age"), NumericValue="1928")
    unread.MeasurementUnitsCodeSequence = Sequence([code("99HOSP", "Q", "foo")])
    floating = numeric(OTHER, FloatingPointValue=95.0)
    report = item(ValueType="NUM", ConceptNameCodeSequence=Sequence([code(*AGE)]))
    inner = item(NumericValue="95", MeasurementUnitsCodeSequence=Sequence([code("UCUM", "a", "year")]))
    report.MeasuredValueSequence = Sequence([inner])
    one(tmp_path, image(AcquisitionContextSequence=Sequence([*held, unread, floating, report])))
    counts = counts_of(tmp_path)
    assert counts["NumericValue"] == {"C": 3, "K": 1, "X": 1}
    assert counts["FloatingPointValue"] == {"X": 1}


@pytest.mark.parametrize("value", ["113937", "122247", "122248", "122261"])
def test_a_published_meaning_stays_whole(tmp_path, value):
    (meaning,) = published_meanings("DCM", value)
    held = item(ValueType="CODE", ConceptNameCodeSequence=Sequence([code(*OTHER)]))
    held.ConceptCodeSequence = Sequence([code("DCM", value, meaning)])
    (new,) = one(tmp_path, image(AcquisitionContextSequence=Sequence([held]))).AcquisitionContextSequence
    assert new.ConceptCodeSequence[0].CodeMeaning == meaning


def test_a_birth_date_of_any_spelling_goes(tmp_path):
    held = item(ValueType="TEXT", ConceptNameCodeSequence=Sequence([code("99HOSP", "B", "Patient_DOB")]))
    held.TextValue = "chest"
    new = one(tmp_path, image(AcquisitionContextSequence=Sequence([held])))
    assert not new.get("AcquisitionContextSequence")


@pytest.mark.parametrize(
    ("concept", "left"), [(OTHER, []), (("99HOSP", "Y", "Years of service"), []), (AGE, [90])]
)
def test_a_calendar_year_does_not_become_an_age(concept, left):
    elements = [
        coded(CONCEPT_NAME, *concept),
        coded(UNITS, "UCUM", "a", "year"),
        Element(NUMBER, "DS", b"2019"),
    ]
    assert stated(limited(elements, LATIN, little=True, max_age=89), 1) == left
