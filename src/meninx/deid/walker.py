"""The walk through a data set: the profile decides on every element, at every depth.

Coded entries (code value, scheme and meaning) are cleaned together, because the meaning can be checked
against the published one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from pydicom.datadict import private_dictionary_VR

from meninx.deid import actions
from meninx.deid.actions import FileContext
from meninx.deid.elements import PIXEL_DATA, Element, standard_vr
from meninx.deid.identifiers import keyword_of
from meninx.deid.options import Option
from meninx.deid.pixels import EXTENDED_OFFSETS
from meninx.deid.profile import Action, attribute_type, read_table
from meninx.deid.text import CHARSET_TAG, REMOVED, clean_text, decode, encodings_of

CODE_VALUE, CODING_SCHEME, SCHEME_VERSION, CODE_MEANING, LONG_CODE_VALUE, URN_CODE_VALUE = (
    0x00080100,
    0x00080102,
    0x00080103,
    0x00080104,
    0x00080119,
    0x00080120,
)
CODE_TAGS = frozenset(
    {CODE_VALUE, CODING_SCHEME, SCHEME_VERSION, CODE_MEANING, LONG_CODE_VALUE, URN_CODE_VALUE}
)
LOCAL_SCHEME = "99MENINX"
_DEFAULT_SHAPE = re.compile(r"[A-Z]{0,4}[-.]?[0-9][0-9A-F.-]{0,11}")
_SHAPES = {
    "SCT": re.compile(r"[0-9]{6,18}"),
    "SRT": re.compile(r"[A-Z][0-9A-Z]?-[0-9A-F]{3,6}"),
    "LN": re.compile(r"[0-9]{1,7}-[0-9]"),
    "DCM": re.compile(r"[0-9]{6}"),
    "UCUM": re.compile(r"[A-Za-z0-9{}\[\]/.*%'^-]{1,10}"),
}
_SYNONYMS = {"SNM3": "SRT", "99SDM": "SRT", "SNOMED-CT": "SCT"}
PUBLISHED_SCHEMES: frozenset[str] = frozenset(row["designator"] for row in read_table("coding_schemes.csv"))


def clean_code(item: list[Element], encodings: tuple[str, ...], context: FileContext) -> dict[int, Element]:
    """Return the elements that take the place of the code value, scheme, version and meaning of one item.

    Args:
        item: elements of a sequence item; without any of these attributes the result is empty.
        encodings: character sets in force.
        context: of the file.
    """
    text = {
        e.tag: decode(bytes(e.value), encodings).strip(" \0")
        for e in item
        if e.tag in CODE_TAGS and e.items is None
    }
    if not text:
        return {}
    values = [tag for tag in (CODE_VALUE, LONG_CODE_VALUE, URN_CODE_VALUE) if text.get(tag)]
    scheme = text.get(CODING_SCHEME, "")
    if all(_is_published(scheme, text[tag], context) for tag in values) and (
        scheme in PUBLISHED_SCHEMES or not scheme
    ):
        new = {tag: text[tag] for tag in (*values, CODING_SCHEME) if tag in text}
        if re.fullmatch(r"[0-9.vV_-]{1,16}", text.get(SCHEME_VERSION, "")):
            new[SCHEME_VERSION] = text[SCHEME_VERSION]
    else:
        pseudonyms = context.resolver.pseudonyms
        new = {tag: pseudonyms.identifier("CodeValue", f"{scheme}/{text[tag]}") for tag in values}
        if CODING_SCHEME in text:
            new[CODING_SCHEME] = LOCAL_SCHEME
    if CODE_MEANING in text:
        new[CODE_MEANING] = _meaning(text, values, context)
    return {tag: _code_element(tag, value) for tag, value in new.items()}


def dummy_code() -> list[Element]:
    """Return an item that stands for a removed code."""
    return [
        _code_element(CODE_VALUE, REMOVED),
        _code_element(CODING_SCHEME, LOCAL_SCHEME),
        _code_element(CODE_MEANING, REMOVED),
    ]


def published_meanings(scheme: str, value: str) -> tuple[str, ...]:
    """Return the published meanings of a code, shortest first; none when the tables do not know it."""
    name = _SYNONYMS.get(scheme, scheme)
    if name == "SRT":
        name, value = "SCT", _snomed_numbers().get(value, value)
    return _published().get((name, value), ())


def _is_published(scheme: str, value: str, context: FileContext) -> bool:
    if scheme not in PUBLISHED_SCHEMES:
        return False
    if published_meanings(scheme, value):
        return True
    shape = _SHAPES.get(_SYNONYMS.get(scheme, scheme), _DEFAULT_SHAPE)
    return bool(shape.fullmatch(value)) and not context.found.found_in(value)


def _meaning(text: Mapping[int, str], values: list[int], context: FileContext) -> str:
    """Return the meaning if it is the published one, else the published one, else its known words."""
    original = text[CODE_MEANING]
    published = published_meanings(text.get(CODING_SCHEME, ""), text[values[0]]) if values else ()
    if published:
        known = original.casefold() in (meaning.casefold() for meaning in published)
        meaning = original if known else published[0][:64]
        return REMOVED if context.found.found_in(meaning) else meaning
    if Option.CLEAN_DESCRIPTORS not in context.profile.options:
        return REMOVED
    return context.found.removed_from(clean_text(original)) or REMOVED


def _code_element(tag: int, text: str) -> Element:
    vr = {CODE_MEANING: "LO", LONG_CODE_VALUE: "UC", URN_CODE_VALUE: "UR"}.get(tag, "SH")
    value = text.encode("ascii", "replace")
    return Element(tag, vr, value + b" " * (len(value) % 2))


@lru_cache(maxsize=1)
def _published() -> dict[tuple[str, str], tuple[str, ...]]:
    from pydicom.sr._concepts_dict import concepts  # half a second: only when a code is met

    table: Mapping[str, Mapping[str, Mapping[str, tuple[str, list[int]]]]] = concepts  # type: ignore[assignment]
    meanings: dict[tuple[str, str], set[str]] = {}
    for scheme, names in table.items():
        for codes in names.values():
            for value, entry in codes.items():
                meanings.setdefault((scheme, value), set()).add(entry[0])
    return {
        code: tuple(sorted(found, key=lambda text: (len(text), text))) for code, found in meanings.items()
    }


@lru_cache(maxsize=1)
def _snomed_numbers() -> dict[str, str]:
    from pydicom.sr._snomed_dict import mapping

    return dict(mapping["SRT"])


MARKERS = frozenset({0x00120062, 0x00120063, 0x00120064, 0x00280303})
# Old values, signatures over them, encrypted copies, pictures of the image and drawings on it: no option
# keeps these.
# The Clean Graphics Option would let drawings be cleaned instead; removing them is the stricter choice.
ALWAYS_REMOVED = frozenset(
    {0x04000561, 0x04000500, 0x04000550, 0xFFFAFFFA, 0x4FFE0001, 0x00880200, 0x00700001}
)
# Offsets into frames that are rebuilt: the basic offset table is written anew instead.
ALWAYS_REMOVED |= EXTENDED_OFFSETS


def understood_vr(element: Element) -> str | None:
    """Return the VR by which a public element is read, or None if it contradicts the dictionary.

    None is also returned for an unknown element.

    A text where the standard has a number (or the other way round) is no value of that attribute and may hold
    anything.
    """
    standard = standard_vr(element.tag).split(" or ")[0]
    if standard == "UN":
        return None
    if element.items is not None or standard == "SQ":
        fits = standard == "SQ" and (element.items is not None or not element.value)
        return "SQ" if fits else None
    if element.vr == "UN":
        return standard
    own = element.vr.split(" or ")[0]
    if (own in actions.STRINGS) != (standard in actions.STRINGS):
        return None
    return standard if standard in actions.STRINGS else own


def clean(
    elements: list[Element], encodings: tuple[str, ...], context: FileContext, *, top: bool = True
) -> list[Element]:
    """Return the de-identified elements of a data set or an item.

    Guarantee: an element of the result was kept, cleaned or made by an action of the profile (or is pixel
        data of the data set itself); group lengths, padding, duplicates, unknown elements and private
        elements outside the safe list are not in it, at any depth.

    Args:
        elements: the original ones; unknown values already resolved by
            :func:`meninx.deid.elements.resolve_unknown`.
        encodings: character sets in force outside.
        context: of the file.
        top: whether this is the data set itself.
    """
    for element in elements:
        if element.tag == CHARSET_TAG:
            encodings = encodings_of(bytes(element.value))
    creators = _creators(elements)
    # In an item, the attributes of a code are replaced together. The data set itself is not a coded entry.
    coded = {} if top else clean_code(elements, encodings, context)
    result: dict[int, Element] = {}
    for element in elements:
        tag = element.tag
        if tag in result or _is_structure(tag):  # an element that is repeated is written once
            continue
        if tag >> 16 & 1:
            new = _private(element, creators.get(tag >> 8), encodings, context)
            if new is not None:
                _add_creator(result, tag, creators[tag >> 8])
        else:
            new = coded.get(tag) if tag in coded else _public(element, encodings, context, top=top)
            if tag in coded:
                context.count(tag, "C")
        if new is not None:
            result[tag] = new
    return list(result.values())


def _is_structure(tag: int) -> bool:
    """Return whether an element belongs to the encoding (or is written anew) rather than to the content."""
    group, number = tag >> 16, tag & 0xFFFF
    creator = bool(group & 1) and 0x10 <= number <= 0xFF
    return not number or group < 8 or group >= 0xFFFC or tag == CHARSET_TAG or tag in MARKERS or creator


def _public(
    element: Element, encodings: tuple[str, ...], context: FileContext, *, top: bool
) -> Element | None:
    tag = element.tag
    if tag in PIXEL_DATA:
        context.count(tag, "K" if top else "X")
        return element if top else None
    vr = understood_vr(element)
    # Curves (50xx) and overlays (60xx) are repeating groups: the odd bytes of the group number vary.
    drawing = tag >> 24 in (0x50, 0x60) and context.profile.drawings_go(tag)
    if vr is None or drawing or tag in ALWAYS_REMOVED:
        context.count(tag, "X")
        return None
    given = vr if element.vr == "UN" else element.vr.split(" or ")[0]
    action = context.profile.action(tag, given, sop_class_uid=context.sop_class_uid, top_level=top)
    if vr == "SQ":
        new = _sequence(action, element, encodings, context, top=top)
    else:
        new = actions.apply(action, element, vr, encodings, context, top=top)
    context.count(tag, "X" if new is None else str(action))
    return new


def _sequence(
    action: Action, element: Element, encodings: tuple[str, ...], context: FileContext, *, top: bool
) -> Element | None:
    """Return a sequence with every item cleaned.

    A sequence that lost all content stays only if the IOD requires it.
    """
    if action == Action.X:
        return None
    if action == Action.Z or not element.items:
        return Element(element.tag, "SQ", items=[])
    items = [clean(item, encodings, context, top=False) for item in element.items]
    if any(items):
        return Element(element.tag, "SQ", items=items)
    kind = attribute_type(element.tag, context.sop_class_uid, top_level=top)
    if action == Action.D or kind in ("1", "1C"):
        coded = keyword_of(element.tag).endswith("CodeSequence")
        return Element(element.tag, "SQ", items=[dummy_code() if coded else []])
    return Element(element.tag, "SQ", items=[]) if kind in ("2", "2C") else None


def _creators(elements: list[Element]) -> dict[int, bytes]:
    """Return private block (group and high byte of the element) -> encoded name of its creator."""
    return {
        (e.tag >> 16 << 8) | e.tag & 0xFF: bytes(e.value)
        for e in elements
        if e.tag >> 16 & 1 and 0x10 <= e.tag & 0xFFFF <= 0xFF and e.items is None
    }


def _add_creator(result: dict[int, Element], tag: int, name: bytes) -> None:
    place = tag & 0xFFFF0000 | tag >> 8 & 0xFF
    result[place] = Element(place, "LO", name)


@lru_cache(maxsize=1)
def _safe_vrs() -> dict[tuple[int, int, str], str]:
    rows = read_table("safe_private.csv")
    return {
        (int(row["group"], 16), int(row["element"], 16), row["creator"].strip()): row["vr"].strip()
        for row in rows
    }


def _private(
    element: Element, creator: bytes | None, encodings: tuple[str, ...], context: FileContext
) -> Element | None:
    """Return a private element on the safe list, cleaned by its VR as a public one would be.

    None removes it.
    """
    tag = element.tag
    name = creator.decode("latin-1").strip(" \0") if creator else ""
    if not name or not context.profile.keep_private(tag >> 16, tag & 0xFF, name):
        context.count(tag, "X")
        return None
    vr = element.vr if element.vr != "UN" else _private_vr(tag, name)
    action = _private_action(vr, context)
    if element.items is not None:
        new = _sequence(action, element, encodings, context, top=False)
    else:
        new = actions.apply(action, element, vr, encodings, context, top=False)
        if new is not None and element.vr == "UN":
            new.vr = "UN"
    context.count(tag, "X" if new is None else str(action))
    return new


def _private_vr(tag: int, creator: str) -> str:
    listed = _safe_vrs().get((tag >> 16, tag & 0xFF, creator), "")
    if listed:
        return listed.split(" or ")[0]
    try:
        return private_dictionary_VR(tag, creator).split(" or ")[0]
    except KeyError:
        return "UN"


def _private_action(vr: str, context: FileContext) -> Action:
    options = context.profile.options
    if vr in ("DA", "DT"):
        if Option.RETAIN_FULL_DATES in options:
            return Action.K
        return Action.C if Option.RETAIN_MODIFIED_DATES in options else Action.X
    if vr == "UI":
        return Action.U
    return Action.X if vr in actions.NAMES else Action.K
