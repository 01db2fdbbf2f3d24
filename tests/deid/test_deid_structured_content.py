from __future__ import annotations

import json
from pathlib import Path

import pytest
from deid_samples import DOCTOR, ROOT, image, images, item, one
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from meninx.deid.options import Option, method_codes
from meninx.deid.structured_content import CONTENT, Treatment, table, treatment

STANDARD = Path(__file__).resolve().parents[3] / "shared" / "standard"
SR = "1.2.840.10008.5.1.4.1.1.88.33"
PIXEL_WORDS = """
    SamplesPerPixel Rows Columns PhotometricInterpretation BitsAllocated BitsStored HighBit
    PixelRepresentation PixelData ImageType SliceThickness KVP ImagePositionPatient
"""
PIXELS = PIXEL_WORDS.split()


def code(scheme, value, meaning="x"):
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, scheme, meaning
    return ds


def content(concept, kind, **values):
    ds = Dataset()
    ds.RelationshipType, ds.ValueType = "CONTAINS", kind
    ds.ConceptNameCodeSequence = Sequence([code(*concept)])
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def number(concept, value, unit="a"):
    measured = item(NumericValue=value, MeasurementUnitsCodeSequence=Sequence([code("UCUM", unit)]))
    return content(concept, "NUM", MeasuredValueSequence=Sequence([measured]))


def report(*items, **changes):
    ds = image(SOPClassUID=SR, Modality="SR", **dict.fromkeys(PIXELS))
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    ds.ConceptNameCodeSequence = Sequence([code("DCM", "126000", "Imaging Measurement Report")])
    ds.ContentSequence = Sequence(list(items))
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def by_code(ds):
    """Return code value -> content item, every depth."""
    found = {}
    for entry in ds.get("ContentSequence", []):
        found[entry.ConceptNameCodeSequence[0].CodeValue] = entry
        found |= by_code(entry)
    return found


AGE, BORN = ("DCM", "121033", "Subject Age"), ("DCM", "121031", "Subject Birth Date")
FINDING = ("DCM", "121071", "Finding")


@pytest.mark.realdata
@pytest.mark.skipif(not STANDARD.exists(), reason="the reference tables are not beside the checkout")
def test_every_row_equals_edition_2026d():
    reference = json.loads((STANDARD / "ps315_2026d.json").read_text())["content_items"]
    short = {"_longitudinal": "", "_identity": ""}
    theirs = {}
    for row in reference:
        cells = {}
        for name, letter in row["options"].items():
            for part, instead in short.items():
                name = name.replace(part, instead)
            cells[name] = letter
        theirs[row["scheme"], row["code"], row["value_type"]] = (row["basic"], cells)
    ours = {key: (row.basic, {o.column: c for o, c in row.cells.items()}) for key, row in table().items()}
    assert len(reference) == 214
    assert ours == theirs


def test_the_rows_are_consistent_with_their_value_types():
    assert len(table()) == 214
    for (scheme, code_value, kind), row in table().items():
        if kind in ("DATE", "TIME", "DATETIME") and row.cells:
            assert row.cells == {Option.RETAIN_FULL_DATES: "K", Option.RETAIN_MODIFIED_DATES: "C"}
        if kind in ("IMAGE", "COMPOSITE", "WAVEFORM", "UIDREF"):
            assert row.cells[Option.RETAIN_UIDS] == "K"
        if kind == "PNAME":
            assert not row.cells, (scheme, code_value)


@pytest.mark.parametrize(
    ("concept", "tag", "options", "expected"),
    [
        (("DCM", "121033"), 0x0040A300, (), Treatment.REMOVED),
        (("DCM", "121033"), 0x0040A300, (Option.RETAIN_PATIENT_CHARACTERISTICS,), Treatment.KEPT),
        (("DCM", "121031"), 0x0040A121, (Option.RETAIN_FULL_DATES,), Treatment.REMOVED),
        (("DCM", "121071"), 0x0040A160, (Option.CLEAN_DESCRIPTORS,), Treatment.CLEANED),
        (("DCM", "121071"), 0x0040A160, (), Treatment.DUMMY),
        (("DCM", "121071"), 0x0040A168, (), Treatment.AS_LISTED),  # a coded finding stays
        (("SCT", "363698007"), 0x0040A160, (Option.CLEAN_DESCRIPTORS,), Treatment.CLEANED),
        (("DCM", "121016"), 0x0040A160, (Option.RETAIN_DEVICE,), Treatment.KEPT),
        (("DCM", "121000"), CONTENT, (), Treatment.REMOVED),
        (("DCM", "999999"), 0x0040A123, (), Treatment.AS_LISTED),
        (("DCM", "121022"), 0x0040A124, (), Treatment.DUMMY),  # an identifier in another dress
    ],
)
def test_treatments(concept, tag, options, expected):
    assert treatment(concept, tag, frozenset(options)) == expected


