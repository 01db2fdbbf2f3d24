"""Runs training in several processes and writes down what each of them saw: ``python ranks.py FOLDER``.

Not a test itself: test processes may open no socket. Imports are paid for once; every world of processes is
forked from here, meets in a file, and gets a minute. ``FOLDER/seen.json`` then holds, for each scene, what
its processes returned.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from proven_networks import proved_once
from torch import Tensor

from meninx.core import randomness
from meninx.core import run as run_folder
from meninx.core.budget import PrivacyUnit
from meninx.core.manifest import Manifest
from meninx.core.run import Run
from meninx.learn import distributed
from meninx.learn.config import LearnConfig
from meninx.learn.distributed import World
from meninx.learn.dp_step import Keys, PrivateStep
from meninx.learn.fitting import fit
from meninx.learn.sampler import PrivateSampler, UnitBatch, unit_members, unit_names
from meninx.models import registry
from meninx.privacy import accounting
from meninx.privacy.clipping import ClippedSum
from meninx.privacy.noise import GaussianNoise
from meninx.privacy.plan import Plan
from meninx.synthetic import write_dataset

LIMIT = 60.0
SMALL = LearnConfig.of(
    model="resnet9-small",
    physical_batch=3,
    lr=1e-2,
    optimizer="momentum",
    device="cpu",
    attack_risk=False,
    deterministic=True,
    eval_every=2,
    batch_size=5,
)
NARROW = SMALL.replace(model_options={"width": 8})  # where no noise is measured, which needs many weights
FORCED: dict[int, slice] = {3: slice(0, 1), 4: slice(0, 0), 5: slice(0, 7)}  # one unit, nobody, uneven shares
UNITS, RATE, DRAWS = 24, 0.4, 3000
WORLD = World()  # of this process; each child has its own


def plan(data: Manifest, **changes: Any) -> Plan:
    patients = len(data.split("train").patients)
    fields: dict[str, Any] = {
        "n_units": patients,
        "expected_batch_size": 5,
        "unit": PrivacyUnit.PATIENT,
        "steps": 6,
    }
    return Plan.build(**fields | {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "delta": 1e-3} | changes)


def adaptive_plan(data: Manifest) -> Plan:
    return plan(data, clipping="adaptive", clip_rate=1.0, count_noise_multiplier=5.0)


# starting processes


def together(size: int, folder: Path, work: Callable[[], Any], *, timeout: float = LIMIT) -> list[Any]:
    """Return the result of ``work`` in each of ``size`` processes, its error's name, or the signal."""
    folder.mkdir(parents=True)
    children = [_child(rank, size, folder, work, timeout) for rank in range(size)]
    end, status = time.monotonic() + LIMIT, dict.fromkeys(children, None)
    while None in status.values() and time.monotonic() < end:
        for child in [child for child in children if status[child] is None]:
            done, code = os.waitpid(child, os.WNOHANG)
            status[child] = code if done else None
        time.sleep(0.01)
    for child in [child for child in children if status[child] is None]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return [_said(folder / f"{rank}.json", status[child]) for rank, child in enumerate(children)]


def _child(rank: int, size: int, folder: Path, work: Callable[[], Any], timeout: float) -> int:
    child = os.fork()
    if child:
        return child
    faulthandler.dump_traceback_later(LIMIT - 5)  # says where it hangs
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    global WORLD
    try:
        with distributed.joined(init=f"file://{folder}/store", timeout=timedelta(seconds=timeout)) as WORLD:
            said: Any = {"gave": work()}
    except BaseException as error:
        said = {"error": type(error).__name__, "message": str(error)}
    (folder / f"{rank}.json").write_text(json.dumps(said))
    os._exit(0)


def _said(path: Path, status: int | None) -> Any:
    if path.is_file():
        return json.loads(path.read_text())
    return {"signal": os.WTERMSIG(status)} if status is not None else {"hangs": True}


# what the processes do


class Recorder:
    """Keeps the clipped sums over all processes, their releases, and the weights after each step."""

    def __init__(self) -> None:
        self.sums: list[Tensor] = []
        self.released: list[Tensor] = []
        self.weights: list[str] = []
        self.lines: list[int] = []
        self.run: Run | None = None
        release, assign = Plan.release, PrivateStep._assign

        def released(own: Plan, total: ClippedSum, noise: GaussianNoise, step: int) -> dict[str, Tensor]:
            path = self.run.ledger_path if self.run else Path()
            self.lines.append(len(path.read_text().splitlines()) if path.is_file() else 0)
            self.sums.append(flat(total.gradients))
            gradients = release(own, total, noise, step)
            self.released.append(flat(gradients) * own.expected_batch_size)
            return gradients

        def assigned(own: PrivateStep, model: torch.nn.Module, gradients: dict[str, Tensor]) -> None:
            self.weights.append(distributed.digest(model))
            assign(own, model, gradients)

        Plan.release, PrivateStep._assign = released, assigned  # type: ignore[method-assign]


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].reshape(-1) for name in sorted(tensors)])


