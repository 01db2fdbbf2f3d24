"""The face in a scan of a head: from a coarse volume to the part of space that is removed, or a refusal.

The volume lies on a grid along the patient's axes, so that orientation, slice distance and gantry tilt of a
series play no part here; :mod:`.head_direction` checks that the pixels agree with the axes. Three landmarks
decide: the vertex, the length of the vault from the forehead to the
occiput, and the nose, the most prominent point of the front in the midline. The removed part lies in front of
a smooth surface that begins above the nasion and runs back and down. Its relief is that of no face.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from meninx.deid.faces import head_direction
from meninx.dicomfile.refusals import Reason, Refused

STEP = 3.0
"""Distance of the grid's points, in millimetres."""
MOST_POINTS = 48 << 20
Kind = Literal["CT", "MR"]
Grid = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_AIR = -300.0  # HU; skin is above it after averaging over a point of the grid
_BONE = 180.0  # HU
_SKULL, _NO_SKULL = 40.0, 15.0  # cm2 of a section that bone encloses: a vault, and less than any vault
_TRUNK, _NECK, _NECK_LENGTH = 350.0, 200.0, 60.0  # cm2, cm2, mm: a narrow part above a trunk may be a head
_LENGTH, _WIDTH = (110.0, 235.0), (80.0, 200.0)  # mm of a vault, from newborns to adults
_SMALL = 60.0  # mm; what is shorter along two axes shows no face
_MOST_YAW = 30.0  # degrees
_LEAST_DROP = 0.45  # of the vault's length, from the vertex (or where the scan ends) down to the nose
_LEAST_PROMINENCE = 9.0  # mm of the nose before the cheeks; a forehead has about 6


_LIP = 8.0  # mm by which the lip lies behind the nose
_BRIDGE = 9.0  # mm of the nose at the nasion
# Of the cut, in mm of a vault of 190 mm: how far it begins above the nasion and ends below the nose,
# its depth behind the front there and at most, and its slope.
_BROW, _CHIN, _SHALLOW, _DEEP, _SLOPE = 20.0, 95.0, 9.0, 46.0, 1.0
_REACH = 40.0  # mm behind the front of each section, in the same unit


class NoHead(Exception):
    """The volume shows no head."""


@dataclass(frozen=True)
class HeadVolume:
    """Values of a series on a grid along the patient's axes.

    Attributes:
        values: shape (z, y, x): rising to the head, to the back and to the left; HU, or MR units with dark
            air.
        inside: which points the series covers.
        origin: millimetres (x, y, z), LPS+, of the first point.
        kind: CT or MR.
    """

    values: Grid
    inside: Mask
    origin: tuple[float, float, float]
    kind: Kind


@dataclass(frozen=True)
class FaceMask:
    """The part of space that is removed from a series.

    Attributes:
        mask: shape (z, y, x), on the grid of the volume.
        tissue: which points hold tissue; the value of air is taken from elsewhere.
        origin: millimetres (x, y, z), LPS+, of the first point.
    """

    mask: Mask
    tissue: Mask
    origin: tuple[float, float, float]

    def at(self, which: Mask, points: npt.NDArray[np.float64]) -> Mask:
        """Return the values of a mask at points, beyond the grid those of its border.

        Args:
            which: ``mask`` or ``tissue``.
            points: millimetres (x, y, z), LPS+, shape (..., 3).
        """
        near = np.rint((points - np.array(self.origin)) / STEP).astype(np.int64)
        x, y, z = (np.clip(near[..., 2 - axis], 0, which.shape[axis] - 1) for axis in (2, 1, 0))
        found: Mask = which[z, y, x]
        return found


def face_of(volume: HeadVolume) -> FaceMask:
    """Return the part of space that holds the face.

    Raises:
        NoHead: the volume clearly shows no head.
        Refused: ``head-doubtful`` (it may be a head) or ``face-not-found`` (a landmark is missing, or the
            landmarks contradict each other).
    """
    tissue = _tissue(volume)
    if volume.kind == "CT":
        _check_skull(volume, tissue)
    vault = _vault(volume, tissue)
    _check_direction(volume, tissue, vault)
    face = _cut(volume, tissue, vault)
    _check_result(tissue, face, vault)
    return FaceMask(face, tissue, volume.origin)


