"""Image files become the same network input in a bundle as in the program."""

from __future__ import annotations

import numpy as np
import pytest
from clean_dicoms import image as dicom
from clean_dicoms import series, write
from hypothesis import given
from hypothesis import strategies as st

from meninx.core import artifacts
from meninx.core.errors import DataError
from meninx.core.manifest import INFO_NAME, MANIFEST_NAME
from meninx.imaging import image_files, nifti, png, resample
from meninx.imaging.image import Image
from meninx.imaging.image_files import NO_IMAGE, TWICE, find, search
from meninx.imaging.network_input import NetworkInput, preprocessing_of
from meninx.imaging.preprocessing import Preprocessing

FLAT, DEEP = Preprocessing(), Preprocessing(spatial_dims=3)
TWO = Preprocessing(spatial_dims=3, channels=2, each_channel=True, scaling="image")
GREY = {"window": [0.0, 255.0], "shift": 127.5, "scale": 127.5}


def reader(**settings) -> NetworkInput:
    intensity = settings.pop("intensity", GREY)
    image_size = settings.pop("image_size", ())
    size = settings.pop("expected", ())
    return NetworkInput.of(settings, intensity, image_size, size)


def test_images_below_a_folder_are_found_by_content_and_not_by_name(tmp_path):
    png.write(tmp_path / "b" / "one.PNG", Image(np.zeros((1, 3, 3), np.uint8)))
    write(tmp_path / "a" / "plain", dicom(np.zeros((3, 3), np.uint8)))
    write(tmp_path / "a" / "report.dcm", without_pixels())
    (tmp_path / "labels.csv").write_text("image,label\n")
    (tmp_path / ".hidden").mkdir()
    png.write(tmp_path / ".hidden" / "two.png", Image(np.zeros((1, 3, 3), np.uint8)))
    assert [item.name for item in find(tmp_path, FLAT)] == ["a/plain", "b/one.PNG"]
    assert [item.name for item in find(tmp_path / "b" / "one.PNG", FLAT)] == ["one.PNG"]


def without_pixels():
    dataset = dicom(np.zeros((3, 3), np.uint8))
    del dataset.Rows
    return dataset


def test_volumes_are_files_and_series(tmp_path):
    nifti.write(tmp_path / "v.nii.gz", Image(np.zeros((1, 3, 3, 3), np.int16)))
    series(tmp_path / "ct" / "first", np.zeros((3, 4, 4), np.int16), patient="P1", name="a")
    series(tmp_path / "ct" / "both", np.zeros((3, 4, 4), np.int16), patient="P2", name="b")
    series(tmp_path / "ct" / "both", np.zeros((2, 4, 4), np.int16), patient="P2", name="c")
    found = {item.name: len(item.paths) for item in find(tmp_path, DEEP)}
    assert found == {"ct/both/b-1.dcm": 3, "ct/both/c-1.dcm": 2, "ct/first": 3, "v.nii.gz": 1}


def test_files_of_one_image_are_its_channels(tmp_path):
    for name, value in (("a_0001", 1), ("a_0000", 0), ("b", 2)):
        nifti.write(
            tmp_path / f"{name}.nii.gz", Image(np.arange(27, dtype=np.int16).reshape(1, 3, 3, 3) + value)
        )
    found = {item.name: item.paths for item in find(tmp_path, TWO)}
    assert {name: len(paths) for name, paths in found.items()} == {"a.nii.gz": 2, "b.nii.gz": 1}
    two = reader(spatial_dims=3, channels=2, each_channel=True, scaling="image").source(found["a.nii.gz"])
    assert two.array[:, 0, 0, 0].tolist() == [0, 1]
    assert [item.name for item in find(tmp_path, DEEP)] == ["a_0000.nii.gz", "a_0001.nii.gz", "b.nii.gz"]


def test_an_archive_of_deid_is_searched_where_its_images_are(tmp_path):
    write(tmp_path / "images" / "x.dcm", dicom(np.zeros((3, 3), np.uint8)))
    write(tmp_path / "private" / "quarantine.dcm", dicom(np.zeros((3, 3), np.uint8)))
    (tmp_path / "deid.json").write_text("{}")
    assert [item.name for item in find(tmp_path, FLAT)] == ["x.dcm"]


