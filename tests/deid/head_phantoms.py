"""Generated heads with a known face: skull, brain, skin, nose, eyes, ears, chin and neck, in CT and MR.

The shapes are drawn freely from round numbers of anatomy and are nobody's.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

Points = npt.NDArray[np.float32]
NOTHING, FACE, OTHER = 0, 1, 2
_CONTRASTS = {  # skin and fat, muscle, bone, brain, eye
    "CT": (-60.0, 45.0, 800.0, 35.0, 10.0),
    "T1": (950.0, 420.0, 60.0, 560.0, 180.0),
    "T2": (620.0, 260.0, 50.0, 430.0, 980.0),
    "FLAIR": (560.0, 300.0, 50.0, 480.0, 150.0),
}


@dataclass(frozen=True)
class Head:
    """One shape and one pose.

    Attributes:
        scale: of everything.
        wide, long, high: of the skull beside that.
        nose, jaw: of these beside that.
        angles: pitch (chin up), yaw and roll, in degrees.
        contrast: CT, T1, T2 or FLAIR.
    """

    scale: float = 1.0
    wide: float = 1.0
    long: float = 1.0
    high: float = 1.0
    nose: float = 1.0
    jaw: float = 1.0
    angles: tuple[float, float, float] = (0.0, 0.0, 0.0)
    contrast: str = "CT"

    @classmethod
    def drawn(cls, seed: int, contrast: str, most_angle: float = 15.0) -> Head:
        """Return a head with a shape and a pose of its own."""
        random = np.random.default_rng(seed)
        wide, long, high = random.uniform(0.93, 1.07, 3)
        return cls(
            scale=random.uniform(0.82, 1.08), wide=wide, long=long, high=high, nose=random.uniform(0.75, 1.3),
            jaw=random.uniform(0.85, 1.15), angles=tuple(random.uniform(-most_angle, most_angle, 3)),
            contrast=contrast,
        )  # fmt: skip

    def at(self, points: Points, random: np.random.Generator) -> tuple[Points, npt.NDArray[np.uint8]]:
        """Return values and labels at points (..., 3), millimetres LPS+ from the middle of the skull."""
        local = points @ self._rotation() / np.float32(self.scale)
        x, y, z = local[..., 0], local[..., 1], local[..., 2]
        a, b, c = 75 * self.wide, 96 * self.long, 98 * self.high
        cranium = _ball(local, (0, 0, 0), (a, b, c))
        front = -b
        face = np.minimum.reduce(
            [
                _ball(local, (0, front + 52, -60), (62 * self.wide, 50, 62 * self.jaw)),
                _ball(local, (0, front + 42, -98 * self.jaw), (44 * self.wide, 42, 32)),
                _ball(local, (0, front + 14, -118 * self.jaw), (22, 18, 14)),
                _ball(local, (0, front + 8, -85 * self.jaw), (26, 12, 14)),
            ]
        )
        down = np.clip((-4 - z) / 46, 0, 1.25)
        nose_half = 6 + 10 * down
        nose = np.where(
            (z < -4) & (z > -58) & (y > front - 28 * self.nose * down * (z > -52)) & (y < front + 30),
            np.abs(x) / nose_half,
            9.0,
        )
        neck = np.where((z < -40) & (z > -260), np.hypot(x / 56, (y - 22) / 60), 9.0)
        ears = np.minimum(
            _ball(local, (-a - 3, 12, -28), (9, 16, 30)), _ball(local, (a + 3, 12, -28), (9, 16, 30))
        )
        body = np.minimum.reduce([cranium, face, nose, neck, ears])
        sockets = np.minimum(
            _ball(local, (-32, front + 4, -16), (15, 9, 11)), _ball(local, (32, front + 4, -16), (15, 9, 11))
        )
        eyes = np.minimum(
            _ball(local, (-32, front + 24, -16), (12, 12, 12)),
            _ball(local, (32, front + 24, -16), (12, 12, 12)),
        )
        tissue = (body < 1) & ((sockets > 1) | (eyes < 1))
        floor = np.where(y < -38, 2.0, np.where(y < -5, -32.0, -58.0))
        brain = _ball(local, (0, 3, 10), (a - 13, b - 14, c - 22))
        is_brain = (brain < 1) & (z > floor)
        near_brain = (brain < 1.1) & (z > floor - 6)
        bone = near_brain & ~is_brain & tissue
        bone |= tissue & (y < front + 60) & (face < 0.78) & (face > 0.62) & ~is_brain
        air = _ball(local, (0, front + 32, -42), (13, 24, 20)) < 1
        air |= (np.hypot(x / 9, (y - 2 - front * 0.25) / 9) < 1) & (z < -50)
        tissue &= ~air
        skin = tissue & (body > 0.93)
        fat, muscle, hard, grey, eye = _CONTRASTS[self.contrast]
        values = np.where(tissue, np.float32(muscle), np.float32(-1000.0 if self.contrast == "CT" else 0.0))
        for where, value in (
            (skin, fat),
            (bone & tissue, hard),
            (is_brain & tissue, grey),
            ((eyes < 1) & tissue, eye),
        ):
            values[where] = value
        if self.contrast == "CT":
            values = values + random.normal(0, 15, values.shape)
        else:
            field = 1 + 0.2 * np.tanh(points @ np.array([0.6, -0.7, 0.4]) / 100)
            noise = random.normal(0, 12, (2, *values.shape))
            values = np.hypot(values * field + noise[0], noise[1])
        labels = np.where(tissue, np.uint8(OTHER), np.uint8(NOTHING))
        in_front = (y < front + 52) & (np.abs(x) < 58) & (z < 4) & (z > -135 * self.jaw) & ~near_brain
        labels[tissue & in_front & (cranium > 0.55)] = FACE
        return values.astype(np.float32), labels

    def _rotation(self) -> Points:
        pitch, yaw, roll = np.radians(self.angles)
        about_x = _turn(1, 2, -pitch)
        return (_turn(0, 1, yaw) @ _turn(0, 2, roll) @ about_x).astype(np.float32)


def _turn(first: int, second: int, angle: float) -> npt.NDArray[np.float64]:
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def _ball(points: Points, centre: tuple[float, ...], half: tuple[float, ...]) -> Points:
    return np.sqrt((((points - np.float32(centre)) / np.float32(half)) ** 2).sum(axis=-1))


@dataclass(frozen=True)
class Scan:
    """How a head is scanned.

    Attributes:
        plane: axial, sagittal or coronal.
        spacing: millimetres between pixels.
        step: millimetres between slices.
        low, high: ends of the field of view below and above the middle of the skull, in mm.
        tilt: of the gantry, in degrees; slices are shifted, not turned.
        front: end of the field of view before the middle.
    """

    plane: str = "axial"
    spacing: float = 2.0
    step: float = 4.0
    low: float = -150.0
    high: float = 130.0
    tilt: float = 0.0
    front: float = -150.0

    def frames(self) -> tuple[tuple[float, ...], npt.NDArray[np.float64], tuple[int, int]]:
        """Return the orientation, the positions of all slices, and rows and columns."""
        low = np.array([-120.0, self.front, self.low])
        high = np.array([120.0, 150.0, self.high])
        across, down, along = {
            "axial": ((0, 1), (1, 1), 2),
            "sagittal": ((1, 1), (2, -1), 0),
            "coronal": ((0, 1), (2, -1), 1),
        }[self.plane]
        directions = np.zeros((2, 3))
        directions[0, across[0]], directions[1, down[0]] = across[1], down[1]
        start = np.where(directions.sum(axis=0) < 0, high, low)
        count = int((high[along] - low[along]) // self.step)
        positions = np.tile(start, (count, 1))
        positions[:, along] = low[along] + self.step * np.arange(count)
        positions[:, down[0]] += np.tan(np.radians(self.tilt)) * (positions[:, along] - positions[0, along])
        size = tuple(int((high[axis] - low[axis]) // self.spacing) for axis in (down[0], across[0]))
        return tuple(directions.ravel()), positions, size


def slices(head: Head, scan: Scan, **header: str) -> tuple[list[Dataset], npt.NDArray[np.uint8]]:
    """Return the slices of a scan as data sets, and the labels, shape (slices, rows, columns)."""
    random = np.random.default_rng(round(1e6 * abs(head.scale + head.nose)))
    orientation, positions, (rows, columns) = scan.frames()
    across, down = np.array(orientation[:3]), np.array(orientation[3:])
    grid = (
        np.arange(rows)[:, None, None] * scan.spacing * down
        + np.arange(columns)[:, None] * scan.spacing * across
    )
    found, labels = [], np.zeros((len(positions), rows, columns), dtype=np.uint8)
    for number, position in enumerate(positions):
        values, labels[number] = head.at((grid + position).astype(np.float32), random)
        found.append(_dataset(head, scan, values, position, orientation, number, header))
    return found, labels


def _dataset(
    head: Head, scan: Scan, values: Points, position: npt.NDArray[np.float64], orientation: tuple[float, ...],
    number: int, header: dict[str, str],
) -> Dataset:  # fmt: skip
    is_ct = head.contrast == "CT"
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2" if is_ct else "1.2.840.10008.5.1.4.1.1.4"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3.1", "1.2.3.2"
    dataset.SOPInstanceUID = f"1.2.3.3.{number + 1}"
    dataset.PatientID, dataset.PatientName = "P1", "Muster^Eva"
    dataset.Modality = "CT" if is_ct else "MR"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if is_ct else "M"]
    dataset.BodyPartExamined = "HEAD"
    dataset.ImagePositionPatient = [f"{value:.3f}" for value in position]
    dataset.ImageOrientationPatient = [f"{value:g}" for value in orientation]
    dataset.PixelSpacing = [scan.spacing, scan.spacing]
    dataset.SliceThickness = scan.step
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    stored = np.rint(values)
    if is_ct:
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        stored = stored + 1024
    dataset.PixelData = np.clip(stored, 0, 4095).astype("<u2").tobytes()
    for name, value in header.items():
        setattr(dataset, name, value)
    return dataset


def content(dataset: Dataset) -> bytes:
    """Return the bytes of a file."""
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def shell(labels: npt.NDArray[np.uint8], plane: str = "axial", depth: int = 3) -> npt.NDArray[np.bool_]:
    """Return the face's first voxels behind the air in front of it, on the way from front to back.

    Args:
        labels: shape (slices, rows, columns).
        plane: of the scan.
        depth: in voxels.
    """
    axis = {"axial": 1, "sagittal": 2, "coronal": 0}[plane]
    face = labels == FACE
    found: npt.NDArray[np.bool_] = face & (np.cumsum(face, axis=axis) <= depth)
    return found
