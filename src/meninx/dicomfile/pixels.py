"""Checks that pixel data agrees with its header, and rebuilds compressed frames.

Bytes that the header does not account for would reach the output without being displayed: frames that are not
counted, padding, and segments of compressed frames. Such files are refused, or the bytes are dropped.
"""

from __future__ import annotations

import re
import struct

from pydicom._uid_dict import UID_dictionary

from meninx.dicomfile import codestreams, j2k_codestream, jp2
from meninx.dicomfile.elements import Element
from meninx.dicomfile.file_part import FilePart, windows_of
from meninx.dicomfile.fragments import Fragments
from meninx.dicomfile.high_bits import says_stored_bits, unused_bits
from meninx.dicomfile.rebuilt_frames import RebuiltFrames, RebuiltPart, items, offset_table
from meninx.dicomfile.refusals import Reason, Refused

PIXELS, FLOAT, DOUBLE = 0x7FE00010, 0x7FE00008, 0x7FE00009
EXTENDED_OFFSETS = frozenset({0x7FE00001, 0x7FE00002})
NATIVE = frozenset(
    {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"}
)
_UNCOMPRESSED_FRAGMENTS, _RLE = "1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.5"
_IS = re.compile(rb" *[+-]?\d{1,12} *\0?")
_MOST_FRAMES = 1 << 24
_MOST_JOINED = 2 << 30  # bytes of native pixels that were written as fragments


class Description:
    """The attributes of a header that describe its pixels.

    Attributes:
        rows, columns, allocated, samples: values of the header; 0 when absent.
        photometric: photometric interpretation.
        frames: number of frames; 1 when the attribute is absent, None when it is empty or no whole number.
    """

    def __init__(self, elements: list[Element], *, little: bool) -> None:
        plain = {
            e.tag: bytes(e.value) for e in reversed(elements) if e.tag >> 16 == 0x0028 and e.items is None
        }

        def number(tag: int) -> int:
            return int.from_bytes(plain.get(tag, b"")[:2], "little" if little else "big")

        self.rows, self.columns, self.allocated = number(0x00280010), number(0x00280011), number(0x00280100)
        self.samples = number(0x00280002) or 1
        self.photometric = plain.get(0x00280004, b"").decode("latin-1").strip(" \0")
        text = plain.get(0x00280008)
        self.frames: int | None = 1 if text is None else _whole(text)

    def frame_bits(self, tag: int) -> set[int]:
        """Return how many bits one native frame may take.

        4:2:2 colour is often declared and not used, so it has two answers.

        Raises:
            Refused: rows, columns or bits are missing.
        """
        pixels = self.rows * self.columns
        allocated = {FLOAT: 32, DOUBLE: 64}.get(tag, self.allocated)
        if not pixels or not allocated:
            raise Refused(Reason.PIXEL_SIZE_MISSING)
        full = pixels * allocated * self.samples
        return (
            {full, pixels * allocated * 2}
            if self.photometric.endswith("_422") and self.samples == 3
            else {full}
        )


def _whole(text: bytes) -> int | None:
    """Return the number of frames in an IS value, None when it is none."""
    if not _IS.fullmatch(text):
        return None
    number = int(text.strip(b" \0"))
    return number if 1 <= number <= _MOST_FRAMES else None


def rebuild(elements: list[Element], syntax: str, *, little: bool) -> None:
    """Check the pixel data of a data set against its description, and rebuild compressed frames in place.

    Guarantee: afterwards native pixel data is as long as rows, columns, bits and frames say, and holds the
        bytes that were read; encapsulated pixel data has one fragment a frame, each of the size that the
        header says and without the segments that a decoder ignores, and an offset table made anew. Coded data
        is copied as it is: :mod:`codestreams` says which bytes stay in it that a decoder may ignore. The
        decoded pixels are those that were read. Where the number of frames was empty or no number, the one
        that the pixel data proves is written.

    Args:
        elements: the data set; changed in place.
        syntax: UID of its transfer syntax.
        little: byte order of the data set.

    Raises:
        Refused: ``pixel-size-missing``, ``truncated``, ``pixel-data-too-long``, ``frames-disagree``,
            ``size-disagrees``, ``pixels-unreadable``.
    """
    found = [element for element in elements if element.tag in (PIXELS, FLOAT, DOUBLE)]
    if len(found) > 1:
        raise Refused(Reason.PIXELS_UNREADABLE)
    for element in found:
        about = Description(elements, little=little)
        if element.items is not None:
            raise Refused(Reason.PIXELS_UNREADABLE)
        if element.tag == PIXELS and len(element.value) and not says_stored_bits(elements, little=little):
            raise Refused(Reason.PIXEL_SIZE_MISSING)
        if syntax in NATIVE or element.tag != PIXELS:
            if element.undefined:
                _join(element)
            frames = _native(element, about)
        elif element.undefined:
            frames = _encapsulated(element, about, syntax)
        else:
            raise Refused(Reason.PIXELS_UNREADABLE)
        if about.frames is None:
            _set_frames(elements, frames)


def clear_unused_bits(elements: list[Element], syntax: str, *, little: bool) -> bool:
    """Clear what stands in the unused bits of native pixels in place, and return whether anything did.

    Guarantee: afterwards the bits outside of a pixel's stored value follow from that value, in one way for
        all pixels, so they carry nothing; pixel data of which this was true before keeps its bytes.

    Args:
        elements: the data set, after :func:`rebuild`.
        syntax: UID of its transfer syntax.
        little: byte order of the data set.
    """
    bits = unused_bits(elements, little=little) if syntax in NATIVE else None
    found = next((element for element in elements if element.tag == PIXELS), None)
    clearing = bits.clearing(windows_of(found.value)) if bits is not None and found is not None else None
    if clearing is None or found is None:
        return False
    value, cleared = found.value, clearing.cleared
    found.value = value.changed(cleared) if isinstance(value, FilePart) else cleared(value)
    return True


def _set_frames(elements: list[Element], frames: int) -> None:
    for element in elements:
        if element.tag == 0x00280008:
            element.vr, element.items = "IS", None
            element.value = f"{frames}".encode().ljust(len(f"{frames}") + len(f"{frames}") % 2)


def _join(element: Element) -> None:
    """Turn native pixels that were written as fragments into one value."""
    if len(element.value) > _MOST_JOINED:
        raise Refused(Reason.TOO_LARGE)
    element.value, element.undefined = b"".join(Fragments(element.value).of_frames()), False
    if element.vr not in ("OB", "OW"):
        element.vr = "OW"


def _native(element: Element, about: Description) -> int:
    """Return the number of frames of native pixel data whose length agrees with its description."""
    length = len(element.value)
    if not length:
        return about.frames or 1
    frame_bits = about.frame_bits(element.tag)
    if about.frames is None:
        # NumberOfFrames is empty or no number: the length proves it, if it is a whole number of frames.
        counts = {8 * length // bits for bits in frame_bits if bits and 8 * length // bits}
        fitting = [
            (bits, count)
            for bits in frame_bits
            for count in counts
            if _padding(length, bits * count) in (0, 1)
        ]
        if not fitting:
            raise Refused(Reason.FRAMES_DISAGREE)
        needed, frames = fitting[0][0] * fitting[0][1], fitting[0][1]
    else:
        frames = about.frames
        totals = sorted(bits * frames for bits in frame_bits)
        needed = next((bits for bits in totals if _padding(length, bits) in (0, 1)), 0)
        if not needed:
            raise Refused(Reason.TRUNCATED if 8 * length < totals[0] else Reason.PIXEL_DATA_TOO_LONG)
    if _padding(length, needed) and (length % 2 or element.value[-1]):
        element.value = element.value[:-1]  # the encoder pads with a zero byte
    return frames


def _padding(length: int, bits: int) -> int:
    return length - (bits + 7) // 8


def _encapsulated(element: Element, about: Description, syntax: str) -> int:
    """Rebuild encapsulated pixel data and return its number of frames."""
    fragments = Fragments(element.value)
    if not len(fragments):
        raise Refused(Reason.FRAMES_DISAGREE)
    table = bytes(fragments[0])

    def rebuild(stream: bytes) -> bytes:
        return _rebuilt(stream, about, syntax)

    try:
        ranges = _frames(fragments, _offsets(table), about.frames)
        if isinstance(element.value, FilePart):
            frames = RebuiltFrames(fragments, ranges, rebuild, table=bool(table))
            if not frames.same:
                element.value = RebuiltPart.of(frames, element.value.stream)
        else:
            streams = [rebuild(b"".join(fragments[part] for part in range(*whole))) for whole in ranges]
            element.value = items(streams, offset_table([*map(len, streams)]) if table else b"")
    except codestreams.AnotherFrame as error:
        raise Refused(Reason.FRAMES_DISAGREE) from error
    except codestreams.AnotherSize as error:
        raise Refused(Reason.SIZE_DISAGREES) from error
    except codestreams.CutShort as error:
        raise Refused(Reason.TRUNCATED) from error
    except (codestreams.Unparsable, IndexError, struct.error) as error:
        raise Refused(Reason.PIXELS_UNREADABLE) from error
    return len(ranges)


def _offsets(table: bytes) -> list[int]:
    count = len(table) // 4
    return list(struct.unpack(f"<{count}L", table[: 4 * count]))


def _frames(fragments: Fragments, offsets: list[int], wanted: int | None) -> list[tuple[int, int]]:
    """Return the range of fragments of each frame.

    Raises:
        Refused: the fragments cannot be divided into the number of frames that the header states.
    """
    first = fragments.offsets[1] if len(fragments) > 1 else 0
    full = [number for number in range(1, len(fragments)) if fragments.lengths[number]]
    begins = [at for at, number in enumerate(full) if _begins(fragments.head(number))]
    named = set(offsets)
    by_table = [at for at, number in enumerate(full) if fragments.offsets[number] - first in named]
    whole = list(range(len(full)))
    # The ways in which writers store frames, most certain first: all fragments are one frame, each fragment
    # is a frame, the offset table names the first fragments, or a frame begins where an image header does. A
    # way
    # fits only if it gives the number of frames in the header and no image header is inside a frame.
    for choice in (
        [0] if full and wanted == 1 else [],
        whole,
        by_table if len(by_table) == len(offsets) else [],
        begins,
    ):
        fits = len(choice) == wanted or (wanted is None and choice and (choice == begins or not begins))
        if fits and choice[0] == 0 and not set(begins) - set(choice):
            ends = [*choice[1:], len(full)]
            return [(full[a], full[b - 1] + 1) for a, b in zip(choice, ends, strict=True)]
    raise Refused(Reason.FRAMES_DISAGREE)


def _begins(head: bytes) -> bool:
    """Return whether a JPEG or JPEG 2000 image starts with the first bytes of a fragment."""
    return head.startswith((codestreams.JPEG_START, codestreams.JPEG2000_START)) or head[4:8] == b"jP  "


def _rebuilt(stream: bytes, about: Description, syntax: str) -> bytes:
    name = UID_dictionary[syntax][0]
    if syntax == _UNCOMPRESSED_FRAGMENTS:
        lengths = {(bits + 7) // 8 for bits in about.frame_bits(PIXELS)}
        length = next((n for n in sorted(lengths) if 0 <= len(stream) - n <= 1), None)
        if length is None:
            raise Refused(Reason.TRUNCATED if len(stream) < min(lengths) else Reason.PIXEL_DATA_TOO_LONG)
        return stream[:length]
    about.frame_bits(PIXELS)
    if syntax == _RLE:
        pixels = about.rows * about.columns
        planes = about.samples * ((about.allocated + 7) // 8)
        return codestreams.rle(stream, (pixels + 7) // 8 if about.allocated == 1 else pixels, planes)
    size = codestreams.Size(about.rows, about.columns, about.samples)
    if "2000" in name:
        return j2k_codestream.rebuilt(jp2.codestream(stream, size), size)
    if "JPEG" in name and "XL" not in name:
        return codestreams.jpeg(stream, size)
    raise Refused(Reason.UNSUPPORTED_TRANSFER_SYNTAX)
