"""The cohort as a prepared dataset folder, written without the way through DICOM."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from meninx.core import check, files
from meninx.core.errors import ConfigError, expected
from meninx.core.manifest import Case, DatasetInfo, Intensity, Manifest, Task
from meninx.core.randomness import child
from meninx.imaging.phantom import abdomen, arrays
from meninx.imaging.phantom.subjects import FINDINGS, Subject, subjects

CLASSES = ("clear", *FINDINGS)
HOSPITALS = ("north", "south", "east")


def write_dataset(
    root: Path,
    *,
    task: Task | str = Task.MULTILABEL,
    patients: int = 40,
    size: int = 64,
    seed: int = 0,
    spatial_dims: int = 2,
    hospitals: Sequence[str] = HOSPITALS,
    prevalence: float = 0.35,
    attribute_correlation: float = 0.0,
) -> Manifest:
    """Write a prepared dataset of invented patients and return its manifest.

    Args:
        root: folder to write; created.
        task: multilabel (effusion, pneumothorax, nodule), multiclass (clear or one of them) or segmentation
            (2-D: pneumothorax; 3-D: organ and lesion).
        patients: how many; 1 to 4 images each in 2-D, one volume each in 3-D.
        size: rows and columns; a volume has ``size x size x max(8, size / 2)`` voxels.
        seed: public seed.
        spatial_dims: 2 (8-bit PNG) or 3 (NIfTI; segmentation only).
        hospitals: names of the sites; patients go to them in turn.
        prevalence: chance that a patient has each finding.
        attribute_correlation: -1 to 1, association of sex and findings.

    Raises:
        ConfigError: a combination that does not exist.
    """
    check.one_of([str(one) for one in Task], task=str(task))
    task = Task(task)
    if spatial_dims not in (2, 3) or (spatial_dims == 3 and task is not Task.SEGMENTATION):
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
            _image_case(root, one, number, size, seed, task, homes[one.index])
            for one in people
            for number in range(len(one.images))
        )
    manifest = Manifest(root, _info(task, size, spatial_dims), cases)
    manifest.write()
    return manifest


def _homes(patients: int, seed: int, hospitals: Sequence[str]) -> list[tuple[str, str]]:
    """Return (site, split) of every patient: sites in turn, of each site's patients about 60, 20 and 20 percent per split."""
    homes = [("", "")] * patients
    for position, site in enumerate(hospitals):
        own = child(seed, "split", site).permutation(np.arange(position, patients, len(hospitals)))
        for rank, index in enumerate(own):
            homes[index] = (site, ("train", "valid", "test", "train", "train")[rank % 5])
    return homes


def _info(task: Task, size: int, spatial_dims: int) -> DatasetInfo:
    names = {Task.MULTILABEL: FINDINGS, Task.MULTICLASS: CLASSES, Task.SEGMENTATION: ("pneumothorax",)}
    if spatial_dims == 3:
        intensity = Intensity(window=(-160.0, 240.0), shift=40.0, scale=200.0, source="standard")
        shape = _shape(size)
        return DatasetInfo(
            name="phantom-abdomen", task=task, labels=abdomen.LABELS, attributes=("sex", "age"), spatial_dims=3,
            size=shape, spacing_mm=(360 / shape[0], 300 / shape[1], 160 / shape[2]), intensity=intensity, synthetic=True,
        )  # fmt: skip
    return DatasetInfo(
        name="phantom-chest",
        task=task,
        labels=names[task],
        attributes=("sex", "age"),
        size=(size, size),
        synthetic=True,
    )


def _image_case(
    root: Path, one: Subject, number: int, size: int, seed: int, task: Task, home: tuple[str, str]
) -> Case:
    """Write one radiograph (and mask) and return its row."""
    truth = one.images[number]
    only = FINDINGS[_class(one, number) - 1] if task is Task.MULTICLASS and any(truth) else None
    drawn = arrays.render(one, number, size, seed, only=only)
    case_id = f"P{one.index:04d}-{number}"
    write_png(root / f"images/{case_id}.png", (drawn.array >> 4).astype(np.uint8))
    if task is Task.SEGMENTATION:
        write_png(root / f"masks/{case_id}.png", drawn.mask)
    labels: dict[str, float | None] = {}
    if task is Task.MULTILABEL:
        labels = {name: float(flag) for name, flag in zip(FINDINGS, truth, strict=True)}
    elif task is Task.MULTICLASS:
        labels = {name: float(position == _class(one, number)) for position, name in enumerate(CLASSES)}
    return _case(
        one,
        case_id,
        number,
        home,
        f"images/{case_id}.png",
        f"masks/{case_id}.png" if task is Task.SEGMENTATION else "",
        labels,
    )


def _class(one: Subject, number: int) -> int:
    """Return which of :data:`CLASSES` an image is: 0 without findings, else one of them, chosen by the patient's number."""
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
    """Write an 8-bit grey image without any text chunk."""
    buffer = io.BytesIO()
    Pillow.fromarray(array).save(buffer, format="PNG", compress_level=1)
    files.write_bytes(path, buffer.getvalue())


def write_nifti(path: Path, array: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> None:
    """Write a compressed NIfTI image in millimetres; the same array gives the same bytes."""
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    files.write_bytes(path, gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
