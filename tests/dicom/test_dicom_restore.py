from __future__ import annotations

import json

import numpy as np
import pydicom
import pytest

from meninx.core.errors import DataError, UsageError
from meninx.dicom import restore
from meninx.imaging import dicom_image, png
from meninx.imaging.image import Image
from meninx.imaging.tags import new_uid

RNG = np.random.default_rng(3)


def make(tmp_path, array, table, **more):
    png.write(tmp_path / "a.png", Image(array))
    (tmp_path / "a.json").write_text(json.dumps(table))
    restore.dicom_from_png(tmp_path / "a.png", tmp_path / "a.json", tmp_path / "a.dcm", **more)
    return pydicom.dcmread(tmp_path / "a.dcm")


@pytest.mark.parametrize(
    ("shape", "kind"), [((1, 5, 7), "uint8"), ((1, 5, 7), "uint16"), ((3, 5, 7), "uint8")]
)
def test_pixels_and_their_module(tmp_path, shape, kind):
    array = RNG.integers(0, np.iinfo(kind).max, shape, dtype=kind, endpoint=True)
    dataset = make(tmp_path, array, {"Modality": "DX"})
    assert (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel) == (5, 7, shape[0])
    assert dataset.BitsAllocated == dataset.BitsStored == dataset.HighBit + 1 == 8 * np.dtype(kind).itemsize
    assert dataset.PhotometricInterpretation == ("RGB" if shape[0] == 3 else "MONOCHROME2")
    assert len(dataset.PixelData) % 2 == 0
    np.testing.assert_array_equal(dicom_image.read_instance(tmp_path / "a.dcm").array, array)


def test_a_bare_side_car_gives_a_secondary_capture_with_what_every_image_must_have(tmp_path):
    dataset = make(tmp_path, np.zeros((1, 2, 2), np.uint8), {})
    assert dataset.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    for keyword in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "AccessionNumber",
        "StudyID",
    ):
        assert keyword in dataset
    assert dataset.Modality == "OT"
    assert dataset.ConversionType
    for uid in (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID):
        assert uid.is_valid
        assert uid.startswith("2.25.")
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID


def test_attributes_by_keyword_and_by_tag_plain_and_in_the_json_model(tmp_path):
    table = {
        "ViewPosition": "PA",
        "00180015": {"vr": "CS", "Value": ["CHEST"]},
        "PixelSpacing": [0.5, 0.25],
        "PatientName": "Pseudonym",
        "WindowCenter": {"vr": "DS", "Value": [40]},
        "KVP": None,
        "00091001": {"vr": "LO", "Value": ["private"]},
        "7FE00010": {"vr": "OB", "InlineBinary": "AAAA"},
        "TransferSyntaxUID": "1.2",
    }
    dataset = make(tmp_path, np.zeros((1, 2, 2), np.uint8), {"attributes": table})
    assert (dataset.ViewPosition, dataset.BodyPartExamined, dataset.PatientName) == (
        "PA",
        "CHEST",
        "Pseudonym",
    )
    assert list(dataset.PixelSpacing) == [0.5, 0.25]
    assert dataset.WindowCenter == 40
    assert dataset.KVP is None
    assert (0x0009, 0x1001) not in dataset
    assert dataset.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian


def test_uids_come_from_the_given_function(tmp_path):
    table = {
        "StudyInstanceUID": "1.2.1",
        "SeriesInstanceUID": "1.2.2",
        "SOPInstanceUID": "1.2.3",
        "FrameOfReferenceUID": "1.2.4",
    }
    dataset = make(tmp_path, np.zeros((1, 2, 2), np.uint8), table, uid=lambda old: f"{old}.9")
    assert [dataset[name].value for name in table] == ["1.2.1.9", "1.2.2.9", "1.2.3.9", "1.2.4.9"]
    fresh = make(tmp_path, np.zeros((1, 2, 2), np.uint8), table, overwrite=True)
    assert not set(table.values()) & {fresh[name].value for name in table}


def test_signed_values_and_few_bits_come_back(tmp_path):
    stored = np.array([[-1024, 0], [5, 3071]])
    table = {
        "meninx": {"offset": 32768},
        "attributes": {"BitsStored": 12, "PhotometricInterpretation": "MONOCHROME1"},
    }
    dataset = make(tmp_path, (stored + 32768).astype(np.uint16)[None], table)
    assert (dataset.PixelRepresentation, dataset.PhotometricInterpretation) == (1, "MONOCHROME1")
    np.testing.assert_array_equal(dicom_image.read_instance(tmp_path / "a.dcm").array[0], stored)
    assert dataset.BitsStored == 16  # 3071 does not fit 12 bits with a sign
    low = make(tmp_path, np.full((1, 2, 2), 4095, np.uint16), {"BitsStored": 12}, overwrite=True)
    assert (low.BitsStored, low.HighBit, low.BitsAllocated) == (12, 11, 16)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"ViewPositoin": "PA"}, "ViewPositoin"),
        ({"PixelSpacing": {"vr": "DS", "Value": ["planted"]}}, "PixelSpacing"),
        ({"Rows": "planted"}, "DICOM JSON model|fit their attributes"),
        ([], "JSON object"),
        ({"meninx": 3}, "JSON object"),
    ],
)
def test_side_cars_that_are_none(tmp_path, table, message):
    if isinstance(table, dict) and table.get("Rows"):
        table = {"RescaleSlope": "planted"}
    with pytest.raises(DataError, match=message.replace("PixelSpacing", "PixelSpacing|fit")) as caught:
        make(tmp_path, np.zeros((1, 2, 2), np.uint8), table)
    assert "planted" not in str(caught.value)
    assert not (tmp_path / "a.dcm").exists()


def test_existing_files_stay_unless_asked(tmp_path):
    make(tmp_path, np.zeros((1, 2, 2), np.uint8), {})
    with pytest.raises(UsageError, match="overwrite"):
        make(tmp_path, np.zeros((1, 2, 2), np.uint8), {})


def test_fresh_uids_are_valid_and_differ():
    uids = {new_uid() for _ in range(50)}
    assert len(uids) == 50
    assert all(pydicom.uid.UID(uid).is_valid and len(uid) <= 64 for uid in uids)
