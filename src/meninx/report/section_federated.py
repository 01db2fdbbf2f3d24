"""The section on federated training: who took part, what each round did, who saw what, and what was spent.

Runs of one study are shown as one study, whether or not the folder of its coordinator was given.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from meninx.core.federation import ArmResult, FederatedRecord, FederatedRound
from meninx.core.percentages import percent
from meninx.report import formatting
from meninx.report.context import ReportContext
from meninx.report.sources import TrainedRun, printable
from meninx.report.table_model import ReportTable, Section, TableCell, facts

_AGGREGATIONS = {
    "masks": "masks that cancel in the sum (secure aggregation)",
    "shares": "additive shares among the sites (secure aggregation)",
    "ckks": "encrypted under a key of the sites (secure aggregation)",
    "plain": "none: the coordinator sees every update",
}
_ARMS = {"local": "alone", "pooled": "all data in one place", "federated": "together"}
_NO_BOUND = (
    "Secure aggregation hides single updates. What the sums and the model tell about patients is bounded by "
    "differential privacy alone."
)
_SHOWN = (
    "The updates of single sites are not hidden. What they and the model tell about patients is bounded by "
    "differential privacy alone."
)
_NOT_PRIVATE = (
    "The sites of study {} trained without differential privacy: nothing bounds what the model, or the sums, "
    "tell about patients."
)
_SIMULATED = (
    "Simulated: one process held the data, the keys and the updates of all sites. The rounds, the masks and "
    "the noise are those of a real study, but nothing was hidden from whoever ran it."
)
_CLOSE = 1e-6  # relative difference of two computations of one epsilon


@dataclass(frozen=True)
class _Study:
    """One run of a study, as far as it was given.

    Attributes:
        record: the coordinator's; None when its folder was not given.
        parts: the runs of its sites that were given, by site.
    """

    record: FederatedRecord | None
    parts: tuple[TrainedRun, ...]

    @property
    def name(self) -> str:
        """Name of the study."""
        if self.record is not None:
            return printable(self.record.study)
        return next((printable(run.part.study) for run in self.parts if run.part is not None), "")

    @property
    def private(self) -> bool:
        """Whether the sites trained with differential privacy."""
        return self.record.private if self.record is not None else any(run.private for run in self.parts)

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites of the signed roster, or those whose runs were given."""
        if self.record is not None:
            return self.record.sites
        return tuple(run.part.site for run in self.parts if run.part is not None)

    @property
    def number(self) -> int:
        """Number of sites of the signed roster."""
        stated = max((run.part.sites for run in self.parts if run.part is not None), default=0)
        return len(self.record.sites) if self.record is not None else max(stated, len(self.sites))

    def part(self, site: str) -> TrainedRun | None:
        """Return the run of a site; None when it was not given."""
        return next((run for run in self.parts if run.part is not None and run.part.site == site), None)

    def epsilon(self, site: str) -> float | None:
        """Return the epsilon of a site: by its ledger, else as the coordinator was told; None without one."""
        run = self.part(site)
        if run is not None:
            return _spent(run)
        return self.record.epsilon.get(site) if self.record is not None else None

    @property
    def worst(self) -> tuple[str, float] | None:
        """The site with the largest epsilon, and that epsilon; None where none is known.

        The coordinator tells each site the largest epsilon, not whose it is.
        """
        known = [(value, site) for site in self.sites if (value := self.epsilon(site)) is not None]
        value, site = max(known, default=(-math.inf, ""))
        largest = self.record.largest if self.record is not None and self.copy else None
        if largest is not None and largest > value * (1 + _CLOSE):
            return "another site", largest
        return (site, value) if known else None

    @property
    def copy(self) -> str:
        """Name of the site whose copy the record is; empty for the coordinator's own record."""
        return self.record.copy_of if self.record is not None else ""


