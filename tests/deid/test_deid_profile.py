import csv
import json
import re
from pathlib import Path

import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.tag import Tag

from meninx.core.errors import ConfigError
from meninx.deid.options import CODES, PRESETS, Option, method_codes, parse, preset
from meninx.deid.profile import Action, Profile, allowed_text, canonical, read_table, rows

STANDARD = Path(__file__).resolve().parents[2] / "../shared/standard"
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
US = "1.2.840.10008.5.1.4.1.1.6.1"
SR = "1.2.840.10008.5.1.4.1.1.88.33"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
GSPS = "1.2.840.10008.5.1.4.1.1.11.1"
BASIC = Profile.compile(frozenset())
RESEARCH = Profile.compile(preset("research"))

REFERENCE_COLUMNS = {
    "basicProfile": "basic",
    "rtnUIDsOpt": "retain_uids",
    "rtnDevIdOpt": "retain_device",
    "rtnInstIdOpt": "retain_institution",
    "rtnPatCharsOpt": "retain_patient_characteristics",
    "rtnLongFullDatesOpt": "retain_full_dates",
    "rtnLongModifDatesOpt": "retain_modified_dates",
    "cleanDescOpt": "clean_descriptors",
    "cleanStructContOpt": "clean_structured_content",
    "cleanGraphOpt": "clean_graphics",
    "rtnSafePrivOpt": "retain_safe_private",
}
# Cells that a later edition changed: (tag, column) -> reason.
EXCEPTIONS: dict[tuple[str, str], str] = {("00321033", "clean_descriptors"): "C since edition 2026d"}


def act(profile, keyword, vr, sop=CT, top=True):
    return profile.action(tag_for_keyword(keyword), vr, sop_class_uid=sop, top_level=top)


def with_options(*options):
    return Profile.compile(frozenset(options))


def test_the_table_is_complete_and_well_formed():
    table = read_table("profile.csv")
    assert len(table) >= 657
    assert len({row["tag"] for row in table}) == len(table)
    assert {"50xxxxxx", "60xx3000", "60xx4000", "ggggeeee"} <= {row["tag"] for row in table}
    assert {row["basic"] for row in table} <= {
        "D",
        "Z",
        "X",
        "K",
        "C",
        "U",
        "X/Z",
        "X/D",
        "Z/D",
        "X/Z/D",
        "X/Z/U*",
    }
    assert {row[option.column] for row in table for option in Option} == {"", "K", "C"}
    assert all(re.fullmatch(r"[A-Z][A-Za-z0-9]+", row["keyword"]) for row in table)
    for option in Option:
        assert any(row[option.column] for row in table), option


@pytest.mark.realdata
@pytest.mark.skipif(not STANDARD.exists(), reason="the reference tables are not beside the checkout")
def test_every_cell_equals_the_2024b_reference():
    reference = json.loads((STANDARD / "confidentiality_profile_2024b.json").read_text())
    ours = {row["tag"]: row for row in read_table("profile.csv")}
    disagreements = []
    for row in reference:
        tag = "ggggeeee" if row["id"].lower().startswith("gggg") else row["id"].lower()
        for theirs, column in REFERENCE_COLUMNS.items():
            if ours[tag][column] != row.get(theirs, "") and (tag, column) not in EXCEPTIONS:
                disagreements.append((tag, column, ours[tag][column], row.get(theirs, "")))
    assert len(reference) == 621
    assert disagreements == []


