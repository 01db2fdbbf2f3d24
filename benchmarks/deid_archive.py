"""A generated DICOM archive for the benchmark of de-identification.

Run: ``python benchmarks/deid_archive.py FOLDER SCALE``. It writes 381 files (at scale 1) of the kinds and
sizes of a hospital's archive, and prints the strings that are planted in them. ``FOLDER COUNT KIND`` writes
files of one kind, and ``--kinds`` prints the kinds.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1

PATIENTS = 20
KINDS = {
    "CT": (250, "1.2.840.10008.5.1.4.1.1.2"),
    "CT, JPEG lossless": (40, "1.2.840.10008.5.1.4.1.1.2"),
    "MR": (30, "1.2.840.10008.5.1.4.1.1.4"),
    "CR": (38, "1.2.840.10008.5.1.4.1.1.1"),
    "US": (15, "1.2.840.10008.5.1.4.1.1.6.1"),
    "US, 30 frames": (3, "1.2.840.10008.5.1.4.1.1.3.1"),
    "SR": (5, "1.2.840.10008.5.1.4.1.1.88.11"),
}
FURTHER = {
    "MR, enhanced, 40 frames": "1.2.840.10008.5.1.4.1.1.4.1",
    "CR, JPEG 2000": "1.2.840.10008.5.1.4.1.1.1",
    "US, JPEG lossless": "1.2.840.10008.5.1.4.1.1.6.1",
}
"""Classes that are measured on their own and are not in the archive, so that its ratio keeps its meaning."""


def class_of(kind: str) -> str:
    """Return the SOP Class UID of a kind of file."""
    return FURTHER[kind] if kind in FURTHER else KINDS[kind][1]


def write_archive(folder: Path, scale: float, kinds: Mapping[str, tuple[int, str]] = KINDS) -> list[str]:
    """Write the archive and return the planted strings.

    Args:
        folder: is made.
        scale: share of the files of each kind; 0 for all of them.
        kinds: kind -> number of files and SOP Class UID.
    """
    folder.mkdir()
    rng = np.random.default_rng(0)
    pictures = {kind: _pixels(kind, rng) for kind in kinds if kind != "SR"}
    number = 0
    for kind, (count, sop_class) in kinds.items():
        for copy in range(max(1, round(count * scale)) if scale else count):
            number += 1
            dataset = _instance(number, kind, sop_class)
            syntax = ExplicitVRLittleEndian
            if kind == "SR":
                dataset.ContentSequence = [_item(line, number % PATIENTS) for line in range(20)]
            else:
                syntax = _put(dataset, kind, pictures[kind], copy)
            meta = FileMetaDataset()
            meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = sop_class, syntax
            meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.file_meta = meta
            dataset.save_as(folder / f"{number:05d}.dcm", enforce_file_format=True)
    names = [f"Planted{patient:03d}" for patient in range(PATIENTS)]
    numbers = [f"MRN{5512000 + patient}" for patient in range(PATIENTS)]
    accessions = [f"ACC{880000 + patient}" for patient in range(PATIENTS)]
    others = ["19570314", "Northgate Infirmary", "Quillfeather"]
    return [*names, *numbers, *accessions, *others]


def _instance(number: int, kind: str, sop_class: str) -> Dataset:
    """Return the header of one file: about 250 elements, most of them private."""
    patient, found = number % PATIENTS, Dataset()
    root = "1.2.826.0.1.3680043.8.498"
    found.SOPClassUID, found.SOPInstanceUID = sop_class, f"{root}.1{number:07d}"
    found.StudyInstanceUID, found.SeriesInstanceUID = f"{root}.2{patient:07d}", f"{root}.3{patient:07d}"
    found.FrameOfReferenceUID, found.Modality = f"{root}.4{patient:07d}", kind[:2]
    found.PatientName, found.PatientID = f"Planted{patient:03d}^Person", f"MRN{5512000 + patient}"
    found.PatientBirthDate, found.PatientSex, found.PatientAge = "19570314", "F", "061Y"
    found.StudyDate = found.SeriesDate = found.AcquisitionDate = found.ContentDate = "20180412"
    found.StudyTime, found.AccessionNumber = "101112", f"ACC{880000 + patient}"
    found.InstitutionName, found.ReferringPhysicianName = "Northgate Infirmary", "Quillfeather^Ann"
    found.StudyDescription, found.SeriesDescription = "CT THORAX W/O CONTRAST", "AXIAL 3.0 B30f"
    found.Manufacturer, found.StudyID, found.SeriesNumber, found.InstanceNumber = "GE", "77", 1, number
    found.ImageComments = f"seen with Planted{patient:03d}"
    found.ImageType, found.SliceThickness, found.KVP = ["ORIGINAL", "PRIMARY", "AXIAL"], "3.0", "120"
    found.PixelSpacing, found.ImagePositionPatient = ["0.7", "0.7"], ["0", "0", str(number)]
    found.ImageOrientationPatient, found.WindowCenter = ["1", "0", "0", "0", "1", "0"], "40"
    found.WindowWidth, found.RescaleIntercept, found.RescaleSlope = "400", "-1024", "1"
    for group, creator, count, vr in (
        (0x0009, "GEMS_IDEN_01", 29, "LO"),
        (0x0019, "GEMS_ACQU_01", 119, "DS"),
        (0x0043, "GEMS_PARM_01", 39, "SH"),
    ):
        block = found.private_block(group, creator, create=True)
        for place in range(1, count + 1):
            block.add_new(place, vr, f"{place}.5" if vr == "DS" else f"{place} Planted{patient:03d}")
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, f"{root}.5{number:07d}"
    found.ReferencedImageSequence = [item]
    return found


def _item(line: int, patient: int) -> Dataset:
    found = Dataset()
    found.ValueType, found.RelationshipType = "TEXT", "CONTAINS"
    found.TextValue = f"finding {line} of Planted{patient:03d} seen"
    return found


def _pixels(kind: str, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    """Return one smooth noisy picture, or the frames of a clip, in grey levels."""
    kind = "CR" if kind == "CR, JPEG 2000" else kind
    sides = {"MR": (256, 256), "CR": (2048, 1760), "US": (768, 1024), "US, 30 frames": (600, 800)}
    sides |= {"MR, enhanced, 40 frames": (256, 256), "US, JPEG lossless": (768, 1024)}
    height, width = sides.get(kind, (512, 512))
    top = {"MR": 3000, "MR, enhanced, 40 frames": 3000, "CR": 16000}.get(
        kind, 255 if kind.startswith("US") else 4000
    )
    rows, columns = np.mgrid[0:height, 0:width]
    noise = rng.normal(0, top / 80, (height, width))
    grey = np.clip((np.sin(columns / 37) + np.cos(rows / 29) + 2) * top / 5 + noise, 0, top)
    return np.asarray(grey, dtype=np.uint16)


def _put(dataset: Dataset, kind: str, grey: npt.NDArray[np.uint16], copy: int) -> str:
    """Put pixels into a header and return the transfer syntax."""
    colour = kind.startswith("US")
    frames = {"US, 30 frames": 30, "MR, enhanced, 40 frames": 40}.get(kind, 1)
    dataset.Rows, dataset.Columns = grey.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 3 if colour else 1, 0
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored = (
        (8, 8) if colour else (16, 14 if kind.startswith("CR") else 12)
    )
    dataset.HighBit = dataset.BitsStored - 1
    if frames > 1:
        dataset.NumberOfFrames = frames
    moved = np.roll(grey, copy, axis=1)
    if "JPEG" in kind:
        return _put_coded(dataset, kind, moved)
    if colour:
        dataset.PlanarConfiguration = 0
        dataset.PixelData = np.stack([moved] * 3, axis=-1).astype(np.uint8).tobytes() * frames
    else:
        dataset.PixelData = moved.astype("<u2").tobytes() * frames
    if "enhanced" in kind:
        _put_frame_items(dataset, frames)
    return str(ExplicitVRLittleEndian)


def _put_coded(dataset: Dataset, kind: str, grey: npt.NDArray[np.uint16]) -> str:
    """Put one compressed picture into a header and return the transfer syntax."""
    if kind == "CR, JPEG 2000":
        coded = imagecodecs.jpeg2k_encode(grey, codecformat="j2k", reversible=True, bitspersample=14)
    elif kind == "US, JPEG lossless":
        coded = imagecodecs.ljpeg_encode(grey.astype(np.uint8), bitspersample=8)
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"  # ljpeg is grey
    else:
        coded = imagecodecs.ljpeg_encode(grey, bitspersample=12)
    dataset.PixelData = encapsulate([coded])
    dataset["PixelData"].is_undefined_length = True
    return str(JPEG2000Lossless if kind == "CR, JPEG 2000" else JPEGLosslessSV1)


def _put_frame_items(dataset: Dataset, frames: int) -> None:
    """Put an item of functional groups for each frame into a header."""
    items = []
    for frame in range(frames):
        plane, content, item = Dataset(), Dataset(), Dataset()
        plane.ImagePositionPatient = ["0", "0", str(frame)]
        content.FrameAcquisitionDateTime, content.InStackPositionNumber = "20180412101112", frame + 1
        item.PlanePositionSequence, item.FrameContentSequence = [plane], [content]
        items.append(item)
    dataset.PerFrameFunctionalGroupsSequence = items


def main() -> None:
    """Write an archive, or files of one kind, or print the kinds."""
    if sys.argv[1] == "--kinds":
        print("\n".join((*KINDS, *FURTHER)))
        return
    folder, scale, kinds = Path(sys.argv[1]), float(sys.argv[2]), KINDS
    if len(sys.argv) > 3:
        scale, kinds = 0.0, {sys.argv[3]: (int(sys.argv[2]), class_of(sys.argv[3]))}
    print("\n".join(write_archive(folder, scale, kinds)))


if __name__ == "__main__":
    main()
