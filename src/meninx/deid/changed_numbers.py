"""What was done to the numbers of a file, so that its counts say it."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from meninx.dicomfile.elements import Element


@dataclass
class Changes:
    """What was done to the numbers of a file.

    Attributes:
        removed: the tag of each removed element.
        capped: id -> element that states a lower age than the original.
    """

    removed: list[int] = field(default_factory=list)
    capped: dict[int, Element] = field(default_factory=dict)

    def removing(self, elements: list[Element], gone: Container[int]) -> list[Element]:
        """Return the elements without those of some tags, which are noted."""
        self.removed += [element.tag for element in elements if element.tag in gone]
        return [element for element in elements if element.tag not in gone]

    def is_capped(self, element: Element) -> bool:
        """Return whether an element states a lower age than the original."""
        return id(element) in self.capped