@pytest.mark.realdata
@pytest.mark.skipif(not STANDARD.exists(), reason="the reference tables are not beside the checkout")
def test_every_row_of_edition_2025b_is_covered():
    with (STANDARD / "profile_2025b.csv").open(newline="", encoding="utf-8") as stream:
        reference = {(row["Group"] + row["Element"]).lower(): row for row in csv.DictReader(stream)}
    ours = {
        row["tag"].replace("ggggeeee", "ggggeeeewhereggggisodd"): row for row in read_table("profile.csv")
    }
    assert set(ours) - set(reference) == {"0040e012", "3004007f"}  # rows of edition 2026d
    assert set(reference) <= set(ours)
    names = dict(zip(Option, list(next(iter(reference.values())))[6:15], strict=False))
    different = [
        (tag, column)
        for tag, row in reference.items()
        for option, column in names.items()
        if bool(row[column]) != bool(ours[tag][option.column]) and (tag, option.column) not in EXCEPTIONS
    ]
    assert different == []


EDITION_2026D = {
    "retain_device_identity": "retain_device",
    "retain_institution_identity": "retain_institution",
    "retain_longitudinal_full_dates": "retain_full_dates",
    "retain_longitudinal_modified_dates": "retain_modified_dates",
}


@pytest.mark.realdata
@pytest.mark.skipif(not STANDARD.exists(), reason="the reference tables are not beside the checkout")
def test_every_cell_equals_edition_2026d():
    reference = json.loads((STANDARD / "ps315_2026d.json").read_text())["rules"]
    ours = {row["tag"].replace("ggggeeee", "private"): row for row in read_table("profile.csv")}
    assert {row["tag"].lower() for row in reference} == set(ours)
    for row in reference:
        mine = ours[row["tag"].lower()]
        cells = {EDITION_2026D.get(name, name): letter for name, letter in row["options"].items()}
        assert (mine["basic"], {o.column: mine[o.column] for o in Option if mine[o.column]}) == (
            row["basic"],
            cells,
        )


@pytest.mark.realdata
@pytest.mark.skipif(not STANDARD.exists(), reason="the reference tables are not beside the checkout")
def test_every_published_safe_private_element_is_listed():
    with (STANDARD / "safe_private.csv").open(newline="", encoding="utf-8") as stream:
        published = [
            row for row in csv.DictReader(stream) if row["IsInDICOMRetainSafePrivateTags"].strip() == "True"
        ]
    profile = with_options(Option.RETAIN_SAFE_PRIVATE)
    assert len(published) == 87
    for row in published:
        group, element = int(row["Group"].strip(), 16), int(row["Element"].strip()[2:], 16)
        assert profile.keep_private(group, element, row["Private Creator"]), row


def test_presets_and_codes_are_the_published_ones():
    assert set(PRESETS) == {"basic", "research"}
    assert [code.value for code in method_codes(preset("research"))] == [
        "113100", "113103", "113104", "113105", "113107", "113108", "113111",
    ]  # fmt: skip
    assert len({code.value for code in CODES.values()}) == len(Option) == 10
    assert Option("retain-uids").code == ("113110", "Retain UIDs Option")


def test_code_meanings_agree_with_pydicom():
    from pydicom.sr.codedict import codes

    published = {
        code.value: code.meaning for code in (getattr(codes.CID7050, name) for name in codes.CID7050.dir())
    }
    mine = dict(method_codes(frozenset(Option)))
    assert mine == {value: published[value] for value in mine}


def test_excluding_options_and_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="exclude each other"):
        with_options(Option.RETAIN_FULL_DATES, Option.RETAIN_MODIFIED_DATES)
    with pytest.raises(ConfigError, match="did you mean 'retain-uids'"):
        parse(["retain-uid"])
    with pytest.raises(ConfigError, match="did you mean 'research'"):
        preset("researc")
    assert parse(["retain-uids", "clean-graphics"]) == {Option.RETAIN_UIDS, Option.CLEAN_GRAPHICS}


