"""Ages in tables of content items: the cells of a column or row that is an age.

A content item of the type TABLE (PS3.3, Tabulated Values Sequence) names concept and unit once for a column
or a row. A cell holds its place and a value of any type. The numbers of a cell are those of the concept and
the unit of its column and row, as if they stood in an item of their own.

A cell whose column or row nobody can find belongs to all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Set
from typing import TYPE_CHECKING, NamedTuple

from meninx.deid.dates import years
from meninx.deid.stated_ages import (
    AgeBounds,
    binary_numbers,
    concept_kind,
    decimal_number,
    declared,
    is_age,
    joined,
    limited_code,
    units_in,
    years_of,
)
from meninx.deid.structured_content import SUBJECT_BIRTH, concept_of
from meninx.deid.units_of_time import Unit, UnitKind
from meninx.dicomfile.charset import decode
from meninx.dicomfile.elements import Element

if TYPE_CHECKING:
    from meninx.deid.actions import FileContext

ROW_NUMBER, COLUMN_NUMBER, ROWS, COLUMNS, CELLS = (
    0x0040A804,
    0x0040A805,
    0x0040A806,
    0x0040A807,
    0x0040A808,
)
_AGE_VALUE, _CODE_VALUE = 0x0072005F, 0x00720080
_FRAMES = frozenset({0x52009229, 0x52009230})
# CS, IS, LO, LT, SH, ST, UC, UT, UR, DS
_TEXTS = frozenset(
    {0x00720062, 0x00720064, 0x00720066, 0x00720068, 0x0072006C, 0x0072006E, 0x0072006F, 0x00720070}
    | {0x00720071, 0x00720072}
)
# FD, FL, UL, US, SL, SS, SV, UV
_BINARY = frozenset(
    {0x00720074, 0x00720076, 0x00720078, 0x0072007A, 0x0072007C, 0x0072007E, 0x00720082, 0x00720083}
)
# Lists of any length in bytes are not read: OB, OF, OW, UN, OD, OL, OV.
_BULK = frozenset({0x00720065, 0x00720067, 0x00720069, 0x0072006D, 0x00720073, 0x00720075, 0x00720081})
_VALUES = _TEXTS | _BINARY | _BULK


class _Said(NamedTuple):
    """What definitions say of a cell: the kind of their concept, their units, and whether it is a birth."""

    concept: str = ""
    units: frozenset[Unit] = frozenset()
    birth: bool = False

    def __or__(self, other: _Said) -> _Said:
        concept = min(self.concept or "~", other.concept or "~").removesuffix("~")  # listed before named
        return _Said(concept, self.units | other.units, self.birth or other.birth)


class _Kind(NamedTuple):
    """What column and row say of a cell."""

    concept: str
    unit: Unit
    birth: bool


class _Axis:
    """The columns or the rows of one table."""

    def __init__(self, table: list[Element], tag: int, place: int, encodings: tuple[str, ...]) -> None:
        self._place = place
        self._by_number: dict[int, _Said] = {}
        self._all = self._unplaced = _Said()
        for item in (one for element in table if element.tag == tag for one in element.items or ()):
            number, said = _number(item, place), _said(item, encodings)
            self._all |= said
            if number is None:
                self._unplaced |= said
            else:
                self._by_number[number] = self._by_number.get(number, _Said()) | said

    def of(self, cell: list[Element]) -> _Said:
        """Return what the definitions of a cell's place say, or all of them if that place is unknown."""
        number = _number(cell, self._place)
        found = None if number is None else self._by_number.get(number)
        return self._all if found is None else found | self._unplaced


class _Definitions:
    """The columns and rows of one table."""

    def __init__(self, table: list[Element], encodings: tuple[str, ...]) -> None:
        self._rows = _Axis(table, ROWS, ROW_NUMBER, encodings)
        self._columns = _Axis(table, COLUMNS, COLUMN_NUMBER, encodings)

    def of(self, cell: list[Element]) -> _Kind:
        """Return what column and row say of a cell."""
        said = self._rows.of(cell) | self._columns.of(cell)
        return _Kind(said.concept, joined(said.units), said.birth)


