"""Checks of docs/results.md: nothing of the source headers is left, and the small recipes learn."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from meninx.core import settings
from meninx.deid.config import DeidConfig
from meninx.deid.review import layouts
from meninx.deid.stage import run as deidentify
from meninx.dicomfile import frames, instance, redaction
from meninx.prepare.config import PrepareConfig
from meninx.prepare.stage import run as prepare
from meninx.train import evaluate, stage
from meninx.train.config import EvaluateConfig, TrainConfig

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
STANDARD_UIDS = "1.2.840.10008."
IDENTIFIERS = {"PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID"}
SHORTEST = 4  # shorter values ("1", "NEW") occur by chance in any file
LONG = 8  # values that do not occur by chance among pixels

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="no real images beside the checkout"),
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """The DICOM files, de-identified with a fresh key."""
    root = tmp_path_factory.mktemp("real")
    key = root / "key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    deidentify(DeidConfig(key=key, site="demo", workers=1, pixels="keep"), DATA / "dicom", root / "clean")
    return root / "clean"


def test_every_file_comes_out_or_is_kept_out_with_its_reason(archive):
    sources = [path for path in (DATA / "dicom").rglob("*") if path.is_file()]
    summary = settings_of(archive)
    kept_out = sum(summary["quarantined"].values())
    assert summary["quarantined"] == {}
    assert summary["files_read"] == len(sources) == 142
    assert summary["files_written"] + kept_out == len(sources)
    assert len(list((archive / "images").rglob("*.dcm"))) == summary["files_written"]


@pytest.mark.slow
def test_the_name_and_the_birth_date_in_the_pixels_are_gone_and_the_side_marker_is_kept(tmp_path):
    """The localizer of presidio_burned_in, and the marker that a technician laid on a chest radiograph."""
    pytest.importorskip("rapidocr")
    for name in ("presidio_burned_in", "nih_dx", "deid_data_ultrasounds"):
        shutil.copytree(DATA / "dicom" / name, tmp_path / "in" / name)
    (tmp_path / "key").write_bytes(os.urandom(32))
    (tmp_path / "key").chmod(0o600)
    config, archive = DeidConfig(key=tmp_path / "key", site="demo", workers=1), tmp_path / "clean"
    result = deidentify(config, tmp_path / "in", archive)
    assert (result.quarantined, result.pixels_searched) == ({}, 6)
    before, after = both(archive, "presidio_burned_in/2_ORIGINAL.dicom")
    assert (before[:17, :230] > 20_000).sum() > 500  # KAUFMAN SCOTT [M] 03.09.2012
    assert (before[14:30, 4:116] > 20_000).sum() > 200  # DOB: 07.22.1943
    assert not (after[:32] > 20_000).any()
    assert np.array_equal(after[200:], before[200:])
    before, after = both(archive, "nih_dx/test3.dcm")
    assert np.array_equal(after[84:121, 928:971], before[84:121, 928:971])  # an L, askew
    before, after = both(archive, "nih_dx/test2.dcm")
    assert (before[:8, 932:966] > 128).any()  # what the edge left of initials above a marker
    assert not (after[:8, 932:966] > 128).any()
    assert np.array_equal(after[13:], before[13:])  # the marker, upside down
    found = layouts.read_layouts(archive / "private" / layouts.LAYOUTS)
    assert sum(layout.instances for layout in found) == 6
    for layout in found:
        before = shown(DATA / "dicom" / layout.source)
        outside = redaction.outside(before.shape[1:3], layout.filled)
        for output in layout.outputs[:1]:
            assert np.array_equal(before[:, outside], shown(archive / output)[:, outside])


def shown(path: Path) -> np.ndarray:
    """Return all frames of a file."""
    original = instance.read(path.read_bytes())
    return np.stack(list(frames.all_shown(original, frames.layers_of(original))))


def both(archive: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of a source file and of its clean file."""
    lines = (archive / "private" / "journal.jsonl").read_text().splitlines()
    entry = next(row for row in map(json.loads, lines) if row["path"] == name)
    source = pydicom.dcmread(DATA / "dicom" / name, force=True)
    return source.pixel_array, pydicom.dcmread(archive / entry["output"]).pixel_array


def test_no_byte_of_the_output_holds_a_name_id_date_or_uid_of_the_source_headers(archive):
    planted = sorted(set(identifying_values(DATA / "dicom")))
    assert len(planted) > 200
    found = leaks(planted, archive)
    assert found == {}, f"{len(found)} values left: {sorted(found.values())[:5]}"


