"""The noise: the right distribution, independent by address, the same on resume."""

import numpy as np
import pytest
import torch
from scipy import stats

from meninx.core.errors import ConfigError
from meninx.privacy import noise as noises
from meninx.privacy.noise import GaussianNoise

KEY = bytes(range(32))
MANY = 1_500_000


@pytest.mark.parametrize("std", [1.0, 0.037, 250.0])
def test_mean_and_standard_deviation(std):
    values = GaussianNoise(key=KEY, std=std).sample(0, "weight", (MANY,)).double()
    assert abs(float(values.mean())) < 4 * std / np.sqrt(MANY)
    assert float(values.std()) == pytest.approx(std, rel=0.005)


def test_the_distribution_is_normal_out_to_the_tails():
    values = GaussianNoise(key=KEY, std=1.0).sample(1, "weight", (MANY,)).numpy()
    assert stats.kstest(values[:200_000], "norm").pvalue > 1e-3
    for bound in (2.0, 3.0, 4.0):
        rate = 2 * stats.norm.sf(bound)
        assert abs((np.abs(values) > bound).sum() - MANY * rate) < 5 * np.sqrt(MANY * rate)


@pytest.mark.parametrize(
    ("word", "radius"), [(-(2**63), 8.57), (-(2**63) + 100, 8.57), (2**63 - 1, 0.0), (0, 1.177)]
)
def test_the_extreme_words_of_the_stream_are_finite(word, radius):
    class Stuck:
        def read_over(self, zeros, out):
            np.frombuffer(out, dtype=np.int64)[:] = word

    pair = noises._normals(Stuck(), 1, 1.0)
    assert np.hypot(*pair) == pytest.approx(radius, abs=0.01)


def test_steps_parameters_keys_and_neighbours_are_uncorrelated():
    noise = GaussianNoise(key=KEY, std=1.0)
    base = noise.sample(0, "a", (300_000,))
    others = [
        noise.sample(1, "a", (300_000,)),
        noise.sample(0, "b", (300_000,)),
        GaussianNoise(key=bytes(32), std=1.0).sample(0, "a", (300_000,)),
        base.roll(1),
        base.roll(2),
        base.reshape(-1, 2).flip(1).reshape(-1),
    ]
    for other in others[:-1]:
        assert abs(float(torch.corrcoef(torch.stack([base, other]))[0, 1])) < 4 / np.sqrt(300_000)
    squares = torch.stack([base[0::2] ** 2, base[1::2] ** 2])  # the two normals of a pair
    assert abs(float(torch.corrcoef(squares)[0, 1])) < 4 / np.sqrt(150_000)


def test_the_same_address_gives_the_same_bits():
    first, again = (GaussianNoise(key=KEY, std=2.0).sample(5, "conv.weight", (3, 5, 7)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (3, 5, 7)
    assert first.dtype == torch.float32
    long, short = (GaussianNoise(key=KEY, std=2.0).sample(5, "a", (n,)) for n in (100_001, 31))
    assert torch.equal(long[:31], short)


def test_add_leaves_the_gradients_alone():
    noise = GaussianNoise(key=KEY, std=1.0)
    gradients = {"a": torch.ones(4), "b": torch.zeros(2, 3), "scalar": torch.tensor(1.0)}
    noisy = noise.add(gradients, 3)
    assert torch.equal(gradients["a"], torch.ones(4))
    assert torch.equal(noisy["a"], 1 + noise.sample(3, "a", (4,)))
    assert noisy["scalar"].shape == ()
    halves = noise.add(gradients, 3, divisor=2.0)
    assert torch.equal(halves["b"], noisy["b"] / 2)
    other = {
        "a": torch.ones(4, dtype=torch.float64),
        "none": torch.zeros(0, 4),
        "b": torch.ones(2, 3, 4, 5).permute(0, 2, 3, 1),
    }
    assert torch.equal(noise.add(other, 3)["a"], noisy["a"])
    assert torch.equal(noise.add(other, 3)["b"], 1 + noise.sample(3, "b", (2, 4, 5, 3)))


def test_no_noise_is_zero_and_a_bad_std_is_refused():
    assert torch.equal(GaussianNoise(key=KEY, std=0.0).sample(0, "a", (9,)), torch.zeros(9))
    with pytest.raises(ConfigError, match="std"):
        GaussianNoise(key=KEY, std=-1.0)
    assert "key" not in repr(GaussianNoise(key=KEY, std=1.0))