def _said(definition: list[Element], encodings: tuple[str, ...]) -> _Said:
    concept = concept_kind(definition, encodings)
    return _Said(concept, units_in(definition, encodings), concept_of(definition, encodings) == SUBJECT_BIRTH)


def limited(elements: list[Element], encodings: tuple[str, ...], context: FileContext) -> list[Element]:
    """Return the elements of a table without cells that state an age above the limit or a year of birth.

    Elements of anything else are returned as they are.

    Guarantee: a cell of an age keeps no number above the highest age, and no value that cannot be read as a
        number; a cell of a birth date keeps no number and no text. The cell itself stays, without a value.
    """
    if not any(element.tag == CELLS and element.items for element in elements):
        return elements
    encodings = declared(elements, encodings)
    definitions = _Definitions(elements, encodings)
    bounds = AgeBounds.of(context.max_age, context.birth_days)
    return [
        Element(CELLS, "SQ", items=[_limited(cell, definitions.of(cell), encodings, context, bounds)
                                    for cell in element.items])
        if element.tag == CELLS and element.items else element
        for element in elements
    ]  # fmt: skip


def highest(elements: list[Element], encodings: tuple[str, ...], *, little: bool) -> float:
    """Return the highest age in years that a cell of a table states, at any depth; 0 when none does."""
    return max(_ages(elements, encodings, little), default=0.0)


def _ages(elements: list[Element], encodings: tuple[str, ...], little: bool) -> Iterator[float]:
    encodings = declared(elements, encodings)
    cells = [cell for element in elements if element.tag == CELLS for cell in element.items or ()]
    definitions = _Definitions(elements, encodings) if cells else None
    for cell in cells:
        for element in cell:
            if element.tag == _AGE_VALUE and element.items is None:
                yield from (
                    years(text) or 0.0 for text in decode(bytes(element.value), encodings).split("\\")
                )
        if definitions is not None:
            kind = definitions.of(cell)
            if is_age(kind.concept, kind.unit):
                yield from years_of(_numbers(cell, encodings, little), kind.unit)
    for element in elements:
        if element.items and element.tag not in _FRAMES and element.tag != CELLS:
            for item in element.items:
                yield from _ages(item, encodings, little)


def _limited(
    cell: list[Element], kind: _Kind, encodings: tuple[str, ...], context: FileContext, bounds: AgeBounds
) -> list[Element]:
    """Return the elements of a cell, without its value if that must go."""
    tags: Set[int] = {element.tag for element in cell}
    if kind.concept and _CODE_VALUE in tags:
        cell = [_without_age(element, encodings, bounds.max_age) for element in cell]
    if not tags & _VALUES:
        return cell
    encodings = declared(cell, encodings)
    numbers = list(_numbers(cell, encodings, context.encoding.little))
    goes = kind.birth or bounds.tell_birth(kind.unit, numbers)
    if is_age(kind.concept, kind.unit):
        ages = [abs(number) * kind.unit.years for number in numbers]
        unread = (kind.concept or kind.unit.kind == UnitKind.DISPUTED) and any(map(math.isnan, ages))
        goes = goes or bool(unread) or bool(tags & _BULK) or any(map(bounds.exceeded_by, ages))
    return context.numbers.removing(cell, _VALUES) if goes else cell


def _without_age(element: Element, encodings: tuple[str, ...], max_age: int) -> Element:
    if element.tag != _CODE_VALUE or not element.items:
        return element
    return Element(_CODE_VALUE, "SQ", items=[limited_code(one, encodings, max_age) for one in element.items])


def _numbers(cell: list[Element], encodings: tuple[str, ...], little: bool) -> Iterator[float]:
    """Yield the numbers of a cell; NaN for a text that is none. Bulk values are not read."""
    for element in cell:
        if element.tag in _TEXTS and element.items is None:
            text = decode(bytes(element.value), encodings).replace("\0", "")
            yield from map(decimal_number, filter(str.strip, text.split("\\")))
        elif element.tag in _BINARY and element.items is None:
            yield from binary_numbers(element, little)


def _number(item: list[Element], tag: int) -> int | None:
    """Return the number of a column or row, None if it is missing or has another form."""
    found = [bytes(e.value) for e in item if e.tag == tag and e.items is None]
    return int.from_bytes(found[0], "little") if len(found) == 1 and len(found[0]) == 4 else None
