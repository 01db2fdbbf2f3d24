from __future__ import annotations

import csv
import json

import clean_dicoms
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless

from meninx.core.errors import ConfigError, PrivacyRefusal, UsageError
from meninx.dicom.export import ExportConfig, export_images
from meninx.dicom.restore import restore_images
from meninx.imaging import decode, dicom_image, png

RNG = np.random.default_rng(5)
GREY8 = RNG.integers(0, 256, (6, 5), dtype=np.uint8)
GREY12 = RNG.integers(0, 4096, (6, 5), dtype=np.uint16)
SIGNED = RNG.integers(-1024, 3000, (6, 5)).astype(np.int16)
RGB = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
VOLUME = RNG.integers(-1000, 1000, (4, 6, 5)).astype(np.int16)
RESCALE = {"RescaleSlope": 1, "RescaleIntercept": -24, "WindowCenter": 40, "WindowWidth": 400}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    add = lambda name, pixels, **more: clean_dicoms.write(  # noqa: E731
        folder / name, clean_dicoms.image(pixels, series=name, **more)
    )
    add("grey8", GREY8, patient="P1", ViewPosition="PA", ImageComments="effusion")
    add("grey12", GREY12, patient="P2", BitsStored=12, HighBit=11, PhotometricInterpretation="MONOCHROME1")
    add("signed", SIGNED, patient="P2", **RESCALE)
    add("colour", RGB, patient="P3")
    clean_dicoms.series(folder / "ct", VOLUME, **RESCALE)
    (folder / "notes.txt").write_text("not an image")
    return folder


def exported(out):
    return {
        row["SeriesInstanceUID"]: row for row in csv.DictReader((out / "export.csv").read_text().splitlines())
    }


