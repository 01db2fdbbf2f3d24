"""Optimisers, schedules and averaged weights: what they do, and that they remember it."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import nn

from meninx.learn import optim
from meninx.learn.config import LearnConfig, OptimizerName
from meninx.learn.optim import Schedule
from meninx.learn.state import Best, Player, WeightAverage


def rates(total: int = 10, per_epoch: int = 2, **changes: Any) -> list[float]:
    schedule = Schedule(LearnConfig.of(lr=1.0, **changes).optim, per_epoch)
    return [schedule.rate(step, total) for step in range(total)]


def test_constant_cosine_step_and_manual_rates() -> None:
    assert rates() == [1.0] * 10
    cosine = rates(schedule="cosine")
    assert cosine[0] == 1.0
    assert cosine[5] == pytest.approx(0.5)
    assert cosine == sorted(cosine, reverse=True)
    assert rates(schedule="step", milestones=(1, 3), gamma=0.5) == [
        1,
        1,
        0.5,
        0.5,
        0.5,
        0.5,
        0.25,
        0.25,
        0.25,
        0.25,
    ]
    assert rates(schedule="manual", milestones=(2,), rates=(0.3, 0.1)) == [0.3] * 4 + [0.1] * 6


def test_warmup_rises_and_never_starts_at_zero() -> None:
    warm = rates(warmup=3)
    assert warm[:4] == [0.25, 0.5, 0.75, 1.0]


def test_plateau_lowers_the_rate_after_waiting_and_remembers_it() -> None:
    config = LearnConfig.of(lr=1.0, schedule="plateau", plateau_patience=1, gamma=0.1).optim
    schedule = Schedule(config, 10)
    for loss in (1.0, 0.5, 0.5, 0.5):
        schedule.observe(loss)
    assert schedule.rate(0, 100) == pytest.approx(0.1)
    fresh = Schedule(config, 10)
    fresh.load_state_dict(schedule.state_dict())
    for loss in (0.5, 0.4):
        schedule.observe(loss)
        fresh.observe(loss)
    assert fresh == schedule


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_every_optimiser_goes_downhill_and_leaves_frozen_parameters_alone(name: str) -> None:
    free, fixed = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([3.0]), requires_grad=False)
    method = optim.optimizer(LearnConfig.of(optimizer=name, lr=0.1, weight_decay=0.01).optim, [free, fixed])
    for _ in range(60):
        method.zero_grad()
        free.square().sum().backward()  # type: ignore[no-untyped-call]
        method.step()
    assert abs(free.item()) < 0.5
    assert fixed.item() == 3.0


def test_averaged_weights_are_swapped_in_and_back_even_after_an_error() -> None:
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.9)
    start = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    average.update(model)
    trained = model.weight.detach().clone()
    player = Player(model, torch.optim.SGD(model.parameters()), average=average)

    def evaluate() -> None:
        with player.averaged():
            torch.testing.assert_close(model.weight.detach(), start + 0.9)  # the first decay is 1 / 10
            raise RuntimeError

    with pytest.raises(RuntimeError):
        evaluate()
    assert torch.equal(model.weight, trained)
    fresh = WeightAverage(model, 0.9)
    fresh.load_state_dict(average.state_dict())
    assert fresh.updates == 1
    assert all(torch.equal(fresh.shadow[name], average.shadow[name]) for name in fresh.shadow)


def test_best_counts_the_evaluations_without_progress() -> None:
    best = Best()
    assert [best.observe(value, step) for step, value in enumerate((0.5, 0.4, 0.6, 0.6, 0.1))] == [
        True,
        False,
        True,
        False,
        False,
    ]
    assert (best.value, best.step, best.waited) == (0.6, 2, 2)
