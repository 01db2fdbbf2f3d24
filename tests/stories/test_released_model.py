"""A model is trained, its bundle is copied to another machine, and three programs predict the same there."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
import released_models as make
import torch
from monai.bundle import verify_metadata

from meninx.core import artifacts, integrity
from meninx.core.artifacts import ThresholdRecord
from meninx.core.manifest import Manifest
from meninx.core.run import Run
from meninx.imaging import nifti, resample
from meninx.imaging.preprocessing import Preprocessing
from meninx.learn.inference import forward, load_model, predict
from meninx.predict import stage as predict_stage
from meninx.predict.config import PredictConfig
from meninx.prepare import stage as prepare
from meninx.prepare.config import PrepareConfig
from meninx.train import stage as train
from meninx.train.config import TrainConfig

TRAINED, NEW = range(12), range(20, 28)
TINY_MONAI = {"init_features": 8, "growth_rate": 4, "block_config": [2, 2]}
WITH_ONNX = """
import sys
from scripts import with_onnx

with_onnx.main(*sys.argv[1:])
assert not {"torch", "monai", "meninx"} & set(sys.modules)
"""

TENSOR = {
    "type": "object",
    "properties": {
        **{name: {"type": "string"} for name in ("type", "format", "modality", "dtype")},
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["integer", "string"]}},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "additionalProperties": False,
}
TENSOR["required"] = list(TENSOR["properties"])
TENSORS = {"type": "object", "additionalProperties": TENSOR}
SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        **{
            name: {"type": "string", "minLength": 1}
            for name in (
                *("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task"),
                *("description", "authors", "copyright"),
            )
        },
        "required_packages_version": {"type": "object", "additionalProperties": {"type": "string"}},
        "changelog": {"type": "object", "additionalProperties": {"type": "string"}},
        "network_data_format": {
            "type": "object",
            "properties": {"inputs": TENSORS, "outputs": TENSORS, "post_processed_outputs": TENSORS},
            "required": ["inputs", "outputs"],
        },
    },
}
SCHEMA["required"] = list(SCHEMA["properties"])
"""What MONAI's specification of metadata.json demands; the schema itself would have to be downloaded."""


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


