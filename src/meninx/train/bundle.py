"""A MONAI bundle of the trained network: weights, their description, and programs to use them without meninx.

configs/metadata.json    what goes in and comes out, labels, preprocessing, privacy
configs/meninx.json      the record that `meninx predict` reads
configs/inference.json   `python -m monai.bundle run`: from a folder of images to predictions
configs/thresholds.json  operating thresholds, written by `meninx evaluate`
models/model.pt          state dict of the network, which returns logits
models/model.onnx        the same network between stored images and probabilities
scripts/                 the parts of meninx that inference.json needs (:mod:`meninx.train.bundle_source`)
docs/README.md           description and usage
checksums.sha256         digests of all these files
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from meninx.core import artifacts, files, integrity, names, plain
from meninx.core.artifacts import BundleRecord, ThresholdRecord
from meninx.core.errors import DataError, expected, problem
from meninx.core.manifest import DatasetInfo, TaskKind
from meninx.imaging.sliding_window import SlidingWindow
from meninx.learn.guarantee import MEASURED
from meninx.metrics.thresholds import Threshold
from meninx.models import registry
from meninx.train import bundle_source
from meninx.train.onnx_export import INPUT, OUTPUTS, StoredToProbabilities, export_onnx

LICENSE = (
    "The weights were trained on the data named in docs/README.md. Whoever controls that data "
    "decides under which terms\n"
    "the weights may be used. The folder scripts/ is a copy of parts of meninx, the program that made them,\n"
    "and is under the Apache License 2.0: http://www.apache.org/licenses/LICENSE-2.0\n"
)
VERSION = "0.2.0"
SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
FOLDER = "bundle"
THRESHOLDS = artifacts.place(ThresholdRecord)
THRESHOLDS_IN_RELEASE = f"{FOLDER}/{THRESHOLDS}"
_READERS = ("pydicom", "nibabel", "pillow")


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Everything that a bundle states about its network.

    Attributes:
        record: what the network was trained for, how it is built, and its digest.
        sigmoid: the outputs are independent labels; otherwise they are mutually exclusive classes.
        size: spatial size of an input.
        privacy: the sentence of ``privacy.json``.
        outside: sentences on what the privacy guarantee does not cover.
        card: Markdown for ``docs/README.md``.
    """

    record: BundleRecord
    sigmoid: bool
    size: tuple[int, ...]
    privacy: str
    card: str
    outside: tuple[str, ...] = ()

    @property
    def info(self) -> DatasetInfo:
        """The dataset's labels, channels, preprocessing and intensity."""
        return self.record.info

    @property
    def segmentation(self) -> bool:
        """Whether the outputs are label maps."""
        return self.info.task is TaskKind.SEGMENTATION

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the network's outputs, in order."""
        softmax_map = self.segmentation and not self.sigmoid
        return ("background", *self.info.labels) if softmax_map else self.info.labels

    @property
    def patches(self) -> bool:
        """Whether inputs are patches of larger images."""
        return bool(self.record.patch_size)

    @property
    def sliding_window(self) -> dict[str, Any]:
        """Settings of the sliding window; empty for a network of whole images."""
        return SlidingWindow(roi_size=self.record.patch_size).to_table() if self.patches else {}

    @property
    def only_size(self) -> list[int]:
        """Size that every stored image must have; empty if images of other sizes are padded or cut."""
        return [] if self.record.image_size or self.record.patch_size else list(self.size)

    @property
    def activation(self) -> str:
        """Name of the function from logits to probabilities."""
        return "sigmoid" if self.sigmoid else "softmax"

    @property
    def network_name(self) -> str:
        """Name of the network in ``models.registry``."""
        return str(self.record.network["name"])

    @property
    def is_own(self) -> bool:
        """Whether the network was passed as an object, so that it cannot be built from its name."""
        return self.network_name.startswith(registry.OWN_PREFIX)

    @property
    def ships_network(self) -> bool:
        """Whether the network is built into meninx; the bundle then contains its source."""
        return self.network_name in registry.MODELS

    @property
    def from_monai(self) -> bool:
        """Whether the network is a class of MONAI."""
        return self.network_name.startswith(registry.MONAI_PREFIX)


