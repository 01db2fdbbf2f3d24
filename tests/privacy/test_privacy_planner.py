"""The planner: choices depend on shapes alone, are remembered, and change no result."""

import pytest
import torch
from torch import nn

from meninx.core.errors import ConfigError
from meninx.privacy.clipping import Choice, Planner
from meninx.privacy.clipping import planner as planners


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 32, 3, stride=2),
        nn.Flatten(),
        nn.Linear(128, 3),
    )


def test_the_rule_is_the_same_whatever_the_data(oracle):
    seen = []
    for seed in range(3):
        planner = Planner()
        oracle.engine(net(), *oracle.data(4, 2, 6, 6, seed=seed), planner=planner)
        seen.append({key: choice.kernel for key, choice in planner.seen.items()})
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 3
    assert not any(choice.seconds for choice in planner.seen.values())


def test_measured_choices_are_remembered_and_not_measured_again(oracle, monkeypatch):
    planner, data = Planner(mode="measure"), oracle.data(4, 2, 6, 6)
    first = oracle.engine(net(), *data, planner=planner)
    monkeypatch.setattr(planners, "_tried", None)
    again = oracle.engine(net(), *data, planner=Planner(mode="measure", choices=planner.choices))
    assert torch.equal(oracle.flat(first), oracle.flat(again))
    kernels = {choice.kernel for choice in planner.choices.values()}
    assert kernels <= {"unfolded", "loop", "grouped", "product", "ghost", "store", "joint"}


def test_what_is_tried_is_random_numbers_not_data(oracle):
    """Measuring on a record of NaN gives choices, and no less than on any other."""
    planner, (inputs, targets) = Planner(mode="measure"), oracle.data(2, 2, 6, 6)
    found = oracle.engine(net(), inputs * float("nan"), targets, planner=planner)
    assert float(oracle.flat(found).abs().sum()) == 0
    assert len(planner.choices) == 3


@pytest.mark.parametrize(("batch", "most"), [(1, 2), (4, 2), (12, 6), (64, 16)])
def test_no_more_units_are_tried_than_half_the_batch(oracle, monkeypatch, batch, most):
    tried, honest = [], planners._seconds

    def noted(work, kernel, units):
        tried.append(units)
        return honest(work, kernel, units)

    monkeypatch.setattr(planners, "_seconds", noted)
    oracle.engine(
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh()),
        *oracle.data(batch, 2, 6, 6),
        planner=Planner(mode="measure"),
    )
    assert max(tried) == most


@pytest.mark.parametrize("kernel", ["unfolded", "loop", "grouped", "ghost"])
def test_every_kernel_gives_the_same_sum(oracle, kernel):
    model, data = net(), oracle.data(6, 2, 6, 6)
    planner = Planner(mode="measure")
    expected = oracle.flat(oracle.engine(model, *data, bound=0.3, planner=planner))
    forced = {
        key: Choice(kernel) if key.startswith("ConvCall") else choice
        for key, choice in planner.choices.items()
    }
    told = Planner(mode="measure", choices=forced)
    found = oracle.engine(model, *data, bound=0.3, planner=told)
    assert {choice.kernel for key, choice in told.seen.items() if key.startswith("ConvCall")} == {kernel}
    assert oracle.distance(found, expected) <= 1e-5


def test_a_remembered_kernel_that_does_not_exist_is_measured_anew(oracle):
    planner, data = Planner(mode="measure"), oracle.data(6, 2, 6, 6)
    oracle.engine(net(), *data, planner=planner)
    stale = Planner(mode="measure", choices=dict.fromkeys(planner.choices, Choice("of another version")))
    oracle.engine(net(), *data, planner=stale)
    assert "of another version" not in {choice.kernel for choice in stale.choices.values()}


def test_half_precision_is_measured_too(oracle):
    planner, data = Planner(mode="measure"), oracle.data(6, 2, 6, 6)
    measured = oracle.engine(net(), *data, bound=0.3, planner=planner, precision="bf16")
    ruled = oracle.engine(net(), *data, bound=0.3, precision="bf16")
    assert all("bfloat16" in key for key in planner.choices)
    assert oracle.distance(measured, oracle.flat(ruled)) <= 2e-2


def test_gradients_that_are_too_large_to_keep_are_measured_and_dropped(oracle, monkeypatch):
    model, data = net(), oracle.data(6, 2, 6, 6)
    kept = oracle.engine(model, *data, bound=0.3, mode="store")
    monkeypatch.setattr(planners, "MOST_STORED", 1)
    assert oracle.distance(oracle.engine(model, *data, bound=0.3, mode="store"), oracle.flat(kept)) <= 1e-5


def test_another_mode_is_refused():
    with pytest.raises(ConfigError):
        Planner(mode="guess")
