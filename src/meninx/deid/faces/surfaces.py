"""Contours, segmentations and surfaces: objects without an image whose geometry may outline a face."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from pydicom._uid_dict import UID_dictionary

from meninx.deid.faces.face_plans import DEFACED, NOT_HEAD, REFUSED, FacePlan
from meninx.deid.faces.slice_header import hint_of, key_of_series
from meninx.dicomfile.elements import Element
from meninx.dicomfile.instance import SERIES, SOP_CLASS, Instance
from meninx.dicomfile.refusals import Reason, Refused

_CLASSES = re.compile(r"Structure Set|Segmentation|Segment Annotation|Surface Scan")
_GEOMETRY = frozenset({0x30060050, 0x00660016})  # ContourData, PointCoordinatesData


def may_outline_a_face(original: Instance) -> bool:
    """Return whether an object is of a class, or has attributes, that hold the geometry of a surface."""
    name = str(UID_dictionary.get(original.text(SOP_CLASS), ("",))[0])
    return bool(_CLASSES.search(name)) or any(
        element.tag in _GEOMETRY and len(element.value) for element, _ in _every(original.elements)
    )


def check(original: Instance, plan_of: Callable[[str], FacePlan | None]) -> str:
    """Return the form for the private journal of what the decision depends on; empty for the header alone.

    An object passes if its header names another part of the body, or says nothing and refers to one series,
    which passed as no head. It never passes beside a series that was defaced or kept out.

    Args:
        original: the object.
        plan_of: digest of a series -> its plan, None where it has none.

    Raises:
        Refused: ``head-outline``.
    """
    named = {
        bytes(element.value).decode("latin-1").strip(" \0")
        for element, depth in _every(original.elements)
        if depth and element.tag == SERIES
    }
    keys = sorted(key_of_series(original, series) for series in named if series)
    plans = [plan_of(key) for key in keys]
    digest = plans[0].digest if len(plans) == 1 and plans[0] is not None else ""
    depends = f":{keys[0] if len(keys) == 1 else ''}:{digest}" if keys else ""
    outcomes = {plan.outcome if plan is not None else "" for plan in plans}
    hint = hint_of(original)
    passes = (hint == "other" and not outcomes & {DEFACED, REFUSED}) or (
        hint == "unknown" and len(keys) == 1 and outcomes == {NOT_HEAD}
    )
    if not passes:
        raise Refused(Reason.HEAD_OUTLINE, face=depends)
    return depends


def _every(elements: list[Element]) -> Iterator[tuple[Element, int]]:
    """Yield every element that is not a sequence, with its depth."""
    waiting = [(elements, 0)]
    while waiting:
        level, depth = waiting.pop()
        for element in level:
            if element.items is None:
                yield element, depth
            else:
                waiting += [(item, depth + 1) for item in element.items]
