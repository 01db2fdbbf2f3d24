"""For any state: flattening and putting back changes nothing, and sums of vectors are sums of weights."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from meninx.federated.contribution import Contribution, plain_sum
from meninx.federated.vector import from_bytes, to_bytes
from meninx.federated.weight_layout import WeightLayout

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.bool)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    """Return a module with parameters and buffers of any types and shapes, empty and 0-d ones too."""
    network, generator = nn.Module(), torch.Generator().manual_seed(draw(st.integers(0, 99)))
    network.register_parameter("first", nn.Parameter(torch.randn(2, generator=generator)))
    for number, shape in enumerate(draw(st.lists(shapes, max_size=4))):
        value = torch.randn(shape, generator=generator).to(draw(st.sampled_from(FLOATS)))
        if draw(st.booleans()):
            network.register_parameter(f"p{number}", nn.Parameter(value))
        else:
            network.register_buffer(f"b{number}", value)
    for number, shape in enumerate(draw(st.lists(shapes, max_size=2))):
        network.register_buffer(f"i{number}", torch.ones(shape, dtype=draw(st.sampled_from(INTEGERS))))
    if draw(st.booleans()):
        network.register_parameter("tied", network.first)
    return network


@given(networks())
def test_there_and_back_changes_nothing(network: nn.Module) -> None:
    layout, own = WeightLayout.of(network), network.state_dict()
    vector = from_bytes(to_bytes(layout.flatten(own)), layout.size)
    back = layout.unflatten(vector, own)
    assert back.keys() == own.keys()
    for name, value in own.items():
        assert back[name].dtype == value.dtype
        assert torch.equal(back[name], value)


@given(networks(), st.integers(0, 99))
def test_integer_buffers_never_change_and_every_common_weight_does(network: nn.Module, seed: int) -> None:
    layout, own = WeightLayout.of(network), network.state_dict()
    moved = np.random.default_rng(seed).normal(size=layout.size).astype(np.float32) * 64
    back = layout.unflatten(moved, own)
    for name, value in own.items():
        if not value.is_floating_point():
            assert torch.equal(back[name], value)
    again = layout.flatten(back)
    for segment, part in zip(layout.segments, np.split(again, _ends(layout)), strict=True):
        kind = getattr(torch, segment.dtype)
        start = _starts(layout)[segment.name]
        rounded = torch.from_numpy(moved[start : start + segment.size]).to(kind).float().numpy()
        assert np.array_equal(part, rounded)


def _starts(layout: WeightLayout) -> dict[str, int]:
    found, start = {}, 0
    for segment in layout.segments:
        found[segment.name] = start
        start += segment.size
    return found


def _ends(layout: WeightLayout) -> list[int]:
    return list(_starts(layout).values())[1:]


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(-3, 3, width=32)), min_size=1, max_size=6))
def test_the_mean_is_weighted_by_units_and_cut_to_the_clip(sites: list[tuple[int, float]]) -> None:
    given_ = [Contribution(np.array([value], np.float32), units, loss=1.0) for units, value in sites]
    total = plain_sum([item.plain(clip=1.0) for item in given_])
    units = [item.units for item in given_]
    cut = [min(max(value, -1.0), 1.0) for _, value in sites]
    assert total.units == sum(units)
    assert abs(float(total.mean[0]) - np.average(cut, weights=units)) < 1e-5
    share = np.average([abs(value) > 1 for _, value in sites], weights=units)
    assert abs(total.cut - share) < 1e-5
    assert abs(total.loss - 1.0) < 1e-5
