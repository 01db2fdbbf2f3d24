"""Probabilities by the ONNX file of a bundle, with neither torch nor meninx.

A bundle ships this source as ``scripts/with_onnx.py``. In the folder of the bundle::

    python -m scripts.with_onnx IMAGES predictions.csv

Everything it needs to know stands in the metadata of the ONNX file.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from meninx.core import names
from meninx.imaging.network_input import NetworkInput, find

MODEL = "models/model.onnx"


def main(images: str, table: str) -> None:
    """Write a table with the probabilities of every image below a folder.

    Args:
        images: the folder.
        table: CSV file to write: one row per image, one column per label.

    Raises:
        DataError: an image cannot be read or does not fit the network.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(Path(__file__).resolve().parents[1] / MODEL))
    facts = session.get_modelmeta().custom_metadata_map
    keys = ("preprocessing", "intensity", "image_size", "size")
    reader = NetworkInput.of(*(json.loads(facts[key]) for key in keys))
    with Path(table).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(map(names.csv_cell, ["image", *json.loads(facts["labels"])]))
        for image in find(Path(images), reader.preprocessing):
            stored = reader.stored(reader.source(image.paths))
            (found,) = session.run(["probabilities"], {"image": reader.padded(stored.array)[None]})
            writer.writerow([names.csv_cell(image.name), *(f"{value:.9g}" for value in found[0])])


if __name__ == "__main__":
    main(*sys.argv[1:])
