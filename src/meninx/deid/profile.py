"""The compiled confidentiality profile: which action each attribute gets under the chosen options.

References:
    DICOM PS3.15, edition 2026d, Annex E: Table E.1-1 (``tables/profile.csv``) and Table E.3.10-1
        (``tables/safe_private.csv``).
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pydicom.datadict import dictionary_keyword, dictionary_VR, keyword_dict

from meninx.core.check import did_you_mean
from meninx.core.errors import ConfigError, expected, problem
from meninx.deid.options import KEEPING_AGES, Option, check
from meninx.dicomfile.elements import standard_vr

TABLES = Path(__file__).parent / "tables"
STRICTNESS = ("1", "1C", "2", "2C", "3")
NESTED = "nested"


def read_table(name: str) -> list[dict[str, str]]:
    """Return the rows of one table of ``tables/`` as dictionaries by column name."""
    with (TABLES / name).open(newline="", encoding="utf-8") as stream:
        head, *rows = csv.reader(stream)  # much quicker than a DictReader
        return [dict(zip(head, row, strict=True)) for row in rows]


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


class Action(StrEnum):
    """What is done to one attribute, in the letters of DICOM PS3.15 Table E.1-1a.

    On a sequence, K, C, U and D all mean: keep the items and give every attribute inside its own action.
    """

    D = "D"
    """Replace with a dummy value that is valid for the VR and not empty."""
    Z = "Z"
    """Replace with an empty value (or a dummy value)."""
    X = "X"
    """Remove."""
    K = "K"
    """Keep."""
    C = "C"
    """Clean: shift a date or time, reduce a text to safe words, blank graphics."""
    U = "U"
    """Replace every UID that is not registered in DICOM PS3.6 consistently."""


class ProfileRow(NamedTuple):
    """One row of Table E.1-1."""

    keyword: str
    vr: str
    basic: str
    cells: dict[Option, str]


NUMBERS = frozenset(
    ["US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "DS", "IS", "AT", "OW", "OF", "OD", "OL", "OV"]
)
DATES = frozenset({"DA", "DT", "TM"})
CURVES = 0x50000000
OVERLAY_DATA = 0x60003000
ALLOWING = {"descriptor": Option.CLEAN_DESCRIPTORS, "structured": Option.CLEAN_STRUCTURED_CONTENT}


@lru_cache(maxsize=1)
def rows() -> dict[int, ProfileRow]:
    """Return Table E.1-1 by tag; masks stand under their lowest group, private attributes under none."""
    return {
        int(row["tag"].replace("x", "0"), 16): ProfileRow(
            row["keyword"],
            row["vr"],
            row["basic"],
            {item: row[item.column] for item in Option if row[item.column]},
        )
        for row in read_table("profile.csv")
        if row["tag"] != "ggggeeee"
    }


@lru_cache(maxsize=1)
def allowed_text() -> dict[int, str]:
    """Return tag -> kind (technical, descriptor, structured) of unlisted text attributes that may stay."""
    return {keyword_dict[row["keyword"]]: row["kind"] for row in read_table("allowed_text.csv")}


@lru_cache(maxsize=1)
def safe_private() -> frozenset[tuple[int, int, str]]:
    """Return (group, element within the block, creator) of Table E.3.10-1."""
    return frozenset(
        (int(row["group"], 16), int(row["element"], 16), row["creator"].strip())
        for row in read_table("safe_private.csv")
    )


@lru_cache(maxsize=1)
def _safe_blocks() -> dict[tuple[int, str], frozenset[int]]:
    blocks: dict[tuple[int, str], set[int]] = {}
    for group, element, creator in safe_private():
        blocks.setdefault((group, creator), set()).add(element)
    return {block: frozenset(elements) for block, elements in blocks.items()}


def canonical(tag: int) -> int:
    """Return the tag under which a repeating group (50xx, 60xx) is listed; other tags unchanged."""
    group = tag >> 16
    if 0x5000 <= group <= 0x50FF:
        return CURVES
    return 0x60000000 | tag & 0xFFFF if 0x6000 <= group <= 0x60FF else int(tag)


@lru_cache(maxsize=16384)
def dictionary_vrs(tag: int) -> frozenset[str]:
    """Return the VRs that the dictionary or the table gives an attribute; empty for an unknown one."""
    try:
        return frozenset(dictionary_VR(tag).split(" or "))
    except KeyError:
        row = rows().get(canonical(tag))
        return frozenset(row.vr.split(" or ")) if row and row.vr else frozenset()


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Options and overrides, compiled into an action for every attribute that can occur.

    Guarantee: an attribute gets K, C or U only if an override, the table, an option's column or
        ``tables/allowed_text.csv`` says so, or if it is known to the DICOM dictionary, stands in an even
        group, and its VR (the one in the file and the one in the dictionary) is a number, a code (CS), a UID,
        a sequence, or a date that an option keeps. Text, bytes, unknown and private attributes are removed
        otherwise. The caller walks every sequence, judges UIDs by value (registered ones stay), and rebuilds
        the file meta information.

    Attributes:
        options: the options of Annex E in force besides the Basic Profile.
        overrides: (tag, action) pairs that come before everything else; masks under their lowest group.
    """

    options: frozenset[Option] = frozenset()
    overrides: tuple[tuple[int, Action], ...] = ()
    _overridden: dict[int, Action] = field(init=False, repr=False, compare=False, default_factory=dict)
    _known: dict[tuple[int, str, str, bool], Action] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        """Refuse options that exclude each other.

        Raises:
            ConfigError: full and modified dates together.
        """
        check(self.options)
        self._overridden.update(self.overrides)

    @classmethod
    def compile(
        cls, options: frozenset[Option], overrides: Mapping[str, Action | str] | None = None
    ) -> Profile:
        """Return the profile for these options and overrides.

        Args:
            options: see :mod:`meninx.deid.options`.
            overrides: keyword (``StudyDescription``) or tag (``0008,1030``, ``(0008,1030)``, ``00081030``,
                ``60xx3000``) -> action letter.

        Raises:
            ConfigError: options exclude each other, or an override names no attribute or no action that fits
                it.
        """
        pairs = {_tag_named(name): (name, action) for name, action in (overrides or {}).items()}
        checked = tuple((tag, _action_named(tag, *pair)) for tag, pair in sorted(pairs.items()))
        return cls(options=frozenset(options), overrides=checked)

    def action(self, tag: int, vr: str, *, sop_class_uid: str, top_level: bool = True) -> Action:
        """Return the action for one attribute.

        Private attributes get X; :meth:`keep_private` alone may keep one.

        Args:
            tag: the tag; pydicom's ``BaseTag`` is an int.
            vr: the VR in the file; ``UN`` counts as the VR of the dictionary.
            sop_class_uid: SOP Class UID of the instance, which decides conditional actions; may be empty.
            top_level: whether the attribute stands in the data set itself rather than in a sequence item.
        """
        key = (tag, vr, sop_class_uid, top_level)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._decide(int(tag), vr, sop_class_uid, top_level)
        return found

    def drawings_go(self, tag: int) -> bool:
        """Return whether a curve (50xx) or overlay (60xx) group is removed as a whole.

        Only an override can keep one.

        Geometry and labels without the bitmap are no overlay, and cleaning a bitmap means removing it.
        """
        bitmap = OVERLAY_DATA if tag >> 24 == OVERLAY_DATA >> 24 else CURVES
        return self._overridden.get(bitmap) != Action.K

    def overrides_tag(self, tag: int) -> bool:
        """Return whether an override decides this attribute (repeating groups by their mask)."""
        return canonical(tag) in self._overridden

    def keep_private(self, group: int, element_offset: int, creator: str) -> bool:
        """Return whether a private element may stay: its option is on and Table E.3.10-1 lists it.

        A UID that may stay must still be replaced, and a sequence that may stay must still be walked.

        Args:
            group: the odd group number.
            element_offset: the element number; only its low byte, the place within the block, counts.
            creator: the private creator of the block in the same data set; blanks around it do not count.
        """
        if Option.RETAIN_SAFE_PRIVATE not in self.options:
            return False
        return (group, element_offset & 0xFF, creator.strip()) in safe_private()

    def kept_of_block(self, group: int, creator: str) -> frozenset[int]:
        """Return the places (low bytes of the element numbers) of a private block whose elements may stay.

        They are those for which :meth:`keep_private` is true.
        """
        if Option.RETAIN_SAFE_PRIVATE not in self.options:
            return frozenset()
        return _safe_blocks().get((group, creator.strip()), frozenset())

    def describe(self, sop_class_uid: str = "") -> list[tuple[str, Action]]:
        """Return (keyword, action) of every attribute that the table, the allow list or an override names.

        Args:
            sop_class_uid: the instance's class; empty shows what an unknown class gets.
        """
        named = {
            **{tag: row.vr for tag, row in rows().items()},
            **dict.fromkeys([*allowed_text(), *self._overridden], "UN"),
        }
        listing = [
            (_keyword(tag), self.action(tag, vr.split(" ")[0], sop_class_uid=sop_class_uid))
            for tag, vr in named.items()
        ]
        private = Action.C if Option.RETAIN_SAFE_PRIVATE in self.options else Action.X
        return sorted([*listing, ("PrivateAttributes", private)])

    def describe_overrides(self) -> list[str]:
        """Return ``keyword=action letter`` of every override, sorted."""
        return sorted(f"{_keyword(tag)}={action}" for tag, action in self.overrides)

    def override_table(self) -> list[tuple[int, str, str, Action]]:
        """Return (tag, keyword, VR, action) of every override, sorted by keyword."""
        found = [
            (tag, _keyword(tag), standard_vr(tag).split(" or ")[0], action) for tag, action in self.overrides
        ]
        return sorted(found, key=lambda row: row[1])

    @property
    def may_keep_ages(self) -> bool:
        """Whether an age or a birth date can stay, so that a highest age has an effect."""
        return bool(KEEPING_AGES & self.options) or any(
            action in (Action.K, Action.C) and (vr in ("AS", "SQ") or keyword == "PatientBirthDate")
            for _, keyword, vr, action in self.override_table()
        )

    def fingerprint(self) -> str:
        """Return a SHA-256 over tables, options and overrides; equal prints mean equal actions."""
        parts = [
            *sorted(self.options),
            *(f"{tag:08x}={action}" for tag, action in self.overrides),
            _tables_digest(),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _decide(self, tag: int, vr: str, sop_class_uid: str, top_level: bool) -> Action:
        if tag >> 16 & 1 or not tag & 0xFFFF:
            return Action.X
        name = canonical(tag)
        if name in self._overridden:
            return self._overridden[name]
        kind = attribute_type(name, sop_class_uid, top_level=top_level)
        row = rows().get(name)
        return self._listed(row, vr, kind) if row else self._unlisted(tag, vr, kind)

    def _listed(self, row: ProfileRow, vr: str, kind: str) -> Action:
        """Return the action of a row: cleaning before keeping before the basic action."""
        chosen = {row.cells.get(option, "") for option in self.options}
        if "C" in chosen:
            return Action.C
        if "K" in chosen:
            return Action.K
        is_sequence = "SQ" in (vr, row.vr)
        return Action(row.basic if row.basic == "X" and is_sequence else resolve(row.basic, kind))

    def _unlisted(self, tag: int, vr: str, kind: str) -> Action:
        """Return the default action.

        Numbers, codes and sequences are kept, dates and UIDs follow their options, and the rest is removed.
        """
        vrs = dictionary_vrs(tag)
        if not vrs or not tag >> 16 or (tag >> 24 == OVERLAY_DATA >> 24 and self.drawings_go(tag)):
            return Action.X
        if vr != "UN":
            vrs |= {vr}
        # A code that the file calls a text is none, so it goes even where the attribute is required.
        gone = Action(resolve("X/Z/D", "3" if "CS" in vrs else kind))
        if vrs <= NUMBERS | {"CS"} or vrs == {"SQ"}:
            return Action.K
        if vrs <= DATES:
            return self._dated() or gone
        if vrs == {"UI"}:
            return Action.K if Option.RETAIN_UIDS in self.options else Action.U
        return self._worded(allowed_text().get(tag, "")) or gone

    def _dated(self) -> Action | None:
        if Option.RETAIN_FULL_DATES in self.options:
            return Action.K
        return Action.C if Option.RETAIN_MODIFIED_DATES in self.options else None

    def _worded(self, kind: str) -> Action | None:
        if kind == "technical":
            return Action.K
        return Action.C if ALLOWING.get(kind) in self.options else None


@lru_cache(maxsize=1)
def _tables_digest() -> str:
    """Return one hash of all tables."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(TABLES.glob("*.csv")))).hexdigest()


def _keyword(tag: int) -> str:
    row = rows().get(tag)
    return row.keyword if row else dictionary_keyword(tag)


def _tag_named(name: str) -> int:
    """Return the tag of a keyword or a written tag, masks canonical."""
    own = {row.keyword: tag for tag, row in rows().items()}
    written = re.fullmatch(r"\(?([0-9a-f]{4}|[56]0xx),? ?([0-9a-f]{4})\)?", name.strip(), re.IGNORECASE)
    if written:
        tag = canonical(int(written[1].lower().replace("xx", "00") + written[2], 16))
        if (not tag >> 16 & 1 and tag & 0xFFFF and dictionary_vrs(tag)) or tag == CURVES:
            return tag
    elif name in own or name in keyword_dict:
        return own.get(name) or keyword_dict[name]
    fix = (
        did_you_mean(name, [*own, *keyword_dict])
        or "private attributes are governed by retain-safe-private alone"
    )
    raise ConfigError(
        expected("a DICOM keyword or an even-group tag", got=repr(name), where="overrides", fix=fix)
    )


def _action_named(tag: int, name: str, letter: str) -> Action:
    """Return the action of an override, checked against the attribute."""
    if letter not in list(Action):
        raise ConfigError(expected("one of D, Z, X, K, C, U", got=repr(letter), where=f"overrides.{name}"))
    if letter == Action.U and not dictionary_vrs(tag) & {"UI", "SQ"}:
        raise ConfigError(
            problem("the attribute is no UID and no sequence, so U has no meaning", where=f"overrides.{name}")
        )
    return Action(letter)
