"""Ghost norms: exact, and never too small where the terms of a gradient cancel."""

import pytest
import torch
from torch import nn

from meninx.models.blocks import StandardizedConv2d, StandardizedConv3d
from meninx.privacy.clipping import gram
from meninx.privacy.clipping.conv_geometry import Geometry


def product(outputs, targets):
    """A loss whose gradient is the target."""
    return (outputs.flatten(1) * targets.flatten(1)).sum(1)


LAYERS = [
    (lambda: StandardizedConv2d(4, 3, 3, padding=1, bias=True), (4, 5, 4)),
    (lambda: StandardizedConv2d(4, 6, 2, stride=2, groups=2, bias=False), (4, 5, 6)),
    (lambda: StandardizedConv3d(2, 3, 3, dilation=1, padding=1), (2, 3, 4, 3)),
    (
        lambda: nn.Sequential(nn.Conv2d(4, 2, 3, padding=1, bias=False), nn.Conv2d(2, 5, 1, bias=False)),
        (4, 5, 5),
    ),
    (lambda: nn.Sequential(nn.Linear(6, 2, bias=False), nn.Linear(2, 5, bias=False)), (7, 6)),
    (lambda: nn.Embedding(5, 3), ()),
]


@pytest.mark.parametrize(("make", "shape"), LAYERS)
@pytest.mark.parametrize("units", [[0, 1, 2, 3, 4, 5], [2, 0, 2, 1, 0, 2]])
def test_standardised_and_low_rank_layers_without_a_guard_are_exact_in_float64(
    oracle, monkeypatch, make, shape, units
):
    torch.manual_seed(0)
    inputs, targets = oracle.data(6, *shape)
    if not shape:
        inputs = torch.randint(0, 5, (6, 8), generator=torch.Generator().manual_seed(1))
    model, inputs = make(), inputs
    single = [
        oracle.engine(model, inputs, targets, units, bound=0.3, mode=mode) for mode in ("ghost", "store")
    ]
    assert oracle.distance(single[0], oracle.flat(single[1])) <= 1e-5
    monkeypatch.setattr(gram, "GUARD", 0.0)
    monkeypatch.setattr(gram, "FLOOR", 0.0)
    model, targets = model.double(), targets.double()
    inputs = inputs.double() if shape else inputs
    truth = oracle.truth(model, inputs, targets, units)
    found = oracle.engine(model, inputs, targets, units, bound=0.3, mode="ghost")
    assert torch.allclose(found.unit_norms, truth.norms, rtol=1e-12)
    assert oracle.distance(found, truth.clipped(0.3)) <= 1e-12


