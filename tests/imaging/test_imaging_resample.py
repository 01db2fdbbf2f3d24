from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from meninx.core.errors import DataError
from meninx.imaging import resample
from meninx.imaging.image import Image


def ramp(affine: np.ndarray, size: tuple[int, int, int] = (9, 7, 5)) -> Image:
    """A volume whose values are a linear function of the millimetres."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), -1)
    places = grid @ affine[:3, :3].T + affine[:3, 3]
    return Image((places @ [3.0, -2.0, 0.5])[None].astype(np.float32), affine)


def values_at_their_places(image: Image) -> np.ndarray:
    return ramp(image.affine, image.size).array


AFFINES = [
    np.diag([1.0, 2.0, 4.0, 1.0]),
    np.array([[0, -2.0, 0, 10], [1.0, 0, 0, -5], [0, 0, 3.0, 1], [0, 0, 0, 1]]),
]


@pytest.mark.parametrize("affine", AFFINES)
def test_canonical_moves_axes_not_voxels(affine):
    image = ramp(affine)
    turned = resample.canonical(image)
    assert nib.aff2axcodes(turned.affine) == ("R", "A", "S")
    assert np.allclose(turned.array, values_at_their_places(turned), atol=1e-4)
    assert sorted(turned.size) == sorted(image.size)


@pytest.mark.parametrize(
    ("spacing", "size"), [((2.0, 1.5, 2.0), ()), ((), (20, 5, 8)), ((2.0, 2.0, 2.0), (12, 4, 6))]
)
def test_resampled_voxels_lie_where_the_affine_says(spacing, size):
    image = ramp(AFFINES[0])
    out = resample.volume(image, spacing_mm=spacing, size=size)
    if spacing:
        assert out.spacing_mm == pytest.approx(spacing)
    if size:
        assert out.size == size
    expected = values_at_their_places(out)
    low, high = image.affine[:3, 3], (image.affine @ [*(n - 1 for n in image.size), 1])[:3]
    grid = (
        np.stack(np.meshgrid(*(np.arange(n) for n in out.size), indexing="ij"), -1) @ out.affine[:3, :3].T
        + out.affine[:3, 3]
    )
    inside = ((grid >= low) & (grid <= high)).all(-1)
    assert inside.sum() > 20
    assert np.allclose(out.array[0][inside], expected[0][inside], atol=1e-3)


def test_the_centre_stays_in_place():
    image = ramp(AFFINES[1])
    out = resample.volume(image, spacing_mm=(0.7, 1.1, 1.3))
    centres = [(each.affine @ [*((n - 1) / 2 for n in each.size), 1])[:3] for each in (image, out)]
    assert np.allclose(*centres)


def test_label_maps_keep_type_and_values():
    labels = np.zeros((1, 9, 7, 5), np.uint8)
    labels[0, 2:5, 1:4, 2:] = 2
    out = resample.volume(Image(labels, AFFINES[0]), spacing_mm=(0.5, 0.5, 0.5), labels=True)
    assert out.array.dtype == np.uint8
    assert set(np.unique(out.array)) == {0, 2}
    share = (out.array == 2).mean() / (labels == 2).mean()
    assert share == pytest.approx(1, abs=0.05)


def test_nothing_asked_nothing_done():
    image = ramp(AFFINES[0])
    assert resample.volume(image) is image
    assert resample.canonical(image) is image


def test_area_shrinking_of_pictures_is_the_mean():
    array = np.arange(64, dtype=np.float32).reshape(1, 8, 8)
    assert np.allclose(resample.picture(array, (4, 4)), array.reshape(1, 4, 2, 4, 2).mean((2, 4)))


def test_padding_centres_the_picture():
    array = np.full((1, 4, 8), 9, np.uint8)
    out = resample.picture(array, (8, 8), aspect="pad")
    assert out[0, 2:6].min() == 9
    assert out[0, :2].max() == out[0, 6:].max() == 0


def test_spacing_of_a_nifti_header_resamples_as_that_of_dicom():
    """A header holds float32: 0.7 is 0.699999988 there, which moved rounded voxels by 1 HU."""
    values = np.random.default_rng(0).integers(-1000, 1000, (1, 40, 40, 20)).astype(np.int16)
    exact = np.diag([0.7, 0.7, 2.5, 1.0])
    stored = exact.astype(np.float32).astype(np.float64)
    made = [
        resample.volume(Image(values, affine), spacing_mm=(1.4, 1.05, 5.0)).array
        for affine in (exact, stored)
    ]
    assert np.array_equal(*map(np.round, made))


def test_a_size_that_exhausts_the_memory_is_refused_before_anything_is_made():
    small = Image(np.zeros((1, 4, 4, 4), np.float32))
    for spacing in ((), (1.0, 1.0, 1.0)):
        with pytest.raises(DataError, match="the volume would be larger"):
            resample.volume(small, spacing_mm=spacing, size=(3000, 600, 600))
    for aspect in ("stretch", "pad"):
        with pytest.raises(DataError, match="the image would be too large"):
            resample.picture(np.zeros((1, 4, 4), np.uint8), (24_000, 24_000), aspect=aspect)