def test_lossless_pictures_and_one_volume_a_series(tmp_path, source):
    out = tmp_path / "out"
    result = export_images(source, out, ExportConfig())
    assert (result.pictures, result.volumes, result.instances, result.passed_over, result.failed) == (
        4,
        1,
        8,
        1,
        (),
    )
    for name, patient, pixels, offset in (
        ("grey8", "P1", GREY8, 0),
        ("grey12", "P2", GREY12, 0),
        ("signed", "P2", SIGNED, 32768),
    ):
        row = exported(out)[clean_dicoms.uid(patient, name)]
        assert row["file"] == f"{patient}/{row['SeriesInstanceUID']}/{row['SOPInstanceUID']}.png"
        np.testing.assert_array_equal(png.read(out / row["file"]).array[0].astype(int) - offset, pixels)
        assert json.loads((out / row["file"]).with_suffix(".json").read_text())["meninx"]["offset"] == offset
    row = exported(out)[clean_dicoms.uid("P3", "colour")]
    np.testing.assert_array_equal(np.moveaxis(png.read(out / row["file"]).array, 0, -1), RGB)
    volume = nib.load(out / exported(out)[clean_dicoms.uid("P1", "ct")]["file"])
    np.testing.assert_array_equal(np.asarray(volume.dataobj).transpose(2, 1, 0), VOLUME - 24)
    expected = [[-0.75, 0, 0, -1], [0, -0.5, 0, -2], [0, 0, 2, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.affine, expected, atol=1e-3)


def test_nothing_but_the_listed_attributes_leaves(tmp_path, source):
    out = tmp_path / "out"
    export_images(source, out, ExportConfig())
    for name, content in clean_dicoms.tree(out).items():
        assert b"lanted" not in content
        assert b"effusion" not in content
        assert "lanted" not in name
        assert "grey" not in name
    row = exported(out)[clean_dicoms.uid("P1", "grey8")]
    attributes = json.loads((out / row["file"]).with_suffix(".json").read_text())["attributes"]
    assert attributes["00185101"] == {"vr": "CS", "Value": ["PA"]}
    assert "7FE00010" not in attributes
    more = tmp_path / "more"
    export_images(source, more, ExportConfig(attributes=("ImageComments",)))
    attributes = json.loads((more / row["file"]).with_suffix(".json").read_text())["attributes"]
    assert attributes["00204000"]["Value"] == ["effusion"]


def test_export_and_back_gives_the_same_pixels_and_attributes(tmp_path, source):
    out, back = tmp_path / "out", tmp_path / "back"
    export_images(source, out, ExportConfig())
    result = restore_images(out, back, uid=lambda old: old)
    assert (result.pictures, result.failed) == (4, ())
    originals = {
        pydicom.dcmread(path).SOPInstanceUID: path
        for path in decode.find_files(source)
        if decode.is_dicom(path)
    }
    skipped = {
        "PatientName",
        "StudyDescription",
        "StudyDate",
        "StudyTime",
        "StudyID",
        "AccessionNumber",
        "PixelData",
    }
    for path in decode.find_files(back):
        new = pydicom.dcmread(path)
        old = pydicom.dcmread(originals[new.SOPInstanceUID])
        np.testing.assert_array_equal(new.pixel_array, old.pixel_array)
        for element in old:
            if element.keyword not in {*skipped, "ImageComments"}:
                same = new[element.keyword].value == element.value
                assert same or (element.keyword == "BitsStored" and new.BitsStored >= old.BitsStored), (
                    element.keyword
                )
        for intensity in ("modality", "display"):
            one = dicom_image.read_instance(path, intensity=intensity).array.astype(int)
            other = dicom_image.read_instance(
                originals[new.SOPInstanceUID], intensity=intensity
            ).array.astype(int)
            assert np.abs(one - other).max() <= 1


def test_the_way_back_keeps_studies_together_under_fresh_uids(tmp_path, source):
    out, back = tmp_path / "out", tmp_path / "back"
    export_images(source, out, ExportConfig())
    restore_images(out, back)
    studies = {}
    for path in decode.find_files(back):
        dataset = pydicom.dcmread(path)
        studies.setdefault(dataset.PatientID, set()).add(dataset.StudyInstanceUID)
        assert dataset.StudyInstanceUID != clean_dicoms.uid(dataset.PatientID, "study")
    assert {patient: len(found) for patient, found in studies.items()} == {"P1": 1, "P2": 1, "P3": 1}
    assert restore_images(out, back).unchanged == 4


@pytest.mark.parametrize("bits", [8, 16])
def test_display_pictures_are_what_a_screen_shows(tmp_path, source, bits):
    out = tmp_path / "out"
    export_images(source, out, ExportConfig(intensity="display", bits=bits))
    row = exported(out)[clean_dicoms.uid("P2", "grey12")]
    shown = dicom_image.read_instance(source / "grey12", intensity="display", bits=bits).array
    np.testing.assert_array_equal(png.read(out / row["file"]).array, shown)
    back = tmp_path / "back"
    assert restore_images(out, back, uid=lambda old: old).failed == ()
    dataset = pydicom.dcmread((back / row["file"]).with_suffix(".dcm"))
    assert (dataset.PhotometricInterpretation, dataset.BitsAllocated, dataset.ImageType[0]) == (
        "MONOCHROME2",
        bits,
        "DERIVED",
    )
    row = exported(out)[clean_dicoms.uid("P2", "signed")]
    assert "RescaleIntercept" not in pydicom.dcmread((back / row["file"]).with_suffix(".dcm"))
    volume = nib.load(out / exported(out)[clean_dicoms.uid("P1", "ct")]["file"])
    assert volume.get_data_dtype() == f"uint{bits}"


def test_files_that_are_not_marked_are_refused_before_anything_is_written(tmp_path, source):
    clean_dicoms.write(source / "unmarked", clean_dicoms.image(GREY8, patient="P9", series="u", clean=False))
    out = tmp_path / "out"
    with pytest.raises(PrivacyRefusal, match=r"1 file without it, the first at position 10") as caught:
        export_images(source, out, ExportConfig())
    assert "unmarked" not in str(caught.value)
    assert not out.exists()
    assert export_images(source, out, ExportConfig(trusted=True)).pictures == 5


def test_failures_are_reported_and_stop_nothing(tmp_path, source):
    clean_dicoms.series(source / "gap", VOLUME, name="gap", heights=[0, 2, 6, 8])
    broken = clean_dicoms.image(np.zeros((64, 64), np.uint8), patient="P7", series="broken")
    broken.compress(JPEG2000Lossless, generate_instance_uid=False)
    broken.PixelData = broken.PixelData[:40]
    clean_dicoms.write(source / "zz_broken", broken)
    report = clean_dicoms.image(GREY8, patient="P8", series="report")
    del report.PixelData
    clean_dicoms.write(source / "zz_report", report)
    clean_dicoms.write(source / "zz_twice", clean_dicoms.image(GREY8, patient="P1", series="grey8"))
    result = export_images(source, tmp_path / "out", ExportConfig())
    assert (result.pictures, result.volumes) == (4, 1)
    reasons = [reason for _, reason in result.failed]
    assert len(reasons) == 7
    assert sum("1 missing" in reason for reason in reasons) == 4
    assert sum("JPEG 2000" in reason for reason in reasons) == 1
    assert sum("without PixelData" in reason for reason in reasons) == 1
    assert sum("occurs a second time" in reason for reason in reasons) == 1
    assert json.loads((tmp_path / "out" / "export.json").read_text())["failed"] == [
        list(item) for item in result.failed
    ]


def test_planes_of_several_orientations_are_taken_apart(tmp_path):
    folder = tmp_path / "source"
    clean_dicoms.series(folder, VOLUME, name="mixed")
    turned = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "ImagePositionPatient": [0, 0, 0]}
    single = clean_dicoms.image(
        SIGNED,
        series="mixed",
        number=99,
        PixelSpacing=[1, 1],
        FrameOfReferenceUID=clean_dicoms.uid("P1", "frame"),
        **turned,
    )
    clean_dicoms.write(folder / "scout", single)
    result = export_images(folder, tmp_path / "out", ExportConfig())
    assert (result.volumes, result.pictures, result.failed) == (1, 1, ())


