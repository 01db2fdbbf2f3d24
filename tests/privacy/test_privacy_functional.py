"""Modules without a rule, run row by row on request.

Networks of MONAI, which pass with right numbers or are refused by name.
"""

import pytest
import torch
from torch import nn

from meninx.core.errors import PrivacyRefusal
from meninx.privacy.clipping import prove, trained_layers


class Gain(nn.Module):
    """A parameter directly on a module of one's own."""

    def __init__(self, channels):
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, channels))

    def forward(self, x):
        return x * self.gain.reshape(-1, *(1,) * (x.dim() - 2))


def wrapped(module):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), module, nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("mode", ["store", "ghost"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Gain(4),
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 3, 3)),
        lambda: nn.Sequential(nn.Conv2d(4, 3, 3), nn.Mish()),
    ],
)
def test_a_module_run_row_by_row_gives_the_right_numbers(oracle, make, mode):
    model, (inputs, targets) = wrapped(make()), oracle.data(7, 2, 7, 6)
    model(inputs)
    units = [0, 2, 1, 2, 0, 2, 3]
    truth = oracle.truth(model, inputs, targets, units)
    found = oracle.engine(model, inputs, targets, units, bound=0.3, mode=mode, functional=("2",))
    assert torch.allclose(found.unit_norms, truth.norms, rtol=5e-5)
    assert oracle.distance(found, truth.clipped(0.3)) <= 2e-5
    assert [*found.gradients] == truth.names


def test_row_by_row_equals_the_rule(oracle):
    model, (inputs, targets) = wrapped(nn.Conv2d(4, 3, 3)), oracle.data(5, 2, 7, 6)
    model(inputs)
    by_rule, by_row = (
        oracle.engine(model, inputs, targets, bound=0.3, functional=paths) for paths in ((), ("2", "5"))
    )
    assert oracle.distance(by_row, oracle.flat(by_rule)) <= 2e-6
    everything = oracle.engine(nn.Sequential(model), inputs, targets, bound=0.3, functional=("0",))
    assert oracle.distance(everything, oracle.flat(by_rule)) <= 2e-6


def test_a_module_that_draws_random_numbers_cannot_be_run_row_by_row(oracle):
    model, (inputs, targets) = (
        wrapped(nn.Sequential(nn.Conv2d(4, 3, 3), nn.Dropout(0.5))),
        oracle.data(5, 2, 7, 6),
    )
    model(inputs)
    with pytest.raises(PrivacyRefusal, match=r"without random numbers.*module 2"):
        oracle.engine(model, inputs, targets, bound=0.3, functional=("2",))
    assert oracle.engine(model.eval(), inputs, targets, bound=0.3, functional=("2",)).gradients


def monai_net(name):
    from monai.networks import nets

    torch.manual_seed(0)
    if name == "unet":
        return nets.UNet(
            2, 1, 2, channels=(4, 8), strides=(2,), num_res_units=1, norm="INSTANCE", dropout=0.0
        )
    if name == "unet 3d":
        return nets.UNet(3, 1, 2, channels=(4, 8), strides=(2,), norm=("GROUP", {"num_groups": 2}))
    if name == "segresnet":
        return nets.SegResNet(
            spatial_dims=2, init_filters=8, in_channels=1, out_channels=2, blocks_down=(1, 1), blocks_up=(1,)
        )
    if name == "dynunet":
        kernels, strides = [[3, 3]] * 3, [[1, 1], [2, 2], [2, 2]]
        return nets.DynUNet(2, 1, 2, kernels, strides, strides[1:], filters=[4, 8, 8])
    if name == "vit":
        return nets.ViT(
            1,
            (16, 16),
            (8, 8),
            hidden_size=12,
            mlp_dim=16,
            num_layers=1,
            num_heads=2,
            spatial_dims=2,
            classification=True,
            post_activation=None,
        )
    if name == "swin":
        from monai.networks.nets.swin_unetr import SwinTransformer

        return SwinTransformer(
            1,
            8,
            (4, 4),
            (2, 2),
            (2, 1, 1, 1),
            (1, 1, 2, 2),
            spatial_dims=2,
            mlp_ratio=1.0,
            drop_path_rate=0.0,
        )
    if name == "unetr":
        return nets.UNETR(
            1, 2, (32, 32), feature_size=4, hidden_size=12, mlp_dim=16, num_heads=2, spatial_dims=2
        )
    return nets.SwinUNETR(
        in_channels=1,
        out_channels=2,
        feature_size=12,
        spatial_dims=2,
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 1, 1),
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["unet", "unet 3d", "segresnet", "dynunet"])
def test_convolutional_networks_of_monai_pass_unchanged(oracle, name):
    """In evaluation mode, with in-place activations, slopes and instance norms without parameters."""
    model = monai_net(name).eval()
    inputs, targets = oracle.data(3, 1, *((8, 8, 8) if name == "unet 3d" else (16, 16)))
    truth = oracle.truth(model, inputs, targets, [0, 1, 0])
    for mode in ("rule", "store", "ghost"):
        found = oracle.engine(model, inputs, targets, [0, 1, 0], bound=0.5, mode=mode)
        assert torch.allclose(found.unit_norms, truth.norms, rtol=1e-4)
        assert oracle.distance(found, truth.clipped(0.5)) <= 2e-4
    assert [*found.gradients] == truth.names


