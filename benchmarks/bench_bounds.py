"""Bounds on attacks over an axis of epsilon: CPU seconds of noise and bounds, and the error of the bounds.

Run: ``python benchmarks/bench_bounds.py [--points 30] [--write PAGE]``. Prints a Markdown table. Every row
is a published study; its axis has 30 epsilons from 1 to 1e12. The reference is the code that was released
with the study, 5 cumulants and an Edgeworth expansion, measured elsewhere on two shared cores: it needs objax
and an old JAX and is not run here. Opacus's calibration, which that code calls with these settings, is run
here. Seconds are of the process, on one thread, caches emptied before each row.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from opacus.accountants.utils import get_noise_multiplier

import pages
from meninx.privacy import accounting
from meninx.privacy.accounting import Phase
from meninx.privacy.loss_distribution import ThreatModel
from meninx.privacy.noise_calibration import noise_profile
from meninx.privacy.risk import risk_curve

DELTA = 8e-7


@dataclass(frozen=True)
class Study:
    """A published configuration, and the seconds of its released code for 30 points: all, bounds alone."""

    name: str
    rate: float
    steps: int
    units: int
    reference: float
    reference_bounds: float


STUDIES = (
    Study("HAM10000", 2048 / 8112, 300, 8112, 91.0, 71.7),
    Study("RadImageNet", 3328 / 1_083_909, 16_250, 1_083_909, 74.0, 64.8),
    Study("MSD liver", 1 / 106, 53_000, 106, 73.0, 62.4),
)


def forget() -> None:
    """Empty the accountant's caches."""
    for cached in (accounting._epsilon, accounting._pld, accounting._renyi, accounting.step_losses):
        cached.cache_clear()


def measured(study: Study, points: int, opacus: int) -> str:
    """Return the row of a study."""
    axis = [float(value) for value in np.geomspace(1, 1e12, points)]
    forget()
    start = time.process_time()
    noises = [
        found.noise_multiplier
        for found in noise_profile(sample_rate=study.rate, steps=study.steps, epsilons=axis, delta=DELTA)
    ]
    noise_seconds = time.process_time() - start
    start, worst_gap, odd = time.process_time(), 0.0, 0
    for noise in noises:
        phase = Phase(sample_rate=study.rate, noise_multiplier=noise, steps=study.steps)
        for model in ThreatModel:
            found = risk_curve([phase], rates=[1 / study.units], model=model).gamma(1 / study.units)
            worst_gap = max(worst_gap, found.upper / found.lower - 1)
            odd += not (math.isfinite(found.upper) and 0 < found.lower <= found.upper <= 1)
    bound_seconds = time.process_time() - start
    total = noise_seconds + bound_seconds
    start = time.process_time()
    for epsilon in axis[:: max(1, points // opacus)]:
        opacus_noise(study, epsilon)
    there = (time.process_time() - start) / len(axis[:: max(1, points // opacus)]) * points
    return (
        f"| {study.name} | {noise_seconds:.1f} | {bound_seconds:.1f} | {total:.1f} | {study.reference:.0f} "
        f"| {study.reference / total:.0f} | {study.reference_bounds / bound_seconds:.0f} | {there:.0f} "
        f"| {worst_gap:.1e} | {odd} |"
    )


def opacus_noise(study: Study, epsilon: float) -> None:
    """Calibrate one epsilon as the released code does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_noise_multiplier(
            target_epsilon=epsilon,
            target_delta=DELTA,
            sample_rate=study.rate,
            steps=study.steps,
            accountant="rdp",
            epsilon_tolerance=epsilon / 1e6,
        )


def main() -> None:
    """Print the table, and write it into a page when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=30)
    parser.add_argument("--opacus", type=int, default=6, help="epsilons that Opacus calibrates; scaled up")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page")
    args = parser.parse_args()
    lines = [
        "| study | noise, s | bounds, s | together, s | reference, s | ratio | ratio of bounds alone "
        "| noise by Opacus here, s | largest upper / lower - 1 | not finite or out of order |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(measured(study, args.points, args.opacus) for study in STUDIES),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.write:
        pages.put(args.write, "bench-audit", text)


if __name__ == "__main__":
    main()
