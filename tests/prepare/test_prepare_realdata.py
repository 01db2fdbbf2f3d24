"""Real images beside the checkout: the exact calls that prepare them, and the counts that must come out."""

from __future__ import annotations

from pathlib import Path

import pytest

from meninx.core.manifest import Manifest
from meninx.prepare.config import PrepareConfig
from meninx.prepare.stage import run

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)

SETS = {
    "kermany64": (
        "kermany_cxr_224",
        PrepareConfig.of(
            reader="csv", name="kermany", label_columns=("pneumonia",), size=(64,), split="exact"
        ),
        (4213, 2233, {"pneumonia": 3066}),
    ),
    "kermany224": (
        "kermany_cxr_224",
        PrepareConfig.of(reader="csv", name="kermany", label_columns=("pneumonia",), split="exact"),
        (4213, 2233, {"pneumonia": 3066}),
    ),
    "nih64": (
        "nih_cxr_64",
        PrepareConfig.of(
            reader="csv", name="nih", label_columns=FINDINGS, attribute_columns=("view",), split="exact"
        ),
        (651, 184, {"Cardiomegaly": 61, "Effusion": 116, "Hernia": 9}),
    ),
    "pad128": (
        "pad_ufes_224",
        PrepareConfig.of(
            reader="csv",
            name="pad",
            class_column="diagnostic",
            positive=("BCC", "MEL", "SCC"),
            positive_name="cancer",
            sex_column="gender",
            attribute_columns=("fitspatrick",),
            color="rgb",
            size=(128,),
            split="exact",
        ),
        (667, 508, {"cancer": 276}),
    ),
    "covid128": (
        "covid_cxr_ccby_256",
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
        (62, 35, {"lung": 62}),
    ),
    "hippo": (
        "msd_hippocampus",
        PrepareConfig.of(reader="pairs", name="hippo", mask_labels=("anterior", "posterior"), split="exact"),
        (185, 185, {"anterior": 185, "posterior": 185}),
    ),
    "kermany28": (
        "kermany_cxr_28",
        PrepareConfig.of(reader="npz", name="kermany28", label_columns=("pneumonia",), split="exact"),
        (4213, 2233, {"pneumonia": 3066}),
    ),
}

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="no real images beside the checkout"),
]


@pytest.mark.parametrize("name", SETS)
def test_counts_of_the_whole_set_without_writing(name, tmp_path):
    folder, config, (cases, patients, labels) = SETS[name]
    result = run(_with(config, dry_run=True), DATA / folder, tmp_path / "out")
    assert (result.cases, result.patients, result.skipped) == (cases, patients, {})
    if config.masks.labels == ():
        assert {label: result.labels[label] for label in labels} == labels


@pytest.mark.parametrize("name", SETS)
def test_a_few_cases_of_each_set_are_written(name, tmp_path):
    folder, config, _ = SETS[name]
    result = run(_with(config, limit=12), DATA / folder, tmp_path / "out")
    data = Manifest.read(tmp_path / "out")
    assert 0 < result.cases <= 12
    assert all((data.root / case.image).is_file() for case in data.cases)
    assert data.info.channels == (3 if config.images.color == "rgb" else 1)
    if config.masks.labels:
        assert all(count == result.cases for count in result.labels.values())


def _with(config: PrepareConfig, **changes: object) -> PrepareConfig:

    return config.replace(**changes)
