"""Predicted label maps as DICOM segmentations on the grid of the DICOM that the dataset was prepared from."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from seg_reader import read_seg

from meninx import api
from meninx.core.errors import DataError, UsageError
from meninx.core.manifest import Manifest
from meninx.core.run import Run
from meninx.imaging import dicom_image, load, resample, seg
from meninx.metrics import segmentation
from meninx.train import evaluate, stage
from meninx.train.config import EvaluateConfig, TrainConfig
from meninx.train.dicom_source import DicomSources

pytest.importorskip("highdicom")


@dataclass(frozen=True)
class Prepared:
    """De-identified DICOM and the volumes prepared from it."""

    clean: Path
    data: Manifest


@pytest.fixture(scope="module")
def prepared(cohort, tmp_path_factory) -> Prepared:
    """The CT series of the three hospitals, resampled to another spacing."""
    root = tmp_path_factory.mktemp("seg")
    for hospital in cohort.config.hospitals:
        api.new_key(root / f"{hospital}.key")
        archive = cohort.root / hospital / "archive"
        api.deidentify(
            archive, root / "clean" / hospital, key=root / f"{hospital}.key", site=hospital, workers=1
        )
    settings = {
        "name": "ct",
        "table": f"{cohort.root}/{{site}}/labels.csv",
        "crosswalks": ("private/crosswalk_uids.csv",),
        "mask_column": "mask",
        "mask_labels": ("organ", "lesion"),
        "spatial_dims": 3,
        "window": (-150.0, 200.0),
        "split": "exact",
    }
    api.prepare(root / "clean", root / "data", **settings, spacing_mm=(12.0,))
    return Prepared(root / "clean", Manifest.read(root / "data"))


def test_a_prepared_map_goes_back_to_the_grid_of_its_series(prepared):
    """The true masks, resampled by ``prepare`` and put back, are nearly the masks drawn on the series."""
    sources = DicomSources.find(prepared.data, prepared.clean)
    assert sorted(sources.paths) == sorted(case.case_id for case in prepared.data.cases)
    for case in prepared.data.cases:
        mask = load.load(prepared.data.root / case.mask)
        placed, paths = sources.placed(case, mask.array[0], mask.affine)
        volume = dicom_image.read_series(paths)
        assert placed.size == volume.size != mask.size
        assert np.allclose(placed.affine, volume.affine)
        inside = volume.array[placed.array == 1]
        assert 40 < inside.mean() < 120  # the organ's values
        assert volume.array[placed.array == 0].mean() < 0


def test_the_same_grid_gives_the_same_map_however_the_axes_turn():
    rng = np.random.default_rng(0)
    label_map = rng.integers(0, 3, (4, 5, 6))
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    turned = affine @ np.array([[0, -1, 0, 3], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    found = resample.volume_on_source(label_map, affine, (5, 4, 6), turned)
    assert np.array_equal(found, label_map[::-1].transpose(1, 0, 2))
    assert np.array_equal(resample.volume_on_source(label_map, affine, (4, 5, 6), affine), label_map)
    away = affine.copy()
    away[:3, 3] = 1000
    assert not resample.volume_on_source(label_map, affine, (4, 5, 6), away).any()


@pytest.mark.parametrize("aspect", ["stretch", "pad"])
@pytest.mark.parametrize("size", [(64, 64), (64, 32), (20, 50)])
def test_a_picture_goes_back_to_its_size_as_prepare_made_it(aspect, size):
    from meninx.imaging import resample

    mask = np.zeros((1, *size), np.uint8)
    mask[:, size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = 1
    smaller = resample.picture(mask, (32, 32), aspect=aspect, labels=True)[0]
    found = resample.picture_on_source(smaller, size, aspect)
    assert found.shape == size
    assert segmentation.dice(found, mask[0], 1)[0] > 0.85


def test_a_run_writes_segmentations_that_viewers_can_place(prepared, tmp_path):
    config = TrainConfig.of(model="unet-small", steps=1, batch_size=1, patch_size=(16, 16, 8), export=())
    run = Run(stage.run(config, prepared.data.root, tmp_path).out)
    wanted = EvaluateConfig(split="train", draws=50, predictions=("nifti", "dicom-seg"), dicom=prepared.clean)
    evaluate.run(wanted, run.root)
    sources = DicomSources.find(prepared.data, prepared.clean)
    for case in prepared.data.split("train").cases:
        path = run.private / "predictions" / f"{case.case_id}.seg.dcm"
        kept = load.load(run.private / "predictions" / f"{case.case_id}.nii.gz")
        placed, paths = sources.placed(case, kept.array[0], kept.affine)
        back = read_seg(path, paths)
        assert np.array_equal(back.array, placed.array)
        assert np.allclose(back.affine, placed.affine)
        header, source = pydicom.dcmread(path), pydicom.dcmread(paths[0])
        assert (header.Modality, header.PatientID) == ("SEG", source.PatientID)
        assert header.StudyInstanceUID == source.StudyInstanceUID


def test_without_a_source_or_with_another_one_there_is_no_segmentation(prepared, tmp_path):
    with pytest.raises(UsageError, match="--dicom"):
        DicomSources.find(prepared.data, None)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "note.txt").write_text("no DICOM")
    with pytest.raises(DataError, match="expected the DICOM files of every case"):
        DicomSources.find(prepared.data, tmp_path / "empty")
    bare = replace(prepared.data, root=tmp_path / "empty")
    with pytest.raises(DataError, match=r"private/cases\.csv"):
        DicomSources.find(bare, prepared.clean)


def test_single_images_are_found_by_their_instance(prepared, tmp_path):
    """A 2-D dataset of the radiographs: each case is one instance, its map at the size of that image."""
    site = prepared.clean / "north"
    with (site / "private" / "crosswalk_uids.csv").open(newline="") as stream:
        clean = [row["id_new"] for row in csv.DictReader(stream)]
    uids = {
        pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID: path for path in site.rglob("*.dcm")
    }
    images = {uid: pydicom.dcmread(uids[uid]) for uid in clean if uid in uids}
    patients = {image.PatientID: uid for uid, image in images.items() if image.get("Modality") == "DX"}
    chosen = list(patients.values())[:4]  # pseudonyms of a fresh key decide the splits, so one image of each
    masks = tmp_path / "masks"
    rows = ["SOPInstanceUID,mask"]
    for uid in chosen:
        rows.append(f"{uid},{uid}.png")
        rows_, columns = pydicom.dcmread(uids[uid]).Rows, pydicom.dcmread(uids[uid]).Columns
        drawn = np.zeros((1, rows_, columns), np.uint8)
        drawn[:, : rows_ // 2] = 1
        load.save(masks / f"{uid}.png", load.Image(drawn))
    (masks / "labels.csv").write_text("\n".join(rows) + "\n")
    settings = {
        "name": "dx",
        "table": str(masks / "labels.csv"),
        "mask_column": "mask",
        "modalities": ("DX",),
        "size": (16, 16),
        "split": "exact",
    }
    api.prepare(site, tmp_path / "data", **settings, task="segmentation", mask_labels=("top",))
    data = Manifest.read(tmp_path / "data")
    sources = DicomSources.find(data, site)
    assert len(sources.paths) == len(chosen)
    for case in data.cases:
        placed, paths = sources.placed(case, load.load(data.root / case.mask).array[0], np.eye(4))
        seg.write_seg(placed, paths, data.info.labels, tmp_path / f"{case.case_id}.dcm")
        half = placed.size[0] // 2
        assert placed.array[0, :half].all()
        assert not placed.array[0, half:].any()


def test_a_damaged_summary_is_an_error_and_an_absent_one_means_stretched(prepared, tmp_path):
    shutil.copytree(prepared.data.root, tmp_path / "data")
    moved = replace(prepared.data, root=tmp_path / "data")
    table = json.loads((moved.root / "prepare.json").read_text())
    table["settings"]["aspect"] = "pad"
    (moved.root / "prepare.json").write_text(json.dumps(table))
    assert DicomSources.find(moved, prepared.clean).aspect == "pad"
    for torn in (
        "{",
        json.dumps(table | {"settings": []}),
        json.dumps(table | {"settings": {"aspect": "mirror"}}),
    ):
        (moved.root / "prepare.json").write_text(torn)
        with pytest.raises(DataError, match=r"prepare\.json"):
            DicomSources.find(moved, prepared.clean)
    (moved.root / "prepare.json").unlink()
    assert DicomSources.find(moved, prepared.clean).aspect == "stretch"