def pairs(size, features, outputs, epsilon, generator, *, alike=False):
    """Return positions in pairs whose outer products cancel up to ``epsilon``."""
    x = torch.randn(1, size // 2, features, generator=generator).abs().repeat_interleave(2, 1)
    half = torch.randn(1, 1 if alike else size // 2, outputs, generator=generator).expand(
        1, size // 2, outputs
    )
    dy = torch.stack([half, -half], 2).flatten(1, 2)
    return x, dy + epsilon * torch.randn(dy.shape, generator=generator)


def image(channels, outputs, side, epsilon, generator):
    """Return a flat image and an output gradient of mean 0: every tap's product cancels up to ``epsilon``."""
    x = torch.randn(1, channels, 1, 1, generator=generator).abs().expand(1, channels, side, side)
    sign = torch.where(torch.arange((side - 2) ** 2) % 2 == 0, 1.0, -1.0).reshape(side - 2, side - 2)
    dy = (torch.rand(1, outputs, 1, 1, generator=generator) + 0.5) * sign
    dy = dy - dy.mean((2, 3), keepdim=True)
    return x + epsilon * torch.randn(x.shape, generator=generator), dy + epsilon * torch.randn(
        dy.shape, generator=generator
    )


def words(size, outputs, epsilon, generator):
    """Return one index again and again, and gradients of its vector that cancel."""
    _, dy = pairs(size, 1, outputs, epsilon, generator, alike=True)
    return torch.zeros(1, size, dtype=torch.long), dy


CANCELLING = {
    "linear": (lambda: nn.Linear(64, 32, bias=False), lambda e, g: pairs(16, 64, 32, e, g)),
    "wide linear": (lambda: nn.Linear(1024, 512, bias=False), lambda e, g: pairs(2, 1024, 512, e, g)),
    "conv": (lambda: nn.Conv2d(32, 16, 3, bias=False), lambda e, g: image(32, 16, 8, e, g)),
    "standardized": (lambda: StandardizedConv2d(32, 16, 3, bias=False), lambda e, g: image(32, 16, 8, e, g)),
    "embedding": (lambda: nn.Embedding(2, 32), lambda e, g: words(64, 32, e, g)),
}
BOUNDS = (1e-6, 1e-4, 1e-2, 1.0)


def worst(oracle, name, precision="fp32", modes=("ghost",)):
    """Return the longest contribution of one unit over the bound."""
    make, data = CANCELLING[name]
    torch.manual_seed(0)
    model, generator, found = make(), torch.Generator().manual_seed(0), 0.0
    for epsilon in (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1.0):
        x, dy = data(epsilon, generator)
        for bound in BOUNDS:
            for mode in modes:
                total = oracle.engine(model, x, dy, loss=product, bound=bound, mode=mode, precision=precision)
                found = max(found, float(oracle.flat(total).double().norm()) / bound)
    return found


@pytest.mark.parametrize("name", CANCELLING)
def test_a_record_made_to_cancel_stays_within_the_bound(oracle, name):
    assert worst(oracle, name, modes=("ghost", "norm", "store", "rule")) <= 1 + 1e-4


@pytest.mark.parametrize("name", CANCELLING)
def test_a_record_made_to_cancel_stays_within_the_bound_in_bfloat16(oracle, name):
    assert worst(oracle, name, "bf16", modes=("ghost", "norm", "store")) <= 1 + 1e-4


@pytest.mark.parametrize("name", CANCELLING)
def test_without_the_guard_it_does_not(oracle, monkeypatch, name):
    monkeypatch.setattr(gram, "GUARD", 0.0)
    assert worst(oracle, name) > 2


@pytest.mark.parametrize("name", ["linear", "conv"])
def test_without_the_slip_it_does_not_in_bfloat16(oracle, monkeypatch, name):
    monkeypatch.setattr(gram, "SLIP", 0.0)
    monkeypatch.setattr(gram, "GUARD", 0.0)
    assert worst(oracle, name, "bf16") > 1.01


def test_numbers_too_small_to_square_cannot_hide_a_gradient(oracle, monkeypatch):
    """x * x vanishes in float32 where x * dy does not."""
    model = nn.Linear(64, 64, bias=False)
    x, dy = torch.full((1, 64, 64), 2e-23), torch.full((1, 64, 64), 1e18)

    def length():
        return float(
            oracle.flat(oracle.engine(model, x, dy, loss=product, bound=1e-4, mode="ghost")).double().norm()
        )

    assert length() <= 1e-4 * (1 + 1e-4)
    monkeypatch.setattr(gram, "FLOOR", 0.0)
    assert length() > 0.01


def test_the_guard_leaves_ordinary_norms_alone():
    generator = torch.Generator().manual_seed(0)
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1))
    x, dy = (torch.randn(5, 1, 16, 8, 8, generator=generator) for _ in range(2))
    exact = gram.of_convolution(x.double(), dy.double(), geometry)
    assert torch.allclose(gram.of_convolution(x, dy, geometry), exact, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("features", [64, 512, 4096, 32768])
def test_the_guard_is_above_every_error_seen(features):
    """GUARD against the error itself, over the square of the sum of the terms' norms."""
    generator, found = torch.Generator().manual_seed(0), 0.0
    for _ in range(20):
        x, dy = pairs(2, features, 64, 1e-4, generator, alike=True)
        x = (x + 1) * (1 + 1e-3 * torch.rand(1, 2, 1, generator=generator))
        error = raw(dy.double(), x.double()) - raw(dy, x)
        reach = (dy.double().norm(dim=2) * x.double().norm(dim=2)).sum(1).square()
        found = max(found, float((error / reach).max()))
    assert found < gram.GUARD / 2


def raw(dy, x):
    return (torch.bmm(dy, dy.transpose(1, 2)) * torch.bmm(x, x.transpose(1, 2))).sum(
        (1, 2), dtype=torch.float64
    )
