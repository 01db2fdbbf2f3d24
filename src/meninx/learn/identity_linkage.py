"""How well attacks link images to other images of the same patient, on patients that they were not fitted on.

The images are those of a dataset, or changed images of the same cases that ask the dataset's own. With the
attacks come the floor (what labels and attributes alone link) and two controls: images with shuffled
identities must not be linked, and images with a planted mark per patient must be. ::

    found = link_images(Manifest.read(folder), settings, changed=Manifest.read(release), room=private)
    print(found.verdict, found.links[0].p_at_1)
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from meninx.core.digest_cache import DigestCache
from meninx.core.errors import DataError, expected, problem
from meninx.core.identity_records import LinkRecord
from meninx.core.manifest import Manifest
from meninx.core.progress import SILENT, Progress
from meninx.core.randomness import child_seed
from meninx.learn.identity_attacks import (
    SIAMESE,
    Embedding,
    NetworkEmbedding,
    fit_embedding,
    restored_embedding,
)
from meninx.learn.identity_images import (
    Pictures,
    attribute_similarity,
    divided,
    joined_pictures,
    marked,
    pictures_of,
    shuffled,
    without_copies,
)
from meninx.metrics.linkage import ANOTHER, LEAST_PATIENTS, OWN, linkage_verdict, measure_linkage

_SEEDS, _MOST_BYTES = 1 << 31, 1 << 28
_Match = tuple[str, str, str, float, int]


@dataclass(frozen=True, kw_only=True)
class LinkageSettings:
    """Which attacks are fitted, on whom, and with what.

    Attributes:
        attacks: ``pixels``, ``hog`` or ``siamese``, at least one.
        fit_share: share of the patients that the attacks are fitted on, in (0, 1); the others are evaluated.
        components: directions that are kept of pixels and edge directions.
        side: pixels along each axis of the common grid; None for the usual one.
        siamese_steps: optimiser steps of the network that is trained on pairs.
        most_images: larger datasets are represented by patients drawn at random with about so many images.
        significance: largest probability of the verdict that images are linked where they tell nothing.
        seed: public seed of the division of the patients, the controls and the permutations.
        device: where the network is trained.
    """

    attacks: tuple[str, ...]
    fit_share: float
    components: int
    side: int | None
    siamese_steps: int
    most_images: int
    significance: float
    seed: int
    device: str


@dataclass(frozen=True, kw_only=True)
class Linkage:
    """What the attacks found.

    Attributes:
        links: the attacks, each with its question.
        floor: what labels and attributes alone link; None where there are none.
        negative: the attacks on shuffled identities.
        positive: the attacks on shuffled identities with a planted mark for each.
        verdict: ``linked``, ``nothing found`` or ``void``.
        reason: of ``void``; else empty.
        fitted_patients: patients that the attacks were fitted on.
        fitted_images: their images.
        copies: images left out because another image of the patient has the same pixels.
        grid: size that all images were brought to.
        matches: for each attack and probe its name, the probe, the most similar image of another case, their
            similarity, and 1 if both show the same patient. Private.
    """

    links: tuple[LinkRecord, ...]
    floor: LinkRecord | None
    negative: tuple[LinkRecord, ...]
    positive: tuple[LinkRecord, ...]
    verdict: str
    reason: str
    fitted_patients: int
    fitted_images: int
    copies: int
    grid: tuple[int, ...]
    matches: tuple[_Match, ...]


def link_images(
    data: Manifest,
    settings: LinkageSettings,
    *,
    room: Path,
    changed: Manifest | None = None,
    progress: Progress = SILENT,
) -> Linkage:
    """Return how often the most similar image shows the patient, with floor, controls and verdict.

    Args:
        data: the dataset whose images are the gallery.
        settings: the attacks.
        room: private folder of the networks that are trained; one that is there is not trained again.
        changed: changed images of the same cases, which ask instead of the dataset's own.
        progress: shows images and steps.

    Raises:
        DataError: too few patients with two images, or ``changed`` has other cases.
    """
    patients_with_several(data, settings.fit_share)
    if changed is not None:
        refuse_other_cases(data, changed)
    read = {"side": settings.side, "most": settings.most_images, "seed": settings.seed, "progress": progress}
    everything = pictures_of(data, **read)  # type: ignore[arg-type]
    pictures = without_copies(everything)
    asking = None
    if changed is not None:
        names = set(everything.owners.images)
        asking = pictures_of(changed.select(lambda case: case.case_id in names), **read)  # type: ignore[arg-type]
    attackers = _Attackers(settings, room, progress)
    links, matches, fitted = attackers.links("main", pictures, asking)
    mixed = shuffled(pictures, settings.seed)
    negative, _, _ = attackers.links("negative control", mixed)
    positive, _, _ = attackers.links("positive control", marked(mixed, settings.seed))
    verdict, reason = linkage_verdict(links, negative, positive, settings.significance)
    return Linkage(
        links=links,
        floor=attackers.floor(pictures, asking),
        negative=negative,
        positive=positive,
        verdict=verdict,
        reason=reason,
        fitted_patients=len(set(fitted.owners.patients)),
        fitted_images=len(fitted),
        copies=len(everything) - len(pictures),
        grid=tuple(pictures.values.shape[2:]),
        matches=matches,
    )


def patients_with_several(data: Manifest, fit_share: float) -> int:
    """Return how many patients have two images; refuse too few for any number, before an image is read.

    Raises:
        DataError: too few.
    """
    several = int((np.bincount(data.patient_index()) > 1).sum()) if len(data) else 0
    needed = math.ceil(LEAST_PATIENTS / (1 - fit_share))
    if several < needed:
        rule = f"at least {needed} patients with two images"
        fix = "an image can be linked only to another image of the same patient; give more patients"
        raise DataError(expected(rule, got=several, where=data.info.name, fix=fix))
    return several


def refuse_other_cases(data: Manifest, changed: Manifest, *, where: str = "probes") -> None:
    """Refuse changed images of other cases or patients, or of another kind.

    Args:
        data: the dataset.
        changed: what should be made from it.
        where: setting that named the changed images.

    Raises:
        DataError: a case is not one of the dataset's, or the images have other axes or channels.
    """
    owner = {case.case_id: case.patient_id for case in data.cases}
    shared = [case for case in changed.cases if case.case_id in owner]
    if not shared or any(owner[case.case_id] != case.patient_id for case in shared):
        fix = "give a dataset that was made from this one, with its case_id and patient_id"
        raise DataError(problem("the two datasets do not have the same cases", where=where, fix=fix))
    kinds = [(one.info.spatial_dims, one.info.channels) for one in (data, changed)]
    if kinds[0] != kinds[1]:
        got = f"{kinds[1][0]} and {kinds[1][1]}"
        rule = f"{kinds[0][0]} spatial axes and {kinds[0][1]} channels, as in the dataset"
        raise DataError(expected(rule, got=got, where=where))


class _Attackers:
    """The attacks of an audit: fitted on some patients, measured on the others."""

    def __init__(self, settings: LinkageSettings, room: Path, progress: Progress) -> None:
        self.settings, self.room, self.progress = settings, room, progress

    def links(
        self, stage: str, pictures: Pictures, asking: Pictures | None = None
    ) -> tuple[tuple[LinkRecord, ...], tuple[_Match, ...], Pictures]:
        """Return the records, the best match of each probe, and the images that the attacks were fitted on.

        Args:
            stage: name of the attempt, for its files.
            pictures: the gallery, and the probes where there are no others.
            asking: changed images.
        """
        settings = self.settings
        fitted, evaluated = divided(pictures.owners.patients, settings.fit_share, settings.seed)
        own, gallery = pictures.of(fitted), pictures.of(evaluated)
        probes = None if asking is None else asking.of(evaluated)
        learned = own if asking is None else joined_pictures(own, asking.of(fitted))
        records: list[LinkRecord] = []
        matches: list[_Match] = []
        for attack in settings.attacks:
            embed = self._fitted(stage, attack, learned)
            shelf = embed(gallery.values)
            if probes is None or asking is None:
                similarity = shelf @ shelf.T
                records.append(self._measured(attack, similarity, gallery, None, ANOTHER))
            else:
                # the changed images as a whole lie elsewhere, and the attacker knows by how much
                shift = embed(asking.of(fitted).values).mean(axis=0) - embed(own.values).mean(axis=0)
                similarity = (embed(probes.values) - shift) @ shelf.T
                records += [
                    self._measured(attack, similarity, gallery, probes, question)
                    for question in (ANOTHER, OWN)
                ]
            matches += _best(attack, similarity, gallery, probes)
        return tuple(records), tuple(matches), learned

    def floor(self, pictures: Pictures, asking: Pictures | None) -> LinkRecord | None:
        """Return what labels and attributes alone link; None where there are none."""
        _, evaluated = divided(pictures.owners.patients, self.settings.fit_share, self.settings.seed)
        gallery = pictures.of(evaluated)
        probes = None if asking is None else asking.of(evaluated)
        similarity = attribute_similarity((probes or gallery).cases, gallery.cases)
        if similarity is None:
            return None
        return self._measured("labels", similarity, gallery, probes, ANOTHER)

    def _measured(
        self,
        attack: str,
        similarity: npt.ArrayLike,
        gallery: Pictures,
        probes: Pictures | None,
        question: str,
    ) -> LinkRecord:
        seed = self.settings.seed
        if probes is None:
            return measure_linkage(attack, similarity, gallery.owners, seed=seed)
        return measure_linkage(
            attack, similarity, probes.owners, gallery.owners, question=question, seed=seed
        )

    def _fitted(self, stage: str, attack: str, learned: Pictures) -> Embedding:
        """Return an attack; a network that was trained before is read from its file."""
        settings, seed = self.settings, child_seed(self.settings.seed, stage) % _SEEDS
        options = {
            "components": settings.components,
            "steps": settings.siamese_steps,
            "seed": seed,
            "device": settings.device,
            "progress": self.progress,
        }
        if attack != SIAMESE:
            return fit_embedding(attack, learned.values, learned.owners.patients, **options)  # type: ignore[arg-type]
        cache = DigestCache(self.room, suffix=".pt", limit=_MOST_BYTES)
        values = np.ascontiguousarray(learned.values)
        fitted = (str(values.shape), str(learned.owners.patients), f"{settings.siamese_steps} {seed}")
        key = cache.key(values.tobytes(), *fitted)
        content = cache.read(key)
        if content is not None:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            channels, dims = values.shape[1], values.ndim - 2
            return restored_embedding(state, channels=channels, dims=dims, device=settings.device)
        self.progress.note(f"{stage}: a network is trained on pairs of {len(learned)} images")
        found = fit_embedding(attack, values, learned.owners.patients, **options)  # type: ignore[arg-type]
        if isinstance(found, NetworkEmbedding):
            buffer = io.BytesIO()
            torch.save(found.state(), buffer)
            cache.write(key, buffer.getvalue())
        return found


def _best(
    attack: str, similarity: npt.NDArray[Any], gallery: Pictures, probes: Pictures | None
) -> Iterator[_Match]:
    """Yield for each probe the most similar image of another case, and whether it shows the patient."""
    asking = probes or gallery
    values = np.array(similarity, dtype=np.float64)
    row = {name: number for number, name in enumerate(gallery.owners.images)}
    for number, name in enumerate(asking.owners.images):
        if name in row:
            values[number, row[name]] = -np.inf
    for number, best in enumerate(values.argmax(axis=1)):
        right = asking.owners.patients[number] == gallery.owners.patients[best]
        image, found = asking.owners.images[number], gallery.owners.images[best]
        yield attack, image, found, float(values[number, best]), int(right)
