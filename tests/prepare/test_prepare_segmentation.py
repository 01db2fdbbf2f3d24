"""Published layouts of segmentations: what each becomes, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import prepare_fixtures as make
import pytest
import segmentation_fixtures as layouts

from meninx.core.errors import ConfigError, DataError, LayoutError
from meninx.core.manifest import Manifest, TaskKind
from meninx.imaging import nifti
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import READERS
from meninx.prepare.source_cases import ReaderOutput
from meninx.prepare.stage import run


def read(root: Path, **settings: Any) -> ReaderOutput:
    config = PrepareConfig.of(**settings)
    return READERS[config.reader](root, config, "")


def prepared(root: Path, out: Path, **settings: Any) -> Manifest:
    run(PrepareConfig.of(**settings), root, out)
    return Manifest.read(out)


def first_case(manifest: Manifest, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Image (channels, x, y, z) and mask (x, y, z) of the case with this key in the source."""
    lines = (manifest.root / "private" / "cases.csv").read_text().splitlines()
    name = next(line.split(",")[0] for line in lines if f",{source}," in line)
    case = next(case for case in manifest.cases if case.case_id == name)
    return nifti.read(manifest.root / case.image).array, nifti.read(manifest.root / case.mask).array[0]


# nnU-Net


def test_nnunet_folder_of_two_channels(tmp_path):
    reading = read(layouts.make_nnunet(tmp_path), reader="nnunet")
    assert (reading.labels, reading.channels, reading.task) == (
        ("PZ", "TZ"),
        ("T2", "ADC"),
        TaskKind.SEGMENTATION,
    )
    assert [found.key for found in reading.cases] == [f"prostate_{n:02}" for n in range(4)]
    assert reading.cases[0].image.load().array.shape == (2, *layouts.SIZE)
    assert reading.skipped == (("test image", "imagesTs, file 1"),)
    assert not reading.patients_known


def test_each_channel_is_scaled_by_its_own_values_and_named_in_the_dataset(tmp_path):
    manifest = prepared(layouts.make_nnunet(tmp_path / "in"), tmp_path / "out", reader="nnunet")
    assert (manifest.info.channels, manifest.info.channel_names) == (2, ("T2", "ADC"))
    image, mask = first_case(manifest, "prostate_01")
    assert image.shape == (2, *layouts.SIZE)
    for channel in range(2):
        raw = layouts.values(10 + channel).astype(float)
        low, high = np.percentile(raw, (0.5, 99.5))
        wanted = np.round((np.clip(raw, low, high) - low) * 255 / (high - low))
        assert np.abs(image[channel] - wanted).max() <= 1
    np.testing.assert_array_equal(mask, layouts.mask(1, 1, 2))


def test_channels_and_labels_are_chosen_and_ordered_by_name(tmp_path):
    root = layouts.make_nnunet(tmp_path / "in")
    manifest = prepared(
        root, tmp_path / "out", reader="nnunet", channels=("ADC",), mask_labels=("transition=TZ",)
    )
    assert (manifest.info.channel_names, manifest.info.labels) == (("ADC",), ("transition",))
    image, mask = first_case(manifest, "prostate_01")
    whole = prepared(root, tmp_path / "whole", reader="nnunet")
    both, both_masks = first_case(whole, "prostate_01")
    np.testing.assert_array_equal(image[0], both[1])
    np.testing.assert_array_equal(mask, both_masks == 2)
    with pytest.raises(ConfigError, match=r"'TX'.*did you mean 'TZ'"):
        read(root, reader="nnunet", mask_labels=("TX",))
    with pytest.raises(ConfigError, match=r"channels of the source, got 'DWI'.*known: T2, ADC"):
        read(root, reader="nnunet", channels=("DWI",))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, r"region of several values: 'whole'"),
        ({"labels": {"background": 0, "PZ": 1, "ignore": 2}}, "voxels to ignore are not supported: 'ignore'"),
        ({"labels": {"background": 0, "PZ": "one"}}, "something else in entry 2"),
        ({"labels": {"background": 0, "PZ": 1.5}}, "something else in entry 2"),
        ({"labels": {"background": 0, "PZ": True}}, "something else in entry 2"),
        ({"labels": {"background": 0, "PZ": -1}}, "label values from 1 to 65535"),
        ({"labels": {"background": 1, "PZ": 2}}, "background has value 1, not 0"),
        ({"labels": {"background": 0, "PZ": 1, "TZ": 1}}, "two labels have one value"),
        ({"labels": {"background": 0}}, "label values from 1 to 65535, got none"),
        ({"labels": None}, "there are no labels"),
        ({"channel_names": {"0": "T2", "2": "ADC"}}, "channels are not numbered 0, 1"),
        ({"channel_names": {"0": "T2"}}, r"channels up to 0000.*got 0001 \(imagesTr, case 1 of 4\)"),
        ({"channel_names": {"0": "$__import__('os')", "1": "ADC"}}, "plain name for channel 1"),
        ({"file_ending": ".mha"}, r"one of .nii.gz, .nii, .png, got '.mha'"),
        ({"file_ending": "/../x"}, "got another"),
        ({"numTraining": 40}, "40 training cases with images and label maps, got 4.*numTraining"),
        ({"numTraining": "4"}, "not a whole number"),
        ({"dataset": {"a": {"images": ["../../etc/passwd"], "label": "x"}}}, "inside the folder"),
        ({"dataset": {"a": {"images": [3], "label": "x"}}}, "a path is not text"),
        ({"dataset": ["a"]}, "no table of cases"),
    ],
)
def test_a_dataset_json_that_cannot_be_meant_is_refused(tmp_path, changes, told):
    root = layouts.make_nnunet(tmp_path, **changes)
    with pytest.raises(DataError, match=told):
        read(root, reader="nnunet")


