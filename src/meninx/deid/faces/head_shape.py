"""Whether a series that passes as no head can be believed: possible values and sizes, no shape of a head.

A wrong rescale slope or a wrong spacing turns a head into something that :mod:`.defacing` does not know. So
a series passes only if its numbers can be those of a body in its modality, and if its shape is not that of a
head at any scale: neither millimetres nor Hounsfield units play a part in the tests of the shape, except that
a trunk is told from a head in MR by its size.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from meninx.deid.faces.defacing import Grid, Kind, Mask, dilated, flooded
from meninx.dicomfile.refusals import Reason, Refused

_WIDTH, _LOWEST, _HIGHEST = 20.0, -4000.0, 8000.0  # of the bins, in HU; what lies beyond is in the outer ones
_AIR, _SOFT = (-1100.0, -900.0), (-200.0, 200.0)  # HU
_TISSUE = -300.0  # HU
# Of all values of a CT: air at least, and below air at most (beside one value of padding). Of those above
# air: tissue at least. Of tissue: soft tissue at least. Of an MR: values below zero at most.
_LEAST_AIR, _MOST_BELOW, _LEAST_TISSUE, _LEAST_SOFT, _MOST_NEGATIVE = 0.02, 0.02, 0.2, 0.4, 0.05
_VIEW, _LONGEST = (40.0, 800.0), 2200.0  # mm in a slice, from a finger to a bore, and along the normal
_SPACING = 0.03, 6.0  # mm between pixels

_CUBE = 64  # points along a side of a body
_RUN = 0.12  # of the sections of the body
_LEAST_SECTION = 60  # points; fewer are the tip of something
_INSIDE = 0.55  # of a section of the body: what bone encloses in a vault
# What bone encloses is brighter than air by this part of the bone's excess (lungs are not), and bone brighter
# than the enclosed by this part of its own excess (muscle around fat is not).
_BRIGHTNESS, _CONTRAST = 0.3, 0.3
_DIP = 0.45  # of the smaller of what lies outside and inside of it: dark bone between scalp and brain in MR
_OUTER, _LEAST_LAYERS = 0.45, 8  # part of the depth in which the bone lies; layers of a section
_SIDE = 0.15  # of the largest section: a body that is cut by a side of the view
_TRUNK = 250.0, 40_000.0  # mm wide and mm2 of a section: no head


@dataclass
class Tally:
    """How often each real value occurs in a series.

    Attributes:
        kind: CT or MR.
        counts: of the values between the edges of the bins, for CT.
        total: number of values.
        negative: number of values below zero.
    """

    kind: Kind
    counts: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(int((_HIGHEST - _LOWEST) / _WIDTH) + 2, dtype=np.int64)
    )
    total: int = 0
    negative: int = 0

    def add(self, values: Grid) -> None:
        """Count the values of one frame, before anything is clipped."""
        self.total += values.size
        if self.kind == "MR":
            self.negative += int(np.count_nonzero(values < 0))
            return
        place = np.clip(np.floor((values.ravel() - _LOWEST) / _WIDTH) + 1, 0, len(self.counts) - 1)
        self.counts += np.bincount(place.astype(np.int64), minlength=len(self.counts))

    def check(self) -> None:
        """Check that the values can be those of a body in this modality.

        Raises:
            Refused: ``head-doubtful``.
        """
        if self.kind == "MR":
            plausible = self.negative <= _MOST_NEGATIVE * self.total
        else:
            below = self.counts[: _bin(_AIR[0])]
            padding = int(below.max())  # one value outside of the round field of view
            tissue = int(self.counts[_bin(_TISSUE) :].sum())
            plausible = (
                int(below.sum()) - padding <= _MOST_BELOW * self.total
                and self._between(_AIR) >= _LEAST_AIR * (self.total - padding)
                and tissue >= _LEAST_TISSUE * int(self.counts[_bin(_AIR[1]) :].sum())
                and self._between(_SOFT) >= _LEAST_SOFT * tissue > 0
            )
        if not plausible:
            raise Refused(Reason.HEAD_DOUBTFUL)

    def _between(self, ends: tuple[float, float]) -> int:
        return int(self.counts[_bin(ends[0]) : _bin(ends[1])].sum())


def _bin(value: float) -> int:
    return int((value - _LOWEST) // _WIDTH) + 1


def check_extent(spacing: tuple[float, float], view: tuple[float, float], length: float) -> None:
    """Check that a scan of these sizes is possible.

    Args:
        spacing: mm between rows and between columns.
        view: mm of a slice along both sides.
        length: mm along the normal.

    Raises:
        Refused: ``head-doubtful``.
    """
    fits = all(_VIEW[0] <= side <= _VIEW[1] for side in view) and length <= _LONGEST
    if not fits or not all(_SPACING[0] <= one <= _SPACING[1] for one in spacing):
        raise Refused(Reason.HEAD_DOUBTFUL)


def check_shape(values: Grid, kind: Kind, steps: tuple[float, float, float]) -> None:
    """Check that a volume has not the shape of a head, whatever the scale.

    A CT shows a head where bone encloses most of the body in a run of sections, along any axis. An MR may
    show one where the body is not cut by two opposite sides of the view, as limbs and trunks are, or where a
    dark layer lies between a bright surface and a bright inside. A trunk is excepted from the latter.

    Args:
        values: any grid of three axes; CT or MR units, or any rising linear function of them.
        kind: CT or MR.
        steps: mm between the points along each axis, which the exception of trunks needs.

    Raises:
        Refused: ``head-doubtful``.
    """
    low, high = (float(value) for value in np.percentile(values, (1.0, 99.7)))
    parts = np.linspace(0.25, 0.85, 7) if kind == "CT" else (0.12, 0.25)
    for level in (low + part * (high - low) for part in parts if high > low):
        bright = values > level
        if kind == "MR" and not _is_cut(bright):
            raise Refused(Reason.HEAD_DOUBTFUL)
        for axis in range(3):
            body = _filled(np.moveaxis(bright, axis, 0))
            if not body.any():
                continue
            small = _cropped(np.moveaxis(values, axis, 0), body)
            if kind == "CT":
                is_vault = _inside_bone(small, level) >= _INSIDE
            elif _is_trunk(body, [steps[axis], *(steps[other] for other in range(3) if other != axis)]):
                continue
            else:
                is_vault = _dips(small, level, low) >= _DIP
            if _longest_run(is_vault) >= max(3, _RUN * len(is_vault)):
                raise Refused(Reason.HEAD_DOUBTFUL)


def _is_cut(bright: Mask) -> bool:
    """Return whether two opposite sides of the view cut the body."""
    for axis in range(3):
        sections = _filled(np.moveaxis(bright, axis, 0)).sum(axis=(1, 2))
        if min(sections[:2].max(), sections[-2:].max()) >= _SIDE * max(int(sections.max()), 1):
            return True
    return False


def _is_trunk(body: Mask, steps: list[float]) -> bool:
    """Return whether most sections of a body have the size of a trunk."""
    sections = body[body.any(axis=(1, 2))]
    large = sections.sum(axis=(1, 2)) * steps[1] * steps[2] >= _TRUNK[1]
    widths = (sections.any(axis=1).sum(axis=1) * steps[2], sections.any(axis=2).sum(axis=1) * steps[1])
    return bool(np.mean(large & (np.maximum(*widths) >= _TRUNK[0])) > 0.5)


def _cropped(values: Grid, body: Mask) -> Grid:
    """Return the box around a body, with a border of one point, on at most 64 points a side."""
    picks = []
    for axis in range(3):
        seen = np.flatnonzero(body.any(axis=tuple({0, 1, 2} - {axis})))
        first, last = max(int(seen[0]) - 1, 0), min(int(seen[-1]) + 1, body.shape[axis] - 1)
        picks.append(np.linspace(first, last, min(last - first + 1, _CUBE)).round().astype(np.int64))
    small: Grid = values[np.ix_(*picks)]
    return small


def _filled(mask: Mask) -> Mask:
    """Return a mask with the holes of every section filled."""
    border = np.zeros_like(mask)
    border[:, [0, -1], :] = border[:, :, [0, -1]] = True
    return ~flooded(border & ~mask, ~mask, axes=(1, 2))


def _inside_bone(values: Grid, level: float) -> npt.NDArray[np.float64]:
    """Return which part of each section a bright ring encloses; 0 where it is no ring of bone."""
    bone = values > level
    ring = np.stack([dilated(section) for section in bone])
    solid = _filled(ring)
    hole = solid & ~ring
    if not hole.any():
        return np.zeros(len(values))
    air = float(np.percentile(values, 2))
    excess = float(values[bone].mean()) - air
    darker, enclosed, brighter = (float(value) - air for value in np.percentile(values[hole], (25, 50, 75)))
    if darker < _BRIGHTNESS * excess or excess - brighter < _CONTRAST * excess:
        return np.zeros(len(values))
    body = _filled(values > air + enclosed / 2)
    areas = body.sum(axis=(1, 2), dtype=np.float64)
    inside = (solid & body).sum(axis=(1, 2), dtype=np.float64)
    return np.where(areas >= _LEAST_SECTION, inside / np.maximum(areas, 1.0), 0.0)


def _dips(values: Grid, level: float, air: float) -> npt.NDArray[np.float64]:
    """Return how dark a layer below the surface of each section is, against what lies on both sides of it.

    0: not darker; 1: as dark as air.
    """
    body = _filled(values > level)
    layers: list[Mask] = []
    while body.any() and len(layers) < _CUBE:
        inner = np.stack([_shrunk(section) for section in body])
        layers.append(body & ~inner)
        body = inner
    return np.array(
        [_dip(section - air, [layer[number] for layer in layers]) for number, section in enumerate(values)]
    )


def _dip(section: Grid, layers: list[Mask]) -> float:
    layers = [layer for layer in layers if np.count_nonzero(layer) >= _LEAST_LAYERS]
    if len(layers) < _LEAST_LAYERS:
        return 0.0
    deep = int(np.ceil(len(layers) * _OUTER))
    core = float(np.median(section[np.logical_or.reduce(layers[deep:])]))
    shells = [float(np.median(section[layer])) for layer in layers[:deep]]
    darkest = 1 + int(np.argmin(shells[1:]))
    beside = min(max(shells[:darkest]), core)
    return 1 - shells[darkest] / beside if beside > 0 else 0.0


def _shrunk(section: Mask) -> Mask:
    """Return a section without its outermost points; the border of the grid counts as outside."""
    return ~dilated(np.pad(~section, 1, constant_values=True))[1:-1, 1:-1]


def _longest_run(flags: npt.NDArray[np.bool_]) -> int:
    longest = run = 0
    for flag in flags:
        run = run + 1 if flag else 0
        longest = max(longest, run)
    return longest
