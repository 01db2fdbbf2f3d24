"""Audits of runs on real images: proven bounds beside what attacks find, for several amounts of noise.

Run: ``python benchmarks/audit_results.py --data DIR --out FILE [--studies NAME ...]``. Each arm of a study is
trained once, from the same initialisation and for the same steps, and then audited as ``meninx audit`` does.
One line of JSON per part of an arm; what is in FILE already is not repeated, and an audit that was stopped
goes on (``--work``). ``--write PAGE --figures FOLDER`` puts the tables into a page and draws the figures.

DIR holds the prepared datasets that ``docs/results.md`` names.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import audit_seeds
import audit_tables
import pages

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before torch

Row = dict[str, Any]

TRAIN, BOUNDS, ONE_RUN, MEMBERSHIP = "train", "bounds", "one-run", "membership"
RECONSTRUCTION, AVERAGED, IDENTITY = "reconstruction", "reconstruction-averaged", "identity"
SITES, ATTRIBUTES, WHOLE = "reconstruction-sites", "attributes", "audit"


@dataclass(frozen=True)
class Study:
    """Runs that differ in their noise alone.

    Attributes:
        title: for the table.
        data: folder of the prepared dataset.
        arms: name -> recipe and settings on top of it.
        common: settings of all arms.
        references: reference models of the membership audit of each arm.
        control_steps: steps of its positive control.
        canaries: of the one-run audit.
        parts: what is measured of each arm.
        axis: the arm whose attacks run over an axis of epsilon.
        batches: steps that are attacked at each level of noise.
        ladder: attacks over the axis of epsilon.
        eps_step: distance of two exponents of this axis.
        seeds: arm -> seeds of further runs of it, beside seed 0.
    """

    title: str
    data: str
    arms: Mapping[str, Mapping[str, Any]]
    common: Mapping[str, Any] = field(default_factory=dict)
    references: int = 4
    control_steps: int = 300
    canaries: int = 1000
    parts: tuple[str, ...] = (TRAIN, BOUNDS, ONE_RUN, MEMBERSHIP, RECONSTRUCTION)
    axis: str = ""
    batches: int = 3
    ladder: tuple[str, ...] = ()
    eps_step: int = 1
    seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A run of a study.

    Attributes:
        name: key of :attr:`Study.arms`.
        seed: of the training, the halves of the reference models, and the simulated attacks.
    """

    name: str
    seed: int = 0


LADDER = (
    "imprint-whitened",
    "imprint-pca",
    "imprint-centred",
    "imprint-raw",
    "cumulative",
    "trap",
    "readout",
)
STRONGEST = ("imprint-whitened", "cumulative", "readout")
OF_FURTHER_SEEDS = (TRAIN, ONE_RUN, MEMBERSHIP, RECONSTRUCTION)
PARTICIPATIONS = 16
SUMMED = (3, 10)
_PRIVATE: Mapping[str, Any] = {"recipe": "kermany-dp"}
_HIPPOCAMPUS: Mapping[str, Any] = {
    "recipe": "hippocampus-dp",
    "batch_size": 24,
    "steps": 40,
    "eval_every": 20,
}
_PUBLIC: Mapping[str, Any] = {
    "recipe": "kermany", "augment": (), "shift_voxels": 4, "sampling": "poisson", "batch_size": 256,
    "steps": 80, "ema": 0.9, "eval_every": 40,
}  # fmt: skip
OVERFITTED: Mapping[str, Any] = {
    "augment": (), "shift_voxels": 4, "rotate_degrees": 10.0, "crop_scale": 0.8, "intensity_strength": 0.1,
    "ema": 0.0, "weight_decay": 0.0,
}  # fmt: skip
STUDIES = {
    "kermany": Study(
        "Pneumonia, 32 px",
        "kermany32-half",
        {
            "none": _PUBLIC,
            "8": {**_PRIVATE, "epsilon": 8.0},
            "1e6": {**_PRIVATE, "epsilon": 1e6},
            "1e9": {**_PRIVATE, "epsilon": 1e9},
        },
        parts=(TRAIN, BOUNDS, ONE_RUN, MEMBERSHIP, RECONSTRUCTION, AVERAGED, SITES, WHOLE),
        axis="8",
        seeds={"none": (1, 2), "8": (1, 2), "1e9": (1, 2)},
    ),
    "hippocampus": Study(
        "Hippocampus, 3-D",
        "hippo",
        {
            "none": {
                "recipe": "hippocampus", "augment": (), "rotate_degrees": 10.0, "crop_scale": 0.8,
                "sampling": "poisson", "batch_size": 24, "steps": 40, "warmup": 5, "ema": 0.9,
                "eval_every": 20,
            },
            "8": {**_HIPPOCAMPUS, "epsilon": 8.0},
        },
        {"model_options": {"base": 4}},
        references=2,
        control_steps=60,
        axis="8",
        batches=2,
        ladder=STRONGEST,
        eps_step=3,
    ),
    "hippocampus-half": Study(
        "Hippocampus, 3-D, small, half held out",
        "hippo24-half",
        {"8": {**_HIPPOCAMPUS, "epsilon": 8.0, "patch_size": ()}},
        {"model_options": {"base": 4}},
        parts=(TRAIN, BOUNDS, MEMBERSHIP),
    ),
    "nih": Study(
        "Findings, 32 px, over-fitted",
        "nih32-half",
        {"none": {"recipe": "nih-small", **OVERFITTED, "epochs": 60, "eval_every": 1000}},
        references=16,
        parts=(TRAIN, MEMBERSHIP, ATTRIBUTES),
    ),
    "subtype": Study(
        "Kind of pneumonia, 32 px, over-fitted",
        "kermany32-subtype",
        {"none": {"recipe": "kermany", "augment": (), "shift_voxels": 4, "ema": 0.0, "epochs": 20}},
        references=16,
        parts=(TRAIN, MEMBERSHIP),
    ),
    "nih-images": Study("Findings, 64 px", "nih64", {"": {}}, parts=(IDENTITY,)),
    "kermany-images": Study("Pneumonia, 64 px", "kermany64", {"": {}}, parts=(IDENTITY,)),
}  # fmt: skip


