"""Pictures of training images on the page, only where they may be shown.

A picture of a training case reveals that case, so it voids every guarantee of differential privacy and undoes
de-identification. A sheet therefore needs a dataset that is synthetic, or a person who names the permission
to show it (a licence, an approval). It is never made of real images that a private run was trained on, and
real images are never written below a ``release/`` folder.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from meninx.core import files
from meninx.core.artifacts import RunRecord, place
from meninx.core.errors import DataError, PrivacyRefusal, UsageError, problem
from meninx.core.manifest import MANIFEST_NAME, Case, Manifest
from meninx.imaging import load, png
from meninx.imaging.image import Image
from meninx.report.context import ReportContext
from meninx.report.sources import Dataset
from meninx.report.table_model import Picture

_COLUMNS = 8
_TILE = 96  # pixels of the longer side of an image
_GAP = 2
_PERCENTILES = (0.5, 99.5)  # of the grey levels that become black and white
WHY_NONE = (
    "No training image is shown. A contact sheet has to be asked for (--contact-sheet), and is made only of "
    "synthetic images, or of images of runs without privacy that a named permission covers."
)


def refuse(context: ReportContext, page: Path) -> None:
    """Refuse a contact sheet that may not be made.

    Args:
        context: the sources and settings of the report.
        page: the file that the report is written to.

    Raises:
        UsageError: no dataset given is the one that a run was trained on, a dataset is not synthetic and no
            permission is named, or its pictures would lie in the release of a run.
        PrivacyRefusal: a private run was trained on real images, or may have been.
    """
    if not context.config.contact_sheet:
        return
    datasets = _datasets(context)
    if not datasets:
        fix = "add the folder of the dataset as it was when a run was trained, or leave --contact-sheet out"
        raise UsageError(
            problem("no run was given together with its dataset", where="contact sheet", fix=fix)
        )
    for dataset in datasets:
        if not dataset.info.synthetic:
            _refuse_real(context, dataset, page)


def _refuse_real(context: ReportContext, dataset: Dataset, page: Path) -> None:
    where = f"dataset {dataset.name}"
    private = [run for run in (*context.runs, *context.unfinished) if run.private]
    if any(context.own_dataset(run) in (dataset, None) for run in private):
        why = "training images of a private run, or of a run whose dataset is not known, are never shown"
        raise PrivacyRefusal(problem(why, where=where, fix="leave --contact-sheet out"))
    if not context.config.contact_sheet_permission.strip():
        fix = "name the licence or approval with --contact-sheet-permission, or leave --contact-sheet out"
        raise UsageError(problem("the images are not synthetic, so they are not shown", where=where, fix=fix))
    folders = page.resolve().parents
    if any(folder.name == "release" and (folder.parent / place(RunRecord)).is_file() for folder in folders):
        fix = "write the page elsewhere, or leave --contact-sheet out"
        raise UsageError(problem("real images are never written into a release", where=where, fix=fix))


def _datasets(context: ReportContext) -> list[Dataset]:
    return [item for item in context.datasets if any(run.finished for run in context.runs_of(item))]


def sheets(context: ReportContext) -> list[Picture]:
    """Return a sheet per dataset that a run was trained on; none unless asked for.

    :func:`refuse` comes first.

    Raises:
        DataError: an image cannot be read, or is not the one that was prepared.
    """
    count = context.config.contact_sheet
    return [_sheet(context, dataset, count) for dataset in _datasets(context)] if count else []


def _sheet(context: ReportContext, dataset: Dataset, count: int) -> Picture:
    manifest = Manifest.read(dataset.root)
    train = manifest.split("train")
    cases = chosen(train.cases, count)
    tiles = [tile(manifest, case) for case in cases]
    how_many = (
        f"{len(cases):,} images" if context.counts_hidden else f"{len(cases):,} of {len(train):,} images"
    )
    caption = (
        f"{how_many} of the training split of dataset {dataset.name}, chosen by a digest of their names."
    )
    permission = " ".join(context.config.contact_sheet_permission.split())
    caption += (
        " Synthetic: nobody stands behind them." if dataset.info.synthetic else f" Shown by: {permission}."
    )
    data = base64.b64encode(png.encode(Image(mosaic(tiles)))).decode()
    alt = html.escape(f"Contact sheet: {how_many} that were trained on, without names.", quote=True)
    return Picture(f'<img class="sheet" alt="{alt}" src="data:image/png;base64,{data}">', caption)


def chosen(cases: Sequence[Case], count: int) -> list[Case]:
    """Return at most ``count`` cases by a digest of their names, so that neither order nor label decides."""
    return sorted(cases, key=lambda case: hashlib.sha256(case.case_id.encode()).hexdigest())[:count]


def tile(manifest: Manifest, case: Case) -> npt.NDArray[np.uint8]:
    """Return a case's image as 8-bit RGB of at most 96 pixels a side, shape (rows, columns, 3)."""
    manifest.check_file(case.image)
    array = load.load(files.below(manifest.root, case.image, where=MANIFEST_NAME)).array
    if array.ndim == 4:  # the middle slice of a volume, along its third axis
        array = np.swapaxes(array[..., array.shape[-1] // 2], 1, 2)[:, ::-1]
    if array.size == 0:
        raise DataError(problem("an image holds no pixel", where=MANIFEST_NAME))
    levels = array if array.shape[0] == 3 else array[:1]
    grey = _grey(np.moveaxis(levels, 0, -1))
    picture = Pillow.fromarray(np.repeat(grey, 3 // grey.shape[-1], axis=-1))
    picture.thumbnail((_TILE, _TILE))
    factor = max(1, _TILE // max(picture.size))  # whole, so that a small image keeps its pixels
    picture = picture.resize((picture.width * factor, picture.height * factor), Pillow.Resampling.NEAREST)
    return np.asarray(picture, dtype=np.uint8)


def _grey(levels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return the levels of an image from black to white; 8-bit images stay as they are."""
    if levels.dtype == np.uint8:
        return np.ascontiguousarray(levels)
    values = np.nan_to_num(levels.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = np.percentile(values, _PERCENTILES)
    return np.asarray(np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 255, dtype=np.uint8)


def mosaic(tiles: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Return tiles in rows of eight, channel-first."""
    columns = min(_COLUMNS, len(tiles)) or 1
    rows = math.ceil(len(tiles) / columns) or 1
    step = _TILE + _GAP
    sheet = np.zeros((rows * step, columns * step, 3), dtype=np.uint8)
    for number, tile in enumerate(tiles):
        top = number // columns * step + (_TILE - tile.shape[0]) // 2
        left = number % columns * step + (_TILE - tile.shape[1]) // 2
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return np.moveaxis(sheet, -1, 0)
