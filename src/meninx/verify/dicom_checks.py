"""What one DICOM file shows without knowing its original: markers, attributes, UIDs, dates, hidden bytes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from meninx.deid import dates, structured_content
from meninx.deid.actions import FREE_TEXT, is_texty
from meninx.deid.identifiers import is_common, keyword_of
from meninx.deid.options import BASIC_CODE, CODES, Option
from meninx.deid.profile import Action, Profile, canonical, rows
from meninx.deid.structured_content import Treatment
from meninx.deid.walker import ALWAYS_REMOVED, MARKERS
from meninx.dicomfile import compressed_bits, pixels
from meninx.dicomfile.charset import CHARSET_TAG, decode, encodings_of
from meninx.dicomfile.elements import PIXEL_DATA, Element
from meninx.dicomfile.file_part import FilePart
from meninx.dicomfile.fragments import Fragments
from meninx.dicomfile.high_bits import Clearing, unused_bits
from meninx.dicomfile.instance import SOP_CLASS, SOP_INSTANCE, Instance
from meninx.dicomfile.refusals import Refused
from meninx.verify import person_evidence
from meninx.verify.dicom_findings import FileFinding
from meninx.verify.known_values import days_in
from meninx.verify.person_evidence import BIRTH_DATE, METHOD_CODES, PATIENT_NAME, REMOVED

CODE_VALUE, AGE, DATES_MODIFIED = 0x00080100, 0x00101010, 0x00280303
BURNED_IN, ICON, DOCUMENT, PERSON_NAME = 0x00280301, 0x00880200, 0x00420011, 0x0040A123
_TRAILING = 0xFFFCFFFC
_OLD_VALUES = frozenset({0x04000561, 0x04000500, 0x04000550, 0xFFFAFFFA})
_UID = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+")
_IDENTIFYING = re.compile(r"[\w.+-]+@[\w-]+\.\w+|\b(?:Dr|Mrs?|Ms|Prof|Herr|Frau)\b\.? +[A-Z]\w{2,}", re.ASCII)


@dataclass(frozen=True)
class Place:
    """One element with where it stands.

    Attributes:
        element: the element, which is no sequence.
        path: keywords from the data set to it, with dots; tags of private and unknown attributes.
        encodings: character sets in force.
        item: all elements of the item or data set that it stands in.
        top: it stands in the data set itself.
        creator: private creator of its block, if any.
    """

    element: Element
    path: str
    encodings: tuple[str, ...]
    item: list[Element]
    top: bool
    creator: str = ""

    @property
    def text(self) -> str:
        """The decoded value."""
        return decode(bytes(self.element.value), self.encodings)


def declared_options(instance: Instance) -> frozenset[Option]:
    """Return the options of the profile that a file's own codes declare."""
    by_code = {code.value: option for option, code in CODES.items()}
    return frozenset(by_code[value] for value in _method_codes(instance) if value in by_code)


def _method_codes(instance: Instance) -> set[str]:
    sequences = (element.items or [] for element in instance.elements if element.tag == METHOD_CODES)
    entries = itertools.chain.from_iterable(itertools.chain.from_iterable(sequences))
    return {
        bytes(inner.value).decode("latin-1").strip(" \0")
        for inner in entries
        if inner.tag == CODE_VALUE and inner.items is None
    }


