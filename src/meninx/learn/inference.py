"""Predictions of a trained model (probabilities, label maps), and its metrics on the cases of a store."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from meninx.core import artifacts, files
from meninx.core.artifacts import BundleRecord, PrivacyRecord
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.core.manifest import Case, DatasetInfo, Manifest, TaskKind
from meninx.core.run import Run
from meninx.imaging import resample, sliding_window
from meninx.learn import checkpoint, pretrained, runtime
from meninx.learn.config import LearnConfig
from meninx.learn.data import CaseStore, unpadded
from meninx.learn.state_digest import weights_digest
from meninx.learn.task import Task, image_task
from meninx.models import lora, registry

_CONSTANTS, _TENSORS = 1 << 24, 1 << 12  # numbers and tensors allowed beside the weights, e.g. positions
_MAKERS = frozenset(
    {
        torch.empty,
        torch.zeros,
        torch.ones,
        torch.full,
        torch.rand,
        torch.randn,
        torch.arange,
        torch.linspace,
        torch.eye,
    }
)
KeyT = TypeVar("KeyT")


@torch.no_grad()
def outputs(
    model: nn.Module, store: CaseStore, config: LearnConfig, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """Yield (case index, logits) of every case in order, on the CPU.

    Logits are (out_channels,) or (out_channels, ...).

    The model is put into evaluation mode and stays there.
    """
    size = 1 if config.model.patch_size else config.sampling.physical_batch
    images = ((index, store.image(index)) for index in range(len(store)))
    yield from batched(model, images, config, device, size=size)


@torch.no_grad()
def batched(
    model: nn.Module,
    images: Iterable[tuple[KeyT, Tensor]],
    config: LearnConfig,
    device: torch.device,
    *,
    size: int,
) -> Iterator[tuple[KeyT, Tensor]]:
    """Yield (key, logits) of images in order, on the CPU.

    Consecutive images of one shape are run together.

    Args:
        model: put into evaluation mode and left there.
        images: (key, network input of shape (channels, *spatial)) per image; the key may be anything.
        config: patch size and batch of the sliding window.
        device: device of the model.
        size: largest number of images that are run together, >= 1.
    """
    model.eval()
    keys: list[KeyT] = []
    waiting: list[Tensor] = []

    def run() -> Iterator[tuple[KeyT, Tensor]]:
        if waiting:
            logits = forward(model, torch.stack(waiting).to(device), config).cpu()
            yield from zip(keys, logits, strict=True)
        keys.clear()
        waiting.clear()

    for key, image in images:
        if waiting and (len(waiting) >= size or image.shape != waiting[0].shape):
            yield from run()
        keys.append(key)
        waiting.append(image)
    yield from run()


def forward(model: nn.Module, images: Tensor, config: LearnConfig) -> Tensor:
    """Return logits of whole images (batch, channels, ...); with patches, from a Gaussian sliding window."""
    if not config.model.patch_size:
        return cast("Tensor", model(images))
    from monai.inferers import sliding_window_inference  # a slow import that whole images do not need

    result = sliding_window_inference(
        images,
        config.model.patch_size,
        config.sampling.physical_batch,
        model,
        overlap=sliding_window.OVERLAP,
        mode=sliding_window.GAUSSIAN,
        sigma_scale=sliding_window.SIGMA_SCALE,
        padding_mode=sliding_window.REPLICATE,
    )
    return cast("Tensor", result)


def measure(
    model: nn.Module, store: CaseStore, task: Task, config: LearnConfig, device: torch.device
) -> dict[str, float]:
    """Return a task's metrics of ``model`` on all cases of ``store``; the model stays in evaluation mode."""
    results = ((logits, store.target(index)) for index, logits in outputs(model, store, config, device))
    return task.metrics(results)


@dataclass(frozen=True)
class Predictions:
    """Outputs of a classifier, one row per case, in the order of the manifest.

    Attributes:
        case_ids: the cases.
        labels: names of the columns.
        logits: (cases, labels) float32.
        probabilities: (cases, labels) float32, softmax or sigmoid of the logits.
    """

    case_ids: tuple[str, ...]
    labels: tuple[str, ...]
    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]


