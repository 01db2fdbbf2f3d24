"""EfficientNet-Lite0 with the statistics of its start as constants: outputs and private training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from meninx.core.artifacts import FeatureStatistics
from meninx.core.errors import ConfigError
from meninx.learn import features
from meninx.models import registry
from meninx.models.efficientnet import EPSILON, FrozenBatchNorm, InvertedResidual, SamePad
from meninx.privacy.clipping import clipped_gradient_sum, prove


def filled(module: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    for value in module.state_dict().values():
        value.copy_(torch.rand_like(value) * 0.5 + 0.3)
    return module


def test_the_frozen_norm_is_batch_norm_in_evaluation_mode() -> None:
    ours, theirs = filled(FrozenBatchNorm(4)), nn.BatchNorm2d(4, eps=EPSILON).eval()
    theirs.load_state_dict({**ours.state_dict(), "num_batches_tracked": torch.tensor(0)})
    x = torch.randn(3, 4, 5, 6)
    before = {name: value.clone() for name, value in ours.named_buffers()}
    torch.testing.assert_close(ours.train()(x), theirs(x))
    assert all(torch.equal(value, before[name]) for name, value in ours.named_buffers())


@pytest.mark.parametrize("size", [(7, 8), (8, 8), (1, 5), (6, 7, 8)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_the_padding_keeps_the_size_over_the_stride(size: tuple[int, ...], kernel: int, stride: int) -> None:
    padded = SamePad(kernel, stride)(torch.zeros(1, 1, *size))
    assert [(length - kernel) // stride + 1 for length in padded.shape[2:]] == [-(-n // stride) for n in size]


class Small(nn.Module):
    """A block and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.block = InvertedResidual(2, 3, 3, 3, 1, 2, "frozen")
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x).mean((2, 3)))


def test_a_private_step_on_the_frozen_norm_is_the_sum_of_clipped_gradients() -> None:
    model, x, y = filled(Small()).double(), torch.randn(5, 3, 8, 8).double(), torch.tensor([0, 1, 0, 1, 1])

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets, reduction="none")

    prove(model, loss, x, y)
    found = clipped_gradient_sum(
        model, loss, x, y, unit_index=torch.tensor([0, 1, 1, 2, 3]), n_units=4, max_grad_norm=0.05
    )
    total = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for rows in ([0], [1, 2], [3], [4]):
        model.zero_grad()
        loss(model(x[rows]), y[rows]).sum().backward()
        own = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        norm = torch.sqrt(sum(value.square().sum() for value in own.values()))
        for name, value in own.items():
            total[name] += value * min(1.0, 0.05 / float(norm))
    assert "block.depthwise.norm.weight" in found.gradients
    for name, value in total.items():
        torch.testing.assert_close(found.gradients[name].double(), value, rtol=1e-5, atol=1e-9)


def test_the_feature_norm_takes_public_statistics() -> None:
    options = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "norm": "group"}
    network = registry.build("efficientnet-lite0", feature_norm=True, **options).eval()
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        before = network.features(x)
        mean, deviation = torch.linspace(-1, 1, 1280), torch.linspace(0.5, 2, 1280)
        found = FeatureStatistics(
            dataset="p", digest="0", images=2, mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist())
        )
        features.standardize(network, found)
        torch.testing.assert_close(network.features(x), (before - mean) / deviation, rtol=1e-4, atol=1e-4)


def test_another_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match="frozen, group"):
        registry.build("efficientnet-lite0", spatial_dims=2, in_channels=1, out_channels=2, norm="batch")
