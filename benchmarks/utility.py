"""Utility against epsilon on real images: meninx's recipes, plain Opacus and training without privacy.

Run: ``python benchmarks/utility.py --data DIR --out DIR [--sets kermany64 ...] [--arms ...] [--epsilons ...]
[--seeds N]`` trains what is not in ``OUT/results.jsonl`` yet, one process and one thread a run. Of each
dataset first all runs of meninx, then those of Opacus, which get as many CPU seconds as the longest of meninx
on the same dataset. ``--pretrain`` makes the public weights alone (they are made anyway when missing);
``--table``, ``--write PAGE`` and ``--figure FILE`` show what is there.

DIR holds the datasets as ``docs/results.md`` prepares them (``kermany64``, ``kermany224``, ``nih64``,
``pad128``, ``hippo``).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before torch


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of prepared datasets")
    parser.add_argument("--out", type=Path, required=True, help="folder of results, weights and runs")
    parser.add_argument("--sets", nargs="+", metavar="KEY", help="datasets; all otherwise")
    parser.add_argument(
        "--arms",
        nargs="+",
        metavar="ARM",
        help="non-private, meninx, opacus, opacus-pretrained; all otherwise",
    )
    parser.add_argument("--epsilons", nargs="+", type=float, help="1 3 8 20 otherwise")
    parser.add_argument("--seeds", type=int, default=3, help="runs of every row (default 3)")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (default 2)")
    parser.add_argument("--pretrain", action="store_true", help="make the public weights and stop")
    parser.add_argument("--table", action="store_true", help="print the tables and stop")
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="put the tables between the markers of a page and stop"
    )
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the figure and stop")
    parser.add_argument("--one", metavar="JSON", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Run, print or draw the study."""
    args = _parser().parse_args()
    if args.one:
        from study import jobs

        jobs.one(json.loads(args.one), args.data, args.out)
        return
    if args.table or args.write or args.figure:
        import pages
        from study import figure, table

        rows = table.read(args.out / "results.jsonl")
        if args.table:
            sys.stdout.write(table.text(rows))
        if args.write:
            pages.put(args.write, "utility", table.text(rows))
        if args.figure:
            figure.draw(rows, args.figure)
        return
    from study import jobs

    jobs.pretrain(args.data, args.out, args.sets, args.jobs)
    if not args.pretrain:
        wanted = jobs.wanted(args.sets, args.arms, args.epsilons, args.seeds)
        failed = jobs.run(wanted, args.data, args.out, args.jobs)
        sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