def released(
    folder: Path, *, model: str, options: dict | None = None, training: dict | None = None, **settings: object
) -> Released:
    """Train on DICOM, copy the bundle, and predict new DICOM by way of `meninx prepare`."""
    prepared(folder, make.dicoms(folder / "old", TRAINED), TRAINED, **settings)
    config = TrainConfig.of(
        model=model,
        model_options=options or {},
        steps=4,
        batch_size=6,
        export=("bundle", "onnx"),
        **(training or {}),
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


def by_monai(model: Released, out: Path) -> dict[str, np.ndarray]:
    make.run_monai(model.bundle, model.images, out)
    return make.table(out / "predictions.csv")


def call(bundle: Path, images: Path, out: Path) -> None:
    places = {"bundle_root": str(bundle), "dataset_dir": str(images), "output_dir": str(out)}
    make.call_monai(bundle, "run", **places)


def by_onnx(model: Released) -> dict[str, np.ndarray]:
    out = model.bundle.parent / "by-onnx.csv"
    make.without_meninx(model.bundle, sys.executable, "-c", WITH_ONNX, str(model.images), str(out))
    return make.table(out)


def agree(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    assert max(np.abs(found[name] - expected[name]).max() for name in expected) <= 1e-5
    assert np.ptp([values[0] for values in expected.values()]) > 1e-3, "the images make no difference"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Released:
    return released(tmp_path_factory.mktemp("own"), model="resnet9-small")


def test_onnx_alone_gives_the_probabilities_of_the_program(own: Released) -> None:
    agree(by_onnx(own), own.expected)


def test_page_and_readme_name_the_program_that_is_tested(own: Released) -> None:
    page = (make.ROOT / "docs" / "how-to" / "use-a-released-model.md").read_text()
    for text in (page, (own.bundle / "docs" / "README.md").read_text()):
        assert "python -m scripts.with_onnx " in text


@pytest.mark.slow
def test_onnx_pads_small_images_as_the_program_does(tmp_path: Path) -> None:
    model = released(tmp_path, model="resnet9-small", training={"image_size": (40, 36)})
    agree(by_onnx(model), model.expected)


def test_monai_gives_the_probabilities_of_the_program(own: Released, tmp_path: Path) -> None:
    """In this process; ``test_train_bundle_source.py`` imports what it runs where there is no meninx."""
    call(own.bundle, own.images, tmp_path / "out")
    agree(make.table(tmp_path / "out" / "predictions.csv"), own.expected)


@pytest.mark.slow
def test_monai_alone_gives_the_probabilities_of_the_program(own: Released, tmp_path: Path) -> None:
    agree(by_monai(own, tmp_path / "out"), own.expected)


def test_the_program_gives_them_from_the_bundle_alone(own: Released, tmp_path: Path) -> None:
    predict_stage.run(PredictConfig(), own.bundle, own.images, tmp_path / "out")
    by_uid = {}
    for name in own.expected:
        uid = str(pydicom.dcmread(own.images / name, stop_before_pixels=True).SOPInstanceUID)
        by_uid[uid] = own.expected[name]
    agree(make.table(tmp_path / "out" / "predictions.csv"), by_uid)


def test_the_network_has_the_shape_that_the_metadata_state(own: Released) -> None:
    metadata = str(own.bundle / "configs" / "metadata.json")
    make.call_monai(own.bundle, "verify_net_in_out", net_id="network_def", meta_file=metadata, device="cpu")


def test_the_metadata_are_those_of_the_specification(own: Released, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    metadata = own.bundle / "configs" / "metadata.json"
    # MONAI takes the schema that lies there, in place of downloading it.
    digest = hashlib.md5((tmp_path / "schema.json").read_bytes()).hexdigest()
    verify_metadata(meta_file=str(metadata), filepath=str(tmp_path / "schema.json"), hash_val=digest)


def test_thresholds_of_an_evaluation_decide_in_monai_and_in_the_program(
    own: Released, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(own.bundle, bundle)
    weights = json.loads((bundle / "configs" / "meninx.json").read_text())["weights"]
    middle = float(np.median([values[0] for values in own.expected.values()]))
    found = ThresholdRecord(thresholds={"effusion": middle}, weights=weights, source="valid")
    written = artifacts.write(bundle, found)
    integrity.write(bundle, integrity.read(bundle) | integrity.measured(bundle, [written]))
    call(bundle, own.images, tmp_path / "monai")
    predict_stage.run(PredictConfig(), bundle, own.images, tmp_path / "meninx")
    table = tmp_path / "onnx" / "predictions.csv"
    table.parent.mkdir()
    make.without_meninx(bundle, sys.executable, "-c", WITH_ONNX, str(own.images), str(table))
    headers = set()
    for folder in ("monai", "meninx", "onnx"):
        with (tmp_path / folder / "predictions.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        headers.add(tuple(name for name in rows[0] if name not in ("image", "case_id", "file")))
        calls = [row["positive:effusion"] for row in rows]
        assert sorted(calls) == sorted(str(int(float(row["effusion"]) >= middle)) for row in rows)
        assert set(calls) == {"0", "1"}
        assert "positive:nodule" not in rows[0]
    assert headers == {("effusion", "nodule", "positive:effusion")}


def unusable(images: Path) -> set[str]:
    """Write files of four kinds that no network of pictures can take, and return their names."""
    images.mkdir(parents=True, exist_ok=True)
    (images / "x.png").write_bytes(b"no picture")
    whole = next(make.dicoms(images.parent / "whole", range(7, 8)).rglob("*.dcm")).read_bytes()
    (images / "torn.dcm").write_bytes(whole[: len(whole) * 2 // 3])
    (images / "linked").symlink_to(images.parent)
    make.volumes(images, range(1), masks=False)
    return {"x.png", "torn.dcm", "linked", "case_0.nii.gz"}


def test_what_the_network_cannot_take_is_listed_and_the_rest_goes_on(
    own: Released, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One unreadable file ended the work of MONAI and ONNX, at the cost of all predictions."""
    images, out = make.dicoms(tmp_path / "images", range(2)), tmp_path / "out"
    expected = unusable(images)
    call(own.bundle, images, out)
    assert len(make.table(out / "predictions.csv")) == 2
    with (out / "refused.csv").open(newline="") as stream:
        refused = {row["image"]: row["reason"] for row in csv.DictReader(stream)}
    assert set(refused) == expected
    assert refused["case_0.nii.gz"].startswith("volume for a model of 2-D images")
    said = capsys.readouterr().err
    assert all(f"not predicted: {name}: " in said for name in expected)
    words = ["-m", "scripts.with_onnx", str(images), str(tmp_path / "by-onnx.csv")]
    make.without_meninx(own.bundle, sys.executable, *words)
    agree(make.table(tmp_path / "by-onnx.csv"), make.table(out / "predictions.csv"))


def test_monai_stops_where_no_image_is_left_and_names_one(own: Released, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    unusable(images)
    with pytest.raises(RuntimeError) as caught:
        call(own.bundle, images, out)
    assert "no image can be predicted" in str(caught.value.__cause__)
    assert "case_0.nii.gz" in str(caught.value.__cause__)  # MONAI prints both, the cause first
    assert not out.exists()


@pytest.mark.parametrize("name", ["predictions.csv", "refused.csv"])
def test_monai_stops_where_a_table_is_there_already(own: Released, tmp_path: Path, name: str) -> None:
    images, out = make.dicoms(tmp_path / "images", range(1)), tmp_path / "out"
    out.mkdir()
    (out / name).write_text("earlier")
    with pytest.raises(RuntimeError) as caught:
        call(own.bundle, images, out)
    assert "is there already" in str(caught.value.__cause__)
    assert [path.name for path in out.iterdir()] == [name]


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
    make.run_monai(bundle, new, out)

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


@pytest.mark.slow
def test_three_tables_of_classes_have_the_same_columns(tmp_path: Path) -> None:
    for seed in range(12):
        make.pictures(tmp_path / "old" / "abc"[seed % 3], range(seed, seed + 1))
    prepare.run(PrepareConfig.of(reader="folder", size=(16, 16)), tmp_path / "old", tmp_path / "data")
    config = TrainConfig.of(model="resnet9-small", steps=1, batch_size=3, export=("bundle", "onnx"))
    run = Run(train.run(config, tmp_path / "data", tmp_path / "runs").out)
    bundle, images = make.copied(run.release, tmp_path / "elsewhere" / "bundle"), tmp_path / "old"
    call(bundle, images, tmp_path / "monai")
    predict_stage.run(PredictConfig(), bundle, images, tmp_path / "meninx")
    table = tmp_path / "onnx.csv"
    make.without_meninx(bundle, sys.executable, "-c", WITH_ONNX, str(images), str(table))
    found = []
    for path in (tmp_path / "meninx" / "predictions.csv", tmp_path / "monai" / "predictions.csv", table):
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        columns = [name for name in rows[0] if name not in ("image", "case_id", "file")]
        assert columns == ["a", "b", "c", "most_probable"]
        found.append({row.get("image") or row["file"]: row["most_probable"] for row in rows})
    assert found[0] == found[1] == found[2]
