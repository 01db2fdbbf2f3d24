"""The actions of the profile on one value: keep, clean, empty, replace or remove it, depending on its VR.

:mod:`meninx.deid.walker` finds the action of every element and handles sequences itself. What happens here is
also recorded in the file's :class:`FileContext`, so that the self-check knows which identifiers the output
holds on purpose.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal

from meninx.deid import dates
from meninx.deid.changed_numbers import Changes
from meninx.deid.identifiers import Identifiers, keyword_of
from meninx.deid.identity.pseudonyms import Patient, Resolver, is_registered
from meninx.deid.options import Option
from meninx.deid.profile import Action, Profile, attribute_type, canonical, dictionary_vrs, rows
from meninx.deid.raw_search import ByteKind
from meninx.deid.text_in_bytes import NUMBERS, holds_text, is_prose, is_texty
from meninx.deid.wording.terms import ETHNIC_KEYWORDS, is_term, technical_text
from meninx.deid.wording.text import REMOVED, clean_text
from meninx.dicomfile.charset import decode, distinct
from meninx.dicomfile.elements import Element, Encoding

PATIENT_NAME, PATIENT_ID, BIRTH_DATE, AGE = 0x00100010, 0x00100020, 0x00100030, 0x00101010
ACCESSION = 0x00080050
TIMEZONE = 0x00080201
CONTEXT_UID = 0x00080117
FREE_TEXT = frozenset({"LO", "LT", "SH", "ST", "UC", "UT"})
NAMES = frozenset({"PN", "UR", "AE"})
STRINGS = FREE_TEXT | NAMES | {"AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI"}
SINGLE = frozenset({"LT", "ST", "UT", "UR"})
_FORMS = {
    "DS": re.compile(r" *[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)? *"),
    "IS": re.compile(r" *[+-]?[0-9]{1,12} *"),
    "UI": re.compile(r"[0-9]+(\.[0-9]+)*"),
    "CS": re.compile(r"[A-Za-z0-9 _./+()-]{0,16}"),
    "CONTEXT": re.compile(r"1\.2\.840\.10008\.6\.1\.[1-9][0-9]{0,3}"),
    "TIMEZONE": re.compile(r"[+-][0-9]{4}"),
}
_DUMMIES = {
    "AE": REMOVED,
    "AS": "000Y",
    "CS": REMOVED,
    "DA": "19000101",
    "DS": "0",
    "DT": "19000101000000",
    "IS": "0",
    "TM": "000000",
    "UR": "removed:",
}
# ICCProfile and WaveformData are searched for the file's own identifiers only.
_NOT_READ = frozenset({0x00282000, 0x54001010})
_LONG_NUMBERS = {"FD": "d", "FL": "f", "SL": "i", "UL": "I", "SV": "q", "UV": "Q"}  # of six digits and more
_MOST_NUMBERS = 64
_LONGEST_PLAIN = 40  # digits
_READABLE = re.compile(rb"[ -~]{5}")  # in short numbers, which the self-check searches once more
_SIZES = {
    "AT": 4, "FD": 8, "FL": 4, "OD": 8, "OF": 4, "OL": 4, "OV": 8, "SL": 4, "SS": 2, "SV": 8,
    "UL": 4, "US": 2, "UV": 8,
}  # fmt: skip
# Defined terms without which an image cannot be displayed. They stay even if a patient's name is one of them.
TERMS = frozenset({
    "ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "AXIAL", "LOCALIZER", "YES", "NO", "M", "F", "O", "HU",
    "OTHER", "RGB", "MONOCHROME1", "MONOCHROME2", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT",
    "PALETTE COLOR", "REMOVED", "CONTAINER", "TEXT", "NUM", "CODE", "PNAME", "DATE", "TIME", "DATETIME",
    "UIDREF", "COMPOSITE", "IMAGE", "WAVEFORM", "SCOORD", "SCOORD3D", "TCOORD", "CONTAINS",
    "HAS PROPERTIES", "HAS CONCEPT MOD", "HAS OBS CONTEXT", "HAS ACQ CONTEXT", "INFERRED FROM",
    "SELECTED FROM", "SEPARATE", "CONTINUOUS", "COMPLETE", "PARTIAL", "VERIFIED", "UNVERIFIED", "FINAL",
})  # fmt: skip


@dataclass
class FileContext:
    """What is known of one file before its data set is walked, and what the walk adds.

    Attributes:
        profile: actions.
        resolver: patients, UIDs and accession numbers of the site.
        patient: who the file is about.
        sop_class_uid: class of the instance.
        encoding: of the data set.
        found: identifiers of the original.
        max_age: highest age that stays exact, in years.
        over_age: the patient is older than that, so the birth date is removed whatever its action is.
        birth_days: the birth date as ``YYYYMMDD``; no date of the output may be it, shifted or not.
        positions_matter: content items refer to positions in the tree, so none of them is left out.
        kept: identifiers that the output holds on purpose (kept, or made by a date shift).
        numbers: what was done to numbers that state an age or a year of birth.
        counts: (keyword, action letter) -> number of elements.
        uids: original -> new UID, changed ones only.
        accessions: original -> new accession number.
        non_ascii: a text of the output needs UTF-8.
        bits_cleared: unused bits of the pixels held something that was cleared.
        review: why text may be in pixels that were not searched; empty when nothing suggests it.
        face: ``defaced``, ``not-head``, or ``""`` where nothing was done about a face.
        searched: the pixels were searched for text, and the result was searched again without a finding.
        text_kept: text stays in the pixels because a reviewer keeps it.
    """

    profile: Profile
    resolver: Resolver
    patient: Patient
    sop_class_uid: str
    encoding: Encoding
    found: Identifiers
    max_age: int = 89
    over_age: bool = False
    birth_days: frozenset[str] = frozenset()
    positions_matter: bool = False
    kept: Identifiers = field(default_factory=Identifiers)
    numbers: Changes = field(default_factory=Changes)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    uids: dict[str, str] = field(default_factory=dict)
    accessions: dict[str, str] = field(default_factory=dict)
    non_ascii: bool = False
    bits_cleared: bool = False
    review: tuple[str, ...] = ()
    searched: bool = False
    face: str = ""
    text_kept: bool = False

    def count(self, tag: int, letter: str) -> None:
        """Count one element."""
        self.counts[keyword_for_count(tag), letter] += 1

    def keeps_on_purpose(self, tag: int) -> bool:
        """Return whether a row of the table or an override decides this attribute, not the default."""
        if self.profile.overrides_tag(tag):
            return True
        return canonical(tag) in rows() and keyword_of(tag) not in ETHNIC_KEYWORDS

    def new_uid(self, original: str) -> str:
        """Return the replacement of a UID and remember the pair."""
        new = self.resolver.pseudonyms.uid(original)
        if new != original.strip(" \0"):
            self.uids[original.strip(" \0")] = new
        return new


PRIVATE = "PrivateElement"  # all of them are counted under this name


def keyword_for_count(tag: int) -> str:
    """Return the name under which an attribute is counted; private and unknown ones share one name each."""
    return PRIVATE if tag >> 16 & 1 else keyword_of(tag) or "UnknownElement"


def apply(
    action: Action, element: Element, vr: str, encodings: tuple[str, ...], context: FileContext, *, top: bool
) -> Element | None:
    """Return an element after its action, or None when it is removed. Sequences are not handled here.

    Args:
        action: the action of the profile.
        element: the original.
        vr: VR by which the value is understood.
        encodings: character sets in force.
        context: of the file; what was kept or made is added to it.
        top: whether the element is in the data set itself rather than in a sequence item.
    """
    if action == Action.X:
        return None
    if vr not in STRINGS:
        return _binary(action, element, vr, context)
    original = bytes(element.value)
    if vr == "UI":  # byte by byte, so that two UIDs are never the same
        uids = _uids(action, element.tag, original.decode("latin-1"), context)
        return text_element(element.tag, vr, uids, context)
    if action in (Action.Z, Action.D, Action.U):
        told = distinct(original, encodings).strip(" \0")
        return text_element(element.tag, vr, _replacement(action, element.tag, vr, told, context), context)
    text = decode(original, encodings).replace("\0", "")
    new = (
        _kept(element.tag, vr, text, context)
        if action == Action.K
        else _cleaned(element.tag, vr, text, context)
    )
    if not new and text.strip() and _needs_value(element.tag, context, top):
        new = _replacement(Action.D, element.tag, vr, text, context)
    if new == text and original.isascii() and b"\x1b" not in original:
        return Element(element.tag, vr, original)
    return text_element(element.tag, vr, new, context)


def _needs_value(tag: int, context: FileContext, top: bool) -> bool:
    """Return whether an attribute must have a value, by its type or because the profile gives it a dummy."""
    row = rows().get(canonical(tag))
    return (row is not None and row.basic == "D") or attribute_type(
        tag, context.sop_class_uid, top_level=top
    ) in ("1", "1C")


def kept_text(element: Element, vr: str, encodings: tuple[str, ...], context: FileContext) -> Element:
    """Return a text that an option keeps on purpose, without the identifiers of the file."""
    text = decode(bytes(element.value), encodings).replace("\0", "")
    return text_element(element.tag, vr, _without_pieces(text, context) or REMOVED, context)


def text_element(tag: int, vr: str, text: str, context: FileContext) -> Element:
    """Return an element with this text, padded; a text beyond ASCII makes the file declare UTF-8."""
    context.non_ascii |= not text.isascii()
    value = text.encode("utf-8", "replace")
    padding = b"\0" if vr == "UI" else b" "
    return Element(tag, vr, value + padding * (len(value) % 2))


def _replacement(action: Action, tag: int, vr: str, text: str, context: FileContext) -> str:
    """Return a pseudonym where the attribute identifies, else nothing (Z) or a valid dummy (D, U)."""
    if tag in (PATIENT_ID, PATIENT_NAME):
        return context.patient.pseudonym
    if tag == ACCESSION:
        return accession(text, context) or ("" if action == Action.Z else REMOVED)
    if action == Action.Z:
        return ""
    keyword = keyword_of(tag)
    if vr in FREE_TEXT and keyword.endswith(("ID", "Number", "Identifier", "IDs")) and text.strip():
        return context.resolver.pseudonyms.identifier(keyword, text)
    return _DUMMIES.get(vr, REMOVED)


def accession(text: str, context: FileContext) -> str:
    """Return the replacement of an accession number and remember the pair."""
    new = context.resolver.accession(context.patient, text)
    if new:
        context.accessions[text.strip(" \0")] = new
    return new


def _uids(action: Action, tag: int, text: str, context: FileContext) -> str:
    """Return the UID values; all but registered ones are replaced, unless an option keeps them."""
    values = [value.strip(" \0") for value in text.split("\\")]
    if action == Action.Z:
        return ""
    if action == Action.K and (
        Option.RETAIN_UIDS in context.profile.options or context.profile.overrides_tag(tag)
    ):
        context.kept.uids |= set(values)
        return "\\".join(value for value in values if _FORMS["UI"].fullmatch(value))
    context_group = tag == CONTEXT_UID
    return "\\".join(
        value
        if is_registered(value) or (context_group and _FORMS["CONTEXT"].fullmatch(value))
        else context.new_uid(value)
        for value in values
    )


def _kept(tag: int, vr: str, text: str, context: FileContext) -> str:
    """Return a value with the patient's identifiers removed; empty if it is invalid for its VR."""
    values = [text] if vr in SINGLE else text.split("\\")
    if vr in ("DA", "DT"):
        return _dates(tag, vr, values, 0, context) if not (tag == BIRTH_DATE and context.over_age) else ""
    if vr == "TM":
        return text if all(not value.strip() or dates.is_tm(value) for value in values) else ""
    if vr == "AS":
        return "\\".join(dates.capped_age(value, context.max_age) for value in values)
    if vr in ("DS", "IS"):
        fits = (
            _is_number(value, vr)
            and not any(_is_day(way) or context.found.spelled_by(way) for way in {value, plain_number(value)})
            for value in values
            if value.strip()
        )
        return text if all(fits) else ""
    if vr == "CS":
        return _codes(tag, values, context)
    on_purpose = context.keeps_on_purpose(tag)
    if vr in NAMES and not on_purpose:
        return ""
    if vr in FREE_TEXT and not on_purpose:
        values = [technical_text(value, keyword_of(tag)) for value in values]
        return _without_pieces("\\".join(values), context)
    return (
        "\\".join(context.found.removed_from(value) for value in values)
        if context.found.found_in(text)
        else text
    )


