"""Rebuilding JPEG 2000 codestreams without the segments that a decoder ignores.

What :mod:`meninx.dicomfile.codestreams` does with JPEG is done here with JPEG 2000. Comments and indices are
dropped. A segment stays only if a decoder uses all of its bytes: one that another segment replaces
everywhere, that is longer than the image needs, or whose values no encoder writes may be any text, and keeps
the file out. So do packed packet headers (PPM, PPT). A decoder needs nothing of them beyond the last packet,
and where that ends is not known without decoding. No DICOM device is known to write them.

References:
    ITU-T T.800 annex A (JPEG 2000), T.814 (HTJ2K).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from meninx.dicomfile.codestreams import (
    AnotherFrame,
    AnotherSize,
    CutShort,
    Size,
    Unparsable,
    holds_start,
    segment_length,
)

_SOT, _SOD, _COM = 0x90, 0x93, 0x64
_SIZ, _CAP, _COD, _COC, _QCD, _QCC, _RGN, _POC = 0x51, 0x50, 0x52, 0x53, 0x5C, 0x5D, 0x5E, 0x5F
# Segments that do not change the decoded samples: TLM, PLM and PLT index the stream, CPF names the profile
# that it was made from, CRG registers components for display, COM is a comment.
_IGNORED = frozenset({0x55, 0x57, 0x58, 0x59, 0x63, _COM})
_MAIN = frozenset({_CAP, _SIZ, _COD, _COC, _QCD, _QCC, _RGN, _POC})
_TILE = frozenset({_COD, _COC, _QCD, _QCC, _RGN, _POC})
_LATER_PART = frozenset({_POC})  # the others belong into the first part of a tile
_OF_COMPONENT = {_COC: _COD, _QCC: _QCD}  # the segment for all components
_HT = b"\0\2\0\0"  # capabilities of a stream with the block coder of HTJ2K
_MOST_LEVELS, _MOST_CHANGES, _MOST_OFFSET = 32, 32, 0xFFFF
_Key = tuple[int, int]  # marker and component


@dataclass
class _Header:
    """The segments of the main header or of one tile, less those that are dropped.

    Attributes:
        samples: components of the image.
        segments: what is written, in order.
        contents: the content of each segment, without the number of a component.
    """

    samples: int
    segments: list[bytes] = field(default_factory=list)
    contents: dict[_Key, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(map(len, self.segments))

    def take(self, marker: int, content: bytes) -> None:
        """Keep one segment after a check of what can be checked without the others."""
        wide = (1 + (self.samples > 256)) * (marker in (_COC, _QCC, _RGN))
        number = int.from_bytes(content[:wide], "big")
        if number >= self.samples or len(content) < wide + 1:
            raise Unparsable("a segment of no component")
        if (marker, number) in self.contents:
            raise Unparsable("a segment that comes twice")
        own = content[wide:]
        self.contents[marker, number] = own
        if marker == _SIZ:
            content = _with_plain_tiles(content)
        if marker in (_COD, _COC):
            _check_style(own, whole=marker == _COD)
        if marker == _RGN and (len(own) != 2 or own[0]):
            raise Unparsable("a region of another form")
        if marker == _CAP and (len(content) != 6 or content[:4] != _HT):
            raise Unparsable("capabilities of another form")
        self.segments.append(bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content)

    def check(self, main: _Header) -> None:
        """Refuse segments that are longer than the image needs, and those that all components replace."""
        styles = [
            own[5 if marker == _COD else 1]
            for header in (main, self)
            for (marker, _), own in header.contents.items()
            if marker in (_COD, _COC)
        ]
        bands = 3 * max(styles, default=0) + 1
        for (marker, _), own in self.contents.items():
            if marker in (_QCD, _QCC) and len(own) > 1 + _steps(own[0], bands):
                raise Unparsable("a quantization of more bands than the image has")
            if marker == _POC:
                layers = int.from_bytes((self.contents.get((_COD, 0)) or main.contents[_COD, 0])[2:4], "big")
                _check_progressions(own, self.samples, layers)
        for single, common in _OF_COMPONENT.items():
            own_numbers = sum(marker == single for marker, _ in self.contents)
            if (common, 0) in self.contents and own_numbers == self.samples:
                raise Unparsable("a segment that every component replaces")


def rebuilt(frame: bytes, size: Size) -> bytes:
    """Return a JPEG 2000 codestream without comments and indices, cut at its end of codestream.

    Args:
        frame: codestream, padding included; :func:`meninx.dicomfile.jp2.codestream` takes it
            out of a JP2 file.
        size: the size that the header of the instance states.

    Raises:
        CutShort: a tile part ends early.
        AnotherFrame: a second image follows the first.
        AnotherSize: the stream has other rows, columns or samples.
        Unparsable: the bytes are no JPEG 2000 codestream, or hold a segment that a decoder may ignore.
    """
    if frame[:2] != b"\xff\x4f":
        raise Unparsable("no start of codestream")
    main, at = _header(frame, 2, _SOT, _MAIN, size.samples)
    first = next(iter(main.contents.items()), ((0, 0), b""))
    tiles = _tiles(first[1] if first[0][0] == _SIZ else b"", size)
    if (_COD, 0) not in main.contents or (_QCD, 0) not in main.contents:
        raise Unparsable("no coding style")
    main.check(main)
    parts, next_part = [b"\xff\x4f", *main.segments], dict.fromkeys(range(tiles), 0)
    replaced: dict[_Key, int] = {}  # number of tiles with a segment of their own
    while frame[at : at + 2] == b"\xff\x90":
        part, header, at = _tile_part(frame, at, main)
        tile, number, count = struct.unpack_from(">H4xBB", part[0], 4)
        # Some encoders declare one tile part too few, and decoders accept that: number may equal count.
        if next_part.get(tile) != number or 0 < count < number:
            raise Unparsable("a tile part that a decoder does not expect")
        next_part[tile] += 1
        for key in header.contents:
            replaced[key] = replaced.get(key, 0) + 1
        parts += part
    if not any(next_part.values()) or (frame[at : at + 2] not in (b"\xff\xd9", b"", b"\0")):
        raise Unparsable("no tile part where one should be")
    if any(_is_replaced(key, replaced, tiles) for key in main.contents):
        raise Unparsable("a segment that every tile replaces")
    if holds_start(frame[at:]):
        raise AnotherFrame("behind the end of codestream")
    return b"".join(parts) + b"\xff\xd9"


def _is_replaced(key: _Key, replaced: dict[_Key, int], tiles: int) -> bool:
    """Return whether every tile has a segment that a decoder uses instead of one of the main header."""
    marker, _ = key
    common = (_OF_COMPONENT.get(marker, marker), 0)
    return marker != _POC and tiles in (replaced.get(key), replaced.get(common))


def _header(frame: bytes, at: int, last: int, known: frozenset[int], samples: int) -> tuple[_Header, int]:
    """Return the segments of a header that a decoder needs, and the offset of the marker ``last``."""
    header = _Header(samples)
    while True:
        if at + 4 > len(frame) and frame[at : at + 2] != bytes([0xFF, last]):
            raise CutShort("a header")
        if frame[at] != 0xFF:
            raise Unparsable("no marker where one should be")
        marker = frame[at + 1]
        if marker == last:
            return header, at
        end = at + 2 + segment_length(frame, at + 2)
        if marker in known:
            header.take(marker, frame[at + 4 : end])
        elif marker not in _IGNORED:
            raise Unparsable("an unknown segment, or packed packet headers")
        at = end


def _tile_part(frame: bytes, at: int, main: _Header) -> tuple[list[bytes], _Header, int]:
    """Return a tile part without its dropped segments, its header, and the offset after it.

    Its length is corrected.
    """
    if len(frame) < at + 12 or frame[at + 2 : at + 4] != b"\0\x0a":
        raise Unparsable("a tile part of another form")
    length = int.from_bytes(frame[at + 6 : at + 10], "big")
    known = _LATER_PART if frame[at + 10] else _TILE
    header, data = _header(frame, at + 12, _SOD, known, main.samples)
    header.check(main)
    if length:
        end = at + length
    else:  # the last tile part runs up to the end of codestream; coded data never holds that marker
        end = frame.find(b"\xff\xd9", data)
        end = len(frame) if end < 0 else end
    if not data + 2 <= end <= len(frame):
        raise CutShort("a tile part")
    size = 12 + header.size + end - data
    start = frame[at : at + 6] + size.to_bytes(4, "big") + frame[at + 10 : at + 12]
    return [start, *header.segments, frame[data:end]], header, end


def _tiles(content: bytes, size: Size) -> int:
    """Return the number of tiles that the first segment, SIZ, defines."""
    if len(content) < 36 or len(content) != 36 + 3 * int.from_bytes(content[34:36], "big"):
        raise Unparsable("a size segment of another form")
    right, bottom, left, top, width, height, x, y, samples = struct.unpack_from(">8LH", content, 2)
    if (bottom - top, right - left, samples) != size or content[37:39] != b"\1\1":
        raise AnotherSize("size segment")
    if not width or not height or x > left or y > top or max(left, top) > _MOST_OFFSET:
        raise Unparsable("a size segment of another form")
    across, down = -(-(right - x) // width), -(-(bottom - y) // height)
    return min(int(across * down), 1 << 16)


def _with_plain_tiles(content: bytes) -> bytes:
    """Return a size segment in which no tile is larger than the image.

    A decoder takes the part of a tile that lies in the image, so the samples are the same.
    """
    if len(content) < 36:
        return content
    right, bottom, _, _, width, height, x, y = struct.unpack_from(">8L", content, 2)
    plain = min(width, max(right - x, 0)), min(height, max(bottom - y, 0))
    return content[:18] + struct.pack(">2L", *plain) + content[26:]


def _check_style(own: bytes, *, whole: bool) -> None:
    """Refuse a coding style with values that no encoder writes, or of another length.

    Args:
        own: the content of COD, or that of COC without its component.
        whole: whether it is COD.
    """
    if whole and (len(own) < 10 or own[1] > 4 or own[4] > 1):
        raise Unparsable("a coding style of another form")
    styles = own[5:] if whole else own[1:]
    if len(styles) < 5 or own[0] > 7 or styles[0] > _MOST_LEVELS or max(styles[1:3]) > 8 or styles[4] > 1:
        raise Unparsable("a coding style of another form")
    if len(styles) != 5 + (styles[0] + 1 if own[0] & 1 else 0):
        raise Unparsable("a coding style of another form")


def _steps(style: int, bands: int) -> int:
    """Return the bytes of the step sizes of so many bands."""
    return {0: bands, 1: 2, 2: 2 * bands}.get(style & 31, 0)


def _check_progressions(own: bytes, samples: int, layers: int) -> None:
    """Refuse changes of the progression with values outside the image."""
    form = struct.Struct(">BBHBBB" if samples < 257 else ">BHHBHB")
    if len(own) % form.size or len(own) > _MOST_CHANGES * form.size:
        raise Unparsable("a progression of another form")
    for first, low, layer, last, high, order in form.iter_unpack(own):
        components = low < samples and (not high or low < high <= samples)
        if not (components and first < last <= _MOST_LEVELS + 1):
            raise Unparsable("a progression of another form")
        if not 0 < layer <= layers or order > 4:
            raise Unparsable("a progression of another form")
