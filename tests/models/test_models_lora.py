"""Low-rank adapters: nothing changes at first, they learn alone, and merged they are the ordinary network."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from meninx.core.errors import ConfigError
from meninx.models import lora, registry
from meninx.privacy.clipping import clipped_gradient_sum

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 5), (6,)),
    "linear on tokens": (nn.Linear(6, 5, bias=False), (4, 6)),
    "1-D": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (4, 9)),
    "2-D": (nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2)), (4, 9, 12)),
    "2-D in groups": (nn.Conv2d(4, 6, 3, groups=2, padding="same"), (4, 7, 8)),
    "2-D depthwise": (nn.Conv2d(4, 4, 3, groups=4), (4, 7, 8)),
    "2-D reflected": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (4, 7, 8)),
    "3-D": (nn.Conv3d(2, 3, 3, padding=1), (2, 4, 5, 6)),
    "1-D up": (nn.ConvTranspose1d(4, 6, 4, stride=2, padding=1), (4, 9)),
    "2-D up": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, dilation=2), (4, 5, 6)),
    "2-D up in groups": (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), (4, 5, 6)),
    "3-D up": (nn.ConvTranspose3d(4, 3, 2, stride=2), (4, 3, 4, 2)),
}


def made(name: str = "resnet9-small", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return registry.build(name, spatial_dims=2, in_channels=1, out_channels=2, **options)


def stirred(model: nn.Module) -> nn.Module:
    """Give the adapters something to say."""
    generator = torch.Generator().manual_seed(3)
    names = lora.adapter_names(model)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name in names:
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    return model


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("case", LAYERS)
def test_an_adapter_changes_nothing_until_it_learns_and_merges_into_its_layer(case: str, rank: int) -> None:
    base, shape = LAYERS[case]
    torch.manual_seed(0)
    x = torch.randn(2, *shape)
    expected = base(x)
    adapter = lora.LoRA(copy.deepcopy(base), rank, alpha=2.0)
    assert torch.equal(adapter(x), expected)
    outer = stirred(nn.Sequential(adapter))
    changed = outer(x)
    assert not torch.allclose(changed, expected, atol=1e-2)
    plain = lora.merge(outer)[0]  # type: ignore[index]
    assert type(plain) is type(base)
    torch.testing.assert_close(plain(x), changed, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet9-small", {"width": 8}),
        ("resnet50", {"width": 4}),
        ("unet-small", {"base": 4, "depth": 2}),
        ("wrn-16-4", {"widen": 1}),
    ],
)
def test_a_whole_network_keeps_its_outputs_and_gets_its_names_back(
    name: str, options: dict[str, Any]
) -> None:
    model, x = made(name, **options).double().eval(), torch.randn(2, 1, 16, 16, dtype=torch.float64)
    before, names = model(x), list(model.state_dict())
    head = registry.head_prefix(model)
    paths = lora.insert(model, rank=2, alpha=4.0, keep=head)
    assert registry.head_prefix(model) == head
    assert not [path for path in paths if f"{path}.".startswith(head)]
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    changed = stirred(model)(x)
    merged = lora.merge(model)
    assert list(merged.state_dict()) == names
    assert all(value.requires_grad for value in merged.parameters())
    torch.testing.assert_close(merged(x), changed, rtol=1e-5, atol=1e-5)
    made(name, **options).load_state_dict(merged.state_dict())


def test_monai_networks_take_adapters() -> None:
    model, x = (
        made("monai:SegResNet", init_filters=4, norm=("group", {"num_groups": 2})).eval(),
        torch.randn(1, 1, 16, 16),
    )
    before = model(x)
    assert lora.insert(model, rank=2, alpha=2.0)
    torch.testing.assert_close(model(x), before)
    changed = stirred(model)(x)
    torch.testing.assert_close(lora.merge(model)(x), changed, rtol=1e-4, atol=1e-5)


def test_subclasses_stay_as_they_are_and_a_network_without_plain_layers_is_refused() -> None:
    class Own(nn.Linear):
        pass

    model = nn.Sequential(Own(3, 3), nn.ReLU(), nn.Linear(3, 2))
    assert lora.insert(model, rank=1, alpha=1.0) == ("2",)
    with pytest.raises(ConfigError, match="no linear or convolution layers"):
        lora.insert(nn.Sequential(Own(3, 3), nn.Linear(3, 2)), rank=1, alpha=1.0, keep="1.")
    with pytest.raises(ConfigError, match="Own"):
        lora.LoRA(Own(3, 3), 1, 1.0)


def test_a_layer_that_is_used_twice_has_one_adapter() -> None:
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    lora.insert(model, rank=1, alpha=1.0)
    assert model[0] is model[2]
    lora.merge(stirred(model))
    assert model[0] is model[2] is layer


def test_the_rank_is_no_larger_than_the_layer() -> None:
    adapter = lora.LoRA(nn.Conv2d(1, 5, 1), rank=8, alpha=8.0)
    assert adapter.down.weight.shape[0] == 1


def test_private_gradients_reach_the_adapters_and_nothing_else() -> None:
    model = made(width=4)
    lora.insert(model, rank=2, alpha=2.0, keep="head.")
    names = lora.adapter_names(stirred(model))
    for name, value in model.named_parameters():
        value.requires_grad_(name in names)
    images, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    total = clipped_gradient_sum(
        model, loss, images, labels, unit_index=torch.arange(4), n_units=4, max_grad_norm=1e6
    )
    assert set(total.gradients) == names
    loss(model(images), labels).sum().backward()
    for name, value in model.named_parameters():
        if name in total.gradients:
            assert value.grad is not None
            torch.testing.assert_close(total.gradients[name], value.grad, rtol=1e-4, atol=1e-5)
        else:
            assert value.grad is None
