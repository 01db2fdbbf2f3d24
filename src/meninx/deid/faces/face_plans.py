"""What is done about the face in each CT and MR series: gathered from all its slices before any is written.

A plan is made from the whole series and is the same for any number of workers, names and order of files. It
waits in the private staging folder, and every slice is changed on its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from meninx.core import files
from meninx.core.errors import DataError
from meninx.deid.faces import head_shape
from meninx.deid.faces.defacing import (
    MOST_POINTS,
    STEP,
    FaceMask,
    Grid,
    HeadVolume,
    Kind,
    Mask,
    NoHead,
    face_of,
)
from meninx.deid.faces.head_shape import Tally
from meninx.deid.faces.slice_header import SliceHeader
from meninx.dicomfile import frames
from meninx.dicomfile.instance import Instance
from meninx.dicomfile.refusals import Reason, Refused
from meninx.imaging.slice_geometry import LPS_TO_RAS, Plane, same_orientation, stack

DEFACED, NOT_HEAD, REFUSED = "defaced", "not-head", "refused"
_COARSE = 2.5  # mm up to which pixels and slices are averaged while a series is read
_LEAST_POINTS = 96  # along a side of a slice, where it has as many: a wrong spacing must not hide a shape
_LEAST_SLICES = 8
_LEAST_EXTENT = 30.0  # mm along the normal
_CT_VALUES = -1024, 3071  # HU
_MOST_GATHERED = 64 << 20  # values of a series that is averaged


@dataclass(frozen=True)
class FacePlan:
    """What is done with the files of one series.

    Attributes:
        outcome: ``defaced``, ``not-head`` or ``refused``.
        reason: reason code of a refusal.
        kind: CT or MR.
        face: what is removed.
        instances: digests of the SOPInstanceUIDs that it was made from.
    """

    outcome: str
    reason: str = ""
    kind: Kind = "CT"
    face: FaceMask | None = None
    instances: frozenset[str] = frozenset()

    @property
    def digest(self) -> str:
        """Return a digest of everything that decides the bytes of an output."""
        parts = [
            self.outcome.encode(),
            self.reason.encode(),
            *(one.encode() for one in sorted(self.instances)),
        ]
        if self.face is not None:
            parts += [np.packbits(part).tobytes() for part in (self.face.mask, self.face.tissue)]
            parts.append(repr((self.face.origin, self.face.mask.shape, self.kind)).encode())
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


@dataclass(frozen=True)
class SeriesFile:
    """One file of a series, and how its instance is read again, open as long as it is used."""

    header: SliceHeader
    read: Callable[[], AbstractContextManager[Instance]]


def plan_of(members: Sequence[SeriesFile]) -> FacePlan:
    """Return the plan of a series.

    Header and pixels have to agree: a series passes as no head only if both say so, and is refused where they
    contradict each other or say nothing.

    Args:
        members: all files of the series, in any order.
    """
    members = sorted(members, key=lambda one: one.header.instance)
    headers = [one.header for one in members]
    instances = frozenset(header.instance for header in headers)
    hints = {header.hint for header in headers}
    kind = headers[0].kind
    try:
        refused = next((header.refused for header in headers if header.refused), "")
        if refused:
            raise Refused(Reason(refused))
        scan = gathered(members)
        try:
            face = face_of(scan.volume)
        except NoHead:
            if hints != {"other"}:
                raise Refused(Reason.HEAD_DOUBTFUL) from None
            scan.check_no_head()
            return FacePlan(NOT_HEAD, "", kind, None, instances)
        if hints == {"other"}:
            raise Refused(Reason.HEAD_DOUBTFUL)
        return FacePlan(DEFACED, "", kind, face, instances)
    except Refused as refusal:
        return FacePlan(REFUSED, refusal.reason, kind, None, instances)
    except MemoryError:
        return FacePlan(REFUSED, Reason.TOO_LARGE, kind, None, instances)
    except Exception:  # a damaged file may provoke any exception of a decoder
        return FacePlan(REFUSED, Reason.FACE_NOT_FOUND, kind, None, instances)


# --- the volume -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """How the slices of a series are averaged: pixels and slices per coarse value, and the coarse affine."""

    block: tuple[int, int]
    slab: int
    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]


@dataclass(frozen=True)
class CoarseScan:
    """A series on a coarse grid of its own axes, and on the patient's.

    Attributes:
        volume: on the patient's axes.
        values: shape (slabs, rows, columns).
        steps: millimetres along these axes.
        spacing: (between rows, between columns) of the slices, in millimetres.
        tally: of the real values.
    """

    volume: HeadVolume
    values: Grid
    steps: tuple[float, float, float]
    spacing: tuple[float, float]
    tally: Tally

    def check_no_head(self) -> None:
        """Check that a series in which no head was found can be believed.

        Raises:
            Refused: ``head-doubtful``: impossible values or sizes, or the shape of a head at another scale.
        """
        length, rows, columns = (
            size * step for size, step in zip(self.values.shape, self.steps, strict=True)
        )
        self.tally.check()
        head_shape.check_extent(self.spacing, (rows, columns), length)
        head_shape.check_shape(self.values, self.volume.kind, self.steps)


def gathered(members: Sequence[SeriesFile]) -> CoarseScan:
    """Return a series on a coarse grid. One frame is in memory at a time.

    Raises:
        Refused: ``face-geometry``, ``too-large``, ``pixels-unreadable``.
    """
    headers = [one.header for one in members]
    if any(not header.planes for header in headers) or len({(h.size, h.kind) for h in headers}) != 1:
        raise Refused(Reason.FACE_GEOMETRY)
    planes = [item for header in headers for item in header.planes]
    places, layout = _layout(planes, headers[0].size)
    sums = np.zeros(layout.shape, dtype=np.float64)
    counts = np.zeros(layout.shape[0], dtype=np.int64)
    kind, tally = headers[0].kind, Tally(headers[0].kind)
    for number, values in enumerate(_frames(members, headers)):
        tally.add(values)
        coarse = _blocks(np.clip(values, *_CT_VALUES) if kind == "CT" else values, layout)
        sums[places[number] // layout.slab] += coarse
        counts[places[number] // layout.slab] += 1
    values = (sums / np.maximum(counts, 1)[:, None, None]).astype(np.float32)
    across, down, along = (float(step) for step in np.linalg.norm(layout.affine[:3, :3], axis=0))
    volume = _on_patient_axes(values, layout.affine, kind)
    return CoarseScan(volume, values, (along, down, across), planes[0].spacing, tally)


def _layout(planes: Sequence[Plane], size: tuple[int, int]) -> tuple[list[int], _Layout]:
    """Return the place of every frame along the normal, and how the series is averaged."""
    first = planes[0]
    if not all(same_orientation(first, item) and np.allclose(item.spacing, first.spacing) for item in planes):
        raise Refused(Reason.FACE_GEOMETRY)
    heights = np.array([item.position @ first.normal for item in planes])
    levels, chosen = _levels(heights)
    if len(chosen) < _LEAST_SLICES:
        raise Refused(Reason.FACE_GEOMETRY)
    try:
        order, affine = stack([planes[index] for index in chosen])
    except DataError:
        raise Refused(Reason.FACE_GEOMETRY) from None
    affine = LPS_TO_RAS @ affine
    step = float(np.linalg.norm(affine[:3, 2]))
    if step > 12 or step * len(order) < _LEAST_EXTENT:
        raise Refused(Reason.FACE_GEOMETRY)
    rank = {level: place for place, level in enumerate(order)}
    block = tuple(
        max(1, min(int(_COARSE // spacing), count // _LEAST_POINTS))
        for spacing, count in zip(first.spacing, size, strict=True)
    )
    slab = max(1, int(_COARSE // step))
    shape = (-(-len(order) // slab), max(size[0] // block[0], 1), max(size[1] // block[1], 1))
    if int(np.prod(shape)) > _MOST_GATHERED:
        raise Refused(Reason.TOO_LARGE)
    coarse = affine.copy()
    for axis, factor in enumerate((block[1], block[0], slab)):
        coarse[:3, 3] += affine[:3, axis] * (factor - 1) / 2
        coarse[:3, axis] *= factor
    return [rank[level] for level in levels], _Layout((block[0], block[1]), slab, shape, coarse)


def _levels(heights: npt.NDArray[np.float64]) -> tuple[list[int], list[int]]:
    """Return the level of each frame, and the first frame of each level; frames within 0.01 mm share one."""
    order = np.argsort(heights, kind="stable")
    levels, chosen, before = [0] * len(heights), [], -np.inf
    for index in order:
        if heights[index] - before > 0.01:
            chosen.append(int(index))
            before = heights[index]
        levels[index] = len(chosen) - 1
    return levels, chosen


def _frames(members: Sequence[SeriesFile], headers: Sequence[SliceHeader]) -> Iterator[Grid]:
    """Yield the real values of all frames, with dark air."""
    for member, header in zip(members, headers, strict=True):
        with member.read() as original:
            layers = frames.layers_of(original)
            inverted = header.kind == "MR" and layers.photometric == "MONOCHROME1"
            for frame, (slope, intercept) in zip(
                frames.frame_bytes(original, layers), header.rescale, strict=True
            ):
                values = frames.decoded(frame, layers)[0].astype(np.float32) * slope + intercept
                yield -values if inverted else values


def _blocks(values: Grid, layout: _Layout) -> npt.NDArray[np.float64]:
    (down, across), (_, rows, columns) = layout.block, layout.shape
    cropped = values[: rows * down, : columns * across].astype(np.float64)
    found: npt.NDArray[np.float64] = cropped.reshape(rows, down, columns, across).mean(axis=(1, 3))
    return found


def _on_patient_axes(values: Grid, affine: npt.NDArray[np.float64], kind: Kind) -> HeadVolume:
    """Return a volume on the patient's axes, interpolated between neighbours."""
    far = np.array(values.shape[::-1]) - 1
    corners = np.array([(*far * corner, 1) for corner in np.ndindex(2, 2, 2)])
    ends = (affine @ corners.T)[:3]
    low, high = np.floor(ends.min(axis=1) / STEP) * STEP, ends.max(axis=1)
    count = np.ceil((high - low) / STEP).astype(int) + 1
    if int(np.prod(count.astype(np.float64))) > MOST_POINTS:
        raise Refused(Reason.TOO_LARGE)
    back = np.linalg.inv(affine)
    grid = np.zeros(tuple(count[::-1]), dtype=np.float32)
    inside = np.zeros(grid.shape, dtype=np.bool_)
    y, x = np.meshgrid(
        low[1] + STEP * np.arange(count[1]), low[0] + STEP * np.arange(count[0]), indexing="ij"
    )
    for section in range(count[2]):
        points = np.stack([x, y, np.full_like(x, low[2] + STEP * section)], axis=-1)
        places = points @ back[:3, :3].T + back[:3, 3]
        grid[section], inside[section] = _interpolated(values, places[..., ::-1])
    return HeadVolume(grid, inside, (float(low[0]), float(low[1]), float(low[2])), kind)