def main() -> None:
    """Measure what is missing, or write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of prepared datasets")
    parser.add_argument("--out", type=Path, required=True, help="file of results, one line of JSON per part")
    parser.add_argument("--work", type=Path, default=Path("audit-work"), help="folder of the runs")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--arms", nargs="+", help="arms to measure (default all)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, help="seeds to measure (default all of the study)")
    parser.add_argument("--again", action="store_true", help="measure what is in FILE already once more")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into a page and stop")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="with --write: draw the figures there")
    args = parser.parse_args()
    if args.write:
        rows = rows_of(args.out)
        found = {**audit_tables.tables(rows, STUDIES), "audit-seeds": audit_seeds.table(rows, STUDIES)}
        for marker, text in found.items():
            if not text:
                continue  # nothing of it was measured
            pages.put(args.write, marker, f"{text}\n")
        for name, study in list(STUDIES.items())[:1]:
            if args.figures:
                audit_tables.draw(rows, name, study.axis, args.figures / f"audit-{name}.png")
        return
    for name in args.studies:
        for arm in STUDIES[name].arms:
            if not args.arms or arm in args.arms:
                measure_arm(name, arm, args)


def measure_arm(name: str, arm: str, args: argparse.Namespace) -> None:
    """Add the parts of all runs of an arm to the file of results."""
    study = STUDIES[name]
    for seed in (0, *study.seeds.get(arm, ())):
        for part in study.parts if seed == 0 else OF_FURTHER_SEEDS:
            if part in args.parts and (not args.seeds or seed in args.seeds):
                measure(name, arm, part, seed, args)


def rows_of(path: Path) -> list[Row]:
    """Return the finished parts; a row of an earlier version has seed 0."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return [{"seed": 0, **json.loads(line)} for line in lines]


def measure(name: str, arm: str, part: str, seed: int, args: argparse.Namespace) -> None:
    """Add a part of an arm to the file of results, unless it is there or the arm has no such part."""
    known = {"study": name, "arm": arm, "part": part, "seed": seed}
    if not args.again and any(known.items() <= row.items() for row in rows_of(args.out)):
        return
    study = STUDIES[name]
    folder = args.work / name / (arm if seed == 0 else f"{arm}-seed{seed}")
    private = study.arms[arm].get("epsilon") is not None
    if (part in (BOUNDS, ONE_RUN) and not private) or (part in (AVERAGED, SITES) and arm != study.axis):
        return
    begun, wall = time.process_time(), time.perf_counter()
    values = PARTS[part](study, Arm(name=arm, seed=seed), args.data / study.data, folder)
    spent = {"cpu": time.process_time() - begun, "wall": time.perf_counter() - wall}
    with args.out.open("a") as stream:
        stream.write(json.dumps({**known, **values, **spent}) + "\n")
    print(name, arm, seed, part, f"{spent['cpu']:.0f} CPU s", flush=True)


