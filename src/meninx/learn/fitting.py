"""A whole training run in a run folder: begin or resume, train, stop on Ctrl-C, record what was spent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from torch import nn

from meninx.core.artifacts import Ancestry, RunState
from meninx.core.budget import NeighboringRelation, PrivacySpent, PrivacyUnit
from meninx.core.errors import Interrupted, PrivacyRefusal, UsageError, problem
from meninx.core.manifest import Manifest
from meninx.core.pool import Stop
from meninx.core.progress import SILENT, Progress
from meninx.core.run import Run
from meninx.learn import assemble, cache, checkpoint, ledger_file, record, runtime
from meninx.learn.assemble import Training
from meninx.learn.cache import Demand
from meninx.learn.cache_file import ImageCache
from meninx.learn.config import LearnConfig, learn_part
from meninx.learn.distributed import World
from meninx.learn.hooks import Hook, StepDone
from meninx.learn.record import FitResult
from meninx.learn.state import TrainState
from meninx.learn.task import Task, with_network
from meninx.learn.unit_sources import Source
from meninx.privacy.plan import Plan


def fit(
    config: LearnConfig,
    data: Manifest,
    run: Run,
    *,
    plan: Plan | None = None,
    progress: Progress = SILENT,
    resume: bool = False,
    data_digest: str = "",
    ancestry: Ancestry | None = None,
    declared_units: int | None = None,
    network: nn.Module | None = None,
    task: Task | None = None,
    hooks: Sequence[Hook] = (),
    sources: Sequence[Source] = (),
    world: World | None = None,
) -> FitResult:
    """Train a model on the training split of ``data`` and return the result.

    With several processes (``distributed.joined``), each calls this function with the same arguments and its
    ``world`` and gets the same result; only process 0 writes to ``run``.
    Writes into it: ``private/checkpoints``, ``private/metrics.jsonl``, with a plan also ``private/keys`` and
    ``private/ledger.jsonl``, and ``privacy.json``. The caller holds ``run.lock()``.

    Args:
        config: settings; a subclass is reduced to its learning part.
        data: all cases; the validation split serves evaluation, the test split is not touched.
        run: the run folder.
        plan: the privacy plan of every step; None trains without privacy.
        progress: shows steps, loss and epsilon.
        resume: continue from the last checkpoint; the result equals that of an uninterrupted run.
        data_digest: of the dataset's files; bound to every line of a private run's ledger. By default the
            plain digest.
        ancestry: known facts about the training behind pretrained weights; none by default.
        declared_units: number of privacy units that the user declared; None when the true one counts as
            public.
        network: a network to train instead of the config's, starting from its current weights.
        task: loss and metrics instead of the dataset's.
        hooks: further listeners.
        sources: further units of a private run, e.g. canaries.
        world: the processes of the run; by default this one alone.

    Guarantee: with a plan, every step uses exactly the units that ``plan.sampler`` draws, releases only
        ``plan.release`` of their clipped sum, and is in the ledger before the optimiser sees it. What else
        depends on private data is listed in ``outside_guarantee`` of privacy.json.

    Raises:
        UsageError: the run was trained before and ``resume`` is not set.
        Interrupted: the user stopped the run, after a checkpoint of the last complete step; or another
            process has ended.
        ConfigError, DataError, PrivacyRefusal: settings, data and plan do not fit, or training diverged.
    """
    config, world = learn_part(config), world or World()
    begun = is_begun(run, world, plan, resume=resume)
    with runtime.prepared(config.runtime, world) as device, Stop() as stop:
        begin = BeginHook(run) if world.main else None
        training = assemble.from_config(
            config if network is not None else with_network(config, data.info),
            data,
            run,
            plan,
            device=device,
            network=network,
            task=task,
            hooks=[*([begin] if begin else []), *hooks],
            sources=sources,
            progress=progress,
            resumed=begun,
            data_digest=data_digest,
            ancestry=ancestry,
            declared_units=declared_units,
            world=world,
        )
        restored(training, begin)
        total = training.total_steps
        try:
            with data_at_hand(training, data, progress, lambda: stop.wanted):
                training.trainer.run(until=total, horizon=total, stop_requested=lambda: stop.wanted)
        except KeyboardInterrupt as error:
            raise _interrupted(training, begin) from error
        finally:
            if begin and plan is not None and run.ledger_text():
                begin.begin()  # an accounted step counts as taken, even if an error interrupted it
        return concluded(training)


@contextmanager
def data_at_hand(
    training: Training, data: Manifest, progress: Progress, stop: Callable[[], bool]
) -> Iterator[None]:
    """Attach the cache of decoded images for a block, and end the loader's threads after it."""
    left, world = training.total_steps - training.state.step, training.trainer.world
    places = training.loader.assembler.foreground > 0
    demand = Demand(
        arrays=training.valid.wanted() | training.train.wanted(places=places),
        reads=left / training.trainer.sampler.steps_per_epoch,
        setting=training.config.runtime.cache,
        progress=progress,
        stop=stop,
    )

    def obtained(builds: bool) -> ImageCache | None:
        return cache.obtained(data, demand, run=training.run.private, shared=world.size > 1, builds=builds)

    own: list[ImageCache | None] = []
    world.shared(lambda: own.append(obtained(True)))  # the other processes wait
    found = own[0] if own else obtained(False)
    training.train.cache = training.valid.cache = found
    try:
        with training.loader:
            yield
    finally:
        training.train.cache = training.valid.cache = None
        if found is not None:
            found.close()


