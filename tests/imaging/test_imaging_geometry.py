from __future__ import annotations

import dicoms
import nibabel as nib
import numpy as np
import pydicom
import pytest

from meninx.core.errors import DataError
from meninx.imaging import dicom_image, nifti, slice_geometry

VOLUME = np.arange(5 * 4 * 3, dtype=np.int16).reshape(5, 4, 3)


def dicom_point(path, row, column):
    """World coordinates (RAS+) of a pixel, straight from the formula of PS3.3 C.7.6.2.1.1."""
    dataset = pydicom.dcmread(path)
    across, down = np.array(dataset.ImageOrientationPatient).reshape(2, 3).astype(float)
    between_rows, between_columns = (float(x) for x in dataset.PixelSpacing)
    lps = (
        np.array(dataset.ImagePositionPatient, dtype=float)
        + across * between_columns * column
        + down * between_rows * row
    )
    return lps * [-1, -1, 1]


@pytest.mark.parametrize("step", [2.5, -2.5, 0.31])
@pytest.mark.parametrize(
    "directions", [None, dicoms.oblique(), (np.array([0, 1.0, 0]), np.array([0, 0, -1.0]))]
)
def test_every_voxel_lies_where_dicom_says(tmp_path, step, directions):
    paths = dicoms.series(tmp_path, VOLUME, step=step, directions=directions)
    image = dicom_image.read_series(list(reversed(paths)))
    assert image.array.shape == (1, 3, 4, 5)
    nifti.write(tmp_path / "v.nii.gz", image)
    volume = nib.load(tmp_path / "v.nii.gz")
    data = np.asarray(volume.dataobj)
    for index, path in enumerate(paths):
        for row, column in ((0, 0), (3, 2), (1, 2)):
            x, y, z = np.argwhere(data == VOLUME[index, row, column])[0]
            np.testing.assert_allclose(
                nib.affines.apply_affine(volume.affine, [x, y, z]), dicom_point(path, row, column), atol=1e-3
            )
            np.testing.assert_allclose(
                nib.affines.apply_affine(volume.get_qform(), [x, y, z]),
                dicom_point(path, row, column),
                atol=1e-3,
            )
    assert np.linalg.det(image.affine) > 0
    np.testing.assert_allclose(image.spacing_mm, (0.8, 0.7, abs(step)), atol=1e-6)


def test_order_follows_position_and_not_the_instance_number(tmp_path):
    paths = dicoms.series(tmp_path, VOLUME)  # InstanceNumber runs against the position
    image = dicom_image.read_series(sorted(paths))
    np.testing.assert_array_equal(image.array[0].transpose(2, 1, 0), VOLUME)


def test_each_slice_has_its_own_slope(tmp_path):
    paths = []
    for index, slope in enumerate((1, 2, 4)):
        paths += dicoms.series(
            tmp_path / str(index),
            VOLUME[:1] + 1,
            origin=(0, 0, index),
            RescaleSlope=slope,
            RescaleIntercept=0,
        )
    assert dicom_image.read_series(paths).array[0, 0, 0].tolist() == [1, 2, 4]


def test_display_of_a_series_has_one_window(tmp_path):
    paths = []
    for index, center in enumerate((100, 10, 900)):
        more = {"WindowCenter": center, "WindowWidth": 21}
        paths += dicoms.series(tmp_path / str(index), VOLUME[:1], origin=(0, 0, index), **more)
    shown = dicom_image.read_series(paths, intensity="display").array
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown[..., 0], shown[..., 2])
    assert len(np.unique(shown)) == 12


def test_a_tilted_gantry_gives_a_sheared_affine(tmp_path):
    paths = []
    for index in range(4):
        paths += dicoms.series(
            tmp_path / str(index), VOLUME[:1] + 100 * index, origin=(0, 0.5 * index, 2.0 * index)
        )
    image = dicom_image.read_series(paths)
    nifti.write(tmp_path / "v.nii", image)
    back = nifti.read(tmp_path / "v.nii")
    np.testing.assert_allclose(back.affine @ [0, 0, 3, 1], [0, -1.5, 6, 1], atol=1e-5)


def test_one_slice_is_a_volume_of_its_thickness(tmp_path):
    image = dicom_image.read_series(dicoms.series(tmp_path, VOLUME[:1], step=5))
    assert image.size == (3, 4, 1)
    assert image.spacing_mm == pytest.approx((0.8, 0.7, 5))


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 1, 2, 4, 5], r"1 missing, the first behind slice 3 of 5"),
        ([0, 3, 4, 5, 8], r"4 missing, the first behind slice 1"),
        ([0, 1, 2, 3.4, 4.4], r"evenly spaced slices"),
        ([0, 1, 2.06, 3, 4], r"evenly spaced slices"),
        ([0, 1, 1, 2, 3], r"each position once, got 1 slices"),
        ([0, 0, 0, 0, 0], r"each position once, got 4 slices"),
    ],
)
def test_slices_that_make_no_volume(tmp_path, offsets, message):
    with pytest.raises(DataError, match=message) as caught:
        dicom_image.read_series(dicoms.series(tmp_path, VOLUME, offsets=offsets))
    assert "P1" not in str(caught.value)


def test_rounded_positions_are_even(tmp_path):
    offsets = [round(index * 1.3333, 2) for index in range(5)]
    assert dicom_image.read_series(dicoms.series(tmp_path, VOLUME, offsets=offsets)).size == (3, 4, 5)


def test_mixtures_are_refused_and_can_be_taken_apart(tmp_path):
    axial = dicoms.series(tmp_path / "a", VOLUME)
    sagittal = dicoms.series(
        tmp_path / "b", VOLUME[:1], directions=(np.array([0, 1.0, 0]), np.array([0, 0, -1.0]))
    )
    with pytest.raises(DataError, match="2 orientations"):
        dicom_image.read_series(axial + sagittal)
    assert dicom_image.split_orientations(axial + sagittal) == [axial, sagittal]
    other_size = dicoms.series(tmp_path / "c", VOLUME[:1, :2], origin=(-30, 12, 90))
    with pytest.raises(DataError, match="Rows, Columns"):
        dicom_image.read_series(axial + other_size)
    other_frame = dicoms.series(tmp_path / "d", VOLUME[:1], origin=(-30, 12, 20), FrameOfReferenceUID="1.2")
    with pytest.raises(DataError, match="FrameOfReferenceUID"):
        dicom_image.read_series(axial + other_frame)
    other_spacing = dicoms.series(tmp_path / "e", VOLUME[:1], origin=(-30, 12, 20), spacing=(0.7, 0.9))
    with pytest.raises(DataError, match="PixelSpacing"):
        dicom_image.read_series(axial + other_spacing)
    nowhere = dicoms.write(tmp_path / "f", dicoms.image(VOLUME[0]))
    with pytest.raises(DataError, match=r"a slice has no ImagePositionPatient \(instance 6 of 6\)"):
        dicom_image.read_series([*axial, nowhere])
    with pytest.raises(DataError, match="no file was given"):
        dicom_image.read_series([])


@pytest.mark.parametrize(
    ("orientation", "spacing"),
    [
        ([1, 0, 0, 1, 0, 0], [1, 1]),
        ([2, 0, 0, 0, 1, 0], [1, 1]),
        ([1, 0, 0, 0, 1], [1, 1]),
        ([1, 0, 0, 0, 1, 0], [0, 1]),
    ],
)
def test_impossible_planes(orientation, spacing):
    with pytest.raises(DataError):
        slice_geometry.plane([0, 0, 0], orientation, spacing)
