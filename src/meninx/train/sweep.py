"""Utility against epsilon: one network, split and protocol at several epsilons and seeds.

One further arm is trained without privacy.
"""

from __future__ import annotations

import csv
import io
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meninx.core import artifacts, belonging, files, integrity, plain, workspace
from meninx.core import run as runs
from meninx.core.artifacts import DataRecord, EvaluationRecord, RunRecord, SweepRecord
from meninx.core.budget import PrivacySpent
from meninx.core.errors import ConfigError, UsageError, problem
from meninx.core.manifest import Manifest, TaskKind
from meninx.core.progress import SILENT, Progress
from meninx.core.result import Result
from meninx.core.run import Run
from meninx.learn import ledger_file
from meninx.learn.task import with_network
from meninx.metrics.estimates import Estimate, Evaluation
from meninx.privacy.composition import compose
from meninx.privacy.ledger import Ledger
from meninx.train import effect, evaluate, identity, stage
from meninx.train.config import EvaluateConfig, GridConfig, PrivacyConfig, TrainConfig
from meninx.train.planning import make_plan
from meninx.train.sweep_figure import draw


@dataclass(frozen=True, kw_only=True)
class Row:
    """The results of one epsilon of a sweep over its seeds.

    Attributes:
        epsilon: the target; infinity without privacy.
        metric: name of the headline metric.
        mean: mean over seeds of the test metric.
        deviation: standard deviation over seeds; NaN for a single seed.
        low: mean over seeds of the lower ends of the patient-bootstrap intervals.
        high: mean over seeds of the upper ends.
        seeds: number of seeds.
        cases: number of measured cases.
    """

    epsilon: float
    metric: str
    mean: float
    deviation: float
    low: float
    high: float
    seeds: int
    cases: int


@dataclass(frozen=True, kw_only=True)
class SweepResult(Result):
    """A finished sweep: ``sweep.csv``, ``sweep.json``, ``sweep.svg`` and ``sweep.png`` lie in ``out``.

    Attributes:
        rows: one row per epsilon, the run without privacy last.
        runs: number of runs.
        together: privacy cost of all private runs in the folder together, including earlier attempts; None
            if there are none, or if they are deterministic and give no protection.
        group_costs: the command of each epsilon that measures whether privacy costs some groups more, over
            all seeds.
    """

    rows: tuple[Row, ...]
    runs: int
    together: PrivacySpent | None
    group_costs: tuple[str, ...] = ()

    def summary(self) -> str:
        """Return the table as text."""
        head = f"{'epsilon':>10}  {self.rows[0].metric:>8}  interval          sd over seeds  seeds"
        lines = [
            f"{_name(row.epsilon):>10}  {row.mean:8.3f}  [{row.low:.3f}, {row.high:.3f}]  "
            f"{_or_dash(row.deviation):>13}  {row.seeds:5d}"
            for row in self.rows
        ]
        return "\n".join(
            [
                head,
                *lines,
                f"n = {self.rows[0].cases} test cases; figure and table in {self.out}",
                *self._cost(),
                *(f"does privacy cost some groups more? {command}" for command in self.group_costs),
            ]
        )

    def _cost(self) -> list[str]:
        if self.together is None:
            return []
        spent = (
            f"epsilon = {self.together.epsilon:.4g} at delta = {self.together.delta:g} per "
            f"{self.together.unit}"
        )
        return [
            (
                f"all private runs together: {spent}; it counts when more than one, or the choice among "
                "them, is released"
            )
        ]


def run(
    config: TrainConfig,
    grid: GridConfig,
    source: Path,
    out: Path,
    *,
    progress: Progress = SILENT,
    recipe: str | None = None,
) -> SweepResult:
    """Train and evaluate every missing cell of the grid, then write table and figure.

    Args:
        config: settings of all runs; its ``privacy`` gives delta, unit and clipping, its ``seed`` is
            replaced.
        grid: epsilons and seeds.
        source: prepared dataset.
        out: folder of the sweep.
        progress: shows the runs.
        recipe: name of the recipe, for the run folders.

    Raises:
        ConfigError: the grid is empty.
        UsageError: ``out`` is inside a dataset, or contains a sweep with other settings or another dataset,
            or runs of an older version.
        RunLocked: another process works on this sweep.
    """
    if not grid.seeds or not (grid.epsilons or grid.non_private):
        raise ConfigError(
            problem(
                "a sweep needs at least one seed, and at least one epsilon or a run without privacy",
                where="sweep",
            )
        )
    config, data = stage.named(config, recipe), Manifest.read(source)
    config = with_network(config, data.info)
    effect.refuse_idle_sweep(config)
    workspace.outside(out, [source])
    with workspace.held(out):
        return _filled(config, grid, data, out, progress)


