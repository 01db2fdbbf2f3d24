"""One folder per class: ``<source>/<class>/**/*.png`` (or JPEG, NIfTI, DICOM).

With folders named train, valid (val) and test at the first level the classes lie below them, and the split is
published. The layout names no patients: each image counts as its own, so give a table (reader csv) where a
patient has several.
"""

from __future__ import annotations

from pathlib import Path

from meninx.core.errors import LayoutError, problem
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import values
from meninx.prepare.readers.layout import split_name
from meninx.prepare.readers.source_files import IMAGES, relative
from meninx.prepare.source_cases import FileSource, ReaderOutput, SourceCase


def read(root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
    """Return one case per image, with its class from its folder.

    Raises:
        LayoutError: there is no class folder, or an image lies outside one.
    """
    tops = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if not tops:
        raise LayoutError(
            problem("expected one folder per class, found no folder", where=f"folder {root.name}")
        )
    by_split = all(split_name(path.name) for path in tops)
    places = [("", top) for top in tops]
    if by_split:
        below = [(split_name(top.name), path) for top in tops for path in sorted(top.iterdir())]
        places = [(split, path) for split, path in below if path.is_dir()]
    labels = values.class_names(config.labels, [folder.name for _, folder in places], f"folder {root.name}")
    cases: list[SourceCase] = []
    skipped: list[tuple[str, str]] = []
    for split, folder in places:
        found = values.of_class(folder.name, config.labels)
        for number, path in enumerate(_images(folder), start=1):
            where = f"folder {relative(folder, root)}, file {number}"
            if not found:
                skipped.append(("no class that was asked for", where))
                continue
            key = relative(path, root)
            cases.append(
                SourceCase(
                    key=key, patient=key, image=FileSource(path), where=where, labels=found, split=split
                )
            )
    return ReaderOutput(
        cases=tuple(cases),
        labels=labels,
        task=values.task_of(config, one_class=True),
        skipped=tuple(skipped),
        patients_known=False,
        spatial_dims=3 if cases and cases[0].key.lower().endswith((".nii", ".nii.gz")) else 2,
    )


def _images(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.name.lower().endswith(IMAGES) and not path.name.startswith(".")
    ]
