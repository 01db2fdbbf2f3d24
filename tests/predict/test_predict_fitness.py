"""What is refused of an image, and what is worth a warning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from meninx.core.intensity import Intensity, Observed
from meninx.core.manifest import DatasetInfo, TaskKind
from meninx.imaging.image import Image
from meninx.imaging.preprocessing import Preprocessing, UnfitImage, refuse_unfit
from meninx.learn.config import ModelConfig
from meninx.predict import fitness

FLAT = DatasetInfo(name="flat", task=TaskKind.MULTILABEL, labels=("a",), size=(8, 8))
CT = DatasetInfo(
    name="ct",
    task=TaskKind.SEGMENTATION,
    labels=("a",),
    spatial_dims=3,
    intensity=Intensity(window=(-150.0, 200.0), shift=25.0, scale=175.0, source="standard"),
)
WINDOW = Preprocessing(spatial_dims=3, scaling="window", window=(-150.0, 200.0))


def noise(*shape: int, low: int = 0, high: int = 256, kind: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, shape).astype(kind)


def kinds(array, steps, info, affine=None):
    image = Image(array) if affine is None else Image(array, affine)
    return [kind for kind, _ in fitness.remarks(image, steps.apply(image), steps, info)]


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (noise(1, 4, 4, 4), "volume for a model of 2-D images"),
        (noise(2, 4, 4), "2 channels for a model of 1"),
        (np.full((1, 4, 4), np.nan, np.float32), "NaN or infinite values"),
        (np.full((1, 4, 4), 3, np.uint8), "one value in the whole image"),
    ],
)
def test_refusals(array, reason):
    with pytest.raises(UnfitImage) as caught:
        refuse_unfit(Image(array), FLAT.spatial_dims, FLAT.channels)
    assert caught.value.reason == reason


def test_a_slice_for_a_model_of_volumes():
    with pytest.raises(UnfitImage, match="2-D image for a model of volumes"):
        refuse_unfit(Image(noise(1, 4, 4)), CT.spatial_dims, CT.channels)


def test_sizes():
    fitness.refuse_size((8, 8), FLAT, ModelConfig())
    fitness.refuse_size((4, 9, 7), CT, ModelConfig(patch_size=(8, 8, 8)))
    fitness.refuse_size((4, 6), FLAT, ModelConfig(image_size=(8, 8)))
    with pytest.raises(UnfitImage, match="size 9 x 8 for a model of 8 x 8"):
        fitness.refuse_size((9, 8), FLAT, ModelConfig())
    with pytest.raises(UnfitImage, match="size 9 x 8"):
        fitness.refuse_size((9, 8), FLAT, ModelConfig(image_size=(8, 8)))


def test_an_image_like_those_of_the_training_is_passed_in_silence():
    steps = Preprocessing(size=(8, 8))
    assert kinds(noise(1, 12, 10), steps, FLAT) == []
    assert kinds(np.repeat(noise(1, 12, 10), 3, axis=0), steps, FLAT) == []  # grey, stored as colour
    assert kinds(noise(1, 9, 9, 9, low=-900, high=900, kind=np.int16), WINDOW, CT) == []


def test_colours():
    assert kinds(noise(3, 8, 8), Preprocessing(), FLAT) == [fitness.COLOUR]
    assert kinds(noise(1, 8, 8), Preprocessing(channels=3), replace(FLAT, channels=3)) == [fitness.GREY]


def test_channels_with_windows_of_their_own():
    info = replace(CT, channels=2, intensity=Intensity())
    steps = Preprocessing(
        spatial_dims=3, channels=2, each_channel=True, scaling="window", window=(-150.0, 200.0, 0.0, 10.0)
    )
    array = noise(2, 9, 9, 9, low=-140, high=190, kind=np.int16)
    found = fitness.remarks(Image(array), steps.apply(Image(array)), steps, info)
    assert found == []
    array[1] = 5000
    array[1, 0, 0, 0] = 4999
    ((kind, said),) = fitness.remarks(Image(array), steps.apply(Image(array)), steps, info)
    assert (kind, said) == (fitness.OUTSIDE, "channel 2, 100% outside 0 to 10")
    with pytest.raises(UnfitImage, match="3 channels for a model of 1"):
        refuse_unfit(Image(noise(3, 4, 4, 4)), CT.spatial_dims, CT.channels)


def test_units():
    assert kinds(noise(1, 9, 9, 9, low=5, high=900, kind=np.int16), WINDOW, CT) == [fitness.NO_UNITS]
    assert fitness.OUTSIDE in kinds(noise(1, 9, 9, 9, low=-90000, high=90000, kind=np.int32), WINDOW, CT)


def test_spacing():
    info = replace(CT, spacing_mm=(1.0, 1.0, 3.0))
    array = noise(1, 9, 9, 9, low=-900, high=900, kind=np.int16)
    assert kinds(array, WINDOW, info, np.diag([1.2, 1.0, 3.0, 1.0])) == []
    assert kinds(array, WINDOW, info, np.diag([1.2, 1.0, 6.0, 1.0])) == [fitness.SPACING]
    observed = Observed(images=3, brightness=(0.0, 0.0), spacing_mm=((1, 1), (1, 1), (3, 6)))
    ranged = replace(info, observed=observed)
    assert kinds(array, WINDOW, ranged, np.diag([1.2, 1.0, 6.0, 1.0])) == []
    resampled = replace(WINDOW, spacing_mm=(1.0, 1.0, 1.0))
    assert kinds(array, resampled, CT, np.diag([1.0, 1.0, 8.0, 1.0])) == [fitness.COARSE]


def test_brightness_counts_only_with_enough_images():
    observed = Observed(images=50, brightness=(30.0, 5.0))
    array = noise(1, 8, 8)
    assert kinds(array, Preprocessing(), replace(FLAT, observed=observed)) == [fitness.INTENSITY]
    few = replace(FLAT, observed=replace(observed, images=5))
    assert kinds(array, Preprocessing(), few) == []
    stored = replace(FLAT, intensity=Intensity(window=(0.0, 65535.0), shift=1.0, scale=1.0))
    near = replace(FLAT, observed=Observed(images=50, brightness=(float(array.mean()), 5.0)))
    assert fitness.remarks_on_stored(array.astype(np.uint16) * 257, near, stored) == []
    assert fitness.remarks_on_stored(array, near, stored) != []
