"""PAD-UFES-20: six diagnoses of skin lesions photographed by smartphone.

Layout: ``metadata.csv`` (patient_id, lesion_id, age, gender, diagnostic, img_id) and the images in
    ``imgs_part_1`` to ``_3`` or
``images``. ``malignant=True`` merges BCC, MEL and SCC against the rest.

Caution: gender and many other columns are filled in for every biopsied lesion but for few others, so whether
    they are present
leaks the diagnosis. Group metrics by sex compare mostly biopsied lesions, and a model must never see these
columns.

References:
    Pacheco et al., PAD-UFES-20, Data in Brief 2020.
"""

from __future__ import annotations

from pathlib import Path

from meninx.prepare.config import PrepareConfig
from meninx.prepare.found import Reading
from meninx.prepare.readers.rows import Layout, read_rows
from meninx.prepare.readers.table import index_files, read_table, resolve

MALIGNANT = ("BCC", "MEL", "SCC")


def read(root: Path, config: PrepareConfig, site: str = "") -> Reading:
    """Return the cases of PAD-UFES-20.

    Raises:
        LayoutError: a column is missing or a cell is empty; names file, column and row.
    """
    if config.malignant:
        config = config.replace(positive=MALIGNANT, positive_name="malignant", malignant=False)
    table = read_table(
        resolve(config.table or "metadata.csv", root, site), ("patient_id", "img_id", "diagnostic")
    )
    places = index_files(root, (".png", ".jpg", ".jpeg"))
    layout = Layout(
        image=lambda row: places.get(row.need("img_id"), root / "images" / row.need("img_id")),
        patient=lambda row: row.need("patient_id"),
        classes=lambda row: row.need("diagnostic"),
        sex="gender",
        age="age",
    )
    return read_rows(root, [table], layout, config)
