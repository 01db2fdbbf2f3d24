"""Images and label maps with equal names in two folders: ``images/`` and ``labels/`` (NIfTI or PNG).

``image_folder`` and ``mask_folder`` rename the folders; ``mask_labels`` names the values 1, 2, ... of the
label maps. An image without a label map and a label map without an image are skipped and counted. Each image
counts as its own patient.
"""

from __future__ import annotations

from pathlib import Path

from meninx.core.errors import LayoutError, problem
from meninx.core.manifest import TaskKind
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import mask_labels
from meninx.prepare.readers.source_files import IMAGES, relative, resolve, stem
from meninx.prepare.source_cases import FileSource, ReaderOutput, SourceCase


def read(root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
    """Return one case per image that has a label map.

    Raises:
        LayoutError: a folder is missing.
    """
    images = _by_stem(resolve(config.input.image_folder or "images", root, site))
    masks = _by_stem(resolve(config.masks.folder or "labels", root, site))
    skipped = [
        *(
            ("image without a label map", f"images, file {n}")
            for n, name in enumerate(images, start=1)
            if name not in masks
        ),
        *(
            ("label map without an image", f"label maps, file {n}")
            for n, name in enumerate(masks, start=1)
            if name not in images
        ),
    ]
    labels = mask_labels.of_values(config.masks.labels)
    cases = tuple(
        SourceCase(
            key=relative(path, root),
            patient=name,
            image=FileSource(path),
            mask=FileSource(masks[name]),
            mask_values=labels.values,
            where=f"images, file {number}",
        )
        for number, (name, path) in enumerate(images.items(), start=1)
        if name in masks
    )
    volumes = bool(cases) and cases[0].key.lower().endswith((".nii", ".nii.gz"))
    return ReaderOutput(
        cases=cases,
        labels=labels.names,
        task=TaskKind.SEGMENTATION,
        skipped=tuple(skipped),
        patients_known=False,
        spatial_dims=3 if volumes else 2,
    )


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise LayoutError(problem(f"there is no folder {folder.name}", where=f"folder {folder.parent.name}"))
    paths = [
        path
        for path in sorted(folder.iterdir())
        if path.name.lower().endswith(IMAGES) and not path.name.startswith(".")
    ]
    return {stem(path.name): path for path in paths}