@pytest.mark.parametrize(
    ("keyword", "vr", "sop", "expected"),
    [
        ("SeriesDate", "DA", CT, "X"),  # X/D, Type 3
        ("ContentDate", "DA", MR, "Z"),  # Z/D, Type 2C
        ("ContentDate", "DA", SEG, "D"),  # Z/D, Type 1
        ("ContentDate", "DA", SR, "D"),
        ("AcquisitionDateTime", "DT", CT, "X"),  # X/Z/D, Type 3
        ("OperatorsName", "PN", DX, "X"),  # X/Z/D, Type 3
        ("OperatorsName", "PN", RTSTRUCT, "Z"),  # X/Z/D, Type 2
        ("AcquisitionContextSequence", "SQ", DX, "Z"),  # X/Z, Type 2
        ("AcquisitionContextSequence", "SQ", CT, "X"),
        ("DeviceSerialNumber", "LO", US, "X"),  # X/Z/D, Type 3
        ("DeviceSerialNumber", "LO", SEG, "D"),  # Type 1 in Enhanced General Equipment
        ("ReferencedPerformedProcedureStepSequence", "SQ", SR, "Z"),  # Type 2
        ("ReferencedPerformedProcedureStepSequence", "SQ", CT, "X"),  # Type 3
        ("PresentationCreationDate", "DA", GSPS, "D"),  # X, yet Type 1
        ("ReferencedImageSequence", "SQ", CT, "U"),  # X/Z/U*
        ("StudyInstanceUID", "UI", CT, "U"),
        ("PatientName", "PN", CT, "Z"),
        ("StructureSetLabel", "SH", RTSTRUCT, "D"),
        ("OtherPatientIDsSequence", "SQ", CT, "X"),
    ],
)
def test_actions_of_the_basic_profile_follow_the_iod(keyword, vr, sop, expected):
    assert act(BASIC, keyword, vr, sop) == expected


@pytest.mark.parametrize(
    ("keyword", "vr", "sop", "expected"),
    [
        ("StudyDate", "DA", CT, "C"),
        ("StudyDescription", "LO", CT, "C"),
        ("PatientAge", "AS", CT, "K"),
        ("PatientBirthDate", "DA", CT, "Z"),
        ("InstitutionName", "LO", CT, "X"),
        ("ContentSequence", "SQ", SR, "C"),
        ("TextValue", "UT", SR, "C"),
        ("SegmentLabel", "LO", SEG, "C"),
        ("GraphicAnnotationSequence", "SQ", GSPS, "C"),
        ("ExpiryDate", "DA", CT, "C"),  # unlisted date
    ],
)
def test_actions_of_the_research_preset(keyword, vr, sop, expected):
    assert act(RESEARCH, keyword, vr, sop) == expected


def test_each_retaining_option_keeps_its_own_attributes_only():
    cases = {
        Option.RETAIN_UIDS: ("SOPInstanceUID", "UI"),
        Option.RETAIN_DEVICE: ("StationName", "SH"),
        Option.RETAIN_INSTITUTION: ("InstitutionName", "LO"),
        Option.RETAIN_PATIENT_CHARACTERISTICS: ("PatientWeight", "DS"),
        Option.RETAIN_FULL_DATES: ("StudyDate", "DA"),
    }
    for option, (keyword, vr) in cases.items():
        assert act(with_options(option), keyword, vr) == "K"
        for other, named in cases.items():
            if other is not option:
                assert act(with_options(option), *named) != "K"


def test_shifting_a_date_comes_before_keeping_it_with_the_device():
    both = with_options(Option.RETAIN_DEVICE, Option.RETAIN_MODIFIED_DATES)
    assert act(both, "DateOfLastCalibration", "DA") == "C"
    assert act(with_options(Option.RETAIN_DEVICE), "DateOfLastCalibration", "DA") == "K"


