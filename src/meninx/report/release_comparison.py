"""Releases of one dataset side by side: what each costs against what retrained attackers find."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from meninx.core import artifacts, files, randomness, workspace
from meninx.core.artifacts import ReleaseComparisonRecord
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.core.manifest import Manifest, dataset_digest
from meninx.core.names import csv_cell, printable
from meninx.core.obfuscation_records import ComparedRelease, ObfuscationRecord, ReleaseAuditRecord
from meninx.core.result import Result
from meninx.obfuscate.release_verdict import TOO_FEW
from meninx.report import figures, obfuscated_datasets, page, release_pareto, sources
from meninx.report.obfuscated_datasets import ObfuscatedDataset
from meninx.report.obfuscation_figures import DROP_IN, RETRAINED

TABLE, PAGE = "release_comparison.csv", "report.html"
FIGURES = ("release_comparison.svg", "release_comparison.png")
_KEY = "obfuscation.key"
_COLUMNS = (
    "name", "method", "strength", "attacker", "auroc", "low", "high", "loss", "loss_low", "loss_high",
    "drop_in_loss", "highest", "highest_auroc", "limit", "best", "verdict", "target", "deterministic",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ComparisonResult(Result):
    """Table, record, figure and page of a comparison lie in ``out``.

    Attributes:
        record: all of it.
    """

    record: ReleaseComparisonRecord

    def summary(self) -> str:
        """Return a line for each release, the lowest upper limit first."""
        lines = [f"out: {self.out}", f"releases that hide {self.record.attribute}, the lowest limit first:"]
        return "\n".join([*lines, *map(_line, self.record.releases)])


@dataclass(frozen=True)
class _Compared:
    found: ObfuscatedDataset
    record: ObfuscationRecord
    audit: ReleaseAuditRecord
    manifest: Manifest

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(sorted(self.record.utility))


def compare(
    releases: Sequence[Path], out: Path, *, original: Path | None = None, overwrite: bool = False
) -> ComparisonResult:
    """Compare releases of one dataset, and write table, record, figure and page.

    Args:
        releases: folders that `meninx obfuscate` wrote, at least two.
        out: folder of the results.
        original: the dataset that all were made of. With it and the releases' private rooms, that is proven;
            without, it is concluded from the splits and labels of every patient's images, and their size.
        overwrite: replace an earlier comparison.

    Raises:
        UsageError: fewer than two releases, one given twice, or a comparison is there.
        DataError: they are of different data, attributes or labels, one was not attacked, or a record was
            changed or belongs to another release; names the release.
    """
    if len(releases) < 2 or len({path.resolve() for path in releases}) < len(releases):
        got = "one that is given twice" if len(releases) > 1 else f"{len(releases)}"
        raise UsageError(expected("two different releases or more", got=got, where="releases"))
    workspace.apart(out, [*releases, *([original] if original is not None else [])])
    if (out / artifacts.place(ReleaseComparisonRecord)).exists() and not overwrite:
        fix = "give --overwrite to replace it, or another --out"
        raise UsageError(problem("there is a comparison already", where=out.name, fix=fix))
    every = [_read(path) for path in releases]
    for other in every[1:]:
        _refuse_unlike(every[0], other)
    if original is not None:
        digest = dataset_digest(original).digest
        for item in every:
            _refuse_other_original(item, digest)
    record = _compared(every, original_given=original is not None)
    _write(out, record, [item.found for item in every])
    return ComparisonResult(out=out, record=record)


def _read(path: Path) -> _Compared:
    """Return a release with its records, checked against each other."""
    found = sources.release(path.resolve())
    name = sources.printable(path.resolve().name)
    found = replace(found, name=name)
    fix = "give releases that `meninx obfuscate` made and attacked"
    if found.record is None:
        raise DataError(problem("the folder holds no release of meninx", where=name, fix=fix))
    if found.of_features:
        raise DataError(problem("features are not compared, only images", where=name, fix=fix))
    if found.audit is None:
        raise DataError(problem("the release was not attacked", where=name, fix=fix))
    if found.audit.attribute != found.record.attribute:
        raise DataError(problem("another attribute was attacked than hidden", where=name, fix=fix))
    if found.audit.not_measured:
        what = f"not everything was measured: {printable(found.audit.not_measured[0])}"
        raise DataError(problem(what, where=name, fix="audit it where its private room is"))
    return _Compared(found, found.record, found.audit, Manifest.read(path.resolve()))


def _refuse_unlike(first: _Compared, other: _Compared) -> None:
    """Refuse a release that answers another question than the first one."""
    where = f"{first.found.name}, {other.found.name}"
    if _rows(first.manifest) != _rows(other.manifest) or first.manifest.info.size != other.manifest.info.size:
        raise DataError(problem("the releases are of different data", where=where))
    for what, one, two in (
        ("attributes", first.record.attribute, other.record.attribute),
        ("classes of the attribute", first.record.classes, other.record.classes),
        ("classes of the audit", first.audit.classes, other.audit.classes),
        ("labels", first.labels, other.labels),
        ("published columns", sorted(first.audit.published), sorted(other.audit.published)),
        ("patients in the splits", _patients(first.audit), _patients(other.audit)),
    ):
        if one != two:
            raise DataError(problem(f"the releases are of different {what}", where=where))
    unlike = first.audit.strength.differences(other.audit.strength)
    if unlike:
        what = f"the releases were attacked with different strength: {'; '.join(unlike)}"
        fix = "attack them with the same settings, by `meninx obfuscate audit DATA RELEASE --overwrite`"
        raise DataError(problem(what, where=where, fix=fix))


def _rows(manifest: Manifest) -> list[tuple[object, ...]]:
    """Return the rows without names and order, which differ between releases of one dataset, by patient."""
    patients: dict[str, list[tuple[object, ...]]] = {}
    for case in manifest.cases:
        labels = tuple(sorted((name, str(value)) for name, value in case.labels.items()))
        patients.setdefault(case.patient_id, []).append((case.split, labels))
    return sorted((tuple(sorted(rows, key=str)) for rows in patients.values()), key=str)


def _patients(audit: ReleaseAuditRecord) -> tuple[int | None, ...]:
    """Return the patients of validation and test; those of training depend on the method."""
    return tuple(audit.splits.get(name) for name in ("valid", "test"))


def _refuse_other_original(item: _Compared, digest: str) -> None:
    path = item.found.root / workspace.PRIVATE / _KEY
    if not path.is_file():
        fix = "leave --original out, or give the folder with its private room"
        what = "without its key nobody can say which dataset it was made of"
        raise DataError(problem(what, where=item.found.name, fix=fix))
    key = files.read_bytes(path, limit=randomness.KEY_BYTES)
    if artifacts.keyed(key, "data", digest) != item.record.source.data:
        raise DataError(problem("it is no release of this original", where=item.found.name))


def _compared(every: Sequence[_Compared], *, original_given: bool) -> ReleaseComparisonRecord:
    measured = [
        {item.label for item in one.audit.utility
         if item.regime == RETRAINED and not item.group and item.loss is not None}
        for one in every
    ]  # fmt: skip
    labels = tuple(label for label in every[0].labels if all(label in found for found in measured))
    rows = [_release(one, labels) for one in every]
    known = [(row.loss, row.limit) for row in rows if row.loss is not None and row.limit is not None]
    front = {known[place] for place in release_pareto.front(known)}
    rows = [replace(row, best=(row.loss, row.limit) in front) for row in rows]
    clean = [one.audit.clean_high for one in every]
    floor = every[0].record.floor
    return ReleaseComparisonRecord(
        attribute=printable(every[0].record.attribute),
        labels=tuple(map(printable, labels)),
        left_out=tuple(printable(label) for label in every[0].labels if label not in labels),
        clean_limit=max((value for value in clean if value is not None), default=None),
        floor=floor.auroc if floor is not None else None,
        original_given=original_given,
        releases=tuple(sorted(rows, key=lambda row: (2.0 if row.limit is None else row.limit, row.name))),
    )


def _release(one: _Compared, labels: Sequence[str]) -> ComparedRelease:
    chosen, highest = one.audit.chosen_attacker, one.audit.highest_attacker
    retrained = _mean_loss(one.audit, RETRAINED, labels)
    drop_in = _mean_loss(one.audit, DROP_IN, labels)
    return ComparedRelease(
        name=one.found.name, method=printable(one.record.method), strength=_strength(one.record),
        attacker=printable(chosen.name) if chosen is not None else "",
        auroc=chosen.auroc if chosen is not None else None, low=chosen.low if chosen is not None else None,
        high=chosen.high if chosen is not None else None,
        highest=printable(highest.name) if highest is not None else "",
        highest_auroc=highest.auroc if highest is not None else None, limit=one.audit.limit,
        loss=retrained[0], loss_low=retrained[1], loss_high=retrained[2], drop_in_loss=drop_in[0], best=False,
        verdict=one.audit.verdict, target=one.audit.target, deterministic=one.record.deterministic,
        audit=files.digest(one.found.root / obfuscated_datasets.AUDIT),
    )  # fmt: skip


def _mean_loss(
    audit: ReleaseAuditRecord, regime: str, labels: Sequence[str]
) -> tuple[float | None, float | None, float | None]:
    """Return the mean loss over labels, and the means of the ends of their intervals.

    The interval of the mean is as a rule narrower than the mean of the labels' intervals.
    """
    found = [
        item
        for item in audit.utility
        if item.regime == regime and not item.group and item.label in labels and item.loss is not None
    ]
    if not labels or len(found) != len(labels):
        return None, None, None
    parts = [
        [item.loss for item in found],
        [item.loss_low for item in found],
        [item.loss_high for item in found],
    ]
    loss, low, high = (
        fmean(value for value in part if value is not None) if None not in part else None for part in parts
    )
    return loss, low, high


def _strength(record: ObfuscationRecord) -> str:
    """Return the budget, or the number of codes."""
    budget, codes = record.settings.get("budget"), record.facts.get("codes")
    if isinstance(budget, float):
        return f"{budget:g}"
    return f"{codes}" if isinstance(codes, int) and not isinstance(codes, bool) else ""


def _write(out: Path, record: ReleaseComparisonRecord, releases: Sequence[ObfuscatedDataset]) -> None:
    """Write table, figure and page, and at the end the record that says that all is there."""
    out.mkdir(parents=True, exist_ok=True)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in record.releases:
        cells = [getattr(row, name) for name in _COLUMNS]
        writer.writerow([csv_cell(cell) if isinstance(cell, str) else cell for cell in cells])
    files.write_text(out / TABLE, buffer.getvalue())
    drawn = figures.stored(release_pareto.drawing(record), release_pareto.SIZE)
    for name in FIGURES:
        files.write_bytes(out / name, drawn[Path(name).suffix.removeprefix(".")])
    files.write_text(out / PAGE, page.render_comparison(record, releases))
    artifacts.write(out, record)


def _line(row: ComparedRelease) -> str:
    def shown(value: float | None, low: float | None, high: float | None) -> str:
        if value is None:
            return "no number"
        return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"

    method = " ".join(part for part in (row.method, row.strength) if part)
    found, lost = shown(row.auroc, row.low, row.high), shown(row.loss, row.loss_low, row.loss_high)
    chosen = f"attacker chosen on validation {row.attacker} {found}" if row.attacker else TOO_FEW
    most = f"highest of all {row.highest} {shown(row.highest_auroc, None, None)}"
    limit = f"largest upper limit {shown(row.limit, None, None)}"
    best = ", best at its loss" if row.best else ""
    return f"  {row.name} ({method}): {chosen}, {most}, {limit}, mean loss {lost}{best}"
