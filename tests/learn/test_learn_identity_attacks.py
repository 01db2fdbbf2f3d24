"""The network on pairs learns who is who, and attacks refuse what they cannot be fitted on."""

import numpy as np
import pytest
import torch

from meninx.core.errors import DataError
from meninx.learn.common_grid import grid_images, on_grid
from meninx.learn.identity_attacks import NetworkEmbedding, PairLoader, fit_embedding, restored_embedding
from meninx.learn.sampler import ShuffleSampler
from meninx.metrics.linkage import Owners, measure_linkage
from meninx.synthetic.dataset import write_dataset


def images_of(patients, seed, noise=1.0, side=16):
    """Return smooth patterns of patients with noise, two images of each, and the patients."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(size=(patients, 1, 4, 4)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear").numpy()
    images = np.repeat(smooth, 2, axis=0) + noise * rng.normal(size=(2 * patients, 1, side, side))
    return images.astype(np.float32), [f"p{seed}-{row // 2}" for row in range(2 * patients)]


def test_a_trained_network_links_patients_that_it_never_saw():
    images, people = images_of(60, 0)
    others, names = images_of(40, 1)
    embed = fit_embedding("siamese", images, people, steps=60, seed=0)
    found = embed(others)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)
    owners = Owners(tuple(names), tuple(map(str, range(len(names)))))
    record = measure_linkage("siamese", found @ found.T, owners)
    assert record.p_at_1 > 0.5
    assert isinstance(embed, NetworkEmbedding)
    assert np.allclose(restored_embedding(embed.state(), channels=1, dims=2)(others), found, atol=1e-5)
    with pytest.raises(DataError, match="embedding"):
        restored_embedding({"mean": embed.state()["mean"]}, channels=1, dims=2)


def test_even_units_show_one_patient_and_odd_ones_two():
    images = torch.arange(12.0)[:, None, None, None].expand(12, 1, 8, 8).contiguous() * 100
    loader = PairLoader(images, tuple((row, row + 1) for row in range(0, 12, 2)), seed=0)
    (batch,) = loader.batches(ShuffleSampler(16, 16, 0)(0), 0, 16)
    assert batch.inputs.shape == (16, 2, 1, 8, 8)
    shown = (batch.inputs.mean(dim=(2, 3, 4)) / 200).round()  # both images of a patient are near 200 n
    assert int(batch.targets.sum()) == 8
    (again,) = loader.batches(ShuffleSampler(16, 16, 0)(0), 0, 16)
    assert torch.equal(batch.inputs, again.inputs)
    assert shown.shape == (16, 2)


def test_a_network_needs_two_patients_with_two_images():
    images, people = images_of(2, 0)
    with pytest.raises(DataError, match="at least 2 patients"):
        fit_embedding("siamese", images[:3], people[:3], steps=1)


def test_images_of_any_size_come_to_one_grid(tmp_path):
    data = write_dataset(tmp_path / "data", patients=3, size=32)
    assert grid_images(data, side=8).shape == (len(data), 1, 8, 8)
    volumes = write_dataset(tmp_path / "v", patients=3, size=16, task="segmentation", spatial_dims=3)
    assert grid_images(volumes, side=8).shape == (3, 1, 8, 8, 8)
    assert torch.equal(on_grid(torch.arange(4.0).reshape(1, 1, 2, 2), (1, 1)), torch.full((1, 1, 1, 1), 1.5))
