"""From which noise on each reconstruction attack stops, on images of a prepared dataset, and its criteria.

Run: ``python benchmarks/bench_reconstruction.py --data DATASET [--attacks A B] [--sites N ...] [--write
PAGE]``. Prints Markdown tables: the share of images that come back recognisably (a correlation above 0.8),
the share whose reconstruction is more like the patient than like 500 members that took no part, and the
numbers beside their goals (``--criteria``). The attacked network is a small CNN (for segmentation a small
U-Net) with random weights. The step is that of a plan with clipping to 1. Each patient gives one image.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import pages
import reconstruction_criteria as criteria
from meninx.audit.reconstruction.attack_registry import attack_kind
from meninx.audit.reconstruction.attacks import ATTACKS, HONEST
from meninx.audit.reconstruction.candidates import CandidateSet, NoiseLevel
from meninx.audit.reconstruction.knowledge import Knowledge
from meninx.audit.reconstruction.member_ranking import ranked
from meninx.audit.reconstruction.pools import Pools, load_pools
from meninx.audit.reconstruction.trials import Trials, reconstruct
from meninx.audit.reconstruction.victim import STEP, VictimStep, View
from meninx.core.manifest import Manifest, TaskKind
from meninx.learn.config import LearnConfig, TaskConfig
from meninx.learn.task import ImageTask, image_task
from meninx.metrics.image_matching import match, paired_similarity, similarity
from meninx.metrics.null_threshold import Rate, rate_above
from meninx.models import registry
from meninx.privacy import Plan

SIGMAS = (0.0, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
GOOD, STRUCTURE, NOISY = 0.8, 0.5, 0.1
PRIOR = ("whitened", "pca")
"""Encoders that know what such images look like, for which criterion 14 sets no goal under noise."""
MARKER = "bench-reconstruction"


@dataclass(frozen=True, kw_only=True)
class World:
    """What all attacks have in common.

    Attributes:
        pools: images.
        task: of the dataset.
        knowledge: of the attacker.
        trials: attacked steps.
        victim: how a step is made.
        levels: of noise.
        participations: steps that are averaged.
    """

    pools: Pools
    task: ImageTask
    knowledge: Knowledge
    trials: Trials
    victim: VictimStep
    levels: tuple[NoiseLevel, ...]
    participations: int


@dataclass(frozen=True, kw_only=True)
class Cell:
    """An attack at a level.

    Attributes:
        close: images with a correlation above :data:`GOOD`.
        null: the same by steps of other patients.
        first: images whose reconstruction is the most like their own patient; None where nobody else is left.
        first_null: the same by noise alone.
        structure: SSIM of the matched images, those above :data:`STRUCTURE`, and its mean.
        correlation: mean NCC.
    """

    close: Rate
    null: float
    first: Rate | None
    first_null: float
    structure: tuple[Rate, float]
    correlation: float


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """An attack at all levels.

    Attributes:
        label: its name and what it saw.
        cells: one for each level.
        sets: its candidates.
        seconds: CPU seconds.
    """

    label: str
    cells: tuple[Cell, ...]
    sets: tuple[CandidateSet, ...]
    seconds: float


def small_network(channels: int, outputs: int, spatial_dims: int, *, seed: int = 0) -> nn.Module:
    """Return a CNN without norm layers (8,714 parameters for one channel of 28 x 28 and two outputs)."""
    torch.manual_seed(seed)
    conv = nn.Conv3d if spatial_dims == 3 else nn.Conv2d
    pool = nn.AdaptiveAvgPool3d if spatial_dims == 3 else nn.AdaptiveAvgPool2d
    return nn.Sequential(
        conv(channels, 12, 5, stride=2, padding=2), nn.ReLU(),
        conv(12, 12, 5, stride=2, padding=2), nn.ReLU(),
        conv(12, 12, 5, padding=2), nn.ReLU(),
        pool(7), nn.Flatten(), nn.Linear(12 * 7**spatial_dims, outputs),
    )  # fmt: skip


def world_of(options: argparse.Namespace, data: Manifest) -> World:
    """Return what is attacked, and by whom."""
    config = LearnConfig.of(model="auto", patch_size=tuple(options.patch))
    pools, info = load_pools(data, config, seed=options.seed), data.info
    task = image_task(info, TaskConfig())
    if info.task is TaskKind.SEGMENTATION:
        network = registry.build(
            "unet-small", spatial_dims=info.spatial_dims, in_channels=info.channels,
            out_channels=task.out_channels, norm="none", activation="relu",
        )  # fmt: skip
    else:
        network = small_network(info.channels, task.out_channels, info.spatial_dims)
    members = len(pools.members)
    plan = Plan.build(
        n_units=members, expected_batch_size=min(options.batch, members), steps=100, noise_multiplier=1.0,
        max_grad_norm=1.0, delta=0.1 / members,
    )  # fmt: skip
    return World(
        pools=pools,
        task=task,
        knowledge=Knowledge(
            public=pools.public.images, network=network.eval(), lowest=pools.lowest, span=pools.span,
            batch=options.batch, bins=options.bins, components=options.components, seed=options.seed,
        ),
        trials=Trials(members=pools.members, heldout=pools.heldout, count=options.batches, seed=options.seed),
        victim=VictimStep(plan=plan, loss=task.loss),
        levels=tuple(NoiseLevel(name=f"{sigma:g}", noise_multiplier=sigma) for sigma in options.sigmas),
        participations=options.participations,
    )  # fmt: skip


def attacked(world: World, name: str, view: View) -> Attacked:
    """Return an attack at all levels."""
    begun = time.process_time()
    sets = tuple(
        reconstruct(
            name, world.levels, trials=world.trials, knowledge=world.knowledge, victim=world.victim,
            outputs=world.task.out_channels, participations=world.participations, view=view,
        )
    )  # fmt: skip
    cells = tuple(cell_of(found, world.pools) for found in sets)
    label = name if view == STEP else f"{name}, {view.name}"
    return Attacked(label=label, cells=cells, sets=sets, seconds=time.process_time() - begun)


def cell_of(found: CandidateSet, pools: Pools) -> Cell:
    """Return what an attack reaches at a level."""
    (real, structure), (null, _) = (
        matched(found.originals, images) for images in (found.candidates, found.heldout_null)
    )
    trials, count = found.originals.shape[:2]
    steps = np.repeat(np.arange(trials), count)
    ranking = ranked(found, pools.members.images.numpy(), 1)
    first = None if ranking is None else rate_above(ranking.first.astype(float), 0.5, steps=steps)
    return Cell(
        close=rate_above(real, GOOD, steps=steps),
        null=float((null > GOOD).mean()),
        first=first,
        first_null=0.0 if ranking is None else float(ranking.noise_null.mean()),
        structure=(rate_above(structure, STRUCTURE, steps=steps), float(structure.mean())),
        correlation=float(real.mean()),
    )


def matched(originals: torch.Tensor, candidates: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the correlation of each original with the candidate matched to it in its step, and the SSIM."""
    values, structures = [], []
    for one, other in zip(originals.numpy(), candidates.numpy(), strict=True):
        found = match(similarity("ncc", one, other))
        values.append(found.values)
        structures.append(paired_similarity("ssim", one, other[found.chosen]))
    return np.concatenate(values), np.concatenate(structures)


