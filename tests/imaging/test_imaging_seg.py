from __future__ import annotations

import sys

import dicoms
import numpy as np
import pydicom
import pytest
from seg_reader import read_seg

from meninx.core.errors import DataError, UsageError
from meninx.imaging import dicom_image, seg
from meninx.imaging.image import Image

pytest.importorskip("highdicom")
RADIOGRAPH = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1", "Modality": "DX"}
VOLUME = np.arange(5 * 4 * 3, dtype=np.int16).reshape(5, 4, 3)


@pytest.fixture
def series(tmp_path):
    return dicoms.series(
        tmp_path / "series", VOLUME, directions=dicoms.oblique(), FrameOfReferenceUID="1.2.3"
    )


def test_a_volume_comes_back_voxel_by_voxel(tmp_path, series):
    image = dicom_image.read_series(series)
    labels = np.random.default_rng(0).integers(0, 3, image.array.shape, dtype=np.uint8)
    labels[..., 2] = 0  # a slice without any
    out = tmp_path / "seg.dcm"
    seg.write_seg(Image(labels, image.affine), list(reversed(series)), ["liver", "tumour"], out)
    back = read_seg(out, series)
    np.testing.assert_array_equal(back.array, labels)
    np.testing.assert_allclose(back.affine, image.affine)
    assert back.header["labels"] == ["liver", "tumour"]
    dataset = pydicom.dcmread(out)
    assert dataset.Modality == "SEG"
    assert dataset.PatientID == "P1"
    assert dataset.StudyInstanceUID == dicoms.STUDY
    assert dataset.SeriesInstanceUID != dicoms.SERIES
    referred = {
        item.ReferencedSOPInstanceUID
        for item in dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert referred == {pydicom.dcmread(path).SOPInstanceUID for path in series}


@pytest.mark.parametrize("fill", [0, 1])
def test_a_radiograph(tmp_path, fill):
    path = dicoms.write(tmp_path / "one", dicoms.image(np.zeros((6, 7), np.uint8), **RADIOGRAPH))
    labels = np.zeros((1, 6, 7), np.uint8)
    labels[0, 1:3, 4] = fill
    seg.write_seg(
        labels,
        [path],
        ["lung"],
        tmp_path / "seg.dcm",
        uid={"series": "2.25.1", "instance": "2.25.2"}.__getitem__,
    )
    np.testing.assert_array_equal(read_seg(tmp_path / "seg.dcm", [path]).array, labels)
    assert pydicom.dcmread(tmp_path / "seg.dcm").SOPInstanceUID == "2.25.2"


def test_what_does_not_fit_is_refused(tmp_path, series):
    image = dicom_image.read_series(series)
    out = tmp_path / "seg.dcm"
    zeros = np.zeros(image.array.shape, np.uint8)
    for labels, message in (
        (zeros + 3, "values 0 to 2"),
        (zeros[:, :2], "slices, rows, columns"),
        (zeros.astype(np.float32), "whole numbers"),
        (Image(zeros, np.eye(4)), "affine of the series"),
    ):
        with pytest.raises(DataError, match=message):
            seg.write_seg(labels, series, ["a", "b"], out)
    with pytest.raises(DataError, match="source image"):
        seg.write_seg(zeros, [], ["a"], out)
    assert not out.exists()


def test_existing_files_stay_unless_asked(tmp_path, series):
    out = tmp_path / "seg.dcm"
    zeros = np.zeros((1, 3, 4, 5), np.uint8)
    seg.write_seg(zeros, series, ["a"], out)
    with pytest.raises(UsageError, match="overwrite"):
        seg.write_seg(zeros, series, ["a"], out)
    seg.write_seg(zeros, series, ["a"], out, overwrite=True)


def test_without_highdicom_the_error_says_what_to_install(tmp_path, series, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(UsageError, match=r"meninx\[export\]"):
        seg.write_seg(np.zeros((1, 3, 4, 5), np.uint8), series, ["a"], tmp_path / "seg.dcm")
