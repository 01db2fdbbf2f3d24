"""Which images lie below an input, under which names."""

from __future__ import annotations

import shutil

import numpy as np
import prepare_fixtures as make
import pytest

from meninx.core.errors import DataError
from meninx.predict import inputs
from meninx.predict.noticed import Refusals


def names(source, dims=2):
    return [image.case_id for image in inputs.find_images(source, dims, Refusals()).images]


def test_instances_in_2d_and_series_in_3d(tmp_path):
    root = make.make_series(tmp_path / "clean")
    shutil.rmtree(root / "masks")
    assert names(root / "images", 3) == ["2.25.80", "2.25.81"]
    assert len(names(root / "images", 2)) == 10
    found = inputs.find_images(root, 3, Refusals())
    assert found.kinds == {"DICOM CT": 2}
    assert all(len(image.paths) == 5 and image.clean and image.dicom for image in found.images)
    assert (found.ignored, found.not_deidentified) == (2, 0)  # deid.json and the table


def test_a_single_file_and_a_folder_of_mixed_files(tmp_path):
    one = make.write_picture(tmp_path / "in" / "deep" / "one.png", make.picture(1))
    make.write_picture(tmp_path / "in" / ".hidden.png", make.picture(2))
    make.write_dicom(tmp_path / "in" / "x", make.picture(3), removed="NO", SOPInstanceUID="2.25.5")
    assert names(one) == ["one"]
    found = inputs.find_images(tmp_path / "in", 2, Refusals())
    assert [image.case_id for image in found.images] == ["2.25.5", "deep__one"]
    assert found.not_deidentified == 1
    assert found.kinds == {"DICOM DX": 1, "png": 1}


@pytest.mark.parametrize("mark", ["deid.json", "manifest.csv", "run.json"])
def test_private_rooms_are_passed_over(tmp_path, mark):
    make.write_picture(tmp_path / "a" / "private" / "x.png", make.picture(1))
    make.write_picture(tmp_path / "a" / "y.png", make.picture(2))
    assert names(tmp_path) == ["a__private__x", "a__y"]
    (tmp_path / "a" / mark).write_text("")
    assert names(tmp_path) == ["a__y"]
    assert names(tmp_path / "a") == ["y"]


def test_a_prepared_dataset_is_its_cases(tmp_path):
    from meninx.synthetic import write_dataset

    data = write_dataset(tmp_path / "data", patients=3, size=16)
    found = inputs.find_images(data.root, 2, Refusals())
    assert found.dataset is not None
    assert [image.case_id for image in found.images] == [case.case_id for case in data.cases]


def test_nothing_to_predict_is_said(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        names(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="got 1 other files"):
        names(tmp_path)


def test_a_refusal_is_counted_or_stops(tmp_path):
    make.write_dicom(tmp_path / "a.dcm", make.picture(1), SOPInstanceUID="2.25.1", Modality="SR")
    refusals = Refusals()
    assert not inputs.find_images(tmp_path, 2, refusals).images
    assert refusals.to_table()[inputs.NO_IMAGE].cases == ("2.25.1",)
    with pytest.raises(DataError, match="run without strict"):
        inputs.find_images(tmp_path, 2, Refusals(strict=True))


def test_a_digest_does_not_depend_on_the_order_of_the_slices(tmp_path):
    root = make.make_series(tmp_path / "clean", patients=1)
    (image,) = inputs.find_images(root / "images", 3, Refusals()).images
    turned = inputs.InputImage(case_id="x", paths=image.paths[::-1])
    assert image.digest() == turned.digest()
    assert inputs.InputImage(case_id="x", paths=image.paths[:2]).digest() != image.digest()


def test_channels_of_one_image_in_several_files(tmp_path):
    for name in ("a_0001", "a_0000", "b_0000", "c"):
        make.write_volume(tmp_path / f"{name}.nii.gz", np.zeros((2, 2, 2), np.float32))
    found = inputs.find_images(tmp_path, 3, Refusals(), channels=2).images
    assert [(image.case_id, [path.name[:6] for path in image.paths]) for image in found] == [
        ("a", ["a_0000", "a_0001"]),
        ("b", ["b_0000"]),
        ("c", ["c.nii."]),
    ]
    assert len(inputs.find_images(tmp_path, 3, Refusals()).images) == 4
