"""A known identifier is found in every value, whatever its VR and depth; by chance it is no leak."""

from __future__ import annotations

import tempfile
from pathlib import Path

import dicom_check_samples as samples
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

import meninx
from meninx.deid.actions import STRINGS

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom says that planted values do not fit their VR
BIRTH = samples.BIRTH


def checked(tmp_path, change, *, count=1, **person):
    """Return the check of one clean file after a change, against originals with these attributes."""
    source, folder = tmp_path / "archive", tmp_path / "theirs"
    for place in (source, folder):
        place.mkdir()
    for number in range(1, count + 1):
        ds = samples.original(number)
        for keyword, value in (person if number == 1 else {}).items():
            setattr(ds, keyword, value)
        (source / f"{number}.dcm").write_bytes(samples.saved(ds))
    (folder / "a.dcm").write_bytes(samples.changed(change))
    return meninx.verify(folder, originals=source, workers=1)


def in_method(ds, keyword, value):
    setattr(ds.DeidentificationMethodCodeSequence[0], keyword, value)


def nested_in_method(ds):
    inner = Dataset()
    inner.PatientName = f"{samples.SURNAME}^Marigold"
    ds.DeidentificationMethodCodeSequence[0].ReferencedStudySequence = Sequence([inner])


def name_in_a_number(ds):
    value = samples.SURNAME.encode()
    ds[0x00181151] = RawDataElement(Tag(0x00181151), "IS", len(value), value, 0, False, True)


LEAKS = {
    "PatientName": lambda ds: in_method(ds, "PatientName", f"{samples.SURNAME}^Marigold"),
    "PatientID": lambda ds: in_method(ds, "PatientID", samples.PATIENT_ID),
    "CodeMeaning": lambda ds: in_method(ds, "CodeMeaning", f"Basic {samples.SURNAME} Profile"),
    "DeidentificationMethodCodeSequence.ReferencedStudySequence.PatientName": nested_in_method,
    "StudyTime": lambda ds: ds.add_new(0x00080030, "TM", samples.SURNAME),
    "PatientAge": lambda ds: ds.add_new(0x00101010, "AS", samples.SURNAME),
    "ContentDate": lambda ds: ds.add_new(0x00080023, "DA", samples.SURNAME),
    "KVP": lambda ds: ds.add_new(0x00180060, "DS", BIRTH),
    "DistanceSourceToDetector": lambda ds: ds.add_new(0x00181110, "DS", "5.512347E6"),
    "WindowWidth": lambda ds: ds.add_new(0x00281051, "DS", "1.9610502e7"),
    "ExposureTime": lambda ds: ds.add_new(0x00181150, "IS", BIRTH),
    "XRayTubeCurrent": name_in_a_number,
    "FrameAcquisitionDateTime": lambda ds: ds.add_new(0x00189074, "DT", f"{BIRTH}1015"),
    "DateOfLastCalibration": lambda ds: ds.add_new(0x00181200, "DA", BIRTH),
    "StudyInstanceUID": lambda ds: setattr(ds, "StudyInstanceUID", "1.2.840.5512347.1"),
    "FrameOfReferenceUID": lambda ds: setattr(ds, "FrameOfReferenceUID", f"1.2.840.{BIRTH}.1"),
    "SynchronizationFrameOfReferenceUID": lambda ds: ds.add_new(0x00200200, "UI", f"1.2.{BIRTH}101500.1"),
    "ReferencedFrameOfReferenceUID": lambda ds: ds.add_new(0x30060024, "UI", samples.SURNAME),
    "InstanceNumber": lambda ds: ds.add_new(0x00200013, "UL", int(BIRTH)),
}


@pytest.mark.parametrize("place", LEAKS)
def test_an_identifier_in_a_value_of_any_vr_is_a_leak(place, tmp_path):
    result = checked(tmp_path, LEAKS[place])
    assert result.matched == 1
    assert result.exit_code == 4, result.places
    assert any(name.startswith("identifier ") and name.endswith(place) for name in result.places)


