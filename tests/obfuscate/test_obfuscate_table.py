"""The table of a dataset: classes of an attribute, and what no method can handle."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from meninx.core.errors import DataError, UsageError
from meninx.core.manifest import Manifest
from meninx.core.progress import SILENT
from meninx.imaging import png
from meninx.imaging.image import Image
from meninx.obfuscate import dataset_table
from meninx.obfuscate.obfuscator import ImageTable, fitting_half
from meninx.obfuscate.published_columns import PublishedColumns, known_labels
from meninx.synthetic import write_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Manifest:
    return write_dataset(tmp_path_factory.mktemp("table") / "data", patients=100, size=16)


def read(manifest: Manifest) -> ImageTable:
    private = dataset_table.attribute_classes(manifest, ("sex",), ())
    values = dataset_table.read_images(manifest, SILENT)
    return dataset_table.read_table(manifest, private, PublishedColumns(labels=manifest.info.labels), values)


def table(**changes) -> ImageTable:
    columns = {
        "values": np.zeros((4, 1, 2, 2), dtype=np.float32),
        "cases": ("a", "b", "c", "d"),
        "patients": ("p", "p", "q", "r"),
        "split": ("train", "train", "train", "test"),
    }
    return ImageTable(**{**columns, **changes})


def test_images_are_shares_of_the_range_of_their_file(data):
    found = read(data)
    first = png.read(data.root / data.cases[0].image).array
    np.testing.assert_allclose(found.values[0], first / 255, atol=1e-7)
    assert found.values.shape == (len(data), 1, 16, 16)
    assert set(found.labels) == set(data.info.labels)


def test_sixteen_bits_are_read_as_shares_of_their_own_range(data, tmp_path):
    root = shutil.copytree(data.root, tmp_path / "data")
    wide = png.read(root / data.cases[0].image).array.astype(np.uint16) * 257
    png.write(root / data.cases[0].image, Image(wide))
    found = dataset_table.read_images(Manifest.read(root), SILENT)
    np.testing.assert_allclose(found[0], dataset_table.read_images(data, SILENT)[0], atol=1e-7)


def test_ages_are_divided_at_the_bins(data):
    found = dataset_table.attribute_classes(data, ("age",), (47.0, 61.0))
    assert found.names == ("under 47", "47 to under 61", "61 or older")
    years = np.array([float(text) for text in data.attribute("age")])
    np.testing.assert_array_equal(found.index, np.searchsorted([47, 61], years, side="right"))


def test_two_attributes_form_one_with_all_combinations(data):
    found = dataset_table.attribute_classes(data, ("sex", "age"), (60.0,))
    assert found.names == ("F, under 60", "F, 60 or older", "M, under 60", "M, 60 or older")
    sex = np.array([text == "M" for text in data.attribute("sex")])
    np.testing.assert_array_equal(found.index // 2, sex)


def test_a_rare_value_counts_as_unknown_and_is_never_a_name(data):
    cases = list(data.cases)
    cases[0] = replace(cases[0], attributes={**cases[0].attributes, "sex": "X"})
    found = dataset_table.attribute_classes(Manifest(data.root, data.info, tuple(cases)), ("sex",), ())
    assert (found.names, found.index[0]) == (("F", "M"), -1)


def test_an_unknown_attribute_or_label_names_those_that_there_are(data):
    with pytest.raises(UsageError, match="choose among sex, age"):
        dataset_table.attribute_classes(data, ("height",), ())
    with pytest.raises(UsageError, match="choose among effusion"):
        known_labels(data.info, ["fracture"])


def test_an_attribute_with_one_value_is_refused(data):
    same = tuple(replace(case, attributes={**case.attributes, "sex": "F"}) for case in data.cases)
    with pytest.raises(DataError, match="2 to 20 values of sex"):
        dataset_table.attribute_classes(Manifest(data.root, data.info, same), ("sex",), ())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spatial_dims": 3, "size": (8, 8, 8), "spacing_mm": ()}, "volumes, which no method obfuscates"),
        ({"size": ()}, "images of one size"),
        ({"channels": 4}, "grey or colour"),
        ({"obfuscated": "images obfuscated by blur"}, "obfuscated before"),
    ],
)
def test_what_no_method_can_change_is_refused(data, changes, words):
    with pytest.raises(DataError, match=words):
        dataset_table.refuse_unfit(replace(data.info, **changes))


def test_label_maps_are_refused(tmp_path):
    masks = write_dataset(tmp_path / "masks", task="segmentation", patients=4, size=16)
    with pytest.raises(DataError, match="label maps"):
        dataset_table.refuse_unfit(masks.info)


def test_a_patient_in_two_splits_is_refused():
    with pytest.raises(DataError, match="every patient in one split") as refused:
        table(split=("train", "test", "train", "test"))
    assert "p" not in str(refused.value).split()


def test_the_same_image_in_two_splits_is_refused(data, tmp_path):
    root = Path(shutil.copytree(data.root, tmp_path / "data"))
    train = next(case for case in data.cases if case.split == "train")
    test = next(case for case in data.cases if case.split == "test")
    shutil.copy(root / train.image, root / test.image)
    with pytest.raises(DataError, match="1 images that are also in another split"):
        read(Manifest.read(root))


def test_the_same_image_twice_in_one_split_is_no_leak(data, tmp_path):
    root = Path(shutil.copytree(data.root, tmp_path / "data"))
    first, second = [case for case in data.cases if case.split == "train"][:2]
    shutil.copy(root / first.image, root / second.image)
    assert len(read(Manifest.read(root))) == len(data)


def test_an_image_of_another_size_names_its_row(data, tmp_path):
    root = Path(shutil.copytree(data.root, tmp_path / "data"))
    png.write(root / data.cases[1].image, Image(np.zeros((1, 8, 8), dtype=np.uint8)))
    with pytest.raises(DataError, match=r"manifest.csv, row 3"):
        dataset_table.read_images(Manifest.read(root), SILENT)


@pytest.mark.parametrize("seed", range(3))
def test_half_of_the_training_patients_fit_a_learned_method(data, seed):
    found = read(data)
    half = fitting_half(found, seed=seed)
    patients = np.array(found.patients)
    inside, train = set(patients[half]), set(patients[found.where("train")])
    assert inside < train
    assert not inside & set(patients[~half])
    assert len(inside) == (len(train) + 1) // 2
