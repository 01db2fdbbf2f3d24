"""Bits of compressed pixels that are no part of the stored value.

The samples of a compressed frame may have more bits than BitsStored says. A decoder takes the others away, so
no viewer shows what stands in them. The rule is that of native pixels (:mod:`meninx.dicomfile.high_bits`):
unused bits follow from the stored value, in one way for all pixels.

A JPEG, JPEG-LS or JPEG 2000 stream states the precision of its samples. Decoders bound the samples to it, so
frames with a precision of BitsStored or less are not decoded. Lossless JPEG is the exception: its samples may
have the 16 bits of its arithmetic, whatever the precision is. RLE holds whole native pixels.

References:
    DICOM PS3.5, sections 8.1.1 and 8.2; ITU-T T.81 section H.1.2.1 (differences modulo 65536).
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from meninx.dicomfile import frames, pixels, redaction
from meninx.dicomfile.file_part import FilePart
from meninx.dicomfile.fragments import Fragments
from meninx.dicomfile.frames import Layers
from meninx.dicomfile.high_bits import Clearing, UnusedBits, Words, unused_bits
from meninx.dicomfile.instance import EXPLICIT, Instance
from meninx.dicomfile.rebuilt_frames import RebuiltFrames, RebuiltPart, items, offset_table
from meninx.dicomfile.refusals import Reason, Refused

_RLE, _NATIVE_FRAGMENTS = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.98"
_START_OF_FRAME = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA, 0xCB, 0xF7})
_LOSSLESS = frozenset({0xC3, 0xCB})
_WIDEST, _MOST = 32, 38  # bits of a sample: that can be examined, that JPEG 2000 can have


class _NotExact(Exception):
    """A frame cannot be compressed again in its transfer syntax so that only unused bits change."""


@dataclass(frozen=True)
class Precision:
    """Bits of the samples of one compressed frame.

    Attributes:
        declared: the number that the stream states.
        possible: the number that a decoder may give.
    """

    declared: int
    possible: int


def precision(frame: bytes | memoryview) -> Precision:
    """Return the bits of the samples of a JPEG, JPEG-LS or JPEG 2000 stream.

    Args:
        frame: a stream as :mod:`meninx.dicomfile.codestreams` rebuilds it.

    Raises:
        Refused: ``unused-bits``, the stream does not state them where it should.
    """
    if frame[:4] == b"\xff\x4f\xff\x51":
        count = int.from_bytes(frame[40:42], "big")
        sizes = bytes(frame[42 : 42 + 3 * count : 3])
        if len(sizes) == count > 0:
            bits = max((size & 0x7F) + 1 for size in sizes)
            return Precision(bits, bits)
    at = 2
    while frame[:2] == b"\xff\xd8" and at + 5 <= len(frame) and frame[at] == 0xFF:
        kind = frame[at + 1]
        if kind in _START_OF_FRAME:
            bits = frame[at + 4]
            # Decoders hold the samples of lossless JPEG in words of 8 or 16 bits.
            return Precision(bits, max(bits, 8 * _size(bits)) if kind in _LOSSLESS else bits)
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    raise Refused(Reason.UNUSED_BITS)


class CompressedBits:
    """The unused bits of the frames of one compressed instance.

    Args:
        original: an instance whose frames were rebuilt; not changed.

    Raises:
        Refused: ``unused-bits``, frames whose unused bits cannot be examined.
    """

    def __init__(self, original: Instance) -> None:
        self._original = original
        self._layers = frames.layers_of(original)
        self._whole = self._layers.syntax in (_RLE, _NATIVE_FRAGMENTS)
        known = unused_bits(original.elements, little=True)
        self._bits = known if self._whole else self._of_streams(known.padding if known else ())

    def clearing(self) -> Clearing | None:
        """Return how the unused bits are cleared; None where nothing stands in them.

        Raises:
            Refused: ``unused-bits``.
        """
        bits = self._bits
        if bits is None:
            return None
        read = (self._words(frame, bits) for frame in self._frames())
        return bits.clearing(words.tobytes() for words in read if words is not None)

    def cleared(self, clearing: Clearing) -> Instance:
        """Return the instance with cleared bits: in its transfer syntax, or else with native pixels.

        Raises:
            Refused: ``unused-bits``, colours that cannot be compressed again without loss.
        """
        value = self._original.pixels[0].value
        try:
            if not (self._whole or frames.is_lossless(self._layers.syntax)):
                raise _NotExact
            return redaction.replaced(self._original, self._recompressed(value, clearing), undefined=True)
        except _NotExact:
            pass
        return self._decompressed(clearing)

    def _of_streams(self, padding: tuple[int, ...]) -> UnusedBits | None:
        """Return the unused bits of the widest stream, None where every stream has the stored ones only."""
        header = self._layers.header
        stored = int(header.BitsStored) or self._layers.allocated
        found = [precision(frame) for frame in self._frames()] if stored < _MOST else []
        widest = max((one.possible for one in found), default=0)
        if widest <= stored:
            return None
        if widest > _WIDEST:
            raise Refused(Reason.UNUSED_BITS)
        high = int(header.get("HighBit", stored - 1))
        # Where the stream is too narrow for HighBit, decoders put the value into the lowest bits.
        low = high - stored + 1 if stored <= high + 1 <= min(one.declared for one in found) else 0
        size = _size(widest)
        signed = int(header.PixelRepresentation) == 1
        marks = np.array(padding, dtype=np.uint32).astype(f"<u{size}")
        marks = _in_whole_words(marks, widest, signed=signed)
        return UnusedBits(size, True, low, stored, signed, tuple(dict.fromkeys(marks.tolist())))

    def _frames(self) -> Iterator[bytes | memoryview]:
        return frames.frame_bytes(self._original, self._layers)

    def _words(self, frame: bytes | memoryview, bits: UnusedBits) -> Words | None:
        """Return the samples of a frame with all bits that were coded, None where no bit is unused.

        Raises:
            Refused: ``unused-bits``.
        """
        if self._layers.syntax == _NATIVE_FRAGMENTS:
            return bits.words(frame)
        if self._layers.syntax == _RLE:
            return _rle_words(frame, self._layers, bits.size)
        of_frame = precision(frame)
        if of_frame.possible <= bits.stored:
            return None
        return _samples(frame, self._layers, bits)[0]

    def _recompressed(self, value: Any, clearing: Clearing) -> bytes | FilePart:
        """Return the encapsulated value with cleared frames; the others keep their bytes.

        Raises:
            _NotExact: an encoder is missing, or did not give the values back.
        """
        fragments = Fragments(value)
        numbers = range(1, len(fragments))
        table = bool(len(fragments[0]))

        def recode(frame: bytes) -> bytes:
            return self._recoded(frame, clearing)

        if isinstance(value, FilePart):
            ranges = [(number, number + 1) for number in numbers]
            return RebuiltPart.of(RebuiltFrames(fragments, ranges, recode, table=table), value.stream)
        streams = [recode(bytes(fragments[number])) for number in numbers]
        return items(streams, offset_table([*map(len, streams)]) if table else b"")

    def _recoded(self, frame: bytes, clearing: Clearing) -> bytes:
        words = self._words(frame, clearing.bits)
        if words is None:
            return frame
        new = clearing.bits.words(clearing.cleared(words.tobytes()))
        if np.array_equal(new, words):
            return frame
        if self._layers.syntax == _NATIVE_FRAGMENTS:
            return new.tobytes() + frame[new.nbytes :]
        if self._layers.syntax == _RLE:
            return _rle_frame(new, self._layers)
        return self._compressed(frame, new, clearing.bits)

    def _compressed(self, frame: bytes, words: Words, bits: UnusedBits) -> bytes:
        """Return a stream whose precision leaves no unused bit above the values.

        Raises:
            _NotExact: an encoder is missing, or did not give the values back.
        """
        layers = self._layers
        width = bits.low + bits.stored
        header = copy.copy(layers.header)
        header.BitsStored = width
        narrow = replace(layers, header=header)
        values = words & bits.value
        form = bits.extended(values) if bits.signed else values
        kind = np.dtype(f"{'i' if bits.signed else 'u'}{_size(width)}")
        shape = (layers.rows, layers.columns, layers.samples)[: 2 + (layers.samples > 1)]
        try:
            stream = redaction.encoder(narrow)(form.astype(kind).reshape(shape))
            again, colours = _samples(stream, layers, bits)
            before = frames.decoded(frame, layers)[1]
        except Exception as error:
            raise _NotExact from error
        same = np.array_equal(again, values) or (bits.signed and np.array_equal(again, bits.extended(values)))
        if not same or colours != before:
            raise _NotExact
        return stream

    def _decompressed(self, clearing: Clearing) -> Instance:
        """Return the instance with native pixels in Explicit VR Little Endian.

        Raises:
            Refused: ``unused-bits``.
        """
        layers, bits = self._layers, clearing.bits
        if (
            layers.samples != 1
            or layers.allocated not in (8, 16, 32)
            or bits.stored + bits.low > layers.allocated
        ):
            raise Refused(Reason.UNUSED_BITS)
        native = replace(bits, size=layers.allocated // 8)

        def values() -> Iterator[bytes]:
            for frame in self._frames():
                words = _samples(frame, layers, bits)[0] & bits.value
                plain = words.astype(f"<u{native.size}")
                yield (native.extended(plain) if bits.signed else plain).tobytes()

        vr = "OB" if native.size == 1 else "OW"
        new = redaction.replaced(self._original, redaction.collected(values()), undefined=False, vr=vr)
        return replace(new, transfer_syntax=EXPLICIT)


def of(original: Instance) -> CompressedBits | None:
    """Return the unused bits of a compressed instance; None where its pixels are native or it has none.

    Raises:
        Refused: ``unused-bits``.
    """
    found = [element for element in original.pixels if element.tag == pixels.PIXELS]
    if original.transfer_syntax in pixels.NATIVE or not found or not len(found[0].value):
        return None
    return CompressedBits(original)


def _samples(frame: bytes | memoryview, layers: Layers, bits: UnusedBits) -> tuple[Words, str]:
    """Return the samples of a stream in whole words, and the photometric interpretation that they have.

    Raises:
        Refused: ``unused-bits``, the stream cannot be decoded.
    """
    try:
        values, colours = frames.decoded(frame, layers, masked=False)
    except Refused:
        raise Refused(Reason.UNUSED_BITS) from None
    words = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").ravel()
    narrow = min(precision(frame).possible, 8 * values.dtype.itemsize)
    return _in_whole_words(words.astype(f"<u{bits.size}"), narrow, signed=bits.signed), colours


def _in_whole_words(words: Words, width: int, *, signed: bool) -> Words:
    """Return samples of some bits with the bits above them that their sign gives."""
    above = (1 << 8 * words.dtype.itemsize) - (1 << width)
    if above <= 0:
        return words
    low = words & np.array((1 << width) - 1, dtype=words.dtype)
    if not signed:
        return low
    return np.where(low >> (width - 1) & 1 == 1, low | np.array(above, dtype=words.dtype), low)


def _size(width: int) -> int:
    """Return the bytes of the smallest word that holds this many bits, up to 32."""
    if width <= 8:
        return 1
    return 2 if width <= 16 else 4


def _rle_words(frame: bytes | memoryview, layers: Layers, size: int) -> Words:
    """Return the pixels of an RLE frame, sample by sample."""
    import imagecodecs

    count, *offsets = struct.unpack_from("<16L", frame)
    starts = [*offsets[:count], len(frame)]
    plane = layers.rows * layers.columns
    content = np.empty((layers.samples, plane, size), dtype=np.uint8)
    for number in range(count):
        segment = bytes(frame[starts[number] : starts[number + 1]])
        decoded = np.frombuffer(imagecodecs.packbits_decode(segment), dtype=np.uint8)
        if len(decoded) < plane:
            raise Refused(Reason.UNUSED_BITS)
        content[number // size, :, size - 1 - number % size] = decoded[:plane]
    return content.view(f"<u{size}").ravel()


def _rle_frame(words: Words, layers: Layers) -> bytes:
    """Return an RLE frame of pixels that are given sample by sample."""
    import imagecodecs

    size = words.dtype.itemsize
    content = words.view(np.uint8).reshape(layers.samples, layers.rows, layers.columns, size)
    segments, places, at = [], [], 64
    for number in range(layers.samples * size):
        rows = content[number // size, :, :, size - 1 - number % size]
        # A run may not go on in the next row.
        segment = b"".join(bytes(imagecodecs.packbits_encode(row.tobytes())) for row in rows)
        segments.append(segment + b"\0" * (len(segment) % 2))
        places.append(at)
        at += len(segments[-1])
    head = struct.pack("<16L", len(places), *places, *[0] * (15 - len(places)))
    return head + b"".join(segments)
