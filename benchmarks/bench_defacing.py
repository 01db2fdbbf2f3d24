"""Measure the removal of faces on generated heads whose face is known: how much of it goes, and what else.

Settings were chosen on heads 0 to 19. This measures other shapes and poses (numbers from 1000), in CT, T1, T2
and FLAIR, axial, sagittal and coronal, with several slice distances, a tilted gantry and cut fields of view.
The generated heads are simpler than people, so the figures are no estimate for a hospital's scans.

    python benchmarks/bench_defacing.py --heads 40
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "deid"))

from head_phantoms import FACE, OTHER, Head, Scan, content, shell, slices

from meninx.core.proportions import clopper_pearson
from meninx.deid.faces import face_removal
from meninx.deid.faces.face_plans import DEFACED, FacePlan, SeriesFile, plan_of
from meninx.deid.faces.slice_header import SliceHeader, header_of
from meninx.dicomfile import instance
from meninx.dicomfile.instance import Instance

CONTRASTS = ("CT", "T1", "T2", "FLAIR")
SCANS = {
    "axial, 4 mm": Scan(),
    "axial, 6 mm": Scan(spacing=1.5, step=6.0),
    "sagittal": Scan(plane="sagittal"),
    "coronal": Scan(plane="coronal"),
    "gantry tilted by 15 degrees": Scan(tilt=15.0),
    "down to the mouth": Scan(low=-75.0),
    "nose outside the view": Scan(front=-100.0),
}
NO_FACE = {  # cut so that no nose is in view: a refusal is the right answer
    "cut above the eyes": Scan(low=5.0),
    "cut below the vertex": Scan(high=30.0),
}


class OnePlan:
    """The plan of the only series."""

    def __init__(self, plan: FacePlan) -> None:
        self.plan = plan

    def of(self, header: SliceHeader, original: Instance) -> FacePlan:
        """Return it."""
        return self.plan


def measured(head: Head, scan: Scan) -> tuple[FacePlan, tuple[float, float, float] | None]:
    """Return the plan, and the changed parts of the face, of its front shell and of other tissue."""
    datasets, labels = slices(head, scan)
    originals = [instance.read(content(dataset)) for dataset in datasets]
    plan = plan_of([SeriesFile(header_of(one), partial(nullcontext, one)) for one in originals])
    if plan.outcome != DEFACED:
        return plan, None
    before = np.stack([dataset.pixel_array for dataset in datasets])
    clean = [face_removal.remove(one, OnePlan(plan))[0].pixels[0].value for one in originals]
    after = np.stack([np.frombuffer(bytes(one), "<u2").reshape(before.shape[1:]) for one in clean])
    changed = before != after
    front = shell(labels, scan.plane)
    return plan, tuple(float(changed[part].mean()) for part in (labels == FACE, front, labels == OTHER))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=int, default=40)
    parser.add_argument("--first", type=int, default=1000)
    arguments = parser.parse_args()
    names, found, refused = list(SCANS), [], Counter()
    for number in range(arguments.heads):
        name = names[number % len(names)]
        head = Head.drawn(arguments.first + number, CONTRASTS[number % len(CONTRASTS)])
        plan, parts = measured(head, SCANS[name])
        print(
            number, head.contrast, name, plan.outcome, plan.reason, parts and np.round(parts, 3), flush=True
        )
        if parts is None:
            refused[name] += 1
        else:
            found.append(parts)
    table = np.array(found)
    good = int((((table[:, 0] >= 0.6) | (table[:, 1] >= 0.8)) & (table[:, 2] < 0.05)).sum())
    low, high = clopper_pearson(good, len(found))
    print(f"{good} of {len(found)} defaced series meet the criterion [{low:.3f}, {high:.3f}]")
    print(f"refused: {sum(refused.values())} of {arguments.heads}: {dict(refused)}")
    for column, what in enumerate(("face", "front shell", "other tissue")):
        values = table[:, column]
        print(f"{what}: median {np.median(values):.3f}, from {values.min():.3f} to {values.max():.3f}")
    passed = 0
    for number, (name, scan) in enumerate([*NO_FACE.items()] * 4):
        plan, _ = measured(Head.drawn(arguments.first + 500 + number, CONTRASTS[number // 2]), scan)
        print(name, plan.outcome, plan.reason)
        passed += plan.outcome == "not-head"
    print(f"without a nose in view: {passed} of 8 passed as no head")


if __name__ == "__main__":
    main()
