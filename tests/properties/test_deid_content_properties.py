"""Structured reports and values of any shape: nothing planted stays, numbers and codes do."""

from __future__ import annotations

import io
import string

import pydicom
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from meninx.deid.cleaner import Cleaner
from meninx.deid.identity.keys import SiteKey
from meninx.deid.identity.pseudonyms import Pseudonyms, Resolver
from meninx.deid.options import PRESETS, Option
from meninx.deid.profile import Profile
from meninx.deid.structured_content import VALUES, Treatment, table, treatment
from meninx.deid.wording.terms import is_harmless, is_term, technical_text

SR, ROOT = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.826.0.1.3680043.10.999"
RESOLVER = Resolver(Pseudonyms(SiteKey(bytes(range(7, 47)), "north")))
RESEARCH = Cleaner(profile=Profile.compile(PRESETS["research"]), resolver=RESOLVER)
BASIC = Cleaner(profile=Profile.compile(frozenset()), resolver=RESOLVER)
FULL_DATES = Cleaner(
    profile=Profile.compile(
        frozenset({Option.RETAIN_FULL_DATES, Option.CLEAN_DESCRIPTORS, Option.CLEAN_STRUCTURED_CONTENT})
    ),
    resolver=RESOLVER,
)
PEOPLE = ("Quentinsson", "Featherbee", "Brambleton", "Ann-Sophie Marlowen", "Ms Smithsonova")
NUMBERS = ("8841207", "617-555-0199", "078-05-1120", "1957", "14 Mar 1957", "2.4.1957")
SECRETS = ("Quentin", "Feather", "Bramble", "Marlowen", "Smithson", "8841207", "5-0199", "5-1120", "r 1957")
WORDS = ("liver", "left", "lesion", "kidney", "axial", "contrast", "12 mm")
CONCEPTS = st.sampled_from([(scheme, code) for scheme, code, _ in table()]) | st.sampled_from(
    [("99X", "A1"), ("SRT", "G-C0E3"), ("SCT", "410668003"), ("LN", "21112-8"), ("DCM", "999999"), ("", "")]
)
TEXTS = st.lists(st.sampled_from(PEOPLE + NUMBERS + WORDS), min_size=1, max_size=5).map(" ".join)
KINDS = ("TEXT", "PNAME", "UIDREF", "DATE", "DATETIME", "TIME", "NUM", "CODE", "IMAGE", "CONTAINER")
SOME = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


def code(scheme, value, meaning):
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, scheme, meaning
    return ds


def sequence(**values):
    inner = Dataset()
    for keyword, value in values.items():
        setattr(inner, keyword, value)
    return Sequence([inner])


def values_of(kind):
    """Return the attributes that hold the value of a content item."""
    short = TEXTS.map(lambda text: text[:60])
    number = st.builds(
        lambda value, unit, meaning: sequence(
            NumericValue=str(value), MeasurementUnitsCodeSequence=Sequence([code("UCUM", unit, meaning)])
        ),
        st.integers(1, 120),
        st.sampled_from(["mm", "a", "{counts}"]),
        short,
    )
    image = sequence(
        ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.2", ReferencedSOPInstanceUID=f"{ROOT}.8841207.4"
    )
    kinds = {
        "TEXT": {"TextValue": TEXTS},
        "PNAME": {"PersonName": st.sampled_from(PEOPLE)},
        "UIDREF": {"UID": st.sampled_from([f"{ROOT}.8841207.{n}" for n in range(3)])},
        "DATE": {"Date": st.sampled_from(["19570314", "20190314"])},
        "DATETIME": {"DateTime": st.just("19570314101500")},
        "TIME": {"Time": st.just("101500")},
        "NUM": {"MeasuredValueSequence": number},
        "CODE": {"ConceptCodeSequence": short.map(lambda text: Sequence([code("SCT", "10200004", text)]))},
        "IMAGE": {"ReferencedSOPSequence": st.just(image)},
    }
    return st.fixed_dictionaries(kinds.get(kind, {}))


@st.composite
def content_items(draw, depth=0):
    """Return one content item with everything that its value type may hold, and items below it."""
    kind = draw(st.sampled_from(KINDS))
    ds = Dataset()
    ds.RelationshipType, ds.ValueType = "CONTAINS", kind
    scheme, value = draw(CONCEPTS)
    ds.ConceptNameCodeSequence = Sequence([code(scheme, value, draw(TEXTS)[:60])])
    for keyword, entry in draw(values_of(kind)).items():
        setattr(ds, keyword, entry)
    if depth < 3 and draw(st.booleans()):
        ds.ContentSequence = Sequence(draw(st.lists(content_items(depth + 1), min_size=1, max_size=3)))
    return ds


