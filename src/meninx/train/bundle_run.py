"""The workflow of ``python -m monai.bundle run`` for a released bundle: read images, predict, write.

A bundle ships this source as ``scripts/inference.py``; ``configs/inference.json`` assembles its parts with
MONAI's dataset, inferers and transforms. It needs neither meninx nor pytorch-ignite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from meninx.core import names
from meninx.core.errors import DataError, problem
from meninx.imaging.image_files import ImageFiles, LeftOut, find
from meninx.imaging.network_input import NetworkInput, preprocessing_of
from meninx.learn.state_digest import weights_digest
from meninx.train.bundle_maps import REFUSED, name_refused, refuse_present, write_refused, write_table
from meninx.train.bundle_table import Columns, read_thresholds

TABLE = "predictions.csv"
Item = dict[str, Any]


def found(dataset_dir: str, preprocessing: Mapping[str, Any]) -> list[Item]:
    """Return one item for each image below a folder; see :func:`meninx.imaging.image_files.find`.

    The item of a file that cannot be used contains the reason as ``refused``.

    Args:
        dataset_dir: the folder.
        preprocessing: table of ``configs/metadata.json``.
    """
    refused: list[LeftOut] = []
    images = find(Path(dataset_dir), preprocessing_of(preprocessing), refused)
    unusable = [{"files": item.files, "refused": item.words} for item in refused]
    return [*({"files": image} for image in images), *unusable]


class NetworkInputd:
    """MONAI transform from ``files`` to ``image``, the input of the network (channels, ...).

    Args:
        preprocessing: table of ``configs/metadata.json``: from a decoded image to a stored one.
        intensity: table of ``configs/metadata.json``: from stored values to network input.
        image_size: size to which smaller images are padded.
        size: size that every stored image must have.
    """

    def __init__(
        self,
        preprocessing: Mapping[str, Any],
        intensity: Mapping[str, Any],
        image_size: Sequence[int] = (),
        size: Sequence[int] = (),
    ) -> None:
        self.reader = NetworkInput.of(preprocessing, intensity, image_size, size)

    def __call__(self, item: Mapping[str, Any]) -> Item:
        """Return the item with ``image`` and the data needed to place a label map on the source's pixels.

        An image that cannot be read or does not fit the network gets the reason as ``refused`` instead.
        """
        if "refused" in item:
            return dict(item)
        try:
            source, stored = self.reader.images(item["files"].paths)
        except DataError as error:
            return {**item, "refused": str(error)}
        values = torch.from_numpy(self.reader.normalised(stored.array))
        return {**item, "image": values, "stored": stored, "source": source, "reader": self.reader}


class LabelMapd:
    """MONAI transform from logits ``pred`` (labels, ...) of independent labels to a label map (1, ...).

    The label with the largest logit wins where that logit is above 0 (a probability of 0.5).
    """

    def __call__(self, item: Mapping[str, Any]) -> Item:
        """Return the item with the label map instead of the logits; 0 is background."""
        logits = item["pred"]
        best = torch.where(logits.amax(0) > 0, logits.argmax(0) + 1, 0)
        return {**item, "pred": best[None]}


class Probabilitiesd:
    """MONAI transform that adds ``probabilities`` of each label, (labels, ...), from logits ``pred``.

    Args:
        sigmoid: the outputs are independent labels; otherwise they are classes and the first is the
            background.
        wanted: add the probabilities; otherwise the item is returned unchanged.
    """

    def __init__(self, *, sigmoid: bool, wanted: bool) -> None:
        self.sigmoid, self.wanted = sigmoid, wanted

    def __call__(self, item: Mapping[str, Any]) -> Item:
        """Return the item, with probabilities if they are wanted."""
        if not self.wanted:
            return dict(item)
        logits = item["pred"].float()
        found = torch.sigmoid(logits) if self.sigmoid else torch.softmax(logits, dim=0)[1:]
        return {**item, "probabilities": found}


class Writer(Protocol):
    """Interface of a writer of predictions."""

    def add(self, item: Mapping[str, Any]) -> None:
        """Take the prediction ``pred`` of one image."""

    def close(self, refused: Sequence[tuple[str, str]]) -> None:
        """Finish the output; called once after the last image with (name, reason) of the refused images."""


class ProbabilityTable:
    """Writer of ``predictions.csv``: one row per image, one column per label.

    Args:
        output_dir: folder for the table.
        labels: names of the network's outputs, in order.
        thresholds: a JSON file of operating thresholds by label (``configs/thresholds.json``). A label that
            it names gets a column ``positive:<label>``: 1 where the probability reaches the threshold.
        network: the network with its weights; thresholds fitted for other weights are ignored with a warning.
        classes: the labels exclude each other; a column ``most_probable`` names one of them.

    Raises:
        DataError: the file is damaged, or a threshold is not a number from 0 to 1.
    """

    def __init__(
        self,
        output_dir: str,
        labels: Sequence[str],
        thresholds: str = "",
        network: nn.Module | None = None,
        *,
        classes: bool = False,
    ) -> None:
        weights = weights_digest(network) if network is not None else None
        fitted = read_thresholds(Path(thresholds), labels, weights) if thresholds else {}
        self.path = Path(output_dir) / TABLE
        self.columns = Columns(labels=tuple(labels), thresholds=fitted, classes=classes)
        self.rows: list[list[str]] = []
        refuse_present(self.path)
        refuse_present(self.path.parent / REFUSED)

    def add(self, item: Mapping[str, Any]) -> None:
        """Take the probabilities ``pred`` (labels,) of one image."""
        image: ImageFiles = item["files"]
        values = np.asarray(item["pred"], dtype=np.float32).reshape(-1)
        self.rows.append([names.csv_cell(image.name), *self.columns.cells(values.tolist())])

    def close(self, refused: Sequence[tuple[str, str]] = ()) -> None:
        """Write the table, and the table of refused images."""
        header = [names.csv_cell(name) for name in ("image", *self.columns.names)]
        write_table(self.path, [header, *self.rows])
        write_refused(self.path.parent, refused)


class Predictor:
    """Evaluator of ``configs/inference.json``: applies the network to every image of a dataset.

    Args:
        dataset: items with ``files`` and ``image``.
        network: in evaluation mode, on ``device``.
        inferer: MONAI inferer: the whole image, or a sliding window.
        device: device of the network.
        postprocessing: transform from the logits ``pred`` to the values that are written.
        writer: receives the predictions.
    """

    def __init__(
        self,
        *,
        dataset: Sequence[Mapping[str, Any]],
        network: nn.Module,
        inferer: Callable[[Tensor, nn.Module], Tensor],
        device: torch.device,
        postprocessing: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        writer: Writer,
    ) -> None:
        self.dataset, self.network, self.inferer, self.device = dataset, network, inferer, device
        self.postprocessing, self.writer = postprocessing, writer

    @torch.no_grad()
    def run(self) -> int:
        """Predict every image, write the results, and return the number of predictions.

        Images that cannot be read or do not fit the network are listed in ``refused.csv``.

        Raises:
            DataError: no image could be predicted; the message names the first one.
        """
        self.network.eval()
        refused: list[tuple[str, str]] = []
        for index in range(
            len(self.dataset)
        ):  # by index: iteration would end silently at an IndexError of a reader
            item = self.dataset[index]
            if "refused" in item:
                refused.append((item["files"].name, item["refused"]))
                name_refused(*refused[-1])
                continue
            logits = self.inferer(item["image"][None].to(self.device), self.network)[0].cpu()
            self.writer.add(self.postprocessing({**item, "pred": logits}))
        if refused and len(refused) == len(self.dataset):
            name, reason = refused[0]
            raise DataError(problem(f"no image can be predicted: {reason}", where=names.printable(name)))
        self.writer.close(refused)
        return len(self.dataset) - len(refused)