def federated(context: ReportContext) -> Section | None:
    """Return the section on federated training; None without a study and without a part of one."""
    studies = _studies(context)
    if not studies:
        return None
    lead: list[str] = []
    cautions: list[str] = []
    tables = list(_arms(context))
    points: list[str] = []
    for study in studies:
        lead += [_headline(study), *([study.record.sentence] if study.record is not None else [])]
        lead += _added_up(context, study)
        cautions += _cautions(study)
        tables += [_sites(study), *([_rounds(study)] if study.record is not None else [])]
        points += _points(study)
    cautions += [printable(words) for record in context.arms for words in record.notes]
    tables.insert(len(tables) and bool(context.arms), _terms(studies))
    unique = (tuple(dict.fromkeys(texts)) for texts in (lead, points, cautions))
    paragraphs, items, marked = unique
    return Section(
        "federated", "Federated training", paragraphs, tables=tuple(tables), points=items, cautions=marked
    )


def _studies(context: ReportContext) -> list[_Study]:
    """Return the runs of studies on the page, each with its coordinator's record and its sites' runs."""
    parts: dict[tuple[str, str], list[TrainedRun]] = {}
    for run in (*context.runs, *context.unfinished):
        if run.part is not None:
            parts.setdefault((run.part.study, run.part.run), []).append(run)
    ranked = sorted(context.studies, key=lambda record: (not record.copy_of, record.made))
    records = {(record.study, record.run): record for record in ranked}  # the coordinator's own comes last
    by_site = {
        key: tuple(sorted(runs, key=lambda run: run.part.site if run.part is not None else ""))
        for key, runs in parts.items()
    }
    return [_Study(records.get(key), by_site.get(key, ())) for key in sorted({*records, *parts})]


def _headline(study: _Study) -> str:
    record = study.record
    if record is None:
        given = formatting.joined(list(map(printable, study.sites)))
        return (
            f"Study {study.name} of {study.number} sites: the runs of {given} were given. The folder of its "
            "coordinator was not, so rounds, refusals, dropouts and repeated sums are not known here."
        )
    accepted = sum(entry.accepted for entry in record.rounds)
    failed = len(record.rounds) - accepted
    where = " in one process on one machine (a simulation)" if record.simulated else ""
    end = "" if record.finished else " The study is not finished."
    if study.copy:
        end = f" So says the record that the coordinator gave to {printable(study.copy)} at the end."
    lost = f" {failed:,} failed and left the model as it was." if failed else ""
    return (
        f"{len(record.sites)} sites trained study {study.name} together{where}: {accepted:,} rounds gave a "
        f"model.{lost}{end}"
    )


def _added_up(context: ReportContext, study: _Study) -> Iterator[str]:
    """Yield what the epsilons of several sites have to do with each other."""
    if not study.private or len(study.sites) < 2:
        return
    worst = study.worst
    largest = f" The largest is {worst[1]:.4g}, of {printable(worst[0])}." if worst is not None else ""
    yield (
        f"Study {study.name}: each epsilon is about the patients of its own site, by that site's own noise. "
        f"Epsilons of different patients are not added up.{largest}"
    )
    for joint in context.joints:
        sites = sorted({run.part.site for run in joint.runs if run.part is not None and run in study.parts})
        if len(sites) > 1:
            cost = "no epsilon holds" if joint.void else f"epsilon = {formatting.number(joint.epsilon)}"
            yield (
                f"Sites {formatting.joined(sites)} have patients in common, who took part in each: their "
                f"runs count together, {cost}."
            )


def _cautions(study: _Study) -> Iterator[str]:
    """Yield what must not be overlooked."""
    record = study.record
    if record is None:
        return
    if record.simulated:
        yield _SIMULATED
    if record.colluders == 1 and len(record.sites) == 3:
        yield (
            "Three sites: two of them that collude always see the update of the third, and a round needs all "
            "three. No dropout is tolerated."
        )
    for entry in record.rounds:
        for site in entry.mismatches:
            yield f"Round {entry.number + 1}: {printable(site)} computed another sum than the coordinator's."
    for run in study.parts:
        site = run.part.site if run.part is not None else ""
        stated, own = record.epsilon.get(site), _spent(run)
        if stated is not None and own is not None and not math.isclose(stated, own, rel_tol=_CLOSE):
            yield (
                f"{printable(site)} reported epsilon {stated:.4g} to the coordinator; its ledger gives "
                f"{own:.4g}, which counts here."
            )


