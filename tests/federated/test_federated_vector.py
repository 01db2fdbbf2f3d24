"""The layout of common weights: what travels, in which order, and what stays at each site."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from meninx.core.errors import ConfigError, DataError
from meninx.federated.vector import from_bytes, model_digest, to_bytes
from meninx.federated.weight_layout import WeightLayout


class Tied(nn.Module):
    """A network with one weight under two names, integer buffers, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3, bias=False)
        self.outer = nn.Linear(3, 3)
        self.outer.weight = self.inner.weight
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("seen", torch.tensor(7, dtype=torch.int64))


def test_parameters_and_floating_buffers_travel_and_counters_stay() -> None:
    layout = WeightLayout.of(Tied())
    names = [segment.name for segment in layout.segments]
    assert names == [
        "inner.weight", "outer.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var",
    ]  # fmt: skip
    assert layout.segments[0].aliases == ("outer.weight",)
    assert layout.local == ("seen", "norm.num_batches_tracked")
    assert layout.size == 9 + 5 * 3


def test_what_comes_back_has_the_types_of_the_network_and_the_sites_own_counters() -> None:
    network = Tied().to(torch.bfloat16)
    network.norm.num_batches_tracked.fill_(41)
    layout, own = WeightLayout.of(network), network.state_dict()
    vector = layout.flatten(own) + np.float32(0.5)
    whole = layout.unflatten(vector, own)
    assert whole["norm.num_batches_tracked"].dtype == torch.int64
    assert (int(whole["norm.num_batches_tracked"]), int(whole["seen"])) == (41, 7)
    assert whole["inner.weight"].dtype == torch.bfloat16
    assert torch.equal(whole["inner.weight"], whole["outer.weight"])
    expected = (own["inner.weight"].float() + 0.5).to(torch.bfloat16)
    assert torch.equal(whole["inner.weight"], expected)
    network.load_state_dict(whole)
    assert network.inner.weight is network.outer.weight


def test_local_layers_stay_and_norms_stand_for_all_norm_layers() -> None:
    network = Tied()
    layout = WeightLayout.of(network, local=("norms",))
    assert [segment.name for segment in layout.segments] == ["inner.weight", "outer.bias"]
    head = WeightLayout.of(network, local=("outer.bias",))
    own = network.state_dict()
    moved = head.unflatten(head.flatten(own) + 1, own)
    assert torch.equal(moved["outer.bias"], own["outer.bias"])
    with pytest.raises(ConfigError, match="no weight begins with it"):
        WeightLayout.of(network, local=("decoder",))
    with pytest.raises(ConfigError, match="no norm layer"):
        WeightLayout.of(nn.Linear(2, 2), local=("norms",))
    with pytest.raises(ConfigError, match="no weight is left"):
        WeightLayout.of(nn.Linear(2, 2), local=("",))


def test_parameters_that_no_step_trains_do_not_travel() -> None:
    layout = WeightLayout.of(Tied(), frozen=frozenset({"inner.weight", "outer.weight"}))
    assert layout.segments[0].name == "outer.bias"


def test_the_digest_names_the_architecture_and_not_its_values() -> None:
    one, other = Tied(), Tied()
    assert WeightLayout.of(one).digest == WeightLayout.of(other).digest
    assert WeightLayout.of(one).digest != WeightLayout.of(one, local=("norms",)).digest
    assert WeightLayout.of(one).digest != WeightLayout.of(one.half()).digest


def test_vectors_of_other_networks_and_damaged_ones_are_refused() -> None:
    network = Tied()
    layout, own = WeightLayout.of(network), network.state_dict()
    with pytest.raises(DataError, match="24 weights, got 23"):
        layout.unflatten(np.zeros(23, np.float32), own)
    with pytest.raises(DataError, match="not finite"):
        layout.unflatten(np.full(24, np.nan, np.float32), own)
    with pytest.raises(DataError, match="not those of the study"):
        layout.flatten({**own, "more": torch.zeros(1)})
    with pytest.raises(DataError, match="not those of the study"):
        layout.flatten({**own, "outer.bias": torch.zeros(4)})
    with pytest.raises(DataError, match="96 bytes of weights, got 95"):
        from_bytes(bytes(95), 24)


def test_bytes_are_little_endian_and_name_the_model() -> None:
    vector = np.array([1.0, -2.5], np.float32)
    assert to_bytes(vector) == b"\x00\x00\x80?\x00\x00 \xc0"
    assert np.array_equal(from_bytes(to_bytes(vector), 2), vector)
    assert model_digest(vector) != model_digest(-vector)


def test_complex_weights_are_refused() -> None:
    network = nn.Linear(2, 2)
    network.register_buffer("phase", torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(DataError, match="complex"):
        WeightLayout.of(network)
