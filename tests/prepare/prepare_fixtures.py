"""Tiny invented datasets, one generator a published layout; every image differs from every other."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from meninx.imaging import rle


@dataclass(frozen=True)
class Deadly:
    """An image whose decoder takes its process down."""

    def load(self, display: int = 0) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def digest(self) -> str:
        return "deadly"

    def missing(self) -> bool:
        return False


def picture(seed: int, size: tuple[int, ...] = (12, 10)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def write_picture(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def write_table(path: Path, header: list[str], rows: list[list[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([header, *rows])
    content = buffer.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_volume(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def write_dicom(path: Path, pixels: np.ndarray, removed: str = "YES", **attributes: object) -> Path:
    """One file; 2-D DX, or a CT slice when ImagePositionPatient is given."""
    volume = "ImagePositionPatient" in attributes
    sop = CTImageStorage if volume else DigitalXRayImageStorageForPresentation
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = sop
    bits = 8 * pixels.dtype.itemsize
    defaults = {
        "SOPInstanceUID": "2.25.1",
        "SeriesInstanceUID": "2.25.2",
        "StudyInstanceUID": "2.25.3",
        "PatientID": "P1",
        "AccessionNumber": "",
        "PatientSex": "F",
        "PatientAge": "057Y",
        "Modality": "CT" if volume else "DX",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }
    if removed:
        defaults["PatientIdentityRemoved"] = removed
    for keyword, value in {**defaults, **attributes}.items():
        setattr(data, keyword, value)
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def make_csv(root: Path, patients: int = 6, images: int = 2, masks: bool = False) -> Path:
    rows = []
    for patient in range(patients):
        for number in range(images):
            name = f"p{patient}_{number}.png"
            write_picture(root / "images" / name, picture(patient * 10 + number))
            if masks:
                write_picture(
                    root / "masks" / name, (picture(patient * 10 + number) > 127).astype(np.uint8) * 255
                )
            sex, kind = ("F", "M")[patient % 2], ("normal", "bacteria", "virus")[patient % 3]
            rows.append(
                [
                    name,
                    f"P{patient}",
                    patient % 2,
                    "" if patient == 0 else 1,
                    kind,
                    sex,
                    40 + patient,
                    f"site{patient % 2}",
                ]
            )
    header = ["file", "patient_id", "effusion", "nodule", "kind", "sex", "age", "hospital"]
    write_table(root / "labels.csv", header, rows)
    return root


def make_folder(root: Path) -> Path:
    for index, kind in enumerate(("cat", "dog", "cow")):
        for number in range(3):
            write_picture(root / kind / f"{number}.png", picture(index * 10 + number))
    return root


def make_pairs(root: Path) -> Path:
    affine = np.diag([2.0, 2.0, 4.0, 1.0])
    for number in range(4):
        values = np.random.default_rng(number).normal(100, 30, (6, 8, 5)).astype(np.float32)
        if number != 1:
            write_volume(root / "images" / f"case_{number}.nii.gz", values, affine)
        if number != 2:
            mask = np.zeros((6, 8, 5), np.uint8)
            mask[1:3, 2:5], mask[4] = 1, 2
            write_volume(root / "labels" / f"case_{number}.nii.gz", mask, affine)
    return root


def make_npz(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    parts = {}
    for start, (part, count) in enumerate((("train", 6), ("val", 3), ("test", 3))):
        parts[f"{part}_images"] = picture(start, (count, 7, 7, 3))
        parts[f"{part}_labels"] = np.arange(count)[:, None] % 3
    np.savez(root / "toymnist.npz", **parts)
    return root


def make_nih(root: Path) -> Path:
    header = [
        "Image Index",
        "Finding Labels",
        "Follow-up #",
        "Patient ID",
        "Patient Age",
        "Patient Gender",
        "View Position",
        "OriginalImage[Width",
        "Height]",
        "OriginalImagePixelSpacing[x",
        "y]",
        "",
    ]
    findings = ["No Finding", "Cardiomegaly|Effusion", "Hernia", "No Finding"]
    names = [f"0000000{index}_000.png" for index in range(4)]
    rows = [
        [name, found, 0, index, "058Y", "FM"[index % 2], "PA", 2682, 2749, 0.143, 0.143, ""]
        for index, (name, found) in enumerate(zip(names, findings, strict=True))
    ]
    write_table(root / "Data_Entry_2017.csv", header, rows)
    for index, name in enumerate(names):
        write_picture(root / f"images_00{index % 2 + 1}" / "images" / name, picture(index))
    (root / "train_val_list.txt").write_text("\n".join(names[:3]) + "\n")
    (root / "test_list.txt").write_text(names[3])
    return root


def make_chexpert(root: Path) -> Path:
    header = [
        "Path",
        "Sex",
        "Age",
        "Frontal/Lateral",
        "AP/PA",
        "No Finding",
        "Enlarged Cardiomediastinum",
        "Cardiomegaly",
        "Lung Opacity",
        "Lung Lesion",
        "Edema",
        "Consolidation",
        "Pneumonia",
        "Atelectasis",
        "Pneumothorax",
        "Pleural Effusion",
        "Pleural Other",
        "Fracture",
        "Support Devices",
    ]
    for part, people in (("train", (1, 2, 3)), ("valid", (4,))):
        rows = []
        for person in people:
            place = f"{part}/patient{person:05d}/study1/view1_frontal.jpg"
            write_picture(root / place, picture(person))
            cells = [""] * 11 + ["-1.0", "1.0", "0.0"]
            rows.append([f"CheXpert-v1.0-small/{place}", "Female", 60 + person, "Frontal", "AP", *cells])
        write_table(root / f"{part}.csv", header, rows)
    return root


def make_mimic(root: Path) -> Path:
    findings = [
        "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture",
        "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia",
        "Pneumothorax", "Support Devices",
    ]  # fmt: skip
    people = (
        (10000032, 50414267, "a-1", "train"),
        (10000764, 57375967, "b-2", "validate"),
        (11000001, 50000001, "c-3", "test"),
    )
    labels = [[person, study, *(["1.0", "-1.0"] + [""] * 12)] for person, study, _, _ in people]
    write_table(root / "mimic-cxr-2.0.0-chexpert.csv.gz", ["subject_id", "study_id", *findings], labels)
    write_table(
        root / "mimic-cxr-2.0.0-split.csv.gz",
        ["dicom_id", "study_id", "subject_id", "split"],
        [[i, s, p, t] for p, s, i, t in people],
    )
    header = [
        "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows",
        "Columns",
        "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
        "PatientOrientationCodeSequence_CodeMeaning",
    ]  # fmt: skip
    images = [*((image, person, study, "PA") for person, study, image, _ in people)]
    images.append(("d-4", 10000032, 99999999, "AP"))
    rows = [
        [image, person, study, "CHEST (PA AND LAT)", view, 3056, 2544, 21800506, 213014.531, "", "", "Erect"]
        for image, person, study, view in images
    ]
    write_table(root / "mimic-cxr-2.0.0-metadata.csv", header, rows)
    write_table(
        root / "patients.csv.gz",
        ["subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"],
        [[10000032, "F", 52, 2175, "2014 - 2016", "2180-09-09"]],
    )
    for number, (person, study, image, _) in enumerate(people):
        write_picture(
            root / "files" / f"p{str(person)[:2]}" / f"p{person}" / f"s{study}" / f"{image}.jpg",
            picture(number),
        )
    return root


def make_siim(root: Path, header: bool = True) -> Path:
    mask = np.zeros((12, 10), bool)
    mask[2:5, 7] = True
    other = np.zeros((12, 10), bool)
    other[8, 1] = True
    for number in range(3):
        uid = f"1.2.276.{number}"
        write_dicom(
            root / "dicom-images-train" / uid / f"{uid}.dcm",
            picture(number),
            "",
            SOPInstanceUID=uid,
            PatientID=f"u{number}",
            ViewPosition="PA",
        )
    rows = [
        ["1.2.276.0", rle.encode(mask)],
        ["1.2.276.0", rle.encode(other)],
        ["1.2.276.1", " -1"],
        ["1.2.276.2", "-1"],
        ["1.2.276.9", "-1"],
    ]
    lines = ([["ImageId", " EncodedPixels"]] if header else []) + rows
    with (root / "train-rle.csv").open("w", newline="", encoding="utf-8-sig") as stream:
        csv.writer(stream).writerows(lines)
    return root


def make_ham(root: Path) -> Path:
    kinds = ("nv", "mel", "bcc", "akiec", "nv", "vasc")
    rows = []
    for index, kind in enumerate(kinds):
        for copy in range(2):
            name = f"ISIC_{index}{copy}"
            write_picture(
                root / f"HAM10000_images_part_{copy + 1}" / f"{name}.jpg",
                picture(index * 2 + copy, (12, 10, 3)),
            )
            rows.append([f"HAM_{index}", name, kind, "histo", "45.0", "male", "back"])
    write_table(
        root / "HAM10000_metadata.csv",
        ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"],
        rows,
    )
    return root


def make_radimagenet(root: Path) -> Path:
    for start, part in enumerate(("train", "val", "test")):
        rows = []
        for number, kind in enumerate(("normal", "cyst")):
            place = f"radiology_ai/CT/abd/{kind}/{kind}{start}.png"
            write_picture(root / place, picture(start * 10 + number))
            rows.append([place, kind])
        write_table(root / f"RadiologyAI_{part}.csv", ["filename", "label"], rows)
    return root


def make_msd(root: Path) -> Path:
    pairs = []
    for number in range(3):
        name = f"toy_{number}.nii.gz"
        values = np.random.default_rng(number).integers(-500, 500, (6, 6, 4)).astype(np.int16)
        write_volume(root / "imagesTr" / name, values)
        write_volume(root / "labelsTr" / name, (values > 300).astype(np.uint8) + (values > 400))
        pairs.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    table = {
        "name": "Toy",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "cancer"},
        "training": pairs,
        "test": ["./imagesTs/x.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(table))
    return root


def make_brset(root: Path) -> Path:
    header = [
        "image_id", "patient_id", "camera", "patient_age", "comorbidities", "diabetes_time_y", "insuline",
        "patient_sex", "exam_eye", "diabetes", "nationality", "optic_disc", "vessels", "macula", "DR_SDRG",
        "DR_ICDR",
        "focus", "Illuminaton", "image_field", "artifacts", "diabetic_retinopathy", "macular_edema", "scar",
        "nevus",
        "amd", "vascular_occlusion", "hypertensive_retinopathy", "drusens", "hemorrhage",
        "retinal_detachment",
        "myopic_fundus", "increased_cup_disc", "other", "quality",
    ]  # fmt: skip
    known = {
        "camera": "Canon CR",
        "exam_eye": 1,
        "diabetes": "yes",
        "nationality": "Brazil",
        "quality": "Adequate",
    }
    rows = []
    for n in range(4):
        cells = {**dict.fromkeys(header, 0), **known, "image_id": f"img0000{n}", "patient_id": n // 2}
        cells |= {
            "patient_age": 40 + n,
            "patient_sex": 1 + n % 2,
            "diabetic_retinopathy": n % 2,
            "DR_ICDR": n,
        }
        rows.append(list(cells.values()))
    write_table(root / "labels.csv", header, rows)
    for n in range(4):
        write_picture(root / "fundus_photos" / f"img0000{n}.jpg", picture(n, (12, 10, 3)))
    return root


def make_pad(root: Path) -> Path:
    header = [
        "patient_id", "lesion_id", "smoke", "drink", "background_father", "background_mother", "age",
        "pesticide",
        "gender", "skin_cancer_history", "cancer_history", "has_piped_water", "has_sewage_system",
        "fitspatrick",
        "region", "diameter_1", "diameter_2", "diagnostic", "itch", "grew", "hurt", "changed", "bleed",
        "elevation",
        "img_id", "biopsed",
    ]  # fmt: skip
    rows = []
    for n, kind in enumerate(("BCC", "ACK", "MEL", "NEV", "SCC", "SEK")):
        name, biopsed = f"PAT_{n}_1.png", kind in ("BCC", "MEL", "SCC")
        write_picture(root / f"imgs_part_{n % 3 + 1}" / name, picture(n, (12, 10, 3)))
        cells = {
            **dict.fromkeys(header, ""),
            "patient_id": f"PAT_{n}",
            "lesion_id": n,
            "age": 60 + n,
            "img_id": name,
        }
        cells |= {"gender": "FEMALE" if biopsed else "", "diagnostic": kind, "biopsed": biopsed}
        rows.append(list(cells.values()))
    write_table(root / "metadata.csv", header, rows)
    return root


def make_dicom(root: Path, patients: int = 4, site: str = "north", removed: str = "YES") -> Path:
    """A clean folder of `meninx deid` with two radiographs per patient and a table of clean identifiers."""
    rows = []
    seed = sum(map(ord, site)) * 1000
    for patient in range(patients):
        for number in range(2):
            uid = f"2.25.{seed + patient * 10 + number}"
            series, person = f"2.25.9{seed + patient * 10 + number}", f"{site.upper()}-{patient}"
            path = root / "images" / person / "study" / series / f"{uid}.dcm"
            pixels = picture(seed + patient * 10 + number).astype(np.uint16) * 16
            write_dicom(
                path,
                pixels,
                removed,
                SOPInstanceUID=uid,
                SeriesInstanceUID=series,
                PatientID=person,
                BitsStored=12,
                HighBit=11,
            )
            rows.append([uid, series, person, patient % 2, int(patient == 0)])
    (root / "deid.json").write_text(json.dumps({"profile": "basic", "site": site}))
    write_table(
        root.parent / f"{site}.csv",
        ["SOPInstanceUID", "SeriesInstanceUID", "PatientID", "effusion", "nodule"],
        rows,
    )
    return root


def make_series(root: Path, patients: int = 2) -> Path:
    rows = []
    for patient in range(patients):
        values = np.random.default_rng(patient).integers(0, 2000, (5, 6, 7)).astype(np.uint16)
        for index, plane in enumerate(values):
            write_dicom(
                root / "images" / f"Q{patient}" / f"{index}.dcm",
                plane,
                SOPInstanceUID=f"2.25.7{patient}{index}",
                SeriesInstanceUID=f"2.25.8{patient}",
                PatientID=f"Q{patient}",
                ImagePositionPatient=[0, 0, 3 * index],
                ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
                PixelSpacing=[1, 2],
                RescaleSlope=1,
                RescaleIntercept=-1024,
            )
        mask = np.zeros((7, 6, 5), np.uint8)
        mask[2:4, 1:3, 1:4] = 1
        write_volume(root / "masks" / f"{patient}.nii.gz", mask, np.diag([-2.0, -1.0, 3.0, 1.0]))
        rows.append([f"2.25.8{patient}", f"masks/{patient}.nii.gz"])
    (root / "deid.json").write_text('{"profile": "basic"}')
    write_table(root / "labels.csv", ["SeriesInstanceUID", "mask"], rows)
    return root