def _without_pieces(text: str, context: FileContext) -> str:
    """Return a text without the identifiers of the file, whether written as one word or in pieces."""
    values = (context.found.removed_from(value) for value in text.split("\\"))
    kept = "\\".join(values)
    return "" if context.found.spelled_apart_in(kept) else kept


def _is_day(value: str) -> bool:
    """Return whether a number is a day of the last or this century, which may be anybody's birth date."""
    digits = value.strip(" +-").partition(".")[0].lstrip("0")
    return len(digits) == 8 and digits[:2] in ("19", "20") and dates.parse(digits) is not None


def plain_number(value: str) -> str:
    """Return a valid DS or IS value without its exponent: ``1.95e7`` is ``19500000``.

    One with an exponent beyond any identifier stays as it is.
    """
    if "e" not in value and "E" not in value:
        return value
    try:
        number = Decimal(value.strip()).normalize()
    except ArithmeticError:
        return value
    return f"{number:f}" if abs(number.adjusted()) < _LONGEST_PLAIN else value


def _is_number(value: str, vr: str) -> bool:
    return len(value) <= 64 and bool(
        _FORMS[vr].fullmatch(value)
    )  # a pattern over a longer value takes quadratic time


def _codes(tag: int, values: list[str], context: FileContext) -> str:
    """Return coded values; one that is not known to be harmless, or holds an identifier, becomes empty."""
    keyword, own_rule = keyword_of(tag), context.profile.overrides_tag(tag)

    def fits(value: str) -> bool:
        term = value.strip(" \0")
        known = is_term(value, keyword) or (own_rule and _FORMS["CS"].fullmatch(value))
        return term in TERMS or bool(known and not context.found.found_in(value))

    kept = [value if fits(value) else "" for value in values]
    if context.found.spelled_apart_in("\\".join(value for value in kept if value.strip() not in TERMS)):
        kept = [value if value.strip() in TERMS else "" for value in kept]
    return (
        "\\".join(kept)
        if any(value.strip() for value in kept) or not any(value.strip() for value in values)
        else ""
    )


