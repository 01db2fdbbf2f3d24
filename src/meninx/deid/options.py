"""The options of the confidentiality profile, their DICOM codes, and the presets that combine them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from meninx.core.check import did_you_mean
from meninx.core.errors import ConfigError, expected, problem


class Code(NamedTuple):
    """One entry of DICOM PS3.16 CID 7050 (coding scheme DCM)."""

    value: str
    meaning: str


class Option(StrEnum):
    """One option of DICOM PS3.15 Annex E that has a column in Table E.1-1."""

    RETAIN_UIDS = "retain-uids"
    RETAIN_DEVICE = "retain-device"
    RETAIN_INSTITUTION = "retain-institution"
    RETAIN_PATIENT_CHARACTERISTICS = "retain-patient-characteristics"
    RETAIN_FULL_DATES = "retain-full-dates"
    RETAIN_MODIFIED_DATES = "retain-modified-dates"
    CLEAN_DESCRIPTORS = "clean-descriptors"
    CLEAN_STRUCTURED_CONTENT = "clean-structured-content"
    CLEAN_GRAPHICS = "clean-graphics"
    RETAIN_SAFE_PRIVATE = "retain-safe-private"

    @property
    def column(self) -> str:
        """Return the name of this option's column in ``tables/profile.csv``."""
        return self.value.replace("-", "_")

    @property
    def code(self) -> Code:
        """Return this option's entry of CID 7050."""
        return CODES[self]


BASIC_CODE = Code("113100", "Basic Application Confidentiality Profile")

CODES: dict[Option, Code] = {
    Option.CLEAN_GRAPHICS: Code("113103", "Clean Graphics Option"),
    Option.CLEAN_STRUCTURED_CONTENT: Code("113104", "Clean Structured Content Option"),
    Option.CLEAN_DESCRIPTORS: Code("113105", "Clean Descriptors Option"),
    Option.RETAIN_FULL_DATES: Code("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    Option.RETAIN_MODIFIED_DATES: Code(
        "113107", "Retain Longitudinal Temporal Information Modified Dates Option"
    ),
    Option.RETAIN_PATIENT_CHARACTERISTICS: Code("113108", "Retain Patient Characteristics Option"),
    Option.RETAIN_DEVICE: Code("113109", "Retain Device Identity Option"),
    Option.RETAIN_UIDS: Code("113110", "Retain UIDs Option"),
    Option.RETAIN_SAFE_PRIVATE: Code("113111", "Retain Safe Private Option"),
    Option.RETAIN_INSTITUTION: Code("113112", "Retain Institution Identity Option"),
}

PRESETS: dict[str, frozenset[Option]] = {
    "basic": frozenset(),
    "research": frozenset(
        {
            Option.RETAIN_MODIFIED_DATES,
            Option.CLEAN_DESCRIPTORS,
            Option.CLEAN_GRAPHICS,
            Option.CLEAN_STRUCTURED_CONTENT,
            Option.RETAIN_PATIENT_CHARACTERISTICS,
            Option.RETAIN_SAFE_PRIVATE,
        }
    ),
}


def preset(name: str) -> frozenset[Option]:
    """Return the options of a named preset.

    Raises:
        ConfigError: no preset has this name.
    """
    if name not in PRESETS:
        known = ", ".join(sorted(PRESETS))
        raise ConfigError(
            expected(f"a preset ({known})", got=repr(name), where="preset", fix=did_you_mean(name, PRESETS))
        )
    return PRESETS[name]


KEEPING_AGES = frozenset(
    {
        Option.RETAIN_PATIENT_CHARACTERISTICS,
        Option.CLEAN_STRUCTURED_CONTENT,
        Option.RETAIN_FULL_DATES,
        Option.RETAIN_MODIFIED_DATES,
    }
)
"""Only with one of these can an age or a birth date stay, so that ``max_age`` has an effect."""


def parse(names: Iterable[str]) -> frozenset[Option]:
    """Return the options with these names.

    Raises:
        ConfigError: an unknown name, or two options that exclude each other.
    """
    known = [item.value for item in Option]
    wanted = list(names)
    for name in wanted:
        if name not in known:
            fix = did_you_mean(name, known) or f"known options: {', '.join(known)}"
            raise ConfigError(expected("a profile option", got=repr(name), where="options", fix=fix))
    chosen = frozenset(Option(name) for name in wanted)
    check(chosen)
    return chosen


def check(options: frozenset[Option]) -> None:
    """Raise ConfigError when two of the options exclude each other (full and modified dates)."""
    if {Option.RETAIN_FULL_DATES, Option.RETAIN_MODIFIED_DATES} <= options:
        raise ConfigError(
            problem(
                "retain-full-dates and retain-modified-dates exclude each other",
                where="options",
                fix="drop retain-full-dates to have the dates shifted",
            )
        )


FACE_CODE = Code("113102", "Clean Recognizable Visual Features Option")
PIXEL_CODE = Code("113101", "Clean Pixel Data Option")


EVERY_CODE: tuple[Code, ...] = tuple(dict.fromkeys((BASIC_CODE, PIXEL_CODE, FACE_CODE, *CODES.values())))
"""Every code that :func:`method_codes` may give."""


def method_codes(
    options: frozenset[Option], *, pixels: bool = False, faces: bool = False
) -> tuple[Code, ...]:
    """Return the codes of the Basic Profile and of what was applied, by ascending code value.

    Args:
        options: options of the profile.
        pixels: whether the pixels were searched for text and cleaned.
        faces: whether a face was removed.
    """
    applied = [*([PIXEL_CODE] if pixels else []), *([FACE_CODE] if faces else [])]
    return (BASIC_CODE, *sorted([*(item.code for item in options), *applied]))