def _interpolated(values: Grid, places: npt.NDArray[np.float64]) -> tuple[Grid, Mask]:
    """Return values between their neighbours, and which places lie within half a step of the volume."""
    far = np.array(values.shape) - 1
    inside: Mask = np.logical_and.reduce((places >= -0.5) & (places <= far + 0.5), axis=-1)
    clipped = np.clip(places, 0, far)
    base = np.minimum(clipped.astype(np.int64), np.maximum(far - 1, 0))
    part = clipped - base
    total = np.zeros(places.shape[:-1], dtype=np.float64)
    for corner in np.ndindex(2, 2, 2):
        index = np.minimum(base + corner, far)
        weight = np.where(np.array(corner) == 1, part, 1 - part).prod(axis=-1)
        total += weight * values[index[..., 0], index[..., 1], index[..., 2]]
    found: Grid = np.where(inside, total, 0).astype(np.float32)
    return found, inside


# --- plans of a run ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SingleFilePlans:
    """Plans of instances in memory, each of which is a series of its own: multi-frame images, or refusals."""

    def read(self, series: str) -> FacePlan | None:
        """Return None: no other series is known."""
        return None

    def of(self, header: SliceHeader, original: Instance) -> FacePlan:
        """Return the plan of one instance."""
        return plan_of([SeriesFile(header, lambda: nullcontext(original))])


