"""Export of the network as ONNX, for programs without meninx and torch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from meninx.core.errors import ConfigError, UsageError, problem
from meninx.core.intensity import Intensity
from meninx.core.manifest import DatasetInfo

INPUT, OUTPUTS = "image", ("probabilities", "logits")


class StoredToProbabilities(nn.Module):
    """A network from the values of stored images to probabilities.

    Args:
        network: takes normalised images and returns logits.
        intensity: conversion of stored values to network input.
        sigmoid: the outputs are independent labels; otherwise they are mutually exclusive classes.
    """

    def __init__(self, network: nn.Module, intensity: Intensity, *, sigmoid: bool) -> None:
        super().__init__()
        self.network, self.intensity, self.sigmoid = network, intensity, sigmoid

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities and logits (batch, outputs, ...) of stored images (batch, channels, ...)."""
        low, high = self.intensity.window
        values = (image.clamp(low, high) - self.intensity.shift) / self.intensity.scale
        logits: Tensor = self.network(values)
        return torch.sigmoid(logits) if self.sigmoid else torch.softmax(logits, dim=1), logits


def export_onnx(
    model: StoredToProbabilities, example: Tensor, path: Path, *, facts: Mapping[str, str]
) -> None:
    """Write a network as ONNX with a free batch axis.

    The input ``image`` holds stored values (float32), the outputs are ``probabilities`` and ``logits``:
    normalisation and activation are part of the graph.

    Args:
        model: the network; it is exported in evaluation mode, and its mode is restored.
        example: stored values, shape (1, channels, *spatial); its spatial size is the size the file accepts.
        path: file to write.
        facts: metadata of the file, stored as ``metadata_props``.

    Raises:
        UsageError: the packages of the ``export`` extra are missing.
        ConfigError: torch's exporter cannot translate the network.
    """
    program = _exported(model, example)
    program.model.metadata_props.update(facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(str(path), external_data=False)


def refuse_unfit(network: nn.Module, info: DatasetInfo, size: tuple[int, ...]) -> None:
    """Refuse a network that could not be exported after its training.

    Args:
        network: the network at the start of training.
        info: channels and intensity of the images.
        size: spatial size of an input.

    Raises:
        UsageError, ConfigError: as for :func:`export_onnx`, or the inputs have no common size.
    """
    if not size:
        fix = "prepare the images at one size, or set image_size or patch_size"
        raise ConfigError(problem("an ONNX file needs inputs of one size", where="export", fix=fix))
    _exported(
        StoredToProbabilities(network, info.intensity, sigmoid=True), torch.zeros(1, info.channels, *size)
    )


def _exported(model: StoredToProbabilities, example: Tensor) -> Any:
    """Return the network as torch's ONNX program, without paths of this machine."""
    try:
        import onnxscript  # noqa: F401 (torch.onnx needs it and says so late)
    except ImportError as error:
        fix = "pip install 'meninx[export]'"
        raise UsageError(problem("onnx and onnxscript are not installed", where="export", fix=fix)) from error
    training = model.network.training
    model.eval()
    batch = example.expand(2, *example.shape[1:]).contiguous()  # a batch of one would become a constant
    try:
        with _quiet():
            program = torch.onnx.export(
                model, (batch,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
                input_names=[INPUT], output_names=list(OUTPUTS),
            )  # fmt: skip
    except Exception as error:  # the exporter may raise any exception on a network that cannot be traced
        fix = "leave onnx out of export"
        what = f"the network cannot be exported as ONNX ({type(error).__name__})"
        raise ConfigError(problem(what, where="export", fix=fix)) from error
    finally:
        model.network.train(training)
    assert program is not None
    _forget_places(program.model)
    return program


def _forget_places(model: Any) -> None:
    """Remove the exporter's stack traces from an ``onnx_ir`` model, which contain paths of this machine."""
    for graph in (model.graph, *model.functions.values()):
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide messages for developers of the exporter (deprecations inside torch, missing torchvision)."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