def _arms(context: ReportContext) -> Iterator[ReportTable]:
    """Yield the table that compares models on the test patients of each site."""
    columns: dict[str, dict[str, TableCell]] = {}
    patients: dict[str, set[int]] = {}
    metrics = {row.metric for record in context.arms for row in record.rows}
    for record in context.arms:
        study = f"{printable(record.study)}: " if len(context.arms) > 1 else ""
        for row in record.rows:
            heading = f"{study}{_ARMS.get(row.arm, printable(row.arm))}"
            columns.setdefault(heading, {})[row.site] = _arm(row)
            patients.setdefault(row.site, set()).add(row.patients)
        for row in (row for row in record.rows if row.difference is not None):
            heading = f"{study}together minus alone, paired"
            columns.setdefault(heading, {})[row.site] = _difference(row)
    if not patients or len(metrics) != 1:
        return
    nothing = TableCell(formatting.DASH, number=True)
    body = tuple(
        (
            TableCell(printable(site), head=True),
            *(cells.get(site, nothing) for cells in columns.values()),
            TableCell(", ".join(f"{number:,}" for number in sorted(numbers)), number=True),
        )
        for site, numbers in patients.items()
    )
    name = formatting.metric(metrics.pop())
    yield ReportTable(
        f"What training together is worth: {name} on the test patients of each site",
        ("site", *columns, "patients"),
        body,
        note="In brackets the 95 % interval over patients. Measured by the simulation.",
        wide=True,
    )


def _arm(row: ArmResult) -> TableCell:
    if row.value is None:
        return TableCell(formatting.DASH, number=True)
    cost = "" if row.epsilon is None else f", ε = {formatting.number(row.epsilon)}"
    return TableCell(f"{row.value:.3f}", sub=f"{_between(row.low, row.high, '.3f')}{cost}", number=True)


def _difference(row: ArmResult) -> TableCell:
    interval = _between(row.difference_low, row.difference_high, "+.3f")
    value = f"{row.difference:+.3f}"
    return TableCell(value.replace("-", "−"), sub=interval.replace("-", "−"), number=True)


def _between(low: float | None, high: float | None, form: str) -> str:
    return "no interval" if low is None or high is None else f"[{low:{form}}, {high:{form}}]"


def _terms(studies: Sequence[_Study]) -> ReportTable:
    """Return how the sites trained together, with a column per study."""
    tables = [dict(_terms_of(study)) for study in studies]
    if len(studies) == 1:
        return facts(f"Study {studies[0].name}", tables[0].items())
    beside = itertools.zip_longest(*tables)
    names = list(dict.fromkeys(name for row in beside for name in row if name is not None))
    rows = tuple(
        (
            TableCell(name, head=True),
            *(TableCell(formatting.listed(table.get(name, formatting.DASH))) for table in tables),
        )
        for name in names
    )
    columns = ("what", *(f"study {study.name}" for study in studies))
    return ReportTable("Studies side by side", columns, rows, wide=True)


