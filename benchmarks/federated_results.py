"""Federated studies of real images beside local and pooled training, on the same test patients.

Run: ``python benchmarks/federated_results.py --data DIR --out FILE [--studies NAME ...] [--seeds 3]``. A
prepared dataset is divided among sites by patient; its splits stay, so that each site has training,
validation and test patients of its own. ``meninx federate simulate`` trains each site alone, all data pooled,
and the study by each algorithm, all with the same number of optimiser steps per site. Every model is measured
on the test patients of all sites together. One line of JSON per arm and seed; what is in FILE already is not
repeated, and a study that was stopped goes on (``--work``). ``--write PAGE`` puts the tables into a page.

``--split valid`` measures validation patients instead: settings were chosen so.

DIR holds ``kermany32`` and ``hippo`` as ``docs/results.md`` prepares them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import pages

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before torch

LOCAL, POOLED, LONGER, MASKS, TEST = "local", "pooled", "pooled-longer", "masks", "test patients"
_PLAIN = {POOLED: "all data pooled", LONGER: "all data pooled, the steps of all sites"}
COMPARED = (("fedavg", POOLED), ("fedavg", LONGER), ("fedprox", "fedavg"), ("cyclic", "fedavg"))
DRAWS = 1000
NAMES = ("north", "east", "west", "south", "hill", "lake", "port", "park", "bridge", "dale")
KERMANY_32, HIPPO = "kermany32", "hippo"
EQUAL, SKEWED = "equal", "skewed"
SKEW = {True: (0.50, 0.33, 0.17), False: (0.17, 0.33, 0.50)}
"""Whether a patient has a positive case -> shares of the three sites."""

Row = dict[str, Any]
Arms = Mapping[str, Mapping[str, Any]]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Study:
    """Sites, network and length of a study.

    Attributes:
        title: for the table.
        data: folder of the prepared dataset.
        recipe: packaged recipe.
        train: settings on top of the recipe.
        rounds: rounds of every algorithm.
        steps: optimiser steps of each site per round.
        sites: how many sites.
        division: how patients are divided among them.
        arms: algorithms, with their own settings.
        longer: also train on pooled data with as many steps as all sites together.
        seeds: runs; each divides the patients anew and has its own initialisation and order.
    """

    title: str
    data: str
    recipe: str
    train: Mapping[str, Any]
    rounds: int
    steps: int
    sites: int = 3
    division: str = EQUAL
    arms: Arms = field(default_factory=lambda: ARMS)
    longer: bool = True
    seeds: int = 3

    @property
    def baselines(self) -> tuple[str, ...]:
        """The arms without a study."""
        return (LOCAL, POOLED, LONGER) if self.longer else (LOCAL, POOLED)


FEDAVG: Arms = {"fedavg": {"algorithm": "fedavg"}}
ARMS: Arms = {**FEDAVG, "fedprox": {"algorithm": "fedprox", "mu": 0.1}, "cyclic": {"algorithm": "cyclic"}}
KERMANY = {"ema": 0.0, "eval_every": 1000}
PRIVATE = {"ema": 0.0, "eval_every": 1000, "batch_size": 128, "attack_risk": False}
STUDIES = {
    "iid": Study("Pneumonia, 3 sites, IID", KERMANY_32, "kermany", KERMANY, rounds=12, steps=15),
    "skew": Study(
        "Pneumonia, 3 sites, label skew", KERMANY_32, "kermany", KERMANY, rounds=12, steps=15,
        division=SKEWED,
    ),
    "dp": Study(
        "Pneumonia, 3 sites, IID, epsilon 8", KERMANY_32, "kermany-dp", PRIVATE, rounds=10, steps=8,
        arms=FEDAVG, longer=False,
    ),
    "ten": Study(
        "Pneumonia, 10 sites, IID", KERMANY_32, "kermany", KERMANY, rounds=12, steps=15, sites=10,
        arms=FEDAVG, longer=False, seeds=1,
    ),
    "hippocampus": Study(
        "Hippocampus, 3-D, 3 sites, IID", HIPPO, "hippocampus",
        {"ema": 0.0, "eval_every": 1000, "warmup": 20}, rounds=8, steps=10,
        arms=FEDAVG, longer=False, seeds=1,
    ),
}  # fmt: skip
FIRST, MASKED = "iid", ((1, 30), (4, 15))
"""The study that is trained with masks and without; rounds and steps of a site per round."""


def main() -> None:
    """Measure what is missing, or write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of prepared datasets")
    parser.add_argument("--out", type=Path, required=True, help="file of results, one line of JSON per arm")
    parser.add_argument("--work", type=Path, default=Path("federated-work"), help="folder of unfinished runs")
    parser.add_argument("--studies", nargs="+", choices=[*STUDIES, MASKS], default=[*STUDIES, MASKS])
    parser.add_argument("--seeds", type=int, help="runs of every study (default 3 or 1)")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    parser.add_argument("--rounds", type=int, help="other numbers of rounds and steps, for trying things out")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--mu", type=float, help="weight of FedProx's pull")
    parser.add_argument("--arms", nargs="+", help="algorithms to measure (default all)")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--table", action="store_true", help="print the tables and stop")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into a page and stop")
    args = parser.parse_args()
    if not (args.table or args.write):
        for name in args.studies:
            if name == MASKS:
                _measure_masks(args)
                continue
            study = _adjusted(STUDIES[name], args)
            for seed in range(args.first_seed, args.first_seed + (args.seeds or study.seeds)):
                measure_study(name, study, seed, args)
    text = tables(rows_of(args.out))
    if args.write:
        pages.put(args.write, "federated", f"{text}\n")
    else:
        print(text)


