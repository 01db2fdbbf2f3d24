"""Audits of simulated runs: whom they accuse, what they find, and what canaries cost a real training.

Run: ``python benchmarks/bench_canaries.py [--runs 50] [--canaries 1000] [--write PAGE]``, or
``--utility``. Prints Markdown tables. A simulated run has the scores of white-box canaries and nothing else:
half of them took part, and a score is the log-likelihood ratio of noise with or without a canary.
"jax-privacy 2.0.0" is the formula of its ``epsilon_from_gdp``, written here from its description: the largest
|mu| over all thresholds, which counts a threshold with both error rates near 1 as a separation. Seconds are
of the process, on one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import nn

import pages
from meninx.core.manifest import DatasetInfo, TaskKind
from meninx.core.run import create
from meninx.learn import (
    Canaries,
    CanaryScores,
    Keys,
    LearnConfig,
    PrivateSampler,
    PrivateStep,
    TensorLoader,
    Trainer,
    TrainState,
    fit,
)
from meninx.learn.config import TaskConfig
from meninx.learn.task import image_task
from meninx.privacy import Claim, Phase, Plan, audit_scores, calibrate
from meninx.privacy.guess_audit import gaussian_epsilon
from meninx.synthetic.dataset import write_dataset

DELTA = 1e-5
COLUMNS = (
    "q, σ, T",
    "true ε",
    "run",
    "refuted by the verdict",
    "formula of jax-privacy 2.0.0 above ε",
    "one run",
    "f-DP (highest)",
    "error rates",
    "Gaussian fit",
    "μ (allowed)",
    "TPR − FPR (allowed)",
    "ms",
)
SETTINGS = (
    Phase(sample_rate=0.05, noise_multiplier=4.0, steps=200),
    Phase(sample_rate=0.05, noise_multiplier=1.2, steps=200),
    Phase(sample_rate=0.05, noise_multiplier=0.7, steps=200),
    Phase(sample_rate=1.0, noise_multiplier=20.0, steps=100),
    Phase(sample_rate=1.0, noise_multiplier=5.0, steps=100),
)
FAULTS = {"honest": 1.0, "half of the noise": 0.5, "a quarter": 0.25}


def scores(
    phase: Phase, canaries: int, rng: np.random.Generator, *, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of included and excluded canaries of a run with ``noise`` times its claimed noise."""
    included = rng.random(canaries) < 0.5
    mu, rate, total = 1 / phase.noise_multiplier, phase.sample_rate, np.zeros(canaries)
    for _ in range(phase.steps):
        seen = noise * rng.standard_normal(canaries) + mu * ((rng.random(canaries) < rate) & included)
        total += np.log1p(rate * np.expm1(mu * seen - mu * mu / 2))
    return total[included], total[~included]


def accusing_epsilon(inside: np.ndarray, outside: np.ndarray, significance: float = 0.05) -> float:
    """Return what the formula of jax-privacy 2.0.0 calls a lower bound on epsilon."""
    thresholds = np.unique(np.concatenate([inside, outside]))
    missed = np.append(np.searchsorted(np.sort(inside), thresholds), len(inside))
    right = np.append(np.searchsorted(np.sort(outside), thresholds), len(outside))
    corners = frontier(missed, right)
    counts = ((len(outside) - right[corners], len(outside)), (missed[corners], len(inside)))
    each = significance / (2 * len(corners))
    upper = [
        np.where(count < total, stats.beta.isf(each, count + 1, np.maximum(total - count, 1)), 1.0)
        for count, total in counts
    ]
    usable = np.maximum(*upper) < 1 - DELTA
    mu = np.abs(stats.norm.isf(upper[0][usable]) - stats.norm.ppf(upper[1][usable])).max(initial=0.0)
    return gaussian_epsilon(float(mu), DELTA)


def frontier(x: np.ndarray, y: np.ndarray) -> list[int]:
    """Return the positions of the corners of the least concave curve above points in rising order."""
    kept: list[int] = []
    for number in range(len(x)):
        while len(kept) > 1:
            first, middle = kept[-2:]
            rise = (y[number] - y[first]) * (x[middle] - x[first])
            if (y[middle] - y[first]) * (x[number] - x[first]) > rise:
                break
            kept.pop()
        kept.append(number)
    return kept


def row(phase: Phase, runs: int, canaries: int) -> str:
    """Return the rows of one mechanism: honest runs and runs with less noise."""
    claim, lines = Claim.of_mechanism([phase], delta=DELTA), []
    for name, noise in FAULTS.items():
        begun, audits, others = time.process_time(), [], 0
        for seed in range(runs):
            found = scores(phase, canaries, np.random.default_rng(seed), noise=noise)
            others += accusing_epsilon(*found) > claim.epsilon
            audits.append(audit_scores(*found, claim))
        mean = {
            field: float(np.mean([getattr(audit, field) for audit in audits]))
            for field in ("one_run_epsilon", "fdp_epsilon", "rates_epsilon", "gdp_epsilon", "mu", "advantage")
        }
        highest = max(audit.fdp_epsilon for audit in audits)
        lines.append(
            f"| {phase.sample_rate:g}, {phase.noise_multiplier:g}, {phase.steps} "
            f"| {claim.epsilon:.2f} | {name} "
            f"| {sum(audit.verdict == 'refuted' for audit in audits)} of {runs} "
            f"| {others} of {runs} | {mean['one_run_epsilon']:.2f} "
            f"| {mean['fdp_epsilon']:.2f} ({highest:.2f}) "
            f"| {mean['rates_epsilon']:.2f} | {mean['gdp_epsilon']:.2f} | {mean['mu']:.2f} ({claim.mu:.2f}) "
            f"| {mean['advantage']:.2f} ({claim.advantage:.2f}) "
            f"| {1000 * (time.process_time() - begun) / runs:.0f} |"
        )
    return "\n".join(lines)


