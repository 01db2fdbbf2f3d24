"""The gradient that a private step leaves, against a float64 loop: every step, canaries, rounds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from meninx.core.errors import PrivacyRefusal
from meninx.core.run import create
from meninx.learn import (
    Evaluator,
    Hook,
    Keys,
    PrivateSampler,
    PrivateStep,
    Report,
    ShuffleSampler,
    TensorLoader,
    Trainer,
    TrainState,
    UnitSource,
)
from meninx.learn.dp_step import _bit_sums
from meninx.privacy import ClippedSum, Ledger, Plan

PATIENTS, CANARIES = 20, 6
PLAN = Plan.build(
    n_units=PATIENTS, expected_batch_size=7, steps=6, noise_multiplier=0.7, max_grad_norm=0.4, delta=1e-3
)


class Squares:
    metric = "loss"

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs - targets).square().flatten(1).mean(1)

    def metrics(self, results: object) -> dict[str, float]:
        return {}


class Compare(Hook):
    """Compares what was released with the textbook, step by step."""

    def __init__(self, parts: list[tuple[PrivateSampler, TensorLoader]], noise_key: bytes) -> None:
        self.parts, self.noise_key, self.worst = parts, noise_key, []

    def on_gradients(self, state: TrainState, report: Report) -> None:
        model, step = state.model, state.step
        total = {name: value.detach().double() * 0 for name, value in model.named_parameters()}
        for sampler, loader in self.parts:
            for unit in sampler(step).units:
                copy = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
                copy.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
                rows = list(unit)
                outputs = copy(loader.inputs[rows].double())
                Squares().loss(outputs, loader.targets[rows].double()).sum().backward()
                norm = torch.stack([value.grad.norm() for value in copy.parameters()]).norm()
                for name, value in copy.named_parameters():
                    total[name] += value.grad * min(1.0, PLAN.max_grad_norm / float(norm))
        empty = ClippedSum.empty(model, max_grad_norm=PLAN.max_grad_norm, n_units=0)
        noise = PLAN.release(empty, PLAN.noise(self.noise_key), step)
        wanted = {
            name: part / PLAN.expected_batch_size + noise[name].double() for name, part in total.items()
        }
        found = {name: value.grad.double() for name, value in model.named_parameters()}
        error = torch.cat([(found[name] - wanted[name]).flatten() for name in wanted]).norm()
        self.worst.append(float(error / torch.cat([value.flatten() for value in wanted.values()]).norm()))


def parts(tmp_path: Path, *, canaries: bool) -> tuple[TrainState, PrivateSampler, PrivateStep, Compare]:
    generator = torch.Generator().manual_seed(0)
    run = create(tmp_path, "run", config_toml="")
    keys = Keys.of(run, resumed=False)
    made = []
    for name, count, key in (("patient", PATIENTS, keys.sampling), ("canary", CANARIES, b"c" * 32)):
        loader = TensorLoader(
            3 * torch.randn(count, 3, generator=generator), torch.randn(count, 1, generator=generator),
            names=tuple(f"{name}-{row}" for row in range(count)),
        )  # fmt: skip
        members = tuple((row,) for row in range(count))
        draw = PLAN.sampler(key, count)
        names = tuple(f"{name}-{row}" for row in range(count))
        made.append((PrivateSampler(draw, members, names, PLAN.sample_rate), loader))
    made = made if canaries else made[:1]
    sources = [UnitSource("canaries", *pair, digest="six canaries") for pair in made[1:]]
    step = PrivateStep(
        PLAN, run, Squares(), made[0][1], keys, binding="this test", physical_batch=3, sources=sources
    )
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    state = TrainState.of(network, torch.optim.SGD(network.parameters(), lr=0.1))
    return state, made[0][0], step, Compare(made, keys.noise)


@pytest.mark.parametrize("canaries", [False, True])
def test_every_released_gradient_is_the_clipped_sum_plus_the_noise_of_its_step(tmp_path, canaries):
    state, sampler, step, compare = parts(tmp_path, canaries=canaries)
    trainer = Trainer(state, sampler, step, hooks=[compare])
    for until in (2, 3, PLAN.steps):
        trainer.run(until=until, horizon=PLAN.steps)
    assert len(compare.worst) == PLAN.steps
    assert max(compare.worst) < 1e-5
    assert step.ledger.epsilon(PLAN.delta) == PLAN.epsilon()


def test_a_step_is_passed_over_rather_than_repeated_with_other_weights(tmp_path):
    state, sampler, step, _ = parts(tmp_path, canaries=False)
    trainer = Trainer(state, sampler, step)
    trainer.run(until=2, horizon=PLAN.steps)
    saved = {name: value.clone() for name, value in state.model.state_dict().items()}
    kept = state.state_dict()
    trainer.run(until=4, horizon=PLAN.steps)
    state.load_state_dict(kept)
    state.model.load_state_dict(saved)
    trainer.run(until=3, horizon=PLAN.steps)  # the same weights: the same release, which costs nothing
    state.model.load_state_dict({name: 2 * value for name, value in saved.items()})
    lines = step.ledger.entries
    trainer.run(until=5, horizon=PLAN.steps)  # step 3 was begun with other weights: on with step 4
    assert state.step == 5
    assert step.ledger.entries == lines + 1
    assert step.ledger.epsilon(PLAN.delta) == PLAN.epsilon(5)


def test_the_ledger_refuses_a_line_that_repeats_a_step_with_another_state():
    ledger, _ = Ledger().next(PLAN, 0, stream="a", state="x")
    ledger, _ = ledger.next(PLAN, 1, stream="a", state="y")
    assert ledger.next(PLAN, 0, stream="a", state="x")[0].entries == 3
    with pytest.raises(PrivacyRefusal, match="begun with"):
        ledger.next(PLAN, 0, stream="a", state="z")


def test_a_line_that_was_not_written_binds_nobody_and_one_that_was_stays():
    first, _ = Ledger().next(PLAN, 0, stream="a", state="x")
    first.next(PLAN, 1, stream="a", state="lost")  # the disk refused the line: nothing goes on from it
    again, _ = first.next(PLAN, 1, stream="a", state="y")
    assert first.repeats("a", 1, "anything")
    assert again.repeats("a", 1, "y")
    assert not again.repeats("a", 1, "lost")
    other, _ = first.next(PLAN, 1, stream="a", state="z")
    assert (again.repeats("a", 1, "y"), other.repeats("a", 1, "y")) == (True, False)


def test_weights_that_changed_places_begin_another_step(tmp_path):
    state, sampler, step, _ = parts(tmp_path, canaries=False)
    with torch.no_grad():
        for places in ([0, 1, 3, 2, 4, 5], [3, 1, 2, 0, 4, 5]):
            weights = torch.arange(12.0).view(4, 3)
            state.model[0].weight.copy_(weights)
            before = step._begun_with(state, PLAN.threshold(), [sampler(0)])
            state.model[0].weight.view(-1)[:6] = weights.view(-1)[places]
            assert step._begun_with(state, PLAN.threshold(), [sampler(0)]) != before


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=30), st.data())
def test_the_digest_of_a_tensor_changes_with_any_two_of_its_values(values, data):
    bits = torch.tensor(values, dtype=torch.int32)
    places = st.integers(0, len(values) - 1)
    other = bits.clone()
    for _ in range(2):
        other[data.draw(places)] = data.draw(st.integers(-(2**31), 2**31 - 1))
    sums = [torch.cat(_bit_sums(part.view(torch.float32))).tolist() for part in (bits, other)]
    assert (sums[0] == sums[1]) == torch.equal(bits, other)


def test_two_trainers_on_one_run_folder_do_not_both_take_a_step(tmp_path):
    state, sampler, step, _ = parts(tmp_path, canaries=False)
    second = PrivateStep(
        PLAN, step.run, Squares(), step.loader, Keys.of(step.run, resumed=True), binding="this test"
    )
    Trainer(state, sampler, step).run(until=2, horizon=PLAN.steps)
    lines = step.run.ledger_text()
    state.step = 0
    with pytest.raises(PrivacyRefusal, match="other lines"):
        Trainer(state, sampler, second).run(until=2, horizon=PLAN.steps)
    assert step.run.ledger_text() == lines
    assert Ledger.parse(lines).entries == 2


def test_a_line_that_was_cut_off_while_the_run_goes_on_stops_it(tmp_path):
    state, sampler, step, _ = parts(tmp_path, canaries=False)
    trainer = Trainer(state, sampler, step)
    trainer.run(until=2, horizon=PLAN.steps)
    text = step.run.ledger_text()
    step.run.ledger_path.write_text(text + text.splitlines()[0][:40])
    with pytest.raises(PrivacyRefusal, match="other lines"):
        trainer.run(until=3, horizon=PLAN.steps)
    again = PrivateStep(
        PLAN, step.run, Squares(), step.loader, Keys.of(step.run, resumed=True), binding="this test"
    )
    Trainer(state, sampler, again).run(until=3, horizon=PLAN.steps)
    assert Ledger.parse(step.run.ledger_text()).spent().steps == 4  # the line that was cut counts


def test_another_sampler_than_the_accounted_one_is_refused(tmp_path):
    state, sampler, step, _ = parts(tmp_path, canaries=False)
    others = (
        ShuffleSampler(PATIENTS, 7, 0),
        PrivateSampler(PLAN.sampler(b"x" * 32, PATIENTS), sampler.members, sampler.names, PLAN.sample_rate),
        PrivateSampler(sampler.draw, sampler.members, sampler.names, 1.0),
        PrivateSampler(sampler.draw, ((0,), *sampler.members[:-1]), sampler.names, PLAN.sample_rate),
    )
    for other in others:
        with pytest.raises(PrivacyRefusal):
            Trainer(state, other, step).run(until=1, horizon=PLAN.steps)
    assert step.ledger.entries == 0


def test_a_hook_that_declares_nothing_sees_no_loss_no_metric_and_not_the_number_of_drawn_units(tmp_path):
    class Curious(Hook):
        def __init__(self) -> None:
            self.seen: list[object] = []

        def on_step_end(self, state, event):
            self.seen.append((event.units, dict(event.metrics)))

        def on_evaluation(self, state, event):
            self.seen.append((event.improved, dict(event.metrics), dict(event.train)))

    class Owner(Curious):
        private_log = True

    state, sampler, step, _ = parts(tmp_path, canaries=False)
    curious, owner = Curious(), Owner()
    evaluator = Evaluator(lambda state: {"loss": 0.5})
    trainer = Trainer(state, sampler, step, hooks=[curious, owner], evaluator=evaluator, eval_every=2)
    trainer.run(until=2, horizon=PLAN.steps)
    assert curious.seen == [(0, {}), (0, {}), (True, {}, {})]
    assert owner.seen[2][1] == {"loss": 0.5}
    assert owner.seen[2][2].keys() == {"loss", "epsilon"}