def last_output(outputs, targets):
    """A loss of networks that return several tensors."""
    return ((outputs[-1] if isinstance(outputs, list) else outputs[0]).flatten(1) + 0.3).sin().mean(
        1
    ) * targets[:, 0]


@pytest.mark.parametrize(
    ("name", "size", "raw"),
    [
        ("vit", 16, 2),
        ("swin", 32, 5),
        ("unetr", 32, 1),
        pytest.param("swinunetr", 64, 4, marks=pytest.mark.slow),
    ],
)
def test_transformers_of_monai_train_with_their_class_tokens_position_embeddings_and_window_bias(
    oracle, name, size, raw
):
    model = monai_net(name)
    for value in model.parameters():
        nn.init.normal_(value, std=0.2)
    assert sum(layer.raw for layer in trained_layers(model)) == raw
    inputs, targets = oracle.data(3, 1, size, size)
    loss = last_output if name in ("vit", "swin") else oracle.loss
    truth = oracle.truth(model, inputs, targets, [0, 1, 0], loss=loss)
    for mode in ("store", "ghost"):
        found = oracle.engine(model, inputs, targets, [0, 1, 0], loss=loss, bound=0.5, mode=mode)
        assert torch.allclose(found.unit_norms, truth.norms, rtol=1e-4)
        assert oracle.distance(found, truth.clipped(0.5)) <= 2e-4
    assert [*found.gradients] == truth.names
    if name in ("vit", "swin"):  # the others take seconds
        prove(model, loss, inputs, targets)


class Several(nn.Module):
    """A module that does not turn one tensor into one tensor."""

    def __init__(self, code):
        super().__init__()
        self.layer, self.code = nn.Conv2d(4, 4, 1), code

    def forward(self, x, scale=1.0, other=None):
        return self.code(self.layer(x) * scale, other)


def test_modules_with_several_tensors_cannot_be_run_row_by_row_and_settings_are_passed_on(oracle):
    inputs, targets = oracle.data(3, 4, 5, 5)

    def use(code, call):
        model = nn.Module()
        model.inner = Several(code)
        model.forward = lambda x: call(model.inner, x)
        return model

    for model, got in (
        (use(lambda y, _: [y, y], lambda m, x: m(x)[0]), "got list"),
        (use(lambda y, o: y + o, lambda m, x: m(x, other=x)), "got several"),
        (use(lambda y, _: y, lambda m, x: m(x=x)), "got another"),
    ):
        with pytest.raises(PrivacyRefusal, match=rf"{got} \(module inner\); leave it out"):
            oracle.engine(model, inputs, targets, functional=("inner",))
    model = use(lambda y, _: y, lambda m, x: m(x, scale=2.0) + m(x, 3.0))
    truth = oracle.truth(model.inner.layer, inputs, targets, loss=lambda y, t: oracle.loss(5 * y, t))
    found = oracle.engine(model, inputs, targets, bound=0.3, functional=("inner",))
    assert oracle.distance(found, truth.clipped(0.3)) <= 2e-5
