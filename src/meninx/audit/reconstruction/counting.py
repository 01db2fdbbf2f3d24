"""The step ``match``: from candidates and simulated identifications to record and tables of an audit."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from meninx.audit.audited_run import FOLDER
from meninx.audit.reconstruction import matching, rank_one
from meninx.audit.reconstruction.candidates import CandidateIndex, NoiseLevel, read_candidates
from meninx.audit.reconstruction.config import ReconstructionConfig
from meninx.audit.reconstruction.levels import OWN, Attacked, record_of, steps_of
from meninx.audit.reconstruction.matching import Matched, PopulationImages
from meninx.audit.reconstruction.pools import Pools
from meninx.audit.reconstruction.rank_one import Identification, Steps
from meninx.audit.reconstruction.reconstruction_verdict import verdict_of
from meninx.core import files
from meninx.core import progress as bars
from meninx.core.errors import UsageError, problem
from meninx.core.origin import Origin
from meninx.core.progress import Progress
from meninx.core.reconstruction_records import (
    CRITERIA,
    NOTHING,
    IdentificationRecord,
    MatchRecord,
    ReconstructionAudit,
)

TABLE, DISTANCES = "reconstruction.csv", "distances.csv"
_COUNT = 10
"""Candidates at the levels beside the run's own."""


def counted(
    config: ReconstructionConfig,
    index: CandidateIndex,
    room: Path,
    pools: Pools,
    about: Attacked,
    *,
    origin: Origin,
    progress: Progress,
) -> tuple[ReconstructionAudit, list[Matched]]:
    """Return the record of an audit, without pictures, and the matched sets.

    Args:
        config: metrics, threshold, numbers of candidates and significance.
        index: of the candidates.
        room: their folder.
        pools: of the run.
        about: the training.
        origin: the audited run.
        progress: shows sets and experiments.

    Raises:
        UsageError: there are no candidates of the run's own level.
        DataError: a set is damaged.
    """
    levels = tuple({one.level.name: one.level for one in index.sets}.values())
    if OWN not in {level.name for level in levels}:
        fix = "create them first: `meninx audit reconstruct create RUN`"
        raise UsageError(problem("there are no candidates to match", where=room.name, fix=fix))
    population = PopulationImages(first=pools.public.images.numpy(), second=pools.heldout.images.numpy())
    members = pools.members.images.numpy()
    sets, matches = [], []
    with bars.task(progress, "matching", len(index.sets)):
        for record in index.sets:
            found = matching.matched(read_candidates(room, record), config.metrics, members=members)
            noise = record.level.noise_multiplier * record.view_noise
            sets.append(found)
            matches.append(
                matching.measured(
                    found, population, metric=config.metrics[0], threshold=config.threshold, noise=noise
                )
            )
            progress.advance()
    judged_matches = matching.judged_matches(matches, config.significance / 2)
    identification, without = identifications(config, pools, levels, about, progress)
    audit = ReconstructionAudit(
        identification=identification,
        identified_without=without,
        matches=judged_matches,
        not_attacked=dict(index.not_attacked),
        levels=tuple(record_of(level) for level in levels),
        sample_rate=about.sample_rate,
        steps=about.steps,
        sampler=about.sampler,
        members=len(pools.members),
        heldout=len(pools.heldout),
        public=pools.source,
        pictures="",
        seconds=0.0,
        significance=config.significance,
        verdict=NOTHING,
        reason="",
        origin=origin,
        criteria=CRITERIA,
        unit=about.unit,
        guaranteed=about.guaranteed,
    )
    audit = audit if about.guaranteed else audit.without_bounds()
    verdict, reason = verdict_of(
        audit.identification, without, audit.matches, own=OWN, significance=config.significance
    )
    return replace(audit, verdict=verdict, reason=reason), sets