# --- tissue ---------------------------------------------------------------------------------------------


def _tissue(volume: HeadVolume) -> Mask:
    """Return the largest body, without thin objects beside it and with the holes of each section filled."""
    if volume.kind == "CT":
        solid = volume.inside & (volume.values > _AIR)
    else:
        bright = volume.inside & (volume.values > _mr_threshold(volume))
        solid = eroded(eroded(dilated(dilated(bright)))) & volume.inside  # bone is dark: scalp and brain join
    opened = dilated(eroded(solid)) & solid
    if not opened.any():
        raise NoHead
    body = flooded(_seed(opened), opened)
    extents = sorted(
        int(np.ptp(np.flatnonzero(body.any(axis=tuple({0, 1, 2} - {axis}))))) for axis in range(3)
    )
    if extents[1] * STEP < _SMALL:
        raise NoHead
    outside = ~body
    border = np.zeros_like(body)
    border[:, [0, -1], :] = border[:, :, [0, -1]] = True
    return ~flooded(border & outside, outside, axes=(1, 2))


def _mr_threshold(volume: HeadVolume) -> float:
    """Return a value between air and tissue: half of Otsu's threshold."""
    values = volume.values[volume.inside]
    low, high = np.percentile(values, (0.5, 99.0))
    if not high > low:
        raise NoHead
    counts, edges = np.histogram(np.clip(values, low, high), bins=256)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    sums = np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    otsu = float(middles[int(np.nanargmax(between))])
    return float(low + 0.5 * (otsu - low))


def _seed(mask: Mask) -> Mask:
    """Return the point around which most of the mask lies."""
    thick = mask.astype(np.float32)
    for axis in range(3):
        thick = _box_mean(thick, 7, axis)
    seed = np.zeros_like(mask)
    seed.flat[int(np.where(mask, thick, -1).argmax())] = True
    return seed


def _box_mean(values: Grid, half: int, axis: int) -> Grid:
    width = [(half + 1, half) if item == axis else (0, 0) for item in range(values.ndim)]
    sums = np.cumsum(np.pad(values, width), axis=axis, dtype=np.float64)
    ahead = np.take(sums, range(2 * half + 1, sums.shape[axis]), axis=axis)
    behind = np.take(sums, range(sums.shape[axis] - 2 * half - 1), axis=axis)
    return ((ahead - behind) / (2 * half + 1)).astype(np.float32)


def dilated(mask: Mask) -> Mask:
    """Return a mask grown by one point along every axis."""
    grown = mask.copy()
    for axis in range(mask.ndim):
        one, other = np.moveaxis(grown, axis, 0), np.moveaxis(mask, axis, 0)
        one[1:] |= other[:-1]
        one[:-1] |= other[1:]
    return grown


def eroded(mask: Mask) -> Mask:
    """Return a mask shrunk by one point along every axis; the border of the grid does not shrink it."""
    return ~dilated(~mask)


def flooded(start: Mask, mask: Mask, axes: tuple[int, ...] = (0, 1, 2)) -> Mask:
    """Return the part of a mask that is connected with a start along the axes."""
    reached = start & mask
    count = -1
    while count != (count := int(np.count_nonzero(reached))):
        for axis in axes:
            planes, allowed = np.moveaxis(reached, axis, 0), np.moveaxis(mask, axis, 0)
            for order in (range(1, len(planes)), range(len(planes) - 2, -1, -1)):
                step = order.step
                for place in order:
                    planes[place] |= planes[place - step] & allowed[place]
    return reached


# --- is it a head ---------------------------------------------------------------------------------------


def _areas(mask: Mask) -> npt.NDArray[np.float64]:
    """Return the area of every section, in cm2."""
    points: npt.NDArray[np.float64] = np.sum(mask, axis=(1, 2), dtype=np.float64)
    return points * np.float64((STEP / 10) ** 2)


