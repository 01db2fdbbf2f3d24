"""A segmentation network is released, and three programs give the same maps and probabilities elsewhere."""

from __future__ import annotations

import csv
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import released_models as make
from segmentation_fixtures import make_nnunet

from meninx.core.errors import UsageError
from meninx.core.run import Run
from meninx.imaging import load, nifti
from meninx.predict import stage as predict_stage
from meninx.predict.config import PredictConfig
from meninx.prepare import stage as prepare
from meninx.prepare.config import PrepareConfig
from meninx.train import stage as train
from meninx.train.config import TrainConfig

WITH_ONNX = """
import sys
from scripts import segment_with_onnx

segment_with_onnx.main(*sys.argv[1:])
assert not {"torch", "monai", "meninx"} & set(sys.modules)
"""
SMALL_DYNUNET = {
    "kernel_size": [3, 3, 3],
    "strides": [1, 2, 2],
    "upsample_kernel_size": [2, 2],
    "filters": [4, 8, 8],
}


@dataclass(frozen=True)
class Segmenter:
    """A bundle on another machine, images of new patients, and the number of labels."""

    bundle: Path
    images: Path
    labels: int


def trained(folder: Path, preparation: PrepareConfig, source: Path, **settings: object) -> Path:
    prepare.run(preparation, source, folder / "data")
    config = TrainConfig.of(
        **{"steps": 3, "batch_size": 2, "lr": 1e-2, "export": ("bundle", "onnx"), **settings}
    )
    run = Run(train.run(config, folder / "data", folder / "runs").out)
    return make.copied(run.release, folder / "elsewhere" / "bundle")