def identifications(
    config: ReconstructionConfig,
    pools: Pools,
    levels: Sequence[NoiseLevel],
    about: Attacked,
    progress: Progress,
) -> tuple[tuple[IdentificationRecord, ...], IdentificationRecord]:
    """Return all experiments of identification, and the negative control.

    Args:
        config: numbers of candidates, trials, components and seed.
        pools: members are the candidates, with held-out patients where there are few.
        levels: of noise.
        about: the training.
        progress: shows experiments.
    """
    images = pools.members.images
    tried = Identification(
        images, pools.public.images, components=config.components, trials=config.trials, seed=config.seed
    )
    counts = tried.counts(config.candidates) or (2,)
    at = max((count for count in counts if count <= _COUNT), default=counts[0])
    plan = list(tried.experiments(steps_of(levels, about), counts, at))
    found = []
    with bars.task(progress, "identification", len(plan)):
        for steps, encoder, count in plan:
            found.append(tried.found(steps, encoder, count))
            progress.advance()
    own: Steps = next(steps for steps in steps_of(levels, about) if steps.own)
    without = tried.found(own, rank_one.ON_CANDIDATES, at, takes_part=False)
    return rank_one.judged_identification(found, config.significance / 2), without


# tables


def write_tables(root: Path, room: Path, audit: ReconstructionAudit, sets: Sequence[Matched]) -> None:
    """Write the table of rates below ``root``, and that of single images into the private folder.

    Args:
        root: folder that gets ``audit/reconstruction.csv``.
        room: private folder of the candidates, which gets ``distances.csv``.
        audit: the record.
        sets: what was matched.
    """
    place = root / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    files.write_text(place / TABLE, _csv(_rates(audit)))
    files.write_text(room / DISTANCES, _csv(_distances(sets)), mode=files.PRIVATE_MODE)


def _rates(audit: ReconstructionAudit) -> Iterator[Sequence[Any]]:
    yield (
        "kind", "attack", "view", "level", "noise_multiplier", "candidates", "trials", "success", "low",
        "high", "null", "kappa", "bound", "metric", "threshold", "best", "median", "worst", "found",
        "package",
    )  # fmt: skip
    noise = {level.name: level.noise_multiplier for level in audit.levels}
    for found in audit.identification:
        yield (
            "identification", found.encoder, "training", found.level, noise[found.level], found.candidates,
            found.trials, found.success, found.low, found.high, found.guess, found.guess,
            _bound(audit, found.bound), *7 * [""],
        )  # fmt: skip
    for match in audit.matches:
        yield (
            "reconstruction", match.attack, match.view, match.level, match.noise_multiplier,
            match.candidates, match.originals, match.success, match.low, match.high, match.null, match.kappa,
            _bound(audit, match.bound), match.metric, match.threshold, *match.quantiles[match.metric],
            match.found, match.package,
        )  # fmt: skip
        ranking = match.ranking
        if ranking is not None:
            yield (
                "identification by reconstruction", match.attack, match.view, match.level,
                match.noise_multiplier, ranking.pool, match.originals, ranking.success, ranking.low,
                ranking.high, ranking.null, 1 / ranking.pool, _bound(audit, ranking.bound), "ncc",
                *4 * [""], match.found, match.package,
            )  # fmt: skip


def _bound(audit: ReconstructionAudit, value: float) -> float | str:
    """Return a bound; nothing where none holds."""
    return value if audit.guaranteed else ""


def _distances(sets: Sequence[Matched]) -> Iterator[Sequence[Any]]:
    """Yield one row per image: the candidate that it was matched with, and their similarities."""
    metrics = list(sets[0].values) if sets else []
    yield ("attack", "view", "level", "step", "image", "candidate", *metrics)
    for found in sets:
        about = found.about
        for trial, row in enumerate(found.chosen):
            for number, chosen in enumerate(row):
                values = (float(found.values[metric][trial, number]) for metric in metrics)
                yield (about.attack, about.view, about.level.name, trial, number, int(chosen), *values)


def _csv(rows: Iterator[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def matches_of(audit: ReconstructionAudit, level: str) -> tuple[MatchRecord, ...]:
    """Return the attacks at one level."""
    return tuple(match for match in audit.matches if match.level == level)
