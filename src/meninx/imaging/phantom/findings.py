"""What can be wrong with a chest: effusion, pneumothorax, nodule, as changes of the attenuation map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from meninx.imaging.phantom.anatomy import Anatomy, Floats
from meninx.imaging.phantom.subjects import FINDINGS

NAMES = FINDINGS


@dataclass(frozen=True)
class Lung:
    """One lung field of one image.

    Attributes:
        side: -1 the patient's right (image left), 1 the left.
        u: distance from the midline towards this side, shape (rows, columns).
        inside: soft mask, 0 to 1.
        floor: y of the diaphragm at each pixel.
        dome: y of the dome.
    """

    side: int
    u: Floats
    inside: Floats
    floor: Floats
    dome: float


@dataclass(frozen=True)
class Drawn:
    """The sum of all findings, each array of shape (rows, columns).

    Attributes:
        attenuation: to add to the air of the lungs.
        no_markings: 1 where vessels vanish.
        mask: 1 in a pneumothorax.
    """

    attenuation: Floats
    no_markings: Floats
    mask: Floats


def draw(
    body: Anatomy,
    lungs: Sequence[Lung],
    present: Mapping[str, bool],
    rng: np.random.Generator,
    y: Floats,
    contrast: float = 1.0,
) -> Drawn:
    """Return the findings that are true in ``present``; sides, sizes and places are drawn anew from ``rng``.

    Args:
        body: the patient's anatomy.
        lungs: both lung fields.
        present: finding name to whether it is drawn.
        rng: drives sides, sizes and places.
        y: anatomical y of every pixel.
        contrast: factor of the findings' attenuation; 1 is subtle.
    """
    shape = y.shape
    attenuation, markings, mask = (np.zeros(shape, np.float32) for _ in range(3))
    sides = rng.permutation(2)
    sizes = rng.random(len(NAMES))
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
    return Drawn(np.float32(contrast) * attenuation, markings, mask)


def outline(
    body: Anatomy, u: Floats, y: Floats, floor: Floats, dome: float, *, inward: float = 0.0, down: float = 0.0
) -> Floats:
    """Return the soft mask of a lung, shrunk from the side by ``inward`` and from the apex by ``down``."""
    apex = body.apex + down
    a = np.clip(1 - (y - np.float32(apex)) / np.float32(dome - apex), 0, 1)
    outer = np.float32(0.34) + np.float32(body.width - 0.34 - inward) * np.sqrt(1 - a**2.6)
    inner = np.float32(0.34) - np.float32(0.34 - body.mediastinum + 0.03) * np.sqrt(1 - a**7)
    distance = np.minimum(np.minimum(u - inner, outer - u), floor - y)
    return soft(np.minimum(distance, y - np.float32(apex)), 0.03)


def _pneumothorax(body: Anatomy, lung: Lung, y: Floats, size: float) -> tuple[Floats, Floats]:
    """Return the rim of free air and the pleural line beside it: widest at the apex, at least a few pixels."""
    inward = 0.06 + 0.12 * size
    collapsed = outline(body, lung.u, y, lung.floor, lung.dome, inward=inward, down=1.7 * inward)
    near = soft(np.float32(lung.dome + 0.1) - y, 0.25)
    rim = lung.inside * (1 - collapsed) * near * soft(lung.u - np.float32(0.2), 0.04)
    line = 4 * collapsed * (1 - collapsed) * lung.inside * near
    return rim, line


def _effusion(lung: Lung, y: Floats, size: float) -> Floats:
    """Return fluid above the diaphragm: a blunted angle with a meniscus that climbs the chest wall."""
    level = lung.dome + 0.06 - 0.34 * size
    climb = np.float32(0.30) * np.clip((lung.u - np.float32(0.32)) / np.float32(0.36), 0, 1.3) ** 2
    return lung.inside * soft(y - (np.float32(level) - climb), 0.05)


def _nodule(body: Anatomy, lung: Lung, y: Floats, rng: np.random.Generator, size: float) -> Floats:
    """Return a round bright spot in the free part of a lung."""
    at_u = rng.uniform(0.34 if lung.side < 0 else 0.44, body.width - 0.15)
    at_y = rng.uniform(body.apex + 0.28, lung.dome - 0.12)
    radius = 0.095 + 0.06 * size
    far = np.hypot(lung.u - np.float32(at_u), y - np.float32(at_y))
    return np.float32(0.38 + 0.12 * rng.random()) * soft(np.float32(radius) - far, 0.04)


def soft(distance: Floats, softness: float) -> Floats:
    """Return a smooth step over ``softness`` on either side: 0 outside, 0.5 at distance 0, 1 inside."""
    scaled: Floats = np.clip(distance * np.float32(0.5 / softness) + np.float32(0.5), 0, 1)
    smooth: Floats = scaled * scaled * (3 - 2 * scaled)
    return smooth
