"""Views of a case are averaged before clipping, records of a unit are added before it."""

import pytest
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.Tanh(),
        nn.Conv2d(4, 6, 3, stride=2, groups=2),
        nn.GELU(),
        nn.Flatten(2),
        nn.Linear(4, 8),
        nn.LayerNorm(8),
    )


@pytest.mark.parametrize("views", [2, 4, 16])
@pytest.mark.parametrize("mode", ["rule", "store", "ghost", "norm"])
@pytest.mark.parametrize("units", [[0, 1, 2], [1, 0, 1]])
def test_views_equal_the_averaged_gradient_in_float64(oracle, views, mode, units):
    model, (inputs, targets) = net(), oracle.data(3 * views, 2, 6, 5, seed=views)
    truth = oracle.truth(model, inputs, targets, units, views)
    found = oracle.engine(model, inputs, targets, units, views, bound=0.2, mode=mode)
    assert torch.allclose(found.unit_norms, truth.norms, rtol=5e-5)
    assert oracle.distance(found, truth.clipped(0.2)) <= 5e-6
    cut = oracle.engine(model, inputs, targets, units, views, bound=0.2, mode=mode, chunk=1)
    assert oracle.distance(cut, oracle.flat(found)) <= 1e-5


@pytest.mark.parametrize("mode", ["store", "ghost"])
def test_one_view_is_no_views_bit_for_bit(oracle, mode):
    model, (inputs, targets) = net(), oracle.data(5, 2, 6, 5)
    assert torch.equal(
        *(
            oracle.flat(oracle.engine(model, inputs, targets, mode=mode, **more))
            for more in ({}, {"views": 1})
        )
    )


def test_equal_views_are_one_view(oracle):
    model, (inputs, targets) = net(), oracle.data(4, 2, 6, 5)
    once = oracle.engine(model, inputs, targets, bound=0.2)
    four = oracle.engine(
        model, inputs.repeat_interleave(4, 0), targets.repeat_interleave(4, 0), views=4, bound=0.2
    )
    assert oracle.distance(four, oracle.flat(once)) <= 1e-5


@pytest.mark.parametrize("mode", ["store", "ghost"])
def test_more_records_or_views_of_a_unit_do_not_lengthen_its_contribution(oracle, mode):
    model, (inputs, targets) = net(), oracle.data(12, 2, 6, 5)
    for units, views in (([0] * 12, 1), ([0] * 6, 2), ([0], 12)):
        found = oracle.engine(model, inputs, targets, units, views, bound=0.01, mode=mode)
        assert float(oracle.flat(found).double().norm()) <= 0.01 * (1 + 1e-4)


@pytest.mark.parametrize("mode", ["rule", "store", "ghost", "norm", "measure"])
def test_physical_batch_plan_and_memory_format_do_not_matter(oracle, mode):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Tanh(), nn.Conv2d(4, 6, 3, stride=2), nn.Mish()
    )
    (inputs, targets), units = oracle.data(16, 2, 6, 5), [0, 1, 2, 2, 2, 2, 3, 1]
    whole = oracle.flat(oracle.engine(model, inputs, targets, units, 2, bound=0.2, mode="store"))
    for chunk in (1, 3, 8, None):
        found = oracle.engine(model, inputs, targets, units, 2, bound=0.2, mode=mode, chunk=chunk)
        assert oracle.distance(found, whole) <= 1e-5
    last = inputs.contiguous(memory_format=torch.channels_last)
    model = model.to(memory_format=torch.channels_last)
    assert oracle.distance(oracle.engine(model, last, targets, units, 2, bound=0.2, mode=mode), whole) <= 1e-5
