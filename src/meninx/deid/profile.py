"""The compiled confidentiality profile: which action each attribute gets (interface first; tables being filled)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from meninx.deid.options import Option, check


class Action(StrEnum):
    """What is done to one attribute: D dummy, Z empty (or dummy), X remove, K keep (sequences: recurse), C clean, U new UID."""

    D = "D"
    Z = "Z"
    X = "X"
    K = "K"
    C = "C"
    U = "U"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One profile: options and overrides turned into an action for every attribute."""

    options: frozenset[Option]
    overrides: tuple[tuple[int, Action], ...] = ()

    @classmethod
    def compile(cls, options: frozenset[Option], overrides: Mapping[str, Action] = {}) -> Profile:  # noqa: B006
        """Return the profile for these options and overrides (keyword or tag -> action)."""
        check(options)
        return cls(options=options)

    def action(self, tag: int, vr: str, *, sop_class_uid: str, top_level: bool = True) -> Action:
        """Return the action for one attribute (``tag`` may be a pydicom BaseTag, which is an int)."""
        return Action.X

    def keep_private(self, group: int, element_offset: int, creator: str) -> bool:
        """Return whether a private element (block-relative offset 00..FF) may be kept."""
        return False

    def describe(self, sop_class_uid: str = "") -> list[tuple[str, Action]]:
        """Return (keyword, action) for every attribute that the profile names."""
        return []

    def fingerprint(self) -> str:
        """Return a hash of tables, options and overrides."""
        return ""