@pytest.mark.parametrize(
    ("concept", "unit", "value", "left"),
    [
        (AGE, "a", "93", 90),
        (AGE, "a", "89", 89),
        (AGE, "mo", "1116", 1080),
        (AGE, "d", "34000", 32872),
        (("DCM", "111520", "Age at Menopause"), "a", "95", 90),
        (("99X", "A", "something"), "a", "97.5", 90),
        (("LN", "30525-0", "Age"), "a", "101", 90),
        (("99X", "A", "Length"), "mm", "93", 93),
        (("LN", "18185-9", "Gestational Age"), "d", "200", 200),
    ],
)
def test_ages_are_capped(tmp_path, concept, unit, value, left):
    new = one(tmp_path, report(number(concept, value, unit)))
    measured = new.ContentSequence[0].MeasuredValueSequence[0]
    assert float(measured.NumericValue) == left


def test_an_age_goes_without_patient_characteristics(tmp_path):
    new = one(tmp_path, report(number(AGE, "43"), number(("99X", "A"), "12", "mm")), profile="basic")
    assert [float(e.MeasuredValueSequence[0].NumericValue) for e in new.ContentSequence] == [12]


def test_an_old_age_in_a_report_is_in_no_form_left(tmp_path):
    old = number(AGE, "93")
    old.MeasuredValueSequence[0].FloatingPointValue = 93.0
    old.MeasuredValueSequence[0].RationalNumeratorValue = 93
    old.MeasuredValueSequence[0].RationalDenominatorValue = 1
    context = content(("DCM", "121106", "Comment"), "TEXT", TextValue="93 years")
    new = one(tmp_path, report(old, context, PatientAge="093Y", PatientBirthDate="19260502"))
    measured = new.ContentSequence[0].MeasuredValueSequence[0]
    assert (float(measured.NumericValue), "FloatingPointValue" in measured) == (90, False)
    assert new.PatientAge == "090Y"
    assert new.PatientBirthDate == ""


@pytest.mark.parametrize("options", [None, (Option.RETAIN_FULL_DATES,)])
@pytest.mark.parametrize(
    "concept",
    [BORN, ("LN", "21112-8", "Birth date"), ("SCT", "184099003", "Date of birth"), ("99X", "B", "geboren")],
)
def test_birth_dates_go(tmp_path, concept, options):
    born = content(concept, "DATE", Date="19610502")
    above = content(("99X", "C", "group"), "CONTAINER", ContentSequence=Sequence([born]))
    when = content(("99X", "T", "moment"), "DATETIME", DateTime="19610502101500")
    study = content(("DCM", "111060", "Study Date"), "DATE", Date="20190314")
    config = {"profile": "basic", "options": options} if options else {}
    new = one(tmp_path, report(above, when, study), **config)
    kept = by_code(new)
    shifted = kept["111060"].Date
    assert (shifted == "20190314") == bool(options)
    assert shifted != "19000101"
    for entry in kept.values():
        for keyword in ("Date", "DateTime"):
            value = str(entry.get(keyword, ""))[:8]
            assert value in ("", "19000101", shifted)


def test_a_newborn_keeps_the_day_of_the_study(tmp_path):
    ds = image(PatientBirthDate="20190314")
    new = one(tmp_path, ds)
    assert new.StudyDate
    assert new.PatientBirthDate == ""


def test_findings_numbers_and_codes_stay(tmp_path):
    coded = content(FINDING, "CODE", ConceptCodeSequence=Sequence([code("SCT", "27550009")]))
    text = content(FINDING, "TEXT", TextValue="liver lesion, seen by Quentinsson 617-555-0199")
    size = number(("SCT", "410668003", "Length"), "12.5", "mm")
    name = content(("DCM", "121008", "Person Observer Name"), "PNAME", PersonName="Quentinsson^Ruth")
    subject = content(("DCM", "121029", "Subject Name"), "PNAME", PersonName="Quillfeather^Marigold")
    other = content(("99X", "N", "next of kin"), "PNAME", PersonName=DOCTOR)
    gone = content(("DCM", "121022", "Accession Number"), "TEXT", TextValue="8841207")
    uid = content(("DCM", "112040", "Tracking UID"), "UIDREF", UID=f"{ROOT}.7.1")
    coded.ContentSequence = Sequence([size])
    new = one(tmp_path, report(coded, text, name, subject, other, gone, uid))
    entries = by_code(new)
    assert "121022" not in entries
    assert float(entries["410668003"].MeasuredValueSequence[0].NumericValue) == 12.5
    assert new.ContentSequence[0].ConceptCodeSequence[0].CodeValue == "27550009"
    assert entries["121071"].TextValue.startswith("liver lesion")
    assert entries["121029"].PersonName == new.PatientID
    assert entries["121008"].PersonName == "REMOVED"
    assert entries["112040"].UID.startswith("2.25.")
    raw = images(tmp_path / "out")[0].read_bytes()
    for plant in (b"Quentinsson", b"0199", b"8841207", b"Brambleton", b"Quillfeather"):
        assert plant not in raw


