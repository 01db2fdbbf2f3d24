"""A viewmaker stays inside its budget, its box and the range, whatever it predicts and whatever the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meninx.models.viewmaker_networks import LARGEST_SHARE, NETWORKS, project, viewmaker
from meninx.obfuscate.obfuscator import ImageTable
from meninx.obfuscate.viewmaker import FittedViewmaker

CLOSE = 1e-6
budgets = st.floats(0.01, 0.3)
sizes = st.tuples(st.integers(8, 37), st.integers(8, 37))
seeds = st.integers(0, 2**31)
kinds = st.sampled_from(["uniform", "black", "white", "two levels"])


def images(kind, shape, seed, *, eight_bits=True):
    rng = np.random.default_rng(seed)
    values = {
        "uniform": lambda: rng.random(shape),
        "black": lambda: np.zeros(shape),
        "white": lambda: np.ones(shape),
        "two levels": lambda: rng.integers(0, 2, shape),
    }[kind]()
    values = np.round(values * 255) / 255 if eight_bits else values
    return values.astype(np.float32)


def refuse_outside(before, after, budget, *, close=CLOSE):
    change = np.abs(after.astype(np.float64) - before.astype(np.float64))
    assert change.mean(axis=(1, 2, 3)).max() <= budget + close
    assert change.max() <= LARGEST_SHARE * budget + close
    assert after.min() >= -close
    assert after.max() <= 1 + close


@given(budgets, sizes, seeds, kinds, st.sampled_from([1, 3]), st.floats(-4, 4), st.floats(0, 1))
def test_any_change_is_projected_into_the_budget_the_box_and_the_range(
    budget, size, seed, kind, channels, exponent, dense
):
    shape = (3, channels, *size)
    before = images(kind, shape, seed, eight_bits=False)
    rng = np.random.default_rng(seed + 1)
    wanted = rng.normal(0, 10.0**exponent, shape) * (rng.random(shape) <= dense)
    change = project(torch.from_numpy(before), torch.from_numpy(wanted.astype(np.float32)), budget)
    refuse_outside(before, before + change.numpy(), budget)


@given(budgets, sizes, seeds)
def test_a_change_that_is_inside_is_not_touched(budget, size, seed):
    rng = np.random.default_rng(seed)
    shape = (2, 1, *size)
    before = torch.from_numpy(rng.uniform(0.4, 0.6, shape).astype(np.float32))
    change = torch.from_numpy((rng.uniform(-0.9, 0.9, shape) * budget).astype(np.float32))
    assert torch.equal(project(before, change, budget), change)


class Wild(torch.nn.Module):
    """Predicts noise of any strength, or one number, instead of what a trained network would."""

    def __init__(self, budget, strength, flat):
        super().__init__()
        self.budget, self.strength, self.flat = budget, strength, flat

    def noise_shapes(self, height, width):
        return ((height, width),)

    def forward(self, images, noise):
        change = torch.full_like(noise[0], 0.5) if self.flat else noise[0] - 0.5
        wanted = self.strength * change * torch.ones_like(images)
        return images + project(images, wanted, self.budget)


@settings(deadline=None, max_examples=60)
@given(budgets, sizes, seeds, kinds, st.sampled_from([1, 3]), st.floats(-3, 3), st.booleans(), st.booleans())
def test_released_images_stay_inside_after_rounding_to_8_bits(
    budget, size, seed, kind, channels, exponent, flat, eight_bits
):
    before = images(kind, (2, channels, *size), seed, eight_bits=eight_bits)
    table = ImageTable(values=before, cases=("a", "b"), patients=("a", "b"), split=("train", "test"))
    network = Wild(budget, 10.0**exponent, flat)
    after = FittedViewmaker(network, bytes(32), torch.device("cpu"), before.shape[1:], {}).release(table)
    assert np.array_equal(np.round(after * 255) / np.float32(255), after)
    # An image of more bits loses up to half a grey level to the rounding itself, where the box holds none.
    refuse_outside(before, after, budget, close=CLOSE if eight_bits else 1 / 510 + CLOSE)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("budget", [0.01, 0.05, 0.3])
def test_networks_with_any_weights_stay_inside(name, budget):
    torch.manual_seed(0)
    network = viewmaker(name, channels=3, budget=budget, residual_blocks=1, dct=budget == 0.3)
    with torch.no_grad():
        for value in network.parameters():
            value.mul_(30)
        before = torch.from_numpy(images("uniform", (2, 3, 12, 19), 1))
        refuse_outside(before.numpy(), network.draw(before).numpy(), budget)