def load_model(
    run: Run, *, weights: str = "auto", network: nn.Module | None = None
) -> tuple[nn.Module, LearnConfig, DatasetInfo]:
    """Return a run's trained model in evaluation mode, on the CPU, with settings and dataset information.

    Averaged (EMA) weights are used if the run has them; low-rank adapters are merged into their layers.

    Args:
        run: the run folder.
        weights: ``last``, ``best``, or ``auto`` for the selection of the run's settings.
        network: the architecture of a run that was given its own network; its weights are replaced.

    Raises:
        DataError: no checkpoint, or a damaged one, or one of another network.
    """
    name = weights if weights != "auto" else _selected(run)
    content = checkpoint.load(run, name)
    config, info = checkpoint.config_of(content), checkpoint.info_of(content)
    if network is None:
        network = registry.build(
            config.model.name,
            spatial_dims=info.spatial_dims,
            in_channels=info.channels,
            out_channels=image_task(info, config.task).out_channels,
            **config.model.options,
        )
    if config.model.lora_rank:
        lora.insert(
            network,
            rank=config.model.lora_rank,
            alpha=config.model.lora_alpha,
            keep=registry.head_prefix(network),
        )
    try:
        network.load_state_dict(checkpoint.weights_of(content))
    except RuntimeError as error:
        fix = "give the network that the run was trained with"
        raise DataError(problem("the network is not that of the run", where=run.name, fix=fix)) from error
    return lora.merge(network).eval(), config, info


@dataclass(frozen=True)
class ReleasedModel:
    """The network of a released bundle.

    Attributes:
        network: in evaluation mode, on the CPU.
        config: settings that matter for predictions.
        info: labels, channels and preprocessing of the training data.
        record: the bundle's own record.
    """

    network: nn.Module
    config: LearnConfig
    info: DatasetInfo
    record: BundleRecord


def load_bundle(folder: Path, *, network: nn.Module | None = None) -> ReleasedModel:
    """Return the model in a released bundle; the run folder is not needed.

    Guarantee: no part of the bundle is run as code. The weights are read with ``weights_only`` and compared
    with the digest recorded in the bundle.

    Args:
        folder: the bundle, e.g. ``release/bundle``.
        network: the architecture of a run that was given its own network; its weights are replaced.

    Raises:
        DataError: the bundle is damaged, was changed, or is of a version without ``configs/meninx.json``.
        UsageError: the run trained the caller's own network, which was not given.
        ConfigError: the network is unknown, e.g. from a package that is not installed.
    """
    record = artifacts.require(folder, BundleRecord, fix="release the run again with this version of meninx")
    config = LearnConfig.of(
        model=str(record.network.get("name", "")),
        image_size=record.image_size,
        patch_size=record.patch_size,
        loss=record.loss,
    )
    _refuse_size(record)
    task = image_task(record.info, config.task)
    shape = {"spatial_dims": record.info.spatial_dims, "in_channels": record.info.channels}
    weights = _weights(folder / "models" / "model.pt")
    if network is None:
        with _Bounded(weights.values()):
            network = _built(record, {**shape, "out_channels": task.out_channels})
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        what = "the weights are not those of the network that the bundle names"
        raise DataError(problem(what, where="models/model.pt")) from error
    if weights_digest(network) != record.weights:
        fix = "copy the bundle again from where it was released"
        raise DataError(problem("the weights are not those of the release", where="models/model.pt", fix=fix))
    return ReleasedModel(network.eval(), config, record.info, record)


def _refuse_size(record: BundleRecord) -> None:
    """Refuse input sizes that are invalid or would exhaust the memory; the file may be hostile."""
    info = record.info
    for name, size in (("image_size", record.image_size), ("patch_size", record.patch_size)):
        fits = len(size) == info.spatial_dims and min(size) >= 1 and resample.is_allowed(info.channels, size)
        if size and not fits:
            what = f"{info.spatial_dims} numbers > 0 of an image that fits into memory"
            raise DataError(expected(what, got=len(size), where=f"configs/meninx.json, {name}"))


