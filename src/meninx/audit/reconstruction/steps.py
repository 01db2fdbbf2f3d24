"""``meninx audit reconstruct``: create, match and visualise, each step alone, or all of them.

``create`` attacks steps of the run and keeps what the attacks make in ``private/audit/reconstruction/``.
``match`` counts what was reconstructed against its null, tries to identify patients among candidates, and
writes the record. ``visualise`` draws. An interrupted step takes up what is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from meninx.audit.audit_files import AuditFiles
from meninx.audit.audited_run import (
    FOLDER,
    alone,
    dataset_of,
    finished_record,
    origin_of,
    place_of_audit,
    refuse_other_files,
)
from meninx.audit.reconstruction import drawing
from meninx.audit.reconstruction.attack_registry import attack_kind
from meninx.audit.reconstruction.attack_run import Target, create_candidates, target_of_run
from meninx.audit.reconstruction.candidates import CandidateIndex, NoiseLevel, read_index
from meninx.audit.reconstruction.config import ReconstructionConfig, names_of
from meninx.audit.reconstruction.counting import TABLE, counted, matches_of, write_tables
from meninx.audit.reconstruction.levels import Attacked, attacked, noise_levels
from meninx.audit.reconstruction.matching import Matched, PopulationImages, threshold_of
from meninx.audit.reconstruction.pools import Pools, load_pools
from meninx.audit.reconstruction.reconstruction_verdict import (
    above_by_chance,
    best_identification,
    verdict_words,
    view_words,
)
from meninx.audit.reconstruction.synthetic_patients import synthetic_pools
from meninx.audit.reconstruction.victim import STEP, View
from meninx.core import artifacts
from meninx.core import run as runs
from meninx.core.errors import AuditFinding, UsageError, problem
from meninx.core.manifest import Manifest
from meninx.core.percentages import at_most, percent
from meninx.core.progress import SILENT, Progress
from meninx.core.reconstruction_records import IdentificationRecord, ReconstructionAudit
from meninx.core.result import Result
from meninx.core.run import Run
from meninx.learn import checkpoint
from meninx.learn.config import LearnConfig
from meninx.metrics.verdict_rule import REFUTED, VOID

ROOM, SYNTHETIC_ROOM, SHOWN = "reconstruction", "synthetic", "shown"
FILES = AuditFiles(
    kind=ReconstructionAudit,
    title="an audit of reconstruction",
    names=(TABLE, *drawing.FIGURES),
    pictures=ROOM,
)
_MOST_BATCH = 16
CREATE, MATCH, VISUALISE = "create", "match", "visualise"
STEPS = (CREATE, MATCH, VISUALISE)


@dataclass(frozen=True, kw_only=True)
class ReconstructionResult(Result):
    """What a reconstruction audit found; ``out`` is its record, or the folder of what a step made.

    Attributes:
        audit: the record; None before the step ``match``.
        done: the steps that were carried out.
        attacks: names of the attacks.
        levels: names of the levels of noise.
        sets: sets of candidates that are there.
        dry_run: nothing was computed or written.
    """

    audit: ReconstructionAudit | None
    done: tuple[str, ...]
    attacks: tuple[str, ...]
    levels: tuple[str, ...]
    sets: int = 0
    dry_run: bool = False

    def summary(self) -> str:
        """Return the audit in words."""
        lines = [f"attacks: {', '.join(self.attacks)}", f"levels of noise: {', '.join(self.levels)}"]
        if self.dry_run:
            lines.append(f"sets of candidates that are there: {self.sets}")
            return "\n".join([*lines, "dry run: nothing was computed or written"])
        lines.append(f"sets of candidates: {self.sets}")
        if self.audit is not None:
            lines += _audit_lines(self.audit)
        return "\n".join([*lines, f"out: {self.out}"])

    def alerts(self) -> tuple[str, ...]:
        """Return what limits the audit."""
        if self.audit is None:
            return ()
        return tuple(f"{attack} was not run: {why}" for attack, why in self.audit.not_attacked.items())

    def raise_if_refuted(self) -> None:
        """Raise AuditFinding when an attack exceeds the bound, or a control failed."""
        if self.audit is not None and self.audit.verdict in (REFUTED, VOID):
            raise AuditFinding(problem(verdict_words(self.audit), where="meninx audit reconstruct"))


def run_reconstruction(
    config: ReconstructionConfig,
    folder: Path,
    *,
    steps: tuple[str, ...] = STEPS,
    public: Path | None = None,
    out: Path | None = None,
    data: Path | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
) -> ReconstructionResult:
    """Attack the steps of a finished run and return what they tell about the images of its patients.

    Args:
        config: attacks, levels of noise and what is shown.
        folder: a finished run of ``meninx train``, private or not.
        steps: of :data:`STEPS`; ``match`` and ``visualise`` need what the steps before them made.
        public: dataset of the attacker's own images; half of the test patients without it.
        out: folder that gets ``audit/`` with record, table, figures and pictures; by default the run folder.
        data: the run's dataset, where it is no longer at the recorded place.
        resume: with ``overwrite``, keep candidates of the same settings, of an interrupted audit.
        progress: shows attacks, sets and experiments.

    Raises:
        UsageError: no finished run, audited before, ``out`` holds other files, or candidates of other
            settings are there.
        DataError: the dataset is not the one of the run, or it has too few patients.
        Interrupted: stopped by the user; complete sets of candidates are kept.
    """
    run, begun = runs.open_run(folder), time.perf_counter()
    with alone(run, dry_run=config.dry_run):
        audit = _Audit(run, config, out, public, data, resume=resume)
        audit.refuse_earlier(steps)
        if config.dry_run:
            audit.refuse_missing(steps)
            return audit.result(None, (), dry_run=True)
        if CREATE in steps:
            audit.create(progress)
        record = None
        if MATCH in steps:
            record = audit.match(begun, progress)
        if VISUALISE in steps:
            audit.visualise(progress)
        return audit.result(record, steps)


class _Audit:
    """One audit: its run, images and levels, loaded when they are needed first."""

    def __init__(
        self,
        run: Run,
        config: ReconstructionConfig,
        out: Path | None,
        public: Path | None,
        moved: Path | None,
        *,
        resume: bool,
    ) -> None:
        self.run, self.config, self.out, self.resume = run, config, out, resume
        self.record = finished_record(run)
        self.root = place_of_audit(out, run)
        self.room = run.private / FOLDER / ROOM
        self.attacks = attacks_of(config)
        self.learned: LearnConfig = checkpoint.config_of(checkpoint.load(run, "last")).replace(
            device=config.device
        )
        self.data: Manifest = dataset_of(run, moved)
        self.about: Attacked = attacked(run, self.record, self.learned, self.data, config.delta)
        self.levels: tuple[NoiseLevel, ...] = noise_levels(config, self.about)
        self._public = Manifest.read(public) if public is not None else None
        self._pools: Pools | None = None

    @property
    def pools(self) -> Pools:
        """Images of the run."""
        if self._pools is None:
            self._pools = load_pools(self.data, self.learned, public=self._public, seed=self.config.seed)
        return self._pools

    @property
    def batch(self) -> int:
        """Images of an attacked step."""
        expected_batch = max(1, round(self.about.sample_rate * len(self.data.split("train").patients)))
        wanted = self.config.batch_size or min(_MOST_BATCH, expected_batch)
        return max(1, min(wanted, len(self.pools.members), len(self.pools.heldout)))

    @property
    def views(self) -> tuple[View, ...]:
        """What the attacker sees: one client's step, or sums over sites and differences of two rounds."""
        found: list[View] = [] if self.config.sites else [STEP]
        for sites in self.config.sites:
            found.append(View(sites=sites, colluders=self.config.colluders))
            found.append(View(sites=sites, colluders=self.config.colluders, difference=True))
        return tuple(found)

    def refuse_earlier(self, steps: tuple[str, ...]) -> None:
        """Refuse to replace a record without being asked, and files that no audit wrote."""
        if MATCH in steps:
            refuse_other_files(FILES, self.out, self.run, overwrite=self.config.overwrite)
        else:
            FILES.refuse_links(self.root / FOLDER)

    def refuse_missing(self, steps: tuple[str, ...]) -> None:
        """Refuse steps that lack what the steps before them make."""
        if CREATE not in steps:
            self._index(self.room)
        if steps == (VISUALISE,):
            self._matched()

    def create(self, progress: Progress) -> None:
        """Attack steps of the run, and steps of synthetic patients for the pictures."""
        self.room.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = target_of_run(self.run, self.pools, self.data, device=_device(self.config.device))
        self._candidates(target, self.room, progress)
        if self.config.pictures == "synthetic":
            progress.note("attacks on synthetic patients, for pictures that may leave")
            self._candidates(replace(target, pools=self._synthetic()), self.room / SYNTHETIC_ROOM, progress)

    def _synthetic(self) -> Pools:
        count = self.batch * max([self.config.batches, *(view.added for view in self.views)])
        return synthetic_pools(self.pools, attacked=count, seed=self.config.seed)

    def _candidates(self, target: Target, room: Path, progress: Progress) -> CandidateIndex:
        return create_candidates(
            target, self.attacks, self.levels, room=room, batches=self.config.batches, batch=self.batch,
            bins=self.config.bins, components=self.config.components,
            participations=self.config.participations, views=self.views, seed=self.config.seed,
            overwrite=self.config.overwrite, resume=self.resume, progress=progress,
        )  # fmt: skip

    def match(self, begun: float, progress: Progress) -> ReconstructionAudit:
        """Count, judge, and write tables and record."""
        origin = origin_of(self.record, timeless=self.config.deterministic)
        audit, sets = counted(
            self.config, self._index(self.room), self.room, self.pools, self.about,
            origin=origin, progress=progress,
        )  # fmt: skip
        audit = replace(
            audit,
            pictures=self._shown(),
            seconds=0.0 if self.config.deterministic else time.perf_counter() - begun,
            matches=tuple(replace(match, seconds=0.0) for match in audit.matches)
            if self.config.deterministic
            else audit.matches,
        )
        with FILES.writing(self.root / FOLDER):
            write_tables(self.root, self.room, audit, sets)
            artifacts.write(self.root, audit)
        return audit

    def visualise(self, progress: Progress) -> None:
        """Draw the figures, the pictures of patients in ``private/``, and what may be shown elsewhere."""
        audit = self._matched()
        progress.note("figures and pictures")
        drawing.draw_figures(audit, self.root)
        index = self._index(self.room)
        words, own = "PRIVATE, patients of this run", self._thresholds_of(audit)
        drawing.draw_images(self.config, self.room, index, self.room / SHOWN, own, title=words, private=True)
        place = self.root / FOLDER / ROOM
        if self.config.pictures == "synthetic":
            room = self.room / SYNTHETIC_ROOM
            drawing.draw_images(
                self.config, room, self._index(room), place, self._by_rule(self._synthetic()),
                title="synthetic patients", private=False,
            )  # fmt: skip
        elif self.config.pictures == drawing.PATIENTS:
            drawing.draw_images(
                self.config, self.room, index, place, own, title="patients of this run", private=False
            )

    def _thresholds_of(self, audit: ReconstructionAudit) -> Callable[[Matched], float]:
        """Return the thresholds that the verdict was made with, unless the settings ask for others."""
        known = {
            (match.attack, match.view, match.level, match.metric): match.threshold for match in audit.matches
        }
        by_rule, metric = self._by_rule(self.pools), self.config.metrics[0]

        def threshold(found: Matched) -> float:
            about = found.about
            key = (about.attack, about.view, about.level.name, metric)
            own = known.get(key) if self.config.threshold is None else None
            return by_rule(found) if own is None else own

        return threshold

    def _by_rule(self, pools: Pools) -> Callable[[Matched], float]:
        reference = PopulationImages(first=pools.public.images.numpy(), second=pools.heldout.images.numpy())
        metric, own = self.config.metrics[0], self.config.threshold
        return lambda found: threshold_of(found, reference, metric=metric, threshold=own)[0]

    def _matched(self) -> ReconstructionAudit:
        fix = "match first: `meninx audit reconstruct match RUN`, with the same --out where one is given"
        audit = artifacts.require(self.root, ReconstructionAudit, fix=fix)
        if not audit.origin.same_model(origin_of(self.record)):
            raise UsageError(problem("the record belongs to another run", where=self.root.name, fix=fix))
        return audit

    def _index(self, room: Path) -> CandidateIndex:
        found = read_index(room) if room.is_dir() else None
        if found is None or not (found.sets or found.not_attacked):
            fix = "create them first: `meninx audit reconstruct create RUN`"
            raise UsageError(problem("there are no candidates", where=room.name, fix=fix))
        return found

    def _shown(self) -> str:
        words = {"synthetic": drawing.SYNTHETIC, "none": drawing.NOTHING_SHOWN}
        return words.get(self.config.pictures, drawing.REAL)

    def result(
        self, record: ReconstructionAudit | None, steps: tuple[str, ...], *, dry_run: bool = False
    ) -> ReconstructionResult:
        """Return what was done."""
        index = read_index(self.room) if self.room.is_dir() else None
        attacks, levels = self.attacks, tuple(level.name for level in self.levels)
        if index is not None and not dry_run:  # what was created, whatever the settings of this step say
            attacks = tuple(dict.fromkeys(one.attack for one in index.sets))
            levels = tuple(dict.fromkeys(one.level.name for one in index.sets))
        out = self.root / artifacts.place(ReconstructionAudit) if record is not None else self.room
        return ReconstructionResult(
            out=out,
            audit=record,
            done=steps,
            attacks=attacks,
            levels=levels,
            sets=len(index.sets) if index is not None else 0,
            dry_run=dry_run,
        )


