"""The frames of an instance one by one: their stored values, and pictures of them as a viewer shows them.

Only one frame is decoded at a time, so memory does not grow with the number of frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import UID, ExplicitVRLittleEndian

from meninx.dicomfile import pixels
from meninx.dicomfile.elements import Element
from meninx.dicomfile.fragments import Fragments
from meninx.dicomfile.instance import Instance
from meninx.dicomfile.refusals import Reason, Refused
from meninx.imaging.decode import pixels_of, stored_values

Values = npt.NDArray[Any]
_NUMBERS = {
    0x00280002: "SamplesPerPixel",
    0x00280006: "PlanarConfiguration",
    0x00280010: "Rows",
    0x00280011: "Columns",
    0x00280100: "BitsAllocated",
    0x00280101: "BitsStored",
    0x00280102: "HighBit",
    0x00280103: "PixelRepresentation",
}
_TABLES = {
    tag: f"{colour}PaletteColorLookupTable{part}"
    for at, part in ((0x00281100, "Descriptor"), (0x00281200, "Data"))
    for tag, colour in zip((at + 1, at + 2, at + 3), ("Red", "Green", "Blue"), strict=True)
}
_SEGMENTED = {
    0x00281221: "SegmentedRedPaletteColorLookupTableData",
    0x00281222: "SegmentedGreenPaletteColorLookupTableData",
    0x00281223: "SegmentedBluePaletteColorLookupTableData",
}
_PHOTOMETRIC = 0x00280004


@dataclass(frozen=True)
class Layers:
    """How the stored frames of an instance are laid out.

    Attributes:
        header: the attributes of group 0028 that a decoder needs.
        syntax: transfer syntax UID.
        little: byte order of native values.
        tag: tag of the pixel data element.
        frames: number of frames.
    """

    header: Dataset
    syntax: str
    little: bool
    tag: int
    frames: int

    @property
    def rows(self) -> int:
        """Rows of a frame."""
        return int(self.header.Rows)

    @property
    def columns(self) -> int:
        """Columns of a frame."""
        return int(self.header.Columns)

    @property
    def samples(self) -> int:
        """Values per pixel."""
        return int(self.header.SamplesPerPixel)

    @property
    def allocated(self) -> int:
        """Bits of a stored value."""
        return {pixels.FLOAT: 32, pixels.DOUBLE: 64}.get(self.tag, int(self.header.BitsAllocated))

    @property
    def photometric(self) -> str:
        """Photometric interpretation."""
        return str(self.header.PhotometricInterpretation)

    @property
    def is_encapsulated(self) -> bool:
        """Whether each frame is a fragment."""
        return self.tag == pixels.PIXELS and self.syntax not in pixels.NATIVE

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a stored native value."""
        kind = "f" if self.tag in (pixels.FLOAT, pixels.DOUBLE) else "u"
        return np.dtype(f"{'<' if self.little else '>'}{kind}{self.allocated // 8}")


def layers_of(original: Instance) -> Layers:
    """Return how the frames of an instance with pixel data are laid out.

    Raises:
        Refused: ``pixels-unreadable``, the description is not one that a decoder could use.
    """
    element = original.pixels[0]
    header = Dataset()
    order = "little" if original.encoding.little else "big"
    for plain in original.elements:
        if plain.items is not None or plain.tag >> 16 != 0x0028:
            continue
        value = bytes(plain.value)
        if plain.tag in _NUMBERS:
            setattr(header, _NUMBERS[plain.tag], int.from_bytes(value[:2], order))  # type: ignore[arg-type]
        elif plain.tag == _PHOTOMETRIC:
            header.PhotometricInterpretation = value.decode("latin-1").strip(" \0")
        elif plain.tag in _TABLES | _SEGMENTED:
            _set_table(header, plain, value, little=original.encoding.little)
    header.setdefault("SamplesPerPixel", 1)
    header.setdefault("PixelRepresentation", 0)
    header.setdefault("BitsStored", header.get("BitsAllocated", 0))
    if header.SamplesPerPixel > 1:
        header.setdefault("PlanarConfiguration", 0)
    if "PhotometricInterpretation" not in header:
        header.PhotometricInterpretation = "RGB" if header.SamplesPerPixel == 3 else "MONOCHROME2"
    about = pixels.Description(original.elements, little=original.encoding.little)
    if not about.rows or not about.columns or not element.value:
        raise Refused(Reason.PIXELS_UNREADABLE)
    return Layers(header, original.transfer_syntax, original.encoding.little, element.tag, about.frames or 1)


