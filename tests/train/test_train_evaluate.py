"""Evaluation: thresholds from validation, estimates from test, intervals over patients.

Predictions stay in the private folder.
"""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from meninx.core import artifacts, integrity
from meninx.core.artifacts import EvaluationRecord, RunRecord, ThresholdRecord
from meninx.core.errors import DataError, UsageError
from meninx.core.manifest import Manifest
from meninx.core.run import Run
from meninx.imaging import load
from meninx.learn.inference import load_model, predict
from meninx.metrics import segmentation, thresholds
from meninx.metrics.classification import auroc
from meninx.metrics.estimates import Evaluation
from meninx.train import evaluate, stage
from meninx.train.config import EvaluateConfig, TrainConfig
from meninx.train.predictions import PredictionFiles

QUICK = EvaluateConfig(draws=200)


@pytest.fixture
def copied(plain: Run, tmp_path: Path) -> Run:
    """A copy of the run without privacy that a test may write into."""
    shutil.copytree(plain.root, tmp_path / "run")
    return Run(tmp_path / "run")


def evaluation(run: Run) -> Evaluation:
    record = artifacts.read(run.root, EvaluationRecord)
    assert record is not None
    return Evaluation.from_table(record.evaluation)


def external(run: Run) -> Evaluation:
    [path] = run.release.glob("evaluation-external-*.json")
    record = artifacts.read_file(path, EvaluationRecord)
    assert record is not None
    assert record.external
    return Evaluation.from_table(record.evaluation)


def probabilities(run: Run, cases: Manifest) -> np.ndarray:
    model, config, info = load_model(run)
    return predict(model, info, cases, config).probabilities.astype(np.float64)


def test_the_numbers_are_those_of_the_test_split(copied, data):
    result = evaluate.run(QUICK, copied.root)
    test = data.split("test")
    assert (result.split, result.cases, result.patients) == ("test", len(test), len(test.patients))
    said = probabilities(copied, test)
    for column, label in enumerate(data.info.labels):
        found = evaluation(copied).find("auroc", label)
        assert found is not None
        assert found.value == pytest.approx(auroc(test.targets()[:, column], said[:, column]))
        assert found.low <= found.value <= found.high or found.note
        assert found.patients == len(test.patients)
    assert f"], {len(test)} cases of {len(test.patients)} patients" in result.summary()
    nameless = replace(result, patients_known=False).summary()
    assert f"split: {len(test)} images" in nameless
    assert "patients" not in nameless
    assert result.metrics["auroc"].patients == len(test.patients)
    assert result.out == copied.release / "evaluation.json"


def test_thresholds_come_from_the_validation_split_alone(copied, data):
    evaluate.run(QUICK, copied.root)
    valid = data.split("valid")
    expected = thresholds.fit_thresholds(valid.targets(), probabilities(copied, valid), data.info.labels)
    found = evaluation(copied).thresholds
    assert [item.value for item in found] == pytest.approx([item.value for item in expected])
    assert {item.split for item in found if item.rule != "fixed"} == {"valid"}


def test_other_labels_in_the_test_split_move_no_threshold(copied, data, tmp_path):
    evaluate.run(QUICK, copied.root)
    before = evaluation(copied)
    flipped = tuple(
        replace(case, labels={name: 1 - value for name, value in case.labels.items()})
        if case.split == "test"
        else case
        for case in data.cases
    )
    shutil.copytree(data.root, tmp_path / "data")
    Manifest(tmp_path / "data", data.info, flipped).write()
    evaluate.run(QUICK, copied.root, tmp_path / "data")
    assert evaluation(copied) == before
    after = external(copied)
    assert after.thresholds == before.thresholds
    assert after.headline.value == pytest.approx(1 - before.headline.value)


def test_another_dataset_without_a_validation_split_takes_the_thresholds_of_the_training(
    copied, data, tmp_path
):
    shutil.copytree(data.root, tmp_path / "data")
    Manifest(tmp_path / "data", data.info, data.split("test").cases).write()
    result = evaluate.run(QUICK, copied.root, tmp_path / "data")
    assert result.external
    valid = data.split("valid")
    wanted = thresholds.fit_thresholds(valid.targets(), probabilities(copied, valid), data.info.labels)
    assert [item.value for item in external(copied).thresholds] == pytest.approx(
        [item.value for item in wanted]
    )
    assert "sensitivity" in {row.name for row in external(copied).metrics}


