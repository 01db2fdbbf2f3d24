"""Evidence in the pixels that a head lies as its header says: a nose in front, a vault with a head's height.

The axes of the header place a face, and a patient may be registered prone instead of supine, or a slice
distance may be wrong. So the front has to show a nose that no other side shows, the upper end has to be a
vertex, and the vault has to be as high as a head's, against its length and width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from meninx.dicomfile.refusals import Reason, Refused

Profile = npt.NDArray[np.float64]

_BESIDE = 20.0  # mm from the ridge of a nose to the cheek beside it, where a neck has hardly receded
_LEAST_NOSE = 10.0  # mm of the ridge before the cheeks
_LEAST_LEAD = 5.0  # mm by which it stands out more than anything on the back
_MOST_ASIDE = 30.0  # mm between the ridge and the middle of the head
_HEIGHT = 0.085, 0.215  # of the vault's mean of length and width: from the vertex to half the full section


def check_nose(front: float, back: float) -> None:
    """Check that the front shows a nose and the back none, from the sharpest ridge of each (:func:`ridge`).

    Raises:
        Refused: ``face-not-found``.
    """
    if front < _LEAST_NOSE or front < back + _LEAST_LEAD:
        raise Refused(Reason.FACE_NOT_FOUND)


def check_vault(areas: Profile, top: int, size: tuple[float, float], is_covered: bool, step: float) -> None:
    """Check that the upper end is a vertex and has the height of one.

    Args:
        areas: of all sections, in mm2.
        top: the uppermost section of the head.
        size: length and width of the vault, in mm.
        is_covered: the scan goes on above the head.
        step: mm between sections.

    Raises:
        Refused: ``head-doubtful``.
    """
    if not is_covered or not _HEIGHT[0] <= height(areas, top, *size, step) <= _HEIGHT[1]:
        raise Refused(Reason.HEAD_DOUBTFUL)


def ridge(sides: Profile, front: Profile, unit: float, step: float) -> float:
    """Return how far the sharpest ridge stands out before what lies beside it, in mm of a head of unit 1.

    It is the mean over three neighbouring sections, so that noise is no ridge.
    """
    away = max(round(_BESIDE * unit / step), 1)
    middle = front[:, away:-away]
    beside = np.fmax(front[:, : -2 * away], front[:, 2 * away :])
    lifted = np.where(np.isnan(middle) | np.isnan(beside), 0.0, middle - beside)
    lifted = lifted[:, np.abs(sides[away:-away]) <= _MOST_ASIDE]
    if len(lifted) < 3:
        return 0.0
    return float(((lifted[:-2] + lifted[1:-1] + lifted[2:]) / 3).max()) / unit


def height(areas: Profile, top: int, length: float, width: float, step: float) -> float:
    """Return the distance from the vertex to half of the full section, in mean widths of the vault."""
    full = np.pi / 4 * length * width
    part = areas[: top + 1][::-1] / full
    reached = int((part >= 0.5).argmax())
    if part[reached] < 0.5:
        return 0.0
    before = float(part[reached - 1]) if reached else 0.0
    place = reached + (0.5 - before) / max(float(part[reached]) - before, 1e-6)
    return float(place * step / np.sqrt(length * width))
