"""How the stored values of a dataset become network input, and what the training images were like."""

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
        window: lowest and highest value kept, in the units of the file.
        shift: subtracted after clipping.
        scale: divided by after that, > 0.
        source: where the numbers came from: ``"format"`` (bit depth, public), ``"standard"`` (a published
            window, public) or ``"train"`` (statistics of the training split: refused by private training).
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
        """Whether values are grey levels that fill 8 or 16 bits, not units such as Hounsfield's."""
        return self.window in _GREY_LEVELS

    def for_values_of(self, stored: Intensity) -> Intensity:
        """Return how values of another dataset become the network input that this intensity makes of its own.

        Grey levels keep their share of the range: 257 x 100 of 16 bits is 100 of 8 bits.

        Args:
            stored: the intensity of the other dataset, whose window says what its values mean.

        Raises:
            DataError: the windows differ, and one of them is not that of a bit depth.

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
    """What the stored training images are like: it depends on the patients, so no private run releases it.

    Attributes:
        images: number of images it was computed from.
        brightness: mean over the images of their mean values, and its standard deviation.
        spacing_mm: smallest and largest spacing along each axis; empty when it is not known of every image.
    """

    images: int
    brightness: tuple[float, float]
    spacing_mm: tuple[tuple[float, float], ...] = ()
