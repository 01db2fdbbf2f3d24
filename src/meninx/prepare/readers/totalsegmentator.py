"""TotalSegmentator: one folder per case with an image and a mask per structure, and ``meta.csv``.

Layout: ``s0001/ct.nii.gz`` or ``mri.nii.gz``, and ``s0001/segmentations/<structure>.nii.gz``. ``mask_labels``
chooses among the structures (all of them otherwise), and ``mask_overlap`` says what happens where two claim a
voxel. ``meta.csv`` (cells separated by semicolons: image_id, age, gender, institute, study_type, split, ...)
gives sex, age and the published split, and its other columns are offered to ``attribute_columns``. Each image
is its own patient.

References:
    Wasserthal et al., TotalSegmentator, Radiology: Artificial Intelligence 2023; zenodo.org/records/10047292.
"""

from __future__ import annotations

from pathlib import Path

from meninx.core.csv_table import CsvTable, read_table
from meninx.core.errors import LayoutError, expected
from meninx.core.manifest import TaskKind
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import mask_labels, values
from meninx.prepare.readers.layout import split_name
from meninx.prepare.readers.source_files import table_path
from meninx.prepare.source_cases import (
    FileSource,
    MaskPerLabel,
    ReaderOutput,
    SelectedChannels,
    SourceCase,
)

IMAGES = {"ct.nii.gz": "CT", "mri.nii.gz": "MR"}
TABLE, SEX, AGE = "meta.csv", "gender", "age"
_ENDING = ".nii.gz"


def read(root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
    """Return one case per folder with an image and the masks of all labels.

    Raises:
        LayoutError: there is no image, images of CT and MR, or a table that is not as published.
        ConfigError: ``mask_labels`` names a structure that no case has.
    """
    found = {path.parent: path for name in IMAGES for path in sorted(root.glob(f"*/{name}"))}
    modalities = {IMAGES[path.name] for path in found.values()}
    if len(modalities) != 1:
        what, got = "folders with ct.nii.gz, or folders with mri.nii.gz", "both" if modalities else "none"
        raise LayoutError(expected(what, got=got, where=f"folder {root.name}"))
    structures = {folder: _structures(folder) for folder in found}
    names = sorted({name for masks in structures.values() for name in masks})
    published = {name: number for number, name in enumerate(names, start=1)}
    labels = mask_labels.of_names(config.masks.labels, published, where="folders segmentations")
    table = _table(root, config, site)
    attributes = values.columns_of(table, config, sex_column=SEX, age_column=AGE)
    codes = values.sex_codes(config.labels)
    rows = {row.need("image_id"): row for row in table}
    skipped: list[tuple[str, str]] = []
    cases = []
    for number, (folder, image) in enumerate(sorted(found.items()), start=1):
        where, row = f"folder {number} of {len(found)}", rows.get(folder.name)
        masks = tuple(structures[folder].get(name) for name in labels.sources)
        if (config.input.require and row is None) or (not all(masks) and config.masks.empty == "skip"):
            left_out = "row that require leaves out" if config.input.require and row is None else ""
            skipped.append((left_out or "case without a mask of every label", where))
            continue
        sources = tuple(FileSource(mask) if mask else None for mask in masks)
        further = (
            {} if row is None else values.attributes(row, attributes, codes, sex_column=SEX, age_column=AGE)
        )
        cases.append(
            SourceCase(
                key=folder.name,
                patient=folder.name,
                image=SelectedChannels(FileSource(image), 1, (0,), where),
                mask=MaskPerLabel(sources, config.masks.overlap, where) if any(masks) else None,
                where=where,
                attributes=further,
                split=split_name(row.get("split")) if row is not None else "",
            )
        )
    return ReaderOutput(
        cases=tuple(cases),
        labels=labels.names,
        task=TaskKind.SEGMENTATION,
        attributes=attributes,
        skipped=tuple(skipped),
        patients_known=False,
        spatial_dims=3,
        channels=tuple(modalities),
    )


def _structures(folder: Path) -> dict[str, Path]:
    paths = sorted((folder / "segmentations").glob(f"*{_ENDING}"))
    return {path.name[: -len(_ENDING)]: path for path in paths if not path.name.startswith(".")}


def _table(root: Path, config: PrepareConfig, site: str) -> CsvTable:
    named = config.input.table
    path = table_path(named, root, site) if named else root / TABLE
    if not path.is_file() and not config.input.table and not config.input.require:
        return CsvTable(TABLE, (), ())
    return read_table(path, ("image_id",)).having(config.input.require)
