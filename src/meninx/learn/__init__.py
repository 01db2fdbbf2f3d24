"""Training: one trainer for supervised, private and federated runs, shadow models and games.

A game trains several networks against each other. A supervised run needs four parts::

    from meninx.learn import ShuffleSampler, SupervisedStep, TensorLoader, Trainer, TrainState

    state = TrainState.of(network, torch.optim.SGD(network.parameters(), lr=0.1))
    step = SupervisedStep(task, TensorLoader(images, targets))
    Trainer(state, ShuffleSampler(len(images), batch=32, seed=0), step).run(until=100)

==========  =====================================================================================
module      contents
==========  =====================================================================================
trainer     Trainer: the loop; Evaluator: metrics, best evaluation and early stopping
state       TrainState: named players (network, optimiser, schedule, averages), saved as one value
task        Task: loss and metrics; ImageTask of a prepared dataset, PairTask of two inputs
sampler     which units take part in a step: ShuffleSampler, PublicPoissonSampler, PrivateSampler
step        Step: gradients, then update; SupervisedStep, AlternatingStep; Loader
dp_step     PrivateStep: the step of a privacy plan, its keys, further sources of units
hooks       Hook and the events it listens to; metrics file, TensorBoard, progress
optim       optimisers and learning-rate schedules by name
assemble    from_config: all of these from settings, a dataset and a run folder
fitting     fit: a whole run, resumable, stopped by Ctrl-C, with its record
distributed World: several processes that train one model
==========  =====================================================================================
"""

from typing import TYPE_CHECKING

from meninx.core.lazy import lazy_exports

if TYPE_CHECKING:
    from meninx.learn.assemble import Training, from_config
    from meninx.learn.batches import Batch
    from meninx.learn.canaries import Canaries, CanaryScores
    from meninx.learn.checkpoint import CheckpointHook
    from meninx.learn.config import LearnConfig, OptimConfig
    from meninx.learn.distributed import World
    from meninx.learn.dp_step import Keys, PrivateStep, prove_network
    from meninx.learn.fitting import fit
    from meninx.learn.hooks import (
        Evaluated,
        Hook,
        MetricsHook,
        Notice,
        Outcome,
        ProgressHook,
        ProximalPull,
        RoundDone,
        RoundStarted,
        StepDone,
        TensorBoardHook,
    )
    from meninx.learn.optim import Schedule
    from meninx.learn.record import FitResult
    from meninx.learn.sampler import (
        PrivateSampler,
        PublicPoissonSampler,
        Sampler,
        ShuffleSampler,
        UnitBatch,
    )
    from meninx.learn.state import Best, Player, TrainState, WeightAverage
    from meninx.learn.step import (
        AlternatingStep,
        Loader,
        PlayerLoss,
        Report,
        Step,
        SupervisedStep,
        TensorLoader,
    )
    from meninx.learn.task import ImageTask, PairTask, Task
    from meninx.learn.trainer import Evaluator, Trainer
    from meninx.learn.unit_sources import PointSource, UnitSource

_MODULES = {
    "meninx.learn.assemble": ("Training", "from_config"),
    "meninx.learn.batches": ("Batch",),
    "meninx.learn.canaries": ("Canaries", "CanaryScores"),
    "meninx.learn.checkpoint": ("CheckpointHook",),
    "meninx.learn.config": ("LearnConfig", "OptimConfig"),
    "meninx.learn.distributed": ("World",),
    "meninx.learn.dp_step": ("Keys", "PrivateStep", "prove_network"),
    "meninx.learn.fitting": ("fit",),
    "meninx.learn.hooks": (
        "Evaluated",
        "Hook",
        "MetricsHook",
        "Notice",
        "Outcome",
        "ProgressHook",
        "ProximalPull",
        "RoundDone",
        "RoundStarted",
        "StepDone",
        "TensorBoardHook",
    ),
    "meninx.learn.optim": ("Schedule",),
    "meninx.learn.record": ("FitResult",),
    "meninx.learn.sampler": (
        "PrivateSampler",
        "PublicPoissonSampler",
        "Sampler",
        "ShuffleSampler",
        "UnitBatch",
    ),
    "meninx.learn.state": ("Best", "Player", "TrainState", "WeightAverage"),
    "meninx.learn.step": (
        "AlternatingStep",
        "Loader",
        "PlayerLoss",
        "Report",
        "Step",
        "SupervisedStep",
        "TensorLoader",
    ),
    "meninx.learn.task": ("ImageTask", "PairTask", "Task"),
    "meninx.learn.trainer": ("Evaluator", "Trainer"),
    "meninx.learn.unit_sources": ("PointSource", "UnitSource"),
}

__all__ = [
    "AlternatingStep",
    "Batch",
    "Best",
    "Canaries",
    "CanaryScores",
    "CheckpointHook",
    "Evaluated",
    "Evaluator",
    "FitResult",
    "Hook",
    "ImageTask",
    "Keys",
    "LearnConfig",
    "Loader",
    "MetricsHook",
    "Notice",
    "OptimConfig",
    "Outcome",
    "PairTask",
    "Player",
    "PlayerLoss",
    "PointSource",
    "PrivateSampler",
    "PrivateStep",
    "ProgressHook",
    "ProximalPull",
    "PublicPoissonSampler",
    "Report",
    "RoundDone",
    "RoundStarted",
    "Sampler",
    "Schedule",
    "ShuffleSampler",
    "Step",
    "StepDone",
    "SupervisedStep",
    "Task",
    "TensorBoardHook",
    "TensorLoader",
    "TrainState",
    "Trainer",
    "Training",
    "UnitBatch",
    "UnitSource",
    "WeightAverage",
    "World",
    "fit",
    "from_config",
    "prove_network",
]

if not TYPE_CHECKING:  # a type checker would take every name for one that exists
    __getattr__, __dir__ = lazy_exports(
        __name__, {name: module for module, names in _MODULES.items() for name in names}
    )
