"""``meninx verify`` of DICOM files: what is planted is found, clean files give nothing, no file stops it."""

import io
import json
import tempfile
import zipfile
from pathlib import Path

import dicom_check_samples as samples
import pytest
from deid_samples import image, save
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

import meninx
from meninx.core.errors import DataError, PrivacyRefusal, UsageError
from meninx.verify import conformance, dicom_stage, identifier_list
from meninx.verify.config import DicomCheckConfig
from meninx.verify.dicom_findings import REASONS

TEXTS = (
    "StudyDescription",
    "SeriesDescription",
    "ProtocolName",
    "ImageComments",
    "Manufacturer",
    "ContrastBolusAgent",
)


def checked(tmp_path, content, **given):
    """Return the check of one file against its original."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(content)
    source = samples.archive(tmp_path / "archive")
    return meninx.verify(folder, originals=source, workers=1, **given)


def test_a_clean_file_gives_no_finding_and_its_original_gives_all_of_them(tmp_path):
    result = checked(tmp_path, samples.clean())
    assert (result.exit_code, result.reasons, result.matched) == (0, {}, 1)
    source = tmp_path / "archive"
    own = meninx.verify(source, originals=source, workers=1)
    assert own.exit_code == 4
    expected = {
        "identifier",
        "uid-unchanged",
        "date-unchanged",
        "marker-missing",
        "birth-date",
        "person-name",
    }
    assert expected <= own.reasons.keys()
    with pytest.raises(PrivacyRefusal, match="1 of 1 file holds an identifier"):
        own.raise_if_failed()


@settings(max_examples=25, deadline=None)
@given(
    keyword=st.sampled_from(TEXTS),
    value=st.sampled_from(
        (samples.SURNAME, "5512347", "ACC778812", samples.ADDRESS, "02.05.1961", samples.STUDY_UID)
    ),
    before=st.sampled_from(("", "AX ", "x_", "for ")),
    depth=st.integers(0, 4),
)
def test_an_identifier_in_any_text_at_any_depth_is_found(keyword, value, before, depth):
    content = samples.changed(lambda ds: samples.nested(ds, keyword, before + value, depth))
    with tempfile.TemporaryDirectory() as folder:
        result = checked(Path(folder), content)
    assert result.verdicts["leak"] == 1, (result.reasons, result.places)
    assert any(place.endswith(keyword) for place in result.places)
    assert value not in result.to_json()


def _burned_meta(ds):
    ds.file_meta.PrivateInformationCreatorUID = "1.2.3"
    ds.file_meta.SourceApplicationEntityTitle = samples.SURNAME.upper()


def _bits_in_compressed_pixels(ds):
    ds.PixelData = b"\0\xf0" + ds.PixelData[2:]
    ds.compress(RLELossless, generate_instance_uid=False)


PLANTS = {
    "not-removed": lambda ds: setattr(ds, "PatientAddress", "1 Elm Street"),
    "person-name": lambda ds: setattr(ds, "OperatorsName", "Somebody^Else"),
    "birth-date": lambda ds: setattr(ds, "PatientBirthDate", "19770101"),
    "age-over-89": lambda ds: setattr(ds, "PatientAge", "093Y"),
    "private-attribute": lambda ds: ds.private_block(0x0099, "ACME", create=True).add_new(1, "LO", "x"),
    "marker-missing": lambda ds: setattr(ds, "PatientIdentityRemoved", "NO"),
    "method-missing": lambda ds: ds.pop("DeidentificationMethodCodeSequence"),
    "marker-contradicted": lambda ds: setattr(ds, "LongitudinalTemporalInformationModified", "REMOVED"),
    "burned-in-declared": lambda ds: setattr(ds, "BurnedInAnnotation", "YES"),
    "looks-identifying": lambda ds: setattr(ds, "SeriesDescription", "call Dr Nobody 1999-01-01"),
    "preamble": lambda ds: setattr(ds, "preamble", b"II*\0".ljust(128, b"\1")),
    "date-unchanged": lambda ds: setattr(ds, "StudyDate", "20190314"),
    "uid-unchanged": lambda ds: setattr(ds, "StudyInstanceUID", samples.STUDY_UID),
    "identifier-in-bytes": _burned_meta,
    "overlay": lambda ds: ds.add_new(0x60003000, "OW", bytes(8)),
    "unused-bits": lambda ds: setattr(ds, "PixelData", b"\0\xf0" + ds.PixelData[2:]),
    "trailing-bytes": lambda ds: ds.add_new(0xFFFCFFFC, "OB", b"text"),
    "icon": lambda ds: setattr(ds, "IconImageSequence", [Dataset()]),
    "pixels-unchecked": lambda ds: setattr(ds, "Rows", 23),
}


@pytest.mark.parametrize("reason", PLANTS)
def test_each_kind_of_leftover_has_its_reason(reason, tmp_path):
    result = checked(tmp_path, samples.changed(PLANTS[reason]))
    assert reason in result.reasons, result.reasons
    assert (result.exit_code == 4) == any(str(REASONS[code][0]) == "leak" for code in result.reasons)


def test_bits_of_compressed_pixels_that_no_viewer_shows_are_found(tmp_path):
    result = checked(tmp_path, samples.changed(_bits_in_compressed_pixels))
    assert "unused-bits" in result.reasons


def test_an_identifier_in_the_pixels_or_a_path_is_found_and_the_path_is_never_shown(tmp_path):
    def burned(ds):
        ds.PixelData = ds.PixelData[:200] + b"QUILLFEATHER" + ds.PixelData[212:]

    folder = tmp_path / "theirs" / samples.SURNAME
    folder.mkdir(parents=True)
    (folder / "a.dcm").write_bytes(samples.changed(burned))
    source = samples.archive(tmp_path / "archive")
    page = tmp_path / "page.html"
    result = meninx.verify(tmp_path / "theirs", originals=source, workers=1, show_paths=True, page=page)
    assert {"identifier-in-bytes PixelData", "identifier-in-path path"} <= result.places.keys()
    assert samples.SURNAME not in result.to_json() + page.read_text()
    assert "<script" not in page.read_text()


def test_one_bad_file_stops_nothing_and_every_file_is_counted(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(samples.clean())
    (folder / "b.dcm").write_bytes(samples.clean(2)[:-100])
    (folder / "c.zip").write_bytes(b"PK\x03\x04 anything")
    (folder / "d.txt").write_text("nothing")
    (folder / "e").symlink_to("/etc/passwd")
    deep = b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x08\x00\x15\x22SQ\0\0\xff\xff\xff\xff" * 4000
    (folder / "f.dcm").write_bytes(samples.clean()[:-2000] + deep)
    result = meninx.verify(folder, workers=1)
    assert result.files == sum(result.verdicts.values()) == 6
    counts = result.verdicts
    assert (counts["nothing found"], counts["unreadable"], counts["not DICOM"]) == (1, 4, 1)
    assert result.exit_code == 3
    with pytest.raises(DataError, match="4 of 6 files could not be checked"):
        result.raise_if_failed()


def test_two_processes_find_what_one_finds(tmp_path):
    folder, source = tmp_path / "theirs", samples.archive(tmp_path / "archive", 3)
    folder.mkdir()
    for number in (1, 2, 3):
        (folder / f"{number}.dcm").write_bytes(samples.clean(number))
    (folder / "4.dcm").write_bytes(samples.saved(samples.original(3)))
    both = [meninx.verify(folder, originals=source, workers=workers).to_json() for workers in (1, 2)]
    assert both[0] == both[1]
    assert json.loads(both[0])["verdicts"] == {
        "nothing found": 3, "suspicious": 0, "leak": 1, "unreadable": 0, "not DICOM": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "Quillfeather^Marigold\nMRN-5512347\n"),
        ("list.csv", "PatientName;PatientID\nQuillfeather, Marigold;MRN-5512347\n"),
        ("list.tsv", "surname\tbirth date\nQuillfeather\t02.05.1961\n"),
    ],
)
def test_a_list_in_any_form_finds_the_name(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(
        samples.changed(lambda ds: setattr(ds, "SeriesDescription", "AX QUILLFEATHER"))
    )
    result = meninx.verify(folder, identifiers=tmp_path / name, workers=1)
    assert result.places.get("identifier SeriesDescription") == 1
    (folder / "a.dcm").write_bytes(samples.clean())
    assert meninx.verify(folder, identifiers=tmp_path / name, workers=1).exit_code == 0


@pytest.mark.parametrize(
    "content", [b"", b"a\nb\n", b"\xff\xfe\0\0", b"x" * 5000, b"name;name\na;b\n", b'=cmd|" /C calc"!A0;"\n']
)
def test_a_list_that_holds_nothing_or_is_damaged_is_refused(content, tmp_path):
    (tmp_path / "list").write_bytes(content)
    with pytest.raises((DataError, UsageError)):
        identifier_list.read(tmp_path / "list")


def test_a_name_that_is_a_word_of_the_field_is_no_leak(tmp_path):
    (tmp_path / "list.txt").write_text("Head^Axial\nBerg\n")
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(samples.changed(lambda ds: setattr(ds, "SeriesDescription", "Head axial")))
    result = meninx.verify(folder, identifiers=tmp_path / "list.txt", workers=1)
    assert (result.verdicts["leak"], result.verdicts["suspicious"]) == (0, 1)
    assert "identifier-by-chance" in result.reasons


def test_settings_without_effect_and_places_that_hold_nothing_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("no image")
    with pytest.raises(UsageError, match="no file is DICOM"):
        meninx.verify(tmp_path)
    with pytest.raises(UsageError, match="no effect without originals"):
        DicomCheckConfig(crosswalks=tmp_path / "a.txt")
    with pytest.raises(UsageError, match="no page to replace"):
        DicomCheckConfig(overwrite=True)
    with pytest.raises(UsageError, match="among the files"):
        dicom_stage.run(tmp_path, DicomCheckConfig(page=tmp_path / "page.html"))


@pytest.mark.skipif(not conformance.is_available(), reason="needs the extra conformance")
def test_dciodvfy_counts_only_errors_that_the_original_does_not_have(tmp_path):
    def broken(ds):
        del ds.SamplesPerPixel

    result = checked(tmp_path, samples.clean(), conformance=True)
    assert (result.exit_code, result.reasons) == (0, {})
    (tmp_path / "theirs" / "a.dcm").write_bytes(samples.changed(broken))
    result = meninx.verify(tmp_path / "theirs", originals=tmp_path / "archive", conformance=True, workers=1)
    assert "new-conformance-error" in result.reasons


def test_members_of_archives_are_files_and_stop_nothing(tmp_path):
    inner, outer = io.BytesIO(), tmp_path / "delivery" / "x.zip"
    save(image(), tmp_path / "delivery" / "plain")
    with zipfile.ZipFile(inner, "w") as archive:
        archive.write(tmp_path / "delivery" / "plain", "a")
    with zipfile.ZipFile(outer, "w") as archive:
        archive.write(tmp_path / "delivery" / "plain", "b")
        archive.writestr("nested.zip", inner.getvalue())
    result = dicom_stage.run(tmp_path / "delivery", DicomCheckConfig())
    assert result.files == 3
    assert result.reasons["unreadable"] == 1


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [("PatientName", "Quentinsson^Marlowena", "person-name"), ("OverlayData", bytes(8), "overlay"),
     ("EncapsulatedDocument", b"%PDF", "encapsulated-document"), ("PixelData", bytes(8), "icon")],
)  # fmt: skip
def test_what_stands_in_items_is_seen(tmp_path, keyword, value, reason):
    def change(ds):
        inner = Dataset()
        if keyword == "OverlayData":
            inner.add_new(0x60003000, "OW", value)
        else:
            setattr(inner, keyword, value)
        if keyword == "PixelData":
            inner[keyword].VR = "OW"
        ds.ReferencedStudySequence = [inner]

    (tmp_path / "one").write_bytes(samples.changed(change))
    assert reason in dicom_stage.run(tmp_path, DicomCheckConfig()).reasons


def _other_study(ds):
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{samples.ROOT}.9"
    ds.StudyInstanceUID = f"{samples.ROOT}.8"


def _other_patient(ds):
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{samples.ROOT}.9"
    ds.PatientID = ds.PatientName = "P0000000000000BC"


def _same_instance(ds):
    ds.InstanceNumber = "7"


@pytest.mark.parametrize(
    ("change", "count"), [(_other_study, 1), (_other_patient, 1), (_same_instance, 1), (None, 0)]
)
def test_a_series_of_two_studies_a_study_of_two_patients_and_a_repeated_instance_conflict(
    change, count, tmp_path
):
    (tmp_path / "a.dcm").write_bytes(samples.clean())
    (tmp_path / "b.dcm").write_bytes(samples.changed(change) if change else samples.clean(2))
    result = dicom_stage.run(tmp_path, DicomCheckConfig())
    assert result.places == ({"uid-conflict StudyInstanceUID": count} if count else {})
    assert (result.exit_code, result.verdicts["suspicious"]) == (0, count)