def test_a_birth_date_in_a_date_does_not_hide_it_in_a_text(tmp_path):
    def change(ds):
        ds.FrameAcquisitionDateTime = BIRTH
        ds.ImageComments = "02.05.1961"

    assert "identifier ImageComments" in checked(tmp_path, change).places


VRS = sorted(STRINGS | {"OB", "OW", "UN", "UR", "US", "FD"})
VALUES = (samples.SURNAME, samples.PATIENT_ID, samples.ADDRESS, f"x {samples.SURNAME}", "Brambleton^Ichabod")


@settings(max_examples=50, deadline=None)
@given(vr=st.sampled_from(VRS), value=st.sampled_from(VALUES), depth=st.integers(0, 3), private=st.booleans())
def test_a_text_is_found_under_every_vr_at_every_depth(vr, value, depth, private):
    tag = Tag(0x00990001 if private else 0x00181000)
    content = value.encode() + b" " * (-len(value) % 8)
    leaf = Dataset()
    leaf[tag] = RawDataElement(tag, vr, len(content), content, 0, False, True)

    def change(ds):
        inside = leaf
        for _ in range(depth):
            outer = Dataset()
            outer.DerivationImageSequence = Sequence([inside])
            inside = outer
        ds.update(inside)

    with tempfile.TemporaryDirectory() as folder:
        result = checked(Path(folder), change)
    assert result.verdicts["leak"] == 1, (result.reasons, result.places)
    assert value not in result.to_json()


CHANCES = {
    "fractions of a second": (
        lambda ds: setattr(ds, "StudyTime", "101112.617555"),
        {"PatientID": "617555"},
    ),
    "a date of a child that is its birth date": (
        lambda ds: setattr(ds, "AcquisitionDate", "20120101"),
        {"PatientBirthDate": "20120101"},
    ),
    "a binary number": (
        lambda ds: ds.add_new(0x00200013, "UL", 551234),
        {"PatientID": "551234"},
    ),
}


@pytest.mark.parametrize("case", CHANCES)
def test_digits_of_another_meaning_are_suspicious_and_no_leak(case, tmp_path):
    change, person = CHANCES[case]
    result = checked(tmp_path, change, **person)
    assert (result.exit_code, result.verdicts["suspicious"]) == (0, 1), result.places
    assert "identifier-by-chance" in result.reasons


NOTHING = {
    "a shifted date that is another day of the patient": lambda ds: setattr(
        ds, "AcquisitionDate", "20190315"
    ),
    "a registered UID": lambda ds: setattr(ds, "ReferencedSOPClassUIDInFile", "1.2.840.10008.5.1.4.1.1.2"),
    "an age": lambda ds: setattr(ds, "PatientAge", "058Y"),
    "a time": lambda ds: setattr(ds, "StudyTime", "101500.123456"),
}


@pytest.mark.parametrize("case", NOTHING)
def test_values_of_the_right_form_give_nothing(case, tmp_path):
    found = checked(tmp_path, NOTHING[case], count=3).reasons
    assert not {"identifier", "identifier-by-chance", "identifier-in-bytes"} & found.keys()


def test_a_number_that_is_a_time_of_day_is_no_hit_in_a_time(tmp_path):
    """Many archives number procedures by the time; twelve digits are more than a time."""
    change = lambda ds: setattr(ds, "StudyTime", "101112.617555")  # noqa: E731
    for number, reasons in (("101112", 0), ("101112617555", 1)):
        (tmp_path / number).mkdir()
        result = checked(tmp_path / number, change, RequestedProcedureID=number)
        assert len(result.reasons) == reasons, result.places


