"""A model is trained, its bundle is copied elsewhere, and new images of every kind are predicted there."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import forked_commands
import numpy as np
import prepare_fixtures as make
import pydicom
import pytest
import torch
from PIL import Image as Pillow
from seg_reader import read_seg

import meninx
from meninx.cli import app
from meninx.core import integrity
from meninx.core.artifacts import BundleRecord, PredictRecord, read
from meninx.core.errors import ConfigError, DataError, MeninxError, PrivacyRefusal, UsageError
from meninx.core.manifest import Manifest
from meninx.core.run import Run
from meninx.imaging import decode, dicom_image, load, nifti
from meninx.imaging.image import Image
from meninx.imaging.preprocessing import Preprocessing
from meninx.learn import inference
from meninx.predict import fitness
from meninx.predict.trained import open_trained

QUICK = {"steps": 2, "batch_size": 4, "device": "cpu", "attack_risk": False}
SMALL = {**QUICK, "model": "resnet9-small", "model_options": {"width": 4}}


@dataclass(frozen=True)
class Trained:
    """A run, the images that its dataset was prepared from, and a copy of its bundle on another machine."""

    source: Path
    data: Manifest
    run: Run
    bundle: Path


def trained(root: Path, source: Path, settings: dict, prepared: dict, *, evaluate: bool = True) -> Trained:
    meninx.prepare(source, root / "data", **prepared)
    run = Run(meninx.train(root / "data", out=root / "runs", **settings).out)
    if evaluate:
        meninx.evaluate(run.root, draws=20)
    bundle = shutil.copytree(run.release / "bundle", root / "elsewhere" / "model")
    return Trained(source, Manifest.read(root / "data"), run, bundle)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Trained:
    """Classification of PNG images of 12 x 10 pixels, stored as 16 x 16."""
    root = tmp_path_factory.mktemp("pictures")
    prepared = {
        "reader": "csv",
        "label_columns": ("effusion", "nodule"),
        "size": (16, 16),
        "split": "exact",
        "fractions": (0.5, 0.3, 0.2),
    }
    return trained(root, make.make_csv(root / "in", patients=14), SMALL, prepared)


@pytest.fixture(scope="module")
def radiographs(cohort, tmp_path_factory) -> Trained:
    """Classification of radiographs, prepared from the output of `meninx deid`."""
    root = tmp_path_factory.mktemp("radiographs")
    meninx.new_key(root / "key")
    meninx.deidentify(
        cohort.root / "north" / "archive", root / "clean", key=root / "key", site="north", workers=1
    )
    prepared = {
        "reader": "dicom",
        "table": str(cohort.root / "north" / "labels.csv"),
        "crosswalks": ("private/crosswalk_uids.csv",),
        "class_column": "pneumothorax",
        "size": (24, 24),
        "fractions": (0.4, 0.3, 0.3),
        "split": "exact",
    }
    return trained(root, root / "clean", SMALL, prepared)


@pytest.fixture(scope="module")
def volumes(cohort, tmp_path_factory) -> Trained:
    """Segmentation of CT, resampled, prepared from the output of `meninx deid`; volumes of any size."""
    root = tmp_path_factory.mktemp("volumes")
    for hospital in cohort.config.hospitals:
        meninx.new_key(root / f"{hospital}.key")
        archive = cohort.root / hospital / "archive"
        meninx.deidentify(
            archive, root / "clean" / hospital, key=root / f"{hospital}.key", site=hospital, workers=1
        )
    prepared = {
        "reader": "dicom",
        "table": f"{cohort.root}/{{site}}/labels.csv",
        "crosswalks": ("private/crosswalk_uids.csv",),
        "mask_column": "mask",
        "mask_labels": ("organ", "lesion"),
        "spatial_dims": 3,
        "window": (-150.0, 200.0),
        "spacing_mm": (12.0,),
        "split": "exact",
    }
    settings = {**QUICK, "model": "unet-small", "batch_size": 1, "patch_size": (16, 16, 8)}
    return trained(root, root / "clean", settings, prepared, evaluate=False)


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as stream:
        return {row["case_id"]: row for row in csv.DictReader(stream)}


def measured(run: Run) -> dict[str, dict[str, str]]:
    with (run.private / "predictions" / "test.csv").open(newline="") as stream:
        return {row["case_id"]: row for row in csv.DictReader(stream)}


def keys(data: Manifest) -> dict[str, str]:
    """Case -> its name in the source."""
    with (data.root / "private" / "cases.csv").open(newline="") as stream:
        return {row["case_id"]: row["key"] for row in csv.DictReader(stream)}


def test_pictures_get_the_numbers_of_evaluate_from_a_bundle_alone(pictures, tmp_path):
    result = meninx.predict(pictures.bundle, pictures.source / "images", tmp_path / "out")
    found, named = table(result.out), keys(pictures.data)
    for case, row in measured(pictures.run).items():
        mine = found[Path(named[case]).stem]
        for label in ("effusion", "nodule"):
            assert float(mine[label]) == pytest.approx(float(row[label]), abs=1e-6)
        assert (pictures.source / "images" / mine["file"]).is_file()
    assert result.cases == len(found) == 28
    assert not result.refused
    assert result.thresholds_from == "fitted on the split valid of dataset"
    assert integrity.damage(result.out, leave_out=["private", "predict.json"]) == integrity.Damage()


def test_the_dataset_itself_and_every_form_of_the_model_give_the_same(pictures, tmp_path):
    """A run folder, its release, the bundle in it, and a run without its private room."""
    bare = tmp_path / "bare"
    shutil.copytree(pictures.run.root, bare, ignore=shutil.ignore_patterns("private"))
    places = [pictures.run.root, pictures.run.release, pictures.run.release / "bundle", bare]
    outs = [
        meninx.predict(place, pictures.data.root, tmp_path / f"out{number}", batch=number + 1).out
        for number, place in enumerate(places)
    ]
    tables = [table(out) for out in outs]
    for other in tables[1:]:
        assert other.keys() == tables[0].keys()
        for case, row in other.items():
            assert [float(v) for k, v in row.items() if k not in ("case_id", "file")] == pytest.approx(
                [float(v) for k, v in tables[0][case].items() if k not in ("case_id", "file")], abs=1e-6
            )


def test_a_tiff_and_a_png_of_the_same_pixels_are_predicted_alike(pictures, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    pixels = Pillow.open(pictures.source / "images" / "p0_0.png")
    for name in ("a.png", "b.tif", "c.tiff"):
        pixels.save(folder / name)
    found = table(meninx.predict(pictures.bundle, folder, tmp_path / "out").out)
    assert set(found) == {"a", "b", "c"}
    assert len({row["effusion"] for row in found.values()}) == 1


def test_decisions_are_made_at_the_thresholds_of_validation(pictures, tmp_path):
    result = meninx.predict(pictures.run.root, pictures.source / "images", tmp_path / "out")
    assert set(result.thresholds) <= {"effusion", "nodule"}
    assert result.thresholds
    assert "youden on the split valid" in result.thresholds_from
    for row in table(result.out).values():
        for label, value in result.thresholds.items():
            assert row[f"positive:{label}"] == str(int(float(row[label]) >= value))


def test_every_refused_image_is_listed_with_its_own_reason(pictures, tmp_path):
    folder = shutil.copytree(pictures.source / "images", tmp_path / "images")
    for number in range(25):
        (folder / f"broken{number}.png").write_bytes(b"no image" * number)
    Pillow.new("L", (16, 16), 7).save(folder / "flat.png")
    out = meninx.predict(pictures.bundle, folder, tmp_path / "out").out
    with (out / "refused.csv").open(newline="") as stream:
        rows = {row["case_id"]: row for row in csv.DictReader(stream)}
    assert set(rows) == {"flat", *(f"broken{number}" for number in range(25))}
    assert rows["flat"]["reason"] != rows["broken3"]["reason"]
    assert "broken3.png" in rows["broken3"]["details"]
    assert "refused.csv" in integrity.read(out)
    for path in folder.glob("broken*"):
        path.unlink()
    (folder / "flat.png").unlink()
    meninx.predict(pictures.bundle, folder, out, overwrite=True)
    assert not (out / "refused.csv").exists()
    assert integrity.damage(out, leave_out=["private", "predict.json"]) == integrity.Damage()


def test_the_output_lies_in_no_release(pictures, tmp_path):
    release = shutil.copytree(pictures.run.release, tmp_path / "release")
    for model in (release, release / "bundle", pictures.run.root):
        for out in (release / "mine", release / "bundle" / "mine", release / "bundle" / "models" / "mine"):
            with pytest.raises(UsageError, match=r"outside|apart"):
                meninx.predict(model, pictures.source / "images", out)
    assert integrity.damage(release) == integrity.Damage()


def test_without_an_evaluation_there_are_probabilities_alone(pictures, tmp_path):
    bundle = shutil.copytree(pictures.bundle, tmp_path / "bundle")
    (bundle / "configs" / "thresholds.json").unlink()
    result = meninx.predict(bundle, pictures.source / "images", tmp_path / "out")
    assert result.thresholds_from.startswith("none: ")
    assert "probabilities alone" in result.summary()
    assert set(table(result.out)["p0_0"]) == {"case_id", "file", "effusion", "nodule"}


def test_an_evaluation_that_was_changed_decides_nothing(pictures, tmp_path):
    release = shutil.copytree(pictures.run.release, tmp_path / "release")
    path = release / "evaluation.json"
    content = json.loads(path.read_text())
    for row in content["evaluation"]["thresholds"]:
        row["value"] = 0.0
    path.write_text(json.dumps(content))
    result = meninx.predict(release, pictures.source / "images", tmp_path / "out")
    assert not result.thresholds
    assert "not the one in the list" in result.thresholds_from


def test_an_evaluation_without_a_list_gives_way_to_the_listed_thresholds(pictures, tmp_path):
    """An edited evaluation.json decided as soon as the list of the release was gone."""
    release = shutil.copytree(pictures.run.release, tmp_path / "release")
    before = open_trained(release).thresholds
    content = json.loads((release / "evaluation.json").read_text())
    for item in content["evaluation"]["thresholds"]:
        item["value"] = 0.123
    (release / "evaluation.json").write_text(json.dumps(content))
    (release / integrity.CHECKSUMS).unlink()
    found = open_trained(release)
    assert found.thresholds == before
    assert "fitted on the split" in found.thresholds_from
    assert before


def test_radiographs_are_predicted_straight_from_the_clean_archive(radiographs, tmp_path, capsys):
    assert app.run(["predict", str(radiographs.bundle), str(radiographs.source), str(tmp_path / "out")]) == 0
    found, named = table(tmp_path / "out"), keys(radiographs.data)
    theirs = measured(radiographs.run)
    assert theirs
    for case, row in theirs.items():
        mine = found[named[case].rpartition("/")[2]]
        for label in radiographs.data.info.labels:
            assert float(mine[label]) == pytest.approx(float(row[label]), abs=1e-6)
        assert mine["most_probable"] in radiographs.data.info.labels
    said = capsys.readouterr()
    assert "predicted:" in said.out
    assert "predict" in said.err


def test_no_original_of_the_private_room_is_predicted(radiographs, tmp_path):
    """A clean archive keeps originals in quarantine."""
    clean = shutil.copytree(radiographs.source, tmp_path / "clean")
    images = table(meninx.predict(radiographs.bundle, clean, tmp_path.parent / "out-before").out)
    headers = (pydicom.dcmread(path) for path in (clean / "images").rglob("*.dcm"))
    header = next(header for header in headers if header.SOPInstanceUID in images)
    header.SOPInstanceUID = "1.2.3"
    header.save_as(clean / "private" / "quarantine.dcm")
    for source in (clean, tmp_path):
        result = meninx.predict(radiographs.bundle, source, tmp_path.parent / f"out-{source.name}")
        assert "1.2.3" not in table(result.out)
    (clean / "deid.json").unlink()
    again = meninx.predict(radiographs.bundle, clean, tmp_path.parent / "out-open")
    assert "1.2.3" in table(again.out)


def test_stored_images_are_those_of_prepare_byte_for_byte(volumes, radiographs):
    for kind in (volumes, radiographs):
        steps = fitness.Preprocessing.from_table(read(kind.bundle, BundleRecord).info.preprocessing)
        named = keys(kind.data)
        keyword = "SeriesInstanceUID" if kind is volumes else "SOPInstanceUID"
        paths: dict[str, list[Path]] = {}
        for path in sorted(kind.source.rglob("images/**/*.dcm")):
            paths.setdefault(str(pydicom.dcmread(path, stop_before_pixels=True)[keyword].value), []).append(
                path
            )
        for case in kind.data.cases[:4]:
            stored = load.load(kind.data.root / case.image)
            mine = steps.apply(steps.read(paths[named[case.case_id].rpartition("/")[2]]))
            assert mine.array.dtype == stored.array.dtype
            assert np.array_equal(mine.array, stored.array)


def test_volumes_become_segmentations_on_the_grid_of_their_series(volumes, tmp_path):
    pytest.importorskip("highdicom")
    result = meninx.predict(
        volumes.bundle, volumes.source, tmp_path / "out", format=("nifti", "dicom-seg"), batch=2
    )
    found, named = table(result.out), keys(volumes.data)
    assert set(found) == {named[case.case_id].rpartition("/")[2] for case in volumes.data.cases}
    for uid, row in found.items():
        paths = [
            path
            for path in volumes.source.rglob("images/**/*.dcm")
            if pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID == uid
        ]
        series = dicom_image.read_series(paths)
        flat = nifti.read(result.out / "label_maps" / f"{uid}.nii.gz")
        back = read_seg(result.out / "label_maps" / f"{uid}.seg.dcm", paths)
        assert flat.size == series.size
        assert np.allclose(flat.affine, series.affine, atol=1e-3)
        assert np.array_equal(back.array, flat.array)
        voxel = abs(np.linalg.det(series.affine[:3, :3])) / 1000
        assert float(row["organ_ml"]) == pytest.approx((flat.array == 1).sum() * voxel, abs=1e-3)
    assert result.refused["single slice for a model of volumes"].count > 0  # the radiographs of the archive


def test_nifti_files_come_back_on_their_own_grid_however_they_are_turned(volumes, tmp_path):
    values = np.random.default_rng(0).normal(30, 60, (1, 40, 30, 9)).astype(np.float32)
    affine = np.array([[0, -9.0, 0, 5], [10, 0, 0, 0], [0, 0, 11, 0], [0, 0, 0, 1.0]])
    nifti.write(tmp_path / "in" / "one.nii.gz", Image(values, affine))
    result = meninx.predict(volumes.bundle, tmp_path / "in" / "one.nii.gz", tmp_path / "out")
    found = nifti.read(result.out / "label_maps" / "one.nii.gz")
    assert found.size == (40, 30, 9)
    assert np.allclose(found.affine, affine, atol=1e-3)


class StopAfter:
    """Progress of a user who presses Ctrl-C after some images."""

    def __init__(self, images: int) -> None:
        self.left = images

    def start(self, label: str, total: int | None) -> None: ...
    def finish(self) -> None: ...
    def note(self, message: str) -> None: ...
    def advance(self, count: int = 1, **fields: float | str) -> None:
        self.left -= 1
        if not self.left:
            signal.raise_signal(signal.SIGINT)


def test_a_stopped_call_goes_on_and_gives_the_same_bytes(pictures, tmp_path, monkeypatch):
    whole = meninx.predict(pictures.bundle, pictures.source / "images", tmp_path / "whole", batch=3)
    with pytest.raises(MeninxError, match="run the same command again"):
        meninx.predict(
            pictures.bundle, pictures.source / "images", tmp_path / "out", batch=3, progress=StopAfter(10)
        )
    assert not (tmp_path / "out" / "predictions.csv").exists()
    result = meninx.predict(pictures.bundle, pictures.source / "images", tmp_path / "out", batch=3)
    assert 0 < result.reused < result.cases == whole.cases
    assert table(result.out).keys() == table(whole.out).keys()
    for case, row in table(result.out).items():
        assert float(row["effusion"]) == pytest.approx(float(table(whole.out)[case]["effusion"]), abs=1e-6)


def test_a_killed_process_loses_little(pictures, tmp_path):
    source, out = pictures.source / "images", tmp_path / "out"
    words = ["predict", str(pictures.bundle), str(source), str(out), "-q", "--batch", "1"]
    forward = inference.forward
    slow = lambda *given: (time.sleep(0.1), forward(*given))[1]  # noqa: E731
    child = forked_commands.start(tmp_path, *words, prepare=lambda: setattr(inference, "forward", slow))
    journal = out / "private" / "staging" / "private" / "journal.jsonl"
    for _ in range(1200):
        if journal.is_file() and journal.read_bytes().count(b"\n") >= 2:
            break
        assert child.poll() is None
        time.sleep(0.05)
    child.send(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    with journal.open("ab") as stream:
        stream.write(b'{"case_id": "torn')
    result = meninx.predict(pictures.bundle, source, out, batch=1)
    assert 2 <= result.reused < result.cases == 28
    whole = meninx.predict(pictures.bundle, source, tmp_path / "whole", batch=1)
    assert (out / "predictions.csv").read_bytes() == (whole.out / "predictions.csv").read_bytes()


def test_resume_predicts_what_is_new_and_what_changed(pictures, tmp_path):
    source = shutil.copytree(pictures.source / "images", tmp_path / "in")
    out = tmp_path / "out"
    meninx.predict(pictures.bundle, source, out)
    before = table(out)
    with pytest.raises(UsageError, match="complete result"):
        meninx.predict(pictures.bundle, source, out)
    make.write_picture(source / "p0_0.png", make.picture(777))
    make.write_picture(source / "new.png", make.picture(778))
    (source / "p1_0.png").unlink()
    result = meninx.predict(pictures.bundle, source, out, resume=True)
    after = table(out)
    assert result.reused == result.cases - 2
    assert set(after) == set(before) - {"p1_0"} | {"new"}
    assert after["p0_0"] != before["p0_0"]
    assert after["p2_0"] == before["p2_0"]
    release = pictures.run.release
    assert meninx.predict(release, source, out, overwrite=True).reused in (0, result.cases)
    make.write_picture(source / "p0_0.png", make.picture(779))
    with pytest.raises(DataError, match="expected at least one image"):
        meninx.predict(pictures.bundle, volumes_only(tmp_path), out, overwrite=True)
    assert (out / "predictions.csv").is_file()  # the earlier result stays


def test_a_file_that_changes_while_it_is_read_is_predicted_again(pictures, tmp_path, monkeypatch):
    source, out = shutil.copytree(pictures.source / "images", tmp_path / "in"), tmp_path / "out"
    read = Preprocessing.read

    def slow(steps, paths):
        image = read(steps, paths)
        if paths[0].name == "p0_0.png":
            make.write_picture(paths[0], make.picture(777))
        return image

    monkeypatch.setattr(Preprocessing, "read", slow)
    meninx.predict(pictures.bundle, source, out)
    monkeypatch.undo()
    before = table(out)
    result = meninx.predict(pictures.bundle, source, out, resume=True)
    assert result.reused == result.cases - 1
    assert table(out)["p0_0"] != before["p0_0"]


def volumes_only(root: Path) -> Path:
    make.write_volume(root / "only" / "a.nii.gz", np.arange(60, dtype=np.float32).reshape(3, 4, 5))
    return root / "only"


def test_verify_sees_every_change_of_predictions(volumes, tmp_path):
    values = np.random.default_rng(1).normal(30, 60, (1, 20, 20, 8)).astype(np.float32)
    nifti.write(tmp_path / "in" / "a.nii.gz", Image(values, np.diag([12.0, 12, 12, 1])))
    out = meninx.predict(volumes.bundle, tmp_path / "in", tmp_path / "out").out
    found = meninx.verify(out)
    assert (found.ok, found.kinds) == (True, ("predictions",))
    for name in ("predictions.csv", "label_maps/a.nii.gz"):
        before = (out / name).read_bytes()
        (out / name).write_bytes(before + b"x")
        assert not meninx.verify(out).ok
        (out / name).write_bytes(before)
    (out / "label_maps" / "b.nii.gz").write_bytes(b"x")
    assert not meninx.verify(out).ok


def test_predictions_do_not_go_into_a_dataset(pictures, tmp_path):
    with pytest.raises(UsageError, match="outside releases"):
        meninx.predict(pictures.bundle, pictures.source / "images", pictures.data.root / "out")


def test_a_dry_run_writes_nothing(pictures, tmp_path):
    result = meninx.predict(pictures.bundle, pictures.source / "images", tmp_path / "out", dry_run=True)
    assert result.cases == 28
    assert not (tmp_path / "out").exists()
    assert "nothing was written" in result.summary()


def test_refused_images_are_named_and_the_others_go_on(pictures, tmp_path):
    folder = tmp_path / "in"
    make.write_picture(folder / "good.png", make.picture(1))
    make.write_picture(folder / "one value.png", np.full((12, 10), 7, np.uint8))
    (folder / "torn.png").write_bytes((folder / "good.png").read_bytes()[:60])
    make.write_volume(folder / "volume.nii.gz", np.arange(60, dtype=np.float32).reshape(3, 4, 5))
    make.write_dicom(folder / "a.dcm", make.picture(3), SOPInstanceUID="2.25.77", Modality="SR")
    (folder / "notes.txt").write_text("not an image")
    result = meninx.predict(pictures.bundle, folder, tmp_path / "out")
    reasons = {kind: row.cases for kind, row in result.refused.items()}
    (odd,) = reasons.pop("one value in the whole image")
    assert odd.startswith("one_value-")
    assert reasons == {
        "unreadable image": ("torn",),
        "volume for a model of 2-D images": ("volume",),
        "no image (report, segmentation, ...)": ("2.25.77",),
    }
    assert set(table(result.out)) == {"good"}
    assert "1 other file below" in result.summary()
    record = read(result.out, PredictRecord)
    assert record.refused == result.refused
    assert app.run(["predict", str(pictures.bundle), str(folder), str(tmp_path / "two"), "-q"]) == 0
    assert app.run(["predict", str(pictures.bundle), str(folder), str(tmp_path / "s"), "-q", "--strict"]) == 3
    (folder / "good.png").unlink()
    assert app.run(["predict", str(pictures.bundle), str(folder), str(tmp_path / "none"), "-q"]) == 3


@pytest.mark.parametrize("step", ["apply", "limits"])
def test_a_mistake_in_the_program_is_no_unreadable_image(pictures, tmp_path, monkeypatch, step):
    """Only a decoder may fail in any way; what fails after it must not be counted as a broken file."""

    def mistaken(*_: object) -> None:
        raise TypeError("planted")

    make.write_picture(tmp_path / "in" / "good.png", make.picture(1))
    monkeypatch.setattr(Preprocessing, step, mistaken)
    with pytest.raises(TypeError, match="planted"):
        meninx.predict(pictures.bundle, tmp_path / "in", tmp_path / "out")
    monkeypatch.undo()
    make.write_picture(tmp_path / "in" / "odd.png", make.picture(2))
    own = load.load

    def failing(path: Path, **settings: object) -> object:
        if path.name == "odd.png":
            raise TypeError("of a decoder")
        return own(path, **settings)

    monkeypatch.setattr(load, "load", failing)
    result = meninx.predict(pictures.bundle, tmp_path / "in", tmp_path / "two")
    assert (result.cases, result.refused["unreadable image"].cases) == (1, ("odd",))


def test_what_is_unlike_the_training_is_said_with_numbers(pictures, tmp_path):
    folder = tmp_path / "in"
    deep = make.picture(5, (40, 40)).astype(np.uint16) * 16
    make.write_picture(folder / "deep.png", deep)
    make.write_picture(folder / "tiny.png", make.picture(6, (4, 4)))
    make.write_picture(folder / "long.png", make.picture(7, (16, 60)))
    make.write_picture(folder / "colour.png", make.picture(8, (16, 16, 3)))
    dark = make.picture(9, (16, 16)) // 40
    make.write_picture(folder / "dark.png", dark)
    result = meninx.predict(pictures.bundle, folder, tmp_path / "out")
    said = {kind: row.cases for kind, row in result.warnings.items()}
    assert said[fitness.DEPTH] == ("deep",)
    assert said[fitness.SMALL] == ("tiny",)
    assert said[fitness.SHAPE] == ("long",)
    assert said[fitness.COLOUR] == ("colour",)
    assert set(said[fitness.FLAT]) == {"dark", "deep"}
    assert "dark" in said[fitness.INTENSITY]
    assert "16 bits, stored as 8" in result.summary()


def test_a_private_run_releases_no_facts_about_its_images(pictures, tmp_path):
    run = meninx.train(
        pictures.data.root, out=tmp_path / "runs", **SMALL, epsilon=8.0, delta=1e-3, deterministic=True
    )
    assert read(Run(run.out).release / "bundle", BundleRecord).info.observed is None
    assert read(pictures.bundle, BundleRecord).info.observed.images == 14
    assert pictures.data.info.observed is not None


def test_files_that_are_not_marked_as_clean(radiographs, volumes, tmp_path):
    """Predictions go through; nothing but UIDs is written, and DICOM SEG needs a word of its own."""
    for number in range(2):
        make.write_dicom(
            tmp_path / "open" / f"Doe_Jane_{number}.dcm",
            make.picture(number),
            removed="",
            SOPInstanceUID=f"2.25.5{number}",
            PatientName="Doe^Jane",
            PatientID="MRN-123456",
        )
    result = meninx.predict(radiographs.bundle, tmp_path / "open", tmp_path / "out")
    assert set(table(result.out)) == {"2.25.50", "2.25.51"}
    assert "2 DICOM files are not marked as de-identified" in result.summary()
    assert "gives the reason in DeidentificationMethod" in result.summary()
    assert all(row["file"] == case for case, row in table(result.out).items())
    one = meninx.predict(radiographs.bundle, tmp_path / "open" / "Doe_Jane_0.dcm", tmp_path / "one")
    assert "1 DICOM file is not marked as de-identified: the output holds its UIDs" in one.summary()
    for path in result.out.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert not any(word in data for word in (b"Doe", b"MRN", b"Jane")), path
    pytest.importorskip("highdicom")
    series = ct_of(tmp_path / "ct", clean="NO")
    with pytest.raises(PrivacyRefusal, match="--identified"):
        meninx.predict(volumes.bundle, series, tmp_path / "s1", format=("dicom-seg",))
    seg = meninx.predict(volumes.bundle, series, tmp_path / "s2", format=("dicom-seg",), identified=True)
    (path,) = (seg.out / "label_maps").iterdir()
    assert pydicom.dcmread(path).PatientName == "Doe^Jane"


def ct_of(folder: Path, *, clean: str) -> Path:
    values = np.random.default_rng(4).integers(0, 1500, (6, 20, 24)).astype(np.uint16)
    for index, plane in enumerate(values):
        make.write_dicom(
            folder / f"{index}.dcm",
            plane,
            clean,
            SOPInstanceUID=f"2.25.61{index}",
            SeriesInstanceUID="2.25.60",
            PatientName="Doe^Jane",
            FrameOfReferenceUID="2.25.62",
            ImagePositionPatient=[0, 0, 12 * index],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=[12, 12],
            RescaleSlope=1,
            RescaleIntercept=-1024,
        )
    return folder


def test_settings_without_effect_are_refused(pictures, volumes, tmp_path):
    images = pictures.source / "images"
    with pytest.raises(UsageError, match="a classifier predicts no label map"):
        meninx.predict(pictures.bundle, images, tmp_path / "out", format=("nifti",))
    with pytest.raises(ConfigError, match="no effect without DICOM SEG"):
        meninx.predict(pictures.bundle, images, tmp_path / "out", identified=True)
    with pytest.raises(ConfigError, match="exclude each other"):
        meninx.predict(pictures.bundle, images, tmp_path / "out", resume=True, overwrite=True)
    with pytest.raises(UsageError, match="needs DICOM input"):
        meninx.predict(volumes.bundle, volumes_only(tmp_path), tmp_path / "out", format=("dicom-seg",))
    with pytest.raises(UsageError, match="expected a trained model"):
        meninx.predict(images, images, tmp_path / "out")
    with pytest.raises(DataError, match="no such file or folder"):
        meninx.predict(pictures.bundle, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UsageError, match="apart from each other"):
        meninx.predict(pictures.bundle, images, images / "out")
    assert not (tmp_path / "out").exists()


def test_a_dataset_prepared_otherwise_is_refused(pictures, tmp_path):
    source = make.make_csv(tmp_path / "in", patients=4)
    common = {"reader": "csv", "label_columns": ("effusion", "nodule")}
    meninx.prepare(source, tmp_path / "d20", size=(20, 20), **common)
    with pytest.raises(DataError, match="images of 16 x 16 as in training, got 20 x 20"):
        meninx.predict(pictures.bundle, tmp_path / "d20", tmp_path / "out")
    meninx.prepare(source, tmp_path / "rgb", size=(16, 16), color="rgb", **common)
    with pytest.raises(DataError, match="channels 1 as in training, got 3"):
        meninx.predict(pictures.bundle, tmp_path / "rgb", tmp_path / "out")


def test_a_network_of_ones_own_is_asked_for(pictures, tmp_path):
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(256, 2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(images.flatten(1))

    run = meninx.train(pictures.data.root, out=tmp_path / "runs", model=Own(), **QUICK)
    bundle = Run(run.out).release / "bundle"
    images = pictures.source / "images"
    with pytest.raises(UsageError, match=r"model=.*Own"):
        meninx.predict(bundle, images, tmp_path / "out")
    result = meninx.predict(bundle, images, tmp_path / "out", model=Own())
    assert result.cases == 28
    with pytest.raises(DataError, match="weights"):
        meninx.predict(bundle, images, tmp_path / "other", model=torch.nn.Linear(2, 2))


def damaged(bundle: Path, name: str, change) -> None:
    path = bundle / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


HOSTILE = {
    "another network": lambda t: t["network"].update(name="os.system"),
    "an option": lambda t: t["network"].update(eval="__import__('os')"),
    "other channels": lambda t: t["network"].update(in_channels=3),
    "labels": lambda t: t["info"].update(labels=["a", "$import os"]),
    "no labels": lambda t: t["info"].update(labels=[]),
    "size": lambda t: t["info"]["preprocessing"].update(size=[1 << 40, 16]),
    "unknown key": lambda t: t["info"]["preprocessing"].update(code="$exit()"),
    "window": lambda t: t["info"]["preprocessing"].update(scaling="window", window=[5, 5]),
    "scale": lambda t: t["info"]["intensity"].update(scale=0),
    "loss": lambda t: t.update(loss="ce"),
    "patch": lambda t: t.update(patch_size=[-1, 4]),
    "newer": lambda t: t.update(version=99),
    "weights": lambda t: t.update(weights="0" * 64),
    "type": lambda t: t.update(info=[1]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_bundle_is_refused_in_words(pictures, tmp_path, name):
    bundle = shutil.copytree(pictures.bundle, tmp_path / "bundle")
    damaged(bundle, "configs/meninx.json", HOSTILE[name])
    with pytest.raises((DataError, UsageError)) as caught:
        meninx.predict(bundle, pictures.source / "images", tmp_path / "out")
    assert not any(word in str(caught.value) for word in ("import", "exit", "eval("))
    assert not (tmp_path / "out").exists()


def test_weights_that_are_code_are_never_run(pictures, tmp_path):
    import pickle

    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    for number, content in enumerate((pickle.dumps({"a": Attack()}), b"", b"PK\x03\x04" + b"x" * 100)):
        bundle = shutil.copytree(pictures.bundle, tmp_path / f"bundle{number}")
        (bundle / "models" / "model.pt").write_bytes(content)
        with pytest.raises(DataError, match=r"model\.pt"):
            meninx.predict(bundle, pictures.source / "images", tmp_path / "out")
    bundle = shutil.copytree(pictures.bundle, tmp_path / "object")
    torch.save({"a": Attack()}, bundle / "models" / "model.pt")
    with pytest.raises(DataError, match=r"model\.pt"):
        meninx.predict(bundle, pictures.source / "images", tmp_path / "out")
    assert not (tmp_path / "owned").exists()


def test_a_release_that_was_changed_is_refused(pictures, tmp_path):
    release = shutil.copytree(pictures.run.release, tmp_path / "release")
    path = release / "bundle" / "configs" / "meninx.json"
    path.write_text(path.read_text().replace('"bits": 8', '"bits": 16'))
    with pytest.raises(DataError, match="changed since the release"):
        meninx.predict(release, pictures.source / "images", tmp_path / "out")


def test_hostile_names_stay_in_the_folder_and_cannot_be_formulae(pictures, tmp_path):
    folder = tmp_path / "in"
    names = ["=cmd()", "-rf", "a b", "ä", "A/one", "a/one", "A__one", "x" * 180, "new\nline"]
    for number, name in enumerate(names):
        make.write_picture(folder / f"{name}.png", make.picture(number))
    result = meninx.predict(pictures.bundle, folder, tmp_path / "out")
    found = table(result.out)
    assert len(found) == len({name.casefold() for name in found}) == len(names)
    for name in found:
        assert all(letter.isalnum() or letter in "._-" for letter in name), name
        assert name[0] not in ".-="
        assert len(name) < 128
    assert "A__one" in found or "a__one" in found


def test_hostile_uids_become_names(radiographs, tmp_path):
    for number, uid in enumerate(("../../etc/passwd", "=1+1", "", "1.2.3 ")):
        path = tmp_path / "in" / f"{number}.dcm"
        header = pydicom.dcmread(make.write_dicom(path, make.picture(number), PatientID=f"P{number}"))
        with decode.quiet():
            header.SOPInstanceUID = uid
            header.save_as(path)
    result = meninx.predict(radiographs.bundle, tmp_path / "in", tmp_path / "out")
    found = set(table(result.out))
    assert "1.2.3" in found
    assert all(name.startswith("dicom-") for name in found - {"1.2.3"})
    assert len(found) == 4


def test_the_same_instance_twice_is_predicted_once(radiographs, tmp_path):
    for name in ("a", "b"):
        make.write_dicom(tmp_path / "in" / f"{name}.dcm", make.picture(1), SOPInstanceUID="2.25.9")
    result = meninx.predict(radiographs.bundle, tmp_path / "in", tmp_path / "out")
    assert set(table(result.out)) == {"2.25.9"}
    assert result.refused["instance that is there twice"].cases == ("2.25.9",)


def test_a_model_of_an_older_dataset_predicts_prepared_images_only(tmp_path):
    """A dataset without preprocessing cannot say how new images become input."""
    from meninx.synthetic import write_dataset

    data = write_dataset(tmp_path / "data", patients=8, size=16)
    path = data.root / "dataset.toml"
    path.write_text(path.read_text().partition("[preprocessing]")[0])
    run = meninx.train(data.root, out=tmp_path / "runs", **SMALL)
    picture = data.root / data.cases[0].image
    with pytest.raises(DataError, match="does not record how its images were prepared"):
        meninx.predict(run.out, shutil.copy(picture, tmp_path / "one.png"), tmp_path / "out")
    result = meninx.predict(run.out, data.root, tmp_path / "out")
    assert result.cases == len(data)


def test_the_help_is_quick_and_loads_no_torch(capsys):
    code = "import sys; from meninx.cli.app import run; run(['predict', '--help'])"
    code += "; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Examples" in done.stdout
    assert "--identified" in done.stdout


def test_json_is_one_object(pictures, tmp_path, capsys):
    words = ["predict", str(pictures.bundle), str(pictures.source / "images"), str(tmp_path / "out")]
    assert app.run([*words, "-q", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cases"] == 28
    assert found["input"] == {"png": 28}


def test_pictures_of_a_segmentation_get_maps_of_their_own_size(tmp_path):
    source = make.make_csv(tmp_path / "in", patients=6, masks=True)
    meninx.prepare(
        source, tmp_path / "data", reader="csv", task="segmentation", mask_folder="masks",
        mask_labels=("bright",), size=(16, 16), aspect="pad",
    )  # fmt: skip
    run = meninx.train(tmp_path / "data", out=tmp_path / "runs", **QUICK, model="unet-small")
    result = meninx.predict(run.out, source / "images", tmp_path / "out")
    for case, row in table(result.out).items():
        found = np.asarray(Pillow.open(result.out / "label_maps" / f"{case}.png"))
        assert found.shape == (12, 10)
        assert int(row["bright_pixels"]) == int((found == 1).sum())


def nnunet_folder(folder: Path, names: tuple[str, ...]) -> Path:
    """Write five cases with labels and one without, whose channels differ in their brightness."""
    rng = np.random.default_rng(0)
    for number in range(6):
        part = "Tr" if number < 5 else "Ts"
        for channel in range(len(names)):
            values = rng.normal(100 * (channel + 1), 20, (8, 8, 8)).astype(np.float32)
            make.write_volume(folder / f"images{part}" / f"toy_{number}_000{channel}.nii.gz", values)
        if part == "Tr":
            mask = np.zeros((8, 8, 8), np.uint8)
            mask[2:5, 2:5, number : number + 3] = 1
            make.write_volume(folder / "labelsTr" / f"toy_{number}.nii.gz", mask)
    content = {
        "channel_names": {str(number): name for number, name in enumerate(names)},
        "labels": {"background": 0, "tumor": 1},
        "numTraining": 5,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(("chosen", "positions"), [(("ADC", "T2"), (1, 0)), (("ADC",), (1,))])
def test_channels_reach_the_network_as_in_training_whatever_their_numbers(tmp_path, chosen, positions):
    folder = nnunet_folder(tmp_path / "Dataset005", ("T2", "ADC"))
    split = {"split": "exact", "fractions": (0.6, 0.2, 0.2)}
    meninx.prepare(folder, tmp_path / "data", reader="nnunet", channels=chosen, **split)
    data = Manifest.read(tmp_path / "data")
    assert tuple(data.info.preprocessing["channel_positions"]) == positions
    run = meninx.train(tmp_path / "data", out=tmp_path / "runs", **QUICK, model="unet-small")
    by_files = meninx.predict(run.out, folder / "imagesTr", tmp_path / "files")
    stored = meninx.predict(run.out, tmp_path / "data", tmp_path / "stored")
    assert (by_files.cases, stored.cases) == (5, 5)
    maps = [
        sorted(nifti.read(path).array.tobytes() for path in (out / "label_maps").iterdir())
        for out in (by_files.out, stored.out)
    ]
    assert maps[0] == maps[1]
    (folder / "imagesTs" / "toy_5_0001.nii.gz").rename(folder / "imagesTs" / "toy_5_0007.nii.gz")
    with pytest.raises(DataError, match="file of a channel that the model does not know \\(_0007\\)"):
        meninx.predict(run.out, folder / "imagesTs", tmp_path / "other")


def test_a_model_of_an_nnunet_folder_predicts_files_of_several_channels(tmp_path):
    folder = nnunet_folder(tmp_path / "Dataset001_Toy", ("T1", "T2"))
    meninx.prepare(folder, tmp_path / "data", reader="nnunet", split="exact", fractions=(0.6, 0.2, 0.2))
    run = meninx.train(tmp_path / "data", out=tmp_path / "runs", **QUICK, model="unet-small")
    bundle = Run(run.out).release / "bundle"
    result = meninx.predict(bundle, folder / "imagesTs", tmp_path / "out")
    assert [path.name for path in (result.out / "label_maps").iterdir()] == ["toy_5.nii.gz"]
    (folder / "imagesTs" / "toy_5_0001.nii.gz").unlink()
    with pytest.raises(DataError, match=r"file of a channel is missing \(_0001\)"):
        meninx.predict(bundle, folder / "imagesTs", tmp_path / "other")
