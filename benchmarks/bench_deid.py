"""Time, memory and leaks of de-identification beside other tools, on one generated archive.

Run: ``python benchmarks/bench_deid.py [--peers VENV] [--scale 1] [--repeats 3] [--classes] [--write PAGE]``.
VENV is a virtual environment with ``dicom-anonymizer``, ``dicognito`` and ``dcmanon`` from PyPI; a tool that
is not there is named as missing. The archive is written into a folder in memory where there is one. All tools
take turns, round by round.

Every file holds the name, number, birth date, accession number, institution and physician of an invented
patient, also in a comment and in private elements. A string that is in the bytes of an output file has
survived; every byte of every output file is searched, pixel data included. The tools were not configured
beyond their defaults, and each is run once before, so that its modules are compiled. Pixels are left to the
triggers (``--pixels keep``), because no other tool reads them.

A cell holds the median over rounds, with the lowest and the highest one in brackets. CPU seconds (user and
system, of all processes) depend less on what else the machine does than wall seconds; the ratio of two tools
in one round depends on it least.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pages

ONE, TWO, RIVAL = "meninx, one process", "meninx, two workers", "dicom-anonymizer"
FEW = 20  # files of a class
ROOT = Path(__file__).resolve().parents[1]
_DCMANON = """
import os, sys
from pathlib import Path
from dcmanon import Anonymizer
source, out = map(Path, sys.argv[1:])
tool = Anonymizer()
for path in sorted(source.iterdir()):
    (out / path.name).write_bytes(tool.anonymize(str(path)))
"""


@dataclass(frozen=True)
class Tool:
    """A command that reads a folder and writes another one.

    Attributes:
        name: for the table.
        command: words; ``IN`` and ``OUT`` stand for the folders.
        made: OUT exists before the command runs.
    """

    name: str
    command: Sequence[str]
    made: bool = True


@dataclass(frozen=True)
class Cost:
    """What one run of a tool took."""

    cpu: float
    wall: float
    memory: int


def main() -> None:
    """Measure all tools, print the table, and write it into a page on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, help="virtual environment with the other tools")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the files of each kind")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--classes", action="store_true", help="also the time per file of each class")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page")
    args = parser.parse_args()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        root = Path(folder)
        source, key = root / "in", root / "key"
        # In a process of its own: a child inherits the high-water mark of its parent's memory.
        maker = [sys.executable, str(Path(__file__).with_name("deid_archive.py")), str(source)]
        made = subprocess.run([*maker, str(args.scale)], check=True, capture_output=True)
        planted = tuple(made.stdout.lower().splitlines())
        key.write_bytes(os.urandom(32))
        key.chmod(0o600)
        tools = [*own_tools(key), *peers(args.peers)]
        warm_up(tools, source, root)
        costs: dict[str, list[Cost]] = {tool.name: [] for tool in tools}
        leaks: dict[str, str] = {}
        for _ in range(args.repeats):
            for tool in tools:
                out = root / "out"
                shutil.rmtree(out, ignore_errors=True)
                if tool.made:
                    out.mkdir()
                costs[tool.name].append(measured(tool, source, out))
                if tool.name not in leaks:  # a tool is given the same files in every round
                    leaks[tool.name] = survivors(out, planted)
        files = sorted(source.iterdir())
        size = sum(path.stat().st_size for path in files)
        text = "\n".join(table(costs, leaks, len(files), size, args.repeats, args.peers)) + "\n"
        if args.classes:
            pair = [tool for tool in tools if tool.name in (ONE, RIVAL)]
            text += "\n" + "\n".join(classes(pair, root, args.repeats)) + "\n"
    print(text)
    if args.write:
        pages.put(args.write, "bench-deid", text)


def warm_up(tools: Sequence[Tool], source: Path, root: Path) -> None:
    """Run every tool on one file without measuring it, so that its modules are compiled."""
    one, out = root / "one", root / "out"
    one.mkdir()
    shutil.copy(min(source.iterdir()), one)
    for tool in tools:
        shutil.rmtree(out, ignore_errors=True)
        if tool.made:
            out.mkdir()
        measured(tool, one, out)


def classes(tools: Sequence[Tool], root: Path, repeats: int) -> Iterator[str]:
    """Yield the lines of a table of CPU milliseconds per file of each class, without the start of the tool.

    A folder of :data:`FEW` files and one of a single file are processed in turns; the start is the same.
    """
    yield f"| class | MB a file | {' | '.join(f'{tool.name}, ms a file' for tool in tools)} |"
    yield "|---" * (len(tools) + 2) + "|"
    maker = [sys.executable, str(Path(__file__).with_name("deid_archive.py"))]
    listed = subprocess.run([*maker, "--kinds"], check=True, capture_output=True, text=True).stdout
    for kind in listed.splitlines():
        few, one, out = root / "few", root / "one", root / "out"
        shutil.rmtree(few, ignore_errors=True)
        shutil.rmtree(one, ignore_errors=True)
        subprocess.run([*maker, str(few), str(FEW), kind], check=True, capture_output=True)
        one.mkdir()
        first = min(few.iterdir())
        shutil.copy(first, one)
        cells = []
        for tool in tools:
            times: dict[Path, list[float]] = {few: [], one: []}
            for folder in [*times] * repeats:
                shutil.rmtree(out, ignore_errors=True)
                if tool.made:
                    out.mkdir()
                times[folder].append(measured(tool, folder, out).cpu)
            cells.append((median(times[few]) - median(times[one])) / (FEW - 1) * 1000)
        size = first.stat().st_size / 1e6
        yield f"| {kind} | {size:.1f} | {' | '.join(f'{cell:.0f}' for cell in cells)} |"


