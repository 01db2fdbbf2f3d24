"""Time and memory of a private training step against the non-private one, Opacus and torch.func.

Run: ``python benchmarks/bench_dp.py [--cases resnet9 wrn ...] [--rounds 7] [--memory] [--quick] [--json OUT]
[--write PAGE]``.

A step is forward, backward, clip, noise and SGD with momentum. All variants of a case take turns in one
process on two threads with passive waits; a ratio is the median over rounds of CPU seconds over those of the
non-private step of the same round, in the memory format that suits the latter better. Private variants run in
the format that suits each better.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

THREADS = 2
os.environ.update(
    OMP_WAIT_POLICY="passive", OMP_NUM_THREADS=str(THREADS), MKL_NUM_THREADS=str(THREADS)
)  # before torch

_CASE_SECONDS = 35.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", metavar="KEY", help="cases to run; all of them otherwise")
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    parser.add_argument("--rounds", type=int, default=9, help="most rounds of a case (default 9)")
    parser.add_argument(
        "--seconds", type=float, default=_CASE_SECONDS, help="wall time of a case, but at least 5 rounds"
    )
    parser.add_argument(
        "--quick", action="store_true", help="two rounds: to see that it runs, not to be quoted"
    )
    parser.add_argument("--memory", action="store_true", help="measure step memory as well")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all numbers here")
    parser.add_argument("--markdown", action="store_true", help="print nothing but the tables, no progress")
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="put the tables between the markers of a page"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--one-memory", nargs=3, help=argparse.SUPPRESS)
    return parser


def _chosen(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[str]:
    """Return the keys of the cases to run."""
    from dp.cases import cases_of

    known = cases_of(args.device)
    unknown = set(args.cases or ()) - known.keys()
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return list(args.cases or known)


def main() -> None:
    """Run the chosen cases and print, store or write the tables."""
    parser = _parser()
    args = parser.parse_args()
    import torch

    import pages
    from dp import memory, steps, table
    from dp.cases import cases_of
    from dp.summary import summary
    from dp.timing import run_case

    torch.set_num_threads(THREADS)
    if args.one_memory:
        print(json.dumps(memory.one(*args.one_memory)))
        return
    if args.list:
        print("\n".join(f"{key}: {case.title}" for key, case in cases_of(args.device).items()))
        return
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here")

    def say(line: str) -> None:
        if not args.markdown:
            print(line, file=sys.stderr, flush=True)

    steps.quiet()
    start, load = time.perf_counter(), os.getloadavg()[0]
    rows = []
    for key in _chosen(parser, args):
        case = cases_of(args.device)[key]
        say(f"{key}: {case.title}")
        timed = run_case(
            case, rounds=2 if args.quick else args.rounds, seconds=args.seconds, device=args.device, say=say
        )
        used = {}
        if args.memory and case.memory and args.device == "cpu":
            formats = {
                name: lane.memory_format for name in ("sgd", "ours", "hooks") if (lane := timed.lane(name))
            }
            used = memory.measure(Path(__file__).resolve(), key, formats)
        rows.append(summary(timed, used, fast_bf16=table.fast_bf16(args.device)))
        say(f"  -> {table.in_words(rows[-1])}")
    text = table.render(
        rows, load=(load, os.getloadavg()[0]), minutes=(time.perf_counter() - start) / 60, device=args.device
    )
    print(text)
    if args.json:
        args.json.write_text(
            json.dumps({"machine": table.machine(args.device), "cases": rows}, indent=2) + "\n",
            encoding="utf-8",
        )
    if args.write:
        pages.put(args.write, "bench-dp", text)
        say(f"written to {args.write}")


if __name__ == "__main__":
    main()
