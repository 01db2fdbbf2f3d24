"""The runs of the study: which there are, one process each, one line of JSON for each that is done."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from study.sets import ARMS, EPSILONS, NON_PRIVATE, OURS, PLAIN, STUDIES, WARM

Job = dict[str, Any]
KEY = ("set", "arm", "epsilon", "seed")
SCRIPT = Path(__file__).parents[1] / "utility.py"
RESULTS, WEIGHTS = "results.jsonl", "weights"
LEAST_SECONDS = 20.0  # Opacus gets these even where meninx needs fewer
WARM_EPSILON = 8.0  # the one epsilon at which Opacus also starts from our weights


def wanted(
    sets: Sequence[str] | None, arms: Sequence[str] | None, epsilons: Sequence[float] | None, seeds: int
) -> list[Job]:
    """Return the runs asked for: those of meninx first, for they say how long those of Opacus may take."""
    found: list[Job] = []
    for arm in ARMS:
        if arms and arm not in arms:
            continue
        for key in sets or STUDIES:
            if arm == WARM and STUDIES[key].warm is None:
                continue
            levels: Iterable[float | None] = epsilons or EPSILONS
            if arm == NON_PRIVATE:
                levels = (None,)
            elif arm == WARM:
                levels = (WARM_EPSILON,)
            found += [
                {"set": key, "arm": arm, "epsilon": level, "seed": seed}
                for level in levels
                for seed in range(seeds)
            ]
    return found


def done(out: Path) -> list[Job]:
    """Return the lines of the finished runs."""
    path = out / RESULTS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def identity(job: Job) -> tuple[Any, ...]:
    """Return what tells one run from another."""
    return tuple(job[name] for name in KEY)


def pretrain(data: Path, out: Path, sets: Sequence[str] | None, jobs: int) -> None:
    """Make the public weights that the sets start from, each in a process of its own."""
    keys = {STUDIES[key].start for key in sets or STUDIES} - {""}
    missing = [key for key in sorted(keys) if not (out / WEIGHTS / f"{key}.pt").is_file()]
    with ThreadPoolExecutor(jobs) as pool:
        for line in pool.map(lambda key: _process({"pretrain": key}, data, out), missing):
            _say(line.get("said", line.get("error", "")))


def run(wanted: Sequence[Job], data: Path, out: Path, jobs: int) -> int:
    """Do the missing runs, dataset by dataset and ``jobs`` side by side, and return how many failed."""
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for key in dict.fromkeys(job["set"] for job in wanted):
        for arms in ((NON_PRIVATE, OURS), (PLAIN, WARM)):
            known = done(out)
            there = {identity(job) for job in known}
            phase = [
                job
                for job in wanted
                if job["set"] == key and job["arm"] in arms and identity(job) not in there
            ]
            if phase and PLAIN in arms:
                seconds = _seconds(known, key)
                phase = [{**job, "seconds": seconds} for job in phase]
            with ThreadPoolExecutor(jobs) as pool:
                running = [pool.submit(_process, job, data, out) for job in phase]
                failed += sum(not _kept(future.result(), out) for future in as_completed(running))
    return failed


def _kept(line: Job, out: Path) -> bool:
    """Add the line of a finished run to the results; return whether it was one."""
    if "error" in line:
        _say(f"FAILED {line['error']}")
        return False
    with (out / RESULTS).open("a") as file:
        file.write(json.dumps(line) + "\n")
    said = f"epsilon {line['epsilon']:g}" if line["epsilon"] else "no privacy"
    _say(
        f"{line['set']} {line['arm']} {said} seed {line['seed']}: {line['test']['value']:.4f}, "
        f"{line['cpu']:.0f} CPU s"
    )
    return True


def _seconds(known: Sequence[Job], key: str) -> float:
    """Return the CPU seconds of meninx's longest private run on a dataset.

    The result is at least :data:`LEAST_SECONDS`.
    """
    own = [job["cpu"] for job in known if job["set"] == key and job["arm"] == OURS]
    if not own:
        raise SystemExit(f"{key}: run the arm {OURS} first; it says how many CPU seconds Opacus may take")
    return max(LEAST_SECONDS, *own)


def _process(job: Job, data: Path, out: Path) -> Job:
    command = [sys.executable, str(SCRIPT), "--data", str(data), "--out", str(out), "--one", json.dumps(job)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        return {"error": f"{job}: {ended.stderr.strip()[-600:]}"}
    found: Job = json.loads(ended.stdout.splitlines()[-1])
    return found


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def one(job: Job, data: Path, out: Path) -> None:
    """Do one run in this process and print its line."""
    import torch

    torch.set_num_threads(1)
    from study import train

    if "pretrain" in job:
        sys.stdout.write(json.dumps({"said": train.pretrain(job["pretrain"], data, out / WEIGHTS)}) + "\n")
        return
    study = STUDIES[job["set"]]
    folder = out / "runs" / study.key
    if job["arm"] in (NON_PRIVATE, OURS):
        found = train.run(study, data, out / WEIGHTS, folder, job["seed"], job["epsilon"])
    else:
        found = _opacus(job, data, out)
    sys.stdout.write(json.dumps({**job, **_measured(found, job, data)}) + "\n")


def _opacus(job: Job, data: Path, out: Path) -> dict[str, Any]:
    from meninx.core import settings
    from meninx.learn.config import from_toml_table
    from study import plain, train
    from study.sets import RECIPES

    study = STUDIES[job["set"]]
    table, source = settings.read_recipe(str(RECIPES / f"{study.key}-dp.toml"))
    config = from_toml_table({name: table[name] for name in ("model", "task") if name in table}, source)
    warm = job["arm"] == WARM
    config = config.replace(**(train.start(study, data, out / WEIGHTS) if warm else {}))
    told = study.warm if warm and study.warm else study.plain
    return plain.run(study, told, config, data, job["seed"], job["epsilon"], job["seconds"])


def _measured(found: dict[str, Any], job: Job, data: Path) -> dict[str, Any]:
    from meninx.core.manifest import Manifest
    from study.measure import measured

    study = STUDIES[job["set"]]
    whole = Manifest.read(data / study.data)
    line: dict[str, Any] = {
        name: found[name] for name in ("cpu", "steps", "noise", "q", "said") if name in found
    }
    for split in ("valid", "test"):
        line[split] = measured(
            found["model"], found["info"], found["config"], whole.split(split), study.labels
        )
    return line
