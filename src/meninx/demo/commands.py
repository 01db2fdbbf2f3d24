"""The steps of the demo, each as the command that a user types and as the same settings for the API."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meninx.demo.config import DemoConfig

TRAINING_SHARE = 0.7  # of the patients, by the default shares of `prepare`
BATCH_SHARE = 0.6  # of a hospital's training patients: few steps in which most take part
PLAIN, PRIVATE = "non-private", "private"
ROUNDS, LOCAL_EPOCHS = 6, 1  # of the study without privacy
PRIVATE_ROUNDS, LOCAL_STEPS = 20, 2  # of the study with privacy
AUDIT_REFERENCES, AUDIT_STEPS = 2, 150  # reference models, and steps of the control: half of the defaults


@dataclass(frozen=True, kw_only=True)
class Command:
    """One step.

    Attributes:
        name: unique name of the step.
        verb: the verb of the command line.
        paths: positional arguments.
        settings: settings by their flat names.
        recipe: recipe name, or empty.
        out: value of ``--out``, or None.
        flags: further flags of the command line, for which the API has no setting.
    """

    name: str
    verb: str
    paths: tuple[Path, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    out: Path | None = None
    flags: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The command as a user types it."""
        words = ["meninx", *self.verb.split(), *map(str, self.paths)]
        words += ["--recipe", self.recipe] if self.recipe else []
        words += ["--out", str(self.out)] if self.out else []
        return shlex.join([*words, *self.flags, *_flags(self.settings)])


def commands(config: DemoConfig, out: Path, hospitals: Sequence[str]) -> tuple[Command, ...]:
    """Return the steps after the cohort is there, in order."""
    sites = [out / "data" / hospital for hospital in hospitals]
    studies = {name: out / "runs" / name for name in (PLAIN, PRIVATE)}
    return (
        *(_deid(out, hospital) for hospital in hospitals),
        *(_prepare(out, hospital, config) for hospital in hospitals),
        _without_privacy(sites, studies[PLAIN], config),
        _with_privacy(sites, studies[PRIVATE], config),
        *(_evaluate(studies, hospital) for hospital in hospitals),
        _audit(studies[PRIVATE] / "sites" / hospitals[0] / "latest", config),
        Command(
            name="report", verb="report", out=out / "report.html",
            settings={"title": "meninx demo: three hospitals train on invented patients"},
            paths=(out / "clean", out / "data", *studies.values()),
        ),
    )  # fmt: skip


def delta(patients: int) -> float:
    """Return the largest power of ten that is at most a tenth of 1 / training patients of all hospitals."""
    return float(10.0 ** math.floor(-math.log10(10 * TRAINING_SHARE * patients)))


def _deid(out: Path, hospital: str) -> Command:
    return Command(
        name=f"deid-{hospital}",
        verb="deid",
        paths=(out / "hospitals" / hospital / "archive", out / "clean" / hospital),
        settings={"key": out / "keys" / f"{hospital}.key", "site": hospital},
        flags=("--new-key",),
    )


def _prepare(out: Path, hospital: str, config: DemoConfig) -> Command:
    return Command(
        name=f"prepare-{hospital}", verb="prepare", paths=(out / "clean" / hospital, out / "data" / hospital),
        settings={
            "reader": "dicom", "name": hospital,
            "table": f"../../hospitals/{hospital}/labels.csv",  # relative to the source
            "crosswalks": ("private/crosswalk_uids.csv",), "modalities": ("DX",),
            "size": (config.size, config.size), "split": "exact", "synthetic": True,
            "label_columns": ("effusion", "pneumothorax", "nodule"),
        },
    )  # fmt: skip


def _without_privacy(sites: Sequence[Path], out: Path, config: DemoConfig) -> Command:
    """Return the study without privacy, and each hospital alone and all data in one place beside it."""
    return Command(
        name=f"train-{PLAIN}", verb="federate simulate", paths=tuple(sites), recipe="demo", out=out,
        settings={"rounds": ROUNDS, "local_epochs": LOCAL_EPOCHS, "baselines": True,
                  "train": {"seed": config.seed, **_repeatable(config)}},
    )  # fmt: skip


def _with_privacy(sites: Sequence[Path], out: Path, config: DemoConfig) -> Command:
    batch = max(1, round(BATCH_SHARE * TRAINING_SHARE * config.patients / len(sites)))
    train = {"seed": config.seed, "batch_size": batch, "physical_batch": batch, "epsilon": config.epsilon,
             "delta": delta(config.patients), **_repeatable(config)}  # fmt: skip
    return Command(
        name=f"train-{PRIVATE}", verb="federate simulate", paths=tuple(sites), recipe="demo-dp", out=out,
        settings={"rounds": PRIVATE_ROUNDS, "local_steps": LOCAL_STEPS, "train": train},
    )  # fmt: skip


def _repeatable(config: DemoConfig) -> dict[str, Any]:
    return {"deterministic": True} if config.deterministic else {}


def _evaluate(studies: Mapping[str, Path], hospital: str) -> Command:
    """Return the measurement of the private model on a hospital's test patients, against the other model."""
    plain, private = (studies[name] / "sites" / hospital / "latest" for name in (PLAIN, PRIVATE))
    return Command(
        name=f"evaluate-{hospital}", verb="evaluate", paths=(private,), settings={"baseline": plain}
    )


def _audit(run: Path, config: DemoConfig) -> Command:
    """Return the audit of one hospital's run of the private study, by a quick plan."""
    return Command(
        name="audit", verb="audit", paths=(run,),
        settings={"references": AUDIT_REFERENCES, "control_steps": AUDIT_STEPS, "seed": config.seed,
                  **_repeatable(config)},
    )  # fmt: skip


def _flags(settings: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for key, value in settings.items():
        name = key.replace("_", "-")
        if isinstance(value, bool):
            words += [f"--{name}"] if value else [f"--no-{name}"]
        elif isinstance(value, Mapping):
            plain = {True: "true", False: "false"}  # a flag of an open table takes its value as TOML
            for inner, item in value.items():
                text = plain[item] if isinstance(item, bool) else item
                words += _flags({f"{name}.{inner}": text})
        elif isinstance(value, tuple):
            words += [f"--{name}", *map(str, value)]
        else:
            words += [f"--{name}", str(value)]
    return words
