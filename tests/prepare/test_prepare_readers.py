from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import prepare_fixtures as make
import pytest

from meninx.core.errors import ConfigError, DataError, LayoutError, PrivacyRefusal
from meninx.core.manifest import TaskKind
from meninx.prepare.config import READER_NAMES, PrepareConfig
from meninx.prepare.readers import READERS
from meninx.prepare.source_cases import ReaderOutput


def read(root: Path, **settings) -> ReaderOutput:
    config = PrepareConfig.of(**settings)
    return READERS[config.reader](root, config, "")


def by_key(reading: ReaderOutput) -> dict:
    return {found.key: found for found in reading.cases}


def test_every_reader_of_the_config_is_registered():
    assert tuple(READERS) == READER_NAMES


def test_csv_label_columns(tmp_path):
    reading = read(make.make_csv(tmp_path), reader="csv", label_columns=("effusion", "nodule"))
    assert (len(reading.cases), reading.task, reading.labels) == (
        12,
        TaskKind.MULTILABEL,
        ("effusion", "nodule"),
    )
    first = by_key(reading)["images/p0_0.png"]
    assert dict(first.labels) == {"effusion": 0.0, "nodule": None}
    assert (first.patient, dict(first.attributes)) == ("P0", {"sex": "F", "age": "40"})
    assert first.where == "labels.csv, row 2"


def test_csv_class_column_gives_classes_or_one_merged_label(tmp_path):
    root = make.make_csv(tmp_path)
    several = read(root, reader="csv", class_column="kind")
    assert (several.task, several.labels) == (TaskKind.MULTICLASS, ("bacteria", "normal", "virus"))
    merged = read(
        root, reader="csv", class_column="kind", positive=("bacteria", "virus"), positive_name="pneumonia"
    )
    assert (merged.task, merged.labels) == (TaskKind.MULTILABEL, ("pneumonia",))
    assert by_key(merged)["images/p0_0.png"].labels["pneumonia"] == 0
    two = read(root, reader="csv", class_column="kind", classes=("virus", "normal"))
    assert two.labels == ("virus", "normal")
    assert len(two.cases) == 8
    assert {reason for reason, _ in two.skipped} == {"no class that was asked for"}


def test_csv_masks_by_folder_and_rows_by_rule(tmp_path):
    root = make.make_csv(tmp_path, masks=True)
    reading = read(
        root, reader="csv", mask_folder="masks", mask_labels=("lung",), require=("kind=virus|normal", "sex=F")
    )
    assert (reading.task, reading.labels, len(reading.cases)) == (TaskKind.SEGMENTATION, ("lung",), 4)
    assert all(found.mask is not None for found in reading.cases)
    with pytest.raises(ConfigError, match="meets every rule"):
        read(root, reader="csv", label_columns=("effusion",), require=("sex=X",))


def test_csv_graded_labels_uncertain_and_blank(tmp_path):
    rows = [[f"{n}.png", f"P{n}", grade] for n, grade in enumerate(("1", "2", "3", "4", "-1", ""))]
    make.write_table(tmp_path / "labels.csv", ["file", "patient_id", "congestion"], rows)
    common = {"reader": "csv", "label_columns": ("congestion",), "positive_from": 3.0}
    graded = [found.labels["congestion"] for found in read(tmp_path, **common).cases]
    assert graded == [0, 0, 1, 1, None, None]
    graded = [
        found.labels["congestion"] for found in read(tmp_path, **common, uncertain="one", blank="zero").cases
    ]
    assert graded == [0, 0, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_columns": ("efusion",)}, r"column 'efusion'.*labels.csv, row 1.*did you mean 'effusion'"),
        ({"label_columns": ("age",)}, r"0, 1, -1.*labels.csv, row 2, column 'age'"),
        (
            {"label_columns": ("effusion",), "patient_column": "nodule"},
            r"empty cell.*labels.csv, row 2, column 'nodule'",
        ),
        ({"label_columns": ("effusion",), "table": "other.csv"}, r"no such file.*other.csv"),
    ],
)
def test_csv_errors_name_file_column_and_row_but_no_value(tmp_path, settings, message):
    root = make.make_csv(tmp_path)
    with pytest.raises(LayoutError, match=message) as caught:
        read(root, reader="csv", **settings)
    assert "P0" not in str(caught.value)
    assert "p0_0" not in str(caught.value)


def test_csv_rows_of_wrong_length_and_foreign_encoding(tmp_path):
    (tmp_path / "labels.csv").write_text("file,patient_id,effusion\na.png,P1,1\nb.png,P2\n")
    with pytest.raises(LayoutError, match=r"3 cells, got 2 \(labels.csv, row 3\)"):
        read(tmp_path, reader="csv", label_columns=("effusion",))
    (tmp_path / "labels.csv").write_bytes("file,patient_id\nä,1".encode("utf-16"))
    with pytest.raises(LayoutError, match="UTF-8"):
        read(tmp_path, reader="csv", label_columns=("effusion",))


