"""Record and play: the same step with and without one unit, or with another record in a unit's place."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from meninx.models.blocks import StandardizedConv2d
from meninx.privacy.plan import Plan

BOUND = 0.05
PATIENTS = [0, 0, 1, 2, 2, 2, 3, 4]


class Recorder(TorchDispatchMode):
    """Remembers the names of all operations, in order."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Dropout(0.5),
        StandardizedConv2d(4, 4, 3, stride=2),
        nn.PReLU(),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def records(oracle, seed, rows=8):
    """Return records whose scales differ a thousandfold."""
    inputs, targets = oracle.data(rows, 1, 6, 6, seed=seed)
    return inputs * 10.0 ** torch.randint(
        -2, 3, (rows, 1, 1, 1), generator=torch.Generator().manual_seed(seed)
    ), targets


def summed(oracle, model, inputs, targets, units, mode):
    """Return the sum, the trace and the state of the generator afterwards."""
    torch.manual_seed(7)
    with Recorder() as recorder:
        keys = torch.arange(len(inputs))
        total = oracle.engine(model, inputs, targets, units, bound=BOUND, mode=mode, row_keys=keys)
    return oracle.flat(total).double(), recorder.names, torch.get_rng_state()


@pytest.mark.parametrize("mode", ["store", "ghost"])
@pytest.mark.parametrize("unit", ["case", "patient"])
def test_removing_a_unit_moves_the_sum_by_the_bound_at_most(oracle, unit, mode):
    """50 pairs in each of the four ways."""
    model, pairs = net().eval(), 0
    units = torch.arange(8) if unit == "case" else torch.tensor(PATIENTS)
    for seed in range(13):
        inputs, targets = records(oracle, seed)
        everyone, _, _ = summed(oracle, model, inputs, targets, units, mode)
        for gone in units.unique().tolist()[:4]:
            rest = units != gone
            without, _, _ = summed(oracle, model, inputs[rest], targets[rest], units[rest], mode)
            assert float((everyone - without).norm()) <= BOUND * (1 + 1e-5)
            pairs += 1
    assert pairs >= 50


@pytest.mark.parametrize("mode", ["rule", "store", "ghost"])
@pytest.mark.parametrize("units", [list(range(8)), PATIENTS])
def test_another_record_changes_neither_trace_nor_randomness(oracle, mode, units):
    model = net().train()
    inputs, targets = records(oracle, 0)
    _, names, state = summed(oracle, model, inputs, targets, units, mode)
    assert len(names) > 50
    for seed in range(1, 9):
        other, weights = records(oracle, seed)
        changed, target = inputs.clone(), targets.clone()
        changed[seed - 1], target[seed - 1] = other[0], weights[0]
        _, again, after = summed(oracle, model, changed, target, units, mode)
        assert again == names
        assert torch.equal(state, after)


def test_denominator_and_noise_are_the_same_with_one_unit_less(oracle):
    model, plan = (
        net().eval(),
        Plan.build(
            n_units=400,
            expected_batch_size=40.0,
            steps=9,
            noise_multiplier=1.1,
            max_grad_norm=BOUND,
            delta=1e-5,
        ),
    )
    inputs, targets = records(oracle, 3)
    noise = plan.noise(bytes(32))
    totals = [
        plan.clipped_sum(model, oracle.loss, inputs[:n], targets[:n], unit_index=torch.arange(n), n_units=n)
        for n in (8, 7)
    ]
    released = [
        torch.cat([value.flatten() for value in plan.release(total, noise, 0).values()]) for total in totals
    ]
    moved = (oracle.flat(totals[0]) - oracle.flat(totals[1])).double() / 40
    assert float((released[0].double() - released[1].double() - moved).norm()) <= 1e-6
    assert float((released[0] - released[1]).norm()) <= BOUND / 40 * (1 + 1e-4)
