"""Descriptions of the published datasets that :mod:`meninx.prepare.readers.published_table` reads.

**ChestX-ray14** of the NIH: ``Data_Entry_2017.csv`` or ``Data_Entry_2017_v2020.csv`` (where ``Patient
Gender`` became ``Patient Sex``), ``images_001/images/*.png`` ... or ``images/*.png``, and for the published
split ``train_val_list.txt`` and ``test_list.txt``.

**CheXpert** and CheXpert-small: ``train.csv`` and ``valid.csv``; ``Path`` holds ``patientXXXXX/studyN/``. The
images lie at that path, with or without the folder of the dataset in front, or in the batch folders of the
full download (``CheXpert-v1.0 batch 2 (train 1)/patientXXXXX/...``). Empty labels mean not mentioned and
become 0 unless ``blank="unknown"``; -1 follows ``uncertain``. ``require=("Frontal/Lateral=Frontal",)`` keeps
the frontal views.

**MIMIC-CXR-JPG**: ``-metadata.csv.gz`` (one row per image), ``-chexpert.csv.gz`` (labels per study),
``-split.csv.gz``, images at ``files/p10/p10000032/s50414267/<dicom_id>.jpg``. ``patients.csv.gz`` of MIMIC-IV
beside them gives the sex and the age at the study: ``anchor_age`` plus the year of the study minus
``anchor_year``. Tables may be unpacked.

**PadChest**: ``PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv``, images in the folders of ``ImageDir``.
``label_columns`` names the findings; there is no fixed list. A row without findings has unknown labels.

**RSNA pneumonia**: ``stage_2_train_labels.csv`` with one row per box, images as DICOM. ``patientId`` names an
image.

**VinDr-CXR**: ``image_labels_train.csv`` with one row per image and radiologist, ``image_labels_test.csv``
with the consensus, images as ``<image_id>.dicom``. The majority of the radiologists decides; see
``several_rows``.

**RadImageNet**: ``RadiologyAI_train.csv``, ``_val``, ``_test`` and
``radiology_ai/<modality>/<region>/<class>/*.png``. The tables name no patients, so use ``split="published"``,
whose parts were made by patient.

**HAM10000**: ``HAM10000_metadata.csv`` and ``HAM10000_images*``. It names lesions, not patients, so the
lesion stands for the patient, as in **ISIC 2018** (task 3, with
``ISIC2018_Task3_Training_LesionGroupings.csv``) and **ISIC 2019** (with ``ISIC_2019_Training_Metadata.csv``),
whose tables have one column per class. **ISIC 2020** names patients.

**PAD-UFES-20**: ``metadata.csv`` and ``imgs_part_1`` to ``_3``. Caution: gender and many other columns are
filled in for every biopsied lesion but for few others, so whether they are present leaks the diagnosis. Group
metrics by sex compare mostly biopsied lesions, and a model must never see these columns.

**BRSET**: ``labels.csv`` or ``labels_brset.csv`` and ``fundus_photos/``; version 1.0.2 calls ``drusens``
``drusen``. ``class_column`` takes one grade instead of the labels.

**ODIR-5K**: the sheet of annotations saved as CSV (or ``full_df.csv``), with two eyes per row. Its eight
labels are of both eyes together, so each eye has the labels that its own keywords mean. A row whose keywords
do not add up to its labels is left out and counted, as is an eye without a diagnosis.

References:
    Wang et al., ChestX-ray8, CVPR 2017. Irvin et al., CheXpert, AAAI 2019. Johnson et al., MIMIC-CXR-JPG,
    2019. Bustos et al., PadChest, Medical Image Analysis 2020. Shih et al., RSNA pneumonia, Radiology: AI
    2019. Nguyen et al., VinDr-CXR, Scientific Data 2022. Mei et al., RadImageNet, Radiology: AI 2022.
    Tschandl et al., HAM10000, Scientific Data 2018. Pacheco et al., PAD-UFES-20, Data in Brief 2020.
    Rotemberg et al., ISIC 2020, Scientific Data 2021. Nakayama et al., BRSET, PLOS Digital Health 2024. Li et
    al., ODIR, Bench 2020.
"""

from __future__ import annotations

import re

