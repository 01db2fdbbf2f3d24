"""The steps from a decoded to a stored image, and their table, which may come from anywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meninx.core.errors import DataError, MeninxError
from meninx.imaging.image import Image
from meninx.imaging.preprocessing import Preprocessing, UnfitImage

FIELDS = sorted(Preprocessing.__dataclass_fields__)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.one_of(st.integers(-5, 2**40), st.floats(), st.text(max_size=2)), max_size=4),
)


@given(st.dictionaries(st.one_of(st.sampled_from(FIELDS), st.text(max_size=4)), VALUES, max_size=5))
def test_a_table_from_anywhere_is_steps_or_a_refusal(table):
    try:
        steps = Preprocessing.from_table(table)
    except MeninxError:
        return
    assert Preprocessing.from_table(steps.to_table()) == steps


@pytest.mark.parametrize(
    "table",
    [
        {"code": "$import os"},
        {"size": [16]},
        {"size": [0, 16]},
        {"size": [1 << 40, 1]},
        {"size": [24_000, 24_000]},
        {"size": [3000, 600, 600], "spatial_dims": 3},
        {"size": [1000, 1000, 100], "spatial_dims": 3, "channels": 64},
        {"spatial_dims": 4},
        {"bits": 12},
        {"channels": 0},
        {"spacing_mm": [1.0, 1.0]},
        {"spacing_mm": [1.0, float("nan"), 1.0], "spatial_dims": 3},
        {"window": [5.0, 5.0]},
        {"window": [float("-inf"), 5.0]},
        {"scaling": "window"},
        {"size": "16"},
    ],
)
def test_what_means_nothing_is_refused(table):
    with pytest.raises(DataError):
        Preprocessing.from_table(table)


def test_unknown_names_are_refused():
    with pytest.raises(MeninxError, match="aspect"):
        Preprocessing(aspect="crop")
    with pytest.raises(MeninxError, match="scaling"):
        Preprocessing(scaling="eval")


def test_an_image_that_cannot_be_stored_says_why():
    with pytest.raises(UnfitImage, match="number of channels") as caught:
        Preprocessing().apply(Image(np.zeros((4, 2, 2), np.uint8)))
    assert caught.value.reason == "other number of channels"
    with pytest.raises(UnfitImage, match="give window"):
        Preprocessing().apply(Image(np.zeros((1, 2, 2), np.float32)))


def test_units_stay_units_and_grey_levels_fill_the_bits():
    hounsfield = Preprocessing(spatial_dims=3, scaling="window", window=(-150.0, 200.0))
    values = np.linspace(-1000, 1000, 24, dtype=np.float32).reshape(1, 2, 3, 4)
    stored = hounsfield.apply(Image(values)).array
    assert (stored.min(), stored.max(), stored.dtype) == (-150, 200, np.int16)
    assert hounsfield.intensity.window == (-150.0, 200.0)
    grey = Preprocessing(spatial_dims=3, scaling="image", bits=16)
    assert grey.apply(Image(values)).array.max() == 65535
    assert (grey.display_bits, Preprocessing(bits=16).display_bits) == (0, 16)
