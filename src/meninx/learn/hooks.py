"""Hooks: what listens to a trainer, and what may change its gradients. Events are their arguments.

One that changes gradients declares it (:class:`ProximalPull` is another)::

    class Decay(Hook):
        \"\"\"Pulls the weights towards 0.\"\"\"

        post_processing = True  # the pull depends on weights alone

        def on_gradients(self, state, report):
            for value in state.model.parameters():
                value.grad.add_(value.detach(), alpha=0.1)

Hooks are called in the order in which the trainer was given them. Of several processes each calls its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from torch import Tensor

from meninx.core import journal
from meninx.core.progress import Progress
from meninx.core.run import Run
from meninx.learn.state import TrainState
from meninx.learn.step import Report


@dataclass(frozen=True)
class RoundStarted:
    """A call of ``Trainer.run`` begins.

    Attributes:
        step: steps done so far.
        until: step at which the round ends.
        horizon: step at which the learning rates end.
    """

    step: int
    until: int
    horizon: int


@dataclass(frozen=True)
class StepDone:
    """A step is whole: weights, averages and count.

    Attributes:
        step: steps done.
        units: units that took part.
        metrics: what the step measured on them; private.
        rates: learning rate of each player.
    """

    step: int
    units: int
    metrics: Mapping[str, float]
    rates: Mapping[str, float]


@dataclass(frozen=True)
class Evaluated:
    """It was time to evaluate.

    Attributes:
        step: steps done.
        metrics: what the evaluator measured; empty without an evaluator.
        train: means of the steps' metrics since the last evaluation.
        improved: the monitored value is the best so far.
    """

    step: int
    metrics: Mapping[str, float]
    train: Mapping[str, float]
    improved: bool


class Outcome(StrEnum):
    """How a call of ``Trainer.run`` ended."""

    DONE = "done"
    """It reached its last step, or stopped early."""
    INTERRUPTED = "interrupted"
    """The user stopped it between two steps; the state is whole and can be saved."""
    FAILED = "failed"
    """Something else ended it, or a step was under way; the state must not be saved."""


@dataclass(frozen=True)
class RoundDone:
    """A call of ``Trainer.run`` ends.

    Attributes:
        step: steps done.
        until: step at which it was to end.
        outcome: how it ended.
    """

    step: int
    until: int
    outcome: Outcome


@dataclass(frozen=True)
class Notice:
    """Something that a person may want to read.

    Attributes:
        text: one line.
    """

    text: str


class Hook:
    """Listens to a trainer; every method does nothing until it is overridden.

    Guarantee: with a private step, :meth:`on_gradients` is called after the noise was added, so that what a
        hook finds on the parameters is what was released, and gradients of single units never reach it. The
        loss, the number of drawn units and the metrics of the validation cases are private: ``report``,
        ``StepDone`` and ``Evaluated`` hold none, except for a hook that declares with ``private_log = True``
        that what it sees stays in ``private/``. A hook that
        changes gradients or weights of a private run has to declare with ``post_processing = True`` that what
        it adds depends on nothing but weights, released gradients and public numbers (the pull of FedProx,
        the control variates of SCAFFOLD); the trainer looks for changes by any other in :meth:`on_gradients`
        and refuses those that torch counts. It is a guard against mistakes: changes through ``.data``, in
        another method or of the optimiser's settings are not seen, and a false declaration breaks the
        guarantee.

    Attributes:
        post_processing: what this hook changes is a function of weights, released gradients and public
            numbers.
        private_log: what this hook sees stays in ``private/`` of the run, or on the terminal of its owner.
    """

    post_processing: bool = False
    private_log: bool = False

    def on_common_weights(self, common: Mapping[str, Tensor]) -> None:
        """Take the common weights, by name, with which a site of a study begins or goes on with a round.

        Called before :meth:`on_round_start`; weights that stay at the site are left out.
        """

    def on_round_start(self, state: TrainState, event: RoundStarted) -> None:
        """Prepare for a round."""

    def on_gradients(self, state: TrainState, report: Report) -> None:
        """See, and perhaps change, the gradients on the players' parameters before the update."""

    def on_step_end(self, state: TrainState, event: StepDone) -> None:
        """See the state after a step."""

    def on_evaluation(self, state: TrainState, event: Evaluated) -> None:
        """See the result of an evaluation."""

    def on_notice(self, state: TrainState, event: Notice) -> None:
        """See a line for people."""

    def on_round_end(self, state: TrainState, event: RoundDone) -> None:
        """See the state at the end of a round; also called when one is interrupted or fails."""


