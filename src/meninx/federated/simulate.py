"""A federated study on one machine: the agents and rounds of a real one, in one process, with its baselines.

For planning a study and for research: nothing travels, so nothing is protected from whoever runs it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meninx.core import artifacts, files, names, randomness, settings, workspace
from meninx.core import run as runs
from meninx.core.artifacts import RunRecord, RunState
from meninx.core.errors import ConfigError, DataError, UsageError, expected, problem
from meninx.core.federation import SITE_RUNS, ArmResult, ArmsRecord
from meninx.core.manifest import Manifest
from meninx.core.progress import SILENT, Progress
from meninx.core.randomness import KEY_BYTES
from meninx.core.result import Result
from meninx.federated.agent import InProcess, find_run
from meninx.federated.assembly import StudyAssembly
from meninx.federated.config import FEWEST_SITES, DataConfig, StudyConfig
from meninx.federated.event_words import sentence
from meninx.federated.events import AnyEvent, StudyEvents
from meninx.federated.first_model import first_model
from meninx.federated.pooling import pooled
from meninx.federated.study_state import RoundPhase, StudyState
from meninx.metrics.estimates import Estimate
from meninx.secagg import Member, Roster
from meninx.secagg.roster import public_bytes
from meninx.train import evaluate, identity, in_rounds, planning, stage
from meninx.train.config import EvaluateConfig

STATE, EVENTS = "study.sqlite3", "events.jsonl"
LOCAL, POOLED, FEDERATED = "local", "pooled", "federated"
_SAME_IMAGES = 0.05  # share of the images of the smaller site; collections hold some images twice
_SLUG = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, kw_only=True)
class SimulateResult(Result):
    """A simulated study: ``table.csv`` and the run folders lie in ``out``.

    Attributes:
        rows: one per arm and site.
        algorithm: e.g. ``fedavg``.
        aggregation: how updates were added up.
        rounds: rounds that were accepted.
        aborted: rounds that failed.
        runs: site -> its run folder.
        notes: which sites seem to have patients in common.
    """

    rows: tuple[ArmResult, ...]
    algorithm: str
    aggregation: str
    rounds: int
    aborted: int
    runs: dict[str, Path]
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """Return the table as text."""
        arms = list(dict.fromkeys(row.arm for row in self.rows))
        sites = list(dict.fromkeys(row.site for row in self.rows))
        cells = {(row.arm, row.site): row for row in self.rows}
        metric = self.rows[0].metric if self.rows else ""
        width = max([len("site"), *map(len, sites)])
        lines = [
            f"out: {self.out}",
            f"{self.algorithm}, {self.aggregation} aggregation: {self.rounds} rounds accepted, "
            f"{self.aborted} failed",
            f"{metric} on each site's test patients, with intervals over patients",
            "  ".join([f"{'site':<{width}}", *(f"{arm:<22}" for arm in arms), "patients"]),
        ]
        for site in sites:
            shown = [_cell(cells.get((arm, site))) for arm in arms]
            patients = next(row.patients for row in self.rows if row.site == site)
            lines.append("  ".join([f"{site:<{width}}", *(f"{text:<22}" for text in shown), f"{patients}"]))
        compared = [row for row in self.rows if row.difference is not None]
        if compared:
            lines.append("federated minus local on the same patients:")
            lines += [f"{row.site:<{width}}  {_difference(row)}" for row in compared]
        steps = {arm: sorted({row.steps for row in self.rows if row.arm == arm}) for arm in arms}
        taken = (
            f"{arm} {' to '.join(f'{count:,}' for count in (*found[:1], *found[1:][-1:]))}"
            for arm, found in steps.items()
        )
        lines.append(f"steps: {', '.join(taken)}")
        lines += [f"note: {words}" for words in self.notes]
        return "\n".join(line.rstrip() for line in lines)


def run(
    config: StudyConfig,
    sites: Sequence[Path],
    out: Path,
    *,
    baselines: bool = False,
    device: str = "auto",
    progress: Progress = SILENT,
) -> SimulateResult:
    """Train a federated study of some datasets in this process, and measure it on each site's test patients.

    Running it again goes on with a study that was stopped; finished runs are not repeated.

    Args:
        config: the study; what its data must be like follows from the first dataset.
        sites: one prepared dataset per site, at least two.
        out: folder of the study.
        baselines: also train each site alone and all data pooled, with the same steps (or passes).
        device: where networks run.
        progress: shows the rounds.

    Raises:
        UsageError: fewer than two sites, or ``out`` lies in a dataset.
        ConfigError, DataError, PrivacyRefusal: settings and data do not fit, or the study failed.
    """
    data = _datasets(sites)
    workspace.outside(out, list(sites))
    config = _completed(config, data, out)
    for name, manifest in data.items():
        if not len(manifest.split("test")):
            what = f"the dataset of {name} has no test patients to measure the model on"
            raise DataError(problem(what, where="sites", fix="prepare it with a test split"))
        differences = config.data.differences(manifest.info)
        if differences:
            what = f"the dataset of {name} differs: {'; '.join(differences)}"
            raise ConfigError(problem(what, where="sites", fix="prepare all sites alike"))
    if config.aggregation.secure and len(data) < FEWEST_SITES:
        method = config.aggregation.method
        what = f"secure aggregation ({method}) needs {FEWEST_SITES} sites, {len(data)} are given"
        fix = "give a third dataset, or --aggregation plain, which works with two and hides no update"
        raise UsageError(problem(what, where="sites", fix=fix))
    for name, manifest in data.items():
        in_rounds.check(config.training.replace(device=device), manifest.root, out / SITE_RUNS / name)
    shared = tuple(_shared_patients(data))
    for words in shared:
        progress.note(words)
    with workspace.held(out):
        simulation = _Simulation(config, data, out, device, progress)
        simulation.train()
        rows = simulation.baselines() if baselines else []
        rows += simulation.measured(FEDERATED, simulation.federated(), baselines=simulation.local)
        return simulation.result(rows, shared)


class _Simulation:
    """One call of :func:`run`."""

    def __init__(
        self, config: StudyConfig, data: Mapping[str, Manifest], out: Path, device: str, progress: Progress
    ) -> None:
        self.config, self.data, self.out, self.progress = config, data, out, progress
        self.device, self.training = device, config.training.replace(device=device)
        self.digest = hashlib.sha256(settings.to_toml(config).encode()).hexdigest()
        roster, self.keys = self._enrolled()
        self.assembly = StudyAssembly(config, self.digest, roster)
        self.run_id = ""
        self.accepted, self.aborted = 0, 0
        self.local: dict[str, Path] = {}

    def train(self) -> None:
        """Train the study to its end."""
        study = self.config.study
        weights, layout = first_model(self.training, next(iter(self.data.values())).info, study.local_layers)
        path = self.out / workspace.PRIVATE / STATE
        if path.is_file():
            state = StudyState.resume(path, study=self.config.name, terms=self.digest, layout=layout.digest)
        else:
            state = StudyState.begin(
                path, study=self.config.name, terms=self.digest, layout=layout.digest,
                weights=self.assembly.strategy.init(weights),
            )  # fmt: skip
        agents = {
            name: self.assembly.agent(
                name, self.keys[name], manifest.root, self.out / SITE_RUNS / name,
                path.with_name(f"history-{name}"), device=self.device, progress=self.progress,
            )
            for name, manifest in self.data.items()
        }  # fmt: skip
        self.run_id = state.header.run
        with ExitStack() as stack:
            stack.enter_context(closing(state))
            for agent in agents.values():
                stack.callback(agent.close)
            write = stack.enter_context(StudyEvents(path.with_name(EVENTS)).writing())

            def emit(event: AnyEvent) -> None:
                write(event)
                self.progress.note(sentence(event))

            self.assembly.conduct(self.out, state, InProcess(agents), emit=emit, simulated=True)
            self.accepted = sum(item.phase is RoundPhase.ACCEPTED for item in state.rounds())
            self.aborted = sum(item.phase is RoundPhase.ABORTED for item in state.rounds())

    def _enrolled(self) -> tuple[Roster, dict[str, Ed25519PrivateKey]]:
        """Return the roster that all sites signed, and their keys, which are made for this simulation."""
        keys = {}
        for name in sorted(self.data):
            path = self.out / workspace.PRIVATE / f"signing-{name}.key"
            if not path.is_file():
                files.write_bytes(path, randomness.private_bytes(KEY_BYTES), mode=files.PRIVATE_MODE)
            keys[name] = Ed25519PrivateKey.from_private_bytes(runs.read_key(path))
        members = tuple(Member(name=name, key=public_bytes(key)) for name, key in keys.items())
        roster = Roster(study=self.config.name, members=members, terms=bytes.fromhex(self.digest))
        return roster.signed({name: roster.signature(key) for name, key in keys.items()}), keys

    def federated(self) -> dict[str, Path]:
        """Return site -> run folder of its part of the study."""
        found = {}
        for name in self.data:
            path = find_run(self.out / SITE_RUNS / name, self.assembly.part(name, self.run_id))
            if path is not None and _released(path):
                found[name] = path
        return found

    def baselines(self) -> list[ArmResult]:
        """Train each site alone and all pooled, unless it was done, and return how they do."""
        self.local = {
            name: self._trained(manifest.root, self.out / "baselines" / LOCAL / name)
            for name, manifest in self.data.items()
        }
        together = pooled(self.data, self.out / "baselines" / "pooled-data")
        one = self._trained(together.root, self.out / "baselines" / POOLED)
        return [
            *self.measured(LOCAL, self.local),
            *self.measured(POOLED, dict.fromkeys(self.data, one), elsewhere=True),
        ]

    def _trained(self, source: Path, place: Path) -> Path:
        """Return the finished run of a baseline; one that was begun goes on."""
        latest = place / "latest"
        begun = runs.open_run(latest).root if (latest / "private").is_dir() else None
        if begun is not None and _released(begun):
            return begun
        config = self.training.replace(select="last", export=())
        return stage.run(config, source, place, progress=self.progress, resume=begun).out

    def measured(
        self,
        arm: str,
        folders: Mapping[str, Path],
        *,
        elsewhere: bool = False,
        baselines: Mapping[str, Path] | None = None,
    ) -> list[ArmResult]:
        """Return how runs do on the test patients of each site.

        Args:
            arm: name of the rows.
            folders: site -> run.
            elsewhere: the runs were not trained on the sites' own datasets.
            baselines: site -> run to compare with; none by default.
        """
        found = []
        for site, folder in folders.items():
            baseline = (baselines or {}).get(site)
            config = EvaluateConfig(predictions=(), device=self.training.runtime.device, baseline=baseline)
            data = self.data[site].root if elsewhere else None
            measured = evaluate.run(config, folder, data, progress=self.progress)
            headline: Estimate = next(iter(measured.metrics.values()))
            record = artifacts.require(folder, RunRecord, fix="train again")
            spent = artifacts.read(folder, artifacts.PrivacyRecord)
            found.append(
                ArmResult(
                    arm=arm, site=site, metric=headline.name, value=_known(headline.value),
                    low=_known(headline.low), high=_known(headline.high), patients=measured.patients,
                    steps=record.step, epsilon=spent.epsilon if spent else None,
                    **_compared(measured.difference),
                )
            )  # fmt: skip
        return found

    def result(self, rows: Sequence[ArmResult], shared: tuple[str, ...]) -> SimulateResult:
        """Write the table, for people and for a report, and return the result."""
        fields = list(ArmResult.__dataclass_fields__)
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(fields)
        writer.writerows([getattr(row, name) for name in fields] for row in rows)
        files.write_text(self.out / "table.csv", buffer.getvalue())
        artifacts.write(
            self.out, ArmsRecord(study=self.config.name, run=self.run_id, rows=tuple(rows), notes=shared)
        )
        return SimulateResult(
            out=self.out, rows=tuple(rows), algorithm=self.config.study.algorithm,
            aggregation=self.config.aggregation.method, rounds=self.accepted, aborted=self.aborted,
            runs=self.federated(), notes=shared,
        )  # fmt: skip


def _datasets(sites: Sequence[Path]) -> dict[str, Manifest]:
    """Return the datasets by the names of their folders, made usable and unique.

    Raises:
        UsageError: fewer than two, or one twice.
    """
    if len(sites) < 2:
        raise UsageError(expected("at least two sites", got=len(sites), where="sites"))
    if len({path.resolve() for path in sites}) != len(sites):
        raise UsageError(problem("a dataset is given twice", where="sites"))
    found: dict[str, Manifest] = {}
    for number, path in enumerate(sites, start=1):
        slug = _slug(path)
        name = slug if slug and slug not in found else f"site-{number}"
        found[name] = Manifest.read(path)
    return found


def _shared_patients(sites: Mapping[str, Manifest]) -> Iterator[str]:
    """Yield in words which sites have identifiers of the source or images in common.

    Raises:
        DataError: two sites have more images in common than a coincidence explains. A test patient of one
            could be a training patient of the other, and a patient's budgets would add up.
    """
    for (one, here), (two, there) in itertools.combinations(sites.items(), 2):
        named = identity.identifiers_of(here), identity.identifiers_of(there)
        images = _images(here), _images(there)
        found = identity.overlap((), (), images=images, identifiers=named)
        few = max(identity.MOST_BY_CHANCE, _SAME_IMAGES * min(map(len, images)))
        if found.images > few:
            fix = "give each patient to one site"
            what = f"{one} and {two} have {found.images:,} images in common"
            raise DataError(problem(what, where="sites", fix=fix))
        counts = ((found.identifiers, "identifiers of patients in the source"), (found.images, "images"))
        if words := " and ".join(f"{count:,} {kind}" for count, kind in counts if count):
            yield (
                f"{one} and {two} have {words} in common: where these are the same people, a test patient of "
                "one may be a training patient of the other"
            )


def _slug(folder: Path) -> str:
    """Return the name of a folder as the name of a study or site; empty where nothing is left of it."""
    return _SLUG.sub("-", folder.resolve().name.lower()).strip("-")[:30].strip("-")


def _images(data: Manifest) -> tuple[str, ...]:
    """Return the SHA-256 of the images of a dataset, which are read where it has no list of checksums."""
    if data.checksums:
        return identity.images_of(data)
    return tuple(
        {files.digest(files.below(data.root, case.image, where="manifest.csv")) for case in data.cases}
    )


def _completed(config: StudyConfig, sites: Mapping[str, Manifest], out: Path) -> StudyConfig:
    """Return the settings with a name, with facts of the data, and with the units of the largest site."""
    info = next(iter(sites.values())).info
    data = DataConfig.of_dataset(info) if config.data == DataConfig() else config.data
    slug = _slug(out) or "study"
    terms = config.study if config.study.name else config.study.replace(name=slug)
    names.check([terms.name or slug], what="study", where="study.name")
    aggregation = config.aggregation
    if aggregation.secure and not aggregation.max_units:
        units = max(planning.units_of(config.training, manifest) for manifest in sites.values())
        aggregation = aggregation.replace(max_units=max(units, 1))
    return StudyConfig(
        study=terms, aggregation=aggregation, sites=config.sites, data=data, train=config.train
    )


def _released(path: Path) -> bool:
    record = artifacts.read(path, RunRecord)
    return record is not None and record.state is RunState.RELEASED


def _compared(difference: Estimate | None) -> dict[str, float | None]:
    """Return a paired difference as fields of a row; none where there is none."""
    if difference is None:
        return {}
    return {
        "difference": _known(difference.value),
        "difference_low": _known(difference.low),
        "difference_high": _known(difference.high),
    }


def _difference(row: ArmResult) -> str:
    value, low, high = row.difference, row.difference_low, row.difference_high
    shown = "" if value is None else f"{value:+.3f}"
    return shown if low is None or high is None else f"{shown} [{low:+.3f}, {high:+.3f}]"


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _cell(row: ArmResult | None) -> str:
    if row is None or row.value is None:
        return "-"
    known = row.low is not None and row.high is not None
    return f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" if known else f"{row.value:.3f}"