def write_bundle(folder: Path, model: nn.Module, contents: Contents, *, onnx: bool = False) -> None:
    """Write the bundle.

    Args:
        folder: the bundle's folder, usually ``release/bundle``.
        model: the network whose weights are released (averaged weights where an average was kept).
        contents: the statements of the bundle about it.
        onnx: also write ``models/model.onnx``.

    Raises:
        DataError: MONAI would interpret a name or an option as code or as a reference.
    """
    info, network = contents.info, contents.record.network
    names.check([info.name], what="dataset", where="bundle")
    names.check(info.labels, what="label", where="bundle")
    check_options(network)
    check_options(dict(info.preprocessing), where="preprocessing")
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    with files.atomic(folder / "models" / "model.pt") as stream:
        torch.save(weights, stream)
    table = _metadata(contents, onnx=onnx)
    if onnx:
        low = info.intensity.window[0]
        device = next(model.parameters()).device
        example = torch.full((1, info.channels, *contents.size), low, device=device)
        whole = StoredToProbabilities(model, info.intensity, sigmoid=contents.sigmoid)
        export_onnx(whole, example, folder / "models" / "model.onnx", facts=_facts(contents))
    files.write_text(folder / "LICENSE", LICENSE)
    files.write_text(folder / "docs" / "README.md", contents.card + _usage(contents, onnx=onnx))
    files.write_text(folder / "configs" / "metadata.json", _json(table))
    artifacts.write(folder, contents.record)
    if not contents.is_own:
        files.write_text(folder / "configs" / "inference.json", _json(_inference(contents)))
    if onnx or not contents.is_own:
        bundle_source.write(
            folder / "scripts",
            networks=contents.ships_network,
            onnx=onnx,
            segmentation=contents.segmentation,
        )
    integrity.write(folder, integrity.measured(folder, filter(Path.is_file, folder.rglob("*"))))


def write_thresholds(
    folder: Path, fitted: Sequence[Threshold], *, weights: str, source: str, private: bool = False
) -> tuple[list[Path], list[Path]]:
    """Write ``configs/thresholds.json`` of a bundle, or remove it if there are no thresholds.

    Args:
        folder: the bundle; nothing is done if it does not exist.
        fitted: thresholds of the network's labels; those not fitted on validation are left out.
        weights: SHA-256 of the network's state.
        source: description of the split and dataset that they were fitted on.
        private: the network was trained with differential privacy, which does not cover the thresholds.

    Returns:
        Files that were written, and files that were removed.
    """
    path = folder / THRESHOLDS
    values = {item.label: float(item.value) for item in fitted if item.split == "valid"}
    if not folder.is_dir():
        return [], []
    if not values and not path.is_file():
        return [], []
    listed = {name: digest for name, digest in integrity.read(folder).items() if name != THRESHOLDS}
    if values:
        outside = MEASURED if private else ""
        record = ThresholdRecord(thresholds=values, weights=weights, source=source, outside_guarantee=outside)
        artifacts.write(folder, record)
    else:
        path.unlink()
    if listed:
        integrity.write(folder, listed | integrity.measured(folder, [path] if values else []))
    written = [folder / integrity.CHECKSUMS] if listed else []
    return ([path, *written], []) if values else (written, [path])