def rows_of(path: Path) -> list[Row]:
    """Return the finished arms."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _append(path: Path, row: Row) -> None:
    with path.open("a") as stream:
        stream.write(json.dumps(row) + "\n")


def _adjusted(study: Study, args: argparse.Namespace) -> Study:
    """Return a study with the settings of the command line."""
    arms = {name: given for name, given in study.arms.items() if not args.arms or name in args.arms}
    if args.mu is not None and "fedprox" in arms:
        arms["fedprox"] = {**arms["fedprox"], "mu": args.mu}
    train = study.train if args.lr is None else {**study.train, "lr": args.lr}
    return replace(
        study, rounds=args.rounds or study.rounds, steps=args.steps or study.steps, arms=arms, train=train
    )


# sites


def homes(patients: Mapping[str, tuple[str, bool]], study: Study, seed: int) -> dict[str, str]:
    """Return the site of each patient.

    Args:
        patients: patient -> (split, whether a case is positive).
        study: number of sites and division: ``equal`` gives each site the same share of the patients of each
            split at random; ``skewed`` gives it its share of :data:`SKEW` of the positive and of the other
            patients of each split.
        seed: decides who goes where.
    """
    groups = defaultdict(list)
    for patient, (split, positive) in sorted(patients.items()):
        groups[split, positive if study.division == SKEWED else False].append(patient)
    found = {}
    for number, key in enumerate(sorted(groups)):
        members = groups[key]
        order = np.random.default_rng([seed, number]).permutation(len(members))
        shares = SKEW[key[1]] if study.division == SKEWED else (1 / study.sites,) * study.sites
        ends = np.round(np.cumsum(shares) * len(members)).astype(int)
        for position, index in enumerate(order):
            found[members[index]] = NAMES[int(np.searchsorted(ends, position, side="right"))]
    return found


def divide(source: Path, study: Study, seed: int, out: Path) -> dict[str, Path]:
    """Write the prepared dataset of each site, by patient, and return the folders by name of the site."""
    from meninx.core import integrity
    from meninx.core.manifest import Manifest

    whole = Manifest.read(source)
    patients: dict[str, tuple[str, bool]] = {}
    for case in whole.cases:
        before = patients.get(case.patient_id, (case.split, False))[1]
        patients[case.patient_id] = (case.split, before or any(case.labels.values()))
    home = homes(patients, study, seed)
    folders = {}
    for site in NAMES[: study.sites]:
        folder = folders[site] = out / site
        cases = tuple(replace(case, site=site) for case in whole.cases if home[case.patient_id] == site)
        paths = [path for case in cases for path in (case.image, case.mask) if path]
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            if not (folder / path).exists():
                shutil.copyfile(source / path, folder / path)
        if whole.checksums:
            integrity.write(folder, {path: whole.checksums[path] for path in paths})
        Manifest(folder, whole.info, cases).write()
    return folders


def _sizes(folders: Mapping[str, Path]) -> dict[str, list[int]]:
    """Return site -> training, validation and test patients, and training patients with a positive case."""
    from meninx.core.manifest import Manifest

    found = {}
    for name, folder in folders.items():
        data = Manifest.read(folder)
        counts = [len(data.split(split).patients) for split in ("train", "valid", "test")]
        positive = {case.patient_id for case in data.split("train").cases if any(case.labels.values())}
        found[name] = [*counts, len(positive)]
    return found


# training and measuring


def simulated(
    study: Study, algorithm: str, seed: int, folders: Mapping[str, Path], out: Path, **more: Any
) -> Any:
    """Return the result of ``meninx federate simulate``."""
    from meninx import api

    baselines = more.pop("baselines", False)
    given = {
        "rounds": study.rounds, "local_steps": study.steps, "aggregation": "plain", **study.arms[algorithm],
        "train": {**study.train, "seed": seed}, **more,
    }  # fmt: skip
    return api.simulate(
        list(folders.values()), out, recipe=study.recipe, baselines=baselines, device="cpu", **given
    )


def measure_study(name: str, study: Study, seed: int, args: argparse.Namespace) -> None:
    """Train and measure the arms of a study that FILE lacks."""
    done = {(row["study"], row.get("seed"), row["arm"]) for row in rows_of(args.out)}
    missing = [arm for arm in (*study.arms, *study.baselines) if (name, seed, arm) not in done]
    if not missing:
        return
    source, work = args.data / study.data, args.work / f"{name}-{seed}"
    folders = divide(source, study, seed, work / "sites")
    if (name, None, TEST) not in done:
        _append(args.out, {"study": name, "seed": None, "arm": TEST, **_truth(source, args.split)})
    for algorithm in study.arms:
        if algorithm in missing:
            begun = time.process_time()
            result = simulated(study, algorithm, seed, folders, work / algorithm)
            seconds = time.process_time() - begun
            path = next(iter(result.runs.values()))
            row = _measured({algorithm: path}, source, args.split)
            _append(args.out, _row(name, study, seed, algorithm, row, seconds, folders))
    if {LOCAL, POOLED} & set(missing):
        begun = time.process_time()
        first = next(iter(study.arms))
        result = simulated(study, first, seed, folders, work / first, baselines=True)
        seconds = time.process_time() - begun
        place = result.out / "baselines"
        local = {site: place / LOCAL / site / "latest" for site in folders}
        for arm, paths in ((LOCAL, local), (POOLED, {POOLED: place / POOLED / "latest"})):
            row = _measured(paths, source, args.split)
            _append(args.out, _row(name, study, seed, arm, row, seconds, folders))
    if LONGER in missing:
        begun = time.process_time()
        path = _trained_longer(study, seed, work / next(iter(study.arms)) / "baselines/pooled-data", work)
        seconds = time.process_time() - begun
        row = _measured({LONGER: path}, source, args.split)
        _append(args.out, _row(name, study, seed, LONGER, row, seconds, folders))
    shutil.rmtree(work)


def _trained_longer(study: Study, seed: int, data: Path, work: Path) -> Path:
    """Return the run on pooled data with as many steps as all sites together."""
    from meninx import api

    steps = study.rounds * study.steps * study.sites
    settings = {**study.train, "seed": seed, "steps": steps, "select": "last"}
    place = work / "longer"
    shutil.rmtree(place, ignore_errors=True)  # of a run that was stopped
    return api.train(data, out=place, recipe=study.recipe, device="cpu", **settings).out


def _row(
    name: str, study: Study, seed: int, arm: str, found: Row, seconds: float, folders: Mapping[str, Path]
) -> Row:
    return {
        "study": name, "seed": seed, "arm": arm, **found, "cpu": round(seconds, 1), "rounds": study.rounds,
        "local_steps": study.steps, "arms": dict(study.arms), "sites": _sizes(folders),
    }  # fmt: skip


def _truth(source: Path, split: str) -> Row:
    """Return the patients of a split and, of a classification, its labels."""
    from meninx.core.manifest import Manifest, TaskKind

    part = Manifest.read(source).split(split)
    truth = None if part.info.task is TaskKind.SEGMENTATION else part.targets()[:, 0].tolist()
    return {"split": split, "patients": part.patient_index().tolist(), "truth": truth}


def _measured(paths: Mapping[str, Path], source: Path, split: str) -> Row:
    """Return what each model says of each case of a split of the whole dataset: probability, or mean Dice."""
    from meninx.core import artifacts
    from meninx.core.manifest import Manifest, TaskKind
    from meninx.core.run import Run
    from meninx.learn.inference import load_model, predict, predict_maps
    from meninx.metrics import segmentation
    from meninx.train.predictions import read_mask

    part = Manifest.read(source).split(split)
    scores, steps, epsilons = {}, [], []
    for name, path in paths.items():
        model, config, info = load_model(Run(path.resolve()))
        if info.task is TaskKind.SEGMENTATION:
            maps = predict_maps(model, info, part, config)
            table = [
                segmentation.dice(mask, read_mask(part, case)[0], len(info.labels)) for case, mask in maps
            ]
            scores[name] = np.nanmean(np.array(table), axis=1).tolist()
        else:
            scores[name] = predict(model, info, part, config).probabilities[:, 0].tolist()
        record = artifacts.read(path, artifacts.RunRecord)
        spent = artifacts.read(path, artifacts.PrivacyRecord)
        steps.append(record.step if record else 0)
        epsilons.append(spent.epsilon if spent else None)
    return {"scores": scores, "steps": max(steps), "epsilon": max(filter(None, epsilons), default=None)}


def _measure_masks(args: argparse.Namespace) -> None:
    """Train the first study with masks and without, and keep how far their models are apart."""
    from meninx.core.run import Run
    from meninx.learn.inference import load_model

    known = {(row["rounds"], row["local_steps"]) for row in rows_of(args.out) if row["study"] == MASKS}
    for rounds, steps in MASKED:
        if (rounds, steps) in known:
            continue
        study = replace(STUDIES[FIRST], rounds=rounds, steps=steps)
        work = args.work / f"{MASKS}-{rounds}"
        folders = divide(args.data / study.data, study, 0, work / "sites")
        models, seconds = [], []
        for method in ("plain", "masks"):
            begun = time.process_time()
            result = simulated(study, "fedavg", 0, folders, work / method, aggregation=method)
            seconds.append(round(time.process_time() - begun, 1))
            models.append(load_model(Run(next(iter(result.runs.values()))))[0].state_dict())
        difference = max(float((models[0][name] - models[1][name]).abs().max()) for name in models[0])
        row = {
            "study": MASKS, "arm": MASKS, "rounds": rounds, "local_steps": steps, "difference": difference,
            "largest": max(float(value.abs().max()) for value in models[0].values()), "cpu": seconds,
        }  # fmt: skip
        _append(args.out, row)
        shutil.rmtree(work)


# tables


def resamples(patients: Sequence[int]) -> Array:
    """Return the weight of each case in each resample of patients, shape (1 + draws, cases); the first is 1.

    Example:
        >>> resamples([0, 0, 1])[0].tolist()
        [1.0, 1.0, 1.0]
    """
    index = np.asarray(patients)
    count = int(index.max()) + 1
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    return np.concatenate((np.ones((1, count)), drawn))[:, index].astype(np.float64)


def auroc(truth: Array, scores: Array, weights: Array) -> Array:
    """Return the area under the ROC curve for each row of case weights; ties count half.

    Example:
        >>> auroc(np.array([0.0, 1.0, 1.0]), np.array([0.2, 0.2, 0.9]), np.ones((1, 3))).tolist()
        [0.75]
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)
    positive, negative = (
        np.add.reduceat(weights[:, order] * flag[order], starts, axis=1) for flag in (truth, 1 - truth)
    )
    below = np.cumsum(negative, axis=1) - negative / 2
    area: Array = (positive * below).sum(1) / (positive.sum(1) * negative.sum(1))
    return area


