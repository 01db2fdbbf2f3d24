"""The bytes of a clean file: an empty preamble, new file meta information, markers, cleaned elements."""

from __future__ import annotations

import zlib
from functools import lru_cache
from importlib import metadata

from meninx.deid import structured_content
from meninx.deid.actions import AGE, BIRTH_DATE, FileContext
from meninx.deid.dates import age_between, capped_age, parse, years
from meninx.deid.options import Code, Option, method_codes
from meninx.deid.profile import Action, attribute_type
from meninx.dicomfile.charset import CHARSET_TAG, UTF_8, is_valid
from meninx.dicomfile.elements import Element, Encoding, encode, encode_chunks
from meninx.dicomfile.file_part import Piece, windows_of
from meninx.dicomfile.instance import DEFLATED, SOP_INSTANCE, Instance
from meninx.imaging.tags import NOT_REVIEWED

IMPLEMENTATION_UID = "2.25.193457043928650216484709873224171529361"
IMPLEMENTATION_NAME = "MENINX_DEID_1"
METHOD = "meninx, DICOM PS3.15 Annex E 2026d"
LAST_TAG = (
    0x7FE00010  # only private elements, padding and signatures follow the pixels; none of them is written
)
_SMALL = 1 << 16  # bytes
CLEARED_BITS = "unused bits of the pixels cleared"
TEXT_KEPT = "text in pixels kept in review"
OVERRIDES = "attributes treated by rules of the site"
_META = Encoding(implicit=False, little=True)
BURNED_IN, VISUAL_FEATURES = 0x00280301, 0x00280302
_STUDY_DATES = (0x00080020, 0x00080022, 0x00080021, 0x00080023)


def finish(elements: list[Element], original: Instance, context: FileContext) -> list[Element]:
    """Return the cleaned data set with its markers, its character set and the age, if that is retained."""
    new = {element.tag: element for element in elements}
    new.update({element.tag: element for element in _markers(context)})
    charset = _charset(original, context)
    if charset:
        new[CHARSET_TAG] = Element(CHARSET_TAG, "CS", charset)
    _state_burned_in(new, context)
    _state_visual_features(new, context)
    new.setdefault(0x00100010, _text(0x00100010, "PN", context.patient.pseudonym))
    new.setdefault(0x00100020, _text(0x00100020, "LO", context.patient.pseudonym))
    if AGE not in new or not bytes(new[AGE].value).strip():
        age = capped_age(derived_age(original), context.max_age)
        if age and _keeps_age(context):
            new[AGE] = _text(AGE, "AS", age)
            context.count(AGE, "C")
    return [element for element in new.values() if element.tag <= LAST_TAG]


def _state_burned_in(new: dict[int, Element], context: FileContext) -> None:
    """Set BurnedInAnnotation to NO after a search; remove a NO of the device that nobody has checked.

    Where a reviewer keeps text, the device's own value is about the image as it came in, so it goes in any
    case. What stays was read, resembles nothing of the header and was judged by a person: where the IOD
    requires a value, NO stands, and DeidentificationMethod says that text was kept.
    """
    required = attribute_type(BURNED_IN, context.sop_class_uid, top_level=True) in ("1", "1C")
    if context.searched and (required or not context.text_kept):
        new[BURNED_IN] = _text(BURNED_IN, "CS", "NO")
    elif context.text_kept:
        new.pop(BURNED_IN, None)
    elif (
        context.review and BURNED_IN in new and bytes(new[BURNED_IN].value).strip() == b"NO" and not required
    ):
        del new[BURNED_IN]


def _state_visual_features(new: dict[int, Element], context: FileContext) -> None:
    """Set RecognizableVisualFeatures to NO after a search for a face; else remove a NO of the device.

    Nobody has checked the latter. It stays where the IOD requires a value, and this program claims nothing.
    """
    stated = bytes(new[VISUAL_FEATURES].value).strip() if VISUAL_FEATURES in new else b""
    kind = attribute_type(VISUAL_FEATURES, context.sop_class_uid, top_level=True)
    if context.face:
        new[VISUAL_FEATURES] = _text(VISUAL_FEATURES, "CS", "NO")
    elif stated == b"NO" and kind not in ("1", "1C"):
        del new[VISUAL_FEATURES]


def _codes(context: FileContext) -> tuple[Code, ...]:
    """Return the codes of what was done to the file."""
    return method_codes(context.profile.options, pixels=context.searched, faces=context.face == "defaced")


def derived_age(original: Instance) -> str:
    """Return the age at the first date of the study as an AS value, from the original dates.

    Empty when unknown.
    """
    birth = parse(original.text(BIRTH_DATE))
    days = (parse(original.text(tag)) for tag in _STUDY_DATES)
    then = next((day for day in days if day is not None), None)
    return age_between(birth, then) if birth and then else ""


