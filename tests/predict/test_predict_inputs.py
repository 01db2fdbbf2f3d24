"""Which images lie below an input, under which names."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import prepare_fixtures as make
import pytest

from meninx.core.errors import DataError
from meninx.imaging import image_files
from meninx.imaging.preprocessing import NUMBERING, Preprocessing
from meninx.predict import inputs
from meninx.predict.noticed import Refusals

FLAT, DEEP = Preprocessing(), Preprocessing(spatial_dims=3)
TWO = Preprocessing(spatial_dims=3, channels=2, each_channel=True, scaling="image")


def names(source, dims=2):
    steps = Preprocessing(spatial_dims=dims)
    return [image.case_id for image in inputs.find_images(source, steps, Refusals()).images]


def test_instances_in_2d_and_series_in_3d(tmp_path):
    root = make.make_series(tmp_path / "clean")
    shutil.rmtree(root / "masks")
    assert names(root / "images", 3) == ["2.25.80", "2.25.81"]
    assert len(names(root / "images", 2)) == 10
    found = inputs.find_images(root, DEEP, Refusals())
    assert found.kinds == {"DICOM CT": 2}
    assert all(len(image.paths) == 5 and image.clean and image.dicom for image in found.images)
    assert (found.ignored, found.not_deidentified) == (0, 0)  # images/ of the archive alone is searched


def test_a_single_file_and_a_folder_of_mixed_files(tmp_path):
    one = make.write_picture(tmp_path / "in" / "deep" / "one.png", make.picture(1))
    make.write_picture(tmp_path / "in" / ".hidden.png", make.picture(2))
    make.write_dicom(tmp_path / "in" / "x", make.picture(3), removed="NO", SOPInstanceUID="2.25.5")
    assert names(one) == ["one"]
    found = inputs.find_images(tmp_path / "in", FLAT, Refusals())
    assert [image.case_id for image in found.images] == ["2.25.5", "deep__one"]
    assert [image.file for image in found.images] == ["2.25.5", "deep/one.png"]  # no path of a DICOM file
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


def test_a_linked_folder_is_named_and_not_followed(tmp_path):
    """Its images were left out without a word."""
    make.write_picture(tmp_path / "far" / "x.png", make.picture(1))
    folder = tmp_path / "in"
    make.write_picture(folder / "y.png", make.picture(2))
    (folder / "linked").symlink_to(tmp_path / "far")
    (folder / ".hidden").symlink_to(tmp_path / "far")
    refusals = Refusals()
    found = inputs.find_images(folder, FLAT, refusals)
    assert [image.case_id for image in found.images] == ["y"]
    assert [row[:2] for row in refusals.every] == [("linked", image_files.LINKED)]
    (folder / "only").mkdir()
    (folder / "y.png").rename(folder / "only" / "y.png")
    (folder / "only" / "again").symlink_to(folder)
    assert [image.file for image in inputs.find_images(folder, FLAT, refusals).images] == ["only/y.png"]
    with pytest.raises(DataError, match="linked folder"):
        image_files.find(folder, FLAT)


def test_a_prepared_dataset_is_its_cases(tmp_path):
    from meninx.synthetic import write_dataset

    data = write_dataset(tmp_path / "data", patients=3, size=16)
    found = inputs.find_images(data.root, FLAT, Refusals())
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
    assert not inputs.find_images(tmp_path, FLAT, refusals).images
    assert refusals.to_table()[image_files.NO_IMAGE].cases == ("2.25.1",)
    with pytest.raises(DataError, match="run without strict"):
        inputs.find_images(tmp_path, FLAT, Refusals(strict=True))


def test_a_digest_does_not_depend_on_the_order_of_the_slices(tmp_path):
    root = make.make_series(tmp_path / "clean", patients=1)
    (image,) = inputs.find_images(root / "images", DEEP, Refusals()).images
    turned = inputs.InputImage(case_id="x", paths=image.paths[::-1], dicom=True)
    assert image.digest() == turned.digest()
    assert inputs.InputImage(case_id="x", paths=image.paths[:2]).digest() != image.digest()


def channels(folder, steps):
    """Return identifier -> files of each image, and reason -> (identifiers, numbers) of what was refused."""
    refusals = Refusals()
    found = inputs.find_images(folder, steps, refusals).images
    files = {image.case_id: [path.name[:-7] for path in image.paths] for image in found}
    return files, {reason: (*row.cases, row.example) for reason, row in refusals.to_table().items()}


def test_channels_of_one_image_in_several_files(tmp_path):
    for name in ("a_0001", "a_0000", "b_0000", "c", "d_0000", "d_0007"):
        make.write_volume(tmp_path / f"{name}.nii.gz", np.zeros((2, 2, 2), np.float32))
    found, refused = channels(tmp_path, TWO)
    assert found == {"a": ["a_0000", "a_0001"], "c": ["c"]}
    assert refused == {image_files.MISSING: ("b", "_0001"), image_files.UNKNOWN: ("d", "_0007")}
    assert len(inputs.find_images(tmp_path, DEEP, Refusals()).images) == 6


def test_channels_are_chosen_by_their_numbers_in_the_source_of_the_training(tmp_path):
    for name in ("a_0000", "a_0001", "b_0000", "b_0001", "b_0002"):
        make.write_volume(tmp_path / f"{name}.nii.gz", np.zeros((2, 2, 2), np.float32))
    swapped = replace(TWO, channel_positions=(1, 0), source_channels=2)
    found, refused = channels(tmp_path, swapped)
    assert found == {"a": ["a_0001", "a_0000"]}
    assert refused == {image_files.UNKNOWN: ("b", "_0002")}
    one = replace(TWO, channels=1, channel_positions=(1,), source_channels=3)
    assert channels(tmp_path, one) == ({"a": ["a_0001"], "b": ["b_0001"]}, {})
    third = replace(one, channel_positions=(2,))
    assert channels(tmp_path, third) == ({"b": ["b_0002"]}, {image_files.MISSING: ("a", "_0002")})
    several = replace(TWO, channel_positions=(), source_channels=2)
    assert channels(tmp_path, several) == ({}, {NUMBERING: ("a", "b", "")})


def test_exchanged_channels_are_another_image(tmp_path):
    for name, value in (("a_0000", 1), ("a_0001", 2)):
        make.write_volume(tmp_path / f"{name}.nii.gz", np.full((2, 2, 2), value, np.float32))
    (image,) = inputs.find_images(tmp_path, TWO, Refusals()).images
    assert inputs.InputImage(case_id="a", paths=image.paths[::-1]).digest() != image.digest()


@pytest.mark.parametrize("steps", [Preprocessing(channels=3), Preprocessing(channels=1)])
def test_numbered_pictures_are_pictures_of_their_own(tmp_path, steps):
    for number in range(3):
        make.write_picture(tmp_path / f"scan_000{number}.png", make.picture(number))
    found = inputs.find_images(tmp_path, steps, Refusals()).images
    assert [image.case_id for image in found] == ["scan_0000", "scan_0001", "scan_0002"]