def check_options(options: Any, *, where: str = "model_options") -> None:
    """Refuse options of a network, at any depth, that MONAI would execute or resolve instead of passing on.

    A bundle with such an option would run code on the machine of whoever loads it. MONAI evaluates texts that
    begin with ``$``, resolves those that begin with ``@`` or ``%``, replaces every ``#`` by ``::``, and
    instantiates tables with keys such as ``_target_``.

    Raises:
        DataError: there is such an option; the message names its place.
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


def _json(table: Mapping[str, Any]) -> str:
    """Return indented JSON; the keys keep the order of the table."""
    return json.dumps(plain.to_plain(table), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _metadata(contents: Contents, *, onnx: bool) -> dict[str, Any]:
    info = contents.info
    packages = {name: metadata.version(name) for name in _READERS}
    if not (contents.ships_network or contents.from_monai):
        packages["meninx"] = metadata.version("meninx")
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: "as trained"},
        "monai_version": metadata.version("monai"),
        "pytorch_version": metadata.version("torch").partition("+")[0],
        "numpy_version": metadata.version("numpy"),
        "required_packages_version": packages,
        "name": info.name,
        "task": str(info.task),
        "description": f"{info.task} on {info.name}, trained by meninx {metadata.version('meninx')}",
        "authors": "the data controller",
        "copyright": "see LICENSE",
        "intended_use": "research; not a medical device",
        "network_data_format": _data_format(contents),
        "activation": contents.activation,
        "preprocessing": dict(info.preprocessing),
        "intensity": _intensity(info),
        "image_size": list(contents.record.image_size),
        "sliding_window": contents.sliding_window,
        "privacy": contents.privacy,
        "outside_guarantee": list(contents.outside),
        "thresholds": f"{THRESHOLDS}, once `meninx evaluate` has measured them",
        **({"onnx": _onnx_format(contents)} if onnx else {}),
    }


def _data_format(contents: Contents) -> dict[str, Any]:
    """Return the format of inputs and outputs of ``model.pt``, and of the results of ``inference.json``."""
    info, count = contents.info, len(contents.outputs)
    low, high = ((value - info.intensity.shift) / info.intensity.scale for value in info.intensity.window)
    size = list(contents.size)
    image = _tensor(("image", "magnitude"), size, [low, high], _channels(info), patches=contents.patches)
    names_by_channel = {str(index): name for index, name in enumerate(contents.outputs)}
    if contents.segmentation:
        logits = _tensor(("image", "labels"), size, [], names_by_channel, patches=contents.patches)
        values = {str(index): name for index, name in enumerate(("background", *info.labels))}
        final = _tensor(("image", "segmentation"), ["*"] * len(size), [0, len(info.labels)], values)
        final["num_channels"] = 1
    else:
        logits = _tensor(("logits", "classes"), [count], [], names_by_channel)
        final = _tensor(("probabilities", "classes"), [count], [0, 1], names_by_channel)
    return {
        "inputs": {"image": image},
        "outputs": {"pred": logits},
        "post_processed_outputs": {"pred": final},
    }


def _tensor(
    kind: tuple[str, str],
    shape: list[Any],
    values: list[float],
    channels: Mapping[str, str],
    *,
    patches: bool = False,
) -> dict[str, Any]:
    return {
        "type": kind[0],
        "format": kind[1],
        "modality": "n/a",
        "num_channels": len(channels),
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": values,
        "is_patch_data": patches,
        "channel_def": dict(channels),
    }


def _intensity(info: DatasetInfo) -> dict[str, Any]:
    found = info.intensity
    return {"window": list(found.window), "shift": found.shift, "scale": found.scale}


def _channels(info: DatasetInfo) -> dict[str, str]:
    """Return a map from the position of each channel to its name."""
    if info.channel_names:
        return {str(position): name for position, name in enumerate(info.channel_names)}
    if info.channels == 3:
        return {"0": "red", "1": "green", "2": "blue"}
    return {"0": "image"} if info.channels == 1 else {str(n): f"image {n + 1}" for n in range(info.channels)}


def _onnx_format(contents: Contents) -> dict[str, Any]:
    """Return the format of the inputs and outputs of ``model.onnx``, which differs from ``model.pt``."""
    patches = "patches: average the logits of overlapping patches by `sliding_window`, then activate"
    return {
        "file": "models/model.onnx",
        "input": INPUT,
        "input_values": "stored values (grey levels or units) after `preprocessing`, not normalised",
        "outputs": list(OUTPUTS),
        "shape": ["batch", contents.info.channels, *contents.size],
        "use": patches if contents.patches else "whole images",
    }


def _facts(contents: Contents) -> dict[str, str]:
    """Return the metadata of ``model.onnx``; every value is a text."""
    info = contents.info
    tables = {
        "labels": list(contents.outputs),
        "preprocessing": dict(info.preprocessing),
        "intensity": _intensity(info),
        "image_size": list(contents.record.image_size),
        "size": contents.only_size,
        "sliding_window": contents.sliding_window,
        "format": _onnx_format(contents),
    }
    texts = {name: json.dumps(plain.to_plain(table), ensure_ascii=False) for name, table in tables.items()}
    return {
        "name": info.name,
        "task": str(info.task),
        "activation": contents.activation,
        "weights": contents.record.weights,
        "privacy": contents.privacy,
        "outside_guarantee": " | ".join(contents.outside) or "not stated",
        "intended_use": "research; not a medical device",
        **texts,
    }


def _network(contents: Contents) -> dict[str, Any]:
    """Return the network's definition for MONAI's parser: from MONAI, ``scripts/`` or another package."""
    arguments = dict(contents.record.network)
    if contents.from_monai:
        name = contents.network_name.removeprefix(registry.MONAI_PREFIX)
        return {"_target_": f"monai.networks.nets.{name}", **registry.monai_arguments(**arguments)}
    package = "scripts" if contents.ships_network else "meninx"
    return {"_target_": f"{package}.models.registry.build", **arguments}


def _inference(contents: Contents) -> dict[str, Any]:
    """Return the workflow for ``python -m monai.bundle run``.

    A dataset of an older version does not record its preprocessing; then only the network is described.
    """
    network = {
        "imports": ["$import torch", "$from pathlib import Path"],
        "bundle_root": ".",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": _network(contents),
        "weights": (
            "$torch.load(Path(@bundle_root) / 'models' / 'model.pt', map_location=@device, weights_only=True)"
        ),
        "network": "$(@network_def.load_state_dict(@weights), @network_def.eval().to(@device))[1]",
    }
    if not contents.info.preprocessing:
        return network
    info, record = contents.info, contents.record
    steps = {
        "_target_": "scripts.inference.NetworkInputd",
        "preprocessing": dict(info.preprocessing),
        "intensity": _intensity(info),
        "image_size": list(record.image_size),
        "size": contents.only_size,
    }
    return network | {
        "dataset_dir": "images",
        "output_dir": "predictions",
        **({"probabilities": False} if contents.segmentation else {}),
        "data": {
            "_target_": "scripts.inference.found",
            "dataset_dir": "@dataset_dir",
            "preprocessing": dict(info.preprocessing),
        },
        "preprocessing": {"_target_": "monai.transforms.Compose", "transforms": [steps]},
        "dataset": {"_target_": "monai.data.Dataset", "data": "@data", "transform": "@preprocessing"},
        "inferer": _inferer(contents),
        "postprocessing": {"_target_": "monai.transforms.Compose", "transforms": _postprocessing(contents)},
        "writer": _writer(contents),
        "evaluator": {
            "_target_": "scripts.inference.Predictor",
            **{
                name: f"@{name}"
                for name in ("dataset", "network", "inferer", "device", "postprocessing", "writer")
            },
        },
        "run": ["$@evaluator.run()"],
    }


def _inferer(contents: Contents) -> dict[str, Any]:
    if not contents.patches:
        return {"_target_": "monai.inferers.SimpleInferer"}
    settings = contents.sliding_window
    return {"_target_": "monai.inferers.SlidingWindowInferer", "sw_batch_size": 1, **settings}


def _postprocessing(contents: Contents) -> list[dict[str, Any]]:
    if not contents.segmentation:
        return [{"_target_": "monai.transforms.Activationsd", "keys": "pred", contents.activation: True}]
    decided = {"_target_": "monai.transforms.AsDiscreted", "keys": "pred", "argmax": True}
    return [
        {
            "_target_": "scripts.inference.Probabilitiesd",
            "sigmoid": contents.sigmoid,
            "wanted": "@probabilities",
        },
        {"_target_": "scripts.inference.LabelMapd"} if contents.sigmoid else decided,
    ]


def _writer(contents: Contents) -> dict[str, Any]:
    if contents.segmentation:
        return {"_target_": "scripts.maps.LabelMapFiles", "output_dir": "@output_dir"}
    return {
        "_target_": "scripts.inference.ProbabilityTable",
        "output_dir": "@output_dir",
        "labels": list(contents.outputs),
        "thresholds": f"$str(Path(@bundle_root) / '{THRESHOLDS}')",
        "network": "@network",
        "classes": contents.info.task is TaskKind.MULTICLASS,
    }


_ONNX_PROGRAM = (
    "In this folder (needs onnxruntime, pydicom, nibabel and pillow):\n\n"
    "    python -m scripts.with_onnx images predictions.csv\n"
)
_ONNX_SEGMENTER = (
    "In this folder (needs onnxruntime, pydicom, nibabel and pillow):\n\n"
    "    python -m scripts.segment_with_onnx images out\n"
)
_PROBABILITIES = (
    "Probabilities of every label, too: `--probabilities` (meninx, ONNX Runtime), or `--probabilities True` "
    "(MONAI).\n"
)


def _usage(contents: Contents, *, onnx: bool) -> str:
    """Return the part of the README that explains how to make predictions."""
    files_written = "label maps" if contents.segmentation else "`predictions.csv`"
    ways = [
        "## Use\n",
        f"`images` is a folder of DICOM, PNG or NIfTI files. The results are {files_written} in `out`.\n",
    ]
    if not contents.is_own:
        ways.append("With meninx:\n\n    meninx predict BUNDLE images out\n")
    if contents.info.preprocessing and not contents.is_own:
        needed = "torch, monai, fire, pydicom, nibabel and pillow"
        needed += "" if contents.ships_network or contents.from_monai else ", and meninx for the network"
        ways.append(
            f"With MONAI, in this folder (needs {needed}):\n\n"
            "    python -m monai.bundle run --config_file configs/inference.json --bundle_root . \\\n"
            "      --dataset_dir images --output_dir out\n"
        )
    if onnx:
        ways.append(
            "With ONNX Runtime: `models/model.onnx` takes stored images (float32, batch x channels x size). "
            f"It returns {contents.activation} probabilities and logits. Normalisation is part of the graph. "
            + (_ONNX_SEGMENTER if contents.segmentation else _ONNX_PROGRAM)
        )
    if len(ways) > 2:
        ways += [_PROBABILITIES] if contents.segmentation else []
        ways.append(
            "Compressed DICOM also needs imagecodecs (JPEG), pyjpegls (JPEG-LS), or pylibjpeg with "
            "pylibjpeg-openjpeg (JPEG 2000).\n"
        )
    return "\n" + "\n".join(ways)
