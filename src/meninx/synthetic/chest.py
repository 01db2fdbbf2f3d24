"""Images that resemble chest radiographs: an attenuation map of simple shapes, exposed and digitised.

This is not a simulation of X-rays. The images have the structures that matter for learning: lungs, ribs,
heart, mediastinum, spine, clavicles, diaphragm, soft tissue, vessels, noise and three findings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFilter

from meninx.synthetic.anatomy import Anatomy, Floats
from meninx.synthetic.people import FINDINGS


@dataclass(frozen=True)
class Lung:
    """One lung field of one image.

    Attributes:
        side: -1 the patient's right (image left), 1 the left.
        u: distance from the midline towards this side, shape (rows, columns).
        inside: soft mask, 0 to 1.
        floor: y of the diaphragm at each pixel's x.
        dome: y of the dome.
    """

    side: int
    u: Floats
    inside: Floats
    floor: Floats
    dome: float


@dataclass(frozen=True)
class FindingMaps:
    """The sum of all findings, each array of shape (rows, columns).

    Attributes:
        attenuation: to add to the air of the lungs.
        no_markings: 1 where vessels vanish.
        mask: 1 in a pneumothorax.
    """

    attenuation: Floats
    no_markings: Floats
    mask: Floats


def draw_findings(
    body: Anatomy,
    lungs: Sequence[Lung],
    present: Mapping[str, bool],
    rng: np.random.Generator,
    y: Floats,
    contrast: float = 1.0,
) -> FindingMaps:
    """Return the findings that are true in ``present``, with random sides, sizes and places.

    Args:
        body: the patient's anatomy.
        lungs: both lung fields.
        present: finding name to whether it is drawn.
        rng: generator of sides, sizes and places.
        y: anatomical y of every pixel.
        contrast: factor of the findings' attenuation; 1 is subtle.
    """
    shape = y.shape
    attenuation, markings, mask = (np.zeros(shape, np.float32) for _ in range(3))
    sides = rng.permutation(2)
    sizes = rng.random(len(FINDINGS))
    if present.get("pneumothorax"):
        rim, line = _pneumothorax(body, lungs[int(sides[0])], y, float(sizes[1]))
        attenuation += np.float32(0.09) * line - np.float32(0.065) * rim
        markings, mask = np.maximum(markings, rim), rim
    if present.get("effusion"):
        fluid = _effusion(lungs[int(sides[1])], y, float(sizes[0]))
        attenuation += np.float32(0.33) * fluid
        markings = np.maximum(markings, fluid)
    if present.get("nodule"):
        attenuation += _nodule(body, lungs[int(rng.integers(2))], y, rng, float(sizes[2]))
    return FindingMaps(np.float32(contrast) * attenuation, markings, mask)


def lung_outline(
    body: Anatomy, u: Floats, y: Floats, floor: Floats, dome: float, *, inward: float = 0.0, down: float = 0.0
) -> Floats:
    """Return the soft mask of a lung, shrunk from the side by ``inward`` and from the apex by ``down``."""
    apex = body.apex + down
    a = np.clip(1 - (y - np.float32(apex)) / np.float32(dome - apex), 0, 1)
    outer = np.float32(0.34) + np.float32(body.width - 0.34 - inward) * np.sqrt(1 - a**2.6)
    inner = np.float32(0.34) - np.float32(0.34 - body.mediastinum + 0.03) * np.sqrt(1 - a**7)
    distance = np.minimum(np.minimum(u - inner, outer - u), floor - y)
    return soft_edge(np.minimum(distance, y - np.float32(apex)), 0.03)


def _pneumothorax(body: Anatomy, lung: Lung, y: Floats, size: float) -> tuple[Floats, Floats]:
    """Return the rim of free air, widest at the apex, and the pleural line beside it."""
    inward = 0.06 + 0.12 * size
    collapsed = lung_outline(body, lung.u, y, lung.floor, lung.dome, inward=inward, down=1.7 * inward)
    near = soft_edge(np.float32(lung.dome + 0.1) - y, 0.25)
    rim = lung.inside * (1 - collapsed) * near * soft_edge(lung.u - np.float32(0.2), 0.04)
    line = 4 * collapsed * (1 - collapsed) * lung.inside * near
    return rim, line


def _effusion(lung: Lung, y: Floats, size: float) -> Floats:
    """Return fluid above the diaphragm: a blunted angle with a meniscus that rises at the chest wall."""
    level = lung.dome + 0.06 - 0.34 * size
    climb = np.float32(0.30) * np.clip((lung.u - np.float32(0.32)) / np.float32(0.36), 0, 1.3) ** 2
    return lung.inside * soft_edge(y - (np.float32(level) - climb), 0.05)


def _nodule(body: Anatomy, lung: Lung, y: Floats, rng: np.random.Generator, size: float) -> Floats:
    """Return a round bright spot in the free part of a lung."""
    at_u = rng.uniform(0.34 if lung.side < 0 else 0.44, body.width - 0.15)
    at_y = rng.uniform(body.apex + 0.28, lung.dome - 0.12)
    radius = 0.095 + 0.06 * size
    far = np.hypot(lung.u - np.float32(at_u), y - np.float32(at_y))
    return np.float32(0.38 + 0.12 * rng.random()) * soft_edge(np.float32(radius) - far, 0.04)


def soft_edge(distance: Floats, softness: float) -> Floats:
    """Return a smooth step over ``softness`` on either side: 0 outside, 0.5 at distance 0, 1 inside."""
    scaled: Floats = np.clip(distance * np.float32(0.5 / softness) + np.float32(0.5), 0, 1)
    smooth: Floats = scaled * scaled * (3 - 2 * scaled)
    return smooth


BITS: Final = 12
HIGHEST: Final = (1 << BITS) - 1
ZOOM: Final = 1.14


@dataclass(frozen=True)
class Radiograph:
    """One image with its mask and findings.

    Attributes:
        array: uint16, shape (rows, columns), 0 (air) to 4095 (bone): MONOCHROME2.
        mask: uint8, shape (rows, columns), 1 inside the pneumothorax.
        findings: what was drawn, by name.
    """

    array: npt.NDArray[np.uint16]
    mask: npt.NDArray[np.uint8]
    findings: Mapping[str, bool]


@dataclass(frozen=True)
class Pose:
    """Position of the patient and exposure of one image; drawn anew for each image."""

    shift: tuple[float, float] = (0.0, 0.0)
    angle: float = 0.0
    scale: float = 1.0
    breath: float = 0.0
    exposure: float = 0.0
    gamma: float = 1.0

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Pose:
        """Return a random pose: a few percent of shift, size and breath, about two degrees, some exposure."""
        x, y, angle, scale, breath, exposure, gamma = rng.normal(0, 1, 7)
        return cls(
            (0.02 * x, 0.02 * y - 0.03),
            0.03 * angle,
            ZOOM * (1 + 0.02 * scale),
            0.012 * breath,
            0.02 * exposure,
            float(np.exp(0.06 * gamma)),
        )

    def grid(self, size: int) -> tuple[Floats, Floats]:
        """Return the anatomical x and y of every pixel, each of shape (size, size)."""
        axis = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
        column, row = axis[None, :] - np.float32(self.shift[0]), axis[:, None] - np.float32(self.shift[1])
        cos, sin = np.float32(np.cos(self.angle) / self.scale), np.float32(np.sin(self.angle) / self.scale)
        return column * cos + row * sin, row * cos - column * sin

    def project(self, points: Floats, size: int) -> Floats:
        """Return pixel positions of anatomical points, shape (n, 2): the inverse of :meth:`grid`."""
        cos, sin = np.cos(self.angle) * self.scale, np.sin(self.angle) * self.scale
        x, y = points[:, 0], points[:, 1]
        turned = np.stack((x * cos - y * sin + self.shift[0], x * sin + y * cos + self.shift[1]), axis=1)
        return ((turned + 1) * (size / 2) - 0.5).astype(np.float32)


def radiograph(
    body: Anatomy,
    present: Mapping[str, bool],
    rng: np.random.Generator,
    size: int = 128,
    *,
    contrast: float = 1.0,
) -> Radiograph:
    """Return one image of a patient, in a new pose, with the findings that are true in ``present``.

    Args:
        body: the patient's anatomy.
        present: finding name to whether it is drawn; missing names count as absent.
        rng: generator of pose, exposure, noise and the places and sizes of the findings.
        size: rows and columns, at least 16.
        contrast: factor of the findings' attenuation; 1 is subtle.
    """
    pose = Pose.sample(rng)
    x, y = pose.grid(size)
    lungs = tuple(lung(body, pose, side, x, y) for side in (-1, 1))
    both = np.maximum(lungs[0].inside, lungs[1].inside)
    air = both * (1 - np.float32(0.8) * _heart(body, pose, x, y))
    drawn = draw_findings(body, lungs, present, rng, y, contrast)
    tissue = _tissue(body, x, y, both) + _bones(body, x, y, both)
    vessels = _vessels(body, pose, size) * (1 - drawn.no_markings)
    tissue += air * (np.float32(0.16) * vessels - np.float32(0.36) + drawn.attenuation)
    return Radiograph(
        _expose(tissue, pose, rng),
        (drawn.mask > 0.5).astype(np.uint8),
        {name: bool(present.get(name)) for name in FINDINGS},
    )


def lung(body: Anatomy, pose: Pose, side: int, x: Floats, y: Floats) -> Lung:
    """Return one lung field: side -1 is the patient's right (image left)."""
    u = x * np.float32(side)
    dome = body.domes[0 if side < 0 else 1] + pose.breath
    floor = dome + np.float32(1.5) * (u - np.float32(0.40)) ** 2
    return Lung(side=side, u=u, inside=lung_outline(body, u, y, floor, dome), floor=floor, dome=dome)


