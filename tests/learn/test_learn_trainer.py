"""The trainer as others use it: rounds, hooks, several players, networks and tasks of their own, canaries."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from meninx.core import run as run_folder
from meninx.core.budget import PrivacyUnit
from meninx.core.errors import ConfigError, DataError, PrivacyRefusal, UsageError
from meninx.core.manifest import Manifest
from meninx.core.run import Run
from meninx.learn import (
    AlternatingStep,
    Batch,
    Evaluated,
    Evaluator,
    Hook,
    Keys,
    LearnConfig,
    OptimConfig,
    Outcome,
    PairTask,
    Player,
    PrivateSampler,
    PrivateStep,
    Report,
    RoundDone,
    RoundStarted,
    Schedule,
    ShuffleSampler,
    StepDone,
    SupervisedStep,
    TensorLoader,
    Trainer,
    TrainState,
    UnitBatch,
    UnitSource,
    fit,
    from_config,
)
from meninx.learn.inference import load_model
from meninx.privacy import Plan

CASES = 12
INPUTS = torch.randn(CASES, 3, generator=torch.Generator().manual_seed(1))
TARGETS = INPUTS.sum(1, keepdim=True)


class Regression:
    """A task of somebody else."""

    metric = "minus_error"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().flatten(1).mean(1)

    def metrics(self, results: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        errors = [float((output - target.reshape(output.shape)).abs().mean()) for output, target in results]
        return {"loss": sum(errors) / len(errors), "minus_error": -sum(errors) / len(errors)}


class Listener(Hook):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def on_round_start(self, state: TrainState, event: RoundStarted) -> None:
        self.heard.append(event)

    def on_step_end(self, state: TrainState, event: StepDone) -> None:
        self.heard.append(event)

    def on_evaluation(self, state: TrainState, event: Evaluated) -> None:
        self.heard.append(event)

    def on_round_end(self, state: TrainState, event: RoundDone) -> None:
        self.heard.append(event)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.2), nn.Linear(4, 1))


def state_of(model: nn.Module) -> TrainState:
    schedule = Schedule(OptimConfig(lr=0.1, schedule="cosine"), steps_per_epoch=3)
    return TrainState.of(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), schedule)


def supervised(**parts: Any) -> Trainer:
    step = SupervisedStep(Regression(), TensorLoader(INPUTS, TARGETS), physical_batch=3)
    return Trainer(state_of(network()), ShuffleSampler(CASES, 4, seed=5), step, **parts)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# rounds


@settings(deadline=None, max_examples=15)
@given(stops=st.lists(st.integers(1, 8), max_size=4))
def test_rounds_with_one_horizon_are_one_run_bit_for_bit(stops: list[int]) -> None:
    whole, parts = supervised(), supervised()
    whole.run(until=8)
    for stop in [*sorted(stops), 8]:
        parts.run(until=stop, horizon=8)
    assert same(whole.state.weights(), parts.state.weights())


def test_a_state_saved_between_rounds_and_put_into_another_trainer_goes_on_bit_for_bit() -> None:
    whole, first, second = supervised(), supervised(), supervised()
    whole.run(until=6)
    first.run(until=2, horizon=6)
    second.state.load_state_dict(first.state.state_dict())
    second.run(until=6)
    assert same(whole.state.weights(), second.state.weights())


def test_each_round_without_a_common_horizon_has_a_cosine_of_its_own() -> None:
    listener = Listener()
    trainer = supervised(hooks=[listener])
    for done in (4, 8):
        trainer.run(until=done)
    rates = [event.rates["model"] for event in listener.heard if isinstance(event, StepDone)]
    assert rates[3] < rates[4]  # at the end of a round it is nearly zero, and begins again higher
    with pytest.raises(UsageError, match="horizon"):
        trainer.run(until=12, horizon=11)


def test_weights_travel_as_values_and_others_are_refused() -> None:
    trainer, other = supervised(), state_of(network(seed=1))
    values = trainer.state.weights()
    other.load_weights(values)
    assert same(other.weights(), values)
    trainer.run(until=2)
    assert same(other.weights(), values)  # a copy, not a view
    broken = {**values, "0.bias": torch.full((4,), math.nan)}
    for wrong in ({"0.weight": values["0.weight"]}, {**values, "0.bias": torch.zeros(5)}, broken):
        with pytest.raises(DataError):
            other.load_weights(wrong)


# hooks and events


def test_hooks_hear_every_event_in_order() -> None:
    listener = Listener()
    evaluator = Evaluator(lambda state: {"loss": 1 / (1 + state.step)})
    supervised(hooks=[listener], evaluator=evaluator, eval_every=2).run(until=3)
    kinds = [type(event).__name__ for event in listener.heard]
    assert kinds == [
        "RoundStarted",
        "StepDone",
        "StepDone",
        "Evaluated",
        "StepDone",
        "Evaluated",
        "RoundDone",
    ]
    evaluated = [event for event in listener.heard if isinstance(event, Evaluated)]
    assert [event.step for event in evaluated] == [2, 3]
    assert all(event.improved and math.isfinite(event.train["loss"]) for event in evaluated)
    assert listener.heard[-1] == RoundDone(3, 3, Outcome.DONE)


def test_an_interruption_between_steps_leaves_a_whole_state_and_one_within_does_not() -> None:
    class Interrupt(Listener):
        def on_step_end(self, state: TrainState, event: StepDone) -> None:
            if event.step == 2:
                raise KeyboardInterrupt

    class Within(Listener):
        def on_gradients(self, state: TrainState, report: Report) -> None:
            raise KeyboardInterrupt

    for hook, step, outcome in ((Interrupt(), 2, Outcome.INTERRUPTED), (Within(), 0, Outcome.FAILED)):
        trainer = supervised(hooks=[hook])
        with pytest.raises(KeyboardInterrupt):
            trainer.run(until=4)
        assert hook.heard[-1] == RoundDone(step, 4, outcome)


def test_a_request_to_stop_is_heard_after_a_step() -> None:
    trainer = supervised()
    with pytest.raises(KeyboardInterrupt):
        trainer.run(until=4, stop_requested=lambda: trainer.state.step == 2)
    assert trainer.state.step == 2


def test_early_stopping_ends_the_run_and_stays() -> None:
    trainer = supervised(evaluator=Evaluator(lambda state: {"loss": 1.0}, patience=2), eval_every=1)
    assert trainer.run(until=9).step == 3
    assert trainer.run(until=9).stopped


def test_a_step_asks_the_device_once_however_many_microbatches(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    for name in ("__float__", "__bool__", "item", "tolist", "__int__"):
        original = getattr(Tensor, name)

        def counted(self: Tensor, *rest: Any, name: str = name, original: Any = original) -> Any:
            if self.requires_grad or self.is_floating_point():
                asked.append(name)
            return original(self, *rest)

        monkeypatch.setattr(Tensor, name, counted)
    trainer = supervised()
    step = SupervisedStep(Regression(), TensorLoader(INPUTS, TARGETS), physical_batch=1)
    step.gradients(trainer.state, UnitBatch(tuple((case,) for case in range(CASES))))
    assert asked == ["tolist"]


# private steps


def plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "n_units": CASES,
        "expected_batch_size": 6,
        "unit": PrivacyUnit.CASE,
        "steps": 4,
        "noise_multiplier": 1.0,
        "max_grad_norm": 0.5,
        "delta": 1e-3,
    }
    return Plan.build(**fields | changes)


def members(count: int) -> tuple[tuple[int, ...], ...]:
    return tuple((case,) for case in range(count))


def names(count: int, kind: str = "case") -> tuple[str, ...]:
    return tuple(f"{kind}-{case}" for case in range(count))


class Skips(TensorLoader):
    """Plant: a loader that leaves out the last unit."""

    def batches(self, units: UnitBatch, step: int, most: int) -> Iterator[Batch]:
        return super().batches(UnitBatch(units.units[:-1], units.first), step, most)


class Repeats(TensorLoader):
    """Plant: a loader that gives the first unit twice."""

    def batches(self, units: UnitBatch, step: int, most: int) -> Iterator[Batch]:
        yield from super().batches(UnitBatch(units.units[:1], units.first), step, most)
        yield from super().batches(units, step, most)


def canaries(
    terms: Plan, loader: type[TensorLoader] = TensorLoader, count: int = 5, seed: int = 3
) -> UnitSource:
    inputs = 4 * torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    draw = terms.sampler(bytes(31) + b"c", count)
    return UnitSource(
        "canaries", PrivateSampler(draw, members(count), names(count, "canary"), terms.sample_rate),
        loader(inputs, -inputs.sum(1, keepdim=True), names=names(count, "canary")), digest=f"canaries {seed}",
    )  # fmt: skip


@pytest.fixture
def private(tmp_path: Path) -> Callable[..., Trainer]:
    """A function that makes a private trainer in a run folder of its own, or in a given one."""
    made = iter(range(99))

    def make(
        *, run: Run | None = None, hooks: Iterable[Hook] = (), terms: Plan | None = None, **parts: Any
    ) -> Trainer:
        terms = terms or plan()
        resumed = run is not None
        run = run or run_folder.create(tmp_path, f"run{next(made)}", config_toml="", deterministic=True)
        keys = Keys.of(run, resumed=resumed, deterministic_seed=7)
        loader = parts.pop("loader", TensorLoader)(INPUTS, TARGETS, names=names(CASES))
        step = PrivateStep(terms, run, Regression(), loader, keys, binding="b", physical_batch=4, **parts)
        sampler = PrivateSampler(
            terms.sampler(keys.sampling, CASES), members(CASES), names(CASES), terms.sample_rate
        )
        return Trainer(state_of(network()), sampler, step, hooks=hooks)

    return make


def test_private_rounds_are_one_private_run_and_the_horizon_is_the_plans(
    private: Callable[..., Trainer],
) -> None:
    whole, parts = private(), private()
    whole.run(until=4)
    with pytest.raises(PrivacyRefusal, match="horizon"):
        parts.run(until=2)
    for stop in (1, 3, 4):
        parts.run(until=stop, horizon=4)
    assert same(whole.state.weights(), parts.state.weights())
    assert isinstance(parts.step, PrivateStep)
    assert parts.step.ledger.epsilon(1e-3) == pytest.approx(plan().epsilon())


def test_weights_from_outside_go_on_at_a_new_step_and_never_repeat_one(
    private: Callable[..., Trainer],
) -> None:
    """Under one key a step has one noise: with other weights, two releases would differ without noise."""
    first = private()
    first.run(until=2, horizon=4)
    first.state.load_weights(state_of(network(seed=9)).weights())
    first.run(until=3, horizon=4)  # a new step has noise of its own
    assert isinstance(first.step, PrivateStep)
    run = first.step.run
    again = private(run=run)  # a crash: the weights of the server come once more, and others
    again.state.load_weights(state_of(network(seed=8)).weights())
    with pytest.raises(PrivacyRefusal, match=r"came in from outside.*state.step = 3"):
        again.run(until=4)
    saved = private(run=run)
    saved.state.load_state_dict(again.state.state_dict())  # the state remembers
    with pytest.raises(PrivacyRefusal, match="came in from outside"):
        saved.run(until=4)
    assert len(run.ledger_path.read_text().splitlines()) == 3
    again.state.step = 3
    again.run(until=4)
    assert isinstance(again.step, PrivateStep)
    assert again.step.ledger.epsilon(1e-3) == pytest.approx(plan().epsilon())


def test_a_step_is_repeated_after_a_crash_with_the_weights_it_had(private: Callable[..., Trainer]) -> None:
    whole, broken = private(), private()
    whole.run(until=4)
    broken.run(until=2, horizon=4)
    assert isinstance(broken.step, PrivateStep)
    again = private(run=broken.step.run)
    again.run(until=4)  # from the beginning
    assert same(again.state.weights(), whole.state.weights())


class Pull(Hook):
    """FedProx with a strong pull to zero."""

    def __init__(self, declared: bool, in_place: bool) -> None:
        self.post_processing, self.in_place = declared, in_place

    def on_gradients(self, state: TrainState, report: Report) -> None:
        assert not report.metrics
        for value in state.model.parameters():
            if value.grad is not None and self.in_place:
                value.grad.add_(value.detach())
            elif value.grad is not None:
                value.grad = value.grad + value.detach()


@pytest.mark.parametrize("in_place", [True, False])
def test_a_hook_changes_private_gradients_only_when_it_declares_how(
    in_place: bool, private: Callable[..., Trainer]
) -> None:
    with pytest.raises(PrivacyRefusal, match=r"hook Pull.*post_processing"):
        private(hooks=[Pull(False, in_place)]).run(until=4)
    plain, pulled = private(), private(hooks=[Pull(True, in_place)])
    for trainer in (plain, pulled):
        trainer.run(until=4)
    assert not same(plain.state.weights(), pulled.state.weights())


def test_what_a_hook_sees_of_a_private_step_is_the_release(private: Callable[..., Trainer]) -> None:
    released: list[dict[str, Tensor]] = []
    seen: list[dict[str, Tensor]] = []
    original = Plan.release

    class See(Hook):
        def on_gradients(self, state: TrainState, report: Report) -> None:
            seen.append(
                {
                    name: value.grad.clone()
                    for name, value in state.model.named_parameters()
                    if value.grad is not None
                }
            )
            assert set(vars(report)) == {"metrics", "units", "stop_requested", "slots"}
            assert not report.metrics
            assert not report.slots

    def release(self: Plan, *given: Any) -> dict[str, Tensor]:
        released.append(original(self, *given))
        return released[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plan, "release", release)
        private(hooks=[See()]).run(until=4)
    assert len(seen) == 4
    assert all(same(one, two) for one, two in zip(seen, released, strict=True))


def test_an_unproved_network_is_refused_by_the_step_itself(private: Callable[..., Trainer]) -> None:
    class Mixes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x - x.mean(0, keepdim=True))
            return out

    trainer = private()
    trainer.state = state_of(Mixes())
    with pytest.raises(PrivacyRefusal, match="alone"):
        trainer.run(until=4)
    assert isinstance(trainer.step, PrivateStep)
    assert not trainer.step.run.ledger_path.exists()


# canaries


def test_canaries_add_their_own_part_and_leave_that_of_the_cases(
    private: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    sums: list[tuple[dict[str, Tensor], int]] = []
    slots: list[Any] = []
    original = Plan.release

    def release(self: Plan, total: Any, *rest: Any) -> dict[str, Tensor]:
        sums.append((total.gradients, len(total.present)))
        return original(self, total, *rest)

    class Slots(Hook):
        def on_gradients(self, state: TrainState, report: Report) -> None:
            slots.append(report.slots["canaries"])

    monkeypatch.setattr(Plan, "release", release)
    terms = plan()
    for parts in ({}, {"sources": [canaries(terms)], "hooks": [Slots()]}):
        trainer = private(terms=terms, **parts)
        drawn = trainer.sampler(0)
        trainer.run(until=1, horizon=4)
    (alone, units), (together, more) = sums
    assert (units, more) == (len(drawn), len(drawn) + slots[0].units)
    assert slots[0].units == len(terms.sampler(bytes(31) + b"c", 5).draw(0)) > 0
    for name, value in together.items():
        torch.testing.assert_close(value, alone[name] + slots[0].gradients[name])
    assert slots[0].unit_norms.shape == (slots[0].units,)
    assert slots[0].sensitivity == terms.max_grad_norm


@pytest.mark.parametrize("plant", [Skips, Repeats])
@pytest.mark.parametrize("where", ["cases", "canaries"])
def test_a_unit_of_any_source_that_is_left_out_or_taken_twice_is_refused(
    plant: type[TensorLoader], where: str, private: Callable[..., Trainer]
) -> None:
    terms = plan(expected_batch_size=CASES)  # everybody is drawn
    source = canaries(terms, plant if where == "canaries" else TensorLoader)
    trainer = private(
        terms=terms, sources=[source], loader=plant if where == "cases" else TensorLoader, proved=True
    )
    with pytest.raises(PrivacyRefusal, match=r"once|in both parts"):
        trainer.run(until=4)


def test_the_ledger_is_bound_to_the_canaries(private: Callable[..., Trainer]) -> None:
    terms = plan()
    first = private(terms=terms, sources=[canaries(terms)])
    first.run(until=1, horizon=4)
    assert isinstance(first.step, PrivateStep)
    run = first.step.run
    assert private(run=run, terms=terms, sources=[canaries(terms)])  # the same may go on
    for other in ([], [canaries(terms, seed=4)]):
        with pytest.raises(PrivacyRefusal, match="keys were used with"):
            private(run=run, terms=terms, sources=other)


# several players


def game() -> tuple[TrainState, AlternatingStep]:
    players = {}
    for seed, name in enumerate(("first", "second")):
        model = network(seed)
        players[name] = Player(model, torch.optim.Adam(model.parameters(), lr=0.1))
    losses = {
        "first": lambda nets, batch: (
            (nets["first"](batch.inputs) - batch.targets).square().flatten(1).mean(1)
        ),
        "second": lambda nets, batch: (
            (nets["second"](batch.inputs) - nets["first"](batch.inputs)).square().flatten(1).mean(1)
        ),
    }
    return TrainState(players), AlternatingStep(
        losses, ("first", "first", "second"), TensorLoader(INPUTS, TARGETS)
    )


def test_in_a_game_one_player_moves_at_a_time() -> None:
    state, step = game()
    trainer = Trainer(state, ShuffleSampler(CASES, 6, seed=0), step)
    for number in range(6):
        before = {name: state.weights(name) for name in state.players}
        trainer.run(until=number + 1)
        moved = {name for name in state.players if not same(before[name], state.weights(name))}
        assert moved == {step.turn(number)}
    assert all(value.grad is None for value in state.players["first"].model.parameters())


def test_a_game_is_saved_and_loaded_as_one() -> None:
    (state, step), (other, again) = game(), game()
    sampler = ShuffleSampler(CASES, 6, seed=0)
    Trainer(state, sampler, step).run(until=4)
    other.load_state_dict(state.state_dict())
    Trainer(other, sampler, again).run(until=7)
    Trainer(state, sampler, step).run(until=7)
    assert all(same(state.weights(name), other.weights(name)) for name in state.players)
    with pytest.raises(DataError, match="players"):
        other.load_state_dict(state_of(network()).state_dict())
    with pytest.raises(UsageError, match="name one"):
        state.weights()
    with pytest.raises(UsageError, match="'third'"):
        state.weights("third")


def test_a_game_with_a_loss_for_nobody_is_refused() -> None:
    state, step = game()
    with pytest.raises(UsageError, match="players first, second"):
        Trainer(state, ShuffleSampler(CASES, 6, seed=0), replace(step, order=("third",))).run(until=1)


# pairs


def test_the_loss_of_a_pair_is_small_when_the_embeddings_say_what_is_true() -> None:
    near, far = torch.zeros(1, 2, 4), torch.stack([torch.zeros(4), torch.full((4,), 3.0)])[None]
    task = PairTask(margin=2.0)
    loss = task.loss(torch.cat([near, near, far, far]), torch.tensor([1.0, 0.0, 1.0, 0.0]))
    assert loss.tolist() == pytest.approx([0.0, 4.0, 36.0, 0.0], abs=1e-4)
    together = task.metrics([(far[0], torch.tensor(0.0)), (near[0], torch.tensor(1.0))])
    assert together["auroc"] == 1.0
    assert math.isnan(task.metrics([])["auroc"])


# networks and tasks of one's own in a run folder

Data = Callable[..., Manifest]
NewRun = Callable[..., Run]
CONFIG = LearnConfig.of(
    batch_size=4, physical_batch=4, device="cpu", steps=3, deterministic=True, attack_risk=False
)


def own() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.Tanh(), nn.Linear(8, 2))


def test_a_network_and_a_task_of_ones_own_are_trained_and_loaded(dataset: Data, new_run: NewRun) -> None:
    data, run = dataset(), new_run()
    result = fit(CONFIG, data, run, network=own(), task=Regression())
    assert result.metric_name == "minus_error"
    trained, _, _ = load_model(run, weights="last", network=own())
    assert not same(trained.state_dict(), own().state_dict())
    with pytest.raises(DataError, match="not that of the run"):
        load_model(run, network=nn.Linear(2, 2))


def test_another_network_of_ones_own_is_refused_under_the_keys_of_a_private_run(
    dataset: Data, new_run: NewRun
) -> None:
    data, run = dataset(), new_run()
    terms = plan(n_units=8, expected_batch_size=4)
    training = from_config(CONFIG, data, run, terms, network=own())
    training.trainer.run(until=1, horizon=4)
    relu: nn.Sequential = own()
    relu[2] = nn.ReLU()  # the same weights, another function
    with pytest.raises(PrivacyRefusal, match="keys were used with"):
        from_config(CONFIG, data, run, terms, network=relu, resumed=True)
    assert from_config(CONFIG, data, run, terms, network=own(), resumed=True)


def test_sources_of_units_need_a_plan(dataset: Data, new_run: NewRun) -> None:
    with pytest.raises(ConfigError, match="sources"):
        from_config(CONFIG, dataset(), new_run(), network=own(), sources=[canaries(plan())])
