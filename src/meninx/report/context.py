"""Everything that the page and the card are made of, gathered once.

What is missing is named, never invented.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from meninx.core import belonging
from meninx.core.artifacts import DeidRecord, Departure
from meninx.core.federation import ArmsRecord, FederatedRecord
from meninx.report import formatting, joint_privacy, sources, training_log
from meninx.report.config import ReportConfig
from meninx.report.evaluations import Compared
from meninx.report.joint_privacy import Joint
from meninx.report.obfuscated_datasets import ObfuscatedDataset
from meninx.report.sources import Dataset, Deid, TrainedRun

_RUNS_DRAWN = 4
_TIME = re.compile(r"^\d{4}-\d{2}-\d{2}_\d{6}_")  # with which `train` begins the name of a run's folder


@dataclass(frozen=True)
class Comparison:
    """A comparison, with the runs that it is about as far as they were given.

    Attributes:
        run: the run that was measured.
        baseline: the run it is compared with; None when that run was not given.
        compared: the numbers.
    """

    run: TrainedRun
    baseline: TrainedRun | None
    compared: Compared


@dataclass(frozen=True)
class ReportContext:
    """The sources of one report, by kind.

    Attributes:
        config: settings of the report.
        date: date on the page.
        deid: de-identified archives.
        datasets: prepared datasets, obfuscated ones among them.
        releases: what is known of obfuscated datasets, and audits of such alone.
        runs: finished runs, private ones first, then by time.
        unfinished: runs that took steps and were not finished.
        joints: private runs by shared patients with their joint cost, the dearest first.
        studies: federated studies, by name.
        arms: what the models of simulated studies are worth at each site.
        comparisons: paired differences that belong to the runs given.
        missing: sentences about what was not given or is not shown.
    """

    config: ReportConfig
    date: str
    deid: tuple[Deid, ...]
    datasets: tuple[Dataset, ...]
    runs: tuple[TrainedRun, ...]
    unfinished: tuple[TrainedRun, ...]
    joints: tuple[Joint, ...]
    studies: tuple[FederatedRecord, ...] = field(default=())
    arms: tuple[ArmsRecord, ...] = field(default=())
    releases: tuple[ObfuscatedDataset, ...] = field(default=())
    comparisons: tuple[Comparison, ...] = field(default=())
    missing: tuple[str, ...] = field(default=())

    @property
    def headline(self) -> TrainedRun | None:
        """The run that utility and fairness are judged of: the latest private one, else the latest.

        The sites of a federated study have one model: of them, the site where it does worst.
        """
        private = [run for run in self.runs if run.private] or list(self.runs)
        latest = max(private, key=lambda run: (run.record.finished, *joint_privacy.order(run)), default=None)
        if latest is None or latest.part is None:
            return latest
        name = (latest.part.study, latest.part.run)
        parts = [run for run in private if run.part is not None and (run.part.study, run.part.run) == name]
        return min(parts, key=lambda run: (_worth(run), joint_privacy.order(run)))

    @property
    def not_for_release(self) -> tuple[str, ...]:
        """Names of the private runs, and of the obfuscated datasets, whose noise came from a seed."""
        runs = [run.name for run in (*self.runs, *self.unfinished) if run.void]
        return (*runs, *(release.name for release in self.releases if release.deterministic))

    @property
    def counts_hidden(self) -> bool:
        """Whether a run declared its number of units, so that no count may show the true one.

        Differences of counts may not show it either.
        """
        return any(run.private and run.declared is not None for run in (*self.runs, *self.unfinished))

    @property
    def patients_known(self) -> bool:
        """Whether all sources name their patients; otherwise the page speaks of images."""
        runs = all(run.patients_known for run in (*self.runs, *self.unfinished))
        return runs and all(dataset.info.patients_known for dataset in self.datasets)

    @property
    def people(self) -> str:
        """``patients``, or ``images`` where no patients are known."""
        return "patients" if self.patients_known else "images"

    def own_dataset(self, run: TrainedRun) -> Dataset | None:
        """Return the dataset that a run was trained on, by digest.

        None when it was not given or is unknown.
        """
        known = run.data
        if known is None or not known.digest:
            return None
        which = 0 if known.images else 1
        return next((item for item in self.datasets if item.digests[which] == known.digest), None)

    def release_of(self, run: TrainedRun) -> ObfuscatedDataset | None:
        """Return the obfuscated dataset that a run was trained on; None when it was not given."""
        dataset = self.own_dataset(run)
        return next((item for item in self.releases if dataset and item.root == dataset.root), None)

    @property
    def obfuscated_runs(self) -> tuple[tuple[TrainedRun, ObfuscatedDataset | None], ...]:
        """The finished runs that were trained on an obfuscated dataset, with it where it was given."""
        return tuple((run, self.release_of(run)) for run in self.runs if run.record.obfuscated)

    def runs_of(self, dataset: Dataset) -> tuple[TrainedRun, ...]:
        """Return the runs that were trained on a dataset."""
        return tuple(run for run in (*self.runs, *self.unfinished) if self.own_dataset(run) is dataset)


def _worth(run: TrainedRun) -> float:
    """Return the headline of a run on its own test split; less than any where it is not known."""
    value = run.evidence.test.evaluation.headline.value if run.evidence.test is not None else math.nan
    return value if math.isfinite(value) else -math.inf


def gather(config: ReportConfig, paths: Sequence[Path]) -> ReportContext:
    """Return the context of the folders given.

    Raises:
        UsageError: a folder holds nothing that a stage wrote, or a run is given twice in two copies.
        DataError: a record is damaged or contradicts another.
        PrivacyRefusal: a privacy record contradicts its ledger.
    """
    found = sources.read(paths)
    given = sorted((item for item in found if isinstance(item, TrainedRun)), key=joint_privacy.order)
    every = _briefly_named(given)
    runs = sorted((run for run in every if run.finished), key=lambda run: not run.private)
    comparisons, refused = _comparisons(runs, every)
    context = ReportContext(
        config=config,
        date=config.date or datetime.now(UTC).date().isoformat(),
        deid=tuple(sorted((item for item in found if isinstance(item, Deid)), key=lambda item: item.name)),
        datasets=tuple(
            sorted(
                (item for item in found if isinstance(item, Dataset)),
                key=lambda item: (item.name, item.digests),
            )
        ),
        runs=tuple(runs),
        unfinished=tuple(run for run in every if not run.finished),
        joints=joint_privacy.groups(every),
        studies=tuple(
            sorted((item for item in found if isinstance(item, FederatedRecord)), key=lambda item: item.study)
        ),
        arms=tuple(item for item in found if isinstance(item, ArmsRecord)),
        releases=tuple(
            sorted(
                (item for item in found if isinstance(item, ObfuscatedDataset)), key=lambda item: item.name
            )
        ),
        comparisons=tuple(comparisons),
    )
    return ReportContext(**{**vars(context), "missing": tuple(dict.fromkeys([*refused, *_missing(context)]))})


def _briefly_named(runs: Sequence[TrainedRun]) -> list[TrainedRun]:
    """Return the runs without the time in their names, as far as that leaves no two of one name.

    A site's part of a study has the names of both.
    """
    brief = [
        _TIME.sub("", run.name) or run.name
        if run.part is None
        else sources.printable(f"{run.part.study} at {run.part.site}")
        for run in runs
    ]
    return [
        replace(run, name=name) if brief.count(name) == 1 else run
        for run, name in zip(runs, brief, strict=True)
    ]


def _comparisons(
    runs: Sequence[TrainedRun], every: Sequence[TrainedRun]
) -> tuple[list[Comparison], list[str]]:
    """Return the comparisons whose baseline is still what it was, and sentences about the others."""
    known = {run.record.id: run for run in every if run.record.id}
    found, refused = [], []
    for run in runs:
        for compared in run.evidence.comparisons:
            other = known.get(compared.baseline.run)
            problem = belonging.mismatch(compared.baseline, other.record) if other is not None else ""
            further = [item for pair in compared.record.repeats for item in (pair.run, pair.baseline)]
            changed = [item for item in further if item.run in known]
            again = next((p for p in (belonging.mismatch(i, known[i.run].record) for i in changed) if p), "")
            if problem or again:
                what = "the baseline" if problem else "one of the averaged runs"
                refused.append(f"The comparison of run {run.name} is not shown: {what} {problem or again}.")
            else:
                found.append(Comparison(run, other, compared))
    return found, refused


def _missing(context: ReportContext) -> list[str]:
    sentences = []
    if not context.deid:
        sentences.append(
            "No de-identification summary was given: this page cannot say whether identifiers were left."
        )
    if not context.datasets:
        sentences.append(
            f"No prepared dataset was given: counts of cases and {context.people} by split are not shown."
        )
    named = {digest for dataset in context.datasets for digest in dataset.archives}
    strangers = [
        item.name for item in context.deid if context.datasets and item.record.checksums not in named
    ]
    sentences += [f"No dataset given here names the archive {name} as its source." for name in strangers]
    if not (context.runs or context.unfinished):
        sentences.append("No run was given: nothing is known of a model.")
    sentences += [
        f"Run {run.name} is not finished ({run.record.step:,} steps recorded): no model of it is reported."
        for run in context.unfinished
    ]
    for run in context.runs:
        sentences += _missing_of(run)
    if (
        any(run.private for run in context.runs)
        and any(not run.private for run in context.runs)
        and not context.comparisons
    ):
        sentences.append(
            "Private and non-private runs were given without a paired comparison: their difference "
            "has no interval."
        )
    undeclared = [
        run.name for run in (*context.runs, *context.unfinished) if run.private and run.declared is None
    ]
    if context.counts_hidden and undeclared:
        tells = "tell" if len(undeclared) > 1 else "tells"
        sentences.append(
            f"A number was declared, but not by run {formatting.joined(undeclared)}, whose sample "
            f"rate {tells} "
            "the true one."
        )
    if context.joints:
        sentences.append(
            f"Private runs on the same {context.people} that were not given here are not counted in "
            "any epsilon above."
        )
    return [*sentences, *_missing_audits(context)]


def _missing_audits(context: ReportContext) -> list[str]:
    """Return which models nobody attacked."""
    if not any(run.audit is not None for run in context.runs):
        return [
            "No attack was carried out on the model: bounds above are proven from the ledger, not measured."
        ]
    return [
        f"Run {run.name} was not audited: no attack was carried out on its model."
        for run in context.runs
        if run.audit is None
    ]


def _missing_of(run: TrainedRun) -> list[str]:
    sentences = list(run.evidence.refused)
    if run.record.own_loop:
        sentences.append(
            f"Run {run.name} was trained in a loop of the user's own. Its data, labels and evaluation are "
            "the user's own and were not seen by meninx, so its utility and fairness are not known here. "
            "meninx drew the units of each step, clipped their gradients, added the noise and kept the "
            "account."
        )
    elif run.evidence.test is None:
        what = "utility and its group metrics are not known"
        sentences.append(
            f"Run {run.name} has no evaluation of its released weights on its own test split: its {what}."
        )
    elif not run.evidence.test.unseen:
        sentences.append(
            f"Whether training of run {run.name} saw any of the measured cases was not compared, or "
            "could not be."
        )
    if run.log.foreign:
        sentences.append(f"Run {run.name}: {training_log.FOREIGN}.")
    elif not run.log.curves:
        sentences.append(f"Run {run.name} has no training log: whether training diverged is not known.")
    if run.environment is None:
        sentences.append(f"Run {run.name} has no environment record: versions and command are not known.")
    if run.private and run.members is None:
        sentences.append(
            f"Run {run.name} has no list of its members: it is taken to share them with every other run."
        )
    if run.older:
        sentences.append(
            f"Run {run.name} was made by an earlier version of meninx; its records cannot be "
            "checked against each other."
        )
    return sentences


def deid_total(context: ReportContext, key: str) -> int:
    """Return the sum of a count over all archives; what is not a number counts as 0."""
    return sum(formatting.total(getattr(item.record, key)) or 0 for item in context.deid)


def drawn_runs(context: ReportContext) -> list[TrainedRun]:
    """Return at most four runs whose figures are drawn: the headline, its baselines, then others."""
    first = [context.headline] if context.headline is not None else []
    compared = [
        item.baseline for item in context.comparisons if item.run in first and item.baseline is not None
    ]
    ranked = [*first, *compared, *context.runs]
    chosen = [run for place, run in enumerate(ranked) if run.finished and run not in ranked[:place]][
        :_RUNS_DRAWN
    ]
    return [run for run in context.runs if run in chosen]


_OLDEST = 89  # years that the profile lets stand exactly
_KEEPING = ("k", "keep", "kept", "retain", "false", "pass")


def departures_of(record: DeidRecord) -> tuple[Departure, ...]:
    """Return every departure of an archive, also the overrides of a summary that an older version wrote."""
    known = {(item.name, item.chosen) for item in record.departures}
    older = record.overrides if isinstance(record.overrides, Mapping) else {}
    named = [
        Departure(kind="override", name=str(name), chosen=str(action), usual="the profile's action")
        for name, action in sorted(older.items(), key=str)
        if (str(name), str(action)) not in known
        and str(name) not in {item.name for item in record.departures}
    ]
    if record.overrides and not isinstance(record.overrides, Mapping) and not record.departures:
        named.append(Departure(kind="override", name="overrides", chosen="of unknown form", usual="none"))
    if record.max_age > _OLDEST and not any(item.name == "max_age" for item in record.departures):
        named.append(Departure(kind="age", name="max_age", chosen=str(record.max_age), usual=str(_OLDEST)))
    return (*record.departures, *named)


def keeps_attribute(item: Departure) -> bool:
    """Return whether a departure keeps an attribute that the profile would have removed or replaced."""
    return item.kind == "override" and item.chosen.strip().lower() in _KEEPING