@pytest.mark.parametrize("group", range(0x6000, 0x6020, 2))
def test_all_overlay_groups_follow_one_mask(group):
    def at(profile, element, vr):
        return profile.action(group << 16 | element, vr, sop_class_uid=CT)

    assert (
        at(BASIC, 0x3000, "OW")
        == at(BASIC, 0x4000, "LT")
        == at(BASIC, 0x0022, "LO")
        == at(BASIC, 0x1500, "LO")
        == "X"
    )
    assert at(BASIC, 0x0010, "US") == "X", "rows without data would not be a conformant overlay"
    assert at(RESEARCH, 0x3000, "OW") == "C"
    assert at(RESEARCH, 0x0010, "US") == at(RESEARCH, 0x1500, "LO") == "X", (
        "a cleaned overlay is a removed one"
    )
    kept = Profile.compile(preset("research"), {"60xx3000": "K"})
    assert at(kept, 0x3000, "OW") == at(kept, 0x0010, "US") == "K"
    assert at(kept, 0x1500, "LO") == "X"
    assert [profile.drawings_go(group << 16 | 0x3000) for profile in (BASIC, RESEARCH, kept)] == [
        True,
        True,
        False,
    ]
    assert kept.overrides_tag(group << 16 | 0x3000)
    assert not kept.overrides_tag(group << 16 | 0x0010)


@pytest.mark.parametrize("group", [0x5000, 0x5002, 0x501E, 0x50FE])
def test_curves_go_whole(group):
    for element, vr in ((0x0005, "US"), (0x3000, "OW"), (0x2500, "LO"), (0x0022, "LO"), (0x7777, "UN")):
        assert BASIC.action(group << 16 | element, vr, sop_class_uid=CT) == "X"


def test_default_rule_for_unlisted_attributes():
    kept = [
        ("Rows", "US"),
        ("KVP", "DS"),
        ("PixelSpacing", "DS"),
        ("Modality", "CS"),
        ("PixelData", "OW"),
        ("PixelData", "OB"),
    ]
    for keyword, vr in [
        *kept,
        ("SharedFunctionalGroupsSequence", "SQ"),
        ("ConvolutionKernel", "SH"),
        ("CodeMeaning", "LO"),
    ]:
        assert act(BASIC, keyword, vr) == "K", keyword
    for keyword, vr in [
        ("RetrieveURL", "UR"),
        ("InventoryPurpose", "LT"),
        ("SecondaryReviewerName", "PN"),
        ("EncryptedContent", "OB"),
    ]:
        assert act(RESEARCH, keyword, vr) == "X", keyword
    assert act(BASIC, "ExpiryDate", "DA") == "X"
    assert act(with_options(Option.RETAIN_FULL_DATES), "ExpiryDate", "DA") == "K"
    assert act(BASIC, "CodingSchemeUID", "UI") == "U"
    assert act(with_options(Option.RETAIN_UIDS), "CodingSchemeUID", "UI") == "K"


def test_unlisted_text_that_the_iod_requires_becomes_a_dummy_or_empty():
    assert act(BASIC, "RadiationMachineName", "SH", "1.2.840.10008.5.1.4.1.1.481.1") == "Z"
    assert act(BASIC, "RTImageLabel", "SH", "1.2.840.10008.5.1.4.1.1.481.1") == "D"
    assert act(BASIC, "SegmentLabel", "LO", SEG, top=False) == "D"


@pytest.mark.parametrize(
    "tag",
    [
        0x00091001,
        0x00090010,
        0x00080000,
        0x00100099,
        0x7FE11010,
        0x00000110,
        0x4FFE0002,
        0x60013000,
        0x50010005,
    ],
)
@pytest.mark.parametrize("vr", ["UN", "LO", "US", "SQ", "CS", "DA", "UI"])
def test_private_unknown_and_group_length_are_removed_whatever_their_vr(tag, vr):
    assert with_options(*set(Option) - {Option.RETAIN_FULL_DATES}).action(tag, vr, sop_class_uid=CT) == "X"


def test_a_vr_that_lies_does_not_smuggle_text_past_the_default_rule():
    assert (
        act(BASIC, "Rows", "LO")
        == act(BASIC, "Modality", "UT")
        == act(BASIC, "SharedFunctionalGroupsSequence", "OB")
        == "X"
    )
    assert act(BASIC, "InventoryPurpose", "CS") == "X", "the dictionary says text"
    assert act(BASIC, "Rows", "UN") == "K", "UN counts as the VR of the dictionary"
    assert act(BASIC, "InventoryPurpose", "UN") == "X"