def accusations(runs: int, canaries: int) -> str:
    """Return the table of simulated audits."""
    head = "| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|"
    return "\n".join([head, *(row(phase, runs, canaries) for phase in SETTINGS)])


def seconds(canaries: int, steps: int = 30) -> float:
    """Return the CPU seconds of a private training of a small network, with canaries or without (0)."""
    patients = 256
    plan = Plan.build(
        n_units=patients, expected_batch_size=32, steps=steps, noise_multiplier=1.0, max_grad_norm=1.0,
        delta=DELTA,
    )  # fmt: skip
    torch.manual_seed(0)
    images = torch.randn(patients, 1, 32, 32)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 2),
    )  # fmt: skip
    names = tuple(f"patient-{number}" for number in range(patients))
    loader = TensorLoader(images, torch.ones(patients, 2), names=names)
    info = DatasetInfo(name="bench", task=TaskKind.MULTILABEL, labels=("one", "two"))
    with tempfile.TemporaryDirectory() as folder:
        run = create(Path(folder), "bench", config_toml="")
        keys = Keys.of(run, resumed=False)
        made = Canaries(bytes(32), canaries) if canaries else None
        sources = [made.source(plan)] if made else []
        step = PrivateStep(
            plan, run, image_task(info, TaskConfig()), loader, keys, binding="bench", sources=sources,
        )  # fmt: skip
        members = tuple((number,) for number in range(patients))
        sampler = PrivateSampler(plan.sampler(keys.sampling, patients), members, names, plan.sample_rate)
        state = TrainState.of(network, torch.optim.SGD(network.parameters(), lr=0.1))
        hooks = [CanaryScores(run, made, sources[0])] if made else []
        trainer, begun = Trainer(state, sampler, step, hooks=hooks), time.process_time()
        trainer.run(until=steps)
        return time.process_time() - begun


def overhead(repeats: int = 7) -> str:
    """Return the table of what canaries cost a training: the least of several runs, with and without.

    The least is what a run costs without the neighbours on a shared machine; each of them only adds time.
    """
    lines = ["| canaries | seconds without | seconds with | overhead |", "|---|---|---|---|"]
    seconds(100, 3)
    for canaries in (100, 1_000, 4_000):
        pairs = [(seconds(0), seconds(canaries)) for _ in range(repeats)]
        without, with_them = np.min(pairs, axis=0)
        share = with_them / without - 1
        lines.append(f"| {canaries:,} | {without:.2f} | {with_them:.2f} | {100 * share:.1f} % |")
    return "\n".join(lines)


def utility(seeds: int = 2) -> str:
    """Return the table of what canaries do to the validation metric under the same noise (4 min)."""
    lines = ["| seed | canaries | AUROC | loss |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        data = write_dataset(Path(folder) / "data", patients=600, size=24)
        patients = len(data.split("train").patients)
        plan = calibrate(
            n_units=patients, expected_batch_size=60, delta=1e-4, epsilon=8.0, steps=40, max_grad_norm=1.0
        )
        for seed, canaries in ((seed, count) for seed in range(seeds) for count in (0, 100, 1_000)):
            run = create(Path(folder), f"{seed}-{canaries}", config_toml="", deterministic=True, private=True)
            config = LearnConfig.of(
                model="resnet9-small",
                lr=3e-3,
                batch_size=60,
                seed=seed,
                deterministic=True,
                attack_risk=False,
            )
            made = Canaries(bytes([seed]) * 32, canaries) if canaries else None
            sources = [made.source(plan)] if made else []
            hooks = [CanaryScores(run, made, sources[0])] if made else []
            done = fit(config, data, run, plan=plan, sources=sources, hooks=hooks)
            lines.append(f"| {seed} | {canaries:,} | {done.metric:.4f} | {done.valid_loss:.4f} |")
    return "\n".join(lines)


def main() -> None:
    """Print both tables, and write them into a page when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--canaries", type=int, default=1_000)
    parser.add_argument("--utility", action="store_true", help="only what canaries do to the metric")
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.utility:
        print(utility())
        return
    tables = {"audit-accusations": accusations(given.runs, given.canaries), "audit-overhead": overhead()}
    print("\n\n".join(tables.values()))
    if given.write:
        for name, table in tables.items():
            pages.put(given.write, name, table + "\n")


if __name__ == "__main__":
    main()
