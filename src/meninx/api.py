"""The stages as functions; each takes folders and settings and returns a small result.

    >>> from meninx import api
    >>> api.deidentify.__name__, api.prepare.__name__, api.train.__name__, api.evaluate.__name__, api.report.__name__
    ('deidentify', 'prepare', 'train', 'evaluate', 'report')
    >>> api.sweep.__name__, api.verify.__name__
    ('sweep', 'verify')

Settings are the fields of the stage's config (the page of settings in docs/reference lists them). Nothing
heavy is imported before a function is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meninx.core import settings as config_settings
from meninx.core.progress import SILENT, Progress

if TYPE_CHECKING:
    from meninx.deid.stage import DeidResult
    from meninx.prepare.stage import PrepareResult
    from meninx.report.stage import ReportResult
    from meninx.train.evaluate import EvaluateResult
    from meninx.train.stage import TrainResult
    from meninx.train.sweep import SweepResult
    from meninx.verify.stage import VerifyResult

StrPath = str | Path
_HERE = "api"


def new_key(path: StrPath) -> None:
    """Make a site key for :func:`deidentify`; an existing file is never replaced."""
    from meninx.deid.keys import make_key

    make_key(Path(path))


def deidentify(source: StrPath, out: StrPath, *, progress: Progress = SILENT, **settings: Any) -> DeidResult:
    """De-identify the DICOM files below ``source`` into ``out``.

    ``settings`` are those of ``DeidConfig`` (``key`` is needed).
    """
    from meninx.deid.config import DeidConfig
    from meninx.deid.stage import run

    return run(config_settings.build(DeidConfig, settings, _HERE), Path(source), Path(out), progress=progress)


def prepare(
    source: StrPath | Sequence[StrPath], out: StrPath, *, progress: Progress = SILENT, **settings: Any
) -> PrepareResult:
    """Make a dataset of ``source`` in ``out``; ``settings`` are those of ``PrepareConfig``."""
    from meninx.prepare.config import PrepareConfig
    from meninx.prepare.stage import run

    sources = Path(source) if isinstance(source, (str, Path)) else [Path(item) for item in source]
    return run(config_settings.build(PrepareConfig, settings, _HERE), sources, Path(out), progress=progress)


def train(
    data: StrPath, *, out: StrPath | None = None, recipe: str = "", resume: StrPath | None = None,
    progress: Progress = SILENT, **settings: Any,
) -> TrainResult:  # fmt: skip
    """Train on a prepared dataset.

    ``recipe`` first, then ``settings`` of ``TrainConfig`` (``privacy`` is a mapping).

    Args:
        data: prepared dataset folder.
        out: folder of runs; ``runs`` by default.
        recipe: packaged recipe or TOML file.
        resume: run folder to continue with its own config; no other setting may stand beside it.
        progress: shows steps, loss and epsilon.
        **settings: fields of ``TrainConfig``; a nested mapping adds to the recipe's.

    Raises:
        UsageError: settings beside ``resume``, which the run would ignore; names them. See also
            ``meninx.train.stage.run``.
    """
    from meninx.core.errors import UsageError
    from meninx.train.stage import run

    idle = [*settings, *(["recipe"] if recipe else []), *(["out"] if out is not None else [])]
    if resume is not None and idle:
        fix = "leave them out, or start a new run without resume"
        raise UsageError(f"a resumed run keeps its own settings and would ignore {', '.join(idle)}; {fix}")
    config = _train_config(recipe, settings)
    again = None if resume is None else Path(resume)
    return run(
        config, Path(data), Path(out or "runs"), progress=progress, resume=again, recipe=recipe or None
    )


def evaluate(
    run: StrPath, *, data: StrPath | None = None, progress: Progress = SILENT, **settings: Any
) -> EvaluateResult:
    """Measure a run; ``settings`` are those of ``EvaluateConfig``."""
    from meninx.train.config import EvaluateConfig
    from meninx.train.evaluate import run as measure

    config = config_settings.build(EvaluateConfig, settings, _HERE)
    return measure(config, Path(run), None if data is None else Path(data), progress=progress)


def sweep(
    data: StrPath, out: StrPath, *, epsilons: Sequence[float], seeds: Sequence[int] = (0, 1, 2), recipe: str = "",
    non_private: bool = True, progress: Progress = SILENT, **settings: Any,
) -> SweepResult:  # fmt: skip
    """Train over epsilons and seeds; ``settings`` are those of ``TrainConfig``."""
    from meninx.train.config import GridConfig
    from meninx.train.sweep import run

    grid = GridConfig(epsilons=tuple(epsilons), seeds=tuple(seeds), non_private=non_private)
    return run(
        _train_config(recipe, settings), grid, Path(data), Path(out), progress=progress, recipe=recipe or None
    )


def report(
    sources: Sequence[StrPath], out: StrPath, *, progress: Progress = SILENT, **settings: Any
) -> ReportResult:
    """Write the report of some folders to one HTML file; ``settings`` are those of ``ReportConfig``."""
    from meninx.report.config import ReportConfig
    from meninx.report.stage import run

    config = config_settings.build(ReportConfig, settings, _HERE)
    return run(config, [Path(item) for item in sources], Path(out), progress=progress)


def verify(folder: StrPath, *, progress: Progress = SILENT) -> VerifyResult:
    """Check that a folder is as meninx wrote it.

    A failed check is in the result (``ok``, ``exit_code``), not raised.
    """
    from meninx.verify.stage import run

    return run(Path(folder), progress=progress)


def _train_config(recipe: str, settings: dict[str, Any]) -> Any:
    from meninx.train.config import TrainConfig

    return config_settings.resolve_recipe(TrainConfig, recipe, (settings, _HERE))
