"""BRSET: colour fundus photographs with eye findings, sex and age.

Layout: ``labels.csv`` (or ``labels_brset.csv``) with image_id, patient_id, patient_age, patient_sex (1 male,
    2 female) and the
findings; images at ``fundus_photos/<image_id>.jpg`` or anywhere below. ``class_column`` takes one grade
instead.

References:
    Nakayama et al., A Brazilian Multilabel Ophthalmological Dataset, PhysioNet 2023.
"""

from __future__ import annotations

from pathlib import Path

from meninx.core.csv_table import first_of, index_files, read_table, resolve
from meninx.prepare.config import PrepareConfig
from meninx.prepare.found import Reading
from meninx.prepare.readers import values
from meninx.prepare.readers.rows import Layout, read_rows

FINDINGS = (
    "diabetic_retinopathy", "macular_edema", "scar", "nevus", "amd", "vascular_occlusion", "hypertensive_retinopathy", "drusens",
    "hemorrhage", "retinal_detachment", "myopic_fundus", "increased_cup_disc", "other",
)  # fmt: skip


def read(root: Path, config: PrepareConfig, site: str = "") -> Reading:
    """Return the cases of BRSET.

    Raises:
        LayoutError: a column is missing or a cell is not as published; names file, column and row.
    """
    path = (
        resolve(config.table, root, site)
        if config.table
        else first_of(root, ("labels.csv", "labels_brset.csv"))
    )
    table = read_table(path, ("image_id", "patient_id", "patient_sex", "patient_age"))
    if config.class_column:
        table.needs([config.class_column])
    published = tuple(name for name in FINDINGS if name in table.columns)
    places = index_files(root, (".jpg", ".jpeg", ".png"))
    layout = Layout(
        image=lambda row: places.get(
            row.need("image_id"), root / "fundus_photos" / f"{row.need('image_id')}.jpg"
        ),
        patient=lambda row: row.need("patient_id"),
        classes=(lambda row: row.get(config.class_column)) if config.class_column else None,
        labels=() if config.class_column else values.chosen(config.label_columns, published, path.name),
        sex="patient_sex",
        age="patient_age",
        codes={"1": "M", "2": "F"},
    )
    return read_rows(root, [table], layout, config)
