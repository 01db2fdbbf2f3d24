"""The cohort as arrays and as a prepared dataset folder, without DICOM as an intermediate step."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from meninx.core import check, files
from meninx.core.errors import ConfigError, expected
from meninx.core.intensity import Intensity
from meninx.core.manifest import Case, DatasetInfo, Manifest, TaskKind
from meninx.core.randomness import child
from meninx.synthetic import abdomen, anatomy, chest
from meninx.synthetic.people import FINDINGS, Subject, subjects, until

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
    one: Subject,
    number: int,
    size: int,
    seed: int,
    *,
    only: str | None = None,
    contrast: float = 1.0,
    disparity: float = 0.0,
) -> chest.Radiograph:
    """Return image ``number`` of a patient, which does not depend on any other image.

    Args:
        one: the patient.
        number: position in ``one.images``.
        size: rows and columns.
        seed: public seed of the cohort.
        only: draw only this finding; None draws all findings of the image.
        contrast: factor of the findings' attenuation; 1 is subtle.
        disparity: 0 to 1; share by which the findings of women are fainter, so that a model finds fewer.
    """
    body = anatomy.random_anatomy(seed, one.index, one.sex, one.age)
    present = {
        name: flag and only in (None, name) for name, flag in zip(FINDINGS, one.images[number], strict=True)
    }
    visible = contrast * (1 - disparity) if one.sex == "F" else contrast
    return chest.radiograph(body, present, child(seed, "image", one.index, number), size, contrast=visible)


def radiographs(
    n: int,
    size: int = 64,
    seed: int = 0,
    *,
    prevalence: float = 0.3,
    attribute_correlation: float = 0.0,
    contrast: float = 1.0,
    disparity: float = 0.0,
) -> Radiographs:
    """Return ``n`` chest images with findings, masks and attributes.

    Args:
        n: number of images; every patient has 1 to 4, so there are about n / 2.5 patients.
        size: rows and columns.
        seed: public seed; the same seed gives the same images, and a smaller n gives the first of them.
        prevalence: probability of each finding for a patient.
        attribute_correlation: -1 to 1, see :func:`meninx.synthetic.people.finding_probability`.
        contrast: factor of the findings' attenuation; 1 is subtle.
        disparity: 0 to 1; share by which the findings of women are fainter.
    """
    check.positive(contrast=contrast)
    check.probability(disparity=disparity)
    patients = list(until(n, seed, prevalence=prevalence, attribute_correlation=attribute_correlation))
    owners = [(one, number) for one in patients for number in range(len(one.images))]
    drawn = [
        render(one, number, size, seed, contrast=contrast, disparity=disparity) for one, number in owners
    ]
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


CLASSES = ("clear", *FINDINGS)
HOSPITALS = ("north", "south", "east")


def write_dataset(
    root: Path,
    *,
    task: TaskKind | str = TaskKind.MULTILABEL,
    patients: int = 40,
    size: int = 64,
    seed: int = 0,
    spatial_dims: int = 2,
    hospitals: Sequence[str] = HOSPITALS,
    prevalence: float = 0.35,
    attribute_correlation: float = 0.0,
    contrast: float = 1.0,
    disparity: float = 0.0,
) -> Manifest:
    """Write a prepared dataset of invented patients and return its manifest.

    Args:
        root: folder to write; created.
        task: multilabel (effusion, pneumothorax, nodule), multiclass (clear or one of them) or segmentation
            (2-D: pneumothorax; 3-D: organ and lesion).
        patients: number of patients, with 1 to 4 images each in 2-D and one volume each in 3-D.
        size: rows and columns; a volume has ``size x size x max(8, size / 2)`` voxels.
        seed: public seed.
        spatial_dims: 2 (8-bit PNG) or 3 (NIfTI; segmentation only).
        hospitals: names of the sites, to which patients are assigned in turn.
        prevalence: probability of each finding for a patient.
        attribute_correlation: -1 to 1, association of sex and findings.
        contrast: factor of the findings' attenuation in 2-D; 1 is subtle.
        disparity: 0 to 1; share by which the findings of women are fainter in 2-D, so that a model finds
            fewer of them and a report of groups has something to find.

    Raises:
        ConfigError: the combination of settings does not exist.
    """
    check.one_of([str(one) for one in TaskKind], task=str(task))
    task = TaskKind(task)
    check.positive(contrast=contrast)
    check.probability(disparity=disparity)
    if spatial_dims not in (2, 3) or (spatial_dims == 3 and task is not TaskKind.SEGMENTATION):
        fix = "use task='segmentation' in 3-D"
        raise ConfigError(
            expected("spatial_dims 2, or 3 for segmentation", got=spatial_dims, where="spatial_dims", fix=fix)
        )
    people = subjects(patients, seed, prevalence=prevalence, attribute_correlation=attribute_correlation)
    homes = _homes(patients, seed, hospitals)
    if spatial_dims == 3:
        cases = tuple(_volume_case(root, one, size, seed, homes[one.index]) for one in people)
    else:
        cases = tuple(
            _image_case(root, one, number, size, seed, task, homes[one.index], (contrast, disparity))
            for one in people
            for number in range(len(one.images))
        )
    manifest = Manifest(root, _info(task, size, spatial_dims), cases)
    manifest.write()
    return manifest


def _homes(patients: int, seed: int, hospitals: Sequence[str]) -> list[tuple[str, str]]:
    """Return (site, split) of every patient: sites in turn, about 60, 20 and 20 percent per split."""
    homes = [("", "")] * patients
    for position, site in enumerate(hospitals):
        own = child(seed, "split", site).permutation(np.arange(position, patients, len(hospitals)))
        for rank, index in enumerate(own):
            homes[index] = (site, ("train", "valid", "test", "train", "train")[rank % 5])
    return homes


def _info(task: TaskKind, size: int, spatial_dims: int) -> DatasetInfo:
    names = {
        TaskKind.MULTILABEL: FINDINGS,
        TaskKind.MULTICLASS: CLASSES,
        TaskKind.SEGMENTATION: ("pneumothorax",),
    }
    if spatial_dims == 3:
        intensity = Intensity(window=(-160.0, 240.0), shift=40.0, scale=200.0, source="standard")
        shape = _shape(size)
        return DatasetInfo(
            name="phantom-abdomen",
            task=task,
            labels=abdomen.LABELS,
            attributes=("sex", "age"),
            spatial_dims=3,
            size=shape,
            spacing_mm=(360 / shape[0], 300 / shape[1], 160 / shape[2]),
            intensity=intensity,
            synthetic=True,
            preprocessing={
                "spatial_dims": 3,
                "size": list(shape),
                "scaling": "window",
                "window": list(intensity.window),
            },
        )
    return DatasetInfo(
        name="phantom-chest",
        task=task,
        labels=names[task],
        attributes=("sex", "age"),
        size=(size, size),
        synthetic=True,
        preprocessing={"size": [size, size]},
    )


def _image_case(
    root: Path,
    one: Subject,
    number: int,
    size: int,
    seed: int,
    task: TaskKind,
    home: tuple[str, str],
    visible: tuple[float, float],
) -> Case:
    """Write one radiograph (and mask) and return its row; ``visible`` is contrast and disparity."""
    truth = one.images[number]
    only = FINDINGS[_class(one, number) - 1] if task is TaskKind.MULTICLASS and any(truth) else None
    drawn = render(one, number, size, seed, only=only, contrast=visible[0], disparity=visible[1])
    case_id = f"P{one.index:04d}-{number}"
    write_png(root / f"images/{case_id}.png", (drawn.array >> 4).astype(np.uint8))
    if task is TaskKind.SEGMENTATION:
        write_png(root / f"masks/{case_id}.png", drawn.mask)
    labels: dict[str, float | None] = {}
    if task is TaskKind.MULTILABEL:
        labels = {name: float(flag) for name, flag in zip(FINDINGS, truth, strict=True)}
    elif task is TaskKind.MULTICLASS:
        labels = {name: float(position == _class(one, number)) for position, name in enumerate(CLASSES)}
    return _case(
        one,
        case_id,
        number,
        home,
        f"images/{case_id}.png",
        f"masks/{case_id}.png" if task is TaskKind.SEGMENTATION else "",
        labels,
    )


def _class(one: Subject, number: int) -> int:
    """Return the class of an image: 0 without findings, else one finding, chosen by the patient's number."""
    there = [position + 1 for position, flag in enumerate(one.images[number]) if flag]
    return there[one.index % len(there)] if there else 0


