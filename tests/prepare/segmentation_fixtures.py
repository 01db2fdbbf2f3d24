"""Tiny invented datasets in published layouts of segmentations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import prepare_fixtures as make
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

SIZE = (7, 6, 5)
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])


def values(seed: int, size: tuple[int, ...] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, size).astype(np.int16)


def mask(seed: int, *numbers: int) -> np.ndarray:
    """A label map whose n-th slab holds the n-th number; every seed gives another one."""
    out = np.zeros(SIZE, np.uint8)
    for position, number in enumerate(numbers):
        out[1 + position, 1 : 3 + seed % 3, 1:4] = number
    return out


def write_json(path: Path, table: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table))


def nnunet_table(**changes: Any) -> dict[str, Any]:
    """dataset.json as nnU-Net v2 documents it."""
    table = {
        "channel_names": {"0": "T2", "1": "ADC"},
        "labels": {"background": 0, "PZ": 1, "TZ": 2},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    return {name: value for name, value in {**table, **changes}.items() if value is not None}


def make_nnunet(root: Path, cases: int = 4, **changes: Any) -> Path:
    """Dataset005_Prostate: two channels, two labels, one test image without a label map."""
    for number in range(cases):
        for channel in range(2):
            path = root / "imagesTr" / f"prostate_{number:02}_{channel:04}.nii.gz"
            make.write_volume(path, values(10 * number + channel) * (1 + 3 * channel), AFFINE)
        make.write_volume(root / "labelsTr" / f"prostate_{number:02}.nii.gz", mask(number, 1, 2), AFFINE)
    for channel in range(2):
        make.write_volume(
            root / "imagesTs" / f"prostate_90_{channel:04}.nii.gz", values(90 + channel), AFFINE
        )
    write_json(root / "dataset.json", nnunet_table(**{"numTraining": cases, **changes}))
    return root


def make_msd(root: Path, modality: dict[str, str] | None = None, cases: int = 3) -> Path:
    """Task05_Prostate as published: images of four axes."""
    modality = modality or {"0": "T2", "1": "ADC"}
    training = []
    for number in range(cases):
        name = f"prostate_{number:02}.nii.gz"
        image = np.stack([values(10 * number + channel) for channel in range(len(modality))], axis=-1)
        make.write_volume(root / "imagesTr" / name, image, AFFINE)
        make.write_volume(root / "labelsTr" / name, mask(number, 1, 2), AFFINE)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    table = {
        "name": "PROSTATE", "description": "Prostate transitional zone and peripheral zone segmentation",
        "tensorImageSize": "4D", "modality": modality,
        "labels": {"0": "background", "1": "PZ", "2": "TZ"},
        "numTraining": cases, "numTest": 1, "training": training, "test": ["./imagesTs/prostate_90.nii.gz"],
    }  # fmt: skip
    write_json(root / "dataset.json", table)
    return root


OLD = ("_flair", "_t1", "_t1ce", "_t2", "_seg")
NEW = ("-t2f", "-t1n", "-t1c", "-t2w", "-seg")


def make_brats(root: Path, *, new: bool = False, cases: int = 3) -> Path:
    """MICCAI_BraTS2020_TrainingData, or the training data of 2023 (two examinations of the first patient)."""
    for number in range(cases):
        case = f"BraTS20_Training_{number + 1:03}"
        if new:
            case = f"BraTS-GLI-{number // 2:05}-{number % 2:03}"
        folder, ending = root / case, ".nii.gz" if new else ".nii"
        for channel, end in enumerate((NEW if new else OLD)[:4]):
            make.write_volume(folder / f"{case}{end}{ending}", values(10 * number + channel), AFFINE)
        labels = (1, 2, 3) if new else (1, 2, 4)
        make.write_volume(
            folder / f"{case}{'-seg' if new else '_seg'}{ending}", mask(number, *labels), AFFINE
        )
    return root


def make_bids(root: Path, *, sessions: bool = False, subjects: int = 4) -> Path:
    """Raw T1w, derivatives/manual with dseg, dseg.tsv and participants.tsv."""
    write_json(root / "dataset_description.json", {"Name": "Toy", "BIDSVersion": "1.9.0"})
    rows = ["participant_id\tsex\tage\tgroup"]
    for number in range(subjects):
        subject = f"sub-{number + 1:02}"
        rows.append(
            "\t".join(
                [
                    subject,
                    "FM"[number % 2],
                    str(40 + number) if number else "n/a",
                    ("case", "control")[number % 2],
                ]
            )
        )
        for session in ("a", "b") if sessions else ("",):
            below = Path(subject, *([f"ses-{session}"] if session else []), "anat")
            stem = subject + (f"_ses-{session}" if session else "")
            seed = 10 * number + (session == "b")
            make.write_volume(root / below / f"{stem}_T1w.nii.gz", values(seed), AFFINE)
            labels = root / "derivatives" / "manual" / below / f"{stem}_dseg.nii.gz"
            make.write_volume(labels, mask(seed, 10, 49), AFFINE)
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    names = ("0\tbackground\t#000000", "10\tLeft-Thalamus\t#00760e", "49\tRight-Thalamus\t#00760f")
    table = "\n".join(["index\tname\tcolor", *names, ""])
    (root / "derivatives" / "manual" / "dseg.tsv").write_text(table)
    return root


def make_totalsegmentator(root: Path, cases: int = 3) -> Path:
    """Totalsegmentator_dataset: meta.csv with semicolons, one mask per structure."""
    rows = [
        "image_id;age;gender;institute;study_type;split;manufacturer;scanner_model;kvp;pathology;pathology_location"
    ]
    for number in range(cases):
        name = f"s{number:04}"
        make.write_volume(root / name / "ct.nii.gz", values(number) - 500, AFFINE)
        for position, structure in enumerate(("liver", "spleen")):
            present = (mask(number, 1, 2) == position + 1).astype(np.uint8)
            make.write_volume(root / name / "segmentations" / f"{structure}.nii.gz", present, AFFINE)
        split = ("train", "val", "test")[number % 3]
        rows.append(
            f"{name};{50 + number};{'fm'[number % 2]};A;ct abdomen;{split};SIEMENS;x;120.0;no_pathology;"
        )
    (root / "meta.csv").write_text("\n".join(rows) + "\n")
    return root


# DICOM objects that hold labels, written by hand: what is read must not come from the program that reads

GRID = {"rows": 6, "columns": 7, "slices": 5, "row_step": 1.0, "column_step": 2.0, "slice_step": 3.0}


def label_object(sop_class: str, modality: str, patient: str, series: str, title: str) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = sop_class
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"{series}.{len(modality)}"
    data.SeriesInstanceUID, data.StudyInstanceUID = f"{series}.7", "2.25.3"
    data.PatientID, data.Modality, data.SeriesDescription = patient, modality, title
    data.PatientIdentityRemoved = "YES"
    return data


def item(**values: Any) -> Dataset:
    data = Dataset()
    for keyword, value in values.items():
        setattr(data, keyword, [value] if isinstance(value, Dataset) else value)
    return data


def write_seg(
    path: Path, patient: int, masks: dict[str, np.ndarray], *, title: str = "", **changes: Any
) -> Path:
    """A binary SEG on the series of ``make_series``; masks (slices, rows, columns), without empty frames."""
    series = f"2.25.8{patient}"
    data = label_object("1.2.840.10008.5.1.4.1.1.66.4", "SEG", f"Q{patient}", series, title)
    data.ContentLabel, data.SegmentationType = "SEGMENTATION", "BINARY"
    data.ReferencedSeriesSequence = [item(SeriesInstanceUID=series)]
    data.SegmentSequence = [
        item(SegmentNumber=number, SegmentLabel=name) for number, name in enumerate(masks, start=1)
    ]
    data.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
            PixelMeasuresSequence=item(PixelSpacing=[GRID["row_step"], GRID["column_step"]]),
        )
    ]
    frames, groups = [], []
    for number, mask in enumerate(masks.values(), start=1):
        for index in np.flatnonzero(mask.any(axis=(1, 2))):
            frames.append(mask[index])
            groups.append(
                item(
                    SegmentIdentificationSequence=item(ReferencedSegmentNumber=number),
                    PlanePositionSequence=item(ImagePositionPatient=[0, 0, GRID["slice_step"] * int(index)]),
                )
            )
    data.PerFrameFunctionalGroupsSequence = groups
    data.NumberOfFrames, data.Rows, data.Columns = len(frames), *frames[0].shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 1
    data.HighBit = data.PixelRepresentation = 0
    packed = np.packbits(np.array(frames, bool).ravel(), bitorder="little").tobytes()
    data.PixelData = packed + b"\0" * (len(packed) % 2)
    for keyword, value in changes.items():
        setattr(data, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def write_rtstruct(
    path: Path,
    patient: int,
    regions: dict[str, list[list[tuple[float, float, float]]]],
    *,
    title: str = "",
    kind: str = "CLOSED_PLANAR",
) -> Path:
    """An RTSTRUCT on the series of ``make_series``; polygons of (x, y, z) in millimetres, LPS+."""
    series = f"2.25.8{patient}"
    data = label_object("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT", f"Q{patient}", series, title)
    data.StructureSetLabel = "RTSS"
    study = item(RTReferencedSeriesSequence=item(SeriesInstanceUID=series))
    data.ReferencedFrameOfReferenceSequence = [item(RTReferencedStudySequence=study)]
    data.StructureSetROISequence = [
        item(ROINumber=number, ROIName=name) for number, name in enumerate(regions, start=1)
    ]
    data.ROIContourSequence = []
    for number, polygons in enumerate(regions.values(), start=1):
        contours = [
            item(
                ContourGeometricType=kind,
                NumberOfContourPoints=len(polygon),
                ContourData=[value for point in polygon for value in point],
            )
            for polygon in polygons
        ]
        data.ROIContourSequence.append(item(ReferencedROINumber=number, ContourSequence=contours))
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def box(x: tuple[float, float], y: tuple[float, float], z: float) -> list[tuple[float, float, float]]:
    """The corners of a rectangle in a slice."""
    return [(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)]


def organs(patient: int) -> dict[str, np.ndarray]:
    """Two masks without overlap, (slices, rows, columns)."""
    liver, tumour = np.zeros((2, 5, 6, 7), bool)
    liver[1:4, 1:3, 2 : 5 + patient] = True
    tumour[2, 4, 1:3] = True
    return {"liver": liver, "tumour": tumour}