def _check_skull(volume: HeadVolume, tissue: Mask) -> None:
    """Check that bone encloses a vault.

    Raises:
        NoHead: it does not, and no narrow part lies above a trunk.
        Refused: ``head-doubtful``.
    """
    bone = dilated(volume.inside & (volume.values > _BONE) & tissue)
    border = np.zeros_like(bone)
    border[:, [0, -1], :] = border[:, :, [0, -1]] = True
    enclosed = tissue & ~bone & ~flooded(border & ~bone, ~bone, axes=(1, 2))
    largest = float(np.sort(_areas(enclosed))[-7:].min())  # 20 mm of height
    if largest >= _SKULL:
        return
    areas = _areas(tissue)
    sections = np.flatnonzero(areas > 0)
    narrow = sections[-1] - sections[areas[sections] >= _NECK][-1] if (areas >= _NECK).any() else 0
    if largest < _NO_SKULL and not (areas.max() >= _TRUNK and narrow * STEP > _NECK_LENGTH):
        raise NoHead
    raise Refused(Reason.HEAD_DOUBTFUL)


@dataclass(frozen=True)
class _Vault:
    """The upper part of a head.

    Attributes:
        top: index of the highest section.
        length, width: millimetres.
        centre: (y, x), in points of the grid.
        yaw: rotation about the vertical axis, in radians.
    """

    top: int
    length: float
    width: float
    centre: tuple[float, float]
    yaw: float


def _vault(volume: HeadVolume, tissue: Mask) -> _Vault:
    """Return the size and the place of the vault.

    Raises:
        NoHead: no vault; the uppermost sections do not shrink to a vertex, or have another size.
        Refused: ``head-doubtful``, for a CT in which bone encloses something; ``face-not-found``.
    """
    areas = _areas(tissue)
    sections = np.flatnonzero(areas >= 4.0)
    if not sections.size:
        raise NoHead
    top = int(sections[-1])
    covered = np.flatnonzero(volume.inside.any(axis=(1, 2)))
    high = max(top - round(80 / STEP), 0)
    part = tissue[high : top + 1]
    length, width = _extent(part, 1), _extent(part, 2)
    is_size = _LENGTH[0] <= length <= _LENGTH[1] and _WIDTH[0] <= width <= _WIDTH[1]
    is_shape = 0.55 <= width / max(length, 1.0) <= 1.1
    is_cut = top >= covered[-1] - 1 and areas[top] > 0.6 * areas[high : top + 1].max()
    if not is_size or not is_shape or is_cut:
        if volume.kind == "MR":
            raise NoHead
        raise Refused(Reason.FACE_NOT_FOUND)
    if (top - sections[0]) * STEP < 0.5 * length:
        raise Refused(Reason.FACE_NOT_FOUND)
    low, below = top - round(0.45 * length / STEP), top - round(0.2 * length / STEP)
    _, y, x = np.nonzero(tissue[max(low, 0) : below])
    middle = (float(y.mean()), float(x.mean()))
    spread = np.cov(np.stack([y, x]).astype(np.float64))
    values, axes = np.linalg.eigh(spread)
    yaw = 0.0
    if values[1] > 1.25 * values[0]:
        along = axes[:, 1] * np.sign(axes[0, 1] or 1.0)
        yaw = float(np.arctan2(along[1], along[0]))
    if abs(yaw) > np.radians(_MOST_YAW):
        raise Refused(Reason.FACE_NOT_FOUND)
    return _Vault(top, length, width, middle, yaw)


def _extent(part: Mask, axis: int) -> float:
    """Return the largest extent of the sections of a part along an axis, in millimetres."""
    seen: Mask = np.logical_or.reduce(part, axis=3 - axis)
    first, last = seen.argmax(axis=1), seen.shape[1] - seen[:, ::-1].argmax(axis=1)
    return float(np.where(seen.any(axis=1), last - first, 0).max() * STEP)


