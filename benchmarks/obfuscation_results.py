"""Releases of real and generated images that hide an attribute, attacked by retrained attackers.

Run: ``python benchmarks/obfuscation_results.py --data DIR --out FILE [--studies NAME ...]``. Each arm is one
method at one budget; it is released and audited as ``meninx obfuscate`` does, once per seed. Budgets are
fixed here, before any test patient was attacked. One line of JSON per release; what is in FILE already is
not repeated. ``--write PAGE`` puts the tables into a page.

DIR holds the prepared datasets that ``docs/results.md`` names. ``SEED`` in the name of a dataset is the seed
of its split.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import pages

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before torch

Row = dict[str, Any]

NOISE, BLUR, PIXELS, DP_PIX = "noise", "blur", "pixelation", "dp-pix"


@dataclass(frozen=True)
class Study:
    """Releases of one dataset that hide one attribute.

    Attributes:
        title: for the table.
        data: folder of the prepared dataset; ``SEED`` stands for the seed.
        common: settings of all arms.
        arms: name -> settings of a method.
        seeds: arm -> seeds; arms that are not named have seed 0 alone.
    """

    title: str
    data: str
    common: Mapping[str, Any]
    arms: Mapping[str, Mapping[str, Any]]
    seeds: Mapping[str, Sequence[int]] = field(default_factory=dict)


def _budgets(method: str, *budgets: float) -> dict[str, dict[str, Any]]:
    return {f"{method} {budget:g}": {"method": method, "budget": budget} for budget in budgets}


_THREE = (0, 1, 2)
STUDIES = {
    "nih-sex": Study(
        "Sex, chest X-rays of 64 px",
        "nih64view-SEED",
        {"attribute": "sex", "labels": ("AP", "Effusion")},
        {
            "codes": {"method": "codes"},
            **_budgets("viewmaker-seed", 0.05, 0.15),
            **_budgets(NOISE, 0.05, 0.15),
            **_budgets("maxent", 0.15),
            **_budgets(BLUR, 0.05),
            **_budgets(PIXELS, 0.05),
            **_budgets(DP_PIX, 0.15),
            "codes, oblivious": {"method": "codes", "balance": "none"},
        },
        dict.fromkeys(("codes", "viewmaker-seed 0.05", "noise 0.05", "noise 0.15"), _THREE),
    ),
    "pad-age": Study(
        "Age from 60, skin photographs of 128 px",
        "pad128",
        {"attribute": "age", "age_bins": (60.0,)},
        {"codes": {"method": "codes"}, **_budgets("viewmaker-seed", 0.05), **_budgets(NOISE, 0.05)},
    ),
    "phantom-sex": Study(
        "Sex, 4,000 generated patients of 32 px",
        "phantom4000",
        {"attribute": "sex"},
        {"codes": {"method": "codes"}, **_budgets("viewmaker-seed", 0.05), **_budgets(NOISE, 0.05)},
    ),
    "phantom-age": Study(
        "Age from 60, 4,000 generated patients of 32 px",
        "phantom4000",
        {"attribute": "age", "age_bins": (60.0,)},
        {"codes": {"method": "codes"}, **_budgets(NOISE, 0.05)},
    ),
}


def main() -> None:
    """Measure what is missing, or write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of prepared datasets")
    parser.add_argument("--out", type=Path, required=True, help="file of results, a line of JSON per release")
    parser.add_argument("--work", type=Path, default=Path("obfuscation-work"), help="folder of the releases")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--arms", nargs="+", help="arms to measure (default all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=_THREE)
    parser.add_argument("--dry-run", action="store_true", help="show what is missing and stop")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into a page and stop")
    args = parser.parse_args()
    if args.write:
        pages.put(args.write, "obfuscation", "\n".join(table(rows_of(args.out))) + "\n")
        return
    for seed in args.seeds:
        for name in args.studies:
            for arm in STUDIES[name].arms:
                if (not args.arms or arm in args.arms) and seed in STUDIES[name].seeds.get(arm, (0,)):
                    measure(name, arm, seed, args)