def test_the_bundle_carries_the_thresholds_of_the_own_test(copied, data, tmp_path):
    evaluate.run(QUICK, copied.root)
    found = artifacts.read(copied.release / "bundle", ThresholdRecord)
    assert found is not None
    assert found.thresholds == {item.label: item.value for item in evaluation(copied).thresholds}
    assert found.weights == copied.record.weights
    assert found.source == f"valid of {data.info.name}"
    assert "bundle/configs/thresholds.json" in integrity.read(copied.release)
    assert not integrity.damage(copied.release)
    shutil.copytree(data.root, tmp_path / "data")
    Manifest(tmp_path / "data", data.info, data.split("test").cases).write()
    evaluate.run(QUICK, copied.root, tmp_path / "data")
    assert artifacts.read(copied.release / "bundle", ThresholdRecord) == found


def test_thresholds_that_a_killed_evaluation_left_are_written_again(copied):
    evaluate.run(QUICK, copied.root)
    path = copied.release / "bundle" / "configs" / "thresholds.json"
    before = path.read_bytes()
    path.write_text("{}")
    evaluate.run(QUICK, copied.root)
    assert path.read_bytes() == before
    assert not integrity.damage(copied.release)


def test_a_wished_sensitivity_is_a_rule(copied):
    evaluate.run(QUICK.replace(threshold="sensitivity>=0.9"), copied.root)
    assert {item.rule for item in evaluation(copied).thresholds} <= {"sensitivity>=0.9", "fixed"}


def test_the_table_of_predictions_stays_in_the_private_room(copied, data):
    evaluate.run(QUICK, copied.root)
    path = copied.private / "predictions" / "test.csv"
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    test = data.split("test")
    assert [row["case_id"] for row in rows] == [case.case_id for case in test.cases]
    found = np.array([[float(row[label]) for label in data.info.labels] for row in rows])
    assert np.abs(found - probabilities(copied, test)).max() < 1e-6
    assert not (copied.private / ".predictions").exists()
    assert test.cases[0].case_id not in (copied.release / "evaluation.json").read_text()


def test_no_predictions_are_kept_when_none_are_wanted(copied):
    evaluate.run(QUICK.replace(predictions=()), copied.root)
    assert not (copied.private / "predictions").exists()


def test_a_baseline_gives_differences_and_is_left_alone(copied, private, data):
    before = sorted(private.root.rglob("*"))
    result = evaluate.run(QUICK.replace(baseline=private.root), copied.root)
    table = json.loads((copied.release / "comparison.json").read_text())
    assert table["baseline_name"] == private.name
    assert table["baseline"]["run"] == artifacts.read(private.root, RunRecord).id
    first = table["differences"][0]
    test = data.split("test")
    expected = [
        np.mean(
            [
                auroc(truth, said)
                for truth, said in zip(test.targets().T, probabilities(run, test).T, strict=True)
            ]
        )
        for run in (copied, private)
    ]
    assert first["name"] == "auroc_difference"
    assert first["value"] == pytest.approx(expected[0] - expected[1])
    assert result.difference.value == first["value"]
    assert sorted(private.root.rglob("*")) == before


