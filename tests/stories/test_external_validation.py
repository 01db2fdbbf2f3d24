"""Another site measures a trained model on its own data, which never looks quite like the training data."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import meninx
from meninx.core import artifacts, files
from meninx.core.artifacts import EvaluationRecord, Members
from meninx.core.errors import ConfigError, DataError, UsageError
from meninx.core.intensity import Intensity
from meninx.core.manifest import Manifest, TaskKind
from meninx.core.run import Run
from meninx.imaging import load
from meninx.imaging.image import Image
from meninx.metrics.estimates import Evaluation
from meninx.synthetic import radiographs, write_dataset
from meninx.train import evaluate, stage
from meninx.train.config import EvaluateConfig, TrainConfig

SMALL = TrainConfig.of(model="resnet9-small", model_options={"width": 4}, steps=6, batch_size=6, export=())
QUICK = EvaluateConfig(draws=50, predictions=(), device="cpu")
EVERY = QUICK.replace(split="all")
HALVES = (0.5, 0.1, 0.4)
UNITS = Intensity(window=(-1000.0, 400.0), shift=-300.0, scale=700.0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Radiographs of 24 invented patients with three findings."""
    return write_dataset(tmp_path_factory.mktemp("home") / "data", patients=24, size=32, prevalence=0.5)


@pytest.fixture(scope="module")
def trained(home: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run, measured on its own test split."""
    run = Run(stage.run(SMALL, home.root, tmp_path_factory.mktemp("runs")).out)
    evaluate.run(QUICK, run.root)
    return run


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """A copy of the run that a test may write into."""
    shutil.copytree(trained.root, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture
def site(tmp_path: Path) -> Manifest:
    """Radiographs of 12 other patients, prepared in the same way."""
    found = write_dataset(tmp_path / "site", patients=12, size=32, seed=7, prevalence=0.5)
    cases = tuple(replace(case, patient_id=f"Q{case.patient_id}") for case in found.cases)
    return written(replace(found, cases=cases))


def written(data: Manifest) -> Manifest:
    data.write()
    return Manifest.read(data.root)


def with_labels(data: Manifest, names: dict[str, str], order: tuple[str, ...] = ()) -> Manifest:
    """The dataset with labels under other names, in another order of columns."""
    cases = tuple(
        replace(case, labels={names.get(name, name): value for name, value in case.labels.items()})
        for case in data.cases
    )
    labels = order or tuple(names.get(name, name) for name in data.info.labels)
    return written(replace(data, info=replace(data.info, labels=labels), cases=cases))


def external(run: Run) -> EvaluationRecord:
    [path] = run.release.glob("evaluation-external-*.json")
    record = artifacts.read_file(path, EvaluationRecord)
    assert record is not None
    return record


def values(run: Run) -> dict[tuple[str, str], float]:
    found = Evaluation.from_table(external(run).evaluation)
    return {(item.label, item.name): item.value for item in found.metrics}


def test_the_internal_test_stays_and_thresholds_are_those_of_the_training_hospital(run, site):
    before = (run.release / "evaluation.json").read_bytes()
    own = Evaluation.from_table(artifacts.read(run.root, EvaluationRecord).evaluation)
    result = evaluate.run(EVERY, run.root, site.root)
    assert (run.release / "evaluation.json").read_bytes() == before
    found = Evaluation.from_table(external(run).evaluation)
    assert found.thresholds == own.thresholds
    assert result.thresholds == {item.label: item.value for item in own.thresholds}
    assert (result.cases, result.patients, result.external) == (len(site), 12, True)
    assert "another dataset, not the test split" in result.summary()
    assert result.by_label["nodule"]["auroc"].value == found.find("auroc", "nodule").value
    assert result.metrics["auroc"].n == len(site)


def test_thresholds_survive_the_training_data(run, site, home, tmp_path):
    """The run's own dataset is gone: the thresholds of its evaluation are taken, and none is fitted anew."""
    moved = tmp_path / "gone"
    home.root.rename(moved)
    try:
        evaluate.run(EVERY, run.root, site.root)
    finally:
        moved.rename(home.root)
    own = Evaluation.from_table(artifacts.read(run.root, EvaluationRecord).evaluation)
    assert Evaluation.from_table(external(run).evaluation).thresholds == own.thresholds


def test_a_label_of_another_name_is_refused_until_it_is_mapped(run, site):
    evaluate.run(EVERY, run.root, site.root)
    right = values(run)
    shutil.rmtree(run.private / "predictions", ignore_errors=True)
    for path in run.release.glob("evaluation-external-*"):
        path.unlink()
    renamed = with_labels(site, {name: f"x_{name}" for name in site.info.labels})
    with pytest.raises(DataError, match="--rename-labels 'x_effusion=effusion'"):
        evaluate.run(EVERY, run.root, renamed.root)
    mapped = EVERY.replace(rename_labels=tuple(f"x_{name}={name}" for name in site.info.labels))
    result = evaluate.run(mapped, run.root, renamed.root)
    assert values(run) == pytest.approx(right, nan_ok=True)
    assert any("x_effusion as effusion" in note for note in result.notes)
    assert any("x_effusion as effusion" in note for note in external(run).evaluation["notes"])


def test_the_order_of_labels_does_not_matter(run, site):
    evaluate.run(EVERY, run.root, site.root)
    right = values(run)
    for path in run.release.glob("evaluation-external-*"):
        path.unlink()
    with_labels(site, {}, order=tuple(reversed(site.info.labels)))
    evaluate.run(EVERY, run.root, site.root)
    assert values(run) == pytest.approx(right, nan_ok=True)


def test_labels_of_one_side_alone_are_named_and_left_out(run, site):
    with_labels(site, {"nodule": "fracture"})
    result = evaluate.run(EVERY, run.root, site.root)
    assert set(result.by_label) == {"effusion", "pneumothorax"}
    assert external(run).evaluation["labels"] == ["effusion", "pneumothorax"]
    assert "not measured, because the dataset lacks them: nodule" in result.notes
    assert "left out, because the model does not know them: fracture" in result.notes


def test_several_labels_may_stand_for_one(run, site):
    cases = tuple(
        replace(case, labels={**case.labels, "nodule": 0.0, "mass": case.labels["nodule"]})
        for case in site.cases
    )
    evaluate.run(EVERY, run.root, site.root)
    right = values(run)
    for path in run.release.glob("evaluation-external-*"):
        path.unlink()
    info = replace(site.info, labels=(*site.info.labels, "mass"))
    written(replace(site, info=info, cases=cases))
    evaluate.run(EVERY.replace(rename_labels=("mass=nodule", "nodule=nodule")), run.root, site.root)
    assert values(run) == pytest.approx(right, nan_ok=True)


def test_a_baseline_is_measured_on_the_same_labels(run, site, trained):
    with_labels(site, {"effusion": "fluid"})
    config = EVERY.replace(rename_labels=("fluid=effusion",), baseline=trained.root)
    result = evaluate.run(config, run.root, site.root)
    assert (result.difference.value, result.difference.low, result.difference.high) == (0, 0, 0)
    assert f"auroc difference to the baseline {trained.name}: 0.000" in result.summary()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("nodul=nodule", "no label of the dataset .rename_labels.; did you mean 'nodule'"),
        ("nodule=nodul", "no label of the model .rename_labels.; did you mean 'nodule'"),
        ("nodule", "'theirs=ours'"),
    ],
)
def test_a_map_of_labels_that_are_not_there_is_refused(run, site, entry, words):
    with pytest.raises(ConfigError, match=words):
        evaluate.run(EVERY.replace(rename_labels=(entry,)), run.root, site.root)


