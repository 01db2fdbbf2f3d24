"""Whether the images of another prepared dataset fit a model: dimensions, channels, size and grey levels.

`meninx evaluate` and `meninx predict` use the same checks, so they refuse the same datasets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from meninx.core.errors import DataError, expected
from meninx.core.manifest import DatasetInfo
from meninx.learn.config import ModelConfig

_LEAST_DIFFERENCE = 0.01  # relative difference from which two spacings count as different
_BY_DEPTH = "the bit depth of the file"
_BIT_DEPTHS = tuple((0.0, 2.0**bits - 1) for bits in range(8, 17))  # windows that span a bit depth


def check_images(learned: DatasetInfo, here: DatasetInfo, config: ModelConfig) -> list[str]:
    """Return caveats about images that a model can read.

    Args:
        learned: what the model was trained for.
        here: another dataset.
        config: image and patch size of the training.

    Raises:
        DataError: dimensions, channels, size, grey levels or units of the images do not fit the model; the
            message states how to prepare images that do.
    """
    colour = "rgb" if learned.channels == 3 else "grey"
    pairs: tuple[tuple[str, Any, Any, str], ...] = (
        ("dimensions", learned.spatial_dims, here.spatial_dims, "measure it on images of the same kind"),
        ("channels", learned.channels, here.channels, f"prepare it with `--color {colour}`"),
    )
    for name, wanted, got, fix in pairs:
        if wanted != got:
            raise DataError(
                expected(f"{name} {wanted} as in training", got=got, where="dataset.toml", fix=fix)
            )
    _check_channel_names(learned, here)
    _check_size(learned, here, config)
    _check_grey_levels(learned, here)
    return [*_channel_notes(learned, here), *_spacing_notes(learned, here), *_aspect_notes(learned, here)]


def _check_channel_names(learned: DatasetInfo, here: DatasetInfo) -> None:
    """Refuse several channels with other names, in another order, or with names in only one of the two."""
    wanted, got = learned.channel_names, here.channel_names
    if learned.channels == 1 or wanted == got:
        return
    flags = f"--channels {' '.join(wanted)}" if wanted else "--color rgb"
    what = f"channels {', '.join(wanted) or 'without names'} as in training"
    shown = ", ".join(got) or "channels without names"
    raise DataError(expected(what, got=shown, where="dataset.toml", fix=f"prepare it with `{flags}`"))


def _check_size(learned: DatasetInfo, here: DatasetInfo, config: ModelConfig) -> None:
    """Refuse whole images of another size; patches slide over any, and smaller ones are padded."""
    wanted = config.image_size or learned.size
    if config.patch_size or not wanted or here.size == wanted:
        return
    smaller = here.size and all(length <= most for length, most in zip(here.size, wanted, strict=True))
    if config.image_size and (
        smaller or not here.size
    ):  # an image that is too large is named when it is read
        return
    fix = f"prepare it with `--size {' '.join(map(str, wanted))}`"
    got = by(here.size) if here.size else "several sizes"
    raise DataError(
        expected(f"images of {by(wanted)} as in training", got=got, where="dataset.toml", fix=fix)
    )


def _check_grey_levels(learned: DatasetInfo, here: DatasetInfo) -> None:
    """Refuse images whose stored values have a different meaning from those of the training."""
    wanted, got = _scaling(learned), _scaling(here)
    if wanted and got and wanted != got:
        fix = _scaling_fix(learned)
        raise DataError(
            expected(f"images scaled by {wanted} as in training", got=got, where="dataset.toml", fix=fix)
        )
    learned.intensity.for_values_of(here.intensity)  # refuses other units


def _scaling(info: DatasetInfo) -> str:
    """Return in words what determined the lowest and highest grey level; empty if it is not recorded."""
    scaling, window = info.preprocessing.get("scaling"), info.preprocessing.get("window")
    if scaling == "window" and isinstance(window, (list, tuple)):
        if info.intensity.has_grey_levels and tuple(window) in _BIT_DEPTHS:
            return _BY_DEPTH
        return f"the window {' to '.join(f'{value:g}' for value in window)}"
    words = {"format": _BY_DEPTH, "image": "the percentiles of each image"}
    return words.get(str(scaling), "")


def _scaling_fix(learned: DatasetInfo) -> str:
    window = learned.preprocessing.get("window") or ()
    scaling = str(learned.preprocessing.get("scaling"))
    flags = f"--window {' '.join(f'{value:g}' for value in window)}" if window else f"--intensity {scaling}"
    return f"prepare it with `{flags}`"


def _channel_notes(learned: DatasetInfo, here: DatasetInfo) -> Iterator[str]:
    wanted, got = learned.channel_names, here.channel_names
    if learned.channels == 1 and wanted and got and wanted != got:
        yield f"its channel is {got[0]}, that of the training {wanted[0]}"


def _spacing_notes(learned: DatasetInfo, here: DatasetInfo) -> Iterator[str]:
    wanted, got = learned.spacing_mm, here.spacing_mm
    if not wanted or learned.spatial_dims != 3:
        return
    if not got:
        yield f"the voxel spacing differs between its volumes; training had {by(wanted)} mm"
    elif any(abs(mine - theirs) > _LEAST_DIFFERENCE * mine for mine, theirs in zip(wanted, got, strict=True)):
        fix = f"`meninx prepare --spacing-mm {' '.join(f'{step:g}' for step in wanted)}` makes them equal"
        yield f"its voxels are {by(got)} mm, those of the training {by(wanted)} mm; {fix}"


def _aspect_notes(learned: DatasetInfo, here: DatasetInfo) -> Iterator[str]:
    wanted, got = learned.preprocessing.get("aspect"), here.preprocessing.get("aspect")
    if wanted and got and wanted != got and learned.spatial_dims == 2 and learned.size:
        yield f"its images were made to fit by `--aspect {got}`, those of the training by `--aspect {wanted}`"


def by(values: Sequence[float]) -> str:
    """Return lengths as text, e.g. ``32 x 32``."""
    return " x ".join(f"{value:g}" for value in values)
