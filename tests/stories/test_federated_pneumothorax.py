"""Three sites with SIIM-ACR folders (DICOM, run-length masks) train the pneumothorax recipe together."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from prepare_fixtures import write_dicom, write_table

from meninx import api
from meninx.core.artifacts import read as read_record
from meninx.core.federation import FederatedRecord
from meninx.core.manifest import SOURCES_NAME, Manifest
from meninx.core.run import Run
from meninx.federated.simulate import SimulateResult
from meninx.imaging import load
from meninx.learn.inference import load_model, predict_maps
from meninx.metrics.segmentation import dice
from meninx.synthetic import dataset, people

pytestmark = pytest.mark.torch
Mask = npt.NDArray[np.uint8]
SITES = ("north", "east", "west")
ROWS, COLUMNS = 40, 32  # a mask whose axes are exchanged does not fit


@dataclass(frozen=True)
class Site:
    """A prepared dataset, and the masks that were drawn, by name of the DICOM file."""

    data: Manifest
    drawn: dict[str, Mask]

    def truth(self) -> dict[str, Mask]:
        """Return the mask that was drawn for each case of the prepared dataset."""
        with (self.data.root / SOURCES_NAME).open(newline="") as stream:
            return {row["case_id"]: self.drawn[Path(row["key"]).stem] for row in csv.DictReader(stream)}


def run_lengths(mask: Mask) -> str:
    """Return SIIM-ACR's text of a mask: gap and length of each run, down the columns, one after the other."""
    words, gap, length = [], 0, 0
    for value in [*mask.T.ravel().tolist(), 0]:
        if value:
            length += 1
        elif length:
            words += [gap, length]
            gap, length = 1, 0
        else:
            gap += 1
    return " ".join(map(str, words)) or " -1"


def make_site(root: Path, name: str, seed: int) -> Site:
    """Return the radiographs of 16 patients as a SIIM-ACR folder, prepared."""
    drawn: dict[str, Mask] = {}
    rows: list[list[object]] = []
    for one in people.subjects(16, seed, prevalence=0.7):
        for number in range(min(2, len(one.images))):
            image = dataset.render(one, number, ROWS, seed, only="pneumothorax", contrast=2.0)
            inner = slice((ROWS - COLUMNS) // 2, (ROWS + COLUMNS) // 2)
            uid = f"1.2.276.{seed}.{one.index}.{number}"
            pixels, mask = (image.array[:, inner] >> 4).astype(np.uint8), image.mask[:, inner]
            place = root / "source" / "dicom-images-train" / uid / f"{uid}.dcm"
            write_dicom(place, pixels, "", SOPInstanceUID=uid, PatientID=f"{name}{one.index}")
            rows.append([uid, run_lengths(mask)])
            drawn[uid] = mask
    write_table(root / "source" / "train-rle.csv", ["ImageId", " EncodedPixels"], rows)
    api.prepare(root / "source", root / name, reader="siim", name=name, split="exact")
    return Site(Manifest.read(root / name), drawn)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, ...]:
    """Three sites with patients of their own."""
    root = tmp_path_factory.mktemp("siim")
    return tuple(make_site(root / name, name, seed) for seed, name in enumerate(SITES, start=1))


@pytest.fixture(scope="module")
def study(sites: tuple[Site, ...], tmp_path_factory: pytest.TempPathFactory) -> SimulateResult:
    """The recipe with a narrower network and Adam, which learns in seconds; masked aggregation."""
    train = {
        "model_options": {"base": 8}, "optimizer": "adam", "lr": 3e-3, "batch_size": 4, "physical_batch": 4,
        "eval_every": 1000, "export": (),
    }  # fmt: skip
    return api.simulate(
        [site.data.root for site in sites], tmp_path_factory.mktemp("pneumothorax") / "study",
        recipe="pneumothorax-unet", rounds=4, local_steps=20, train=train, device="cpu",
    )  # fmt: skip


@pytest.mark.slow
def test_prepared_masks_are_those_that_were_drawn(sites: tuple[Site, ...]) -> None:
    for site in sites:
        truth = site.truth()
        assert site.data.info.labels == ("pneumothorax",)
        assert any(mask.any() for mask in truth.values())
        assert not all(mask.any() for mask in truth.values())
        for case in site.data.cases:
            image = load.load(site.data.root / case.mask).array[0] if case.mask else np.zeros((ROWS, COLUMNS))
            np.testing.assert_array_equal(image, truth[case.case_id])


@pytest.mark.slow
def test_the_common_model_finds_the_pneumothorax_where_it_was_drawn(
    sites: tuple[Site, ...], study: SimulateResult
) -> None:
    record = read_record(study.out, FederatedRecord)
    assert record is not None
    assert (record.finished, record.aggregation, len(record.rounds)) == (True, "masks", 4)
    assert set(study.runs) == set(SITES)
    model, config, info = load_model(Run(study.runs["north"]))
    found, constant, mirrored = [], [], []
    for site in sites:
        truth = site.truth()
        for case, mask in predict_maps(model, info, site.data.split("test"), config):
            there = truth[case.case_id]
            if there.any():
                found.append(dice(mask, there, 1)[0])
                constant.append(dice(np.ones_like(there), there, 1)[0])
                mirrored.append(dice(mask[:, ::-1], there, 1)[0])
    assert len(found) >= 6
    assert np.mean(found) > 0.5
    assert np.mean(found) > 2 * np.mean(constant)
    assert np.mean(found) > 2 * np.mean(mirrored)
