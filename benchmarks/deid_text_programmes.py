"""How many programmes must use a word of the index: recall, what is planted, and size, on the deriving half.

    PYTHONPATH=FOLDER:tools python benchmarks/deid_text_programmes.py

The packages in FOLDER are those of ``tools/build_vocabulary.py`` and of ``bench_deid_text.py``.

For each k, the words of the index come from half of the deriving collections and the recall is that of the
other half (both ways); values are planted into descriptions of the deriving half with a seed of their own.
Nothing of the measured half is read. The list chosen by hand is the same throughout; errors of all of the
deriving half were studied for it, so the recalls are too high as predictions, and only their order counts.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import bench_deid_text as bench
import build_vocabulary

ROOT = Path(__file__).resolve().parents[1]
PROGRAMMES = (1, 2, 3, 5, 8)
PLANTED, SEED = 20_000, 11


def half(collection: str) -> int:
    """Return 0 or 1, the half of the deriving half that a collection belongs to."""
    return hashlib.sha256(collection.encode()).digest()[1] % 2


def measure(side: int) -> dict[str, list[float]]:
    """Return the recalls of the descriptions of one side by attribute, and the planted values that stay."""
    rows = bench.rows_of(deriving=True)
    found: dict[str, list[float]] = {}
    if side > 1:
        bench.SEED = SEED
        texts = sorted({text for row in rows for text in row.texts.values() if text.strip()})
        return {"planted": [len(kept) for kept in bench.planted(texts, PLANTED).values()]}
    for column in bench.LIMITS:
        pairs = {(row.collection, row.texts[column].strip()) for row in rows if half(row.collection) == side}
        tokens = [(bench.tokens(text), text) for _, text in pairs if bench.tokens(text)]
        found[column] = [
            sum(bench.kept(before, bench.tokens(bench.cleaned(text)))) / len(before)
            for before, text in tokens
        ]
    return found


def main() -> None:
    """Print the table, or measure one side with the tables that are installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("side", type=int, nargs="?", help=argparse.SUPPRESS)  # what main() calls
    if (side := parser.parse_args().side) is not None:
        print(json.dumps(measure(side)))
        return
    tool = build_vocabulary
    core, codes = tool.core_words(ROOT / "tools" / "vocabulary" / "core_words.csv"), tool.code_words()
    names, rows = tool.name_lists(None), [row for row in tool.index_rows(None) if tool.derives(row[0])]
    print("| k | words | of them from the index | study | series | planted that stay |")
    print("|---|---|---|---|---|---|")
    for programmes in PROGRAMMES:
        recalls: dict[str, list[float]] = {column: [] for column in bench.LIMITS}
        for side in (0, 1, 2):
            index = tool.in_programmes(row for row in rows if half(row[0]) != side)
            table = tool.vocabulary(core, codes, index, names, programmes=programmes)
            with tempfile.TemporaryDirectory() as folder:
                source = Path(folder) / "src"
                shutil.copytree(ROOT / "src", source)
                path = source / "meninx" / "deid" / "tables" / "vocabulary.csv"
                with path.open("w", encoding="utf-8", newline="") as file:
                    csv.writer(file, lineterminator="\n").writerows([tool.HEADER, *table])
                places = os.pathsep.join((str(source), os.environ.get("PYTHONPATH", "")))
                command = [sys.executable, __file__, str(side)]
                environment = {**os.environ, "PYTHONPATH": places}
                answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            for column, values in json.loads(answer.stdout).items():
                recalls.setdefault(column, []).extend(values)
        kept = sum(recalls.pop("planted"))
        shares = " | ".join(f"{100 * sum(each) / len(each):.1f} %" for each in recalls.values())
        words = sum(row[2].startswith("index") for row in table)
        print(
            f"| {programmes} | {len(table):,} | {words:,} | {shares} | {kept:.0f} of {PLANTED:,} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