def test_synonyms_of_a_concept_are_one(tmp_path):
    old = content(("SRT", "P5-B3000", "x"), "TEXT", TextValue="Featherbee")
    finding_site = content(("SRT", "G-C0E3", "Finding Site"), "TEXT", TextValue="Featherbee left kidney")
    new = one(tmp_path, report(old, finding_site))
    assert [entry.TextValue for entry in new.ContentSequence] == ["REMOVED", "left kidney"]
    scheme = content(("NCDR", "53", "Procedure Number in this admission"), "TEXT", TextValue="2")
    assert "ContentSequence" not in one(tmp_path, report(scheme), out="b")


def test_positions_stay_where_items_refer_to_them(tmp_path):
    gone = content(("DCM", "121022", "Accession Number"), "TEXT", TextValue="8841207")
    size = number(("SCT", "410668003", "Length"), "12.5", "mm")
    reference = item(RelationshipType="INFERRED FROM", ReferencedContentItemIdentifier=[1, 2])
    size.ContentSequence = Sequence([reference])
    new = one(tmp_path, report(gone, size))
    assert len(new.ContentSequence) == 2
    assert new.ContentSequence[0].TextValue == "REMOVED"
    assert list(new.ContentSequence[1].ContentSequence[0].ReferencedContentItemIdentifier) == [1, 2]


@pytest.mark.parametrize(("kind", "stays"), [("IMAGE", True), ("WAVEFORM", False)])
def test_the_value_type_selects_the_row_of_a_concept(tmp_path, kind, stays):
    source = content(("DCM", "121112", "Source of Measurement"), kind)
    source.ReferencedSOPSequence = Sequence(
        [item(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.2", ReferencedSOPInstanceUID=f"{ROOT}.8")]
    )
    assert ("ContentSequence" in one(tmp_path, report(source), profile="basic")) == stays


def test_an_item_that_goes_keeps_what_is_below_it(tmp_path):
    comment = content(("DCM", "121021", "Filler Number"), "TEXT", TextValue="8841207")
    comment.ContentSequence = Sequence([number(("SCT", "410668003", "Length"), "12.5", "mm")])
    device = content(("DCM", "121000", "Unique Device Identifiers"), "CONTAINER")
    device.ContentSequence = Sequence([content(("LN", "74711-3"), "TEXT", TextValue="8841207")])
    new = one(tmp_path, report(comment, device))
    assert [entry.get("TextValue") for entry in new.ContentSequence] == ["REMOVED"]
    assert float(by_code(new)["410668003"].MeasuredValueSequence[0].NumericValue) == 12.5


def test_what_an_option_retains_stays(tmp_path):
    serial = content(("DCM", "121016", "Serial"), "TEXT", TextValue="SN-44-Brambleby")
    ward = content(("DCM", "121434", "Location"), "TEXT", TextValue="Ward Featherbee")
    sex = content(("DCM", "121032", "Sex"), "CODE", ConceptCodeSequence=Sequence([code("DCM", "F")]))
    options = (Option.RETAIN_DEVICE, Option.RETAIN_PATIENT_CHARACTERISTICS, Option.CLEAN_STRUCTURED_CONTENT)
    new = one(tmp_path, report(serial, ward, sex), profile="basic", options=options)
    assert [entry.ConceptNameCodeSequence[0].CodeValue for entry in new.ContentSequence] == [
        "121016",
        "121032",
    ]
    assert new.ContentSequence[0].TextValue == "SN-44-Brambleby"
    stated = {entry.CodeValue for entry in new.DeidentificationMethodCodeSequence}
    assert stated == {entry.value for entry in method_codes(frozenset(options))}


def test_acquisition_context_is_structured_content_too(tmp_path):
    born = item(ValueType="DATE", Date="19610502", ConceptNameCodeSequence=Sequence([code(*BORN)]))
    age = number(AGE, "93")
    new = one(tmp_path, image(AcquisitionContextSequence=Sequence([born, age])))
    (kept,) = new.AcquisitionContextSequence
    assert float(kept.MeasuredValueSequence[0].NumericValue) == 90


@pytest.mark.parametrize("options", [(), ("clean-structured-content",)])
def test_coordinates_stay_with_the_content_as_no_row_of_either_table_names_them(tmp_path, options):
    """PS3.15 2026d lists neither Graphic Data nor content items with coordinates, under no option."""
    assert not [row for row in table() if row[2] in ("SCOORD", "SCOORD3D", "TCOORD")]
    points = [1.5, 2.5, 3.5]
    outline = content(
        ("DCM", "111030", "Image Region"), "SCOORD3D", GraphicType="POINT", GraphicData=points,
        ReferencedFrameOfReferenceUID=f"{ROOT}.77",
    )  # fmt: skip
    new = one(tmp_path, report(outline), profile="basic", options=options)
    if not options:
        assert "GraphicData" not in str(new)
        return
    kept = by_code(new)["111030"]
    assert (list(kept.GraphicData), kept.GraphicType) == (points, "POINT")
    assert kept.ReferencedFrameOfReferenceUID != f"{ROOT}.77"