def test_settings_for_another_dataset_are_refused_on_the_own_one(run):
    with pytest.raises(UsageError, match="rename_labels has no effect"):
        evaluate.run(QUICK.replace(rename_labels=("nodule=nodule",)), run.root)
    with pytest.raises(UsageError, match="allow_other_intensity has no effect"):
        evaluate.run(QUICK.replace(allow_other_intensity=True), run.root)
    with pytest.raises(UsageError, match="all is for another dataset"):
        evaluate.run(EVERY, run.root)


def test_a_16_bit_copy_of_the_same_pictures_gives_the_same_numbers(run, site):
    """They were read as 8-bit pictures that are white all over."""
    evaluate.run(EVERY, run.root, site.root)
    right = values(run)
    for path in run.release.glob("evaluation-external-*"):
        path.unlink()
    for case in site.cases:
        picture = load.load(site.root / case.image).array
        load.save(site.root / case.image, Image(picture.astype(np.uint16) * 257))
    (site.root / "checksums.sha256").unlink(missing_ok=True)
    deep = Intensity(window=(0.0, 65535.0), shift=32767.5, scale=32767.5)
    written(replace(site, info=replace(site.info, intensity=deep)))
    evaluate.run(EVERY, run.root, site.root)
    assert values(run) == pytest.approx(right, nan_ok=True, abs=1e-6)


