"""From decoded pixels to what is written: channels, value range, size."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.imaging.image import Image
from meninx.prepare import checks, resample
from meninx.prepare.plan import Plan

Array = npt.NDArray[Any]
PERCENTILES = (0.5, 99.5)
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
INT16 = 32767


def write_ready(image: Image, plan: Plan) -> Image:
    """Return an image as it is written: channels, grey levels or units, size and spacing of the plan.

    Raises:
        Unusable: channels other than 1 and 3, or values whose range nobody has told.
    """
    array = _channels(image.array, plan.channels)
    low, high = _limits(array, plan)
    if plan.spatial_dims == 3:
        kept = Image(np.clip(array, low, high), image.affine)
        out = resample.volume(resample.canonical(kept), spacing_mm=plan.spacing_mm, size=plan.size)
        return Image(_stored(out.array, low, high, plan), out.affine)
    depth = 2**plan.bits - 1
    plain = array.dtype == np.uint8 and (low, high) == (0.0, 255.0)
    grey = array if plain else (np.clip(array.astype(np.float32), low, high) - low) * (depth / (high - low))
    if plan.size:
        grey = resample.picture(grey, plan.size, aspect=plan.aspect)
    if plain and plan.bits == 16:
        grey = grey.astype(np.float32) * 257
    return Image(_whole(grey, plan.bits), _scaled_affine(image, grey.shape[1:], plan.aspect))


def mask_ready(mask: Image, plan: Plan) -> Image:
    """Return a label map at the size and spacing of the plan, by nearest neighbour."""
    if plan.spatial_dims == 3:
        return resample.volume(
            resample.canonical(mask), spacing_mm=plan.spacing_mm, size=plan.size, labels=True
        )
    return Image(
        resample.picture(mask.array, plan.size, aspect=plan.aspect, labels=True) if plan.size else mask.array
    )


def _channels(array: Array, wanted: int) -> Array:
    have = array.shape[0]
    if have == wanted:
        return array
    if have == 1 and wanted == 3:
        return np.repeat(array, 3, axis=0)
    if have != 3:
        raise checks.Unusable(checks.OTHER_CHANNELS)
    grey = np.tensordot(LUMA, array.astype(np.float32), axes=1)[None]
    return np.round(grey).astype(np.uint8) if array.dtype == np.uint8 else grey


def _limits(array: Array, plan: Plan) -> tuple[float, float]:
    if plan.scaling == "window":
        return float(plan.window[0]), float(plan.window[1])
    if plan.scaling == "format":
        if array.dtype in (np.uint8, np.uint16):
            return 0.0, float(np.iinfo(array.dtype).max)
        raise checks.Unusable("values without a known range", "give window, or intensity image")
    low, high = (float(value) for value in np.percentile(array, PERCENTILES))
    return (low, high) if low < high else (float(array.min()), float(array.max()))


def _stored(array: Array, low: float, high: float, plan: Plan) -> Array:
    if not plan.keeps_units:
        return _whole((array.astype(np.float32) - low) * ((2**plan.bits - 1) / (high - low)), plan.bits)
    return (
        np.round(array).astype(np.int16)
        if max(-low, high) <= INT16 and high - low >= 100
        else array.astype(np.float32)
    )


def _whole(array: Array, bits: int) -> Array:
    kind = np.uint8 if bits == 8 else np.uint16
    return array if array.dtype == kind else np.clip(np.round(array), 0, 2**bits - 1).astype(kind)


def _scaled_affine(image: Image, size: tuple[int, ...], aspect: str) -> npt.NDArray[np.float64]:
    scales = [image.size[axis] / size[axis] for axis in range(2)]
    affine = image.affine.copy()
    for axis in range(2):
        affine[axis, axis] *= max(scales) if aspect == "pad" else scales[axis]
    return affine
