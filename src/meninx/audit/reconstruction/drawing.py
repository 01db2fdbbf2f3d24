"""The step ``visualise``: figures of the record, and pictures of images that may be shown where they lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from meninx.audit.audited_run import FOLDER
from meninx.audit.reconstruction import attack_figures, matching
from meninx.audit.reconstruction.candidates import CandidateIndex, CandidateSet, read_candidates
from meninx.audit.reconstruction.config import ReconstructionConfig
from meninx.audit.reconstruction.matching import Matched
from meninx.audit.reconstruction.pictures import draw_pictures, picture_levels
from meninx.core import files
from meninx.core.names import printable
from meninx.core.reconstruction_records import ReconstructionAudit

IDENTIFICATION, SUCCESS = "identification", "reconstruction"
_SUFFIXES = (".svg", ".png")
FIGURES = tuple(f"{stem}{suffix}" for stem in (IDENTIFICATION, SUCCESS) for suffix in _SUFFIXES)
PATIENTS = "patients-may-leave"
NOTHING_SHOWN = "none"
SYNTHETIC = "synthetic patients"
REAL = "patients of the run, as the setting `pictures` allows in so many words"


def draw_figures(audit: ReconstructionAudit, root: Path) -> None:
    """Write the figures of rates into ``audit/`` below ``root``."""
    place = root / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    attack_figures.draw_identification(audit, [place / f"{IDENTIFICATION}{suffix}" for suffix in _SUFFIXES])
    if audit.matches:
        attack_figures.draw_success(audit, [place / f"{SUCCESS}{suffix}" for suffix in _SUFFIXES])


def draw_images(
    config: ReconstructionConfig,
    room: Path,
    index: CandidateIndex,
    place: Path,
    threshold: Callable[[Matched], float],
    *,
    title: str,
    private: bool,
) -> list[Path]:
    """Write step curves and pictures of every attack and view, and return the paths.

    Both show values of single images, so those of patients belong into ``private/``.

    Args:
        config: metrics and number of images.
        room: folder of the candidates.
        index: of the candidates.
        place: where the files go; made when it is not there.
        threshold: matched set -> similarity above which its images count, by the rule of the verdict.
        title: whose images they are.
        private: files get owner-only permissions.
    """
    place.mkdir(parents=True, exist_ok=True, mode=0o700 if private else 0o755)
    written = []
    for (attack, view), sets in _groups(config, room, index):
        stem = printable(f"{attack}-{view}".replace(" ", "-").replace(",", ""))
        metric = config.metrics[0]
        found = [matched for _, matched in sets]
        name = found[0].about.name
        etas = {one.about.level.name: threshold(one) for one in found}
        paths = [place / f"curves-{stem}{suffix}" for suffix in _SUFFIXES]
        attack_figures.draw_curves(
            {one.about.level.name: one.values[metric].ravel() for one in found},
            np.concatenate([null for one in found for null in matching.nulls_of(one)]), etas, paths,
            title=f"{name}, {view}: {title}", metric=metric,
        )  # fmt: skip
        written += paths
        path = place / f"images-{stem}.png"
        shown = picture_levels([one.about.level.name for one in found])
        draw_pictures(
            {one[1].about.level.name: one for one in sets if one[1].about.level.name in shown},
            metric, config.best_images, path, thresholds=etas, title=f"{name}, {view}: {title}",
            private=private,
        )  # fmt: skip
        written.append(path)
    if private:
        for path in written:
            path.chmod(files.PRIVATE_MODE)
    return written


def _groups(
    config: ReconstructionConfig, room: Path, index: CandidateIndex
) -> Iterator[tuple[tuple[str, str], Sequence[tuple[CandidateSet, Matched]]]]:
    """Yield the matched sets of each attack and view, levels by falling noise."""
    for name in dict.fromkeys((record.attack, record.view) for record in index.sets):
        records = [record for record in index.sets if (record.attack, record.view) == name]
        records.sort(key=lambda record: -record.level.noise_multiplier)
        sets = [read_candidates(room, record) for record in records]
        yield name, [(found, matching.matched(found, config.metrics[:1], rank=False)) for found in sets]
