"""Copies of published layouts: what each reader finds, and what it refuses instead of guessing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layout_makers as layouts
import numpy as np
import prepare_fixtures as make
import pytest
import segmentation_fixtures as segmentations
from layout_makers import LAYOUTS
from PIL import Image as Pillow

from meninx.core.errors import ConfigError, DataError, LayoutError, UsageError
from meninx.core.manifest import Manifest, TaskKind
from meninx.prepare import config, stage
from meninx.prepare.config import READER_NAMES, PrepareConfig
from meninx.prepare.readers import READERS
from meninx.prepare.readers.published_layouts import PUBLISHED
from meninx.prepare.readers.published_table import PublishedTable
from meninx.prepare.readers.recognition import recognised
from meninx.prepare.source_cases import ReaderOutput
from meninx.prepare.stage import run

SEGMENTED = {
    "nnunet": segmentations.make_nnunet,
    "brats": segmentations.make_brats,
    "bids": segmentations.make_bids,
    "totalsegmentator": segmentations.make_totalsegmentator,
}


def read(root: Path, **given: Any) -> ReaderOutput:
    config = recognised(PrepareConfig.of(**given), root)
    return READERS[config.reader](root, config, "")


def read_layout(name: str, root: Path) -> ReaderOutput:
    reader, maker, given = LAYOUTS[name]
    return read(maker(root), reader=reader, **given)


def facts(reading: ReaderOutput) -> dict[str, Any]:
    """What a layout says, apart from where the images lie."""
    return {
        found.where: (dict(found.labels), dict(found.attributes), found.split, found.study)
        for found in reading.cases
    }


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_image_of_a_published_layout_is_found(tmp_path, name):
    reading = read_layout(name, tmp_path)
    assert len(reading.cases) >= 3
    assert not any(found.image.missing() for found in reading.cases)
    assert len({found.key for found in reading.cases}) == len(reading.cases)
    assert all(set(found.labels) <= set(reading.labels) for found in reading.cases)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognised_by_what_only_it_has(tmp_path, name):
    reader, maker, given = LAYOUTS[name]
    root = maker(tmp_path)
    config = PrepareConfig.of(**{key: value for key, value in given.items() if key != "reader"})
    assert recognised(config, root).reader == reader


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in ("MedMNIST", "SIIM-ACR")])
def test_a_stray_folder_and_a_wrapping_folder_change_nothing(tmp_path, name):
    plain = read_layout(name, tmp_path / "plain")
    reader, maker, given = LAYOUTS[name]
    root = maker(tmp_path / "outer" / "download").parent
    for folder in (root / "__MACOSX" / "download", root / "download" / "__MACOSX"):
        make.write_picture(folder / "._0.png", make.picture(1))
        make.write_picture(folder / "train" / "0.png", make.picture(2))
    (root / "download" / ".DS_Store").write_bytes(b"\0")
    reading = read(root, reader=reader, **given)
    assert not any(found.image.missing() for found in reading.cases)
    assert [found.labels for found in reading.cases] == [found.labels for found in plain.cases]
    assert [found.split for found in reading.cases] == [found.split for found in plain.cases]


def test_nih_reads_both_headers_alike(tmp_path):
    old = read_layout("NIH ChestX-ray14, header of 2017", tmp_path / "old")
    new = read_layout("NIH ChestX-ray14, header of 2020", tmp_path / "new")
    assert [dict(found.attributes) for found in old.cases] == [dict(found.attributes) for found in new.cases]
    assert new.cases[1].attributes["sex"] == "M"


def test_two_files_of_one_name_are_refused_with_numbers(tmp_path):
    root = make.make_nih(tmp_path)
    for path in sorted(root.glob("images_*/images/*.png")):
        make.write_picture(root / "a_thumbnails" / path.name, make.picture(7, (3, 3)))
    with pytest.raises(
        LayoutError,
        match=r"4 image names .* several files, the first one 2 \(Data_Entry_2017.csv, row 2\)",
    ):
        read(root, reader="nih")
    shutil.move(root / "images_002" / "images" / "00000001_000.png", root / "images_001" / "images")
    shutil.move(root / "images_002" / "images" / "00000003_000.png", root / "images_001" / "images")
    reading = read(root, reader="nih", image_folder="images_001/images")
    assert all(found.image.load().array.shape == (1, 12, 10) for found in reading.cases)


def test_the_path_in_the_table_decides_among_files_of_one_name(tmp_path):
    for folder, seed in (("a", 1), ("b", 2)):
        make.write_picture(tmp_path / "scans" / folder / "1.png", make.picture(seed))
    make.write_table(tmp_path / "labels.csv", ["file", "patient", "label"], [["b/1.png", "P", 1]])
    reading = read(tmp_path, reader="csv", image_folder="scans")
    assert reading.cases[0].key == "scans/b/1.png"
    make.write_table(tmp_path / "labels.csv", ["file", "patient", "label"], [["old/b/1.png", "P", 1]])
    assert read(tmp_path, reader="csv", image_folder="scans").cases[0].key == "scans/b/1.png"
    make.write_table(tmp_path / "labels.csv", ["file", "patient", "label"], [["1.png", "P", 1]])
    with pytest.raises(LayoutError, match=r"1 image name of the table has 2 files \(labels.csv, row 2\)"):
        read(tmp_path, reader="csv")


def test_the_full_download_of_chexpert_equals_the_small_one(tmp_path):
    small, full = (read_layout(f"CheXpert{kind}", tmp_path / kind) for kind in ("-small", ", full download"))
    assert facts(small) == facts(full)
    assert [found.patient for found in full.cases] == [f"patient{n:05d}" for n in (1, 2, 3, 4)]


def test_more_missing_images_than_allowed_are_an_error_before_anything_is_written(tmp_path):
    root = make.make_csv(tmp_path / "in", patients=10)
    for path in sorted((root / "images").iterdir())[:2]:
        path.unlink()
    config = PrepareConfig.of(label_columns="effusion", split="exact")
    with pytest.raises(DataError, match=r"at most 5 % of 20 images.*got 2 missing \(10\.0 %\).*row 2"):
        run(config, root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    result = run(config.replace(allow_missing=0.1), root, tmp_path / "out")
    assert (result.cases, result.skipped) == (18, {"missing file": 2})
    assert '"allow_missing": 0.1' in (tmp_path / "out" / "prepare.json").read_text()


def test_mimic_writes_the_age_at_the_study(tmp_path):
    reading = read_layout("MIMIC-CXR-JPG", tmp_path)
    assert reading.cases[0].attributes["age"] == str(52 + 2180 - 2175)
    assert reading.cases[1].attributes["age"] == ""


def test_mimic_without_a_patients_table_says_so(tmp_path):
    make.make_mimic(tmp_path)
    (tmp_path / "patients.csv.gz").unlink()
    reading = read(tmp_path, reader="mimic")
    assert reading.attributes == ("view",)
    assert ("table that is not there", "patients.csv") in reading.notes


def test_padchest_findings_ages_and_views(tmp_path):
    reading = read_layout("PadChest", tmp_path)
    assert [tuple(found.labels.values()) for found in reading.cases] == [(1, 0), (0, 0), (None, None), (0, 1)]
    assert dict(reading.cases[0].attributes) == {"sex": "F", "age": "84", "view": "PA"}
    with pytest.raises(ConfigError, match="give label_columns"):
        read(tmp_path, reader="padchest")
    with pytest.raises(ConfigError, match="did you mean 'cardiomegaly'"):
        read(tmp_path, reader="padchest", label_columns="cardiomegally")


def test_rsna_has_one_case_for_all_boxes_of_an_image(tmp_path):
    reading = read_layout("RSNA pneumonia", tmp_path)
    assert {found.key[-6:-4]: found.labels["pneumonia"] for found in reading.cases} == {
        "a0": 1, "b1": 0, "c2": 1, "d3": 0,
    }  # fmt: skip
    assert ("images with several rows (any)", "stage_2_train_labels.csv, row 2") in reading.notes
    assert not reading.patients_known


def test_vindr_radiologists_vote(tmp_path):
    reading = read_layout("VinDr-CXR", tmp_path)
    labels = {Path(found.key).stem: found.labels for found in reading.cases}
    assert (labels["t0"]["Cardiomegaly"], labels["t0"]["Other diseases"]) == (1, 0)
    assert (labels["t1"]["Other diseases"], labels["e0"]["Other diseases"]) == (1, 1)
    assert [found.split for found in reading.cases] == ["train", "train", "test"]
    some = read(tmp_path, reader="vindr-cxr", several_rows="any")
    assert some.cases[0].labels["Other diseases"] == 1
    assert any("'Other disease' as 'Other diseases'" in place for _, place in reading.notes)


def test_rows_that_are_evenly_divided_leave_a_label_unknown(tmp_path):
    make.write_picture(tmp_path / "images" / "a.png", make.picture(0))
    rows = [["a.png", "P", 1, "x"], ["a.png", "P", 0, "y"]]
    make.write_table(tmp_path / "labels.csv", ["file", "patient", "ill", "kind"], rows)
    (found,) = read(tmp_path, label_columns="ill", several_rows="majority").cases
    assert found.labels == {"ill": None}
    reading = read(tmp_path, class_column="kind", several_rows="majority")
    assert (len(reading.cases), reading.skipped[0][0]) == (0, "rows of one image that disagree")
    with pytest.raises(LayoutError, match=r"each image once.*give several_rows"):
        run(PrepareConfig.of(label_columns="ill"), tmp_path, tmp_path.parent / "out")
    make.write_table(
        tmp_path / "labels.csv", ["file", "patient", "ill"], [["a.png", "P", 1], ["a.png", "Q", 1]]
    )
    with pytest.raises(LayoutError, match=r"one patient.*row 2 and labels.csv, row 3"):
        read(tmp_path, label_columns="ill", several_rows="any")


def test_isic_tables_of_one_column_per_class(tmp_path):
    reading = read_layout("ISIC 2018", tmp_path / "18")
    assert (reading.task, reading.labels) == (TaskKind.MULTICLASS, ("AKIEC", "BCC", "DF", "MEL", "NV"))
    assert [found.patient for found in reading.cases][:3] == ["HAM_0", "HAM_0", "HAM_1"]
    merged = read(tmp_path / "18", reader="isic-2018", malignant=True)
    assert [found.labels["malignant"] for found in merged.cases] == [1, 0, 0, 1, 1, 0]
    later = read_layout("ISIC 2019", tmp_path / "19")
    assert later.cases[1].key.endswith("ISIC_0000002_downsampled.jpg")
    assert later.cases[3].patient == later.cases[3].key  # a lesion that the table does not name
    assert dict(later.cases[0].attributes) == {"sex": "F", "age": "45"}
    table = tmp_path / "19" / "ISIC_2019_Training_GroundTruth.csv"
    table.write_text(table.read_text().replace("ISIC_0000004,0.0", "ISIC_0000004,1.0"))
    with pytest.raises(LayoutError, match=r"one class of 1.*got 2 .*row 4"):
        read(tmp_path / "19", reader="isic-2019")


def test_isic_2020_names_patients(tmp_path):
    reading = read_layout("ISIC 2020", tmp_path)
    assert (reading.patients_known, reading.labels) == (True, ("malignant",))
    assert [found.patient for found in reading.cases] == ["IP_0", "IP_0", "IP_1", "IP_1"]
    by_diagnosis = read(tmp_path, reader="isic-2020", class_column="diagnosis")
    assert by_diagnosis.labels == ("melanoma", "unknown")


def test_brset_reads_the_label_that_was_renamed_and_says_so(tmp_path):
    old, new = (read_layout(f"BRSET {version}", tmp_path / version) for version in ("1.0.1", "1.0.2"))
    assert (old.labels, len(new.labels)) == (new.labels, 13)
    assert new.notes == (("label read from a renamed column", "labels_brset.csv, 'drusen' as 'drusens'"),)
    assert old.notes == ()


def test_a_label_that_is_missing_is_an_error_by_name(tmp_path):
    table = make.make_brset(tmp_path) / "labels.csv"
    table.write_text(table.read_text().replace("nevus", "naevus"))
    with pytest.raises(LayoutError, match="1 of 13 label columns are missing: nevus"):
        read(tmp_path, reader="brset")
    assert read(tmp_path, reader="brset", label_columns="amd").labels == ("amd",)
    assert read(tmp_path, reader="brset", class_column="DR_ICDR").labels == ("0", "1", "2", "3")


@pytest.mark.parametrize("name", ["ODIR-5K", "ODIR-5K, one row per eye"])
def test_each_eye_has_the_labels_of_its_own_keywords(tmp_path, name):
    reading = read_layout(name, tmp_path)
    found = {
        Path(case.key).stem: "".join(label for label, value in case.labels.items() if value)
        for case in reading.cases
    }
    assert found == {
        "0_left": "C", "0_right": "N", "11_left": "DH", "11_right": "D", "3_left": "N", "3_right": "N",
        "4_left": "O",
    }  # fmt: skip
    assert {case.patient for case in reading.cases} == {"0", "11", "3", "4"}
    reasons = [reason for reason, _ in reading.skipped]
    assert reasons.count("image without a diagnosis of the eye") == 1
    assert reasons.count("keywords of the eyes that do not give the labels of the row") in (1, 2)


def test_folders_of_splits_beside_others_are_refused(tmp_path):
    for split in ("train", "test"):
        make.make_folder(tmp_path / split)
    make.write_picture(tmp_path / "extra" / "0.png", make.picture(50))
    with pytest.raises(LayoutError, match=r"splits \(test, train\) beside others \(extra\)"):
        read(tmp_path, reader="folder")
    (tmp_path / "extra" / "0.png").unlink()
    reading = read(tmp_path, reader="folder")
    assert reading.labels == ("cat", "cow", "dog")
    assert ("folder without an image", "folder extra") in reading.notes


def test_images_outside_of_class_folders_are_counted(tmp_path):
    make.make_folder(tmp_path)
    make.write_picture(tmp_path / "0.png", make.picture(50))
    reading = read(tmp_path, reader="folder")
    assert (len(reading.cases), reading.skipped[0][0]) == (9, "image outside of a class folder")


def _two_nnunet(root: Path) -> None:
    for name in ("Dataset001_A", "Dataset002_B"):
        segmentations.make_nnunet(root / "nnUNet_raw" / name)


def _no_json(root: Path) -> None:
    (segmentations.make_nnunet(root / "data") / "dataset.json").unlink()


def _images_and_masks(root: Path) -> None:
    make.make_pairs(root / "data")
    (root / "data" / "labels").rename(root / "data" / "masks")


TOO_HIGH = {
    "nnunet": (lambda root: segmentations.make_nnunet(root / "Dataset001_A"), "Dataset001_A OUT"),
    "two nnunet": (_two_nnunet, r"2 layouts.*Dataset001_A \(nnunet\), .*Dataset002_B \(nnunet\)"),
    "msd": (lambda root: segmentations.make_msd(root / "Task04_H"), "Task04_H OUT"),
    "bids": (lambda root: segmentations.make_bids(root / "ds1"), "ds1 OUT"),
    "deep bids": (lambda root: segmentations.make_bids(root / "a" / "ds1"), "a/ds1 OUT"),
    "pairs": (lambda root: make.make_pairs(root / "data"), "data OUT"),
    "no dataset.json": (_no_json, r"data OUT"),
    "masks": (_images_and_masks, r"data OUT"),
    "tables": (
        lambda root: (make.make_csv(root / "a"), make.make_csv(root / "b")),
        r"2 layouts.*a \(csv\), b \(csv\)",
    ),
}


@pytest.mark.parametrize("name", TOO_HIGH)
def test_a_folder_too_high_is_refused_with_the_command_that_works(tmp_path, name):
    maker, message = TOO_HIGH[name]
    maker(tmp_path / "in")
    with pytest.raises(LayoutError, match=message):
        run(PrepareConfig.of(dry_run=True), tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("name", [name for name in TOO_HIGH if name != "tables"])
def test_parts_of_a_layout_are_no_classes_whatever_the_settings(tmp_path, name):
    TOO_HIGH[name][0](tmp_path / "in")
    with pytest.raises(LayoutError, match=r"another layout|subjects of BIDS"):
        read(tmp_path / "in", reader="folder", color="grey")


def test_masks_do_not_become_images_of_a_class(tmp_path):
    for number, name in enumerate(("images", "masks")):
        make.write_picture(tmp_path / "flat" / name / "a.png", make.picture(number))
    with pytest.raises(LayoutError, match=r"images, masks .*reader pairs.*mask_folder masks and"):
        read(tmp_path / "flat", color="grey")
    make.make_folder(tmp_path / "inside")
    make.write_picture(tmp_path / "inside" / "cat" / "masks" / "0.png", make.picture(50))
    with pytest.raises(LayoutError, match="folder cat holds folders of another layout: masks"):
        read(tmp_path / "inside")
    make.make_folder(tmp_path / "beside")
    for name in ("b.png", "b_mask.png", "b_mask_1.png"):
        make.write_picture(tmp_path / "beside" / "cow" / name, make.picture(len(name)))
    with pytest.raises(LayoutError, match=r"2 files are named as masks of images beside them.*folder cow"):
        read(tmp_path / "beside")


def test_a_folder_per_case_with_its_mask_is_no_class(tmp_path):
    """Five cases of image.png and mask.png became five classes of two images."""
    for case in range(5):
        for number, name in enumerate(("image", "mask")):
            make.write_picture(tmp_path / f"case{case}" / f"{name}.png", make.picture(2 * case + number))
    with pytest.raises(LayoutError, match=r"named as masks of images"):
        read(tmp_path)


def test_the_command_for_a_layout_below_names_one_folder_to_a_shell(tmp_path):
    make.make_csv(tmp_path / "in" / "x; rm -rf y" / "z", patients=4)
    with pytest.raises(LayoutError, match=r"run meninx prepare '[^']*/in/x; rm -rf y' OUT"):
        read(tmp_path / "in")


def test_classes_that_mention_masks_are_classes(tmp_path):
    for number, name in enumerate(("with_mask", "without_mask", "sub-acute")):
        make.write_picture(tmp_path / name / "a.png", make.picture(number))
        make.write_picture(tmp_path / name / "mask_1.png", make.picture(9 + number))
    assert read(tmp_path).labels == ("sub-acute", "with_mask", "without_mask")


def test_a_table_beside_one_folder_of_images_is_no_class(tmp_path):
    root = make.make_csv(tmp_path)
    with pytest.raises(LayoutError, match=r"one per class, got 1, beside a table \(labels.csv\).*reader csv"):
        read(root, reader="folder")
    reading = read(root, label_columns="effusion")
    assert (reading.labels, len(reading.cases)) == (("effusion",), 12)
    assert reading.notes == (
        ("column found by its name", "image_column 'file'"),
        ("column found by its name", "patient_column 'patient_id'"),
    )


def test_one_obvious_table_is_read_and_several_are_listed(tmp_path):
    root = make.make_csv(tmp_path)
    (root / "labels.csv").rename(root / "findings.csv")
    assert ("table found", "findings.csv") in read(root, reader="csv", label_columns="effusion").notes
    shutil.copy(root / "findings.csv", root / "other.tsv")
    with pytest.raises(LayoutError, match=r"2 tables: findings.csv, other.tsv.*give table"):
        read(root, reader="csv", label_columns="effusion")
    with pytest.raises(LayoutError, match=r"2 tables: findings.csv, other.tsv.*give table"):
        recognised(PrepareConfig(), root)


def test_columns_are_found_by_documented_names_alone(tmp_path):
    make.write_picture(tmp_path / "images" / "a.png", make.picture(0))

    def table(*header: str) -> None:
        cells = {"image": "a", "path": "a.png", "scan": "a.png", "Patient ID": "P", "dx": "mel", "label": "1"}
        make.write_table(tmp_path / "labels.csv", list(header), [[cells[name] for name in header]])

    table("image", "Patient ID", "dx")
    assert read(tmp_path, reader="csv").labels == ("mel",)
    table("image", "Patient ID", "label")
    assert read(tmp_path, reader="csv").cases[0].labels == {"label": 1}
    table("image", "path", "Patient ID", "dx")
    with pytest.raises(LayoutError, match=r"several columns may name the images: image, path.*image_column"):
        read(tmp_path, reader="csv")
    table("scan", "Patient ID", "dx")
    with pytest.raises(LayoutError, match=r"no column names the images.*columns are scan, Patient ID, dx"):
        read(tmp_path, reader="csv")
    table("image", "dx", "label", "Patient ID")
    with pytest.raises(LayoutError, match="several columns may hold the classes: dx, label"):
        read(tmp_path, reader="csv")
    table("image", "dx")
    with pytest.raises(LayoutError, match=r"no column names the patients.*patient_column none"):
        read(tmp_path, reader="csv")
    reading = read(tmp_path, reader="csv", patient_column="none")
    assert (reading.patients_known, reading.cases[0].patient) == (False, "images/a.png")


def test_a_table_of_unknown_columns_is_named_with_the_flags_it_needs(tmp_path):
    for number in range(2):
        make.write_picture(tmp_path / "in" / f"{number}.png", make.picture(number))
    rows = [["0.png", "P0", "1"], ["1.png", "P1", "0"]]
    table = make.write_table(tmp_path / "in" / "tabelle.csv", ["Bild", "Fall", "Befund"], rows)
    with pytest.raises(DataError) as caught:
        recognised(PrepareConfig(), tmp_path / "in")
    message = str(caught.value)
    assert "2 images, and no column of tabelle.csv is known to name them (Bild, Fall, Befund)" in message
    assert "--image-column COLUMN --patient-column COLUMN (or none)" in message
    assert all(row[1] not in message for row in rows)
    given = {"image_column": "Bild", "patient_column": "Fall", "label_columns": "Befund"}
    assert len(read(tmp_path / "in", reader="csv", table=str(table), **given).cases) == 2
    table.write_bytes(b"Bild;Fall\n\xff\x00")
    with pytest.raises(DataError, match=r"the table tabelle.csv cannot be read"):
        recognised(PrepareConfig(), tmp_path / "in")


def test_images_without_a_row_are_counted(tmp_path):
    root = make.make_csv(tmp_path, masks=True)
    common = {"reader": "csv", "label_columns": "effusion"}
    assert all(reason != "images without a row of the table" for reason, _ in read(root, **common).notes)
    for number in range(3):
        make.write_picture(root / "images" / "more" / f"{number}.png", make.picture(50 + number))
    note = ("images without a row of the table", "3 of 15 files")
    assert note in read(root, **common).notes
    assert note in read(root, **common, require="kind=virus").notes
    (root / "masks").rename(root / "images" / "masks")
    segmentation = {"reader": "csv", "mask_folder": "images/masks", "mask_labels": "lung"}
    assert note in read(root, **segmentation).notes


def test_auto_refuses_what_it_does_not_know(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no known layout: 0 images"):
        recognised(PrepareConfig(), tmp_path / "empty")
    make.write_picture(tmp_path / "loose" / "a.png", make.picture(0))
    with pytest.raises(DataError, match="no known layout: 1 image and"):
        recognised(PrepareConfig(), tmp_path / "loose")
    with pytest.raises(DataError, match="no such folder"):
        recognised(PrepareConfig(), tmp_path / "nowhere")
    make.make_brset(tmp_path / "two")
    make.make_pad(tmp_path / "two")
    with pytest.raises(ConfigError, match=r"several readers fit this source: pad-ufes, brset"):
        recognised(PrepareConfig(), tmp_path / "two")


def test_auto_knows_archives_of_deid_pairs_and_dicom(tmp_path):
    assert recognised(PrepareConfig(), make.make_dicom(tmp_path / "north")).reader == "dicom"
    assert recognised(PrepareConfig(), tmp_path).reader == "dicom"
    assert recognised(PrepareConfig(), make.make_pairs(tmp_path / "pairs")).reader == "pairs"
    assert recognised(PrepareConfig(), make.make_msd(tmp_path / "msd")).reader == "msd"
    for reader, maker in SEGMENTED.items():
        assert recognised(PrepareConfig(), maker(tmp_path / reader)).reader == reader
    (tmp_path / "north" / "deid.json").unlink()
    assert recognised(PrepareConfig(), tmp_path / "north").reader == "dicom"


def test_a_linked_folder_of_images_is_followed_and_a_circle_is_refused(tmp_path):
    root = make.make_nih(tmp_path / "in")
    shutil.move(root / "images_001", tmp_path / "disk")
    (root / "images_001").symlink_to(tmp_path / "disk")
    reading = read(root, reader="nih")
    assert not any(found.image.missing() for found in reading.cases)
    with pytest.raises(UsageError, match="apart from each other"):
        run(PrepareConfig.of(reader="nih"), root, tmp_path / "disk" / "out")
    (root / "images_002" / "again").symlink_to(root)
    with pytest.raises(LayoutError, match="linked folder 'again' leads to a folder that is read already"):
        read(root, reader="nih")


def test_a_table_is_sought_from_the_working_folder_and_then_from_the_source(tmp_path, monkeypatch):
    root = make.make_csv(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    given = {"reader": "csv", "label_columns": "effusion", "table": "labels.csv"}
    assert len(read(root, **given).cases) == 12
    lines = (root / "labels.csv").read_text().splitlines()
    (tmp_path / "labels.csv").write_text("\n".join(lines[:4]) + "\n")
    with pytest.raises(ConfigError, match="two tables have this path"):
        read(root, **given)
    assert len(read(root, **{**given, "table": "{source}/labels.csv"}).cases) == 12
    (root / "labels.csv").unlink()
    assert len(read(root, **given).cases) == 3


@pytest.mark.parametrize(
    ("separator", "encoding", "notes"),
    [
        (";", "utf-8", {"cells separated by semicolons"}),
        ("\t", "utf-8-sig", {"cells separated by tabs"}),
        (",", "latin-1", {"Latin-1"}),
        (";", "latin-1", {"cells separated by semicolons", "Latin-1"}),
    ],
)
def test_tables_of_other_separators_and_encodings_are_read_and_named(tmp_path, separator, encoding, notes):
    root = make.make_csv(tmp_path)
    text = (root / "labels.csv").read_text().replace("site0", "München").replace(",", separator)
    (root / "labels.csv").write_bytes(text.encode(encoding))
    reading = read(root, reader="csv", label_columns="effusion", attribute_columns="hospital")
    assert reading.cases[0].attributes["hospital"] == "München"
    assert {reason for reason, _ in reading.notes} - {"column found by its name"} == notes


def test_unclear_separators_and_encodings_are_refused(tmp_path):
    make.write_picture(tmp_path / "images" / "a.png", make.picture(0))
    table = tmp_path / "labels.csv"
    table.write_text("file;x,patient;y,label\na.png;1,P;2,1\n")
    with pytest.raises(LayoutError, match="one separator of the cells, got commas and semicolons"):
        read(tmp_path, reader="csv")
    table.write_text("file,patient,label,note;x\na.png,P,1,a;b\nb.png,P,0,none\n")
    assert len(read(tmp_path, reader="csv").cases) == 2
    for content in (b"file,patient,label\n\x93a\x94.png,P,1\n", "file,patient\nä,".encode() + b"\xe4\n"):
        table.write_bytes(content)
        with pytest.raises(LayoutError, match=r"neither UTF-8 nor Latin-1.*labels.csv, line 2"):
            read(tmp_path, reader="csv")


def test_pictures_in_colour_stay_in_colour_unless_the_setting_says_grey(tmp_path):
    root = make.make_pad(tmp_path / "in")
    result = run(PrepareConfig.of(split="exact"), root, tmp_path / "a")
    assert (result.reader, result.channels) == ("pad-ufes", 3)
    assert Manifest.read(tmp_path / "a").info.channels == 3
    grey = run(PrepareConfig.of(split="exact", color="grey"), root, tmp_path / "b")
    assert grey.notes["pictures in colour that were stored as grey"] == "6 of 6"
    assert "stored as grey" in grey.summary()
    again = run(PrepareConfig.of(split="exact", color="grey", resume=True), root, tmp_path / "b")
    assert (again.reused, again.notes) == (6, grey.notes)


def test_grey_pictures_stored_in_three_channels_are_grey(tmp_path, monkeypatch):
    root = make.make_csv(tmp_path / "in")
    for n, path in enumerate(sorted((root / "images").iterdir())):
        make.write_picture(path, np.repeat(make.picture(n)[..., None], 3, axis=2))
    config = PrepareConfig.of(label_columns="effusion", split="exact")
    assert run(config, root, tmp_path / "a").channels == 1
    make.write_picture(root / "images" / "p3_1.png", make.picture(77, (12, 10, 3)))
    with pytest.raises(DataError, match=r"got 1 of 12 in colour.*take out files.*color grey or"):
        run(config, root, tmp_path / "b")
    monkeypatch.setattr(stage, "FIRST_ONES", 1)
    with pytest.raises(DataError, match=r"pictures.*first ones are.*take out files.*color grey or color rgb"):
        run(config, root, tmp_path / "b")
    mixed = run(config.replace(color="grey"), root, tmp_path / "b")
    assert mixed.notes["pictures in colour that were stored as grey"] == "1 of 12"


def test_an_existing_output_is_refused_before_the_source_is_searched(tmp_path, monkeypatch):
    root = make.make_pad(tmp_path / "in")
    config = PrepareConfig.of(split="exact")
    run(config, root, tmp_path / "out")
    assert run(config.replace(resume=True), root, tmp_path / "out").reused == 6
    monkeypatch.setattr(stage, "recognised", lambda *_: pytest.fail("the source was searched"))
    with pytest.raises(UsageError, match="holds a complete result"):
        run(config, root, tmp_path / "out")
    with pytest.raises(UsageError, match="apart from each other"):
        run(config, root, root / "out")


def test_an_unlabelled_dataset_and_a_split_without_training_are_errors(tmp_path):
    root = make.make_csv(tmp_path / "in", patients=1)
    with pytest.raises(DataError, match="none of 2 cases has a label: every cell of nodule is empty"):
        run(PrepareConfig.of(label_columns="nodule"), root, tmp_path / "out")
    config = PrepareConfig.of(label_columns="effusion", fractions=(0.01, 0.0, 0.99))
    with pytest.raises(DataError, match="cases for training"):
        run(config, root, tmp_path / "out")
    result = run(config.replace(fractions=(1.0, 0.0, 0.0)), root, tmp_path / "out")
    assert result.notes["empty split"] == "valid, test"
    assert "empty split" in result.summary()


def test_one_word_or_number_stands_for_a_list_of_one():
    config = PrepareConfig.of(label_columns="pneumonia", size=32)
    assert (config.labels.label_columns, config.images.size) == (("pneumonia",), (32,))
    with pytest.raises(ConfigError, match="size"):
        PrepareConfig.of(size=True)


def test_a_folder_reader_says_which_table_it_did_not_read(tmp_path):
    make.make_folder(tmp_path)
    make.write_table(tmp_path / "notes.csv", ["file"], [["cat/0.png"]])
    assert ("table that this reader does not read", "notes.csv") in read(tmp_path, reader="folder").notes


def test_tiff_pictures_are_prepared_and_other_kinds_counted_by_name(tmp_path):
    root = make.make_csv(tmp_path / "in", patients=6)
    table = root / "labels.csv"
    table.write_text(table.read_text().replace(".png", ".tif"))
    for path in sorted((root / "images").iterdir()):
        picture = Pillow.open(path)
        picture.save(path.with_suffix(".tif"))
        path.unlink()
    pages = [Pillow.fromarray(make.picture(n)) for n in (1, 2)]
    pages[0].save(root / "images" / "p0_0.tif", save_all=True, append_images=pages[1:])
    result = run(PrepareConfig.of(label_columns="effusion", split="exact"), root, tmp_path / "out")
    assert (result.cases, result.skipped) == (11, {"TIFF of several pages": 1})


def test_the_page_lists_every_reader_and_whether_it_names_patients():
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "prepare.md").read_text()
    rows = re.findall(
        r"^\| `([a-z0-9-]+)` \| .* \| (.*) \|$",
        page.split("## From a public layout")[1].split("## ")[0],
        re.M,
    )
    assert sorted(name for name, _ in rows) == sorted(READER_NAMES)
    patients = dict(rows)
    for name, layout in PUBLISHED.items():
        assert patients[name].startswith("yes" if layout.patients_known else "**no**"), name


def test_layouts_of_the_module_are_those_of_the_readers():
    assert {reader for reader, _, _ in LAYOUTS.values()} >= set(PUBLISHED)
    assert len(layouts.VINDR_FINDINGS) == 28


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout[0] in PUBLISHED])
def test_published_layouts_count_pictures_without_a_row(tmp_path, name):
    reader, maker, given = LAYOUTS[name]
    root = maker(tmp_path)
    reading = read(root, reader=reader, **given)
    assert "images without a row of the table" not in dict(reading.notes)
    folder = reading.cases[0].image.path.parent
    for number in range(3):
        make.write_picture(folder / f"stray{number}.png", make.picture(50 + number))
    note = dict(read(root, reader=reader, **given).notes)["images without a row of the table"]
    assert re.fullmatch(r"3 of \d+ files", note)


def test_an_image_whose_row_is_left_out_has_a_row(tmp_path):
    root = layouts.make_odir(tmp_path)
    table = root / "ODIR-5K_Training_Annotations(Updated)_V2.csv"
    table.write_text(table.read_text().replace("cataract", "glaucoma"))  # disagrees with the row's labels
    reading = read(root, reader="odir")
    assert len(reading.skipped) > 1
    assert "images without a row of the table" not in dict(reading.notes)
    reading = read(make.make_mimic(tmp_path / "mimic"), reader="mimic")
    assert reading.skipped[0][0] == "no label row"
    assert "images without a row of the table" not in dict(reading.notes)


def test_the_settings_know_what_each_published_table_has():
    """The tuples of prepare/config.py, which cannot import the layouts, against the layouts themselves."""

    def having(condition: Callable[[PublishedTable], object]) -> set[str]:
        return {name for name, layout in PUBLISHED.items() if condition(layout)}

    published = set(PUBLISHED)
    assert tuple(PUBLISHED) == config.PUBLISHED
    assert set(config.ONE_TABLE) == having(lambda layout: len(layout.tables) == 1)
    one_class = having(lambda layout: layout.diagnosis or layout.one_hot)
    assert set(config.ONLY_CLASSES) & published == one_class
    assert set(config.LABEL_COLUMNS) & published == published - one_class
    assert set(config.GRADED) & published == having(lambda layout: layout.labels and not layout.one_hot)
    assert set(config.MERGED) == having(lambda layout: layout.malignant)
    assert set(config.EFFECTS["sex_codes"].readers) & published == having(lambda layout: layout.sex)
    assert set(config.ROWS) - {"csv"} == published
