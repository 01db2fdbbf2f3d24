"""Every supported layer: clipped sums and norms against float64 autograd by row, and against Opacus."""

import copy
from itertools import product

import pytest
import torch
from torch import nn

from meninx.models.blocks import StandardizedConv2d, StandardizedConv3d

ROWS = 5
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using padding='same' with even kernel lengths:UserWarning"
)  # torch, once
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
SIZES = {1: (9,), 2: (7, 6), 3: (5, 4, 6)}


class Case:
    """A layer between two others, so that its input's gradient counts, too."""

    def __init__(self, make, *shape, dims=None, known_to_opacus=True):
        self.make, self.shape, self.dims, self.known_to_opacus = make, shape, dims, known_to_opacus

    def model(self, double=False):
        torch.manual_seed(3)
        if self.dims is None:
            before = [] if self.shape[0] == 0 else [nn.Linear(self.shape[-1], self.shape[-1])]
        else:
            before = [CONVS[self.dims](self.shape[0], self.shape[0], 1)]
        net = nn.Sequential(*before, self.make(), nn.Tanh())
        for value in net.parameters():
            if value.dim() == 1:
                nn.init.normal_(value, 0.5, 0.3)
        return net.double() if double else net

    def data(self, oracle, rows=ROWS):
        if self.shape[0] == 0:
            _, targets = oracle.data(rows, 1)
            return torch.randint(
                0, 7, (rows, *self.shape[1:]), generator=torch.Generator().manual_seed(2)
            ), targets
        return oracle.data(rows, *self.shape)


def conv(dims, *numbers, channels=4, size=None, opacus=True, **settings):
    return Case(
        lambda: CONVS[dims](*numbers, **settings),
        channels,
        *(size or SIZES[dims]),
        dims=dims,
        known_to_opacus=opacus,
    )


def transposed(dims, *numbers, channels=4, **settings):
    sizes = {1: (5,), 2: (4, 3), 3: (3, 2, 3)}
    return Case(
        lambda: TRANSPOSED[dims](*numbers, **settings),
        channels,
        *sizes[dims],
        dims=dims,
        known_to_opacus=False,
    )