def birth_days(original: Instance) -> frozenset[str]:
    """Return the birth dates of the header and of content items that are no day of the study.

    On the day of birth, an examination has the same date, which stays.
    """
    days = (parse(original.text(tag)) for tag in _STUDY_DATES)
    examined = {day.strftime("%Y%m%d").rjust(8, "0") for day in days if day is not None}
    return structured_content.birth_days(original.elements, original.encodings) - examined


def is_over_age(original: Instance, max_age: int) -> bool:
    """Return whether the stated or the derived age exceeds the highest age that may stay exact."""
    ages = (years(original.text(AGE)), years(derived_age(original)))
    return any(age is not None and age >= max_age + 1 for age in ages)


def file_chunks(elements: list[Element], original: Instance) -> list[Piece]:
    """Return the whole file in pieces, in the transfer syntax of the original."""
    sop = {
        element.tag: bytes(element.value) for element in elements if element.tag in (0x00080016, SOP_INSTANCE)
    }
    meta = [
        Element(0x00020001, "OB", b"\0\1"),
        Element(0x00020002, "UI", sop[0x00080016]),
        Element(0x00020003, "UI", sop[SOP_INSTANCE]),
        _text(0x00020010, "UI", original.transfer_syntax),
        _text(0x00020012, "UI", IMPLEMENTATION_UID),
        _text(0x00020013, "SH", IMPLEMENTATION_NAME),
    ]
    body = encode(meta, _META)
    head = encode([Element(0x00020000, "UL", len(body).to_bytes(4, "little"))], _META)
    content = encode_chunks(elements, original.encoding)
    if original.transfer_syntax == DEFLATED:
        content = _deflated(content)
    return _joined([bytes(128) + b"DICM" + head + body, *content])


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Return the same bytes with small neighbours joined, so that a header is written and hashed at once."""
    found: list[Piece] = []
    small: list[bytes] = []
    for piece in pieces:
        if len(piece) < _SMALL:
            small.append(bytes(piece))
            continue
        found += [b"".join(small), piece]
        small = []
    return [*found, b"".join(small)]


def _deflated(content: list[Piece]) -> list[Piece]:
    stream = zlib.compressobj(wbits=-15)
    windows = (window for piece in content for window in windows_of(piece))
    pieces: list[Piece] = [*map(stream.compress, windows), stream.flush()]
    return [*pieces, b"\0" * (sum(map(len, pieces)) % 2)]


def marker_texts(context: FileContext) -> list[bytes]:
    """Return the words that this program writes into every output, longest first, for the self-check."""
    words = [
        METHOD,
        NOT_REVIEWED,
        CLEARED_BITS,
        TEXT_KEPT,
        OVERRIDES,
        IMPLEMENTATION_NAME,
        *(word for code in _codes(context) for word in code),
    ]
    return sorted((word.encode() for word in words), key=len, reverse=True)


def is_own_output(original: Instance) -> bool:
    """Return whether this program made a file, by the method that it states."""
    return original.text(0x00120063).startswith(METHOD.split(" Annex")[0])


def _markers(context: FileContext) -> list[Element]:
    options = context.profile.options
    codes = [
        [
            _text(0x00080100, "SH", code.value),
            _text(0x00080102, "SH", "DCM"),
            _text(0x00080104, "LO", code.meaning),
        ]
        for code in _codes(context)
    ]
    method = f"{METHOD}, version {_version()}"[:64]
    remarks = [CLEARED_BITS] if context.bits_cleared else []
    remarks += [NOT_REVIEWED] if context.review else []
    remarks += [TEXT_KEPT] if context.text_kept else []
    remarks += [OVERRIDES] if context.profile.overrides else []
    dates = "MODIFIED" if Option.RETAIN_MODIFIED_DATES in options else "REMOVED"
    if Option.RETAIN_FULL_DATES in options:
        dates = "UNMODIFIED"
    return [
        _text(0x00120062, "CS", "NO" if context.review else "YES"),
        _text(0x00120063, "LO", "\\".join([method, *remarks])),
        Element(0x00120064, "SQ", items=codes),
        _text(0x00280303, "CS", dates),
    ]


@lru_cache(maxsize=1)
def _version() -> str:
    return metadata.version("meninx")


def _charset(original: Instance, context: FileContext) -> bytes:
    """Return the character set to declare: UTF-8 if a text needs it, else the original one if it is valid."""
    if context.non_ascii:
        return UTF_8
    value = next((bytes(e.value) for e in original.elements if e.tag == CHARSET_TAG), b"")
    return value if is_valid(value) else b""


def _keeps_age(context: FileContext) -> bool:
    action = context.profile.action(AGE, "AS", sop_class_uid=context.sop_class_uid)
    return action in (Action.K, Action.C) and Option.RETAIN_PATIENT_CHARACTERISTICS in context.profile.options


def _text(tag: int, vr: str, text: str) -> Element:
    value = text.encode("ascii")
    return Element(tag, vr, value + (b"\0" if vr == "UI" else b" ") * (len(value) % 2))