def rows_of(path: Path) -> list[Row]:
    """Return the finished releases."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def measure(name: str, arm: str, seed: int, args: argparse.Namespace) -> None:
    """Add one release to the file of results, unless it is there."""
    known = {"study": name, "arm": arm, "seed": seed}
    if any(known.items() <= row.items() for row in rows_of(args.out)):
        return
    if args.dry_run:
        print(name, arm, seed)
        return
    import meninx

    study = STUDIES[name]
    data = args.data / study.data.replace("SEED", str(seed))
    out = args.work / name / f"{arm.replace(' ', '-').replace(',', '')}-{seed}"
    shutil.rmtree(out, ignore_errors=True)  # of a measurement that was stopped
    out.parent.mkdir(parents=True, exist_ok=True)
    begun = time.process_time()
    meninx.obfuscate(data, out, device="cpu", seed=seed, **study.common, **study.arms[arm])
    row = {
        **known,
        "cpu": time.process_time() - begun,
        "meninx": meninx.__version__,
        "audit": json.loads((out / "release_audit.json").read_text()),
        "release": json.loads((out / "obfuscation.json").read_text()),
    }
    with args.out.open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    print(name, arm, seed, f"{row['cpu']:.0f} CPU s", flush=True)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of the table, one row per arm, numbers of several seeds in their order."""
    head = (
        "study",
        "method",
        "seeds",
        "mean change",
        "attacker chosen on validation: AUROC [95 %]",
        "highest of all attackers",
        "fixed attacker (not a privacy measure)",
        "certificate",
        "loss of AUROC, retrained, per label",
        "same patient recognised",
    )
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for name, study in STUDIES.items():
        for arm in study.arms:
            found = sorted(
                (row for row in rows if row["study"] == name and row["arm"] == arm),
                key=lambda row: int(row["seed"]),
            )
            if found:
                yield f"| {' | '.join(_cells(study.title, arm, found))} |"


def _cells(title: str, arm: str, rows: Sequence[Row]) -> Iterator[str]:
    audits = [row["audit"] for row in rows]
    yield title
    yield arm
    yield ", ".join(str(row["seed"]) for row in rows)
    yield _mean(audit["distortion"]["l1"] for audit in audits)
    yield "; ".join(_area(_chosen(audit)) for audit in audits)
    yield "; ".join(_area(_highest(audit)) for audit in audits)
    yield _mean(max(item["auroc"] or 0.5 for item in audit["static"]) for audit in audits)
    yield "; ".join(_certificates(audit) for audit in audits)
    yield "; ".join(_losses(audit) for audit in audits)
    yield "; ".join(_identity(audit) for audit in audits)


def _mean(values: Iterator[float]) -> str:
    return f"{mean(values):.3f}"


def _chosen(audit: Row) -> Row | None:
    """Return the attacker that the validation split chose; rows of before call it the worst."""
    name = audit.get("chosen", audit.get("worst"))
    return next((item for item in audit["attackers"] if name and item["name"] == name), None)


def _highest(audit: Row) -> Row:
    """Return the highest of all retrained attackers, those of codes and of whole patients among them."""
    every = list(audit["attackers"])
    for key in ("code_attacks", "code_attack", "per_patient"):  # rows of before hold one or none
        found = audit.get(key) or []
        every += [found] if isinstance(found, dict) else found
    return max(every, key=lambda item: item["auroc"] or 0.0)


def _area(item: Row | None) -> str:
    if item is None:
        return "too few patients to choose"
    if item["auroc"] is None:
        return str(item["refusal"])
    return f"{item['auroc']:.3f} [{item['low']:.3f}, {item['high']:.3f}]"


def _certificates(audit: Row) -> str:
    found = [
        f"at most {item['limit']:.3f}"
        if item["limit"] is not None
        else f"needs {item['needed']:,} for {item['target']:.2f}, has {min(item['patients']):,}"
        for item in audit.get("certificates", ())
    ]
    return ", ".join(found) or "none"


def _losses(audit: Row) -> str:
    rows = [item for item in audit["utility"] if item["regime"] == "retrained" and not item["group"]]
    return ", ".join(
        f"{item['label']} {item['loss']:.3f} [{item['loss_low']:.3f}, {item['loss_high']:.3f}]"
        if item["loss"] is not None
        else f"{item['label']} {item['refusal']}"
        for item in rows
    )


def _identity(audit: Row) -> str:
    found = {item["subject"]: item["auroc"] for item in audit["reidentification"]}
    shown = (f"{found[name]:.3f}" if found.get(name) else "none" for name in ("original", "released"))
    return " -> ".join(shown)


if __name__ == "__main__":
    main()
