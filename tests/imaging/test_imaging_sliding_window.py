"""The sliding window in numpy is that of MONAI: places, padding, weights and means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference

from meninx.core.errors import DataError
from meninx.imaging.sliding_window import OVERLAP, SlidingWindow


@given(st.data(), st.integers(2, 3), st.sampled_from([0.0, 0.25, OVERLAP, 0.9]), st.integers(0, 10_000))
def test_it_gives_the_numbers_of_monai(data, axes, overlap, seed):
    size = tuple(data.draw(st.integers(1, 9)) for _ in range(axes))
    roi = tuple(data.draw(st.integers(2, 6)) for _ in range(axes))
    draws = np.random.default_rng(seed)
    image = draws.normal(size=(2, *size)).astype(np.float32)
    blend = draws.normal(size=roi).astype(np.float32)  # an output that depends on the place in the patch

    def network(patch):
        return np.stack([patch[0] * blend, patch[1] + blend, patch.sum(0)])

    def batched(patches):
        return torch.from_numpy(np.stack([network(patch) for patch in patches.numpy()]))

    expected = sliding_window_inference(
        torch.from_numpy(image)[None], roi, 3, batched, overlap=overlap, mode="gaussian",
        padding_mode="replicate",
    )[0]  # fmt: skip
    found = SlidingWindow(roi_size=roi, overlap=overlap).average(network, image)
    assert found.shape == expected.shape
    assert np.abs(found - expected.numpy()).max() <= 2e-6


def test_settings_come_back_from_their_table():
    window = SlidingWindow(roi_size=(16, 16, 8), overlap=0.25)
    assert SlidingWindow.of(window.to_table()) == window


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "constant"},
        {"padding_mode": "reflect"},
        {"overlap": 1.0},
        {"roi_size": []},
        {"roi_size": [0, 4]},
        {"sigma_scale": 0.0},
        {"further": 1},
    ],
)
def test_other_settings_are_refused(change):
    with pytest.raises(DataError, match="sliding_window"):
        SlidingWindow.of({**SlidingWindow(roi_size=(4, 4)).to_table(), **change})


def test_an_image_of_other_axes_is_refused():
    with pytest.raises(DataError, match="2-D images"):
        SlidingWindow(roi_size=(2, 2)).average(lambda patch: patch, np.zeros((1, 3, 3, 3), np.float32))
