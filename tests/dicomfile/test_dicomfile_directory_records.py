"""Records of a DICOMDIR: their types, the values that are required, and what a class without a type gets."""

from __future__ import annotations

import pytest
from pydicom import fileset
from pydicom._uid_dict import UID_dictionary
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag

from meninx.dicomfile.directory_records import (
    KEYWORDS,
    PRIVATE,
    PRIVATE_RECORD,
    StandIns,
    encoded,
    entity,
    instance,
    record_type,
)
from meninx.imaging import decode

NUMBERS = {"StudyID": 2, "SeriesNumber": 3, "InstanceNumber": 4}


def header(sop_class: str = "1.2.840.10008.5.1.4.1.1.2", **values) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, "2.25.7"
    ds.PatientID, ds.PatientName = "P1", "P1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.8", "2.25.9"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def test_every_class_that_pydicom_knows_gets_the_type_that_pydicom_gives():
    known = {**fileset._FOUR_LEVEL_SOP_CLASSES, **fileset._SINGLE_LEVEL_SOP_CLASSES}
    never = ("Raw Data", "Audio", "Hanging", "Palette", "Template")  # de-identification refuses them
    for uid, kind in known.items():
        if not any(word in UID_dictionary[uid][0] for word in never):
            assert record_type(uid) == kind, UID_dictionary[uid][0]


@pytest.mark.parametrize(
    ("uid", "kind"),
    [
        ("1.2.840.10008.5.1.4.1.1.481.5", "RT PLAN"),
        ("1.2.840.10008.5.1.4.1.1.481.8", "RT PLAN"),  # ion plan
        ("1.2.840.10008.5.1.4.34.7", "PLAN"),  # RT Beams Delivery Instruction
        ("1.2.840.10008.5.1.4.1.1.481.10", "RADIOTHERAPY"),  # RT Physician Intent
        ("1.2.840.10008.5.1.4.1.1.66.4", "IMAGE"),  # segmentation
        ("1.2.840.10008.5.1.4.1.1.91.1", "ANNOTATION"),
        ("1.2.840.10008.5.1.4.1.1.11.6", "PRESENTATION"),  # planar MPR
        ("1.2.840.10008.5.1.4.1.1.200.2", PRIVATE),  # performed procedure protocol
        ("1.2.3", PRIVATE),
        ("", PRIVATE),
    ],
)
def test_types_of_classes_that_pydicom_does_not_list(uid, kind):
    assert record_type(uid) == kind


def test_a_class_without_a_type_gets_a_private_record():
    kind, record = instance(header("1.2.840.10008.5.1.4.1.1.200.2"), ("PT000000", "IM000000"))
    assert (kind, record.PrivateRecordUID, list(record.ReferencedFileID)) == (
        PRIVATE, PRIVATE_RECORD, ["PT000000", "IM000000"],
    )  # fmt: skip
    assert encoded(record)


def test_a_file_that_lacks_what_its_type_requires_gets_a_private_record():
    dose = header("1.2.840.10008.5.1.4.1.1.481.2", InstanceNumber="1")
    assert instance(dose, ("A",))[0] == PRIVATE
    dose.DoseSummationType = "PLAN"
    kind, record = instance(dose, ("A",))
    assert (kind, record.DoseSummationType) == ("RT DOSE", "PLAN")


def test_empty_places_are_filled_and_only_written_ones_are_counted():
    ds, stand_ins = header(StudyID="", StudyDate="", Modality="CT"), StandIns()
    empty = stand_ins.fill(ds, NUMBERS)
    study = entity("STUDY", ds)
    stand_ins.count(study, empty)
    assert (study.StudyID, study.StudyDate, study.StudyTime) == ("2", "19000101", "000000")
    assert stand_ins.used == {
        "StudyID": 1,
        "StudyDate": 1,
        "StudyTime": 1,
    }  # no ContentDate: no record has it
    assert entity("SERIES", ds).Modality == "CT"


def test_a_value_that_cannot_be_read_counts_as_none():
    with decode.quiet():
        ds = header(StudyDate="20200101", StudyTime="10")
        ds._dict[Tag("SeriesNumber")] = RawDataElement(Tag("SeriesNumber"), "IS", 4, b"x y ", 0, False, True)
        StandIns().fill(ds, NUMBERS)
        ds.Modality = "MR"
        assert encoded(entity("SERIES", ds))


def test_a_report_gives_the_modifiers_of_its_title_and_nothing_else():
    def item(kind, text):
        ds = Dataset()
        ds.RelationshipType, ds.TextValue = kind, text
        return ds

    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "1", "DCM", "Report"
    report = header(
        "1.2.840.10008.5.1.4.1.1.88.33",
        CompletionFlag="COMPLETE", VerificationFlag="UNVERIFIED", ConceptNameCodeSequence=[title],
        ContentSequence=[item("CONTAINS", "a long finding"), item("HAS CONCEPT MOD", "English")],
        VerificationDateTime="",
    )  # fmt: skip
    StandIns().fill(report, NUMBERS)
    kind, record = instance(report, ("A",))
    assert kind == "SR DOCUMENT"
    assert [one.TextValue for one in record.ContentSequence] == ["English"]
    assert b"finding" not in encoded(record)
    assert "VerificationDateTime" not in record
    report.VerificationFlag = "VERIFIED"
    StandIns().fill(report, NUMBERS)
    assert instance(report, ("A",))[1].VerificationDateTime == "19000101000000"


def test_what_a_record_can_hold_is_read():
    refused = ("HANGING PROTOCOL", "ENCAP DOC", "PALETTE", "IMPLANT", "IMPLANT ASSY", "IMPLANT GROUP")
    for kind, recorder in fileset.DIRECTORY_RECORDERS.items():
        with decode.quiet():
            ds = Dataset()
            for keyword in KEYWORDS:
                setattr(ds, keyword, [Dataset()] if keyword.endswith("Sequence") else "1")
            if kind not in refused:  # by de-identification
                assert set(recorder(ds).dir()) <= set(KEYWORDS)