def _cleaned(tag: int, vr: str, text: str, context: FileContext) -> str:
    """Return a value cleaned according to its VR; empty if nothing of it may stay."""
    if vr in ("DA", "DT"):
        if tag == BIRTH_DATE and context.over_age:
            return ""
        return _dates(tag, vr, text.split("\\"), context.patient.shift_days, context)
    if tag == TIMEZONE:
        return text if _FORMS["TIMEZONE"].fullmatch(text.strip()) else ""
    if vr in FREE_TEXT:
        values = [text] if vr in SINGLE else text.split("\\")
        kept = "\\".join(_description(value, vr, context) for value in values)
        return "" if context.found.spelled_apart_in(kept) else kept
    if vr in NAMES:
        return ""
    return _kept(tag, vr, text, context)


def _description(value: str, vr: str, context: FileContext) -> str:
    """Return a free text cleaned; a short one that lost a part gets a suffix, so that it stays distinct."""
    limit = {"LO": 64, "SH": 16}.get(vr)

    def keyed(original: str) -> str:
        return context.resolver.pseudonyms.suffix(context.patient, original)

    return clean_text(value, keyed if limit else None, limit=limit, identifies=context.found.found_in)


def _dates(tag: int, vr: str, values: list[str], days: int, context: FileContext) -> str:
    move = dates.shift_da if vr == "DA" else dates.shift_dt
    moved = [
        move(value, days) if value.strip() and not _is_birth(tag, value, context) else "" for value in values
    ]
    for value in moved:
        context.kept.add_day(value)
    return "\\".join(moved)


