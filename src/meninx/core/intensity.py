"""How the stored values of a dataset become network input, and statistics of the training images."""

from __future__ import annotations

import math
from dataclasses import dataclass

from meninx.core import check
from meninx.core.errors import DataError, expected, problem

_GREY_LEVELS = ((0.0, 255.0), (0.0, 65535.0))


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """How voxel values become network input: ``(value - shift) / scale`` after clipping to the window.

    Attributes:
        window: lowest and highest value that are not clipped, in the units of the file.
        shift: subtracted after clipping.
        scale: divisor after the subtraction, > 0.
        source: origin of the numbers: ``"format"`` (bit depth, public), ``"standard"`` (a published window,
            public) or ``"train"`` (statistics of the training split; refused by private training, because
            they change every image when one patient is removed).
    """

    window: tuple[float, float] = (0.0, 255.0)
    shift: float = 127.5
    scale: float = 127.5
    source: str = "format"

    def __post_init__(self) -> None:
        check.positive(scale=self.scale)
        if not all(map(math.isfinite, (*self.window, self.shift))) or self.window[0] > self.window[1]:
            raise DataError(problem("window and shift must be finite, lowest value first", where="intensity"))
        check.one_of(("format", "standard", "train"), source=self.source)

    @property
    def has_grey_levels(self) -> bool:
        """Whether values are grey levels of 8 or 16 bits, and not physical units such as Hounsfield's."""
        return self.window in _GREY_LEVELS

    def for_values_of(self, stored: Intensity) -> Intensity:
        """Return the intensity that maps values of another dataset to the same network input.

        Grey levels are compared by their share of the range: 257 x 100 with 16 bits equals 100 with 8 bits.

        Args:
            stored: the intensity of the other dataset, whose window defines the meaning of its values.

        Raises:
            DataError: the windows differ, and at least one is not that of a bit depth.

        Examples:
            >>> wide = Intensity(window=(0.0, 65535.0), shift=32767.5, scale=32767.5)
            >>> Intensity().for_values_of(wide).scale
            32767.5
        """
        if stored.window == self.window:
            return self
        if not (self.has_grey_levels and stored.has_grey_levels):
            fix = f"prepare it with `--window {self.window[0]:g} {self.window[1]:g}`"
            if self.has_grey_levels:
                fix = "prepare it with grey levels, as the training data was"
            raise DataError(
                expected(
                    f"values from {self.window[0]:g} to {self.window[1]:g} as in training",
                    got=f"{stored.window[0]:g} to {stored.window[1]:g}",
                    where="dataset.toml, intensity",
                    fix=fix,
                )
            )
        factor = stored.window[1] / self.window[1]
        return Intensity(
            window=stored.window, shift=self.shift * factor, scale=self.scale * factor, source=self.source
        )


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Statistics of the stored training images; they depend on the patients, so no private run releases them.

    Attributes:
        images: number of images.
        brightness: mean and standard deviation, over the images, of their mean values.
        spacing_mm: smallest and largest spacing along each axis; empty if it is unknown for any image.
    """

    images: int
    brightness: tuple[float, float]
    spacing_mm: tuple[tuple[float, float], ...] = ()
