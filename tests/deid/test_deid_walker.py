from __future__ import annotations

import logging
import struct
import warnings

import pydicom
import pytest
from deid_samples import clean, image, images, item, leaks, one, save
from pydicom.dataelem import DataElement
from pydicom.sequence import Sequence

from meninx.deid.config import DeidConfig
from meninx.deid.options import Option
from meninx.deid.walker import understood_vr
from meninx.dicomfile.elements import Element, Encoding, encode, parse


@pytest.mark.parametrize(
    ("tag", "vr", "understood"),
    [
        (0x00100010, "PN", "PN"),
        (0x00100010, "UN", "PN"),
        (0x00100010, "OB", None),  # bytes where a name stands
        (0x00280010, "LO", None),  # a text where a number stands
        (0x00280010, "US", "US"),
        (0x00189999, "LO", None),  # unknown
        (0x00081140, "LO", None),  # a text where a sequence stands
        (0x00081140, "UN", "SQ"),  # an empty one
        (0x00080070, "UT", "LO"),
        (0x00189073, "OF", "FD"),  # bytes where a number stands
        (0x00189073, "FL", "FL"),
        (0x00283006, "OW", "OW"),
    ],
)
def test_an_attribute_is_understood_by_the_dictionary(tag, vr, understood):
    assert understood_vr(Element(tag, vr, b"" if understood == "SQ" else b"xx")) == understood


# An attribute of each VR that the profile keeps.
OF_VR = {"AT": 0x00205000, "FD": 0x00189073, "FL": 0x0018605A, "SL": 0x00186020, "SS": 0x00189219}
OF_VR |= {"UL": 0x00186016, "US": 0x00080304, "UV": 0x00720083, "OB": 0x00282000, "OW": 0x00281201}
EXPLICIT = Encoding(implicit=False, little=True)


def with_elements(path, elements):
    """Add elements to a saved file, byte for byte."""
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    path.write_bytes(content[:start] + encode([*parse(content[start:], EXPLICIT), *elements], EXPLICIT))


@pytest.mark.parametrize("text", [b"Quentinsson ", b"Quentinsson Bob ", b"SMITHSON", b"Quentin^", b"MILLER"])
@pytest.mark.parametrize(
    "declared", ["OB", "OD", "OF", "OL", "OV", "OW", "UN", "US", "SS", "FL", "FD", "UL", "UV"]
)
def test_a_text_stays_in_no_value_whatever_vr_is_declared(tmp_path, text, declared):
    """Three numbers of two bytes may spell a word of six letters: these are left out here."""
    words = len(text) == 6 and declared in ("US", "SS", "UN")
    tags = [tag for vr, tag in OF_VR.items() if not (words and vr in ("US", "SS"))]
    path = save(image(), tmp_path / "in" / "a")
    with_elements(path, [Element(tag, declared, text) for tag in tags])
    assert clean(tmp_path).files_written == 1
    assert text not in images(tmp_path / "out")[0].read_bytes()


@pytest.mark.parametrize("declared", ["OF", "OW", "UN", "FD"])
def test_a_number_that_is_declared_as_bytes_is_written_as_a_number(tmp_path, declared):
    path = save(image(), tmp_path / "in" / "a")
    with_elements(path, [Element(OF_VR["FD"], declared, struct.pack("<d", 1.2345))])
    assert clean(tmp_path).files_written == 1
    assert pydicom.dcmread(images(tmp_path / "out")[0]).AcquisitionDuration == 1.2345


OVERLAY = {
    0x0010: ("US", 8),
    0x0011: ("US", 8),
    0x0022: ("LO", "Marigold"),
    0x0040: ("CS", "G"),
    0x0050: ("SS", [1, 1]),
} | {
    **{
        0x0100: ("US", 1),
        0x0102: ("US", 0),
        0x1500: ("LO", "Lavender"),
        0x3000: ("OW", bytes(8)),
        0x4000: ("LT", "Lavender"),
    }
}


def with_overlays(**changes):
    ds = image(**changes)
    for group in (0x6000, 0x6002, 0x60FE):
        for number, (vr, value) in OVERLAY.items():
            ds.add(DataElement(group << 16 | number, vr, value))
    return ds


@pytest.mark.parametrize("options", [(), (Option.CLEAN_GRAPHICS,)])
def test_an_overlay_goes_as_a_whole_group(tmp_path, options):
    new = one(tmp_path, with_overlays(), profile="basic", options=options)
    assert [element.tag for element in new if 0x6000 <= element.tag.group <= 0x60FF] == []


def test_an_overlay_that_an_override_keeps_stays_without_its_texts(tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text('"60xx3000" = "K"\n')
    new = one(tmp_path, with_overlays(), overrides=rules)
    for group in (0x6000, 0x6002, 0x60FE):
        assert new[group, 0x3000].value == bytes(8)
        assert new[group, 0x0010].value == 8
        assert (group, 0x0022) not in new
        assert (group, 0x1500) not in new
    assert not leaks(tmp_path / "out", ("Marigold", "Lavender"))


def test_a_curve_that_an_override_keeps_stays(tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text('"50xx3000" = "K"\n')
    for number, overrides in enumerate((None, rules)):
        ds = image()
        ds.add(DataElement(0x50000005, "US", 1))
        ds.add(DataElement(0x50003000, "OW", bytes(8)))
        new = one(tmp_path, ds, out=str(number), overrides=overrides)
        assert (0x50003000 in new) == bool(number)


def test_overrides_keep_uids_of_repeating_and_plain_attributes(tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text('FrameOfReferenceUID = "K"\n')
    new = one(tmp_path, image(), overrides=rules)
    assert new.FrameOfReferenceUID == image().FrameOfReferenceUID
    assert new.StudyInstanceUID != image().StudyInstanceUID
    assert DeidConfig(overrides=rules).compiled().overrides_tag(0x00200052)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_no_warning_and_no_log_line_of_a_parser_gets_out(tmp_path, caplog, syntax):
    ds = image(SpecificCharacterSet="ISO_IR 999")
    ds.add(DataElement(0x00189999, "LO", "Marigold"))
    ds.add(DataElement(0x00099999, "UN", b"Marigold"))
    ds.DerivationImageSequence = Sequence([item(PatientName="Marigold")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(ds, tmp_path / "in" / "a", syntax=syntax)
        content = (tmp_path / "in" / "a").read_bytes()
        (tmp_path / "in" / "a").write_bytes(content.replace(b"20190314", b"Marigold"))
    caplog.clear()
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert clean(tmp_path).files_written == 1
    assert not [record for record in caplog.records if record.name != "filelock"]
    assert not leaks(tmp_path / "out", ("Marigold",))
    assert pydicom.dcmread(images(tmp_path / "out")[0]).StudyDate == ""


@pytest.mark.parametrize("sign", ["\u200b", "\u00ad", "\u2060", "\ufeff", "\u202e"])
def test_signs_that_nobody_sees_hide_no_name(tmp_path, sign):
    new = one(
        tmp_path,
        image(
            SpecificCharacterSet="ISO_IR 192",
            Manufacturer=f"ACME Mari{sign}gold",
            SoftwareVersions=f"1{sign}.2",
        ),
    )
    assert new.Manufacturer == "ACME"
    assert new.SoftwareVersions == "1.2"