def test_a_sequence_that_must_go_is_never_turned_into_a_dummy():
    assert act(BASIC, "ModifiedAttributesSequence", "SQ", top=False) == "X", (
        "Type 1 inside the original attributes"
    )
    assert act(BASIC, "NonconformingDataElementValue", "OB", top=False) == "D"


def test_safe_private_elements_are_found_by_their_place_in_the_block():
    profile = with_options(Option.RETAIN_SAFE_PRIVATE)
    for element in (0x0C, 0x100C, 0x110C, 0xFF0C):
        assert profile.keep_private(0x0019, element, " SIEMENS MR HEADER ")
    assert not profile.keep_private(0x0019, 0x0C, "SIEMENS CT HEADER")
    assert not profile.keep_private(0x0021, 0x0C, "SIEMENS MR HEADER")
    assert not profile.keep_private(0x0019, 0x08, "SIEMENS MR HEADER")
    assert not BASIC.keep_private(0x0019, 0x0C, "SIEMENS MR HEADER")
    assert len(read_table("safe_private.csv")) >= 100


def test_overrides_by_keyword_and_by_tag_come_first():
    profile = Profile.compile(
        preset("research"),
        {
            "StudyDescription": "K",
            "(0018,0060)": Action.X,
            "00080060": "Z",
            "OverlayData": "K",
            "PatientComments": "C",
            "StudyInstanceUID": "U",
        },
    )
    assert act(profile, "StudyDescription", "LO") == "K"
    assert act(profile, "KVP", "DS") == "X"
    assert act(profile, "Modality", "CS") == "Z"
    assert profile.action(0x60023000, "OW", sop_class_uid=CT) == "K"
    assert act(profile, "PatientName", "PN") == act(RESEARCH, "PatientName", "PN")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"StudyDescripton": "K"}, "did you mean 'StudyDescription'"),
        ({"0009,1001": "K"}, "even-group tag"),
        ({"0010,0099": "K"}, "even-group tag"),
        ({"00080000": "K"}, "even-group tag"),
        ({"__import__('os')": "K"}, "even-group tag"),
        ({"StudyDescription": "keep"}, "one of D, Z, X, K, C, U"),
        ({"StudyDescription": "U"}, "no UID and no sequence"),
    ],
)
def test_wrong_overrides_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Profile.compile(frozenset(), overrides)


def test_describe_names_every_row_and_the_fingerprint_knows_every_difference():
    told = dict(RESEARCH.describe(CT))
    assert len(RESEARCH.describe()) == len(rows()) + 1 + len(allowed_text())
    assert told["PatientName"] == "Z"
    assert told["StudyDate"] == told["PrivateAttributes"] == "C"
    prints = {
        item.fingerprint()
        for item in (
            BASIC,
            RESEARCH,
            Profile.compile(frozenset(), {"KVP": "X"}),
            with_options(Option.RETAIN_UIDS),
        )
    }
    assert len(prints) == 4
    assert RESEARCH.fingerprint() == Profile.compile(preset("research")).fingerprint()


def test_tags_of_pydicom_are_accepted_and_a_frozen_profile_stays():
    assert BASIC.action(Tag(0x0010, 0x0010), "PN", sop_class_uid=CT) == "Z"
    assert canonical(Tag(0x6002, 0x3000)) == 0x60003000
    with pytest.raises(AttributeError):
        BASIC.options = frozenset()


def test_every_allowed_text_has_a_reason_and_is_not_in_the_table():
    table = read_table("allowed_text.csv")
    assert {row["kind"] for row in table} == {"technical", "descriptor", "structured"}
    assert all(row["reason"] for row in table)
    assert not set(allowed_text()) & set(rows())
