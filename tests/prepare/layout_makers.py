"""Tiny copies of published datasets: the published names and headers, invented rows and images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import prepare_fixtures as make

CHEXPERT_FINDINGS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other",
    "Fracture",
    "Support Devices",
)  # fmt: skip
VINDR_FINDINGS = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture",
    "Consolidation",
    "Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst",
    "Mediastinal shift", "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax",
    "Pulmonary fibrosis", "Rib fracture", "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis",
    "Other diseases", "No finding",
)  # fmt: skip
PADCHEST_COLUMNS = (
    "", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM",
    "ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "Modality_DICOM",
    "Manufacturer_DICOM",
    "PhotometricInterpretation_DICOM", "PixelRepresentation_DICOM", "PixelAspectRatio_DICOM",
    "SpatialResolution_DICOM", "BitsStored_DICOM", "WindowCenter_DICOM", "WindowWidth_DICOM", "Rows_DICOM",
    "Columns_DICOM", "XRayTubeCurrent_DICOM", "Exposure_DICOM", "ExposureInuAs_DICOM", "ExposureTime",
    "RelativeXRayExposure_DICOM", "ReportID", "Report", "MethodLabel", "Labels", "Localizations",
    "LabelsLocalizationsBySentence", "labelCUIS", "LocalizationsCUIS",
)  # fmt: skip
ODIR_COLUMNS = [
    "ID", "Patient Age", "Patient Sex", "Left-Fundus", "Right-Fundus", "Left-Diagnostic Keywords",
    "Right-Diagnostic Keywords", "N", "D", "G", "C", "A", "H", "M", "O",
]  # fmt: skip
ODIR_ROWS: list[list[object]] = [
    [0, 69, "Female", "0_left.jpg", "0_right.jpg", "cataract", "normal fundus", 0, 0, 0, 1, 0, 0, 0, 0],
    [
        11, 60, "Male", "11_left.jpg", "11_right.jpg",
        "moderate non proliferative retinopathy，hypertensive retinopathy",
        "moderate non proliferative retinopathy", 0, 1, 0, 0, 0, 1, 0, 0,
    ],
    [3, 66, "Male", "3_left.jpg", "3_right.jpg", "lens dust，normal fundus", "normal fundus", 1, *[0] * 7],
    [4, 53, "Male", "4_left.jpg", "4_right.jpg", "drusen", "no fundus image", *[0] * 7, 1],
    [5, 50, "Female", "5_left.jpg", "5_right.jpg", "glaucoma", "drusen", 0, 0, 1, 0, 0, 0, 0, 0],
]  # fmt: skip


def make_nih_2020(root: Path) -> Path:
    """The header of 2020: `Patient Sex`, and no empty column at the end."""
    make.make_nih(root)
    old = root / "Data_Entry_2017.csv"
    lines = old.read_text().splitlines()
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    rows = [line.removesuffix(",").replace("058Y", "58") for line in lines[1:]]
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join([header, *rows]) + "\n")
    old.unlink()
    return root


def make_chexpert_full(root: Path) -> Path:
    """The full download: four batch folders, of which the first has the tables and `valid/`."""
    make.make_chexpert(root / "small")
    first = root / "CheXpert-v1.0 batch 1 (validate & csv)"
    first.mkdir()
    for name in ("train.csv", "valid.csv"):
        text = (root / "small" / name).read_text().replace("CheXpert-v1.0-small/", "CheXpert-v1.0/")
        (first / name).write_text(text)
    (root / "small" / "valid").rename(first / "valid")
    for batch, patient in ((2, 1), (3, 2), (4, 3)):
        place = root / f"CheXpert-v1.0 batch {batch} (train {batch - 1})" / f"patient{patient:05d}"
        place.parent.mkdir()
        (root / "small" / "train" / place.name).rename(place)
    for path in (root / "small" / "train.csv", root / "small" / "valid.csv"):
        path.unlink()
    (root / "small" / "train").rmdir()
    (root / "small").rmdir()
    return root


def make_padchest(root: Path) -> Path:
    found = ["['pleural effusion', 'cardiomegaly']", "['normal']", "", "[\"chilaiditi's sign\", ' nodule']"]
    rows = []
    for n, labels in enumerate(found):
        name = f"21684011136696401382954316651233313{n}_02-094-102.png"
        make.write_picture(root / str(n % 2) / name, make.picture(n))
        cells = dict.fromkeys(PADCHEST_COLUMNS, "")
        cells |= {
            "": str(n), "ImageID": name, "ImageDir": str(n % 2), "StudyDate_DICOM": "20140915",
            "StudyID": f"S{n}",
            "PatientID": f"P{n // 2}", "PatientBirth": "1930.0", "PatientSex_DICOM": "FM"[n // 2],
            "Projection": "PA", "Labels": labels,
        }  # fmt: skip
        rows.append(list(cells.values()))
    make.write_table(
        root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", list(PADCHEST_COLUMNS), rows
    )
    return root


def make_rsna(root: Path) -> Path:
    """One row per box: an image with two boxes has two rows."""
    boxes = [("a0", 1), ("a0", 1), ("b1", 0), ("c2", 1), ("d3", 0)]
    rows = [[name, *((10.0, 20.0, 30.0, 40.0) if target else ("",) * 4), target] for name, target in boxes]
    make.write_table(
        root / "stage_2_train_labels.csv", ["patientId", "x", "y", "width", "height", "Target"], rows
    )
    make.write_table(
        root / "stage_2_detailed_class_info.csv",
        ["patientId", "class"],
        [[name, "Lung Opacity" if target else "Normal"] for name, target in boxes],
    )
    for n, name in enumerate(sorted({name for name, _ in boxes})):
        make.write_dicom(
            root / "stage_2_train_images" / f"{name}.dcm", make.picture(n), "", SOPInstanceUID=f"1.2.{n}"
        )
    return root


def make_vindr(root: Path) -> Path:
    """Three radiologists per training image; the table of the test set spells one label differently."""
    votes = {"t0": ((1, 0), (1, 1), (0, 0)), "t1": ((0, 1), (0, 1), (0, 1))}  # Cardiomegaly, Other diseases
    place = {"Cardiomegaly": 0, "Other diseases": 1}
    rows = [
        [name, f"R{n}", *(vote[place[finding]] if finding in place else 0 for finding in VINDR_FINDINGS)]
        for name, found in votes.items()
        for n, vote in enumerate(found)
    ]
    make.write_table(
        root / "annotations" / "image_labels_train.csv", ["image_id", "rad_id", *VINDR_FINDINGS], rows
    )
    header = [name.replace("Other diseases", "Other disease") for name in VINDR_FINDINGS]
    test = [["e0", *(int(name == "Other diseases") for name in VINDR_FINDINGS)]]
    make.write_table(root / "annotations" / "image_labels_test.csv", ["image_id", *header], test)
    for n, (part, name) in enumerate((("train", "t0"), ("train", "t1"), ("test", "e0"))):
        make.write_dicom(root / part / f"{name}.dicom", make.picture(n), "", SOPInstanceUID=f"1.3.{n}")
    return root


def make_isic_2018(root: Path) -> Path:
    classes = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
    names = [f"ISIC_00243{n:02d}" for n in range(6)]
    kinds = ("MEL", "NV", "NV", "BCC", "AKIEC", "DF")
    truth = [
        [name, *(float(kind == other) for other in classes)] for name, kind in zip(names, kinds, strict=True)
    ]
    folder = root / "ISIC2018_Task3_Training_GroundTruth"
    make.write_table(folder / "ISIC2018_Task3_Training_GroundTruth.csv", ["image", *classes], truth)
    lesions = [[name, f"HAM_{n // 2}", "histopathology"] for n, name in enumerate(names)]
    make.write_table(
        root / "ISIC2018_Task3_Training_LesionGroupings.csv",
        ["image", "lesion_id", "diagnosis_confirm_type"],
        lesions,
    )
    for n, name in enumerate(names):
        picture = make.picture(n, (12, 10, 3))
        make.write_picture(root / "ISIC2018_Task3_Training_Input" / f"{name}.jpg", picture)
    return root


def make_isic_2019(root: Path) -> Path:
    classes = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"]
    names = ["ISIC_0000000", "ISIC_0000002_downsampled", "ISIC_0000004", "ISIC_0000006"]
    kinds = ("NV", "MEL", "SCC", "NV")
    truth = [
        [name, *(float(kind == other) for other in classes)] for name, kind in zip(names, kinds, strict=True)
    ]
    make.write_table(root / "ISIC_2019_Training_GroundTruth.csv", ["image", *classes], truth)
    metadata = [
        [name, 45.0 + n, "anterior torso", "" if n == 3 else f"MSK_{n // 2}", "female"]
        for n, name in enumerate(names)
    ]
    make.write_table(
        root / "ISIC_2019_Training_Metadata.csv",
        ["image", "age_approx", "anatom_site_general", "lesion_id", "sex"],
        metadata,
    )
    for n, name in enumerate(names):
        make.write_picture(root / "ISIC_2019_Training_Input" / f"{name}.jpg", make.picture(n, (12, 10, 3)))
    return root


def make_isic_2020(root: Path) -> Path:
    header = [
        "image_name", "patient_id", "lesion_id", "sex", "age_approx", "anatom_site_general_challenge",
        "diagnosis",
        "benign_malignant", "target",
    ]  # fmt: skip
    rows = []
    for n in range(4):
        name, bad = f"ISIC_2637{n:03d}", n == 1
        kind = ("melanoma", "malignant", 1) if bad else ("unknown", "benign", 0)
        rows.append([name, f"IP_{n // 2}", f"IL_{n}", "male", 45.0, "head/neck", *kind])
        make.write_picture(root / "train" / f"{name}.jpg", make.picture(n, (12, 10, 3)))
    make.write_table(root / "ISIC_2020_Training_GroundTruth_v2.csv", header, rows)
    return root


def make_odir(root: Path) -> Path:
    make.write_table(root / "ODIR-5K_Training_Annotations(Updated)_V2.csv", ODIR_COLUMNS, ODIR_ROWS)
    _odir_pictures(root / "ODIR-5K_Training_Dataset")
    return root


def make_odir_per_eye(root: Path) -> Path:
    """`full_df.csv`: a row for each eye, with the columns of both."""
    rows = [
        [*row, f"../input/{name}", "['N']", "[1, 0, 0, 0, 0, 0, 0, 0]", name]
        for row in ODIR_ROWS
        for name in row[3:5]
    ]
    make.write_table(root / "full_df.csv", [*ODIR_COLUMNS, "filepath", "labels", "target", "filename"], rows)
    _odir_pictures(root / "preprocessed_images")
    return root


def _odir_pictures(folder: Path) -> None:
    names = [str(name) for row in ODIR_ROWS for name in row[3:5]]
    for n, name in enumerate(names):
        make.write_picture(folder / name, make.picture(n, (12, 10, 3)))


def make_brset_102(root: Path) -> Path:
    """Version 1.0.2 calls the label `drusens` `drusen`."""
    table = make.make_brset(root) / "labels_brset.csv"
    (root / "labels.csv").rename(table)
    table.write_text(table.read_text().replace("drusens", "drusen"))
    return root


LAYOUTS: dict[str, tuple[str, Callable[[Path], Path], dict[str, object]]] = {
    "NIH ChestX-ray14, header of 2017": ("nih", make.make_nih, {}),
    "NIH ChestX-ray14, header of 2020": ("nih", make_nih_2020, {}),
    "CheXpert-small": ("chexpert", make.make_chexpert, {}),
    "CheXpert, full download": ("chexpert", make_chexpert_full, {}),
    "MIMIC-CXR-JPG": ("mimic", make.make_mimic, {}),
    "PadChest": ("padchest", make_padchest, {"label_columns": ("cardiomegaly", "nodule")}),
    "RSNA pneumonia": ("rsna-pneumonia", make_rsna, {}),
    "VinDr-CXR": ("vindr-cxr", make_vindr, {}),
    "SIIM-ACR": ("siim", make.make_siim, {}),
    "RadImageNet": ("radimagenet", make.make_radimagenet, {}),
    "HAM10000": ("ham10000", make.make_ham, {}),
    "ISIC 2018": ("isic-2018", make_isic_2018, {}),
    "ISIC 2019": ("isic-2019", make_isic_2019, {}),
    "ISIC 2020": ("isic-2020", make_isic_2020, {}),
    "PAD-UFES-20": ("pad-ufes", make.make_pad, {}),
    "BRSET 1.0.1": ("brset", make.make_brset, {}),
    "BRSET 1.0.2": ("brset", make_brset_102, {}),
    "ODIR-5K": ("odir", make_odir, {}),
    "ODIR-5K, one row per eye": ("odir", make_odir_per_eye, {}),
    "MedMNIST": ("npz", make.make_npz, {}),
    "class folders": ("folder", make.make_folder, {}),
    "a table and a folder of images": ("csv", make.make_csv, {"label_columns": ("effusion",)}),
}
"""Name of each layout -> its reader, the maker of a copy, and the settings that it needs."""
