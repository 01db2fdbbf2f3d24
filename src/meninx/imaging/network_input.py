"""From image files to the input of a released network, with numpy, Pillow, pydicom and nibabel only.

A bundle contains this source as ``scripts/images.py`` together with the modules that it imports. A program
without meninx and torch (for example one that runs the ONNX file) thus prepares images as training does.

    >>> reader = NetworkInput.of({"size": [2, 2]}, {"window": [0, 255], "shift": 127.5, "scale": 127.5})
    >>> reader.normalised(np.full((1, 2, 2), 255, np.uint8)).tolist()
    [[[1.0, 1.0], [1.0, 1.0]]]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, expected, problem
from meninx.imaging import resample
from meninx.imaging.image import Image
from meninx.imaging.image_files import UNREADABLE
from meninx.imaging.image_files import ImageFiles as ImageFiles
from meninx.imaging.image_files import find as find
from meninx.imaging.preprocessing import Preprocessing, refuse_size, refuse_unfit

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class NetworkInput:
    """How the files of an image become network input.

    Attributes:
        preprocessing: from a decoded image to the stored image (grey levels or units at the network's size).
        window: lowest and highest stored value that are not clipped.
        shift: subtracted after clipping.
        scale: divisor after the subtraction.
        image_size: size to which smaller images are padded; empty for no padding.
        size: size that every stored image must have; empty if sizes may differ.
    """

    preprocessing: Preprocessing
    window: tuple[float, float]
    shift: float
    scale: float
    image_size: tuple[int, ...] = ()
    size: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        preprocessing: Mapping[str, Any],
        intensity: Mapping[str, Any],
        image_size: Sequence[int] = (),
        size: Sequence[int] = (),
    ) -> NetworkInput:
        """Return the steps described in a bundle's ``configs/metadata.json``.

        Args:
            preprocessing: the table ``preprocessing``.
            intensity: the table ``intensity``.
            image_size: size to which smaller images are padded.
            size: size that every stored image must have.

        Raises:
            DataError: a setting is out of range or unknown.
        """
        low, high = intensity["window"]
        return cls(
            preprocessing=preprocessing_of(preprocessing),
            window=(float(low), float(high)),
            shift=float(intensity["shift"]),
            scale=float(intensity["scale"]),
            image_size=tuple(image_size),
            size=tuple(size),
        )

    def source(self, paths: Sequence[Path]) -> Image:
        """Return the image in one file, or the volume in the files of one DICOM series, not yet converted.

        Raises:
            DataError: it cannot be read, or does not fit the network
                (:func:`meninx.imaging.preprocessing.refuse_unfit`).
        """
        image = self.preprocessing.read(paths)
        refuse_unfit(image, self.preprocessing.spatial_dims, self.preprocessing.channels)
        return image

    def stored(self, source: Image) -> Image:
        """Return an image in the form of the stored training images: grey levels or units, size and spacing.

        Raises:
            DataError: the channels, the range of values or the size do not fit the network.
        """
        image = self.preprocessing.apply(source)
        refuse_size(image.size, largest=self.image_size, only=self.size)
        return image

    def images(self, paths: Sequence[Path]) -> tuple[Image, Image]:
        """Return :meth:`source` and :meth:`stored` of the files of an image.

        Raises:
            DataError: it cannot be read for any reason, or does not fit the network.
        """
        try:
            source = self.source(paths)
        except DataError:
            raise
        except Exception as error:  # a broken file can make a decoder raise anything
            raise DataError(f"{UNREADABLE} ({type(error).__name__})") from error
        return source, self.stored(source)

    def padded(self, stored: Array) -> npt.NDArray[np.float32]:
        """Return stored values (channels, ...) padded to ``image_size`` with the lowest value.

        This is the input of the ONNX file, without its batch axis.
        """
        return self._at_size(stored.astype(np.float32), np.float32(self.window[0]))

    def normalised(self, stored: Array) -> npt.NDArray[np.float32]:
        """Return the input of the network (channels, ...) from stored values (channels, ...)."""
        low, high = (np.float32(value) for value in self.window)
        values = np.clip(stored.astype(np.float32), low, high)
        values = (values - np.float32(self.shift)) / np.float32(self.scale)
        fill = (self.window[0] - self.shift) / self.scale
        return self._at_size(values, np.float32(fill))

    def on_source(self, label_map: Array, stored: Image, source: Image) -> Array:
        """Return a label map of the network, (...), on the pixels of the source image, by nearest neighbour.

        Args:
            label_map: of the network's input, padding included.
            stored: the image that the network received.
            source: the image it was made of.

        Raises:
            DataError: the source has another number of axes than the map.
        """
        placed: Array = self.maps_on_source(label_map[None], stored, source)[0]
        return placed

    def maps_on_source(self, maps: Array, stored: Image, source: Image) -> Array:
        """Return several maps of the network, (maps, ...), on the pixels of the source, by nearest neighbour.

        Args:
            maps: of the network's input, padding included, e.g. the probability of each label.
            stored: the image that the network received.
            source: the image it was made of.

        Raises:
            DataError: the source has another number of axes than a map.
        """
        if maps.ndim != source.spatial_dims + 1:
            raise DataError(problem("the label map and the image have different axes", where="label map"))
        inside = _unpadded(maps, stored.size)
        if source.spatial_dims == 3:
            return resample.volume_on_source(inside, stored.affine, source.size, source.affine)
        return resample.picture_on_source(inside, (source.size[0], source.size[1]), self.preprocessing.aspect)

    def _at_size(self, values: npt.NDArray[np.float32], fill: np.float32) -> npt.NDArray[np.float32]:
        if not self.image_size:
            return values
        extra = [max(0, a - b) for a, b in zip(self.image_size, values.shape[1:], strict=True)]
        widths = [(0, 0), *((missing // 2, missing - missing // 2) for missing in extra)]
        return np.pad(values, widths, constant_values=fill)


def preprocessing_of(table: Mapping[str, Any]) -> Preprocessing:
    """Return the steps of the table ``preprocessing`` of a bundle, without the packages that meninx needs.

    Raises:
        DataError: a setting is out of range or unknown.
    """
    unknown = set(table) - set(Preprocessing.__dataclass_fields__)
    if unknown:
        raise DataError(expected("known settings", got=f"{len(unknown)} others", where="preprocessing"))
    steps: dict[str, Any]
    steps = {key: tuple(item) if isinstance(item, list) else item for key, item in table.items()}
    return Preprocessing(**steps)


def _unpadded(maps: Array, size: Sequence[int]) -> Array:
    starts = [(have - wanted) // 2 for have, wanted in zip(maps.shape[1:], size, strict=True)]
    return maps[(slice(None), *(slice(start, start + n) for start, n in zip(starts, size, strict=True)))]
