"""Probabilities from the ONNX file of a bundle, without torch and meninx.

A bundle ships this source as ``scripts/with_onnx.py``. In the folder of the bundle::

    python -m scripts.with_onnx IMAGES predictions.csv

Labels and preprocessing are read from the metadata of the ONNX file, the thresholds of `meninx evaluate`
from ``configs/thresholds.json``.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from meninx.core import names
from meninx.core.errors import DataError
from meninx.imaging.image_files import LeftOut, find
from meninx.imaging.network_input import NetworkInput
from meninx.train.bundle_maps import name_refused
from meninx.train.bundle_table import Columns, read_thresholds
from meninx.train.onnx_session import open_session

MODEL, THRESHOLDS = "models/model.onnx", "configs/thresholds.json"


def main(images: str, table: str) -> None:
    """Write a table with the probabilities of every image below a folder.

    Images that cannot be read or do not fit the network are named on stderr and have no row.

    Args:
        images: the folder.
        table: CSV file to write: one row per image, with the columns of `meninx predict`.
    """
    bundle = Path(__file__).resolve().parents[1]
    session = open_session(bundle / MODEL)
    facts = session.get_modelmeta().custom_metadata_map
    keys = ("preprocessing", "intensity", "image_size", "size")
    reader = NetworkInput.of(*(json.loads(facts[key]) for key in keys))
    labels = tuple(json.loads(facts["labels"]))
    fitted = read_thresholds(bundle / THRESHOLDS, labels, facts["weights"])
    columns = Columns(labels=labels, thresholds=fitted, classes=facts["task"] == "multiclass")
    with Path(table).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(map(names.csv_cell, ["image", *columns.names]))
        refused: list[LeftOut] = []
        for image in find(Path(images), reader.preprocessing, refused):
            try:
                _, stored = reader.images(image.paths)
            except DataError as error:
                refused.append(LeftOut(image, str(error)))
                continue
            (found,) = session.run(["probabilities"], {"image": reader.padded(stored.array)[None]})
            writer.writerow([names.csv_cell(image.name), *columns.cells(found[0].tolist())])
    for item in refused:
        name_refused(item.files.name, item.words)


if __name__ == "__main__":
    main(*sys.argv[1:])