CASES = {
    "linear": Case(lambda: nn.Linear(6, 4), 6),
    "linear without bias": Case(lambda: nn.Linear(6, 4, bias=False), 6),
    "linear, one more axis": Case(lambda: nn.Linear(6, 4), 5, 6),
    "linear, two more axes": Case(lambda: nn.Linear(6, 4), 3, 2, 6),
    "linear, many positions": Case(lambda: nn.Linear(3, 2), 40, 3),
    "layer norm": Case(lambda: nn.LayerNorm(6), 5, 6),
    "layer norm of vectors": Case(lambda: nn.LayerNorm(6), 6),
    "layer norm over two axes": Case(lambda: nn.LayerNorm((5, 6)), 3, 5, 6),
    "layer norm without bias": Case(lambda: nn.LayerNorm(6, bias=False), 5, 6, known_to_opacus=False),
    "embedding": Case(lambda: nn.Embedding(7, 3), 0, 9),
    "embedding with padding": Case(lambda: nn.Embedding(7, 3, padding_idx=2), 0, 3, 3, known_to_opacus=False),
    "embedding of one index": Case(lambda: nn.Embedding(7, 3), 0),
    "prelu of vectors": Case(lambda: nn.PReLU(6), 6, known_to_opacus=False),
}
for n in (1, 2, 3):
    CASES |= {
        f"conv{n}d": conv(n, 4, 3, 3),
        f"conv{n}d stride": conv(n, 4, 3, 3, stride=2, padding=1, bias=False),
        f"conv{n}d stride that leaves a rest": conv(n, 4, 3, 2, stride=3),
        f"conv{n}d dilation": conv(n, 4, 3, 2, dilation=2, padding=2, opacus=n < 3),
        f"conv{n}d groups": conv(n, 4, 6, 3, groups=2, padding=1),
        f"conv{n}d depthwise": conv(n, 4, 8, 3, groups=4, padding=1),
        f"conv{n}d one tap": conv(n, 4, 5, 1),
        f"conv{n}d one tap, stride": conv(n, 4, 5, 1, stride=2),
        f"conv{n}d one tap, groups": conv(n, 4, 6, 1, groups=2),
        f"conv{n}d same, even": conv(n, 4, 3, 4, padding="same", dilation=1, opacus=False),
        f"conv{n}d same, even, dilated": conv(n, 4, 3, 2, padding="same", dilation=3, opacus=False),
        f"conv{n}d valid": conv(n, 4, 3, 2, padding="valid"),
        f"conv{n}d reflect": conv(n, 4, 3, 3, padding=1, padding_mode="reflect", opacus=False),
        f"conv{n}d replicate": conv(n, 4, 3, 3, padding=2, padding_mode="replicate", stride=2, opacus=False),
        f"conv{n}d circular": conv(n, 4, 6, 3, padding=1, padding_mode="circular", groups=2, opacus=False),
        f"conv{n}d reflect, same": conv(n, 4, 3, 2, padding="same", padding_mode="reflect", opacus=False),
        f"conv{n}d padding larger than the filter": conv(n, 4, 3, 1, padding=2),
        f"transposed{n}d": transposed(n, 4, 3, 2, stride=2),
        f"transposed{n}d output padding": transposed(n, 4, 3, 3, stride=2, padding=1, output_padding=1),
        f"transposed{n}d groups": transposed(n, 4, 6, 3, groups=2, bias=False, padding=1),
        f"transposed{n}d dilation": transposed(n, 4, 3, 2, dilation=2, stride=3),
        f"transposed{n}d one tap": transposed(n, 4, 3, 1),
        f"group norm {n}d": Case(lambda: nn.GroupNorm(2, 4), 4, *SIZES[n], dims=n),
        f"instance norm {n}d": Case(lambda n=n: INSTANCE[n](4, affine=True), 4, *SIZES[n], dims=n),
        f"prelu {n}d": Case(lambda: nn.PReLU(), 4, *SIZES[n], dims=n, known_to_opacus=False),
        f"prelu {n}d, each channel": Case(lambda: nn.PReLU(4), 4, *SIZES[n], dims=n, known_to_opacus=False),
    }
for n, kind in ((2, StandardizedConv2d), (3, StandardizedConv3d)):
    CASES |= {
        f"standardized{n}d": Case(
            lambda kind=kind: kind(4, 3, 3, padding=1), 4, *SIZES[n], dims=n, known_to_opacus=False
        ),
        f"standardized{n}d stride, groups": Case(
            lambda kind=kind: kind(4, 6, 3, stride=2, groups=2, bias=False),
            4,
            *SIZES[n],
            dims=n,
            known_to_opacus=False,
        ),
        f"standardized{n}d dilation, same": Case(
            lambda kind=kind: kind(4, 3, 2, dilation=2, padding="same"),
            4,
            *SIZES[n],
            dims=n,
            known_to_opacus=False,
        ),
        f"standardized{n}d circular": Case(
            lambda kind=kind: kind(4, 3, 3, padding=1, padding_mode="circular"),
            4,
            *SIZES[n],
            dims=n,
            known_to_opacus=False,
        ),
    }
CASES |= {
    "conv2d unequal numbers": conv(2, 4, 3, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2)),
    "conv3d unequal numbers": conv(3, 4, 3, (1, 3, 2), stride=(1, 2, 1), padding=(0, 1, 2)),
    "transposed2d unequal numbers": transposed(
        2, 4, 2, (3, 2), stride=(2, 3), padding=(1, 0), output_padding=(0, 1)
    ),
    "conv2d single place": conv(2, 4, 3, 4, size=(4, 4)),
    "conv2d many places": conv(2, 4, 2, 3, padding=1, size=(20, 20)),
}
RAGGED = [3, 0, 3, 1, 3, 2, 1, 3]
BOUNDS = (0.1, 1.0, 1e9)