from meninx.core.csv_table import CsvRow, CsvTable
from meninx.imaging.load import PICTURES
from meninx.prepare.readers.published_table import (
    Expanded,
    FindingsColumn,
    Joined,
    Names,
    Part,
    PublishedTable,
)
from meninx.prepare.readers.source_files import DICOM

_BACKGROUND = {  # keywords of ODIR about the picture, not about the eye
    "lens dust", "low image quality", "optic disk photographically invisible", "image offset",
}  # fmt: skip
_NO_FUNDUS = {"no fundus image", "anterior segment image"}
_ODIR_LETTERS = {  # part of a keyword -> label; what matches nothing is another disease
    "normal fundus": "N",
    "diabetic retinopathy": "D",
    "proliferative retinopathy": "D",
    "glaucoma": "G",
    "cataract": "C",
    "age-related macular degeneration": "A",
    "hypertensive retinopathy": "H",
    "myopi": "M",
}
ODIR_LABELS = ("N", "D", "G", "C", "A", "H", "M", "O")
EYES_DISAGREE = "keywords of the eyes that do not give the labels of the row"
NO_DIAGNOSIS = "image without a diagnosis of the eye"


def _same(*names: str) -> dict[str, Names]:
    return {name: (name,) for name in names}


def _bar_separated(cell: str) -> set[str] | None:
    return {name.strip() for name in cell.split("|")} if cell else None


def _python_list(cell: str) -> set[str] | None:
    """Return the texts of a list in Python's notation, or None for an empty cell."""
    if not cell.startswith("["):
        return None
    return {(one or two).strip() for one, two in re.findall(r"'([^']*)'|\"([^\"]*)\"", cell)} - {""}


def _year(cell: str) -> int | None:
    found = re.match(r"[12]\d{3}", cell)
    return int(found[0]) if found else None


def _age_at_study(row: CsvRow) -> str:
    """Return the age in the year of the study, from the age in the anchor year of MIMIC-IV."""
    study, anchor = _year(row.get("StudyDate")), _year(row.get("anchor_year"))
    age = row.get("anchor_age")
    return str(int(age) + study - anchor) if age.isdigit() and study and anchor else ""


def _age_by_birth(row: CsvRow) -> str:
    study, birth = _year(row.get("StudyDate_DICOM")), _year(row.get("PatientBirth"))
    return str(study - birth) if study and birth and study >= birth else ""


def _eyes(table: CsvTable) -> Expanded:
    """Return the table of ODIR with one row per eye, whose labels follow from the keywords of that eye."""
    sides = [("Left-Fundus", "Left-Diagnostic Keywords"), ("Right-Fundus", "Right-Diagnostic Keywords")]
    table.needs(["ID", *(name for side in sides for name in side), *ODIR_LABELS])
    rows: list[CsvRow] = []
    skipped: list[tuple[str, str]] = []
    left_out: list[str] = []
    for row in table:
        found = [_letters(row.get(keywords)) for _, keywords in sides]
        union = set[str]().union(*(letters for letters in found if letters))
        diseases = union - {"N"}
        if (diseases or union) != {name for name in ODIR_LABELS if row.get(name) in ("1", "1.0")}:
            skipped.append((EYES_DISAGREE, row.where))
            left_out += [row.get(image) for image, _ in sides]
            continue
        for (image, _), letters in zip(sides, found, strict=True):
            if row.has("filename") and row.get("filename") != row.get(image):
                continue  # full_df.csv has a row for each eye
            if not letters:
                skipped.append((NO_DIAGNOSIS, row.where))
                left_out.append(row.get(image))
                continue
            cells = {name: str(int(name in letters)) for name in ODIR_LABELS}
            rows.append(CsvRow({**row.cells, **cells, "image": row.need(image)}, row.table, row.number))
    eyes = CsvTable(table.name, (*table.columns, "image"), tuple(rows), table.form)
    return Expanded(table=eyes, skipped=tuple(skipped), left_out=tuple(left_out))


def _letters(keywords: str) -> set[str]:
    """Return the labels for the keywords of one eye; none for a picture without a fundus."""
    words = {word.strip().lower() for word in re.split("[,\uff0c]", keywords)} - {""} - _BACKGROUND
    if not words or words & _NO_FUNDUS:
        return set()
    return {next((letter for part, letter in _ODIR_LETTERS.items() if part in word), "O") for word in words}


