"""The clipped sum: equal to a plain loop and to an independent library, whatever the physical batches."""

import copy

import pytest
import torch
from torch import nn

from meninx.core.errors import ConfigError, DataError, PrivacyRefusal
from meninx.privacy.clipping import ClippedSum, clipped_gradient_sum, slice_units
from meninx.privacy.clipping.unit_rows import rows_of

CE = nn.CrossEntropyLoss(reduction="none")


def net(dims):
    """A small smooth network: strided, grouped and transposed convolutions, GroupNorm, linear."""
    conv, transposed = (nn.Conv2d, nn.ConvTranspose2d) if dims == 2 else (nn.Conv3d, nn.ConvTranspose3d)
    pool = nn.AdaptiveAvgPool2d if dims == 2 else nn.AdaptiveAvgPool3d
    torch.manual_seed(dims)
    return nn.Sequential(
        conv(1, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.GELU(),
        conv(4, 4, 3, stride=2, padding=1, groups=2, bias=False),
        nn.GELU(),
        transposed(4, 3, 2, stride=2),
        nn.GroupNorm(1, 3),
        nn.Mish(),
        pool(2),
        nn.Flatten(),
        nn.Linear(3 * 2**dims, 3),
    )


def batch(dims, cases, views=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(cases * views, 1, *[8] * dims, generator=generator)
    return inputs, torch.randint(0, 3, (cases * views,), generator=generator)


def clipped(model, data, units, **changes):
    given = {
        "unit_index": torch.as_tensor(units),
        "n_units": max(units, default=-1) + 1,
        "max_grad_norm": 0.3,
    }
    return clipped_gradient_sum(model, CE, *data, **(given | changes))


def looped(model, data, units, bound, views=1, clipping="flat"):
    """The definition, in float64: mean over views, sum over the unit's cases, one clip, sum over units."""
    model = copy.deepcopy(model).double()
    inputs, targets = data[0].double(), data[1]
    sums, norms = [torch.zeros_like(value) for value in model.parameters()], []
    for unit in sorted(set(units)):
        total = [torch.zeros_like(value) for value in model.parameters()]
        for case in (index for index, owner in enumerate(units) if owner == unit):
            for view in range(views):
                row = slice(case * views + view, case * views + view + 1)
                found = torch.autograd.grad(
                    CE(model(inputs[row]), targets[row]).sum(), list(model.parameters())
                )
                total = [a + b / views for a, b in zip(total, found, strict=True)]
        norm = torch.cat([value.flatten() for value in total]).norm()
        factor = bound / (norm + 0.01) if clipping == "auto-s" else min(1.0, float(bound / norm))
        sums = [a + factor * b for a, b in zip(sums, total, strict=True)]
        norms.append(float(norm))
    return torch.cat([value.flatten() for value in sums]), torch.tensor(norms)


def flat(total):
    return torch.cat([value.flatten() for value in total.gradients.values()])


def distance(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("bound", "clipping"), [(0.3, "flat"), (1e9, "flat"), (0.3, "auto-s")])
def test_equals_the_loop_in_float64(dims, bound, clipping):
    model, data, units = net(dims), batch(dims, 7), [0, 1, 2, 1, 3, 1, 0]
    total = clipped(model, data, units, max_grad_norm=bound, clipping=clipping)
    expected, norms = looped(model, data, units, bound, clipping=clipping)
    assert distance(flat(total), expected) < 1e-5
    assert torch.allclose(total.unit_norms, norms.double(), rtol=1e-5)
    assert total.sensitivity == bound
    assert total.units == 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("bound", [0.1, 1.0, 1e9])
def test_equals_opacus_hooks(dims, bound):
    from opacus.grad_sample import GradSampleModule

    model, data = net(dims), batch(dims, 9)
    hooked = GradSampleModule(copy.deepcopy(model), loss_reduction="sum")
    CE(hooked(data[0]), data[1]).sum().backward()
    samples = torch.cat([value.grad_sample.flatten(1) for value in hooked.parameters()], dim=1)
    factors = (bound / samples.norm(dim=1)).clamp(max=1)
    assert distance(flat(clipped(model, data, list(range(9)), max_grad_norm=bound)), factors @ samples) < 1e-5


@pytest.mark.parametrize("views", [2, 4])
def test_views_are_averaged_before_clipping(views):
    model, data, units = net(2), batch(2, 5, views), [0, 1, 1, 2, 0]
    expected, _ = looped(model, data, units, 0.3, views=views)
    assert distance(flat(clipped(model, data, units, views=views)), expected) < 1e-5


@pytest.mark.parametrize("dims", [2, 3])
def test_the_physical_batch_does_not_matter(dims):
    model, data, units = net(dims), batch(dims, 9), [0, 1, 2, 2, 2, 2, 3, 1, 4]
    whole = clipped(model, data, units)
    for chunk in (1, 2, 3, 9):
        assert distance(flat(clipped(model, data, units, chunk=chunk)), flat(whole)) < 1e-5
        parts = ClippedSum.empty(model, max_grad_norm=0.3, n_units=5)
        for rows in slice_units(units, chunk):
            part = (data[0][rows], data[1][rows])
            parts = parts + clipped(model, part, [units[row] for row in rows], n_units=5)
        assert distance(flat(parts), flat(whole)) < 1e-5
        assert torch.equal(parts.present, whole.present)
        assert torch.allclose(parts.unit_norms, whole.unit_norms, rtol=1e-5)


def test_two_records_of_a_patient_are_clipped_once():
    model, (inputs, targets) = net(2), batch(2, 1)
    twice = (inputs.repeat(2, 1, 1, 1), targets.repeat(2))
    one = clipped(model, (inputs, targets), [0], max_grad_norm=0.01)
    as_patient, as_cases = (clipped(model, twice, units, max_grad_norm=0.01) for units in ([0, 0], [0, 1]))
    assert float(flat(one).norm()) == pytest.approx(0.01, rel=1e-5)
    assert float(flat(as_patient).norm()) == pytest.approx(0.01, rel=1e-5)
    assert float(flat(as_cases).norm()) == pytest.approx(0.02, rel=1e-5)


def test_a_unit_that_is_not_finite_contributes_exactly_nothing():
    model, (inputs, targets), units = net(2), batch(2, 6), [0, 1, 2, 3, 1, 4]
    weight = torch.ones(6)

    def weighted(outputs, both):
        return CE(outputs, both[:, 0].long()) * both[:, 1]

    def total(data, weights):
        rows = torch.stack([targets.float(), weights], dim=1)
        return clipped_gradient_sum(
            model, weighted, data, rows, unit_index=torch.tensor(units), n_units=5, max_grad_norm=0.3
        )

    without = total(inputs, torch.where(torch.tensor(units) == 1, 0.0, weight))
    for bad in (float("nan"), float("inf")):
        broken = inputs.clone()
        broken[4] = bad  # the second record of unit 1 takes the first one with it
        found = total(broken, weight)
        assert torch.equal(flat(found), flat(without))
        assert found.dropped == 1
        assert found.units == 5
        assert bool(torch.isfinite(flat(found)).all())


def test_an_empty_draw_gives_zeros():
    model = net(2)
    total = clipped(model, batch(2, 0), [], unit_index=torch.empty(0, dtype=torch.long), n_units=0)
    assert float(flat(total).abs().sum()) == 0
    assert total.gradients.keys() == dict(model.named_parameters()).keys()
    assert total.units == 0


def test_only_trainable_parameters_are_returned_and_the_model_is_not_touched():
    model, data = net(2), batch(2, 3)
    model[0].weight.requires_grad_(False)
    before, own = copy.deepcopy(model.state_dict()), dict(model.named_parameters())
    total = clipped(model, data, [0, 1, 2])
    assert "0.weight" not in total.gradients
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value is own[name] and value.grad is None for name, value in model.named_parameters())


def test_parts_with_a_common_unit_cannot_be_added():
    model, data = net(2), batch(2, 2)
    first, second = clipped(model, data, [0, 1]), clipped(model, data, [1, 0])
    with pytest.raises(PrivacyRefusal, match="a unit clipped twice counts twice"):
        first + second
    with pytest.raises(PrivacyRefusal, match="not of one step"):
        first + clipped(model, data, [0, 1], n_units=5)
    with pytest.raises(PrivacyRefusal, match="not of one step"):
        first + clipped(model, data, [0, 1], max_grad_norm=0.4)


def test_wrong_shapes_and_settings_are_refused():
    model, data = net(2), batch(2, 3)
    for changes in (
        {"views": 2},
        {"unit_index": torch.tensor([0, 1])},
        {"n_units": 2},
        {"unit_index": torch.tensor([0.0, 1.0, 2.0])},
    ):
        with pytest.raises(DataError):
            clipped(model, data, [0, 1, 2], **changes)
    for changes in ({"max_grad_norm": 0.0}, {"clipping": "median"}, {"chunk": 0}):
        with pytest.raises(ConfigError):
            clipped(model, data, [0, 1, 2], **changes)


def test_channels_last_inputs_stay_so_when_units_are_reordered():
    inputs = torch.randn(6, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    arranged = rows_of(torch.tensor([2, 0, 2, 1, 1, 2]), 1).arranged(inputs)
    assert arranged.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(arranged, inputs)
