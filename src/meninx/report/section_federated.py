"""The section on federated training: who took part, what each round did, who saw what, and what was spent."""

from __future__ import annotations

from meninx.core.federation import FederatedRecord, FederatedRound
from meninx.report import formatting
from meninx.report.context import ReportContext
from meninx.report.sources import TrainedRun
from meninx.report.table_model import ReportTable, Section, TableCell, facts

_AGGREGATIONS = {
    "masks": "masks that cancel in the sum (secure aggregation)",
    "shares": "additive shares among the sites (secure aggregation)",
    "ckks": "encrypted under a key of the sites (secure aggregation)",
    "plain": "none: the coordinator sees every update",
}
_NO_BOUND = (
    "Secure aggregation hides single updates. What the sums and the model tell about patients is bounded by "
    "differential privacy alone."
)
_NOT_PRIVATE = (
    "The sites trained without differential privacy: nothing bounds what the model, or the sums, tell about "
    "patients."
)


def federated(context: ReportContext) -> Section | None:
    """Return the section on federated training; None without a study and without a part of one."""
    parts = [run for run in (*context.runs, *context.unfinished) if run.record.study is not None]
    if not context.studies and not parts:
        return None
    lead: list[str] = []
    tables: list[ReportTable] = []
    points: list[str] = []
    for study in context.studies:
        lead += [_headline(study), study.sentence]
        tables += [_terms(study), _sites(study), _rounds(study)]
        points += _points(study)
    if parts:
        tables.append(_parts(parts))
    if not context.studies:
        lead.append(
            "Runs on this page are parts of a federated study. The folder of its coordinator was not given, "
            "so its rounds are not shown."
        )
    return Section(
        "federated",
        "Federated training",
        tuple(lead),
        tables=tuple(tables),
        points=tuple(dict.fromkeys(points)),
    )


def _headline(study: FederatedRecord) -> str:
    accepted = sum(entry.accepted for entry in study.rounds)
    failed = len(study.rounds) - accepted
    where = " in one process on one machine (a simulation)" if study.simulated else ""
    end = "" if study.finished else " The study is not finished."
    lost = f" {failed:,} failed and left the model as it was." if failed else ""
    return (
        f"{len(study.sites)} sites trained study {study.study} together{where}: {accepted:,} rounds gave a "
        f"model.{lost}{end}"
    )


def _terms(study: FederatedRecord) -> ReportTable:
    pairs: list[tuple[str, object]] = [
        ("algorithm", study.algorithm),
        ("aggregation", _AGGREGATIONS.get(study.aggregation, study.aggregation)),
        ("sites of the signed roster", study.sites),
        ("fewest sites of a sum", study.quorum),
        ("colluding sites covered", "none" if study.colluders is None else study.colluders),
    ]
    if study.private:
        pairs.append(("epsilon of the worst site", _worst(study)))
    checked = [min(entry.recomputed.values()) for entry in study.rounds if entry.recomputed]
    if checked:
        sites = min(len(entry.recomputed) for entry in study.rounds if entry.recomputed)
        share = "whole" if min(checked) >= 1 else f"{100 * min(checked):.3g} % of it"
        pairs.append(("sums computed again by sites", f"{len(checked):,}, each by {sites} or more ({share})"))
    pairs += [
        ("uploads of all sites", f"{sum(entry.received for entry in study.rounds) / 1e6:,.1f} MB"),
        ("terms (SHA-256)", study.digest),
        ("layout of the weights (SHA-256)", study.layout),
        ("common model (SHA-256)", study.model),
    ]
    return facts(f"Study {study.study}", pairs)


def _worst(study: FederatedRecord) -> str:
    worst = study.worst
    if worst is None:
        return "not reported"
    missing = len(study.sites) - len(study.epsilon)
    open_ = f"; {missing} sites did not report" if missing else ""
    return f"{worst[1]:.4g} at {worst[0]}, delta {study.delta:g}{open_}"


def _sites(study: FederatedRecord) -> ReportTable:
    """Return what each site took part in and spent."""
    accepted = [entry for entry in study.rounds if entry.accepted]
    rows = []
    for site in study.sites:
        epsilon = study.epsilon.get(site)
        refused = study.refusals.get(site, "")
        in_sums = sum(site in entry.survivors for entry in accepted)
        missing = sum(site in entry.missing for entry in study.rounds)
        again = sum(site in entry.recomputed for entry in study.rounds)
        rows.append(
            (
                TableCell(site, sub=f"left: {refused}" if refused else "", head=True),
                TableCell(f"{in_sums:,} of {len(accepted):,}", number=True),
                TableCell(f"{missing:,}", number=True),
                TableCell(f"{again:,}", number=True),
                TableCell(_epsilon(study, site, epsilon), number=True),
            )
        )
    columns = ("site", "sums with it", "rounds without its update", "sums it computed again", "epsilon")
    note = f"Epsilon by each site's own ledger, at delta {study.delta:g}." if study.private else ""
    return ReportTable("Sites", columns, tuple(rows), note=note)


def _epsilon(study: FederatedRecord, site: str, epsilon: float | None) -> str:
    if not study.private:
        return "no privacy"
    if site not in study.epsilon:
        return "not reported"
    return formatting.DASH if epsilon is None else f"{epsilon:.4g}"


def _rounds(study: FederatedRecord) -> ReportTable:
    rows = tuple(_row(entry) for entry in study.rounds)
    columns = ("round", "sites in the sum", "units", "training loss", "seconds", "remark")
    return ReportTable("Rounds", columns, rows[:20], more=rows[20:])


def _row(entry: FederatedRound) -> tuple[TableCell, ...]:
    remarks = [
        "" if entry.accepted else f"no model: {entry.words or 'it is not over'}",
        f"without {', '.join(entry.missing)}" if entry.missing else "",
        f"{entry.attempts} attempts" if entry.attempts > 1 else "",
        f"{100 * entry.cut:.2g} % of the changes were cut" if entry.cut > 0 else "",
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


def _points(study: FederatedRecord) -> list[str]:
    points = [_NO_BOUND if study.private else _NOT_PRIVATE]
    for one, two, site in study.differing:
        points.append(
            f"The sums of rounds {one + 1} and {two + 1} differ by {site} alone: their difference comes "
            f"close to the update of {site}, and only differential privacy bounds what it tells."
        )
    if study.simulated:
        points.append("A simulation hides nothing from whoever ran it.")
    return points


def _parts(runs: list[TrainedRun]) -> ReportTable:
    """Return which runs of the page are parts of studies."""
    rows = []
    for run in runs:
        part = run.record.study
        if part is not None:
            rows.append(
                (
                    TableCell(run.name, sub=run.kind, head=True),
                    TableCell(part.study),
                    TableCell(part.site),
                    TableCell(f"{part.sites}", number=True),
                    TableCell(f"{part.algorithm}, {part.aggregation}"),
                )
            )
    note = "Patients of the other sites are behind the weights of such a run, too."
    return ReportTable(
        "Runs that are parts of a study", ("run", "study", "site", "sites", "how"), tuple(rows), note=note
    )
