"""Hooks listen to a trainer and may change its gradients; events are their arguments.

A hook that changes gradients declares it, like this one and :class:`ProximalPull`::

    class Decay(Hook):
        \"\"\"Pulls the weights towards 0.\"\"\"

        post_processing = True  # the pull depends on weights alone

        def on_gradients(self, state, report):
            for value in state.model.parameters():
                value.grad.add_(value.detach(), alpha=0.1)

Hooks are called in the order in which they were given to the trainer. Each process calls its own.
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
    """A step is complete: weights, averages and step count are updated.

    Attributes:
        step: steps done.
        units: number of units that took part.
        metrics: measurements of the step on them; private.
        rates: learning rate of each player.
    """

    step: int
    units: int
    metrics: Mapping[str, float]
    rates: Mapping[str, float]


@dataclass(frozen=True)
class Evaluated:
    """An evaluation was due and is done.

    Attributes:
        step: steps done.
        metrics: results of the evaluator; empty without one.
        train: means of the steps' metrics since the last evaluation.
        improved: whether the monitored value is the best so far.
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
    """The user stopped it between two steps; the state is complete and can be saved."""
    FAILED = "failed"
    """An error ended it, or a step was in progress; the state must not be saved."""


@dataclass(frozen=True)
class RoundDone:
    """A call of ``Trainer.run`` ends.

    Attributes:
        step: steps done.
        until: step at which it was planned to end.
        outcome: how it ended.
    """

    step: int
    until: int
    outcome: Outcome


@dataclass(frozen=True)
class Notice:
    """A message for the user.

    Attributes:
        text: one line.
    """

    text: str


class Hook:
    """Listens to a trainer; every method does nothing unless it is overridden.

    Guarantee: with a private step, :meth:`on_gradients` is called after the noise was added, so the gradients
        on the parameters are those that are released, and gradients of single units never reach a hook. The
        loss, the number of drawn units and the metrics of the validation cases are private: ``report``,
        ``StepDone`` and ``Evaluated`` contain none of them, except for a hook that declares with
        ``private_log = True`` that it keeps them in ``private/``. A hook that changes gradients or weights of
        a private run must declare with ``post_processing = True`` that its changes depend on nothing except
        weights, released gradients and public numbers (the pull of FedProx, the control variates of
        SCAFFOLD). The trainer detects changes by other hooks in :meth:`on_gradients` through torch's version
        counters and refuses them. This protects against mistakes only: changes through ``.data``, in another
        method or of the optimiser's settings are not detected, and a false declaration breaks the guarantee.

    Attributes:
        post_processing: whether all changes by this hook are functions of weights, released gradients and
            public numbers.
        private_log: whether the information given to this hook stays in ``private/`` of the run or on the
            terminal of its owner.
    """

    post_processing: bool = False
    private_log: bool = False

    def on_common_weights(self, common: Mapping[str, Tensor]) -> None:
        """Receive the common weights, by name, with which a site of a study begins or continues a round.

        The method is called before :meth:`on_round_start`; weights that stay at the site are left out.
        """

    def on_round_start(self, state: TrainState, event: RoundStarted) -> None:
        """Prepare for a round."""

    def on_gradients(self, state: TrainState, report: Report) -> None:
        """Read, and perhaps change, the gradients on the players' parameters before the update."""

    def on_step_end(self, state: TrainState, event: StepDone) -> None:
        """Read the state after a step."""

    def on_evaluation(self, state: TrainState, event: Evaluated) -> None:
        """Read the result of an evaluation."""

    def on_notice(self, state: TrainState, event: Notice) -> None:
        """Receive a message for the user."""

    def on_round_end(self, state: TrainState, event: RoundDone) -> None:
        """Read the state at the end of a round; also called if the round is interrupted or fails."""


class ProximalPull(Hook):
    """Adds ``mu * (weights - centre)`` to every gradient: the site's part of FedProx.

    The centre is the weights at the start of the round or, if given, those of :meth:`on_common_weights`,
    which a round that continues after an interruption needs. With a private step the pull is applied after
    the noise and depends on weights only, so the guarantee holds.

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
        """Store the centre of the round; parameters that stay at the site are not pulled."""
        self._given = common

    def on_round_start(self, state: TrainState, event: RoundStarted) -> None:
        """Store the centre."""
        own = dict(state.model.named_parameters())
        given = own if self._given is None else self._given
        self._centre = {
            name: given[name].detach().to(value, copy=True) for name, value in own.items() if name in given
        }

    def on_gradients(self, state: TrainState, report: Report) -> None:
        """Add the pull to the gradients."""
        for name, value in state.model.named_parameters():
            if value.grad is not None and name in self._centre:
                value.grad.add_(value.detach() - self._centre[name], alpha=self.mu)


class ProgressHook(Hook):
    """Shows a progress bar with the loss and, for a private run, epsilon.

    Args:
        progress: the display.
        label: of the bar.
    """

    private_log = True

    def __init__(self, progress: Progress, label: str) -> None:
        self.progress, self.label = progress, label

    def on_round_start(self, state: TrainState, event: RoundStarted) -> None:
        """Begin a bar of the remaining steps."""
        self.progress.start(self.label, 0 if state.stopped else max(0, event.until - event.step))

    def on_step_end(self, state: TrainState, event: StepDone) -> None:
        """Move the bar by one step."""
        self.progress.advance(
            1, **{name: value for name, value in event.metrics.items() if not math.isnan(value)}
        )

    def on_notice(self, state: TrainState, event: Notice) -> None:
        """Show the message."""
        self.progress.note(event.text)

    def on_round_end(self, state: TrainState, event: RoundDone) -> None:
        """End the bar."""
        self.progress.finish()


class MetricsHook(Hook):
    """Writes ``private/metrics.jsonl``, one line per step and evaluation.

    When a run is resumed, lines after the step from which it continues are removed.

    Args:
        run: the run folder.
    """

    private_log = True

    def __init__(self, run: Run) -> None:
        self.run = run
        self._open = ExitStack()
        self._lines: Any = None

    def on_round_start(self, state: TrainState, event: RoundStarted) -> None:
        """Remove lines of later steps, which a killed run may have left, and open the file."""
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
        from torch.utils.tensorboard import SummaryWriter  # imported only on request, because it is slow

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