def _volume_case(root: Path, one: Subject, size: int, seed: int, home: tuple[str, str]) -> Case:
    """Write one volume and its label map and return its row."""
    drawn = abdomen.volume(seed, one.index, _shape(size))
    case_id = f"P{one.index:04d}-0"
    write_nifti(root / f"images/{case_id}.nii.gz", drawn.array, drawn.affine)
    write_nifti(root / f"masks/{case_id}.nii.gz", drawn.labels, drawn.affine)
    return _case(one, case_id, 0, home, f"images/{case_id}.nii.gz", f"masks/{case_id}.nii.gz", {})


def _case(
    one: Subject,
    case_id: str,
    number: int,
    home: tuple[str, str],
    image: str,
    mask: str,
    labels: Mapping[str, float | None],
) -> Case:
    return Case(
        case_id=case_id,
        patient_id=f"P{one.index:04d}",
        image=image,
        study=f"P{one.index:04d}-S{number}",
        site=home[0],
        split=home[1],
        mask=mask,
        labels=labels,
        attributes={"sex": one.sex, "age": str(one.age)},
    )


def _shape(size: int) -> tuple[int, int, int]:
    return (size, size, max(8, size // 2))


def write_png(path: Path, array: npt.NDArray[np.uint8]) -> None:
    """Write an 8-bit grey PNG image without text chunks."""
    buffer = io.BytesIO()
    Pillow.fromarray(array).save(buffer, format="PNG", compress_level=1)
    files.write_bytes(path, buffer.getvalue())


def write_nifti(path: Path, array: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> None:
    """Write a compressed NIfTI image in millimetres; the same array gives the same bytes."""
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    files.write_bytes(path, gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