def force_draws() -> None:
    """Make some steps draw one unit, nobody, or seven."""
    draw = PrivateSampler.__call__

    def drawn(own: PrivateSampler, step: int) -> UnitBatch:
        return UnitBatch(own.members[FORCED[step]]) if step in FORCED else draw(own, step)

    PrivateSampler.__call__ = drawn  # type: ignore[method-assign]


def private(data: Manifest, run: Run, *, steps: int = 6, **changes: Any) -> Callable[[], Any]:
    """Return the work of a private run that leaves its sums beside the run folder."""

    def work() -> Any:
        force_draws()
        seen = Recorder()
        seen.run = run
        result = fit(SMALL.replace(**changes), data, run, plan=plan(data, steps=steps), world=WORLD)
        final = torch.load(result.checkpoint, weights_only=True)["players"]["model"]["weights"]
        kept = {"sums": seen.sums, "released": seen.released, "final": final}
        if WORLD.main:
            torch.save(kept, run.root / "seen.pt")
        return {
            "weights": seen.weights,
            "lines": seen.lines,
            "epsilon": result.epsilon,
            "steps": result.steps,
        }

    return work


def double_noise() -> None:
    """Plant: every process adds the noise to its own share before the sum, and nobody after it."""
    pool = PrivateStep._pool

    def noisy(own: PrivateStep, total: ClippedSum, parts: Any, step: int, drawn: Any, stop: bool) -> bool:
        for name, value in own.noise.add(dict(total.gradients), step).items():
            total.gradients[name].copy_(value)
        return pool(own, total, parts, step, drawn, stop)

    def silent(own: Plan, total: ClippedSum, noise: GaussianNoise, step: int) -> dict[str, Tensor]:
        return {name: value / own.expected_batch_size for name, value in total.gradients.items()}

    PrivateStep._pool, Plan.release = noisy, silent  # type: ignore[method-assign]


def draw_per_process() -> None:
    """Plant: every process draws from a dataset of its own with the user's seed, equal everywhere."""

    def drawn(own: PrivateSampler, step: int) -> UnitBatch:
        mine = own.members[WORLD.rank :: WORLD.size]
        coins = randomness.child(own.seed, "sampling", step).random(len(mine))
        chosen = [group for group, coin in zip(mine, coins, strict=True) if coin < own.sample_rate]
        return UnitBatch(tuple(chosen))

    PrivateSampler.__call__ = drawn  # type: ignore[method-assign]


def masks(data: Manifest, run: Run, *, planted: bool) -> Callable[[], list[list[int]]]:
    """Return the work of drawing many steps: the units that this process takes in each."""

    def work() -> list[list[int]]:
        if planted:
            draw_per_process()
        units = replace(data, cases=data.cases[:UNITS])
        terms = Plan.build(
            n_units=UNITS,
            expected_batch_size=UNITS * RATE,
            unit=PrivacyUnit.CASE,
            steps=DRAWS,
            noise_multiplier=1.0,
            max_grad_norm=1.0,
            delta=1e-3,
        )
        keys = Keys.of(run, resumed=False, world=WORLD)
        members = unit_members(units, PrivacyUnit.CASE)
        draw = PrivateSampler(
            terms.sampler(keys.sampling, UNITS), members, unit_names(units, PrivacyUnit.CASE), RATE
        )
        share = (lambda drawn: drawn) if planted else (lambda drawn: drawn.share(WORLD.rank, WORLD.size))
        return [[case for unit in share(draw(step)).units for case in unit] for step in range(DRAWS)]

    return work


def opacus_masks() -> list[list[int]]:
    """Return the same of Opacus' sampler, every process seeded with the user's seed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.utils.uniform_sampler import DistributedUniformWithReplacementSampler

    torch.manual_seed(0)
    sampler = DistributedUniformWithReplacementSampler(total_size=UNITS, sample_rate=RATE, steps=1)
    return [next((batch.tolist() for batch in sampler), []) for _ in range(DRAWS)]


def killed(data: Manifest, run: Run, step: int) -> Callable[[], Any]:
    """Return work that kill -9 ends between the ledger line and the optimiser of a step."""

    def work() -> Any:
        force_draws()
        assign = PrivateStep._assign

        def assigned(own: PrivateStep, model: torch.nn.Module, gradients: dict[str, Tensor]) -> None:
            steps.append(1)
            if len(steps) > step:
                os.kill(os.getpid(), signal.SIGKILL)
            assign(own, model, gradients)

        steps: list[int] = []
        PrivateStep._assign = assigned  # type: ignore[method-assign]
        return fit(NARROW, data, run, plan=plan(data), world=WORLD).steps

    return work


def resumed(data: Manifest, run: Run) -> Callable[[], Any]:
    def work() -> Any:
        force_draws()
        result = fit(NARROW, data, run, plan=plan(data), resume=True, world=WORLD)
        return {"epsilon": result.epsilon, "steps": result.steps}

    return work


def failing(data: Manifest, run: Run, *, rank: int, how: Callable[[], None]) -> Callable[[], Any]:
    """Return work in which one process meets ``how`` while it clips its share of the second step."""

    def work() -> Any:
        clip = PrivateStep._clip

        def clipped(own: PrivateStep, model: torch.nn.Module, step: int, *rest: Any) -> Any:
            if step == 1 and own.world.rank == rank:
                how()
            return clip(own, model, step, *rest)

        PrivateStep._clip = clipped  # type: ignore[method-assign]
        return fit(NARROW, data, run, plan=plan(data), world=WORLD).steps

    return work


def out_of_memory() -> None:
    raise MemoryError


def asked_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def plain(data: Manifest, run: Run) -> Callable[[], Any]:
    def work() -> Any:
        config = NARROW.replace(optimizer="sgd", steps=8)
        return fit(config, data, run, world=WORLD).train_loss

    return work


def adaptive(data: Manifest, run: Run) -> Callable[[], Any]:
    """Return the last threshold of a run that adapts it to the norms of all processes' units."""

    def work() -> Any:
        result = fit(NARROW, data, run, plan=adaptive_plan(data), world=WORLD)
        return float(torch.load(result.checkpoint, weights_only=True)["threshold"])

    return work