def _heart(body: Anatomy, pose: Pose, x: Floats, y: Floats) -> Floats:
    """Return the heart, the great vessels and the aortic knob, 0 to 1."""
    cx, cy, a, b, tilt = body.heart
    cos, sin = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
    dx, dy = x - np.float32(cx), y - np.float32(cy + pose.breath)
    along, across = (dx * cos + dy * sin) / np.float32(a), (dy * cos - dx * sin) / np.float32(b)
    heart = soft_edge(1 - np.sqrt(along**2 + across**2), 0.10)
    trunk = soft_edge(body.mediastinum - np.abs(x - np.float32(0.03)), 0.05) * soft_edge(
        y + np.float32(0.75), 0.2
    )
    knob = soft_edge(
        body.knob - np.hypot(x - np.float32(body.mediastinum + 0.02), y + np.float32(0.30)), 0.03
    )
    hila = np.exp(
        -(((np.abs(x) - np.float32(0.17)) / 0.07) ** 2) - ((y + np.float32(0.05)) / 0.13) ** 2
    ) * np.float32(0.45)
    parts: Floats = np.maximum(np.maximum(heart, trunk), np.maximum(knob, hila))
    return parts


def _tissue(body: Anatomy, x: Floats, y: Floats, both: Floats) -> Floats:
    """Return soft tissue: torso, shoulders, neck, mediastinum, abdomen with gas, breasts, texture."""
    u = np.abs(x)
    side = np.float32(body.width + body.fat) + np.float32(0.05) * np.sin(np.float32(3) * y)
    wall = side + np.float32(3.0) * np.maximum(-np.float32(0.18) - y, 0) ** 2
    shoulder = y + np.float32(0.99) - np.float32(0.42) * np.maximum(u - np.float32(0.24), 0)
    inside = soft_edge(np.minimum(wall - u, shoulder), 0.05)
    bow = np.sqrt(np.clip(1 - (u / (wall + np.float32(0.02))) ** 2, 0, 1))
    total: Floats = inside * (np.float32(0.46) + np.float32(0.17) * bow)
    total += np.float32(0.10) * inside * np.exp(-((x / np.float32(0.2)) ** 2))
    belly = soft_edge(y - np.float32(body.domes[0] + 0.05), 0.25) * (1 - both)
    gas = soft_edge(
        body.bubble[2] - np.hypot(x - np.float32(body.bubble[0]), (y - np.float32(body.bubble[1])) * 1.3),
        0.05,
    )
    total += inside * (np.float32(0.10) * belly - np.float32(0.20) * gas)
    total -= np.float32(0.10) * np.exp(-((x / np.float32(0.05)) ** 2)) * soft_edge(-np.float32(0.22) - y, 0.1)
    if body.breast > 0:
        cu, cy, radius = body.breast_shape
        far = np.hypot(u - np.float32(cu), (y - np.float32(cy)) * np.float32(1.05))
        lower = np.clip((y - np.float32(cy - radius)) / np.float32(2 * radius), 0, 1) ** 1.5
        total += (
            np.float32(body.breast)
            * soft_edge(np.float32(radius) - far, 0.05)
            * (np.float32(0.15) + np.float32(1.1) * lower)
        )
    for kx, ky, phase, amplitude in body.waves:
        total += inside * amplitude * np.sin(kx * x + ky * y + phase)
    return total


