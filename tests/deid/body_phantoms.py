"""Generated bodies that are no heads: trunks with lungs, ribs, organs, gas and spine, and legs, in CT and MR.

They have the interface of :class:`head_phantoms.Head`. The shapes are drawn freely and are nobody's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from head_phantoms import Points

_VALUES = {  # air, lung, fat, muscle, organ, bone, marrow, vessel
    "CT": (-1000, -850, -100, 50, 60, 900, 120, 250),
    "T1": (0, 20, 950, 400, 450, 40, 750, 60),
    "T2": (0, 20, 620, 200, 330, 40, 450, 80),
    "FLAIR": (0, 20, 60, 300, 450, 30, 70, 500),  # fat is suppressed
}
PARTS = ("CHEST", "ABDOMEN", "PELVIS", "KNEE", "LEG")


@dataclass(frozen=True)
class Body:
    """One body.

    Attributes:
        part: one of :data:`PARTS`; KNEE is one leg, LEG are two.
        fat: thickness of the layer below the skin.
        contrast: CT, T1, T2 or FLAIR (with suppressed fat).
        scale, nose: of everything; only for the noise.
    """

    part: str
    fat: float = 1.0
    contrast: str = "CT"
    scale: float = 1.0
    nose: float = 0.0

    def at(self, points: Points, random: np.random.Generator) -> tuple[Points, npt.NDArray[np.uint8]]:
        """Return values and labels (all zero) at points (..., 3), millimetres LPS+."""
        local = points / np.float32(self.scale)
        tissue = dict(
            zip(
                ("air", "lung", "fat", "muscle", "organ", "bone", "marrow", "vessel"),
                _VALUES[self.contrast],
                strict=True,
            )
        )
        values = np.full(points.shape[:-1], tissue["air"], dtype=np.float32)
        for where, name in self._legs(local) if self.part in ("KNEE", "LEG") else self._trunk(local):
            values[where] = tissue[name]
        if self.contrast == "CT":
            values += random.normal(0, 15, values.shape)
        else:
            noise = random.normal(0, 12, (2, *values.shape))
            values = np.hypot(values * (1 + 0.2 * np.tanh(points[..., 0] / 150)) + noise[0], noise[1])
        return values.astype(np.float32), np.zeros(values.shape, dtype=np.uint8)

    def _trunk(self, points: Points) -> list[tuple[npt.NDArray[np.bool_], str]]:
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        wall = np.hypot(x / 175, y / 115)
        muscle = 1 - 0.12 * self.fat
        found = [(wall < 1, "fat"), (wall < muscle, "muscle"), (wall < muscle - 0.12, "fat")]
        if self.part == "CHEST":
            ribs = np.abs(((z - 0.35 * y + 0.2 * np.abs(x)) % 26) - 13) < 5
            found += [(_ball(points, (side * 78, 0, -10), (62, 75, 130)) < 1, "lung") for side in (-1, 1)]
            found += [
                (_ball(points, (-15, -30, -20), (50, 45, 60)) < 1, "organ"),
                (np.hypot(x - 20, y - 30) < 13, "vessel"),
                ((wall > muscle - 0.14) & (wall < muscle - 0.06) & ribs & (y < 95), "bone"),
                ((np.abs(x) < 18) & (np.abs(y + 92) < 6) & (z > -60), "bone"),
            ]
        elif self.part == "ABDOMEN":
            found += [
                (_ball(points, (-70, -10, 30), (85, 75, 90)) < 1, "organ"),
                (_ball(points, (90, 10, 40), (45, 50, 60)) < 1, "organ"),
            ]
            found += [(_ball(points, (side * 70, 45, -20), (28, 28, 55)) < 1, "vessel") for side in (-1, 1)]
            for place in range(-80, 90, 30):
                found.append((_ball(points, (place, -40, -60), (18, 18, 22)) < 1, "organ"))
                found.append((_ball(points, (place, -45, -55), (10, 8, 15)) < 1, "air"))
        else:
            for side in (-1, 1):
                wing = np.hypot((x - side * 85) / 42, (y - 15) / 75)
                found.append(((np.abs(wing - 1) < 0.12) & (side * x > 70) & (z > -20), "bone"))
                found.append((_ball(points, (side * 90, 0, -60), (26, 26, 26)) < 1, "bone"))
                found.append((_ball(points, (side * 90, 0, -60), (22, 22, 22)) < 1, "marrow"))
            found.append((_ball(points, (0, -30, -40), (50, 45, 45)) < 1, "organ"))
        spine = np.hypot(x / 22, (y - 62) / 18)
        return [*found, (spine < 1, "bone"), (spine < 0.85, "marrow"), (np.hypot(x, y - 85) < 8, "organ")]

    def _legs(self, points: Points) -> list[tuple[npt.NDArray[np.bool_], str]]:
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        found = []
        for middle in (0,) if self.part == "KNEE" else (-85, 85):
            radius = np.hypot(x - middle, y) / (58 + 0.12 * np.abs(z))
            widening = np.clip(1 - np.abs(z) / 60, 0, 1)
            bone = np.hypot((x - middle) / (16 + 24 * widening), y / (15 + 18 * widening))
            hard = 1 - np.where(widening > 0.1, 0.07, 0.35)
            joint = np.abs(z) < 3
            found += [
                (radius < 1, "fat"), (radius < 1 - 0.13 * self.fat, "muscle"),
                ((bone < 1) & ~joint, "bone"), ((bone < hard) & ~joint, "marrow"),
            ]  # fmt: skip
        return found


def _ball(points: Points, centre: tuple[float, ...], half: tuple[float, ...]) -> Points:
    return np.sqrt((((points - np.float32(centre)) / np.float32(half)) ** 2).sum(axis=-1))