def test_csv_without_anything_to_learn(tmp_path):
    with pytest.raises(ConfigError, match="nothing to learn"):
        read(make.make_csv(tmp_path), reader="csv")


def test_folder_classes_and_published_split(tmp_path):
    reading = read(make.make_folder(tmp_path / "a"), reader="folder")
    assert (reading.labels, len(reading.cases), reading.patients_known) == (("cat", "cow", "dog"), 9, False)
    for split in ("train", "val"):
        make.make_folder(tmp_path / "b" / split)
    reading = read(tmp_path / "b", reader="folder")
    assert {found.split for found in reading.cases} == {"train", "valid"}
    assert reading.labels == ("cat", "cow", "dog")
    (tmp_path / "c").mkdir()
    with pytest.raises(LayoutError, match="one folder per class"):
        read(tmp_path / "c", reader="folder")


def test_pairs_report_cases_without_partner(tmp_path):
    reading = read(make.make_pairs(tmp_path), reader="pairs", mask_labels=("anterior", "posterior"))
    assert (len(reading.cases), reading.spatial_dims, reading.task) == (2, 3, TaskKind.SEGMENTATION)
    assert sorted(reason for reason, _ in reading.skipped) == [
        "image without a label map",
        "label map without an image",
    ]
    with pytest.raises(LayoutError, match="no folder elsewhere"):
        read(tmp_path, reader="pairs", mask_folder="elsewhere")


def test_npz_medmnist(tmp_path):
    reading = read(make.make_npz(tmp_path), reader="npz")
    assert (reading.task, reading.labels, len(reading.cases)) == (TaskKind.MULTICLASS, ("0", "1", "2"), 12)
    assert [found.split for found in reading.cases].count("valid") == 3
    assert reading.cases[0].image.load().array.shape == (3, 7, 7)


def test_npz_label_matrix_and_eleven_classes_stay_in_number_order(tmp_path):
    np.savez(tmp_path / "a.npz", train_images=make.picture(0, (3, 5, 5)), train_labels=np.eye(3, dtype=int))
    reading = read(tmp_path, reader="npz", label_columns=("label_2",))
    assert [found.labels["label_2"] for found in reading.cases] == [0, 0, 1]
    (tmp_path / "b").mkdir()
    np.savez(tmp_path / "b" / "a.npz", images=make.picture(0, (11, 5, 5)), labels=np.arange(11))
    assert read(tmp_path / "b", reader="npz").labels == tuple(str(n) for n in range(11))


def test_npz_plain_arrays_with_text_objects_and_patients(tmp_path):
    people = np.array(["a", "a", "b"], dtype=object)
    np.savez(
        tmp_path / "x.npz",
        images=make.picture(0, (3, 5, 5)),
        ill=np.array([0, 1, 1]),
        patient_id=people,
        sex=np.array(["F", "F", "M"]),
    )
    reading = read(tmp_path, reader="npz", label_columns=("ill",))
    assert [found.patient for found in reading.cases] == ["a", "a", "b"]
    assert reading.patients_known
    assert reading.cases[2].attributes["sex"] == "M"
    with pytest.raises(LayoutError, match=r"no array 'wrong'.*x.npz"):
        read(tmp_path, reader="npz", label_columns=("wrong",))


class Harmful:
    def __reduce__(self):
        return print, ("this must not run",)


def test_npz_never_runs_what_it_holds(tmp_path, capsys):
    np.savez(
        tmp_path / "x.npz", images=make.picture(0, (1, 5, 5)), labels=np.array([Harmful()], dtype=object)
    )
    assert pickle.loads(pickle.dumps(Harmful())) is None  # the payload works when it is let
    assert "must not run" in capsys.readouterr().out
    with pytest.raises(LayoutError, match="numbers and text"):
        read(tmp_path, reader="npz")
    assert capsys.readouterr().out == ""


def test_npz_lengths_must_agree(tmp_path):
    np.savez(tmp_path / "x.npz", images=make.picture(0, (3, 5, 5)), labels=np.arange(2))
    with pytest.raises(LayoutError, match="3 items, got 2"):
        read(tmp_path, reader="npz")


def test_nih(tmp_path):
    reading = read(make.make_nih(tmp_path), reader="nih")
    assert (len(reading.labels), reading.attributes) == (14, ("sex", "age", "view"))
    found = by_key(reading)["images_002/images/00000001_000.png"]
    assert [name for name, value in found.labels.items() if value] == ["Cardiomegaly", "Effusion"]
    assert dict(found.attributes) == {"sex": "M", "age": "58", "view": "PA"}
    assert [case.split for case in reading.cases] == ["train", "train", "train", "test"]
    assert not any(case.image.missing() for case in reading.cases)
    with pytest.raises(ConfigError, match="did you mean 'Hernia'"):
        read(tmp_path, reader="nih", label_columns=("Hernias",))


