"""Trainer: the one training loop, for supervised and private runs, federated rounds, shadow models and games.

It is assembled from independent parts: a sampler chooses the units of a step, a step computes gradients and
updates the players, hooks listen. ``run`` may be called repeatedly, so each round of federated learning is
one call, and all rounds can share one learning-rate schedule::

    trainer = Trainer(state, sampler, step, hooks=[ProximalPull(mu=0.01)])
    for done in (10, 20, 30):
        state.load_weights(server.weights())
        trainer.run(until=done, horizon=30)
        server.collect(state.weights())

Parts that depend on the dataset are put together by :func:`meninx.learn.assemble.from_config`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from meninx.core.errors import PrivacyRefusal, UsageError, expected, problem
from meninx.learn import distributed, finetune
from meninx.learn.distributed import World
from meninx.learn.hooks import Evaluated, Hook, Notice, Outcome, RoundDone, RoundStarted, StepDone
from meninx.learn.sampler import Sampler
from meninx.learn.state import TrainState
from meninx.learn.step import Report, Step, StepSpent


@dataclass(frozen=True)
class Evaluator:
    """Measures the state at intervals and determines the best evaluation and early stopping.

    Attributes:
        measure: state -> metrics by name; a plateau schedule follows ``loss``.
        monitor: metric to follow: ``loss`` is minimised, any other maximised; ``loss`` also replaces a metric
            that is NaN.
        patience: evaluations without progress after which training stops; 0 never stops it.
    """

    measure: Callable[[TrainState], Mapping[str, float]]
    monitor: str = "loss"
    patience: int = 0

    def value(self, metrics: Mapping[str, float]) -> float:
        """Return the number to maximise."""
        value = metrics[self.monitor]
        return -metrics["loss"] if self.monitor == "loss" or math.isnan(value) else value


def never() -> bool:
    """Return False: the default for runs that are never asked to stop."""
    return False


class Trainer:
    """Trains a state, step by step.

    The state, the sampler and the step may be replaced between two calls of :meth:`run`.

    Args:
        state: the mutable state of the training.
        sampler: chooses the units of a step.
        step: gradients and update.
        hooks: listeners, called in this order.
        evaluator: measures the state; None never does.
        eval_every: steps between evaluations; 0 means once per epoch.
        world: the processes that train together; by default this one alone.

    Attributes:
        last: the last evaluation; None before the first.
        whole: whether no step is in progress, so that the state may be saved.

    Guarantee: see :class:`.hooks.Hook` for what hooks receive of a private step and what they may change.
    """

    def __init__(
        self,
        state: TrainState,
        sampler: Sampler,
        step: Step,
        *,
        hooks: Iterable[Hook] = (),
        evaluator: Evaluator | None = None,
        eval_every: int = 0,
        world: World | None = None,
    ) -> None:
        self.state, self.sampler, self.step = state, sampler, step
        self.hooks: Sequence[Hook] = tuple(hooks)
        self.evaluator, self.eval_every = evaluator, eval_every
        self.world = world or World()
        self.last: Evaluated | None = None
        self.whole = True
        self._since: dict[str, list[float]] = defaultdict(list)
        self._frozen: dict[str, frozenset[str]] = {}

    def run(
        self, until: int, *, horizon: int | None = None, stop_requested: Callable[[], bool] = never
    ) -> TrainState:
        """Train until step ``until`` or until early stopping, and return the state.

        Args:
            until: number of steps done at the end; if it is already reached, nothing happens.
            horizon: step at which the learning rates end; by default ``until``. Give the same number in all
                rounds of a run.
            stop_requested: polled after each step; True raises KeyboardInterrupt, in all processes after the
                same step.

        Raises:
            UsageError: the horizon is before ``until``.
            KeyboardInterrupt: the user stopped the run; hooks have received ``RoundDone``.
            DataError, PrivacyRefusal, Interrupted: see the step.
        """
        horizon = until if horizon is None else horizon
        if horizon < until:
            raise UsageError(expected(f"horizon >= until = {until}", got=horizon, where="Trainer.run"))
        state = self.state
        self.step.begin(state, horizon, self.sampler)
        outcome = Outcome.FAILED
        try:
            self._tell("on_round_start", RoundStarted(state.step, until, horizon))
            with torch.random.fork_rng(_devices(state)):
                self._steps(until, horizon, stop_requested)
            outcome = Outcome.DONE
        except KeyboardInterrupt:
            outcome = Outcome.INTERRUPTED if self.whole else Outcome.FAILED
            raise
        finally:
            self._tell("on_round_end", RoundDone(state.step, until, outcome))
        return state

    @property
    def _every(self) -> int:
        return self.eval_every or self.sampler.steps_per_epoch

    def _steps(self, until: int, horizon: int, stop_requested: Callable[[], bool]) -> None:
        state = self.state
        while state.step < until and not state.stopped:
            stop = self._step(horizon, stop_requested)
            if state.step % self._every == 0 or state.step >= until:
                self._evaluate()
            if stop:
                raise KeyboardInterrupt

    def _step(self, horizon: int, stop_requested: Callable[[], bool]) -> bool:
        """Do one step and return whether to stop after it; several processes stop after the same one."""
        state = self.state
        self._prepare()
        rates = {name: player.set_rate(state.step, horizon) for name, player in state.players.items()}
        self.whole = False
        try:
            report = self.step.gradients(state, self.sampler(state.step), stop_requested=stop_requested())
        except StepSpent as spent:
            first, state.step, self.whole = state.step, spent.next_step, True
            why = "they were begun before with other weights and stay spent"
            self._tell("on_notice", Notice(f"steps {first} to {state.step - 1} are passed over: {why}"))
            return False
        self._gradients(report)
        self.step.update(state)
        state.step += 1
        self.whole = True
        for name, value in report.metrics.items():
            if math.isfinite(value):
                self._since[name].append(value)
        self._step_done(StepDone(state.step, report.units, report.metrics, rates))
        return report.stop_requested if self.world.size > 1 else stop_requested()

    def _gradients(self, report: Report) -> None:
        """Call the hooks with the gradients.

        In a private step these are the released ones, and only hooks that declare it may change them.
        """
        private = self.step.private
        shown = replace(report, metrics={}, units=0) if private else report
        for hook in self.hooks:
            if type(hook).on_gradients is Hook.on_gradients:
                continue
            before = self._versions() if private and not hook.post_processing else None
            hook.on_gradients(self.state, shown)
            if before is not None and before != self._versions():
                fix = (
                    "set post_processing = True if the change depends only on weights and released gradients"
                )
                what = "the hook changed gradients or weights of a private step"
                where = f"hook {type(hook).__name__}"
                raise PrivacyRefusal(problem(what, where=where, fix=fix))

    def _versions(self) -> list[tuple[int, int, int, int]]:
        """Return identities and version counters, which change if a parameter or gradient is written to."""
        return [
            (item.data_ptr(), item._version, id(item.grad), -1 if item.grad is None else item.grad._version)
            for player in self.state.players.values()
            for item in player.model.parameters()
        ]

    def _prepare(self) -> None:
        """Put every player into training mode, with the parameters frozen that this step does not train."""
        state = self.state
        for name, player in state.players.items():
            if player.freezing is None:
                player.model.train()
                frozen: frozenset[str] = frozenset()
            else:
                frozen = player.freezing(player.model, state.step)
                finetune.apply(player.model, frozen)
            before = self._frozen.get(name)
            if frozen != before:
                distributed.refuse_shared_statistics(player.model, self.world)
            if frozen != before and (frozen or before):
                epoch = state.step // self.sampler.steps_per_epoch
                self._tell(
                    "on_notice", Notice(f"epoch {epoch}: {finetune.frozen_text(player.model, frozen)}")
                )
            self._frozen[name] = frozen

    def _evaluate(self) -> None:
        """Measure the state, update the best evaluation, and notify the hooks."""
        state, evaluator = self.state, self.evaluator
        train = {name: sum(values) / len(values) for name, values in self._since.items()}
        self._since.clear()
        metrics: Mapping[str, float] = {}
        improved = False
        if evaluator is not None:
            # Process 0 measures for all: rounding differs between devices, and processes that disagreed about
            # early stopping would wait for each other.
            metrics = self.world.shared(lambda: dict(evaluator.measure(state)))
            for player in state.players.values():
                if player.schedule is not None:
                    player.schedule.observe(metrics.get("loss", math.nan))
            improved = state.best.observe(evaluator.value(metrics), state.step)
            state.stopped = bool(evaluator.patience) and state.best.waited >= evaluator.patience
        self.last = Evaluated(state.step, metrics, train, improved)
        self._evaluated(self.last)
        for name, player in state.players.items():
            self.world.agree(f"weights of {name}", lambda model=player.model: distributed.digest(model))  # type: ignore[misc]

    def _step_done(self, event: StepDone) -> None:
        """Notify the hooks of a step; only declared hooks get the loss and the draw of a private step."""
        blank = replace(event, units=0, metrics={})
        for hook in self.hooks:
            hook.on_step_end(self.state, event if hook.private_log or not self.step.private else blank)

    def _evaluated(self, event: Evaluated) -> None:
        """Notify the hooks of an evaluation; only declared hooks get the numbers of a private run."""
        blank = replace(event, metrics={}, train={})
        for hook in self.hooks:
            hook.on_evaluation(self.state, event if hook.private_log or not self.step.private else blank)

    def _tell(self, method: str, event: Any) -> None:
        for hook in self.hooks:
            getattr(hook, method)(self.state, event)


def _devices(state: TrainState) -> list[torch.device]:
    """Return the GPUs of the players, whose generators are restored after a run."""
    found = {value.device for player in state.players.values() for value in player.model.parameters()}
    return [device for device in found if device.type == "cuda"]
