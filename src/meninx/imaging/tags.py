"""Standard attributes by any of their names, and values of the type that their value representation needs."""

from __future__ import annotations

import re
import struct
import uuid

from pydicom import charset
from pydicom import config as pydicom_config
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.tag import Tag
from pydicom.valuerep import validate_value

from meninx.core import check
from meninx.core.errors import ConfigError, DataError, expected

_HEX = re.compile(r"\(?([0-9A-Fa-f]{4}),? ?([0-9A-Fa-f]{4})\)?")
_INTEGERS = {"US": "<H", "SS": "<h", "UL": "<L", "SL": "<l", "UV": "<Q", "SV": "<q"}
_REALS = {"FL": "<f", "FD": "<d"}
_TEXTS = {
    "AE",
    "AS",
    "CS",
    "DA",
    "DS",
    "DT",
    "IS",
    "LO",
    "LT",
    "PN",
    "SH",
    "ST",
    "TM",
    "UC",
    "UI",
    "UR",
    "UT",
}
_ONE_VALUE = {"LT", "ST", "UT", "UR"}
NOT_REVIEWED = "pixels not reviewed"
"""Second value of DeidentificationMethod if the header is clean but the pixels still need a review.

PatientIdentityRemoved is NO in such a file; prepare leaves it out unless ``trusted`` is set.
"""
_ANY_SCRIPT = {"LO", "LT", "PN", "SH", "ST", "UC", "UT"}


def keyword_of(name: str) -> str:
    """Return the keyword of a standard attribute given as keyword, ``(gggg,eeee)`` or eight hex digits.

    Raises:
        ConfigError: no such attribute in the DICOM dictionary; the message suggests a similar keyword.
    """
    if name and tag_for_keyword(name) is not None:
        return name
    match = _HEX.fullmatch(name.strip())
    keyword = keyword_for_tag(Tag(int(match[1] + match[2], 16))) if match else ""
    if not keyword:
        fix = (
            check.did_you_mean(name, (entry[4] for entry in DicomDictionary.values()))
            or "use a keyword such as ImageComments"
        )
        raise ConfigError(expected("a standard DICOM attribute", got=repr(name), where="tag", fix=fix))
    return keyword


def vr_of(keyword: str) -> str:
    """Return the one value representation of an attribute that can hold a single text or number.

    Raises:
        ConfigError: the attribute has several representations, holds bytes or items, or must have several
            values.
    """
    vr, count = dictionary_VR(keyword), dictionary_VM(keyword)
    if vr not in _TEXTS and vr not in _INTEGERS and vr not in _REALS:
        raise ConfigError(
            expected(
                "an attribute of text or numbers", got=f"VR {vr}", where=keyword, fix="choose another tag"
            )
        )
    if not count.startswith("1"):
        raise ConfigError(
            expected(
                "an attribute of one value", got=f"{count} values", where=keyword, fix="choose another tag"
            )
        )
    return vr


def typed(text: str, keyword: str) -> str | int | float:
    """Return a text as a value of an attribute.

    Raises:
        DataError: the text is too long or malformed for the attribute; the message names the keyword and not
            the text.
    """
    vr = vr_of(keyword)
    fix = "shorten or spell the value otherwise, or choose another tag"
    try:
        if vr in _INTEGERS:
            number = int(text)
            struct.pack(_INTEGERS[vr], number)
            return number
        if vr in _REALS:
            real = float(text)
            struct.pack(_REALS[vr], real)
            return real
        if "\\" in text and vr not in _ONE_VALUE:
            raise ValueError("a backslash separates values")
        validate_value(vr, text, pydicom_config.RAISE)
    except (ValueError, struct.error, OverflowError):
        got = f"{len(text)} characters that do not fit it"
        raise DataError(expected(f"a value of VR {vr}", got=got, where=keyword, fix=fix)) from None
    if not text.isascii() and vr not in _ANY_SCRIPT:
        raise DataError(expected(f"a value of VR {vr}", got="letters beyond ASCII", where=keyword, fix=fix))
    return text


def can_spell(text: str, character_sets: object) -> bool:
    """Return whether a SpecificCharacterSet (None, a text or several) can encode a text."""
    if text.isascii():
        return True
    names = [character_sets] if isinstance(character_sets, str) else list(character_sets or [])  # type: ignore[call-overload]
    for name in names:
        encoding = charset.python_encoding.get(str(name))
        try:
            text.encode(encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            continue
        return True
    return False


def new_uid(name: str = "") -> str:
    """Return a fresh UID ``2.25.<128 random bits>``.

    ``name`` is ignored; it exists so that a keyed function can be used instead.
    """
    return f"2.25.{uuid.uuid4().int}"
