"""Measure how often a head with a wrong direction or spacing is called defaced although its face is left.

The limits were chosen on heads below 1500; this measures heads from 5000, axial, in CT, T1, T2 and FLAIR.

    python benchmarks/bench_face_direction.py --heads 8
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections import Counter
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "deid"))

from head_phantoms import FACE, Head, Scan, content, shell, slices

from bench_defacing import CONTRASTS, OnePlan
from meninx.deid.faces import face_removal
from meninx.deid.faces.face_plans import DEFACED, SeriesFile, plan_of
from meninx.deid.faces.slice_header import header_of
from meninx.dicomfile import instance

FAULTS = {  # signs of rows, columns and heights; factors in the plane and along the normal
    "front and back": ((1, -1, 1), 1.0, 1.0),
    "head and feet": ((1, 1, -1), 1.0, 1.0),
    "both": ((1, -1, -1), 1.0, 1.0),
    "prone": ((-1, -1, 1), 1.0, 1.0),
    "left and right": ((-1, 1, 1), 1.0, 1.0),
    "slice distance x 0.67": ((1, 1, 1), 1.0, 0.67),
    "slice distance x 1.5": ((1, 1, 1), 1.0, 1.5),
    "pixels x 1.5": ((1, 1, 1), 1.5, 1.0),
}


def with_fault(datasets: list[Dataset], fault: str) -> list[Dataset]:
    """Return copies of axial slices with a fault in the header."""
    (across, down, up), plane, along = FAULTS[fault]
    datasets = copy.deepcopy(datasets)
    for dataset in datasets:
        x, y, z = (float(value) for value in dataset.ImagePositionPatient)
        dataset.ImageOrientationPatient = [across, 0, 0, 0, down, 0]
        dataset.PixelSpacing = [float(value) * plane for value in dataset.PixelSpacing]
        dataset.ImagePositionPatient = [across * x * plane, down * y * plane, up * z * along]
    return datasets


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--first", type=int, default=5000)
    arguments = parser.parse_args()
    counts: dict[str, Counter[str]] = {fault: Counter() for fault in FAULTS}
    for number in range(arguments.heads):
        head = Head.drawn(arguments.first + number, CONTRASTS[number % len(CONTRASTS)])
        datasets, labels = slices(head, Scan(spacing=3.0, step=5.0))
        before = np.stack([dataset.pixel_array for dataset in datasets])
        for fault in FAULTS:
            originals = [instance.read(content(dataset)) for dataset in with_fault(datasets, fault)]
            plan = plan_of([SeriesFile(header_of(one), partial(nullcontext, one)) for one in originals])
            if plan.outcome != DEFACED:
                counts[fault][plan.outcome] += 1
                continue
            clean = [face_removal.remove(one, OnePlan(plan))[0].pixels[0].value for one in originals]
            after = np.stack([np.frombuffer(bytes(one), "<u2").reshape(before.shape[1:]) for one in clean])
            face, front = ((before != after)[part].mean() for part in (labels == FACE, shell(labels)))
            is_gone = face >= 0.6 or front >= 0.8
            counts[fault]["face removed" if is_gone else "FACE LEFT"] += 1
            print(number, head.contrast, fault, round(float(face), 2), round(float(front), 2), flush=True)
    for fault, found in counts.items():
        print(f"{fault}: {dict(found)}")


if __name__ == "__main__":
    main()