@pytest.fixture(scope="module")
def organ(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    """Volumes of one channel in other orientations than RAS, resampled; labels decided each on its own."""
    folder = tmp_path_factory.mktemp("organ")
    config = PrepareConfig.of(reader="msd", spacing_mm=(2.0, 2.0, 2.0), window=(-200.0, 200.0))
    source = make.volumes(folder / "old", range(4))
    bundle = trained(
        folder, config, source, model="unet-small", patch_size=(8, 8, 4), loss="dice+bce", steps=6
    )
    new = make.volumes(folder / "new", range(30, 32), masks=False)
    return Segmenter(bundle, new, labels=1)


def nnunet(folder: Path, **settings: object) -> Segmenter:
    """A folder of nnU-Net: two channels, labels that exclude each other, files in ``_0000`` and ``_0001``."""
    source = make_nnunet(folder / "Dataset005_Prostate")
    config = PrepareConfig.of(reader="nnunet", split="exact")
    bundle = trained(folder, config, source, **settings)
    return Segmenter(bundle, source / "imagesTs", labels=2)


def by_program(model: Segmenter, out: Path) -> None:
    predict_stage.run(PredictConfig(probabilities=True), model.bundle, model.images, out)


def by_monai(model: Segmenter, out: Path) -> None:
    places = {"bundle_root": str(model.bundle), "dataset_dir": str(model.images), "output_dir": str(out)}
    make.call_monai(model.bundle, "run", probabilities=True, **places)


def by_onnx(model: Segmenter, out: Path) -> None:
    words = ("-c", WITH_ONNX, str(model.images), str(out), "--probabilities")
    make.without_meninx(model.bundle, sys.executable, *words)


def maps(folder: Path) -> dict[str, np.ndarray]:
    """Name -> array of every map in a folder, by the part of the name that all three programs share."""
    paths = [path for path in folder.glob("*") if load.suffix(path) in (".nii.gz", ".png")]
    return {path.name.split(".")[0]: load.load(path).array for path in paths}


def on_nifti(label_map: np.ndarray) -> tuple[int, ...]:
    """The spatial shape of a label map in NIfTI, where a picture is a volume of one slice."""
    size = label_map.shape[1:]
    return size if len(size) == 3 else (size[1], size[0], 1)


def agree(model: Segmenter, folder: Path) -> None:
    """Run the three programs, and compare their maps and probabilities."""
    by_program(model, folder / "meninx")
    by_monai(model, folder / "monai")
    by_onnx(model, folder / "onnx")
    expected = maps(folder / "meninx" / "probability_maps")
    label_maps = maps(folder / "meninx" / "label_maps")
    assert expected
    assert expected.keys() == label_maps.keys()
    for other in ("monai", "onnx"):
        found = maps(folder / other / "probability_maps")
        assert found.keys() == expected.keys()
        for name, values in found.items():
            assert values.dtype == np.float32
            assert values.shape == expected[name].shape == (model.labels, *on_nifti(label_maps[name]))
            assert np.abs(values - expected[name]).max() <= 1e-5
        for name, values in maps(folder / other).items():
            assert (values == label_maps[name]).mean() > 0.999  # a voxel may lie at a border
    for values in expected.values():
        assert 0 <= values.min() < values.max() <= 1
        assert np.ptp(values) > 1e-3, "the image makes no difference"


def test_three_ways_give_the_same_probabilities_of_an_organ(organ: Segmenter, tmp_path: Path) -> None:
    agree(organ, tmp_path)
    for path in organ.images.glob("*.nii.gz"):
        found = nifti.read(tmp_path / "onnx" / "probability_maps" / path.name)
        assert np.allclose(found.affine, nifti.read(path).affine)


def test_volumes_that_cannot_be_used_are_listed_and_the_rest_goes_on(
    organ: Segmenter, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    whole = next(iter(sorted(organ.images.glob("*.nii.gz"))))
    shutil.copy(whole, images / "whole.nii.gz")
    (images / "torn.nii.gz").write_bytes(whole.read_bytes()[:2000])
    make.pictures(images, range(1))
    model = Segmenter(organ.bundle, images, organ.labels)
    by_monai(model, tmp_path / "monai")
    by_onnx(model, tmp_path / "onnx")
    for out in (tmp_path / "monai", tmp_path / "onnx"):
        assert [path.name for path in out.glob("*.nii.gz")] == ["whole.nii.gz"]
        with (out / "refused.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert [row["image"] for row in rows] == ["picture0.png", "torn.nii.gz"]
        assert rows[0]["reason"].startswith("2-D image for a model of volumes")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "options", "patch"),
    [("unet-small", {}, (4, 4, 4)), ("monai:DynUNet", SMALL_DYNUNET, (8, 4, 8))],
    ids=["unet", "dynunet"],
)
def test_three_ways_give_the_same_probabilities_of_an_nnunet_folder(
    tmp_path: Path, model: str, options: dict, patch: tuple[int, ...]
) -> None:
    agree(nnunet(tmp_path / "work", model=model, model_options=options, patch_size=patch), tmp_path)


@pytest.mark.slow
def test_pictures_of_one_size_are_segmented_without_patches(tmp_path: Path) -> None:
    for seed in range(9):
        part = "new" if seed > 6 else "old/images"
        make.pictures(tmp_path / part, range(seed, seed + 1))
        if seed <= 6:
            mask = (make.radiograph(seed, bits=8) > 150).astype(np.uint8)
            make.write_picture(tmp_path / "old" / "labels" / f"picture{seed}.png", mask)
    config = PrepareConfig.of(reader="pairs", size=(16, 16), aspect="pad", mask_labels=("spot",))
    bundle = trained(tmp_path / "work", config, tmp_path / "old", model="unet-small")
    agree(Segmenter(bundle, tmp_path / "new", labels=1), tmp_path)


def test_probabilities_are_written_only_when_asked_for(organ: Segmenter, tmp_path: Path) -> None:
    predict_stage.run(PredictConfig(), organ.bundle, organ.images, tmp_path / "out")
    assert not (tmp_path / "out" / "probability_maps").exists()
    config = PredictConfig(probabilities=True, overwrite=True)
    predict_stage.run(config, organ.bundle, organ.images, tmp_path / "out")
    listed = (tmp_path / "out" / "checksums.sha256").read_text()
    assert len(list((tmp_path / "out" / "probability_maps").iterdir())) == 2
    assert listed.count("probability_maps/") == 2
    predict_stage.run(PredictConfig(overwrite=True), organ.bundle, organ.images, tmp_path / "out")
    assert not (tmp_path / "out" / "probability_maps").exists()


def test_predictions_with_probabilities_are_reused_only_while_their_maps_are_whole(
    organ: Segmenter, tmp_path: Path
) -> None:
    config = PredictConfig(probabilities=True)
    predict_stage.run(config, organ.bundle, organ.images, tmp_path / "out")
    one = next((tmp_path / "out" / "probability_maps").iterdir())
    whole = one.read_bytes()
    one.write_bytes(whole[:100])
    done = predict_stage.run(config.replace(resume=True), organ.bundle, organ.images, tmp_path / "out")
    assert (done.cases, done.reused) == (2, 1)
    assert one.read_bytes() == whole


def test_the_page_and_the_readme_name_the_program_that_is_tested(organ: Segmenter) -> None:
    page = (make.ROOT / "docs" / "how-to" / "use-a-released-model.md").read_text()
    for text in (page, (organ.bundle / "docs" / "README.md").read_text()):
        assert "python -m scripts.segment_with_onnx " in text
    assert not (organ.bundle / "scripts" / "with_onnx.py").exists()


def test_a_classifier_refuses_probability_maps(tmp_path: Path) -> None:
    source = tmp_path / "old"
    for seed in range(8):
        make.pictures(source / "ab"[seed % 2], range(seed, seed + 1))
    prepare.run(PrepareConfig.of(reader="folder", size=(16, 16)), source, tmp_path / "data")
    run = train.run(
        TrainConfig.of(model="resnet9-small", steps=1, batch_size=2), tmp_path / "data", tmp_path / "runs"
    )
    with pytest.raises(UsageError, match="always holds the probabilities"):
        predict_stage.run(PredictConfig(probabilities=True), run.out, source, tmp_path / "out")


def test_a_file_that_cannot_be_read_does_not_stop_the_others(organ: Segmenter, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in organ.images.iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    (images / "broken.nii.gz").write_bytes(b"no volume")
    make.without_meninx(organ.bundle, sys.executable, "-c", WITH_ONNX, str(images), str(tmp_path / "out"))
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2
    assert "broken.nii.gz" in (tmp_path / "out" / "refused.csv").read_text()
