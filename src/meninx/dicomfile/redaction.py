"""Filling boxes in the stored values of an instance, in every transfer syntax that the program decodes.

Each box gets one value, the median of the pixels around it (for a palette the most frequent one). Native
values are filled where they lie. A frame that was compressed without loss is decoded, filled, compressed in
the same transfer syntax and decoded again for comparison. A frame that was compressed with loss is written as
native Explicit VR Little Endian, because compressing it again would change the pixels outside the boxes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import UID

from meninx.dicomfile import frames
from meninx.dicomfile.elements import Element
from meninx.dicomfile.file_part import FilePart
from meninx.dicomfile.frames import Layers, Values
from meninx.dicomfile.instance import EXPLICIT, Instance
from meninx.dicomfile.refusals import Reason, Refused
from meninx.imaging.ocr import Box

_LARGE = 64 << 20  # bytes of a result that is not held in memory
_RING = 2  # pixels around a box from which its fill is taken
_PHOTOMETRIC, _PLANAR, _ALLOCATED = 0x00280004, 0x00280006, 0x00280100
_JPEG_LOSSLESS = frozenset({"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"})
_J2K_LOSSLESS, _LS_LOSSLESS, _RLE = (
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.5",
)
_FRAGMENTS_OF_NATIVE = "1.2.840.10008.1.2.1.98"


@dataclass(frozen=True)
class Redacted:
    """An instance with filled boxes.

    Attributes:
        instance: the changed instance; the original is left alone.
        recoded: whether it lost its compression and is now Explicit VR Little Endian.
    """

    instance: Instance
    recoded: bool


class _NotExact(Exception):
    """An encoder is missing, or did not give the values back."""


def apply(original: Instance, boxes: Sequence[Box]) -> Redacted:
    """Return an instance in which the boxes of every frame hold one value each.

    Guarantee: if the transfer syntax is native or lossless, every value outside the boxes is the stored one,
        bit for bit (in 4:2:2 colour a box begins and ends at an even column). If it is lossy, every value
        outside the boxes is the decoded one.

    Args:
        original: an instance with pixel data; not changed.
        boxes: in pixels of a frame.

    Raises:
        Refused: ``pixels-unreadable``.
    """
    layers = frames.layers_of(original)
    try:
        if not layers.is_encapsulated:
            value = collected(_native(original, layers, boxes))
            return Redacted(replaced(original, value, undefined=False), False)
        if frames.is_lossless(layers.syntax):
            try:
                stream = _recompressed(original, layers, _filling(boxes, layers))
                return Redacted(replaced(original, stream, undefined=True), False)
            except _NotExact:
                pass
        return Redacted(_decompressed(original, layers, boxes), True)
    except (ValueError, IndexError, TypeError) as error:
        raise Refused(Reason.PIXELS_UNREADABLE) from error


Change = Callable[[int, Values], bool]
"""Changes the values of a frame, given its number, in place; returns whether it did."""


def changed(original: Instance, change: Change) -> Instance:
    """Return an instance with changed stored values, in its own transfer syntax.

    Guarantee: every value that ``change`` leaves alone is the stored one, bit for bit.

    Args:
        original: an instance of one sample per pixel, 8, 16 or 32 bits; not changed.
        change: gets native values unsigned, as the bits are stored, and compressed ones as they are decoded.

    Raises:
        Refused: ``face-pixels`` where the frames cannot be compressed again without loss;
            ``pixels-unreadable``.
    """
    layers = frames.layers_of(original)
    try:
        if layers.is_encapsulated:
            return replaced(original, _recompressed(original, layers, change), undefined=True)
        return replaced(original, collected(_changed_native(original, layers, change)), undefined=False)
    except _NotExact:
        raise Refused(Reason.FACE_PIXELS) from None
    except (ValueError, IndexError, TypeError) as error:
        raise Refused(Reason.PIXELS_UNREADABLE) from error


def _changed_native(original: Instance, layers: Layers, change: Change) -> Iterator[bytes]:
    for number, frame in enumerate(frames.frame_bytes(original, layers)):
        content = bytearray(frame)
        change(number, _view(content, layers)[0][:, :, 0])
        yield bytes(content)


def fill(values: Values, boxes: Sequence[Box], *, palette: bool = False) -> None:
    """Fill boxes of one frame in place with the value of their surroundings.

    Args:
        values: shape (rows, columns) or (rows, columns, samples).
        boxes: in pixels.
        palette: the values are indices, of which no median exists.
    """
    wide = values if values.ndim == 3 else values[:, :, None]
    plans = [(box, _surroundings(wide, box, boxes)) for box in boxes if box.area]
    for box, ring in plans:
        wide[box.top : box.bottom, box.left : box.right] = _typical(ring, palette=palette)


def _surroundings(wide: Values, box: Box, boxes: Sequence[Box]) -> Values:
    """Return the pixels around a box that lie in no other box, shape (pixels, samples)."""
    outer = box.grown(_RING, wide.shape)
    outside = np.ones((outer.height, outer.width), dtype=np.bool_)
    for one in boxes:
        rows = slice(max(one.top - outer.top, 0), max(one.bottom - outer.top, 0))
        outside[rows, max(one.left - outer.left, 0) : max(one.right - outer.left, 0)] = False
    found: Values = wide[outer.top : outer.bottom, outer.left : outer.right][outside]
    return found


def _typical(ring: Values, *, palette: bool) -> Values:
    if not len(ring):
        return np.zeros(ring.shape[1:], dtype=ring.dtype)
    if palette:
        found, counts = np.unique(ring, axis=0, return_counts=True)
        common: Values = found[counts.argmax()]
        return common
    middle: Values = np.sort(ring, axis=0)[len(ring) // 2]
    return middle


def _native(original: Instance, layers: Layers, boxes: Sequence[Box]) -> Iterator[bytes]:
    if layers.allocated == 1:
        yield _one_bit(original, layers, boxes)
        return
    for frame in frames.frame_bytes(original, layers):
        content = bytearray(frame)
        wide, divisor = _view(content, layers)
        places = [_divided(box, divisor) for box in boxes]
        fill(wide, places, palette=layers.photometric == "PALETTE COLOR")
        for box in places if divisor == 2 else ():
            filled = wide[box.top : box.bottom, box.left : box.right]
            filled[:, :, 1] = filled[:, :, 0]  # both luminances of a pair
        yield bytes(content)


def collected(frames_of_result: Iterable[bytes]) -> bytes | FilePart:
    """Return frames as one value, which is in a temporary file without a name when it is large."""
    waiting: list[bytes] = []
    size, stream = 0, None
    for frame in frames_of_result:
        size += len(frame)
        if size > _LARGE and stream is None:
            # Open as long as the part is used; the file is gone when it is closed.
            stream = tempfile.TemporaryFile()  # noqa: SIM115
            stream.writelines(waiting)
            waiting.clear()
        if stream is None:
            waiting.append(frame)
        else:
            stream.write(frame)
    if stream is None:
        return b"".join(waiting)
    stream.flush()
    return FilePart(cast("BinaryIO", stream), 0, size)


def _view(content: bytearray, layers: Layers) -> tuple[Values, int]:
    """Return native values of one frame as (rows, columns, samples), and how many pixels a column holds."""
    flat = np.frombuffer(content, dtype=layers.dtype)
    rows, columns, samples = layers.rows, layers.columns, layers.samples
    if flat.size == rows * columns * samples:
        if samples > 1 and int(layers.header.PlanarConfiguration) == 1:
            return flat.reshape(samples, rows, columns).transpose(1, 2, 0), 1
        return flat.reshape(rows, columns, samples), 1
    if layers.photometric.endswith("_422") and flat.size == rows * columns * 2 and columns % 2 == 0:
        return flat.reshape(rows, columns // 2, 4), 2  # two luminances share one pair of colours
    raise Refused(Reason.PIXELS_UNREADABLE)


def whole_pixels(box: Box, layers: Layers) -> Box:
    """Return the box that is filled for a box: in native 4:2:2 colour it begins and ends at even columns."""
    if layers.is_encapsulated or not layers.photometric.endswith("_422"):
        return box
    pairs = _divided(box, 2)
    return Box(2 * pairs.left, pairs.top, 2 * pairs.right, pairs.bottom)


def _divided(box: Box, divisor: int) -> Box:
    return Box(box.left // divisor, box.top, -(-box.right // divisor), box.bottom)


def _one_bit(original: Instance, layers: Layers, boxes: Sequence[Box]) -> bytes:
    value = bytes(original.pixels[0].value)
    bits = np.unpackbits(np.frombuffer(value, dtype=np.uint8), axis=None, bitorder="little")
    size = layers.rows * layers.columns
    for number in range(layers.frames):
        frame = bits[number * size : (number + 1) * size].reshape(layers.rows, layers.columns)
        fill(frame, boxes, palette=True)
    return np.packbits(bits, bitorder="little").tobytes()


def _filling(boxes: Sequence[Box], layers: Layers) -> Change:
    def change(number: int, values: Values) -> bool:
        fill(values, boxes, palette=layers.photometric == "PALETTE COLOR")
        return True

    return change


def _recompressed(original: Instance, layers: Layers, change: Change) -> bytes:
    encode = encoder(layers)
    streams = []
    for number, frame in enumerate(frames.frame_bytes(original, layers)):
        values, photometric = frames.decoded(frame, layers)
        values = np.array(values)
        if not change(number, values):
            streams.append(bytes(frame))
            continue
        try:
            stream = encode(values)
            again, same = frames.decoded(stream, layers)
        except Exception as error:
            raise _NotExact from error
        if same != photometric or again.dtype != values.dtype or not np.array_equal(again, values):
            raise _NotExact
        streams.append(stream)
    return encapsulate(streams, has_bot=True)


def encoder(layers: Layers) -> Callable[[Values], bytes]:
    """Return the function that compresses one frame in the transfer syntax of the original.

    Raises:
        _NotExact: there is no encoder for it.
    """
    if layers.syntax in _JPEG_LOSSLESS:
        return lambda values: _jpeg_lossless(values, layers)
    if layers.syntax == _FRAGMENTS_OF_NATIVE:
        return lambda values: values.tobytes()
    if layers.syntax not in (_J2K_LOSSLESS, _LS_LOSSLESS, _RLE):
        raise _NotExact

    def encode(values: Values) -> bytes:
        return get_encoder(UID(layers.syntax)).encode(
            values.tobytes(),
            rows=layers.rows,
            columns=layers.columns,
            samples_per_pixel=layers.samples,
            bits_allocated=values.dtype.itemsize * 8,
            bits_stored=int(layers.header.BitsStored),
            pixel_representation=int(layers.header.PixelRepresentation),
            photometric_interpretation=layers.photometric,
            number_of_frames=1,
            planar_configuration=0,
        )

    return encode


def _jpeg_lossless(values: Values, layers: Layers) -> bytes:
    """Return a lossless JPEG stream with the predictor of selection value 1."""
    import imagecodecs

    unsigned = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
    stored = int(layers.header.BitsStored)
    if values.dtype.kind == "i":  # the stream has no sign: the bits above the stored ones are cut off
        unsigned = unsigned & np.array((1 << stored) - 1, dtype=unsigned.dtype)
    space = None  # the encoder must not convert colours, as the decoder does not
    if unsigned.ndim == 3:
        space = "RGB" if layers.photometric == "RGB" else "YCBCR"
    return bytes(
        imagecodecs.jpeg8_encode(
            unsigned, lossless=True, predictor=1, bitspersample=stored, colorspace=space, outcolorspace=space
        )
    )


def _decompressed(original: Instance, layers: Layers, boxes: Sequence[Box]) -> Instance:
    """Return an instance with native pixels in Explicit VR Little Endian.

    Colours are RGB, because decoders give lossy colours in RGB.
    """
    colour = layers.samples == 3
    bits = 0

    def filled() -> Iterator[bytes]:
        nonlocal bits
        for frame in frames.frame_bytes(original, layers):
            values = np.array(frames.shown(frame, layers) if colour else frames.decoded(frame, layers)[0])
            fill(values, boxes, palette=layers.photometric == "PALETTE COLOR")
            bits = values.dtype.itemsize * 8
            yield values.astype(values.dtype.newbyteorder("<")).tobytes()

    content = collected(filled())
    changed = {_ALLOCATED: _number(_ALLOCATED, bits)}
    if colour:
        changed[_PHOTOMETRIC] = Element(_PHOTOMETRIC, "CS", b"RGB ")
        changed[_PLANAR] = _number(_PLANAR, 0)
    new = replaced(original, content, undefined=False, changed=changed, vr="OB" if bits == 8 else "OW")
    return replace(new, transfer_syntax=EXPLICIT)


def _number(tag: int, value: int) -> Element:
    return Element(tag, "US", value.to_bytes(2, "little"))


def replaced(
    original: Instance,
    value: bytes | FilePart,
    *,
    undefined: bool,
    changed: dict[int, Element] | None = None,
    vr: str = "",
) -> Instance:
    """Return an instance with other pixel data.

    Args:
        original: not changed.
        value: the new pixel data.
        undefined: it is encapsulated.
        changed: further elements in place of those of their tags.
        vr: value representation; empty keeps it.
    """
    new = dict(changed or {})
    old = original.pixels[0]
    new[old.tag] = Element(old.tag, vr or old.vr, value, undefined=undefined)
    return replace(original, elements=[new.get(element.tag, element) for element in original.elements])


def outside(shape: tuple[int, int], boxes: Sequence[Box]) -> npt.NDArray[np.bool_]:
    """Return which pixels of a frame lie in no box, shape (rows, columns)."""
    mask = np.ones(shape, dtype=np.bool_)
    for box in boxes:
        mask[box.top : box.bottom, box.left : box.right] = False
    return mask
