"""Values that are no identifiers of the file itself: other people's names, dates and numbers in any place."""

from __future__ import annotations

import math

import pydicom
import pytest
from deid_samples import clean, image, images, item, one, save
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from meninx.deid.identifiers import Identifiers

STRANGERS = (
    "Quentinsson",
    "MARLOWEN",
    "SMITHSON",
    "0199",
    "VD570314",
    "DRACU",
    "1957",
    "8841207",
    "Featherbee",
)
TECHNICAL = {
    "Manufacturer": "SIEMENS Quentinsson",
    "ManufacturerModelName": "Avanto tel 617-555-0199",
    "SoftwareVersions": "syngo MR E11 14 Mar 1957",
    "SequenceName": "SMITHSON_KNEE",
    "PulseSequenceName": "02Apr1957",
    "ConvolutionKernel": "B30f Quentinsson",
    "FilterType": "SMITH 2.4.1957",
    "TypeOfFilters": "4/2/1957",
    "PositionReferenceIndicator": "D R A C U L E S C U",
    "ReceiveCoilName": "DRACU_LESCU",
    "TransmitCoilName": "MRN 8841207",
    "StackID": "8841207",
    "Radiopharmaceutical": "FDG for Featherbee",
    "RescaleType": "Quentinsson",
    "ApplicationName": "mail x@Featherbee.org",
}


def test_technical_texts_keep_what_is_technical(tmp_path):
    new = one(tmp_path, image(**TECHNICAL))
    left = " ".join(str(new.get(keyword, "")) for keyword in TECHNICAL)
    assert not [word for word in STRANGERS if word.casefold() in left.casefold()]
    assert new.Manufacturer == "SIEMENS"
    assert new.ManufacturerModelName == "Avanto"
    assert new.SoftwareVersions == "syngo MR E11"
    assert new.ConvolutionKernel == "B30f"
    assert new.get("PositionReferenceIndicator", "") == ""
    assert new.get("TypeOfFilters", "") == ""


def test_genuine_technical_texts_stay_as_they_are(tmp_path):
    genuine = {
        "Manufacturer": "GE MEDICAL SYSTEMS",
        "ManufacturerModelName": "SOMATOM Definition AS+",
        "SoftwareVersions": [
            "syngo CT VA48A",
            "5.3.1.0",
            "24",
            "LX",
            "MR Software release:DV24.0_R01_1344.a",
        ],
        "SequenceName": "*tfl3d1_16ns",
        "ConvolutionKernel": "Br40d",
        "PositionReferenceIndicator": "XY",
        "FilterType": "BOWTIE",
        "RescaleType": "HU",
        "ImagedNucleus": "1H",
        "ReceiveCoilName": "HeadNeck_64",
        "ReconstructionMethod": "OSEM3D 4i16s",
    }
    new = one(tmp_path, image(**genuine))
    kept = {keyword: new[keyword].value for keyword in genuine}
    kept["SoftwareVersions"] = list(kept["SoftwareVersions"])
    assert kept == genuine


CODED = {
    "ScanOptions": "KNEE QUENTINSSON",
    "ContentLabel": "SMITHSON_KNEE",
    "PatientSex": "MARLOWEN",
    "ViewPosition": "VD570314",
    "BodyPartExamined": "TEL 617 555 0199",
    "QualityControlImage": "D R A C U L A",
    "LossyImageCompression": "8841207",
}


def test_coded_values_are_defined_or_known_words(tmp_path):
    new = one(tmp_path, image(**CODED))
    left = " ".join(str(new.get(keyword, "")) for keyword in CODED)
    assert not [
        word for word in ("QUENTIN", "SMITHSON", "MARLOW", "5703", "0199", "D R A", "8841") if word in left
    ]


def test_emptied_coded_values_are_counted(tmp_path):
    save(image(**CODED), tmp_path / "in" / "a")
    actions = clean(tmp_path).actions
    assert actions["ContentLabel"] == {"Z": 1}
    assert actions["Modality"] == {"K": 1}


def test_defined_terms_stay(tmp_path):
    genuine = {
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "DIS2D", "MFSPLIT", "T1W_FFE"],
        "PatientPosition": "HFS",
        "BodyPartExamined": "NECKCHESTABDPELV",
        "PatientOrientation": ["L", "PF"],
        "ScanningSequence": ["SE", "IR"],
        "SequenceVariant": ["SK", "SP"],
        "Units": "BQML",
        "ViewPosition": "MLO",
        "ImageLaterality": "R",
        "ContentLabel": "KNEE",
        "ExposureControlMode": "AUTOMATIC",
    }
    new = one(tmp_path, image(**genuine))
    kept = {k: list(new[k].value) if isinstance(v, list) else new[k].value for k, v in genuine.items()}
    assert kept == genuine