# tables


def tables(world: World, found: list[Attacked], about: str, rows: list[criteria.Row]) -> str:
    """Return all tables in Markdown."""
    names = [f"σ {level.name}" for level in world.levels]
    lines = [about, "", "Share of images that come back with a correlation above 0.8 [95 %]:", ""]
    lines += _head("attack", *names, "largest by steps of other patients", "images", "CPU s")
    for one in found:
        cells = [_rate(cell.close) for cell in one.cells]
        null = f"{max(cell.null for cell in one.cells):.2f}"
        lines.append(_line(one.label, *cells, null, str(one.cells[0].close.of), f"{one.seconds:.0f}"))
    pool = _pool_words(world)
    lines += [
        "",
        f"Share of images whose reconstruction is the most like their own patient {pool} [95 %]:",
        "",
    ]
    lines += _head("attack", *names, "largest by noise alone")
    for one in found:
        cells = ["" if cell.first is None else _rate(cell.first) for cell in one.cells]
        lines.append(_line(one.label, *cells, f"{max(cell.first_null for cell in one.cells):.2f}"))
    if rows:
        missed = sum(row.met is False for row in rows)
        lines += ["", f"Numbers beside their goals, {missed} of {len(rows)} missed:", ""]
        lines += _head("criterion", "what", "measured [95 %]", "n", "goal", "")
        words = {True: "met", False: "**MISSED**", None: ""}
        lines += [
            _line(str(row.number), row.what, row.value, row.of, row.goal, words[row.met]) for row in rows
        ]
    return "\n".join(lines) + "\n"


def _pool_words(world: World) -> str:
    others = min(500, len(world.pools.members) - world.knowledge.batch)
    return f"among {others} others and the patients of other steps"