def test_the_scan_sees_a_value_that_is_left(archive, tmp_path):
    planted = sorted(set(identifying_values(DATA / "dicom")))
    (tmp_path / "images").mkdir()
    first = next((archive / "images").rglob("*.dcm"))
    (tmp_path / "images" / "bad.dcm").write_bytes(first.read_bytes() + planted[0].encode())
    assert leaks(planted, tmp_path) != {}


def identifying_values(folder: Path) -> Iterator[str]:
    """Yield every name, ID, date and UID of all headers below a folder, nested and private ones too.

    Names are given whole and in parts.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sources break some rules of the standard
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                header = pydicom.dcmread(io.BytesIO(path.read_bytes()), stop_before_pixels=True, force=True)
                yield from [text for text in _values(header) if len(text) >= SHORTEST]


def _values(items: Dataset) -> Iterator[str]:
    for element in items:
        if element.VR == "SQ":
            for item in element.value:
                yield from _values(item)
            continue
        many = element.value if isinstance(element.value, (MultiValue, list)) else [element.value]
        for text in (str(value).strip() for value in many):
            if element.VR == "PN":
                yield text
                yield from (text.replace("^", " ").split())
            elif element.VR in ("DA", "DT"):
                yield text[:8]
            elif (
                element.VR == "UI" and not text.startswith(STANDARD_UIDS)
            ) or element.keyword in IDENTIFIERS:
                yield text


def leaks(planted: list[str], out: Path) -> dict[str, str]:
    """Return the values found in bytes or names of the files outside ``private``, with one file each.

    Short values are looked for as whole words and not among pixels, where any four bytes occur by chance.
    """
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if not path.is_file() or name.startswith("private/"):
            continue
        everything = name.encode() + b"\0" + path.read_bytes()
        header = name.encode() + b"\0" + _without_pixels(path)
        for text in planted:
            if len(text) >= LONG:
                there = text.encode() in everything
            else:
                there = text.encode() in header and re.search(
                    rf"(?<![A-Za-z0-9]){re.escape(text)}(?![A-Za-z0-9])".encode(), header
                )
            if there:
                found[text] = name
    return found


def _without_pixels(path: Path) -> bytes:
    """Return the bytes of a file up to its pixel data."""
    stream = io.BytesIO(path.read_bytes())
    if path.suffix == ".dcm":
        pydicom.dcmread(stream, stop_before_pixels=True)
        return stream.getvalue()[: stream.tell()]
    return stream.getvalue()


def settings_of(folder: Path) -> dict[str, object]:
    """Return the summary of a de-identified folder."""
    return json.loads((folder / "deid.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["kermany", "kermany-dp"])
def test_a_packaged_recipe_beats_pca_and_logistic_regression(recipe, tmp_path):
    prepare(
        PrepareConfig.of(
            reader="csv", name="kermany", label_columns=("pneumonia",), size=(64,), split="exact"
        ),
        DATA / "kermany_cxr_224",
        tmp_path / "data",
    )
    assert trained(recipe, tmp_path) > 0.973  # of the baseline on this split


@pytest.mark.slow
def test_the_lung_recipe_finds_the_lungs(tmp_path):
    prepare(
        PrepareConfig.of(
            reader="csv",
            name="covid",
            patient_column="patientid",
            require=("has_lung_mask=True",),
            mask_folder="lung_masks",
            mask_labels=("lung",),
            size=(128,),
            aspect="pad",
            split="exact",
        ),
        DATA / "covid_cxr_ccby_256",
        tmp_path / "data",
    )
    assert trained("lung-unet", tmp_path) > 0.85


@pytest.mark.slow
def test_the_hippocampus_recipe_passes_80_percent_dice_in_a_quarter_of_its_time(tmp_path):
    prepare(
        PrepareConfig.of(reader="pairs", name="hippo", mask_labels=("anterior", "posterior"), split="exact"),
        DATA / "msd_hippocampus",
        tmp_path / "data",
    )
    assert trained("hippocampus", tmp_path, epochs=10) > 0.80


def trained(recipe: str, root: Path, **changes: object) -> float:
    """Return the first metric on the test part of a recipe trained on ``root/data``."""
    table, source = settings.read_recipe(recipe)
    config = settings.build(TrainConfig, table, source).replace(threads=1, **changes)
    run = stage.run(config, root / "data", root / "runs").out
    measured = evaluate.run(EvaluateConfig(draws=100), run)
    return next(iter(measured.metrics.values())).value
