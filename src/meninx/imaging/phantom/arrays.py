"""Images of the cohort as arrays, without any file: for tests, for pretraining, for a first look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from meninx.core.randomness import child
from meninx.imaging.phantom import abdomen, anatomy, chest
from meninx.imaging.phantom.subjects import FINDINGS, Subject, until

Pixels = npt.NDArray[np.uint16]


class Radiographs(NamedTuple):
    """Images of several patients, in patient and time order.

    Attributes:
        images: uint16, shape (n, rows, columns), 0 to 4095, air dark.
        labels: for each finding float32 of shape (n,), 0 or 1.
        masks: uint8, shape (n, rows, columns), 1 in a pneumothorax.
        patient_ids: n texts, ``P0000`` and so on.
        sex: n texts, ``F`` or ``M``.
        age: int64, shape (n,), whole years.
    """

    images: npt.NDArray[np.uint16]
    labels: Mapping[str, npt.NDArray[np.float32]]
    masks: npt.NDArray[np.uint8]
    patient_ids: tuple[str, ...]
    sex: tuple[str, ...]
    age: npt.NDArray[np.int64]


class Volumes(NamedTuple):
    """Volumes of several patients, one each.

    Attributes:
        images: int16 Hounsfield-like values, shape (n, x, y, z).
        labels: uint8 label maps, shape (n, x, y, z): 1 organ, 2 lesion.
        spacing_mm: distance of voxel centres along x, y, z.
    """

    images: npt.NDArray[np.int16]
    labels: npt.NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]


def render(
    one: Subject, number: int, size: int, seed: int, *, only: str | None = None, contrast: float = 1.0
) -> chest.Radiograph:
    """Return image ``number`` of a patient; the same whatever else is drawn.

    Args:
        one: the patient.
        number: position in ``one.images``.
        size: rows and columns.
        seed: public seed of the cohort.
        only: draw no other finding than this one; None draws all that the patient has.
        contrast: factor of the findings' attenuation; 1 is subtle.
    """
    body = anatomy.draw(seed, one.index, one.sex, one.age)
    present = {
        name: flag and only in (None, name) for name, flag in zip(FINDINGS, one.images[number], strict=True)
    }
    return chest.radiograph(body, present, child(seed, "image", one.index, number), size, contrast=contrast)


def radiographs(
    n: int, size: int = 64, seed: int = 0, *, prevalence: float = 0.3, attribute_correlation: float = 0.0
) -> Radiographs:
    """Return ``n`` chest images with findings, masks and attributes.

    Args:
        n: number of images; patients have 1 to 4 each, so about n / 2.5 patients.
        size: rows and columns.
        seed: public seed; the same seed gives the same images, and a smaller n gives the first of them.
        prevalence: chance that a patient has each finding.
        attribute_correlation: -1 to 1, see :func:`meninx.imaging.phantom.subjects.finding_probability`.
    """
    patients = list(until(n, seed, prevalence=prevalence, attribute_correlation=attribute_correlation))
    owners = [(one, number) for one in patients for number in range(len(one.images))]
    drawn = [render(one, number, size, seed) for one, number in owners]
    return Radiographs(
        images=np.stack([item.array for item in drawn]) if drawn else np.zeros((0, size, size), np.uint16),
        labels={name: np.array([item.findings[name] for item in drawn], np.float32) for name in FINDINGS},
        masks=np.stack([item.mask for item in drawn]) if drawn else np.zeros((0, size, size), np.uint8),
        patient_ids=tuple(f"P{one.index:04d}" for one, _ in owners),
        sex=tuple(one.sex for one, _ in owners),
        age=np.array([one.age for one, _ in owners], np.int64),
    )


def volumes(n: int, size: tuple[int, int, int] = (48, 48, 24), seed: int = 0) -> Volumes:
    """Return ``n`` CT-like volumes with their label maps, one patient each."""
    drawn = [abdomen.volume(seed, index, size) for index in range(n)]
    images = np.stack([item.array for item in drawn]) if drawn else np.zeros((0, *size), np.int16)
    labels = np.stack([item.labels for item in drawn]) if drawn else np.zeros((0, *size), np.uint8)
    return Volumes(images, labels, (360.0 / size[0], 300.0 / size[1], 160.0 / size[2]))