def name_of(tag: int) -> str:
    """Return a keyword, or the tag of a private or unknown attribute."""
    return keyword_of(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def places(
    elements: list[Element], encodings: tuple[str, ...], path: str = "", *, creator: str = ""
) -> Iterator[Place]:
    """Yield every element with a value, at every depth, except pixel data of the data set itself."""
    for element in elements:
        if element.tag == CHARSET_TAG:
            encodings = encodings_of(bytes(element.value))
    creators = {
        (e.tag >> 16 << 8) | e.tag & 0xFF: bytes(e.value).decode("latin-1").strip(" \0")
        for e in elements
        if e.tag >> 16 & 1 and 0x10 <= e.tag & 0xFFFF <= 0xFF and e.items is None
    }
    for element in elements:
        here, own = path + name_of(element.tag), creators.get(element.tag >> 8, creator)
        if element.items is not None:
            for item in element.items:
                yield from places(item, encodings, here + ".", creator=own)
        elif len(element.value) and (path or element.tag not in PIXEL_DATA):
            yield Place(element, here, encodings, elements, not path, own)


def check(instance: Instance, meta: list[Element], head: bytes) -> list[FileFinding]:
    """Return what one file shows by itself.

    Args:
        instance: as it is written.
        meta: its file meta information.
        head: its first bytes.
    """
    options = declared_options(instance)
    profile = Profile(options=options - _contradicting(options))
    found = [*_markers(instance, options), *_parts(instance, meta, head)]
    for place in places(instance.elements, instance.encodings):
        found += _attribute(place, profile, instance)
    found += _pixels(instance)
    return list(dict.fromkeys(found))


def _contradicting(options: frozenset[Option]) -> frozenset[Option]:
    """Return the option that is left out where a file declares two that exclude each other."""
    both = {Option.RETAIN_FULL_DATES, Option.RETAIN_MODIFIED_DATES}
    return frozenset({Option.RETAIN_FULL_DATES}) if both <= options else frozenset()


def _markers(instance: Instance, options: frozenset[Option]) -> Iterator[FileFinding]:
    if instance.text(REMOVED) != "YES":
        yield FileFinding("marker-missing", "PatientIdentityRemoved")
    if not person_evidence.has_marker(instance) and person_evidence.names_a_person(instance):
        yield FileFinding("not-deidentified")
    elif person_evidence.is_person_name(instance.text(PATIENT_NAME)):
        yield FileFinding("patient-name", "PatientName")
    codes = _method_codes(instance)
    if BASIC_CODE.value not in codes:
        yield FileFinding("method-missing", "DeidentificationMethodCodeSequence")
    dated = any(instance.text(tag) for tag in (0x00080020, 0x00080021, 0x00080022, 0x00080023))
    stated = instance.text(DATES_MODIFIED)
    if (stated == "REMOVED" and dated) or (stated == "MODIFIED" and Option.RETAIN_FULL_DATES in options):
        yield FileFinding("marker-contradicted", "LongitudinalTemporalInformationModified")
    if instance.text(BURNED_IN) == "YES":
        yield FileFinding("burned-in-declared", "BurnedInAnnotation")


def _parts(instance: Instance, meta: list[Element], head: bytes) -> Iterator[FileFinding]:
    """Yield what stands in parts of the file that are no attribute of the patient."""
    if head[128:132] == b"DICM" and any(head[:128]):
        yield FileFinding("preamble", "preamble")
    named = {e.tag: bytes(e.value).decode("latin-1").strip(" \0") for e in meta if e.items is None}
    if named.get(0x00020003, instance.text(SOP_INSTANCE)) != instance.text(SOP_INSTANCE) or named.get(
        0x00020002, instance.text(SOP_CLASS)
    ) != instance.text(SOP_CLASS):
        yield FileFinding("uid-disagrees", "MediaStorageSOPInstanceUID")
    yield from _meta(named)
    for element, nested in _every(instance.elements):
        yield from _part(element, nested=nested)


def _part(element: Element, *, nested: bool) -> Iterator[FileFinding]:
    tag = element.tag
    if nested and tag in PIXEL_DATA:
        yield FileFinding("icon", name_of(tag))
    elif tag == _TRAILING and bytes(element.value).strip(b"\0 "):
        yield FileFinding("trailing-bytes", "DataSetTrailingPadding")
    elif tag in _OLD_VALUES:
        yield FileFinding("old-values", name_of(tag))
    elif tag == ICON:
        yield FileFinding("icon", name_of(tag))
    elif tag == DOCUMENT:
        yield FileFinding("encapsulated-document", name_of(tag))
    elif tag >> 24 in (0x50, 0x60) and not tag >> 16 & 1 and len(element.value or b""):
        yield FileFinding("overlay", f"group {tag >> 16:04X}")


def _meta(named: dict[int, str]) -> Iterator[FileFinding]:
    """Yield what the file meta information says of the place that wrote the file."""
    if named.get(0x00020102) or named.get(0x00020100):
        yield FileFinding("private-attribute", "PrivateInformation")
    if named.get(0x00020016):
        yield FileFinding("not-removed", "SourceApplicationEntityTitle")


def _every(elements: list[Element], *, nested: bool = False) -> Iterator[tuple[Element, bool]]:
    """Yield every element at every depth, and whether it stands in an item."""
    for element in elements:
        yield element, nested
        for item in element.items or ():
            yield from _every(item, nested=True)


def _attribute(place: Place, profile: Profile, instance: Instance) -> Iterator[FileFinding]:
    element = place.element
    tag, vr = element.tag, element.vr.split(" or ")[0]
    if tag in MARKERS or tag == CHARSET_TAG or place.path.startswith("DeidentificationMethodCode"):
        return
    if not tag & 0xFFFF:
        yield FileFinding("group-length", place.path)
        return
    if tag >> 16 & 1:
        yield from _private(place, profile)
        return
    if _goes(place, profile, instance) or _is_unknown_text(place):
        yield FileFinding("not-removed", place.path)
    pseudonyms = {instance.text(PATIENT_NAME), instance.patient_id}
    yield from (
        found
        for found in _value(place, tag, vr)
        if found.reason != "person-name" or place.text.strip(" \0") not in pseudonyms
    )


def _value(place: Place, tag: int, vr: str) -> Iterator[FileFinding]:
    """Yield what the value of one attribute shows."""
    text = place.text.strip(" \0") if vr in FREE_TEXT | {"PN", "UI", "DA", "DT", "AS"} else ""
    other = tag != PATIENT_NAME or not place.top  # that of the data set is the pseudonym
    if vr == "PN" and other and text.strip("^= ") and not is_common(text):
        yield FileFinding("person-name", place.path)
    if tag == BIRTH_DATE and text and not text.startswith("0001"):  # what some tools write for none
        yield FileFinding("birth-date", place.path)
    if tag == AGE and _is_old(text):
        yield FileFinding("age-over-89", place.path)
    if vr == "UI":
        yield from _uids(place, text)
    if vr in ("DA", "DT") and text and not all(_is_date(value, vr) for value in text.split("\\")):
        yield FileFinding("invalid-date", place.path)
    if vr in FREE_TEXT and _looks_identifying(place):
        yield FileFinding("looks-identifying", place.path)


def _goes(place: Place, profile: Profile, instance: Instance) -> bool:
    """Return whether the profile removes an attribute under the options that the file declares."""
    element = place.element
    tag, vr = element.tag, element.vr
    if tag in ALWAYS_REMOVED or canonical(tag) not in rows() or tag >> 24 in (0x50, 0x60):
        return False  # found by other checks, or listed nowhere
    if not bytes(element.value[:256]).strip(b" \0"):
        return False
    concept = structured_content.concept_of(place.item, place.encodings)
    if concept is not None and tag in structured_content.VALUES:
        kind = structured_content.value_type(place.item)
        wanted = structured_content.treatment(concept, tag, profile.options, kind)
        if wanted != Treatment.AS_LISTED:
            return False
    action = profile.action(tag, vr, sop_class_uid=instance.text(SOP_CLASS), top_level=place.top)
    return action == Action.X


def _is_unknown_text(place: Place) -> bool:
    """Return whether an attribute that no dictionary knows holds text."""
    element = place.element
    known = keyword_of(element.tag) or element.tag >> 24 in (0x50, 0x60)
    return not known and is_texty(bytes(element.value[:4096]).strip(b" \0"))


def _private(place: Place, profile: Profile) -> Iterator[FileFinding]:
    tag = place.element.tag
    if 0x10 <= tag & 0xFFFF <= 0xFF:  # a creator: its elements are judged
        alone = not any(e.tag >> 8 == (tag >> 16 << 8 | tag & 0xFF) for e in place.item)
        if alone:
            yield FileFinding("private-attribute", place.path)
    elif not profile.keep_private(tag >> 16, tag & 0xFF, place.creator):
        yield FileFinding("private-attribute", place.path)
    elif is_texty(bytes(place.element.value[:4096])) and _looks_identifying(place):
        yield FileFinding("looks-identifying", place.path)


def _looks_identifying(place: Place) -> bool:
    """Return whether a text or bytes hold an e-mail address, a title with a name, or a day."""
    vr = place.element.vr
    if vr not in FREE_TEXT | {"OB", "UN"}:
        return False
    return bool(_IDENTIFYING.search(place.text) or days_in(place.text))


def _uids(place: Place, text: str) -> Iterator[FileFinding]:
    values = (value.strip(" \0") for value in text.split("\\"))
    if not all(not value or (len(value) <= 64 and _UID.fullmatch(value)) for value in values):
        yield FileFinding("invalid-uid", place.path)


def _is_date(value: str, vr: str) -> bool:
    value = value.strip(" \0")
    return not value or bool(dates.shift_da(value, 0) if vr == "DA" else dates.shift_dt(value, 0))


def _is_old(text: str) -> bool:
    """Return whether an age is above 90 years, into which the ages above 89 are put."""
    found = dates.years(text)
    return found is not None and found >= 91


def _pixels(instance: Instance) -> Iterator[FileFinding]:
    """Yield whether the pixel data holds more than a viewer shows."""
    if not instance.pixels:
        return
    before = [_content_size(element, instance) for element in instance.pixels]
    copies = [replace(element) for element in instance.elements]
    try:
        pixels.rebuild(copies, instance.transfer_syntax, little=instance.encoding.little)
    except Refused as refused:
        yield FileFinding("pixels-unchecked", f"PixelData: {refused.reason}")
        return
    after = [_content_size(element, instance) for element in copies if element.tag in PIXEL_DATA]
    if any(was > now + 2 for was, now in zip(before, after, strict=True)):
        yield FileFinding("hidden-bytes", "PixelData")
    try:
        coded = compressed_bits.of(replace(instance, elements=copies))
        stray = _native_clearing(instance) if coded is None else coded.clearing()
    except Refused as refused:
        yield FileFinding("pixels-unchecked", f"PixelData: {refused.reason}")
        return
    if stray is not None:
        yield FileFinding("unused-bits", "PixelData")


def _native_clearing(instance: Instance) -> Clearing | None:
    bits = unused_bits(instance.elements, little=instance.encoding.little)
    native = bits is not None and instance.transfer_syntax in pixels.NATIVE
    return bits.clearing(_windows(instance)) if bits is not None and native else None


def _windows(instance: Instance) -> Iterator[bytes | memoryview]:
    for element in instance.pixels:
        if element.tag == pixels.PIXELS:
            value = element.value
            if isinstance(value, FilePart):
                yield from value.windows()
            else:
                yield value


def _content_size(element: Element, instance: Instance) -> int:
    """Return the bytes of the frames, without offset table, item headers and padding."""
    if not element.undefined:
        return len(element.value)
    try:
        return sum(len(bytes(part).rstrip(b"\0")) for part in Fragments(element.value).of_frames())
    except Refused:
        return len(element.value)