def _bones(body: Anatomy, x: Floats, y: Floats, both: Floats) -> Floats:
    """Return posterior and anterior ribs, clavicles and spine."""
    u = np.abs(x)
    q = u / np.float32(body.width)
    cage = soft_edge(np.float32(body.width + 0.05) - u, 0.04) * soft_edge(
        y - np.float32(body.apex - 0.02), 0.06
    )
    cage = cage * (np.float32(0.35) + np.float32(0.65) * both) * soft_edge(np.float32(0.72) - y, 0.3)
    behind = (
        y - np.float32(body.rib_slope) * q**2.4 + np.float32(0.10) * np.sin(np.float32(3.0) * q)
    ) / np.float32(body.rib_spacing)
    before = (y + np.float32(0.46) * q - np.float32(0.12) * q**2) / np.float32(body.rib_spacing * 1.06)
    bones = _bands(behind + np.float32(body.rib_phase)) * cage
    bones += (
        np.float32(0.55)
        * _bands(before + np.float32(body.rib_phase + 0.4))
        * cage
        * soft_edge(u - np.float32(0.26), 0.12)
    )
    bones *= np.float32(body.rib_density)
    level, rise, half = body.clavicle
    centre = (
        np.float32(level)
        - np.float32(rise) * (q - np.float32(0.1))
        + np.float32(0.03) * np.sin(np.float32(7) * q)
    )
    reach = soft_edge(u - np.float32(0.06), 0.04) * soft_edge(np.float32(0.78) - u, 0.06)
    bones += np.float32(0.10) * soft_edge(half - np.abs(y - centre), 0.02) * reach
    vertebrae = np.float32(0.75) + np.float32(0.25) * np.cos(
        y * np.float32(2 * np.pi / 0.16) + np.float32(body.rib_phase * 6)
    )
    bones += np.float32(0.09) * soft_edge(np.float32(0.085) - u, 0.03) * vertebrae
    return bones


