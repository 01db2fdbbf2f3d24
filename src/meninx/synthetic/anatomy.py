"""The chest anatomy of one invented patient, drawn once and shared by all of the patient's images.

Coordinates: x runs from -1 (image left, the patient's right) to 1, y from -1 (top) to 1 (bottom).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core.randomness import child

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Anatomy:
    """Shape and density of a chest, with lengths in half image widths and densities in attenuation units.

    Attributes:
        width: half width of the lungs at their widest.
        apex: y of the lung apices.
        domes: y of the right and left diaphragm dome.
        mediastinum: half width of the mediastinum.
        heart: centre x, centre y, half length, half breadth, tilt in radians.
        knob: radius of the aortic knob.
        rib_spacing: vertical distance of two ribs.
        rib_slope: fall of the ribs to the side.
        rib_phase: offset of the rib pattern.
        rib_density: attenuation of ribs.
        breast: attenuation of the breast shadows, 0 for none.
        breast_shape: centre u, centre y, radius of the breast shadows.
        fat: thickness of the soft tissue outside the ribs.
        clavicle: y at the sternum, rise to the side, half thickness.
        bubble: x, y, radius of the stomach's gas bubble.
        vessels: line segments of the vessel tree, rows of ``x0, y0, x1, y1, width``.
        waves: random plane waves of the soft-tissue texture, rows of ``kx, ky, phase, amplitude``.
    """

    width: float
    apex: float
    domes: tuple[float, float]
    mediastinum: float
    heart: tuple[float, float, float, float, float]
    knob: float
    rib_spacing: float
    rib_slope: float
    rib_phase: float
    rib_density: float
    breast: float
    breast_shape: tuple[float, float, float]
    fat: float
    clavicle: tuple[float, float, float]
    bubble: tuple[float, float, float]
    vessels: Floats
    waves: Floats


@lru_cache(maxsize=256)  # a patient's images are drawn one after the other
def random_anatomy(seed: int, index: int, sex: str, age: int) -> Anatomy:
    """Return the chest of patient ``index``; sex and age shift the means of its random parameters.

    Women: narrower and shorter thorax, breast shadows. Age: larger heart, wider aortic knob and mediastinum,
    thinner ribs. The distributions overlap, so that no single pixel reveals sex or age.
    """
    rng = child(seed, "anatomy", index)
    man, years = float(sex == "M"), (age - 55) / 20
    width = 0.70 + 0.05 * man + rng.normal(0, 0.025)
    dome = 0.36 + 0.07 * man - 0.015 * years + rng.normal(0, 0.045)
    ratio = 0.46 + 0.042 * years + rng.normal(0, 0.02)
    half = ratio * width
    heart_y = dome - 0.16 + rng.normal(0, 0.02)
    breast = 0.0 if man else float(np.clip(rng.normal(0.13, 0.045), 0.03, 0.24))
    return Anatomy(
        width=width,
        apex=-0.74 + rng.normal(0, 0.03),
        domes=(dome, dome + 0.05 + rng.normal(0, 0.015)),
        mediastinum=0.118 + 0.013 * years + rng.normal(0, 0.008),
        heart=(
            0.33 * half + rng.normal(0, 0.01),
            heart_y,
            half,
            half * (0.74 + rng.normal(0, 0.03)),
            0.55 + rng.normal(0, 0.08),
        ),
        knob=float(np.clip(0.08 + 0.03 * years + rng.normal(0, 0.008), 0.03, 0.17)),
        rib_spacing=0.148 + 0.01 * man + rng.normal(0, 0.006),
        rib_slope=0.34 + rng.normal(0, 0.05),
        rib_phase=float(rng.random()),
        rib_density=float(np.clip(0.085 + 0.012 * man - 0.028 * years + rng.normal(0, 0.01), 0.025, 0.15)),
        breast=breast,
        breast_shape=(0.42 + rng.normal(0, 0.03), 0.16 + rng.normal(0, 0.05), 0.29 + rng.normal(0, 0.03)),
        fat=float(np.clip(0.13 + rng.normal(0, 0.035), 0.06, 0.24)),
        clavicle=(-0.57 + rng.normal(0, 0.02), 0.13 + rng.normal(0, 0.03), 0.026 + 0.004 * man),
        bubble=(
            0.36 + rng.normal(0, 0.05),
            dome + 0.22 + rng.normal(0, 0.02),
            float(np.clip(rng.normal(0.09, 0.03), 0.03, 0.15)),
        ),
        vessels=_vessels(rng, width, dome),
        waves=_waves(rng),
    )


def _waves(rng: np.random.Generator, count: int = 8) -> Floats:
    """Return random plane waves, shape (count, 4); slower waves are stronger."""
    speed = rng.uniform(2.0, 11.0, count)
    angle = rng.uniform(0, np.pi, count)
    columns = (
        speed * np.cos(angle),
        speed * np.sin(angle),
        rng.uniform(0, 2 * np.pi, count),
        0.03 / np.sqrt(speed),
    )
    return np.stack(columns, axis=1).astype(np.float32)


def _vessels(rng: np.random.Generator, width: float, dome: float) -> Floats:
    """Return the vessel tree of both lungs as segments, shape (n, 5), from each hilum outwards."""
    rows: list[tuple[float, float, float, float, float]] = []
    for side in (-1.0, 1.0):
        for angle in np.linspace(-1.35, 1.35, 8) + rng.normal(0, 0.1, 8):
            start = (side * 0.17, -0.06 + 0.12 * float(angle))
            _branch(rng, rows, start, side, float(angle), (dome + 0.75) * 0.19, 0.026, 3)
    return np.array(rows, dtype=np.float32)


def _branch(
    rng: np.random.Generator,
    rows: list[tuple[float, float, float, float, float]],
    start: tuple[float, float],
    side: float,
    angle: float,
    length: float,
    width: float,
    depth: int,
) -> None:
    """Append one segment and, recursively for ``depth`` levels, its two branches."""
    end = (start[0] + side * length * float(np.cos(angle)), start[1] + length * float(np.sin(angle)))
    rows.append((*start, *end, width))
    if depth > 0:
        for fork in (-1, 1):
            turn = angle + fork * rng.uniform(0.15, 0.5)
            _branch(
                rng, rows, end, side, float(turn), length * rng.uniform(0.6, 0.85), width * 0.68, depth - 1
            )