def test_12_bits_in_files_of_16_are_refused_until_they_are_allowed(run, site):
    """A network sees them as black; the numbers looked like those of a model that fails at the other site."""
    for case in site.cases:
        picture = load.load(site.root / case.image).array
        load.save(site.root / case.image, Image(picture.astype(np.uint16) * 16))
    (site.root / "checksums.sha256").unlink(missing_ok=True)
    deep = Intensity(window=(0.0, 65535.0), shift=32767.5, scale=32767.5)
    written(replace(site, info=replace(site.info, intensity=deep)))
    with pytest.raises(
        DataError, match=r"less than 10% of the range .*--window 0 4095.*--allow-other-intensity"
    ):
        evaluate.run(EVERY, run.root, site.root)
    assert not list(run.release.glob("evaluation-external-*"))
    result = evaluate.run(EVERY.replace(allow_other_intensity=True), run.root, site.root)
    [note] = [note for note in result.notes if "far off" in note]
    assert note in Evaluation.from_table(external(run).evaluation).notes
    assert f"{len(site)} of {len(site)} images" in note


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"intensity": Intensity(window=(-1000.0, 400.0), shift=-300.0, scale=700.0)},
            "values from 0 to 255",
        ),
        ({"channels": 3}, "--color grey"),
        ({"size": (64, 64)}, "--size 32 32"),
        ({"size": ()}, "several sizes"),
        ({"spatial_dims": 3, "size": (32, 32, 8)}, "dimensions 2"),
        ({"task": TaskKind.SEGMENTATION}, "task multilabel as in training"),
    ],
)
def test_images_that_do_not_fit_are_refused_with_the_command_that_makes_them_fit(run, site, change, words):
    written(replace(site, info=replace(site.info, **change)))
    with pytest.raises(DataError, match=words):
        evaluate.run(EVERY, run.root, site.root)


def test_images_of_another_window_are_refused(run, site):
    """Both have 8 bits; only the records of the preparation tell them apart."""
    record = {"scaling": "window", "window": [-160.0, 240.0], "bits": 8}
    config_of = replace(site.info, preprocessing=record)
    written(replace(site, info=config_of))
    checkpoint_knows = Manifest.read(site.root).info.preprocessing
    assert checkpoint_knows == record
    from meninx.learn.config import ModelConfig
    from meninx.learn.dataset_fit import check_images

    ours = replace(site.info, preprocessing={"scaling": "format", "window": [], "bits": 8})
    with pytest.raises(DataError, match="the window -160 to 240"):
        check_images(ours, config_of, ModelConfig())


def test_patients_of_the_training_are_refused_under_any_name_of_the_labels(run, home, tmp_path):
    shutil.copytree(home.root, tmp_path / "copy")
    copy = Manifest.read(tmp_path / "copy")
    with_labels(copy, {"nodule": "mass"})
    with pytest.raises(DataError, match="took no part in training"):
        evaluate.run(EVERY, run.root, copy.root)


def test_several_external_datasets_are_kept_beside_each_other(run, site, tmp_path):
    evaluate.run(EVERY, run.root, site.root)
    shutil.copytree(site.root, tmp_path / "third")
    third = Manifest.read(tmp_path / "third")
    written(replace(third, info=replace(third.info, name="third"), cases=third.cases[:-2]))
    evaluate.run(EVERY, run.root, third.root)
    names = {
        artifacts.read_file(path, EvaluationRecord).origin.dataset
        for path in run.release.glob("evaluation-external-*.json")
    }
    assert names == {site.info.name, "third"}
    listed = files.read_text(run.release / "checksums.sha256", limit=1 << 20)
    assert listed.count("evaluation-external-") == 2