def tables(rows: Sequence[Row]) -> str:
    """Return the arms, the sites and the masked runs as Markdown."""
    arms = [
        "| study | arm | mean over runs [lowest, highest] | over patients | minus local, over patients | "
        "steps of a site | epsilon | CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    sites = [
        "",
        "| study | training, validation, test patients of each site, first run | training: pneumonia |",
        "|---|---|---|",
    ]
    pairs = ["", "| study | between arms, over patients |", "|---|---|"]
    for name, study in STUDIES.items():
        own = [row for row in rows if row["study"] == name]
        measured, compared = _arm_lines(study, own)
        arms += measured
        pairs += compared
        first = next((row for row in own if "sites" in row), None)
        if first:
            sizes = list(first["sites"].values())
            parts = "; ".join(", ".join(map(str, counts[:3])) for counts in sizes)
            positive = "; ".join(f"{counts[3]}" for counts in sizes)
            if len(sizes) > 3:
                ranges = [f"{min(column)} to {max(column)}" for column in zip(*sizes, strict=True)]
                parts, positive = ", ".join(ranges[:3]), ranges[3]
            sites.append(f"| {study.title} | {parts} | {'' if study.data == HIPPO else positive} |")
    masked = sorted((row for row in rows if row["study"] == MASKS), key=lambda row: row["rounds"])
    masks = [line for row in masked for line in _mask_lines(row)]
    return "\n".join([*arms, *pairs, *sites, *masks])


