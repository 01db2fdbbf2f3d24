"""The images that attacks on identity compare: whose they are, who is evaluated, and the controls."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from meninx.core.manifest import Case, Manifest
from meninx.core.progress import Progress
from meninx.core.randomness import child
from meninx.learn.common_grid import grid_images
from meninx.metrics.linkage import Owners

Array = npt.NDArray[np.float32]
_CELLS = 16  # of a planted mark, each bright or dark


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images on a common grid with their owners.

    Attributes:
        values: float32, shape (images, channels, *grid).
        owners: patient, name and study of each.
        cases: rows of the manifest, in the same order.
    """

    values: Array
    owners: Owners
    cases: tuple[Case, ...]

    def __len__(self) -> int:
        return len(self.cases)

    def rows(self, keep: Sequence[int]) -> Pictures:
        """Return some of the images."""
        chosen = np.asarray(keep, dtype=np.int64)
        return Pictures(
            self.values[chosen], self.owners.rows(chosen.tolist()), tuple(self.cases[row] for row in chosen)
        )

    def of(self, patients: frozenset[str]) -> Pictures:
        """Return the images of some patients."""
        return self.rows([row for row, patient in enumerate(self.owners.patients) if patient in patients])


def pictures_of(data: Manifest, *, side: int | None, most: int, seed: int, progress: Progress) -> Pictures:
    """Return the images of a dataset, of patients drawn at random until there are ``most`` images.

    Args:
        data: the dataset.
        side: pixels along each axis of the grid; None for the usual one.
        most: most images.
        seed: public seed of the draw.
        progress: shows the images.
    """
    chosen = drawn_patients(data, most, seed)
    values = grid_images(chosen, side=side, progress=progress).numpy()
    owners = Owners(
        patients=tuple(case.patient_id for case in chosen.cases),
        images=tuple(case.case_id for case in chosen.cases),
        studies=tuple(f"{case.patient_id}/{case.study}" if case.study else "" for case in chosen.cases),
    )
    return Pictures(values, owners, chosen.cases)


def drawn_patients(data: Manifest, most: int, seed: int) -> Manifest:
    """Return the cases of patients drawn at random until there are about ``most``."""
    if len(data) <= most:
        return data
    order = child(seed, "patients of the audit").permutation(len(data.patients))
    counts = np.bincount(data.patient_index(), minlength=len(data.patients))
    enough = int(np.searchsorted(np.cumsum(counts[order]), most)) + 1
    keep = {data.patients[index] for index in order[:enough]}
    return data.select(lambda case: case.patient_id in keep)


def without_copies(pictures: Pictures) -> Pictures:
    """Return the images without those whose patient has another one of the same pixels.

    A copy would be linked by any comparison, and says nothing about the patient.
    """
    seen: set[tuple[str, str]] = set()
    keep = []
    for row, patient in enumerate(pictures.owners.patients):
        name = (patient, hashlib.sha256(np.ascontiguousarray(pictures.values[row]).tobytes()).hexdigest())
        if name not in seen:
            keep.append(row)
            seen.add(name)
    return pictures.rows(keep)


def divided(patients: Sequence[str], share: float, seed: int) -> tuple[frozenset[str], frozenset[str]]:
    """Return the patients that attacks are fitted on, a share of all, and those that are evaluated."""
    everybody = sorted(set(patients))
    order = child(seed, "attacker's patients").permutation(len(everybody))
    fitted = frozenset(everybody[index] for index in order[: round(share * len(everybody))])
    return fitted, frozenset(everybody) - fitted


def shuffled(pictures: Pictures, seed: int) -> Pictures:
    """Return the images with the patients permuted among them: nothing links two images of one."""
    order = child(seed, "shuffled identities").permutation(len(pictures))
    patients = [pictures.owners.patients[index] for index in order]
    cases = tuple(
        replace(case, patient_id=patient) for case, patient in zip(pictures.cases, patients, strict=True)
    )
    return Pictures(pictures.values, pictures.owners.renamed(patients), cases)


def marked(pictures: Pictures, seed: int) -> Pictures:
    """Return the images with a band of bright and dark cells along one edge, the same for each patient.

    Like a number that is burnt into all images of a patient.
    """
    values = pictures.values.copy()
    low, high = float(values.min()), float(values.max())
    depth, width = max(1, values.shape[2] // 8), values.shape[-1]
    cell = np.minimum(np.arange(width) * _CELLS // width, _CELLS - 1)
    for row, patient in enumerate(pictures.owners.patients):
        bits = child(seed, "planted mark", patient).integers(0, 2, _CELLS)
        values[row, :, :depth] = np.where(bits[cell] == 1, high, low).astype(np.float32)
    return Pictures(values, pictures.owners, pictures.cases)


def joined_pictures(first: Pictures, second: Pictures) -> Pictures:
    """Return the images of both, those of ``first`` before the others."""
    owners = first.owners
    return Pictures(
        np.concatenate([first.values, second.values]),
        Owners(
            owners.patients + second.owners.patients,
            owners.images + second.owners.images,
            owners.studies + second.owners.studies if owners.studies and second.owners.studies else (),
        ),
        first.cases + second.cases,
    )


def attribute_similarity(probes: Sequence[Case], gallery: Sequence[Case]) -> npt.NDArray[np.float64] | None:
    """Return how similar labels and attributes are, shape (probes, gallery); None where there are none.

    A number counts by its squared difference in standard deviations, a word by whether it differs.
    """
    names = sorted({name for case in gallery for name in case.attributes})
    labels = sorted({name for case in gallery for name in case.labels})
    columns = [(_texts(probes, name), _texts(gallery, name)) for name in names]
    columns += [(_labels(probes, name), _labels(gallery, name)) for name in labels]
    columns += [([case.site for case in probes], [case.site for case in gallery])]
    found, used = np.zeros((len(probes), len(gallery))), False
    for asked, there in columns:
        if len({*asked, *there}) < 2:
            continue
        used = True
        found -= _difference(asked, there)
    return found if used else None


def _difference(asked: Sequence[str], there: Sequence[str]) -> npt.NDArray[np.float64]:
    try:
        first, second = np.array(asked, dtype=np.float64), np.array(there, dtype=np.float64)
    except ValueError:
        first = second = np.array([np.nan])
    if np.isfinite(first).all() and np.isfinite(second).all():
        scale = max(float(second.std()), 1e-12)
        if len(set(second.tolist())) > 2:  # two values are words
            return np.asarray(((first[:, None] - second[None]) / scale) ** 2)
    return np.asarray(np.array(asked)[:, None] != np.array(there)[None], dtype=np.float64)


def _texts(cases: Sequence[Case], name: str) -> list[str]:
    return [case.attributes.get(name, "") for case in cases]


def _labels(cases: Sequence[Case], name: str) -> list[str]:
    return [str(case.labels.get(name)) for case in cases]
