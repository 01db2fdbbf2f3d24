"""The walk through a data set: the profile decides on every element, at every depth."""

from __future__ import annotations

from functools import lru_cache

from pydicom.datadict import private_dictionary_VR

from meninx.deid import actions, stated_ages, structured_content, tabulated_ages
from meninx.deid.actions import FileContext
from meninx.deid.coded_entries import clean_code, dummy_code
from meninx.deid.identifiers import keyword_of
from meninx.deid.options import Option
from meninx.deid.profile import Action, attribute_type, read_table
from meninx.deid.structured_content import Treatment
from meninx.deid.text_in_bytes import NUMBERS, is_texty
from meninx.dicomfile.charset import CHARSET_TAG, encodings_of
from meninx.dicomfile.elements import PIXEL_DATA, Element, standard_vr
from meninx.dicomfile.pixels import EXTENDED_OFFSETS

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
    anything. Bytes where the standard has a number are read as that number.
    """
    allowed = standard_vr(element.tag).split(" or ")
    standard = allowed[0]
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
    bytes_for_number = standard in NUMBERS and own not in NUMBERS and own not in allowed
    return standard if standard in actions.STRINGS or bytes_for_number else own


def clean(
    elements: list[Element], encodings: tuple[str, ...], context: FileContext, *, top: bool = True
) -> list[Element]:
    """Return the de-identified elements of a data set or an item.

    Guarantee: an element of the result was kept, cleaned or made by an action of the profile (or is pixel
        data of the data set itself); group lengths, padding, duplicates, unknown elements and private
        elements outside the safe list are not in it, at any depth.

    Args:
        elements: the original ones; unknown values already resolved by
            :func:`meninx.dicomfile.elements.resolve_unknown`.
        encodings: character sets in force outside.
        context: of the file.
        top: whether this is the data set itself.
    """
    for element in elements:
        if element.tag == CHARSET_TAG:
            encodings = encodings_of(bytes(element.value))
    creators = _creators(elements)
    elements = _without_ages(elements, encodings, context)
    # In an item, the attributes of a code are replaced together. The data set itself is not a coded entry.
    coded = {} if top else clean_code(elements, encodings, context)
    concept = structured_content.concept_of(elements, encodings)
    kind = structured_content.value_type(elements) if concept is not None else ""
    result: dict[int, Element] = {}
    for element in _without_private(elements, creators, context):
        tag = element.tag
        if tag in result or _is_structure(tag):  # an element that is repeated is written once
            continue
        if tag >> 16 & 1:
            new = _private(element, creators.get(tag >> 8), encodings, context)
            if new is not None:
                _add_creator(result, tag, creators[tag >> 8])
        else:
            if tag in coded:
                new = coded[tag]
                context.count(tag, "C")
            elif concept is not None and tag in structured_content.VALUES:
                new = _content_value(element, concept, kind, encodings, context, top=top)
            else:
                new = _public(element, encodings, context, top=top)
        if new is not None:
            result[tag] = new
    return list(result.values())


def _without_ages(elements: list[Element], encodings: tuple[str, ...], context: FileContext) -> list[Element]:
    """Return the elements without numbers that state an age above the limit or a year of birth.

    The removed ones are counted here.
    """
    elements = stated_ages.limited(
        elements,
        encodings,
        little=context.encoding.little,
        max_age=context.max_age,
        birth_days=context.birth_days,
        changes=context.numbers,
    )
    elements = tabulated_ages.limited(elements, encodings, context)
    while context.numbers.removed:
        context.count(context.numbers.removed.pop(), "X")
    return elements


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
        kept = "C" if context.bits_cleared else "K"
        context.count(tag, kept if top else "X")
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
    context.count(tag, _letter(action, element, new, context))
    return new


def _letter(action: Action, element: Element, new: Element | None, context: FileContext) -> str:
    """Return the letter under which an element is counted: what happened to it, where it was not kept."""
    if new is None:
        return "X"
    if action == Action.K and context.numbers.is_capped(element):
        return "C"
    if action != Action.K or element.items is not None or new.value == element.value:
        return str(action)
    return "C" if bytes(new.value).strip(b" \0\\") else "Z"


def _content_value(
    element: Element,
    concept: tuple[str, str],
    kind: str,
    encodings: tuple[str, ...],
    context: FileContext,
    *,
    top: bool,
) -> Element | None:
    """Return the value of a content item, by its concept name where the table of content items has it."""
    tag = element.tag
    wanted = structured_content.treatment(concept, tag, context.profile.options, kind)
    vr = understood_vr(element)
    if wanted == Treatment.AS_LISTED or vr is None or context.profile.overrides_tag(tag):
        return _public(element, encodings, context, top=top)
    if wanted == Treatment.KEPT and tag == stated_ages.MEASURED:
        return _public(element, encodings, context, top=top)
    if wanted in (Treatment.DUMMY, Treatment.REMOVED):
        new = _content_dummy(element, vr, concept, encodings, context, top=top)
        context.count(tag, "D")
        return new
    action = Action.K if wanted == Treatment.KEPT else Action.C
    if vr == "SQ":
        new = _sequence(action, element, encodings, context, top=top)
    elif action == Action.K and vr in actions.FREE_TEXT:
        new = actions.kept_text(element, vr, encodings, context)
    else:
        new = actions.apply(action, element, vr, encodings, context, top=top)
    counted = Action.C if action == Action.K and context.numbers.is_capped(element) else action
    context.count(tag, "X" if new is None else str(counted))
    return new


def _content_dummy(
    element: Element,
    vr: str,
    concept: tuple[str, str],
    encodings: tuple[str, ...],
    context: FileContext,
    *,
    top: bool,
) -> Element | None:
    """Return a value that says nothing, for an item that must stay; references get new UIDs."""
    tag = element.tag
    if tag in stated_ages.NUMBERS:
        return None
    if tag == stated_ages.MEASURED:
        return Element(tag, "SQ", items=[])
    if tag == structured_content.CODE:
        return Element(tag, "SQ", items=[dummy_code()])
    if vr == "SQ":
        return _sequence(Action.U, element, encodings, context, top=top)
    pseudonym = structured_content.replacement(concept, tag, context)
    if pseudonym:
        return actions.text_element(tag, vr, pseudonym, context)
    return actions.apply(Action.U if vr == "UI" else Action.D, element, vr, encodings, context, top=top)


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
    items = []
    for item in element.items:
        if structured_content.is_removed(item, encodings, context):
            context.count(structured_content.CONCEPT_NAME, "X")
        else:
            items.append(clean(item, encodings, context, top=False))
    if not items and element.tag == structured_content.CONTENT:
        return None
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


def _without_private(
    elements: list[Element], creators: dict[int, bytes], context: FileContext
) -> list[Element]:
    """Return the elements without the private ones that the profile removes, which are counted here.

    They are most elements of many files.
    """
    places = {
        block: context.profile.kept_of_block(block >> 8, name.decode("latin-1").strip(" \0"))
        for block, name in creators.items()
    }
    found: list[Element] = []
    removed = 0
    for element in elements:
        tag = element.tag
        if tag >> 16 & 1 and tag & 0xFF not in places.get(tag >> 8, ()):
            removed += not _is_structure(tag)
        else:
            found.append(element)
    if removed:
        context.counts[actions.PRIVATE, "X"] += removed
    return found


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
    listed = _private_vr(tag, name)
    vr = element.vr if element.vr != "UN" else listed
    contradicts = listed != "UN" and (listed in actions.STRINGS) != (vr in actions.STRINGS)
    if element.items is None and element.value and (contradicts or _is_opaque_text(element, vr)):
        context.count(tag, "X")
        return None
    action = _private_action(vr, context)
    if element.items is not None:
        new = _sequence(action, element, encodings, context, top=False)
    else:
        new = actions.apply(action, element, vr, encodings, context, top=False)
        if new is not None and element.vr == "UN":
            new.vr = "UN"
    context.count(tag, "X" if new is None else str(action))
    return new


def _is_opaque_text(element: Element, vr: str) -> bool:
    """Return whether a private value is no value of its VR: text in bytes, or a sequence without items."""
    if vr in ("SQ", "UN", ""):
        return True
    return vr not in actions.STRINGS | NUMBERS and is_texty(bytes(element.value))


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
    if vr in actions.FREE_TEXT - {"LO", "SH"}:  # these two keep what is technical, as unlisted public ones do
        return Action.C
    return Action.X if vr in actions.NAMES else Action.K