def _arm_lines(study: Study, rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Return a line for each arm, over the seeds that all arms have, and one of paired differences."""
    known = next((row for row in rows if row["arm"] == TEST), None)
    own = {arm: [row for row in rows if row["arm"] == arm] for arm in (*study.baselines, *study.arms)}
    seeds = set.intersection(*({row["seed"] for row in found} for found in own.values()))
    if known is None or not seeds:
        return [], []
    truth, weights = known["truth"], resamples(known["patients"])
    title = f"{study.title} ({'Dice' if truth is None else 'AUROC'}, n = {len(set(known['patients']))})"
    own = {arm: [row for row in found if row["seed"] in seeds] for arm, found in own.items()}
    values = {
        arm: np.array([_mean_model(row, truth, weights) for row in found]) for arm, found in own.items()
    }
    local = values[LOCAL].mean(0)
    lines = []
    for arm, found in own.items():
        mean, gain = values[arm].mean(0), values[arm].mean(0) - local
        compared = "" if arm == LOCAL else f"{gain[0]:+.3f} {_interval(gain, sign=True)}"
        lines.append(
            f"| {title} | {_arm_words(arm, found, truth, weights)} | {_spread(values[arm][:, 0])} | "
            f"{_interval(mean)} | {compared} | {found[0]['steps']} | {_epsilon(found)} | "
            f"{_seconds(arm, found)} |"
        )
        title = ""
    means = {arm: table.mean(0) for arm, table in values.items()}
    differences = [
        f"{one} minus {_PLAIN.get(other, other)} {gain[0]:+.3f} {_interval(gain, sign=True)}"
        for one, other in COMPARED
        if one in means and other in means
        for gain in [means[one] - means[other]]
    ]
    return lines, [f"| {study.title} | {'; '.join(differences)} |"]


def _spread(runs: Array) -> str:
    if len(runs) == 1:
        return f"{runs[0]:.3f}, one run"
    return f"{runs.mean():.3f} [{runs.min():.3f}, {runs.max():.3f}], {len(runs)} runs"


def _arm_words(arm: str, rows: Sequence[Row], truth: Sequence[float] | None, weights: Array) -> str:
    """Return the name of an arm; of the sites alone with the range of their models."""
    mu = rows[0]["arms"].get(arm, {}).get("mu")
    if arm == LOCAL:
        ones = [_of_model(scores, truth, weights[:1])[0] for row in rows for scores in row["scores"].values()]
        return f"each site alone, mean of the sites' models ({min(ones):.3f} to {max(ones):.3f})"
    return f"{arm}, mu {mu:g}" if mu is not None else _PLAIN.get(arm, arm)


def _seconds(arm: str, rows: Sequence[Row]) -> str:
    """Return CPU seconds; those of the baselines are measured together and stand with the first."""
    return "" if arm == POOLED else f"{np.mean([row['cpu'] for row in rows]):.0f}"


def _epsilon(rows: Sequence[Row]) -> str:
    spent = [row["epsilon"] for row in rows if row["epsilon"] is not None]
    return f"{max(spent):.2f}" if spent else "none"


def _mean_model(row: Row, truth: Sequence[float] | None, weights: Array) -> Array:
    """Return the mean over the models of an arm for each row of weights."""
    found: Array = np.mean([_of_model(scores, truth, weights) for scores in row["scores"].values()], axis=0)
    return found


def _of_model(scores: Sequence[float], truth: Sequence[float] | None, weights: Array) -> Array:
    values = np.asarray(scores, dtype=np.float64)
    if truth is None:
        mean: Array = weights @ values / weights.sum(1)
        return mean
    return auroc(np.asarray(truth, dtype=np.float64), values, weights)


def _interval(values: Array, *, sign: bool = False) -> str:
    low, high = np.percentile(values[1:], (2.5, 97.5))
    return f"[{low:+.3f}, {high:+.3f}]" if sign else f"[{low:.3f}, {high:.3f}]"


def _mask_lines(row: Row) -> list[str]:
    rounds = f"{row['rounds']} round{'' if row['rounds'] == 1 else 's'}"
    plain, masked = row["cpu"]
    return [
        "",
        f"FedAvg of the first study with masks and without, {rounds} of {row['local_steps']} steps: largest "
        f"difference of a weight {row['difference']:.1e} (largest weight {row['largest']:.2f}); "
        f"{masked:.0f} and {plain:.0f} CPU s.",
    ]


if __name__ == "__main__":
    main()