def _bands(phase: Floats) -> Floats:
    """Return stripes of period 1 and width 0.44 with a brighter rim, like ribs in projection."""
    across = np.abs(phase - np.floor(phase) - np.float32(0.5))
    solid = soft_edge(np.float32(0.22) - across, 0.06)
    stripes: Floats = solid * (
        np.float32(0.7) + np.float32(0.6) * np.clip(across / np.float32(0.22), 0, 1) ** 3
    )
    return stripes


def _vessels(body: Anatomy, pose: Pose, size: int) -> Floats:
    """Return the vessel tree in this pose, values 0 to 1."""
    canvas = Pillow.new("L", (size, size))
    pen = ImageDraw.Draw(canvas)
    ends = np.concatenate(
        (pose.project(body.vessels[:, :2], size), pose.project(body.vessels[:, 2:4], size)), axis=1
    )
    for (x0, y0, x1, y1), width in zip(
        ends.tolist(), (body.vessels[:, 4] * (size / 2)).tolist(), strict=True
    ):
        pen.line((x0, y0, x1, y1), fill=int(min(255, 90 + 110 * width)), width=max(1, round(width)))
    soft = canvas.filter(ImageFilter.GaussianBlur(max(0.5, size / 160)))
    drawn: Floats = np.asarray(soft, dtype=np.float32) / np.float32(255)
    return drawn


def _expose(tissue: Floats, pose: Pose, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    """Return the digitised image: tone curve, quantum noise, 12 bits."""
    tone = np.clip((tissue - np.float32(0.02 - pose.exposure)) / np.float32(0.98), 0.0, 1) ** np.float32(
        pose.gamma
    )
    grain = rng.standard_normal(tone.shape, dtype=np.float32)
    noisy = tone + grain * (np.float32(0.010) + np.float32(0.018) * tone)
    digital: npt.NDArray[np.uint16] = np.clip(noisy * HIGHEST, 0, HIGHEST).astype(np.uint16)
    return digital
