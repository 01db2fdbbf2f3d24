"""The whole way, once: three hospitals' archives, clean DICOM, one dataset, two models, one report."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from meninx import api
from meninx.core.errors import UsageError, expected
from meninx.core.progress import SILENT, Progress
from meninx.core.result import Result
from meninx.demo.commands import Command, commands
from meninx.demo.config import DemoConfig
from meninx.imaging.phantom import PhantomConfig, write_archives

HOSPITALS = ("north", "south", "east")
MARK = ".meninx-demo"


@dataclass(frozen=True, kw_only=True)
class DemoResult(Result):
    """What the demo made; ``out`` is the report.

    Attributes:
        commands: what a user would have typed.
        results: what each stage said.
    """

    commands: tuple[str, ...]
    results: dict[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """Return the path of the report."""
        return f"{self.out}" if self.results else "\n".join(self.commands)


def run(config: DemoConfig, out: Path, *, progress: Progress = SILENT) -> DemoResult:
    """Run the demo into ``out`` and return the report's path.

    Everything after the synthetic cohort is the public API with the settings of the printed commands.

    Raises:
        UsageError: ``out`` holds something and ``overwrite`` is off, or it is not a demo's folder.
    """
    steps = commands(config, out, HOSPITALS)
    lines = tuple(step.line for step in steps)
    report = out / "report.html"
    if config.dry_run:
        return DemoResult(out=report, commands=lines)
    _claim(out, overwrite=config.overwrite)
    progress.note(f"a synthetic cohort: {config.patients} invented patients in {len(HOSPITALS)} hospitals -> {out / 'hospitals'}")
    cohort = PhantomConfig(patients=config.patients, hospitals=HOSPITALS, size=config.size, seed=config.seed)
    write_archives(cohort, out / "hospitals", progress=progress)
    results: dict[str, str] = {}
    for step in steps:
        progress.note(f"\n$ {step.line}")
        results[step.name] = _verb(step)(step, progress)
        progress.note(results[step.name])
    return DemoResult(out=report, commands=lines, results=results)


def _verb(step: Command) -> Callable[[Command, Progress], str]:
    return {"deid": _deid, "prepare": _prepare, "train": _train, "evaluate": _evaluate, "report": _report}[step.verb]


def _deid(step: Command, progress: Progress) -> str:
    source, out = step.paths
    api.new_key(Path(step.settings["key"]))
    return api.deidentify(source, out, progress=progress, **step.settings).summary()


def _prepare(step: Command, progress: Progress) -> str:
    source, out = step.paths
    return api.prepare(source, out, progress=progress, **step.settings).summary()


def _train(step: Command, progress: Progress) -> str:
    (data,) = step.paths
    return api.train(data, out=step.out, recipe=step.recipe, progress=progress, **step.settings).summary()


def _evaluate(step: Command, progress: Progress) -> str:
    (run,) = step.paths
    return api.evaluate(run, progress=progress, **step.settings).summary()


def _report(step: Command, progress: Progress) -> str:
    assert step.out is not None
    return api.report(step.paths, step.out, progress=progress, **step.settings).summary()


def _claim(out: Path, *, overwrite: bool) -> None:
    """Make the folder, or empty an earlier demo's; nothing else is ever removed."""
    if out.exists() and any(out.iterdir()):
        if not (out / MARK).is_file():
            raise UsageError(expected("a new or empty folder", got="one with other files", where=str(out), fix="choose another"))
        if not overwrite:
            raise UsageError(expected("a new folder", got="an earlier demo", where=str(out), fix="give --overwrite"))
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).write_text("made by `meninx demo`; may be replaced by it\n", encoding="utf-8")