def test_private_rooms_of_nested_archives_are_passed_over(tmp_path):
    for hospital in ("north", "south"):
        write(
            tmp_path / hospital / "images" / "x.dcm",
            dicom(np.zeros((3, 3), np.uint8), number=ord(hospital[0])),
        )
        write(tmp_path / hospital / "private" / "quarantine" / "x.dcm", dicom(np.zeros((3, 3), np.uint8)))
        (tmp_path / hospital / "deid.json").write_text("{}")
    assert [item.name for item in find(tmp_path, FLAT)] == ["north/images/x.dcm", "south/images/x.dcm"]


def test_the_images_of_a_prepared_dataset_are_no_originals(tmp_path):
    png.write(tmp_path / "data" / "images" / "a.png", Image(np.zeros((1, 3, 3), np.uint8)))
    for name in ("manifest.csv", "dataset.toml"):
        (tmp_path / "data" / name).write_text("")
    for place in (tmp_path, tmp_path / "data"):
        with pytest.raises(DataError, match="converted already"):
            find(place, FLAT)


def test_objects_without_an_image_and_copies_are_left_out(tmp_path):
    write(tmp_path / "a.dcm", dicom(np.zeros((3, 3), np.uint8), number=1))
    write(tmp_path / "copy.dcm", dicom(np.zeros((3, 3), np.uint8), number=1))
    write(tmp_path / "dose.dcm", dicom(np.zeros((3, 3), np.uint16), number=2, Modality="RTDOSE"))
    found = search(tmp_path, FLAT)
    assert [item.name for item in found.images] == ["a.dcm"]
    assert {item.files.name: item.reason for item in found.unusable} == {
        "copy.dcm": TWICE,
        "dose.dcm": NO_IMAGE,
    }
    assert [item.name for item in find(tmp_path, FLAT)] == ["a.dcm"]
    with pytest.raises(DataError, match=r"single slice for a model of volumes \(a.dcm\)"):
        find(tmp_path, DEEP)


def test_a_dicom_file_that_ends_in_its_header_is_named(tmp_path):
    """It was taken for a report, so a bundle left it out without a word."""
    write(tmp_path / "whole.dcm", dicom(np.arange(16, dtype=np.uint8).reshape(4, 4)))
    whole = (tmp_path / "whole.dcm").read_bytes()
    at = whole.index(b"\x08\x00\x60\x00")  # Modality
    for name in ("cut.dcm", "DICOMDIR"):
        (tmp_path / name).write_bytes(whole[:at])
    refused = []
    assert [image.name for image in find(tmp_path, Preprocessing(), refused)] == ["whole.dcm"]
    assert [(item.files.name, item.reason) for item in refused] == [("cut.dcm", "unreadable image")]


def test_marks_of_archives_and_runs_are_those_of_the_records():
    assert artifacts.place(artifacts.DeidRecord) == image_files.DEID
    assert (MANIFEST_NAME, INFO_NAME) == image_files.DATASET
    assert artifacts.place(artifacts.RunRecord) == image_files.RUN


def test_channels_in_one_file_are_chosen_by_their_positions_in_the_source(tmp_path):
    values = np.arange(3 * 8).reshape(3, 2, 2, 2).astype(np.float32)
    nifti.write(tmp_path / "a.nii.gz", Image(values))
    steps = {"spatial_dims": 3, "channels": 2, "each_channel": True, "scaling": "image", "source_channels": 3}
    chosen = reader(**steps, channel_positions=[2, 0]).source([tmp_path / "a.nii.gz"])
    np.testing.assert_array_equal(chosen.array, values[[2, 0]])
    with pytest.raises(DataError, match="numbered differently"):
        reader(**steps).source([tmp_path / "a.nii.gz"])
    nifti.write(tmp_path / "b.nii.gz", Image(values[:2]))
    with pytest.raises(DataError, match="2 channels in a file, the source had 3"):
        reader(**steps, channel_positions=[2, 0]).source([tmp_path / "b.nii.gz"])