def source(root: Path, named: Callable[[int], str], seed: int = 0) -> Path:
    """Pictures of 30 invented patients with a table, whom the hospital calls as it likes."""
    found = radiographs(30, size=32, seed=seed, prevalence=0.5)
    (root / "pictures").mkdir(parents=True)
    rows = ["file,patient,nodule"]
    for row, picture in enumerate(found.images):
        load.save(root / "pictures" / f"{row}.png", Image(picture[None]))
        rows.append(f"pictures/{row}.png,{named(row)},{int(found.labels['nodule'][row])}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def prepared(place: Path, out: Path, **settings: Any) -> Manifest:
    columns = {"image_column": "file", "patient_column": "patient", "label_columns": ("nodule",)}
    meninx.prepare(place, out, reader="csv", table="labels.csv", **{**columns, "name": out.name, **settings})
    return Manifest.read(out)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A hospital's pictures, and a run that was trained on them."""
    root = tmp_path_factory.mktemp("numbered")
    place = source(root / "source", "NR-{:04}".format)
    data = prepared(place, root / "ours", seed=3, fractions=HALVES)
    return place, Run(stage.run(SMALL, data.root, root / "runs").out)


@pytest.mark.parametrize("split", ["all", "test"])
@pytest.mark.parametrize("patient", ["patient", "none"])
def test_training_patients_prepared_again_under_another_name_are_refused(numbered, tmp_path, split, patient):
    """Pseudonyms depend on the name, image digests on the bits; identifiers of the source are equal."""
    place, run = numbered
    again = prepared(place, tmp_path / "other", bits=16, patient_column=patient, fractions=HALVES)
    with pytest.raises(
        DataError, match=r"\d+ of \d+ identifiers of the source that are equal.*other-patients"
    ):
        evaluate.run(QUICK.replace(split=split), run.root, again.root)


def test_few_equal_identifiers_are_stated_and_many_need_a_statement(numbered, tmp_path):
    """Hospitals that number their patients have equal identifiers of other people."""
    _, trained = numbered
    run = Run(shutil.copytree(trained.root, tmp_path / "run"))
    ours = set(artifacts.read(run.root, Members).identifiers)
    known = [n for n in range(30) if hashlib.sha256(f"NR-{n:04}".encode()).hexdigest() in ours]

    def site(equal: int) -> Manifest:
        names = [f"NR-{n:04}" for n in known[:equal]] + [f"Q{n}" for n in range(30)]
        return prepared(source(tmp_path / f"source{equal}", names.__getitem__, 9), tmp_path / f"site{equal}")

    result = evaluate.run(EVERY, run.root, site(3).root)
    [note] = [note for note in result.notes if "identifiers" in note]
    assert note.startswith("3 of the 30 measured identifiers of the source are identifiers of the training")
    assert note in external(run).evaluation["notes"]
    assert not external(run).patients_compared
    many = site(4)
    with pytest.raises(DataError, match="4 of 30 identifiers"):
        evaluate.run(EVERY, run.root, many.root)
    stated = evaluate.run(EVERY.replace(other_patients=True), run.root, many.root)
    assert any(note.startswith("4 of the 30 measured identifiers") for note in stated.notes)
    nobody = site(0)
    clear = evaluate.run(EVERY, run.root, nobody.root)
    assert not any("identifiers" in note or "compared" in note for note in clear.notes)
    with pytest.raises(UsageError, match="other_patients has no effect"):
        evaluate.run(EVERY.replace(other_patients=True), run.root, nobody.root)
    (nobody.root / "private" / "cases.csv").unlink()  # pseudonyms of another dataset name prove nothing
    blind = evaluate.run(EVERY, run.root, nobody.root)
    assert "whether measured patients took part in training could not be compared" in blind.notes
    record = artifacts.read_file(blind.out, EvaluationRecord)
    assert record is not None
    assert not record.patients_compared


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that segments organ and lesion."""
    root = tmp_path_factory.mktemp("volumes")
    data = write_dataset(root / "data", task=TaskKind.SEGMENTATION, patients=10, size=16, spatial_dims=3)
    config = TrainConfig.of(model="unet-small", steps=2, batch_size=2, export=(), eval_every=100)
    return Run(stage.run(config, data.root, root / "runs").out)


def test_values_of_masks_are_matched_by_the_names_of_labels(segmented, tmp_path):
    run = Run(shutil.copytree(segmented.root, tmp_path / "run"))
    found = write_dataset(
        tmp_path / "site", task=TaskKind.SEGMENTATION, patients=10, size=16, spatial_dims=3, seed=3
    )
    cases = tuple(replace(case, patient_id=f"Q{case.patient_id}") for case in found.cases)
    site = written(replace(found, cases=cases))
    evaluate.run(EVERY, run.root, site.root)
    right = values(run)
    for path in run.release.glob("evaluation-external-*"):
        path.unlink()
    (site.root / "checksums.sha256").unlink(missing_ok=True)
    for case in site.cases:  # 1 organ, 2 lesion become 1 spleen, 2 lesion, 3 liver
        mask = load.load(site.root / case.mask)
        load.save(site.root / case.mask, Image(np.array([0, 3, 2], np.uint8)[mask.array], mask.affine))
    info = replace(site.info, labels=("spleen", "lesion", "liver"), spacing_mm=(2.0, 2.0, 5.0))
    written(replace(site, info=info))
    result = evaluate.run(EVERY.replace(rename_labels=("liver=organ",)), run.root, site.root)
    assert values(run) == pytest.approx(right, nan_ok=True)
    assert any(note.startswith("its voxels are 2 x 2 x 5 mm") for note in result.notes)
    assert "left out, because the model does not know them: spleen" in result.notes