def attacks_of(config: ReconstructionConfig) -> tuple[str, ...]:
    """Return the names of the attacks that the settings ask for.

    Raises:
        UsageError: there is no such attack.
    """
    found = names_of(config.attacks)
    for name in found:
        attack_kind(name)
    return found


def _audit_lines(audit: ReconstructionAudit) -> list[str]:
    own = audit.own_level
    lines = [
        f"patients: {audit.members} members, {audit.heldout} held out; the attacker has {audit.public}",
        "which of n images was in the training (rank-1 identification, best attack):",
    ]
    for count, found in best_identification(audit, own).items():
        lines.append(
            f"  1 of {count:<6,} {_rate(found.success, found.low, found.high)}, blind guess "
            f"{percent(found.guess)}{_limit(audit, found)} ({found.encoder})"
        )
    for match in matches_of(audit, own):
        lines.append(
            f"attack {match.name}: {_rate(match.success, match.low, match.high)} of {match.originals} "
            f"images reconstructed {view_words(match.view)}, null {percent(match.null)}, "
            f"public images alone up to {percent(match.kappa)}"
        )
        ranking = match.ranking
        if ranking is not None:
            lines.append(
                f"  the right one of {ranking.pool:,} images is the most similar in "
                f"{_rate(ranking.success, ranking.low, ranking.high)}, null {percent(ranking.null)}"
            )
        lines.append(f"  without noise it finds {percent(match.self_test)}")
    return [*lines, f"verdict: {verdict_words(audit)}"]


def _limit(audit: ReconstructionAudit, found: IdentificationRecord) -> str:
    """Return the bound in words, where one holds, and what a success above it means."""
    if not audit.guaranteed or found.bound >= 1:
        return ", nothing bounds it"
    words = f", no attack exceeds {at_most(found.bound)} on average"
    return f"{words}: the rest is chance" if above_by_chance(found) else words


def _rate(value: float, low: float, high: float) -> str:
    return f"{percent(value)} ({percent(low)} to {percent(high)})"


def _device(setting: str) -> str:
    from meninx.learn import runtime

    return str(runtime.device(setting))
