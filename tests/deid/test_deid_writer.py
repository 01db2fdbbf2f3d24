from __future__ import annotations

import pydicom
import pytest
from deid_samples import clean, image, images, one, save
from pydicom.uid import UID

from meninx.deid.config import DeidConfig
from meninx.deid.options import Option, method_codes
from meninx.deid.writer import METHOD, derived_age, is_over_age
from meninx.dicomfile.instance import read


@pytest.mark.parametrize("profile", ["basic", "research"])
def test_every_file_says_what_was_done(tmp_path, profile):
    new = one(
        tmp_path, image(PatientIdentityRemoved="NO", DeidentificationMethod="by Marigold"), profile=profile
    )
    assert new.PatientIdentityRemoved == "YES"
    assert new.DeidentificationMethod.startswith(METHOD)
    codes = [(item.CodeValue, item.CodeMeaning) for item in new.DeidentificationMethodCodeSequence]
    assert codes == [tuple(code) for code in method_codes(DeidConfig(profile=profile).all_options)]
    assert all(item.CodingSchemeDesignator == "DCM" for item in new.DeidentificationMethodCodeSequence)


def test_the_file_meta_is_made_anew(tmp_path):
    save(
        image(),
        tmp_path / "in" / "a",
        preamble=b"x" * 128,
        SourceApplicationEntityTitle="MARIGOLD",
        PrivateInformationCreatorUID="1.2.3",
        PrivateInformation=b"Marigold",
        ImplementationVersionName="MARIGOLD",
    )
    clean(tmp_path)
    path = images(tmp_path / "out")[0]
    assert path.read_bytes()[:132] == bytes(128) + b"DICM"
    meta = pydicom.dcmread(path).file_meta
    assert [element.keyword for element in meta] == [
        *(
            "FileMetaInformationGroupLength",
            "FileMetaInformationVersion",
            "MediaStorageSOPClassUID",
            "MediaStorageSOPInstanceUID",
        ),
        *("TransferSyntaxUID", "ImplementationClassUID", "ImplementationVersionName"),
    ]
    assert UID(meta.ImplementationClassUID).is_valid
    end = 144 + meta.FileMetaInformationGroupLength
    assert path.read_bytes()[end : end + 2] == b"\x08\0"


@pytest.mark.parametrize(
    ("birth", "stated", "age", "over"),
    [
        ("19610502", None, "057Y", False),
        ("19290314", None, "090Y", True),
        ("19290315", None, "089Y", False),
        ("20190301", None, "013D", False),
        ("", "095Y", "", True),
        ("20200101", None, "", False),
        ("nonsense", None, "", False),
    ],
)
def test_the_age_is_told_by_the_dates_and_capped_by_either(tmp_path, birth, stated, age, over):
    ds = image(PatientBirthDate="20000101")
    if stated:
        ds.PatientAge = stated
    content = save(ds, tmp_path / "a").read_bytes().replace(b"20000101", birth.encode().ljust(8))
    original = read(content)
    assert derived_age(original) == age
    assert is_over_age(original, 89) == over


def test_a_text_in_another_script_declares_its_character_set(tmp_path):
    plain = one(tmp_path, image(SpecificCharacterSet="ISO_IR 100", Manufacturer="ACME"))
    assert plain.SpecificCharacterSet == "ISO_IR 100"
    rules = tmp_path / "rules.toml"
    rules.write_text('Manufacturer = "K"\n')
    accented = one(
        tmp_path,
        image(SpecificCharacterSet="ISO_IR 100", Manufacturer="Gerätewerk"),
        out="b",
        overrides=rules,
    )
    assert accented.SpecificCharacterSet == "ISO_IR 192"
    assert accented.Manufacturer == "Gerätewerk"


def test_full_dates_are_declared(tmp_path):
    new = one(tmp_path, image(), options=(Option.RETAIN_FULL_DATES,))
    assert new.LongitudinalTemporalInformationModified == "UNMODIFIED"


def test_a_device_that_states_no_visual_features_is_not_believed(tmp_path):
    assert "RecognizableVisualFeatures" not in one(tmp_path, image(RecognizableVisualFeatures="NO"))
    assert one(tmp_path, image(RecognizableVisualFeatures="YES"), out="b").RecognizableVisualFeatures == "YES"
    required = image(SOPClassUID="1.2.840.10008.5.1.4.1.1.82.1", RecognizableVisualFeatures="NO")
    assert one(tmp_path, required, out="c", pixels="keep").RecognizableVisualFeatures == "NO"  # type 1
