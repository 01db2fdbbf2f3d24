"""The inventory and the slices: what is refused, by name, and that no unit is cut in two."""

import numpy as np
import pytest
import torch
from torch import nn

from meninx.core.errors import ConfigError, PrivacyRefusal
from meninx.privacy import replace_batch_norm
from meninx.privacy.clipping import clipped_gradient_sum, refuse_unsafe_modules, slice_units, trained_layers


def named(module):
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(module))


def frozen(module):
    for value in module.parameters():
        value.requires_grad_(False)
    return module


@pytest.mark.parametrize(
    ("module", "remedy"),
    [
        (nn.BatchNorm2d(2), r"GroupNorm.*replace_batch_norm\(model\)"),
        (frozen(nn.BatchNorm2d(2)), "GroupNorm"),
        (nn.SyncBatchNorm(2), "GroupNorm"),
        (nn.BatchNorm3d(2, track_running_stats=False).eval(), "GroupNorm"),
        (nn.InstanceNorm2d(2, track_running_stats=True), "track_running_stats=False"),
        (nn.LSTM(2, 2), "convolutions or attention"),
        (nn.LazyLinear(3), "forward pass on generated data"),
        (nn.DataParallel(nn.Linear(2, 2)), "model.module"),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)), "spectral"),
    ],
)
def test_unsafe_modules_are_refused_by_path(module, remedy):
    with pytest.raises(PrivacyRefusal, match=rf"module 1\.0.*{remedy}"):
        refuse_unsafe_modules(named(module))


def test_safe_modules_pass():
    for module in (
        nn.GroupNorm(1, 2),
        nn.InstanceNorm2d(2),
        nn.LayerNorm(3),
        nn.Dropout(),
        frozen(nn.BatchNorm2d(2)).eval(),
    ):
        owned = {name for layer in trained_layers(named(module)) for name in layer.trained.values()}
        assert owned == {name for name, value in named(module).named_parameters() if value.requires_grad}


@pytest.mark.parametrize(
    ("kind", "channels", "groups"),
    [(nn.BatchNorm2d, 64, 16), (nn.BatchNorm1d, 6, 1), (nn.BatchNorm3d, 44, 11), (nn.SyncBatchNorm, 512, 32)],
)
def test_batch_norm_is_replaced_with_its_affine_weights(kind, channels, groups):
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.ReLU(), kind(channels, eps=1e-3)))
    torch.nn.init.uniform_(model[1][1].weight)
    new = replace_batch_norm(model)
    norm = new[1][1]
    assert (type(norm), norm.num_groups, norm.num_channels, norm.eps) == (
        nn.GroupNorm,
        groups,
        channels,
        1e-3,
    )
    assert torch.equal(norm.weight, model[1][1].weight)
    assert type(model[1][1]) is kind  # the model given is as it was
    assert [name for name, _ in new.named_parameters()] == [name for name, _ in model.named_parameters()]
    refuse_unsafe_modules(new)
    assert type(replace_batch_norm(kind(channels))) is nn.GroupNorm


def test_batch_norm_without_weights_used_twice_or_lazy():
    norm = nn.BatchNorm2d(8, affine=False).eval()
    new = replace_batch_norm(nn.Sequential(norm, nn.ReLU(), norm))
    assert new[0] is new[2]
    assert (new[0].affine, new[0].weight, new[0].training) == (False, None, False)
    assert new(torch.randn(2, 8, 3, 3)).shape == (2, 8, 3, 3)
    with pytest.raises(ConfigError, match=r"lazy one \(module 0\)"):
        replace_batch_norm(nn.Sequential(nn.LazyBatchNorm2d()))


def test_a_replaced_network_trains_privately(oracle):
    torch.manual_seed(0)
    model = replace_batch_norm(nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU()))
    inputs, targets = oracle.data(5, 1, 6, 6)
    truth = oracle.truth(model, inputs, targets)
    assert oracle.distance(oracle.engine(model, inputs, targets, bound=0.3), truth.clipped(0.3)) <= 2e-5


def test_shared_parameters_are_refused():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    with pytest.raises(PrivacyRefusal, match=r"shared with 0\.weight \(1\.weight\)"):
        refuse_unsafe_modules(nn.Sequential(first, second))


