"""How every case of a dataset is prepared: the part of the config that touches pixels, resolved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meninx.core.manifest import Intensity
from meninx.prepare.config import AUTO, PrepareConfig


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How every case of a dataset is prepared: the part of the config that touches pixels, resolved.

    Attributes:
        spatial_dims: 2 or 3.
        size: output size, one number a spatial axis; empty keeps the size.
        spacing_mm: output spacing of volumes; empty keeps the spacing.
        aspect: stretch or pad.
        bits: 8 or 16.
        channels: 1 or 3.
        scaling: format, window or image: which values become lowest and highest.
        window: lowest and highest value kept.
        labels: label names when masks are wanted, else empty.
        mask_empty: skip, or zero.
    """

    spatial_dims: int
    size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    aspect: str
    bits: int
    channels: int
    scaling: str
    window: tuple[float, ...]
    labels: tuple[str, ...]
    mask_empty: str

    @classmethod
    def of(cls, config: PrepareConfig, spatial_dims: int, labels: tuple[str, ...]) -> Plan:
        """Return the plan of a config for a source of 2 or 3 dimensions.

        ``labels`` empty when no masks are wanted.
        """
        scaling = config.intensity if config.intensity in ("format", "window", "image") else AUTO
        if scaling == AUTO:
            scaling = "window" if config.window else "image" if spatial_dims == 3 else "format"
        return cls(
            spatial_dims=spatial_dims,
            size=_all_axes(config.size, spatial_dims),
            spacing_mm=_all_axes(config.spacing_mm, spatial_dims),
            aspect=config.aspect,
            bits=config.bits,
            channels=3 if config.color == "rgb" else 1,
            scaling=scaling,
            window=config.window,
            labels=labels,
            mask_empty=config.mask_empty,
        )

    @property
    def suffix(self) -> str:
        """Suffix of the files written."""
        return ".png" if self.spatial_dims == 2 else ".nii.gz"

    def image_name(self, case_id: str) -> str:
        """Return the path of a case's image below the dataset folder."""
        return f"images/{case_id}{self.suffix}"

    def mask_name(self, case_id: str) -> str:
        """Return the path of a case's mask below the dataset folder, empty when no masks are wanted."""
        return f"masks/{case_id}{self.suffix}" if self.labels else ""

    @property
    def keeps_units(self) -> bool:
        """Whether volumes keep the units of the window (Hounsfield units) in place of grey levels."""
        return self.spatial_dims == 3 and self.scaling == "window"

    @property
    def intensity(self) -> Intensity:
        """How the written values become network input, from public facts alone."""
        low, high = (
            (float(self.window[0]), float(self.window[1]))
            if self.keeps_units
            else (0.0, float(2**self.bits - 1))
        )
        half = (high - low) / 2
        source = "standard" if self.scaling == "window" else "format"
        return Intensity(window=(low, high), shift=low + half, scale=half, source=source)


def _all_axes(values: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    return values * count if len(values) == 1 else values
