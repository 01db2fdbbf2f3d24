"""Reconstructed images as probes: do they name the patient, or another image of the patient?

The candidates are those of ``meninx audit reconstruct``. Nobody knows which patient of a batch a candidate
shows, so a claim is right if it names any of them, and chance is their share of the gallery. What the same
decoder makes of noise alone and of other patients goes through the same search and has to stay at chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from meninx.audit.config import IdentityConfig
from meninx.audit.reconstruction.candidates import CandidateRecord, read_candidates, read_index
from meninx.core.errors import DataError, problem
from meninx.core.identity_records import LinkRecord
from meninx.core.manifest import Manifest
from meninx.core.progress import Progress
from meninx.learn.common_grid import on_grid
from meninx.learn.identity_attacks import Embedding, fit_embedding
from meninx.learn.identity_images import Pictures, divided, pictures_of
from meninx.metrics.linkage import ANOTHER, OWN, measure_claims

ATTACK = "pixels"
NOISE, OTHERS = "noise alone", "other patients"
_VIEW = "step"
_PERMUTATIONS = 999
_FLAT = 1e-6  # deviation of an image that carries nothing
Array = npt.NDArray[np.float32]


def link_reconstructions(
    room: Path, data: Manifest, config: IdentityConfig, progress: Progress
) -> tuple[LinkRecord, ...]:
    """Return how often reconstructed images name a patient of their batch; nothing where there are none.

    Args:
        room: folder of the candidates.
        data: the dataset of the run.
        config: grid, components and seed.
        progress: shows images.

    Raises:
        DataError: the candidates are of another dataset.
    """
    index = read_index(room)
    sets = [] if index is None else [one for one in index.sets if one.view == _VIEW]
    if not sets:
        return ()
    owner = {case.case_id: case.patient_id for case in data.cases}
    names = {name for one in sets for name in chain.from_iterable(one.cases)}
    if not names <= owner.keys():
        fix = "make them again with `meninx audit reconstruct RUN --overwrite`"
        raise DataError(problem("the candidates are of another dataset", where="reconstruction", fix=fix))
    victims = frozenset(owner[name] for name in names)
    pictures = pictures_of(
        _around(data, victims, config), side=config.side, most=len(data), seed=config.seed, progress=progress
    )
    rest = [patient for patient in pictures.owners.patients if patient not in victims]
    fitted, _ = divided(rest, config.fit_share, config.seed)
    learned = pictures.of(fitted)
    gallery = pictures.of(frozenset(pictures.owners.patients) - fitted)
    embed = fit_embedding(
        ATTACK, learned.values, learned.owners.patients, components=config.components, seed=config.seed
    )
    found: list[LinkRecord] = []
    for one in sets:
        progress.note(f"reconstructions: {one.attack}, {one.level.name}")
        found += _links(room, one, gallery, owner, embed, config.seed)
    return tuple(found)


def _around(data: Manifest, victims: frozenset[str], config: IdentityConfig) -> Manifest:
    """Return the victims' images and those of other patients, at most about as many as are compared."""
    room = config.most_images
    keep = set(victims)
    for case in data.cases:
        if room <= 0:
            break
        keep.add(case.patient_id)
        room -= 1
    return data.select(lambda case: case.patient_id in keep)


def _links(
    room: Path,
    about: CandidateRecord,
    gallery: Pictures,
    owner: dict[str, str],
    embed: Embedding,
    seed: int,
) -> Iterator[LinkRecord]:
    """Yield the records of one set of candidates and of its nulls."""
    sets = read_candidates(room, about)
    shelf = embed(gallery.values)
    originals = set(chain.from_iterable(about.cases))
    people = np.array(gallery.owners.patients, dtype=object)
    images = np.array(gallery.owners.images, dtype=object)
    others = np.array([name not in originals for name in images])
    for words, candidates in (("", sets.candidates), (NOISE, sets.noise_null), (OTHERS, sets.heldout_null)):
        similarity, trials = _claims(candidates, about, gallery, shelf, embed)
        wanted = [list(about.cases[trial]) for trial in trials]
        own = np.array([np.isin(images, cases) for cases in wanted]).reshape(len(trials), len(images))
        patients = [[owner[name] for name in cases] for cases in wanted]
        same = np.array([np.isin(people, names) for names in patients]).reshape(len(trials), len(people))
        source = f"{about.attack}, {about.level.name}" + (f", {words}" if words else "")
        each = [str(number) for number in range(len(trials))]
        for question, answers, place in ((OWN, own, np.ones(len(images), bool)), (ANOTHER, same, others)):
            rows = np.flatnonzero(place)
            record = measure_claims(
                ATTACK, similarity[:, rows], answers[:, rows], each, gallery.owners.rows(rows.tolist()),
                question=question, seed=seed, permutations=_PERMUTATIONS,
            )  # fmt: skip
            yield replace(record, source=source)


def _claims(
    candidates: torch.Tensor, about: CandidateRecord, gallery: Pictures, shelf: Array, embed: Embedding
) -> tuple[Array, list[int]]:
    """Return the similarities of the most certain candidates of each trial, as many as there are patients.

    Candidates that carry nothing are no claims.
    """
    found, trials = [np.zeros((0, len(shelf)), np.float32)], []
    for trial, images in enumerate(candidates):
        kept = images[images.flatten(1).std(dim=1) > _FLAT]
        if not len(kept):
            continue
        vectors = embed(on_grid(kept, tuple(gallery.values.shape[2:])).numpy())
        similarity = vectors @ shelf.T
        certain = np.argsort(-similarity.max(axis=1), kind="stable")[: about.originals]
        found.append(similarity[certain])
        trials += [trial] * len(certain)
    return np.concatenate(found), trials
