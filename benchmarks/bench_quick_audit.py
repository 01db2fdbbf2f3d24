"""Time of the quick audit of a 2-D classifier, and whether it resumes and repeats byte for byte.

Run: ``python benchmarks/bench_quick_audit.py --data DATASET --work FOLDER [--write PAGE]``. A private run is
trained once and copied. One copy is audited in one go. The audit of the other is killed (SIGKILL) while a
reference model is in training, and goes on when the command is repeated. Both audits take their randomness
from one seed (``--deterministic``), so their files have to be equal. What is in FOLDER already is not made
again.

The audit has four parts: bounds, one run with canaries, membership with four reference models (RMIA, LiRA,
loss), and reconstruction with rank-1 identification. CPU seconds are user + system of the audit's process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pages
from meninx.core.manifest import Manifest

MARKER = "quick-audit"
GOAL = 600.0  # wall seconds on two cores
PLAN = """\
parts = ["bounds", "one-run", "membership", "reconstruction"]
deterministic = true
"""
KILLED_AT = Path("private", "audit", "membership", "reference-002")
PARTS = {
    "bounds": "bounds of theory",
    "one-run": "one run with 1,000 canaries",
    "membership": "membership, 4 reference models",
    "reconstruction": "rank 1 and quick reconstruction",
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of the program.

    Attributes:
        cpu: user and system seconds of its process.
        wall: seconds.
        ended: exit status; negative for a signal.
    """

    cpu: float
    wall: float
    ended: int


def called(*words: str, until: Path | None = None) -> Call:
    """Return what a call of ``meninx`` cost; it is killed as soon as ``until`` exists."""
    begun = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "meninx", *words, "--quiet"])
    while True:
        ended, status, usage = os.wait4(child.pid, os.WNOHANG if until is not None else 0)
        if ended:
            break
        if until is not None and until.exists():
            child.send_signal(signal.SIGKILL)
            until = None
        else:
            time.sleep(0.2)
    child.returncode = os.waitstatus_to_exitcode(status)
    spent = usage.ru_utime + usage.ru_stime
    return Call(cpu=spent, wall=time.perf_counter() - begun, ended=child.returncode)


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def trained(data: Path, work: Path) -> Path:
    """Return the run that is audited, trained unless it is there."""
    folder = work / "train"
    if not (folder / "latest").exists():
        settings = ("--recipe", "kermany-dp", "--no-attack-risk", "--device", "cpu")
        _succeeded(called("train", str(data), *settings, "--out", str(folder)), "train")
    return (folder / "latest").resolve()


def audited(run: Path, work: Path, name: str, *, killed: bool) -> tuple[Path, list[Call]]:
    """Return a copy of the run with its finished audit, and the calls that it took."""
    copy, known = work / name / run.name, work / f"{name}.json"
    if known.is_file():
        return copy, [Call(**call) for call in json.loads(known.read_text())]
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy, symlinks=True)
    plan = work / "plan.toml"
    plan.write_text(PLAN)
    words = ("audit", str(copy), "--plan", str(plan), "--device", "cpu")
    calls = []
    if killed:
        calls.append(called(*words, until=copy / KILLED_AT))
        if calls[0].ended != -signal.SIGKILL:
            raise SystemExit(f"the audit ended with {calls[0].ended} before it could be killed")
    calls.append(_succeeded(called(*words), "audit"))
    known.write_text(json.dumps([asdict(call) for call in calls]))
    return copy, calls


def _succeeded(call: Call, what: str) -> Call:
    if call.ended:
        raise SystemExit(f"meninx {what} ended with {call.ended}")
    return call


def table(data: Path, whole: Path, calls: list[Call], resumed: Path, pieces: list[Call]) -> str:
    """Return the tables in Markdown."""
    cases = Manifest.read(data)
    train = cases.split("train")
    others = len(cases.split("test").patients)
    first, second = hashes(whole / "audit"), hashes(resumed / "audit")
    different = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    size = " x ".join(map(str, cases.info.size))
    cpu, wall = calls[-1].cpu, calls[-1].wall
    done = json.loads((whole / "audit" / "audit.json").read_text())
    parts = done.get("content", done)["parts"]
    lines = [
        f"{len(train):,} training images of {len(train.patients):,} patients, {size}, and {others:,} "
        "patients who took part in nothing; n = 1 audit in one go and one that was killed.",
        "",
        "| | CPU s | wall s |",
        "|---|---|---|",
        f"| the whole audit, in one go (goal: at most {GOAL:.0f} s) | {cpu:.0f} | {wall:.0f} |",
        f"| the same, until it was killed in the third reference model | {pieces[0].cpu:.0f} "
        f"| {pieces[0].wall:.0f} |",
        f"| the same, resumed to its end | {pieces[-1].cpu:.0f} | {pieces[-1].wall:.0f} |",
        "",
        f"Parts: {', '.join(PARTS[part['name']] for part in parts if part['state'] == 'done')}. "
        f"Files of the two audits: {len(first)} and {len(second)}, "
        + (
            f"**different: {', '.join(different)}**."
            if different
            else "equal byte for byte, the page included."
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Audit twice, and print or write the table."""
    parser = argparse.ArgumentParser(description="Time of the quick audit of a 2-D classifier.")
    parser.add_argument(
        "--data", type=Path, required=True, help="prepared dataset, about 1,000 training images"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    run = trained(options.data, options.work)
    whole, calls = audited(run, options.work, "whole", killed=False)
    resumed, pieces = audited(run, options.work, "resumed", killed=True)
    text = table(options.data, whole, calls, resumed, pieces)
    print(text)
    if options.write:
        pages.put(options.write, MARKER, text)


if __name__ == "__main__":
    main()