@pytest.mark.parametrize("name", ["$PZ", "@PZ", "%PZ", "=PZ", "P#Z", "P\u202eZ"])
def test_label_names_that_another_program_would_run_are_refused(tmp_path, name):
    root = layouts.make_nnunet(tmp_path / "in", labels={"background": 0, name: 1, "TZ": 2})
    with pytest.raises(DataError, match=r"plain name for label 1"):
        run(PrepareConfig.of(reader="nnunet"), root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_key_that_stands_twice_is_refused(tmp_path):
    root = layouts.make_nnunet(tmp_path)
    text = json.dumps(layouts.nnunet_table()).replace('"TZ": 2', '"PZ": 2')
    (root / "dataset.json").write_text(text)
    with pytest.raises(LayoutError, match=r"a key stands twice"):
        read(root, reader="nnunet")


def test_the_folder_above_names_the_datasets_below(tmp_path):
    layouts.make_nnunet(tmp_path / "Dataset005_Prostate")
    with pytest.raises(LayoutError, match=r"give one of its folders: 'Dataset005_Prostate'"):
        read(tmp_path, reader="nnunet")


def test_incomplete_cases_are_counted(tmp_path):
    root = layouts.make_nnunet(tmp_path, numTraining=None)
    (root / "imagesTr" / "prostate_00_0001.nii.gz").unlink()
    (root / "labelsTr" / "prostate_01.nii.gz").unlink()
    make.write_volume(root / "labelsTr" / "prostate_77.nii.gz", layouts.mask(0, 1))
    make.write_volume(root / "imagesTr" / "notes.nii.gz", layouts.values(5))
    reading = read(root, reader="nnunet")
    assert len(reading.cases) == 2
    assert sorted(reason for reason, _ in reading.skipped) == [
        "case without all channels", "file name without a channel number", "image without a label map",
        "label map without an image", "test image",
    ]  # fmt: skip


def test_files_without_channel_numbers_are_refused(tmp_path):
    root = layouts.make_nnunet(tmp_path)
    for path in (root / "imagesTr").glob("*"):
        path.rename(path.with_name(path.name.replace("_00", "-")))
    with pytest.raises(LayoutError, match=r"images named <case>_0000.nii.gz"):
        read(root, reader="nnunet")


def test_labelled_test_cases_are_the_published_test_split(tmp_path):
    root = layouts.make_nnunet(tmp_path)
    make.write_volume(root / "labelsTs" / "prostate_90.nii.gz", layouts.mask(9, 1, 2), layouts.AFFINE)
    reading = read(root, reader="nnunet", split="published")
    assert [found.split for found in reading.cases] == ["train"] * 4 + ["test"]
    assert len(read(root, reader="nnunet").cases) == 4


def test_files_of_a_table_replace_the_folders(tmp_path):
    root = layouts.make_nnunet(tmp_path)
    entry = {
        "images": [f"imagesTr/prostate_02_{n:04}.nii.gz" for n in range(2)],
        "label": "labelsTr/prostate_02.nii.gz",
    }
    layouts.write_json(root / "dataset.json", layouts.nnunet_table(dataset={"p2": entry}, numTraining=1))
    (found,) = read(root, reader="nnunet").cases
    assert (found.key, found.image.load().channels) == ("p2", 2)


def test_a_value_that_dataset_json_does_not_name_stops(tmp_path):
    root = layouts.make_nnunet(tmp_path / "in")
    make.write_volume(root / "labelsTr" / "prostate_00.nii.gz", layouts.mask(0, 1, 7), layouts.AFFINE)
    with pytest.raises(DataError, match=r"mask values 0 to 2, got values from 0 to 7 .*case 1 of 4"):
        run(PrepareConfig.of(reader="nnunet"), root, tmp_path / "out")


def test_a_mask_of_0_and_255_is_not_guessed_where_the_values_are_named(tmp_path):
    root = layouts.make_nnunet(tmp_path / "in", labels={"background": 0, "prostate": 1})
    for number in range(4):
        make.write_volume(
            root / "labelsTr" / f"prostate_{number:02}.nii.gz", layouts.mask(number, 255), layouts.AFFINE
        )
    with pytest.raises(DataError, match=r"mask values 0 to 1, got values from 0 to 255"):
        run(PrepareConfig.of(reader="nnunet"), root, tmp_path / "out")


@pytest.mark.parametrize("shift", [(2.0, 0, 0), (0, 0, 4.0)])
def test_a_mask_on_another_grid_stops(tmp_path, shift):
    root = layouts.make_nnunet(tmp_path / "in")
    affine = layouts.AFFINE.copy()
    affine[:3, 3] = shift
    make.write_volume(root / "labelsTr" / "prostate_03.nii.gz", layouts.mask(3, 1, 2), affine)
    with pytest.raises(DataError, match=r"the mask lies elsewhere in space than its image.*case 4 of 4"):
        run(PrepareConfig.of(reader="nnunet"), root, tmp_path / "out")


def test_a_channel_on_another_grid_stops(tmp_path):
    root = layouts.make_nnunet(tmp_path / "in")
    make.write_volume(root / "imagesTr" / "prostate_03_0001.nii.gz", layouts.values(1), np.eye(4))
    with pytest.raises(LayoutError, match=r"channel 2 is on another grid than the first one.*case 4 of 4"):
        run(PrepareConfig.of(reader="nnunet"), root, tmp_path / "out")


def test_an_empty_channel_leaves_its_case_out(tmp_path):
    root = layouts.make_nnunet(tmp_path / "in")
    make.write_volume(root / "imagesTr" / "prostate_03_0001.nii.gz", np.zeros(layouts.SIZE), layouts.AFFINE)
    result = run(PrepareConfig.of(reader="nnunet"), root, tmp_path / "out")
    assert (result.cases, result.skipped["one value in the whole image"]) == (3, 1)


def test_a_case_whose_channels_are_larger_than_the_limit_together_is_left_out(tmp_path, monkeypatch):
    root = layouts.make_nnunet(tmp_path / "in")
    monkeypatch.setattr("meninx.core.files.IMAGE_LIMIT", 800)  # one channel has 772 bytes
    with pytest.raises(DataError, match=r"unreadable image: 4"):
        run(PrepareConfig.of(reader="nnunet"), root, tmp_path / "out")


@pytest.mark.parametrize("channels", [3, 1])
def test_pictures_of_an_nnunet_folder(tmp_path, channels):
    root = tmp_path / "in"
    for number in range(4):
        size = (12, 10, 3) if channels == 3 else (12, 10)
        make.write_picture(root / "imagesTr" / f"c_{number}_0000.png", make.picture(number, size))
        make.write_picture(
            root / "labelsTr" / f"c_{number}.png", (make.picture(number) > 200).astype(np.uint8)
        )
    names = {str(n): "RGB"[n] for n in range(channels)}
    table = layouts.nnunet_table(channel_names=names, labels={"background": 0, "road": 1}, file_ending=".png")
    layouts.write_json(root / "dataset.json", table)
    manifest = prepared(root, tmp_path / "out", reader="nnunet")
    assert (manifest.info.channels, manifest.info.spatial_dims) == (channels, 2)
    layouts.write_json(root / "dataset.json", {**table, "channel_names": {"0": "a", "1": "b"}})
    with pytest.raises(LayoutError, match=r"pictures of one channel, or of colour, got 2 channels"):
        read(root, reader="nnunet")


def test_linked_folders_are_followed(tmp_path):
    layouts.make_brats(tmp_path / "store")
    (tmp_path / "in").mkdir()
    for case in sorted((tmp_path / "store").iterdir()):
        (tmp_path / "in" / case.name).symlink_to(case)
    assert len(read(tmp_path / "in", reader="brats").cases) == 3
    root = layouts.make_bids(tmp_path / "bids")
    (root / "derivatives").rename(tmp_path / "elsewhere")
    (root / "derivatives").symlink_to(tmp_path / "elsewhere")
    assert len(read(root, reader="bids").cases) == 4


def test_another_order_of_values_prepares_the_masks_again(tmp_path):
    root = layouts.make_nnunet(tmp_path / "in")
    given = {"reader": "nnunet", "mask_labels": ("PZ", "TZ")}  # the settings stay, the meaning changes
    prepared(root, tmp_path / "out", **given)
    labels = {"background": 0, "PZ": 2, "TZ": 1}
    layouts.write_json(root / "dataset.json", layouts.nnunet_table(labels=labels))
    manifest = prepared(root, tmp_path / "out", **given, overwrite=True)
    _, mask = first_case(manifest, "prostate_01")
    np.testing.assert_array_equal(mask, layouts.mask(1, 2, 1))


def test_ct_without_a_window_is_noted_and_a_window_per_channel_is_taken(tmp_path):
    root = layouts.make_nnunet(tmp_path / "in", channel_names={"0": "CT", "1": "PET"})
    run(PrepareConfig.of(reader="nnunet"), root, tmp_path / "out")
    notes = json.loads((tmp_path / "out" / "prepare.json").read_text())
    assert "CT without a window" in json.dumps(notes)
    windows = (0.0, 500.0, 0.0, 4000.0)
    manifest = prepared(root, tmp_path / "windows", reader="nnunet", window=windows)
    image, _ = first_case(manifest, "prostate_00")
    wanted = np.round(np.clip(layouts.values(0), 0, 500) * 255.0 / 500)
    assert np.abs(image[0] - wanted).max() <= 1
    assert manifest.info.intensity.source == "standard"
    with pytest.raises(ConfigError, match=r"one for each of 2 channels, got 6 numbers"):
        run(PrepareConfig.of(reader="nnunet", window=(*windows, 0.0, 1.0)), root, tmp_path / "six")
    with pytest.raises(ConfigError, match=r"color has no effect"):
        run(PrepareConfig.of(reader="nnunet", color="rgb"), root, tmp_path / "rgb")


# Decathlon and BraTS


@pytest.mark.parametrize(
    "modality", [{"0": "T2", "1": "ADC"}, {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}]
)
def test_msd_with_several_channels(tmp_path, modality):
    root = layouts.make_msd(tmp_path / "in", modality)
    manifest = prepared(root, tmp_path / "out", reader="msd")
    assert manifest.info.channel_names == tuple(modality.values())
    image, _ = first_case(manifest, "imagesTr/prostate_00.nii.gz")
    assert image.shape == (len(modality), *layouts.SIZE)


def test_msd_whose_images_have_other_channels_than_it_says(tmp_path):
    root = layouts.make_msd(tmp_path / "in")
    make.write_volume(root / "imagesTr" / "prostate_01.nii.gz", layouts.values(1), layouts.AFFINE)
    with pytest.raises(LayoutError, match=r"2 channels.*got 1 \(dataset.json, training entry 2\)"):
        run(PrepareConfig.of(reader="msd"), root, tmp_path / "out")


def test_msd_paths_do_not_leave_the_folder(tmp_path):
    root = layouts.make_msd(tmp_path)
    table = json.loads((root / "dataset.json").read_text())
    table["training"][0]["label"] = "/etc/hostname"
    layouts.write_json(root / "dataset.json", table)
    with pytest.raises(LayoutError, match=r"inside the folder.*training entry 1"):
        read(root, reader="msd")


@pytest.mark.parametrize("new", [False, True])
def test_brats_of_both_generations(tmp_path, new):
    root = layouts.make_brats(tmp_path / "in", new=new)
    reading = read(root, reader="brats")
    assert (reading.channels, len(reading.cases)) == (("flair", "t1", "t1ce", "t2"), 3)
    people = [found.patient for found in reading.cases]
    assert people == (
        ["BraTS-GLI-00000", "BraTS-GLI-00000", "BraTS-GLI-00001"]
        if new
        else [f"BraTS20_Training_{n:03}" for n in (1, 2, 3)]
    )
    manifest = prepared(root, tmp_path / "out", reader="brats", channels=("t2", "flair"))
    image, mask = first_case(manifest, reading.cases[0].key)
    assert image.shape == (2, *layouts.SIZE)
    assert manifest.info.labels == ("necrotic core", "edema", "enhancing tumour")
    np.testing.assert_array_equal(mask, layouts.mask(0, 1, 2, 3))


def test_a_value_4_of_the_new_names_is_not_guessed(tmp_path):
    root = layouts.make_brats(tmp_path / "in", new=True)
    name = "BraTS-GLI-00001-000"
    make.write_volume(root / name / f"{name}-seg.nii.gz", layouts.mask(2, 1, 2, 4), layouts.AFFINE)
    with pytest.raises(DataError, match=r"mask values 0 to 3, got values from 0 to 4"):
        run(PrepareConfig.of(reader="brats"), root, tmp_path / "out")
    named = ("NETC=1", "SNFH=2", "ET=3", "RC=4")
    manifest = prepared(root, tmp_path / "out2", reader="brats", mask_labels=named)
    assert manifest.info.labels == ("NETC", "SNFH", "ET", "RC")


def test_brats_refuses_mixed_generations_and_two_files_for_a_channel(tmp_path):
    root = layouts.make_brats(layouts.make_brats(tmp_path / "a"), new=True)
    with pytest.raises(LayoutError, match=r"two generations"):
        read(root, reader="brats")
    root = layouts.make_brats(tmp_path / "b")
    case = root / "BraTS20_Training_001"
    make.write_volume(case / "BraTS20_Training_001_t1.nii.gz", layouts.values(3))
    with pytest.raises(LayoutError, match=r"two files for t1"):
        read(root, reader="brats")
    with pytest.raises(LayoutError, match=r"<case>_flair.nii.gz"):
        read(make.make_csv(tmp_path / "c"), reader="brats")


# BIDS


def test_bids_label_maps_by_their_table(tmp_path):
    root = layouts.make_bids(tmp_path / "in", sessions=True)
    reading = read(root, reader="bids")
    assert (reading.labels, reading.channels) == (("Left-Thalamus", "Right-Thalamus"), ("T1w",))
    assert [(found.patient, found.study) for found in reading.cases][:2] == [
        ("sub-01", "sub-01/ses-a"), ("sub-01", "sub-01/ses-b"),
    ]  # fmt: skip
    assert [dict(found.attributes) for found in reading.cases][1:3] == [
        {"sex": "F", "age": ""}, {"sex": "M", "age": "41"},
    ]  # fmt: skip
    manifest = prepared(root, tmp_path / "out", reader="bids")
    _, mask = first_case(manifest, "sub-02/ses-a")
    np.testing.assert_array_equal(mask, layouts.mask(10, 1, 2))
    assert len(manifest.patients) == 4


def test_bids_classification_by_the_table_of_participants(tmp_path):
    root = layouts.make_bids(tmp_path)
    text = (root / "participants.tsv").read_text().replace("sub-04\tM\t43\tcontrol", "sub-04\tM\t43\tn/a")
    (root / "participants.tsv").write_text(text + "sub-09\tF\t50\tcase\n")
    reading = read(root, reader="bids", class_column="group")
    assert (reading.task, reading.labels) == (TaskKind.MULTICLASS, ("case", "control"))
    assert [found.labels for found in reading.cases] == [{"case": 1.0}, {"control": 1.0}, {"case": 1.0}]
    assert {reason for reason, _ in reading.skipped} == {
        "no class that was asked for",
        "participant without images",
    }


def test_several_runs_are_refused_until_one_is_chosen(tmp_path):
    root = layouts.make_bids(tmp_path)
    anat = root / "sub-02" / "anat"
    (anat / "sub-02_T1w.nii.gz").rename(anat / "sub-02_run-1_T1w.nii.gz")
    make.write_volume(anat / "sub-02_run-2_T1w.nii.gz", layouts.values(77), layouts.AFFINE)
    with pytest.raises(LayoutError, match=r"one T1w .*, got 2 that differ in run .*entities") as caught:
        read(root, reader="bids")
    assert "sub-02" not in str(caught.value)
    reading = read(root, reader="bids", entities=("run-2",))
    assert len(reading.cases) == 4
    assert "run-2" in str(reading.cases[1].image)
    with pytest.raises(ConfigError, match=r"'run-3'.*known: 1, 2"):
        read(root, reader="bids", entities=("run-3",))


def test_several_pipelines_spaces_and_kinds_of_images_are_refused_until_one_is_chosen(tmp_path):
    root = layouts.make_bids(tmp_path)
    other = root / "derivatives" / "fmriprep" / "sub-01" / "anat"
    make.write_volume(other / "sub-01_dseg.nii.gz", layouts.mask(0, 10), layouts.AFFINE)
    with pytest.raises(ConfigError, match=r"mask_folder: derivatives/fmriprep, derivatives/manual"):
        read(root, reader="bids")
    assert len(read(root, reader="bids", mask_folder="derivatives/manual").cases) == 4
    extra = root / "derivatives" / "manual" / "sub-01" / "anat"
    make.write_volume(extra / "sub-01_space-MNI_dseg.nii.gz", layouts.mask(0, 10))
    with pytest.raises(LayoutError, match=r"one dseg per examination, got 2 that differ in space"):
        read(root, reader="bids", mask_folder="derivatives/manual")
    reading = read(root, reader="bids", mask_folder="derivatives/manual", entities=("space-",))
    assert len(reading.cases) == 4
    make.write_volume(root / "sub-01" / "anat" / "sub-01_T2w.nii.gz", layouts.values(9), layouts.AFFINE)
    with pytest.raises(ConfigError, match=r"one kind of images, got 2.*choose with channels: T1w, T2w"):
        read(root, reader="bids", mask_folder="derivatives/manual", entities=("space-",))
    both = read(
        root, reader="bids", mask_folder="derivatives/manual", entities=("space-",), channels=("T2w", "T1w")
    )
    assert (len(both.cases), both.channels) == (1, ("T2w", "T1w"))


def masks_per_label(root: Path, subjects: int = 4, overlap: bool = False) -> Path:
    layouts.make_bids(root)
    for number in range(subjects):
        folder = root / "derivatives" / "manual" / f"sub-{number + 1:02}" / "anat"
        next(folder.glob("*_dseg.nii.gz")).unlink()
        whole = layouts.mask(10 * number, 1, 2)
        for position, name in enumerate(("GM", "WM"), start=1):
            values = (whole == position) | (overlap & (whole > 0) & (position == 2))
            path = folder / f"sub-{number + 1:02}_label-{name}_mask.nii.gz"
            make.write_volume(path, values.astype(np.uint8), layouts.AFFINE)
    return root


def test_bids_masks_per_label(tmp_path):
    root = masks_per_label(tmp_path / "in")
    manifest = prepared(root, tmp_path / "out", reader="bids")
    _, mask = first_case(manifest, "sub-02")
    np.testing.assert_array_equal(mask, layouts.mask(10, 1, 2))
    (root / "derivatives/manual/sub-03/anat/sub-03_label-WM_mask.nii.gz").unlink()
    reading = read(root, reader="bids")
    assert (len(reading.cases), reading.skipped[0][0]) == (3, "examination without a mask of every label")
    assert len(read(root, reader="bids", mask_empty="zero").cases) == 4
    assert len(read(root, reader="bids", mask_labels=("GM",)).cases) == 4


def test_masks_that_overlap_are_refused_or_the_later_label_counts(tmp_path):
    root = masks_per_label(tmp_path / "in", overlap=True)
    with pytest.raises(LayoutError, match=r"that do not overlap, got \d+ voxels of two .subject 1 of 4"):
        run(PrepareConfig.of(reader="bids"), root, tmp_path / "out")
    manifest = prepared(root, tmp_path / "out2", reader="bids", mask_overlap="last")
    _, mask = first_case(manifest, "sub-02")
    np.testing.assert_array_equal(mask, np.where(layouts.mask(10, 1, 2) > 0, 2, 0))
    manifest = prepared(root, tmp_path / "out3", reader="bids", mask_overlap="last", mask_labels=("WM", "GM"))
    _, mask = first_case(manifest, "sub-02")
    np.testing.assert_array_equal(mask, layouts.mask(10, 2, 1))


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("index\tname\n10\ta\n10\tb\n", "two labels have one value"),
        ("index\tname\n10\ta\n49\ta\n", "named twice"),
        ("index\tname\nten\ta\n", "not a whole number"),
        ("index\tname\n99999\ta\n", "label values from 1 to 65535"),
        ("index\tlabel\n10\ta\n", "no column 'name'"),
    ],
)
def test_a_label_table_that_cannot_be_meant_is_refused(tmp_path, table, told):
    root = layouts.make_bids(tmp_path)
    (root / "derivatives" / "manual" / "dseg.tsv").write_text(table)
    with pytest.raises(DataError, match=told):
        read(root, reader="bids")