def test_codes_of_the_method_are_exempt_only_as_the_standard_has_them(tmp_path):
    """A patient may have the number of a code; the codes of the standard are compared exactly."""
    assert checked(tmp_path, lambda ds: None, PatientID="113100").reasons == {}
    (tmp_path / "other").mkdir()
    result = checked(
        tmp_path / "other", lambda ds: in_method(ds, "CodeValue", "113100X"), PatientID="113100X"
    )
    assert "identifier DeidentificationMethodCodeSequence.CodeValue" in result.places


BEYOND_ASCII = ["Müller", "Müllerström", "Иванов", "王小明", "Νίκος"]


@pytest.mark.parametrize("vr", ["UN", "OB"])
@pytest.mark.parametrize("name", BEYOND_ASCII)
def test_a_name_of_others_beyond_ascii_is_found_in_bytes(name, vr, tmp_path):
    listed = tmp_path / "names.txt"
    listed.write_text(f"{name}\nSomebody Else\n", encoding="utf-8")
    for charset, encoding in (("ISO_IR 192", "utf-8"), ("ISO_IR 100", "utf-8"), ("GB18030", "gb18030")):
        value = name.encode(encoding)

        def change(ds, charset=charset, value=value):
            ds.SpecificCharacterSet = charset
            ds[0x00991001] = RawDataElement(Tag(0x00991001), vr, len(value), value, 0, False, True)

        folder = tmp_path / charset
        folder.mkdir()
        (folder / "a.dcm").write_bytes(samples.changed(change))
        result = meninx.verify(folder, identifiers=listed, workers=1)
        assert (result.exit_code, result.verdicts["leak"]) == (4, 1), (charset, result.reasons)


@pytest.mark.parametrize("number", [877145531, 1953719668])
def test_the_own_number_is_found_in_a_binary_number_whatever_its_bytes_look_like(number, tmp_path):
    change = lambda ds: ds.add_new(0x00200013, "UL", number)  # noqa: E731
    assert "identifier InstanceNumber" in checked(tmp_path, change, PatientID=str(number)).places


@pytest.mark.parametrize("keyword", ["DeviceSerialNumber", "StationName"])
def test_an_attribute_that_an_option_keeps_may_not_hold_the_own_patient_id(keyword, tmp_path):
    def keeping(value):
        def change(ds):
            code = Dataset()
            code.CodeValue, code.CodingSchemeDesignator = "113109", "DCM"
            code.CodeMeaning = "Retain Device Identity Option"
            ds.DeidentificationMethodCodeSequence.append(code)
            setattr(ds, keyword, value)

        return change

    for number, (value, leaks) in enumerate(((samples.PATIENT_ID, 1), ("SN-90817263", 0))):
        (tmp_path / str(number)).mkdir()
        result = checked(tmp_path / str(number), keeping(value), **{keyword: "SN-90817263"})
        assert result.verdicts["leak"] == leaks, (value, result.places)


@pytest.mark.parametrize("name", ["1961-05-02.dcm", "scan19610502.dcm", "02.05.1961/a.dcm"])
def test_a_birth_date_in_a_path_is_suspicious_and_another_day_is_not(name, tmp_path):
    source, listed = samples.archive(tmp_path / "archive"), tmp_path / "days.csv"
    listed.write_text(f"birth\n{BIRTH}\n")
    place = tmp_path / "theirs" / name
    place.parent.mkdir(parents=True)
    place.write_bytes(samples.clean())
    for known in ({"originals": source}, {"identifiers": listed}):
        assert meninx.verify(tmp_path / "theirs", workers=1, **known).reasons == {"identifier-by-chance": 1}
    place.rename(place.with_name("2019-03-14.dcm"))
    if "02.05" not in name:
        assert meninx.verify(tmp_path / "theirs", originals=source, workers=1).reasons == {}


def test_file_meta_information_is_searched_like_the_rest(tmp_path):
    def change(ds):
        ds.file_meta.add(DataElement(0x00020100, "UI", f"1.2.840.{BIRTH}.7"))
        ds.file_meta.PrivateInformation = b"ab"

    assert "identifier-in-bytes file meta" in checked(tmp_path, change).places