def test_nih_unknown_finding_names_the_row(tmp_path):
    make.make_nih(tmp_path)
    table = tmp_path / "Data_Entry_2017.csv"
    table.write_text(table.read_text().replace("Hernia", "Hernioid"))
    with pytest.raises(LayoutError, match=r"Data_Entry_2017.csv, row 4, column 'Finding Labels'"):
        read(tmp_path, reader="nih")


def test_chexpert_policies(tmp_path):
    root = make.make_chexpert(tmp_path)
    reading = read(root, reader="chexpert")
    found = reading.cases[0]
    assert (found.patient, found.study, found.split) == ("patient00001", "patient00001/study1", "train")
    assert (found.labels["Edema"], found.labels["Pleural Other"]) == (0, None)
    assert reading.cases[-1].split == "valid"
    assert not found.image.missing()
    ones = read(
        root, reader="chexpert", uncertain="one", blank="unknown", label_columns=("Edema", "Pleural Other")
    )
    assert dict(ones.cases[0].labels) == {"Edema": None, "Pleural Other": 1}


def test_chexpert_path_without_patient(tmp_path):
    make.make_chexpert(tmp_path)
    table = tmp_path / "train.csv"
    table.write_text(table.read_text().replace("patient00002", "person2"))
    with pytest.raises(LayoutError, match=r"patientXXXXX/studyN.*train.csv, row 3, column 'Path'"):
        read(tmp_path, reader="chexpert")


def test_mimic(tmp_path):
    reading = read(make.make_mimic(tmp_path), reader="mimic", uncertain="one")
    assert [found.split for found in reading.cases] == ["train", "valid", "test"]
    assert not any(found.image.missing() for found in reading.cases)
    assert dict(reading.cases[0].attributes) == {"sex": "F", "age": "57", "view": "PA"}
    assert (reading.cases[0].labels["Cardiomegaly"], reading.cases[0].labels["Fracture"]) == (1, 0)
    assert reading.skipped == (("no label row", "mimic-cxr-2.0.0-metadata.csv, row 5"),)


@pytest.mark.parametrize("header", [True, False])
def test_siim_masks_merge_rows_and_know_the_empty_one(tmp_path, header):
    reading = read(make.make_siim(tmp_path, header), reader="siim")
    assert [int(found.mask.load().array.sum()) for found in reading.cases] == [4, 0, 0]
    assert reading.cases[0].mask.load().array[0, 2:5, 7].all()
    assert reading.skipped[0][0] == "missing file"
    assert dict(reading.cases[0].attributes) == {"sex": "F", "age": "57", "view": "PA"}
    labels = [
        found.labels["pneumothorax"] for found in read(tmp_path, reader="siim", task="multilabel").cases
    ]
    assert labels == [1, 0, 0]


def test_ham10000_lesions_and_malignant(tmp_path):
    root = make.make_ham(tmp_path)
    reading = read(root, reader="ham10000")
    assert (reading.labels, len(reading.cases)) == (("akiec", "bcc", "mel", "nv", "vasc"), 12)
    assert len({found.patient for found in reading.cases}) == 6
    merged = read(root, reader="ham10000", malignant=True)
    assert merged.labels == ("malignant",)
    assert sum(found.labels["malignant"] for found in merged.cases) == 6


def test_radimagenet(tmp_path):
    reading = read(make.make_radimagenet(tmp_path), reader="radimagenet")
    assert [found.split for found in reading.cases] == ["train", "train", "valid", "valid", "test", "test"]
    assert reading.labels == ("cyst", "normal")
    assert not any(found.image.missing() for found in reading.cases)


def test_msd(tmp_path):
    reading = read(make.make_msd(tmp_path), reader="msd")
    assert (reading.labels, reading.spatial_dims, len(reading.cases)) == (("liver", "cancer"), 3, 3)
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "background", "a": "x"}, "training": []}')
    with pytest.raises(LayoutError, match="label names with whole numbers"):
        read(tmp_path, reader="msd")
    (tmp_path / "dataset.json").write_text('{"labels": {"1": "x"}, "training": [{"image": "a"}]}')
    with pytest.raises(LayoutError, match="training entry 1"):
        read(tmp_path, reader="msd")


def test_brset_codes_of_sex(tmp_path):
    reading = read(make.make_brset(tmp_path), reader="brset")
    assert len(reading.labels) == 13
    assert [found.attributes["sex"] for found in reading.cases] == ["M", "F", "M", "F"]


