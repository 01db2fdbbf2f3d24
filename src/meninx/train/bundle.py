"""A MONAI bundle of the trained network: configs, weights and documentation in MONAI's layout."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from meninx.core import files, names, plain
from meninx.core.errors import DataError, expected, problem
from meninx.core.manifest import DatasetInfo, TaskKind
from meninx.models import registry
from meninx.train.onnx_export import export_onnx

LICENSE = (
    "The weights were trained on the data named in docs/README.md. Whoever controls that data "
    "decides under which terms\n"
    "the weights may be used; meninx, the program that made them, is under the Apache License 2.0.\n"
)
SCHEMA_VERSION = "0.1.0"


def write_bundle(
    folder: Path,
    model: nn.Module,
    info: DatasetInfo,
    *,
    network: dict[str, Any],
    size: tuple[int, ...],
    card: str,
    patches: bool = False,
    onnx: bool = False,
) -> None:
    """Write the bundle.

    Args:
        folder: the bundle's folder, usually ``release/bundle``.
        model: the network whose weights are released (averaged weights where an average was kept).
        info: the dataset's labels, channels and intensity.
        network: arguments of ``meninx.models.registry.build`` that make the same network again. For a network
            of the caller's own, which they cannot make, ``configs/inference.json`` is left out.
        size: spatial size of an input.
        patches: inputs are patches of larger images.
        card: Markdown for ``docs/README.md``.
        onnx: also write ``models/model.onnx``.

    Raises:
        DataError: a name or an option is one that MONAI would take for code or a reference.
    """
    names.check([info.name], what="dataset", where="bundle")
    names.check(info.labels, what="label", where="bundle")
    check_options(network)
    models = folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    with files.atomic(models / "model.pt") as stream:
        torch.save(weights, stream)
    if onnx:
        example = torch.zeros(1, info.channels, *size, device=next(model.parameters()).device)
        export_onnx(model, example, models / "model.onnx")
    files.write_text(folder / "LICENSE", LICENSE)
    files.write_text(folder / "docs" / "README.md", card)
    metadata = _metadata(info, size, int(network["out_channels"]), patches)
    files.write_text(folder / "configs" / "metadata.json", plain.to_json(metadata))
    if not str(network["name"]).startswith(registry.OWN_PREFIX):
        files.write_text(folder / "configs" / "inference.json", plain.to_json(_inference(network)))


def check_options(options: Any, *, where: str = "model_options") -> None:
    """Refuse options of a network that MONAI would run or resolve instead of handing them on, at any depth.

    MONAI evaluates texts that begin with ``$``, resolves those that begin with ``@`` or ``%``, replaces every
    ``#`` by ``::``, and makes objects of tables with keys such as ``_target_``.

    Raises:
        DataError: an option is one of these; names its place.
    """
    if isinstance(options, Mapping):
        for number, (key, value) in enumerate(options.items(), start=1):
            if str(key).startswith("_") or names.problem(str(key)):
                raise DataError(problem("the name of an option is not plain", where=f"{where}, key {number}"))
            check_options(value, where=f"{where}, {key}")
    elif isinstance(options, (list, tuple)):
        for number, value in enumerate(options, start=1):
            check_options(value, where=f"{where}, item {number}")
    elif isinstance(options, str) and options and names.problem(options):
        raise DataError(expected("a plain text", got=names.problem(options), where=where))


def _metadata(info: DatasetInfo, size: tuple[int, ...], outputs: int, patches: bool) -> dict[str, Any]:
    low, high = ((value - info.intensity.shift) / info.intensity.scale for value in info.intensity.window)
    segmentation = info.task is TaskKind.SEGMENTATION
    classes = ("background", *info.labels) if outputs > len(info.labels) else info.labels
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": "n/a",
        "num_channels": info.channels,
        "spatial_shape": list(size),
        "dtype": "float32",
        "value_range": [low, high],
        "is_patch_data": patches,
        "channel_def": _channels(info.channels),
    }
    prediction = {
        "type": "image" if segmentation else "probabilities",
        "format": "labels" if segmentation else "classes",
        "modality": "n/a",
        "num_channels": len(classes),
        "spatial_shape": list(size) if segmentation else [len(classes)],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": patches,
        "channel_def": {str(index): name for index, name in enumerate(classes)},
    }
    return {
        "version": SCHEMA_VERSION,
        "changelog": {SCHEMA_VERSION: "as trained"},
        "monai_version": metadata.version("monai"),
        "pytorch_version": metadata.version("torch").partition("+")[0],
        "numpy_version": metadata.version("numpy"),
        "required_packages_version": {"meninx": metadata.version("meninx")},
        "name": info.name,
        "task": str(info.task),
        "description": f"{info.task} on {info.name}, trained by meninx",
        "authors": "the data controller",
        "copyright": "see LICENSE",
        "intended_use": "research; not a medical device",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": prediction}},
        "intensity": {
            "window": list(info.intensity.window),
            "shift": info.intensity.shift,
            "scale": info.intensity.scale,
        },
    }


def _channels(count: int) -> dict[str, str]:
    colours = ("red", "green", "blue") if count == 3 else ("image",)
    return {str(index): name for index, name in enumerate(colours)}


def _inference(network: dict[str, Any]) -> dict[str, Any]:
    return {
        "imports": ["$import torch", "$from pathlib import Path"],
        "bundle_root": ".",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": "meninx.models.registry.build", **network},
        "weights": (
            "$torch.load(Path(@bundle_root) / 'models' / 'model.pt', map_location=@device, weights_only=True)"
        ),
        "network": "$(@network_def.load_state_dict(@weights), @network_def.eval().to(@device))[1]",
    }
