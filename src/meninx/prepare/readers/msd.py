"""Medical Segmentation Decathlon: one ``TaskNN_Name`` folder with ``dataset.json``.

Layout: ``dataset.json`` lists ``training`` pairs of ``image`` and ``label`` and names the label values; its
``test`` images have no labels and are left out. Several modalities a case are refused unless they make 1 or 3
channels. Each image is its own patient.

References:
    Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 2022.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from meninx.core import files
from meninx.core.errors import DataError, LayoutError, expected, problem
from meninx.core.manifest import TaskKind
from meninx.prepare.config import PrepareConfig
from meninx.prepare.source_cases import FileSource, ReaderOutput, SourceCase


def read(root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
    """Return the training cases of a Decathlon task, labels named as ``dataset.json`` names them.

    Raises:
        LayoutError: ``dataset.json`` is missing or has another shape; names the key and entry.
    """
    table = _json(root / "dataset.json")
    labels = config.masks.labels or _labels(table)
    entries = table.get("training")
    if not isinstance(entries, list):
        raise LayoutError(problem("there is no list of pairs", where="dataset.json, key 'training'"))
    cases = []
    for number, entry in enumerate(entries, start=1):
        where = f"dataset.json, training entry {number}"
        if not isinstance(entry, dict) or not {"image", "label"} <= entry.keys():
            raise LayoutError(problem("an entry is not an image with its label", where=where))
        image = str(entry["image"]).removeprefix("./")
        mask = FileSource(root / str(entry["label"]))
        cases.append(
            SourceCase(key=image, patient=image, image=FileSource(root / image), mask=mask, where=where)
        )
    tests = table.get("test", [])
    skipped = tuple(
        ("test image without a label map", f"dataset.json, test entry {n + 1}")
        for n in range(len(tests) if isinstance(tests, list) else 0)
    )
    return ReaderOutput(
        cases=tuple(cases),
        labels=labels,
        task=TaskKind.SEGMENTATION,
        skipped=skipped,
        patients_known=False,
        spatial_dims=3,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(files.read_text(path))
    except (DataError, ValueError, RecursionError) as error:
        got = "none" if not path.is_file() else "something else"
        raise LayoutError(expected("a dataset.json", got=got, where=f"folder {path.parent.name}")) from error
    if not isinstance(table, dict):
        raise LayoutError(problem("the file does not hold one JSON object", where="dataset.json"))
    return table


def _labels(table: dict[str, Any]) -> tuple[str, ...]:
    try:
        names = {int(value): str(name) for value, name in table["labels"].items()}
    except (KeyError, AttributeError, ValueError) as error:
        raise LayoutError(
            expected("label values and names", got=type(error).__name__, where="dataset.json, key 'labels'")
        ) from error
    names.pop(0, None)
    if sorted(names) != list(range(1, len(names) + 1)) or not names:
        raise LayoutError(
            expected("label values 1, 2, ...", got=sorted(names), where="dataset.json, key 'labels'")
        )
    return tuple(names[value] for value in sorted(names))
