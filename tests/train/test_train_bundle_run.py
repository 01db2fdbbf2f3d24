"""The parts of a bundle's MONAI workflow, each alone; test_released_model runs them together."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meninx.core.errors import DataError
from meninx.core.manifest import TaskKind
from meninx.imaging import nifti, png
from meninx.imaging.image import Image
from meninx.imaging.network_input import ImageFiles, NetworkInput
from meninx.learn.state_digest import weights_digest
from meninx.learn.task import ImageTask
from meninx.train.bundle_maps import LabelMapFiles
from meninx.train.bundle_onnx_maps import label_map, label_probabilities
from meninx.train.bundle_run import LabelMapd, Predictor, Probabilitiesd, ProbabilityTable

WRONG = ('"x"', "NaN", "Infinity", "-5", "1.5", "true", "null")  # as thresholds
GREY = {"window": [0.0, 255.0], "shift": 127.5, "scale": 127.5}


def image(name: str) -> ImageFiles:
    return ImageFiles(name, (Path(name),))


def mapped(name: str, label_map: np.ndarray, shape: tuple[int, ...], **steps) -> dict:
    """An item after the network: its map, and a source image of another shape."""
    reader = NetworkInput.of(steps, GREY)
    source = Image(np.arange(np.prod(shape), dtype=np.uint8).reshape(1, *shape))
    fixed = {"files": image(name), "pred": torch.from_numpy(label_map)[None], "source": source}
    return fixed | {"stored": reader.stored(source), "reader": reader}


def picture(name: str, label_map: np.ndarray) -> dict:
    return mapped(name, label_map, (4, 4), size=[2, 2])


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_independent_labels_make_the_map_of_training(seed, labels):
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(labels, 5, 4)).astype(np.float32))
    task = ImageTask(TaskKind.SEGMENTATION, tuple("abcd"[:labels]), "bce")
    assert torch.equal(LabelMapd()({"pred": logits})["pred"], task.label_map(logits[None]))


@given(st.integers(0, 10_000), st.booleans(), st.integers(1, 4))
def test_both_programs_make_the_probabilities_and_maps_of_training(seed, sigmoid, labels):
    count = labels + (not sigmoid)
    logits = np.random.default_rng(seed).normal(0, 20, (count, 5, 4)).astype(np.float32)
    logits[0, 0, 0] = 300.0  # a logit whose exponential is infinite
    task = ImageTask(TaskKind.SEGMENTATION, tuple("abcd"[:labels]), "bce" if sigmoid else "dice+ce")
    tensor = torch.from_numpy(logits)
    truth = task.probabilities(tensor[None])[0, -labels:].numpy()
    by_monai = Probabilitiesd(sigmoid=sigmoid, wanted=True)({"pred": tensor})["probabilities"]
    with np.errstate(all="raise", under="ignore"):
        by_onnx = label_probabilities(logits, sigmoid=sigmoid)
    assert by_onnx.dtype == np.float32
    assert np.array_equal(by_monai, truth)
    assert np.abs(by_onnx - truth).max() <= 1e-6
    assert np.array_equal(label_map(logits, sigmoid=sigmoid), task.label_map(tensor[None])[0])


def test_probabilities_are_added_only_when_wanted():
    assert set(Probabilitiesd(sigmoid=True, wanted=False)({"pred": torch.zeros(1, 2, 2)})) == {"pred"}


def test_a_table_has_a_row_per_image_and_calls_where_a_threshold_is_known(tmp_path):
    path = tmp_path / "thresholds.json"
    path.write_text('{"thresholds": {"b": 0.5, "other": 0.1}}')
    table = ProbabilityTable(str(tmp_path / "out"), ["a", "b"], str(path))
    table.add({"files": image("=1+1.png"), "pred": torch.tensor([0.25, 0.5])})
    table.add({"files": image("two.png"), "pred": torch.tensor([1e-9, 0.49999])})
    table.close()
    with (tmp_path / "out" / "predictions.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["image", "a", "b", "positive:b"]
    assert rows[1] == ["'=1+1.png", "0.25", "0.5", "1"]
    assert (rows[2][0], rows[2][3], float(rows[2][1])) == ("two.png", "0", pytest.approx(1e-9))


def test_classes_that_exclude_each_other_have_a_most_probable_one(tmp_path):
    table = ProbabilityTable(str(tmp_path), ["a", "=b"], classes=True)
    table.add({"files": image("x.png"), "pred": torch.tensor([0.25, 0.75])})
    table.close()
    with (tmp_path / "predictions.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["image", "a", "'=b", "most_probable"],
            ["x.png", "0.25", "0.75", "'=b"],
        ]
    with pytest.raises(DataError, match="name of a column"):
        ProbabilityTable(str(tmp_path / "other"), ["a", "most_probable"], classes=True)


def test_another_number_of_outputs_is_refused(tmp_path):
    with pytest.raises(DataError, match="2 outputs"):
        ProbabilityTable(str(tmp_path), ["a", "b"]).add({"files": image("x"), "pred": torch.zeros(3)})


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", '{"thresholds": 5}', "{", *(f'{{"thresholds": {{"a": {value}}}}}' for value in WRONG)],
)
def test_damaged_thresholds_are_refused(tmp_path, text):
    (tmp_path / "thresholds.json").write_text(text)
    with pytest.raises(DataError, match=r"thresholds.json"):
        ProbabilityTable(str(tmp_path), ["a"], str(tmp_path / "thresholds.json"))


def test_thresholds_of_other_weights_are_left_out(tmp_path):
    network = torch.nn.Linear(2, 1)
    path = tmp_path / "thresholds.json"
    for weights in ("", "0" * 64):
        path.write_text(json.dumps({"thresholds": {"a": 0.5}, "weights": weights}))
        with pytest.warns(UserWarning, match="other weights"):
            assert not ProbabilityTable(str(tmp_path), ["a"], str(path), network).columns.thresholds
    path.write_text(json.dumps({"thresholds": {"a": 0.5}, "weights": weights_digest(network)}))
    assert ProbabilityTable(str(tmp_path), ["a"], str(path), network).columns.thresholds == {"a": 0.5}


def test_maps_have_the_pixels_of_their_sources_and_names_of_their_own(tmp_path):
    writer = LabelMapFiles(str(tmp_path))
    label_map = np.array([[0, 1], [2, 0]])
    for name in ("a/x.png", "a/x.dcm", "y"):
        writer.add(picture(name, label_map))
    writer.close()
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert names == {"a/x.png", "a/x.dcm.png", "y.png"}
    assert np.array_equal(png.read(tmp_path / "y.png").array[0], np.kron(label_map, np.ones((2, 2))))


def test_a_source_image_is_never_replaced_by_its_map(tmp_path):
    png.write(tmp_path / "x.png", Image(np.zeros((1, 4, 4), np.uint8)))
    before = (tmp_path / "x.png").read_bytes()
    with pytest.raises(DataError, match="there already"):
        LabelMapFiles(str(tmp_path)).add(picture("x.png", np.zeros((2, 2), int)))
    assert (tmp_path / "x.png").read_bytes() == before


def test_maps_of_volumes_are_nifti_in_the_place_of_the_source(tmp_path):
    LabelMapFiles(str(tmp_path)).add(
        mapped("v.nii", np.ones((3, 3, 2), int), (3, 3, 2), spatial_dims=3, scaling="image")
    )
    found = nifti.read(tmp_path / "v.nii.gz")
    assert (found.size, found.array.dtype) == ((3, 3, 2), np.uint8)


class Broken:
    """A dataset whose second image raises what would end an iteration."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict:
        if index == 1:
            raise IndexError("in a reader")
        return {"files": image(f"{index}.png"), "image": torch.zeros(1, 2, 2)}


def test_an_error_of_a_reader_does_not_end_the_work_silently(tmp_path):
    predictor = Predictor(
        dataset=Broken(),
        network=torch.nn.Identity(),
        inferer=lambda images, network: images.mean((2, 3)),
        device=torch.device("cpu"),
        postprocessing=dict,
        writer=ProbabilityTable(str(tmp_path), ["a"]),
    )
    with pytest.raises(IndexError):
        predictor.run()
    assert not (tmp_path / "predictions.csv").exists()
