"""Preparation of one case: read, check, convert and write it, or state why it cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meninx.core import files
from meninx.core.errors import DataError, LayoutError, expected, problem
from meninx.imaging import load, resample
from meninx.imaging.image import Image, same_grid
from meninx.imaging.png import UnsupportedPicture
from meninx.imaging.preprocessing import Preprocessing, UnfitImage
from meninx.prepare import checks
from meninx.prepare.setting_tables import AUTO, ImagesConfig, MasksConfig
from meninx.prepare.source_cases import Source, SourceCase, array_digest

COLOR_FIX = "take out files that are no images (masks, overlays), then give color grey or color rgb"
"""Advice for sources with grey pictures and pictures in colour; the usual cause is masks among the images."""


@dataclass(frozen=True, kw_only=True)
class CasePlan:
    """How every case of a dataset is prepared: the settings that affect pixels, resolved for the source.

    Attributes:
        preprocessing: how a decoded image becomes a stored one.
        labels: label names when masks are wanted, else empty.
        mask_empty: treatment of a case without a mask: ``skip``, or ``zero`` (an empty mask).
        one_kind: refuse sources that mix grey and coloured pictures, because no setting says how to treat
            them.
    """

    preprocessing: Preprocessing
    labels: tuple[str, ...]
    mask_empty: str
    one_kind: bool = False

    @classmethod
    def of(
        cls,
        config: ImagesConfig,
        masks: MasksConfig,
        spatial_dims: int,
        labels: tuple[str, ...],
        *,
        channels: tuple[str, ...] = (),
        channel_positions: tuple[int, ...] = (),
        source_channels: int = 0,
        in_color: bool = False,
    ) -> CasePlan:
        """Return the plan that follows from the settings of images and masks.

        Args:
            config: settings of the images.
            masks: settings of the masks.
            spatial_dims: 2 or 3.
            labels: label names; empty when no masks are wanted.
            channels: names of the channels that are images of their own; empty for grey or colour images.
            channel_positions: position of each channel in the numbering of the source; empty without one.
            source_channels: number of channels that the source numbers.
            in_color: the source's pictures are in colour, which decides if the setting is auto.
        """
        rgb = config.color == "rgb" or (config.color == AUTO and in_color)
        scaling = config.intensity if config.intensity in ("format", "window", "image") else AUTO
        if scaling == AUTO:
            scaling = "image" if spatial_dims == 3 else "format"
            scaling = "window" if config.window else scaling
        several = bool(channels) and not rgb
        preprocessing = Preprocessing(
            spatial_dims=spatial_dims,
            size=_all_axes(config.size, spatial_dims),
            spacing_mm=_all_axes(config.spacing_mm, spatial_dims),
            aspect=config.aspect,
            bits=config.bits,
            channels=3 if rgb else len(channels) or 1,
            scaling=scaling,
            window=config.window,
            each_channel=several,
            channel_positions=channel_positions if several else (),
            source_channels=source_channels if several else 0,
        )
        one_kind = config.color == AUTO and spatial_dims == 2
        return cls(preprocessing=preprocessing, labels=labels, mask_empty=masks.empty, one_kind=one_kind)

    def image_name(self, case_id: str) -> str:
        """Return the path of a case's image below the dataset folder."""
        return f"images/{case_id}{self.preprocessing.suffix}"

    def mask_name(self, case_id: str) -> str:
        """Return the path of a case's mask below the dataset folder, empty when no masks are wanted."""
        return f"masks/{case_id}{self.preprocessing.suffix}" if self.labels else ""


def is_in_color(image: Image) -> bool:
    """Return whether a picture has three different channels (those of a grey one stored as RGB are equal)."""
    array = image.array
    return bool(
        image.spatial_dims == 2
        and image.channels == 3
        and (array[0] != array[1]).any() | (array[0] != array[2]).any()
    )


