"""Three hospitals with pneumothorax images in SIIM-ACR's layout train together; the masks are right."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from prepare_fixtures import write_dicom

import meninx
from meninx.core.manifest import Manifest

HOSPITALS = ("east", "north", "west")
ROWS, COLUMNS = 40, 32  # a mask whose axes are exchanged does not fit
Plane = npt.NDArray[np.generic]


def film(number: int, seed: int) -> tuple[Plane, Plane]:
    """Return a dark film with a bright upright box off the diagonal, and the mask of the box."""
    draw = np.random.default_rng([seed, number])
    image = draw.normal(60, 12, (ROWS, COLUMNS))
    mask = np.zeros((ROWS, COLUMNS), bool)
    if number % 4:  # every fourth has none
        row, column = draw.integers(1, 6), draw.integers(16, 24)
        mask[row : row + 12, column : column + 5] = True
        image[mask] += 110
    return np.clip(image, 0, 255).astype(np.uint8), mask


def run_lengths(mask: Plane) -> str:
    """Return SIIM-ACR's text of a mask: gap and length of each run, down the columns, one after the other.

    It is not the product's own encoder, whose mistake its decoder could share.
    """
    words, gap, length = [], 0, 0
    for value in [*mask.T.ravel().tolist(), 0]:
        if value:
            length += 1
        elif length:
            words += [gap, length]
            gap, length = 1, 0
        else:
            gap += 1
    return " ".join(map(str, words)) or "-1"


def write_siim(root: Path, seed: int, images: int = 24) -> Path:
    """Write DICOM files and a table of run-length masks as the competition did."""
    rows = [["ImageId", " EncodedPixels"]]
    for number in range(images):
        uid = f"1.2.276.{seed}.{number}"
        image, mask = film(number, seed)
        write_dicom(
            root / "dicom-images-train" / uid / f"{uid}.dcm", image, "", SOPInstanceUID=uid,
            PatientID=f"u{seed}-{number}", ViewPosition="PA",
        )  # fmt: skip
        rows.append([uid, f" {run_lengths(mask)}"])
    with (root / "train-rle.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return root


@pytest.mark.slow
def test_the_pneumothorax_recipe_federates_end_to_end_and_learns(tmp_path: Path) -> None:
    folders = []
    for seed, name in enumerate(HOSPITALS, start=1):
        source = write_siim(tmp_path / "source" / name, seed)
        prepared = meninx.prepare(source, tmp_path / name, reader="siim", workers=1)
        data = Manifest.read(prepared.out)
        for case in data.cases:  # the mask lies on the bright box, and nowhere else
            image = _png(data.root / case.image).astype(float)
            mask = _png(data.root / case.mask) > 0 if case.mask else np.zeros_like(image, bool)
            assert (image[mask] > 110).all()
            assert (image[~mask] < 130).all()
        folders.append(prepared.out)
    result = meninx.simulate(
        folders, tmp_path / "study", recipe="pneumothorax-unet", device="cpu", rounds=6, local_steps=12,
        train={"model_options": {"base": 8, "depth": 2}, "lr": 0.2, "batch_size": 4, "export": ()},
    )  # fmt: skip
    assert result.rounds == 6
    for row in result.rows:
        assert (row.arm, row.metric) == ("federated", "dice")
        assert row.value > 0.6, row


def _png(path: Path) -> npt.NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.open(path))
