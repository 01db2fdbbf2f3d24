"""Calibrate noise by our accountant and by those of Opacus, and print true epsilons and seconds.

Run: ``python benchmarks/bench_accounting.py [--delta 1e-6] [--quick]``. Prints a Markdown table; seconds are
of the process, on one thread, caches emptied before each run. The true epsilon is that of
``meninx.privacy.accounting``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

from opacus.accountants.utils import get_noise_multiplier

from meninx.privacy import accounting
from meninx.privacy.accounting import Phase
from meninx.privacy.noise_calibration import solve_noise, solve_steps

CASES = [
    (1e-6, 50_000, 8.0),
    (1e-5, 50_000, 1.0),
    (1e-4, 50_000, 1.0),
    (0.001, 20_000, 1.0),
    (0.001, 50_000, 8.0),
    (0.004, 50_000, 1.0),
    (0.004, 50_000, 8.0),
    (0.02, 5_000, 8.0),
    (0.02, 50_000, 3.0),
    (0.25, 1_000, 1.0),
    (0.25, 50_000, 8.0),
    (1.0, 50_000, 8.0),
]


def forget() -> None:
    """Empty the accountant's caches."""
    for cached in (accounting._epsilon, accounting._pld, accounting.step_losses):
        cached.cache_clear()


def true_epsilon(rate: float, noise: float, steps: int, delta: float) -> float:
    """Return epsilon by the accountant of record."""
    return accounting.epsilon([Phase(sample_rate=rate, noise_multiplier=noise, steps=steps)], delta).value


def timed(find: Callable[[], float]) -> tuple[float | None, float]:
    """Return what ``find`` found, None if it failed, and CPU seconds."""
    forget()
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: float | None = find()
    except Exception:
        found = None
    return found, time.process_time() - start


def cell(noise: float | None, seconds: float, rate: float, steps: int, delta: float) -> str:
    """Return the table cell ``noise → true epsilon, seconds``."""
    if noise is None:
        return f"fails, {seconds:.2f} s"
    return f"{noise:.4f} → {true_epsilon(rate, noise, steps, delta):.4f}, {seconds:.2f} s"


def row(rate: float, steps: int, target: float, delta: float, others: tuple[str, ...]) -> str:
    """Return the line of one case."""
    noise, seconds = timed(lambda: solve_noise(sample_rate=rate, steps=steps, epsilon=target, delta=delta))
    assert noise is not None
    cells = [cell(noise, seconds, rate, steps, delta)]
    _, again = timed(
        lambda: solve_steps(sample_rate=rate, noise_multiplier=noise, epsilon=target, delta=delta)
    )
    cells.append(f"{again:.2f} s")
    for name in others:

        def find(name: str = name) -> float:
            found = get_noise_multiplier(
                target_epsilon=target,
                target_delta=delta,
                sample_rate=rate,
                steps=steps,
                accountant=name,
                epsilon_tolerance=0.01,
            )
            return float(found)

        cells.append(cell(*timed(find), rate, steps, delta))
    return f"| {rate:g} | {steps} | {target:g} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delta", type=float, default=1e-6)
    parser.add_argument("--quick", action="store_true", help="ours only")
    args = parser.parse_args()
    others = () if args.quick else ("rdp", "prv")
    heads = [
        "q",
        "T",
        "target ε",
        "ours: σ → true ε",
        "ours: steps from σ",
        *(f"Opacus {name}: σ → true ε" for name in others),
    ]
    print(f"δ = {args.delta:g}\n\n| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for rate, steps, target in CASES:
        print(row(rate, steps, target, args.delta, others), flush=True)


if __name__ == "__main__":
    main()
