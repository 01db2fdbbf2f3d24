"""The clipped sum is the definition, for any geometry, any cut into batches, any views and patients."""

import copy

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from meninx.models.blocks import StandardizedConv2d, StandardizedConv3d
from meninx.privacy.clipping import Planner, clipped_gradient_sum

QUICK = settings(max_examples=25, deadline=None)
KINDS = {
    (1, "plain"): nn.Conv1d,
    (2, "plain"): nn.Conv2d,
    (3, "plain"): nn.Conv3d,
    (1, "transposed"): nn.ConvTranspose1d,
    (2, "transposed"): nn.ConvTranspose2d,
    (3, "transposed"): nn.ConvTranspose3d,
    (2, "standardized"): StandardizedConv2d,
    (3, "standardized"): StandardizedConv3d,
}
MODES = st.sampled_from(["rule", "store", "ghost", "norm"])


def loss(outputs, targets):
    return (outputs.flatten(1) + 0.3).sin().sum(1) * targets


def definition(model, inputs, targets, units, views):
    """Return every unit's gradient, in float64, row by row."""
    model = copy.deepcopy(model).double()
    weights = list(model.parameters())
    sums = torch.zeros(max(units) + 1, sum(value.numel() for value in weights), dtype=torch.float64)
    for row in range(len(inputs)):
        found = torch.autograd.grad(
            loss(model(inputs[row : row + 1].double()), targets[row : row + 1]).sum(), weights
        )
        sums[units[row // views]] += torch.cat([value.flatten() for value in found]) / views
    return sums


@st.composite
def convolutions(draw):
    dims, kind = draw(st.sampled_from(sorted(KINDS)))

    def axis(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    groups = draw(st.sampled_from([1, 1, 2]))
    kernel, stride, dilation = axis(1, 3), axis(1, 2), axis(1, 2)
    if (
        kind == "standardized"
    ):  # a filter of two numbers is +-(1, -1) / sqrt(2) whatever they are: its gradient is rounding
        kernel = tuple(max(2, size) for size in kernel)
    more = {
        "stride": stride,
        "dilation": dilation,
        "groups": groups,
        "bias": draw(st.booleans()),
        "padding": axis(0, 1),
    }
    if kind == "transposed":
        more["output_padding"] = tuple(
            draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
        )
        more["padding"] = tuple(
            min(p, (k - 1) * d // 2) for p, k, d in zip(more["padding"], kernel, dilation, strict=True)
        )
    size = tuple(
        draw(st.integers((k - 1) * d + 1, (k - 1) * d + 3)) for k, d in zip(kernel, dilation, strict=True)
    )
    seed = draw(st.integers(0, 2**16))
    torch.manual_seed(seed)
    model = nn.Sequential(
        KINDS[dims, kind](2 * groups, groups * draw(st.integers(1, 2)), kernel, **more), nn.Tanh()
    )
    return model, (2 * groups, *size), seed


@QUICK
@given(
    layer=convolutions(),
    units=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    views=st.sampled_from([1, 1, 2, 4, 16]),
    chunk=st.one_of(st.none(), st.integers(1, 6)),
    bound=st.sampled_from([0.1, 1.0, 1e9]),
    mode=MODES,
)
def test_convolutions(layer, units, views, chunk, bound, mode):
    model, shape, seed = layer
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(len(units) * views, *shape, generator=generator)
    targets = torch.rand(len(inputs), generator=generator) + 0.2
    gradients = definition(model, inputs, targets, units, views)
    norms = gradients.norm(dim=1)
    found = clipped_gradient_sum(
        model,
        loss,
        inputs,
        targets,
        unit_index=torch.tensor(units),
        n_units=max(units) + 1,
        max_grad_norm=bound,
        views=views,
        chunk=chunk,
        planner=Planner(mode=mode),
    )
    longer = (
        5e-5 if mode in ("store", "norm") else 1e-3
    )  # a ghost norm is raised where its terms cancel, never lowered
    assert torch.all(found.unit_norms >= norms * (1 - 5e-5) - 1e-6)
    assert torch.all(found.unit_norms <= norms * (1 + longer) + 1e-6)
    used = found.unit_norms.clamp(min=1e-30)
    expected = (bound / used).clamp(max=1) @ gradients
    flat = torch.cat([value.flatten() for value in found.gradients.values()]).double()
    scale = float(expected.norm()) + 1e-2 * min(bound, float(norms.max()))
    assert float((flat - expected).norm()) <= 2e-5 * scale
    assert found.present.tolist() == [unit in units for unit in range(max(units) + 1)]


@QUICK
@given(
    units=st.lists(st.integers(0, 4), min_size=1, max_size=8),
    positions=st.lists(st.integers(1, 5), max_size=2),
    mode=MODES,
    powers=st.lists(st.integers(-6, 6), min_size=8, max_size=8),
    clipping=st.sampled_from(["flat", "auto-s", "per-layer"]),
    seed=st.integers(0, 2**16),
)
def test_no_unit_moves_the_sum_by_more_than_the_bound(units, positions, mode, powers, clipping, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3))
    inputs = torch.randn(len(units), *positions, 5)
    inputs *= 10.0 ** torch.tensor(powers[: len(units)]).reshape(-1, *(1,) * (inputs.dim() - 1))
    owner, targets = torch.tensor(units), torch.rand(len(units)) * 100

    def total(rows):
        found = clipped_gradient_sum(
            model, loss, inputs[rows], targets[rows], unit_index=owner[rows], n_units=5, max_grad_norm=0.1,
            clipping=clipping, planner=Planner(mode=mode),
        )  # fmt: skip
        return torch.cat([value.flatten() for value in found.gradients.values()]).double()

    everyone = total(torch.ones(len(units), dtype=torch.bool))
    for gone in set(units):
        assert float((everyone - total(owner != gone)).norm()) <= 0.1 * (1 + 1e-4) + 1e-6
