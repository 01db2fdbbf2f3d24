"""The network as ONNX, for programs that know neither meninx nor torch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from meninx.core.errors import UsageError, problem


def export_onnx(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    """Write ``model`` as ONNX with a free batch axis, input ``image`` and output ``pred``.

    Args:
        model: the network; it is exported in evaluation mode and left in the mode it was.
        example: normalised input, shape (1, channels, *spatial); its spatial size is the size the file
            accepts.
        path: file to write.

    Raises:
        UsageError: the packages of the ``export`` extra are missing.
    """
    try:
        import onnxscript  # noqa: F401 (torch.onnx needs it and says so late)
    except ImportError as error:
        fix = "pip install 'meninx[export]'"
        raise UsageError(problem("onnx and onnxscript are not installed", where="export", fix=fix)) from error
    training = model.training
    model.eval()
    batch = example.expand(
        2, *example.shape[1:]
    ).contiguous()  # a batch of one would be baked in as a constant
    try:
        with _quiet():
            program = torch.onnx.export(
                model, (batch,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
                input_names=["image"], output_names=["pred"],
            )  # fmt: skip
            assert program is not None
            path.parent.mkdir(parents=True, exist_ok=True)
            program.save(str(path), external_data=False)
    finally:
        model.train(training)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the exporter says to its own developers (deprecations inside torch, absent torchvision)."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
