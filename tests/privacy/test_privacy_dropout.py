"""Dropout masks belong to the rows: whoever else is in the batch, a row keeps its mask.

All else that is random is refused.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from meninx.core.errors import DataError, PrivacyRefusal
from meninx.privacy.clipping import Planner
from meninx.privacy.clipping.dropout import keyed_dropout, mask

CPU = torch.device("cpu")
KEYS = torch.tensor([5, 2**62 + 1, 0, 77, 10**12, 3])


def net(middle: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.Dropout2d(0.3),
        nn.ReLU(),
        middle or nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(100, 3),
    ).train()


def outputs(model, keys, inputs):
    with keyed_dropout(model, keys):
        return model(inputs)


@pytest.mark.parametrize(
    ("kind", "dims"), [(nn.Dropout, 3), (nn.Dropout1d, 1), (nn.Dropout2d, 2), (nn.Dropout3d, 3)]
)
def test_a_row_keeps_its_mask_whoever_else_is_in_the_batch(kind, dims):
    model, inputs = nn.Sequential(kind(0.5), kind(0.25)).train(), torch.rand(6, 8, *(3, 5, 2)[:dims]) + 1
    whole = outputs(model, KEYS, inputs)
    assert not torch.equal(whole, inputs)
    order = torch.tensor([4, 1, 5])
    assert torch.equal(outputs(model, KEYS[order], inputs[order]), whole[order])
    assert torch.equal(outputs(model, KEYS[2:3], inputs[2:3]), whole[2:3])
    assert torch.equal(model.eval()(inputs), inputs), "the layers are their own again"
    assert all("forward" not in module.__dict__ for module in model)


def test_a_mask_is_a_fair_coin_of_its_own_for_every_row_layer_call_and_entry():
    keys = np.arange(200, dtype=np.uint64)
    streams = [mask(keys, name, torch.Size([200, 1000]), 0.3, CPU).double() for name in ("a/0", "a/1", "b/0")]
    for one in streams:
        assert abs(float(one.mean()) - 0.7) < 0.005  # 5 standard deviations are 0.0051
        assert float(one.mean(1).var()) == pytest.approx(0.21 / 1000, rel=0.5)
        assert float(one.mean(0).var()) == pytest.approx(0.21 / 200, rel=0.3)
        neighbours = ((one[:, 1:] - 0.7) * (one[:, :-1] - 0.7)).mean() / 0.21
        rows = ((one[1:] - 0.7) * (one[:-1] - 0.7)).mean() / 0.21
        assert max(abs(float(neighbours)), abs(float(rows))) < 0.012
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert abs(float(((streams[first] - 0.7) * (streams[second] - 0.7)).mean()) / 0.21) < 0.012


@pytest.mark.parametrize(
    ("rate", "kept"), [(0.0, 1.0), (1e-3, 0.999), (0.5, 0.5), (0.999, 0.001), (1.0, 0.0)]
)
def test_the_rate_is_kept(rate, kept):
    found = mask(np.arange(50, dtype=np.uint64), "x", torch.Size([50, 4000]), rate, CPU)
    assert float(found.double().mean()) == pytest.approx(kept, abs=0.006)


def test_what_stays_is_scaled_and_whole_channels_fall():
    inputs = torch.ones(6, 40, 5, 5)
    each, channels = (outputs(kind(0.25).train(), KEYS, inputs) for kind in (nn.Dropout, nn.Dropout2d))
    for found in (each, channels):
        assert found.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert torch.equal(channels, channels[..., :1, :1].expand_as(channels))
    assert not torch.equal(each, each[..., :1, :1].expand_as(each))
    assert torch.equal(outputs(nn.Dropout(1.0).train(), KEYS, inputs), torch.zeros_like(inputs))


def test_windows_of_a_row_have_masks_of_that_row():
    inputs = torch.ones(12, 9, 4)  # two windows a row
    model = nn.Dropout(0.5).train()
    whole = outputs(model, KEYS, inputs)
    assert torch.equal(outputs(model, KEYS[1:2], inputs[2:4]), whole[2:4])
    assert not torch.equal(whole[2], whole[3])


def test_a_layer_that_is_called_twice_draws_twice_and_not_without_training_keys_or_leave():
    layer, inputs = nn.Dropout(0.5).train(), torch.ones(6, 64)
    with keyed_dropout(layer, KEYS):
        assert not torch.equal(layer(inputs), layer(inputs))
    for given in ((layer.eval(), KEYS, ()), (nn.Dropout(0.0).train(), KEYS, ())):
        assert torch.equal(outputs(given[0], given[1], inputs), inputs)
    nested = nn.Sequential(nn.Sequential(nn.Dropout(0.5))).train()
    with keyed_dropout(nested, KEYS, leave=["0"]):
        assert "forward" not in nested[0][0].__dict__
    with keyed_dropout(nested, None):
        assert "forward" not in nested[0][0].__dict__


@pytest.mark.parametrize("chunk", [None, 1, 2, 4])
@pytest.mark.parametrize("views", [1, 2])
def test_the_sum_is_the_same_however_the_batch_is_cut(oracle, chunk, views):
    """Units out of order, of different sizes, one longer than a chunk: the engine takes the keys along."""
    units = torch.tensor([2, 0, 1, 0, 2, 2])
    inputs, targets = oracle.data(6 * views, 2, 5, 5)
    keys = torch.arange(6 * views) * 7919
    alone = torch.zeros(
        oracle.flat(oracle.engine(net().eval(), inputs, targets, views=views)).shape, dtype=torch.float64
    )
    for unit in range(3):
        rows = (torch.nonzero(units == unit) * views + torch.arange(views)).flatten()
        owner = torch.zeros(len(rows) // views, dtype=torch.long)
        found = oracle.engine(
            net(), inputs[rows], targets[rows], owner, views=views, bound=0.1, row_keys=keys[rows]
        )
        alone += oracle.flat(found).double()
    whole = oracle.engine(net(), inputs, targets, units, views=views, bound=0.1, row_keys=keys, chunk=chunk)
    assert oracle.distance(whole, alone) < 1e-5


class Functional(nn.Module):
    """Dropout that no list of modules shows."""

    def forward(self, x):
        return functional.dropout(x, 0.5, training=self.training)


class DropPath(nn.Module):
    """Stochastic depth."""

    def forward(self, x):
        return x * (x.new_empty(len(x), 1, 1, 1).bernoulli_(0.5) if self.training else 1)


@pytest.mark.parametrize(
    "middle", [Functional(), DropPath(), nn.RReLU(), nn.AlphaDropout(0.5), nn.FeatureAlphaDropout(0.5)]
)
def test_other_random_numbers_are_refused_by_name_and_allowed_in_evaluation(oracle, middle):
    inputs, targets = oracle.data(6, 2, 5, 5)
    with pytest.raises(PrivacyRefusal, match=r"module 3"):
        oracle.engine(net(middle), inputs, targets, row_keys=KEYS)
    model = net(middle)
    middle.eval()
    assert oracle.engine(model, inputs, targets, row_keys=KEYS).gradients


def test_dropout_without_keys_is_refused_by_name(oracle):
    inputs, targets = oracle.data(6, 2, 5, 5)
    with pytest.raises(PrivacyRefusal, match=r"random numbers.*module 1"):
        oracle.engine(net(), inputs, targets)
    with pytest.raises(DataError, match="row_keys"):
        oracle.engine(net(), inputs, targets, row_keys=KEYS[:2])


def test_a_planner_that_measures_is_not_taken_for_a_module_that_draws(oracle):
    inputs, targets = oracle.data(6, 2, 5, 5)
    model = net()
    state = torch.get_rng_state()
    planner = Planner(mode="measure")
    measured = oracle.engine(model, inputs, targets, row_keys=KEYS, planner=planner)
    assert any(choice.seconds for choice in planner.choices.values())
    assert torch.equal(state, torch.get_rng_state())
    assert oracle.distance(measured, oracle.flat(oracle.engine(model, inputs, targets, row_keys=KEYS))) < 1e-5


def test_dropout_inside_a_module_that_runs_row_by_row_is_refused_with_keys_too(oracle):
    inputs, targets = oracle.data(6, 2, 5, 5)
    model = net(nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout(0.5)))
    with pytest.raises(PrivacyRefusal, match=r"without random numbers.*module 3"):
        oracle.engine(model, inputs, targets, row_keys=KEYS, functional=("3",))
    frozen = model[3].requires_grad_(False)
    assert oracle.engine(model, inputs, targets, row_keys=KEYS, functional=("3",)).gradients
    assert frozen.training
