"""What a model gives away about patients: rows, gradients, and what noise hides of them."""

import numpy as np
import pytest
import torch

from meninx.core.errors import DataError
from meninx.learn.config import LearnConfig
from meninx.learn.model_signals import (
    EMBEDDING,
    GRADIENT,
    LOGITS,
    NOISY,
    Released,
    model_signals,
    untrained,
)
from meninx.synthetic.dataset import write_dataset

CONFIG = LearnConfig.of(model="resnet9-small", model_options={"width": 4}, device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("signals") / "data", patients=8, size=16)


def test_a_row_per_patient_and_a_label_in_every_sign(data):
    found = model_signals(untrained(data.info, CONFIG), data, CONFIG)
    assert len(found.patients) == 8
    assert found.rows[LOGITS].shape == (8, 3)
    assert {rows.shape[0] for rows in found.rows.values()} == {8}
    assert NOISY not in found.rows
    first = {case.patient_id: case for case in reversed(data.cases)}
    truth = np.array([[first[one].labels[name] for name in data.info.labels] for one in found.patients])
    assert np.array_equal(found.bias[GRADIENT] < 0, truth == 1)


def test_the_gradient_of_one_image_holds_its_embedding(data):
    single = data.select(lambda case: case.case_id.endswith("-0"))
    found = model_signals(untrained(data.info, CONFIG), single, CONFIG)
    assert np.allclose(found.rows[GRADIENT][:, 3:], found.rows[EMBEDDING], atol=1e-5)
    assert np.allclose(found.rows[GRADIENT][:, :3], found.bias[GRADIENT])


def test_a_released_gradient_is_clipped_and_noisy(data):
    network = untrained(data.info, CONFIG)
    quiet = model_signals(network, data, CONFIG, gradients=Released(1e-3, 0.0))
    assert np.linalg.norm(quiet.bias[NOISY], axis=1).max() <= 1e-3 + 1e-9
    loud = model_signals(network, data, CONFIG, gradients=Released(1.0, 2.0))
    assert 1.0 < loud.bias[NOISY].std() < 3.0
    again = model_signals(network, data, CONFIG, gradients=Released(1.0, 2.0))
    assert np.array_equal(loud.rows[NOISY], again.rows[NOISY])


@pytest.mark.parametrize("dims", [2, 3])
def test_label_maps_are_pooled(tmp_path, dims):
    data = write_dataset(tmp_path / "data", patients=3, size=16, task="segmentation", spatial_dims=dims)
    config = LearnConfig.of(model="unet", model_options={"base": 4}, patch_size=(16,) * dims, device="cpu")
    found = model_signals(untrained(data.info, config), data, config, gradients=Released(1.0, 1.0))
    assert {name: rows.ndim for name, rows in found.rows.items()} == dict.fromkeys(
        (LOGITS, EMBEDDING, GRADIENT, NOISY), 2
    )
    assert found.bias == {}


def test_outputs_alone_take_no_gradient(data):
    found = model_signals(untrained(data.info, CONFIG), data, CONFIG, with_gradients=False)
    assert found.rows.keys() == {LOGITS, EMBEDDING}


def test_a_network_that_gives_nan_is_refused(data):
    network = untrained(data.info, CONFIG)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match="NaN"):
        model_signals(network, data, CONFIG, with_gradients=False)
