"""What de-identified files still tell: every attribute belongs to a subject or is technical."""

from __future__ import annotations

import csv

import pytest

from meninx.core.artifacts import DeidRecord
from meninx.deid.profile import TABLES
from meninx.report import deid_attributes


def stays(**actions):
    record = DeidRecord(profile="research", max_age=89, actions=actions)
    return {item.title: item for item in deid_attributes.remaining([record])}


@pytest.mark.parametrize(
    ("keyword", "title"),
    [
        ("PatientSex", "sex"),
        ("PatientAge", "age"),
        ("PatientWeight", "weight"),
        ("EthnicGroup", "ethnic group, origin, religion"),
        ("PregnancyStatus", "pregnancy"),
        ("LastMenstrualDate", "pregnancy"),
        ("StudyDate", "dates and times"),
        ("PatientBirthDate", "names, numbers, date of birth"),
        ("StudyDescription", "descriptions and other text"),
        ("OperatorsName", "staff and institution"),
        ("DeviceSerialNumber", "device and place"),
        ("OfANewerEditionDateTime", "dates and times"),
        ("OfANewerEdition", "descriptions and other text"),
        ("PrivateElement", "private and unknown attributes"),
    ],
)
def test_an_attribute_belongs_to_what_it_tells(keyword, title):
    assert deid_attributes.subject_of(keyword).title == title


@pytest.mark.parametrize(
    "keyword", ["Rows", "ExposureTime", "RepetitionTime", "CodeMeaning", "SOPInstanceUID"]
)
def test_technical_attributes_tell_nothing(keyword):
    assert deid_attributes.subject_of(keyword) is None


def test_no_text_or_date_of_the_profile_counts_as_technical():
    with (TABLES / "profile.csv").open(newline="") as stream:
        rows = [
            row for row in csv.DictReader(stream) if row["vr"] in ("PN", "LO", "LT", "ST", "SH", "DA", "DT")
        ]
    technical = [row["keyword"] for row in rows if deid_attributes.subject_of(row["keyword"]) is None]
    assert len(rows) > 300
    assert technical == []


def test_the_action_decides_what_remains():
    assert stays(StudyDate={"C": 3})["dates and times"].what.startswith("shifted by whole days")
    assert stays(StudyDate={"K": 3})["dates and times"].what == "exact"
    assert stays(StudyDate={"X": 3})["dates and times"].what == ""
    assert stays(PatientAge={"K": 3})["age"].what == "exact; older than 89 years written as 90"
    mixed = stays(StudyDate={"C": 3, "X": 2}, ContentDate={"X": 5})["dates and times"]
    assert (mixed.stays, mixed.goes) == (3, 7)
    assert list(mixed.staying) == ["StudyDate"]


def test_no_value_is_lost_between_the_lists():
    actions = {"PatientSex": {"K": 2, "X": 1}, "Rows": {"K": 5}, "PatientName": {"Z": 4}, "Foreign": {"X": 6}}
    record = DeidRecord(profile="basic", actions=actions)
    told = sum(item.stays + item.goes for item in deid_attributes.remaining([record, record]))
    technical = sum(counts.total() for counts in deid_attributes.others([record, record]).values())
    assert told + technical == 2 * (3 + 5 + 4 + 6)
