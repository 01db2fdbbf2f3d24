"""Volumes of several channels, from a published layout to a measured model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import prepare_fixtures as make
import pydicom
import pytest
import segmentation_fixtures as layouts

import meninx
from meninx.cli.app import run as command
from meninx.core.errors import DataError
from meninx.core.manifest import Manifest
from meninx.imaging import nifti

pytestmark = pytest.mark.torch
TRAIN = ("--model", "unet-small", "--batch-size", "2", "--steps", "2", "--patch-size", "8", "8", "8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nnunet")
    layouts.make_nnunet(root / "Dataset005_Prostate", cases=12)
    out = root / "data"
    folder = str(root / "Dataset005_Prostate")
    assert command(["prepare", folder, str(out), "--reader", "nnunet", "--split", "exact"]) == 0
    return out


def test_an_nnunet_folder_of_two_channels_is_prepared_trained_on_and_measured(data, tmp_path):
    info = Manifest.read(data).info
    assert (info.channels, info.channel_names, info.labels) == (2, ("T2", "ADC"), ("PZ", "TZ"))
    runs = tmp_path / "runs"
    assert command(["train", str(data), "--out", str(runs), *TRAIN]) == 0
    run = runs / "latest"
    assert command(["evaluate", str(run)]) == 0
    measured = meninx.evaluate(run)
    assert measured.cases == sum(case.split == "test" for case in Manifest.read(data).cases)
    metadata = json.loads((run / "release" / "bundle" / "configs" / "metadata.json").read_text())
    image = metadata["network_data_format"]["inputs"]["image"]
    assert (image["num_channels"], image["channel_def"]) == (2, {"0": "T2", "1": "ADC"})
    folder = data.parent / "Dataset005_Prostate"
    maps = [predicted(run, source, tmp_path / f"p{n}") for n, source in enumerate(inputs(folder, tmp_path))]
    assert all(len(found) == 1 for found in maps)
    np.testing.assert_array_equal(maps[0][0], maps[1][0])
    assert not np.array_equal(maps[0][0], maps[2][0])  # exchanged channels are another image


def inputs(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """The test image as it lies there, with a fourth axis, and with its channels exchanged."""
    parts = [folder / "imagesTs" / f"prostate_90_{channel:04}.nii.gz" for channel in range(2)]
    yield folder / "imagesTs"
    for name, order in (("one", (0, 1)), ("exchanged", (1, 0))):
        both = np.stack([nifti.read(parts[channel]).array[0] for channel in order], axis=-1)
        yield make.write_volume(tmp_path / name / "case.nii.gz", both, layouts.AFFINE).parent


def predicted(run: Path, source: Path, out: Path) -> list[np.ndarray]:
    assert command(["predict", str(run), str(source), str(out)]) == 0
    return [nifti.read(path).array for path in sorted((out / "label_maps").iterdir())]


def test_data_of_other_channels_are_refused_by_name(data, tmp_path):
    run = meninx.train(
        data, out=tmp_path, model="unet-small", batch_size=2, steps=1, patch_size=(8, 8, 8), export=()
    ).out
    folder = str(data.parent / "Dataset005_Prostate")
    given = ["--reader", "nnunet", "--channels", "ADC", "T2", "--name", "other"]
    assert command(["prepare", folder, str(tmp_path / "turned"), *given]) == 0
    with pytest.raises(DataError, match=r"channels T2, ADC as in training, got ADC, T2.*--channels T2 ADC"):
        meninx.evaluate(run, data=tmp_path / "turned", split="all")
    with pytest.raises(DataError, match=r"channels T2, ADC as in training, got ADC, T2"):
        meninx.predict(run, tmp_path / "turned", tmp_path / "out")
    one = tmp_path / "imagesTs"
    one.mkdir()
    shutil.copy(data.parent / "Dataset005_Prostate" / "imagesTs" / "prostate_90_0000.nii.gz", one)
    with pytest.raises(DataError, match=r"file of a channel is missing \(_0001\)"):
        meninx.predict(run, one, tmp_path / "one")


def test_masks_of_dicom_objects_survive_deidentification(tmp_path):
    hospital = make.make_series(tmp_path / "hospital") / "images"
    shutil.rmtree(tmp_path / "hospital" / "masks")
    (tmp_path / "hospital" / "deid.json").unlink()
    for patient in range(2):
        layouts.write_seg(hospital / f"seg{patient}.dcm", patient, layouts.organs(patient))
        outline = [layouts.box((1, 11), (0.5, 4.5), 3.0)]
        layouts.write_rtstruct(hospital / f"rt{patient}.dcm", patient, {"kidney": outline})
    for path in hospital.rglob("*.dcm"):
        data = pydicom.dcmread(path)
        del data.PatientIdentityRemoved
        data.save_as(path)
    clean = tmp_path / "clean"
    key = ("--key", str(tmp_path / "key"), "--new-key")
    assert command(["deid", str(tmp_path / "hospital"), str(clean), *key]) == 0
    given = ["--reader", "dicom", "--spatial-dims", "3", "--task", "segmentation"]
    assert command(["prepare", str(clean), str(tmp_path / "both"), *given]) == 2  # a SEG and an RTSTRUCT
    wanted = {"seg": {"liver": 18 + 24, "tumour": 4}, "rtstruct": {"kidney": 40}}
    for kind, voxels in wanted.items():
        out = tmp_path / kind
        # Pseudonyms follow from the fresh key: a random split may put both patients into the test part.
        parts = ["--split", "exact"]
        assert command(["prepare", str(clean), str(out), *given, *parts, "--mask-object", kind]) == 0
        manifest = Manifest.read(out)
        masks = np.array([nifti.read(out / case.mask).array for case in manifest.cases])
        found = {name: int((masks == n).sum()) for n, name in enumerate(manifest.info.labels, start=1)}
        assert found == voxels


def test_two_channels_are_trained_on_privately(data, tmp_path):
    result = meninx.train(
        data, out=tmp_path, model="unet-small", batch_size=2, steps=2, patch_size=(8, 8, 8), epsilon=8.0,
        delta=1e-2, export=(),
    )  # fmt: skip
    assert 0 < result.privacy.epsilon <= 8.0