def test_run_again_it_skips_and_goes_on(tmp_path, source):
    out = tmp_path / "out"
    export_images(source, out, ExportConfig())
    before = clean_dicoms.tree(out)
    lost = next(path for path in sorted(out.rglob("*.json")) if path.parent != out)
    lost.unlink()
    result = export_images(source, out, ExportConfig())
    assert (result.pictures, result.unchanged) == (4, 4)
    assert clean_dicoms.tree(out) == before
    with pytest.raises(UsageError, match="other settings"):
        export_images(source, out, ExportConfig(intensity="display"))
    assert export_images(source, out, ExportConfig(intensity="display", overwrite=True)).unchanged == 0


def test_multi_frame_objects_become_volumes(tmp_path):
    dataset = clean_dicoms.image(GREY8, series="cine")
    dataset.NumberOfFrames = 2
    dataset.PixelData = GREY8.tobytes() + (255 - GREY8).tobytes()
    clean_dicoms.write(tmp_path / "source" / "cine", dataset)
    result = export_images(tmp_path / "source", tmp_path / "out", ExportConfig())
    assert (result.volumes, result.failed) == (1, ())
    data = np.asarray(nib.load(next((tmp_path / "out").rglob("*.nii.gz"))).dataobj)
    np.testing.assert_array_equal(data[..., 1].T, 255 - GREY8)


@pytest.mark.parametrize(
    "wrong", [{"intensity": "raw"}, {"bits": 12}, {"attributes": ("PixelData",)}, {"attributes": ("X",)}]
)
def test_settings_are_checked(wrong):
    with pytest.raises(ConfigError):
        ExportConfig(**wrong)
