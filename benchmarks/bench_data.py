"""Images per second of the data pipeline alone, beside those of the training step that it feeds.

Run: ``python benchmarks/bench_data.py --data DIR [--sets kermany64 ...] [--rounds 3] [--seconds 2] [--write
PAGE]``. DIR holds datasets as ``docs/results.md`` prepares them. Each is copied into a temporary folder,
where its cache is built.

*Cold* decodes every image each time, *cached* reads the memory-mapped file. All variants take turns, round by
round. A cell holds medians over rounds: images per second of processor time [least, most], which hardly
depends on what else the machine does, and images per second of wall time, which shows what workers gain where
processors are idle.
"""

# ruff: noqa: E402, I001 -- torch reads the environment when it is imported

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

THREADS = 2
os.environ.update(OMP_WAIT_POLICY="passive", OMP_NUM_THREADS=str(THREADS))  # before torch

import pages
import torch

from meninx.core import integrity, machine
from meninx.core import run as run_folder
from meninx.core.budget import PrivacyUnit
from meninx.core.manifest import Manifest
from meninx.learn import assemble
from meninx.learn.augment import augmenter
from meninx.learn.batches import Assembler, Batch
from meninx.learn.cache import Demand, obtained
from meninx.learn.config import LearnConfig
from meninx.learn.data import split_store
from meninx.learn.loader import BatchLoader
from meninx.learn.sampler import ShuffleSampler, UnitBatch
from meninx.privacy.plan import Plan

BATCH = 32
WORKERS = (0, 1, 2)
FOREVER = 10**6  # steps
ROTATED = ("flip", "shift", "rotate")


@dataclass(frozen=True)
class Source:
    """A pipeline to measure.

    Attributes:
        data: name of the prepared dataset.
        title: name in the table.
        settings: of the training.
    """

    data: str
    title: str
    settings: dict[str, Any]


SOURCES = (
    Source("kermany64", "Kermany pneumonia, 64 px", {}),
    Source("kermany64", "the same, flip, shift, rotate", {"augment": ROTATED}),
    Source("kermany224", "Kermany pneumonia, 224 px", {}),
    Source("kermany224", "the same, flip, shift, rotate", {"augment": ROTATED}),
    Source("hippo", "hippocampus MRI, patches of 32³", {"patch_size": (32, 32, 32)}),
)
NETWORKS = (("kermany64", "resnet9-small"), ("kermany64", "resnet9"))


class Repeated:
    """A loader that hands out the rows of one batch over and over: the step then waits for nothing.

    Args:
        batch: at least as many rows as a step may ask for.
    """

    views = 1

    def __init__(self, batch: Batch) -> None:
        self.batch, self.rows = batch, 0

    def batches(self, units: UnitBatch, step: int, most: int) -> Iterator[Batch]:
        """Yield as many rows as there are units."""
        for part in units.microbatches(most):
            count, own = len(part), self.batch
            self.rows += count
            place = torch.arange(part.first, part.first + count)
            yield Batch(own.inputs[:count], own.targets[:count], place, 1, own.row_keys[:count])


class Counted:
    """A loader that counts the rows of another."""

    views = 1

    def __init__(self, loader: BatchLoader) -> None:
        self.loader, self.rows = loader, 0

    def batches(self, units: UnitBatch, step: int, most: int) -> Iterator[Batch]:
        """Yield the batches of the other."""
        for batch in self.loader.batches(units, step, most):
            self.rows += len(batch.inputs)
            yield batch


@dataclass(frozen=True)
class Speed:
    """Images per second.

    Attributes:
        processor: of processor time, all threads together.
        wall: of wall time.
    """

    processor: float
    wall: float


class Clock:
    """Time since it was made."""

    def __init__(self) -> None:
        self._wall, self._processor = time.perf_counter(), time.process_time()

    @property
    def wall(self) -> float:
        """Seconds of wall time."""
        return time.perf_counter() - self._wall

    def speed(self, images: int) -> Speed:
        """Return the speed of so many images."""
        return Speed(images / (time.process_time() - self._processor), images / self.wall)