def _set_table(header: Dataset, element: Element, value: bytes, *, little: bool) -> None:
    if element.tag in _TABLES and _TABLES[element.tag].endswith("Descriptor"):
        numbers = np.frombuffer(value[:6], dtype="<u2" if little else ">u2")
        setattr(header, _TABLES[element.tag], [int(number) for number in numbers])
        return
    name = (_TABLES | _SEGMENTED)[element.tag]
    words = np.frombuffer(value[: len(value) // 2 * 2], dtype="<u2" if little else ">u2")
    setattr(header, name, words.astype("<u2").tobytes())


def frame_bytes(original: Instance, layers: Layers) -> Iterator[bytes | memoryview]:
    """Yield each frame as it is stored: the codestream of a compressed frame, or the native bytes.

    Frames of one bit per pixel need not begin at a byte, so they are given as one block of all frames.
    """
    element = original.pixels[0]
    if layers.is_encapsulated:
        yield from Fragments(element.value).of_frames()
        return
    value = element.value
    if layers.allocated == 1:
        yield bytes(value)
        return
    size = len(value) // layers.frames
    for number in range(layers.frames):
        yield bytes(value[number * size : (number + 1) * size])


def decoded(frame: bytes | memoryview, layers: Layers, *, masked: bool = True) -> tuple[Values, str]:
    """Return the values of one compressed frame, without any conversion of colours.

    Args:
        frame: the stream.
        layers: how the frames are laid out.
        masked: take bits beyond BitsStored away; False gives every bit that was coded.

    Returns:
        Values of shape (rows, columns) or (rows, columns, samples), and the photometric interpretation that
        they have after decoding.

    Raises:
        Refused: ``pixels-unreadable``.
    """
    try:
        return stored_values(_dataset(frame, layers), masked=masked)
    except MemoryError:
        raise
    except Exception as error:
        raise Refused(Reason.PIXELS_UNREADABLE) from error


def shown(frame: bytes | memoryview, layers: Layers) -> Values:
    """Return one frame as a viewer shows it, before windowing.

    Returns:
        Shape (rows, columns), or (rows, columns, 3) in RGB. MONOCHROME1 is inverted.

    Raises:
        Refused: ``pixels-unreadable``.
    """
    dataset = _dataset(frame, layers)
    try:
        values = pixels_of(dataset)
        if layers.photometric == "PALETTE COLOR":
            values = apply_color_lut(values, dataset)[..., :3]
    except MemoryError:
        raise
    except Exception as error:
        raise Refused(Reason.PIXELS_UNREADABLE) from error
    if layers.photometric == "MONOCHROME1":
        # ~x and -x of the smallest signed value stay in the type; plain subtraction from 0 does not.
        values = np.invert(values) if values.dtype.kind in "ui" else -values
    return values


def all_shown(original: Instance, layers: Layers) -> Iterator[Values]:
    """Yield every frame as a viewer shows it.

    Raises:
        Refused: ``pixels-unreadable``.
    """
    for frame in frame_bytes(original, layers):
        values = shown(frame, layers)
        if not layers.is_encapsulated and layers.allocated == 1 and layers.frames > 1:
            yield from values
        else:
            yield values


def _dataset(frame: bytes | memoryview, layers: Layers) -> Dataset:
    """Return a data set with one frame (or, for one bit per pixel, all frames)."""
    dataset = Dataset()
    dataset.update(layers.header)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(layers.syntax)
    if layers.is_encapsulated:
        dataset.add_new(pixels.PIXELS, "OB", encapsulate([bytes(frame)], has_bot=False))
        dataset["PixelData"].is_undefined_length = True
        return dataset
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if layers.allocated == 1:
        dataset.NumberOfFrames = layers.frames
    if layers.little or layers.allocated <= 8:
        content = bytes(frame)
    else:
        content = np.frombuffer(frame, dtype=layers.dtype).astype(layers.dtype.newbyteorder("<")).tobytes()
    vr = {pixels.FLOAT: "OF", pixels.DOUBLE: "OD"}.get(layers.tag, "OB" if layers.allocated <= 8 else "OW")
    dataset.add_new(layers.tag, vr, content)
    return dataset


def is_lossless(syntax: str) -> bool:
    """Return whether a transfer syntax stores values exactly, by its name in the standard."""
    name = UID_dictionary[syntax][0]
    return syntax in pixels.NATIVE or ("Lossless" in name and "Near" not in name) or "RLE" in name