class _Bounded(TorchFunctionMode):
    """Refuses to create a network with many more numbers or tensors than its weights, before memory is used.

    A bundle names a network with options, and a hostile one could choose options that need terabytes.

    Args:
        weights: four times their numbers and tensors are allowed, plus some for constants.
    """

    def __init__(self, weights: Collection[Tensor]) -> None:
        super().__init__()
        self.left = 4 * sum(value.numel() for value in weights) + _CONSTANTS
        self.tensors_left = 4 * len(weights) + _TENSORS

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Return the result of ``func``; count the numbers of a new tensor first, on the meta device.

        Raises:
            DataError: the limit is exceeded.
        """
        options = kwargs or {}
        if func in _MAKERS:
            plain = {key: value for key, value in options.items() if key not in ("out", "generator")}
            self.left -= func(*args, **{**plain, "device": "meta"}).numel()
            self.tensors_left -= 1
            if min(self.left, self.tensors_left) < 0:
                what = "the network that the bundle names is much larger than the weights"
                raise DataError(problem(what, where="configs/meninx.json"))
        return func(*args, **options)


def _built(record: BundleRecord, shape: dict[str, int]) -> nn.Module:
    """Return the network that a bundle names, with random weights; its shape must fit the bundle's labels."""
    name = str(record.network.get("name", ""))
    if name.startswith(registry.OWN_PREFIX):
        fix = f"give it in Python: meninx.predict(..., model={name.removeprefix(registry.OWN_PREFIX)}(...))"
        raise UsageError(problem("the network is one of the caller's own", where=name, fix=fix))
    if any(record.network.get(key) != value for key, value in shape.items()):
        got = "other numbers of axes, channels or outputs"
        raise DataError(expected("a network for the bundle's labels", got=got, where="configs/meninx.json"))
    options = {key: value for key, value in record.network.items() if key not in (*shape, "name")}
    with torch.random.fork_rng([]):  # the random weights are replaced, so the generator must not advance
        return registry.build(name, **shape, **options)


def _weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a file from an untrusted source."""
    content = io.BytesIO(files.read_bytes(path, limit=files.IMAGE_LIMIT))
    pretrained.refuse_packed(path)
    try:
        table: Any = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile archive can make the reader raise anything
        raise DataError(problem("the file holds no state dict", where="models/model.pt")) from error
    if not isinstance(table, dict) or not all(isinstance(value, Tensor) for value in table.values()):
        raise DataError(problem("the file holds no state dict", where="models/model.pt"))
    pretrained.refuse_odd(table, path)
    return table


def released_step(run: Run) -> int:
    """Return the optimiser step of the run's resulting weights; ``best`` may be earlier than the last."""
    return int(checkpoint.load(run, _selected(run))["step"])


def predict(model: nn.Module, info: DatasetInfo, manifest: Manifest, config: LearnConfig) -> Predictions:
    """Return logits and probabilities of every case of a classification dataset.

    Args:
        model: from :func:`load_model`; moved to the config's device and left in evaluation mode.
        info: of the model's training data; the manifest must have the same channels and dimensions.
        manifest: cases to predict; their labels are not read.
        config: settings of the training.

    Raises:
        DataError: the images do not fit the model, or the task is segmentation.
    """
    if info.task is TaskKind.SEGMENTATION:
        raise DataError(problem("predict is for classification", where="predict", fix="use predict_maps"))
    store = CaseStore(_for_model(manifest, info), config.model)
    task = image_task(info, config.task)
    rows = [logits for _, logits in _outputs(model, store, config)]
    logits = torch.stack(rows).float() if rows else torch.zeros(0, task.out_channels)
    identifiers = tuple(case.case_id for case in manifest.cases)
    return Predictions(identifiers, info.labels, logits.numpy(), task.probabilities(logits).numpy())


@dataclass(frozen=True, eq=False)
class Embeddings:
    """What the last layer of a classifier gets and gives, one row per case, in the order of the manifest.

    Attributes:
        values: (cases, features) float32, the input of the last layer.
        logits: (cases, labels) float32, its output.
    """

    values: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]


