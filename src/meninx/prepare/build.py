"""One case from its source to its files: read, check, normalise, resize, write; and what is remembered of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meninx.core.errors import DataError, MeninxError
from meninx.imaging import load
from meninx.imaging.image import Image
from meninx.prepare import checks, resample
from meninx.prepare.found import Found, Source, array_digest
from meninx.prepare.pixels import mask_ready, write_ready
from meninx.prepare.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is remembered of a case that was written; one line of the journal.

    Attributes:
        case_id: pseudonym of the case.
        settings: digest of the plan.
        source: digest of the stored image and mask.
        content: digest of the decoded pixels before any change, to find duplicates.
        size: spatial size written.
        spacing_mm: spacing written.
        total: sum over all written values.
        squares: sum of squares over all written values.
        count: number of written values.
        voxels: mask voxels of each label.
        image_bytes: size of the image file.
        mask_bytes: size of the mask file; 0 without one.
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
    image_bytes: int = 0
    mask_bytes: int = 0

    def to_line(self) -> str:
        """Return the record as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_line(cls, line: str) -> Record | None:
        """Return the record of a line, None for a line cut short."""
        try:
            table = json.loads(line)
            values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
            return cls(**values)
        except (ValueError, TypeError, AttributeError):
            return None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One case to prepare."""

    case_id: str
    found: Found
    plan: Plan
    settings: str
    out: Path
    before: Record | None = None

    def missing(self) -> str:
        """Return why the case cannot be used for want of a file, empty when nothing is missing."""
        found, plan = self.found, self.plan
        if plan.labels and found.mask is None and plan.mask_empty == "skip":
            return checks.NO_MASK
        if found.image.missing():
            return checks.MISSING
        return checks.MISSING_MASK if plan.labels and found.mask is not None and found.mask.missing() else ""


def run_job(job: Job) -> Record | checks.Unusable:
    """Return the record of a case after writing its files, or why it cannot be used.

    A case whose source and settings are as in ``job.before``, and whose files are there, is left as it is.

    Raises:
        DataError: a mask of another shape than its image, or with values that have no name.
        StorageError: the disk refused.
    """
    try:
        return _prepare(job)
    except checks.Unusable as reason:
        return reason


def _prepare(job: Job) -> Record:
    found, plan = job.found, job.plan
    reason = job.missing()
    if reason:
        raise checks.Unusable(reason)
    source = found.image.digest() + (found.mask.digest() if plan.labels and found.mask else "")
    if _unchanged(job, source):
        assert job.before is not None
        return job.before
    image = _load(found.image, plan, checks.UNREADABLE)
    if image.spatial_dims != plan.spatial_dims:
        raise checks.Unusable(checks.OTHER_AXES)
    checks.check_pixels(image.array)
    content = array_digest(image.array)
    mask = _mask(found, image, plan) if plan.labels else None
    written = write_ready(image, plan)
    paths = job.out / plan.image_name(job.case_id), job.out / (plan.mask_name(job.case_id) or "none")
    load.save(paths[0], written)
    voxels: tuple[int, ...] = ()
    if mask is not None:
        load.save(paths[1], mask)
        voxels = tuple(int(n) for n in np.bincount(mask.array.ravel(), minlength=len(plan.labels) + 1)[1:])
    values = written.array.astype(np.float64)
    return Record(
        case_id=job.case_id, settings=job.settings, source=source, content=content, size=written.size,
        spacing_mm=_spacing(image, written), total=float(values.sum()),
        squares=float((values**2).sum()), count=values.size, voxels=voxels, image_bytes=paths[0].stat().st_size,
        mask_bytes=paths[1].stat().st_size if mask is not None else 0,
    )  # fmt: skip


def _unchanged(job: Job, source: str) -> bool:
    before = job.before
    if before is None or (before.settings, before.source) != (job.settings, source):
        return False
    files = [(job.plan.image_name(job.case_id), before.image_bytes), (job.plan.mask_name(job.case_id), before.mask_bytes)]
    return all((job.out / name).is_file() and (job.out / name).stat().st_size == size for name, size in files if name)


def _load(source: Source, plan: Plan, reason: str) -> Image:
    try:
        return source.load(plan.bits if plan.scaling == "format" and reason == checks.UNREADABLE else 0)
    except (OSError, ValueError, MeninxError, MemoryError) as error:
        raise checks.Unusable(reason, type(error).__name__) from error


def _mask(found: Found, image: Image, plan: Plan) -> Image:
    if found.mask is None:
        empty = Image(np.zeros((1, *image.size), dtype=np.uint8), image.affine)
        return mask_ready(empty, plan)
    mask = _load(found.mask, plan, checks.UNREADABLE_MASK)
    if plan.spatial_dims == 2 or mask.spatial_dims != 3:
        checks.check_shape(mask.size, image.size, found.where)
    values = checks.label_map(mask.array[:1], plan.labels, found.where)
    if plan.spatial_dims == 2:
        return mask_ready(Image(values, image.affine), plan)
    placed, target = resample.canonical(Image(values, mask.affine)), resample.canonical(image)
    checks.check_shape(placed.size, target.size, found.where)
    if not np.allclose(placed.affine, target.affine, atol=0.05, rtol=0.01):
        raise DataError(
            f"expected a mask at the image's place, got another affine ({found.where}); check which mask belongs to it"
        )
    return mask_ready(Image(values, mask.affine), plan)


def _spacing(image: Image, written: Image) -> tuple[float, ...]:
    if image.spatial_dims == 2 and np.array_equal(image.affine, np.eye(4)):
        return ()
    return tuple(round(step, 6) for step in written.spacing_mm)
