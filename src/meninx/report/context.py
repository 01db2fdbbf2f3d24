"""Everything that the page and the card are made of, gathered once; what is missing is said, never invented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from meninx.report import sources
from meninx.report.config import ReportConfig
from meninx.report.sources import Comparison, Dataset, Deid, TrainedRun


@dataclass(frozen=True)
class Context:
    """The sources of one report, by kind.

    Attributes:
        config: what the report was told.
        date: date on the page.
        deid: de-identified archives.
        datasets: prepared datasets.
        runs: runs, private ones first.
        comparisons: paired differences.
        missing: sentences about what was not given.
    """

    config: ReportConfig
    date: str
    deid: tuple[Deid, ...]
    datasets: tuple[Dataset, ...]
    runs: tuple[TrainedRun, ...]
    comparisons: tuple[Comparison, ...]
    missing: tuple[str, ...]

    @property
    def headline(self) -> TrainedRun | None:
        """The run that the verdict is about: the first private one, else the first."""
        return self.runs[0] if self.runs else None

    @property
    def not_for_release(self) -> tuple[str, ...]:
        """Names of the private runs whose noise came from a seed."""
        stamped = (run for run in self.runs if run.not_for_release or bool((run.privacy or {}).get("deterministic")))
        return tuple(run.name for run in stamped if run.private)


def gather(config: ReportConfig, paths: Sequence[Path]) -> Context:
    """Return the context of the folders given.

    Raises:
        UsageError: a folder holds nothing that a stage wrote.
        DataError: a summary cannot be read.
    """
    found = sources.read(paths)
    deid = tuple(item for item in found if isinstance(item, Deid))
    datasets = tuple(item for item in found if isinstance(item, Dataset))
    runs = sorted((item for item in found if isinstance(item, TrainedRun)), key=lambda run: not run.private)
    comparisons = tuple(item for item in found if isinstance(item, Comparison))
    return Context(
        config=config,
        date=config.date or datetime.now(UTC).date().isoformat(),
        deid=deid,
        datasets=datasets,
        runs=tuple(runs),
        comparisons=comparisons,
        missing=tuple(_missing(deid, datasets, tuple(runs), comparisons)),
    )


def _missing(
    deid: Sequence[Deid], datasets: Sequence[Dataset], runs: Sequence[TrainedRun], comparisons: Sequence[Comparison]
) -> list[str]:
    said = []
    if not deid:
        said.append("No de-identification summary was given: this page cannot say whether identifiers were left.")
    if not datasets:
        said.append("No prepared dataset was given: counts of cases and patients by split are not shown.")
    if not runs:
        said.append("No run was given: nothing is known of a model.")
    for run in runs:
        if run.evaluation is None:
            said.append(f"Run {run.name} has no evaluation: its utility and its group metrics are not known.")
        if not run.environment:
            said.append(f"Run {run.name} has no environment record: versions and command are not known.")
        if run.private and not (run.privacy or {}).get("risk"):
            said.append(f"Run {run.name} has no attack bounds beside its epsilon.")
    if any(run.private for run in runs) and any(not run.private for run in runs) and not comparisons:
        said.append("Private and non-private runs were given without a paired comparison: their difference has no interval.")
    said.append("No attack was carried out on the model: bounds below are proven from the plan, not measured.")
    return said