def _terms_of(study: _Study) -> list[tuple[str, object]]:
    record = study.record
    if record is None:
        parts = [run.part for run in study.parts if run.part is not None]
        ways = {(part.algorithm, part.aggregation, part.digest) for part in parts}
        pairs: list[tuple[str, object]] = [("sites of the signed roster", study.number)]
        for algorithm, aggregation, digest in sorted(ways):
            pairs += [("algorithm", algorithm), ("aggregation", _AGGREGATIONS.get(aggregation, aggregation))]
            pairs += [("terms (SHA-256)", digest or "not recorded")]
        return [*pairs, *_privacy(study)]
    return [
        ("algorithm", record.algorithm),
        ("aggregation", _AGGREGATIONS.get(record.aggregation, record.aggregation)),
        ("sites of the signed roster", record.sites),
        ("fewest sites of a sum", record.quorum),
        ("colluding sites covered", "none" if record.colluders is None else record.colluders),
        ("dropouts tolerated in a round", len(record.sites) - record.quorum or "none"),
        ("updates that were asked for and are in no sum", sum(len(entry.missing) for entry in record.rounds)),
        ("sites that left", len(record.refusals)),
        ("sums computed again by sites", _repeated(record)),
        ("accepted sums that no site computed again", _unrepeated(record)),
        ("largest rounding error of a weight by secure aggregation", _rounding(record)),
        *_privacy(study),
        ("uploads of all sites", f"{sum(entry.received for entry in record.rounds) / 1e6:,.1f} MB"),
        ("terms (SHA-256)", record.digest),
        ("layout of the weights (SHA-256)", record.layout),
        ("common model (SHA-256)", record.model),
    ]


def _repeated(record: FederatedRecord) -> str:
    summed = [entry for entry in record.rounds if entry.accepted]
    checked, accepted = [entry.recomputed for entry in summed if entry.recomputed], len(summed)
    if not checked:
        return "none"
    share = min(min(shares.values()) for shares in checked)
    how = "whole" if share >= 1 else f"{percent(share)} of it"
    counts = [(len(entry.recomputed), len(entry.survivors)) for entry in summed if entry.recomputed]
    if all(sites >= survivors for sites, survivors in counts):
        sites = {survivors for _, survivors in counts}
        who = f"all {sites.pop()} sites" if len(sites) == 1 else "all its sites"
    else:
        who = f"{min(sites for sites, _ in counts)} sites or more"
    return f"{len(checked):,} of {accepted:,} accepted sums, each by {who} ({how})"


def _unrepeated(record: FederatedRecord) -> str:
    """Return the accepted rounds whose sum no site computed again, with the reason where one is known."""
    if record.aggregation == "plain":
        return "all: without secure aggregation no site can compute a sum again or check a model"
    open_ = [entry for entry in record.rounds if entry.accepted and not entry.recomputed]
    named = [f"{entry.number + 1}{f' ({entry.unchecked})' if entry.unchecked else ''}" for entry in open_]
    return f"rounds {formatting.joined(named)}" if named else "none"


def _rounding(record: FederatedRecord) -> str:
    known = [entry.error for entry in record.rounds if entry.error is not None]
    return f"{max(known):.2g}" if known else formatting.DASH


def _privacy(study: _Study) -> list[tuple[str, object]]:
    """Return the epsilon of the worst site."""
    if not study.private:
        return [("differential privacy", "none")]
    worst = study.worst
    if worst is None:
        return [("epsilon of the worst site", "not reported")]
    open_ = sum(study.epsilon(site) is None for site in study.sites) + study.number - len(study.sites)
    missing = f"; {open_} site{'s' if open_ > 1 else ''} did not report" if open_ and not study.copy else ""
    return [("epsilon of the worst site", f"{worst[1]:.4g} at {worst[0]}, {_delta(study)}{missing}")]


def _delta(study: _Study) -> str:
    if study.record is not None:
        return f"delta {study.record.delta:g}"
    own = [run.account.own.delta for run in study.parts if run.account is not None and run.account.own]
    return f"delta {max(own):g}" if own else "delta not known"


def _sites(study: _Study) -> ReportTable:
    """Return what each site took part in and spent."""
    record = study.record
    columns = ["site"]
    if record is not None:
        columns += ["sums with it", "rounds without its update", "sums it computed again"]
    columns += ["run", "epsilon"]
    rows = []
    for site in study.sites:
        left = record is not None and site in record.refusals
        reason = record.refusals[site] if record is not None and left else ""
        sub = f"left: {reason}" if reason else "left"
        cells = [TableCell(printable(site), sub=sub if left else "", head=True)]
        cells += _took_part(record, site) if record is not None else []
        run = study.part(site)
        state = "not given" if run is None else f"{run.record.step:,} steps"
        sub = "" if run is None or run.finished else "not finished"
        rows.append((*cells, TableCell(state, sub=sub, number=True), _cost(study, site)))
    note = "Each epsilon is about the patients of that site." if study.private else ""
    return ReportTable(f"Sites of study {study.name}", tuple(columns), tuple(rows), note=note)


