"""The demo: archives of three hospitals, clean DICOM, datasets, two studies, an audit and one report."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from meninx import api
from meninx.core import files, workspace
from meninx.core.errors import UsageError, expected
from meninx.core.progress import SILENT, Progress
from meninx.core.result import Result
from meninx.demo.commands import Command, commands
from meninx.demo.config import DemoConfig
from meninx.synthetic import PhantomConfig, write_archives

HOSPITALS = ("north", "south", "east")
MARK = ".meninx-demo"
REPORT = "report.html"
SMALLEST_RADIOGRAPH = 64  # rows and columns; smaller ones could hold no legible burned-in text


PREVALENCE, CONTRAST = 0.4, 1.8  # findings that some hundreds of patients are enough to learn under epsilon 8


@dataclass(frozen=True, kw_only=True)
class DemoResult(Result):
    """What the demo made; ``out`` is the report.

    Attributes:
        commands: the commands that a user would have typed.
        results: name of each step -> its summary.
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
        UsageError: ``out`` holds a finished demo and ``overwrite`` is off, or other files; or torch is not
            installed.
    """
    steps = commands(config, out, HOSPITALS)
    lines = tuple(step.line for step in steps)
    report = out / REPORT
    if config.dry_run:
        return DemoResult(out=report, commands=lines)
    _refuse_without_torch()
    workspace.outside(out)
    with _claimed(out.resolve(), overwrite=config.overwrite):
        results = _run(config, out, steps, progress)
    return DemoResult(out=report, commands=lines, results=results)


def _run(config: DemoConfig, out: Path, steps: Iterable[Command], progress: Progress) -> dict[str, str]:
    """Make the cohort, run every step and return the summary of each."""
    where = out / "hospitals"
    progress.note(f"{config.patients} invented patients in {len(HOSPITALS)} hospitals -> {where}")
    size = max(SMALLEST_RADIOGRAPH, config.size)
    cohort = PhantomConfig(
        patients=config.patients,
        hospitals=HOSPITALS,
        size=size,
        seed=config.seed,
        prevalence=PREVALENCE,
        contrast=CONTRAST,
    )
    write_archives(cohort, where, progress=progress)
    results: dict[str, str] = {}
    for step in steps:
        progress.note(f"\n$ {step.line}")
        results[step.name] = _verb(step)(step, progress)
        progress.note(results[step.name])
    return results


def _verb(step: Command) -> Callable[[Command, Progress], str]:
    return {
        "deid": _deid,
        "prepare": _prepare,
        "federate simulate": _simulate,
        "evaluate": _evaluate,
        "audit": _audit,
        "report": _report,
    }[step.verb]


def _deid(step: Command, progress: Progress) -> str:
    source, out = step.paths
    api.new_key(Path(step.settings["key"]))
    return api.deidentify(source, out, progress=progress, **step.settings).summary()


def _prepare(step: Command, progress: Progress) -> str:
    source, out = step.paths
    return api.prepare(source, out, progress=progress, **step.settings).summary()


def _simulate(step: Command, progress: Progress) -> str:
    assert step.out is not None
    return api.simulate(
        step.paths, step.out, recipe=step.recipe, progress=progress, **step.settings
    ).summary()


def _evaluate(step: Command, progress: Progress) -> str:
    (run,) = step.paths
    return api.evaluate(run, progress=progress, **step.settings).summary()


def _audit(step: Command, progress: Progress) -> str:
    (run,) = step.paths
    return api.audit(run, progress=progress, **step.settings).summary()


def _report(step: Command, progress: Progress) -> str:
    assert step.out is not None
    return api.report(step.paths, step.out, progress=progress, **step.settings).summary()


def _refuse_without_torch() -> None:
    """Refuse before anything slow when the packages of training are not installed."""
    if importlib.util.find_spec("torch") is None:
        fix = "pip install 'meninx[train]'"
        raise UsageError(expected("the packages of the extra train", got="no torch", where="demo", fix=fix))


@contextmanager
def _claimed(out: Path, *, overwrite: bool) -> Iterator[None]:
    """Hold a new folder for a demo. An earlier demo is moved aside, and back if the new one fails.

    Nothing else is removed.
    """
    aside = out.with_name(f".{out.name}.earlier")
    if (aside / MARK).is_file():  # the last run was killed before it could put the earlier demo back
        _remove_demo(out)
        aside.rename(out)
    _refuse(out, overwrite=overwrite)
    if _finished(out):
        out.rename(aside)
    _remove_demo(out)
    out.mkdir(parents=True, exist_ok=True)
    files.write_text(out / MARK, "made by `meninx demo`; may be replaced by it\n")
    try:
        yield
    except BaseException:
        if (aside / MARK).is_file():
            _remove_demo(out)
            aside.rename(out)
        raise
    _remove_demo(aside)


def _refuse(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder with other files, and a finished demo unless ``overwrite`` is set."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MARK).is_file():
        raise UsageError(
            expected(
                "a new or empty folder", got="one with other files", where=str(out), fix="choose another"
            )
        )
    if _finished(out) and not overwrite:
        raise UsageError(
            expected("a new folder", got="an earlier demo", where=str(out), fix="give --overwrite")
        )


def _finished(out: Path) -> bool:
    return (out / MARK).is_file() and (out / REPORT).is_file()


def _remove_demo(out: Path) -> None:
    if (out / MARK).is_file():
        shutil.rmtree(out)