def _is_birth(tag: int, value: str, context: FileContext) -> bool:
    """Return whether a date is the birth date under another name."""
    if tag == BIRTH_DATE or not context.birth_days:
        return False
    day = dates.parse(value)
    return day is not None and day.strftime("%Y%m%d").rjust(8, "0") in context.birth_days


def _binary(action: Action, element: Element, vr: str, context: FileContext) -> Element | None:
    """Return a numeric or opaque value, kept or dropped as a whole; an identifier is dropped."""
    if action == Action.Z:
        return Element(element.tag, vr)
    if action in (Action.D, Action.U):
        size = _SIZES.get(vr, 2)
        return Element(
            element.tag, vr, bytes(max(size, len(element.value) // size * size if vr in NUMBERS else size))
        )
    if action == Action.C and vr not in NUMBERS:
        return None
    value = bytes(element.value)
    if vr in NUMBERS and len(value) % _SIZES[vr]:
        return None
    searched = len(value) > 64 or vr not in NUMBERS or _READABLE.search(value) is not None
    listed = dictionary_vrs(element.tag) | {"UN"}
    misdeclared = len(listed) > 1 and element.vr.split(" or ")[0] not in listed
    if misdeclared and len(value) >= 4 and is_texty(value):
        return None
    if searched and (holds_identifier(value, context.found) or is_prose(value, vr)):
        return None
    # The texts of a colour profile are part of its format, and samples of 8 bits may lie among the letters.
    if searched and element.tag not in _NOT_READ and holds_text(value):
        return None
    if _states_identifier(value, vr, context.found):
        return None
    as_number = misdeclared and vr in listed  # bytes that the file declares as something else
    return Element(element.tag, vr if as_number else element.vr, value, undefined=element.undefined)


def _states_identifier(value: bytes, vr: str, found: Identifiers) -> bool:
    """Return whether one of a few binary numbers, in either byte order, is an identifier or a day."""
    form = _LONG_NUMBERS.get(vr)
    if (
        form is None
        or len(value) > _MOST_NUMBERS * struct.calcsize(form)
        or len(value) % struct.calcsize(form)
    ):
        return False
    both = (number for order in "<>" for (number,) in struct.iter_unpack(order + form, value))
    whole = {f"{abs(number):.0f}" for number in both if 1e5 <= abs(number) < 1e18 and number == int(number)}
    return any(_is_day(digits) or found.spelled_by(digits) for digits in whole)


def holds_identifier(value: bytes, found: Identifiers) -> bool:
    """Return whether opaque bytes spell an identifier, as bytes or as the text they may be."""
    return found.found_in_bytes(value, ByteKind.BYTES) or (
        is_texty(value) and found.found_in(value.decode("latin-1"))
    )
