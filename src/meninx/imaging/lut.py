"""From stored pixel values to modality values and to displayed values.

References:
    DICOM PS3.3 C.11.1 (Modality LUT), C.11.2 (VOI LUT, window functions), C.7.6.3.1.2 (MONOCHROME1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from meninx.core.errors import DataError, expected, problem

Array = npt.NDArray[Any]
WINDOW_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclass(frozen=True)
class LookupTable:
    """A look-up table: ``values[x - first]``, ends repeated.

    ``top`` is the largest value that its bits can express.
    """

    first: int
    values: Array
    top: int


@dataclass(frozen=True)
class Window:
    """A window in modality units: its centre, its width and the shape of the curve between."""

    center: float
    width: float
    function: str = "LINEAR"

    def __post_init__(self) -> None:
        if self.function not in WINDOW_FUNCTIONS:
            known = ", ".join(WINDOW_FUNCTIONS)
            raise DataError(problem(f"the VOI LUT function is not one of {known}", where="VOILUTFunction"))
        if not (
            math.isfinite(self.center)
            and self.width >= (1 if self.function == "LINEAR" else 0)
            and self.width > 0
        ):
            raise DataError(
                problem("the centre must be finite and the width > 0 (>= 1 if LINEAR)", where="WindowWidth")
            )


def table_of(sequence: Any) -> LookupTable | None:
    """Return the first look-up table of a ModalityLUTSequence or VOILUTSequence; None without one.

    Raises:
        DataError: the table is shorter than its descriptor states.
    """
    if not sequence:
        return None
    item = sequence[0]
    return _parse(item.LUTDescriptor, item.LUTData, "LUTData")


def _parse(descriptor: Any, data: Any, where: str) -> LookupTable:
    """Return a table from its descriptor (entries, first value, bits) and its data.

    The data are numbers, or bytes, one or two for each entry.
    """
    entries, first, bits = (int(value) for value in descriptor)
    entries = entries or 65536
    if isinstance(data, bytes):
        values = np.frombuffer(data, dtype="<u2" if len(data) >= 2 * entries else np.uint8)
    else:
        values = np.atleast_1d(np.array(data, dtype=np.uint16))
        if len(values) < entries <= 2 * len(values):
            values = values.astype("<u2").view(np.uint8)
    if len(values) < entries:
        raise DataError(expected(f"{entries} entries", got=len(values), where=where))
    return LookupTable(first, values[:entries].astype(np.uint16), 2 ** (bits or 16) - 1)


def look_up(values: Array, table: LookupTable) -> Array:
    """Return ``table`` applied to whole numbers; values outside take the first or last entry."""
    signed = table.first - 65536 if table.first > 32767 and values.size and values.min() < 0 else table.first
    index = np.clip(np.round(values).astype(np.int64) - signed, 0, len(table.values) - 1)
    return np.asarray(table.values[index])


def modality(stored: Array, source: Dataset) -> Array:
    """Return modality values (Hounsfield units for CT) of stored values.

    Args:
        stored: stored values, any shape.
        source: the data set or functional group with ModalityLUTSequence, or RescaleSlope and
            RescaleIntercept.

    Returns:
        The input itself if there is nothing to apply; int16 or int32 if slope and intercept are integers;
        else float32.
    """
    table = table_of(source.get("ModalityLUTSequence"))
    if table is not None:
        return look_up(stored, table)
    slope, intercept = _number(source, "RescaleSlope", 1.0), _number(source, "RescaleIntercept", 0.0)
    if slope == 1 and intercept == 0:
        return stored
    if (
        slope.is_integer()
        and intercept.is_integer()
        and stored.dtype.kind in "iu"
        and stored.dtype.itemsize <= 2
    ):
        low, high = sorted((_least(stored) * slope + intercept, _most(stored) * slope + intercept))
        for kind in (np.int16, np.int32):
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return (stored.astype(np.int32) * int(slope) + int(intercept)).astype(kind)
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def voi_of(source: Dataset) -> LookupTable | Window | None:
    """Return the first VOI LUT or window of a data set or functional group; None if there is neither.

    An invalid window (not a number, no width) is ignored.
    """
    table = table_of(source.get("VOILUTSequence"))
    if table is not None:
        return table
    center, width = _number(source, "WindowCenter", math.nan), _number(source, "WindowWidth", math.nan)
    function = str(source.get("VOILUTFunction") or "LINEAR").upper()
    function = function if function in WINDOW_FUNCTIONS else "LINEAR"
    if not (math.isfinite(center) and width >= 1) and not (
        math.isfinite(center) and width > 0 and function != "LINEAR"
    ):
        return None
    return Window(center, width, function)


def apply_window(values: Array, window: Window) -> npt.NDArray[np.float32]:
    """Return brightness in [0, 1] of modality values through a window, same shape."""
    x = values.astype(np.float32)
    center, width = window.center, window.width
    if window.function == "SIGMOID":
        exponent = np.clip(-4 * (x - center) / width, -80, 80)
        return np.asarray(1 / (1 + np.exp(exponent)), dtype=np.float32)
    if window.function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return np.asarray(x > center, dtype=np.float32)
    return np.asarray(np.clip((x - center) / width + 0.5, 0, 1), dtype=np.float32)


def display(
    values: Array,
    voi: LookupTable | Window | None,
    *,
    bits: int,
    full_range: tuple[float, float] | None = None,
    padding: npt.NDArray[np.bool_] | None = None,
    invert: bool = False,
) -> Array:
    """Return displayed values: 0 is black, the largest value is white.

    Args:
        values: modality values, any shape.
        voi: look-up table or window; None stretches ``full_range``, or else the image's own minimum to
            maximum.
        bits: 8 or 16 of the result.
        full_range: lowest and highest value that can occur, for images of few bits.
        padding: True where a pixel is outside the image; such pixels are black and do not count for minimum
            and maximum.
        invert: True for MONOCHROME1.

    Returns:
        uint8 or uint16, same shape.
    """
    if isinstance(voi, Window):
        bright = apply_window(values, voi)
    elif isinstance(voi, LookupTable):
        bright = look_up(values, voi).astype(np.float32) / np.float32(voi.top)
    else:
        bright = _stretch(values, full_range, padding)
    bright = 1 - bright if invert else bright
    if padding is not None:
        bright[padding] = 0
    return np.asarray(
        np.round(np.clip(bright, 0, 1) * (2**bits - 1)), dtype=np.uint8 if bits == 8 else np.uint16
    )


def padding_of(stored: Array, source: Dataset) -> npt.NDArray[np.bool_] | None:
    """Return where stored values lie between PixelPaddingValue and PixelPaddingRangeLimit.

    None without padding.
    """
    value = source.get("PixelPaddingValue")
    if value is None or isinstance(value, bytes):
        return None
    limit = source.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None or isinstance(limit, bytes) else limit)))
    inside = (stored >= low) & (stored <= high)
    return inside if inside.any() else None


def palette_to_rgb(stored: Array, dataset: Dataset) -> npt.NDArray[np.uint8]:
    """Return PALETTE COLOR indices as 8 bit RGB on a new last axis.

    Of true 16 bit palettes the high byte is kept.
    """
    try:
        if "RedPaletteColorLookupTableData" in dataset:
            rgb = np.stack(
                [look_up(stored, _palette(dataset, colour)) for colour in ("Red", "Green", "Blue")], axis=-1
            )
        else:
            rgb = apply_color_lut(stored, dataset)[..., :3]
    except (ValueError, TypeError, AttributeError, KeyError, NotImplementedError) as error:
        got = f"none or a damaged one ({type(error).__name__})"
        raise DataError(
            expected("a red, green and blue palette", got=got, where="RedPaletteColorLookupTableData")
        ) from None
    return (rgb >> 8 if rgb.max(initial=0) > 255 else rgb).astype(np.uint8)


def _palette(dataset: Dataset, colour: str) -> LookupTable:
    keyword = f"{colour}PaletteColorLookupTable"
    return _parse(dataset[f"{keyword}Descriptor"].value, dataset[f"{keyword}Data"].value, f"{keyword}Data")


def _stretch(
    values: Array, full_range: tuple[float, float] | None, padding: npt.NDArray[np.bool_] | None
) -> npt.NDArray[np.float32]:
    if full_range is None:
        inside = values if padding is None or padding.all() else values[~padding]
        full_range = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 0.0)
    low, high = full_range
    if high <= low:
        return np.zeros(values.shape, dtype=np.float32)
    return np.asarray((values.astype(np.float32) - low) / (high - low), dtype=np.float32)


def _number(source: Dataset, keyword: str, default: float) -> float:
    value = source.get(keyword)
    if isinstance(value, (list, tuple)) or hasattr(value, "append"):
        value = value[0] if len(value) else None
    if value is None or value == "":
        return default
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(problem("expected a number, got text", where=keyword)) from None


def _least(stored: Array) -> float:
    return float(stored.min()) if stored.size else 0.0


def _most(stored: Array) -> float:
    return float(stored.max()) if stored.size else 0.0