def _took_part(record: FederatedRecord, site: str) -> list[TableCell]:
    accepted = [entry for entry in record.rounds if entry.accepted]
    in_sums = sum(site in entry.survivors for entry in accepted)
    missing = sum(site in entry.missing for entry in record.rounds)
    again = sum(site in entry.recomputed for entry in record.rounds)
    texts = (f"{in_sums:,} of {len(accepted):,}", f"{missing:,}", f"{again:,}")
    return [TableCell(text, number=True) for text in texts]


def _cost(study: _Study, site: str) -> TableCell:
    run, record = study.part(site), study.record
    if not study.private or (run is not None and not run.private):
        return TableCell("no privacy", number=True)
    if run is not None and run.void:
        return TableCell("no bound", sub="noise from a seed", number=True)
    value = study.epsilon(site)
    if value is None:
        known = run is not None or (record is not None and site in record.epsilon)
        unknown = "not told to this site" if study.copy else "not reported"
        return TableCell(formatting.DASH if known else unknown, number=True)
    return TableCell(f"{value:.4g}", sub="by its ledger" if run is not None else "as reported", number=True)


def _spent(run: TrainedRun) -> float | None:
    """Return the epsilon of a run by its ledger; None without privacy or a step, or with known noise."""
    spent = run.account.spent if run.account is not None else None
    return None if spent is None or run.void else spent.epsilon


def _rounds(study: _Study) -> ReportTable:
    rows = tuple(map(_row, study.record.rounds if study.record is not None else ()))
    columns = ("round", "sites in the sum", "units", "training loss", "seconds", "remark")
    return ReportTable(f"Rounds of study {study.name}", columns, rows[:5], more=rows[5:])


def _row(entry: FederatedRound) -> tuple[TableCell, ...]:
    remarks = [
        "" if entry.accepted else f"no model: {entry.words or 'it is not over'}",
        f"without {', '.join(entry.missing)}" if entry.missing else "",
        f"{entry.attempts} attempts" if entry.attempts > 1 else "",
        f"{percent(entry.cut)} of the changes were cut" if entry.cut > 0 else "",
        f"sites with {percent(entry.short)} of the units took fewer steps" if entry.short > 0 else "",
        f"another sum at {', '.join(entry.mismatches)}" if entry.mismatches else "",
    ]
    return (
        TableCell(f"{entry.number + 1}", head=True),
        TableCell(f"{len(entry.survivors)}", number=True),
        TableCell(f"{entry.units:,}" if entry.units else formatting.DASH, number=True),
        TableCell(formatting.DASH if entry.loss is None else f"{entry.loss:.4f}", number=True),
        TableCell(f"{entry.seconds:,.1f}", number=True),
        TableCell("; ".join(filter(None, remarks)) or formatting.DASH),
    )


def _points(study: _Study) -> list[str]:
    record = study.record
    ways: Sequence[str] = [run.part.aggregation for run in study.parts if run.part is not None]
    plain = record.aggregation == "plain" if record is not None else "plain" in ways
    points = [_NOT_PRIVATE.format(study.name)]
    if study.private:
        points = [_SHOWN if plain else _NO_BOUND]
    for one, two, site in record.differing if record is not None else ():
        points.append(
            f"The sums of rounds {one + 1} and {two + 1} differ by {site} alone (study {study.name}): their "
            f"difference comes close to the update of {site}, and only differential privacy bounds what it "
            "tells."
        )
    if study.parts:
        points.append("Patients of all sites of a study are behind the weights of each of its runs.")
    return points
