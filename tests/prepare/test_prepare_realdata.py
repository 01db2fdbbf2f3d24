"""Real images beside the checkout: the exact calls that prepare them, and the counts that must come out."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import segmentation_fixtures as layouts

from meninx.core.manifest import Manifest
from meninx.imaging import nifti
from meninx.imaging.image import Image
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


def test_the_hippocampus_as_an_nnunet_folder_gives_the_same_dataset(tmp_path):
    source, folder = (DATA / "msd_hippocampus").resolve(), tmp_path / "Dataset004_Hippocampus"
    names = sorted(path.name for path in (source / "images").iterdir())[:12]
    few = tmp_path / "few"
    for made in (folder / "imagesTr", folder / "labelsTr", few / "images", few / "labels"):
        made.mkdir(parents=True)
    for name in names:
        case = name.removesuffix(".nii.gz")
        for kind in ("images", "labels"):
            (few / kind / name).symlink_to(source / kind / name)
        (folder / "imagesTr" / f"{case}_0000.nii.gz").symlink_to(source / "images" / name)
        (folder / "labelsTr" / name).symlink_to(source / "labels" / name)
    labels = {"background": 0, "anterior": 1, "posterior": 2}
    table = layouts.nnunet_table(channel_names={"0": "MRI"}, labels=labels, numTraining=len(names))
    layouts.write_json(folder / "dataset.json", table)
    config = PrepareConfig.of(reader="nnunet", name="hippo", split="exact")
    found = _content(run(config, folder, tmp_path / "nnunet").out)
    pairs = PrepareConfig.of(reader="pairs", name="hippo", mask_labels=("anterior", "posterior"))
    assert found == _content(run(pairs, few, tmp_path / "pairs").out)
    assert len(found) == len(names)


def test_structures_of_a_ct_as_totalsegmentator_publishes_them(tmp_path):
    source, case = DATA / "ct_abdomen_totalseg", tmp_path / "in" / "s0001"
    volume = nifti.read(source / "seg_total.nii.gz")
    for number, name in ((1, "spleen"), (5, "liver")):
        present = Image((volume.array == number).astype(np.uint8), volume.affine)
        nifti.write(case / "segmentations" / f"{name}.nii.gz", present)
    (case / "ct.nii.gz").symlink_to((source / "ct.nii.gz").resolve())
    config = PrepareConfig.of(reader="totalsegmentator", window=(-150.0, 250.0), fractions=(1.0, 0.0, 0.0))
    out = run(config, tmp_path / "in", tmp_path / "out").out
    (mask,) = (nifti.read(path).array for path in (out / "masks").iterdir())
    assert [int((mask == n).sum()) for n in (1, 2)] == [int((volume.array == n).sum()) for n in (5, 1)]


def _content(out: Path) -> dict[str, tuple[str, str]]:
    """Patient in the source to the digests of image and mask."""
    with (out / "private" / "cases.csv").open(newline="") as stream:
        people = {row["case_id"]: row["patient"] for row in csv.DictReader(stream)}
    data = Manifest.read(out)
    return {
        people[case.case_id]: (data.checksums[case.image], data.checksums[case.mask]) for case in data.cases
    }