def report(items):
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = SR, f"{ROOT}.3.1", "SR"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{ROOT}.1.1", f"{ROOT}.2.1"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Quillfeather^Marigold", "0000123", "19570314"
    ds.StudyDate, ds.PatientSex = "20190314", "F"
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = Sequence([code("DCM", "126000", "Imaging Measurement Report")])
    ds.ContentSequence = Sequence(items)
    return ds


def cleaned(ds, cleaner):
    """Return the clean bytes and the data set in them."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = SR, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, ds, enforce_file_format=True)
    content = cleaner.clean(stream.getvalue()).checked_content()
    return content, pydicom.dcmread(io.BytesIO(content))


def everywhere(ds):
    """Yield every item with a concept name, every depth."""
    for element in ds:
        if element.VR == "SQ":
            for inner in element.value:
                if "ConceptNameCodeSequence" in inner:
                    yield inner
                yield from everywhere(inner)


@given(items=st.lists(content_items(), min_size=1, max_size=4))
@SOME
def test_no_planted_string_stays_in_any_tree(items):
    for cleaner in (RESEARCH, BASIC, FULL_DATES):
        content, new = cleaned(report(items), cleaner)
        text = content.decode("latin-1").casefold()
        assert not [secret for secret in SECRETS if secret.casefold() in text]
        for entry in everywhere(new):
            for keyword in ("Date", "DateTime"):
                assert str(entry.get(keyword, ""))[:4] != "1957"
            assert "1957" not in entry.get("TextValue", "")


@given(items=st.lists(content_items(), min_size=1, max_size=4))
@SOME
def test_numbers_and_codes_stay(items):
    _, new = cleaned(report(items), RESEARCH)

    def found(ds, concepts):
        numbers, codes = [], 0
        for entry in everywhere(ds):
            name = entry.ConceptNameCodeSequence[0]
            concept = (name.CodingSchemeDesignator, name.CodeValue)
            kept = treatment(concept, 0x0040A300, PRESETS["research"]) in (
                Treatment.AS_LISTED,
                Treatment.KEPT,
            )
            if "MeasuredValueSequence" in entry and entry.MeasuredValueSequence and kept == concepts:
                measured = entry.MeasuredValueSequence[0]
                number = float(measured.NumericValue)
                unit = measured.MeasurementUnitsCodeSequence[0].CodeValue
                numbers.append(min(number, 90) if unit == "a" or concept[1] == "121033" else number)
            codes += "ConceptCodeSequence" in entry and concept[1] != "121032"
        return sorted(numbers), codes

    before, after = found(report(items), concepts=True), found(new, concepts=True)
    assert after[1] >= before[1]
    assert [number for number in before[0] if number not in after[0]] == []


@given(concept=st.sampled_from(sorted({key[:2] for key in table()})), tag=st.sampled_from(sorted(VALUES)))
@SOME
def test_without_options_no_listed_value_is_kept(concept, tag):
    kinds = {key[2] for key in table() if key[:2] == concept}
    wanted = treatment(concept, tag, frozenset())
    if kinds & set(VALUES[tag]):
        assert wanted in (Treatment.REMOVED, Treatment.DUMMY)
    else:
        assert wanted in (Treatment.AS_LISTED, Treatment.DUMMY, Treatment.REMOVED)


NAMES = st.text(string.ascii_letters, min_size=5, max_size=14).filter(
    lambda word: not technical_text(word, "") and not is_harmless(word)
)


@given(
    name=NAMES,
    around=st.lists(st.sampled_from(["SIEMENS", "MR", "E11", "B30f", "v2.1", "*fl2d1", "axial"]), max_size=3),
    keyword=st.sampled_from(["Manufacturer", "SoftwareVersions", "SequenceName", "ConvolutionKernel", ""]),
    glue=st.sampled_from([" ", "_", "-", "/", "."]),
)
@SOME
def test_an_unknown_word_never_stays_in_a_technical_text(name, around, keyword, glue):
    text = glue.join([*around, name])
    assert name not in technical_text(text, keyword)
    assert not is_term(text, keyword)


@given(
    digits=st.from_regex(r"[0-9]{3}[-. /]?[0-9]{3,4}[-. /]?[0-9]{4}", fullmatch=True),
    keyword=st.sampled_from(["Manufacturer", "SoftwareVersions", "StackID", ""]),
)
@SOME
def test_no_phone_number_stays(digits, keyword):
    left = technical_text(f"SIEMENS {digits}", keyword)
    assert digits not in left
    assert not is_term(digits, keyword)
