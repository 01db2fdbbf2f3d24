"""From which noise on each reconstruction attack stops, on images of a prepared dataset.

Run: ``python benchmarks/bench_reconstruction.py --data DATASET [--attacks A B] [--write PAGE]``.
Prints a Markdown table. Each cell has the share of images with a correlation above 0.8, in brackets that
of the null (the same decoder on steps of other patients), the share with a matched correlation above the
threshold that the null and public images exceed in 1 %, and the share of images that are more like what the
attack found than members that took no part are. The attacked network is a small CNN (for segmentation a
small U-Net) with random weights. The step is that of a plan with clipping to 1. Each patient gives one image.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import pages
from meninx.audit.reconstruction.attack_registry import attack_kind
from meninx.audit.reconstruction.attacks import ATTACKS
from meninx.audit.reconstruction.candidates import CandidateSet, NoiseLevel
from meninx.audit.reconstruction.knowledge import Knowledge
from meninx.audit.reconstruction.member_ranking import ranked
from meninx.audit.reconstruction.pools import Pools, load_pools
from meninx.audit.reconstruction.trials import Trials, reconstruct
from meninx.audit.reconstruction.victim import STEP, VictimStep, View
from meninx.core.manifest import Manifest, TaskKind
from meninx.learn.config import LearnConfig, TaskConfig
from meninx.learn.task import image_task
from meninx.metrics.image_matching import match, paired_similarity, similarity
from meninx.metrics.null_threshold import Rate, null_threshold, public_threshold, rate_above
from meninx.models import registry
from meninx.privacy import Plan

SIGMAS = (0.0, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
GOOD, LEAST = 0.8, 0.05


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


def matched(originals: torch.Tensor, candidates: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the correlation of each original with the candidate matched to it in its trial, and the SSIM."""
    values, structures = [], []
    for one, other in zip(originals.numpy(), candidates.numpy(), strict=True):
        found = match(similarity("ncc", one, other))
        values.append(found.values)
        structures.append(paired_similarity("ssim", one, other[found.chosen]))
    return np.concatenate(values), np.concatenate(structures)


def success(found: CandidateSet, pools: Pools) -> tuple[str, tuple[Rate, ...], str]:
    """Return the shares of a cell, the rates above the threshold and of first places, and means."""
    (real, structure), (null, _) = (
        matched(found.originals, images) for images in (found.candidates, found.heldout_null)
    )
    public = public_threshold("ncc", pools.public.images.numpy(), pools.heldout.images.numpy())
    threshold, _ = max(null_threshold(null), public)
    rates = [rate_above(real, threshold)]
    if (ranking := ranked(found, pools.members.images.numpy(), 1)) is not None:
        rates.append(rate_above(ranking.first.astype(float), 0.5))
    words = f"{(real > GOOD).mean():.2f} [{(null > GOOD).mean():.2f}]"
    means = f"{(structure > 0.5).mean():.2f} ({structure.mean():.2f}), {real.mean():.2f} (η {threshold:.2f})"
    return words, tuple(rates), means


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="From which noise on each reconstruction attack stops.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--bins", type=int, default=128)
    parser.add_argument("--components", type=int, default=64)
    parser.add_argument("--participations", type=int, default=1)
    parser.add_argument("--sites", type=int, default=0, help="also attack sums over so many sites")
    parser.add_argument("--patch", type=int, nargs="+", default=[], help="middle of each image, per axis")
    parser.add_argument(
        "--attacks", nargs="+", default=[name for name, kind in ATTACKS.items() if not kind.slow]
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = Manifest.read(options.data)
    pools = load_pools(data, LearnConfig.of(model="auto", patch_size=tuple(options.patch)), seed=options.seed)
    task = image_task(data.info, TaskConfig())
    if data.info.task is TaskKind.SEGMENTATION:
        network = registry.build(
            "unet-small", spatial_dims=data.info.spatial_dims, in_channels=data.info.channels,
            out_channels=task.out_channels, norm="none", activation="relu",
        )  # fmt: skip
    else:
        network = small_network(data.info.channels, task.out_channels, data.info.spatial_dims)
    knowledge = Knowledge(
        public=pools.public.images, network=network.eval(), lowest=pools.lowest, span=pools.span,
        batch=options.batch, bins=options.bins, components=options.components, seed=options.seed,
    )  # fmt: skip
    members = len(pools.members)
    plan = Plan.build(
        n_units=members, expected_batch_size=min(options.batch, members), steps=100, noise_multiplier=1.0,
        max_grad_norm=1.0, delta=0.1 / members,
    )  # fmt: skip
    trials = Trials(members=pools.members, heldout=pools.heldout, count=options.batches, seed=options.seed)
    victim = VictimStep(plan=plan, loss=task.loss)
    levels = [NoiseLevel(name=f"{sigma:g}", noise_multiplier=sigma) for sigma in SIGMAS]
    views = [STEP, *([View(sites=options.sites)] if options.sites else [])]
    size = " x ".join(map(str, knowledge.shape))
    lines = [
        f"{data.info.name}: {members} members, {len(pools.public)} public and {len(pools.heldout)} held-out "
        f"patients, one image of {size} each; {options.batches} steps of {options.batch} images, "
        f"{options.bins} bins, {options.participations} participations averaged.",
        "",
        "| attack | " + " | ".join(f"σ {level.name}" for level in levels)
        + " | SSIM > .5 (mean), mean NCC (η) at 0 | last σ above the null | signal, self-test | s |",
        "|" + "---|" * (len(levels) + 5),
    ]  # fmt: skip
    for view in views:
        for name in options.attacks:
            kind = attack_kind(name)
            if kind.single and view != STEP:
                continue
            if task.kind is TaskKind.SEGMENTATION and not kind.segmentation:
                continue
            lines.append(
                row(name, levels, trials, knowledge, victim, task.out_channels, options, view, pools)
            )
            print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write:
        pages.put(options.write, "bench_reconstruction", text)


def row(
    name: str,
    levels: list[NoiseLevel],
    trials: Trials,
    knowledge: Knowledge,
    victim: VictimStep,
    outputs: int,
    options: argparse.Namespace,
    view: View,
    pools: Pools,
) -> str:
    """Return the table row of one attack."""
    begun, cells, last, first = time.perf_counter(), [], "none", ""
    for found in reconstruct(
        name, levels, trials=trials, knowledge=knowledge, victim=victim, outputs=outputs,
        participations=options.participations, view=view,
    ):  # fmt: skip
        words, rates, means = success(found, pools)
        cells.append(" ".join([words, *(f"{rate.share:.2f}" for rate in rates)]))
        if any(rate.low > LEAST for rate in rates):
            last = found.about.level.name
        if found.about.level.noise_multiplier == 0:
            first = means
    about = found.about
    control = f"{about.signal:.2f}, {about.self_test:.2f}{'' if about.works else ' BROKEN'}"
    label = name if view == STEP else f"{name}, {view.name}"
    seconds = time.perf_counter() - begun
    return f"| {label} | " + " | ".join(cells) + f" | {first} | {last} | {control} | {seconds:.1f} |"


if __name__ == "__main__":
    main()