def _all_axes(values: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    return values * count if len(values) == 1 else values


@dataclass(frozen=True, kw_only=True)
class CaseRecord:
    """The record of a written case: one line of the journal.

    Attributes:
        case_id: pseudonym of the case.
        settings: digest of the plan.
        source: digest of the stored image and mask.
        content: digest of the decoded pixels before any change, by which duplicates are found.
        size: spatial size written.
        spacing_mm: spacing written.
        total: sum over all written values.
        squares: sum of squares over all written values.
        count: number of written values.
        voxels: mask voxels of each label.
        image: SHA-256 of the image file.
        mask: SHA-256 of the mask file; empty without one.
        greyed: a picture in colour was stored as grey.
        used_bits: bits that the values of a 16-bit file use, where the file's type defines the range of
            values; 0 for any other image.
    """

    case_id: str
    settings: str
    source: str
    content: str
    size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    total: float
    squares: float
    count: int
    voxels: tuple[int, ...] = ()
    image: str
    mask: str = ""
    greyed: bool = False
    used_bits: int = 0


@dataclass(frozen=True, kw_only=True)
class CaseJob:
    """One case to prepare, with its earlier record in the journal."""

    case_id: str
    source: SourceCase
    before: CaseRecord | None = None

    def missing(self, plan: CasePlan) -> str:
        """Return which file the case lacks, as the reason not to use it; empty when nothing is missing."""
        found = self.source
        if plan.labels and found.mask is None and plan.mask_empty == "skip":
            return checks.NO_MASK
        if found.image.missing():
            return checks.MISSING
        return checks.MISSING_MASK if plan.labels and found.mask is not None and found.mask.missing() else ""


@dataclass(frozen=True)
class PreparedCase:
    """A finished case; ``reused`` means that its files existed already."""

    record: CaseRecord
    reused: bool = False


@dataclass(frozen=True, kw_only=True)
class SharedSettings:
    """Settings and folders that all jobs share.

    Attributes:
        plan: how a case is prepared.
        settings: digest of the plan.
        out: folder that is being built.
        earlier: the existing dataset, which stays in place until the new one is complete; unchanged images
            are linked.
    """

    plan: CasePlan
    settings: str
    out: Path
    earlier: Path


@contextmanager
def sharing(shared: SharedSettings) -> Iterator[SharedSettings]:
    """Give the shared settings to the jobs of a process."""
    yield shared


def run_job(shared: SharedSettings, job: CaseJob) -> PreparedCase | checks.Unusable:
    """Write the files of a case and return its record, or return why the case cannot be used.

    A case whose source and settings equal those of ``job.before`` is taken over if its files have the digests
    recorded there.

    Raises:
        DataError: a mask of another shape than its image, or with values that have no name.
        StorageError: a file cannot be written.
    """
    try:
        return _prepare(shared, job)
    except checks.Unusable as reason:
        return reason


def _prepare(shared: SharedSettings, job: CaseJob) -> PreparedCase:
    found, plan = job.source, shared.plan
    reason = job.missing(plan)
    if reason:
        raise checks.Unusable(reason)
    source = _digest(found, plan)
    if job.before is not None and _unchanged(shared, job.before, source):
        return PreparedCase(job.before, reused=True)
    image = _load(found.image, plan, checks.UNREADABLE)
    if image.spatial_dims != plan.preprocessing.spatial_dims:
        raise checks.Unusable(checks.OTHER_AXES)
    for part in image.array if plan.preprocessing.each_channel else (image.array,):
        checks.check_pixels(part)
    greyed = plan.preprocessing.channels == 1 and is_in_color(image)
    if plan.one_kind and (greyed or (plan.preprocessing.channels == 3 and image.channels == 1)):
        raise _other_kind(greyed, found.where)
    # Of the decoded pixels: the same picture may be stored twice with different compression or metadata.
    content = array_digest(image.array)
    mask = _mask(found, image, plan) if plan.labels else None
    written = _ready(image, plan)
    image_path = shared.out / plan.image_name(job.case_id)
    load.save(image_path, written)
    voxels: tuple[int, ...] = ()
    mask_digest = ""
    if mask is not None:
        mask_path = shared.out / plan.mask_name(job.case_id)
        load.save(mask_path, mask)
        mask_digest = files.digest(mask_path)
        voxels = tuple(int(n) for n in np.bincount(mask.array.ravel(), minlength=len(plan.labels) + 1)[1:])
    # float64, because the sum of squares of 16-bit values exceeds what float32 holds exactly.
    values = written.array.astype(np.float64)
    record = CaseRecord(
        case_id=job.case_id,
        settings=shared.settings,
        source=source,
        content=content,
        size=written.size,
        spacing_mm=_spacing(image, written),
        total=float(values.sum()),
        squares=float((values**2).sum()),
        count=values.size,
        voxels=voxels,
        image=files.digest(image_path),
        mask=mask_digest,
        greyed=greyed,
        used_bits=_used_bits(image, plan.preprocessing),
    )
    return PreparedCase(record)


def _used_bits(image: Image, steps: Preprocessing) -> int:
    deep = steps.scaling == "format" and image.array.dtype == np.uint16
    return int(image.array.max()).bit_length() if deep else 0


def _other_kind(in_color: bool, where: str) -> DataError:
    got = "one in colour" if in_color else "a grey one"
    what = "grey pictures, as the first ones are" if in_color else "pictures in colour, as the first ones are"
    return DataError(expected(what, got=got, where=where, fix=COLOR_FIX))


def _ready(image: Image, plan: CasePlan) -> Image:
    try:
        return plan.preprocessing.apply(image)
    except UnfitImage as error:
        raise checks.Unusable(error.reason, error.fix) from error
    except (DataError, ArithmeticError, ValueError, MemoryError) as error:
        raise checks.Unusable(checks.UNFIT, type(error).__name__) from error


def _digest(found: SourceCase, plan: CasePlan) -> str:
    try:
        mask = found.mask.digest() if plan.labels and found.mask else ""
        values = ",".join(f"{value}={number}" for value, number in sorted(found.mask_values.items()))
        return found.image.digest() + mask + (f"/{values}" if mask and values else "")
    except OSError as error:
        raise checks.Unusable(checks.UNREADABLE, type(error).__name__) from error


def _unchanged(shared: SharedSettings, before: CaseRecord, source: str) -> bool:
    """Return whether a case is finished already; if so, its files are linked into the folder being built."""
    if (before.settings, before.source) != (shared.settings, source):
        return False
    plan = shared.plan
    files_of_case = [
        (plan.image_name(before.case_id), before.image),
        (plan.mask_name(before.case_id), before.mask),
    ]
    return all(
        files.taken_over(shared.earlier / name, shared.out / name, digest)
        for name, digest in files_of_case
        if name
    )


def _load(source: Source, plan: CasePlan, reason: str) -> Image:
    try:
        return source.load(plan.preprocessing.display_bits if reason == checks.UNREADABLE else 0)
    except (
        LayoutError
    ):  # the files contradict each other or the layout, which is an error of the whole source
        raise
    except UnsupportedPicture as error:
        raise checks.Unusable(error.reason) from error
    except Exception as error:  # a decoder may raise any exception on a damaged file
        raise checks.Unusable(reason, type(error).__name__) from error


def _mask(found: SourceCase, image: Image, plan: CasePlan) -> Image:
    steps = plan.preprocessing
    if found.mask is None:
        empty = Image(np.zeros((1, *image.size), dtype=np.uint8), image.affine)
        return steps.apply_to_mask(empty)
    mask = _load(found.mask, plan, checks.UNREADABLE_MASK)
    # Volumes are compared further below in canonical orientation: image and mask may store their axes
    # differently.
    if steps.spatial_dims == 2 or mask.spatial_dims != 3:
        checks.check_shape(mask.size, image.size, found.where)
    if mask.channels > 1 and (mask.array != mask.array[:1]).any():  # a grey mask may be stored in colour
        got = f"{mask.channels} different channels"
        raise DataError(expected("a label map of one channel", got=got, where=found.where))
    values = checks.label_map(mask.array[:1], plan.labels, found.where, found.mask_values)
    if steps.spatial_dims == 2:
        return steps.apply_to_mask(Image(values, image.affine))
    placed, target = resample.canonical(Image(values, mask.affine)), resample.canonical(image)
    checks.check_shape(placed.size, target.size, found.where)
    if not same_grid(placed, target):
        fix = "check which mask belongs to it"
        raise DataError(
            problem("the mask lies elsewhere in space than its image", where=found.where, fix=fix)
        )
    return steps.apply_to_mask(Image(values, mask.affine))


def _spacing(image: Image, written: Image) -> tuple[float, ...]:
    if image.spatial_dims == 2 and np.array_equal(image.affine, np.eye(4)):
        return ()
    return tuple(round(step, 6) for step in written.spacing_mm)
