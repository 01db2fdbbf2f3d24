"""Label maps from the ONNX file of a segmentation bundle, without torch and meninx.

A bundle ships this source as ``scripts/segment_with_onnx.py``. In the folder of the bundle::

    python -m scripts.segment_with_onnx IMAGES OUT [--probabilities]

All settings are read from the metadata of the ONNX file. A network of patches slides over the
image (``scripts/imaging/sliding_window.py``) with the patch size, overlap and weights of ``sliding_window``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, problem
from meninx.imaging.image_files import ImageFiles, LeftOut, find
from meninx.imaging.network_input import NetworkInput
from meninx.imaging.sliding_window import SlidingWindow
from meninx.train.bundle_maps import LabelMapFiles, name_refused
from meninx.train.onnx_session import open_session

MODEL, PROBABILITIES = "models/model.onnx", "--probabilities"
Floats = npt.NDArray[np.float32]


class OnnxSegmenter:
    """A segmentation network in an ONNX file, applied to whole images.

    Args:
        model: the ONNX file.
    """

    def __init__(self, model: Path) -> None:
        self.session = open_session(model)
        facts = {key: _plain(text) for key, text in self.session.get_modelmeta().custom_metadata_map.items()}
        tables = (facts[key] for key in ("preprocessing", "intensity", "image_size", "size"))
        self.reader = NetworkInput.of(*tables)
        self.sigmoid = facts["activation"] == "sigmoid"
        self.window = SlidingWindow.of(facts["sliding_window"]) if facts["sliding_window"] else None

    def logits(self, image: Floats) -> Floats:
        """Return the logits (outputs, ...) of stored values (channels, ...)."""
        return self.window.average(self._run, image) if self.window is not None else self._run(image)

    def _run(self, image: Floats) -> Floats:
        found: Floats = self.session.run(["logits"], {"image": image[None]})[0][0]
        return found

    def item(self, files: ImageFiles, *, probabilities: bool) -> dict[str, Any]:
        """Return the label map of an image, with the data needed to place it on the image's pixels.

        Raises:
            DataError: the image cannot be read or does not fit the network.
        """
        source, stored = self.reader.images(files.paths)
        logits = self.logits(self.reader.padded(stored.array))
        item = {"files": files, "source": source, "stored": stored, "reader": self.reader}
        item["pred"] = label_map(logits, sigmoid=self.sigmoid)[None]
        if probabilities:
            item["probabilities"] = label_probabilities(logits, sigmoid=self.sigmoid)
        return item


def label_map(logits: Floats, *, sigmoid: bool) -> npt.NDArray[np.int64]:
    """Return whole numbers (...) from logits (outputs, ...); 0 is background."""
    best: npt.NDArray[np.int64] = logits.argmax(0)
    # Independent labels: the largest logit wins where it is above 0 (a probability above 0.5).
    return np.where(logits.max(0) > 0, best + 1, 0) if sigmoid else best


def label_probabilities(logits: Floats, *, sigmoid: bool) -> Floats:
    """Return the probability of each label, (labels, ...), from logits (outputs, ...)."""
    if sigmoid:
        falling = np.exp(-np.abs(logits))  # the exponent is never positive, so exp cannot overflow
        found = np.where(logits >= 0, 1, falling) / (1 + falling)
    else:
        powers = np.exp(logits - logits.max(0))
        found = powers[1:] / powers.sum(0)  # the first output is the background
    return np.asarray(found, dtype=np.float32)


def main(images: str, out: str, *flags: str) -> None:
    """Write the label map of every image below a folder, on the pixels of the image.

    Images that cannot be read or do not fit the network are listed in ``refused.csv``.

    Args:
        images: the folder.
        out: folder to write to; no file in it is replaced.
        *flags: ``--probabilities`` also writes the probability of each label, as NIfTI.

    Raises:
        DataError: a map or the list exists already, or the flag is unknown.
    """
    if set(flags) - {PROBABILITIES}:
        raise DataError(problem("the only flag is --probabilities", where="command line"))
    network = OnnxSegmenter(Path(__file__).resolve().parents[1] / MODEL)
    writer = LabelMapFiles(out)
    unusable: list[LeftOut] = []
    found = find(Path(images), network.reader.preprocessing, unusable)
    refused = [(item.files.name, item.words) for item in unusable]
    for image in found:
        try:
            item = network.item(image, probabilities=PROBABILITIES in flags)
        except DataError as error:
            refused.append((image.name, str(error)))
            continue
        writer.add(item)
    for name, reason in refused:
        name_refused(name, reason)
    writer.close(refused)


def _plain(text: str) -> Any:
    """Return the value of an entry of the metadata: a JSON table, or the text itself."""
    return json.loads(text) if text[:1] in ("{", "[") else text


if __name__ == "__main__":
    main(*sys.argv[1:])