def test_pad_ufes(tmp_path):
    root = make.make_pad(tmp_path)
    assert read(root, reader="pad-ufes").labels == ("ACK", "BCC", "MEL", "NEV", "SCC", "SEK")
    merged = read(root, reader="pad-ufes", malignant=True)
    assert [found.labels["malignant"] for found in merged.cases] == [1, 0, 1, 0, 1, 0]


def test_dicom_by_clean_identifiers(tmp_path):
    make.make_dicom(tmp_path / "north")
    reading = read(tmp_path / "north", reader="dicom", table="../north.csv")
    assert (reading.labels, len(reading.cases)) == (("effusion", "nodule"), 8)
    found = reading.cases[0]
    assert (found.patient, found.pseudonymous) == ("NORTH-0", True)
    assert dict(found.attributes) == {"sex": "F", "age": "57", "view": ""}


def test_dicom_by_original_identifiers_and_crosswalk(tmp_path):
    root = make.make_dicom(tmp_path / "north")
    rows = [[f"ORIGINAL-{n}", n % 2] for n in range(4)]
    make.write_table(tmp_path / "own.csv", ["PatientID", "effusion"], rows)
    with pytest.raises(DataError, match=r"none of 4 rows.*crosswalks"):
        read(root, reader="dicom", table="../own.csv")
    make.write_table(
        root / "private" / "walk.csv",
        ["id_old", "id_new"],
        [[f"ORIGINAL-{n}", f"NORTH-{n}"] for n in range(4)],
    )
    reading = read(root, reader="dicom", table="../own.csv", crosswalks=("{source}/private/walk.csv",))
    assert [found.labels["effusion"] for found in reading.cases] == [0, 0, 1, 1, 0, 0, 1, 1]


def test_dicom_most_specific_identifier_wins_and_unused_rows_are_told(tmp_path):
    root = make.make_dicom(tmp_path / "north")
    uid = min((tmp_path / "north").rglob("*.dcm")).stem
    rows = [["", "NORTH-0", 0], [uid, "NORTH-0", 1], ["2.25.404", "NORTH-3", 1]]
    make.write_table(tmp_path / "own.csv", ["SOPInstanceUID", "PatientID", "effusion"], rows)
    reading = read(root, reader="dicom", table="../own.csv")
    assert {found.key: found.labels["effusion"] for found in reading.cases}[uid] == 1
    assert [found.labels["effusion"] for found in reading.cases] == [1, 0]
    reasons = [reason for reason, _ in reading.skipped]
    assert reasons.count("no label row") == 6
    assert reasons.count("label row without an image") == 1


def test_dicom_refuses_files_that_are_not_marked_clean(tmp_path):
    root = make.make_dicom(tmp_path / "north", removed="")
    with pytest.raises(PrivacyRefusal, match="8 of 8 files") as caught:
        read(root, reader="dicom", table="../north.csv")
    assert "NORTH" not in str(caught.value)
    reading = read(root, reader="dicom", table="../north.csv", trusted=True)
    assert not any(found.pseudonymous for found in reading.cases)


def test_dicom_refuses_one_row_too_many(tmp_path):
    root = make.make_dicom(tmp_path / "north")
    make.write_table(tmp_path / "own.csv", ["PatientID", "effusion"], [["NORTH-0", 0], ["NORTH-0", 1]])
    with pytest.raises(LayoutError, match=r"after own.csv, row 2.*own.csv, row 3"):
        read(root, reader="dicom", table="../own.csv")


def test_dicom_series_are_cases_in_three_dimensions(tmp_path):
    reading = read(
        make.make_series(tmp_path), reader="dicom", table="labels.csv", mask_column="mask", spatial_dims=3
    )
    assert (len(reading.cases), reading.task) == (2, TaskKind.SEGMENTATION)
    assert reading.cases[0].image.load().array.shape == (1, 7, 6, 5)
    assert reading.cases[0].mask.load().array.shape == (1, 7, 6, 5)


def test_dicom_without_files_or_table(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no DICOM files"):
        read(tmp_path / "empty", reader="dicom", table="x.csv")
    with pytest.raises(ConfigError, match="no table of labels"):
        read(make.make_dicom(tmp_path / "north"), reader="dicom")


def test_files_that_are_not_dicom_are_told(tmp_path):
    root = make.make_dicom(tmp_path / "north")
    (root / "images" / "stray.dcm").write_bytes(b"nothing of the kind")
    reading = read(root, reader="dicom", table="../north.csv")
    assert [reason for reason, _ in reading.skipped] == ["not DICOM"]


def test_a_path_with_the_source_in_it_may_be_given_from_anywhere(tmp_path, monkeypatch):
    from meninx.prepare.readers.source_files import resolve

    monkeypatch.chdir(tmp_path)
    site = Path("clean/north")
    assert resolve("{source}/private/x.csv", site) == tmp_path / "clean/north/private/x.csv"
    assert resolve("../{site}.csv", site, "north") == Path("clean/north/../north.csv")