NIH = PublishedTable(
    tables=(Part(names=("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv")),),
    image=("Image Index",),
    patient=("Patient ID",),
    findings=FindingsColumn(
        column="Finding Labels",
        parts=_bar_separated,
        nothing=frozenset({"No Finding"}),
        known=(
            "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia",
            "Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
        ),
    ),
    split_lists=(("train_val_list.txt", "train"), ("test_list.txt", "test")),
    sex=("Patient Gender", "Patient Sex"),
    age=("Patient Age",),
    view=("View Position",),
)  # fmt: skip
CHEXPERT = PublishedTable(
    tables=(
        Part(names=("train.csv",), split="train"),
        Part(names=("valid.csv",), split="valid", needed=False),
    ),
    image=("Path",),
    depth=3,
    whose=re.compile(r"(patient\d+)/(study\d+)/"),
    labels=_same(
        "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
        "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other",
        "Fracture", "Support Devices",
    ),
    blank="zero",
    sex=("Sex",),
    age=("Age",),
)  # fmt: skip
_MIMIC = ("mimic-cxr-2.0.0-{}.csv.gz", "mimic-cxr-2.0.0-{}.csv")
MIMIC = PublishedTable(
    tables=(Part(names=tuple(name.format("metadata") for name in _MIMIC)),),
    image=("dicom_id",),
    place="files/p{subject_id:.2}/p{subject_id}/s{study_id}/{dicom_id}.jpg",
    patient=("subject_id",),
    study=("study_id",),
    labels=_same(
        "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture",
        "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia",
        "Pneumothorax", "Support Devices",
    ),
    joined=(
        Joined(names=tuple(name.format("chexpert") for name in _MIMIC), key="study_id", needed=True),
        Joined(names=tuple(name.format("split") for name in _MIMIC), key="dicom_id", columns=("split",)),
        Joined(
            names=("patients.csv.gz", "patients.csv"), key="subject_id",
            columns=("gender", "anchor_age", "anchor_year"),
        ),
    ),
    blank="zero",
    sex=("gender",),
    age_of=_age_at_study,
    age_from=("anchor_age", "anchor_year", "StudyDate"),
    view=("ViewPosition",),
)  # fmt: skip
_PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K"
PADCHEST = PublishedTable(
    tables=(
        Part(
            names=tuple(
                f"{_PADCHEST}{end}" for end in ("_01.02.19.csv", "_01.02.19.csv.gz", ".csv", ".csv.gz")
            )
        ),
    ),
    image=("ImageID",),
    place="{ImageDir}/{ImageID}",
    patient=("PatientID",),
    study=("StudyID",),
    findings=FindingsColumn(column="Labels", parts=_python_list),
    sex=("PatientSex_DICOM",),
    age_of=_age_by_birth,
    age_from=("PatientBirth", "StudyDate_DICOM"),
    view=("Projection",),
)
RSNA = PublishedTable(
    tables=(Part(names=("stage_2_train_labels.csv",)),),
    image=("patientId",),
    suffixes=(*DICOM, *PICTURES),
    labels={"pneumonia": ("Target",)},
    several_rows="any",
    patients_known=False,
)
VINDR = PublishedTable(
    tables=(
        Part(names=("image_labels_train.csv",), split="train"),
        Part(names=("image_labels_test.csv",), split="test", needed=False),
    ),
    image=("image_id",),
    suffixes=(*DICOM, *PICTURES),
    labels={
        **_same(
            "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture",
            "Consolidation", "Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity",
            "Lung cavity", "Lung cyst", "Mediastinal shift", "Nodule/Mass", "Pleural effusion",
            "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture", "Other lesion",
            "COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "No finding",
        ),
        "Other diseases": ("Other diseases", "Other disease"),  # the two tables spell it differently
    },
    several_rows="majority",
    patients_known=False,
)  # fmt: skip
RADIMAGENET = PublishedTable(
    tables=tuple(
        Part(names=(f"RadiologyAI_{split}.csv",), split=split, needed=split == "train")
        for split in ("train", "val", "test")
    ),
    image=("filename",),
    place="radiology_ai/{filename}",
    diagnosis=("label",),
    patients_known=False,
)
HAM10000 = PublishedTable(
    tables=(Part(names=("HAM10000_metadata.csv", "HAM10000_metadata")),),
    image=("image_id",),
    patient=("lesion_id",),
    diagnosis=("dx",),
    malignant=("akiec", "bcc", "mel"),
    sex=("sex",),
    age=("age",),
    patients_known=False,
)
ISIC_2018 = PublishedTable(
    tables=(
        Part(names=("ISIC2018_Task3_Training_GroundTruth.csv",), split="train"),
        Part(names=("ISIC2018_Task3_Validation_GroundTruth.csv",), split="valid", needed=False),
        Part(names=("ISIC2018_Task3_Test_GroundTruth.csv",), split="test", needed=False),
    ),
    image=("image",),
    patient=("lesion_id",),
    labels=_same("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"),
    one_hot=True,
    malignant=("AKIEC", "BCC", "MEL"),
    joined=(
        Joined(names=("ISIC2018_Task3_Training_LesionGroupings.csv",), key="image", columns=("lesion_id",)),
    ),
    patients_known=False,
)
ISIC_2019 = PublishedTable(
    tables=(Part(names=("ISIC_2019_Training_GroundTruth.csv",)),),
    image=("image",),
    patient=("lesion_id",),
    labels=_same("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"),
    one_hot=True,
    malignant=("BCC", "MEL", "SCC"),
    joined=(
        Joined(
            names=("ISIC_2019_Training_Metadata.csv",), key="image",
            columns=("lesion_id", "sex", "age_approx"),
        ),
    ),
    sex=("sex",),
    age=("age_approx",),
    patients_known=False,
)  # fmt: skip
ISIC_2020 = PublishedTable(
    tables=(
        Part(
            names=("ISIC_2020_Training_GroundTruth_v2.csv", "ISIC_2020_Training_GroundTruth.csv", "train.csv")
        ),
    ),
    image=("image_name",),
    suffixes=(*PICTURES, *DICOM),
    patient=("patient_id",),
    labels={"malignant": ("target",)},
    sex=("sex",),
    age=("age_approx",),
)
PAD_UFES = PublishedTable(
    tables=(Part(names=("metadata.csv",)),),
    image=("img_id",),
    patient=("patient_id",),
    diagnosis=("diagnostic",),
    malignant=("BCC", "MEL", "SCC"),
    sex=("gender",),
    age=("age",),
)
BRSET = PublishedTable(
    tables=(Part(names=("labels.csv", "labels_brset.csv")),),
    image=("image_id",),
    patient=("patient_id",),
    labels={
        **_same(
            "diabetic_retinopathy", "macular_edema", "scar", "nevus", "amd", "vascular_occlusion",
            "hypertensive_retinopathy",
        ),
        "drusens": ("drusens", "drusen"),
        **_same("hemorrhage", "retinal_detachment", "myopic_fundus", "increased_cup_disc", "other"),
    },
    sex=("patient_sex",),
    age=("patient_age",),
    codes={"1": "M", "2": "F"},
)  # fmt: skip
ODIR = PublishedTable(
    tables=(
        Part(
            names=(
                "full_df.csv", "ODIR-5K_Training_Annotations(Updated)_V2.csv",
                "ODIR-5K_Training_Annotations.csv", "data.csv",
            )
        ),
    ),
    image=("image",),
    patient=("ID",),
    labels=_same(*ODIR_LABELS),
    expanded=_eyes,
    sex=("Patient Sex",),
    age=("Patient Age",),
)  # fmt: skip

PUBLISHED: dict[str, PublishedTable] = {
    "nih": NIH,
    "chexpert": CHEXPERT,
    "mimic": MIMIC,
    "padchest": PADCHEST,
    "rsna-pneumonia": RSNA,
    "vindr-cxr": VINDR,
    "radimagenet": RADIMAGENET,
    "ham10000": HAM10000,
    "isic-2018": ISIC_2018,
    "isic-2019": ISIC_2019,
    "isic-2020": ISIC_2020,
    "pad-ufes": PAD_UFES,
    "brset": BRSET,
    "odir": ODIR,
}
"""Name of each reader -> the layout that it reads."""