def own_tools(key: Path) -> list[Tool]:
    """Return meninx with one and with two workers, and a plain copy."""
    words = [sys.executable, "-m", "meninx", "deid", "IN", "OUT", "--key", str(key), "--site", "bench", "-q"]
    words += ["--pixels", "keep", "--overwrite"]
    return [
        Tool(ONE, [*words, "--workers", "1"], made=False),
        Tool(TWO, [*words, "--workers", "2"], made=False),
        Tool("copy (`cp -r`)", ["cp", "-r", "IN/.", "OUT"]),
    ]


def peers(folder: Path | None) -> list[Tool]:
    """Return the other tools that are installed."""
    if folder is None:
        return []
    programs = folder / "bin"
    found = []
    if (programs / "dicom-anonymizer").exists():
        found.append(Tool(RIVAL, [str(programs / "dicom-anonymizer"), "IN", "OUT"]))
    python = str(programs / "python")
    if (programs / "dicognito").exists():
        words = [python, "-m", "dicognito", "--output-directory", "OUT", "IN"]
        found.append(Tool("dicognito", words))
    if next(folder.glob("lib/*/site-packages/dcmanon"), None):
        found.append(Tool("dcmanon", [python, "-c", _DCMANON, "IN", "OUT"]))
    return found


def measured(tool: Tool, source: Path, out: Path) -> Cost:
    """Return the cost of one run of a tool with all its processes."""
    words = [word.replace("IN", str(source), 1) if word.startswith("IN") else word for word in tool.command]
    words = [str(out) if word == "OUT" else word for word in words]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)  # what pip installs has been compiled once, too
    begun = time.perf_counter()
    with subprocess.Popen(
        words, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{tool.name} failed with exit code {process.returncode}")
    return Cost(used.ru_utime + used.ru_stime, time.perf_counter() - begun, used.ru_maxrss)


def survivors(out: Path, planted: Sequence[bytes]) -> str:
    """Return in words how many output files hold how many planted strings."""
    images = [path for path in out.rglob("*") if path.is_file() and "private" not in path.parts]
    images = [path for path in images if _is_dicom(path)]
    found = [_count(path, planted) for path in images]
    return f"{sum(found)} in {sum(map(bool, found))} of {len(images)} files"


def _count(path: Path, planted: Sequence[bytes]) -> int:
    """Return how many planted strings occur in a file; few of them begin differently, so that is fast.

    The file is read in windows: a child inherits the high-water mark of its parent's memory.
    """
    begins, found = {word[:5] for word in planted}, set()
    with path.open("rb") as stream:
        tail = b""
        while window := stream.read(1 << 20):
            content = tail + window.lower()
            here = {begin for begin in begins if begin in content}
            found |= {word for word in planted if word[:5] in here and word in content}
            tail = content[-64:]
    return len(found)


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def table(
    costs: dict[str, list[Cost]],
    leaks: dict[str, str],
    files: int,
    size: int,
    repeats: int,
    peers_from: Path | None,
) -> Iterator[str]:
    """Yield the lines of the table and what it was measured on."""
    ours = costs[ONE]
    head = (
        "tool",
        "CPU s",
        "CPU against dicom-anonymizer",
        "wall s",
        "largest process, MB",
        "planted strings",
    )
    yield f"{files} files, {size / 1e6:,.0f} MB; medians of {repeats} rounds."
    yield ""
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    base = costs.get(RIVAL)
    for name, runs in costs.items():
        cpu = median(run.cpu for run in runs)
        ratio = "" if base is None else _ratio(runs, base)
        wall, memory = median(run.wall for run in runs), max(run.memory for run in runs) / 1024
        lowest, highest = min(run.cpu for run in runs), max(run.cpu for run in runs)
        cells = [name, f"{cpu:.2f} ({lowest:.2f} to {highest:.2f})", ratio, f"{wall:.1f}", f"{memory:.0f}"]
        yield f"| {' | '.join(cells)} | {leaks[name]} |"
    missing = {RIVAL, "dicognito", "dcmanon"} - set(costs)
    if missing:
        yield f"\nNot installed in {'no environment' if peers_from is None else 'the environment'}: "
        yield ", ".join(sorted(missing)) + "."
    two = costs[TWO]
    shares = sorted(run.wall / other.wall for run, other in zip(two, ours, strict=True))
    share = f"{median(shares):.2f} ({shares[0]:.2f} to {shares[-1]:.2f})"
    yield f"\nTwo workers took {share} times the wall time of one process."


def _ratio(runs: Sequence[Cost], base: Sequence[Cost]) -> str:
    """Return the median over rounds of one tool's CPU against another's in the same round, and its range."""
    ratios = sorted(run.cpu / other.cpu for run, other in zip(runs, base, strict=True))
    return f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


if __name__ == "__main__":
    main()