@dataclass(frozen=True)
class FolderPlans:
    """The plans of all series of a run, one private file each.

    Attributes:
        folder: where they are.
    """

    folder: Path

    def write(self, series: str, plan: FacePlan) -> None:
        """Write the plan of a series.

        Raises:
            StorageError: the disk refused.
        """
        face = plan.face
        masks = (
            [np.packbits(part) for part in (face.mask, face.tissue)] if face else [np.zeros(0, np.uint8)] * 2
        )
        with files.atomic(self._place(series), mode=files.PRIVATE_MODE) as stream:
            np.savez_compressed(
                stream,
                text=np.array([plan.outcome, str(plan.reason), plan.kind]),
                instances=np.array(sorted(plan.instances)),
                mask=masks[0],
                tissue=masks[1],
                shape=np.array(face.mask.shape if face else (0, 0, 0)),
                origin=np.array(face.origin if face else (0.0, 0.0, 0.0)),
            )

    def of(self, header: SliceHeader, original: Instance) -> FacePlan:
        """Return the plan of the series of an instance; a refusal where the instance was not part of it."""
        plan = self.read(header.series)
        if plan is None or header.instance not in plan.instances:
            return FacePlan(REFUSED, Reason.FACE_GEOMETRY, header.kind)
        return plan

    def read(self, series: str) -> FacePlan | None:
        """Return the plan of a series, None where none was made."""
        try:
            with np.load(self._place(series), allow_pickle=False) as table:
                shape = tuple(int(size) for size in table["shape"])
                count = int(np.prod(shape))
                mask, tissue = (
                    np.unpackbits(table[name], count=count).reshape(shape).astype(np.bool_)
                    for name in ("mask", "tissue")
                )
                outcome, reason, kind = (str(word) for word in table["text"])
                x, y, z = (float(number) for number in table["origin"])
                instances = frozenset(str(one) for one in table["instances"])
        except FileNotFoundError:
            return None
        face = FaceMask(mask, tissue, (x, y, z)) if outcome == DEFACED else None
        return FacePlan(outcome, reason, "CT" if kind == "CT" else "MR", face, instances)

    def _place(self, series: str) -> Path:
        return self.folder / f"{series}.npz"