def measured_criteria(world: World, found: list[Attacked], seed: int) -> Iterator[criteria.Row]:
    """Yield all numbers with goals."""
    segmentation = world.task.kind is TaskKind.SEGMENTATION
    if not segmentation:
        yield from criteria.prior_aware(seed)
        yield from criteria.rank_one(world.pools, world.knowledge.components, seed)
    for one in found:
        yield from _without_noise(one, segmentation=segmentation)
    if not segmentation:
        yield from criteria.closed_form(world.pools, world.victim, world.task.out_channels, seed)
    for one in found:
        if one.sets[0].about.trials > 1:
            yield criteria.false_success(one.label, one.sets, world.pools)
    if not segmentation:
        yield from criteria.matching_time(seed)


def _without_noise(one: Attacked, *, segmentation: bool) -> Iterator[criteria.Row]:
    """Yield criteria 10 and 14: what comes back without noise, and hardly more than from others with it."""
    about, cell = one.sets[0].about, one.cells[0]
    if about.level.noise_multiplier:
        return
    of = f"{cell.close.of} images, worth {cell.close.patients:.0f}"
    if segmentation:
        yield criteria.Row(
            number=14, what=f"{one.label}, σ 0: NCC above 0.8", value=_rate(cell.close), of=of,
            goal="at least .8", met=cell.close.share >= 0.8,
        )  # fmt: skip
        yield from _noisy(one, of)
    elif about.server == HONEST:
        yield criteria.Row(
            number=10, what=f"{one.label}, single images, σ 0: mean SSIM, mean NCC",
            value=f"{cell.structure[1]:.3f}, {cell.correlation:.3f}", of=of, goal="above .9, .95",
            met=cell.structure[1] > 0.9 and cell.correlation > 0.95,
        )  # fmt: skip
    else:
        rate = cell.structure[0]
        yield criteria.Row(
            number=10, what=f"{one.label}, {about.batch} images, σ 0: SSIM above 0.5", value=_rate(rate),
            of=of, goal="at least .85", met=rate.share >= 0.85,
        )  # fmt: skip


def _noisy(one: Attacked, of: str) -> Iterator[criteria.Row]:
    """Yield criterion 14 at a noise multiplier of 0.1."""
    for found, cell in zip(one.sets, one.cells, strict=True):
        more, plain = cell.close.share - cell.null, found.about.encoder not in PRIOR
        if found.about.level.noise_multiplier == NOISY:
            yield criteria.Row(
                number=14, what=f"{one.label}, σ {NOISY:g}: the same minus steps of other patients",
                value=f"{more:+.2f}", of=of, goal="at most .02" if plain else "",
                met=more <= 0.02 if plain else None,
            )  # fmt: skip


def _rate(rate: Rate) -> str:
    return f"{rate.share:.2f} [{rate.low:.2f}, {rate.high:.2f}]"


def _head(*names: str) -> list[str]:
    return [_line(*names), "|---" * len(names) + "|"]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="From which noise on each reconstruction attack stops.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--bins", type=int, default=0, help="rows of a front block; 8 for each image by default"
    )
    parser.add_argument("--components", type=int, default=64)
    parser.add_argument("--participations", type=int, default=1)
    parser.add_argument(
        "--sites", type=int, nargs="+", default=[], help="also attack sums over so many sites"
    )
    parser.add_argument("--patch", type=int, nargs="+", default=[], help="middle of each image, per axis")
    parser.add_argument("--sigmas", type=float, nargs="+", default=list(SIGMAS))
    parser.add_argument(
        "--attacks", nargs="+", default=[name for name, kind in ATTACKS.items() if not kind.slow]
    )
    parser.add_argument("--criteria", action="store_true", help="also the numbers with goals")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into a page")
    parser.add_argument("--marker", default=MARKER, help="where in the page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = Manifest.read(options.data)
    world = world_of(options, data)
    views, found = [STEP, *(View(sites=sites) for sites in options.sites)], []
    for view in views:
        for name in options.attacks:
            kind = attack_kind(name)
            if (kind.single and view != STEP) or (
                world.task.kind is TaskKind.SEGMENTATION and not kind.segmentation
            ):
                continue
            found.append(attacked(world, name, view))
            print(found[-1].label, f"{found[-1].seconds:.0f} CPU s", flush=True)
    size, pools = " x ".join(map(str, world.knowledge.shape)), world.pools
    about = (
        f"{data.info.name}: {len(pools.members):,} members, {len(pools.public)} public and "
        f"{len(pools.heldout)} held-out patients, one image of {size} each; {options.batches} steps of "
        f"{options.batch} images (single images: as many of one), {options.participations} step averaged."
    )
    rows = list(measured_criteria(world, found, options.seed)) if options.criteria else []
    text = tables(world, found, about, rows)
    print(text)
    if options.write:
        pages.put(options.write, options.marker, text)


if __name__ == "__main__":
    main()