def run_of(folder: Path) -> Path:
    """Return the run of an arm."""
    return (folder / "latest").resolve()


# parts


def _train(study: Study, arm: Arm, data: Path, folder: Path) -> Row:
    """Train an arm and measure it on the test patients."""
    from meninx import api

    settings = {**study.common, **study.arms[arm.name], "seed": arm.seed}
    if (folder / "latest").exists():
        api.train(data, resume=run_of(folder))
    else:
        api.train(data, out=folder, device="cpu", attack_risk=False, **settings)
    run = run_of(folder)
    result = api.evaluate(run)
    metric = next(iter(result.metrics.values()))
    privacy = json.loads((run / "privacy.json").read_text())
    return {
        "metric": next(iter(result.metrics)),
        "value": metric.value, "low": metric.low, "high": metric.high, "patients": metric.patients,
        "privacy": privacy,
    }  # fmt: skip


def _bounds(study: Study, arm: Arm, data: Path, folder: Path) -> Row:
    """Bound every attack on an arm."""
    from meninx.audit.bounds import run_bounds
    from meninx.audit.config import BoundsConfig
    from meninx.core import plain

    found = run_bounds(BoundsConfig(overwrite=True), folder / "bounds", run=run_of(folder)).record
    return {
        name: json.loads(plain.to_json(value))
        for name, value in (("operating", found.operating), ("membership", found.membership))
    } | {"mechanism": json.loads(plain.to_json(found.mechanism))}


def _one_run(study: Study, arm: Arm, data: Path, folder: Path) -> Row:
    """Audit the implementation of an arm by a twin with canaries."""
    from meninx.audit.config import OneRunConfig
    from meninx.audit.one_run import run_one_run

    config = OneRunConfig(canaries=study.canaries, device="cpu", overwrite=True)
    result = run_one_run(config, run_of(folder))
    return {
        "record": json.loads(result.out.read_text()), "metric": result.metric,
        "change": result.utility_change, "overhead": result.overhead,
    }  # fmt: skip


def _membership(study: Study, arm: Arm, data: Path, folder: Path) -> Row:
    """Attack the membership of the patients of an arm."""
    from meninx.audit.config import MembershipConfig
    from meninx.audit.membership import run_membership

    config = MembershipConfig(
        references=study.references, control_steps=study.control_steps, seed=arm.seed, device="cpu",
        overwrite=True,
    )  # fmt: skip
    result = run_membership(config, run_of(folder))
    return {"record": json.loads(result.out.read_text())}


def _reconstruction(study: Study, arm: Arm, data: Path, folder: Path) -> Row:
    """Attack steps of an arm, at its own noise, and at that of other epsilons where it is the axis."""
    axis: dict[str, Any] = {"eps_first": 9}
    if arm == Arm(name=study.axis):
        axis = {"attacks": study.ladder or LADDER, "eps_last": 12, "eps_step": study.eps_step}
    return _attacked(study, arm, folder, folder / "reconstruction", **axis)


def _averaged(study: Study, arm: Arm, data: Path, folder: Path) -> Row:
    """Attack the average of several steps with the same patients."""
    more = {"attacks": STRONGEST, "eps_last": 12, "eps_step": 1, "participations": PARTICIPATIONS}
    return _attacked(study, arm, folder, folder / "averaged", **more)


def _sites(study: Study, arm: Arm, data: Path, folder: Path) -> Row:
    """Attack sums over several sites, and differences of two rounds, as with secure aggregation."""
    more = {"attacks": STRONGEST[:2], "eps_first": 3, "eps_last": 12, "eps_step": 3, "sites": SUMMED}
    found = _attacked(study, arm, folder, folder / "sites", **more)
    return {"record": found["record"]}  # its ranking names patients in sums, too