def test_one_module_under_two_names_is_not_shared():
    layer, data = nn.Linear(3, 3), (torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
    alias = nn.Sequential(layer, nn.Tanh(), layer)  # reused: its gradient is the sum over both uses
    total = clipped_gradient_sum(
        alias,
        nn.CrossEntropyLoss(reduction="none"),
        *data,
        unit_index=torch.arange(4),
        n_units=4,
        max_grad_norm=1e9,
    )
    assert isinstance(layer.weight, nn.Parameter)  # still its own, still trainable
    nn.CrossEntropyLoss(reduction="sum")(alias(data[0]), data[1]).backward()
    assert total.gradients.keys() == {"0.weight", "0.bias"}
    assert torch.allclose(total.gradients["0.weight"], layer.weight.grad, rtol=1e-5, atol=1e-6)


class Counting(nn.Module):
    """Keeps a statistic of its data: what no list of known modules can name."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen += 1
        return x


def test_a_module_that_writes_to_its_buffer_is_found_in_the_act():
    model = nn.Sequential(nn.Linear(3, 2), Counting())
    with pytest.raises(PrivacyRefusal, match=r"1\.seen"):
        clipped_gradient_sum(
            model,
            nn.CrossEntropyLoss(reduction="none"),
            torch.randn(2, 3),
            torch.tensor([0, 1]),
            unit_index=torch.arange(2),
            n_units=2,
            max_grad_norm=1.0,
        )
    assert model[1].seen.item() == 0


class Branded(nn.Conv2d):
    """A convolution that computes something else."""

    def forward(self, input):
        return super().forward(input) * 2


class Shift(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return x + self.shift.sum()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize(
    "make",
    [
        lambda: Branded(2, 2, 3),
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 3)),
        lambda: nn.utils.weight_norm(nn.Conv2d(2, 2, 3)),
        lambda: nn.MultiheadAttention(4, 2),
        lambda: nn.LSTM(2, 2),
        lambda: nn.Bilinear(2, 2, 2),
        lambda: nn.EmbeddingBag(3, 2),
        lambda: nn.Embedding(3, 2, max_norm=1.0),
        lambda: nn.BatchNorm2d(2).eval(),
    ],
)
def test_layers_without_a_rule_are_refused_by_path_before_anything_runs(make):
    model = named(make())
    with pytest.raises(PrivacyRefusal, match=r"module 1\.0"):
        trained_layers(model)
    with pytest.raises(PrivacyRefusal, match=r"module 1\.0"):
        clipped_gradient_sum(
            model,
            None,
            torch.zeros(1, 1, 8, 8),
            torch.zeros(1),
            unit_index=torch.arange(1),
            n_units=1,
            max_grad_norm=1.0,
        )


@pytest.mark.parametrize("make", [lambda: Branded(2, 2, 3), Shift, lambda: nn.BatchNorm2d(2).eval()])
def test_a_frozen_layer_needs_no_rule(make):
    model = named(frozen(make()))
    assert [layer.path for layer in trained_layers(model)] == ["0"]


def test_every_trained_parameter_is_owned_and_moves():
    """None is frozen in silence: after one step all of them differ."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.GroupNorm(2, 4),
        nn.PReLU(4),
        nn.ConvTranspose2d(4, 2, 2),
        nn.InstanceNorm2d(2, affine=True),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(50, 3),
        nn.LayerNorm(3),
    )
    owned = {name for layer in trained_layers(model) for name in layer.trained.values()}
    assert owned == {name for name, _ in model.named_parameters()}
    total = clipped_gradient_sum(
        model, nn.CrossEntropyLoss(reduction="none"), torch.randn(4, 1, 6, 6), torch.tensor([0, 1, 2, 1]),
        unit_index=torch.arange(4), n_units=4, max_grad_norm=1.0,
    )  # fmt: skip
    assert all(float(value.abs().max()) > 0 for value in total.gradients.values())


def test_slices_keep_units_whole():
    units = np.array([3, 0, 3, 1, 0, 3, 2, 3])
    parts = slice_units(units, 3)
    assert [units[part].tolist() for part in parts] == [[0, 0, 1], [2], [3, 3, 3, 3]]
    assert sorted(np.concatenate(parts).tolist()) == list(range(8))
    assert slice_units(np.empty(0, dtype=int), 3) == []
    assert [len(part) for part in slice_units(np.arange(7), 3)] == [3, 3, 1]


@pytest.mark.parametrize(("paths", "inner"), [(("0", "0.1"), "0.1"), (("", "0"), "0")])
def test_a_functional_path_inside_another_is_refused(paths, inner):
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    with pytest.raises(ConfigError, match=f"'{inner}' inside"):
        trained_layers(model, paths)