# --- where the face is ----------------------------------------------------------------------------------


def _frame(tissue: Mask, vault: _Vault) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return how far every point of a section lies to the side and in front of the vault's centre, in mm."""
    y, x = np.indices(tissue.shape[1:], dtype=np.float64)
    y, x = (y - vault.centre[0]) * STEP, (x - vault.centre[1]) * STEP
    cosine, sine = np.cos(vault.yaw), np.sin(vault.yaw)
    return x * cosine - y * sine, -(y * cosine + x * sine)


def _front(tissue: Mask, vault: _Vault) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the most anterior tissue for every section and place to the side, in mm (NaN: none).

    Returns:
        The places to the side, and the front of shape (sections, places).
    """
    side, ahead = _frame(tissue, vault)
    half = round(0.55 * vault.width / STEP)
    column = np.rint(side / STEP).astype(np.int64) + half
    known = (column >= 0) & (column <= 2 * half)
    front = np.full((len(tissue), 2 * half + 1), -np.inf)
    for place, section in enumerate(tissue):
        here = section & known
        np.maximum.at(front[place], column[here], ahead[here])
    front[~np.isfinite(front)] = np.nan
    return np.arange(-half, half + 1, dtype=np.float64) * STEP, front


def _prominence(
    sides: npt.NDArray[np.float64], front: npt.NDArray[np.float64], unit: float
) -> npt.NDArray[np.float64]:
    """Return how far the front stands before what lies to both sides of it, in mm.

    Args:
        sides: places to the side, in mm.
        front: of every section and place.
        unit: size of the head; 1 looks 30 mm to the side.
    """
    away = round(30 * unit / STEP)
    filled = np.where(np.isnan(front), -1e3, front)
    lifted = np.full_like(filled, -1e3)
    lifted[:, away:-away] = filled[:, away:-away] - np.maximum(filled[:, : -2 * away], filled[:, 2 * away :])
    lifted[:, np.abs(sides) > 40] = -1e3
    return lifted


def _check_direction(volume: HeadVolume, tissue: Mask, vault: _Vault) -> None:
    """Check that the pixels agree with the header on where the face and the vertex are.

    Raises:
        Refused: ``face-not-found`` or ``head-doubtful``.
    """
    covered = np.flatnonzero(volume.inside.any(axis=(1, 2)))
    is_covered = bool(vault.top < covered[-1] - 1)
    size = vault.length, vault.width
    head_direction.check_vault(_areas(tissue) * 100, vault.top, size, is_covered, STEP)
    middle = (len(tissue[0]) - 1 - vault.centre[0], vault.centre[1])
    behind = replace(vault, centre=middle, yaw=-vault.yaw)
    first = max(vault.top - round(vault.length / STEP), 0)
    last = vault.top - round(0.4 * vault.length / STEP)
    ridges = []
    for body, seen in ((tissue, vault), (tissue[:, ::-1], behind)):
        sides, front = _front(body, seen)
        ridges.append(head_direction.ridge(sides, front[first : last + 1], vault.length / 190, STEP))
    head_direction.check_nose(*ridges)


@dataclass(frozen=True)
class _Landmarks:
    """Where the cut begins: sections of nose and nasion, the midline and the front at the nasion, in mm."""

    nose: int
    nasion: float
    middle: float
    base: float
    unit: float


def _cut(volume: HeadVolume, tissue: Mask, vault: _Vault) -> Mask:
    """Return the points in front of the cut.

    Raises:
        Refused: ``face-not-found``.
    """
    sides, front = _front(tissue, vault)
    marks = _landmarks(tissue, vault, sides, front)
    # Where the tissue ends with the scan and not in air, its front says nothing about a chin.
    limit = _front(volume.inside, vault)[1]
    profile = np.where(front < limit - 1.5 * STEP, front, np.nan)
    return _in_front(tissue, vault, marks, profile[:, np.abs(sides - marks.middle) <= 30])


def _landmarks(
    tissue: Mask, vault: _Vault, sides: npt.NDArray[np.float64], front: npt.NDArray[np.float64]
) -> _Landmarks:
    """Return the nose, which stands out most, and the nasion, where it begins to stand out."""
    unit = vault.length / 190
    lifted = _prominence(sides, front, unit)
    smooth = lifted.copy()
    smooth[1:-1] = (lifted[:-2] + lifted[1:-1] + lifted[2:]) / 3
    lowest = int(np.flatnonzero(tissue.any(axis=(1, 2)))[0])
    first = max(vault.top - round(1.0 * vault.length / STEP), lowest)
    last = vault.top - round(0.4 * vault.length / STEP)
    if first >= last:
        raise Refused(Reason.FACE_NOT_FOUND)
    ridge = smooth[first : last + 1].max(axis=1)
    below = len(ridge)  # the nose is the first peak from above; the chin may stand out more
    best = 0.0
    while below and ridge[below - 1] > best - _LIP * unit:
        below -= 1
        best = max(best, float(ridge[below]))
        if best < _LEAST_PROMINENCE * unit:
            best = 0.0
    if not best:
        raise Refused(Reason.FACE_NOT_FOUND)
    nose = first + below + int(np.flatnonzero(ridge[below:] >= 0.95 * best)[-1])
    if (vault.top - nose) * STEP < _LEAST_DROP * vault.length:
        raise Refused(Reason.FACE_NOT_FOUND)  # the brow of a head whose nose is out of view
    middle = float(sides[int(smooth[nose].argmax())])
    near = np.abs(sides - middle) <= 9
    end = nose
    while end < vault.top and smooth[end + 1, near].max() >= _BRIDGE * unit:
        end += 1
    nasion = min(max(float(end), nose + 25 * unit / STEP), nose + 55 * unit / STEP)
    nasion = min(nasion, vault.top - 0.35 * vault.length / STEP)
    around = front[int(nasion) : int(nasion) + 6][:, near]
    if np.isnan(around).all():
        raise Refused(Reason.FACE_NOT_FOUND)
    return _Landmarks(nose, nasion, middle, float(np.nanmedian(around)), unit)


def _in_front(tissue: Mask, vault: _Vault, marks: _Landmarks, profile: npt.NDArray[np.float64]) -> Mask:
    """Return the points in front of the smooth surface that the landmarks give.

    Args:
        tissue: for its shape.
        vault: of the head.
        marks: the landmarks.
        profile: the front of the central part of every section, in mm; NaN where it is unknown.
    """
    side, ahead = _frame(tissue, vault)
    away = side - marks.middle
    bend = away**2 / vault.width
    is_wide = np.abs(away) > 0.45 * vault.width
    face = np.zeros_like(tissue)
    lowest = max(marks.nose - round(_CHIN * marks.unit / STEP), 0)
    highest = min(round(marks.nasion + _BROW * marks.unit / STEP), vault.top)
    for section in range(lowest, highest + 1):
        below = max((highest - section) * STEP / marks.unit - 5, 0.0)
        plane = marks.base - marks.unit * min(_SHALLOW + _SLOPE * below, _DEEP)
        nearby = profile[max(section - 5, 0) : section + 6]
        if not np.isnan(nearby).all():  # a lifted or lowered chin lies before or behind the forehead
            middle = float(np.nanmedian(nearby))
            plane = max(plane, middle - _REACH * marks.unit)
            if section < marks.nose:
                plane = max(min(plane, middle - 15 * marks.unit), marks.base - 58 * marks.unit)
        face[section] = (ahead >= plane - bend) & ~is_wide
    return face


def _check_result(tissue: Mask, face: Mask, vault: _Vault) -> None:
    """Check that the removed part has the size of a face.

    Raises:
        Refused: ``face-not-found``.
    """
    low = max(vault.top - round(1.3 * vault.length / STEP), 0)
    head, hidden = int(tissue[low:].sum()), int((face & tissue).sum())
    removed = hidden / max(head, 1)
    if not 0.01 <= removed <= 0.3:
        raise Refused(Reason.FACE_NOT_FOUND)
