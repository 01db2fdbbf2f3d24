"""The removal of a face from one instance of a series, by the plan of the series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from meninx.deid.faces import surfaces
from meninx.deid.faces.defacing import Mask
from meninx.deid.faces.face_plans import NOT_HEAD, REFUSED, FacePlan
from meninx.deid.faces.slice_header import SliceHeader, header_of, may_show_a_face
from meninx.dicomfile import frames, redaction
from meninx.dicomfile.frames import Layers, Values
from meninx.dicomfile.instance import Instance
from meninx.dicomfile.refusals import Reason, Refused
from meninx.imaging.slice_geometry import Plane

_FEW = 50  # pixels of air from which its value is taken
_AIR = -1000.0  # HU


class Plans(Protocol):
    """Where the plan of a series is found."""

    def of(self, header: SliceHeader, original: Instance) -> FacePlan:
        """Return the plan of the series of an instance."""
        ...

    def read(self, series: str) -> FacePlan | None:
        """Return the plan of a series by its digest, None where none was made."""
        ...


@dataclass(frozen=True)
class FaceReport:
    """What was done about the face in one instance.

    Attributes:
        outcome: ``defaced``, ``not-head``, or ``""`` for anything but CT and MR images.
        series: digest that names the series in the private journal.
        plan: digest of the plan.
        depends: the private journal's form for an outline that refers to series; its outcome is empty.
    """

    outcome: str = ""
    series: str = ""
    plan: str = ""
    depends: str = ""

    def text(self) -> str:
        """Return the form that the private journal holds."""
        return ":".join((self.outcome, self.series, self.plan)) if self.outcome else self.depends


def remove(original: Instance, plans: Plans) -> tuple[Instance, FaceReport]:
    """Return an instance without the face that its series shows, and what was done.

    Guarantee: geometry, rescaling, stored bits and transfer syntax stay, and so does every value outside the
        removed part of space.

    Raises:
        Refused: ``head-doubtful``, ``head-outline``, ``face-not-found``, ``face-geometry``, ``face-pixels``,
            ``pixels-unreadable``, ``too-large``.
    """
    header = header_of(original)
    if header is None:
        if may_show_a_face(original):
            raise Refused(Reason.HEAD_DOUBTFUL)
        if surfaces.may_outline_a_face(original):
            return original, FaceReport(depends=surfaces.check(original, plans.read))
        return original, FaceReport()
    plan = plans.of(header, original)
    report = FaceReport(plan.outcome, header.series, plan.digest)
    if plan.outcome == REFUSED:
        raise Refused(Reason(plan.reason), face=report.text())
    if plan.outcome == NOT_HEAD:
        return original, report
    face = plan.face
    layers = frames.layers_of(original)
    if face is None or header.refused or len(header.planes) != layers.frames:
        raise Refused(Reason.FACE_GEOMETRY, face=report.text())

    def change(number: int, values: Values) -> bool:
        points = _points(header.planes[number], header.size)
        hidden = face.at(face.mask, points)
        if not hidden.any():
            return False
        air = ~face.at(face.tissue, points) & ~hidden
        values[hidden] = _air(values, air, header, number, layers)
        return True

    return redaction.changed(original, change), report


def _points(plane: Plane, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return the place of every pixel, millimetres LPS+, shape (rows, columns, 3)."""
    rows, columns = np.arange(size[0])[:, None, None], np.arange(size[1])[None, :, None]
    found: npt.NDArray[np.float64] = (
        plane.position + rows * plane.spacing[0] * plane.down + columns * plane.spacing[1] * plane.across
    )
    return found


def _air(values: Values, air: Mask, header: SliceHeader, number: int, layers: Layers) -> int:
    """Return the value that takes the place of the face: -1000 HU, or the frame's own air in MR.

    It is one of the stored values' range, as the bits of this type.
    """
    bits = int(layers.header.BitsStored)
    signed = bool(layers.header.PixelRepresentation)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    if header.kind == "CT":
        slope, intercept = header.rescale[number]
        value = round((_AIR - intercept) / slope)
    else:
        stored = values.astype(np.int64)
        if signed and values.dtype.kind == "u":
            stored = (stored & ((1 << bits) - 1)) - ((stored >> (bits - 1) & 1) << bits)
        inverted = layers.photometric == "MONOCHROME1"
        if np.count_nonzero(air) >= _FEW:
            value = int(np.sort(stored[air])[np.count_nonzero(air) // 2])
        else:
            value = int(stored.max() if inverted else stored.min())
    value = min(max(value, low), high)
    return value & ((1 << values.dtype.itemsize * 8) - 1) if values.dtype.kind == "u" else value
