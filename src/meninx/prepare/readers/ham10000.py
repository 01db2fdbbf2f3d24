"""HAM10000: seven diagnoses of pigmented skin lesions; the lesion is the unit of the split.

Layout: ``HAM10000_metadata.csv`` (lesion_id, image_id, dx, age, sex, localization) and the images in
    ``HAM10000_images*`` (one
or two parts). The set names lesions, not patients, so the lesion stands for the patient. ``malignant=True``
merges akiec, bcc and mel against the rest.

References:
    Tschandl et al., HAM10000, Scientific Data 2018.
"""

from __future__ import annotations

from pathlib import Path

from meninx.prepare.config import PrepareConfig
from meninx.prepare.found import Reading
from meninx.prepare.readers.rows import Layout, read_rows
from meninx.prepare.readers.table import index_files, read_table, resolve

MALIGNANT = ("akiec", "bcc", "mel")


def read(root: Path, config: PrepareConfig, site: str = "") -> Reading:
    """Return the cases of HAM10000.

    Raises:
        LayoutError: a column is missing or a cell is empty; names file, column and row.
    """
    if config.malignant:
        config = config.replace(positive=MALIGNANT, positive_name="malignant", malignant=False)
    table = read_table(
        resolve(config.table or "HAM10000_metadata.csv", root, site), ("lesion_id", "image_id", "dx")
    )
    places = index_files(root, (".jpg", ".jpeg", ".png"))
    layout = Layout(
        image=lambda row: places.get(
            row.need("image_id"), root / "HAM10000_images" / f"{row.need('image_id')}.jpg"
        ),
        patient=lambda row: row.need("lesion_id"),
        classes=lambda row: row.need("dx"),
        sex="sex",
        age="age",
        patients_known=False,
    )
    return read_rows(root, [table], layout, config)
