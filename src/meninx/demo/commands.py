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
BATCH_SHARE = 0.6  # of the training patients: few steps in which most take part


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
        words = ["meninx", self.verb, *map(str, self.paths)]
        words += ["--recipe", self.recipe] if self.recipe else []
        words += ["--out", str(self.out)] if self.out else []
        return shlex.join([*words, *self.flags, *_flags(self.settings)])


def commands(config: DemoConfig, out: Path, hospitals: Sequence[str]) -> tuple[Command, ...]:
    """Return the steps after the cohort is there, in order."""
    clean, data, runs = out / "clean", out / "data", out / "runs"
    return (
        *(_deid(out, hospital) for hospital in hospitals),
        _prepare(out, config),
        _train(data, runs, config, private=False),
        _train(data, runs, config, private=True),
        Command(name="evaluate", verb="evaluate", paths=(runs / "non-private" / "latest",)),
        Command(
            name="evaluate-private", verb="evaluate", paths=(runs / "private" / "latest",),
            settings={"baseline": runs / "non-private" / "latest"},
        ),
        Command(
            name="report", verb="report", out=out / "report.html",
            settings={"title": "meninx demo: invented patients of three hospitals"},
            paths=(clean, data, runs / "non-private" / "latest", runs / "private" / "latest"),
        ),
    )  # fmt: skip


def delta(patients: int) -> float:
    """Return the largest power of ten that is at most a tenth of 1 / training patients."""
    return float(10.0 ** math.floor(-math.log10(10 * TRAINING_SHARE * patients)))


def _deid(out: Path, hospital: str) -> Command:
    return Command(
        name=f"deid-{hospital}",
        verb="deid",
        paths=(out / "hospitals" / hospital / "archive", out / "clean" / hospital),
        settings={"key": out / "keys" / f"{hospital}.key", "site": hospital},
        flags=("--new-key",),
    )


def _prepare(out: Path, config: DemoConfig) -> Command:
    return Command(
        name="prepare", verb="prepare", paths=(out / "clean", out / "data"),
        settings={
            "reader": "dicom", "name": "demo",
            "table": "../../hospitals/{site}/labels.csv",  # relative to the folder of each site
            "crosswalks": ("private/crosswalk_uids.csv",), "modalities": ("DX",),
            "size": (config.size, config.size), "split": "exact", "synthetic": True,
            "label_columns": ("effusion", "pneumothorax", "nodule"),
        },
    )  # fmt: skip


def _train(data: Path, runs: Path, config: DemoConfig, *, private: bool) -> Command:
    settings: dict[str, Any] = {"seed": config.seed}
    if config.deterministic:
        settings["deterministic"] = True
    if private:
        settings["batch_size"] = max(1, round(BATCH_SHARE * TRAINING_SHARE * config.patients))
        settings |= {"epsilon": config.epsilon, "delta": delta(config.patients)}
    kind = "private" if private else "non-private"
    recipe = "demo-dp" if private else "demo"
    return Command(
        name=f"train-{kind}", verb="train", paths=(data,), recipe=recipe, out=runs / kind, settings=settings
    )


def _flags(settings: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for key, value in settings.items():
        name = key.replace("_", "-")
        if isinstance(value, bool):
            words += [f"--{name}"] if value else [f"--no-{name}"]
        elif isinstance(value, tuple):
            words += [f"--{name}", *map(str, value)]
        else:
            words += [f"--{name}", str(value)]
    return words