def batch_normed(data: Manifest, run: Run) -> Callable[[], Any]:
    def work() -> Any:
        registry.MODELS = {  # type: ignore[misc]
            **registry.MODELS,
            "normed": lambda **_: torch.nn.Sequential(
                torch.nn.Conv2d(1, 3, 16), torch.nn.BatchNorm2d(3), torch.nn.Flatten()
            ),
        }
        return fit(SMALL.replace(model="normed"), data, run, world=WORLD).steps

    return work


def disagreeing() -> Any:
    WORLD.agree("settings", lambda: f"lr = {WORLD.rank}")
    return WORLD.shared(lambda: "further")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # slow the first time: what it imports, the children need not
    torch.use_deterministic_algorithms(False)
    data = write_dataset(folder / "data", patients=18, size=16)
    new = lambda name: run_folder.create(folder / "runs", name, config_toml="", deterministic=True)  # noqa: E731
    seen: dict[str, Any] = {}

    def scene(name: str, size: int, work: Callable[[], Any], **limits: float) -> None:
        began = time.monotonic()
        seen[name] = together(size, folder / "scenes" / name, work, **limits)
        print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr)

    importlib.import_module("torch.distributed.nn.functional")
    for number, config in enumerate((SMALL, SMALL.replace(physical_batch=2), NARROW)):
        # What these runs import and prove, the children need not.
        fit(config, data, new(f"first-{number}"), plan=plan(data, steps=1), world=WORLD)
    for terms in (plan(data), plan(data, steps=1), adaptive_plan(data)):
        for steps in range(1, terms.steps + 1):
            # Every private process shows its epsilon at these steps; forked, it has the values already.
            accounting.epsilon([terms.phase(steps)], terms.delta, coarse=True)
        terms.spent()
    os.fsync = lambda handle: None  # type: ignore[assignment] # a killed process loses nothing that it has written
    names = "one two four double killed lost slow stop plain1 plain2 fit1 fit3 unequal"
    runs = {name: new(name) for name in names.split()}
    scene("one", 1, private(data, runs["one"]))
    scene("two", 2, private(data, runs["two"]))
    scene("four", 4, private(data, runs["four"], physical_batch=2))

    def planted() -> Any:
        double_noise()
        return private(data, runs["double"], steps=1)()

    scene("double", 2, planted)
    scene("masks", 2, masks(data, new("masks"), planted=False))
    scene("equal masks", 2, masks(data, new("equal"), planted=True))
    scene("opacus", 2, opacus_masks)

    def unequal() -> Any:
        draw_per_process()
        return fit(NARROW, data, runs["unequal"], plan=plan(data), world=WORLD).steps

    scene("unequal draws", 2, unequal)
    scene("killed", 2, killed(data, runs["killed"], 3))
    scene("resumed", 3, resumed(data, runs["killed"]))
    scene("error", 2, failing(data, runs["lost"], rank=1, how=out_of_memory))
    scene("silence", 2, failing(data, runs["slow"], rank=1, how=lambda: time.sleep(3)), timeout=1.5)
    scene("stop", 2, failing(data, runs["stop"], rank=1, how=asked_to_stop))
    scene("begun", 2, lambda: fit(SMALL, data, runs["one"], plan=plan(data), world=WORLD).steps)
    scene("plain1", 1, plain(data, runs["plain1"]))
    scene("plain2", 2, plain(data, runs["plain2"]))
    scene("adaptive1", 1, adaptive(data, runs["fit1"]))
    scene("adaptive3", 3, adaptive(data, runs["fit3"]))
    scene("batch norm", 2, batch_normed(data, new("normed")))
    scene("disagree", 2, disagreeing)
    places = {name: str(run.root) for name, run in runs.items()}
    (folder / "seen.json").write_text(json.dumps({"scenes": seen, "runs": places}))


if __name__ == "__main__":
    with proved_once():
        main(Path(sys.argv[1]))