def test_a_run_does_not_differ_from_itself(copied, plain):
    result = evaluate.run(QUICK.replace(baseline=plain.root), copied.root)
    assert (result.difference.value, result.difference.low, result.difference.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("wanted", ["nifti", "dicom-seg"])
def test_a_classifier_has_no_label_maps(copied, wanted):
    with pytest.raises(UsageError, match="only segmentation has label maps"):
        evaluate.run(QUICK.replace(predictions=(wanted,)), copied.root)


def test_an_empty_split_and_a_folder_that_is_no_run_are_refused(copied, data, tmp_path):
    shutil.copytree(data.root, tmp_path / "data")
    Manifest(tmp_path / "data", data.info, data.split("train").cases).write()
    with pytest.raises(DataError, match="split has no cases"):
        evaluate.run(QUICK, copied.root, tmp_path / "data")
    with pytest.raises(UsageError, match="this is no run folder"):
        evaluate.run(QUICK, data.root)


def test_a_run_without_a_checkpoint_is_refused(copied):
    shutil.rmtree(copied.private / "checkpoints")
    with pytest.raises(DataError, match=r"there is no checkpoint"):
        evaluate.run(QUICK, copied.root)


def test_another_device_than_that_of_the_training_may_be_asked_for(copied):
    with pytest.raises(UsageError, match="device"):
        evaluate.run(QUICK.replace(device="abacus"), copied.root)


def _segmented(data: Manifest, tmp_path: Path, **settings: object) -> Run:
    config = TrainConfig.of(model="unet-small", batch_size=2, export=(), eval_every=100, **settings)
    return Run(stage.run(config, data.root, tmp_path).out)


def test_pictures_are_segmented(pictures, tmp_path):
    run = _segmented(pictures, tmp_path, steps=2)
    result = evaluate.run(QUICK.replace(predictions=("csv", "nifti")), run.root)
    test = pictures.split("test")
    maps = {
        case.case_id: load.load(run.private / "predictions" / f"{case.case_id}.png").array[0]
        for case in test.cases
    }
    dice = [
        segmentation.dice(
            maps[case.case_id], load.load(pictures.root / case.mask).array[0], len(pictures.info.labels)
        )
        for case in test.cases
    ]
    assert all(label_map.shape == (32, 32) and label_map.max() <= 1 for label_map in maps.values())
    assert evaluation(run).headline.name == "dice"
    assert evaluation(run).headline.value == pytest.approx(float(np.nanmean(dice)), nan_ok=True)
    assert "dice" in result.metrics
    assert evaluation(run).thresholds == ()


def test_volumes_are_segmented_by_a_sliding_window_in_their_own_place(volumes, tmp_path):
    run = _segmented(volumes, tmp_path, steps=2, patch_size=(16, 16, 8))
    result = evaluate.run(QUICK.replace(predictions=("csv", "nifti"), baseline=run.root), run.root)
    case = volumes.split("test").cases[0]
    found, image = (
        load.load(run.private / "predictions" / f"{case.case_id}.nii.gz"),
        load.load(volumes.root / case.image),
    )
    assert found.size == image.size
    assert np.allclose(found.affine, image.affine)
    table = (run.private / "predictions" / "test.csv").read_text().splitlines()
    assert table[0].startswith("case_id,patient_id,organ dice,lesion dice,organ hd95,lesion hd95,")
    assert len(table) == 1 + len(volumes.split("test"))
    assert {"dice", "iou"} <= set(result.metrics)
    assert result.difference.value == 0.0


def test_hostile_identifiers_stay_text_and_lead_nowhere(copied, data):
    case = replace(data.cases[0], patient_id="-1+cmd|x")
    chosen = Manifest(data.root, data.info, (case,))
    kept = PredictionFiles(copied, chosen, QUICK, data.info.labels)
    kept.publish(np.array([[0.5, 0.25, np.nan]]), ("=1+1", "b", "c"))
    lines = (copied.private / "predictions" / "test.csv").read_text().splitlines()
    assert lines == ["case_id,patient_id,'=1+1,b,c", f"{case.case_id},'-1+cmd|x,0.500000,0.250000,"]
    for name in ("../../release/x", "/tmp/x", "..", "a/b"):
        with pytest.raises(DataError):
            kept._path(f"{name}.png" if name != ".." else name)


@pytest.mark.parametrize("content", ["epochs = 2\n", b"\xff\xfe"])
def test_a_run_whose_config_was_changed_is_not_measured(copied, content):
    copied.config_path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match="the config was changed"):
        evaluate.run(QUICK, copied.root)
    assert not (copied.release / "evaluation.json").exists()


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("name", ["bundle/models/model.pt", "model.onnx", "lineage.json", "checksums.sha256"])
def test_a_run_whose_release_was_changed_is_not_measured(copied, name, gone):
    [path] = copied.release.rglob(Path(name).name)
    if gone:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataError, match="run") as caught:
        evaluate.run(QUICK, copied.root)
    assert "digests" in str(caught.value) or f"{path.name} {'missing' if gone else 'changed'}" in str(
        caught.value
    )
    assert not (copied.release / "evaluation.json").exists()


def test_a_killed_evaluation_is_made_again(copied):
    evaluate.run(QUICK, copied.root)
    (copied.release / "evaluation.json").write_text("{}")
    evaluate.run(QUICK, copied.root)
    assert evaluation(copied).split == "test"
