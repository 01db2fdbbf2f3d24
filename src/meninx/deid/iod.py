"""Attribute types (1, 1C, 2, 2C, 3) by SOP class, and the resolution of conditional actions such as X/Z/D by them.

The tables hold the module lists and attribute types of DICOM PS3.3, edition 2020. What they cannot say is
decided towards conformance, never towards keeping a value:

* a SOP class that is not in ``sop_classes.csv``: the strictest type that the attribute has in any IOD;
* an attribute inside a sequence item: the strictest type that it has inside any sequence of any module or
    macro;
* an attribute that no module of the IOD names (a Standard Extended SOP Class): Type 3.

References:
    DICOM PS3.15 Table E.1-1a (action codes); PS3.5 section 7.4 (attribute types).
"""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

TABLES = Path(__file__).parent / "tables"
STRICTNESS = ("1", "1C", "2", "2C", "3")
NESTED = "nested"


def read_table(name: str) -> list[dict[str, str]]:
    """Return the rows of one table of ``tables/`` as dictionaries by column name."""
    with (TABLES / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@lru_cache(maxsize=1)
def iod_of_sop_class() -> dict[str, str]:
    """Return the name of the IOD of every SOP class UID that the table knows."""
    return {row["uid"]: row["iod"] for row in read_table("sop_classes.csv")}


@lru_cache(maxsize=1)
def _types() -> dict[int, dict[str, str]]:
    """Return tag -> IOD name (or ``nested``, or empty for the strictest of all IODs) -> attribute type."""
    types: dict[int, dict[str, str]] = {}
    for row in read_table("iod_types.csv"):
        places = types.setdefault(int(row["tag"], 16), {})
        for place in row["where"].split():
            places[place] = row["type"]
            if place != NESTED:
                places[""] = min(places.get("", "3"), row["type"], key=STRICTNESS.index)
    return types


def attribute_type(tag: int, sop_class_uid: str, *, top_level: bool = True) -> str:
    """Return the attribute type, one of ``1``, ``1C``, ``2``, ``2C``, ``3``.

    Args:
        tag: the attribute.
        sop_class_uid: SOP Class UID of the instance; an unknown one (or an empty string) gives the strictest
            type of all IODs.
        top_level: whether the attribute stands in the data set itself rather than in a sequence item.
    """
    places = _types().get(tag)
    if places is None:
        return "3"
    return places.get(iod_of_sop_class().get(sop_class_uid, "") if top_level else NESTED, "3")


def resolve(code: str, kind: str) -> str:
    """Return the one letter that an action code means for an attribute of this type.

    A conditional code takes the mildest data loss that keeps the IOD conformant: Type 1 and 1C need a dummy
    value (D), Type 2 and 2C may be empty (Z), Type 3 goes (X, or Z where the code has no X). An unconditional
    X or Z is hardened only where the standard would otherwise contradict itself: on Type 1 (D), X on Type 2
    (Z), Z on Type 1C (D). Every X/Z/U* becomes U: the sequence stays and the UIDs in its items are replaced,
    so that references inside the study keep working.

    >>> [resolve("X/Z/D", kind) for kind in ("1", "1C", "2", "2C", "3")]
    ['D', 'D', 'Z', 'Z', 'X']
    >>> [resolve("X", kind) for kind in ("1", "1C", "2", "2C", "3")]
    ['D', 'X', 'Z', 'X', 'X']
    """
    letters = code.rstrip("*").split("/")
    if "U" in letters:
        return "U"
    if not {"X", "Z"} & set(letters):
        return code
    conditional_type_matters = code != "X"
    if kind == "1" or (kind == "1C" and conditional_type_matters):
        return "D"
    if kind == "2" or (kind == "2C" and conditional_type_matters):
        return "Z"
    return letters[0]
