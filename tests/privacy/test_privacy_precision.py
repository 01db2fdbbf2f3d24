"""Norms and realised sensitivity in float32 and bfloat16, inputs scaled from 1e-6 to 1e6.

Units that are not finite.
"""

import pytest
import torch
from torch import nn

from meninx.models.blocks import StandardizedConv2d
from meninx.privacy.clipping import engine
from meninx.privacy.clipping.gradient_record import row_norms

SCALES = [10.0**power for power in range(-6, 7)]


def net(standardize=False):
    torch.manual_seed(1)
    return nn.Sequential(
        (StandardizedConv2d if standardize else nn.Conv2d)(3, 16, 3, padding=1),
        nn.GroupNorm(4, 16),
        nn.GELU(),
        (StandardizedConv2d if standardize else nn.Conv2d)(16, 24, 3, stride=2),
        nn.PReLU(24),
        nn.ConvTranspose2d(24, 8, 2, stride=2),
        nn.Mish(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def entropy(outputs, targets):
    return (
        nn.functional.cross_entropy(outputs.float(), targets.long()[:, 0] % 5, reduction="none")
        * targets[:, 0]
    )


@pytest.mark.parametrize("standardize", [False, True])
def test_norms_are_right_in_both_precisions(oracle, standardize):
    model, (inputs, targets) = net(standardize), oracle.data(12, 3, 8, 8)
    truth = oracle.truth(model, inputs, targets, loss=entropy).norms
    for mode in ("rule", "store", "ghost", "norm"):
        full = oracle.engine(model, inputs, targets, loss=entropy, mode=mode).unit_norms
        half = oracle.engine(model, inputs, targets, loss=entropy, mode=mode, precision="bf16").unit_norms
        assert float(((full - truth) / truth).abs().max()) <= 5e-5
        assert float(((half - truth) / truth).abs().max()) <= 2e-2


def realised(oracle, model, inputs, targets, **settings):
    """Return the longest contribution of a single unit over the bound: every unit alone in its call."""
    longest = 0.0
    for row in range(len(inputs)):
        total = oracle.engine(model, inputs[row : row + 1], targets[row : row + 1], loss=entropy, **settings)
        longest = max(longest, float(oracle.flat(total).double().norm()) / total.sensitivity)
    return longest


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("standardize", [False, True])
def test_a_single_unit_never_contributes_more_than_the_bound(oracle, precision, standardize):
    model, most = net(standardize), 1 + 1e-4 if precision == "fp32" else 1 + 1e-6
    for number, scale in enumerate(SCALES):
        inputs, targets = oracle.data(2, 3, 8, 8, seed=number)
        targets = targets * scale ** (number % 3 - 1)
        for mode in ("store", "ghost", "norm"):
            for clipping in ("flat", "auto-s", "per-layer"):
                found = realised(
                    oracle,
                    model,
                    inputs * scale,
                    targets,
                    mode=mode,
                    precision=precision,
                    bound=0.01,
                    clipping=clipping,
                )
                assert found <= most, (scale, mode, clipping)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_thousand_units_never_contribute_more_than_the_bound(oracle, precision):
    most = 1 + 1e-4 if precision == "fp32" else 1 + 1e-6
    for standardize in (False, True):
        model = net(standardize)
        for number, scale in enumerate(SCALES):
            inputs, targets = oracle.data(20, 3, 8, 8, seed=100 + number)
            for mode in ("store", "ghost"):
                assert (
                    realised(
                        oracle, model, inputs * scale, targets, mode=mode, precision=precision, bound=0.01
                    )
                    <= most
                )


def test_a_large_number_does_not_hide_millions_of_small_ones():
    value = torch.full((2, 1_000_000), 1e-4)
    value[:, :64] = 1.0
    assert torch.allclose(row_norms(value), value.double().norm(dim=1), rtol=1e-5)
    assert torch.allclose(row_norms(value[:, :1000]), value[:, :1000].double().norm(dim=1), rtol=1e-6)


@pytest.mark.parametrize("clipping", ["flat", "auto-s", "per-layer"])
def test_factors_bound_every_norm(clipping):
    squares = 10.0 ** torch.arange(-300, 300, 7, dtype=torch.float64)[:, None].expand(
        -1, 1 if clipping != "per-layer" else 3
    )
    factor, keep = engine.clip_factors(squares, 0.5, clipping)
    assert bool(((squares.sqrt() * factor).square().sum(1).sqrt() <= 0.5 * (1 + 1e-12)).all())
    assert not bool(keep[-1])
    assert bool((factor[~keep] == 0).all())


BROKEN = {"nan": float("nan"), "inf": float("inf")}


@pytest.mark.parametrize("mode", ["store", "ghost", "norm"])
@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize("where", ["input", "loss"])
def test_a_unit_that_is_not_finite_contributes_nothing_and_changes_no_other(oracle, mode, value, where):
    """Against the same batch in which that unit's loss is zero: bit for bit."""
    model, (inputs, targets), units = net(), oracle.data(6, 3, 8, 8), [0, 1, 2, 1, 3, 0]
    quiet = targets.clone()
    quiet[[1, 3]] = 0.0
    without = oracle.engine(model, inputs, quiet, units, bound=0.1, mode=mode)
    broken, weights = inputs.clone(), targets.clone()
    (broken if where == "input" else weights)[3] = BROKEN[value]
    found = oracle.engine(model, broken, weights, units, bound=0.1, mode=mode)
    assert torch.equal(oracle.flat(found), oracle.flat(without))
    assert found.dropped == 1
    assert not bool(torch.isfinite(found.unit_norms[1]))
    assert bool(torch.isfinite(oracle.flat(found)).all())


@pytest.mark.parametrize("mode", ["store", "ghost"])
def test_a_batch_of_units_that_are_not_finite_gives_zeros(oracle, mode):
    model, (inputs, targets) = net(), oracle.data(3, 3, 8, 8)
    found = oracle.engine(model, inputs * float("nan"), targets, mode=mode)
    assert float(oracle.flat(found).abs().sum()) == 0
    assert found.dropped == 3