def test_safe_private_texts_are_cleaned(tmp_path):
    ds = image()
    ds.add(DataElement(0x20010010, "LO", "Philips Imaging DD 001"))
    ds.add(DataElement(0x20011020, "LO", "call Mrs Quentinsson 617-555-0199"))
    ds.add(DataElement(0x20011003, "FL", 1000.0))
    ds.add(DataElement(0x20011087, "SH", "1H"))
    ds.add(DataElement(0x00430010, "LO", "GEMS_PARM_01"))
    ds.add(DataElement(0x00431027, "SH", "/1.375:1"))
    new = one(tmp_path, ds)
    assert new[0x20011003].value == 1000.0
    assert new[0x20011087].value == "1H"
    assert new[0x00431027].value == "/1.375:1"
    left = str(new.get((0x2001, 0x1020), ""))
    assert "Quentin" not in left
    assert "0199" not in left


def test_digits_of_a_prefixed_identifier_are_found_in_numbers_and_texts(tmp_path):
    ds = image(
        PatientID="MRN-5512347",
        ScanOptions="5512347",
        SeriesNumber="5512347",
        AcquisitionNumber="5512347",
        KVP="551234.7",
        TableHeight="5512347.0",
        SoftwareVersions="55.123.47",
        DeviceSerialNumber="77-881-204",
        StackID="77 881204",
        SliceLocation="77881204",
    )
    new = one(tmp_path, ds)
    content = images(tmp_path / "out")[0].read_bytes()
    for plant in (b"5512347", b"551234.7", b"55.123.47", b"77881204", b"881204"):
        assert plant not in content
    assert new.SliceThickness == 2.5


@pytest.mark.parametrize(
    "text", ["CT CHEST 078 mm 051 cm 120 ml", "D R A C U L E S C U knee", "chest 19 61 05 02", "DRACU_LESCU"]
)
def test_pieces_of_an_identifier_are_removed(tmp_path, text):
    new = one(tmp_path, image(PatientID="078-05-1120", PatientName="Draculescu^Ann", SeriesDescription=text))
    left = new.get("SeriesDescription", "")
    assert not any(piece in left for piece in ("078", "051", "DRACU", "D R A", "61 05"))


def test_pieces_are_compared_with_whole_groups():
    found = Identifiers()
    found.add_name("Draculescu^Ander")
    found.add_number("078-05-1120")
    assert found.spelled_apart_in("Dr.aculescu")
    assert found.spelled_apart_in("D.R.A.C.U.L.E.S.C.U")
    assert found.spelled_apart_in("078 mm 051 cm 120 ml")
    assert not found.spelled_apart_in("hand erosion")  # h-ander-osion
    assert not found.spelled_apart_in("078 mm 051 cm")


def test_other_dates_than_the_usual_way_of_writing(tmp_path):
    dates = ["2 May 1961", "02May1961", "2.5.1961", "5/2/1961", "2.5.61", "May 2, 1961", "02-MAI-1961"]
    found = Identifiers()
    found.add_day("19610502")
    assert [day for day in dates if not found.found_in(f"born {day} x")] == []
    assert not found.found_in("2.5.618 mm and 12.5.61")


def test_uids_below_the_root_of_dicom_are_replaced(tmp_path):
    made_up = "1.2.840.10008.5512.347.1957"
    ds = image(StudyInstanceUID=made_up, RelatedGeneralSOPClassUID=made_up, ContextUID="1.2.840.10008.6.1.17")
    ds.FrameOfReferenceUID = "1.2.840.10008.1.4.1.1"  # well-known
    new = one(tmp_path, ds)
    assert made_up.encode() not in images(tmp_path / "out")[0].read_bytes()
    assert new.FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"
    assert new.SOPClassUID == ds.SOPClassUID


def test_numbers_that_spell_a_text_go(tmp_path):
    lut = item(LUTDescriptor=[16, 0, 16], ModalityLUTType="HU")
    lut.add(DataElement(0x00283006, "OW", b"Dear Dr Featherbee, please see 1"))
    ds = image(ModalityLUTSequence=Sequence([lut]))
    ds.add(DataElement(0x00189073, "FD", 8.0))
    ds.add(DataElement(0x0018605A, "FL", [1.0, 2.0]))
    one(tmp_path, ds)
    assert b"Featherbee" not in images(tmp_path / "out")[0].read_bytes()


def test_own_identifiers_in_number_arrays_go(tmp_path):
    ds = image()
    ds.add(DataElement(0x00289099, "US", 1))
    ds.add(DataElement(0x00282000, "OB", bytes(40) + b"Quillfeather" + bytes(40)))
    one(tmp_path, ds)
    assert b"Quillfeather" not in images(tmp_path / "out")[0].read_bytes()


