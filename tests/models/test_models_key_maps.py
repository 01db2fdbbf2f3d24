"""Weights in the names of torchvision, timm and MONAI find their places, and the networks then agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from meninx.models import key_maps, registry

WIDTHS = (4, 8, 16, 32)
EFFICIENT = {"blocks_args_str": ["r1_k3_s11_e1_i32_o16_se0.25", "r2_k3_s22_e6_i16_o24_se0.25"]}


def network(name: str, *, channels: int = 3, outputs: int = 5, seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    built = registry.build(name, spatial_dims=2, in_channels=channels, out_channels=outputs, **options)
    for value in built.state_dict().values():  # no statistic and no affine is at its start
        if value.dtype.is_floating_point:
            value.copy_(torch.rand_like(value) * 0.2 + 0.05)
    return built.eval()


class Block(nn.Module):
    """A basic block under torchvision's names."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or inputs != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return functional.relu(self.bn2(self.conv2(y)) + shortcut)


class TorchvisionResNet(nn.Module):
    """ResNet-18 of other widths under torchvision's names, written from its paper."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS, outputs: int = 5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inputs = widths[0]
        for number, width in enumerate(widths, start=1):
            stride = 1 if number == 1 else 2
            setattr(
                self, f"layer{number}", nn.Sequential(Block(inputs, width, stride), Block(width, width, 1))
            )
            inputs = width
        self.fc = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def theirs() -> TorchvisionResNet:
    torch.manual_seed(3)
    found = TorchvisionResNet()
    for value in found.state_dict().values():
        if value.dtype.is_floating_point:
            value.copy_(torch.rand_like(value) * 0.2 + 0.05)
    return found.eval()


MONAI_RESNET = {
    "block": "basic",
    "layers": (2, 2, 2, 2),
    "block_inplanes": WIDTHS,
    "conv1_t_stride": 2,
}


def loaded(target: nn.Module, found: key_maps.Translation) -> nn.Module:
    target.load_state_dict({**target.state_dict(), **found.tensors})
    return target.eval()


@torch.no_grad()
def test_a_resnet_of_torchvision_gives_the_same_logits_in_monais(theirs: TorchvisionResNet) -> None:
    ours = network("monai:ResNet", **MONAI_RESNET)
    found = key_maps.translated(theirs.state_dict(), ours.state_dict())
    assert set(found.tensors) == set(ours.state_dict())
    assert found.zeroed == tuple(f"layer{number}.0.downsample.0.bias" for number in (2, 3, 4))
    assert found.unused == found.other_shape == found.averaged == ()
    x = torch.randn(2, 3, 40, 33)
    torch.testing.assert_close(loaded(ours, found)(x), theirs(x))


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_a_grey_image_is_treated_as_its_copy_in_three_colours(
    theirs: TorchvisionResNet, channels: int
) -> None:
    ours = network("monai:ResNet", channels=channels, **MONAI_RESNET)
    found = key_maps.translated(theirs.state_dict(), ours.state_dict())
    assert found.averaged == ("conv1.weight",)
    grey = torch.randn(2, 1, 40, 40)
    expected = theirs(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(loaded(ours, found)(grey.expand(-1, channels, -1, -1)), expected)


def test_a_resnet_of_torchvision_becomes_ours_without_its_statistics(theirs: TorchvisionResNet) -> None:
    ours = network("resnet18", width=WIDTHS[0])
    found = key_maps.translated(theirs.state_dict(), ours.state_dict())
    assert found.naming == "torchvision or timm ResNet to meninx ResNet"
    assert set(found.tensors) == set(ours.state_dict())
    assert found.unused == ()
    assert found.statistics == sum(isinstance(item, nn.BatchNorm2d) for item in theirs.modules())
    assert torch.equal(found.tensors["stages.3.norm2.weight"], theirs.state_dict()["layer2.1.bn2.weight"])
    assert torch.equal(
        found.tensors["stages.4.shortcut.1.bias"], theirs.state_dict()["layer3.0.downsample.1.bias"]
    )


@pytest.mark.parametrize("old", [False, True])
def test_a_densenet_of_torchvision_is_found_in_monais(old: bool) -> None:
    ours = network("monai:DenseNet", block_config=(2, 3), init_features=8, growth_rate=4)

    def renamed(name: str) -> str:
        for kind in ("norm1", "norm2", "conv1", "conv2"):
            point = f"{kind[:-1]}.{kind[-1]}" if old else kind
            name = name.replace(f".layers.{kind}.", f".{point}.")
        return name.replace("class_layers.out", "classifier")

    state = {renamed(name): value for name, value in ours.state_dict().items()}
    found = key_maps.translated(
        state,
        network("monai:DenseNet", seed=1, block_config=(2, 3), init_features=8, growth_rate=4).state_dict(),
    )
    assert_same(found, ours.state_dict())
    assert found.naming == "torchvision or timm DenseNet to MONAI DenseNet"


def assert_same(found: key_maps.Translation, wanted: Mapping[str, Tensor]) -> None:
    assert set(found.tensors) == set(wanted)
    assert all(torch.equal(value, wanted[name]) for name, value in found.tensors.items())
    assert found.unused == found.other_shape == ()


PARTS = ("expand_conv", "bn0", "depthwise_conv", "bn1", "se_reduce", "se_expand", "project_conv", "bn2")
TIMM = ("conv_pw", "bn1", "conv_dw", "bn2", "se.conv_reduce", "se.conv_expand", "conv_pwl", "bn3")
TIMM_FIRST = ("", "", "conv_dw", "bn1", "se.conv_reduce", "se.conv_expand", "conv_pw", "bn2")
VISION = ("0.0", "0.1", "1.0", "1.1", "2.fc1", "2.fc2", "3.0", "3.1")
VISION_FIRST = ("", "", "0.0", "0.1", "1.fc1", "1.fc2", "2.0", "2.1")
ENDS = ("_conv_stem", "_bn0", "_conv_head", "_bn1", "_fc")
PLACES = {"0": (0, 0), "1": (1, 0), "2": (1, 1)}  # block -> stage and position of EFFICIENT


def efficientnet_names(library: str, name: str) -> str:
    """MONAI's name of a tensor in the names of another library."""
    module, _, kind = name.rpartition(".")
    if not module.startswith("_blocks."):
        ends = {
            "efficientnet-pytorch": ENDS,
            "timm": ("conv_stem", "bn1", "conv_head", "bn2", "classifier"),
            "torchvision": ("features.0.0", "features.0.1", "features.3.0", "features.3.1", "classifier.1"),
        }[library]
        return f"{ends[ENDS.index(module)]}.{kind}"
    _, _, block, part = module.split(".")
    stage, position = PLACES[block]
    number = PARTS.index(part.removeprefix("_"))
    first = block == "0"
    timm, vision = (TIMM_FIRST, VISION_FIRST) if first else (TIMM, VISION)
    return {
        "efficientnet-pytorch": f"_blocks.{block}.{part}.{kind}",
        "timm": f"blocks.{stage}.{position}.{timm[number]}.{kind}",
        "torchvision": f"features.{stage + 1}.{position}.block.{vision[number]}.{kind}",
    }[library]


