"""The output folder: its table, hostile names in a journal, and what decides whether a prediction holds."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from meninx.core import files, plain, workspace
from meninx.core.artifacts import PredictRecord
from meninx.core.errors import DataError
from meninx.core.manifest import DatasetInfo, TaskKind
from meninx.imaging.preprocessing import Preprocessing
from meninx.learn.config import LearnConfig
from meninx.predict import results
from meninx.predict.config import PredictConfig
from meninx.predict.conversion import Converted
from meninx.predict.inputs import InputImage
from meninx.predict.results import CasePrediction
from meninx.predict.trained import Trained

INFO = DatasetInfo(name="d", task=TaskKind.MULTICLASS, labels=("a", "b"))
MODEL = Trained(
    network=nn.Identity(), config=LearnConfig(), info=INFO, preprocessing=Preprocessing(), weights="w"
)
RECORD = PredictRecord(
    model="d", run="", weights="w", network="resnet9", task="multiclass", labels=INFO.labels, cases=1
)
OTHER_FILES = ["../x.png", "/etc/passwd", "label_maps/../../x", "predictions.csv", "label_maps/a/b"]


def line(case_id="c", **more) -> CasePrediction:
    made_of = results.fingerprint(PredictConfig(), MODEL)
    given = {"probabilities": (0.75, 0.25), "files": {}, **more}
    return CasePrediction(case_id=case_id, made_of=made_of, source="s", **given)


def written(tmp_path, lines, model=MODEL):
    config, made_of = PredictConfig(), results.fingerprint(PredictConfig(), model)
    with results.claimed(tmp_path / "out", config, model, made_of, []) as folder:
        folder.finish({item.case_id: item for item in lines}, RECORD)
    with (tmp_path / "out" / "predictions.csv").open(newline="") as stream:
        return list(csv.reader(stream))


def test_columns_of_a_classification(tmp_path):
    rows = written(
        tmp_path,
        [line("b", file="x/b.png"), line("a", file="=a.png")],
        replace(MODEL, thresholds={"b": 0.25}),
    )
    assert rows == [
        ["case_id", "file", "a", "b", "positive:b", "most_probable"],
        ["a", "'=a.png", "0.75000000", "0.25000000", "1", "a"],
        ["b", "x/b.png", "0.75000000", "0.25000000", "1", "a"],
    ]


def test_columns_of_a_segmentation(tmp_path):
    info = replace(INFO, task=TaskKind.SEGMENTATION, spatial_dims=3)
    rows = written(tmp_path, [line(voxels=(1000, 5), voxel_mm3=2.0)], replace(MODEL, info=info))
    assert rows == [["case_id", "file", "a_ml", "b_ml"], ["c", "", "2.0000", "0.0100"]]


def test_a_label_with_the_name_of_a_column_is_refused(tmp_path):
    model = replace(MODEL, info=replace(INFO, labels=("a", "most_probable")))
    with pytest.raises(DataError, match="name of a column"):
        written(tmp_path, [line()], model)


@pytest.mark.parametrize("name", OTHER_FILES)
def test_a_journal_cannot_name_other_files(tmp_path, name):
    (tmp_path / "in").write_bytes(b"x")
    image = InputImage(case_id="c", paths=(tmp_path / "in",))
    there = (tmp_path / "out" / name).resolve()
    if there.is_relative_to(tmp_path):
        files.write_text(there, "somebody's")
    held = replace(line(files={name: files.digest(there)}), source=image.digest())
    config, made_of = PredictConfig(), results.fingerprint(PredictConfig(), MODEL)
    (tmp_path / "out" / "private").mkdir(parents=True, exist_ok=True)
    marker = workspace.Marker(stage="predict")
    files.write_text(tmp_path / "out" / "private" / workspace.MARKER, plain.to_json(marker))
    with results.claimed(tmp_path / "out", config, MODEL, made_of, []) as folder:
        with folder.journal.appending() as lines:
            lines.add(plain.to_plain(held))
        assert folder.finished([image]) == {}
        with folder.journal.appending() as lines:
            lines.add(plain.to_plain(replace(held, files={})))
        assert set(folder.finished([image])) == {"c"}


NO_PREDICTIONS = {
    "another number": {"probabilities": (0.9,)},
    "none": {"probabilities": ()},
    "no probability": {"probabilities": (7.0, -3.0)},
    "no number": {"probabilities": (float("nan"), 1.0)},
    "of a terminal": {"remarks": (("\x1b[31mdark", ""),)},
    "of a segmentation": {"files": {"label_maps/c.png": "0" * 64}},
}


@pytest.mark.parametrize("kind", NO_PREDICTIONS)
def test_a_line_of_a_journal_that_is_no_prediction_of_the_model_is_predicted_again(tmp_path, kind):
    (tmp_path / "in").write_bytes(b"x")
    image = InputImage(case_id="c", paths=(tmp_path / "in",))
    made_of = results.fingerprint(PredictConfig(), MODEL)
    with results.claimed(tmp_path / "out", PredictConfig(), MODEL, made_of, []) as folder:
        with folder.journal.appending() as lines:
            lines.add(plain.to_plain(replace(line(**NO_PREDICTIONS[kind]), source=image.digest())))
        assert folder.finished([image]) == {}
        with folder.journal.appending() as lines:
            lines.add(plain.to_plain(replace(line(), source=image.digest())))
        assert set(folder.finished([image])) == {"c"}


def test_a_map_of_another_number_of_labels_is_predicted_again(tmp_path):
    (tmp_path / "in").write_bytes(b"x")
    image = InputImage(case_id="c", paths=(tmp_path / "in",))
    model = replace(MODEL, info=replace(INFO, task=TaskKind.SEGMENTATION))
    made_of = results.fingerprint(PredictConfig(), model)
    whole = {"made_of": made_of, "source": image.digest()}
    with results.claimed(tmp_path / "out", PredictConfig(), model, made_of, []) as folder:
        for voxels, held in (((5,), set()), ((5, -1), set()), ((5, 0), {"c"})):
            with folder.journal.appending() as lines:
                lines.add(plain.to_plain(replace(line(voxels=voxels), **whole)))
            assert set(folder.finished([image])) == held


def test_settings_and_weights_decide_whether_a_prediction_still_holds():
    first = results.fingerprint(PredictConfig(), MODEL)
    assert first == results.fingerprint(PredictConfig(device="cpu", batch=3, resume=True), MODEL)
    assert first != results.fingerprint(PredictConfig(format=("nifti",)), MODEL)
    assert first != results.fingerprint(PredictConfig(), replace(MODEL, weights="v"))


def test_a_padded_picture_comes_back_to_its_own_grid(tmp_path):
    info = replace(INFO, task=TaskKind.SEGMENTATION)
    model = replace(MODEL, info=info, preprocessing=Preprocessing(size=(8, 8), aspect="pad"))
    note = Converted(
        image=InputImage(case_id="c", paths=()),
        digest="s",
        size=(8, 8),
        affine=np.eye(4),
        source_size=(16, 8),
        source_affine=np.eye(4),
    )
    array = np.zeros((8, 8), np.uint8)
    array[:, 2:6] = 1  # the image lies in the middle four columns
    made_of = results.fingerprint(PredictConfig(), model)
    with results.claimed(tmp_path / "out", PredictConfig(), model, made_of, []) as folder:
        found = folder.label_map(note, array)
    assert found.voxels == (16 * 8, 0)