def embed(model: nn.Module, info: DatasetInfo, manifest: Manifest, config: LearnConfig) -> Embeddings:
    """Return the embedding of every case of a dataset: the input of the last layer, averaged over places.

    Args:
        model: a classifier from :func:`load_model`; moved to the config's device, left in evaluation mode.
        info: of the model's training data.
        manifest: cases to embed; their labels are not read.
        config: settings of the training.

    Raises:
        DataError: the images do not fit the model, it gives NaN, or the task is segmentation.
    """
    if info.task is TaskKind.SEGMENTATION or config.model.patch_size:
        what = "embeddings are those of a classifier of whole images"
        raise DataError(problem(what, where=info.name, fix="give a run of a classifier"))
    seen: list[Tensor] = []
    head = model.get_submodule(registry.head_prefix(model).rstrip("."))

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].flatten(2).mean(dim=2) if inputs[0].ndim > 2 else inputs[0])

    handle = head.register_forward_pre_hook(note)
    try:
        store = CaseStore(_for_model(manifest, info), config.model)
        logits = torch.stack([row for _, row in _outputs(model, store, config)])
    finally:
        handle.remove()
    values = torch.cat(seen).float().cpu()
    if len(values) != len(manifest) or not torch.isfinite(values).all():
        fix = "train it again with a lower learning rate"
        raise DataError(
            problem("the model does not give one finite embedding per image", where=info.name, fix=fix)
        )
    return Embeddings(values.numpy(), logits.float().numpy())


def head_outputs(model: nn.Module, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the logits that the last layer of a classifier gives for embeddings (n, features).

    Raises:
        DataError: the last layer does not take them.
    """
    head = model.get_submodule(registry.head_prefix(model).rstrip(".")).cpu()
    try:
        with torch.no_grad():
            return np.asarray(head(torch.from_numpy(np.ascontiguousarray(values))).numpy())
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(problem("the last layer does not take these features", where="features")) from error


def predict_maps(
    model: nn.Module, info: DatasetInfo, manifest: Manifest, config: LearnConfig
) -> Iterator[tuple[Case, npt.NDArray[Any]]]:
    """Yield (case, label map) of every case of a segmentation dataset, one at a time.

    Label maps are uint8 (uint16 beyond 255 labels) of the image's own spatial size; 0 is background. With
    ``patch_size`` a Gaussian-weighted window slides over the image.

    Raises:
        DataError: the images do not fit the model, or the task is classification.
    """
    if info.task is not TaskKind.SEGMENTATION:
        raise DataError(
            expected("a segmentation task", got=str(info.task), where="predict_maps", fix="use predict")
        )
    store = CaseStore(_for_model(manifest, info), config.model)
    task = image_task(info, config.task)
    kind = np.uint8 if len(info.labels) < 256 else np.uint16
    for index, logits in _outputs(model, store, config):
        label_map = task.label_map(logits[None])[0].numpy().astype(kind)
        yield manifest.cases[index], unpadded(label_map, store.shape(index))


def _outputs(model: nn.Module, store: CaseStore, config: LearnConfig) -> Iterator[tuple[int, Tensor]]:
    device = runtime.device(config.runtime.device)
    return outputs(model.to(device), store, config, device)


def _for_model(manifest: Manifest, info: DatasetInfo) -> Manifest:
    """Return the manifest with the model's normalisation, so that an image gives its input of the training.

    Raises:
        DataError: other dimensions, or values in other units.
    """
    if manifest.info.spatial_dims != info.spatial_dims:
        got = f"{manifest.info.spatial_dims}-D"
        raise DataError(
            expected(f"{info.spatial_dims}-D images as in training", got=got, where="dataset.toml")
        )
    intensity = info.intensity.for_values_of(manifest.info.intensity)
    return replace(manifest, info=replace(info, intensity=intensity))


def _selected(run: Run) -> str:
    """Return the checkpoint with the run's resulting weights; older versions name it in privacy.json."""
    record = run.record
    older = {} if record is not None else run.read_json(artifacts.place(PrivacyRecord)) or {}
    name = record.selected if record is not None else str(older.get("weights"))
    return "best" if name == "best" and checkpoint.path_of(run, "best").is_file() else "last"