MODES = ("rule", "store", "ghost", "norm", "measure")


def truth_of(oracle, case, units=None):
    return oracle.truth(case.model(), *case.data(oracle, len(units or range(ROWS))), units)


def check(oracle, case, mode, bound, *, units=None, channels_last=False, truth=None):
    truth = truth or truth_of(oracle, case, units)
    model, (inputs, targets) = case.model(), case.data(oracle, len(units or range(ROWS)))
    if channels_last:
        form = torch.channels_last if inputs.dim() == 4 else torch.channels_last_3d
        model, inputs = model.to(memory_format=form), inputs.contiguous(memory_format=form)
    found = oracle.engine(model, inputs, targets, units, bound=bound, mode=mode)
    assert torch.allclose(found.unit_norms, truth.norms, rtol=5e-5, atol=1e-7), (mode, bound, units)
    assert oracle.distance(found, truth.clipped(bound)) <= 5e-6, (mode, bound, units)
    assert [*found.gradients] == truth.names


@pytest.mark.parametrize("name", CASES)
def test_a_layer_equals_autograd_row_by_row(oracle, name):
    truth = truth_of(oracle, CASES[name])
    for mode in ("store", "ghost"):
        check(oracle, CASES[name], mode, 0.5, truth=truth)


@pytest.mark.parametrize("name", CASES)
def test_patients_with_several_records(oracle, name):
    truth = truth_of(oracle, CASES[name], RAGGED)
    for mode in ("store", "ghost"):
        check(oracle, CASES[name], mode, 0.5, units=RAGGED, truth=truth)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.dims in (2, 3)])
def test_channels_last(oracle, name):
    units = [1, 0, 1, 2]
    truth = truth_of(oracle, CASES[name], units)
    for mode in ("rule", "ghost"):
        check(oracle, CASES[name], mode, 0.5, channels_last=True, units=units, truth=truth)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_plan_and_bound(oracle, name):
    case = CASES[name]
    for units in (None, RAGGED):
        truth = truth_of(oracle, case, units)
        for mode, bound, last in product(MODES, BOUNDS, (False, True) if case.dims in (2, 3) else (False,)):
            check(oracle, case, mode, bound, units=units, channels_last=last, truth=truth)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.known_to_opacus])
def test_a_layer_equals_opacus_hooks(oracle, name):
    from opacus.grad_sample import GradSampleModule

    case = CASES[name]
    model, (inputs, targets) = case.model(), case.data(oracle)
    hooked = GradSampleModule(copy.deepcopy(model), loss_reduction="sum")
    oracle.loss(hooked(inputs), targets).sum().backward()
    samples = torch.cat([value.grad_sample.flatten(1) for value in hooked.parameters()], dim=1)
    for bound in BOUNDS:
        expected = (bound / samples.norm(dim=1)).clamp(max=1) @ samples
        for mode in ("store", "ghost"):
            assert (
                oracle.distance(oracle.engine(model, inputs, targets, bound=bound, mode=mode), expected)
                <= 2e-5
            )


@pytest.mark.parametrize("name", CASES)
def test_in_float64_stored_gradients_are_exact(oracle, name):
    case = CASES[name]
    model, (inputs, targets) = case.model(double=True), case.data(oracle, len(RAGGED))
    inputs, targets = (item.double() if item.is_floating_point() else item for item in (inputs, targets))
    truth = oracle.truth(model, inputs, targets, RAGGED)
    found = oracle.engine(model, inputs, targets, RAGGED, bound=0.5, mode="store")
    assert torch.allclose(found.unit_norms, truth.norms, rtol=1e-12)
    assert oracle.distance(found, truth.clipped(0.5)) <= 1e-12
    measured = oracle.engine(model, inputs, targets, RAGGED, bound=0.5, mode="ghost")
    assert oracle.distance(measured, truth.clipped(0.5)) <= 1e-6
