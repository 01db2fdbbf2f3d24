"""What a private release states beside its weights does not depend on a single training patient."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import prepare_fixtures as make
import pytest

import meninx
from meninx.core import artifacts, names
from meninx.core.artifacts import BundleRecord, PrivacyRecord, ThresholdRecord
from meninx.core.manifest import Manifest
from meninx.core.run import Run
from meninx.learn import guarantee

QUICK = {"steps": 1, "batch_size": 2, "device": "cpu", "attack_risk": False, "deterministic": True}
DIFFERING = 0  # number of the training patient
PRIVATE = {**QUICK, "epsilon": 8.0, "delta": 1e-2, "units_declared": 12}
CHANGING = re.compile(
    r"[0-9a-f]{8,}|\d{4}-\d\d-\d\dT[0-9:.]+Z?|-?\d+\.\d{6,}(e-?\d+)?"
)  # digests, times, weights


def released(run: Run) -> dict[str, str]:
    """Return the texts of a release without digests, times and weights, and what its ONNX file states."""
    found = {}
    for path in sorted(run.release.rglob("*")):
        name = path.relative_to(run.release).as_posix()
        if path.suffix in (".json", ".md", ".txt", ".toml") or path.name == "LICENSE":
            found[name] = CHANGING.sub("*", path.read_text())
        elif path.suffix == ".onnx":
            session = onnxruntime.InferenceSession(str(path))
            found[name] = repr(session.get_modelmeta().custom_metadata_map)
    return found


def volumes(root: Path, *, other: bool) -> Manifest:
    """Prepare 12 volumes with masks; in ``other`` one training patient has another size and spacing."""
    for number in range(12):
        name = f"p{number:02}"
        differs = other and number == DIFFERING
        shape, step = ((12, 12, 10), 2.0) if differs else ((12, 12, 8), 1.0)
        rng = np.random.default_rng(number)
        affine = np.diag([1.0, 1.0, step, 1.0])
        image = rng.integers(0, 200, shape).astype(np.uint8)
        make.write_volume(root / "in" / "images" / f"{name}.nii.gz", image, affine)
        make.write_volume(root / "in" / "labels" / f"{name}.nii.gz", (image > 150).astype(np.uint8), affine)
    meninx.prepare(root / "in", root / "data", reader="pairs", split="stable", name="volumes")
    return Manifest.read(root / "data")


PATCHES, PADDED = {"patch_size": (8, 8, 8)}, {"image_size": (16, 16, 16)}


@pytest.mark.parametrize(
    ("model", "export"),
    [
        (PATCHES, ("bundle",)),
        pytest.param(PATCHES, ("bundle", "onnx"), marks=pytest.mark.slow),
        pytest.param(PADDED, ("bundle", "onnx"), marks=pytest.mark.slow),
    ],
    ids=["patches", "patches onnx", "padded onnx"],
)
def test_one_training_case_changes_nothing_but_weights_and_digests(tmp_path, model, export):
    """The bundle stated the spacing and size that all images share; one patient of another emptied both."""
    facts = []
    for other in (False, True):
        data = volumes(tmp_path / str(other), other=other)
        assert data.info.observed is not None
        assert (data.info.observed.spacing_mm[2] != (1.0, 1.0)) == other  # it is a training patient
        assert bool(data.info.spacing_mm) != other
        assert bool(data.info.size) != other
        settings = {**PRIVATE, "model": "unet-small", "export": export, **model}
        out = meninx.train(data.root, out=tmp_path / str(other) / "runs", name="private", **settings).out
        promised = CHANGING.sub("*", json.dumps(Run(out).read_json("privacy.json")))
        facts.append(released(Run(out)) | {"privacy.json": promised})
        info = artifacts.require(Run(out).release / "bundle", BundleRecord, fix="").info
        assert (info.size, info.spacing_mm) == ((), ())
    assert facts[0] == facts[1]


def test_a_size_that_only_the_images_give_is_named(tmp_path):
    meninx.prepare(
        make.make_csv(tmp_path / "in", patients=14), tmp_path / "data", reader="csv",
        label_columns=("effusion", "nodule"), split="exact", fractions=(0.5, 0.3, 0.2),
    )  # fmt: skip
    data = Manifest.read(tmp_path / "data")
    settings = {**PRIVATE, "units_declared": 30, "model": "resnet9-small", "model_options": {"width": 4}}
    run = Run(meninx.train(data.root, out=tmp_path / "runs", export=("bundle",), **settings).out)
    record = artifacts.require(run.root, PrivacyRecord, fix="")
    assert any("input size 12 x 10 counts as public" in item for item in record.outside_guarantee)
    assert artifacts.require(run.release / "bundle", BundleRecord, fix="").info.size == (12, 10)
    public = Run(
        meninx.train(data.root, out=tmp_path / "runs", name="sized", **settings, image_size=(16, 16)).out
    )
    stated = artifacts.require(public.root, PrivacyRecord, fix="").outside_guarantee
    assert not any("input size" in item for item in stated)


def test_classes_that_one_patient_adds_are_named(tmp_path):
    """The bundle lists the classes of the data: one patient with a rare class could be seen in it."""
    source = make.make_csv(tmp_path / "in", patients=14)
    with (source / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for number, row in enumerate(rows):
        row["finding"] = "rare" if number == 0 else ("none", "some")[number % 2]
    make.write_table(source / "labels.csv", [*rows[0]], [[*row.values()] for row in rows])
    meninx.prepare(
        source, tmp_path / "data", reader="csv", class_column="finding", size=(16, 16), split="exact",
        fractions=(0.5, 0.3, 0.2),
    )  # fmt: skip
    settings = {**PRIVATE, "units_declared": 30, "model": "resnet9-small", "model_options": {"width": 4}}
    run = Run(meninx.train(tmp_path / "data", out=tmp_path / "runs", **settings).out)
    assert "rare" in artifacts.require(run.release / "bundle", BundleRecord, fix="").info.labels
    stated = artifacts.require(run.root, PrivacyRecord, fix="").outside_guarantee
    assert guarantee.CLASSES in stated


def test_thresholds_of_a_private_run_say_that_they_are_outside_the_guarantee(tmp_path):
    """Exact validation scores stood beside a privacy sentence without any restriction."""
    meninx.prepare(
        make.make_csv(tmp_path / "in", patients=14), tmp_path / "data", reader="csv", size=(16, 16),
        label_columns=("effusion", "nodule"), split="exact", fractions=(0.5, 0.3, 0.2),
    )  # fmt: skip
    settings = {**PRIVATE, "units_declared": 30, "model": "resnet9-small", "model_options": {"width": 4}}
    run = Run(meninx.train(tmp_path / "data", out=tmp_path / "runs", **settings).out)
    meninx.evaluate(run.root, draws=20)
    bundle = run.release / "bundle"
    stated = artifacts.require(run.root, PrivacyRecord, fix="").outside_guarantee
    assert guarantee.MEASURED in stated
    assert json.loads((bundle / "configs" / "metadata.json").read_text())["outside_guarantee"] == list(stated)
    readme = (bundle / "docs" / "README.md").read_text()
    assert f"- {names.markdown(guarantee.MEASURED)}" in readme
    assert "Outside this guarantee:" in readme
    thresholds = artifacts.read(bundle, ThresholdRecord)
    assert thresholds is not None
    assert thresholds.outside_guarantee == guarantee.MEASURED