def _filled(
    config: TrainConfig, grid: GridConfig, data: Manifest, out: Path, progress: Progress
) -> SweepResult:
    """Fill the cells of a sweep whose folder this process has locked."""
    places = {
        (epsilon, seed): out / "cells" / f"epsilon-{_name(epsilon)}_seed-{seed}"
        for epsilon, seed in _cells(grid)
    }
    for (epsilon, seed), cell in places.items():  # all of them, before any is trained
        _refuse_other(_configured(config, epsilon, seed), data, cell)
    cells: dict[float, list[Estimate]] = {}
    identities = []
    for (epsilon, seed), cell in places.items():
        progress.note(f"sweep: epsilon {_name(epsilon)}, seed {seed}")
        trained = _trained(_configured(config, epsilon, seed), data.root, cell, progress)
        cells.setdefault(epsilon, []).append(_headline(trained, cell))
        identities.append(trained.id)
    rows = tuple(_row(epsilon, tables) for epsilon, tables in cells.items())
    ledgers = _private_ledgers(out)
    together = None if config.runtime.deterministic else _together(tuple(ledgers.values()))
    _write(out, rows, together, tuple(dict.fromkeys([*identities, *ledgers])))
    return SweepResult(
        out=out,
        rows=rows,
        runs=sum(len(tables) for tables in cells.values()),
        together=together,
        group_costs=tuple(_group_costs(places, data)),
    )


def _group_costs(places: Mapping[tuple[float, int], Path], data: Manifest) -> Iterator[str]:
    """Yield the command of each epsilon that compares its runs with those without privacy, seed by seed."""
    seeds = [seed for epsilon, seed in places if math.isinf(epsilon)]
    if not seeds or not data.info.attributes or data.info.task is TaskKind.SEGMENTATION:
        return
    for epsilon in dict.fromkeys(epsilon for epsilon, _ in places if not math.isinf(epsilon)):
        pairs = [(places[epsilon, seed] / "latest", places[math.inf, seed] / "latest") for seed in seeds]
        words = ["meninx", "evaluate", str(pairs[0][0]), "--baseline", str(pairs[0][1])]
        words += ["--repeats", *(f"{run}={plain}" for run, plain in pairs[1:])] if len(pairs) > 1 else []
        yield shlex.join(words)


def _private_ledgers(out: Path) -> dict[str, Ledger]:
    """Return the ledgers of all private runs in the cells that took a step, by run.

    Earlier attempts are included, because their privacy cost was spent as well.
    """
    folders = [
        path
        for path in sorted((out / "cells").glob("*/*"))
        if (path / "private").is_dir() and not path.is_symlink()
    ]
    found = {
        run.record.id: ledger_file.read(run) for run in map(runs.open_run, folders) if run.record is not None
    }
    return {name: ledger for name, ledger in found.items() if ledger.accounts or ledger.pending}


def _together(ledgers: Sequence[Ledger]) -> PrivacySpent | None:
    """Return the composed privacy cost of private runs, at the largest delta of one run."""
    deltas = [ledger.accounts[-1].first.delta for ledger in ledgers if ledger.accounts]
    return compose(ledgers, delta=max(deltas)) if deltas else None


def _cells(grid: GridConfig) -> Iterator[tuple[float, int]]:
    for epsilon in (*sorted(set(grid.epsilons)), *((math.inf,) if grid.non_private else ())):
        for seed in dict.fromkeys(grid.seeds):
            yield epsilon, seed


