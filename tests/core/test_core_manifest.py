"""A dataset table that lies about its patients cannot be made."""

from pathlib import Path

import numpy as np
import pytest

from meninx.core.errors import DataError, LayoutError
from meninx.core.manifest import Case, DatasetInfo, Intensity, Manifest, Task

INFO = DatasetInfo(name="toy", task=Task.MULTILABEL, labels=("effusion", "nodule"), attributes=("sex",), size=(8, 8))


def case(number: int, patient: str, split: str = "train", site: str = "", **kwargs) -> Case:
    labels = {"effusion": float(number % 2), "nodule": None}
    return Case(case_id=f"c{number}", patient_id=patient, image=f"images/c{number}.png", split=split, site=site, labels=labels,
                attributes={"sex": "F"}, **kwargs)  # fmt: skip


def test_a_dataset_survives_the_disk(tmp_path: Path):
    info = DatasetInfo(
        name="x", task=Task.MULTILABEL, labels=("a", "b"), attributes=("sex", "age"), size=(8, 8), spacing_mm=(1.0, 2.0),
        intensity=Intensity(window=(-150.0, 200.0), shift=25.0, scale=175.0, source="standard"),
        laterality=(("a", "b"),),
    )  # fmt: skip
    rows = (
        Case(
            case_id="1", patient_id="p", image="images/1.png", labels={"a": 1.0, "b": None}, attributes={"sex": "F", "age": "70"}
        ),
    )
    Manifest(tmp_path, info, rows).write()
    again = Manifest.read(tmp_path)
    assert again.info == info
    assert again.cases == rows


def test_targets_keep_unknown_labels_unknown(tmp_path: Path):
    manifest = Manifest(tmp_path, INFO, (case(0, "a"), case(1, "b")))
    targets = manifest.targets()
    assert targets.shape == (2, 2)
    assert np.isnan(targets[:, 1]).all()
    assert targets[:, 0].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("other", [{"split": "test"}, {"site": "north"}])
def test_a_patient_in_two_splits_or_sites_is_refused_without_being_named(tmp_path: Path, other: dict):
    with pytest.raises(DataError, match="every patient in one") as caught:
        Manifest(tmp_path, INFO, (case(0, "Jane"), case(1, "Jane", **other)))
    assert "Jane" not in str(caught.value)


def test_an_image_twice_is_refused(tmp_path: Path):
    twin = Case(case_id="other", patient_id="b", image="images/c0.png", labels={}, attributes={})
    with pytest.raises(DataError, match="each image once"):
        Manifest(tmp_path, INFO, (case(0, "a"), twin))


def test_a_missing_column_and_a_wrong_label_name_file_column_and_row(tmp_path: Path):
    Manifest(tmp_path, INFO, (case(0, "a"),)).write()
    table = tmp_path / "manifest.csv"
    text = table.read_text()
    table.write_text(text.replace("nodule", "lump"))
    with pytest.raises(LayoutError, match=r"'nodule'.*manifest\.csv"):
        Manifest.read(tmp_path)
    table.write_text(text.replace(",0,,F", ",yes,,F"))
    with pytest.raises(LayoutError, match=r"row 2, column 'effusion'"):
        Manifest.read(tmp_path)


def test_a_folder_that_is_no_dataset_says_what_to_do(tmp_path: Path):
    with pytest.raises(LayoutError, match="meninx prepare"):
        Manifest.read(tmp_path)