def _attacked(study: Study, arm: Arm, folder: Path, out: Path, **settings: Any) -> Row:
    from meninx.audit.reconstruction.config import ReconstructionConfig
    from meninx.audit.reconstruction.steps import run_reconstruction

    config = ReconstructionConfig(
        batches=study.batches, seed=arm.seed, device="cpu", pictures="none", overwrite=True, **settings
    )
    result = run_reconstruction(config, run_of(folder), out=out)
    return {"record": json.loads(result.out.read_text()), "linked": linked(run_of(folder))}


def linked(run: Path) -> list[Row]:
    """Return how often a reconstruction is more like its own patient than like any other member.

    The gallery holds one image of every member. A picture that nobody would call a copy may still say whose
    it is. ``noise`` is the same share for what the attack makes of noise alone.
    """
    from meninx.audit.audited_run import dataset_of
    from meninx.audit.reconstruction.candidates import read_candidates, read_index
    from meninx.audit.reconstruction.pools import load_pools
    from meninx.core.proportions import clopper_pearson
    from meninx.core.run import open_run
    from meninx.learn import checkpoint
    from meninx.metrics.image_matching import match, similarity

    subject, room = open_run(run), run / "private" / "audit" / "reconstruction"
    learned = checkpoint.config_of(checkpoint.load(subject, "last")).replace(device="cpu")
    gallery = load_pools(dataset_of(subject), learned, public=None, seed=0).members.images.numpy()
    index, found = read_index(room), []
    for record in index.sets if index is not None else ():
        images = read_candidates(room, record)
        hits = {"candidates": 0, "noise_null": 0}
        for trial, originals in enumerate(images.originals.numpy()):
            whose = np.argmax(
                similarity("mse", originals, gallery), axis=1
            )  # the member behind each original
            for name in hits:
                made = getattr(images, name)[trial].numpy()
                chosen = match(similarity("ncc", originals, made)).chosen
                there = chosen >= 0
                likest = np.argmax(similarity("ncc", made[chosen[there]], gallery), axis=1)
                hits[name] += int((likest == whose[there]).sum())
        count = images.originals.shape[0] * images.originals.shape[1]
        low, high = clopper_pearson(hits["candidates"], count)
        found.append({
            "attack": record.attack, "level": record.level.name,
            "noise_multiplier": record.level.noise_multiplier, "success": hits["candidates"] / count,
            "low": low, "high": high, "noise": hits["noise_null"] / count,
            "noise_high": clopper_pearson(hits["noise_null"], count)[1], "originals": count,
            "gallery": len(gallery),
        })  # fmt: skip
    return found


def _identity(study: Study, arm: Arm, data: Path, folder: Path) -> Row:
    """Link images of a dataset to other images of the same patient."""
    from meninx.audit.config import IdentityConfig
    from meninx.audit.reidentification import run_identity

    config = IdentityConfig(attacks=("pixels", "hog"), device="cpu", overwrite=True)
    result = run_identity(config, data, out=folder / "identity")
    return {"record": json.loads(result.out.read_text())}


def _attributes(study: Study, arm: Arm, data: Path, folder: Path) -> Row:
    """Infer attributes of patients from what the model makes of them."""
    from meninx.audit.attributes import run_attributes
    from meninx.audit.config import AttributesConfig

    result = run_attributes(AttributesConfig(device="cpu", overwrite=True), run_of(folder))
    return {"record": json.loads(result.out.read_text())}


def _whole(study: Study, arm: Arm, data: Path, folder: Path) -> Row:
    """Audit an arm by the default plan, as ``meninx audit RUN`` does; finished reference models are used."""
    import meninx

    record = meninx.audit(
        run_of(folder),
        references=study.references,
        control_steps=study.control_steps,
        overwrite=True,
        device="cpu",
    ).record
    if record is None:
        raise SystemExit("the audit wrote no summary")
    lines = [{"line": item.line, "colour": item.colour, "word": item.word} for item in record.lines]
    return {"lines": lines, "parts": {part.name: part.state for part in record.parts}}


PARTS: Mapping[str, Callable[[Study, Arm, Path, Path], Row]] = {
    TRAIN: _train,
    BOUNDS: _bounds,
    ONE_RUN: _one_run,
    MEMBERSHIP: _membership,
    RECONSTRUCTION: _reconstruction,
    AVERAGED: _averaged,
    SITES: _sites,
    IDENTITY: _identity,
    ATTRIBUTES: _attributes,
    WHOLE: _whole,
}


if __name__ == "__main__":
    main()