def test_values_without_a_label_table_need_names(tmp_path):
    root = layouts.make_bids(tmp_path)
    (root / "derivatives" / "manual" / "dseg.tsv").unlink()
    with pytest.raises(LayoutError, match=r"dseg.tsv.*give mask_labels as name=value"):
        read(root, reader="bids")
    assert read(root, reader="bids", mask_labels=("left=10", "right=49")).labels == ("left", "right")


# TotalSegmentator


def test_totalsegmentator(tmp_path):
    root = layouts.make_totalsegmentator(tmp_path / "in")
    reading = read(root, reader="totalsegmentator")
    assert (reading.labels, reading.channels) == (("liver", "spleen"), ("CT",))
    assert [found.split for found in reading.cases] == ["train", "valid", "test"]
    assert dict(reading.cases[1].attributes) == {"sex": "M", "age": "51"}
    manifest = prepared(
        root, tmp_path / "out", reader="totalsegmentator", split="published", window=(-500.0, 500.0)
    )
    _, mask = first_case(manifest, "s0001")
    np.testing.assert_array_equal(mask, layouts.mask(1, 1, 2))
    (root / "s0001" / "segmentations" / "spleen.nii.gz").unlink()
    assert len(read(root, reader="totalsegmentator").cases) == 2
    chosen = read(root, reader="totalsegmentator", mask_labels=("liver",), require=("split=train|val",))
    assert len(chosen.cases) == 2