def test_a_plain_look_up_table_stays(tmp_path):
    lut = item(LUTDescriptor=[256, 0, 16], ModalityLUTType="HU")
    values = b"".join((n * 257).to_bytes(2, "little") for n in range(256))
    lut.add(DataElement(0x00283006, "OW", values))
    new = one(tmp_path, image(ModalityLUTSequence=Sequence([lut])))
    assert pydicom.dcmread(images(tmp_path / "out")[0]).ModalityLUTSequence[0].LUTData == values
    assert new.Rows == 8


@pytest.mark.parametrize("vr", ["FL", "UN"])
def test_a_private_number_that_is_a_text_goes(tmp_path, vr):
    ds = image()
    ds.add(DataElement(0x20010010, "LO", "Philips Imaging DD 001"))
    save(ds, tmp_path / "in" / "a")
    content = (tmp_path / "in" / "a").read_bytes()
    head = b"\x01\x20\x03\x10" + vr.encode() + (b"\0\0\x08\0\0\0" if vr == "UN" else b"\x08\0")
    creator = b"Philips Imaging DD 001"
    at = content.index(creator) + len(creator)
    (tmp_path / "in" / "a").write_bytes(content[:at] + head + b"MILLER2 " + content[at:])
    assert clean(tmp_path).files_written == 1
    assert b"MILLER2" not in images(tmp_path / "out")[0].read_bytes()


def test_free_texts_that_an_option_keeps_are_checked(tmp_path):
    new = one(tmp_path, image(EthnicGroup="KIM LEE"))
    assert not new.get("EthnicGroup")
    new = one(tmp_path, image(EthnicGroup="NOT HISPANIC"), out="b")
    assert new.EthnicGroup == "NOT HISPANIC"


def test_a_required_code_that_goes_becomes_a_dummy(tmp_path):
    seg = "1.2.840.10008.5.1.4.1.1.66.4"
    new = one(tmp_path, image(SOPClassUID=seg, Modality="SEG", ContentLabel="KNEE MILLER"))
    assert new.ContentLabel == "REMOVED"
    assert one(tmp_path, image(PatientSex="MILLER"), out="b").PatientSex == ""


def test_a_number_that_is_a_day_goes(tmp_path):
    new = one(tmp_path, image(SeriesNumber="19570314", KVP="20191301", TableHeight="19570314"))
    assert not new.get("SeriesNumber")
    assert new.KVP == 20191301  # no such month
    assert not new.get("TableHeight")


@pytest.mark.parametrize(
    "written", ["1.9570314E7", "+19570314", "19570314.0", "019570314", "1957031.4e1", "1.957031400E+07"]
)
def test_a_day_goes_however_the_number_is_written(tmp_path, written):
    new = one(tmp_path, image(TableHeight=written, PatientBirthDate="19570314"))
    assert not new.get("TableHeight")


@pytest.mark.parametrize(
    ("written", "stays"),
    [("7.714553e6", False), ("7714.553E3", False), ("1E9999999999999", True), ("7.714554e6", True)],
)
def test_an_identifier_goes_however_the_number_is_written(tmp_path, written, stays):
    ds = image(PatientID="7714553")
    ds.add(RawDataElement(BaseTag(0x00181130), "DS", len(written), written.encode(), 0, False, True))
    one(tmp_path, ds)
    content = images(tmp_path / "out")[0].read_bytes()
    assert (written.encode() in content) == stays


@pytest.mark.parametrize(
    ("keyword", "value", "stays"),
    [
        ("AcquisitionDuration", 19520413.0, False),  # FD
        ("AcquisitionDuration", 877145531.0, False),
        ("AcquisitionDuration", 877145532.0, True),
        ("AcquisitionDuration", 19520413.5, True),
        ("ReferencePixelX0", 19520413, False),  # SL
        ("ReferencePixelX0", 877145531, False),
        ("ReferencePixelX0", -4, True),
    ],
)
def test_an_identifier_goes_from_a_binary_number_as_from_a_written_one(tmp_path, keyword, value, stays):
    ds = image(PatientID="877145531", PatientBirthDate="19520413", **{keyword: value})
    assert (one(tmp_path, ds).get(keyword) == value) == stays


def test_a_waveform_of_eight_bits_among_the_letters_stays(tmp_path):
    wave = bytes(100 + round(15 * math.sin(at / 7)) + at * at % 5 for at in range(4000))
    ds = image(
        WaveformSequence=[item(WaveformBitsAllocated=8, WaveformSampleInterpretation="UB", WaveformData=wave)]
    )
    assert one(tmp_path, ds).WaveformSequence[0].WaveformData == wave


def test_digits_of_another_script_are_no_number(tmp_path):
    path = save(image(SpecificCharacterSet="ISO_IR 192", TableHeight="135724"), tmp_path / "in" / "a")
    path.write_bytes(path.read_bytes().replace(b"135724", "９５".encode()))
    assert clean(tmp_path).files_written == 1
    assert "９５".encode() not in images(tmp_path / "out")[0].read_bytes()