def is_begun(run: Run, world: World, plan: Plan | None, *, resume: bool) -> bool:
    """Return whether a run took steps before; refuse to continue it with another plan or a lost ledger."""
    begun = world.shared(lambda: checkpoint.path_of(run, "last").is_file() or run.ledger_path.is_file())
    if begun and not resume:
        fix = "give --resume, or another --out"
        raise UsageError(problem("the run folder was trained before", where=run.name, fix=fix))
    world.shared(lambda: checkpoint.refuse_other_plan(run, plan.fingerprint() if plan else ""))
    world.shared(lambda: _refuse_lost_ledger(run) if plan else None)
    return begun


def restored(training: Training, begin: BeginHook | None) -> None:
    """Load the last checkpoint into a training; for a new run, test the network on one case."""
    if begin:
        begin.planned_steps = training.total_steps
    world = training.trainer.world
    checkpoint.restore(
        training.run, training.state, config=training.config, plan=training.fingerprint, world=world
    )
    if training.state.step == 0:
        assemble.probe(training)


def _refuse_lost_ledger(run: Run) -> None:
    """Raise PrivacyRefusal if a private run began before and no ledger lists its steps."""
    if run.ledger_text() and ledger_file.read(run).accounts:  # an unfinished line alone names no plan
        return
    state = run.record.state if run.record is not None else RunState.STARTING
    keys = any((run.private / "keys" / f"{name}.key").is_file() for name in ("sampling", "noise"))
    if (
        keys
        or state is not RunState.STARTING
        or checkpoint.path_of(run, "last").is_file()
        or run.ledger_path.is_file()
    ):
        fix = "restore private/ledger.jsonl from a backup, or start a new run"
        raise PrivacyRefusal(problem("the ledger of the interrupted run is missing", where=run.name, fix=fix))


class BeginHook(Hook):
    """Records in ``run.json``, after the first step, that the run is in progress.

    A start that fails before the first step leaves the record and the link ``latest`` unchanged.

    Args:
        run: the run folder.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.planned_steps, self._begun = run, 0, False

    def begin(self) -> None:
        """Write the state, once."""
        if self._begun:
            return
        self._begun = True
        known = self.run.record
        if known is not None and known.state is RunState.STARTING:
            self.run.point_latest()
            self.run.update(state=RunState.TRAINING, planned_steps=self.planned_steps)

    def on_step_end(self, state: TrainState, event: StepDone) -> None:
        """Begin with the first step."""
        self.begin()


def _interrupted(training: Training, begin: BeginHook | None) -> Interrupted:
    """Record the progress of the run, and return the error that tells the user how to continue."""
    state, name = training.state, training.run.name
    whole = training.trainer.whole
    if begin:
        if whole and (state.step or training.plan is None):
            begin.begin()
        _written(training, final=False)
    saved = f"state saved after step {state.step}" if whole else "the last checkpoint stays"
    return Interrupted(f"training stopped by the user; {saved}; go on with --resume ({name})")


def concluded(training: Training) -> FitResult:
    """Write privacy.json and the progress of the run, and return its result."""
    name, spent = training.trainer.world.shared(lambda: _recorded(training))
    state, last = training.state, training.trainer.last
    metrics = last.metrics if last else {}
    metric = training.task.metric if metrics else ""
    return FitResult(
        out=training.run.root,
        steps=state.step,
        epochs=training.epoch,
        train_loss=last.train.get("loss", math.nan) if last else math.nan,
        valid_loss=metrics.get("loss", math.nan),
        metric_name=metric,
        metric=metrics.get(metric, math.nan),
        best_value=state.best.value,
        best_step=state.best.step,
        weights=f"{name}, ema" if state.player.average else name,
        checkpoint=checkpoint.path_of(training.run, name),
        stopped_early=state.stopped,
        private=training.plan is not None,
        privacy=_spent(spent["total"]) if spent else None,
        own_epsilon=spent["own"] if spent else None,
        start=training.start,
        outside_guarantee=tuple(training.caveats),
    )


def _recorded(training: Training) -> tuple[str, dict[str, Any] | None]:
    """Write privacy.json and return, as plain values, the selected checkpoint and the privacy spent.

    The privacy spent is given both in total and for the run's own steps.
    """
    spent = _written(training, final=True)
    if spent is None:
        return _kept(training), None
    own = spent.epsilon
    if training.ancestry.ledgers:
        own = ledger_file.read(training.run).epsilon(spent.delta)
    return _kept(training), {"total": asdict(spent), "own": own}


def _written(training: Training, *, final: bool) -> PrivacySpent | None:
    """Write privacy.json and the progress of the run, and return what was spent."""
    spent = record.write(training, final=final)
    if training.run.record is not None:
        training.run.update(
            selected=_kept(training), step=training.state.step, planned_steps=training.total_steps
        )
    return spent


def _spent(table: dict[str, Any]) -> PrivacySpent:
    """Return what was spent, rebuilt from the plain values that were sent between processes."""
    kinds = {"unit": PrivacyUnit(table["unit"]), "relation": NeighboringRelation(table["relation"])}
    return PrivacySpent(**{**table, **kinds})


def _kept(training: Training) -> str:
    """Return the checkpoint whose weights are the run's result."""
    return "best" if training.selects_best and checkpoint.path_of(training.run, "best").is_file() else "last"