# Layouts that name nothing


def test_the_fourth_axis_of_volumes_is_named_by_the_setting_or_refused(tmp_path):
    for number in range(3):
        image = np.stack([layouts.values(10 * number + n) for n in range(3)], axis=-1)
        make.write_volume(tmp_path / "in" / "images" / f"{number}.nii.gz", image, layouts.AFFINE)
        make.write_volume(
            tmp_path / "in" / "labels" / f"{number}.nii.gz", layouts.mask(number, 1), layouts.AFFINE
        )
    with pytest.raises(DataError, match=r"other number of channels: 3"):
        run(PrepareConfig.of(reader="pairs"), tmp_path / "in", tmp_path / "grey")
    manifest = prepared(tmp_path / "in", tmp_path / "out", reader="pairs", channels=("a", "b", "c"))
    assert (manifest.info.channels, manifest.info.channel_names) == (3, ("a", "b", "c"))


def test_values_of_masks_may_be_named_one_by_one(tmp_path):
    root = make.make_pairs(tmp_path / "in")
    manifest = prepared(root, tmp_path / "out", reader="pairs", mask_labels=("back=2", "front=1"))
    assert manifest.info.labels == ("back", "front")
    _, mask = first_case(manifest, "images/case_0.nii.gz")
    assert mask[1, 2, 0] == 2
    assert mask[4, 0, 0] == 1
    for wrong in (("a=2", "b"), ("a=0",), ("a=1", "b=1"), ("a=x",)):
        with pytest.raises(ConfigError, match=r"mask_labels"):
            read(root, reader="pairs", mask_labels=wrong)
