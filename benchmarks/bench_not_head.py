"""Count heads that pass as no head under a wrong header, and other bodies that are kept out all the same.

Every header names another part of the body (KNEE), so the pixels alone decide. Heads are axial, sagittal, cut
below the vertex, and with the nose out of view; headers have a wrong rescaling (CT), spacing, orientation,
modality or sign. Bodies are generated trunks and legs, and what is real below --data: one CT of an abdomen.

    python benchmarks/bench_not_head.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
from pydicom.dataset import Dataset

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "deid"))

from body_phantoms import PARTS, Body
from head_phantoms import Head, Scan, content, slices

from meninx.deid.faces.face_plans import NOT_HEAD, SeriesFile, plan_of
from meninx.deid.faces.slice_header import header_of
from meninx.dicomfile import instance

CONTRASTS = ("CT", "T1", "T2", "FLAIR")
SCANS = {
    "axial": Scan(spacing=3.0, step=5.0),
    "sagittal": Scan(spacing=3.0, step=5.0, plane="sagittal"),
    "cut below the vertex": Scan(spacing=3.0, step=5.0, high=30.0),
    "nose outside the view": Scan(spacing=3.0, step=5.0, front=-95.0),
}
Change = Callable[[Dataset, int], None]


def rescaled(slope: float, intercept: float) -> Change:
    """Return a change of the rescaling."""

    def change(dataset: Dataset, number: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept

    return change


def spaced(rows: float, columns: float, along: float) -> Change:
    """Return a change of the spacing between rows, columns and slices, by factors."""

    def change(dataset: Dataset, number: int) -> None:
        dataset.PixelSpacing = [
            float(dataset.PixelSpacing[0]) * rows,
            float(dataset.PixelSpacing[1]) * columns,
        ]
        x, y, z = map(float, dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [x * columns, y * rows, z * along]

    return change


def turned(orientation: list[int], step: tuple[float, float, float]) -> Change:
    """Return a change of the orientation."""

    def change(dataset: Dataset, number: int) -> None:
        dataset.ImageOrientationPatient = orientation
        dataset.ImagePositionPatient = [number * part for part in step]

    return change


def of_kind(modality: str, sop_class: str) -> Change:
    """Return a change of the modality."""

    def change(dataset: Dataset, number: int) -> None:
        dataset.Modality, dataset.SOPClassUID = modality, sop_class

    return change


def signed(dataset: Dataset, number: int) -> None:
    """Declare signed values."""
    dataset.PixelRepresentation = 1


CT_ONLY = {
    "slope 0.2": rescaled(0.2, -1024), "slope 0.5": rescaled(0.5, -1024), "slope 0.7": rescaled(0.7, -1024),
    "slope 2": rescaled(2, -1024), "slope 10": rescaled(10, -1024), "slope 0.001": rescaled(0.001, 0),
    "intercept 0": rescaled(1, 0), "intercept -2048": rescaled(1, -2048),
    "intercept -4000": rescaled(1, -4000), "intercept 1000": rescaled(1, 1000),
    "as MR": of_kind("MR", "1.2.840.10008.5.1.4.1.1.4"),
}  # fmt: skip
MR_ONLY = {"as CT": of_kind("CT", "1.2.840.10008.5.1.4.1.1.2")}
BOTH = {
    "only the part of the body": spaced(1, 1, 1), "in-plane x 0.25": spaced(0.25, 0.25, 1),
    "in-plane x 0.5": spaced(0.5, 0.5, 1), "in-plane x 2": spaced(2, 2, 1),
    "all x 0.3": spaced(0.3, 0.3, 0.3), "all x 0.1": spaced(0.1, 0.1, 0.1),
    "all x 3": spaced(3, 3, 3), "slices x 0.15": spaced(1, 1, 0.15),
    "slices x 0.4": spaced(1, 1, 0.4), "slices x 2": spaced(1, 1, 2), "rows x 0.4": spaced(0.4, 1, 1),
    "columns x 0.4": spaced(1, 0.4, 1), "said to be sagittal": turned([0, 1, 0, 0, 0, -1], (4, 0, 0)),
    "said to be coronal": turned([1, 0, 0, 0, 0, -1], (0, 4, 0)),
    "upside down": turned([1, 0, 0, 0, 1, 0], (0, 0, -4)),
    "back to front": turned([-1, 0, 0, 0, -1, 0], (0, 0, 4)), "signed": signed,
}  # fmt: skip


def outcome(datasets: list[Dataset], change: Change, part: str = "KNEE") -> str:
    """Return what is done with a series under a changed header."""
    changed = copy.deepcopy(datasets)
    for number, dataset in enumerate(changed):
        dataset.BodyPartExamined = part
        change(dataset, number)
    originals = [instance.read(content(dataset)) for dataset in changed]
    plan = plan_of([SeriesFile(header_of(one), partial(nullcontext, one)) for one in originals])
    return " ".join(filter(None, (plan.outcome, str(plan.reason))))


def abdomen(data: Path) -> list[Dataset]:
    """Return the real CT as slices."""
    image = nibabel.load(data / "ct_abdomen_totalseg" / "ct.nii.gz")
    values = np.asarray(image.dataobj, dtype=np.float64)
    steps = [float(step) for step in image.header.get_zooms()]
    template = slices(Head(), Scan(spacing=30.0, step=30.0))[0][0]
    found = []
    for number in range(values.shape[2]):
        dataset = copy.deepcopy(template)
        section = np.clip(np.rint(values[::-1, ::-1, number].T) + 1024, 0, 4095).astype("<u2")
        dataset.Rows, dataset.Columns = section.shape
        dataset.PixelSpacing = [steps[1], steps[0]]
        dataset.ImagePositionPatient = [0, 0, number * steps[2]]
        dataset.SOPInstanceUID = f"1.2.3.4.{number + 1}"
        dataset.PixelData = section.tobytes()
        found.append(dataset)
    return found


def heads(first: int) -> None:
    """Print which heads pass."""
    counts, number = Counter(), first
    for contrast in CONTRASTS:
        kind = "CT" if contrast == "CT" else "MR"
        for name, scan in SCANS.items():
            number += 1
            datasets = slices(Head.drawn(number, contrast), scan)[0]
            for header, change in (BOTH | (CT_ONLY if kind == "CT" else MR_ONLY)).items():
                passed = outcome(datasets, change) == NOT_HEAD
                counts[kind, passed] += 1
                if passed:
                    print(f"passed: {contrast}, {name}, {header}", flush=True)
    for kind in ("CT", "MR"):
        total = counts[kind, True] + counts[kind, False]
        print(f"{kind} heads under wrong headers: {counts[kind, True]} of {total} passed as no head")


def other_parts(kind: str) -> None:
    """Print which bodies are kept out although their header is right."""
    counts = Counter()
    for contrast in [one for one in CONTRASTS if (one == "CT") == (kind == "CT")]:
        for part in PARTS:
            for fat in (0.4, 1.0, 2.0):
                scale = 1.0 if part == "KNEE" else 0.65  # a trunk fits into the scan of a head, then grows
                body = Body(part, fat=fat, contrast=contrast, scale=scale)
                datasets = slices(body, Scan(spacing=3.0, step=5.0))[0]
                found = outcome(datasets, spaced(1 / scale, 1 / scale, 1 / scale), part)
                counts[found != NOT_HEAD] += 1
                if found != NOT_HEAD:
                    print(f"kept out: {contrast}, {part}, fat {fat}: {found}", flush=True)
    print(f"{kind} of other parts: {counts[True]} of {counts.total()} kept out", flush=True)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--first", type=int, default=2000)
    arguments = parser.parse_args()
    other_parts("CT")
    other_parts("MR")
    if arguments.data:
        print("real CT of an abdomen:", outcome(abdomen(arguments.data), spaced(1, 1, 1), "ABDOMEN"))
    heads(arguments.first)


if __name__ == "__main__":
    main()
