"""The attacks of an audit of identity: fitted on some patients, measured on the others."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from meninx.audit.config import IdentityConfig
from meninx.audit.identity_images import Pictures, attribute_similarity, divided, joined
from meninx.core import files
from meninx.core.identity_records import LinkRecord
from meninx.core.progress import Progress
from meninx.core.randomness import child_seed
from meninx.learn.identity_attacks import SIAMESE, Embedding, NetworkEmbedding, fit_embedding, restored
from meninx.metrics.linkage import ANOTHER, OWN, measure_linkage

_SEEDS, _MOST_BYTES = 1 << 31, 1 << 28


class Attackers:
    """The attacks of an audit: fitted on some patients, measured on the others."""

    def __init__(self, config: IdentityConfig, room: Path, progress: Progress) -> None:
        self.config, self.room, self.progress = config, room, progress

    def links(
        self, stage: str, pictures: Pictures, asking: Pictures | None = None
    ) -> tuple[tuple[LinkRecord, ...], list[list[object]], Pictures]:
        """Return the records, the best match of each probe, and the images that the attacks were fitted on.

        Args:
            stage: name of the attempt, for its files.
            pictures: the gallery, and the probes where there are no others.
            asking: changed images.
        """
        config = self.config
        fitted, evaluated = divided(pictures.owners.patients, config.fit_share, config.seed)
        own, gallery = pictures.of(fitted), pictures.of(evaluated)
        probes = None if asking is None else asking.of(evaluated)
        learned = own if asking is None else joined(own, asking.of(fitted))
        records, scores = [], []
        for attack in config.attacks:
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
            scores += _best(attack, similarity, gallery, probes)
        return tuple(records), scores, learned

    def floor(self, pictures: Pictures, asking: Pictures | None) -> LinkRecord | None:
        """Return what labels and attributes alone link; None where there are none."""
        _, evaluated = divided(pictures.owners.patients, self.config.fit_share, self.config.seed)
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
        seed = self.config.seed
        if probes is None:
            return measure_linkage(attack, similarity, gallery.owners, seed=seed)
        return measure_linkage(
            attack, similarity, probes.owners, gallery.owners, question=question, seed=seed
        )

    def _fitted(self, stage: str, attack: str, learned: Pictures) -> Embedding:
        """Return an attack; a network that was trained before is read from its file."""
        config, seed = self.config, child_seed(self.config.seed, stage) % _SEEDS
        options = {
            "components": config.components,
            "steps": config.siamese_steps,
            "seed": seed,
            "device": config.device,
            "progress": self.progress,
        }
        if attack != SIAMESE:
            return fit_embedding(attack, learned.values, learned.owners.patients, **options)  # type: ignore[arg-type]
        digest = hashlib.sha256(np.ascontiguousarray(learned.values).tobytes())
        digest.update(f"{learned.owners.patients} {config.siamese_steps} {seed}".encode())
        path = self.room / f"{digest.hexdigest()[:32]}.pt"
        channels, dims = learned.values.shape[1], learned.values.ndim - 2
        if path.is_file():
            content = io.BytesIO(files.read_bytes(path, limit=_MOST_BYTES))
            state = torch.load(content, map_location="cpu", weights_only=True)
            return restored(state, channels=channels, dims=dims, device=config.device)
        self.progress.note(f"{stage}: a network is trained on pairs of {len(learned)} images")
        found = fit_embedding(attack, learned.values, learned.owners.patients, **options)  # type: ignore[arg-type]
        if isinstance(found, NetworkEmbedding):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            buffer = io.BytesIO()
            torch.save(found.state(), buffer)
            files.write_bytes(path, buffer.getvalue(), mode=files.PRIVATE_MODE)
        return found


def _best(
    attack: str, similarity: npt.NDArray[Any], gallery: Pictures, probes: Pictures | None
) -> list[list[object]]:
    """Return for each probe the most similar image of another case, and whether it shows the patient."""
    asking = probes or gallery
    values = np.array(similarity, dtype=np.float64)
    row = {name: number for number, name in enumerate(gallery.owners.images)}
    for number, name in enumerate(asking.owners.images):
        if name in row:
            values[number, row[name]] = -np.inf
    found: list[list[object]] = []
    for number, best in enumerate(values.argmax(axis=1)):
        right = asking.owners.patients[number] == gallery.owners.patients[best]
        found.append(
            [
                attack,
                asking.owners.images[number],
                gallery.owners.images[best],
                values[number, best],
                int(right),
            ]
        )
    return found
