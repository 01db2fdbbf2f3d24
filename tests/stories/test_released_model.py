"""A model is trained, its bundle is copied to another machine, and three programs predict the same there."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import released_models as make
import torch

from meninx.core.manifest import Manifest
from meninx.core.run import Run
from meninx.imaging import nifti, resample
from meninx.imaging.preprocessing import Preprocessing
from meninx.learn.inference import forward, load_model, predict
from meninx.prepare import stage as prepare
from meninx.prepare.config import PrepareConfig
from meninx.train import stage as train
from meninx.train.config import TrainConfig

TRAINED, NEW = range(12), range(20, 28)
TINY_MONAI = {"init_features": 8, "growth_rate": 4, "block_config": [2, 2]}
WITH_ONNX = """
import csv, json, sys
from pathlib import Path
import onnxruntime
from scripts.images import NetworkInput, find

facts = json.loads(Path("configs/metadata.json").read_text())
reader = NetworkInput.of(facts["preprocessing"], facts["intensity"], facts["image_size"])
session = onnxruntime.InferenceSession("models/model.onnx")
for image in find(Path(sys.argv[1]), 2):
    stored = reader.stored(reader.source(image.paths)).array
    (found,) = session.run(["probabilities"], {"image": reader.padded(stored)[None]})
    csv.writer(sys.stdout).writerow([image.name, *found[0].tolist()])
assert not {"torch", "monai", "meninx"} & set(sys.modules)
"""


@dataclass(frozen=True)
class Released:
    """A bundle on another machine, images of new patients, and what meninx itself says of them."""

    bundle: Path
    images: Path
    expected: dict[str, np.ndarray]


def prepared(folder: Path, images: Path, seeds: range, **settings: object) -> Manifest:
    make.labels(folder / "labels.csv", seeds)
    config = PrepareConfig.of(reader="dicom", table=str(folder / "labels.csv"), size=(32,), **settings)
    prepare.run(config, images, folder / "data")
    return Manifest.read(folder / "data")


def released(folder: Path, *, model: str, options: dict | None = None, **settings: object) -> Released:
    """Train on DICOM, copy the bundle, and predict new DICOM by way of `meninx prepare`."""
    prepared(folder, make.dicoms(folder / "old", TRAINED), TRAINED, **settings)
    config = TrainConfig.of(
        model=model, model_options=options or {}, steps=4, batch_size=6, export=("bundle", "onnx")
    )
    run = Run(train.run(config, folder / "data", folder / "runs").out)
    images = make.dicoms(folder / "new", NEW)
    fresh = prepared(folder / "again", images, NEW, **settings)
    network, learned, info = load_model(run)
    found = predict(network, info, fresh, learned)
    names = {
        case.case_id: f"patient {case.patient_id[1:]}/image{case.patient_id[1:]}.dcm" for case in fresh.cases
    }
    rows = zip(found.case_ids, found.probabilities, strict=True)
    return Released(
        bundle=make.copied(run.release, folder / "elsewhere" / "bundle"),
        images=images,
        expected={names[case]: values for case, values in rows},
    )


def by_monai(model: Released, out: Path, *more: str) -> dict[str, np.ndarray]:
    make.run_monai(model.bundle, "--dataset_dir", str(model.images), "--output_dir", str(out), *more)
    return make.table(out / "predictions.csv")


def by_onnx(model: Released) -> dict[str, np.ndarray]:
    printed = make.without_meninx(model.bundle, "-c", WITH_ONNX, str(model.images))
    rows = list(csv.reader(printed.splitlines()))
    return {row[0]: np.array([float(cell) for cell in row[1:]]) for row in rows}


def agree(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    assert max(np.abs(found[name] - expected[name]).max() for name in expected) <= 1e-5
    assert np.ptp([values[0] for values in expected.values()]) > 1e-3, "the images make no difference"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Released:
    return released(tmp_path_factory.mktemp("own"), model="resnet9-small")


def test_onnx_alone_gives_the_probabilities_of_the_program(own: Released) -> None:
    agree(by_onnx(own), own.expected)


def test_monai_alone_gives_the_probabilities_of_the_program(own: Released, tmp_path: Path) -> None:
    agree(by_monai(own, tmp_path / "out"), own.expected)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"bits": 16, "aspect": "pad"}, {"window": (0.0, 3000.0)}])
def test_a_network_of_monai_on_other_grey_levels(settings: dict, tmp_path: Path) -> None:
    model = released(tmp_path, model="monai:DenseNet", options=TINY_MONAI, **settings)
    assert not (model.bundle / "scripts" / "models").exists()
    agree(by_onnx(model), model.expected)
    agree(by_monai(model, tmp_path / "out"), model.expected)


@pytest.mark.slow
def test_volumes_are_segmented_with_monai_alone(tmp_path: Path) -> None:
    source = make.volumes(tmp_path / "old", range(4))
    prepare.run(
        PrepareConfig.of(reader="msd", spacing_mm=(2.0, 2.0, 2.0), window=(-200.0, 200.0)),
        source,
        tmp_path / "data",
    )
    config = TrainConfig.of(model="unet-small", steps=6, batch_size=2, lr=1e-2, patch_size=(16, 16, 8))
    run = Run(train.run(config, tmp_path / "data", tmp_path / "runs").out)
    new = make.volumes(tmp_path / "new", range(30, 33), masks=False)
    bundle = make.copied(run.release, tmp_path / "elsewhere" / "bundle")
    out = tmp_path / "out"
    make.run_monai(bundle, "--dataset_dir", str(new), "--output_dir", str(out))

    network, learned, info = load_model(run)
    steps = Preprocessing.from_table(info.preprocessing)
    for path in sorted(new.glob("*.nii.gz")):
        source_image = nifti.read(path)
        stored = steps.apply(source_image)
        values = (torch.from_numpy(stored.array.astype(np.float32)).clamp(-200, 200)) / 200
        with torch.no_grad():
            expected = forward(network, values[None], learned).argmax(1)[0].numpy().astype(np.uint8)
        found = nifti.read(out / path.name)
        assert found.size == source_image.size
        assert np.array_equal(found.affine, source_image.affine)
        placed = resample.volume_on_source(expected, stored.affine, source_image.size, source_image.affine)
        assert (found.array[0] == placed).mean() > 0.9999  # a voxel at a border may fall to the other side
        assert 0 < placed.mean() < 1