@pytest.mark.parametrize("library", ["efficientnet-pytorch", "timm", "torchvision"])
def test_an_efficientnet_of_another_library_is_found_in_monais(library: str) -> None:
    ours = network("monai:EfficientNet", **EFFICIENT)
    state = {efficientnet_names(library, name): value for name, value in ours.state_dict().items()}
    assert len(state) == len(ours.state_dict())
    found = key_maps.translated(state, network("monai:EfficientNet", seed=1, **EFFICIENT).state_dict())
    assert_same(found, ours.state_dict())


def test_efficientnet_lite_takes_the_names_of_its_package_and_back() -> None:
    ours = network("efficientnet-lite0")
    names = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1")}
    names |= {
        "project": ("_project_conv", "_bn2"),
        "stem": ("_conv_stem", "_bn0"),
        "top": ("_conv_head", "_bn1"),
    }

    def renamed(name: str) -> str:
        *before, part, kind, end = name.split(".") if not name.startswith("head.") else ["", *name.split(".")]
        if name.startswith("head."):
            return name.replace("head.", "_fc.")
        prefix = f"_blocks.{before[1]}." if before else ""
        return f"{prefix}{names[part][kind == 'norm']}.{end}"

    state = {renamed(name): value for name, value in ours.state_dict().items()}
    state |= {"_bn0.num_batches_tracked": torch.tensor(7)}
    found = key_maps.translated(state, network("efficientnet-lite0", seed=1).state_dict())
    assert_same(found, ours.state_dict())
    assert found.statistics == 0
    grouped = key_maps.translated(state, network("efficientnet-lite0", norm="group").state_dict())
    assert grouped.statistics == 49
    assert grouped.unused == ()


def test_prefixes_of_wrappers_are_taken_off_when_all_names_have_them(theirs: TorchvisionResNet) -> None:
    ours = network("resnet18", width=WIDTHS[0])
    state = {f"module.backbone.{name}": value for name, value in theirs.state_dict().items()}
    assert set(key_maps.translated(state, ours.state_dict()).tensors) == set(ours.state_dict())


def test_what_does_not_fit_is_named(theirs: TorchvisionResNet) -> None:
    state = {**theirs.state_dict(), "extra.weight": torch.ones(2), "fc.weight": torch.ones(7, 32)}
    found = key_maps.translated(state, network("resnet18", width=WIDTHS[0]).state_dict())
    assert found.unused == ("extra.weight",)
    assert found.other_shape == ("head.weight",)
    assert "head.weight" not in found.tensors


TOKENS = (
    "layer",
    "blocks",
    "_blocks",
    "features",
    "denseblock",
    "denselayer",
    "block",
    "conv",
    "bn",
    "weight",
)
PIECES = st.one_of(
    st.sampled_from(TOKENS), st.integers(0, 99999).map(str), st.text(max_size=3), st.just("9" * 5000)
)


@example([f"blocks.{'9' * 5000}.1.conv_pw.weight", f"layer{'9' * 5000}.0.conv1.weight"])
@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(PIECES, min_size=1, max_size=6).map(".".join), max_size=8))
def test_any_names_are_read_and_what_has_no_place_is_named(names: list[str]) -> None:
    given_tensors = {name: torch.zeros(1) for name in names}
    found = key_maps.translated(given_tensors, {"stem.0.weight": torch.zeros(2, 1, 3, 3)})
    assert found.tensors == {}
    assert len(found.unused) + len(found.other_shape) <= len(given_tensors)
