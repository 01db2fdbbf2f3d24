"""Networks by name: their sizes, their outputs, and that every sample is treated alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from meninx.core.errors import ConfigError
from meninx.models import blocks, registry

SMALL = {
    "resnet9": {"width": 8},
    "resnet9-small": {"width": 8},
    "resnet18": {"width": 4},
    "resnet34": {"width": 4},
    "resnet50": {"width": 4},
    "wrn-16-4": {"widen": 1},
    "wrn-40-4": {"widen": 1, "weight_standardization": True},
    "efficientnet-lite0": {},
    "unet": {"base": 2, "depth": 2},
    "unet-small": {"base": 2, "depth": 2},
    "unet-plain": {"base": 2},
}


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def made(name: str, *, dims: int = 2, channels: int = 1, outputs: int = 2, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return registry.build(name, spatial_dims=dims, in_channels=channels, out_channels=outputs, **options)


@pytest.mark.parametrize(
    ("name", "channels", "outputs", "count"),
    [
        ("resnet9", 3, 8, 4_909_896),
        ("resnet18", 3, 1000, 11_689_512),
        ("resnet34", 3, 1000, 21_797_672),
        ("resnet50", 3, 1000, 25_557_032),
        ("efficientnet-lite0", 3, 1000, 4_652_008),
        ("wrn-16-4", 3, 10, 2_748_890),
        ("wrn-40-4", 3, 10, 8_949_210),
        ("unet-plain", 3, 1, 7_782_913),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, channels: int, outputs: int, count: int) -> None:
    assert parameter_count(made(name, channels=channels, outputs=outputs)) == count


def test_one_channel_saves_the_filters_of_the_other_two() -> None:
    three, one = (parameter_count(made("resnet9", channels=channels, outputs=8)) for channels in (3, 1))
    assert three - one == 2 * 64 * 7 * 7


def test_every_name_is_covered_here() -> None:
    assert set(SMALL) == set(registry.MODELS)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_output_has_the_promised_shape_for_odd_sizes(name: str, dims: int) -> None:
    model = made(name, dims=dims, **SMALL[name])
    size = (19, 17, 18)[:dims]
    output = model(torch.randn(2, 1, *size))
    assert output.shape == ((2, 2, *size) if name.startswith("unet") else (2, 2))
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["resnet9-small", "wrn-40-4", "unet-small", "unet-plain"])
def test_per_sample_gradients_are_those_of_each_sample_alone(name: str, dims: int) -> None:
    model = made(name, dims=dims, **SMALL[name]).double()
    parameters = {key: value.detach() for key, value in model.named_parameters()}
    images = torch.randn(3, 1, *(9, 8, 10)[:dims], dtype=torch.float64)

    def loss(values: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        return functional_call(model, values, (image[None],)).square().mean()

    together = vmap(grad(loss), in_dims=(None, 0))(parameters, images)
    for sample in range(3):
        model.zero_grad()
        model(images[sample : sample + 1]).square().mean().backward()
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(together[key][sample], parameter.grad, rtol=1e-7, atol=1e-10)


def test_scale_norm_adds_a_norm_after_each_addition() -> None:
    plain, scaled = made("resnet9"), made("resnet9", scale_norm=True)
    extra = parameter_count(scaled) - parameter_count(plain)
    assert extra == 2 * (64 + 128 + 256 + 512)


def test_no_network_works_in_place() -> None:
    for name, options in SMALL.items():
        assert not any(getattr(module, "inplace", False) for module in made(name, **options).modules())
    assert not any(getattr(module, "inplace", False) for module in made("monai:SegResNet").modules())


def test_standardised_weights_have_mean_zero_and_the_variance_of_the_fan_in() -> None:
    weight = blocks.standardized(torch.randn(4, 3, 3, 3) * 5 + 2)
    torch.testing.assert_close(weight.mean((1, 2, 3)), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(weight.square().mean((1, 2, 3)), torch.full((4,), 1 / 27), rtol=1e-3, atol=0)


def test_a_network_of_monai_is_found_by_name() -> None:
    model = made("monai:SegResNet", dims=3, init_filters=8)
    assert model(torch.randn(1, 1, 16, 16, 16)).shape == (1, 2, 16, 16, 16)
    assert registry.head_prefix(model).startswith("conv_final")


def test_monai_networks_with_other_argument_names_are_filled_too() -> None:
    resnet = made("monai:ResNet", block="basic", layers=(1, 1, 1, 1), block_inplanes=(4, 4, 4, 4))
    assert resnet(torch.randn(1, 1, 32, 32)).shape == (1, 2)
    assert made("monai:BasicUNet", features=(4, 4, 8, 8, 8, 4))(torch.randn(1, 1, 32, 32)).shape == (
        1,
        2,
        32,
        32,
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_monai_networks_that_hand_their_arguments_on_are_filled_too(dims: int) -> None:
    model = made("monai:SEResNet50", dims=dims, outputs=3, layers=(1, 1, 1, 1), dropout_dim=1)
    assert model(torch.randn(2, 1, *(32, 32, 32)[:dims])).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("monai:SEResNet50", {"layrs": (1, 1, 1, 1)}, "did you mean 'layers'"),
        ("monai:SEResNet50", {"kwargs": 1}, "expected a known model option"),
        ("monai:TorchVisionFCModel", {}, "expected a network for 2-D images, .* which has no spatial_dims"),
        ("resnet19", {}, "did you mean 'resnet"),
        ("nonsense", {}, "known: resnet9"),
        ("monai:SegResnet", {}, "did you mean 'SegResNet'"),
        ("monai:os", {}, "monai.networks.nets"),
        ("unet", {"bse": 3}, "did you mean 'base'"),
        ("resnet9", {"block": 1}, "known model option"),
        ("resnet9", {"activation": "mich"}, "did you mean 'mish'"),
        ("unet", {"upsampling": "cubic"}, "linear, transposed"),
        ("wrn-16-4", {"depth": 17}, "6 n \\+ 4"),
        ("monai:UNet", {}, "needs a value for channels, strides"),
        ("monai:SegResNet", {"upsample_mode": "sideways"}, "options the network accepts"),
    ],
)
def test_a_wrong_name_or_option_gets_a_hint(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(name, **options)


def test_only_two_and_three_dimensions_exist() -> None:
    with pytest.raises(ConfigError, match="2 or 3"):
        made("resnet9", dims=1)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        *(("resnet9", "small_stem", text) for text in ("no", "off", "yes", "on", 0)),
        ("resnet9", "width", "8"),
        ("resnet9", "width", 8.0),
        ("resnet9", "width", True),
        ("wrn-16-4", "widen", "1"),
        ("unet", "norm", 1),
        ("monai:DenseNet121", "progress", "no"),
    ],
)
def test_an_option_of_another_type_is_refused(name: str, option: str, value: object) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"expected (true or false|a whole number|text), got .*model_options\.{option} of {name}",
    ):
        made(name, **{option: value})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet9", {"width": -3}),
        ("monai:DynUNet", {"kernel_size": [], "strides": [], "upsample_kernel_size": []}),
    ],
)
def test_whatever_a_constructor_raises_is_an_error_of_the_options(name, options) -> None:
    with pytest.raises(ConfigError, match="options the network accepts"):
        made(name, **options)