def _configured(config: TrainConfig, epsilon: float, seed: int) -> TrainConfig:
    """Return the config of a cell.

    All cells select their weights by the same rule, so that privacy is the only difference.
    """
    select = "last" if config.validation.select == "auto" else config.validation.select
    shared = config.replace(seed=seed, select=select, export=())
    if math.isinf(epsilon):
        return effect.without_privacy(shared)
    terms = config.privacy or PrivacyConfig(epsilon=epsilon)
    return shared.replace(privacy=terms.replace(epsilon=epsilon, noise_multiplier=None))


def _begun(cell: Path) -> Run | None:
    """Return the run of a cell, or None; a run whose start failed was removed and counts as none."""
    latest = cell / "latest"
    return runs.open_run(latest) if (latest / "private").is_dir() else None


def _refuse_other(config: TrainConfig, data: Manifest, cell: Path) -> None:
    """Refuse a cell whose run has other settings or another dataset."""
    begun = _begun(cell)
    if begun is None:
        return
    known = artifacts.read(begun.root, DataRecord)
    if begun.record is None or known is None:
        raise UsageError(
            problem("the run was made by an older version", where=cell.name, fix="give another --out")
        )
    if not identity.same_data(known, data.root):
        fix = "give another --out, or the earlier dataset"
        raise UsageError(problem("the sweep was made with another dataset", where=cell.name, fix=fix))
    wanted = effect.resolved(config, data, make_plan(config, data))
    if (
        stage.stored_config(begun).replace(
            device=config.runtime.device,
            threads=config.runtime.threads,
            workers=config.runtime.workers,
            cache=config.runtime.cache,
            memory_format=wanted.runtime.memory_format,
        )
        != wanted
    ):
        fix = "give another --out, or the earlier settings"
        raise UsageError(problem("the sweep was made with other settings", where=cell.name, fix=fix))


def _trained(config: TrainConfig, source: Path, cell: Path, progress: Progress) -> RunRecord:
    """Return the identity of a cell's run, after training and measuring it if necessary."""
    begun = _begun(cell)
    if begun is None or not _is_measured(begun):
        trained = stage.run(config, source, cell, progress=progress, resume=begun.root if begun else None)
        evaluate.run(
            EvaluateConfig(predictions=(), device=config.runtime.device),
            trained.out,
            source,
            progress=progress,
        )
        begun = runs.open_run(trained.out)
    return artifacts.require(begun.root, RunRecord, fix="give another --out")


def _is_measured(run: Run) -> bool:
    """Return whether the evaluation of a run exists and is in the list of its release.

    An evaluation that was killed before it was listed is repeated. One that was changed later is refused.
    """
    path = run.root / artifacts.place(EvaluationRecord)
    return path.is_file() and path.name in integrity.read(run.release)


def _headline(trained: RunRecord, cell: Path) -> Estimate:
    """Return the main estimate of a cell; refuse one that was not measured on its run's test split."""
    fix = "remove release/evaluation.json and start the sweep again"
    found = belonging.require(cell / "latest", trained, EvaluationRecord, fix=fix)
    return Evaluation.from_table(found.evaluation).headline


def _row(epsilon: float, tables: Sequence[Estimate]) -> Row:
    values = np.array([table.value for table in tables])
    return Row(
        epsilon=epsilon,
        metric=tables[0].name,
        mean=float(values.mean()),
        deviation=float(values.std(ddof=1)) if len(values) > 1 else math.nan,
        low=float(np.mean([table.low for table in tables])),
        high=float(np.mean([table.high for table in tables])),
        seeds=len(values),
        cases=tables[0].n,
    )


def _write(out: Path, rows: Sequence[Row], together: PrivacySpent | None, identities: Sequence[str]) -> None:
    names = list(Row.__dataclass_fields__)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([getattr(row, name) for name in names] for row in rows)
    files.write_text(out / "sweep.csv", buffer.getvalue())
    tables = tuple(plain.to_plain(row) for row in rows)
    artifacts.write(out, SweepRecord(rows=tables, together=plain.to_plain(together), runs=tuple(identities)))
    draw(rows, out / "sweep.svg")
    draw(rows, out / "sweep.png")


def _name(epsilon: float) -> str:
    return "none" if math.isinf(epsilon) else f"{epsilon:g}"


def _or_dash(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