def copied(source: Path, target: Path) -> Manifest:
    """Return a copy of a prepared dataset with digests and a private room."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("private"))
    integrity.write(target, integrity.measured(target, [p for p in target.rglob("*.*") if p.is_file()]))
    (target / "private").mkdir(mode=0o700)
    data = Manifest.read(target)
    assert data.checksums  # read once for all stores
    return data


def pipeline(data: Manifest, source: Source, seconds: float, *, workers: int, cached: bool) -> Speed:
    """Return the speed of a loader whose consumer does nothing."""
    config = LearnConfig.of(**source.settings)
    store = split_store(data, "train", config.model, memory=None if cached else 0)
    if cached:
        store.cache = obtained(data, Demand(arrays=store.wanted(places=True), reads=FOREVER), run=data.root)
    assembler = Assembler(store, augmenter(config.augment, data.info), 1, 0.5, 0, torch.device("cpu"))
    sampler = ShuffleSampler(len(store), BATCH, 0)
    with BatchLoader(assembler, workers=workers) as loader:
        loader.follow(sampler, until=FOREVER)
        rows, step, clock = 0, 0, Clock()
        while clock.wall < seconds:
            rows += sum(len(batch.inputs) for batch in loader.batches(sampler(step), step, BATCH))
            step += 1
        return clock.speed(rows)


def stepping(
    data: Manifest, place: Path, network: str, *, private: bool, workers: int | None
) -> Callable[[float], Speed]:
    """Return a function from seconds to the speed of training.

    Args:
        data: the dataset.
        place: folder of runs.
        network: name in the registry.
        private: train with differential privacy.
        workers: of the loader; None for the step alone, on one batch over and over.
    """
    horizon = 10**4
    config = LearnConfig.of(
        model=network,
        batch_size=BATCH,
        physical_batch=BATCH,
        device="cpu",
        steps=horizon,
        optimizer="momentum",
        eval_every=FOREVER,
        workers=workers or 0,
        attack_risk=False,
    )
    plan = Plan.build(
        n_units=len(data.split("train")), expected_batch_size=BATCH, unit=PrivacyUnit.CASE, steps=horizon,
        noise_multiplier=1.0, max_grad_norm=1.0, delta=1e-6,
    ) if private else None  # fmt: skip
    run = run_folder.create(place, "bench", config_toml="", private=private)
    training = assemble.from_config(config, data, run, plan)
    store, trainer, loader = training.train, training.trainer, training.loader
    store.cache = obtained(data, Demand(arrays=store.wanted(), reads=FOREVER), run=run.private)
    rows = tuple((case,) for case in range(4 * BATCH))
    counted = Counted(loader) if workers is not None else Repeated(loader.assembler(rows, 0))
    if private:
        trainer.step.loader = counted
    else:
        trainer.step = replace(trainer.step, loader=counted)
    trainer.run(until=3, horizon=horizon)  # plans kernels and warms caches

    def measure(seconds: float) -> Speed:
        clock, before = Clock(), counted.rows
        while clock.wall < seconds:
            trainer.run(until=trainer.state.step + 2, horizon=horizon)
        speed = clock.speed(counted.rows - before)
        loader.close()  # or its workers would go on during the turn of another
        return speed

    return measure


def shown(speeds: list[Speed]) -> str:
    """Return a cell of a table."""
    own = [speed.processor for speed in speeds]
    wall = median(speed.wall for speed in speeds)
    return f"{median(own):,.0f} [{min(own):,.0f}, {max(own):,.0f}]; {wall:,.0f}"


def _tables(args: argparse.Namespace, manifests: dict[str, Manifest], place: Path) -> str:
    lines = [
        "Images per second of processor time [least, most]; of wall time. Medians of n = "
        f"{args.rounds} rounds of "
        f"{args.seconds:g} s, batches of {BATCH}, {machine.processors()} processors, no GPU.",
        "",
        "| pipeline alone | cold, 0 workers | 1 | 2 | cached, 0 workers | 1 | 2 |",
        "|---|---|---|---|---|---|---|",
    ]
    for source in (item for item in SOURCES if item.data in manifests):
        ways = [(cached, workers) for cached in (False, True) for workers in WORKERS]
        found: dict[tuple[bool, int], list[Speed]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for cached, workers in ways:
                speed = pipeline(manifests[source.data], source, args.seconds, workers=workers, cached=cached)
                found[cached, workers].append(speed)
        lines.append(f"| {source.title} | " + " | ".join(shown(found[way]) for way in ways) + " |")
        sys.stderr.write(lines[-1] + "\n")
    lines += [
        "",
        "| training (cached) | step alone | with the pipeline, 0 workers | 1 | 2 |",
        "|---|---|---|---|---|",
    ]
    for name, network in (item for item in NETWORKS if item[0] in manifests):
        for private in (False, True):
            counts = (None, *WORKERS)
            measures = {
                count: stepping(manifests[name], place, network, private=private, workers=count)
                for count in counts
            }
            speeds: dict[int | None, list[Speed]] = {count: [] for count in counts}
            for _ in range(args.rounds):
                for count, measure in measures.items():
                    speeds[count].append(measure(args.seconds))
            title = f"{network}, {name.removeprefix('kermany')} px, {'private' if private else 'supervised'}"
            lines.append(f"| {title} | " + " | ".join(shown(speeds[count]) for count in counts) + " |")
            sys.stderr.write(lines[-1] + "\n")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and, when asked, write the tables into a page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of prepared datasets")
    parser.add_argument("--sets", nargs="+", metavar="KEY", help="datasets; all otherwise")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each variant (default 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="time of a measurement (default 2)")
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="put the tables between the markers of a page"
    )
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    names = [name for name in dict.fromkeys(item.data for item in SOURCES) if name in (args.sets or [name])]
    with tempfile.TemporaryDirectory() as folder:
        manifests = {name: copied(args.data / name, Path(folder) / name) for name in names}
        load = os.getloadavg()[0]
        text = _tables(args, manifests, Path(folder) / "runs")
        text += (
            f"\ntorch {torch.__version__}; load average {load:.1f} before, {os.getloadavg()[0]:.1f} after.\n"
        )
    sys.stdout.write(text)
    if args.write:
        pages.put(args.write, "bench-data", text)


if __name__ == "__main__":
    main()