class ProximalPull(Hook):
    """Adds ``mu * (weights - centre)`` to every gradient: the site's part of FedProx.

    The centre is what the round begins with, or what :meth:`on_common_weights` gave, which a round that goes
    on after an interruption needs. With a private step the pull follows the noise and depends on weights
    alone, so the guarantee stays.

    Args:
        mu: weight of the pull, > 0.

    References:
        Li et al. (2020), Federated Optimization in Heterogeneous Networks.
    """

    post_processing = True

    def __init__(self, mu: float) -> None:
        self.mu = mu
        self._given: Mapping[str, Tensor] | None = None
        self._centre: dict[str, Tensor] = {}

    def on_common_weights(self, common: Mapping[str, Tensor]) -> None:
        """Take the centre of the round; parameters that stay at the site are not pulled."""
        self._given = common

    def on_round_start(self, state: TrainState, event: RoundStarted) -> None:
        """Take the centre."""
        own = dict(state.model.named_parameters())
        given = own if self._given is None else self._given
        self._centre = {
            name: given[name].detach().to(value, copy=True) for name, value in own.items() if name in given
        }

    def on_gradients(self, state: TrainState, report: Report) -> None:
        """Pull."""
        for name, value in state.model.named_parameters():
            if value.grad is not None and name in self._centre:
                value.grad.add_(value.detach() - self._centre[name], alpha=self.mu)


class ProgressHook(Hook):
    """Shows a bar with the loss and, of a private run, epsilon.

    Args:
        progress: the display.
        label: of the bar.
    """

    private_log = True

    def __init__(self, progress: Progress, label: str) -> None:
        self.progress, self.label = progress, label

    def on_round_start(self, state: TrainState, event: RoundStarted) -> None:
        """Begin a bar of the steps that are left."""
        self.progress.start(self.label, 0 if state.stopped else max(0, event.until - event.step))

    def on_step_end(self, state: TrainState, event: StepDone) -> None:
        """Move the bar by one step."""
        self.progress.advance(
            1, **{name: value for name, value in event.metrics.items() if not math.isnan(value)}
        )

    def on_notice(self, state: TrainState, event: Notice) -> None:
        """Show the line."""
        self.progress.note(event.text)

    def on_round_end(self, state: TrainState, event: RoundDone) -> None:
        """End the bar."""
        self.progress.finish()


class MetricsHook(Hook):
    """Writes ``private/metrics.jsonl``, one line per step and evaluation.

    On resuming, the file is cut back to the step that the run resumes from.

    Args:
        run: the run folder.
    """

    private_log = True

    def __init__(self, run: Run) -> None:
        self.run = run
        self._open = ExitStack()
        self._lines: Any = None

    def on_round_start(self, state: TrainState, event: RoundStarted) -> None:
        """Drop lines of steps after the current one, which a killed run left, and open the file."""
        lines = journal.Journal(self.run.metrics_path)
        if lines.path.is_file():
            lines.rewrite([table for table in lines.tables() if _step_of(table) <= event.step])
        self._lines = self._open.enter_context(lines.appending())

    def on_step_end(self, state: TrainState, event: StepDone) -> None:
        """Append ``{"kind": "train", "step": ..., "loss": ..., "lr": ..., "units": ...}``."""
        self._write(
            "train", event.step, {**event.metrics, **rates_by_name(event.rates), "units": event.units}
        )

    def on_evaluation(self, state: TrainState, event: Evaluated) -> None:
        """Append ``{"kind": "valid", "step": ..., "loss": ..., "auroc": ...}``."""
        if event.metrics:
            self._write("valid", event.step, event.metrics)

    def on_round_end(self, state: TrainState, event: RoundDone) -> None:
        """Close the file."""
        self._open.close()

    def _write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._lines.add({"kind": kind, "step": step, **plain})


class TensorBoardHook(Hook):
    """Writes TensorBoard events into ``private/tensorboard``.

    Args:
        run: the run folder.
    """

    private_log = True

    def __init__(self, run: Run) -> None:
        self.folder = str(run.private / "tensorboard")
        self._writer: Any = None

    def on_round_start(self, state: TrainState, event: RoundStarted) -> None:
        """Open the events from the current step on."""
        from torch.utils.tensorboard import SummaryWriter  # only for those who ask: slow to import

        self._writer = SummaryWriter(self.folder, purge_step=event.step + 1)

    def on_step_end(self, state: TrainState, event: StepDone) -> None:
        """Add the step's numbers."""
        self._write(
            "train", event.step, {**event.metrics, **rates_by_name(event.rates), "units": event.units}
        )

    def on_evaluation(self, state: TrainState, event: Evaluated) -> None:
        """Add the evaluation's numbers."""
        self._write("valid", event.step, event.metrics)

    def on_round_end(self, state: TrainState, event: RoundDone) -> None:
        """Close the events."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)


def rates_by_name(rates: Mapping[str, float]) -> dict[str, float]:
    """Return ``{"lr": ...}`` for a single player, and ``{"lr/NAME": ...}`` for several."""
    if len(rates) == 1:
        return {"lr": next(iter(rates.values()))}
    return {f"lr/{name}": rate for name, rate in rates.items()}


def _step_of(table: dict[str, Any]) -> float:
    value = table.get("step", 0)
    return float(value) if isinstance(value, (int, float)) else math.inf