@pytest.mark.parametrize(
    "change",
    [{"channel_positions": [0, 0]}, {"channel_positions": [0, 3]}, {"channel_positions": [1]},
     {"source_channels": 1}, {"source_channels": 99}, {"each_channel": False}],
)  # fmt: skip
def test_positions_that_name_no_channels_are_refused(change):
    table = {"channels": 2, "each_channel": True, "channel_positions": [1, 0], "source_channels": 3}
    preprocessing_of(table)
    with pytest.raises(DataError):
        preprocessing_of(table | change)


def test_a_constant_image_is_refused(tmp_path):
    png.write(tmp_path / "a.png", Image(np.full((1, 3, 3), 7, np.uint8)))
    with pytest.raises(DataError, match="one value in the whole image"):
        reader().source([tmp_path / "a.png"])


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_nothing_to_read_is_said(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        find(tmp_path / name, FLAT)


def test_a_file_in_dicom_syntax_with_a_broken_header_is_refused(tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    with pytest.raises(DataError):
        find(tmp_path, FLAT)


@pytest.mark.torch
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 3), st.integers(0, 3))
def test_padding_is_that_of_training(rows, columns, more, wider):
    import torch

    from meninx.learn.data import padded

    stored = np.random.default_rng(rows).integers(0, 256, (1, rows, columns), dtype=np.uint8)
    size = (rows + more, columns + wider)
    own = reader(image_size=size)
    values = (torch.from_numpy(stored.astype(np.float32)).clamp(0, 255) - 127.5) / 127.5
    assert np.array_equal(own.normalised(stored), padded(values, size, -1.0).numpy())
    assert np.array_equal((own.padded(stored) - 127.5) / 127.5, own.normalised(stored))


@pytest.mark.parametrize(
    ("settings", "array", "words"),
    [
        ({"channels": 1}, np.zeros((2, 4, 4), np.uint8), "channels"),
        ({"expected": (8, 8)}, np.zeros((1, 4, 4), np.uint8), "size"),
        ({"image_size": (3, 9)}, np.zeros((1, 4, 4), np.uint8), "at most"),
        ({}, np.zeros((1, 4, 4), np.int16), "range"),
    ],
)
def test_an_image_that_does_not_fit_is_refused_by_name(settings, array, words):
    with pytest.raises(DataError, match=words):
        reader(**settings).stored(Image(array))


def test_a_volume_for_a_network_of_pictures_is_refused(tmp_path):
    nifti.write(tmp_path / "v.nii", Image(np.zeros((1, 3, 3, 3), np.int16)))
    with pytest.raises(DataError, match="2-D"):
        reader(window=[0, 9], scaling="window").source((tmp_path / "v.nii",))


def test_voxels_that_are_no_numbers_are_refused(tmp_path):
    nifti.write(tmp_path / "v.nii", Image(np.full((1, 3, 3, 3), np.nan, np.float32)))
    with pytest.raises(DataError, match="finite"):
        reader(spatial_dims=3, window=[0, 9], scaling="window").source((tmp_path / "v.nii",))


def test_settings_of_another_version_are_refused():
    with pytest.raises(DataError, match="known settings"):
        reader(sharpen=True)


def test_a_label_map_comes_back_to_the_source(tmp_path):
    affine = np.diag([-1.0, 2.0, -3.0, 1.0])
    source = Image(np.random.default_rng(0).normal(size=(1, 6, 5, 4)).astype(np.float32), affine)
    own = reader(spatial_dims=3, scaling="image", image_size=(8, 8, 8), intensity=GREY)
    stored = own.stored(source)
    truth = (source.array > 0).astype(np.uint8)
    label_map = resample.canonical(Image(truth, affine)).array[0]
    inside = np.pad(label_map, [(1, 1), (1, 2), (2, 2)])
    assert np.array_equal(own.on_source(inside, stored, source), truth[0])
