"""Tiny datasets on disk, and run folders, for the tests of the learn room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from meninx.core import run as run_folder
from meninx.core.manifest import Case, DatasetInfo, Manifest, TaskKind
from meninx.core.run import Run
from meninx.imaging import load
from meninx.imaging.image import Image

SIDE = 16


def _picture(
    bright: bool, generator: np.random.Generator, size: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return an image with a square that is bright or dark, and the square as label map."""
    mask = np.zeros(size, np.uint8)
    low = [int(generator.integers(2, length - 8)) for length in size]
    mask[tuple(slice(start, start + 6) for start in low)] = 1
    noise = generator.integers(0, 40, size)
    return (110 + noise + (90 if bright else -90) * mask.astype(np.int64)).astype(np.uint8), mask


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[..., Manifest]:
    """A function that writes a dataset.

    ``dataset(task, cases=8, valid=4, cases_per_patient=1, size=(16, 16))``
    """

    def write(
        task: TaskKind = TaskKind.MULTICLASS,
        *,
        cases: int = 8,
        valid: int = 4,
        cases_per_patient: int = 1,
        size: tuple[int, ...] = (SIDE, SIDE),
        laterality: tuple[tuple[str, str], ...] = (),
        seed: int = 0,
    ) -> Manifest:
        root = tmp_path / f"data-{task}-{len(size)}d-{seed}-{cases}-{cases_per_patient}"
        generator = np.random.default_rng(seed)
        suffix = ".png" if len(size) == 2 else ".nii.gz"
        labels = ("square",) if task is TaskKind.SEGMENTATION else ("dark", "bright")
        rows = []
        for number in range(cases + valid):
            bright = number % 2 == 1
            array, mask = _picture(bright or task is TaskKind.SEGMENTATION, generator, size)
            name = f"case{number:03d}{suffix}"
            load.save(root / "images" / name, Image(array[None]))
            if task is TaskKind.SEGMENTATION:
                load.save(root / "masks" / name, Image(mask[None]))
            split = "train" if number < cases else "valid"
            rows.append(
                Case(
                    case_id=f"case{number:03d}",
                    patient_id=f"{split}-p{number // cases_per_patient:03d}",
                    image=f"images/{name}",
                    mask=f"masks/{name}" if task is TaskKind.SEGMENTATION else "",
                    split=split,
                    labels={}
                    if task is TaskKind.SEGMENTATION
                    else {"dark": float(not bright), "bright": float(bright)},
                )
            )
        info = DatasetInfo(
            name="tiny", task=task, labels=labels, spatial_dims=len(size), size=size, laterality=laterality
        )
        manifest = Manifest(root, info, tuple(rows))
        manifest.write()
        return manifest

    return write


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., Run]:
    """A function that makes a run folder: ``new_run("name")``."""

    def make(name: str = "run") -> Run:
        return run_folder.create(tmp_path / "runs", name, config_toml="", deterministic=True)

    return make
